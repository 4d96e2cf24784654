//! Fashion-MNIST: 60,000 + 10,000 grey images of 28x28 in four IDX files, gzipped or unpacked.

use std::path::{Path, PathBuf};

use super::found::{Arrays, Content, Found, Labelled, all_there, locate, numbers, strings, widen};
use super::stand_in_files::{StandIns, put};
use super::{Checksum, Entry, Origin, file};
use crate::error::Error;
use crate::formats::idx;
use crate::stand_in;

macro_rules! address {
    ($file:literal) => {
        concat!(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            $file
        )
    };
}

pub(super) const ENTRY: Entry = Entry {
    name: "fashion-mnist",
    licence: "MIT",
    origin: Origin::Download(&[
        file(
            address!("train-images-idx3-ubyte.gz"),
            Checksum::Sha256("b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7"),
        ),
        file(
            address!("train-labels-idx1-ubyte.gz"),
            Checksum::Sha256("0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056"),
        ),
        file(
            address!("t10k-images-idx3-ubyte.gz"),
            Checksum::Sha256("cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa"),
        ),
        file(
            address!("t10k-labels-idx1-ubyte.gz"),
            Checksum::Sha256("8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"),
        ),
    ]),
    statistics: None,
    find: |_, data_dir| find(data_dir),
    write_stand_ins: Some(write_stand_ins),
};

const CLASSES: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// Folder of Debian's package dataset-fashion-mnist.
const DEBIAN: &str = "/usr/share/datasets/fashion-mnist";

fn find(data_dir: &Path) -> Result<Found, Error> {
    let marker = "train-images-idx3-ubyte.gz";
    let root = locate(
        "fashion-mnist",
        data_dir,
        "FashionMNIST/raw",
        marker,
        &[DEBIAN],
    )?;
    let file = |name: &str| root.join(format!("{name}-ubyte.gz"));
    let train = (file("train-images-idx3"), file("train-labels-idx1"));
    let test = (file("t10k-images-idx3"), file("t10k-labels-idx1"));
    let files: Vec<PathBuf> = [&train.0, &train.1, &test.0, &test.1]
        .into_iter()
        .cloned()
        .collect();
    all_there("fashion-mnist", files.iter())?;
    let read = move || {
        Ok(Arrays {
            height: 28,
            width: 28,
            train: split(&train)?,
            test: split(&test)?,
        })
    };
    Ok(Found {
        root: Some(root),
        channels: 1,
        class_names: strings(&CLASSES),
        class_ids: numbers(CLASSES.len()),
        files,
        content: Content::Arrays(Box::new(read)),
        notes: Vec::new(),
    })
}

fn split((images, labels): &(PathBuf, PathBuf)) -> Result<Labelled, Error> {
    let read = idx::read(images, 3)?;
    if read.shape[1..] != [28, 28] {
        let reason = format!(
            "its images are {} x {}, not 28 x 28",
            read.shape[1], read.shape[2]
        );
        return Err(Error::malformed(images, reason));
    }
    let read_labels = idx::read(labels, 1)?;
    if read_labels.shape[0] != read.shape[0] {
        let reason = format!(
            "it has {} labels for {} images",
            read_labels.shape[0], read.shape[0]
        );
        return Err(Error::malformed(labels, reason));
    }
    Ok(Labelled {
        labels: widen(labels, &read_labels.bytes, CLASSES.len())?,
        pixels: read.bytes,
    })
}

fn write_stand_ins(stand_ins: &StandIns, root: &Path) -> Result<(), Error> {
    for (prefix, is_train) in [("train", true), ("t10k", false)] {
        let labels: Vec<u8> = stand_ins
            .split(is_train)
            .map(|item| item.class as u8)
            .collect();
        let images = stand_ins.split(is_train);
        let pixels: Vec<u8> = images
            .flat_map(|item| stand_in::image(item.class as u32, item.number as u32, 28, 28, 1))
            .collect();
        let count = labels.len() as u32;
        put(
            &root.join(format!("{prefix}-labels-idx1-ubyte.gz")),
            &idx::encode(&[count], &labels),
        )?;
        put(
            &root.join(format!("{prefix}-images-idx3-ubyte.gz")),
            &idx::encode(&[count, 28, 28], &pixels),
        )?;
    }
    Ok(())
}
