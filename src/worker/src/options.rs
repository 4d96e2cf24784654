//! How a worker is started, and stopped again.

use std::path::PathBuf;
use std::time::Duration;

use protocol::Token;
use schedule::state::Slot;

pub struct Options {
    /// `http://HOST:PORT`
    pub coordinator: String,
    pub token: Option<Token>,
    /// Version and build: must equal the coordinator's and the trainer's.
    pub build: String,
    /// Stands for the machine's host name where that says nothing (containers).
    pub name: Option<String>,
    /// See `devices::slots`.
    pub slots: Vec<Slot>,
    /// The trainer's executable.
    pub trainer: PathBuf,
    /// The data sets.
    pub data_dir: PathBuf,
    /// Decoded data sets; shared by the trainers of a machine.
    pub cache_dir: PathBuf,
    /// Checkpoints, logs of trainers, results that are not acknowledged yet. Several workers may share it, on one
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
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            trainer_start: Duration::from_secs(120),
            checkpoint: Duration::from_secs(30),
            terminate: Duration::from_secs(5),
            goodbye: Duration::from_secs(15),
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
    #[error("not built yet")]
    NotBuilt,
}

pub struct Worker;

/// A running worker. Dropping it kills its trainers.
pub struct Handle {}

impl Worker {
    /// Starts one trainer to see that it runs and is of this build, then serves on tasks of the current runtime.
    pub async fn start(_options: Options) -> Result<Handle, Error> {
        Err(Error::NotBuilt)
    }
}

impl Handle {
    /// Takes no new work, checkpoints and stops what runs, waits for acknowledgements, ends. Returns at once.
    pub fn leave(&self, _reason: &str) {}

    /// Kills the trainers and ends. Returns at once.
    pub fn stop_now(&self) {}

    /// Until it has ended and no process of it is left.
    pub async fn wait(&mut self) -> Result<Ended, Error> {
        Err(Error::NotBuilt)
    }
}
