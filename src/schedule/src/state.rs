//! The coordinator's knowledge. `State` is a fold of `Event`s only, except for `Live`: what workers
//! reported since the coordinator started, used only to decide when leases and stalls expire.
//!
//! Its size is bounded by the numbers of trials, attempts and workers: it keeps no settings and no
//! full result per trial (`spec_of` rebuilds the first, the journal holds the second). `apply.rs`,
//! which refuses events, is next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use sweep::cell_name::listed;
use sweep::definition::{MAX_MEAN, Role};
use sweep::handoff::Progress;
use sweep::keep::Keep;
use sweep::record::{Failure, FailureClass, Provenance, Timing, TrialResult};
use sweep::{AttemptId, AttemptNo, Sweep, Trainer, TrialId, TrialSpec, text};

use crate::allocation::{Allocation, AllocationId, LaunchLive, LaunchQueue, QueueName};
use crate::curve::Curve;
use crate::ranking::Rankings;
use crate::tally::Tally;
use crate::trials::Trials;

/// Milliseconds since the Unix epoch. Pure code gets the time as an argument and never asks for it.
pub type Millis = u64;

/// One run of a worker process: `HOST-PID-RANDOM`. A process that was cut off keeps its id, a
/// restarted one gets a new one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub Arc<str>);

impl fmt::Display for WorkerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Hash of a secret that only one worker process knows (`protocol::WorkerSecret`). 64 hexadecimal
/// digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    pub fn new(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// Compares in constant time.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl TryFrom<String> for SecretHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const FORM: &str = "the hash of a secret has 64 hexadecimal digits";
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(FORM);
        }
        let mut hash = [0; 32];
        for (index, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..][..2], 16).map_err(|_| FORM)?;
        }
        Ok(Self(hash))
    }
}

impl From<SecretHash> for String {
    fn from(hash: SecretHash) -> Self {
        hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Index of a slot within its worker.
pub type SlotIndex = u32;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Events applied so far: the number of the last one in the journal, which counts from 1.
    pub applied: u64,
    pub sweeps: BTreeMap<Arc<str>, SweepState>,
    pub trials: Trials,
    pub workers: BTreeMap<WorkerId, WorkerState>,
    /// Hosts, for the bad-node rule.
    pub hosts: BTreeMap<String, HostState>,
    /// The waiting trials in the order in which they are placed.
    pub queue: Queue,
    /// Distinct origins of results, so that 100,000 results share a handful.
    pub provenances: Vec<Arc<Provenance>>,
    /// Cells whose search trials have all ended, with an eligible candidate and none chosen yet.
    pub to_choose: BTreeSet<(Arc<str>, u32)>,
    /// Where workers are launched, and what was asked for there.
    pub launch_queues: BTreeMap<QueueName, LaunchQueue>,
    pub allocations: BTreeMap<AllocationId, Allocation>,
    /// Ids of the granted tokens that are no longer accepted.
    pub revoked_tokens: BTreeSet<String>,
    pub live: Live,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SweepState {
    pub sweep: Arc<Sweep>,
    /// Number of submissions under this name.
    pub revision: u32,
    pub submitted_at: Millis,
    /// Number of the event that submitted this revision: sweeps are first come, first served.
    pub order: u64,
    /// Set by `cancel`, and by the first failure under `on_failure: stop`.
    pub cancelled: Option<String>,
    /// Every trial the current revision wants so far; grows when a search chooses. The same trial
    /// may be listed more than once, for cells whose settings are equal. Shared with snapshots.
    pub trials: Arc<Vec<SweepTrial>>,
    /// Candidate index by cell index.
    pub chosen: BTreeMap<u32, u32>,
    /// The search trials of each cell, for a search with a validation split.
    pub searching: BTreeMap<u32, Searching>,
    /// The cells that are ranked together, for a sweep with a budget of seeds.
    pub rankings: Rankings,
    /// Inputs whose content differs from the revision before, with a sentence about it.
    pub changed_inputs: BTreeMap<String, String>,
    pub counts: Counts,
    pub tally: Tally,
    /// Number of the last event that changed anything in a report of this sweep.
    pub changed: u64,
}

/// The search trials of one cell, which are adjacent in `SweepState::trials`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Searching {
    pub first: u32,
    pub count: u32,
    /// Number of those that have not ended.
    pub unfinished: u32,
}

/// Number of entries of `SweepState::trials` in each phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub waiting: u64,
    pub running: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub cancelled: u64,
}

