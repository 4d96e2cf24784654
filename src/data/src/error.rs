//! Errors about data. Every message names the file or the class, the reason, and the remedy.
//! Nothing here decides whether an error is fatal: readers return it, the command line and the
//! trainer handle it.

use std::path::{Path, PathBuf};

/// An error about data; see the head of this file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {path}", path = path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// An error in the folder of decoded data sets, which this program writes.
    #[error("cannot {action} {path}: decoded data sets are kept there, --cache-dir chooses another folder", path = path.display())]
    Cache {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} is malformed: {reason}", path = path.display())]
    Malformed { path: PathBuf, reason: String },
    #[error("{path} is {what}; only regular files are read", path = path.display())]
    NotAFile { path: PathBuf, what: &'static str },
    #[error("{path} is larger than {limit} bytes, the most that is read of such a file", path = path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    #[error(
        "`{field}` names {named}, which lies outside of this worker's data directory {data_dir}; move it there, or let \
         the person who runs the worker allow its folder with --allow-path DIR",
        data_dir = data_dir.display()
    )]
    OutOfReach {
        field: &'static str,
        named: String,
        data_dir: PathBuf,
    },
    /// No file of the data set was found in any of its possible places.
    #[error("data set `{dataset}` was not found: {looked_for}; {remedy}")]
    NotFound {
        dataset: String,
        looked_for: String,
        remedy: String,
    },
    #[error("data set `{dataset}` is incomplete: {count} of its files are missing or empty, the first is {first}; {remedy}", first = first.display())]
    FilesMissing {
        dataset: String,
        count: usize,
        first: PathBuf,
        remedy: String,
    },
    #[error("there is no data set `{name}`; known are {known}, and folder:PATH")]
    UnknownDataset { name: String, known: String },
    #[error(
        "class `{class}` of `{dataset}` has {available} training images, {requested} were asked for; lower samples_per_class"
    )]
    TooFewSamples {
        dataset: String,
        class: String,
        available: usize,
        requested: usize,
    },
    #[error(
        "class `{class}` of `{dataset}` has no training images ({count} of its classes have none)"
    )]
    EmptyClass {
        dataset: String,
        class: String,
        count: usize,
    },
    #[error(
        "class `{class}` has {available} images in the training subset, and `holdout` needs {fewest}"
    )]
    HoldoutTooSmall {
        class: String,
        available: usize,
        fewest: u32,
    },
    #[error("setting `{field}` = {value}: {reason}")]
    Setting {
        field: &'static str,
        value: String,
        reason: String,
    },
    #[error(
        "{count} of {total} images of `{dataset}` cannot be decoded; fix or remove them, or leave them out with \
         `corrupt: skip`: {files}"
    )]
    Corrupt {
        dataset: String,
        count: usize,
        total: usize,
        files: String,
    },
    #[error("{url}: {reason}")]
    Download { url: String, reason: String },
    #[error("{path} has checksum {found}, expected {expected}; it was removed: fetch it again", path = path.display())]
    Checksum {
        path: PathBuf,
        found: String,
        expected: String,
    },
    #[error("{archive}: entry `{entry}` is refused: {reason}", archive = archive.display())]
    HostileArchive {
        archive: PathBuf,
        entry: String,
        reason: String,
    },
    #[error("`{dataset}` is part of the program: there is nothing to fetch")]
    BuiltIn { dataset: String },
    /// A program cannot download the data set.
    #[error("`{dataset}` has to be obtained by hand: {instructions}")]
    ByHand {
        dataset: String,
        instructions: String,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    pub(crate) fn cache(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Cache {
            action,
            path,
            source,
        }
    }

    pub(crate) fn malformed(path: &Path, reason: impl Into<String>) -> Self {
        Self::Malformed {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }
}
