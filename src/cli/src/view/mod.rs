//! The terminal view of sweeps, for `run`, `tail` and `status --watch`.
//!
//! `model.rs`, `keys.rs` and `page.rs` are its state; `draw.rs`, `panes.rs`, `workers.rs` and
//! `trial.rs` draw that state into a buffer. Both are pure. This file is the shell: it asks the
//! coordinator, reads keys and writes frames. `terminal.rs` owns the terminal.

mod draw;
mod keys;
mod model;
#[cfg(test)]
mod model_tests;
mod page;
mod panes;
#[cfg(test)]
mod pictures;
pub mod terminal;
mod trial;
mod workers;

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use protocol::v1::{self, WaitReason};
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use sweep::counted;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use self::draw::Theme;
use self::model::{Action, Model};
use crate::args::Target;
use crate::client::Client;
use crate::exit::ExpectedError;
use crate::{advice, stderr};
use coordinator::WORK_DIR;

pub use self::model::{Input, Kind, Leaving};

/// Interval of requests for the status.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// The shortest pause between two tables, in seconds and as a multiple of the time that the last one
/// took.
const TABLE_EVERY: Duration = Duration::from_secs(1);
const TABLE_SHARE: u32 = 10;
/// The shortest time between two frames.
const FRAME: Duration = Duration::from_millis(60);
/// Longest time for which the thread that reads keys does not notice the end of the view.
const KEY_WAIT: Duration = Duration::from_millis(50);
/// Bytes at the end of a log that are shown.
const LOG_BYTES: u64 = 32 * 1024;
/// Columns beside a table.
const MARGIN: usize = 4;

/// The coordinator and the sweep of a view.
pub struct Source {
    pub client: Client,
    /// The sweep to show; `None`: every sweep of the coordinator, the newest first.
    pub sweep: Option<String>,
    pub leaving: Leaving,
    /// True if this command starts workers itself, so that a user need not be asked for any.
    pub starts_workers: bool,
    /// Completes the commands in advice. Its state directory holds the logs of trials that this
    /// machine trains.
    pub target: Target,
}

impl Source {
    fn work_dir(&self) -> PathBuf {
        self.target.state_dir.join(WORK_DIR)
    }
}

/// A running view, which owns the terminal.
pub struct RunningView {
    inputs: UnboundedSender<Input>,
    tasks: Vec<JoinHandle<()>>,
    keys: Option<thread::JoinHandle<()>>,
    has_ended: Arc<AtomicBool>,
}

impl RunningView {
    /// Takes the terminal and starts the view. Needs a runtime.
    pub fn start(source: Source) -> io::Result<Self> {
        let (inputs, receiver) = mpsc::unbounded_channel();
        terminal::take(inputs.clone())?;
        let has_ended = Arc::new(AtomicBool::new(false));
        let keys = {
            let (inputs, has_ended) = (inputs.clone(), has_ended.clone());
            thread::spawn(move || read_keys(&inputs, &has_ended))
        };
        let (table, tables) = watch::channel(String::new());
        let tasks = vec![
            tokio::spawn(fetch_tables(source.client.clone(), tables, inputs.clone())),
            tokio::spawn(watch_continue()),
            tokio::spawn(Shell::new(source, inputs.clone(), table).drive(receiver)),
        ];
        Ok(Self {
            inputs,
            tasks,
            keys: Some(keys),
            has_ended,
        })
    }

    pub fn send(&self, input: Input) {
        // An error means that the view has ended.
        let _ = self.inputs.send(input);
    }

    /// Ends the view and gives the terminal back.
    pub fn finish(&mut self) {
        self.has_ended.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            task.abort();
        }
        if let Some(keys) = self.keys.take() {
            // An error means that it has panicked, which restored the terminal.
            let _ = keys.join();
        }
        terminal::give_back();
    }
}

impl Drop for RunningView {
    fn drop(&mut self) {
        self.finish();
    }
}

fn read_keys(inputs: &UnboundedSender<Input>, has_ended: &AtomicBool) {
    while !has_ended.load(Ordering::Relaxed) {
        let event = match event::poll(KEY_WAIT) {
            Ok(true) => event::read(),
            Ok(false) => continue,
            Err(error) => Err(error),
        };
        let input = match event {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Input::Key(key),
            Ok(Event::Resize(..)) => Input::Resized,
            Ok(_) => continue,
            // the terminal is gone
            Err(_) => return,
        };
        if inputs.send(input).is_err() {
            return;
        }
    }
}

/// Takes the terminal again when a shell has continued this process.
async fn watch_continue() {
    // SIGCONT has no name in tokio
    let Ok(mut continued) = signal(SignalKind::from_raw(Signal::SIGCONT as i32)) else {
        return;
    };
    while continued.recv().await.is_some() {
        terminal::resume();
    }
}

/// Fetches the tables of the sweep that was requested last, at a bounded rate.
async fn fetch_tables(
    mut client: Client,
    mut wanted: watch::Receiver<String>,
    inputs: UnboundedSender<Input>,
) {
    while wanted.changed().await.is_ok() {
        let sweep = wanted.borrow_and_update().clone();
        let asked = Instant::now();
        let width = terminal::columns().saturating_sub(MARGIN);
        // An error is ignored: the next result brings another request.
        if let Ok(text) = client.tables(&sweep, width).await {
            let _ = inputs.send(Input::Table { sweep, text });
        }
        sleep(TABLE_EVERY.max(asked.elapsed() * TABLE_SHARE)).await;
    }
}

