//! The data sets that have a reader, a file each: where they come from, how they are read, their
//! published statistics, and stand-ins in their layout.
//!
//! Names and sizes are in `sweep::dataset`. Checksums and their certainty are those of
//! docs/paper.md, section 6. Read `fetch/` for the download itself and `check.rs` for the
//! comparison with what is on disk.

mod birds;
mod cars;
mod cifar100;
mod cifar100_python;
mod digits;
mod fashion_mnist;
mod flowers;
mod folder;
pub(crate) mod found;
pub(crate) mod hierarchies;
mod mit67;
pub mod stand_in_files;
mod vipriors;

use std::path::Path;

use sweep::dataset::Known;

pub use hierarchies::fetched_with;
pub use sweep::dataset::FOLDER_PREFIX;

use crate::error::Error;
use crate::files::Reach;
use crate::statistics::Moments;
use found::Found;
use stand_in_files::StandIns;

/// A named data set.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Name in the sweep file.
    pub name: &'static str,
    pub licence: &'static str,
    pub origin: Origin,
    /// Published channel statistics.
    pub(crate) statistics: Option<Moments>,
    find: Find,
    /// Absent if it has no files.
    write_stand_ins: Option<WriteStandIns>,
}

/// Finds the files of a data set below the data directory. `name` is that of the entry or of a
/// subset.
type Find = fn(name: &str, data_dir: &Path) -> Result<Found, Error>;

/// Writes stand-ins into a folder, in the layout of a data set.
type WriteStandIns = fn(stand_ins: &StandIns, root: &Path) -> Result<(), Error>;

/// All named data sets.
pub static ENTRIES: [Entry; 9] = [
    digits::ENTRY,
    fashion_mnist::ENTRY,
    cifar100::ENTRY,
    birds::CUB,
    birds::NABIRDS,
    cars::ENTRY,
    flowers::ENTRY,
    mit67::ENTRY,
    vipriors::ENTRY,
];

impl Entry {
    /// Returns its published facts.
    pub fn known(&self) -> Known {
        sweep::dataset::find(self.name).expect("a test compares the two tables")
    }
}

/// The origin of a data set.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// Part of the program.
    BuiltIn,
    Download(&'static [Download]),
    /// Behind a form, not redistributable, or gone from its official place: instructions for the
    /// user.
    ByHand(&'static str),
}

/// One file of a data set at its public address.
#[derive(Clone, Copy, Debug)]
pub struct Download {
    pub url: &'static str,
    pub checksum: Checksum,
    pub is_archive: bool,
    /// Most bytes that the download, and its unpacked content, may have.
    pub max_bytes: u64,
}

/// A published checksum of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    Md5(&'static str),
    Sha256(&'static str),
    /// No checksum was ever published.
    Unknown,
}

const fn file(url: &'static str, checksum: Checksum) -> Download {
    Download {
        url,
        checksum,
        is_archive: false,
        max_bytes: 64 << 20,
    }
}

const fn archive(url: &'static str, checksum: Checksum, max_bytes: u64) -> Download {
    Download {
        url,
        checksum,
        is_archive: true,
        max_bytes,
    }
}

impl Download {
    /// Returns the last part of the address.
    pub fn file_name(&self) -> &'static str {
        self.url.rsplit('/').next().unwrap_or(self.url)
    }
}

/// Returns a data set's entry; for a subset of CUB, the entry of the whole.
pub fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES
        .iter()
        .find(|entry| entry.name == sweep::dataset::base(name))
}

/// Returns the named data set whose files lie in a folder, in the layout of its publication.
pub fn published_in(folder: &Path) -> Option<&'static str> {
    let data_dir = folder.parent()?;
    let lies_here = |entry: &&Entry| {
        let found = (entry.find)(entry.name, data_dir);
        let root = found.ok().and_then(|found| found.root);
        root.is_some_and(|root| root.starts_with(folder))
    };
    ENTRIES.iter().find(lies_here).map(|entry| entry.name)
}

/// Finds a data set's files by its name; checks its lists and that every image file exists.
pub(crate) fn find_files(name: &str, reach: &Reach) -> Result<Found, Error> {
    match find(name) {
        Some(entry) => (entry.find)(name, reach.data_dir),
        None if name.starts_with(FOLDER_PREFIX) => folder::find(name, reach),
        None => Err(unknown(name)),
    }
}

/// Returns the error for a name without a reader.
pub(crate) fn unknown(name: &str) -> Error {
    let names: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
    Error::UnknownDataset {
        name: name.to_owned(),
        known: names.join(", "),
    }
}

/// Returns the remedy for a missing data set.
pub(crate) fn remedy(name: &str) -> String {
    if sweep::dataset::cub_subset(name).is_some() {
        return "the lists are in cub-subsampled-splits.zip of release v1.2.0 of github.com/cvjena/semantic-embeddings: \
                put them beside images.txt"
            .to_owned();
    }
    let elsewhere = "or point --data-dir at the folder that holds it";
    match find(name).map(|entry| entry.origin) {
        Some(Origin::Download(_)) => format!("run `orchestrator data fetch {name}`, {elsewhere}"),
        Some(_) => format!(
            "`orchestrator data list` explains where to get it and where to put it, {elsewhere}"
        ),
        None => "look at the folder".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sweep_language_knows_the_same_data_sets() {
        let known = sweep::dataset::KNOWN.iter().map(|known| known.name);
        let here = ENTRIES.iter().map(|entry| entry.name);
        assert_eq!(known.collect::<Vec<_>>(), here.collect::<Vec<_>>());
    }

    #[test]
    fn file_names_are_the_ends_of_addresses() {
        let names = |origin: Origin| match origin {
            Origin::Download(files) => files.iter().map(Download::file_name).collect(),
            _ => Vec::new(),
        };
        assert_eq!(names(birds::CUB.origin), ["CUB_200_2011.tgz"]);
        assert_eq!(
            hierarchies::FILES[2].file_name(),
            "cub_balanced.parent-child.txt"
        );
    }
}
