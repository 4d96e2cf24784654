//! The vocabulary of the state machine: what comes in, what is journalled, what goes out, what is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sweep::handoff::Progress;
use sweep::record::{Failure, TrialResult};
use sweep::text::{self, Line};
use sweep::{AttemptNo, Sweep, TrialId};

use crate::state::{Millis, SecretHash, SlotIndex, SweepTrial, WorkerId, WorkerInfo};

/// Everything that can happen to the coordinator.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    Submit {
        sweep: Box<Sweep>,
    },
    Cancel {
        sweep: String,
        reason: Line,
    },
    /// Trials of a sweep wait again, with fresh budgets. A cancelled sweep goes on.
    Retry {
        sweep: String,
        which: Retry,
    },
    /// `name`: a worker, or a host with all its workers.
    Drain {
        name: String,
        reason: Line,
    },
    /// Undoes `Drain`, and what the bad-node rule and broken devices did. `name`: a worker or a host.
    Undrain {
        name: String,
    },
    /// A stream was opened. `running` and `ended` are the worker's whole knowledge: what the coordinator believes
    /// beyond `running` is lost, what is in `ended` and still current is accepted.
    Connected {
        worker: WorkerId,
        /// The worker counts its streams from 1, so that what an older one said last cannot undo a newer one.
        connection: u64,
        /// Proves that it is the process that connected as this worker first.
        secret: SecretHash,
        info: WorkerInfo,
        running: Vec<RunningAttempt>,
        ended: Vec<EndedAttempt>,
    },
    /// A stream broke. The lease goes on running.
    Disconnected {
        worker: WorkerId,
        connection: u64,
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
        reason: Line,
    },
    /// A deadline passed (see `next_deadline`), or nothing else happened for a while.
    Tick,
}

/// Which trials are tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Those that failed. They go on from their checkpoints.
    Failed,
    /// All that have ended, those with a result too. They start from the beginning.
    All,
    /// The same of these cells, named as people name them.
    Cells(Vec<String>),
}

/// What occupies a slot, whether its outcome still counts or not.
#[derive(Clone, Debug, PartialEq)]
pub struct RunningAttempt {
    pub trial: TrialId,
    pub attempt: AttemptNo,
    pub slot: SlotIndex,
    pub progress: Progress,
}

/// Said once no process of the attempt is left and its devices are free.
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
    /// A first or a new revision under its name; the trials of the revision before are no longer wanted by it.
    SweepSubmitted {
        sweep: Box<Sweep>,
        trials: Vec<SweepTrial>,
    },
    SweepCancelled {
        sweep: String,
        reason: Line,
    },
    FailedTrialsRetried {
        sweep: String,
    },
    /// A person wants these trials trained again from the start: results that they had do not count any more. A search
    /// that one of them belongs to is decided anew.
    TrialsRetried {
        sweep: String,
        trials: Vec<TrialId>,
    },
    /// First, after it was gone, or because its slots hold something else than was thought.
    WorkerJoined {
        worker: WorkerId,
        info: WorkerInfo,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<SecretHash>,
        /// What occupies its slots now, by its own word.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        occupied: BTreeMap<SlotIndex, (TrialId, AttemptNo)>,
    },
    WorkerDraining {
        worker: WorkerId,
        reason: Line,
    },
    /// It takes work again. One that was told to leave, or leaves by itself, leaves all the same.
    WorkerUndrained {
        worker: WorkerId,
    },
    WorkerGone {
        worker: WorkerId,
        reason: Line,
    },
    HostDrained {
        host: String,
        reason: Line,
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
    /// Its slot is free.
    AttemptSucceeded {
        trial: TrialId,
        attempt: AttemptNo,
        result: Box<TrialResult>,
    },
    AttemptFailed {
        trial: TrialId,
        attempt: AttemptNo,
        failure: Failure,
        then: AfterFailure,
        /// The worker has said so. Otherwise the attempt goes on occupying its slot until it does.
        slot_free: bool,
    },
    /// Nobody wanted it any more, and its worker has stopped it. Its slot is free.
    AttemptStopped {
        trial: TrialId,
        attempt: AttemptNo,
    },
    /// The worker says that nothing of an attempt that ended earlier (its lease ran out) is left in the slot.
    SlotFreed {
        worker: WorkerId,
        slot: SlotIndex,
    },
    /// The slot is not used again, nor is any that shares one of these devices.
    SlotBroken {
        worker: WorkerId,
        slot: SlotIndex,
        /// Those of the slot that are at fault (`cuda:3`); none: all of them are suspected.
        #[serde(default, deserialize_with = "text::line_list", skip_serializing_if = "Vec::is_empty")]
        devices: Vec<String>,
        reason: Line,
    },
    /// The node could not run the slot's last attempt: no other one starts there before `until`.
    SlotPaused {
        worker: WorkerId,
        slot: SlotIndex,
        until: Millis,
        reason: Line,
    },
    /// A search is over: this candidate's trials make the cell.
    CandidateChosen {
        sweep: String,
        cell: u32,
        candidate: u32,
        /// The result trials of the cell.
        trials: Vec<SweepTrial>,
    },
}