/// Performs the actions of the model.
struct Shell {
    model: Model,
    source: Source,
    inputs: UnboundedSender<Input>,
    table: watch::Sender<String>,
    theme: Theme,
    began: Instant,
}

impl Shell {
    fn new(source: Source, inputs: UnboundedSender<Input>, table: watch::Sender<String>) -> Self {
        let sweep = source.sweep.clone().unwrap_or_default();
        Self {
            model: Model::new(&sweep, source.leaving),
            source,
            inputs,
            table,
            theme: Theme {
                colour: stderr::colour(),
            },
            began: Instant::now(),
        }
    }

    async fn drive(mut self, mut receiver: UnboundedReceiver<Input>) {
        let mut ticks = interval(STATUS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_frame = Instant::now();
        let mut is_stale = true;
        loop {
            tokio::select! {
                input = receiver.recv() => match input {
                    Some(input) => self.update(input),
                    None => return,
                },
                _ = ticks.tick() => {
                    self.ask_status();
                    self.update(Input::Tick);
                }
                () = sleep_until(next_frame), if is_stale => {
                    let (model, theme) = (&self.model, self.theme);
                    // An error means that the terminal is gone, which its keys report too.
                    let _ = terminal::draw(|area, buffer| draw::draw(model, theme, area, buffer));
                    is_stale = false;
                    next_frame = Instant::now() + FRAME;
                    continue;
                }
            }
            is_stale = true;
        }
    }

    fn update(&mut self, input: Input) {
        let now = self.began.elapsed().as_millis() as u64;
        for action in self.model.update(input, now) {
            self.perform(action);
        }
    }

    fn perform(&self, action: Action) {
        match action {
            Action::Table(sweep) => {
                self.table.send_replace(sweep);
            }
            Action::Describe(trial) => self.describe(trial),
            Action::Cancel(sweep) => {
                let mut client = self.source.client.clone();
                self.ask(async move {
                    let ended = counted(client.cancel(&sweep).await?, "trial");
                    Ok(format!("{sweep} is cancelled: {ended} ended"))
                });
            }
            Action::Retry(sweep) => {
                let mut client = self.source.client.clone();
                self.ask(async move {
                    let request = v1::RetryRequest {
                        sweep,
                        ..v1::RetryRequest::default()
                    };
                    let again = counted(client.retry(request).await?, "trial");
                    Ok(format!("to be retried: {again}"))
                });
            }
            Action::RetryTrial(trial) => {
                let mut client = self.source.client.clone();
                self.ask(async move {
                    let request = v1::RetryRequest {
                        sweep: client.find("", &trial).await?.sweep,
                        trials: vec![trial.clone()],
                        ..v1::RetryRequest::default()
                    };
                    Ok(match client.retry(request).await? {
                        0 => format!("{trial} waits or runs already"),
                        _ => format!("to be retried: {trial}"),
                    })
                });
            }
            // The command ends as it does without a view: by its handler of the signal.
            Action::Leave => drop(nix::sys::signal::kill(
                nix::unistd::Pid::this(),
                Signal::SIGINT,
            )),
            Action::Suspend => terminal::suspend(),
            Action::Redraw => terminal::clear(),
        }
    }

    fn ask_status(&self) {
        let (mut client, inputs) = (self.source.client.clone(), self.inputs.clone());
        let (sweep, target) = (self.source.sweep.clone(), self.source.target.clone());
        let starts_workers = self.source.starts_workers;
        tokio::spawn(async move {
            let input = match client.status(sweep.as_deref()).await {
                Ok(mut reply) => {
                    for sweep in &mut reply.sweeps {
                        let reach = client.flags();
                        let because = &mut sweep.waits_because;
                        *because = advice::complete(because, &target, Some(&reach));
                        if starts_workers && sweep.waits() == WaitReason::NoWorkers {
                            sweep.waits_because.clear();
                        }
                    }
                    Input::Status(Box::new(reply))
                }
                Err(error) => Input::Done(one_line(&error.render())),
            };
            let _ = inputs.send(input);
        });
    }

    fn describe(&self, trial: String) {
        let (mut client, inputs) = (self.source.client.clone(), self.inputs.clone());
        let work_dir = self.source.work_dir();
        tokio::spawn(async move {
            let reply = client.trial(&trial, false).await;
            let log = match &reply {
                Ok(reply) if !reply.log.is_empty() => log_end(&work_dir.join(&reply.log)),
                Ok(_) | Err(_) => None,
            };
            let reply = reply
                .map(Box::new)
                .map_err(|error| one_line(&error.render()));
            let _ = inputs.send(Input::Described { trial, reply, log });
        });
    }

    /// Shows the outcome of a request in the last line.
    fn ask(&self, outcome: impl Future<Output = Result<String, ExpectedError>> + Send + 'static) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let text = outcome
                .await
                .unwrap_or_else(|error| one_line(&error.render()));
            // An error means that the view has ended.
            let _ = inputs.send(Input::Done(text));
        });
    }
}

fn one_line(error: &str) -> String {
    error.lines().next().unwrap_or_default().to_owned()
}

/// Returns the last lines of a log; `None` if it is not on this machine.
fn log_end(path: &Path) -> Option<Vec<String>> {
    let mut file = std::fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let start = length.saturating_sub(LOG_BYTES);
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let plain = anstream::adapter::strip_str(&text).to_string();
    // the first line may have lost its beginning
    Some(
        plain
            .lines()
            .skip(usize::from(start > 0))
            .map(str::to_owned)
            .collect(),
    )
}
