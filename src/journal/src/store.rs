//! The open journal: append in one transaction, read back in order.
//!
//! An append that fails has stored nothing that was acknowledged. After a failed sync SQLite does
//! not always know whether the commit will survive a crash. So after any fault the file is reopened
//! before it is used, and a repeated append of the same events checks the hash to find out whether
//! they are already stored. After the commit the head file is written (`head_file.rs`), and the
//! files must still be where they were opened (`open_files.rs`).

use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use schedule::event::Recorded;
use schedule::state::State;

use crate::chain::{Head, Link};
use crate::error::Error;
use crate::head_file::{self, HeadFile, HeadRecord};
use crate::open_files::{self, OpenFiles};
use crate::state_dir::{self, Mode};
use crate::wal;

/// "orch", in SQLite's header: distinguishes a journal from other SQLite files.
pub(crate) const APPLICATION_ID: i32 = 0x6f72_6368;
/// Version of the tables below and of the meaning of a row. A program reads all versions up to its
/// own.
pub(crate) const VERSION: i32 = 1;

const SCHEMA: &str = "
    CREATE TABLE events (
        number INTEGER PRIMARY KEY,  -- from 1, without gaps
        at INTEGER NOT NULL,         -- milliseconds since the Unix epoch
        event TEXT NOT NULL,         -- JSON: schedule::event::Event
        link BLOB NOT NULL           -- BLAKE3 of the row and the link before, 16 bytes
    ) STRICT;
    CREATE TABLE head (              -- one row: where the events end, so that a missing last row is found
        number INTEGER NOT NULL,
        link BLOB NOT NULL
    ) STRICT;";

pub struct Journal {
    directory: PathBuf,
    path: PathBuf,
    mode: Mode,
    /// `None` after a fault, until it is reopened.
    connection: Option<Connection>,
    files: OpenFiles,
    head_file: HeadFile,
    /// The content of the head file.
    head_record: HeadRecord,
    /// Hash of event 1; zero while there is none.
    first: Link,
    head: Head,
    /// The lock is declared after the connection, so that it is dropped last.
    _lock: state_dir::Lock,
}

