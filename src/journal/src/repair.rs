//! Repairs a damaged journal: keeps every event that is still as it was written, in order from the
//! first.
//!
//! The events are read twice, from copies of the files: as SQLite reads them, and with all pages of
//! the write-ahead log whatever their checksums are, because a later page of the log often rewrites
//! a damaged one. The hashes of the events decide which are sound. The damaged files are kept in a
//! folder of their own.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::Connection;
use schedule::state::State;

use crate::chain::{Head, Link};
use crate::error::Error;
use crate::head_file::{self, HeadFile, HeadRecord};
use crate::offline::wal_damage;
use crate::state_dir::{self, Mode};
use crate::store::{check_identity, connect, has_tables, parse, read_rows, store};
use crate::wal;

/// Folder of the copies, and of the new journal until it is complete.
const WORK_DIRECTORY: &str = "journal.repair";
/// Number of events in one transaction of the new journal.
const BATCH: usize = 10_000;

/// The result of a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repaired {
    /// Nothing is damaged or missing; nothing was changed.
    Sound { events: u64 },
    /// Some events cannot be recovered, and the caller did not accept the loss: nothing was
    /// changed.
    WouldLose { kept: u64, lost: Lost },
    /// The journal holds `kept` events; the damaged files are in `aside`.
    Done {
        kept: u64,
        lost: Option<Lost>,
        aside: PathBuf,
    },
}

/// Events that cannot be recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Their number; `None`: unknown.
    pub events: Option<u64>,
    pub reason: String,
}

/// Makes a damaged journal usable again. Events that cannot be recovered are given up only if
/// `accept_loss`.
///
/// # Errors
/// A running coordinator, no journal, another kind of file, a disk without room for a copy.
pub fn repair(directory: &Path, accept_loss: bool) -> Result<Repaired, Error> {
    let record = head_file::read(directory).map(|found| found.map(|found| found.record));
    let nothing_there = matches!(
        state_dir::is_fresh(directory, record.as_ref().ok().copied().flatten()),
        Ok(true)
    );
    if nothing_there && record.is_ok() {
        return Err(Error::Missing {
            path: directory.join(state_dir::FILE),
        });
    }
    let _lock = state_dir::lock(directory)?;
    let work_directory = directory.join(WORK_DIRECTORY);
    let outcome = repair_in(directory, &work_directory, record, accept_loss);
    let cleared = clear(&work_directory).map_err(|source| Error::Repair {
        path: directory.to_path_buf(),
        source,
    });
    outcome.and_then(|outcome| cleared.map(|()| outcome))
}

fn repair_in(
    directory: &Path,
    work_directory: &Path,
    record: Result<Option<HeadRecord>, Error>,
    accept_loss: bool,
) -> Result<Repaired, Error> {
    let fail = |source| Error::Repair {
        path: directory.to_path_buf(),
        source,
    };
    clear(work_directory).map_err(fail)?;
    DirBuilder::new()
        .mode(0o700)
        .create(work_directory)
        .map_err(fail)?;
    let known = record.as_ref().ok().copied().flatten();
    let as_read = copy(directory, &work_directory.join("as-read"), false)?;
    let as_read = read_copy(as_read, known)?;
    let whole_log = copy(directory, &work_directory.join("whole-log"), true)?;
    let whole_log = read_copy(whole_log, known)?;
    let log_is_sound = wal_damage(directory)?.is_none();
    let (best, is_as_read) = if whole_log.head.number > as_read.head.number {
        (whole_log, false)
    } else {
        (as_read, true)
    };
    let (kept, lost) = (best.head.number, best.lost(&record));
    if lost.is_none() && is_as_read && log_is_sound && best.end.is_ok() {
        return Ok(Repaired::Sound { events: kept });
    }
    match lost {
        Some(lost) if !accept_loss => Ok(Repaired::WouldLose { kept, lost }),
        lost => {
            let new = write_new(directory, &work_directory.join("new"), &best)?;
            let record = HeadRecord {
                first: best.first,
                head: best.head,
            };
            let aside = replace_journal(directory, &new, record).map_err(fail)??;
            Ok(Repaired::Done { kept, lost, aside })
        }
    }
}

