//! Errors of a journal, divided by what a person has to do about them. Every message names the
//! file.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the disk that holds {} is full: nothing was stored; free some space, and it continues", path.display())]
    Full {
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error("{} cannot be written: nothing was stored; make it writable for this user", path.display())]
    ReadOnly {
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error("cannot use the state directory {}: it must be a directory that this user can write to", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("another coordinator uses {}: {holder}; stop it first, or choose another state directory", path.display())]
    Locked { path: PathBuf, holder: String },
    #[error(
        "{} has journal version {found}, this program knows {known}: use the program that wrote it, or a newer one",
        path.display()
    )]
    Newer {
        path: PathBuf,
        found: i32,
        known: i32,
    },
    #[error("{} is a SQLite file, but not a journal of this program; name another state directory", path.display())]
    NotAJournal { path: PathBuf },
    #[error("{} is damaged: {reason}; {}", path.display(), advice(path))]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "{} ends at event {found}, but {acknowledged} events were acknowledged: {} at its end, because the file or its write-ahead \
         log was damaged, or an older copy was put in its place; nothing was changed. {}",
        path.display(), missing(*acknowledged - *found), advice(path)
    )]
    Shortened {
        path: PathBuf,
        found: u64,
        acknowledged: u64,
    },
    #[error("{} {reason}; no new journal is begun in its place. {}", path.display(), advice(path))]
    Gone { path: PathBuf, reason: String },
    #[error(
        "{} does not hold the events that journal.head beside it records: it is another journal, has other events at its end, or \
         is damaged; {}",
        path.display(), advice(path)
    )]
    Exchanged { path: PathBuf },
    #[error("{} is damaged, so it is unknown whether events are missing at the journal's end; {}", path.display(), advice(path))]
    HeadDamaged { path: PathBuf },
    #[error("cannot read or write {}", path.display())]
    HeadFile { path: PathBuf, source: io::Error },
    #[error(
        "{what} while this coordinator used it: nothing more is acknowledged. {acknowledged} events were acknowledged; {saved}"
    )]
    Removed {
        what: String,
        acknowledged: u64,
        saved: String,
    },
    #[error("cannot repair the journal in {}", path.display())]
    Repair { path: PathBuf, source: io::Error },
    #[error("event {number} of {} cannot be read: was it written by another version of this program?", path.display())]
    Event {
        path: PathBuf,
        number: u64,
        source: serde_json::Error,
    },
    #[error("event {number} cannot be written as JSON and read back")]
    Unwritable {
        number: u64,
        source: serde_json::Error,
    },
    #[error("{} holds a history that cannot have happened; use the program that wrote it", path.display())]
    Impossible {
        path: PathBuf,
        source: schedule::Impossible,
    },
    #[error("{} holds events that this process did not write: something else writes to it", path.display())]
    Diverged { path: PathBuf },
    #[error("there is no journal at {}", path.display())]
    Missing { path: PathBuf },
    #[error("cannot write the export")]
    Export { source: io::Error },
    #[error("cannot read or write {}: nothing was stored", path.display())]
    Storage {
        path: PathBuf,
        source: rusqlite::Error,
    },
}

/// Returns the advice for a person whose journal is damaged or incomplete.
fn advice(file: &Path) -> String {
    let directory = file.parent().unwrap_or(file).display();
    format!(
        "put a copy of the state directory back, or let `orchestrator journal repair --state-dir {directory}` show what \
         can be recovered"
    )
}

fn missing(events: u64) -> String {
    match events {
        1 => "1 event is missing".to_owned(),
        _ => format!("{events} events are missing"),
    }
}

impl Error {
    pub(crate) fn of(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_path_buf();
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { path, source },
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                Self::ReadOnly { path, source }
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged {
                path,
                reason: source.to_string(),
            },
            _ => Self::Storage { path, source },
        }
    }

    /// Returns true if the fault lies with the disk and may go away: then the same journal can be
    /// used again.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Full { .. }
            | Self::ReadOnly { .. }
            | Self::Storage { .. }
            | Self::HeadFile { .. } => true,
            Self::Directory { .. }
            | Self::Locked { .. }
            | Self::Newer { .. }
            | Self::NotAJournal { .. }
            | Self::Damaged { .. }
            | Self::Shortened { .. }
            | Self::Gone { .. }
            | Self::Exchanged { .. }
            | Self::HeadDamaged { .. }
            | Self::Removed { .. }
            | Self::Repair { .. }
            | Self::Event { .. }
            | Self::Unwritable { .. }
            | Self::Impossible { .. }
            | Self::Diverged { .. }
            | Self::Missing { .. }
            | Self::Export { .. } => false,
        }
    }
}