/// What a failed attempt means for its trial. Decided once and journalled, so that replay needs no budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterFailure {
    Retry {
        not_before: Millis,
    },
    GiveUp,
    /// No sweep wants the trial any more: it is cancelled, not failed.
    Unwanted,
}

/// Time and number of the event that is being applied.
#[derive(Clone, Copy)]
pub(crate) struct Context {
    pub at: Millis,
    /// Its place in the journal, from 1.
    pub number: u64,
}

/// An event with its time in the journal; its place there is its number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    pub at: Millis,
    pub event: Event,
}

/// What the shell does after events are journalled and applied. Losing one in a crash is repaired by the next
/// `Connected`, which compares lists.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// `State::spec_of` has what to train.
    Start { worker: WorkerId, slot: SlotIndex, trial: TrialId, attempt: AttemptNo },
    /// May be said more than once, and of attempts that have ended by themselves.
    Stop { worker: WorkerId, trial: TrialId, attempt: AttemptNo, reason: String },
    /// The outcome of this attempt is durable (or was stale): the worker may forget it.
    Acknowledge { worker: WorkerId, trial: TrialId, attempt: AttemptNo },
    /// Take no new work, finish what runs, then end.
    Drain { worker: WorkerId, reason: String },
    /// Close its stream, if one is open: it must connect again with its lists before it is believed.
    Disconnect { worker: WorkerId, reason: String },
}

/// Why an input changed nothing. A value, never a panic: peers may say anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("no sweep is named `{0}`")]
    UnknownSweep(String),
    #[error("no worker `{0}` has joined")]
    UnknownWorker(WorkerId),
    #[error("no worker and no host is named `{0}`: `orchestrator status` lists them")]
    UnknownPlace(String),
    #[error("worker `{worker}` has left ({reason}): nothing is left to drain")]
    HasLeft { worker: WorkerId, reason: String },
    #[error(
        "worker `{worker}` is of build `{worker_build}`, the coordinator of `{coordinator_build}`: start it from the same build"
    )]
    OtherBuild { worker: WorkerId, worker_build: String, coordinator_build: String },
    #[error("stream {connection} of worker `{worker}` is older than its newest, {newest}")]
    StaleConnection { worker: WorkerId, connection: u64, newest: u64 },
    #[error("worker `{0}` is another process: only the one that connected first under this id may use it")]
    Impostor(WorkerId),
    #[error("attempt {attempt} of trial {trial} is not current: {reason}")]
    StaleAttempt { trial: TrialId, attempt: AttemptNo, reason: String },
    #[error("{0}")]
    Invalid(String),
    #[error("a decision contradicts the state, which is a fault of the coordinator: {0}")]
    Internal(String),
}
