//! Output to stderr: log lines, messages for people, errors. Nothing here ever writes to stdout.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::MultiProgress;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::{Command, Global, LogFormat};
use crate::exit::ExpectedError;
use crate::view::terminal;

static QUIET: AtomicBool = AtomicBool::new(false);
/// Progress bars of downloads; lines are printed above them.
static BARS: OnceLock<MultiProgress> = OnceLock::new();

/// Sets up log lines; called once, at the start.
pub fn init(global: &Global, command: &Command) {
    QUIET.store(global.quiet, Ordering::Relaxed);
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        // `run` reports the failed attempts of its own worker itself
        (_, 0) if matches!(command, Command::Run(_)) => "warn,attempt=error",
        (_, 0) => "warn",
        (_, 1) => "info,h2=warn,hyper=warn,tower=warn",
        (_, 2) => "debug,h2=info,hyper=info,tower=info",
        _ => "trace",
    };
    let filter = wanted_lines(level);
    let builder = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(Stderr);
    match global.log_format {
        LogFormat::Text => builder
            .with_ansi(colour())
            .with_target(false)
            .finish()
            .with(filter)
            .init(),
        LogFormat::Json => builder.json().finish().with(filter).init(),
    }
}

/// Returns the lines that `RUST_LOG` asks for, or those of the flags where it is unset or cannot be
/// read.
fn wanted_lines(flags: &str) -> Targets {
    let given = std::env::var("RUST_LOG").ok();
    given
        .filter(|given| !given.is_empty())
        .and_then(|given| given.parse().ok())
        .unwrap_or_else(|| flags.parse().expect("levels of this file are valid"))
}

/// Returns the progress bars of this process.
pub fn bars() -> &'static MultiProgress {
    BARS.get_or_init(MultiProgress::new)
}

/// Prints a message for people; `--quiet` silences it.
pub fn print(line: &str) {
    if !quiet() {
        write_stderr(format!("{line}\n").as_bytes());
    }
}

pub fn error(error: &ExpectedError) {
    let text = error.render();
    let text = match (colour(), text.strip_prefix("error:")) {
        (true, Some(rest)) => format!("\x1b[1;31merror:\x1b[0m{rest}"),
        _ => text,
    };
    write_stderr(text.as_bytes());
}

/// Returns true if stderr is a terminal that wants colour.
pub fn colour() -> bool {
    interactive() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns true if a person is watching stderr.
pub fn interactive() -> bool {
    std::io::stderr().is_terminal() && std::env::var("TERM").map_or(true, |term| term != "dumb")
}

pub fn quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Returns the columns of a line that does not wrap; 80 in a pipe.
pub fn columns() -> usize {
    let found = terminal_size::terminal_size_of(std::io::stderr());
    let columns = found.map_or(0, |(columns, _)| usize::from(columns.0));
    // some pseudo-terminals report 0
    if columns == 0 { 80 } else { columns }
}

/// Removes progress bars from the screen while something is written, so that they do not mix.
pub fn without_bars<T>(write: impl FnOnce() -> T) -> T {
    match BARS.get() {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

/// Writes whole lines, or has the view show them. It is no error if stderr has no reader any more.
fn write_stderr(bytes: &[u8]) {
    if !terminal::hold(&String::from_utf8_lossy(bytes)) {
        let _ = without_bars(|| std::io::stderr().lock().write_all(bytes));
    }
}

/// A writer that sends log lines the same way.
struct Stderr;

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Stderr;

    fn make_writer(&'a self) -> Stderr {
        Stderr
    }
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        write_stderr(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
