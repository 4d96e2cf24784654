//! What a sweep knows about data sets without reading them: their names, and sizes to predict the work of a trial by.
//!
//! It refuses to know where they lie and how they are read; that is the `data` crate.

use crate::field::did_you_mean;

/// A data set that the program has a reader for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    pub name: &'static str,
    pub label: &'static str,
    pub num_classes: u32,
    pub num_train: u32,
    pub num_test: u32,
    /// Training images of the smallest class.
    pub smallest_class: u32,
    /// Images of one fixed size, in pixels; 0: photographs of any size.
    pub side: u32,
    /// Colours of a pixel.
    pub channels: u32,
}

/// Sizes as published (docs/paper.md, section 6); `digits` as split by this project.
pub const KNOWN: &[Known] = &[
    small_images("digits", "Digits", [10, 1_297, 500, 124], 8, 1),
    small_images("fashion-mnist", "Fashion-MNIST", [10, 60_000, 10_000, 6_000], 28, 1),
    small_images("cifar100", "CIFAR-100", [100, 50_000, 10_000, 500], 32, 3),
    photographs("cub", "CUB", [200, 5_994, 5_794, 29]),
    photographs("nabirds", "NAB", [555, 23_929, 24_633, 4]),
    photographs("cars", "Cars", [196, 8_144, 8_041, 24]),
    photographs("flowers", "Flowers-102", [102, 2_040, 6_149, 20]),
    photographs("mit67", "MIT Indoor", [67, 5_360, 1_340, 77]),
    photographs("vipriors", "VIPriors", [1_000, 50_000, 50_000, 50]),
];

/// Before the path of a user's own data: one directory per class.
pub const FOLDER_PREFIX: &str = "folder:";

/// Sizes are classes, training images, test images, and training images of the smallest class.
const fn small_images(name: &'static str, label: &'static str, sizes: [u32; 4], side: u32, channels: u32) -> Known {
    let [num_classes, num_train, num_test, smallest_class] = sizes;
    Known { name, label, num_classes, num_train, num_test, smallest_class, side, channels }
}

const fn photographs(name: &'static str, label: &'static str, sizes: [u32; 4]) -> Known {
    small_images(name, label, sizes, 0, 3)
}

/// Whether a data set is part of the program: it then changes with `TRAINING_VERSION` only.
pub fn is_built_in(name: &str) -> bool {
    name == "digits"
}

pub fn find(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

/// What is wrong with a data set's name, and what to do about it.
pub fn check_name(name: &str) -> Result<(), (String, String)> {
    if find(name).is_some() {
        return Ok(());
    }
    if let Some(path) = name.strip_prefix(FOLDER_PREFIX) {
        if path.trim().is_empty() || path.len() > 4096 || path.contains(char::is_control) {
            return Err((
                format!("is `{}`, which names no folder", name.escape_debug()),
                "write folder:PATH, with one directory per class in it".to_owned(),
            ));
        }
        return Ok(());
    }
    let names = || KNOWN.iter().map(|known| known.name);
    let help = did_you_mean(name, names()).unwrap_or_else(|| {
        format!("possible: {}, or folder:PATH for images of your own", names().collect::<Vec<_>>().join(", "))
    });
    Err((format!("is `{}`, which does not exist", name.escape_debug()), help))
}
