//! The data sets that have a reader: what Table 1 of the paper says about them, and where they come from.

/// A data set by name, with its published sizes.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// As in the sweep file.
    pub name: &'static str,
    pub title: &'static str,
    pub channels: usize,
    /// Images of one fixed size, in pixels; absent: photographs of any size.
    pub side: Option<u32>,
    pub published: Row,
}

/// A row of Table 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub num_classes: usize,
    pub num_train: usize,
    pub num_test: usize,
    /// Fewest, most and median training images of a class.
    pub per_class: (usize, usize, usize),
}

const fn row(num_classes: usize, num_train: usize, num_test: usize, per_class: (usize, usize, usize)) -> Row {
    Row { num_classes, num_train, num_test, per_class }
}

const fn entry(name: &'static str, title: &'static str, channels: usize, side: Option<u32>, published: Row) -> Entry {
    Entry { name, title, channels, side, published }
}

pub const ENTRIES: [Entry; 9] = [
    entry("digits", "UCI handwritten digits", 1, Some(8), row(10, 1_297, 500, (124, 133, 130))),
    entry("fashion-mnist", "Fashion-MNIST", 1, Some(28), row(10, 60_000, 10_000, (6_000, 6_000, 6_000))),
    entry("cifar100", "CIFAR-100", 3, Some(32), row(100, 50_000, 10_000, (500, 500, 500))),
    entry("cub", "CUB-200-2011", 3, None, row(200, 5_994, 5_794, (29, 30, 30))),
    entry("nabirds", "NABirds", 3, None, row(555, 23_929, 24_633, (4, 60, 44))),
    entry("cars", "Stanford Cars", 3, None, row(196, 8_144, 8_041, (24, 68, 42))),
    entry("flowers", "Oxford Flowers-102", 3, None, row(102, 2_040, 6_149, (20, 20, 20))),
    entry("mit67", "MIT Indoor 67", 3, None, row(67, 5_360, 1_340, (77, 83, 80))),
    entry("vipriors", "VIPriors ImageNet-50", 3, None, row(1_000, 50_000, 50_000, (50, 50, 50))),
];

/// Before the path of a user's own data: one directory per class.
pub const FOLDER_PREFIX: &str = "folder:";

pub fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.name == name)
}
