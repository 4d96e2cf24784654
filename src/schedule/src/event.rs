//! The vocabulary of the state machine: inputs, journalled events, effects and refusals.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sweep::handoff::Progress;
use sweep::record::{Failure, TrialResult};
use sweep::text::{self, Line};
use sweep::{AttemptId, Sweep, TrialId, counted};

use crate::allocation::{LaunchEvent, LaunchInput, LaunchRequest};
use crate::checked_sweep::CheckedSweep;
use crate::state::{Millis, SecretHash, SlotIndex, SweepTrial, UnknownSweep, WorkerId, WorkerInfo};

/// Everything that can happen to the coordinator.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    Submit {
        sweep: CheckedSweep,
    },
    Cancel {
        sweep: String,
        reason: Line,
    },
    /// Forgets a sweep. Unless `cancel` is set, one that still trains is refused.
    Remove {
        sweep: String,
        cancel: bool,
    },
    /// Trials of a sweep wait again, with fresh budgets. A cancelled sweep resumes.
    Retry {
        sweep: String,
        which: Retry,
    },
    /// Takes no new work from now on. `name`: a worker, or a host with all its workers.
    Drain {
        name: String,
        reason: Line,
    },
    /// Undoes `Drain`, and the effect of the bad-node rule and of broken devices. `name`: a worker
    /// or a host.
    Undrain {
        name: String,
    },
    /// A granted token is no longer accepted.
    RevokeToken {
        id: String,
    },
    /// A stream was opened. `running` and `ended` are all that the worker knows: an attempt that
    /// the coordinator expects and `running` lacks is lost; one in `ended` that is still current is
    /// accepted.
    Connected {
        worker: WorkerId,
        /// Number of the stream, counted by the worker from 1, so that the last message of an older
        /// stream cannot undo a newer one.
        connection: u64,
        /// Proves that this is the process that first connected as this worker.
        secret: SecretHash,
        info: WorkerInfo,
        running: Vec<RunningAttempt>,
        ended: Vec<EndedAttempt>,
    },
    /// A stream broke. The lease still runs.
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
    /// SIGTERM with notice, Slurm's USR1: no new work; running attempts checkpoint and end as
    /// preempted.
    Leaving {
        worker: WorkerId,
        reason: Line,
    },
    /// Nothing has run on the worker for its idle timeout: it asks to leave.
    Idle {
        worker: WorkerId,
        reason: Line,
    },
    /// A message of a user or the launcher about allocations.
    Launch(LaunchInput),
    /// A deadline passed (see `next_deadline`), or no other input came for a while.
    Tick,
}

/// The trials that a retry selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Trials that failed. They resume from their checkpoints.
    Failed,
    /// All trials that have ended, including those with a result. They start from the beginning.
    All,
    /// Trials of these cells, like `All`. Cells are named as users name them.
    Cells(Vec<String>),
    /// These trials: those that failed resume from their checkpoints, those with a result start from
    /// the beginning.
    Trials(Vec<TrialId>),
}

/// An attempt that occupies a slot, whether its outcome still counts or not.
#[derive(Clone, Debug, PartialEq)]
pub struct RunningAttempt {
    pub id: AttemptId,
    pub slot: SlotIndex,
    pub progress: Progress,
}

/// The end of an attempt, sent once none of its processes is left and its devices are free.
#[derive(Clone, Debug, PartialEq)]
pub struct EndedAttempt {
    pub id: AttemptId,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Finished(Box<TrialResult>),
    Failed(Failure),
    /// Stopped on the coordinator's order.
    Stopped,
}

