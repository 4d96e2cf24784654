//! The state machine: how each event changes the state. Live decisions and replay go through this
//! one function.
//!
//! The phases of a trial are the table in `phase.rs`. The rest of this file is about workers, slots
//! and hosts.
//!
//! An event that cannot follow from the history so far is refused with an error value and changes
//! nothing. This file has no budgets, leases or clock: every decision that needed them is in the
//! event. Read `phase.rs`, then `sweep_transitions.rs` for the sweeps' side of a trial, and
//! `decide.rs` for where events come from.

use std::collections::BTreeMap;
use std::sync::Arc;

use sweep::record::{Failure, FailureClass, Provenance, TrialResult};
use sweep::text::{self, Line};
use sweep::{AttemptId, TrialId};

use crate::allocation::{self, AllocationEvent};
use crate::event::{AfterFailure, Context, Event, Recorded};
use crate::phase::TrialEvent;
use crate::ranking::Look;
use crate::state::{
    Attempt, AttemptEnd, HostState, Millis, Presence, ResultSummary, SecretHash, SlotIndex,
    SlotPause, State, WorkerId, WorkerInfo, WorkerState,
};
use crate::sweep_transitions::{self, next_phase, set_phase};

/// An event that cannot follow from the history: the journal is damaged, or another program wrote
/// it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event {number} cannot follow what stands before it: {reason}")]
pub struct Impossible {
    /// Its number in the journal, counted from 1.
    pub number: u64,
    pub reason: String,
}

type Applied = Result<(), String>;

/// Applies one event. Nothing else mutates the durable part of the state; an event that cannot
/// follow changes nothing.
pub fn apply(state: &mut State, recorded: &Recorded) -> Result<(), Impossible> {
    let number = state.applied + 1;
    let context = Context {
        at: recorded.at,
        number,
    };
    let applied = match &recorded.event {
        Event::SweepSubmitted { sweep, trials } => {
            sweep_transitions::sweep_submitted(state, sweep, trials, context)
        }
        Event::SweepCancelled { sweep, reason } => {
            sweep_transitions::sweep_cancelled(state, sweep, reason, context)
        }
        Event::SweepRemoved { sweep } => sweep_transitions::sweep_removed(state, sweep, context),
        Event::FailedTrialsRetried { sweep, only } => {
            sweep_transitions::failed_trials_retried(state, sweep, only.as_ref(), context)
        }
        Event::TrialsRetried { sweep, trials } => {
            sweep_transitions::trials_retried(state, sweep, trials, context)
        }
        Event::CandidateChosen {
            sweep,
            cell,
            candidate,
            trials,
        } => {
            sweep_transitions::candidate_chosen(state, sweep, (*cell, *candidate), trials, context)
        }
        Event::RankingLookedAt {
            sweep,
            cells,
            seeds,
            undecided,
            trials,
        } => {
            let look = Look {
                seeds: *seeds,
                undecided: undecided.clone(),
            };
            sweep_transitions::ranking_looked_at(state, sweep, (cells, look), trials, context)
        }
        Event::WorkerJoined {
            worker,
            info,
            secret,
            occupied,
        } => worker_joined(state, worker, info, (secret.as_ref(), occupied), context),
        Event::WorkerDraining { worker, reason } => worker_draining(state, worker, reason, context),
        Event::WorkerUndrained { worker } => worker_undrained(state, worker, context),
        Event::WorkerGone { worker, reason } => worker_gone(state, worker, reason, context),
        Event::HostDrained { host, reason } => host_drained(state, host, reason),
        Event::HostUndrained { host } => host_undrained(state, host),
        Event::TokenRevoked { id } => token_revoked(state, id),
        Event::SlotFreed { worker, slot } => slot_freed(state, worker, *slot),
        Event::SlotBroken {
            worker,
            slot,
            devices,
            reason,
        } => slot_broken(state, worker, *slot, devices, reason),
        Event::SlotPaused {
            worker,
            slot,
            until,
            reason,
        } => slot_paused(state, worker, *slot, *until, reason),
        Event::TrialDispatched {
            attempt,
            worker,
            slot,
        } => trial_dispatched(state, *attempt, worker, *slot, context),
        Event::AttemptSucceeded { attempt, result } => {
            attempt_succeeded(state, *attempt, result, context)
        }
        Event::AttemptFailed {
            attempt,
            failure,
            then,
            slot_free,
        } => attempt_failed(state, *attempt, failure, *then, *slot_free, context),
        Event::AttemptStopped { attempt } => attempt_stopped(state, *attempt, context),
        Event::Launch(event) => allocation::record::apply(state, event, context.at),
    };
    applied.map_err(|reason| Impossible { number, reason })?;
    state.applied = number;
    Ok(())
}

