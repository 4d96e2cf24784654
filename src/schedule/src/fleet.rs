//! Decisions on workers: streams, heartbeats, outcomes, silence.
//!
//! The fence (P2) is `State::is_current`: only the current attempt, on the worker it was given to,
//! changes its trial. At most, any other report of a worker frees its slot. A worker that was cut
//! off is reconciled only in `connected`, where its lists are compared with the slots.

use std::collections::{BTreeMap, BTreeSet};

use sweep::record::{BadResult, Failure, FailureClass, TrialResult};
use sweep::text::Lines;
use sweep::{AttemptId, TrialId};

use crate::config::Config;
use crate::event::{AfterFailure, EndedAttempt, Event, Outcome, Rejected, RunningAttempt};
use crate::live;
use crate::placement::offers;
use crate::state::{Millis, SecretHash, SlotIndex, State, WorkerId, WorkerInfo, WorkerState};

/// The first message of a stream: the worker's devices and every attempt that it knows of.
pub(crate) struct Hello<'a> {
    /// Number of the stream.
    pub connection: u64,
    pub secret: &'a SecretHash,
    pub info: &'a WorkerInfo,
    pub running: &'a [RunningAttempt],
    pub ended: &'a [EndedAttempt],
}

impl Hello<'_> {
    fn ended(&self, attempt: AttemptId) -> Option<&EndedAttempt> {
        self.ended.iter().find(|ended| ended.id == attempt)
    }

    fn is_running(&self, attempt: AttemptId, slot: SlotIndex) -> bool {
        self.running
            .iter()
            .any(|running| (running.id, running.slot) == (attempt, slot))
    }

    /// Returns the attempts that occupy slots.
    fn occupied(&self) -> BTreeMap<SlotIndex, AttemptId> {
        self.running
            .iter()
            .filter(|running| self.ended(running.id).is_none())
            .map(|running| (running.slot, running.id))
            .collect()
    }
}

/// Compares the lists of a worker that opens a stream with the slots that the state knows.
pub(crate) fn connected(
    state: &State,
    config: &Config,
    worker: &WorkerId,
    hello: &Hello<'_>,
    now: Millis,
) -> Result<Vec<Event>, Rejected> {
    check_secret(state, worker, hello.secret)?;
    check_connection(state, worker, hello.connection)?;
    check_hello(config, worker, hello)?;
    let mut events = Vec::new();
    let mut expected = occupied_slots(state, worker);
    for (slot, attempt) in state.current_attempts(worker) {
        if let Some(ended) = hello.ended(attempt) {
            events.extend(outcome(state, config, worker, slot, ended, now));
        } else if hello.is_running(attempt, slot) {
            continue;
        } else {
            let message = format!(
                "worker `{worker}` does not know of it: its start was lost with a connection"
            );
            let failure = Failure::new(FailureClass::Unreachable, message);
            events.push(failed(
                state,
                config,
                attempt,
                failure,
                SlotAfter::Free,
                now,
            ));
        }
        expected.remove(&slot);
    }
    let occupied = hello.occupied();
    if !is_as_recorded(state, worker, hello) || expected != occupied {
        events.push(Event::WorkerJoined {
            worker: worker.clone(),
            info: hello.info.clone(),
            secret: Some(hello.secret.clone()),
            occupied,
        });
    }
    let late = hello
        .ended
        .iter()
        .filter(|ended| !state.is_current(ended.id, worker));
    events.extend(
        late.filter_map(|ended| late_breakage(state, worker, hello.info.slots.len(), ended)),
    );
    Ok(events)
}

/// Returns true if the worker is present and has the recorded devices and a secret: a stream that
/// was opened again and changed nothing leaves no trace in the journal.
fn is_as_recorded(state: &State, worker: &WorkerId, hello: &Hello<'_>) -> bool {
    present_worker(state, worker)
        .is_ok_and(|entry| entry.info == *hello.info && entry.secret.is_some())
}

/// Returns the attempt in each occupied slot of a worker.
fn occupied_slots(state: &State, worker: &WorkerId) -> BTreeMap<SlotIndex, AttemptId> {
    let slots = present_worker(state, worker).map_or(&[][..], |entry| &entry.slots);
    (0..)
        .zip(slots)
        .filter_map(|(slot, held)| Some((slot, (*held)?)))
        .collect()
}