/// A journalled fact, in the past tense. Nothing else changes the durable state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A first or a new revision under its name; the sweep no longer wants the trials of the
    /// revision before.
    SweepSubmitted {
        sweep: Arc<Sweep>,
        trials: Arc<Vec<SweepTrial>>,
    },
    SweepCancelled {
        sweep: String,
        reason: Line,
    },
    /// The sweep and its place in the list of sweeps are gone. Its trials and their results stay, for
    /// other sweeps that want them.
    SweepRemoved {
        sweep: String,
    },
    FailedTrialsRetried {
        sweep: String,
        /// Those of its failed trials that are meant; absent: all of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        only: Option<BTreeSet<TrialId>>,
    },
    /// A user wants these trials trained again from the start: their earlier results no longer
    /// count. A search that one of them belongs to is decided again.
    TrialsRetried {
        sweep: String,
        trials: Vec<TrialId>,
    },
    /// A worker joined for the first time, came back, or reports other contents of its slots than
    /// expected.
    WorkerJoined {
        worker: WorkerId,
        info: WorkerInfo,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<SecretHash>,
        /// Contents of its slots now, as the worker reports them.
        #[serde(
            default,
            with = "attempts_as_pairs",
            skip_serializing_if = "BTreeMap::is_empty"
        )]
        occupied: BTreeMap<SlotIndex, AttemptId>,
    },
    WorkerDraining {
        worker: WorkerId,
        reason: Line,
    },
    /// The worker takes work again, unless it was ordered to leave or leaves on its own.
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
    TokenRevoked {
        id: String,
    },
    TrialDispatched {
        #[serde(flatten)]
        attempt: AttemptId,
        worker: WorkerId,
        slot: SlotIndex,
    },
    /// The attempt has a result, and its slot is free.
    AttemptSucceeded {
        #[serde(flatten)]
        attempt: AttemptId,
        result: Box<TrialResult>,
    },
    AttemptFailed {
        #[serde(flatten)]
        attempt: AttemptId,
        failure: Failure,
        then: AfterFailure,
        /// True: the worker reported the slot free. Otherwise the attempt occupies it until the
        /// worker does.
        slot_free: bool,
    },
    /// The worker stopped an attempt that no sweep wanted any more. Its slot is free.
    AttemptStopped {
        #[serde(flatten)]
        attempt: AttemptId,
    },
    /// The worker reports that nothing of an attempt that ended earlier (its lease ran out) is left
    /// in the slot.
    SlotFreed {
        worker: WorkerId,
        slot: SlotIndex,
    },
    /// Neither the slot nor any slot that shares one of these devices is used again.
    SlotBroken {
        worker: WorkerId,
        slot: SlotIndex,
        /// The slot's devices at fault (`cuda:3`); empty: all of them are suspected.
        #[serde(
            default,
            deserialize_with = "text::line_list",
            skip_serializing_if = "Vec::is_empty"
        )]
        devices: Vec<String>,
        reason: Line,
    },
    /// The node could not run the slot's last attempt: no attempt starts there before `until`.
    SlotPaused {
        worker: WorkerId,
        slot: SlotIndex,
        until: Millis,
        reason: Line,
    },
    /// A search is over: the trials of this candidate make the cell.
    CandidateChosen {
        sweep: String,
        cell: u32,
        candidate: u32,
        /// The result trials of the cell.
        trials: Vec<SweepTrial>,
    },
    /// The results of cells that are ranked together were compared, at this number of seeds: those
    /// that are undecided get more.
    RankingLookedAt {
        sweep: String,
        /// All cells of the ranking.
        cells: Vec<u32>,
        seeds: u32,
        undecided: Vec<u32>,
        /// The further trials of the undecided cells; none once the budget is spent.
        trials: Vec<SweepTrial>,
    },
    /// A change of launch queues and allocations.
    Launch(LaunchEvent),
}

/// The consequence of a failed attempt for its trial. Decided once and journalled, so that replay
/// needs no budgets.
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

/// Contents of slots in the journal: `{"SLOT": ["TRIAL", ATTEMPT]}`.
mod attempts_as_pairs {
    use serde::Deserializer;
    use serde::Serializer;
    use sweep::AttemptNo;

    use super::*;

