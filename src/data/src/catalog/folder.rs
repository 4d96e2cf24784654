//! A user's own images: `folder:PATH` with one directory per class.
//!
//! `train/` and `test/` (or `val/`) below PATH are the splits, and both list the same classes. With
//! all three, `val/` evaluates the trials of a search. Otherwise PATH holds the classes themselves,
//! and one fifth of each class (rounded, at least one image), drawn in a fixed way from the sorted
//! file names, is the test split. Everything skipped is noted: see `class_folders.rs`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::FOLDER_PREFIX;
use super::found::{Found, ImageFile, found};
use crate::error::Error;
use crate::files::Reach;
use crate::formats::class_folders::{self, ClassFolders, list, subfolders};
use crate::random::{Purpose, Stream};

/// One in this number of images is a test image if there is no split.
const TEST_SHARE: usize = 5;
/// Usual names of splits.
const SPLIT_NAMES: [&str; 7] = [
    "train",
    "training",
    "test",
    "testing",
    "val",
    "valid",
    "validation",
];

pub(super) fn find(name: &str, reach: &Reach) -> Result<Found, Error> {
    let root = reach.resolve("dataset", name.strip_prefix(FOLDER_PREFIX).unwrap_or(name))?;
    if !root.is_dir() {
        return Err(Error::NotFound {
            dataset: name.to_owned(),
            looked_for: format!("{} is not a directory", root.display()),
            remedy: "give an absolute path, or one relative to the data directory".to_owned(),
        });
    }
    let train = root.join("train");
    if train.is_dir() {
        let test = ["test", "val"]
            .map(|split| root.join(split))
            .into_iter()
            .find(|split| split.is_dir());
        let test = test
            .ok_or_else(|| Error::malformed(&root, "it has train/ but neither test/ nor val/"))?;
        let validation = root.join("val");
        if validation != test && validation.is_dir() {
            return with_validation(name, root, [&train, &validation, &test]);
        }
        return splits(name, root, &train, &test);
    }
    let is_split = |name: &&String| SPLIT_NAMES.contains(&name.to_lowercase().as_str());
    if let Some(split) = subfolders(&root)?.iter().find(is_split) {
        let reason = format!(
            "it has {split}/ but no train/; the folders of splits are called train/ and test/, or val/"
        );
        return Err(Error::malformed(&root, reason));
    }
    one_folder(name, root)
}

/// Reads two folders of class folders. Classes are those of the first, sorted.
pub(super) fn splits(name: &str, root: PathBuf, train: &Path, test: &Path) -> Result<Found, Error> {
    let (train_classes, test_classes) = (class_folders::read(train)?, class_folders::read(test)?);
    let names: Vec<String> = train_classes.images.keys().cloned().collect();
    let labels: HashMap<&str, u32> = names
        .iter()
        .enumerate()
        .map(|(label, name)| (&**name, label as u32))
        .collect();
    let files = |folder: &Path, classes: &ClassFolders| labelled(train, &labels, folder, classes);
    let (train_files, test_files) = (files(train, &train_classes)?, files(test, &test_classes)?);
    let mut notes = train_classes.notes;
    notes.extend(test_classes.notes);
    notes.extend(unread(&root, &[train, test])?);
    found(
        name,
        root,
        names.clone(),
        names,
        Vec::new(),
        train_files,
        test_files,
    )
    .map(|found| found.with_notes(notes))
}

/// Reads three folders of class folders: the second is the validation split of searches.
fn with_validation(
    name: &str,
    root: PathBuf,
    [train, validation, test]: [&Path; 3],
) -> Result<Found, Error> {
    let mut found = splits(name, root.clone(), train, test)?;
    let labels = (0..)
        .zip(&found.class_names)
        .map(|(label, name)| (name.as_str(), label))
        .collect();
    let classes = class_folders::read(validation)?;
    let files = labelled(train, &labels, validation, &classes)?;
    // drop the note by which `splits` reported the validation folder as unread
    let beside = unread(&root, &[train, test])?;
    found.notes.retain(|note| Some(note) != beside.as_ref());
    let mut notes = classes.notes;
    notes.extend(unread(&root, &[train, validation, test])?);
    notes.push(format!(
        "{}: {} images for searches to be judged on",
        validation.display(),
        files.len()
    ));
    Ok(found.with_validation(files).with_notes(notes))
}

/// Returns the images of one split with the labels of the training split's classes.
fn labelled(
    train: &Path,
    labels: &HashMap<&str, u32>,
    folder: &Path,
    classes: &ClassFolders,
) -> Result<Vec<ImageFile>, Error> {
    let label = |(class, images): (&String, &Vec<PathBuf>)| match labels.get(class.as_str()) {
        Some(&label) => Ok(images
            .iter()
            .map(|path| ImageFile {
                path: path.clone(),
                label,
            })
            .collect::<Vec<_>>()),
        None => {
            let reason = format!(
                "it has {} images, and {} no training images of that class: add some, or move it away",
                images.len(),
                train.display()
            );
            Err(Error::malformed(&folder.join(class), reason))
        }
    };
    Ok(classes
        .images
        .iter()
        .map(label)
        .collect::<Result<Vec<_>, _>>()?
        .concat())
}

/// Returns a note about folders beside the splits.
fn unread(root: &Path, splits: &[&Path]) -> Result<Option<String>, Error> {
    let is_unread = |name: &String| !splits.contains(&root.join(name).as_path());
    let unread: Vec<String> = subfolders(root)?.into_iter().filter(is_unread).collect();
    let note = || {
        format!(
            "{}: folders beside the splits are not read: {}",
            root.display(),
            list(&unread)
        )
    };
    Ok((!unread.is_empty()).then(note))
}

fn one_folder(name: &str, root: PathBuf) -> Result<Found, Error> {
    let classes = class_folders::read(&root)?;
    let names: Vec<String> = classes.images.keys().cloned().collect();
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for (label, (class, mut paths)) in classes.images.into_iter().enumerate() {
        let label = label as u32;
        if paths.len() < 2 {
            let reason = "it needs at least two images, one to train on and one to test".to_owned();
            return Err(Error::malformed(&root.join(class), reason));
        }
        Stream::new(0, Purpose::FolderSplit, 0, 0, label).shuffle(&mut paths);
        let num_test = ((paths.len() + TEST_SHARE / 2) / TEST_SHARE).max(1);
        let mut kept = paths.split_off(num_test);
        paths.sort_unstable();
        kept.sort_unstable();
        test.extend(paths.into_iter().map(|path| ImageFile { path, label }));
        train.extend(kept.into_iter().map(|path| ImageFile { path, label }));
    }
    found(name, root, names.clone(), names, Vec::new(), train, test)
        .map(|found| found.with_notes(classes.notes))
}