/// Refuses a stream that is not newer than all before it.
fn check_connection(state: &State, worker: &WorkerId, connection: u64) -> Result<(), Rejected> {
    let newest = state
        .live
        .newest_connection
        .get(worker)
        .copied()
        .unwrap_or(0);
    if connection > newest {
        return Ok(());
    }
    Err(Rejected::StaleConnection {
        worker: worker.clone(),
        connection,
        newest,
    })
}

/// Checks a worker's secret. Its id is no secret: a process that uses it must know what the first
/// one sent.
fn check_secret(state: &State, worker: &WorkerId, secret: &SecretHash) -> Result<(), Rejected> {
    let known = state
        .workers
        .get(worker)
        .and_then(|entry| entry.secret.as_ref());
    match known.is_none_or(|known| known.is_same(secret)) {
        true => Ok(()),
        false => Err(Rejected::Impostor(worker.clone())),
    }
}

fn check_hello(config: &Config, worker: &WorkerId, hello: &Hello<'_>) -> Result<(), Rejected> {
    if hello.info.build != config.build {
        return Err(Rejected::OtherBuild {
            worker: worker.clone(),
            worker_build: hello.info.build.clone(),
            coordinator_build: config.build.clone(),
        });
    }
    if hello.info.slots.is_empty() || hello.info.slots.iter().any(|slot| slot.devices.is_empty()) {
        return Err(Rejected::Invalid(format!(
            "worker `{worker}` offers no slot, or one without devices"
        )));
    }
    let mut seen = BTreeSet::new();
    for running in hello.running {
        if running.slot as usize >= hello.info.slots.len() {
            let slots = hello.info.slots.len();
            return Err(Rejected::Invalid(format!(
                "worker `{worker}` reports an attempt in slot {} and has {slots} slots",
                running.slot
            )));
        }
        if !seen.insert(running.slot) {
            return Err(Rejected::Invalid(format!(
                "worker `{worker}` reports two attempts in slot {}",
                running.slot
            )));
        }
    }
    Ok(())
}

/// Ends a draining worker that holds nothing and closes its stream, as it was ordered to.
pub(crate) fn disconnected(state: &State, worker: &WorkerId, connection: u64) -> Vec<Event> {
    let Ok(entry) = present_worker(state, worker) else {
        return Vec::new();
    };
    let newest = state.live.connected.get(worker) == Some(&connection);
    match &entry.draining {
        Some(reason) if newest && entry.slots.iter().all(Option::is_none) => {
            vec![Event::WorkerGone {
                worker: worker.clone(),
                reason: reason.as_str().into(),
            }]
        }
        _ => Vec::new(),
    }
}

/// Fails the attempts that stalled: a heartbeat without progress is not health (P8). An attempt
/// missing in a heartbeat proves nothing, because the heartbeat may have been sent before the start
/// arrived. But such an attempt makes no progress either, so the stall limit ends it.
pub(crate) fn heartbeat(
    state: &State,
    config: &Config,
    worker: &WorkerId,
    running: &[RunningAttempt],
    now: Millis,
) -> Result<Vec<Event>, Rejected> {
    present_worker(state, worker)?;
    let mut events = Vec::new();
    for (_, attempt) in state.current_attempts(worker) {
        let reported = running.iter().find(|running| running.id == attempt);
        let since = live::no_progress_since(state, attempt, reported, now);
        let still = now.saturating_sub(since);
        if still >= config.stall_ms {
            let message = format!(
                "its worker sent heartbeats, but epoch, step and collectives did not advance for {} s (limit {} s)",
                still / 1000,
                config.stall_ms / 1000
            );
            let failure = Failure::new(FailureClass::Stalled, message);
            events.push(failed(
                state,
                config,
                attempt,
                failure,
                SlotAfter::Occupied,
                now,
            ));
        }
    }
    Ok(events)
}