/// A trial as a sweep wants it. Ids are journalled, not computed again at replay: a later version
/// of the program may hash settings differently.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepTrial {
    pub id: TrialId,
    /// Index into `Sweep::cells`.
    pub cell: u32,
    /// Index into `Search::candidates`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<u32>,
    pub role: Role,
    pub seed: u64,
    /// Predicted work, in arbitrary units.
    pub cost: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TrialState {
    pub phase: Phase,
    /// Sweeps whose current revision lists it, also cancelled ones, with its index in
    /// `SweepState::trials`.
    pub wanted_by: Vec<(Arc<str>, u32)>,
    /// Every attempt so far, oldest first. `AttemptNo(n)` is `attempts[n - 1]`.
    pub attempts: Vec<Attempt>,
    /// Attempts that ended in each failure class since the last `retry`, against the class budgets.
    pub spent: BTreeMap<FailureClass, u32>,
    /// The first attempt of the present training: it resumes from no earlier one, as `retry` has
    /// superseded those.
    pub since: AttemptNo,
    /// Predicted work, in arbitrary units: the longest trial is first.
    pub cost: f64,
    /// Number of devices of the slot it needs.
    pub devices: u32,
    /// The program that the slot's worker must have.
    pub trainer: Trainer,
    /// Its place in `State::queue` while it waits.
    pub place: Option<Place>,
    /// The last sweep that wanted it was removed: its files need not wait for anybody.
    pub is_removed: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// Waits in the queue; does not start before the given time (backoff).
    Waiting {
        not_before: Millis,
    },
    Running {
        attempt: AttemptNo,
    },
    Succeeded {
        attempt: AttemptNo,
        result: Arc<ResultSummary>,
    },
    /// Its budget is spent, or its class is never retried. `TrialState::failure` has the reason.
    Failed {
        attempt: AttemptNo,
    },
    /// No sweep wants it any more.
    Cancelled,
}

/// The part of a `TrialResult` that is kept in memory: all but its epochs and subset, which stay in
/// the journal.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ResultSummary {
    pub last_accuracy: f64,
    /// Accuracies of the last evaluations, oldest first: as many as a search may take the mean of.
    #[serde(skip)]
    pub recent_accuracies: Box<[f64]>,
    pub best_accuracy: f64,
    pub best_epoch: u32,
    pub last_balanced_accuracy: f64,
    /// Absent, like the next two, in results from before it was kept.
    pub last_top5_accuracy: Option<f64>,
    pub best_balanced_accuracy: Option<f64>,
    pub best_top5_accuracy: Option<f64>,
    pub train_loss: f64,
    pub eval_loss: f64,
    pub num_epochs: u32,
    /// Hash after the last epoch: equal hashes mean bit-equal trainings.
    pub state_hash: String,
    pub timing: Timing,
    /// Provenance without the subset, which the fields below identify. Shared by the results that
    /// have it in common.
    pub provenance: Arc<Provenance>,
    /// `Subset::num_images` and `Subset::fingerprint`.
    pub num_subset_images: Option<u32>,
    pub subset_fingerprint: String,
    /// Number of the journal's event that holds the whole result.
    pub event: u64,
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
    /// Number of the journal's event that ended it.
    pub event: u64,
    /// Its result was accepted. It no longer counts if `TrialState::since` is a later attempt.
    pub succeeded: bool,
    /// Absent: it succeeded, or was stopped because no sweep wanted it any more. Long messages are
    /// shortened in the middle; the event has the whole message.
    pub failure: Option<Failure>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct WorkerState {
    pub info: WorkerInfo,
    /// Hash of the secret needed to connect as this worker. None in journals from before, until it
    /// connects.
    pub secret: Option<SecretHash>,
    pub joined_at: Millis,
    pub presence: Presence,
    /// Takes no new work: ordered by a user, or because its node is being taken away. Survives
    /// `Gone`.
    pub draining: Option<String>,
    /// The attempt in each slot. A slot is free only when its worker reports that nothing of the
    /// attempt is left.
    pub slots: Vec<Option<AttemptId>>,
    /// Slots never used again, with the reason (bad device).
    pub broken_slots: BTreeMap<SlotIndex, String>,
    /// Slots whose last attempt ended through a node fault. An attempt that ends otherwise removes
    /// its slot.
    pub pauses: BTreeMap<SlotIndex, SlotPause>,
}

