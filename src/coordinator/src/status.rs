//! The data that `status` and `tail` show, from the state. Read-only; slow derivations run once per
//! call.

use protocol::v1;
use schedule::Config;
use schedule::state::{
    Millis, Phase, Presence, State, SweepState, SweepTrial, UnknownSweep, WorkerId, WorkerState,
};
use sweep::definition::Role;

use crate::time_left::time_left;

/// Maximum number of running trials listed per sweep; `SweepStatus::running` counts them all.
const MAX_RUNNING: usize = 1_000;
/// Maximum number of failed trials listed per sweep.
const MAX_FAILURES: usize = 100;
/// Share of the stall limit after which `status` shows a running trial as stalled.
const STALL_SHOWN: f64 = 0.5;

pub fn sweep(
    state: &State,
    config: &Config,
    name: &str,
    now: Millis,
) -> Result<v1::SweepStatus, UnknownSweep> {
    let entry = state.sweep(name)?;
    let running = entry
        .tally
        .running
        .iter()
        .filter_map(|index| entry.trials.get(*index as usize));
    let running_trials = running
        .filter_map(|trial| running_trial(state, config, entry, trial, now))
        .take(MAX_RUNNING)
        .collect();
    let cells = entry
        .sweep
        .cells
        .iter()
        .filter(|cell| cell.skipped.is_none())
        .count() as u64;
    let counts = entry.counts;
    let waits = schedule::sweep_waits(state, name, now);
    let time_left = time_left(state, entry, now);
    let waits_because = waits
        .as_ref()
        .map(|waits| waits.because.clone())
        .unwrap_or_default();
    Ok(v1::SweepStatus {
        name: name.to_owned(),
        revision: entry.revision,
        submitted_at_ms: entry.submitted_at,
        waiting: counts.waiting,
        running: counts.running,
        succeeded: counts.succeeded,
        failed: counts.failed,
        cancelled: counts.cancelled,
        complete_cells: entry.tally.complete_cells,
        cells,
        cancelled_reason: entry.cancelled.clone().unwrap_or_default(),
        remaining_ms: time_left.ms,
        remaining_at_least: time_left.at_least,
        running_trials,
        complete: state.is_complete(name),
        waits: waits
            .map_or(v1::WaitReason::Unspecified, |waits| waits.reason.into())
            .into(),
        waits_because,
        remaining_low_ms: time_left.range.map_or(0, |(low, _)| low),
        remaining_high_ms: time_left.range.map_or(0, |(_, high)| high),
        failures: Vec::new(),
        description: String::new(),
        more_seeds: schedule::ranking::progress(entry).unwrap_or_default(),
    })
}

/// Returns the first trials of a sweep that failed.
pub fn failures(state: &State, entry: &SweepState) -> Vec<v1::FailedTrial> {
    let describe = |index: &u32| {
        let wanted = entry.trials.get(*index as usize)?;
        let trial = state.trials.get(&wanted.id)?;
        Some(v1::FailedTrial {
            trial: wanted.id.to_string(),
            cell: cell_name(entry, wanted),
            seed: wanted.seed,
            attempts: trial.attempts.len() as u32,
            search: wanted.role == Role::Search,
            failure: trial.failure()?.message.clone(),
        })
    };
    let failed = entry.tally.failed.iter().take(MAX_FAILURES);
    failed.filter_map(describe).collect()
}

