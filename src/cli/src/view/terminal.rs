//! The terminal while the view owns it: raw mode, the alternate screen, no cursor. It is restored at
//! every end of the program that can be noticed: the end of the view, an error, a panic.
//!
//! Lines that the program prints meanwhile are shown as news, and printed when the view ends.

use std::io::{self, BufWriter, IsTerminal, Stderr, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use nix::sys::signal::Signal;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use ratatui::layout::Rect;
use tokio::sync::mpsc::UnboundedSender;

use super::draw::{MIN_COLUMNS, MIN_ROWS};
use super::model::{Input, Kind};
use crate::stderr;

/// Lines that are kept for the end of the view, at most; the oldest are dropped first.
const MAX_HELD: usize = 1_000;

/// True while the terminal is in raw mode and shows the alternate screen.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);
static SCREEN: Mutex<Option<Screen>> = Mutex::new(None);
static PANIC_HOOK: Once = Once::new();

struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stderr>>>,
    held: Vec<String>,
    news: UnboundedSender<Input>,
}

/// Returns true if the view can be drawn: stdin, stdout and stderr are a terminal, which is large
/// enough, and this process is in its foreground.
pub fn is_suitable() -> bool {
    let are_terminals = io::stdin().is_terminal() && io::stdout().is_terminal();
    let is_large =
        || size().is_ok_and(|(columns, rows)| columns >= MIN_COLUMNS && rows >= MIN_ROWS);
    let is_in_background = || {
        // an error means that the terminal does not control this process, so it has no jobs
        nix::unistd::tcgetpgrp(io::stderr()).is_ok_and(|group| group != nix::unistd::getpgrp())
    };
    are_terminals
        && stderr::interactive()
        && std::env::var_os("TERM").is_some()
        && is_large()
        && !is_in_background()
}

/// Takes the terminal. Lines that the program prints are sent to `news`.
pub fn take(news: UnboundedSender<Input>) -> io::Result<()> {
    PANIC_HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            before(panic);
        }));
    });
    let terminal = Terminal::new(CrosstermBackend::new(BufWriter::new(io::stderr())))?;
    *screen() = Some(Screen {
        terminal,
        held: Vec::new(),
        news,
    });
    enter().inspect_err(|_| give_back())
}

/// Gives the terminal back and prints the lines that were held. Does nothing if it is not taken.
pub fn give_back() {
    // A frame that is being drawn is finished first, and none follows.
    let screen = screen().take();
    restore();
    for line in screen.into_iter().flat_map(|screen| screen.held) {
        // An error means that the terminal is gone.
        let _ = io::stderr().lock().write_all(line.as_bytes());
    }
}

pub fn is_taken() -> bool {
    IS_TAKEN.load(Ordering::SeqCst)
}

/// Draws the next frame. Only the differences from the last one are written.
pub fn draw(draw: impl FnOnce(Rect, &mut Buffer)) -> io::Result<()> {
    let mut screen = screen();
    let Some(screen) = screen.as_mut().filter(|_| is_taken()) else {
        return Ok(());
    };
    screen
        .terminal
        .draw(|frame| draw(frame.area(), frame.buffer_mut()))
        .map(|_| ())
}

/// Writes the next frame whole.
pub fn clear() {
    if let Some(screen) = screen().as_mut().filter(|_| is_taken()) {
        let terminal = &mut screen.terminal;
        // `Terminal::clear` would ask the terminal for its cursor, and wait among the keys for the
        // answer. An error means that the terminal is gone, which its keys report.
        let _ = terminal
            .size()
            .and_then(|size| terminal.resize(size.into()));
    }
}

/// Width of the view in columns.
pub fn columns() -> usize {
    size().map_or(80, |(columns, _)| usize::from(columns))
}

/// Holds a line while the terminal is taken, and shows it as news. Returns false if the terminal is
/// not taken, so that the line can be printed.
pub fn hold(line: &str) -> bool {
    keep(line, |text| Input::News {
        text,
        trial: None,
        kind: Kind::Note,
    })
}