/// The pause of a slot: it gets no trial for a while, because its node could not run the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotPause {
    /// Time of the next try in the slot.
    pub until: Millis,
    /// Pauses in a row, this one included: each is longer than the one before.
    pub count: u32,
    /// The first line of the failure.
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Its lease has not run out; see `Live` for the deadline.
    Present,
    /// Its lease ran out, or it ended. It may come back, with `Connected`.
    Gone { reason: String, at: Millis },
}

/// Data that a worker sends when it connects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerInfo {
    pub host: String,
    /// Version and build of worker and trainer; must equal the coordinator's.
    pub build: String,
    /// The program that trains in its slots: it gets only trials of this trainer.
    #[serde(default, skip_serializing_if = "Trainer::is_built_in")]
    pub trainer: Trainer,
    pub slots: Vec<Slot>,
    /// Name of the allocation that it runs in, if a launcher started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<String>,
    /// Time at which its allocation ends, if it does; the worker leaves before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves_at_ms: Option<Millis>,
}

/// A set of devices that one trial occupies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// `cuda:0`, ... or `cpu` once per thread.
    pub devices: Vec<String>,
    /// Identities of the devices, in their order: a GPU keeps its identity when others are lost and
    /// the rest is renumbered. None on the CPU, and in journals from before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uuids: Vec<String>,
    /// Description for users: `NVIDIA H200, 141 GiB, driver 580.65`.
    #[serde(deserialize_with = "text::line")]
    pub description: String,
}

/// A host, known by its name for as long as the journal exists; its workers change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostState {
    /// Trials that failed here in a way that may be the host's fault, and have not succeeded
    /// anywhere yet.
    pub failed_here: BTreeSet<TrialId>,
    /// Trials that failed here and then succeeded on another host.
    pub succeeded_elsewhere: u32,
    /// Trials that succeeded here.
    pub succeeded_here: u32,
    /// Devices that failed, by UUID (by name, `cuda:3`, if the worker sent none), with the reason:
    /// slots that hold one are not used, whichever worker offers them.
    pub broken_devices: BTreeMap<String, String>,
    /// Set by the bad-node rule. `orchestrator undrain` clears it, with all of the above and the
    /// pauses of the host's slots.
    pub drained: Option<String>,
}

/// Position of a waiting trial: sweeps are first come, first served; inside a sweep the longest
/// trial is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// `SweepState::order` of the earliest sweep that wants it.
    pub order: u64,
    /// Bits of the cost, which order like the cost itself (it is never negative).
    pub cost: Reverse<u64>,
    pub index: u32,
    pub trial: TrialId,
    /// With the trial's trainer, the key of its set in the queue.
    pub devices: u32,
}

/// The number of devices of a slot, and its worker's trainer.
pub type Needs = (u32, Trainer);

/// An index over the waiting trials; follows from `State::trials` alone (invariant S6).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Queue {
    /// Waiting trials by the slot that they need.
    pub by_needs: BTreeMap<Needs, BTreeSet<Place>>,
    /// Waiting trials by the time before which they do not start.
    pub delayed: BTreeSet<(Millis, TrialId)>,
}

