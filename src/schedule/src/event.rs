//! The vocabulary of the state machine: what comes in, what is journalled, what goes out, what is refused.

use serde::{Deserialize, Serialize};
use sweep::handoff::Progress;
use sweep::record::{Failure, TrialResult};
use sweep::{AttemptNo, Sweep, TrialId};

use crate::state::{Millis, SlotIndex, WorkerId, WorkerInfo};

/// Everything that can happen to the coordinator.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    Submit {
        sweep: Box<Sweep>,
    },
    Cancel {
        sweep: String,
        reason: String,
    },
    /// Failed trials of a sweep wait again, with fresh budgets.
    RetryFailed {
        sweep: String,
    },
    Drain {
        worker: WorkerId,
        reason: String,
    },
    Undrain {
        host: String,
    },
    /// A stream was opened. `running` and `ended` are the worker's whole knowledge: what the coordinator believes
    /// beyond `running` is lost, what is in `ended` and still current is accepted.
    Connected {
        worker: WorkerId,
        info: WorkerInfo,
        running: Vec<RunningAttempt>,
        ended: Vec<EndedAttempt>,
    },
    /// A stream broke. The lease goes on running.
    Disconnected {
        worker: WorkerId,
    },
    Heartbeat {
        worker: WorkerId,
        running: Vec<RunningAttempt>,
    },
    Ended {
        worker: WorkerId,
        ended: EndedAttempt,
    },
    /// SIGTERM with notice, Slurm's USR1: no new work; running attempts checkpoint and end as preempted.
    Leaving {
        worker: WorkerId,
        reason: String,
    },
    /// A deadline passed (see `State::next_deadline`), or nothing else happened for a while.
    Tick,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RunningAttempt {
    pub trial: TrialId,
    pub attempt: AttemptNo,
    pub slot: SlotIndex,
    pub progress: Progress,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EndedAttempt {
    pub trial: TrialId,
    pub attempt: AttemptNo,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Finished(Box<TrialResult>),
    Failed(Failure),
    /// Stopped on the coordinator's word.
    Stopped,
}

/// What is journalled, and nothing else changes the durable state. Past tense: an event is a fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    SweepSubmitted {
        sweep: Box<Sweep>,
    },
    SweepCancelled {
        sweep: String,
        reason: String,
    },
    FailedTrialsRetried {
        sweep: String,
    },
    WorkerJoined {
        worker: WorkerId,
        info: WorkerInfo,
    },
    WorkerDraining {
        worker: WorkerId,
        reason: String,
    },
    WorkerGone {
        worker: WorkerId,
        reason: String,
    },
    HostDrained {
        host: String,
        reason: String,
    },
    HostUndrained {
        host: String,
    },
    TrialDispatched {
        trial: TrialId,
        attempt: AttemptNo,
        worker: WorkerId,
        slot: SlotIndex,
    },
    AttemptSucceeded {
        trial: TrialId,
        attempt: AttemptNo,
        result: Box<TrialResult>,
    },
    AttemptFailed {
        trial: TrialId,
        attempt: AttemptNo,
        failure: Failure,
        then: Then,
    },
    /// Nobody wanted it any more, and its worker has stopped it.
    AttemptStopped {
        trial: TrialId,
        attempt: AttemptNo,
    },
    /// The worker says that nothing of an attempt that ended earlier (its lease ran out) is left in the slot.
    SlotFreed {
        worker: WorkerId,
        slot: SlotIndex,
    },
    SlotBroken {
        worker: WorkerId,
        slot: SlotIndex,
        reason: String,
    },
    /// A search is over: this candidate's trials make the cell.
    CandidateChosen {
        sweep: String,
        cell: usize,
        candidate: usize,
    },
}

/// What a failed attempt means for its trial. Decided once and journalled, so that replay needs no budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    Retry { not_before: Millis },
    GiveUp,
}

/// An event with its place and time in the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    pub at: Millis,
    pub event: Event,
}

/// What the shell does after events are journalled and applied. Losing one in a crash is repaired by the next
/// `Connected`, which compares lists.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Start {
        worker: WorkerId,
        slot: SlotIndex,
        trial: TrialId,
        attempt: AttemptNo,
    },
    Stop {
        worker: WorkerId,
        trial: TrialId,
        attempt: AttemptNo,
        reason: String,
    },
    /// The outcome of this attempt is durable (or was stale): the worker may forget it.
    Acknowledge {
        worker: WorkerId,
        trial: TrialId,
        attempt: AttemptNo,
    },
}

/// Why an input changed nothing. A value, never a panic: peers may say anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("no sweep is named `{0}`")]
    UnknownSweep(String),
    #[error("no worker `{0}` has joined")]
    UnknownWorker(WorkerId),
    #[error("no host `{0}` is known")]
    UnknownHost(String),
    #[error(
        "worker `{worker}` is of build `{worker_build}`, the coordinator of `{coordinator_build}`: start it from the same build"
    )]
    OtherBuild { worker: WorkerId, worker_build: String, coordinator_build: String },
    #[error("attempt {attempt} of trial {trial} is not current: {reason}")]
    StaleAttempt { trial: TrialId, attempt: AttemptNo, reason: String },
    #[error("{0}")]
    Invalid(String),
}