/// Holds a line, and shows it as the given news.
pub fn keep(line: &str, news: impl FnOnce(String) -> Input) -> bool {
    if !is_taken() {
        return false;
    }
    let mut screen = screen();
    let Some(screen) = screen.as_mut() else {
        return false;
    };
    let text = anstream::adapter::strip_str(line.trim_end()).to_string();
    screen.held.push(format!("{}\n", line.trim_end()));
    if screen.held.len() > MAX_HELD {
        screen.held.remove(0);
    }
    // An error means that the view is ending.
    let _ = screen.news.send(news(text));
    true
}

/// Stops the process until a shell continues it, as Ctrl-Z does without a view.
pub fn suspend() {
    restore();
    // An error leaves the process running.
    let _ = nix::sys::signal::raise(Signal::SIGTSTP);
    resume();
}

/// Takes the terminal again after the process was stopped.
pub fn resume() {
    if screen().is_none() {
        return;
    }
    // A shell may have changed the mode meanwhile; an error shows again in the next call.
    let _ = disable_raw_mode();
    let entered = match is_taken() {
        true => enable_raw_mode(),
        false => enter(),
    };
    if entered.is_ok() {
        clear();
    }
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    IS_TAKEN.store(true, Ordering::SeqCst);
    execute!(io::stderr(), EnterAlternateScreen, Hide)
}

/// Restores the state of the terminal. Locks nothing, because a panic may have happened while the
/// lock was held.
fn restore() {
    if IS_TAKEN.swap(false, Ordering::SeqCst) {
        // Errors mean that the terminal is gone.
        let _ = disable_raw_mode();
        let _ = execute!(io::stderr(), LeaveAlternateScreen, Show);
    }
}

fn screen() -> MutexGuard<'static, Option<Screen>> {
    SCREEN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::process::{Command, Stdio};

    use nix::pty::{Winsize, openpty};
    use nix::sys::termios::tcgetattr;
    use tokio::sync::mpsc::unbounded_channel;

    use super::{is_taken, take};

    /// Marks the child process of the test, which takes the terminal and panics.
    const PANICS: &str = "ORCHESTRATOR_TEST_OF_A_PANIC";

    /// A panic leaves the main screen, the cursor and the settings of the terminal as they were, and
    /// its message where it can be read.
    #[test]
    fn a_panic_gives_the_terminal_back() {
        if std::env::var_os(PANICS).is_some() {
            let (news, _receiver) = unbounded_channel();
            take(news).expect("it is a terminal");
            assert!(is_taken());
            panic!("the message of the panic");
        }
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let terminal = openpty(&size, None).expect("a pseudo-terminal");
        let before = tcgetattr(&terminal.slave).expect("a terminal has settings");
        let end = || Stdio::from(terminal.slave.try_clone().expect("a file can be shared"));
        let name = "view::terminal::tests::a_panic_gives_the_terminal_back";
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .args(["--exact", name, "--nocapture"])
            .env(PANICS, "1")
            .stdin(end())
            .stdout(end())
            .stderr(end());
        let mut child = command.spawn().expect("this program starts");
        drop(command);
        let mut screen = File::from(terminal.master);
        let reader = std::thread::spawn(move || {
            let mut seen = Vec::new();
            let mut buffer = [0; 4096];
            // The end of the last writer is an error on a pseudo-terminal.
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                seen.extend_from_slice(&buffer[..count]);
            }
            String::from_utf8_lossy(&seen).into_owned()
        });
        assert!(!child.wait().expect("it ends").success());
        let after = tcgetattr(&terminal.slave).expect("a terminal has settings");
        assert_eq!(after, before);
        drop(terminal.slave);
        let seen = reader.join().expect("the reader ends with the terminal");
        let place = |text: &str| {
            seen.find(text)
                .unwrap_or_else(|| panic!("{text:?}: {seen:?}"))
        };
        let left = place("\u{1b}[?1049l");
        assert!(place("\u{1b}[?1049h") < left);
        assert!(place("\u{1b}[?25l") < place("\u{1b}[?25h"));
        assert!(left < place("the message of the panic"), "{seen:?}");
    }
}