    pub fn serialize<S: Serializer>(
        occupied: &BTreeMap<SlotIndex, AttemptId>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let pairs = occupied
            .iter()
            .map(|(slot, attempt)| (slot, (attempt.trial, attempt.number)));
        serializer.collect_map(pairs)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<SlotIndex, AttemptId>, D::Error> {
        let pairs = BTreeMap::<SlotIndex, (TrialId, AttemptNo)>::deserialize(deserializer)?;
        let attempts = pairs
            .into_iter()
            .map(|(slot, (trial, number))| (slot, trial.attempt(number)));
        Ok(attempts.collect())
    }
}

/// Time and number of the event that is being applied.
#[derive(Clone, Copy)]
pub(crate) struct Context {
    pub at: Millis,
    /// Its number in the journal, counted from 1.
    pub number: u64,
}

/// An event with its time in the journal. Its position there is its number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    pub at: Millis,
    pub event: Event,
}

/// An action of the shell after events are journalled and applied. If a crash loses one, the next
/// `Connected`, which compares lists, repairs that.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Start an attempt; `State::spec_of` has what to train.
    Start {
        worker: WorkerId,
        slot: SlotIndex,
        attempt: AttemptId,
    },
    /// Stop an attempt. May be sent more than once, and for attempts that have ended on their own.
    Stop {
        worker: WorkerId,
        attempt: AttemptId,
        reason: String,
    },
    /// The outcome of this attempt is durable (or was stale): the worker may forget it.
    Acknowledge {
        worker: WorkerId,
        attempt: AttemptId,
    },
    /// Take no new work, finish what runs, then end.
    Drain { worker: WorkerId, reason: String },
    /// Close the worker's stream, if one is open: it must connect again with its lists before its
    /// messages count.
    Disconnect { worker: WorkerId, reason: String },
    /// Ask the launcher; its answer comes back as `LaunchInput::Answered`.
    Launch(LaunchRequest),
}

/// The reason why an input changed nothing. A value, never a panic: peers may send anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error(transparent)]
    UnknownSweep(#[from] UnknownSweep),
    #[error("no worker `{0}` has joined")]
    UnknownWorker(WorkerId),
    #[error("no worker and no host is named `{0}`: `orchestrator status` lists them")]
    UnknownPlace(String),
    #[error(
        "{} would wait beside {waiting} others, and this coordinator lets {limit} wait: submit less, cancel a sweep, or raise the coordinator's --max-waiting",
        counted(*added, "trial")
    )]
    TooManyWait {
        added: u64,
        waiting: u64,
        limit: u64,
    },
    #[error("worker `{worker}` has left ({reason}): nothing is left to drain")]
    HasLeft { worker: WorkerId, reason: String },
    #[error(
        "worker `{worker}` is of build `{worker_build}`, the coordinator of `{coordinator_build}`: start it from the same build"
    )]
    OtherBuild {
        worker: WorkerId,
        worker_build: String,
        coordinator_build: String,
    },
    #[error("stream {connection} of worker `{worker}` is older than its newest, {newest}")]
    StaleConnection {
        worker: WorkerId,
        connection: u64,
        newest: u64,
    },
    #[error(
        "worker `{0}` is another process: only the one that connected first under this id may use it"
    )]
    Impostor(WorkerId),
    #[error("attempt {attempt} is not current: {reason}")]
    StaleAttempt { attempt: AttemptId, reason: String },
    #[error(
        "sweep `{sweep}` still trains ({running} running, {waiting} waiting): `orchestrator cancel {sweep}` ends that, and so does --cancel"
    )]
    StillTrains {
        sweep: String,
        running: u64,
        waiting: u64,
    },
    #[error("this coordinator launches no workers: start it with --launch")]
    NoLauncher,
    #[error("{0}")]
    Invalid(String),
    #[error("a decision contradicts the state, which is a fault of the coordinator: {0}")]
    Internal(String),
}
