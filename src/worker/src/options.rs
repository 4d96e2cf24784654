//! How a worker is started, and stopped again.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use protocol::limits::MAX_SLOTS;
use protocol::{Token, WorkerSecret};
use schedule::state::{self, WorkerId, WorkerInfo};
use sweep::record::{Failure, FailureClass};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::devices;
use crate::launch::Launch;
use crate::link::{self, Link};
use crate::places;
use crate::residue::NvidiaSmi;
use crate::run::{Intent, Loop, Session};
use crate::slot::{Command, Slot, Surroundings};
use crate::trainer::Spawner;
use crate::work_dir::WorkDir;

pub struct Options {
    /// `http://HOST:PORT`
    pub coordinator: String,
    pub token: Option<Token>,
    /// Where the token was read: read again when the coordinator refuses it.
    pub token_file: Option<PathBuf>,
    /// Version and build: must equal the coordinator's and the trainer's.
    pub build: String,
    /// Stands for the machine's host name where that says nothing (containers).
    pub name: Option<String>,
    /// See `devices::slots`.
    pub slots: Vec<state::Slot>,
    /// The trainer's executable.
    pub trainer: PathBuf,
    /// Whose program that is: see `executable::identify`.
    pub program: sweep::Trainer,
    /// The data sets, and the other files that sweeps name.
    pub data_dir: PathBuf,
    /// Folders beside the data directory that sweeps may name files in; absent: anywhere, where sweeps are the user's own.
    pub allowed_paths: Option<Vec<PathBuf>>,
    /// Decoded data sets; shared by the trainers of a machine.
    pub cache_dir: PathBuf,
    /// Checkpoints and the stderr of trainers; no results (see `work_dir.rs`). Several workers may share it, on one
    /// machine or on a network file system; then a killed worker's trials resume elsewhere from their checkpoints.
    pub work_dir: PathBuf,
    pub timing: Timing,
}

/// How patient a worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From starting a trainer to its `Ready`.
    pub trainer_start: Duration,
    /// From `Stop` to the trainer's answer: time for a step and a checkpoint.
    pub checkpoint: Duration,
    /// From TERM to KILL.
    pub terminate: Duration,
    /// How long a leaving worker waits for the last acknowledgements.
    pub goodbye: Duration,
    /// How long a worker that was welcomed once goes on although it is refused. Then it leaves with checkpoints.
    pub refused: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            trainer_start: Duration::from_secs(120),
            checkpoint: Duration::from_secs(30),
            terminate: Duration::from_secs(5),
            goodbye: Duration::from_secs(15),
            refused: Duration::from_secs(5 * 60),
        }
    }
}

