//! The open journal: append in one transaction, read back in order.
//!
//! An append that fails has stored nothing that anybody was told of. SQLite cannot always say whether a commit whose
//! sync failed will be found after a crash; so after any fault the file is opened again before it is used, and a
//! repeated append of the same events finds out by the hash whether they are there already.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use schedule::event::Recorded;
use schedule::state::State;

use crate::chain::{Head, Link};
use crate::error::Error;
use crate::place::{self, Mode};

/// "orch", in SQLite's header: tells a journal from any other SQLite file.
pub(crate) const APPLICATION_ID: i32 = 0x6f72_6368;
/// Of the tables below and of the meaning of a row. A program reads versions up to its own.
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
    /// `None` after a fault, until it could be opened again.
    connection: Option<Connection>,
    head: Head,
    /// After the connection, so that it is the last to go.
    _lock: place::Lock,
}

impl Journal {
    /// Opens the journal of a state directory, and makes both if they are missing. Keeps every other coordinator out
    /// until it is dropped.
    ///
    /// # Errors
    /// A directory that cannot be used, a second coordinator, a newer version, another kind of file, a damaged file.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        Self::open_as(directory, place::mode_for(directory))
    }

    /// As `open`, whatever the file system is.
    pub fn open_as(directory: &Path, mode: Mode) -> Result<Self, Error> {
        place::prepare(directory)?;
        let lock = place::lock(directory)?;
        let path = directory.join(place::FILE);
        if mode == Mode::RollbackJournal {
            tracing::warn!(
                path = %path.display(),
                "the state directory is on a network file system: the journal uses the slower rollback mode, and \
                 its safety depends on that file system's locks and syncs; a local directory is better"
            );
        }
        let connection = connect(&path, mode)?;
        place::sync_directory(directory)?;
        let head = read_head(&path, &connection)?;
        Ok(Self { directory: directory.to_path_buf(), path, mode, connection: Some(connection), head, _lock: lock })
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Number of the newest event; 0: none.
    pub fn last(&self) -> u64 {
        self.head.number
    }

    /// Disk that the journal occupies.
    pub fn bytes(&self) -> u64 {
        place::bytes(&self.directory)
    }

    /// Stores events after all others, in one transaction that is on the disk when this returns.
    ///
    /// # Errors
    /// Nothing was stored, and the same call can be made again when the fault is gone.
    pub fn append(&mut self, events: &[Recorded]) -> Result<(), Error> {
        if events.is_empty() {
            return Ok(());
        }
        let mut head = self.head;
        let mut rows = Vec::with_capacity(events.len());
        for recorded in events {
            let number = head.number + 1;
            let text = serde_json::to_string(&recorded.event).map_err(|source| Error::Unwritable { number, source })?;
            head = head.next(recorded.at, text.as_bytes());
            rows.push((head, recorded.at, text));
        }
        if self.connection.is_none() {
            let found = self.reopen()?;
            if found == head {
                // the commit before the fault had reached the disk after all
                self.head = head;
                return Ok(());
            }
            if found != self.head {
                self.connection = None;
                return Err(Error::Diverged { path: self.path.clone() });
            }
        }
        let connection = self.connection.as_mut().expect("opened above");
        match store(connection, &rows) {
            Ok(()) => {
                self.head = head;
                Ok(())
            }
            Err(error) => {
                self.connection = None;
                Err(Error::of(&self.path, error))
            }
        }
    }

    /// The state after every event, and the journal ready to append to it. Checks the chain of hashes on the way.
    pub fn replay(&mut self) -> Result<State, Error> {
        let mut state = State::default();
        let path = self.path.clone();
        self.read(|recorded| {
            schedule::apply(&mut state, &recorded).map_err(|source| Error::Impossible { path: path.clone(), source })
        })?;
        Ok(state)
    }

    /// Every event in order, one at a time.
    pub fn read(&mut self, each: impl FnMut(Recorded) -> Result<(), Error>) -> Result<(), Error> {
        if self.connection.is_none() {
            self.reopen()?;
        }
        let connection = self.connection.as_ref().expect("opened above");
        self.head = read_all(&self.path, connection, each)?;
        Ok(())
    }

    /// One event by its number, from 1.
    pub fn event(&mut self, number: u64) -> Result<Option<Recorded>, Error> {
        if self.connection.is_none() {
            self.reopen()?;
        }
        read_event(&self.path, self.connection.as_ref().expect("opened above"), number)
    }

    fn reopen(&mut self) -> Result<Head, Error> {
        let connection = connect(&self.path, self.mode)?;
        let head = read_head(&self.path, &connection)?;
        self.connection = Some(connection);
        Ok(head)
    }

    /// For tests of faults.
    #[doc(hidden)]
    pub fn pragma(&self, name: &str, value: &dyn rusqlite::ToSql) -> Result<(), Error> {
        let connection = self.connection.as_ref().ok_or_else(|| Error::Missing { path: self.path.clone() })?;
        let set = connection.pragma_update_and_check(None, name, value, |_| Ok(())).optional();
        set.map(|_| ()).map_err(|error| Error::of(&self.path, error))
    }
}

