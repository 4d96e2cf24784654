//! How many allocations are wanted, and which are given back. Follows from the state alone.
//!
//! Growth: one at a time, and the first one alone until its worker has reported its slots. Hosts over
//! ssh belong to the user: none waits for another, and one that cannot be reached counts as none.
//! Shrink: jobs that wait are cancelled once no trial has needed them for a while. Those that run are
//! left to their workers, which leave when they have been idle.

use std::collections::BTreeSet;

use super::decide::{changed, drained, present_worker, struck, unended};
use super::live::{LaunchLive, is_never_submitted};
use super::record::Allocation;
use super::{AllocationEvent, AllocationId, AllocationPhase, EndCause, LaunchEvent};
use crate::config::Config;
use crate::state::{Millis, State, WorkerId, WorkerState};

/// Time that a trial needs before its first checkpoint: a trainer writes one after any step, so
/// this is its start and its first batch.
pub const FIRST_CHECKPOINT_MS: Millis = 30_000;

pub(crate) fn plan(state: &State, config: &Config, now: Millis) -> Vec<LaunchEvent> {
    let Some(live) = &state.live.launch else {
        return Vec::new();
    };
    let queue = &state.launch_queues[&live.queue];
    let mut events = given_up(state, config, live, now);
    let need = Need::of(state, config, live, now);
    let lasts = live
        .surplus_since
        .is_some_and(|since| now >= since + config.launch.surplus_ms);
    if need.surplus > 0 && lasts {
        let waiting = unended(state, &queue.spec.launcher).filter(|(_, entry)| is_queued(entry));
        let mut newest: Vec<_> = waiting.map(|(id, entry)| (entry.intended_at, id)).collect();
        newest.sort_unstable();
        let surplus = newest.into_iter().rev().take(need.surplus as usize);
        events.extend(surplus.map(|(_, id)| drained(id, "no trial waits for it")));
    } else if need.grow {
        events.push(LaunchEvent::Intended {
            queue: live.queue.clone(),
            allocation: AllocationId::new(&live.queue, queue.issued + 1),
        });
    }
    events
}

/// Ends allocations that were given back before they were asked for, and gives up jobs that run
/// without a worker.
fn given_up(state: &State, config: &Config, live: &LaunchLive, now: Millis) -> Vec<LaunchEvent> {
    let launcher = &state.launch_queues[&live.queue].spec.launcher;
    let mut events = Vec::new();
    for (id, entry) in unended(state, launcher) {
        match entry.phase {
            AllocationPhase::Draining { has_started: false } if is_never_submitted(live, id) => {
                let cause = EndCause::CancelledByUs;
                events.push(changed(id, AllocationEvent::Ended { cause }));
            }
            AllocationPhase::Running => {
                let since = live.jobs.get(id).and_then(|seen| seen.silent_since);
                if since.is_none_or(|since| now < since + config.launch.silent_ms) {
                    continue;
                }
                let minutes = config.launch.silent_ms / 60_000;
                let reason = match entry.joined_at {
                    Some(_) => format!("its worker has been silent for {minutes} min"),
                    None => format!(
                        "its job has run for {minutes} min and no worker connected: its log has the reason"
                    ),
                };
                events.push(drained(id, &reason));
                if entry.joined_at.is_none() {
                    events.push(struck(state, config, entry, reason.as_str().into(), now));
                }
            }
            _ => {}
        }
    }
    events
}

/// The need for allocations at one moment.
pub(crate) struct Need {
    /// One more may be asked for.
    pub grow: bool,
    /// Number of those that wait and that no trial needs.
    pub surplus: u32,
    /// Number that the work could use.
    pub wanted: u32,
}

impl Need {
    pub fn of(state: &State, config: &Config, live: &LaunchLive, now: Millis) -> Self {
        let queue = &state.launch_queues[&live.queue];
        let spec = &queue.spec;
        let is_ssh = spec.launcher == "ssh";
        let (mut lasting, mut queued, mut busy, mut unresolved) = (0_u32, 0_u32, 0_u32, false);
        let mut retrying = 0_u32;
        for (id, entry) in unended(state, &spec.launcher) {
            unresolved |= entry.phase == AllocationPhase::Intended;
            if let Some((worker, _)) = present_worker(state, entry) {
                busy += state.current_attempts(worker).count() as u32;
            }
            // Why a worker leaves by itself is known once its job has ended: a person may have
            // cancelled it, and does not want another in its place.
            let is_over = entry.phase.is_draining() && !leaves_by_itself(state, entry);
            if is_over || is_expiring(state, config, live, (id, entry), now) {
                continue;
            }
            if is_ssh && matches!(entry.phase, AllocationPhase::Pending { .. }) {
                retrying += 1;
                continue;
            }
            lasting += 1;
            queued += u32::from(is_queued(entry));
        }
        let slots = queue
            .shape
            .as_ref()
            .map_or(1, |shape| shape.slots.len().max(1)) as u64;
        let could_use = (u64::from(busy) + waiting_trials(state, live)).div_ceil(slots);
        let alone = match queue.shape.is_none() && !is_ssh {
            true => 1,
            false => u64::MAX,
        };
        let wanted = could_use.min(u64::from(spec.max_allocations)).min(alone) as u32;
        let delayed = queue.delay.as_ref().is_some_and(|delay| now < delay.until);
        let surplus = lasting.saturating_sub(wanted).min(queued);
        Self {
            grow: lasting < wanted
                && lasting + retrying < spec.max_allocations
                && queued < config.launch.max_queued
                && !unresolved
                && !delayed
                && queue.paused.is_none(),
            surplus: match wanted {
                0 => surplus + retrying,
                _ => surplus,
            },
            wanted,
        }
    }
}

