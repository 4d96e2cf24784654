//! Whole results, of which the state keeps a part: read from the journal beside its owner.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use report::StoredResults;
use schedule::event::{Event, Recorded};
use sweep::record::TrialResult;
use sweep::with_causes;

/// Opens a reader for one report.
pub type OpenResults = Arc<dyn Fn() -> Box<dyn StoredResults + Send> + Send + Sync>;

/// The results in the journal of a state directory, which is opened when the first is read.
pub struct JournalResults {
    directory: PathBuf,
    reader: Option<journal::Reader>,
}

impl JournalResults {
    pub fn of(directory: &Path) -> Self {
        Self {
            directory: directory.to_path_buf(),
            reader: None,
        }
    }

    fn event(&mut self, number: u64) -> Result<Option<Recorded>, journal::Error> {
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => journal::Reader::open(&self.directory)?,
        };
        self.reader.insert(reader).event(number)
    }
}

impl StoredResults for JournalResults {
    fn result(&mut self, event: u64) -> io::Result<TrialResult> {
        let recorded = self
            .event(event)
            .map_err(|error| io::Error::other(with_causes(&error)))?;
        result_of(recorded, event)
    }
}

/// Returns the result in an event.
pub fn result_of(recorded: Option<Recorded>, number: u64) -> io::Result<TrialResult> {
    match recorded.map(|recorded| recorded.event) {
        Some(Event::AttemptSucceeded { result, .. }) => Ok(*result),
        Some(_) => Err(io::Error::other(format!(
            "event {number} of the journal holds no result"
        ))),
        // While the journal cannot be written, the state is ahead of it.
        None => Err(io::Error::other(format!(
            "event {number}, which holds a result, is not in the journal yet"
        ))),
    }
}
