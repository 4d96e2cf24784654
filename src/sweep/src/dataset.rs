//! Facts about data sets that are known without reading them: names, and sizes to predict the work
//! of a trial.
//!
//! Where they are stored and how they are read is left to the `data` crate.

use crate::field::did_you_mean;

/// A data set that the program can read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    pub name: &'static str,
    /// Name in tables.
    pub label: &'static str,
    /// Full name.
    pub title: &'static str,
    pub counts: Counts,
    /// Side of the images in pixels; absent: photographs of any size.
    pub side: Option<u32>,
    /// Colour channels of a pixel.
    pub channels: u32,
}

/// Numbers of classes and images: a row of the paper's Table 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub num_classes: u32,
    pub num_train: u32,
    pub num_test: u32,
    pub per_class: PerClass,
}

/// Numbers of training images of the smallest, the largest and the median class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerClass {
    pub fewest: u32,
    pub most: u32,
    pub median: u32,
}

/// Builds a row: classes, training images and test images; then the fewest, most and median number
/// of training images per class.
pub(crate) const fn counts(
    [num_classes, num_train, num_test]: [u32; 3],
    [fewest, most, median]: [u32; 3],
) -> Counts {
    Counts {
        num_classes,
        num_train,
        num_test,
        per_class: PerClass {
            fewest,
            most,
            median,
        },
    }
}

/// Numbers as published (docs/paper.md, section 6); `digits` as split by this project.
pub const KNOWN: &[Known] = &[
    Known {
        name: "digits",
        label: "Digits",
        title: "UCI handwritten digits",
        counts: counts([10, 1_297, 500], [124, 133, 131]),
        side: Some(8),
        channels: 1,
    },
    Known {
        name: "fashion-mnist",
        label: "Fashion-MNIST",
        title: "Fashion-MNIST",
        counts: counts([10, 60_000, 10_000], [6_000, 6_000, 6_000]),
        side: Some(28),
        channels: 1,
    },
    Known {
        name: "cifar100",
        label: "CIFAR-100",
        title: "CIFAR-100",
        counts: counts([100, 50_000, 10_000], [500, 500, 500]),
        side: Some(32),
        channels: 3,
    },
    Known {
        name: "cub",
        label: "CUB",
        title: "CUB-200-2011",
        counts: counts([200, 5_994, 5_794], [29, 30, 30]),
        side: None,
        channels: 3,
    },
    Known {
        name: "nabirds",
        label: "NAB",
        title: "NABirds",
        counts: counts([555, 23_929, 24_633], [4, 60, 44]),
        side: None,
        channels: 3,
    },
    Known {
        name: "cars",
        label: "Cars",
        title: "Stanford Cars",
        counts: counts([196, 8_144, 8_041], [24, 68, 42]),
        side: None,
        channels: 3,
    },
    Known {
        name: "flowers",
        label: "Flowers-102",
        title: "Oxford Flowers-102",
        counts: counts([102, 2_040, 6_149], [20, 20, 20]),
        side: None,
        channels: 3,
    },
    Known {
        name: "mit67",
        label: "MIT Indoor",
        title: "MIT Indoor 67",
        counts: counts([67, 5_360, 1_340], [77, 83, 80]),
        side: None,
        channels: 3,
    },
    Known {
        name: "vipriors",
        label: "VIPriors",
        title: "VIPriors ImageNet-50",
        counts: counts([1_000, 50_000, 50_000], [50, 50, 50]),
        side: None,
        channels: 3,
    },
];

/// Prefix of the path of a user's own data: one directory per class.
pub const FOLDER_PREFIX: &str = "folder:";

/// Prefix of the number of training images per class in one of the authors' lists of CUB:
/// `cub-sub5`.
const CUB_SUBSET_PREFIX: &str = "cub-sub";
/// The number of images of CUB's largest class.
const MOST_OF_CUB: u32 = 30;

/// Returns true if a data set is part of the program: it then changes with `TRAINING_VERSION` only.
pub fn is_built_in(name: &str) -> bool {
    name == "digits"
}

/// Finds a data set of the table, or one of the authors' subsets of CUB.
pub fn find(name: &str) -> Option<Known> {
    let known = KNOWN
        .iter()
        .find(|known| known.name == base(name))
        .copied()?;
    Some(match cub_subset(name) {
        Some(count) => Known {
            counts: Counts {
                num_train: count * known.counts.num_classes,
                per_class: PerClass {
                    fewest: count,
                    most: count,
                    median: count,
                },
                ..known.counts
            },
            ..known
        },
        None => known,
    })
}

/// Returns the training images per class of one of the authors' subsets of CUB: 5 for `cub-sub5`.
pub fn cub_subset(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(CUB_SUBSET_PREFIX)?;
    let count = digits
        .parse()
        .ok()
        .filter(|count| (1..=MOST_OF_CUB).contains(count))?;
    (digits == count.to_string()).then_some(count)
}

/// Returns the data set that these images belong to: for a subset, the whole data set.
pub fn base(name: &str) -> &str {
    if cub_subset(name).is_some() {
        "cub"
    } else {
        name
    }
}

/// Returns the name in tables of a data set that is not a user's own.
pub fn label(name: &str) -> Option<String> {
    let known = find(name)?;
    Some(match cub_subset(name) {
        Some(count) => format!("{} ({count} per class, the authors' list)", known.label),
        None => known.label.to_owned(),
    })
}

/// Checks a data set's name. The error holds the problem and its fix.
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
        let names = names().collect::<Vec<_>>().join(", ");
        format!("possible: {names}, cub-sub1 to cub-sub{MOST_OF_CUB}, or folder:PATH for images of your own")
    });
    Err((
        format!("is `{}`, which does not exist", name.escape_debug()),
        help,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_of_cub_are_named_by_their_size() {
        assert_eq!(
            [1, 5, 30].map(|count| cub_subset(&format!("cub-sub{count}"))),
            [Some(1), Some(5), Some(30)]
        );
        for other in [
            "cub",
            "cub-sub",
            "cub-sub0",
            "cub-sub31",
            "cub-sub05",
            "cub-sub+5",
            "nabirds-sub5",
        ] {
            assert_eq!(cub_subset(other), None, "{other}");
            assert_eq!(check_name(other).is_ok(), other == "cub", "{other}");
        }
        let subset = find("cub-sub5").unwrap().counts;
        assert_eq!(
            (subset.num_train, subset.num_test, subset.per_class.fewest),
            (1_000, 5_794, 5)
        );
        assert_eq!(base("cub-sub5"), "cub");
    }
}
