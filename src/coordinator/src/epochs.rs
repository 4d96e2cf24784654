//! The epochs of results, which the state does not keep: read from the journal beside its owner.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use report::Epochs;
use schedule::event::{Event, Recorded};
use sweep::record::EpochRecord;
use sweep::with_causes;

/// Opens a reader for one report.
pub type OpenEpochs = Arc<dyn Fn() -> Box<dyn Epochs + Send> + Send + Sync>;

/// The epochs in the journal of a state directory, which is opened when the first are read.
pub struct JournalEpochs {
    directory: PathBuf,
    reader: Option<journal::Reader>,
}

impl JournalEpochs {
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

impl Epochs for JournalEpochs {
    fn epochs(&mut self, event: u64) -> io::Result<Vec<EpochRecord>> {
        let recorded = self
            .event(event)
            .map_err(|error| io::Error::other(with_causes(&error)))?;
        epochs_of(recorded, event)
    }
}

/// Returns the epochs of the result in an event.
pub fn epochs_of(recorded: Option<Recorded>, number: u64) -> io::Result<Vec<EpochRecord>> {
    match recorded.map(|recorded| recorded.event) {
        Some(Event::AttemptSucceeded { result, .. }) => Ok(result.epochs),
        Some(_) => Err(io::Error::other(format!(
            "event {number} of the journal holds no result"
        ))),
        // While the journal cannot be written, the state is ahead of it.
        None => Err(io::Error::other(format!(
            "event {number}, which holds a result, is not in the journal yet"
        ))),
    }
}