/// Returns the state after a whole journal.
pub fn replay<'a>(events: impl IntoIterator<Item = &'a Recorded>) -> Result<State, Impossible> {
    let mut state = State::default();
    events
        .into_iter()
        .try_for_each(|recorded| apply(&mut state, recorded))?;
    Ok(state)
}

// -- attempts

fn trial_dispatched(
    state: &mut State,
    id: AttemptId,
    worker: &WorkerId,
    slot: SlotIndex,
    context: Context,
) -> Applied {
    let attempt = id.number;
    let phase = next_phase(state, id.trial, &TrialEvent::Dispatched { attempt })?;
    let trial = state
        .trials
        .get_mut(&id.trial)
        .expect("it has a next phase");
    if attempt != trial.next_attempt() {
        return Err(format!(
            "{id} is dispatched, but the next attempt is {}",
            trial.next_attempt()
        ));
    }
    // The map's own key: one allocation per worker instead of one per attempt.
    let Some((worker, entry)) = state.workers.get_key_value(worker) else {
        return Err(format!("no worker `{worker}`"));
    };
    let worker = worker.clone();
    if entry.is_gone() || entry.draining.is_some() || entry.broken_slots.contains_key(&slot) {
        return Err(format!("worker `{worker}` takes no work in slot {slot}"));
    }
    if let Some(pause) = entry.pause_of(slot, context.at) {
        return Err(format!(
            "slot {slot} of `{worker}` pauses until {}",
            pause.until
        ));
    }
    let entry = state.workers.get_mut(&worker).expect("just found");
    match entry.slots.get_mut(slot as usize) {
        Some(held @ None) => *held = Some(id),
        Some(Some(other)) => {
            return Err(format!("slot {slot} of `{worker}` is occupied by {other}"));
        }
        None => return Err(format!("worker `{worker}` has no slot {slot}")),
    }
    trial.attempts.push(Attempt {
        worker,
        slot,
        started_at: context.at,
        ended: None,
    });
    set_phase(state, id.trial, phase);
    Ok(())
}

fn attempt_succeeded(
    state: &mut State,
    id: AttemptId,
    result: &TrialResult,
    context: Context,
) -> Applied {
    let mut summary = ResultSummary::new(result, context.number);
    summary.provenance = interned(state, summary.provenance);
    let provenance = summary.provenance.clone();
    let succeeded = TrialEvent::Succeeded {
        attempt: id.number,
        result: Arc::new(summary),
    };
    let phase = next_phase(state, id.trial, &succeeded)?;
    let (worker, slot) = place(state, id)?;
    end_attempt(state, id, true, None, context);
    free(state, &worker, slot);
    end_pauses(state, &worker, slot);
    remember(state, provenance);
    set_phase(state, id.trial, phase);
    credit_hosts(state, id.trial, &worker);
    Ok(())
}

fn attempt_failed(
    state: &mut State,
    id: AttemptId,
    failure: &Failure,
    then: AfterFailure,
    slot_free: bool,
    context: Context,
) -> Applied {
    let attempt = id.number;
    let phase = next_phase(state, id.trial, &TrialEvent::Failed { attempt, then })?;
    let (worker, slot) = place(state, id)?;
    end_attempt(state, id, false, Some(failure), context);
    if slot_free {
        free(state, &worker, slot);
    }
    if failure.class != FailureClass::Node {
        end_pauses(state, &worker, slot);
        let trial = state.trials.get_mut(&id.trial).expect("it runs");
        *trial.spent.entry(failure.class).or_default() += 1;
    }
    if blames_host(failure.class) {
        let host = state.workers[&worker].info.host.clone();
        let host = state.hosts.entry(host).or_default();
        host.failed_here.insert(id.trial);
    }
    set_phase(state, id.trial, phase);
    Ok(())
}

