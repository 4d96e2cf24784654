//! MIT Indoor 67: `Images/CLASS/FILE` and two lists of `CLASS/FILE`. Classes are the folders that
//! the training list names, sorted.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::found::{Found, ImageFile, all_there, found, locate};
use super::stand_in_files::{StandInImage, StandIns, put};
use super::{Checksum, Entry, Origin, archive, file};
use crate::error::Error;
use crate::formats::{class_folders, table};

pub(super) const ENTRY: Entry = Entry {
    name: "mit67",
    licence: "research only",
    origin: Origin::Download(&[
        archive(
            "http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar",
            Checksum::Unknown,
            16 << 30,
        ),
        file(
            "http://web.mit.edu/torralba/www/TrainImages.txt",
            Checksum::Unknown,
        ),
        file(
            "http://web.mit.edu/torralba/www/TestImages.txt",
            Checksum::Unknown,
        ),
    ]),
    statistics: Some((
        [124.62788179, 110.01028625, 94.95780545],
        [68.56923599, 66.86607736, 67.35944349],
    )),
    find: |_, data_dir| find(data_dir),
    write_stand_ins: Some(write_stand_ins),
};

fn find(data_dir: &Path) -> Result<Found, Error> {
    let root = locate("mit67", data_dir, "indoorCVPR_09", "TrainImages.txt", &[])?;
    let lists = vec![root.join("TrainImages.txt"), root.join("TestImages.txt")];
    all_there("mit67", lists.iter())?;
    let images = root.join("Images");
    let lines = table::lines(&lists[0])?;
    let names: BTreeSet<&str> = lines
        .iter()
        .filter_map(|line| Some(line.split_once('/')?.0))
        .collect();
    let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    let labels: HashMap<&str, u32> = names
        .iter()
        .enumerate()
        .map(|(label, name)| (&**name, label as u32))
        .collect();
    let split = |path: &Path| {
        let file = |line: String| {
            let label = line
                .split_once('/')
                .and_then(|(class, _)| labels.get(class));
            let label = label.ok_or_else(|| {
                let reason = format!(
                    "`{line}` is not CLASS/FILE with a class of {}",
                    lists[0].display()
                );
                Error::malformed(path, reason)
            })?;
            Ok(ImageFile {
                path: images.join(&line),
                label: *label,
            })
        };
        table::lines(path)?
            .into_iter()
            .map(file)
            .collect::<Result<Vec<_>, Error>>()
    };
    let (train, test) = (split(&lists[0])?, split(&lists[1])?);
    let unlisted: Vec<String> = class_folders::subfolders(&images)?
        .into_iter()
        .filter(|name| !labels.contains_key(name.as_str()))
        .collect();
    let notes = match unlisted.len() {
        0 => Vec::new(),
        _ => vec![format!(
            "{}: folders that no list names: {}",
            images.display(),
            class_folders::list(&unlisted)
        )],
    };
    drop(labels);
    found("mit67", root, names.clone(), names, lists, train, test)
        .map(|found| found.with_notes(notes))
}

fn write_stand_ins(stand_ins: &StandIns, root: &Path) -> Result<(), Error> {
    let path = |item: &StandInImage| format!("class_{:02}/image_{}.jpg", item.class, item.number);
    for (list, is_train) in [("TrainImages.txt", true), ("TestImages.txt", false)] {
        let lines: Vec<String> = stand_ins.split(is_train).map(path).collect();
        put(&root.join(list), lines.join("\n").as_bytes())?;
    }
    stand_ins
        .items
        .iter()
        .try_for_each(|item| stand_ins.jpeg(&root.join("Images").join(path(item)), item))
}
