//! The messages that the shell sends to workers once the events are durable. They are derived from
//! the state after the events, so that the answer to a repeated or late message is correct now.
//!
//! No message here has to arrive: if a crash or a broken connection loses it, it is sent again when
//! the worker connects and the lists are compared (`fleet.rs`).

use sweep::AttemptId;

use crate::decide::workers_named;
use crate::event::{Effect, Event, Input, Recorded, Rejected};
use crate::state::{State, WorkerId};

/// Returns the effects of events that are journalled and applied.
pub fn effects(state: &State, recorded: &[Recorded]) -> Vec<Effect> {
    let mut effects = Vec::new();
    let mut wants_changed = false;
    for entry in recorded {
        match &entry.event {
            Event::TrialDispatched {
                attempt,
                worker,
                slot,
            } => effects.push(Effect::Start {
                worker: worker.clone(),
                slot: *slot,
                attempt: *attempt,
            }),
            Event::AttemptFailed {
                attempt,
                slot_free: false,
                failure,
                ..
            } => {
                let worker = state.attempt(*attempt).map(|entry| entry.worker.clone());
                let here =
                    worker.filter(|worker| state.workers[worker].slot_of(*attempt).is_some());
                let reason = failure.message.clone();
                effects.extend(here.map(|worker| Effect::Stop {
                    worker,
                    attempt: *attempt,
                    reason,
                }));
            }
            Event::WorkerGone { worker, reason } => {
                effects.push(Effect::Disconnect {
                    worker: worker.clone(),
                    reason: reason.to_string(),
                });
            }
            Event::SweepSubmitted { .. }
            | Event::SweepCancelled { .. }
            | Event::SweepRemoved { .. }
            | Event::TrialsRetried { .. } => {
                wants_changed = true;
            }
            Event::FailedTrialsRetried { .. }
            | Event::WorkerJoined { .. }
            | Event::WorkerDraining { .. }
            | Event::WorkerUndrained { .. }
            | Event::HostDrained { .. }
            | Event::HostUndrained { .. }
            | Event::TokenRevoked { .. }
            | Event::AttemptSucceeded { .. }
            | Event::AttemptFailed { .. }
            | Event::AttemptStopped { .. }
            | Event::SlotFreed { .. }
            | Event::SlotBroken { .. }
            | Event::SlotPaused { .. }
            | Event::Launch(_)
            | Event::CandidateChosen { .. }
            | Event::RankingLookedAt { .. } => {}
        }
    }
    if wants_changed {
        for (worker, entry) in &state.workers {
            let held = entry.slots.iter().flatten();
            effects.extend(held.filter_map(|attempt| stop(state, worker, *attempt)));
        }
    }
    effects
}

/// Returns the replies to a worker's message, whether it changed anything or not: acknowledgements,
/// and orders to stop attempts that it should not run.
pub fn replies(state: &State, input: &Input, outcome: Result<(), &Rejected>) -> Vec<Effect> {
    let acknowledge = |worker: &WorkerId, attempt| Effect::Acknowledge {
        worker: worker.clone(),
        attempt,
    };
    match (input, outcome) {
        (
            Input::Ended { worker, .. }
            | Input::Heartbeat { worker, .. }
            | Input::Leaving { worker, .. }
            | Input::Idle { worker, .. },
            Err(Rejected::UnknownWorker(_)),
        ) => {
            let reason = "its lease ran out, or it never joined: connect again".to_owned();
            vec![Effect::Disconnect {
                worker: worker.clone(),
                reason,
            }]
        }
        // The outcome is durable now, or too late to matter: it need not be reported again.
        (Input::Ended { worker, ended }, _) => std::iter::once(acknowledge(worker, ended.id))
            .chain(drain(state, worker))
            .collect(),
        (Input::Heartbeat { worker, running }, Ok(())) => {
            let stopped = running
                .iter()
                .filter_map(|running| stop(state, worker, running.id));
            stopped.chain(drain(state, worker)).collect()
        }
        (
            Input::Connected {
                worker,
                running,
                ended,
                ..
            },
            Ok(()),
        ) => {
            let acknowledged = ended.iter().map(|ended| acknowledge(worker, ended.id));
            let stopped = running
                .iter()
                .filter_map(|running| stop(state, worker, running.id));
            acknowledged
                .chain(stopped)
                .chain(drain(state, worker))
                .collect()
        }
        (Input::Idle { worker, .. }, Ok(())) => drain(state, worker).into_iter().collect(),
        (Input::Drain { name, .. }, Ok(())) => workers_named(state, name)
            .filter_map(|(worker, _)| drain(state, worker))
            .collect(),
        (
            Input::Submit { .. }
            | Input::Cancel { .. }
            | Input::Remove { .. }
            | Input::Retry { .. }
            | Input::Drain { .. }
            | Input::Undrain { .. }
            | Input::RevokeToken { .. }
            | Input::Connected { .. }
            | Input::Disconnected { .. }
            | Input::Heartbeat { .. }
            | Input::Leaving { .. }
            | Input::Launch(_)
            | Input::Idle { .. }
            | Input::Tick,
            _,
        ) => Vec::new(),
    }
}

/// Returns the order to stop an attempt that is not current on this worker, or that no sweep wants.
fn stop(state: &State, worker: &WorkerId, attempt: AttemptId) -> Option<Effect> {
    let reason = if !state.is_current(attempt, worker) {
        "the attempt is no longer current"
    } else if !state.is_wanted(&state.trials[&attempt.trial]) {
        "no sweep wants the trial any more"
    } else {
        return None;
    };
    Some(Effect::Stop {
        worker: worker.clone(),
        attempt,
        reason: reason.to_owned(),
    })
}

/// Returns the order to end, for a draining worker that holds nothing any more. It is not sent
/// earlier, so that `undrain` can still keep the worker.
fn drain(state: &State, worker: &WorkerId) -> Option<Effect> {
    let entry = state
        .workers
        .get(worker)
        .filter(|entry| !entry.is_gone() && entry.slots.iter().all(Option::is_none))?;
    let reason = entry.draining.clone()?;
    Some(Effect::Drain {
        worker: worker.clone(),
        reason,
    })
}