impl Journal {
    /// Opens the journal of a state directory, and creates both if they are missing. Keeps every
    /// other coordinator out until it is dropped.
    ///
    /// # Errors
    /// A directory that cannot be used, a second coordinator, a newer version, another kind of
    /// file, a damaged file, a journal that ends before what was acknowledged.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        Self::open_as(directory, state_dir::mode_for(directory))
    }

    /// Opens the journal in a given mode, whatever the file system is.
    pub fn open_as(directory: &Path, mode: Mode) -> Result<Self, Error> {
        state_dir::create(directory)?;
        let lock = state_dir::lock(directory)?;
        let path = directory.join(state_dir::FILE);
        if mode == Mode::RollbackJournal {
            tracing::warn!(
                path = %path.display(),
                "the state directory is on a network file system: the journal uses the slower rollback mode, and \
                 its safety depends on that file system's locks and syncs; a local directory is better"
            );
        }
        let record = head_file::read(directory)?.map(|found| found.record);
        let is_fresh = state_dir::is_fresh(directory, record)?;
        if record.is_none() && !is_fresh {
            adopt(directory)?;
        }
        // Before the journal itself: a journal without this file is one of an earlier version,
        // which holds events.
        let head_file = HeadFile::replace(directory, record.unwrap_or_default())?;
        let record = record.unwrap_or_default();
        state_dir::create_journal(directory)?;
        let connection = connect(&path, mode, record)?;
        if mode == Mode::WriteAheadLog {
            // Empties the log of the last coordinator; a reader may keep it full, which does no
            // harm.
            let emptied = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
                row.get::<_, i64>(0)
            });
            tracing::debug!(?emptied, "the write-ahead log is emptied");
        }
        state_dir::sync(directory)?;
        let head = read_head(&path, &connection)?;
        let first = link_of(&path, &connection, 1)?.unwrap_or_default();
        let files = OpenFiles::of(directory, mode)?;
        let directory = directory.to_path_buf();
        let connection = Some(connection);
        Ok(Self {
            directory,
            path,
            mode,
            connection,
            files,
            head_file,
            head_record: record,
            first,
            head,
            _lock: lock,
        })
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns the number of the newest event; 0: there is none.
    pub fn last(&self) -> u64 {
        self.head.number
    }

    /// Returns the bytes that the journal occupies on disk.
    pub fn bytes(&self) -> u64 {
        state_dir::bytes(&self.directory)
    }

    /// Stores events after all others, in one transaction that is on the disk when this returns.
    ///
    /// # Errors
    /// Nothing was stored, and the same call can be repeated when the fault is gone.
    pub fn append(&mut self, events: &[Recorded]) -> Result<(), Error> {
        if events.is_empty() {
            return Ok(());
        }
        let mut head = self.head;
        let mut rows = Vec::with_capacity(events.len());
        for recorded in events {
            let number = head.number + 1;
            let text = serde_json::to_string(&recorded.event)
                .map_err(|source| Error::Unwritable { number, source })?;
            head = head.next(recorded.at, text.as_bytes());
            rows.push((head, recorded.at, text));
        }
        self.check_files()?;
        let first = if self.head.number == 0 {
            rows[0].0.link
        } else {
            self.first
        };
        let record = HeadRecord { first, head };
        if self.connection.is_none() {
            let found = self.reopen()?;
            if found == head {
                // The commit before the fault did reach the disk.
                return self.finish_append(record);
            }
            if found != self.head {
                self.connection = None;
                return Err(Error::Diverged {
                    path: self.path.clone(),
                });
            }
        }
        let connection = self.connection.as_mut().expect("opened above");
        match store(connection, &rows) {
            Ok(()) => self.finish_append(record),
            Err(error) => {
                self.check_files()?;
                self.connection = None;
                Err(Error::of(&self.path, error))
            }
        }
    }

    /// Ends an append: committed events count once the head file has them and the files are still
    /// in place.
    fn finish_append(&mut self, record: HeadRecord) -> Result<(), Error> {
        if self.head_record != record
            && let Err(error) = self.head_file.write(record)
        {
            self.connection = None;
            return Err(error);
        }
        self.check_files()?;
        (self.head_record, self.first, self.head) = (record, record.first, record.head);
        Ok(())
    }

    /// Refuses to write to files that were removed, moved or replaced.
    fn check_files(&self) -> Result<(), Error> {
        let Some(what) = self.files.lost(self.connection.is_some()) else {
            return Ok(());
        };
        let saved = open_files::save(&self.directory, self.connection.as_ref(), self.head_record);
        Err(Error::Removed {
            what,
            acknowledged: self.head.number,
            saved,
        })
    }

    /// Returns the state after every event, with the journal ready to append to it. Checks the
    /// chain of hashes.
    pub fn replay(&mut self) -> Result<State, Error> {
        let mut state = State::default();
        let path = self.path.clone();
        self.read(|recorded| {
            schedule::apply(&mut state, &recorded).map_err(|source| Error::Impossible {
                path: path.clone(),
                source,
            })
        })?;
        Ok(state)
    }

    /// Reads every event in order, one at a time.
    pub fn read(&mut self, each: impl FnMut(Recorded) -> Result<(), Error>) -> Result<(), Error> {
        if self.connection.is_none() {
            self.reopen()?;
        }
        let connection = self.connection.as_ref().expect("opened above");
        let head = read_all(&self.path, connection, each)?;
        let first = link_of(&self.path, connection, 1)?.unwrap_or_default();
        self.finish_append(HeadRecord { first, head })
    }

    /// Returns one event by its number, from 1.
    pub fn event(&mut self, number: u64) -> Result<Option<Recorded>, Error> {
        if self.connection.is_none() {
            self.reopen()?;
        }
        read_event(
            &self.path,
            self.connection.as_ref().expect("opened above"),
            number,
        )
    }

    fn reopen(&mut self) -> Result<Head, Error> {
        self.check_files()?;
        let connection = connect(&self.path, self.mode, self.head_record)?;
        let head = read_head(&self.path, &connection)?;
        self.files = OpenFiles::of(&self.directory, self.mode)?;
        self.connection = Some(connection);
        Ok(head)
    }

    /// Sets a pragma of the connection, for tests of faults.
    #[doc(hidden)]
    pub fn pragma(&self, name: &str, value: &dyn rusqlite::ToSql) -> Result<(), Error> {
        let connection = self.connection.as_ref().ok_or_else(|| Error::Missing {
            path: self.path.clone(),
        })?;
        let set = connection
            .pragma_update_and_check(None, name, value, |_| Ok(()))
            .optional();
        set.map(|_| ())
            .map_err(|error| Error::of(&self.path, error))
    }
}