/// The sound beginning of a journal.
struct Beginning {
    database: PathBuf,
    first: Link,
    head: Head,
    /// Hash of the event that the head file names, if the beginning reaches that far.
    at_record: Option<Link>,
    /// The number of events according to the journal itself; 0: unknown.
    own_number: u64,
    /// The reason why it ends there; `Ok`: this is all that was ever written to it.
    end: Result<(), String>,
}

impl Beginning {
    fn lost(&self, record: &Result<Option<HeadRecord>, Error>) -> Option<Lost> {
        let reason = |otherwise: &str| {
            self.end
                .clone()
                .err()
                .unwrap_or_else(|| otherwise.to_owned())
        };
        match record {
            Ok(Some(record)) if self.head.number < record.head.number => Some(Lost {
                events: Some(record.head.number - self.head.number),
                reason: reason("they are missing at the journal's end"),
            }),
            Ok(Some(record)) if record.head.number > 0 => {
                let is_same =
                    self.first == record.first && self.at_record == Some(record.head.link);
                let reason = "journal.head was written for another journal, or for another continuation of this one";
                (!is_same).then(|| Lost {
                    events: None,
                    reason: reason.to_owned(),
                })
            }
            Err(error) => Some(Lost {
                events: None,
                reason: reason(&error.to_string()),
            }),
            Ok(_) if self.end.is_ok() => None,
            Ok(_) => {
                let events = self
                    .own_number
                    .checked_sub(self.head.number)
                    .filter(|events| *events > 0);
                Some(Lost {
                    events,
                    reason: reason(""),
                })
            }
        }
    }
}

/// Copies the journal for reading: with SQLite's side files, or with the pages of its log written
/// into it.
fn copy(directory: &Path, target: &Path, whole_log: bool) -> Result<PathBuf, Error> {
    let fail = |source| Error::Repair {
        path: directory.to_path_buf(),
        source,
    };
    DirBuilder::new().mode(0o700).create(target).map_err(fail)?;
    let database = target.join(state_dir::FILE);
    copy_if_there(&directory.join(state_dir::FILE), &database).map_err(fail)?;
    if whole_log {
        if fs::metadata(&database).map_or(0, |found| found.len()) == 0 {
            // The tables of a new journal are in the same pages as those of the lost one.
            state_dir::create_journal(target)?;
            connect(&database, Mode::RollbackJournal, HeadRecord::default())?;
        }
        let file = File::options()
            .read(true)
            .write(true)
            .open(&database)
            .map_err(fail)?;
        wal::apply(&state_dir::side_file(directory, "-wal"), &file)
            .and_then(|()| file.sync_all())
            .map_err(fail)?;
    } else {
        for end in ["-wal", "-journal"] {
            copy_if_there(
                &state_dir::side_file(directory, end),
                &state_dir::side_file(target, end),
            )
            .map_err(fail)?;
        }
    }
    Ok(database)
}

fn copy_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::copy(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        copied => copied.map(drop),
    }
}

fn read_copy(database: PathBuf, record: Option<HeadRecord>) -> Result<Beginning, Error> {
    let mut beginning = Beginning {
        database,
        first: Link::default(),
        head: Head::default(),
        at_record: None,
        own_number: 0,
        end: Ok(()),
    };
    beginning.end = match read_beginning(&mut beginning, record) {
        Ok(()) => Ok(()),
        Err(error @ (Error::Newer { .. } | Error::NotAJournal { .. })) => return Err(error),
        Err(Error::Damaged { reason, .. }) => Err(reason),
        Err(error) => Err(error.to_string()),
    };
    Ok(beginning)
}

fn read_beginning(beginning: &mut Beginning, record: Option<HeadRecord>) -> Result<(), Error> {
    let path = beginning.database.clone();
    let connection = Connection::open(&path).map_err(|error| Error::of(&path, error))?;
    match check_identity(&path, &connection) {
        // There is a head file, so it was a journal.
        Err(Error::NotAJournal { .. }) if record.is_some() => {}
        checked => checked?,
    }
    if !has_tables(&path, &connection)? {
        return Err(Error::Damaged {
            path,
            reason: "it holds no events".to_owned(),
        });
    }
    beginning.own_number = connection
        .query_row("SELECT number FROM head", [], |row| row.get(0))
        .unwrap_or(beginning.own_number);
    let mut state = State::default();
    read_rows(&path, &connection, |number, at, text| {
        let recorded = parse(&path, number, at, text)?;
        schedule::apply(&mut state, &recorded).map_err(|source| Error::Impossible {
            path: path.clone(),
            source,
        })?;
        beginning.head = beginning.head.next(at, text.as_bytes());
        if number == 1 {
            beginning.first = beginning.head.link;
        }
        if record.is_some_and(|record| record.head.number == number) {
            beginning.at_record = Some(beginning.head.link);
        }
        Ok(())
    })
    .map(drop)
}

