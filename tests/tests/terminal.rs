//! The terminal view of `orchestrator run` on 80 columns: a small emulator converts the bytes of a
//! pseudo-terminal to the screen.

use std::fs::File;
use std::io::Read;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::binaries::binary;
use tests::{System, wait_for};

const COLUMNS: usize = 80;

const SWEEP: &str = "
name: watched
recipe: quick
set: {dataset: digits, model: resnet-8, samples_per_class: 5}
axes:
  loss: [xent, cos]
  a-long-name-of-an-axis:
    - {name: a-value-whose-name-is-long, set: {momentum: 0.5}}
seeds: 2
search: {field: learning_rate, candidates: [0.1, 0.05]}
outputs:
  - table: {rows: loss, columns: a-long-name-of-an-axis}
";

/// All lines that were ever on the screen, and the cursor.
#[derive(Default)]
struct Screen {
    lines: Vec<Vec<char>>,
    row: usize,
    column: usize,
}

impl Screen {
    fn show(bytes: &[u8]) -> Self {
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

    fn control(&mut self, parameters: &str, end: char) {
        match end {
            'A' => {
                self.row = self
                    .row
                    .saturating_sub(parameters.parse().expect("a number of rows"))
            }
            'J' => {
                self.lines.truncate(self.row + 1);
                if let Some(line) = self.lines.get_mut(self.row) {
                    line.truncate(self.column);
                }
            }
            other => {
                panic!("an escape sequence that ends with {other}, though no colours are wanted")
            }
        }
    }

    fn put(&mut self, symbol: char) {
        if self.column == COLUMNS {
            (self.row, self.column) = (self.row + 1, 0);
        }
        if self.lines.len() <= self.row {
            self.lines.resize(self.row + 1, Vec::new());
        }
        let line = &mut self.lines[self.row];
        if line.len() <= self.column {
            line.resize(self.column + 1, ' ');
        }
        line[self.column] = symbol;
        self.column += 1;
    }

    fn text(&self) -> String {
        self.lines
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

/// Bars fit, start empty, show the end of each trial's name, and leave nothing behind when the run
/// is interrupted.
#[test]
fn progress_fits_the_terminal_and_leaves_it_clean() {
    let system = System::new();
    system.file("watched.yaml", SWEEP);
    let trainer = binary("orchestrator-trainer");
    let slow = system.script(
        "trainer",
        &format!(
            "exec {} \"$@\" --rehearse --rehearse-epoch-ms 50",
            trainer.display()
        ),
    );
    let size = Winsize {
        ws_row: 24,
        ws_col: COLUMNS as u16,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let terminal = openpty(&size, None).expect("a pseudo-terminal");
    let mut command = system.orchestrator(&[
        "run",
        "watched.yaml",
        "--devices",
        "cpu",
        "--slots",
        "2",
        "--trainer",
    ]);
    let end = || Stdio::from(terminal.slave.try_clone().expect("a file can be shared"));
    command
        .arg(slow)
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stdout(end())
        .stderr(end());
    let mut child = command.spawn().expect("the command starts");
    drop((command, terminal.slave));

    let seen = Arc::new(Mutex::new(Vec::new()));
    let (mut master, filling) = (File::from(terminal.master), seen.clone());
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        // the end of the last writer is an error on a pseudo-terminal
        while let Ok(count @ 1..) = master.read(&mut buffer) {
            filling
                .lock()
                .expect("nobody panics")
                .extend_from_slice(&buffer[..count]);
        }
    });
    let text = || String::from_utf8_lossy(&seen.lock().expect("nobody panics")).into_owned();
    let running = wait_for("two trials are shown", || {
        let screen = Screen::show(&seen.lock().expect("nobody panics")).text();
        (screen
            .lines()
            .filter(|line| line.contains("epoch "))
            .count()
            >= 2)
            .then_some(screen)
    });
    let pid = Pid::from_raw(child.id().try_into().expect("a process id"));
    kill(pid, Signal::SIGINT).expect("it runs");
    let status = child.wait().expect("it can be waited for");
    reader.join().expect("the reader ends with the terminal");
    assert_eq!(status.code(), Some(130), "{}", text());

    assert!(
        !text().contains("/0 ") && !text().contains("epoch 0/0"),
        "{}",
        text()
    );
    let bars: Vec<&str> = running
        .lines()
        .filter(|line| line.contains("epoch "))
        .collect();
    assert!(bars.iter().all(|line| line.contains(" seed ")), "{running}");
    assert!(
        bars.iter().any(|line| line.contains("learning_rate=")),
        "the candidate is visible: {running}"
    );
    let left = Screen::show(&seen.lock().expect("nobody panics")).text();
    assert!(
        left.contains("interrupted; everything done is kept"),
        "{left}"
    );
    let remains: Vec<&str> = left
        .lines()
        .filter(|line| line.contains("epoch ") || line.contains("[="))
        .collect();
    assert!(remains.is_empty(), "{remains:#?} in\n{left}");
}
