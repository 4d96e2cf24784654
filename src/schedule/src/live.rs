//! Messages since this coordinator started: open streams, the time of each worker's last message,
//! the progress of attempts. Never journalled; used only to decide when leases and stalls expire.
//! `fleet.rs` acts on it.

use sweep::{AttemptId, TrialId};

use crate::allocation;
use crate::config::Config;
use crate::curve::Curve;
use crate::event::{Input, RunningAttempt};
use crate::state::{Live, LiveProgress, Millis, State, WorkerId};

/// Resets the live state after replay, before the first input: no worker is connected, and every
/// lease starts now.
pub fn restart(state: &mut State, now: Millis) {
    state.live = Live {
        since: now,
        ..Live::default()
    };
}

/// Records an accepted input in `State::live`.
pub fn observe(state: &mut State, input: &Input, now: Millis) {
    match input {
        Input::Connected {
            worker,
            connection,
            running,
            ..
        } => {
            state.live.connected.insert(worker.clone(), *connection);
            state
                .live
                .newest_connection
                .insert(worker.clone(), *connection);
            // A worker that leaves announces it again.
            state.live.leaving.remove(worker);
            message_received(state, worker, now);
            record_progress(state, running, now);
        }
        Input::Disconnected { worker, connection } => {
            if state.live.connected.get(worker) == Some(connection) {
                state.live.connected.remove(worker);
            }
            forget_the_gone(state);
        }
        Input::Heartbeat { worker, running } => {
            message_received(state, worker, now);
            record_progress(state, running, now);
        }
        Input::Ended { worker, ended } => {
            message_received(state, worker, now);
            let known = state.live.progress.get(&ended.id.trial);
            if known.is_some_and(|known| known.attempt == ended.id.number) {
                state.live.progress.remove(&ended.id.trial);
            }
        }
        Input::Leaving { worker, .. } => {
            state.live.leaving.insert(worker.clone());
            message_received(state, worker, now);
        }
        Input::Idle { worker, .. } => message_received(state, worker, now),
        Input::Tick => forget_the_gone(state),
        Input::Submit { .. }
        | Input::Cancel { .. }
        | Input::Remove { .. }
        | Input::Retry { .. }
        | Input::Drain { .. }
        | Input::Undrain { .. }
        | Input::RevokeToken { .. }
        | Input::Launch(_) => {}
    }
}

/// Returns the deadline for the next `Input::Tick`: a lease runs out, or a backoff or the pause of
/// a slot is over. `None`: there is no deadline.
pub fn next_deadline(state: &State, config: &Config, now: Millis) -> Option<Millis> {
    let present = || state.workers.iter().filter(|(_, entry)| !entry.is_gone());
    let lease = present()
        .map(|(worker, _)| lease_end(state, config, worker))
        .min();
    let pauses = present().flat_map(|(_, entry)| entry.pauses.values().map(|pause| pause.until));
    let pause = pauses.filter(|until| *until > now).min();
    // Trials whose backoff is over wait for a slot, not for the clock.
    let backoff = state
        .queue
        .delayed
        .range((now.saturating_add(1), TrialId::MIN)..)
        .next()
        .map(|(time, _)| *time);
    let launch = allocation::deadline(state, config);
    [lease, backoff, pause, launch].into_iter().flatten().min()
}

/// Longest single wait of the coordinator while workers are present. A longer gap means that it was
/// held up itself.
pub fn longest_wait(state: &State, config: &Config) -> Option<Millis> {
    let present = state.workers.values().any(|entry| !entry.is_gone());
    present.then_some((config.lease_ms / 4).clamp(10, 1_000))
}

/// Extends the leases because the coordinator did not run for `gap`: it was stopped, its machine
/// was suspended, or a disk blocked it. Silence in that time does not count. After a gap of half a
/// lease every worker gets a whole lease, so that messages sent meanwhile are received first.
/// Returns true if leases are longer now.
pub fn held_up(state: &mut State, config: &Config, gap: Millis, now: Millis) -> bool {
    let allowed = (config.lease_ms / 4).min(HARDLY_HELD_UP_MS);
    if gap <= allowed {
        return false;
    }
    let whole = gap >= config.lease_ms / 2;
    let later = |time: Millis| {
        if whole {
            now
        } else {
            time.saturating_add(gap).min(now)
        }
    };
    let live = &mut state.live;
    live.since = later(live.since);
    live.last_message
        .values_mut()
        .for_each(|at| *at = later(*at));
    // A stall lasts minutes, so it is enough not to count the gap.
    for progress in live.progress.values_mut() {
        progress.advanced_at = progress.advanced_at.saturating_add(gap).min(now);
    }
    true
}

/// Delay that is normal now and then on a busy machine.
const HARDLY_HELD_UP_MS: Millis = 1_000;

pub(crate) fn lease_end(state: &State, config: &Config, worker: &WorkerId) -> Millis {
    let at = state
        .live
        .last_message
        .get(worker)
        .copied()
        .unwrap_or(state.live.since);
    at.saturating_add(config.lease_ms)
}

/// Returns the time since which an attempt has made no progress, given its entry in this heartbeat.
pub(crate) fn no_progress_since(
    state: &State,
    attempt: AttemptId,
    reported: Option<&RunningAttempt>,
    now: Millis,
) -> Millis {
    let known = state
        .live
        .progress
        .get(&attempt.trial)
        .filter(|known| known.attempt == attempt.number);
    match (known, reported) {
        (Some(known), Some(reported)) if advanced(known, reported) => now,
        (Some(known), _) => known.advanced_at,
        // The first report of it, perhaps to a coordinator that has just started.
        (None, Some(_)) => now,
        (None, None) => {
            let started = state.attempt(attempt).map_or(now, |entry| entry.started_at);
            started.max(state.live.since)
        }
    }
}

fn message_received(state: &mut State, worker: &WorkerId, now: Millis) {
    state.live.last_message.insert(worker.clone(), now);
}

fn record_progress(state: &mut State, running: &[RunningAttempt], now: Millis) {
    for reported in running {
        let AttemptId { trial, number } = reported.id;
        let mut curve = match state.live.progress.get_mut(&trial) {
            // A late report of an attempt that newer ones have followed.
            Some(known) if known.attempt > number => continue,
            Some(known) if known.attempt == number && !advanced(known, reported) => continue,
            Some(known) if known.attempt == number => std::mem::take(&mut known.curve),
            _ => Curve::default(),
        };
        curve.add(&reported.progress);
        let entry = LiveProgress {
            attempt: number,
            progress: reported.progress.clone(),
            advanced_at: now,
            curve,
        };
        state.live.progress.insert(trial, entry);
    }
}

/// Returns true if a counter grew; counters only grow within an attempt.
fn advanced(known: &LiveProgress, reported: &RunningAttempt) -> bool {
    let (before, after) = (&known.progress, &reported.progress);
    after.epoch > before.epoch || after.step > before.step || after.collectives > before.collectives
}

/// Removes live entries of workers that are gone and of attempts that have ended.
fn forget_the_gone(state: &mut State) {
    let State {
        live,
        workers,
        trials,
        ..
    } = state;
    let present = |worker: &WorkerId| workers.get(worker).is_some_and(|entry| !entry.is_gone());
    live.connected.retain(|worker, _| present(worker));
    live.last_message.retain(|worker, _| present(worker));
    live.leaving.retain(|worker| present(worker));
    live.progress.retain(|id, known| {
        let attempt = trials
            .get(id)
            .and_then(|trial| trial.attempt(known.attempt));
        attempt.is_some_and(|attempt| attempt.ended.is_none())
    });
}