/// Writes a new journal with the events of the beginning.
fn write_new(directory: &Path, target: &Path, best: &Beginning) -> Result<PathBuf, Error> {
    state_dir::create(target)?;
    state_dir::create_journal(target)?;
    let path = target.join(state_dir::FILE);
    let mut connection = connect(&path, state_dir::mode_for(directory), HeadRecord::default())?;
    let source =
        Connection::open(&best.database).map_err(|error| Error::of(&best.database, error))?;
    let mut head = Head::default();
    let mut rows = Vec::new();
    let read = read_rows(&best.database, &source, |_, at, text| {
        if head.number < best.head.number {
            head = head.next(at, text.as_bytes());
            rows.push((head, at, text.to_owned()));
        }
        if rows.len() >= BATCH {
            store(&mut connection, &rows).map_err(|error| Error::of(&path, error))?;
            rows.clear();
        }
        Ok(())
    });
    store(&mut connection, &rows).map_err(|error| Error::of(&path, error))?;
    if head != best.head {
        // The same events were read a moment ago.
        let again = || Error::Damaged {
            path: best.database.clone(),
            reason: "it changed while it was read".to_owned(),
        };
        return Err(read.err().unwrap_or_else(again));
    }
    connection
        .close()
        .map_err(|(_, error)| Error::of(&path, error))?;
    Ok(path)
}

/// Replaces the old journal by the new one, and keeps all its files in a folder beside it. If this
/// is interrupted, the head file does not match the journal, and the journal is not opened.
fn replace_journal(
    directory: &Path,
    new: &Path,
    record: HeadRecord,
) -> io::Result<Result<PathBuf, Error>> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    let aside = directory.join(format!("damaged-{now}-{}", std::process::id()));
    DirBuilder::new().mode(0o700).create(&aside)?;
    let own = [
        directory.join(state_dir::FILE),
        directory.join(head_file::FILE),
    ];
    let sides = state_dir::SIDE_SUFFIXES.map(|end| state_dir::side_file(directory, end));
    for path in own.iter().chain(&sides) {
        let name = path.file_name().expect("each has a name");
        copy_if_there(path, &aside.join(name))?;
    }
    sync(&aside)?;
    if !directory.join(head_file::FILE).exists()
        && let Err(error) = HeadFile::replace(directory, record)
    {
        return Ok(Err(error));
    }
    for side in &sides {
        remove_if_there(side)?;
    }
    fs::rename(new, directory.join(state_dir::FILE))?;
    sync(directory)?;
    Ok(HeadFile::replace(directory, record).map(|_| aside))
}

fn sync(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(directory)?.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn clear(work_directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(work_directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Journal;

    /// Its hash is right, so the row itself is sound; only this program cannot use it.
    #[test]
    fn an_event_that_cannot_be_parsed_ends_the_sound_beginning() {
        let directory = tempfile::tempdir().unwrap();
        drop(Journal::open(directory.path()).unwrap());
        assert_eq!(
            repair(directory.path(), false).unwrap(),
            Repaired::Sound { events: 0 }
        );
        let mut connection = Connection::open(directory.path().join(state_dir::FILE)).unwrap();
        let text = "no event";
        let head = Head::default().next(1, text.as_bytes());
        store(&mut connection, &[(head, 1, text.to_owned())]).unwrap();
        drop(connection);
        let would = repair(directory.path(), false).unwrap();
        assert!(
            matches!(&would, Repaired::WouldLose { kept: 0, lost } if lost.events == Some(1)),
            "{would:?}"
        );
        assert!(matches!(
            repair(directory.path(), true),
            Ok(Repaired::Done { kept: 0, .. })
        ));
        assert_eq!(
            repair(directory.path(), false).unwrap(),
            Repaired::Sound { events: 0 }
        );
    }
}
