//! Uses of a journal without a coordinator, or beside one: export as JSON lines, verify.

use std::io::Write;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use schedule::event::Recorded;
use schedule::state::State;

use crate::chain::Head;
use crate::error::Error;
use crate::store::{connect_to_read, read_all, read_event, read_rows};
use crate::{head_file, state_dir, wal};

/// Number of times that a log is read, because a coordinator may restart it meanwhile.
const WAL_READS: usize = 5;

/// The findings in a sound journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub events: u64,
    pub bytes: u64,
    pub sweeps: usize,
    pub trials: usize,
    /// Hash that chains every event, as 32 hexadecimal digits: equal for equal histories.
    pub hash: String,
    /// Oddities of the files, although no event is missing or changed.
    pub remarks: Vec<String>,
}

/// Returns the state at the journal's end, without the coordinator's lock and without changing
/// anything: for commands about sweeps while no coordinator runs.
pub fn read(directory: &Path) -> Result<State, Error> {
    let (path, connection) = connect_to_read(directory)?;
    replay(&path, &connection).map(|(state, _)| state)
}

/// Reads single events, without the coordinator's lock and without changing anything.
pub struct Reader {
    path: PathBuf,
    connection: Connection,
}

impl Reader {
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let (path, connection) = connect_to_read(directory)?;
        Ok(Self { path, connection })
    }

    /// Returns one event by its number, from 1.
    pub fn event(&self, number: u64) -> Result<Option<Recorded>, Error> {
        read_event(&self.path, &self.connection, number)
    }
}

fn replay(path: &Path, connection: &Connection) -> Result<(State, Head), Error> {
    let mut state = State::default();
    let head = read_all(path, connection, |recorded| {
        schedule::apply(&mut state, &recorded).map_err(|source| Error::Impossible {
            path: path.to_path_buf(),
            source,
        })
    })?;
    Ok((state, head))
}

/// Checks that nothing is missing at the end, every frame of the write-ahead log, the file's
/// structure, the chain of hashes, that the history is a possible one, and the invariants at its
/// end.
pub fn verify(directory: &Path) -> Result<Verified, Error> {
    let head = head_file::read(directory)?;
    // Before SQLite opens it, because that rebuilds the log's index from the frames that it
    // accepts.
    let damage = wal_damage(directory)?;
    let (path, connection) = connect_to_read(directory)?;
    if let Some(reason) = damage {
        return Err(Error::Damaged { path, reason });
    }
    let sound: String = connection
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(|error| Error::of(&path, error))?;
    if sound != "ok" {
        return Err(Error::Damaged {
            path,
            reason: sound,
        });
    }
    let (state, end) = replay(&path, &connection)?;
    if let Some(violation) = schedule::check(&state).first() {
        let reason = format!(
            "its end breaks invariant {}: {}",
            violation.invariant, violation.detail
        );
        return Err(Error::Damaged { path, reason });
    }
    let remark = match head {
        None => Some(
            "no journal.head lies beside it, as in a directory of an earlier version or a copy of one file: events \
             missing at the end cannot be found until a coordinator has opened it",
        ),
        Some(found) if found.one_is_damaged => Some(
            "one of the two copies in journal.head is damaged: the next start of a coordinator writes it again",
        ),
        Some(_) => None,
    };
    Ok(Verified {
        events: end.number,
        bytes: state_dir::bytes(directory),
        sweeps: state.sweeps.len(),
        trials: state.trials.len(),
        hash: end.link.to_string(),
        remarks: remark.map(str::to_owned).into_iter().collect(),
    })
}

/// Checks the log, more than once: if a coordinator restarts it meanwhile it looks damaged, but not
/// every time.
pub(crate) fn wal_damage(directory: &Path) -> Result<Option<String>, Error> {
    let mut damage = None;
    for _ in 0..WAL_READS {
        damage = wal::damage(
            &state_dir::side_file(directory, "-wal"),
            &state_dir::side_file(directory, "-shm"),
        )
        .map_err(|source| Error::Directory {
            path: directory.to_path_buf(),
            source,
        })?;
        if damage.is_none() {
            break;
        }
    }
    Ok(damage)
}

/// Writes one JSON object per event, `{"number": 1, "at": MILLISECONDS, "event": {...}}`, and
/// returns their number.
pub fn export(directory: &Path, mut out: impl Write) -> Result<u64, Error> {
    let (path, connection) = connect_to_read(directory)?;
    let head = read_rows(&path, &connection, |number, at, text| {
        writeln!(out, r#"{{"number":{number},"at":{at},"event":{text}}}"#)
            .map_err(|source| Error::Export { source })
    })?;
    out.flush().map_err(|source| Error::Export { source })?;
    Ok(head.number)
}
