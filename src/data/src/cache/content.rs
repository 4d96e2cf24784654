//! The content of a sweep's inputs: hashes of the bytes of every file that a training would read,
//! so that changed data are different data, whatever their sizes and times.
//!
//! Files are read in full only once: `memo.rs` keeps each file's hash for as long as the file is
//! unchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use sweep::Content;

use crate::cache::memo::{Memo, Stamp};
use crate::catalog;
use crate::catalog::found::Found;
use crate::error::Error;
use crate::files;
use crate::open::OpenRequest;

/// Callback with bytes read and bytes to read, after each file, from several threads. Files with a
/// stored hash are not read.
pub type OnRead<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// Returns the content of a data set, or `None` if it is part of the program.
pub fn content(request: &OpenRequest, on_read: OnRead<'_>) -> Result<Option<Content>, Error> {
    if request.smoke {
        return Ok(None);
    }
    let found = catalog::find_files(request.dataset, &request.reach)?;
    let manifest = Manifest::of(&found, request.cache_dir, on_read)?;
    Ok(manifest.map(|manifest| manifest.content))
}

/// Returns the content of a single file, such as weights and hierarchies.
pub fn file_content(path: &Path, cache_dir: &Path, on_read: OnRead<'_>) -> Result<Content, Error> {
    let file = Entry {
        text: String::new(),
        place: String::new(),
        path: path.to_owned(),
    };
    Ok(Manifest::new(path, &[], vec![file], cache_dir, on_read)?.content)
}

/// A data set's content, and the state of its files when it was computed.
pub(crate) struct Manifest {
    pub(crate) content: Content,
    stamps: Vec<(PathBuf, Stamp)>,
}

/// A file and its role in the data set.
struct Entry {
    /// Split, class and path: without them the same bytes would be different data.
    text: String,
    /// Path below the root.
    place: String,
    path: PathBuf,
}

impl Manifest {
    /// Computes a manifest, or `None` if the data set is part of the program.
    pub(crate) fn of(
        found: &Found,
        cache_dir: &Path,
        on_read: OnRead<'_>,
    ) -> Result<Option<Self>, Error> {
        let Some(root) = &found.root else {
            return Ok(None);
        };
        let mut images = BTreeSet::new();
        let mut entries = Vec::with_capacity(found.files.len());
        for (split, image) in found.images() {
            let place = below(root, &image.path);
            entries.push(Entry {
                text: format!(
                    "{split}\0{}\0{place}",
                    found.class_names[image.label as usize]
                ),
                place,
                path: image.path.clone(),
            });
            images.insert(&image.path);
        }
        for path in found.files.iter().filter(|path| !images.contains(path)) {
            let place = below(root, path);
            entries.push(Entry {
                text: format!("\0\0{place}"),
                place,
                path: path.clone(),
            });
        }
        Self::new(root, &found.class_names, entries, cache_dir, on_read).map(Some)
    }

    fn new(
        root: &Path,
        class_names: &[String],
        mut entries: Vec<Entry>,
        cache_dir: &Path,
        on_read: OnRead<'_>,
    ) -> Result<Self, Error> {
        entries.sort_by(|one, other| one.text.cmp(&other.text));
        let memo = Memo::open(cache_dir, root);
        let stamps: Vec<Stamp> = entries
            .par_iter()
            .map(|entry| Stamp::of(&entry.path))
            .collect::<Result<_, Error>>()?;
        let known: Vec<_> = entries
            .iter()
            .zip(&stamps)
            .map(|(entry, stamp)| memo.recall(&entry.path, stamp))
            .collect();
        let to_read = stamps
            .iter()
            .zip(&known)
            .filter(|(_, known)| known.is_none())
            .map(|(stamp, _)| stamp.bytes)
            .sum();
        let read = AtomicU64::new(0);
        let hash = |((entry, stamp), known): ((&Entry, &Stamp), Option<blake3::Hash>)| {
            if let Some(known) = known {
                return Ok(known);
            }
            let hash = hash_file(&entry.path, stamp)?;
            on_read(
                read.fetch_add(stamp.bytes, Ordering::Relaxed) + stamp.bytes,
                to_read,
            );
            Ok(hash)
        };
        let files = entries.par_iter().zip(&stamps).zip(known);
        let hashes: Vec<blake3::Hash> = files.map(hash).collect::<Result<_, Error>>()?;
        memo.keep(
            entries
                .iter()
                .map(|entry| entry.path.as_path())
                .zip(&stamps)
                .zip(&hashes),
        );
        let mut hasher = blake3::Hasher::new();
        for name in class_names {
            hasher.update(name.as_bytes()).update(&[0]);
        }
        let digests: Vec<blake3::Hash> = entries
            .iter()
            .zip(&hashes)
            .map(|(entry, hash)| digest(entry, hash))
            .collect();
        for digest in &digests {
            hasher.update(digest.as_bytes());
        }
        let content = Content {
            hash: hasher.finalize().to_hex()[..32].to_owned(),
            files: entries.len() as u64,
            bytes: stamps.iter().map(|stamp| stamp.bytes).sum(),
            parts: parts(&entries, &digests),
        };
        let stamps = entries
            .into_iter()
            .map(|entry| entry.path)
            .zip(stamps)
            .collect();
        Ok(Self { content, stamps })
    }

