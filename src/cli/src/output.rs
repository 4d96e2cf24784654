//! Output to stdout: text for people or one JSON document. No other part of the program writes
//! there.

use std::io::{IsTerminal, Write};
use std::path::Path;

use serde_json::Value;

use crate::args::OutputFormat;
use crate::exit::ExpectedError;

/// Version of every JSON document that the program prints.
pub const SCHEMA: u32 = 1;

/// The widest useful table.
const MAX_WIDTH: usize = 500;

/// The state of stdout's reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Reader {
    Reads,
    /// The reader is gone, as in `orchestrator table x | head`. This is no error: a stream of lines
    /// may end.
    Gone,
}

#[derive(Clone, Copy, Debug)]
pub struct Output {
    format: OutputFormat,
}

impl Output {
    pub fn new(format: OutputFormat) -> Self {
        Self { format }
    }

    pub fn is_json(self) -> bool {
        self.format == OutputFormat::Json
    }

    /// Prints the requested one of both forms. The text ends with a newline or is empty.
    pub fn print(
        self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> Value,
    ) -> Result<(), ExpectedError> {
        match self.format {
            OutputFormat::Text => write(text().as_bytes()),
            OutputFormat::Json => write(format!("{:#}\n", json()).as_bytes()),
        }
        .map(|_| ())
    }

    /// Prints one JSON document per line, for a stream of them.
    pub fn print_line(
        self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> Value,
    ) -> Result<Reader, ExpectedError> {
        match self.format {
            OutputFormat::Text => write(text().as_bytes()),
            OutputFormat::Json => write(format!("{}\n", json()).as_bytes()),
        }
    }
}

/// Formats a table for stdout; on a terminal the best cells are bold.
pub fn table(text: &str) -> String {
    if colour() {
        report::embolden(text)
    } else {
        text.to_owned()
    }
}

/// Returns the number of columns that text on stdout may use.
pub fn width() -> usize {
    let asked = std::env::var("COLUMNS")
        .ok()
        .and_then(|columns| columns.parse().ok());
    let found = || {
        terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0))
    };
    asked
        .or_else(found)
        .filter(|width| *width > 0)
        .unwrap_or(report::TERMINAL_WIDTH)
        .min(MAX_WIDTH)
}

/// Returns true if stdout is a terminal that wants colour.
pub fn colour() -> bool {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    wanted
        && std::io::stdout().is_terminal()
        && std::env::var("TERM").map_or(true, |term| term != "dumb")
}

/// Copies a document from a file to stdout.
pub fn copy_file(path: &Path) -> Result<(), ExpectedError> {
    let mut file = std::fs::File::open(path).map_err(ExpectedError::file("read", path))?;
    match std::io::copy(&mut file, &mut std::io::stdout().lock()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(ExpectedError::Stdout(error))
        }
        _ => Ok(()),
    }
}

pub fn write(bytes: &[u8]) -> Result<Reader, ExpectedError> {
    let write = || {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush())
    };
    match crate::stderr::without_bars(write) {
        Ok(()) => Ok(Reader::Reads),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(ExpectedError::Stdout(error)),
    }
}
