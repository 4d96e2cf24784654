//! A data set found on disk: its classes and images, not yet decoded; and what the readers share.

use std::path::{Path, PathBuf};

use super::remedy;
use crate::error::Error;
use crate::formats::class_folders;

/// A data set found on disk, with its images not yet decoded.
pub(crate) struct Found {
    pub(crate) root: Option<PathBuf>,
    pub(crate) channels: usize,
    pub(crate) class_names: Vec<String>,
    /// Ids of the classes in hierarchies.
    pub(crate) class_ids: Vec<String>,
    /// Files that determine the content, images included: the cache is rebuilt when one of them
    /// changes.
    pub(crate) files: Vec<PathBuf>,
    pub(crate) content: Content,
    /// Notes on files that are not read, a line each.
    pub(crate) notes: Vec<String>,
}

impl Found {
    /// Adds its reader's notes, before the general ones.
    pub(super) fn with_notes(mut self, mut notes: Vec<String>) -> Self {
        notes.append(&mut self.notes);
        Self { notes, ..self }
    }

    /// Adds a validation split, which searches use instead of held-out training images.
    pub(super) fn with_validation(mut self, files: Vec<ImageFile>) -> Self {
        self.files
            .extend(files.iter().map(|file| file.path.clone()));
        if let Content::Files { validation, .. } = &mut self.content {
            *validation = files;
        }
        self
    }

    /// Returns images that are files of their own, with the name of their split.
    pub(crate) fn images(&self) -> impl Iterator<Item = (&'static str, &ImageFile)> {
        let splits = match &self.content {
            Content::Arrays(_) => [("train", &[][..]), ("val", &[][..]), ("test", &[][..])],
            Content::Files {
                train,
                validation,
                test,
            } => [
                ("train", &train[..]),
                ("val", &validation[..]),
                ("test", &test[..]),
            ],
        };
        splits
            .into_iter()
            .flat_map(|(split, files)| files.iter().map(move |file| (split, file)))
    }
}

pub(crate) enum Content {
    /// Images of one small size, read whole.
    Arrays(Box<dyn Fn() -> Result<Arrays, Error>>),
    /// One file per image. `validation` is empty for data sets without one.
    Files {
        train: Vec<ImageFile>,
        validation: Vec<ImageFile>,
        test: Vec<ImageFile>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Arrays {
    pub(crate) height: u32,
    pub(crate) width: u32,
    pub(crate) train: Labelled,
    pub(crate) test: Labelled,
}

/// Labels, and pixels with channels last.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Labelled {
    pub(crate) labels: Vec<u32>,
    pub(crate) pixels: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ImageFile {
    pub(crate) path: PathBuf,
    pub(crate) label: u32,
}

/// Returns the first of `data_dir/NAME/FOLDER`, `data_dir/FOLDER`, `data_dir/NAME` and the other
/// places with `marker`. `folder` is the one to which the official archive unpacks.
pub(super) fn locate(
    name: &str,
    data_dir: &Path,
    folder: &str,
    marker: &str,
    others: &[&str],
) -> Result<PathBuf, Error> {
    let mut places = vec![
        data_dir.join(name).join(folder),
        data_dir.join(folder),
        data_dir.join(name),
    ];
    places.extend(others.iter().map(PathBuf::from));
    places
        .iter()
        .find(|place| place.join(marker).exists())
        .cloned()
        .ok_or_else(|| {
            let places: Vec<String> = places
                .iter()
                .map(|place| place.display().to_string())
                .collect();
            Error::NotFound {
                dataset: name.to_owned(),
                looked_for: format!("no `{marker}` in {}", places.join(", ")),
                remedy: remedy(name),
            }
        })
}

/// Returns the first of several layouts that is complete; if none is, the error of the partly
/// present one.
pub(super) fn first_complete(
    layouts: &[&dyn Fn() -> Result<Found, Error>],
) -> Result<Found, Error> {
    let mut first_error = None;
    for layout in layouts {
        match layout() {
            Ok(found) => return Ok(found),
            Err(error) if matches!(first_error, None | Some(Error::NotFound { .. })) => {
                first_error = Some(match (first_error, error) {
                    (Some(earlier), Error::NotFound { .. }) => earlier,
                    (_, error) => error,
                });
            }
            Err(_) => {}
        }
    }
    Err(first_error.expect("there is at least one layout"))
}

/// Returns a data set of one file per image, after checking that all exist and every class has
/// training images.
pub(super) fn found(
    name: &str,
    root: PathBuf,
    class_names: Vec<String>,
    class_ids: Vec<String>,
    lists: Vec<PathBuf>,
    train: Vec<ImageFile>,
    test: Vec<ImageFile>,
) -> Result<Found, Error> {
    all_there(name, train.iter().chain(&test).map(|file| &file.path))?;
    for (split, files) in [("training", &train), ("test", &test)] {
        if files.is_empty() {
            return Err(Error::malformed(&root, format!("it has no {split} images")));
        }
    }
    let without = |files: &[ImageFile]| {
        let mut is_empty = vec![true; class_names.len()];
        files
            .iter()
            .for_each(|file| is_empty[file.label as usize] = false);
        let names = class_names
            .iter()
            .zip(is_empty)
            .filter(|(_, is_empty)| *is_empty)
            .map(|(name, _)| name.clone());
        names.collect::<Vec<String>>()
    };
    let untrained = without(&train);
    if let Some(class) = untrained.first() {
        return Err(Error::EmptyClass {
            dataset: name.to_owned(),
            class: class.clone(),
            count: untrained.len(),
        });
    }
    let untested = without(&test);
    let notes = match untested.len() {
        0 => Vec::new(),
        count => {
            vec![format!(
                "{count} of {} classes have no test images: {}",
                class_names.len(),
                class_folders::list(&untested)
            )]
        }
    };
    let files = lists
        .into_iter()
        .chain(train.iter().chain(&test).map(|file| file.path.clone()))
        .collect();
    Ok(Found {
        root: Some(root),
        channels: 3,
        class_names,
        class_ids,
        files,
        content: Content::Files {
            train,
            validation: Vec::new(),
            test,
        },
        notes,
    })
}

pub(super) fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Returns `0`, `1`, ...: the class ids of most data sets in the authors' hierarchies.
pub(super) fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|class| class.to_string()).collect()
}

/// Returns `1`, `2`, ...: the class ids of data sets that count from 1.
pub(super) fn numbers_from_one(count: usize) -> Vec<String> {
    (1..=count).map(|class| class.to_string()).collect()
}

/// Checks that labels are classes, and widens them.
pub(super) fn widen(path: &Path, labels: &[u8], num_classes: usize) -> Result<Vec<u32>, Error> {
    if let Some((index, label)) = labels
        .iter()
        .enumerate()
        .find(|(_, label)| usize::from(**label) >= num_classes)
    {
        return Err(Error::malformed(
            path,
            format!("image {index} has class {label}; there are {num_classes}"),
        ));
    }
    Ok(labels.iter().map(|&label| u32::from(label)).collect())
}

/// Checks that files exist and are not empty; the error counts the missing ones and names the
/// first.
pub(super) fn all_there<'a>(
    dataset: &str,
    files: impl Iterator<Item = &'a PathBuf>,
) -> Result<(), Error> {
    let (mut count, mut first) = (0, None);
    for path in files {
        if !std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0) {
            count += 1;
            first.get_or_insert(path);
        }
    }
    match first {
        None => Ok(()),
        Some(first) => {
            let first = first.clone();
            Err(Error::FilesMissing {
                dataset: dataset.to_owned(),
                count,
                first,
                remedy: remedy(dataset),
            })
        }
    }
}