    /// Returns an error if a file changed after its content was computed: then the decoded bytes
    /// may differ from the hashed ones.
    pub(crate) fn still_holds(&self) -> Result<(), Error> {
        self.stamps
            .par_iter()
            .try_for_each(|(path, stamp)| match Stamp::of(path)? == *stamp {
                true => Ok(()),
                false => Err(changed(path)),
            })
    }
}

fn changed(path: &Path) -> Error {
    Error::malformed(
        path,
        "it was changed while it was read; try again when nothing writes to it any more",
    )
}

fn below(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .display()
        .to_string()
}

fn digest(entry: &Entry, hash: &blake3::Hash) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&(entry.text.len() as u64).to_le_bytes())
        .update(entry.text.as_bytes())
        .update(hash.as_bytes());
    hasher.finalize()
}

fn hash_file(path: &Path, stamp: &Stamp) -> Result<blake3::Hash, Error> {
    let mut hasher = blake3::Hasher::new();
    if stamp.bytes > files::MAX_ARRAY_BYTES {
        return Err(Error::TooLarge {
            path: path.to_owned(),
            limit: files::MAX_ARRAY_BYTES,
        });
    }
    // one extra byte reveals that the file grew
    hasher
        .update_reader(files::open(path)?.take(stamp.bytes + 1))
        .map_err(Error::io("read", path))?;
    if hasher.count() != stamp.bytes || Stamp::of(path)? != *stamp {
        return Err(changed(path));
    }
    Ok(hasher.finalize())
}