fn store(connection: &mut Connection, rows: &[(Head, u64, String)]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut insert =
            transaction.prepare_cached("INSERT INTO events (number, at, event, link) VALUES (?1, ?2, ?3, ?4)")?;
        for (head, at, text) in rows {
            insert.execute(params![head.number, at, text, head.link.0])?;
        }
        if let Some((head, ..)) = rows.last() {
            let mut update = transaction.prepare_cached("UPDATE head SET number = ?1, link = ?2")?;
            update.execute(params![head.number, head.link.0])?;
        }
    }
    transaction.commit()
}

fn connect(path: &Path, mode: Mode) -> Result<Connection, Error> {
    let fail = |error| Error::of(path, error);
    let mut connection = Connection::open(path).map_err(fail)?;
    // readers hold locks only for moments, but a backup program may hold one for seconds
    connection.busy_timeout(std::time::Duration::from_secs(10)).map_err(fail)?;
    check_identity(path, &connection)?;
    let journal_mode = match mode {
        Mode::WriteAheadLog => "WAL",
        Mode::RollbackJournal => "TRUNCATE",
    };
    connection.pragma_update(None, "journal_mode", journal_mode).map_err(fail)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(fail)?;
    let transaction = connection.transaction().map_err(fail)?;
    let made: i32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(fail)?;
    if made == 0 {
        transaction.execute_batch(SCHEMA).map_err(fail)?;
        let link = Link::default();
        transaction.execute("INSERT INTO head (number, link) VALUES (0, ?1)", [link.0]).map_err(fail)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(fail)?;
        transaction.pragma_update(None, "user_version", VERSION).map_err(fail)?;
    }
    transaction.commit().map_err(fail)?;
    Ok(connection)
}

/// For those who only look.
pub(crate) fn connect_to_read(path: &Path) -> Result<Connection, Error> {
    if !path.exists() {
        return Err(Error::Missing { path: path.to_path_buf() });
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| Error::of(path, error))?;
    check_identity(path, &connection)?;
    Ok(connection)
}

/// An empty file is a journal that has not begun.
fn check_identity(path: &Path, connection: &Connection) -> Result<(), Error> {
    let pragma = |name: &str| -> Result<i32, Error> {
        connection.pragma_query_value(None, name, |row| row.get(0)).map_err(|error| Error::of(path, error))
    };
    let (identity, version, pages) = (pragma("application_id")?, pragma("user_version")?, pragma("page_count")?);
    let fresh = (identity, version) == (0, 0) && !has_tables(path, connection)?;
    if pages > 0 && !fresh && identity != APPLICATION_ID {
        return Err(Error::NotAJournal { path: path.to_path_buf() });
    }
    if version > VERSION {
        return Err(Error::Newer { path: path.to_path_buf(), found: version, known: VERSION });
    }
    Ok(())
}

fn has_tables(path: &Path, connection: &Connection) -> Result<bool, Error> {
    let count = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0));
    count.map(|count| count > 0).map_err(|error| Error::of(path, error))
}

