//! Finding a data set by its name: `preflight` checks cheaply that it exists, `open` makes its
//! pixels available.
//!
//! Neither downloads anything. Read `catalog/` for the layouts on disk and `cache/` for the
//! decoded form.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use sweep::Holdout;
use sweep::dataset::{Counts, PerClass};
use sweep::settings::{Corrupt, SamplesPerClass};

use crate::batches::subset;
use crate::cache::content::Manifest;
use crate::catalog;
use crate::catalog::found::{Arrays, Content, Found, ImageFile, Labelled};
use crate::dataset::{self, Dataset, Split};
use crate::error::Error;
use crate::files::Reach;
use crate::{cache, stand_in};

/// The data set to open, its form, and the folders.
#[derive(Clone, Copy, Debug)]
pub struct OpenRequest<'a> {
    /// Name in the catalogue, or `folder:PATH`.
    pub dataset: &'a str,
    /// Shorter side of training images after decoding; absent: images keep their size.
    pub resize: Option<u32>,
    /// Shorter side of test images; absent: the same as `resize`.
    pub test_resize: Option<u32>,
    /// Data directory, and the folders into which a `folder:` may lead.
    pub reach: Reach<'a>,
    /// Folder of decoded data sets, shared by the trainers of a machine.
    pub cache_dir: &'a Path,
    /// Policy for images that cannot be decoded.
    pub corrupt: Corrupt,
    /// Stand-in images instead of the real ones; no file is read.
    pub smoke: bool,
}

/// Shorter sides after decoding; absent: images keep their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resizes {
    pub(crate) train: Option<u32>,
    pub(crate) test: Option<u32>,
}

impl Resizes {
    pub(crate) fn of(request: &OpenRequest) -> Self {
        Self {
            train: request.resize,
            test: request.test_resize.or(request.resize),
        }
    }
}

/// Facts about a data set that need no decoding.
#[derive(Clone, Debug, PartialEq)]
pub struct Preflight {
    pub name: String,
    /// Folder of the data set; absent if it is built in or generated.
    pub root: Option<PathBuf>,
    pub channels: usize,
    pub class_names: Vec<String>,
    pub class_ids: Vec<String>,
    /// Number of training images per class.
    pub train_counts: Vec<usize>,
    /// Number of images in the data set's own validation split.
    pub num_validation: usize,
    pub test_counts: Vec<usize>,
    /// Files that are not read, and classes that lack images, a line each.
    pub notes: Vec<String>,
}

impl Preflight {
    pub fn num_train(&self) -> usize {
        self.train_counts.iter().sum()
    }

    pub fn num_test(&self) -> usize {
        self.test_counts.iter().sum()
    }

    /// Returns the numbers of classes and images.
    pub fn counts(&self) -> Counts {
        let mut counts = self.train_counts.clone();
        counts.sort_unstable();
        let at = |index: usize| counts.get(index).copied().unwrap_or(0) as u32;
        Counts {
            num_classes: counts.len() as u32,
            num_train: self.num_train() as u32,
            num_test: self.num_test() as u32,
            per_class: PerClass {
                fewest: at(0),
                most: at(counts.len().saturating_sub(1)),
                median: at(counts.len() / 2),
            },
        }
    }

    /// Returns the number of evaluation images of one subset: the validation split, or held-out
    /// images, of all folds together.
    pub fn held_out(&self, samples_per_class: SamplesPerClass, holdout: &Holdout) -> u32 {
        if self.num_validation > 0 {
            return holdout.folds() * self.num_validation as u32;
        }
        let chosen = |count: usize| match samples_per_class {
            SamplesPerClass::All => count as u32,
            SamplesPerClass::Count(most) => most.min(count as u32),
        };
        self.train_counts
            .iter()
            .map(|&count| holdout.evaluated(chosen(count)))
            .sum()
    }

    /// Returns an error that names the first class with fewer training images than requested.
    pub fn require(&self, samples_per_class: SamplesPerClass) -> Result<(), Error> {
        subset::require(
            &self.name,
            &self.class_names,
            &self.train_counts,
            samples_per_class,
        )
    }
}

/// Checks that all files of a data set are there and well-formed enough to count classes, without
/// decoding images. Small data sets (MNIST's and CIFAR's formats) are read whole, checksums of
/// compressed files included.
pub fn preflight(request: &OpenRequest) -> Result<Preflight, Error> {
    if request.smoke {
        let dataset = stand_in::dataset(request.dataset)?;
        return Ok(Preflight {
            train_counts: dataset.train_counts(),
            num_validation: dataset.num_validation,
            test_counts: dataset.test.class_counts(dataset.num_classes()),
            name: dataset.name,
            root: None,
            notes: Vec::new(),
            channels: dataset.channels,
            class_names: dataset.class_names,
            class_ids: dataset.class_ids,
        });
    }
    let found = find(request)?;
    let (train, test) = match &found.content {
        Content::Arrays(read) => {
            let Arrays { train, test, .. } = read()?;
            (train.labels, test.labels)
        }
        Content::Files { train, test, .. } => (
            train.iter().map(|file| file.label).collect(),
            test.iter().map(|file| file.label).collect(),
        ),
    };
    let num_validation = found.images().filter(|(split, _)| *split == "val").count();
    let count = |labels: &[u32]| {
        let mut counts = vec![0; found.class_names.len()];
        labels.iter().for_each(|&label| counts[label as usize] += 1);
        counts
    };
    let (train_counts, test_counts) = (count(&train), count(&test));
    let mut notes = found.notes;
    let untrained = train_counts.iter().filter(|&&count| count == 0).count();
    if untrained > 0 {
        notes.push(format!(
            "{untrained} of {} classes have no training images",
            train_counts.len()
        ));
    }
    Ok(Preflight {
        name: request.dataset.to_owned(),
        root: found.root,
        channels: found.channels,
        train_counts,
        num_validation,
        test_counts,
        notes,
        class_names: found.class_names,
        class_ids: found.class_ids,
    })
}