pub(crate) fn store(
    connection: &mut Connection,
    rows: &[(Head, u64, String)],
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare_cached(
            "INSERT INTO events (number, at, event, link) VALUES (?1, ?2, ?3, ?4)",
        )?;
        for (head, at, text) in rows {
            insert.execute(params![head.number, at, text, head.link.0])?;
        }
        if let Some((head, ..)) = rows.last() {
            let mut update =
                transaction.prepare_cached("UPDATE head SET number = ?1, link = ?2")?;
            update.execute(params![head.number, head.link.0])?;
        }
    }
    transaction.commit()
}

/// Refuses a journal without a head file (of an earlier version) if it is known to lack events.
fn adopt(directory: &Path) -> Result<(), Error> {
    let path = directory.join(state_dir::FILE);
    let found = wal::damage(
        &state_dir::side_file(directory, "-wal"),
        &state_dir::side_file(directory, "-shm"),
    );
    if let Some(reason) = found.map_err(|source| Error::Directory {
        path: directory.to_path_buf(),
        source,
    })? {
        return Err(Error::Damaged { path, reason });
    }
    let connection = connect_unchecked(&path)?;
    if !has_tables(&path, &connection)? {
        let reason =
            "holds no events: was its write-ahead log, journal.sqlite-wal, removed?".to_owned();
        return Err(Error::Gone { path, reason });
    }
    Ok(())
}

pub(crate) fn connect(path: &Path, mode: Mode, record: HeadRecord) -> Result<Connection, Error> {
    let fail = |error| Error::of(path, error);
    let mut connection = Connection::open(path).map_err(fail)?;
    // Set until it is known that nothing is missing: closing would remove the log, which may still
    // hold recoverable events.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(fail)?;
    // Readers hold locks only for moments, but a backup program may hold one for seconds.
    connection
        .busy_timeout(std::time::Duration::from_secs(10))
        .map_err(fail)?;
    check_identity(path, &connection)?;
    check_end(path, &connection, record)?;
    let journal_mode = match mode {
        Mode::WriteAheadLog => "WAL",
        Mode::RollbackJournal => "TRUNCATE",
    };
    connection
        .pragma_update(None, "journal_mode", journal_mode)
        .map_err(fail)?;
    connection
        .pragma_update(None, "synchronous", "FULL")
        .map_err(fail)?;
    let transaction = connection.transaction().map_err(fail)?;
    let made: i32 = transaction
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(fail)?;
    if made == 0 {
        transaction.execute_batch(SCHEMA).map_err(fail)?;
        let link = Link::default();
        transaction
            .execute("INSERT INTO head (number, link) VALUES (0, ?1)", [link.0])
            .map_err(fail)?;
        transaction
            .pragma_update(None, "application_id", APPLICATION_ID)
            .map_err(fail)?;
        transaction
            .pragma_update(None, "user_version", VERSION)
            .map_err(fail)?;
    }
    transaction.commit().map_err(fail)?;
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
        .map_err(fail)?;
    Ok(connection)
}

