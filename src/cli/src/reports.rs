//! A sweep's report as commands get it: its text whole, its files in pieces that go where they belong at once.

use std::io::{self, Write};

use protocol::v1::ReportFiles;
use report::{FileSink, Reporter};
use schedule::state::State;

use crate::exit::ExpectedError;
use crate::output;

/// What a report says before its files.
#[derive(Debug, Default)]
pub struct Report {
    /// The tables, for a terminal.
    pub text: String,
    pub complete: bool,
    pub failed_trials: u64,
}

/// The same as a coordinator sends, from the state of a journal; `None` when no sweep has that name.
pub fn from_state(
    state: &State,
    sweep: &str,
    files: ReportFiles,
    sink: &mut dyn FileSink,
) -> Result<Option<Report>, ExpectedError> {
    let Some(reporter) = Reporter::of(state, sweep) else { return Ok(None) };
    let written = match files {
        ReportFiles::None => Ok(()),
        ReportFiles::Json => reporter.write_json(sink),
        ReportFiles::All => reporter.write_files(sink),
    };
    written.map_err(not_taken)?;
    let (complete, failed_trials) = (reporter.complete(), reporter.failed_trials());
    Ok(Some(Report { text: reporter.text(output::width()), complete, failed_trials }))
}

/// Why a sink took no more: an [`ExpectedError`] that it wrapped, or the error itself.
pub fn not_taken(error: io::Error) -> ExpectedError {
    error.downcast::<ExpectedError>().unwrap_or_else(|error| ExpectedError::Infrastructure {
        what: "the report was not written",
        reason: error.to_string(),
    })
}

/// For reports without files.
pub struct Nowhere;

impl FileSink for Nowhere {
    fn begin(&mut self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// results.json on its way to whoever reads stdout.
pub struct ToStdout;

impl FileSink for ToStdout {
    fn begin(&mut self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        match io::stdout().lock().write_all(piece) {
            // `orchestrator table x --output json | head` is no error of ours
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(io::Error::other(ExpectedError::Stdout(error))),
            Ok(()) => Ok(()),
        }
    }
}
