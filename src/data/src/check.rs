//! Comparison of the data on disk with the published facts: the rows of `orchestrator data list`
//! and `check`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use sweep::dataset::Counts;
use sweep::settings::Corrupt;

use crate::catalog::found::{Content, ImageFile};
use crate::catalog::{self, ENTRIES, Entry};
use crate::error::Error;
use crate::files::Reach;
use crate::images::decode;
use crate::images::resize::CropResizer;
use crate::open::{OpenRequest, preflight};

/// A line of `data list`.
#[derive(Debug)]
pub struct Listing {
    pub entry: &'static Entry,
    pub state: Presence,
}

/// State of a data set in the data directory.
#[derive(Debug)]
pub enum Presence {
    /// Complete, in this folder; `None` if built in.
    Ready(Option<PathBuf>),
    Absent,
    /// Present, but not usable.
    Broken(Error),
}

/// The output of `data check`.
#[derive(Debug)]
pub struct Check {
    pub name: String,
    pub root: Option<PathBuf>,
    pub found: Counts,
    /// Published numbers; absent for a user's own folder and for a subset.
    pub published: Option<Counts>,
    /// Counts of the classes in label order.
    pub classes: Vec<ClassCounts>,
    /// Sizes of the images that can be decoded; absent if the format fixes one size.
    pub sizes: Option<Sizes>,
    /// See `Preflight::notes`.
    pub notes: Vec<String>,
    /// Every file that cannot be decoded, with the reason.
    pub corrupt: Vec<String>,
}

/// Numbers of images of one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassCounts {
    pub name: String,
    pub train: usize,
    pub test: usize,
}

/// Sizes in pixels: smallest, median and largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub heights: [u32; 3],
    pub widths: [u32; 3],
    pub shorter_sides: [u32; 3],
}

impl Check {
    /// Returns true if the data found equal the published ones.
    pub fn agrees(&self) -> bool {
        self.published
            .is_none_or(|published| published == self.found)
    }
}

/// Returns the state of every data set of the catalogue. Reads small ones whole, of photographs
/// only the lists.
pub fn list(data_dir: &Path) -> Vec<Listing> {
    let state = |entry: &Entry| {
        let request = OpenRequest {
            dataset: entry.name,
            resize: None,
            test_resize: None,
            reach: Reach::anywhere(data_dir),
            cache_dir: Path::new(""),
            corrupt: Corrupt::Refuse,
            smoke: false,
        };
        match preflight(&request) {
            Ok(found) => Presence::Ready(found.root),
            Err(Error::NotFound { .. }) => Presence::Absent,
            Err(error) => Presence::Broken(error),
        }
    };
    ENTRIES
        .iter()
        .map(|entry| Listing {
            entry,
            state: state(entry),
        })
        .collect()
}

