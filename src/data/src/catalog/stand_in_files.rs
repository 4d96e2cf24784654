//! Stand-in images written in each data set's real layout on disk: for tests of the readers, and
//! for people who want to rehearse a data set's path before they have it. Photographs are JPEG
//! files, annotations have the real formats.

use std::path::{Path, PathBuf};

use super::FOLDER_PREFIX;
use crate::error::Error;
use crate::{catalog, stand_in};

/// The number of images, and the size of photographs. Data sets of small images keep their own
/// size.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    pub num_classes: usize,
    pub train_per_class: usize,
    pub test_per_class: usize,
    pub height: usize,
    pub width: usize,
}

/// One image to write.
pub(super) struct StandInImage {
    pub(super) class: usize,
    pub(super) is_train: bool,
    /// Number over all images, from 1.
    pub(super) number: usize,
}

/// Writes a data set below `data_dir/NAME` as `fetch`, or a person who follows its instructions,
/// would. Returns the folder.
pub fn write(name: &str, data_dir: &Path, amount: Amount) -> Result<PathBuf, Error> {
    let stand_ins = StandIns::new(amount);
    if let Some(path) = name.strip_prefix(FOLDER_PREFIX) {
        let root = data_dir.join(path);
        stand_ins.class_folders(&root, "test")?;
        return Ok(root);
    }
    let entry = catalog::find(name).filter(|entry| entry.name == name);
    let write = entry.and_then(|entry| entry.write_stand_ins);
    let write = write.ok_or_else(|| catalog::unknown(name))?;
    let root = data_dir.join(name);
    write(&stand_ins, &root)?;
    Ok(root)
}

/// The images of one data set.
pub(crate) struct StandIns {
    pub(super) amount: Amount,
    pub(super) items: Vec<StandInImage>,
}

pub(super) fn put(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    std::fs::write(path, bytes).map_err(Error::io("write", path))
}

impl StandIns {
    fn new(amount: Amount) -> Self {
        let mut items = Vec::new();
        for class in 0..amount.num_classes {
            for index in 0..amount.train_per_class + amount.test_per_class {
                items.push(StandInImage {
                    class,
                    is_train: index < amount.train_per_class,
                    number: items.len() + 1,
                });
            }
        }
        Self { amount, items }
    }

    pub(super) fn jpeg(&self, path: &Path, item: &StandInImage) -> Result<(), Error> {
        let Amount { height, width, .. } = self.amount;
        let pixels = stand_in::image(item.class as u32, item.number as u32, height, width, 3);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        let (colour, format) = (image::ExtendedColorType::Rgb8, image::ImageFormat::Jpeg);
        image::save_buffer_with_format(path, &pixels, width as u32, height as u32, colour, format)
            .map_err(|error| Error::io("write", path)(std::io::Error::other(error)))
    }

    pub(super) fn split(&self, is_train: bool) -> impl Iterator<Item = &StandInImage> {
        self.items
            .iter()
            .filter(move |item| item.is_train == is_train)
    }

    /// Returns one line per image.
    pub(super) fn lines(&self, line: impl Fn(&StandInImage) -> String) -> Vec<u8> {
        self.items
            .iter()
            .map(|item| line(item) + "\n")
            .collect::<String>()
            .into_bytes()
    }

    pub(super) fn class_folders(&self, root: &Path, test: &str) -> Result<(), Error> {
        let path = |item: &StandInImage| {
            let split = if item.is_train { "train" } else { test };
            root.join(split).join(format!(
                "n{:08}/n{:08}_{}.JPEG",
                item.class, item.class, item.number
            ))
        };
        self.items
            .iter()
            .try_for_each(|item| self.jpeg(&path(item), item))
    }
}

/// Writes the second layouts of Stanford Cars and VIPriors.
#[cfg(test)]
pub(crate) fn write_other_layout(name: &str, root: &Path, amount: Amount) -> Result<(), Error> {
    let stand_ins = StandIns::new(amount);
    if name == "cars" {
        super::cars::write_devkit(&stand_ins, root)
    } else {
        super::vipriors::write_lists(&stand_ins, root)
    }
}
