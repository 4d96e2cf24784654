//! Output to stderr: log lines, messages for people, errors. Nothing here ever writes to stdout.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::args::{Command, Global, LogFormat};
use crate::exit::ExpectedError;
use crate::footer::{Content, Footer, Size};

static QUIET: AtomicBool = AtomicBool::new(false);
/// Progress bars of downloads; lines are printed above them.
static BARS: OnceLock<MultiProgress> = OnceLock::new();
/// The last lines of the terminal while a sweep is followed; all other output is printed above
/// them.
static FOOTER: OnceLock<Mutex<Footer>> = OnceLock::new();

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
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Stderr);
    match global.log_format {
        LogFormat::Text => builder.with_ansi(colour()).with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
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

/// Shows these lines at the bottom of the terminal from now on; `None` removes them.
pub fn set_footer(content: Option<Content>) {
    let mut footer = footer();
    footer.set(content);
    redraw(&mut footer);
}

/// Redraws the footer after the terminal changed its size.
pub fn resized() {
    redraw(&mut footer());
}

/// Redraws the footer below the output of other programs while this one was stopped.
pub fn continued() {
    let mut footer = footer();
    footer.forget();
    redraw(&mut footer);
}

fn footer() -> MutexGuard<'static, Footer> {
    FOOTER
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

fn redraw(footer: &mut Footer) {
    let size = size();
    if footer.is_stale(size) {
        let text = footer.erase(size) + &footer.draw(size);
        // An error means that the terminal is gone.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}

/// Returns the columns of a line that does not wrap; 80 in a pipe.
pub fn columns() -> usize {
    if interactive() { size().columns } else { 80 }
}

fn size() -> Size {
    let found = terminal_size::terminal_size_of(std::io::stderr());
    let (columns, rows) = found.map_or((80, 24), |(columns, rows)| {
        (usize::from(columns.0), usize::from(rows.0))
    });
    // some pseudo-terminals report 0
    Size {
        columns: if columns == 0 { 80 } else { columns },
        rows: if rows == 0 { 24 } else { rows },
    }
}

/// Removes bars and footer from the screen while something is written, so that they do not mix.
pub fn without_bars<T>(write: impl FnOnce() -> T) -> T {
    if let Some(bars) = BARS.get() {
        return bars.suspend(write);
    }
    let mut footer = footer();
    let size = size();
    let erased = footer.erase(size);
    let mut stderr = std::io::stderr();
    let _ = stderr.write_all(erased.as_bytes());
    let written = write();
    let _ = stderr.write_all(footer.draw(size).as_bytes());
    written
}

/// Writes whole lines. It is no error if stderr has no reader any more.
fn write_stderr(bytes: &[u8]) {
    let _ = without_bars(|| std::io::stderr().lock().write_all(bytes));
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
