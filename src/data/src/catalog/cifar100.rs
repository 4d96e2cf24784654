//! CIFAR-100 in its two distributed forms: the binary records and the Python pickles. Fine labels.
//!
//! Both keep pixels as red, green and blue planes; the reader returns them with channels last, like
//! every other image.

use std::path::{Path, PathBuf};

use super::found::{
    Arrays, Content, Found, Labelled, all_there, first_complete, locate, numbers, widen,
};
use super::stand_in_files::{StandIns, put};
use super::{Checksum, Entry, Origin, archive};
use crate::error::Error;
use crate::{files, stand_in};

pub(super) const ENTRY: Entry = Entry {
    name: "cifar100",
    licence: "none stated; cite Krizhevsky (2009)",
    origin: Origin::Download(&[archive(
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        Checksum::Md5("03b5dce01913d631647c71ecec9e9cb8"),
        1 << 30,
    )]),
    statistics: Some((
        [129.30386353, 124.06987, 112.43356323],
        [68.17019653, 65.39176178, 70.4180603],
    )),
    find: |_, data_dir| find(data_dir),
    write_stand_ins: Some(write_stand_ins),
};

const NUM_CLASSES: usize = 100;
const PLANE: usize = 32 * 32;
/// Length of a record: coarse label, fine label, three planes.
const RECORD: usize = 2 + 3 * PLANE;

fn find(data_dir: &Path) -> Result<Found, Error> {
    first_complete(&[
        &|| {
            binary(locate(
                "cifar100",
                data_dir,
                "cifar-100-binary",
                "train.bin",
                &[],
            )?)
        },
        &|| {
            super::cifar100_python::find(locate(
                "cifar100",
                data_dir,
                "cifar-100-python",
                "train",
                &[],
            )?)
        },
    ])
}

fn binary(root: PathBuf) -> Result<Found, Error> {
    let (train, test) = (root.join("train.bin"), root.join("test.bin"));
    let names = root.join("fine_label_names.txt");
    let files = vec![train.clone(), test.clone(), names.clone()];
    all_there("cifar100", files.iter())?;
    let text = files::text(&names)?;
    let class_names: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    check_names(&names, &class_names)?;
    let read = move || {
        Ok(Arrays {
            height: 32,
            width: 32,
            train: records(&train)?,
            test: records(&test)?,
        })
    };
    Ok(Found {
        root: Some(root),
        channels: 3,
        class_names,
        class_ids: numbers(NUM_CLASSES),
        files,
        content: Content::Arrays(Box::new(read)),
        notes: Vec::new(),
    })
}

pub(super) fn check_names(path: &Path, names: &[String]) -> Result<(), Error> {
    if names.len() != NUM_CLASSES {
        return Err(Error::malformed(
            path,
            format!("it names {} classes, not {NUM_CLASSES}", names.len()),
        ));
    }
    Ok(())
}

fn records(path: &Path) -> Result<Labelled, Error> {
    let bytes = files::read(path, files::MAX_ARRAY_BYTES)?;
    if bytes.is_empty() || bytes.len() % RECORD != 0 {
        let reason = format!(
            "its {} bytes are not whole records of {RECORD}: it is truncated or something else",
            bytes.len()
        );
        return Err(Error::malformed(path, reason));
    }
    let labels: Vec<u8> = bytes.chunks_exact(RECORD).map(|record| record[1]).collect();
    let mut pixels = Vec::with_capacity(labels.len() * 3 * PLANE);
    bytes
        .chunks_exact(RECORD)
        .for_each(|record| interleave(&record[2..], &mut pixels));
    Ok(Labelled {
        labels: widen(path, &labels, NUM_CLASSES)?,
        pixels,
    })
}

/// Converts three planes to channels last.
pub(super) fn interleave(planes: &[u8], pixels: &mut Vec<u8>) {
    let (red, rest) = planes.split_at(PLANE);
    let (green, blue) = rest.split_at(PLANE);
    pixels.extend(
        red.iter()
            .zip(green)
            .zip(blue)
            .flat_map(|((&red, &green), &blue)| [red, green, blue]),
    );
}

/// Writes the binary form. The number of class names is fixed by the format.
fn write_stand_ins(stand_ins: &StandIns, root: &Path) -> Result<(), Error> {
    let root = root.join("cifar-100-binary");
    for (file, is_train) in [("train.bin", true), ("test.bin", false)] {
        let mut records = Vec::new();
        for item in stand_ins.split(is_train) {
            records.extend([0, item.class as u8]);
            let pixels = stand_in::image(item.class as u32, item.number as u32, 32, 32, 3);
            (0..3).for_each(|channel| records.extend(pixels.iter().skip(channel).step_by(3)));
        }
        put(&root.join(file), &records)?;
    }
    let names: String = (0..100).map(|class| format!("class_{class}\n")).collect();
    put(&root.join("fine_label_names.txt"), names.as_bytes())
}
