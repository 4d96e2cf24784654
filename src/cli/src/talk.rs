//! What goes to stderr: log lines, remarks for people, errors. Nothing here ever writes to stdout.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::args::{Global, LogFormat};
use crate::exit::ExpectedError;

static QUIET: AtomicBool = AtomicBool::new(false);
/// Progress bars own the bottom of the terminal; lines are printed above them.
static BARS: std::sync::OnceLock<MultiProgress> = std::sync::OnceLock::new();

/// Sets up log lines; once, at the start.
pub fn start(global: &Global) {
    QUIET.store(global.quiet, Ordering::Relaxed);
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "info,h2=warn,hyper=warn,tower=warn",
        (_, 2) => "debug,h2=info,hyper=info,tower=info",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Stderr);
    match global.log_format {
        LogFormat::Text => builder.with_ansi(colour()).with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// The one group of progress bars of this process.
pub fn bars() -> &'static MultiProgress {
    BARS.get_or_init(MultiProgress::new)
}

/// A remark for people; `--quiet` silences it.
pub fn say(line: &str) {
    if !QUIET.load(Ordering::Relaxed) {
        line_out(line);
    }
}

pub fn error(error: &ExpectedError) {
    let text = error.render();
    let text = match (colour(), text.strip_prefix("error:")) {
        (true, Some(rest)) => format!("\x1b[1;31merror:\x1b[0m{rest}"),
        _ => text,
    };
    let _ = write_stderr(text.as_bytes());
}

/// Whether stderr is a terminal that wants colour.
pub fn colour() -> bool {
    interactive() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether a person is watching stderr.
pub fn interactive() -> bool {
    std::io::stderr().is_terminal() && std::env::var("TERM").map_or(true, |term| term != "dumb")
}

pub fn quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

fn line_out(line: &str) {
    let _ = write_stderr(format!("{line}\n").as_bytes());
}

/// Hides the bars while something is written, so that lines and bars do not mix.
pub fn without_bars<T>(write: impl FnOnce() -> T) -> T {
    match BARS.get() {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

fn write_stderr(bytes: &[u8]) -> std::io::Result<()> {
    without_bars(|| std::io::stderr().lock().write_all(bytes))
}

/// Log lines take the same way.
struct Stderr;

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Stderr;

    fn make_writer(&'a self) -> Stderr {
        Stderr
    }
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        write_stderr(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}