impl Queue {
    /// Returns the number of waiting trials.
    pub fn len(&self) -> usize {
        self.by_needs.values().map(BTreeSet::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.by_needs.is_empty()
    }
}

/// State that is not journalled: what this coordinator received since it started. A restart starts
/// every lease again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Live {
    /// Start of this coordinator: leases and stalls are not counted from before.
    pub since: Millis,
    /// Workers with an open stream now, and the number of that stream.
    pub connected: BTreeMap<WorkerId, u64>,
    /// The newest stream number seen of each worker.
    pub newest_connection: BTreeMap<WorkerId, u64>,
    pub last_message: BTreeMap<WorkerId, Millis>,
    /// Workers that have announced on their open stream that they leave.
    pub leaving: BTreeSet<WorkerId>,
    pub progress: BTreeMap<TrialId, LiveProgress>,
    /// The launcher of this coordinator, if it has one.
    pub launch: Option<LaunchLive>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LiveProgress {
    pub attempt: AttemptNo,
    pub progress: Progress,
    /// Time at which epoch, step or collectives last grew.
    pub advanced_at: Millis,
    pub curve: Curve,
}

/// A name that no sweep has. The message lists the sweeps that exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no sweep is named `{name}`; known: {known}")]
pub struct UnknownSweep {
    pub name: String,
    known: String,
}

impl State {
    /// Returns the sweep of this name.
    pub fn sweep(&self, name: &str) -> Result<&SweepState, UnknownSweep> {
        self.sweeps.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.sweeps.keys().map(|name| &**name).collect();
            let known = match known.as_slice() {
                [] => "none".to_owned(),
                known => listed(known),
            };
            let name = name.to_owned();
            UnknownSweep { name, known }
        })
    }

    /// Returns true if a sweep that is not cancelled wants this trial.
    pub fn is_wanted(&self, trial: &TrialState) -> bool {
        trial.wanted_by.iter().any(|(name, _)| self.wants(name))
    }

    fn wants(&self, sweep: &str) -> bool {
        let entry = self.sweeps.get(sweep);
        entry.is_some_and(|entry| entry.cancelled.is_none())
    }

    /// Returns true if the trial has not ended, and only `sweep` keeps it from being cancelled.
    pub fn ends_without(&self, trial: &TrialState, sweep: &str) -> bool {
        let mut others = trial.wanted_by.iter().filter(|(name, _)| **name != *sweep);
        !trial.phase.is_terminal() && others.all(|(name, _)| !self.wants(name))
    }

    /// Returns true if this attempt, on this worker, is the one whose outcome counts: the fence
    /// (P2).
    pub fn is_current(&self, id: AttemptId, worker: &WorkerId) -> bool {
        self.trials.get(&id.trial).is_some_and(|trial| {
            let attempt = id.number;
            trial.phase == Phase::Running { attempt }
                && trial
                    .attempt(attempt)
                    .is_some_and(|at| at.worker == *worker)
        })
    }

    /// Returns an attempt, whether it has ended or not.
    pub fn attempt(&self, id: AttemptId) -> Option<&Attempt> {
        self.trials.get(&id.trial)?.attempt(id.number)
    }

    /// Returns the attempts of a worker whose outcome counts, with their slots.
    pub fn current_attempts<'a>(
        &'a self,
        worker: &'a WorkerId,
    ) -> impl Iterator<Item = (SlotIndex, AttemptId)> + 'a {
        let slots = self
            .workers
            .get(worker)
            .map_or(&[][..], |entry| &entry.slots);
        let occupied = slots
            .iter()
            .enumerate()
            .filter_map(|(slot, held)| Some((slot as SlotIndex, (*held)?)));
        occupied.filter(move |&(_, attempt)| self.is_current(attempt, worker))
    }

    /// Returns the settings of a dispatched trial; `None` for a trial that no sweep lists.
    pub fn spec_of(&self, trial: TrialId) -> Option<TrialSpec> {
        let (name, index) = self.trials.get(&trial)?.wanted_by.first()?;
        let entry = self.sweeps.get(name)?;
        let wanted = entry.trials.get(*index as usize)?;
        let candidate = wanted.candidate.map(|candidate| candidate as usize);
        Some(
            entry
                .sweep
                .trial_spec(wanted.cell as usize, candidate, wanted.role, wanted.seed),
        )
    }

    /// Returns what the sweeps that list a trial keep of it.
    pub fn keep_of(&self, trial: TrialId) -> Keep {
        let wanted_by = self.trials.get(&trial).map(|trial| &trial.wanted_by);
        let sweeps = wanted_by
            .into_iter()
            .flatten()
            .filter_map(|(name, _)| self.sweeps.get(name));
        sweeps
            .flat_map(|entry| entry.sweep.keep.iter().copied())
            .collect()
    }

    /// Returns true if the durable parts of both are equal: what replay must reproduce.
    pub fn same_history(&self, other: &Self) -> bool {
        // Destructured, so that a new field cannot be forgotten here.
        let Self {
            applied,
            sweeps,
            trials,
            workers,
            hosts,
            queue,
            provenances,
            to_choose,
            launch_queues,
            allocations,
            revoked_tokens,
            live: _,
        } = self;
        (applied, sweeps, trials, workers)
            == (&other.applied, &other.sweeps, &other.trials, &other.workers)
            && (hosts, queue) == (&other.hosts, &other.queue)
            && (provenances, to_choose) == (&other.provenances, &other.to_choose)
            && (launch_queues, allocations) == (&other.launch_queues, &other.allocations)
            && *revoked_tokens == other.revoked_tokens
    }
}

