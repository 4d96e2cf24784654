//! What is on disk beside what was published: the rows behind `orchestrator data list` and `check`.

use std::path::{Path, PathBuf};

use crate::catalog::{self, ENTRIES, Entry, Row};
use crate::error::Error;
use crate::files::Reach;
use crate::open::{OpenRequest, Preflight, preflight};
use crate::{cache, readers};

/// A line of `data list`.
#[derive(Debug)]
pub struct Listing {
    pub entry: &'static Entry,
    pub state: State,
}

#[derive(Debug)]
pub enum State {
    /// Complete, in this folder; `None` for what is built in.
    Ready(Option<PathBuf>),
    Absent,
    /// Something is there, but not usable.
    Broken(Error),
}

/// What `data check` prints.
#[derive(Debug)]
pub struct Check {
    pub name: String,
    pub root: Option<PathBuf>,
    pub found: Row,
    /// Absent for a user's own folder.
    pub published: Option<Row>,
    /// Classes without training images, by name.
    pub empty_classes: Vec<String>,
    /// Images that the decoded cache at this size leaves out, with reasons; `None` where it was not decoded yet.
    pub corrupt: Option<Vec<String>>,
}

impl Check {
    /// Whether what was found is what was published.
    pub fn agrees(&self) -> bool {
        self.published.is_none_or(|published| published == self.found)
            && self.corrupt.as_ref().is_none_or(Vec::is_empty)
    }
}

/// The state of every data set of the catalogue. Small ones are read whole, of photographs only the lists.
pub fn list(data_dir: &Path) -> Vec<Listing> {
    let state = |entry: &Entry| {
        let request = OpenRequest {
            dataset: entry.name,
            resize: None,
            reach: Reach::anywhere(data_dir),
            cache_dir: Path::new(""),
            smoke: false,
        };
        match preflight(&request) {
            Ok(found) => State::Ready(found.root),
            Err(Error::NotFound { .. }) => State::Absent,
            Err(error) => State::Broken(error),
        }
    };
    ENTRIES.iter().map(|entry| Listing { entry, state: state(entry) }).collect()
}

/// Counts what is there, and tells which images the cache for `request.resize` left out.
pub fn check(request: &OpenRequest) -> Result<Check, Error> {
    let found = preflight(request)?;
    let corrupt = if request.smoke {
        None
    } else {
        let files = readers::find(request.dataset, &request.reach)?;
        cache::corrupt(request.dataset, request.resize, &files, request.cache_dir)
    };
    let classes = found.class_names.iter().zip(&found.train_counts);
    Ok(Check {
        found: row(&found),
        published: catalog::find(request.dataset).map(|entry| entry.published),
        empty_classes: classes.filter(|(_, count)| **count == 0).map(|(name, _)| name.clone()).collect(),
        corrupt,
        name: found.name,
        root: found.root,
    })
}

fn row(found: &Preflight) -> Row {
    let mut counts = found.train_counts.clone();
    counts.sort_unstable();
    let at = |index: usize| counts.get(index).copied().unwrap_or(0);
    Row {
        num_classes: counts.len(),
        num_train: found.num_train(),
        num_test: found.num_test(),
        per_class: (at(0), at(counts.len().saturating_sub(1)), at(counts.len() / 2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(dataset: &'a str, data_dir: &'a Path) -> OpenRequest<'a> {
        OpenRequest { dataset, resize: None, reach: Reach::anywhere(data_dir), cache_dir: data_dir, smoke: false }
    }

    #[test]
    fn the_digits_agree_with_their_row() {
        let check = check(&request("digits", Path::new("/nonexistent"))).unwrap();
        assert!(check.agrees(), "{check:?}");
        assert_eq!(check.found.per_class, (124, 133, 131));
    }

    #[test]
    fn differences_and_corrupt_images_are_told() {
        let place = tempfile::tempdir().unwrap();
        let amount = crate::stand_in_files::Amount {
            num_classes: 2,
            train_per_class: 600,
            test_per_class: 1,
            height: 3,
            width: 3,
        };
        let root = crate::stand_in_files::write("mit67", place.path(), amount).unwrap();
        std::fs::write(root.join("Images/class_00/image_1.jpg"), "no image").unwrap();
        let before = check(&request("mit67", place.path())).unwrap();
        assert!(!before.agrees() && before.corrupt.is_none());
        assert_eq!(before.found, Row { num_classes: 2, num_train: 1200, num_test: 2, per_class: (600, 600, 600) });
        // One corrupt image of more than a thousand is within the tolerance.
        let dataset = crate::open(&request("mit67", place.path()), &|_, _| ()).unwrap();
        assert_eq!((dataset.train.len(), dataset.test.len()), (1199, 2));
        let after = check(&request("mit67", place.path())).unwrap();
        assert!(after.corrupt.unwrap()[0].contains("image_1.jpg: it is no image"));
    }

    #[test]
    fn a_list_has_every_data_set_and_its_state() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("cars")).unwrap();
        std::fs::write(place.path().join("cars/cars_annos.mat"), "short").unwrap();
        let list = list(place.path());
        let state = |name: &str| &list.iter().find(|line| line.entry.name == name).unwrap().state;
        assert_eq!(list.len(), ENTRIES.len());
        assert!(matches!(state("digits"), State::Ready(None)));
        assert!(matches!(state("cub"), State::Absent));
        assert!(matches!(state("cars"), State::Broken(Error::Malformed { .. })));
    }
}
