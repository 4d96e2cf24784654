//! Stored hashes of files, in the cache directory: one small file for each data set.
//!
//! A hash is trusted only while the file's size, times, inode and device are unchanged, and never
//! for a file written so recently that its times could not reveal another write. Several processes
//! may write: the last one wins, and lost hashes are recomputed. A memo that is damaged, or that
//! cannot be written, costs time only.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// First line of a memo: other versions are not read.
const HEADER: &str = "orchestrator hashes 1";
/// A file changed within this time may change again at the same times: file systems round to up to
/// two seconds.
const TOO_FRESH_NS: i128 = 2_000_000_000;

/// Metadata that reveal whether a file has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) bytes: u64,
    modified_ns: i128,
    /// Set by the system at each change, so that a restored modification time is detected.
    changed_ns: i128,
    inode: u64,
    device: u64,
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> Result<Self, Error> {
        let metadata = std::fs::metadata(path).map_err(Error::io("read", path))?;
        let ns = |seconds: i64, nanoseconds: i64| {
            i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
        };
        Ok(Self {
            bytes: metadata.len(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            device: metadata.dev(),
        })
    }

    fn is_settled(&self, now_ns: i128) -> bool {
        self.modified_ns.max(self.changed_ns) + TOO_FRESH_NS < now_ns
    }
}

pub(crate) struct Memo {
    path: PathBuf,
    opened_ns: i128,
    known: HashMap<PathBuf, (Stamp, blake3::Hash)>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    path: PathBuf,
    stamp: Stamp,
    hash: String,
}

impl Memo {
    /// Reads the stored hashes of files below `root`; empty if they cannot be read.
    pub(crate) fn open(cache_dir: &Path, root: &Path) -> Self {
        let name = &blake3::hash(root.as_os_str().as_encoded_bytes()).to_hex()[..16];
        let path = cache_dir.join("hashes").join(name);
        let known = std::fs::read_to_string(&path)
            .ok()
            .and_then(|text| parse(&text))
            .unwrap_or_default();
        let opened = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            path,
            opened_ns: opened.as_nanos() as i128,
            known,
        }
    }

    pub(crate) fn recall(&self, path: &Path, stamp: &Stamp) -> Option<blake3::Hash> {
        self.known
            .get(path)
            .filter(|(known, _)| known == stamp)
            .map(|(_, hash)| *hash)
    }

    /// Stores the hashes of exactly these files, if any is new.
    pub(crate) fn keep<'a>(
        self,
        files: impl Iterator<Item = ((&'a Path, &'a Stamp), &'a blake3::Hash)>,
    ) {
        let settled = files.filter(|((path, stamp), _)| {
            stamp.is_settled(self.opened_ns) && path.to_str().is_some()
        });
        let mut is_new = false;
        let mut text = format!("{HEADER}\n");
        for ((path, stamp), hash) in settled {
            is_new |= self.recall(path, stamp).is_none();
            let line = Line {
                path: path.to_owned(),
                stamp: *stamp,
                hash: hash.to_hex().to_string(),
            };
            text.push_str(&serde_json::to_string(&line).expect("a path of UTF-8 is JSON"));
            text.push('\n');
        }
        if !is_new {
            return;
        }
        text.push_str(&format!("{}\n", blake3::hash(text.as_bytes()).to_hex()));
        if let Err(error) = write(&self.path, &text) {
            tracing::debug!(path = %self.path.display(), %error, "hashes are not remembered");
        }
    }
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().expect("it lies in the folder of hashes");
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