/// Opens a data set, decoding it into the cache first if necessary. `on_progress` receives (images
/// decoded, total images) from several threads.
pub fn open(
    request: &OpenRequest,
    on_progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Dataset, Error> {
    if request.smoke {
        return stand_in::dataset(request.dataset);
    }
    let found = find(request)?;
    let whole = OpenRequest {
        dataset: sweep::dataset::base(request.dataset),
        ..*request
    };
    if whole.dataset != request.dataset {
        return open_part(request.dataset, &found, &whole, on_progress);
    }
    let Some(manifest) = Manifest::of(&found, request.cache_dir, &|_, _| ())? else {
        // Built into the program and tiny: not cached.
        let Content::Arrays(read) = &found.content else {
            unreachable!("what is built in is no list of files")
        };
        let arrays = read()?;
        return Ok(in_memory(request.dataset, found, arrays));
    };
    cache::open(request, &found, &manifest, on_progress)
}

pub(crate) fn find(request: &OpenRequest) -> Result<Found, Error> {
    let found = catalog::find_files(request.dataset, &request.reach)?;
    let refuse = |value: u32, reason: &str| {
        Err(Error::Setting {
            field: "resize",
            value: value.to_string(),
            reason: reason.to_owned(),
        })
    };
    match (request.resize.or(request.test_resize), &found.content) {
        (Some(0), _) => refuse(0, "it must be at least 1"),
        (Some(side), Content::Arrays(_)) => refuse(
            side,
            &format!(
                "the small images of `{}` are used as they are; leave it out",
                request.dataset
            ),
        ),
        _ => Ok(found),
    }
}

/// Opens a subset, which shares the cache of the whole, test images included.
fn open_part(
    name: &str,
    part: &Found,
    whole: &OpenRequest,
    on_progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Dataset, Error> {
    let all = find(whole)?;
    let manifest = |found| Manifest::of(found, whole.cache_dir, &|_, _| ());
    let (Some(of_part), Some(of_all)) = (manifest(part)?, manifest(&all)?) else {
        unreachable!("subsets are files");
    };
    let (dataset, corrupt) = cache::decoded(whole, &all, &of_all, on_progress)?;
    let (
        Content::Files { train, test, .. },
        Content::Files {
            train: some_train,
            test: some_test,
            ..
        },
    ) = (&all.content, &part.content)
    else {
        unreachable!("subsets are of photographs");
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(dataset.fingerprint.as_bytes());
    let mut missed = Vec::new();
    let mut select = |split: &Split, files: &[ImageFile], wanted: &[ImageFile]| {
        let wanted: HashSet<&Path> = wanted.iter().map(|file| file.path.as_path()).collect();
        let (mut chosen, mut index) = (Vec::new(), 0_usize);
        for file in files {
            let is_wanted = wanted.contains(file.path.as_path());
            let place = format!("{}: ", file.path.display());
            match corrupt.iter().find(|line| line.starts_with(&place)) {
                Some(line) if is_wanted => missed.push(line.clone()),
                Some(_) => {}
                None => {
                    if is_wanted {
                        hasher.update(&index.to_le_bytes());
                        chosen.push(index);
                    }
                    index += 1;
                }
            }
        }
        hasher.update(&[0]);
        split.select(&chosen)
    };
    let (train, test) = (
        select(&dataset.train, train, some_train),
        select(&dataset.test, test, some_test),
    );
    let fingerprint = hasher.finalize().to_hex()[..32].to_owned();
    let dataset = Dataset {
        name: name.to_owned(),
        train,
        test,
        skipped: missed.len(),
        fingerprint,
        content: Some(of_part.content),
        ..dataset
    };
    cache::judge(&dataset, &missed, whole.corrupt)?;
    Ok(dataset)
}

fn in_memory(name: &str, found: Found, arrays: Arrays) -> Dataset {
    let Arrays {
        height,
        width,
        train,
        test,
    } = arrays;
    let split =
        |split: Labelled| Split::uniform(split.labels, split.pixels, height, width, found.channels);
    let (train, test) = (split(train), split(test));
    Dataset {
        name: name.to_owned(),
        fingerprint: dataset::fingerprint(&found.class_names, [&train, &test]),
        class_names: found.class_names,
        class_ids: found.class_ids,
        channels: found.channels,
        train,
        num_validation: 0,
        test,
        skipped: 0,
        content: None,
    }
}
