//! Turns each input into events. Pure: the events are facts only once they are journalled and
//! applied.
//!
//! `fleet.rs` decides on reports of workers, this file on requests of users. An input without
//! consequence gives no events; one that must not count is refused with a value. What follows from
//! the state alone (placing trials, ending a search, the bad-node rule) is in `follow_up.rs`.

use std::collections::BTreeSet;

use sweep::TrialId;

use crate::allocation;
use crate::config::Config;
use crate::event::{Event, Input, Rejected, Retry};
use crate::fleet::{self, present_worker};
use crate::placement::has_work_for;
use crate::state::{Millis, Phase, Presence, State, SweepState, SweepTrial, WorkerId, WorkerState};
use crate::submission::{Submission, submitted};

/// The result of an input: its events, and the answer to its sender.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    pub events: Vec<Event>,
    pub answer: Answer,
}

/// The answer to an accepted input. Each command reads the part that it asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Number of trials that a cancellation ends, or that a retry makes wait again.
    pub trials: u64,
    /// Summary of a submission.
    pub submission: Submission,
}

impl Decision {
    /// Decides on nothing but events.
    fn of(events: Vec<Event>) -> Self {
        Self {
            events,
            answer: Answer::default(),
        }
    }

    /// Decides on an event that changes this number of trials.
    fn on_trials(event: Event, trials: u64) -> Self {
        let submission = Submission::default();
        Self {
            events: vec![event],
            answer: Answer { trials, submission },
        }
    }
}

pub fn decide(
    state: &State,
    config: &Config,
    input: &Input,
    now: Millis,
) -> Result<Decision, Rejected> {
    let events = match input {
        Input::Submit { sweep } => {
            let (submission, events) = submitted(state, sweep);
            check_room(state, config, &submission)?;
            let answer = Answer {
                submission,
                ..Answer::default()
            };
            return Ok(Decision { events, answer });
        }
        Input::Cancel { sweep, reason } => return cancel(state, sweep, reason),
        Input::Remove { sweep, cancel } => return remove(state, sweep, *cancel),
        Input::Retry { sweep, which } => return retry(state, sweep, which),
        Input::Drain { name, reason } => drain(state, name, reason),
        Input::Undrain { name } => undrain(state, name),
        Input::RevokeToken { id } => Ok(revoke_token(state, id)),
        Input::Connected {
            worker,
            connection,
            secret,
            info,
            running,
            ended,
        } => {
            let hello = fleet::Hello {
                connection: *connection,
                secret,
                info,
                running,
                ended,
            };
            fleet::connected(state, config, worker, &hello, now)
        }
        Input::Disconnected { worker, connection } => {
            Ok(fleet::disconnected(state, worker, *connection))
        }
        Input::Heartbeat { worker, running } => {
            fleet::heartbeat(state, config, worker, running, now)
        }
        Input::Ended { worker, ended } => fleet::ended(state, config, worker, ended, now),
        Input::Leaving { worker, reason } => leaving(state, worker, reason),
        Input::Launch(input) => allocation::decide::decide(state, config, input, now),
        Input::Idle { worker, reason } => idle(state, worker, reason, now),
        Input::Tick => Ok(fleet::expired_leases(state, config, now)),
    };
    events.map(Decision::of)
}

fn cancel(state: &State, sweep: &str, reason: &str) -> Result<Decision, Rejected> {
    let entry = state.sweep(sweep)?;
    if entry.cancelled.is_some() || state.is_complete(sweep) {
        return Ok(Decision::default());
    }
    let ends = |trial: &&SweepTrial| state.ends_without(&state.trials[&trial.id], sweep);
    let event = Event::SweepCancelled {
        sweep: sweep.to_owned(),
        reason: reason.into(),
    };
    let ended = entry.trials.iter().filter(ends).count();
    Ok(Decision::on_trials(event, ended as u64))
}

fn remove(state: &State, sweep: &str, cancel: bool) -> Result<Decision, Rejected> {
    let entry = state.sweep(sweep)?;
    if !cancel && entry.cancelled.is_none() && !state.is_complete(sweep) {
        return Err(Rejected::StillTrains {
            sweep: sweep.to_owned(),
            running: entry.counts.running,
            waiting: entry.counts.waiting,
        });
    }
    let is_of_no_other = |id: &TrialId| {
        let mut wanted_by = state.trials[id].wanted_by.iter();
        wanted_by.all(|(name, _)| **name == *sweep)
    };
    let trials: BTreeSet<TrialId> = entry.trials.iter().map(|trial| trial.id).collect();
    let event = Event::SweepRemoved {
        sweep: sweep.to_owned(),
    };
    let unwanted = trials.iter().filter(|id| is_of_no_other(id)).count();
    Ok(Decision::on_trials(event, unwanted as u64))
}

