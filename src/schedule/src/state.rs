//! What the coordinator knows. `State` is a fold of `Event`s and of nothing else, except for `Live`, which is what
//! workers said since the coordinator started and which decides only when leases and stalls run out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sweep::definition::Role;
use sweep::handoff::Progress;
use sweep::record::{Failure, FailureClass, TrialResult};
use sweep::{AttemptNo, Sweep, TrialId};

/// Milliseconds since the Unix epoch. Pure code is given the time; it never asks for it.
pub type Millis = u64;

/// One run of a worker process: `HOST-PID-RANDOM`. A process that was cut off keeps its id, a restarted one gets a new one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub Arc<str>);

impl fmt::Display for WorkerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Index of a slot within its worker.
pub type SlotIndex = u32;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    pub sweeps: BTreeMap<String, SweepState>,
    pub trials: BTreeMap<TrialId, TrialState>,
    pub workers: BTreeMap<WorkerId, WorkerState>,
    /// Failures per host, for the bad-node rule.
    pub hosts: BTreeMap<String, HostState>,
    pub live: Live,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SweepState {
    pub sweep: Arc<Sweep>,
    /// How often this name was submitted, from 1.
    pub revision: u32,
    pub submitted_at: Millis,
    /// Set by `cancel`, and by the first failure under `on_failure: stop`.
    pub cancelled: Option<String>,
    /// Every trial the current revision wants so far; grows when a search chooses.
    pub trials: Vec<SweepTrial>,
    /// Cell index to candidate index.
    pub chosen: BTreeMap<usize, usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SweepTrial {
    pub id: TrialId,
    pub cell: usize,
    pub candidate: Option<usize>,
    pub role: Role,
    pub seed: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TrialState {
    pub phase: Phase,
    /// Sweeps that want it, by name.
    pub wanted_by: BTreeSet<String>,
    /// Of every attempt so far, oldest first. `AttemptNo(n)` is `attempts[n - 1]`.
    pub attempts: Vec<Attempt>,
    /// Attempts that ended in each failure class since the last `retry`, against the class budgets.
    pub spent: BTreeMap<FailureClass, u32>,
    /// Predicted work, in arbitrary units: longest first.
    pub cost: f64,
    pub devices: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// In the queue; not before the given time (backoff).
    Waiting {
        not_before: Millis,
    },
    Running {
        attempt: AttemptNo,
    },
    Succeeded {
        attempt: AttemptNo,
        result: Arc<TrialResult>,
    },
    /// Budget spent, or a class that is never retried.
    Failed {
        failure: Failure,
    },
    /// No sweep wants it any more.
    Cancelled,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    pub worker: WorkerId,
    pub slot: SlotIndex,
    pub started_at: Millis,
    pub ended: Option<AttemptEnd>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AttemptEnd {
    pub at: Millis,
    /// Absent: it succeeded, or was stopped because nobody wanted it any more.
    pub failure: Option<Failure>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct WorkerState {
    pub info: WorkerInfo,
    pub joined_at: Millis,
    pub presence: Presence,
    /// What each slot is occupied by. A slot is free again only when its worker has said that nothing of the attempt is left.
    pub slots: Vec<Option<(TrialId, AttemptNo)>>,
    /// Slots never used again, with the reason (bad device).
    pub broken_slots: BTreeMap<SlotIndex, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Its lease runs; see `Live` for how long.
    Present,
    /// Takes no new work: told to by a user, by the bad-node rule, or because its node is being taken away.
    Draining { reason: String },
    /// Its lease ran out or it said goodbye. It may come back.
    Gone { reason: String },
}

/// What a worker announces when it connects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerInfo {
    pub host: String,
    /// Version and build of worker and trainer; must equal the coordinator's.
    pub build: String,
    pub slots: Vec<Slot>,
}

/// A set of devices that one trial occupies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// `cuda:0`, ... or `cpu` once per thread.
    pub devices: Vec<String>,
    /// For people: `NVIDIA H200, 141 GiB, driver 580.65`.
    pub description: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostState {
    /// Distinct trials that failed here and what became of them elsewhere.
    pub failed_here: BTreeSet<TrialId>,
    pub failed_here_succeeded_elsewhere: BTreeSet<TrialId>,
    /// Set by the bad-node rule; lifted by `orchestrator undrain`.
    pub drained: Option<String>,
}

/// Not journalled: what was heard since this coordinator started. After a restart every lease runs anew.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Live {
    /// Workers with an open stream now.
    pub connected: BTreeSet<WorkerId>,
    pub last_heard: BTreeMap<WorkerId, Millis>,
    pub progress: BTreeMap<TrialId, LiveProgress>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LiveProgress {
    pub attempt: AttemptNo,
    pub progress: Progress,
    /// When epoch, step or collectives last grew.
    pub advanced_at: Millis,
}
