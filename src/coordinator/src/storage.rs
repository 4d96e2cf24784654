//! What the owner needs of a journal, so that tests can put one in its place that fails.

use std::path::Path;

use journal::Journal;
use schedule::event::Recorded;
use schedule::state::{Millis, State};

pub trait Storage: Send {
    /// All of it or nothing, and durable when it returns. May be called again with the same entries after a failure.
    fn append(&mut self, entries: &[Recorded]) -> Result<(), StorageFault>;

    /// One that was stored, by its number from 1.
    fn event(&mut self, number: u64) -> Option<Recorded>;

    /// On disk.
    fn bytes(&self) -> u64;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageFault {
    /// For people; names the file.
    pub reason: String,
    /// It may go away without this process being restarted.
    pub is_passing: bool,
}

impl Storage for Journal {
    fn append(&mut self, entries: &[Recorded]) -> Result<(), StorageFault> {
        Journal::append(self, entries)
            .map_err(|error| StorageFault { is_passing: error.is_passing(), reason: chain(&error) })
    }

    fn event(&mut self, number: u64) -> Option<Recorded> {
        Journal::event(self, number)
            .inspect_err(|error| tracing::warn!(number, reason = chain(error), "an event cannot be read"))
            .ok()
            .flatten()
    }

    fn bytes(&self) -> u64 {
        Journal::bytes(self)
    }
}

/// The state as the journal tells it, the time of its last event, and the journal.
pub fn open(state_dir: &Path) -> Result<(State, Millis, Box<dyn Storage>), journal::Error> {
    let mut journal = Journal::open(state_dir)?;
    let state = journal.replay()?;
    let last = journal.event(journal.last())?.map_or(0, |recorded| recorded.at);
    Ok((state, last, Box::new(journal)))
}

/// An error and what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