/// Trials that wait and that a worker of the queue can train, as far as its workers are known.
fn waiting_trials(state: &State, live: &LaunchLive) -> u64 {
    let shape = state.launch_queues[&live.queue].shape.as_ref();
    let fitting = state
        .queue
        .by_needs
        .iter()
        .filter(|((devices, trainer), _)| {
            shape.is_none_or(|shape| {
                trainer.runs_on(&shape.trainer) && shape.slots.iter().any(|slot| slot >= devices)
            })
        });
    fitting.map(|(_, places)| places.len() as u64).sum()
}

/// Its worker has announced that it leaves, or has left, and the coordinator did not ask for it.
fn leaves_by_itself(state: &State, entry: &Allocation) -> bool {
    let has_started = entry.phase == AllocationPhase::Draining { has_started: true };
    let stays = |(worker, _): (&WorkerId, &WorkerState)| !state.live.leaving.contains(worker);
    has_started && !entry.is_given_back && !present_worker(state, entry).is_some_and(stays)
}

/// The cluster has it, and it waits.
fn is_queued(entry: &Allocation) -> bool {
    matches!(
        entry.phase,
        AllocationPhase::Submitted | AllocationPhase::Pending { .. }
    )
}

/// Returns true if the allocation ends so soon that its successor should be in the queue. The
/// moment differs from one allocation to the next, so that not all are renewed at once.
fn is_expiring(
    state: &State,
    config: &Config,
    live: &LaunchLive,
    (id, entry): (&AllocationId, &Allocation),
    now: Millis,
) -> bool {
    match entry.phase {
        AllocationPhase::Running | AllocationPhase::Draining { has_started: true } => {}
        _ => return false,
    }
    let spec = &state.launch_queues[&entry.queue].spec;
    let by_worker = present_worker(state, entry).and_then(|(_, known)| known.info.leaves_at_ms);
    let by_cluster = || live.jobs.get(id).and_then(|seen| seen.ends_at);
    let by_limit = || Some(entry.started_at? + spec.time_limit_ms?);
    let Some(ends_at) = by_worker.or_else(by_cluster).or_else(by_limit) else {
        return false;
    };
    let longest = config.launch.renew_ms;
    let half = |limit: Millis| limit.saturating_sub(spec.notice_ms) / 2;
    let renew = spec.time_limit_ms.map_or(longest, half).min(longest);
    let stagger = entry.intended_at % 4 * renew / 8;
    now + spec.notice_ms + renew + stagger >= ends_at
}

/// Returns the nodes that the next allocation avoids: those that are drained, and those on which an
/// allocation failed lately. Only names that the cluster itself reported: it refuses others.
pub(crate) fn avoided(
    state: &State,
    config: &Config,
    live: &LaunchLive,
    now: Millis,
) -> Vec<String> {
    if !live.avoids_nodes {
        return Vec::new();
    }
    let nodes: BTreeSet<&str> = state
        .workers
        .values()
        .filter(|known| known.info.allocation.is_some())
        .map(|known| known.info.host.as_str())
        .collect();
    let is_drained = |name: &str| {
        let host = state.hosts.get(name);
        host.is_some_and(|host| host.drained.is_some())
    };
    let drained = nodes.into_iter().filter(|name| is_drained(name));
    let mut failed: Vec<(Millis, &str)> = live
        .failed_nodes
        .iter()
        .filter(|(name, at)| now < *at + config.launch.avoid_ms && !is_drained(name))
        .map(|(name, at)| (*at, name.as_str()))
        .collect();
    failed.sort_unstable();
    let latest = failed.into_iter().rev().map(|(_, name)| name);
    let avoided = drained.chain(latest).take(config.launch.max_avoided);
    avoided.map(str::to_owned).collect()
}

/// Returns true if a trial that started now on this worker could not write a checkpoint before
/// the worker leaves.
pub(crate) fn leaves_too_soon(state: &State, entry: &WorkerState, now: Millis) -> bool {
    let Some(leaves_at) = entry.info.leaves_at_ms else {
        return false;
    };
    let allocation = entry
        .info
        .allocation
        .as_deref()
        .and_then(|id| state.allocations.get(id));
    let notice = allocation.map_or(0, |entry| state.launch_queues[&entry.queue].spec.notice_ms);
    now + notice + FIRST_CHECKPOINT_MS > leaves_at
}