pub(crate) fn ended(
    state: &State,
    config: &Config,
    worker: &WorkerId,
    ended: &EndedAttempt,
    now: Millis,
) -> Result<Vec<Event>, Rejected> {
    let entry = present_worker(state, worker)?;
    let slot = entry.slot_of(ended.id);
    match slot {
        Some(slot) if state.is_current(ended.id, worker) => {
            Ok(outcome(state, config, worker, slot, ended, now))
        }
        // Too late to count, but the slot is free now, or known to be broken.
        Some(slot) => {
            let freed = Event::SlotFreed {
                worker: worker.clone(),
                slot,
            };
            let broken = breakage(worker, slot, &ended.outcome);
            let paused = pause(state, config, worker, slot, &ended.outcome, now);
            Ok(std::iter::once(freed).chain(broken).chain(paused).collect())
        }
        None => match late_breakage(state, worker, entry.info.slots.len(), ended) {
            Some(broken) => Ok(vec![broken]),
            None => Err(stale(state, ended.id)),
        },
    }
}

/// Returns the event for broken devices in an outcome, whether it counts for its trial or not: a
/// GPU that hangs first shows as a stall or a lost worker, and as broken only when its trainer
/// could not be killed.
fn breakage(worker: &WorkerId, slot: SlotIndex, outcome: &Outcome) -> Option<Event> {
    match outcome {
        Outcome::Failed(failure) if failure.class == FailureClass::BadDevice => {
            Some(Event::SlotBroken {
                worker: worker.clone(),
                slot,
                devices: failure.devices.clone(),
                reason: failure.message.lines().next().unwrap_or_default().into(),
            })
        }
        Outcome::Failed(_) | Outcome::Finished(_) | Outcome::Stopped => None,
    }
}

/// Pauses the slot after a node fault, longer for each further one in a row.
fn pause(
    state: &State,
    config: &Config,
    worker: &WorkerId,
    slot: SlotIndex,
    outcome: &Outcome,
    now: Millis,
) -> Option<Event> {
    let Outcome::Failed(failure) = outcome else {
        return None;
    };
    if failure.class != FailureClass::Node {
        return None;
    }
    let before = state
        .workers
        .get(worker)?
        .pauses
        .get(&slot)
        .map_or(0, |pause| pause.count);
    let wait = config.budgets.node.backoff(before.saturating_add(1))?;
    let reason = failure.message.lines().next().unwrap_or_default().into();
    Some(Event::SlotPaused {
        worker: worker.clone(),
        slot,
        until: now.saturating_add(wait),
        reason,
    })
}

/// Returns the event for broken devices of an attempt that has ended in the state and no longer
/// occupies its slot there. Only once: a report repeated after `undrain` must not undo it.
fn late_breakage(
    state: &State,
    worker: &WorkerId,
    num_slots: usize,
    ended: &EndedAttempt,
) -> Option<Event> {
    let attempt = state.attempt(ended.id)?;
    let is_reported = attempt
        .ended
        .as_ref()?
        .failure
        .as_ref()
        .is_some_and(|reported| reported.class == FailureClass::BadDevice);
    let is_here = attempt.worker == *worker && (attempt.slot as usize) < num_slots;
    let known = state
        .workers
        .get(worker)?
        .broken_slots
        .contains_key(&attempt.slot);
    if is_reported || known || !is_here {
        None
    } else {
        breakage(worker, attempt.slot, &ended.outcome)
    }
}

fn stale(state: &State, attempt: AttemptId) -> Rejected {
    let reason = match state.trials.get(&attempt.trial) {
        None => "no sweep has such a trial".to_owned(),
        Some(known) if (attempt.number.0 as usize) < known.attempts.len() => {
            format!("attempt {} came after it", known.attempts.len())
        }
        Some(known) => match known.attempt(attempt.number) {
            Some(entry) if entry.ended.is_some() => "it has ended already".to_owned(),
            Some(entry) => format!("it was given to worker `{}`", entry.worker),
            None => "it was never dispatched".to_owned(),
        },
    };
    Rejected::StaleAttempt { attempt, reason }
}

/// Ends the attempts of workers silent for longer than the lease; other workers get the trials (P8:
/// `unreachable`).
pub(crate) fn expired_leases(state: &State, config: &Config, now: Millis) -> Vec<Event> {
    let mut events = Vec::new();
    for worker in state
        .workers
        .iter()
        .filter(|(_, entry)| !entry.is_gone())
        .map(|(worker, _)| worker)
    {
        if now < live::lease_end(state, config, worker) {
            continue;
        }
        let reason = format!(
            "silent for {} s, longer than its lease",
            config.lease_ms / 1000
        );
        for (_, attempt) in state.current_attempts(worker) {
            let failure = Failure::new(
                FailureClass::Unreachable,
                format!("worker `{worker}` was {reason}"),
            );
            events.push(failed(
                state,
                config,
                attempt,
                failure,
                SlotAfter::Occupied,
                now,
            ));
        }
        events.push(Event::WorkerGone {
            worker: worker.clone(),
            reason: reason.into(),
        });
    }
    events
}

