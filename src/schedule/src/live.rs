//! What was heard since this coordinator started: who is connected, when each worker was last heard, and how far its
//! attempts are. Never journalled; decides only when leases and stalls run out. Read `fleet.rs` for what follows.

use sweep::{AttemptNo, TrialId};

use crate::config::Config;
use crate::event::{Input, RunningAttempt};
use crate::state::{Live, LiveProgress, Millis, State, WorkerId};

/// After replay, before the first input: nobody is connected, and every lease runs anew from now.
pub fn restart(state: &mut State, now: Millis) {
    state.live = Live { since: now, ..Live::default() };
}

/// Takes note of an accepted input in `State::live`.
pub fn observe(state: &mut State, input: &Input, now: Millis) {
    match input {
        Input::Connected { worker, connection, running, .. } => {
            state.live.connected.insert(worker.clone(), *connection);
            state.live.newest_connection.insert(worker.clone(), *connection);
            // one that leaves says so again
            state.live.leaving.remove(worker);
            heard(state, worker, now);
            progressed(state, running, now);
        }
        Input::Disconnected { worker, connection } => {
            if state.live.connected.get(worker) == Some(connection) {
                state.live.connected.remove(worker);
            }
            forget_the_gone(state);
        }
        Input::Heartbeat { worker, running } => {
            heard(state, worker, now);
            progressed(state, running, now);
        }
        Input::Ended { worker, ended } => {
            heard(state, worker, now);
            let known = state.live.progress.get(&ended.trial);
            if known.is_some_and(|known| known.attempt == ended.attempt) {
                state.live.progress.remove(&ended.trial);
            }
        }
        Input::Leaving { worker, .. } => {
            state.live.leaving.insert(worker.clone());
            heard(state, worker, now);
        }
        Input::Tick => forget_the_gone(state),
        Input::Submit { .. }
        | Input::Cancel { .. }
        | Input::Retry { .. }
        | Input::Drain { .. }
        | Input::Undrain { .. } => {}
    }
}

/// When `Input::Tick` must come at the latest: a lease runs out, or a backoff or the pause of a slot is over. `None`:
/// nothing is waited for.
pub fn next_deadline(state: &State, config: &Config, now: Millis) -> Option<Millis> {
    let present = || state.workers.iter().filter(|(_, entry)| !entry.is_gone());
    let lease = present().map(|(worker, _)| lease_end(state, config, worker)).min();
    let pauses = present().flat_map(|(_, entry)| entry.pauses.values().map(|pause| pause.until));
    let pause = pauses.filter(|until| *until > now).min();
    // those whose time has come wait for a slot, not for the clock
    let backoff = state.queue.delayed.range((now.saturating_add(1), TrialId::MIN)..).next().map(|(time, _)| *time);
    lease.into_iter().chain(backoff).chain(pause).min()
}

/// How long the coordinator may wait at once while workers are present: a longer gap means that it was held up itself.
pub fn longest_wait(state: &State, config: &Config) -> Option<Millis> {
    let present = state.workers.values().any(|entry| !entry.is_gone());
    present.then_some((config.lease_ms / 4).clamp(10, 1_000))
}

/// The coordinator did not run for `gap` although it wanted to: it was stopped, its machine was suspended, a disk kept
/// it waiting. Nobody's silence in that time counts. After a gap that a lease would hardly survive every worker has a
/// whole lease again: what it sent meanwhile is heard before anything is held against it. True: leases are longer now.
pub fn held_up(state: &mut State, config: &Config, gap: Millis, now: Millis) -> bool {
    let allowed = (config.lease_ms / 4).min(HARDLY_HELD_UP_MS);
    if gap <= allowed {
        return false;
    }
    let whole = gap >= config.lease_ms / 2;
    let later = |time: Millis| if whole { now } else { time.saturating_add(gap).min(now) };
    let live = &mut state.live;
    live.since = later(live.since);
    live.last_heard.values_mut().for_each(|heard| *heard = later(*heard));
    // a stall lasts minutes: it is only not counted while nobody listened
    for progress in live.progress.values_mut() {
        progress.advanced_at = progress.advanced_at.saturating_add(gap).min(now);
    }
    true
}

/// A busy machine is late by this much now and then.
const HARDLY_HELD_UP_MS: Millis = 1_000;

pub(crate) fn lease_end(state: &State, config: &Config, worker: &WorkerId) -> Millis {
    let heard = state.live.last_heard.get(worker).copied().unwrap_or(state.live.since);
    heard.saturating_add(config.lease_ms)
}

/// Since when an attempt has made no progress, given what this heartbeat says of it.
pub(crate) fn still_since(
    state: &State,
    (id, attempt): (TrialId, AttemptNo),
    said: Option<&RunningAttempt>,
    now: Millis,
) -> Millis {
    let known = state.live.progress.get(&id).filter(|known| known.attempt == attempt);
    match (known, said) {
        (Some(known), Some(said)) if advanced(known, said) => now,
        (Some(known), _) => known.advanced_at,
        // first word of it, perhaps to a coordinator that has just started
        (None, Some(_)) => now,
        (None, None) => {
            let started = state.trials[&id].attempt(attempt).map_or(now, |entry| entry.started_at);
            started.max(state.live.since)
        }
    }
}

fn heard(state: &mut State, worker: &WorkerId, now: Millis) {
    state.live.last_heard.insert(worker.clone(), now);
}

fn progressed(state: &mut State, running: &[RunningAttempt], now: Millis) {
    for said in running {
        let moved = match state.live.progress.get(&said.trial) {
            // late word of an attempt that others have followed
            Some(known) if known.attempt > said.attempt => continue,
            Some(known) if known.attempt == said.attempt => advanced(known, said),
            _ => true,
        };
        if moved {
            let entry = LiveProgress { attempt: said.attempt, progress: said.progress.clone(), advanced_at: now };
            state.live.progress.insert(said.trial, entry);
        }
    }
}

/// Counters only grow within an attempt.
fn advanced(known: &LiveProgress, said: &RunningAttempt) -> bool {
    let (before, after) = (&known.progress, &said.progress);
    after.epoch > before.epoch || after.step > before.step || after.collectives > before.collectives
}

/// Keeps `Live` as small as what it describes.
fn forget_the_gone(state: &mut State) {
    let State { live, workers, trials, .. } = state;
    let present = |worker: &WorkerId| workers.get(worker).is_some_and(|entry| !entry.is_gone());
    live.connected.retain(|worker, _| present(worker));
    live.last_heard.retain(|worker, _| present(worker));
    live.leaving.retain(|worker| present(worker));
    live.progress.retain(|id, known| {
        let attempt = trials.get(id).and_then(|trial| trial.attempt(known.attempt));
        attempt.is_some_and(|attempt| attempt.ended.is_none())
    });
}