impl TrialState {
    /// Returns the failure of the deciding attempt, once the trial has failed.
    pub fn failure(&self) -> Option<&Failure> {
        match self.phase {
            Phase::Failed { attempt } => self.attempt(attempt)?.ended.as_ref()?.failure.as_ref(),
            _ => None,
        }
    }

    pub fn attempt(&self, attempt: AttemptNo) -> Option<&Attempt> {
        self.attempts.get((attempt.0 as usize).checked_sub(1)?)
    }

    /// Returns the number of the next attempt.
    pub fn next_attempt(&self) -> AttemptNo {
        AttemptNo(self.attempts.len() as u32 + 1)
    }
}

impl Phase {
    /// Returns true if nothing more happens to the trial unless a user asks for it.
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::Waiting { .. } | Self::Running { .. } => false,
            Self::Succeeded { .. } | Self::Failed { .. } | Self::Cancelled => true,
        }
    }
}

impl ResultSummary {
    pub fn new(result: &TrialResult, event: u64) -> Self {
        let provenance = Provenance {
            subset: Default::default(),
            ..result.provenance.clone()
        };
        let (last, best) = (
            result.epochs.last(),
            result.epochs.get(result.best_epoch as usize),
        );
        let accuracies: Vec<f64> = result
            .epochs
            .iter()
            .filter_map(|epoch| epoch.accuracy)
            .collect();
        let first = accuracies.len().saturating_sub(MAX_MEAN as usize);
        Self {
            last_accuracy: result.last_accuracy,
            recent_accuracies: accuracies[first..].into(),
            best_accuracy: result.best_accuracy,
            best_epoch: result.best_epoch,
            last_balanced_accuracy: result.last_balanced_accuracy,
            last_top5_accuracy: last.and_then(|epoch| epoch.top5_accuracy),
            best_balanced_accuracy: best.and_then(|epoch| epoch.balanced_accuracy),
            best_top5_accuracy: best.and_then(|epoch| epoch.top5_accuracy),
            train_loss: result.train_loss,
            eval_loss: result.eval_loss,
            num_epochs: result.epochs.len() as u32,
            state_hash: last
                .map(|epoch| epoch.state_hash.clone())
                .unwrap_or_default(),
            timing: result.timing.clone(),
            provenance: Arc::new(provenance),
            num_subset_images: result.provenance.subset.num_images(),
            subset_fingerprint: result.provenance.subset.fingerprint(),
            event,
        }
    }
}

impl Slot {
    /// Returns name and identity of each device that has one: CPU threads have none.
    pub fn identities(&self) -> impl Iterator<Item = (&str, &str)> {
        let devices = self
            .devices
            .iter()
            .enumerate()
            .filter(|(_, name)| *name != "cpu");
        devices.map(|(index, name)| {
            (
                name.as_str(),
                self.uuids.get(index).unwrap_or(name).as_str(),
            )
        })
    }
}

impl HostState {
    /// Returns the reason why a slot must not be used, if one of its devices failed here.
    pub fn breakage(&self, slot: &Slot) -> Option<&String> {
        // By name as well: a journal from before has no other identity.
        slot.identities().find_map(|(name, identity)| {
            self.broken_devices
                .get(identity)
                .or_else(|| self.broken_devices.get(name))
        })
    }
}

impl WorkerState {
    pub fn is_gone(&self) -> bool {
        matches!(self.presence, Presence::Gone { .. })
    }

    /// Returns the pause of a slot, unless it is over.
    pub fn pause_of(&self, slot: SlotIndex, now: Millis) -> Option<&SlotPause> {
        self.pauses.get(&slot).filter(|pause| pause.until > now)
    }

    /// Returns the index of the slot that this attempt occupies.
    pub fn slot_of(&self, attempt: AttemptId) -> Option<SlotIndex> {
        self.slots
            .iter()
            .position(|held| *held == Some(attempt))
            .map(|index| index as SlotIndex)
    }
}