fn retry(state: &State, sweep: &str, which: &Retry) -> Result<Decision, Rejected> {
    let entry = state.sweep(sweep)?;
    let cells: Option<BTreeSet<u32>> = match which {
        Retry::Failed => return Ok(retry_failed(state, sweep, entry)),
        Retry::Trials(ids) => return retry_trials(state, sweep, entry, ids),
        Retry::All => None,
        Retry::Cells(names) => {
            let found = names
                .iter()
                .map(|name| entry.sweep.find_cell(name).map(|cell| cell as u32));
            Some(found.collect::<Result<_, _>>().map_err(Rejected::Invalid)?)
        }
    };
    let asked = entry.trials.iter().filter(|trial| {
        cells
            .as_ref()
            .is_none_or(|cells| cells.contains(&trial.cell))
    });
    // Trials that wait or run are being trained already.
    let ended: BTreeSet<TrialId> = asked
        .map(|trial| trial.id)
        .filter(|id| state.trials[id].phase.is_terminal())
        .collect();
    if ended.is_empty() && entry.cancelled.is_none() {
        return Ok(Decision::default());
    }
    let retried = ended.len() as u64;
    let event = Event::TrialsRetried {
        sweep: sweep.to_owned(),
        trials: ended.into_iter().collect(),
    };
    Ok(Decision::on_trials(event, retried))
}

/// Retries the failed trials. Those of a cancelled sweep that never ran wait again too.
fn retry_failed(state: &State, sweep: &str, entry: &SweepState) -> Decision {
    let waits_again = |trial: &&SweepTrial| match state.trials[&trial.id].phase {
        Phase::Failed { .. } => true,
        Phase::Cancelled => entry.cancelled.is_some(),
        Phase::Waiting { .. } | Phase::Running { .. } | Phase::Succeeded { .. } => false,
    };
    let retried = entry.trials.iter().filter(waits_again).count();
    if entry.cancelled.is_none() && retried == 0 {
        return Decision::default();
    }
    let event = Event::FailedTrialsRetried {
        sweep: sweep.to_owned(),
        only: None,
    };
    Decision::on_trials(event, retried as u64)
}

fn retry_trials(
    state: &State,
    sweep: &str,
    entry: &SweepState,
    ids: &[TrialId],
) -> Result<Decision, Rejected> {
    let listed: BTreeSet<TrialId> = entry.trials.iter().map(|trial| trial.id).collect();
    if let Some(foreign) = ids.iter().find(|id| !listed.contains(id)) {
        let text = format!("sweep `{sweep}` has no trial {foreign}");
        return Err(Rejected::Invalid(text));
    }
    let in_phase = |is_meant: fn(&Phase) -> bool| {
        let meant = ids.iter().filter(|id| is_meant(&state.trials[*id].phase));
        meant.copied().collect::<BTreeSet<TrialId>>()
    };
    let failed = in_phase(|phase| matches!(phase, Phase::Failed { .. }));
    let finished = in_phase(|phase| matches!(phase, Phase::Succeeded { .. }));
    let trials = (failed.len() + finished.len()) as u64;
    let mut events = Vec::new();
    if !failed.is_empty() {
        events.push(Event::FailedTrialsRetried {
            sweep: sweep.to_owned(),
            only: Some(failed),
        });
    }
    if !finished.is_empty() {
        events.push(Event::TrialsRetried {
            sweep: sweep.to_owned(),
            trials: finished.into_iter().collect(),
        });
    }
    let submission = Submission::default();
    Ok(Decision {
        events,
        answer: Answer { trials, submission },
    })
}

