//! A program on a pseudo-terminal of its own, as a person uses it: keys go in, and a small emulator
//! converts what comes out to the screen.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;

use crate::binaries::binary;
use crate::{System, wait_for};

pub struct Terminal {
    child: Child,
    keyboard: File,
    /// The program's side, for its settings.
    line: OwnedFd,
    settings: Termios,
    seen: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Starts `orchestrator` on a terminal of 80 columns and 24 rows, which controls it.
    pub fn start(system: &System, arguments: &[&str]) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let terminal = openpty(&size, None).expect("a pseudo-terminal");
        let settings = tcgetattr(&terminal.slave).expect("a terminal has settings");
        let end = || Stdio::from(terminal.slave.try_clone().expect("a file can be shared"));
        let mut command = system.marked("setsid");
        command
            .arg("--ctty")
            .arg(binary("orchestrator"))
            .args(arguments)
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stdout(end())
            .stderr(end());
        let child = command.spawn().expect("the command starts");
        drop(command);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut screen = File::from(terminal.master.try_clone().expect("a file can be shared"));
        let filling = seen.clone();
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // the end of the last writer is an error on a pseudo-terminal
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                let mut seen = filling.lock().unwrap_or_else(PoisonError::into_inner);
                seen.extend_from_slice(&buffer[..count]);
            }
        });
        Self {
            child,
            keyboard: File::from(terminal.master),
            line: terminal.slave,
            settings,
            seen,
            reader: Some(reader),
        }
    }

    pub fn press(&mut self, keys: &str) {
        self.keyboard
            .write_all(keys.as_bytes())
            .expect("the terminal takes keys");
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let status = Command::new("stty")
            .args(["cols", &columns, "rows", &rows])
            .stdin(Stdio::from(
                self.line.try_clone().expect("a file can be shared"),
            ))
            .status();
        assert!(status.expect("stty runs").success());
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a process id"));
        kill(pid, signal).expect("it runs");
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn screen(&self) -> Screen {
        Screen::show(&self.bytes())
    }

    /// Waits until the screen is as it should be, and returns its text.
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let start = std::time::Instant::now();
        wait_for(what, || {
            let text = self.screen().text();
            if start.elapsed() > crate::DEADLINE / 2 {
                eprintln!("waiting: {what}; the screen is\n{text}");
            }
            is_so(&text).then_some(text)
        })
    }

    /// Waits until the program has ended, and returns how, and the screen that is left.
    pub fn ended(mut self) -> (ExitStatus, Screen) {
        let child = &mut self.child;
        let status = wait_for("the program ends", || {
            child.try_wait().expect("a child can be asked")
        });
        let now = tcgetattr(&self.line).expect("a terminal has settings");
        assert_eq!(
            now, self.settings,
            "the settings of the terminal are as they were"
        );
        drop(self.line);
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader ends with the terminal");
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (status, Screen::show(&seen))
    }
}

/// All lines that were ever on the screen, the alternate screen while it is shown, and the cursor.
#[derive(Default)]
pub struct Screen {
    lines: Vec<Vec<char>>,
    alternate: Option<Vec<Vec<char>>>,
    row: usize,
    column: usize,
    /// Position on the main screen while the alternate one is shown.
    left_at: (usize, usize),
    pub is_cursor_hidden: bool,
}

impl Screen {
    pub fn show(bytes: &[u8]) -> Self {
        let mut screen = Self::default();
        let text = String::from_utf8_lossy(bytes).into_owned();
        let mut symbols = text.chars();
        while let Some(symbol) = symbols.next() {
            match symbol {
                '\r' => screen.column = 0,
                '\n' => screen.row += 1,
                '\u{1b}' => {
                    let Some((parameters, end)) = sequence(&mut symbols) else {
                        break;
                    };
                    screen.control(&parameters, end);
                }
                symbol => screen.put(symbol),
            }
        }
        screen
    }

    pub fn is_alternate(&self) -> bool {
        self.alternate.is_some()
    }

    fn control(&mut self, parameters: &str, end: char) {
        let number = |text: &str| text.parse::<usize>().unwrap_or(1).max(1) - 1;
        match (parameters, end) {
            ("?1049", 'h') => {
                self.left_at = (self.row, self.column);
                self.alternate = Some(Vec::new());
            }
            ("?1049", 'l') => {
                self.alternate = None;
                (self.row, self.column) = self.left_at;
            }
            ("?25", 'l') => self.is_cursor_hidden = true,
            ("?25", 'h') => self.is_cursor_hidden = false,
            (place, 'H') => {
                let (row, column) = place.split_once(';').unwrap_or((place, "1"));
                (self.row, self.column) = (number(row), number(column));
            }
            ("2", 'J') => {
                if let Some(lines) = &mut self.alternate {
                    lines.clear();
                }
            }
            // colours, and modes that change nothing here
            (_, 'm' | 'h' | 'l') => {}
            (parameters, end) => panic!("an escape sequence that is not known: {parameters}{end}"),
        }
    }

    fn put(&mut self, symbol: char) {
        let lines = self.alternate.as_mut().unwrap_or(&mut self.lines);
        if lines.len() <= self.row {
            lines.resize(self.row + 1, Vec::new());
        }
        let line = &mut lines[self.row];
        if line.len() <= self.column {
            line.resize(self.column + 1, ' ');
        }
        line[self.column] = symbol;
        self.column += 1;
    }

    /// The text of the screen that is shown.
    pub fn text(&self) -> String {
        self.alternate
            .as_ref()
            .unwrap_or(&self.lines)
            .iter()
            .map(|line| line.iter().collect::<String>().trim_end().to_owned() + "\n")
            .collect()
    }
}

/// Returns the parameters and the final letter of an escape sequence, if all of it has arrived.
fn sequence(symbols: &mut impl Iterator<Item = char>) -> Option<(String, char)> {
    let mut parameters = String::new();
    loop {
        match symbols.next()? {
            '[' => {}
            end if end.is_ascii_alphabetic() => return Some((parameters, end)),
            symbol => parameters.push(symbol),
        }
    }
}
