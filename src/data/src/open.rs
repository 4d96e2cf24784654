//! Finding a data set by its name: `preflight` checks cheaply that it is there, `open` makes its pixels available.

use std::path::{Path, PathBuf};

use sweep::settings::SamplesPerClass;

use crate::dataset::Dataset;
use crate::error::Error;
use crate::subset;

/// Which data set, in which form, and where things lie.
#[derive(Clone, Copy, Debug)]
pub struct OpenRequest<'a> {
    /// A name of the catalogue, or `folder:PATH`.
    pub dataset: &'a str,
    /// Shorter side after decoding; absent: images keep their size.
    pub resize: Option<u32>,
    pub data_dir: &'a Path,
    /// Decoded data sets, shared by the trainers of a machine.
    pub cache_dir: &'a Path,
    /// Stand-in images instead of the real ones; no file is read.
    pub smoke: bool,
}

/// What is known of a data set without decoding it.
#[derive(Clone, Debug, PartialEq)]
pub struct Preflight {
    pub name: String,
    /// Where it was found; absent for what is built in or generated.
    pub root: Option<PathBuf>,
    pub channels: usize,
    pub class_names: Vec<String>,
    pub class_ids: Vec<String>,
    /// Images per class.
    pub train_counts: Vec<usize>,
    pub test_counts: Vec<usize>,
}

impl Preflight {
    pub fn num_train(&self) -> usize {
        self.train_counts.iter().sum()
    }

    pub fn num_test(&self) -> usize {
        self.test_counts.iter().sum()
    }

    /// An error that names the first class with fewer training images than asked for.
    pub fn require(&self, samples_per_class: SamplesPerClass) -> Result<(), Error> {
        subset::require(&self.name, &self.class_names, &self.train_counts, samples_per_class)
    }
}

/// Checks that all files of a data set are there and well-formed enough to count classes, without decoding images.
pub fn preflight(request: &OpenRequest) -> Result<Preflight, Error> {
    let _ = request;
    panic!("not built yet")
}

/// Opens a data set, decoding it into the cache first where that has not been done. `on_progress` is told (images
/// decoded, images in all) from several threads.
pub fn open(request: &OpenRequest, on_progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Dataset, Error> {
    let _ = (request, on_progress);
    panic!("not built yet")
}