pub(crate) fn read_head(path: &Path, connection: &Connection) -> Result<Head, Error> {
    let row = connection
        .query_row("SELECT number, link FROM head", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
        .map_err(|error| Error::of(path, error))?;
    let damaged = || Error::Damaged { path: path.to_path_buf(), reason: "its head is missing".to_owned() };
    let (number, link): (u64, Vec<u8>) = row.ok_or_else(damaged)?;
    let link = link.try_into().map_err(|_| damaged())?;
    Ok(Head { number, link: Link(link) })
}

/// Reads every row and checks numbers, hashes and head; returns the head.
pub(crate) fn read_all(
    path: &Path,
    connection: &Connection,
    mut each: impl FnMut(Recorded) -> Result<(), Error>,
) -> Result<Head, Error> {
    read_rows(path, connection, |number, at, text| each(parse(path, number, at, text)?))
}

pub(crate) fn read_rows(
    path: &Path,
    connection: &Connection,
    mut each: impl FnMut(u64, u64, &str) -> Result<(), Error>,
) -> Result<Head, Error> {
    let fail = |error| Error::of(path, error);
    let damaged = |reason: String| Error::Damaged { path: path.to_path_buf(), reason };
    // one snapshot for rows and head, should a coordinator append meanwhile
    let snapshot = connection.unchecked_transaction().map_err(fail)?;
    let mut head = Head::default();
    let mut query = snapshot.prepare("SELECT number, at, event, link FROM events ORDER BY number").map_err(fail)?;
    let mut rows = query.query([]).map_err(fail)?;
    while let Some(row) = rows.next().map_err(fail)? {
        let (number, at): (u64, u64) = (row.get(0).map_err(fail)?, row.get(1).map_err(fail)?);
        if number != head.number + 1 {
            return Err(damaged(format!("event {} is missing", head.number + 1)));
        }
        let text = row.get_ref(2).map_err(fail)?;
        let text = text.as_str().map_err(|_| damaged(format!("event {number} is not text")))?;
        let link = row.get_ref(3).map_err(fail)?;
        head = head.next(at, text.as_bytes());
        if link.as_blob().ok() != Some(&head.link.0[..]) {
            return Err(damaged(format!("event {number} is not what was written: its hash does not match")));
        }
        each(number, at, text)?;
    }
    let noted = read_head(path, &snapshot)?;
    if noted != head {
        return Err(damaged(format!("it ends at event {}, and {} were written", head.number, noted.number)));
    }
    Ok(head)
}

pub(crate) fn read_event(path: &Path, connection: &Connection, number: u64) -> Result<Option<Recorded>, Error> {
    let found = connection
        .prepare_cached("SELECT at, event FROM events WHERE number = ?1")
        .and_then(|mut query| query.query_row([number], |row| Ok((row.get(0)?, row.get(1)?))).optional());
    let found: Option<(u64, String)> = found.map_err(|error| Error::of(path, error))?;
    found.map(|(at, text)| parse(path, number, at, &text)).transpose()
}

fn parse(path: &Path, number: u64, at: u64, text: &str) -> Result<Recorded, Error> {
    let event =
        serde_json::from_str(text).map_err(|source| Error::Event { path: path.to_path_buf(), number, source })?;
    Ok(Recorded { at, event })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No test can cut the power: that a commit waits for the disk is read from the connection, also after a fault.
    #[test]
    fn every_connection_syncs_before_it_answers() {
        const FULL: i32 = 2;
        for (mode, name) in [(Mode::WriteAheadLog, "wal"), (Mode::RollbackJournal, "truncate")] {
            let place = tempfile::tempdir().unwrap();
            let mut journal = Journal::open_as(place.path(), mode).unwrap();
            for _ in 0..2 {
                let connection = journal.connection.as_ref().unwrap();
                let synchronous: i32 = connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
                let journal_mode: String =
                    connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
                assert_eq!((synchronous, journal_mode.as_str()), (FULL, name));
                journal.connection = None;
                journal.reopen().unwrap();
            }
        }
    }
}