fn attempt_stopped(state: &mut State, id: AttemptId, context: Context) -> Applied {
    let attempt = id.number;
    let phase = next_phase(state, id.trial, &TrialEvent::Stopped { attempt })?;
    let (worker, slot) = place(state, id)?;
    end_attempt(state, id, false, None, context);
    free(state, &worker, slot);
    end_pauses(state, &worker, slot);
    set_phase(state, id.trial, phase);
    Ok(())
}

/// Returns the worker and slot of an attempt.
fn place(state: &State, id: AttemptId) -> Result<(WorkerId, SlotIndex), String> {
    let attempt = state
        .attempt(id)
        .ok_or_else(|| format!("there is no attempt {id}"))?;
    Ok((attempt.worker.clone(), attempt.slot))
}

fn end_attempt(
    state: &mut State,
    id: AttemptId,
    succeeded: bool,
    failure: Option<&Failure>,
    context: Context,
) {
    let failure = failure.map(|failure| {
        Failure::new(
            failure.class,
            text::shortened(&failure.message, MAX_MESSAGE_IN_MEMORY),
        )
    });
    let end = AttemptEnd {
        at: context.at,
        event: context.number,
        succeeded,
        failure,
    };
    let trial = state
        .trials
        .get_mut(&id.trial)
        .expect("its next phase is known");
    trial.attempts[id.number.0 as usize - 1].ended = Some(end);
}

fn free(state: &mut State, worker: &WorkerId, slot: SlotIndex) {
    let entry = state
        .workers
        .get_mut(worker)
        .expect("attempts run on workers that have joined");
    entry.slots[slot as usize] = None;
}

/// Ends the pauses of a slot in which the node ran an attempt: its next node fault counts as the
/// first in a row.
fn end_pauses(state: &mut State, worker: &WorkerId, slot: SlotIndex) {
    let entry = state
        .workers
        .get_mut(worker)
        .expect("attempts run on workers that have joined");
    entry.pauses.remove(&slot);
}

/// Bytes of a failure message that are kept in memory (first line and end). The journal has the
/// whole message.
const MAX_MESSAGE_IN_MEMORY: usize = 800;

/// Returns the shared copy of a provenance if there is one: one allocation for all results of one
/// origin. The list is short: hosts x models x data sets.
fn interned(state: &State, provenance: Arc<Provenance>) -> Arc<Provenance> {
    state
        .provenances
        .iter()
        .find(|known| **known == provenance)
        .cloned()
        .unwrap_or(provenance)
}

/// Shares a provenance with later results.
fn remember(state: &mut State, provenance: Arc<Provenance>) {
    let is_known = state
        .provenances
        .iter()
        .any(|known| Arc::ptr_eq(known, &provenance));
    // Beyond this the search costs more than the memory it saves.
    if !is_known && state.provenances.len() < 256 {
        state.provenances.push(provenance);
    }
}

// -- hosts

/// Returns true for failures that count against this host because another host might not have had
/// them. Lost connections, preemptions and bad input prove nothing about the host; a node fault
/// pauses its slots instead.
pub(crate) fn blames_host(class: FailureClass) -> bool {
    match class {
        FailureClass::NonFinite
        | FailureClass::OutOfMemory
        | FailureClass::Crashed
        | FailureClass::Stalled
        | FailureClass::BadDevice => true,
        FailureClass::BadInput
        | FailureClass::Unreachable
        | FailureClass::Preempted
        | FailureClass::Node => false,
    }
}

/// Credits the host of a success, and counts the success against the hosts on which the same trial
/// failed before.
fn credit_hosts(state: &mut State, id: TrialId, worker: &WorkerId) {
    let here = &state.workers[worker].info.host;
    for attempt in &state.trials[&id].attempts {
        let host = &state.workers[&attempt.worker].info.host;
        let Some(entry) = state.hosts.get_mut(host) else {
            continue;
        };
        if entry.failed_here.remove(&id) && host != here {
            entry.succeeded_elsewhere += 1;
        }
    }
    state.hosts.entry(here.clone()).or_default().succeeded_here += 1;
}

fn host_drained(state: &mut State, host: &str, reason: &str) -> Applied {
    let entry = state
        .hosts
        .get_mut(host)
        .ok_or_else(|| format!("no host `{host}`"))?;
    entry.drained = Some(reason.to_owned());
    Ok(())
}

