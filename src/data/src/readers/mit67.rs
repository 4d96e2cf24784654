//! MIT Indoor 67: `Images/CLASS/FILE` and two lists of `CLASS/FILE`. Classes are the folders that
//! the training list names, sorted.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::{Found, ImageFile, all_there, class_folders, found, locate, table};
use crate::error::Error;

pub(super) fn find(data_dir: &Path) -> Result<Found, Error> {
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