/// Counts the images and decodes every file, to `request.resize` if present. `on_progress` gets
/// (files decoded, total files) from several threads.
pub fn check(
    request: &OpenRequest,
    on_progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Check, Error> {
    let found = preflight(request)?;
    let (mut sizes, mut corrupt) = (None, Vec::new());
    if !request.smoke
        && let Content::Files {
            train,
            validation,
            test,
        } = catalog::find_files(request.dataset, &request.reach)?.content
    {
        let files: Vec<&ImageFile> = train.iter().chain(&validation).chain(&test).collect();
        let done = AtomicU64::new(0);
        let decode = |resizer: &mut CropResizer, file: &&ImageFile| {
            let decoded = match decode::file(&file.path, request.resize, resizer) {
                Ok(decoded) => decoded.map(|image| image.original),
                Err(Error::Io { source, .. }) => Err(source.to_string()),
                Err(error) => Err(error.to_string()),
            };
            on_progress(done.fetch_add(1, Ordering::Relaxed) + 1, files.len() as u64);
            decoded.map_err(|reason| format!("{}: {reason}", file.path.display()))
        };
        let decoded: Vec<_> = files
            .par_iter()
            .map_init(CropResizer::default, decode)
            .collect();
        let (sound, damaged): (Vec<_>, Vec<_>) = decoded.into_iter().partition(Result::is_ok);
        sizes = Sizes::of(&sound.into_iter().flatten().collect::<Vec<_>>());
        corrupt = damaged.into_iter().filter_map(Result::err).collect();
    }
    let counts = found.train_counts.iter().zip(&found.test_counts);
    let classes = found.class_names.iter().zip(counts);
    Ok(Check {
        found: found.counts(),
        published: catalog::find(request.dataset)
            .filter(|entry| entry.name == request.dataset)
            .map(|entry| entry.known().counts),
        classes: classes
            .map(|(name, (&train, &test))| ClassCounts {
                name: name.clone(),
                train,
                test,
            })
            .collect(),
        sizes,
        notes: found.notes,
        corrupt,
        name: found.name,
        root: found.root,
    })
}

impl Sizes {
    /// Summarises (height, width) pairs.
    fn of(sizes: &[(u32, u32)]) -> Option<Self> {
        let spread = |side: &dyn Fn(&(u32, u32)) -> u32| {
            let mut sides: Vec<u32> = sizes.iter().map(side).collect();
            sides.sort_unstable();
            Some([*sides.first()?, sides[sides.len() / 2], *sides.last()?])
        };
        Some(Self {
            heights: spread(&|size| size.0)?,
            widths: spread(&|size| size.1)?,
            shorter_sides: spread(&|size| size.0.min(size.1))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use sweep::dataset::PerClass;

    use super::*;

    fn request<'a>(dataset: &'a str, data_dir: &'a Path) -> OpenRequest<'a> {
        OpenRequest {
            dataset,
            resize: None,
            test_resize: None,
            reach: Reach::anywhere(data_dir),
            cache_dir: data_dir,
            corrupt: Corrupt::Refuse,
            smoke: false,
        }
    }

    #[test]
    fn the_digits_agree_with_their_row() {
        let check = check(&request("digits", Path::new("/nonexistent")), &|_, _| ()).unwrap();
        assert!(check.agrees(), "{check:?}");
        assert_eq!(
            check.found.per_class,
            PerClass {
                fewest: 124,
                most: 133,
                median: 131
            }
        );
    }

    #[test]
    fn every_image_is_decoded_and_every_fault_listed() {
        let place = tempfile::tempdir().unwrap();
        let amount = crate::catalog::stand_in_files::Amount {
            num_classes: 2,
            train_per_class: 6,
            test_per_class: 3,
            height: 4,
            width: 3,
        };
        let root = crate::catalog::stand_in_files::write("mit67", place.path(), amount).unwrap();
        let image = |class: usize, number: usize| {
            root.join(format!("Images/class_{class:02}/image_{number}.jpg"))
        };
        std::fs::write(image(0, 1), "<html>404 Not Found</html>").unwrap();
        let whole = std::fs::read(image(1, 10)).unwrap();
        std::fs::write(image(1, 10), &whole[..whole.len() / 2]).unwrap();
        image::RgbImage::from_pixel(50, 40, image::Rgb([9; 3]))
            .save(image(1, 18))
            .unwrap();
        let decoded = AtomicU64::new(0);
        let count = |_, total| {
            assert_eq!(total, 18);
            decoded.fetch_add(1, Ordering::Relaxed);
        };
        let check = super::check(&request("mit67", place.path()), &count).unwrap();
        assert_eq!(decoded.into_inner(), 18);
        assert!(!check.agrees(), "{check:?}");
        assert_eq!(
            check.found,
            Counts {
                num_classes: 2,
                num_train: 12,
                num_test: 6,
                per_class: PerClass {
                    fewest: 6,
                    most: 6,
                    median: 6
                }
            }
        );
        assert_eq!(
            check.classes[1],
            ClassCounts {
                name: "class_01".to_owned(),
                train: 6,
                test: 3
            }
        );
        let sizes = check.sizes.unwrap();
        assert_eq!(
            (sizes.heights, sizes.widths, sizes.shorter_sides),
            ([4, 4, 40], [3, 3, 50], [3, 3, 40])
        );
        let [html, cut] = check.corrupt.as_slice() else {
            panic!("{:?}", check.corrupt)
        };
        assert!(
            html.contains("class_00/image_1.jpg: it is no image"),
            "{html}"
        );
        assert!(
            cut.contains("class_01/image_10.jpg: it is a truncated JPEG"),
            "{cut}"
        );
    }

    #[test]
    fn a_list_has_every_data_set_and_its_state() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("cars")).unwrap();
        std::fs::write(place.path().join("cars/cars_annos.mat"), "short").unwrap();
        let list = list(place.path());
        let state = |name: &str| {
            &list
                .iter()
                .find(|line| line.entry.name == name)
                .unwrap()
                .state
        };
        assert_eq!(list.len(), ENTRIES.len());
        assert!(matches!(state("digits"), Presence::Ready(None)));
        assert!(matches!(state("cub"), Presence::Absent));
        assert!(matches!(
            state("cars"),
            Presence::Broken(Error::Malformed { .. })
        ));
    }
}