fn token_revoked(state: &mut State, id: &str) -> Applied {
    match state.revoked_tokens.insert(id.to_owned()) {
        true => Ok(()),
        false => Err(format!("the token {id} was revoked before")),
    }
}

fn host_undrained(state: &mut State, host: &str) -> Applied {
    let entry = state
        .hosts
        .get_mut(host)
        .ok_or_else(|| format!("no host `{host}`"))?;
    *entry = HostState::default();
    for worker in state
        .workers
        .values_mut()
        .filter(|worker| worker.info.host == host)
    {
        worker.broken_slots.clear();
        worker.pauses.clear();
    }
    Ok(())
}

// -- workers and slots

fn worker_joined(
    state: &mut State,
    worker: &WorkerId,
    info: &WorkerInfo,
    (secret, occupied): (Option<&SecretHash>, &BTreeMap<SlotIndex, AttemptId>),
    context: Context,
) -> Applied {
    if let Some((&slot, _)) = occupied.last_key_value()
        && slot as usize >= info.slots.len()
    {
        return Err(format!(
            "worker `{worker}` occupies slot {slot} of {}",
            info.slots.len()
        ));
    }
    let lost = state
        .current_attempts(worker)
        .find(|(slot, attempt)| occupied.get(slot) != Some(attempt));
    if let Some((_, attempt)) = lost {
        return Err(format!(
            "worker `{worker}` joins without {attempt}, which runs there"
        ));
    }
    let host = state.hosts.entry(info.host.clone()).or_default();
    let mut entry = WorkerState {
        info: info.clone(),
        secret: secret.cloned(),
        joined_at: context.at,
        presence: Presence::Present,
        draining: None,
        slots: (0..info.slots.len() as SlotIndex)
            .map(|slot| occupied.get(&slot).copied())
            .collect(),
        broken_slots: Default::default(),
        pauses: Default::default(),
    };
    for (index, slot) in info.slots.iter().enumerate() {
        if let Some(reason) = host.breakage(slot) {
            entry
                .broken_slots
                .insert(index as SlotIndex, reason.clone());
        }
    }
    if let Some(before) = state.workers.get(worker) {
        entry.joined_at = before.joined_at;
        entry.secret = entry.secret.or_else(|| before.secret.clone());
        entry.draining = before.draining.clone();
        let kept = before
            .broken_slots
            .iter()
            .filter(|(slot, _)| (**slot as usize) < info.slots.len());
        entry
            .broken_slots
            .extend(kept.map(|(slot, reason)| (*slot, reason.clone())));
        let kept = before
            .pauses
            .iter()
            .filter(|(slot, _)| (**slot as usize) < info.slots.len());
        entry
            .pauses
            .extend(kept.map(|(slot, pause)| (*slot, pause.clone())));
    }
    state.workers.insert(worker.clone(), entry);
    allocation::record::worker_joined(state, worker, info, context.at)
}

fn worker_mut<'a>(state: &'a mut State, worker: &WorkerId) -> Result<&'a mut WorkerState, String> {
    state
        .workers
        .get_mut(worker)
        .ok_or_else(|| format!("no worker `{worker}`"))
}

fn worker_draining(
    state: &mut State,
    worker: &WorkerId,
    reason: &Line,
    context: Context,
) -> Applied {
    worker_mut(state, worker)?.draining = Some(reason.to_string());
    let reason = reason.clone();
    let drained = AllocationEvent::Drained { reason };
    allocation::record::worker_changed(state, worker, &drained, context.at)
}

fn worker_undrained(state: &mut State, worker: &WorkerId, context: Context) -> Applied {
    let entry = worker_mut(state, worker)?;
    if entry.draining.take().is_none() {
        return Err(format!(
            "worker `{worker}` is undrained, but does not drain"
        ));
    }
    allocation::record::worker_changed(state, worker, &AllocationEvent::Undrained, context.at)
}

fn worker_gone(state: &mut State, worker: &WorkerId, reason: &str, context: Context) -> Applied {
    if let Some((_, attempt)) = state.current_attempts(worker).next() {
        return Err(format!(
            "worker `{worker}` is gone, but {attempt} runs there"
        ));
    }
    let entry = worker_mut(state, worker)?;
    entry.presence = Presence::Gone {
        reason: reason.to_owned(),
        at: context.at,
    };
    // If the worker comes back, it reports what its slots still hold.
    entry.slots.fill(None);
    forget_the_longest_gone(state);
    Ok(())
}

