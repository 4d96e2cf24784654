//! A sweep's report as commands receive it: its text at once, its files in pieces that go to their
//! destination immediately.

use std::io::{self, Write};

use coordinator::{JournalResults, NoAnswer};
use protocol::v1::{self, ReportFiles};
use report::{FileSink, Reporter};

use crate::exit::ExpectedError;
use crate::offline::Journal;
use crate::output;

/// The part of a report before its files.
#[derive(Debug, Default)]
pub struct Report {
    /// The tables, formatted for a terminal.
    pub text: String,
    pub complete: bool,
    pub failed_trials: u64,
}

/// Builds the report that a coordinator would send, from its journal.
pub fn from_journal(
    journal: &Journal,
    sweep: &str,
    files: ReportFiles,
    sink: &mut dyn FileSink,
) -> Result<Report, ExpectedError> {
    let reporter = Reporter::of(&journal.state, sweep).map_err(NoAnswer::from)?;
    let mut stored = JournalResults::of(&journal.state_dir);
    coordinator::write_report(&reporter, files, &mut stored, sink).map_err(sink_error)?;
    let v1::ReportHead {
        complete,
        failed_trials,
    } = coordinator::report_head(&reporter);
    Ok(Report {
        text: reporter.text(output::width()),
        complete,
        failed_trials,
    })
}

/// Converts the error of a sink: an [`ExpectedError`] that it wrapped, or the error itself.
pub fn sink_error(error: io::Error) -> ExpectedError {
    error
        .downcast::<ExpectedError>()
        .unwrap_or_else(|error| ExpectedError::Infrastructure {
            what: "the report was not written",
            reason: error.to_string(),
        })
}

/// A sink for files that were not asked for.
pub struct Discard;

impl FileSink for Discard {
    fn begin(&mut self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// A sink that copies results.json to stdout.
pub struct ToStdout;

impl FileSink for ToStdout {
    fn begin(&mut self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        match io::stdout().lock().write_all(piece) {
            // no error: the reader is gone, as in `orchestrator table x --output json | head`
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(io::Error::other(ExpectedError::Stdout(error))),
            Ok(()) => Ok(()),
        }
    }
}