/// Why a worker ended in good order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// After [`Handle::leave`]: attempts are checkpointed and reported as preempted.
    Left,
    /// After [`Handle::stop_now`].
    Stopped,
    /// The coordinator told it to take no new work, and what ran is finished.
    Drained { reason: String },
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the coordinator's address `{address}` cannot be used: {reason}")]
    BadAddress { address: String, reason: String },
    #[error("a worker needs at least one slot and at most {MAX_SLOTS}, not {count}")]
    BadSlots { count: usize },
    #[error("cannot use the {name} `{path}`; {flag} chooses another")]
    Directory {
        name: &'static str,
        flag: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot use the work directory `{path}`")]
    WorkDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the trainer cannot be used: {reason}")]
    Trainer { reason: String },
    #[error("the coordinator refused this worker: {reason}")]
    Refused { reason: String },
    #[error("what answers at `{address}` is not a coordinator")]
    NotACoordinator { address: String },
    #[error("cannot start a thread or read this machine's name")]
    System(#[source] io::Error),
    #[error("processes of trainers are still there {seconds} s after they were killed: look at the machine's devices")]
    ProcessesLeft { seconds: u64 },
    #[error("the worker's task ended without an answer")]
    Vanished,
}

pub struct Worker;

/// A running worker. Dropping it kills its trainers.
pub struct Handle {
    worker: WorkerId,
    intent: watch::Sender<Intent>,
    /// Until its answer was given.
    task: Option<JoinHandle<Result<Ended, Error>>>,
}

impl Worker {
    /// Ends what a dead worker left in the work directory, starts one trainer to see that it runs and is of this build,
    /// then serves on tasks of the current runtime.
    pub async fn start(options: Options) -> Result<Handle, Error> {
        let count = options.slots.len();
        if count == 0 || count > MAX_SLOTS {
            return Err(Error::BadSlots { count });
        }
        let endpoint = link::endpoint(&options.coordinator)?;
        let host = match &options.name {
            Some(name) => name.clone(),
            None => host_name()?,
        };
        let host = file_name(&host);
        let worker = worker_id(&host)?;
        let secret = WorkerSecret::random().map_err(Error::System)?;
        places::check(&options.work_dir, &options.cache_dir, &options.data_dir)?;
        let in_work_dir = |source| Error::WorkDir { path: options.work_dir.clone(), source };
        let work_dir = WorkDir::open(&options.work_dir).map_err(in_work_dir)?;
        work_dir.end_orphans(&host).await.map_err(in_work_dir)?;
        let registration = work_dir.register(&worker.0).map_err(in_work_dir)?;
        let patience = options.timing.refused;
        let around = Arc::new(Surroundings {
            spawner: Spawner::start().map_err(Error::System)?,
            build: options.build.clone(),
            data_dir: options.data_dir,
            allowed_paths: options.allowed_paths,
            cache_dir: options.cache_dir,
            work_dir,
            timing: options.timing,
        });
        let (events, said) = mpsc::channel(1024);
        let mut commands = Vec::new();
        let mut slots = Vec::new();
        for (index, slot) in options.slots.iter().enumerate() {
            // far more than the coordinator has to say about one slot
            let (sender, receiver) = mpsc::channel(64);
            let launch = Launch {
                program: options.trainer.clone(),
                trainer: options.program.clone(),
                slot: slot.clone(),
                threads: devices::threads(slot, count),
                memory_share: devices::memory_share(slot, &options.slots),
                mark: format!("{worker}/{index}"),
                driver: Arc::new(NvidiaSmi),
            };
            commands.push(sender);
            slots.push(Slot::new(index as u32, launch, around.clone(), receiver, events.clone()));
        }
        prove_trainer(&mut slots).await.map_err(|failure| Error::Trainer { reason: failure.message })?;
        let (link_events, link) = mpsc::channel(256);
        let (token, token_file) = (options.token, options.token_file);
        let link_task = tokio::spawn(Link { endpoint, token, token_file, patience, events: link_events }.run());
        let mut slot_tasks = JoinSet::new();
        for slot in slots {
            slot_tasks.spawn(slot.run());
        }
        let (intent, wanted) = watch::channel(Intent::Work);
        let info = WorkerInfo { host, build: options.build, trainer: options.program, slots: options.slots };
        let slots = commands.clone();
        let state = Session::default();
        let running = Loop { worker: worker.clone(), secret, info, around, slots, said, link, intent: wanted, state };
        let task = tokio::spawn(async move {
            let ended = running.run().await;
            link_task.abort();
            end_slots(commands, slot_tasks).await?;
            drop(registration);
            ended
        });
        Ok(Handle { worker, intent, task: Some(task) })
    }
}

/// One trainer that starts shows that trainers do. A GPU that is gone is the affair of its slot, whose first attempt says so.
async fn prove_trainer(slots: &mut [Slot]) -> Result<(), Failure> {
    let mut proved = Ok(());
    for slot in slots {
        proved = slot.prove_trainer().await;
        match &proved {
            Err(failure) if failure.class == FailureClass::BadDevice => {
                tracing::warn!(failure.message, "a slot's device cannot be used; trying the next slot");
            }
            Ok(()) | Err(_) => break,
        }
    }
    proved
}

/// After KILL everything goes, but for processes that the kernel itself cannot end.
const LAST_WAIT: Duration = Duration::from_secs(60);

async fn end_slots(commands: Vec<mpsc::Sender<Command>>, mut slots: JoinSet<()>) -> Result<(), Error> {
    for slot in &commands {
        let _ = slot.try_send(Command::Kill);
    }
    drop(commands);
    let all = async { while slots.join_next().await.is_some() {} };
    let left = Error::ProcessesLeft { seconds: LAST_WAIT.as_secs() };
    tokio::time::timeout(LAST_WAIT, all).await.map_err(|_| left)
}

fn host_name() -> Result<String, Error> {
    let name = nix::unistd::gethostname().map_err(|error| Error::System(error.into()))?;
    Ok(name.to_string_lossy().into_owned())
}

/// Short and without `/`: a worker's id begins with its host and names a file.
fn file_name(host: &str) -> String {
    protocol::fleet::to_name(host).replace('/', "_").chars().take(48).collect()
}

/// `HOST-PID-RANDOM`
fn worker_id(host: &str) -> Result<WorkerId, Error> {
    let mut random = [0; 4];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)).map_err(Error::System)?;
    Ok(WorkerId(format!("{host}-{}-{:08x}", std::process::id(), u32::from_le_bytes(random)).into()))
}

impl Handle {
    pub fn worker(&self) -> &WorkerId {
        &self.worker
    }

    /// Takes no new work, checkpoints and stops what runs, waits for acknowledgements, ends. Returns at once.
    pub fn leave(&self, reason: &str) {
        self.intent.send_if_modified(|intent| {
            let first = *intent == Intent::Work;
            if first {
                *intent = Intent::Leave(reason.to_owned());
            }
            first
        });
    }

    /// Kills the trainers and ends. Returns at once.
    pub fn stop_now(&self) {
        self.intent.send_replace(Intent::StopNow);
    }

    pub fn has_ended(&self) -> bool {
        self.task.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Until it has ended and no process of it is left. The answer is given once.
    pub async fn wait(&mut self) -> Result<Ended, Error> {
        let Some(task) = &mut self.task else { return Err(Error::Vanished) };
        let ended = task.await.unwrap_or(Err(Error::Vanished));
        self.task = None;
        ended
    }
}