pub fn worker(
    state: &State,
    config: &Config,
    id: &WorkerId,
    now: Millis,
) -> Option<v1::WorkerStatus> {
    let entry = state.workers.get(id)?;
    let last_message = state
        .live
        .last_message
        .get(id)
        .copied()
        .unwrap_or(state.live.since);
    let silent_ms = now.saturating_sub(last_message);
    let connected = state.live.connected.contains_key(id);
    let host_drained = state
        .hosts
        .get(&entry.info.host)
        .and_then(|host| host.drained.clone());
    let (presence, reason) = match (&entry.presence, entry.draining.clone().or(host_drained)) {
        (Presence::Gone { reason, .. }, _) => (v1::Presence::Gone, reason.clone()),
        (Presence::Present, _)
            if !connected || silent_ms > config.heartbeat_ms.saturating_mul(3) =>
        {
            (
                v1::Presence::Unreachable,
                format!("silent; its lease is {} s", config.lease_ms / 1000),
            )
        }
        (Presence::Present, Some(reason)) => (v1::Presence::Draining, reason),
        (Presence::Present, None) => (v1::Presence::Present, String::new()),
    };
    Some(v1::WorkerStatus {
        worker: id.to_string(),
        host: entry.info.host.clone(),
        presence: presence.into(),
        reason,
        slots: entry.slots.len() as u32,
        busy_slots: entry.slots.iter().flatten().count() as u32,
        slot_descriptions: slot_descriptions(entry, now),
        silent_ms: match entry.presence {
            Presence::Gone { at, .. } => now.saturating_sub(at),
            Presence::Present => silent_ms,
        },
        // Only the streams know it: `Owner::status` fills it in.
        work_dir_bytes: 0,
        allocation: entry.info.allocation.clone().unwrap_or_default(),
        leaves_in_ms: match entry.presence {
            Presence::Present => entry.info.leaves_at_ms.map(|end| end.saturating_sub(now)),
            Presence::Gone { .. } => None,
        },
    })
}

fn slot_descriptions(entry: &WorkerState, now: Millis) -> Vec<String> {
    let describe = |(index, slot): (usize, &schedule::state::Slot)| {
        let devices = match slot.devices.iter().all(|device| *device == slot.devices[0])
            && slot.devices.len() > 1
        {
            true => format!("{} x {}", slot.devices.len(), slot.devices[0]),
            false => slot.devices.join(","),
        };
        let (broken, pause) = (
            entry.broken_slots.get(&(index as u32)),
            entry.pause_of(index as u32, now),
        );
        match (broken, pause) {
            (Some(reason), _) => format!("{devices}: {} (broken: {reason})", slot.description),
            (None, Some(pause)) => {
                let seconds = (pause.until - now).div_ceil(1000);
                format!(
                    "{devices}: {} (pauses, used again in {seconds} s: {})",
                    slot.description, pause.reason
                )
            }
            (None, None) => format!("{devices}: {}", slot.description),
        }
    };
    entry.info.slots.iter().enumerate().map(describe).collect()
}

fn running_trial(
    state: &State,
    config: &Config,
    entry: &SweepState,
    wanted: &SweepTrial,
    now: Millis,
) -> Option<v1::RunningTrial> {
    let trial = state.trials.get(&wanted.id)?;
    let Phase::Running { attempt: number } = trial.phase else {
        return None;
    };
    let attempt = trial.attempt(number)?;
    let live = state
        .live
        .progress
        .get(&wanted.id)
        .filter(|live| live.attempt == number);
    let progress = live.map(|live| live.progress.clone()).unwrap_or_default();
    let still = live.map_or(0, |live| now.saturating_sub(live.advanced_at));
    let silent = now.saturating_sub(
        state
            .live
            .last_message
            .get(&attempt.worker)
            .copied()
            .unwrap_or(state.live.since),
    );
    let condition = if silent > config.heartbeat_ms.saturating_mul(3)
        || !state.live.connected.contains_key(&attempt.worker)
    {
        v1::Condition::Unreachable
    } else if still as f64 > config.stall_ms as f64 * STALL_SHOWN {
        v1::Condition::Stalled
    } else {
        v1::Condition::Running
    };
    Some(v1::RunningTrial {
        trial: wanted.id.to_string(),
        attempt: number.0,
        cell: cell_name(entry, wanted),
        seed: wanted.seed,
        worker: attempt.worker.to_string(),
        slot: attempt.slot,
        epoch: progress.epoch,
        num_epochs: progress.num_epochs,
        images_per_s: progress.images_per_s,
        train_loss: progress.train_loss,
        accuracy: progress.accuracy,
        condition: condition.into(),
        search: wanted.role == Role::Search,
    })
}

/// Formats a cell as `cub/cos`, or with the value that a search tries there: `cub/cos
/// learning_rate=0.1`.
pub fn cell_name(entry: &SweepState, trial: &SweepTrial) -> String {
    let Some(cell) = entry.sweep.cells.get(trial.cell as usize) else {
        return String::new();
    };
    let name = entry.sweep.cell_name(cell);
    let searched = entry.sweep.search.as_ref().zip(trial.candidate);
    match searched.and_then(|(search, index)| search.assignment(index as usize)) {
        Some(tried) => format!("{name} {tried}"),
        None => name,
    }
}