/// Opens the journal of a state directory for reading, if it reaches as far as its head file
/// requires.
pub(crate) fn connect_to_read(directory: &Path) -> Result<(PathBuf, Connection), Error> {
    let path = directory.join(state_dir::FILE);
    // Before the journal, which may grow meanwhile and never shrinks.
    let record = head_file::read(directory)?.map(|found| found.record);
    if state_dir::is_fresh(directory, record)? {
        return Err(Error::Missing { path });
    }
    let connection = connect_unchecked(&path)?;
    check_identity(&path, &connection)?;
    check_end(&path, &connection, record.unwrap_or_default())?;
    Ok((path, connection))
}

fn connect_unchecked(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(path, flags).map_err(|error| Error::of(path, error))?;
    let kept = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    kept.map_err(|error| Error::of(path, error))?;
    Ok(connection)
}

/// Compares the journal's end with the head file.
pub(crate) fn check_end(
    path: &Path,
    connection: &Connection,
    record: HeadRecord,
) -> Result<(), Error> {
    if record.head.number == 0 {
        return Ok(());
    }
    let found = if has_tables(path, connection)? {
        read_head(path, connection)?.number
    } else {
        0
    };
    if found < record.head.number {
        return Err(Error::Shortened {
            path: path.to_path_buf(),
            found,
            acknowledged: record.head.number,
        });
    }
    for (number, expected) in [(1, record.first), (record.head.number, record.head.link)] {
        match link_of(path, connection, number)? {
            Some(link) if link == expected => {}
            Some(_) => {
                return Err(Error::Exchanged {
                    path: path.to_path_buf(),
                });
            }
            None => {
                let reason = format!("event {number} is missing");
                return Err(Error::Damaged {
                    path: path.to_path_buf(),
                    reason,
                });
            }
        }
    }
    Ok(())
}

fn link_of(path: &Path, connection: &Connection, number: u64) -> Result<Option<Link>, Error> {
    let query = connection.query_row(
        "SELECT link FROM events WHERE number = ?1",
        [number],
        |row| row.get(0),
    );
    let link: Option<Vec<u8>> = query.optional().map_err(|error| Error::of(path, error))?;
    Ok(link.and_then(|link| Some(Link(link.try_into().ok()?))))
}

/// Checks that the file is a journal; an empty file is one that has not begun.
pub(crate) fn check_identity(path: &Path, connection: &Connection) -> Result<(), Error> {
    let pragma = |name: &str| -> Result<i32, Error> {
        connection
            .pragma_query_value(None, name, |row| row.get(0))
            .map_err(|error| Error::of(path, error))
    };
    let (identity, version) = (pragma("application_id")?, pragma("user_version")?);
    let fresh = (identity, version) == (0, 0) && !has_tables(path, connection)?;
    if !fresh && identity != APPLICATION_ID {
        return Err(Error::NotAJournal {
            path: path.to_path_buf(),
        });
    }
    if version > VERSION {
        return Err(Error::Newer {
            path: path.to_path_buf(),
            found: version,
            known: VERSION,
        });
    }
    Ok(())
}

pub(crate) fn has_tables(path: &Path, connection: &Connection) -> Result<bool, Error> {
    let count = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
        row.get::<_, i64>(0)
    });
    count
        .map(|count| count > 0)
        .map_err(|error| Error::of(path, error))
}