/// Parses a memo; `None` if it has another version or is damaged.
fn parse(text: &str) -> Option<HashMap<PathBuf, (Stamp, blake3::Hash)>> {
    let without_newline = text.strip_suffix('\n')?;
    let end = without_newline.rfind('\n')? + 1;
    let (body, checksum) = (&text[..end], &without_newline[end..]);
    if blake3::hash(body.as_bytes()).to_hex().as_str() != checksum {
        return None;
    }
    let lines = body.strip_prefix(HEADER)?.strip_prefix('\n')?.lines();
    let entry = |line: &str| {
        let line: Line = serde_json::from_str(line).ok()?;
        Some((
            line.path,
            (line.stamp, blake3::Hash::from_hex(line.hash).ok()?),
        ))
    };
    lines.map(entry).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::Duration;

    use super::*;

    struct Place {
        dir: tempfile::TempDir,
        file: PathBuf,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("file");
            fs::write(&file, "content").unwrap();
            Self { dir, file }
        }

        /// Opens the memo late enough that the file's times have settled.
        fn memo(&self) -> Memo {
            let memo = Memo::open(&self.dir.path().join("cache"), self.dir.path());
            Memo {
                opened_ns: memo.opened_ns + 10_000_000_000,
                ..memo
            }
        }

        fn keep(&self) {
            let stamp = Stamp::of(&self.file).unwrap();
            self.memo()
                .keep([((self.file.as_path(), &stamp), &blake3::hash(b"content"))].into_iter());
        }

        fn recall(&self) -> Option<blake3::Hash> {
            self.memo()
                .recall(&self.file, &Stamp::of(&self.file).unwrap())
        }
    }

    #[test]
    fn a_hash_is_remembered_for_as_long_as_the_file_is_untouched() {
        let place = Place::new();
        assert_eq!(place.recall(), None);
        place.keep();
        assert_eq!(place.recall(), Some(blake3::hash(b"content")));
        // with the same size and modification time, the system's own change time reveals it
        let modified = fs::metadata(&place.file).unwrap().modified().unwrap();
        while Stamp::of(&place.file).unwrap().changed_ns
            == place.memo().known[&place.file].0.changed_ns
        {
            fs::write(&place.file, "CONTENT").unwrap();
            File::options()
                .write(true)
                .open(&place.file)
                .unwrap()
                .set_modified(modified)
                .unwrap();
        }
        assert_eq!(place.recall(), None);
    }

    #[test]
    fn a_file_that_was_just_written_is_not_remembered() {
        let place = Place::new();
        let stamp = Stamp::of(&place.file).unwrap();
        let memo = Memo::open(&place.dir.path().join("cache"), place.dir.path());
        memo.keep([((place.file.as_path(), &stamp), &blake3::hash(b"content"))].into_iter());
        assert_eq!(place.recall(), None);
    }

    #[test]
    fn a_damaged_memo_is_forgotten_whole() {
        let place = Place::new();
        place.keep();
        let path = place.memo().path;
        let sound = fs::read(&path).unwrap();
        for at in 0..sound.len() {
            let mut damaged = sound.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(
                place.recall(),
                None,
                "a changed bit of byte {at} is believed"
            );
            fs::write(&path, &sound[..at]).unwrap();
            assert_eq!(place.recall(), None, "cut at {at}");
        }
        fs::write(&path, &sound).unwrap();
        assert!(place.recall().is_some());
    }

    #[test]
    fn a_cache_that_cannot_be_written_costs_nothing_but_time() {
        let place = Place::new();
        fs::write(place.dir.path().join("cache"), "a file, not a folder").unwrap();
        place.keep();
        assert_eq!(place.recall(), None);
    }

    #[test]
    fn processes_that_write_at_once_leave_a_whole_memo() {
        let place = Place::new();
        let keep = || (0..50).for_each(|_| place.keep_again());
        std::thread::scope(|scope| {
            (0..4).for_each(|_| drop(scope.spawn(keep)));
            for _ in 0..200 {
                let text = fs::read_to_string(place.memo().path).unwrap_or_default();
                assert!(
                    text.is_empty() || parse(&text).is_some(),
                    "half a memo was seen"
                );
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        assert!(place.recall().is_some());
        let left = fs::read_dir(place.dir.path().join("cache/hashes"))
            .unwrap()
            .count();
        assert_eq!(left, 1, "temporary files are left behind");
    }

    impl Place {
        /// Writes even if nothing is new.
        fn keep_again(&self) {
            let stamp = Stamp::of(&self.file).unwrap();
            let memo = Memo {
                known: HashMap::new(),
                ..self.memo()
            };
            memo.keep([((self.file.as_path(), &stamp), &blake3::hash(b"content"))].into_iter());
        }
    }
}
