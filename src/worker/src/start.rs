//! The options of a worker, its start and its end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use protocol::WorkerSecret;
use protocol::limits::MAX_SLOTS;
use schedule::state::{self, WorkerId, WorkerInfo};
use sweep::record::{Failure, FailureClass};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::connection::{self, Connection, Coordinator};
use crate::devices;
use crate::directories;
use crate::error::Error;
use crate::gpu_release::NvidiaSmi;
use crate::launch::Launch;
use crate::programs::Programs;
use crate::run::{Intent, Session, WorkerLoop};
use crate::slot::{Command, Slot, SlotContext};
use crate::slurm::{self, Job};
use crate::trainer::Spawner;
use crate::uploads::Uploads;
use crate::work_dir::WorkDir;

pub struct Options {
    pub coordinator: Coordinator,
    /// Version and build; must equal the coordinator's and the trainer's.
    pub build: String,
    /// A replacement for the machine's host name if that is not useful (containers).
    pub name: Option<String>,
    /// See `devices::slots`.
    pub slots: Vec<state::Slot>,
    /// The trainer's executable; empty: there is none, and the worker only runs the programs of
    /// sweeps.
    pub trainer: PathBuf,
    /// The program that `trainer` is: see `executable::identify`.
    pub program: sweep::Trainer,
    /// Where the trainer's libraries are, if it does not find them by itself.
    pub libraries: Option<PathBuf>,
    /// The folder of data sets and of other files that sweeps name.
    pub data_dir: PathBuf,
    /// Folders besides the data directory in which sweeps may name files. `None` allows any folder,
    /// if all sweeps are the user's own.
    pub allowed_paths: Option<Vec<PathBuf>>,
    /// Decoded data sets, shared by the trainers of a machine.
    pub cache_dir: PathBuf,
    /// Checkpoints and the stderr of trainers; no results (see `work_dir.rs`). Several workers may
    /// share it, on one machine or on a network file system. Then the trials of a killed worker
    /// resume elsewhere from their checkpoints.
    pub work_dir: PathBuf,
    /// Time without an attempt after which the worker asks to leave, or leaves if no coordinator
    /// answers; `None`: it stays.
    pub idle_timeout: Option<Duration>,
    /// Name of the allocation that a launcher made for this worker.
    pub allocation: Option<String>,
    /// The Slurm job that this process runs in.
    pub job: Option<Job>,
    pub timing: Timing,
}

/// The timeouts of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Timeout from the start of a trainer to its `Ready`.
    pub trainer_start: Duration,
    /// Timeout from `Stop` to the trainer's answer: time for a step and a checkpoint.
    pub checkpoint: Duration,
    /// Timeout from the end of a trainer's stdin to KILL.
    pub exit: Duration,
    /// A signal that ends a trainer this long before its worker is asked to leave, or sooner, is
    /// part of that request.
    pub signal_before_request: Duration,
    /// Timeout of a leaving worker for the last acknowledgements.
    pub goodbye: Duration,
    /// Timeout for the files that a sweep keeps of a trial.
    pub uploads: Duration,
    /// Timeout of refusals for a worker that was welcomed once. Afterwards it checkpoints and
    /// leaves.
    pub refused: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            trainer_start: Duration::from_secs(120),
            checkpoint: Duration::from_secs(30),
            exit: Duration::from_secs(5),
            signal_before_request: Duration::from_secs(1),
            goodbye: Duration::from_secs(15),
            uploads: Duration::from_secs(10 * 60),
            refused: Duration::from_secs(5 * 60),
        }
    }
}

/// The reason why a worker ended normally.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// After [`Handle::leave`]. `outstanding`: it gave attempts back, or does not know whether the
    /// coordinator has their outcomes.
    Left { outstanding: bool },
    /// After [`Handle::stop_now`].
    Stopped,
    /// The coordinator drained it, and its running attempts have finished.
    Drained { reason: String },
}

/// A running worker. Dropping it kills its trainers.
pub struct Handle {
    worker: WorkerId,
    intent: watch::Sender<Intent>,
    /// The worker's task, until `wait` has returned its result.
    task: Option<JoinHandle<Result<Ended, Error>>>,
}