/// Number of workers that are gone and whose full record is kept.
pub const KEPT_GONE: usize = 100;

/// Reduces the records of the workers that have been gone the longest to host and build. Attempts
/// refer to workers for ever, and each run of a worker is a new one.
fn forget_the_longest_gone(state: &mut State) {
    let full_record = |(worker, entry): (&WorkerId, &WorkerState)| match entry.presence {
        Presence::Gone { at, .. } if !entry.info.slots.is_empty() => Some((at, worker.clone())),
        _ => None,
    };
    let mut gone: Vec<(Millis, WorkerId)> = state.workers.iter().filter_map(full_record).collect();
    let Some(too_many) = gone.len().checked_sub(KEPT_GONE) else {
        return;
    };
    gone.sort_unstable();
    for (at, worker) in gone.into_iter().take(too_many) {
        let Some(entry) = state.workers.get_mut(&worker) else {
            continue;
        };
        entry.presence = Presence::Gone {
            reason: String::new(),
            at,
        };
        entry.info.slots = Vec::new();
        entry.slots = Vec::new();
        entry.draining = None;
        entry.broken_slots.clear();
        entry.pauses.clear();
    }
}

fn slot_freed(state: &mut State, worker: &WorkerId, slot: SlotIndex) -> Applied {
    if state
        .current_attempts(worker)
        .any(|(held, ..)| held == slot)
    {
        return Err(format!(
            "slot {slot} of `{worker}` is freed while its attempt is current"
        ));
    }
    match worker_mut(state, worker)?.slots.get_mut(slot as usize) {
        Some(held @ Some(_)) => *held = None,
        _ => {
            return Err(format!(
                "slot {slot} of `{worker}` is freed, but nothing occupies it"
            ));
        }
    }
    Ok(())
}

fn slot_broken(
    state: &mut State,
    worker: &WorkerId,
    slot: SlotIndex,
    devices: &[String],
    reason: &str,
) -> Applied {
    let entry = worker_mut(state, worker)?;
    let Some(broken) = entry.info.slots.get(slot as usize) else {
        return Err(format!("worker `{worker}` has no slot {slot}"));
    };
    let name = entry.info.host.clone();
    // If no device is named, or none that the slot has, the broken one is unknown.
    let all = !broken.devices.iter().any(|device| devices.contains(device));
    let suspected = broken
        .identities()
        .filter(|(device, _)| all || devices.iter().any(|named| named == device));
    let identities: Vec<String> = suspected.map(|(_, identity)| identity.to_owned()).collect();
    // Whichever device failed: a trainer that lost one of its GPUs cannot use the others.
    entry.broken_slots.insert(slot, reason.to_owned());
    let host = state.hosts.entry(name.clone()).or_default();
    host.broken_devices.extend(
        identities
            .into_iter()
            .map(|identity| (identity, reason.to_owned())),
    );
    for other in state
        .workers
        .values_mut()
        .filter(|other| other.info.host == name)
    {
        for (index, slot) in other.info.slots.iter().enumerate() {
            if let Some(reason) = host.breakage(slot) {
                other
                    .broken_slots
                    .entry(index as SlotIndex)
                    .or_insert_with(|| reason.clone());
            }
        }
    }
    Ok(())
}

fn slot_paused(
    state: &mut State,
    worker: &WorkerId,
    slot: SlotIndex,
    until: Millis,
    reason: &str,
) -> Applied {
    if state
        .current_attempts(worker)
        .any(|(held, ..)| held == slot)
    {
        return Err(format!(
            "slot {slot} of `{worker}` pauses while its attempt is current"
        ));
    }
    let entry = worker_mut(state, worker)?;
    if slot as usize >= entry.info.slots.len() {
        return Err(format!("worker `{worker}` has no slot {slot}"));
    }
    let count = entry
        .pauses
        .get(&slot)
        .map_or(0, |pause| pause.count)
        .saturating_add(1);
    entry.pauses.insert(
        slot,
        SlotPause {
            until,
            count,
            reason: reason.to_owned(),
        },
    );
    Ok(())
}