/// Returns the events for the outcome of a current attempt.
fn outcome(
    state: &State,
    config: &Config,
    worker: &WorkerId,
    slot: SlotIndex,
    ended: &EndedAttempt,
    now: Millis,
) -> Vec<Event> {
    let attempt = ended.id;
    let failure = match &ended.outcome {
        Outcome::Finished(result) => match check_result(state, attempt.trial, result) {
            Ok(()) => {
                return vec![Event::AttemptSucceeded {
                    attempt,
                    result: result.clone(),
                }];
            }
            Err(bad) => bad.into(),
        },
        Outcome::Failed(failure) => failure.clone(),
        Outcome::Stopped if !state.is_wanted(&state.trials[&attempt.trial]) => {
            return vec![Event::AttemptStopped { attempt }];
        }
        // Wanted again after its stop was ordered, or a user stopped its worker.
        Outcome::Stopped => Failure::new(
            FailureClass::Preempted,
            format!("worker `{worker}` stopped it"),
        ),
    };
    let broken = breakage(worker, slot, &ended.outcome);
    let paused = pause(state, config, worker, slot, &ended.outcome, now);
    let failed = failed(state, config, attempt, failure, SlotAfter::Free, now);
    std::iter::once(failed)
        .chain(broken)
        .chain(paused)
        .collect()
}

/// Checks that a result is one of the trial that was dispatched: it stays in the journal for ever
/// and enters tables.
fn check_result(state: &State, trial: TrialId, result: &TrialResult) -> Result<(), BadResult> {
    match state.spec_of(trial) {
        Some(spec) => result.check_against(&spec),
        // No sweep wants it any more.
        None => result.check(),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum SlotAfter {
    Free,
    /// Occupied until the worker reports otherwise.
    Occupied,
}

fn failed(
    state: &State,
    config: &Config,
    attempt: AttemptId,
    failure: Failure,
    slot: SlotAfter,
    now: Millis,
) -> Event {
    let then = after_failure(state, config, attempt, failure.class, now);
    let failure = Failure {
        message: Lines::from(failure.message).into(),
        ..failure
    };
    Event::AttemptFailed {
        attempt,
        failure,
        then,
        slot_free: slot == SlotAfter::Free,
    }
}

fn after_failure(
    state: &State,
    config: &Config,
    attempt: AttemptId,
    class: FailureClass,
    now: Millis,
) -> AfterFailure {
    let trial = &state.trials[&attempt.trial];
    if !state.is_wanted(trial) {
        return AfterFailure::Unwanted;
    }
    // The slot waits, not the trial: another node may take it at once.
    if class == FailureClass::Node {
        return AfterFailure::Retry { not_before: now };
    }
    // The same host would most likely run out again.
    if class == FailureClass::OutOfMemory && !another_host(state, attempt, now) {
        return AfterFailure::GiveUp;
    }
    let spent = trial.spent.get(&class).copied().unwrap_or(0) + 1;
    match config.budgets.of(class).backoff(spent) {
        Some(wait) => AfterFailure::Retry {
            not_before: now.saturating_add(wait),
        },
        None => AfterFailure::GiveUp,
    }
}

/// Returns true if a host other than this attempt's offers a slot that is large enough.
fn another_host(state: &State, attempt: AttemptId, now: Millis) -> bool {
    let trial = &state.trials[&attempt.trial];
    let Some(entry) = trial.attempt(attempt.number) else {
        return false;
    };
    let here = &state.workers[&entry.worker].info.host;
    offers(state, now)
        .into_iter()
        .any(|((host, trainer), devices)| {
            host != here && trial.trainer.runs_on(trainer) && devices >= trial.devices
        })
}

/// Returns a worker whose messages count. One that is gone must first connect again, with its
/// lists.
pub(crate) fn present_worker<'a>(
    state: &'a State,
    worker: &WorkerId,
) -> Result<&'a WorkerState, Rejected> {
    let known = state.workers.get(worker).filter(|entry| !entry.is_gone());
    known.ok_or_else(|| Rejected::UnknownWorker(worker.clone()))
}
