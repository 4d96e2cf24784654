//! What people do with a journal without a coordinator, or beside one: export it as JSON lines, verify it.

use std::io::Write;
use std::path::Path;

use rusqlite::Connection;
use schedule::event::Recorded;
use schedule::state::State;

use crate::chain::Head;
use crate::error::Error;
use crate::place;
use crate::store::{connect_to_read, read_all, read_event, read_rows};

/// What was found in a sound journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub events: u64,
    pub bytes: u64,
    pub sweeps: usize,
    pub trials: usize,
    /// Hash that chains every event to its end, 32 hexadecimal digits: equal for equal histories.
    pub hash: String,
}

/// The state that a journal tells, without the lock of a coordinator and without changing anything: for commands that
/// ask about sweeps while no coordinator runs.
pub fn read(directory: &Path) -> Result<State, Error> {
    let path = directory.join(place::FILE);
    let connection = connect_to_read(&path)?;
    replay(&path, &connection).map(|(state, _)| state)
}

/// One event by its number, from 1.
pub fn event(directory: &Path, number: u64) -> Result<Option<Recorded>, Error> {
    let path = directory.join(place::FILE);
    read_event(&path, &connect_to_read(&path)?, number)
}

fn replay(path: &Path, connection: &Connection) -> Result<(State, Head), Error> {
    let mut state = State::default();
    let head = read_all(path, connection, |recorded| {
        schedule::apply(&mut state, &recorded).map_err(|source| Error::Impossible { path: path.to_path_buf(), source })
    })?;
    Ok((state, head))
}

/// Checks the file's structure, the chain of hashes, that the history is a possible one, and the invariants at its end.
pub fn verify(directory: &Path) -> Result<Verified, Error> {
    let path = directory.join(place::FILE);
    let connection = connect_to_read(&path)?;
    let sound: String = connection
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(|error| Error::of(&path, error))?;
    if sound != "ok" {
        return Err(Error::Damaged { path, reason: sound });
    }
    let (state, head) = replay(&path, &connection)?;
    if let Some(violation) = schedule::check(&state).first() {
        let reason = format!("its end breaks invariant {}: {}", violation.invariant, violation.detail);
        return Err(Error::Damaged { path, reason });
    }
    Ok(Verified {
        events: head.number,
        bytes: place::bytes(directory),
        sweeps: state.sweeps.len(),
        trials: state.trials.len(),
        hash: head.link.0.iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

/// Writes one JSON object per event, `{"number": 1, "at": MILLISECONDS, "event": {...}}`, and returns how many.
pub fn export(directory: &Path, mut out: impl Write) -> Result<u64, Error> {
    let path = directory.join(place::FILE);
    let connection = connect_to_read(&path)?;
    let head = read_rows(&path, &connection, |number, at, text| {
        writeln!(out, r#"{{"number":{number},"at":{at},"event":{text}}}"#).map_err(|source| Error::Export { source })
    })?;
    out.flush().map_err(|source| Error::Export { source })?;
    Ok(head.number)
}
