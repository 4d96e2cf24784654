//! The owner's interface to a journal, so that tests can replace it by one that fails.

use std::path::Path;

use journal::Journal;
use schedule::event::Recorded;
use schedule::state::{Millis, State};
use sweep::with_causes;

pub trait Storage: Send {
    /// Appends all entries or none, durable when it returns. After a failure the same call may be
    /// repeated.
    fn append(&mut self, entries: &[Recorded]) -> Result<(), StorageFault>;

    /// Returns a stored event by its number, from 1.
    fn event(&mut self, number: u64) -> Option<Recorded>;

    /// Returns the bytes on disk.
    fn bytes(&self) -> u64;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageFault {
    /// Text for users, with the file's name.
    pub reason: String,
    /// True if it may go away without a restart of this process.
    pub is_passing: bool,
}

impl Storage for Journal {
    fn append(&mut self, entries: &[Recorded]) -> Result<(), StorageFault> {
        Journal::append(self, entries).map_err(|error| StorageFault {
            is_passing: error.is_passing(),
            reason: with_causes(&error),
        })
    }

    fn event(&mut self, number: u64) -> Option<Recorded> {
        Journal::event(self, number)
            .inspect_err(|error| {
                tracing::warn!(
                    number,
                    reason = with_causes(error),
                    "an event cannot be read"
                )
            })
            .ok()
            .flatten()
    }

    fn bytes(&self) -> u64 {
        Journal::bytes(self)
    }
}

/// Returns the state from the journal, the time of its last event, and the journal.
pub fn open(state_dir: &Path) -> Result<(State, Millis, Box<dyn Storage>), journal::Error> {
    let mut journal = Journal::open(state_dir)?;
    let state = journal.replay()?;
    let last = journal
        .event(journal.last())?
        .map_or(0, |recorded| recorded.at);
    Ok((state, last, Box::new(journal)))
}