fn drain(state: &State, name: &str, reason: &str) -> Result<Vec<Event>, Rejected> {
    let present: Vec<_> = workers_named(state, name)
        .filter(|(_, entry)| !entry.is_gone())
        .collect();
    let mut events = Vec::new();
    match (state.hosts.get(name), workers_named(state, name).next()) {
        (Some(host), _) if host.drained.is_none() => {
            events.push(Event::HostDrained {
                host: name.to_owned(),
                reason: reason.into(),
            });
        }
        (Some(_), _) => {}
        (None, None) => return Err(Rejected::UnknownPlace(name.to_owned())),
        (None, Some((worker, entry))) => {
            if let Presence::Gone { reason, .. } = &entry.presence {
                return Err(Rejected::HasLeft {
                    worker: worker.clone(),
                    reason: reason.clone(),
                });
            }
        }
    }
    let working = present
        .into_iter()
        .filter(|(_, entry)| entry.draining.is_none());
    events.extend(working.map(|(worker, _)| draining(worker, reason)));
    Ok(events)
}

/// Drains a worker that leaves on its own.
fn leaving(state: &State, worker: &WorkerId, reason: &str) -> Result<Vec<Event>, Rejected> {
    let entry = present_worker(state, worker)?;
    Ok(if entry.draining.is_some() {
        Vec::new()
    } else {
        vec![draining(worker, reason)]
    })
}

/// Lets an idle worker go unless it holds an attempt or a trial waits that it can take, now or
/// after a backoff.
fn idle(
    state: &State,
    worker: &WorkerId,
    reason: &str,
    now: Millis,
) -> Result<Vec<Event>, Rejected> {
    let entry = present_worker(state, worker)?;
    let stays = entry.draining.is_some()
        || entry.slots.iter().any(Option::is_some)
        || has_work_for(state, worker, entry, now);
    Ok(if stays {
        Vec::new()
    } else {
        vec![draining(worker, reason)]
    })
}

fn draining(worker: &WorkerId, reason: &str) -> Event {
    Event::WorkerDraining {
        worker: worker.clone(),
        reason: reason.into(),
    }
}

/// Returns the worker with this id, or all workers that ever joined from the host of this name.
pub(crate) fn workers_named<'a>(
    state: &'a State,
    name: &'a str,
) -> impl Iterator<Item = (&'a WorkerId, &'a WorkerState)> {
    state
        .workers
        .iter()
        .filter(move |(worker, entry)| *worker.0 == *name || entry.info.host == name)
}

/// Refuses a submission with more trials than may wait. Trials of a search that are known only later
/// are not counted.
fn check_room(state: &State, config: &Config, submission: &Submission) -> Result<(), Rejected> {
    let Submission {
        trials,
        reused,
        shared,
        failed,
        ..
    } = submission;
    let added = trials.saturating_sub(reused + shared + failed);
    let waiting = state.queue.len() as u64;
    match added > 0 && waiting + added > config.max_waiting {
        true => Err(Rejected::TooManyWait {
            added,
            waiting,
            limit: config.max_waiting,
        }),
        false => Ok(()),
    }
}

fn revoke_token(state: &State, id: &str) -> Vec<Event> {
    let is_new = !state.revoked_tokens.contains(id);
    let revoked = is_new.then(|| Event::TokenRevoked { id: id.to_owned() });
    revoked.into_iter().collect()
}

fn undrain(state: &State, name: &str) -> Result<Vec<Event>, Rejected> {
    let host_of_worker = workers_named(state, name)
        .next()
        .map(|(_, entry)| entry.info.host.as_str());
    let known = state
        .hosts
        .get_key_value(name)
        .map(|(host, _)| host.as_str());
    let Some(host) = known.or(host_of_worker) else {
        return Err(Rejected::UnknownPlace(name.to_owned()));
    };
    let mut events = Vec::new();
    let distrusted = state
        .hosts
        .get(host)
        .is_some_and(|entry| entry.drained.is_some() || !entry.broken_devices.is_empty());
    let mut workers = workers_named(state, host).map(|(_, worker)| worker);
    let holds_back =
        workers.any(|worker| !worker.broken_slots.is_empty() || !worker.pauses.is_empty());
    if distrusted || holds_back {
        events.push(Event::HostUndrained {
            host: host.to_owned(),
        });
    }
    // A worker that has announced that it leaves would refuse new work.
    let stays = |worker: &WorkerId, entry: &WorkerState| {
        !entry.is_gone() && !state.live.leaving.contains(worker)
    };
    let drained = workers_named(state, name)
        .filter(|(worker, entry)| entry.draining.is_some() && stays(worker, entry));
    events.extend(drained.map(|(worker, _)| Event::WorkerUndrained {
        worker: worker.clone(),
    }));
    Ok(events)
}