/// Groups the hashes by file if there are few files, else by folder, else by ranges of folders.
fn parts(entries: &[Entry], digests: &[blake3::Hash]) -> BTreeMap<String, String> {
    if let [_] = entries {
        return BTreeMap::new();
    }
    let folder = |place: &str| match place.rsplit_once('/') {
        Some((folder, _)) => format!("{folder}/"),
        None => place.to_owned(),
    };
    let mut groups: BTreeMap<String, Vec<&blake3::Hash>> = BTreeMap::new();
    let single = entries.len() <= Content::MAX_PARTS;
    for (entry, digest) in entries.iter().zip(digests) {
        let name = if single {
            entry.place.clone()
        } else {
            folder(&entry.place)
        };
        groups.entry(name).or_default().push(digest);
    }
    let groups: Vec<_> = groups.into_iter().collect();
    let ranges = groups.chunks(groups.len().div_ceil(Content::MAX_PARTS).max(1));
    let part = |range: &[(String, Vec<&blake3::Hash>)]| {
        let name = match range {
            [(only, _)] => only.clone(),
            [(first, _), .., (last, _)] => format!("{first} to {last}"),
            [] => unreachable!("chunks are not empty"),
        };
        let mut hasher = blake3::Hasher::new();
        for digest in range.iter().flat_map(|(_, digests)| digests) {
            hasher.update(digest.as_bytes());
        }
        (name, hasher.finalize().to_hex()[..16].to_owned())
    };
    ranges.map(part).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Mutex;
    use std::time::{Duration, SystemTime};

    use sweep::settings::Corrupt;

    use super::*;
    use crate::files::Reach;

    struct Place(tempfile::TempDir);

    impl Place {
        /// Creates two classes of two images per split, with old times. Their bytes are no images:
        /// nothing is decoded.
        fn new() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            for split in ["train", "test"] {
                for class in ["cat", "dog"] {
                    for number in 0..2 {
                        place.write(
                            &format!("t/{split}/{class}/{number}.png"),
                            &format!("{split} {class} {number}"),
                        );
                    }
                }
            }
            place
        }

        fn write(&self, path: &str, content: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            let long_ago = SystemTime::now() - Duration::from_secs(3600);
            fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(long_ago)
                .unwrap();
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn content(&self) -> Content {
            self.content_of("folder:t")
                .expect("it is no part of the program")
        }

        fn content_of(&self, dataset: &str) -> Option<Content> {
            let (reach, cache_dir) = (Reach::anywhere(self.0.path()), self.path("cache"));
            let request = OpenRequest {
                dataset,
                resize: None,
                test_resize: None,
                reach,
                cache_dir: &cache_dir,
                corrupt: Corrupt::Refuse,
                smoke: false,
            };
            content(&request, &|_, _| ()).unwrap()
        }
    }

    #[test]
    fn names_and_bytes_of_all_files_are_the_content_and_their_place_is_not() {
        let (one, other) = (Place::new(), Place::new());
        assert_eq!(one.content(), other.content());
        assert_eq!(
            (one.content().files, one.content().bytes),
            (8, 4 * 11 + 4 * 10)
        );
        one.write("t/train/cat/0.png", "TRAIN cat 0");
        assert_eq!(
            one.content().differences(&other.content()),
            ["train/cat/0.png differs"]
        );
        one.write("t/train/cat/0.png", "train cat 0");
        assert_eq!(one.content(), other.content());
        one.write("t/notes.txt", "no image");
        assert_eq!(
            one.content(),
            other.content(),
            "what no training reads is no content"
        );
        one.write("t/train/dog/2.png", "another");
        fs::remove_file(one.path("t/test/dog/1.png")).unwrap();
        let differences = one.content().differences(&other.content());
        assert_eq!(
            differences,
            ["test/dog/1.png is missing", "train/dog/2.png is additional"]
        );
    }

    #[test]
    fn shuffling_images_between_classes_is_another_content() {
        let place = Place::new();
        let before = place.content();
        let (cat, dog) = (
            place.path("t/train/cat/0.png"),
            place.path("t/train/dog/0.png"),
        );
        fs::rename(&cat, place.path("kept")).unwrap();
        fs::rename(&dog, &cat).unwrap();
        fs::rename(place.path("kept"), &dog).unwrap();
        let after = place.content();
        assert_ne!(after.hash, before.hash);
        assert_eq!((after.files, after.bytes), (before.files, before.bytes));
        assert_eq!(
            after.differences(&before),
            ["train/cat/0.png differs", "train/dog/0.png differs"]
        );
    }

    #[test]
    fn many_files_are_grouped_by_folder_and_many_folders_by_ranges() {
        let entry = |place: String| Entry {
            text: place.clone(),
            path: PathBuf::from(&place),
            place,
        };
        let parts_of = |folders: usize, files: usize| {
            let places = (0..folders)
                .flat_map(|folder| (0..files).map(move |file| format!("c{folder:04}/{file}")));
            let entries: Vec<Entry> = places.map(entry).collect();
            let digests: Vec<_> = entries
                .iter()
                .map(|entry| blake3::hash(entry.text.as_bytes()))
                .collect();
            parts(&entries, &digests).into_keys().collect::<Vec<_>>()
        };
        assert_eq!(parts_of(2, 2), ["c0000/0", "c0000/1", "c0001/0", "c0001/1"]);
        assert_eq!(parts_of(2, 200), ["c0000/", "c0001/"]);
        let ranges = parts_of(1000, 2);
        assert_eq!(
            (ranges.len(), ranges[0].as_str()),
            (250, "c0000/ to c0003/")
        );
    }

    #[test]
    fn a_single_file_has_a_content_and_what_is_built_in_has_none() {
        let place = Place::new();
        place.write("w.safetensors", "weights");
        let of = || {
            file_content(
                &place.path("w.safetensors"),
                &place.path("cache"),
                &|_, _| (),
            )
            .unwrap()
        };
        let before = of();
        assert_eq!((before.files, before.bytes, before.parts.len()), (1, 7, 0));
        fs::rename(place.path("w.safetensors"), place.path("kept")).unwrap();
        place.write("w.safetensors", "WEIGHTS");
        assert_ne!(of().hash, before.hash);
        assert_eq!(place.content_of("digits"), None);
    }

    #[test]
    fn files_that_change_while_they_are_decoded_are_noticed() {
        let place = Place::new();
        let found = catalog::find_files("folder:t", &Reach::anywhere(place.0.path())).unwrap();
        let manifest = Manifest::of(&found, &place.path("cache"), &|_, _| ())
            .unwrap()
            .unwrap();
        assert!(manifest.still_holds().is_ok());
        // a new inode, at any clock time
        fs::rename(place.path("t/test/cat/1.png"), place.path("kept")).unwrap();
        place.write("t/test/cat/1.png", "test cat 1");
        let error = manifest.still_holds().unwrap_err().to_string();
        assert!(
            error.contains("test/cat/1.png") && error.contains("changed while it was read"),
            "{error}"
        );
    }

    #[test]
    fn progress_ends_at_the_announced_total() {
        let place = Place::new();
        let found = catalog::find_files("folder:t", &Reach::anywhere(place.0.path())).unwrap();
        let seen = Mutex::new(Vec::new());
        Manifest::of(&found, &place.path("cache"), &|done, total| {
            seen.lock().unwrap().push((done, total))
        })
        .unwrap();
        let seen = seen.into_inner().unwrap();
        assert_eq!(seen.len(), 8);
        assert!(
            seen.iter().all(|(_, total)| *total == 84) && seen.iter().any(|(done, _)| *done == 84),
            "{seen:?}"
        );
    }
}