pub(crate) fn read_head(path: &Path, connection: &Connection) -> Result<Head, Error> {
    let row = connection
        .query_row("SELECT number, link FROM head", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()
        .map_err(|error| Error::of(path, error))?;
    let damaged = || Error::Damaged {
        path: path.to_path_buf(),
        reason: "its head is missing".to_owned(),
    };
    let (number, link): (u64, Vec<u8>) = row.ok_or_else(damaged)?;
    let link = link.try_into().map_err(|_| damaged())?;
    Ok(Head {
        number,
        link: Link(link),
    })
}

/// Reads every row, checks numbers, hashes and head, and returns the head.
pub(crate) fn read_all(
    path: &Path,
    connection: &Connection,
    mut each: impl FnMut(Recorded) -> Result<(), Error>,
) -> Result<Head, Error> {
    read_rows(path, connection, |number, at, text| {
        each(parse(path, number, at, text)?)
    })
}

pub(crate) fn read_rows(
    path: &Path,
    connection: &Connection,
    mut each: impl FnMut(u64, u64, &str) -> Result<(), Error>,
) -> Result<Head, Error> {
    let fail = |error| Error::of(path, error);
    let damaged = |reason: String| Error::Damaged {
        path: path.to_path_buf(),
        reason,
    };
    // One snapshot for rows and head, in case a coordinator appends meanwhile.
    let snapshot = connection.unchecked_transaction().map_err(fail)?;
    let mut head = Head::default();
    let mut query = snapshot
        .prepare("SELECT number, at, event, link FROM events ORDER BY number")
        .map_err(fail)?;
    let mut rows = query.query([]).map_err(fail)?;
    while let Some(row) = rows.next().map_err(fail)? {
        let (number, at): (u64, u64) = (row.get(0).map_err(fail)?, row.get(1).map_err(fail)?);
        if number != head.number + 1 {
            return Err(damaged(format!("event {} is missing", head.number + 1)));
        }
        let text = row.get_ref(2).map_err(fail)?;
        let text = text
            .as_str()
            .map_err(|_| damaged(format!("event {number} is not text")))?;
        let link = row.get_ref(3).map_err(fail)?;
        head = head.next(at, text.as_bytes());
        if link.as_blob().ok() != Some(&head.link.0[..]) {
            return Err(damaged(format!(
                "event {number} is not what was written: its hash does not match"
            )));
        }
        each(number, at, text)?;
    }
    let stored = read_head(path, &snapshot)?;
    if stored != head {
        return Err(damaged(format!(
            "it ends at event {}, and {} were written",
            head.number, stored.number
        )));
    }
    Ok(head)
}

pub(crate) fn read_event(
    path: &Path,
    connection: &Connection,
    number: u64,
) -> Result<Option<Recorded>, Error> {
    let found = connection
        .prepare_cached("SELECT at, event FROM events WHERE number = ?1")
        .and_then(|mut query| {
            query
                .query_row([number], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        });
    let found: Option<(u64, String)> = found.map_err(|error| Error::of(path, error))?;
    found
        .map(|(at, text)| parse(path, number, at, &text))
        .transpose()
}

pub(crate) fn parse(path: &Path, number: u64, at: u64, text: &str) -> Result<Recorded, Error> {
    let event = serde_json::from_str(text).map_err(|source| Error::Event {
        path: path.to_path_buf(),
        number,
        source,
    })?;
    Ok(Recorded { at, event })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No test can cut the power, so the connection is asked if a commit waits for the disk, also
    /// after a fault.
    #[test]
    fn every_connection_syncs_before_it_answers() {
        const FULL: i32 = 2;
        for (mode, name) in [
            (Mode::WriteAheadLog, "wal"),
            (Mode::RollbackJournal, "truncate"),
        ] {
            let place = tempfile::tempdir().unwrap();
            let mut journal = Journal::open_as(place.path(), mode).unwrap();
            for _ in 0..2 {
                let connection = journal.connection.as_ref().unwrap();
                let synchronous: i32 = connection
                    .pragma_query_value(None, "synchronous", |row| row.get(0))
                    .unwrap();
                let journal_mode: String = connection
                    .pragma_query_value(None, "journal_mode", |row| row.get(0))
                    .unwrap();
                assert_eq!((synchronous, journal_mode.as_str()), (FULL, name));
                journal.connection = None;
                journal.reopen().unwrap();
            }
        }
    }
}
