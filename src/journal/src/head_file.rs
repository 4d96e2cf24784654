//! `journal.head`: number and hash of the newest event, in a small file of its own beside the
//! journal.
//!
//! SQLite silently ends a write-ahead log at the first frame with a wrong checksum, so one flipped
//! bit would lose every event after it. This file records how far the journal must reach. It is
//! written and synced after each commit and before any acknowledgement. Thus, at every point of a
//! crash, it is equal to the journal's end or behind it, never ahead: a journal that ends earlier
//! has lost events. The file has two copies of the record, written in turn, so that an interrupted
//! write leaves the one before.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::chain::{Head, Link};
use crate::error::Error;
use crate::state_dir;

pub(crate) const FILE: &str = "journal.head";
/// Distance of the two copies: they never share a block of the disk.
const COPY_BYTES: usize = 4096;

/// The identity of a journal and how far it reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeadRecord {
    /// Hash of event 1, which is unique to the journal; zero while there is none.
    pub first: Link,
    pub head: Head,
}

impl HeadRecord {
    fn to_text(self) -> String {
        let Self { first, head } = self;
        let text = format!(
            "orchestrator journal head 1\nfirst {first}\nnumber {:020}\nlink {}\n",
            head.number, head.link
        );
        format!("{text}check {}\n", check_of(&text))
    }

    /// Parses a copy; `None`: these bytes are not a valid copy.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let length = Self::default().to_text().len();
        let (text, padding) = bytes.split_at_checked(length)?;
        let mut lines = std::str::from_utf8(text).ok()?.lines();
        let _title = lines.next()?;
        let first = lines.next()?.strip_prefix("first ")?.parse().ok()?;
        let number = lines.next()?.strip_prefix("number ")?.parse().ok()?;
        let link = lines.next()?.strip_prefix("link ")?.parse().ok()?;
        let record = Self {
            first,
            head: Head { number, link },
        };
        (record.to_text().as_bytes() == text && padding.iter().all(|byte| *byte == 0))
            .then_some(record)
    }
}

fn check_of(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
}

/// The content of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub record: HeadRecord,
    /// One of the two copies cannot be read: the machine lost power while it was written, or the
    /// disk changed it.
    pub one_is_damaged: bool,
}

/// Reads the head file of a state directory; `None`: there is no such file, as in a directory of an
/// earlier version.
pub(crate) fn read(directory: &Path) -> Result<Option<Found>, Error> {
    let path = directory.join(FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::HeadFile { path, source }),
    };
    let copies = [0, 1]
        .map(|copy| HeadRecord::from_bytes(bytes.get(copy * COPY_BYTES..(copy + 1) * COPY_BYTES)?));
    let newest = copies
        .iter()
        .flatten()
        .max_by_key(|record| record.head.number)
        .copied();
    let one_is_damaged = copies.contains(&None) || bytes.len() != 2 * COPY_BYTES;
    match newest {
        Some(record) => Ok(Some(Found {
            record,
            one_is_damaged,
        })),
        None => Err(Error::HeadDamaged { path }),
    }
}

/// The head file of an open journal.
pub(crate) struct HeadFile {
    path: PathBuf,
    file: File,
    next_copy: usize,
}

impl HeadFile {
    /// Replaces the file, if there is one, by a file with this record, in one step.
    pub(crate) fn replace(directory: &Path, record: HeadRecord) -> Result<Self, Error> {
        let path = directory.join(FILE);
        let fail = |source| Error::HeadFile {
            path: path.clone(),
            source,
        };
        let unfinished = directory.join("journal.head.new");
        let mut options = File::options();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(fail)?;
        let mut copy = record.to_text().into_bytes();
        copy.resize(COPY_BYTES, 0);
        let written = file
            .write_all(&copy)
            .and_then(|()| file.write_all(&copy))
            .and_then(|()| file.sync_all());
        written
            .and_then(|()| std::fs::rename(&unfinished, &path))
            .map_err(fail)?;
        state_dir::sync(directory)?;
        Ok(Self {
            path,
            file,
            next_copy: 0,
        })
    }

    /// Overwrites the older of the two copies. The write is on the disk when this returns.
    pub(crate) fn write(&mut self, record: HeadRecord) -> Result<(), Error> {
        let offset = (self.next_copy * COPY_BYTES) as u64;
        let written = self
            .file
            .write_all_at(record.to_text().as_bytes(), offset)
            .and_then(|()| self.file.sync_data());
        written.map_err(|source| Error::HeadFile {
            path: self.path.clone(),
            source,
        })?;
        self.next_copy = 1 - self.next_copy;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64) -> HeadRecord {
        let head = Head::default().next(number, b"event");
        HeadRecord {
            first: head.link,
            head: Head {
                number,
                link: head.link,
            },
        }
    }

    fn filled(directory: &Path, newest: u64) {
        let mut file = HeadFile::replace(directory, record(1)).unwrap();
        (2..=newest).for_each(|number| file.write(record(number)).unwrap());
    }

    #[test]
    fn the_newest_record_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()).unwrap(), None);
        for newest in 1..6 {
            filled(directory.path(), newest);
            let found = read(directory.path()).unwrap().unwrap();
            assert_eq!(
                found,
                Found {
                    record: record(newest),
                    one_is_damaged: false
                }
            );
        }
    }

    /// An interrupted write is the newest: it overwrites the record before the one that is kept.
    #[test]
    fn an_interrupted_write_leaves_the_record_before() {
        let directory = tempfile::tempdir().unwrap();
        filled(directory.path(), 7);
        let path = directory.path().join(FILE);
        let sound = std::fs::read(&path).unwrap();
        let (newest, before) = (record(7).to_text(), record(5).to_text());
        let start = (0..2)
            .map(|copy| copy * COPY_BYTES)
            .find(|start| sound[*start..].starts_with(newest.as_bytes()));
        let start = start.expect("the newest record is in one of the copies");
        for cut in 0..newest.len() {
            let torn = format!("{}{}", &newest[..cut], &before[cut..]);
            let mut bytes = sound.clone();
            bytes[start..start + torn.len()].copy_from_slice(torn.as_bytes());
            std::fs::write(&path, &bytes).unwrap();
            let found = read(directory.path()).unwrap().unwrap();
            let (record, one_is_damaged) = (
                record(if torn == newest { 7 } else { 6 }),
                torn != newest && torn != before,
            );
            assert_eq!(
                found,
                Found {
                    record,
                    one_is_damaged
                },
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let directory = tempfile::tempdir().unwrap();
        filled(directory.path(), 7);
        let path = directory.path().join(FILE);
        let sound = std::fs::read(&path).unwrap();
        for at in (0..200)
            .chain(COPY_BYTES - 5..COPY_BYTES + 200)
            .chain([sound.len() - 1])
        {
            let mut flipped = sound.clone();
            flipped[at] ^= 1 << (at % 8);
            std::fs::write(&path, &flipped).unwrap();
            let found = read(directory.path()).unwrap().unwrap();
            assert!(
                found.one_is_damaged && found.record.head.number >= 6,
                "byte {at}"
            );
        }
        std::fs::write(&path, "").unwrap();
        assert!(matches!(
            read(directory.path()),
            Err(Error::HeadDamaged { .. })
        ));
    }

    #[test]
    fn a_head_file_that_cannot_be_read_is_not_taken_for_a_missing_one() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join(FILE)).unwrap();
        assert!(matches!(
            read(directory.path()),
            Err(Error::HeadFile { .. })
        ));
    }
}