/// Kills what a dead worker left in the work directory, starts one trainer to check that it
/// runs and has this build, then serves on tasks of the current runtime.
pub async fn start(options: Options) -> Result<Handle, Error> {
    let count = options.slots.len();
    if count == 0 || count > MAX_SLOTS {
        return Err(Error::BadSlots { count });
    }
    // Not yet published is no error: the coordinator may start later.
    if let Ok(place) = (options.coordinator.find)() {
        connection::endpoint(&place.address)?;
    }
    let host = match &options.name {
        Some(name) => name.clone(),
        None => gethostname::gethostname().to_string_lossy().into_owned(),
    };
    let host = file_name(&host);
    let worker = worker_id(&host)?;
    let secret = WorkerSecret::random().map_err(Error::System)?;
    directories::check(&options.work_dir, &options.cache_dir, &options.data_dir)?;
    let in_work_dir = |source| Error::WorkDir {
        path: options.work_dir.clone(),
        source,
    };
    let work_dir = WorkDir::open(&options.work_dir).map_err(in_work_dir)?;
    work_dir.end_orphans(&host).await.map_err(in_work_dir)?;
    let registration = work_dir.register(&worker.0).map_err(in_work_dir)?;
    let patience = options.timing.refused;
    let programs = Programs {
        coordinator: options.coordinator.clone(),
        folder: options.work_dir.join("programs"),
        shared_folders: vec![
            options.work_dir.clone(),
            options.data_dir.clone(),
            options.cache_dir.clone(),
        ],
        allowed: Programs::are_allowed(options.allowed_paths.as_deref()),
    };
    let context = Arc::new(SlotContext {
        programs,
        spawner: Spawner::start().map_err(Error::System)?,
        build: options.build.clone(),
        data_dir: options.data_dir,
        allowed_paths: options.allowed_paths,
        cache_dir: options.cache_dir,
        work_dir,
        uploads: Uploads {
            coordinator: options.coordinator.clone(),
            patience: options.timing.uploads,
        },
        timing: options.timing,
    });
    let (events, slot_events) = mpsc::channel(1024);
    let mut commands = Vec::new();
    let mut slots = Vec::new();
    for (index, slot) in options.slots.iter().enumerate() {
        // far more messages than the coordinator sends to one slot
        let (sender, receiver) = mpsc::channel(64);
        let launch = Launch {
            program: options.trainer.clone(),
            arguments: Vec::new(),
            trainer: options.program.clone(),
            libraries: options.libraries.clone(),
            slot: slot.clone(),
            threads: devices::threads(slot, count),
            memory_share: devices::memory_share(slot, &options.slots),
            directory: None,
            variables: Vec::new(),
            mark: format!("{worker}/{index}"),
            driver: Arc::new(NvidiaSmi),
        };
        commands.push(sender);
        slots.push(Slot::new(
            index as u32,
            launch,
            context.clone(),
            receiver,
            events.clone(),
        ));
    }
    let has_trainer = !options.trainer.as_os_str().is_empty();
    let proved = async {
        match has_trainer {
            true => check_trainer(&mut slots).await,
            false => Ok(()),
        }
    };
    let (checked, job_end) = tokio::join!(proved, slurm::follow_end(options.job));
    checked.map_err(|failure| Error::Trainer {
        reason: failure.message,
    })?;
    let (connection_events, connection) = mpsc::channel(256);
    let connection_task = tokio::spawn(
        Connection {
            coordinator: options.coordinator.clone(),
            token: None,
            patience,
            events: connection_events,
        }
        .run(),
    );
    let mut slot_tasks = JoinSet::new();
    for slot in slots {
        slot_tasks.spawn(slot.run());
    }
    let (intent, wanted) = watch::channel(Intent::Work);
    let info = WorkerInfo {
        host,
        build: options.build,
        trainer: options.program,
        slots: options.slots,
        allocation: options.allocation,
        leaves_at_ms: *job_end.borrow(),
    };
    let slots = commands.clone();
    let session = Session::default();
    let running = WorkerLoop {
        worker: worker.clone(),
        secret,
        info,
        context,
        slots,
        slot_events,
        connection,
        intent: wanted,
        job_end,
        coordinator: options.coordinator.name,
        idle_timeout: options.idle_timeout,
        session,
    };
    let task = tokio::spawn(async move {
        let ended = running.run().await;
        connection_task.abort();
        end_slots(commands, slot_tasks).await?;
        drop(registration);
        ended
    });
    Ok(Handle {
        worker,
        intent,
        task: Some(task),
    })
}

/// Starts one trainer to prove that trainers start. A missing GPU is left to its slot, whose first
/// attempt reports it.
async fn check_trainer(slots: &mut [Slot]) -> Result<(), Failure> {
    let mut proved = Ok(());
    for slot in slots {
        proved = slot.check_trainer().await;
        match &proved {
            Err(failure) if failure.class == FailureClass::BadDevice => {
                tracing::warn!(
                    failure.message,
                    "a slot's device cannot be used; trying the next slot"
                );
            }
            Ok(()) | Err(_) => break,
        }
    }
    proved
}

/// Timeout after KILL, which ends all processes but those that the kernel itself cannot end.
const LAST_WAIT: Duration = Duration::from_secs(60);

async fn end_slots(
    commands: Vec<mpsc::Sender<Command>>,
    mut slots: JoinSet<()>,
) -> Result<(), Error> {
    for slot in &commands {
        let _ = slot.try_send(Command::Kill);
    }
    drop(commands);
    let all = async { while slots.join_next().await.is_some() {} };
    let left = Error::ProcessesLeft {
        seconds: LAST_WAIT.as_secs(),
    };
    tokio::time::timeout(LAST_WAIT, all).await.map_err(|_| left)
}

/// Makes a short name without `/`: a worker's id begins with its host and names a file.
fn file_name(host: &str) -> String {
    protocol::fleet::to_name(host)
        .replace('/', "_")
        .chars()
        .take(48)
        .collect()
}

/// `HOST-PID-RANDOM`
fn worker_id(host: &str) -> Result<WorkerId, Error> {
    let random = getrandom::u32().map_err(|error| Error::System(error.into()))?;
    Ok(WorkerId(
        format!("{host}-{}-{random:08x}", std::process::id()).into(),
    ))
}

impl Handle {
    pub fn worker(&self) -> &WorkerId {
        &self.worker
    }

    /// Takes no new work, checkpoints and stops running attempts, waits for acknowledgements, and
    /// ends. Returns at once.
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

    /// Waits until the worker has ended and none of its processes is left. Returns the result once.
    pub async fn wait(&mut self) -> Result<Ended, Error> {
        let Some(task) = &mut self.task else {
            return Err(Error::Vanished);
        };
        let ended = task.await.unwrap_or(Err(Error::Vanished));
        self.task = None;
        ended
    }
}
