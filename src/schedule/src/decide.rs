//! Turns each input into events. Pure: the events are facts only once they are journalled and
//! applied.
//!
//! `fleet.rs` decides on reports of workers, this file on requests of users. An input without
//! consequence gives no events; one that must not count is refused with a value. What follows from
//! the state alone (placing trials, ending a search, the bad-node rule) is in `plan.rs`.

use std::collections::BTreeSet;

use sweep::TrialId;

use crate::config::Config;
use crate::event::{Event, Input, Rejected, Retry};
use crate::fleet::{self, present};
use crate::state::{Millis, Phase, Presence, State, SweepState, WorkerId, WorkerState};
use crate::submission::{Submission, submitted};

/// The result of an input: its events and, for a submission, a summary for the user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    pub events: Vec<Event>,
    pub submission: Option<Submission>,
}

impl From<Vec<Event>> for Decision {
    fn from(events: Vec<Event>) -> Self {
        Self {
            events,
            submission: None,
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
            let (submission, events) = submitted(state, sweep)?;
            return Ok(Decision {
                events,
                submission: Some(submission),
            });
        }
        Input::Cancel { sweep, reason } => cancel(state, sweep, reason),
        Input::Retry { sweep, which } => retry(state, sweep, which),
        Input::Drain { name, reason } => drain(state, name, reason),
        Input::Undrain { name } => undrain(state, name),
        Input::Connected {
            worker,
            connection,
            secret,
            info,
            running,
            ended,
        } => {
            fleet::check_secret(state, worker, secret)?;
            let lists = fleet::Lists {
                secret,
                info,
                running,
                ended,
            };
            fleet::connected(state, config, worker, *connection, lists, now)
        }
        Input::Disconnected { worker, connection } => {
            Ok(fleet::disconnected(state, worker, *connection))
        }
        Input::Heartbeat { worker, running } => {
            fleet::heartbeat(state, config, worker, running, now)
        }
        Input::Ended { worker, ended } => fleet::ended(state, config, worker, ended, now),
        Input::Leaving { worker, reason } => leaving(state, worker, reason),
        Input::Tick => Ok(fleet::expired_leases(state, config, now)),
    };
    events.map(Decision::from)
}

fn cancel(state: &State, sweep: &str, reason: &str) -> Result<Vec<Event>, Rejected> {
    let entry = state
        .sweeps
        .get(sweep)
        .ok_or_else(|| Rejected::UnknownSweep(sweep.to_owned()))?;
    if entry.cancelled.is_some() || state.is_complete(sweep) {
        return Ok(Vec::new());
    }
    Ok(vec![Event::SweepCancelled {
        sweep: sweep.to_owned(),
        reason: reason.into(),
    }])
}

fn retry(state: &State, sweep: &str, which: &Retry) -> Result<Vec<Event>, Rejected> {
    let entry = state
        .sweeps
        .get(sweep)
        .ok_or_else(|| Rejected::UnknownSweep(sweep.to_owned()))?;
    let cells: Option<BTreeSet<u32>> = match which {
        Retry::Failed => return Ok(retry_failed(state, sweep, entry)),
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
        return Ok(Vec::new());
    }
    Ok(vec![Event::TrialsRetried {
        sweep: sweep.to_owned(),
        trials: ended.into_iter().collect(),
    }])
}

fn retry_failed(state: &State, sweep: &str, entry: &SweepState) -> Vec<Event> {
    let failed = |id| matches!(state.trials[&id].phase, Phase::Failed { .. });
    if entry.cancelled.is_none() && !entry.trials.iter().any(|trial| failed(trial.id)) {
        return Vec::new();
    }
    vec![Event::FailedTrialsRetried {
        sweep: sweep.to_owned(),
    }]
}

fn drain(state: &State, name: &str, reason: &str) -> Result<Vec<Event>, Rejected> {
    let present: Vec<_> = named(state, name)
        .filter(|(_, entry)| !entry.is_gone())
        .collect();
    let mut events = Vec::new();
    match (state.hosts.get(name), named(state, name).next()) {
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
    let entry = present(state, worker)?;
    Ok(if entry.draining.is_some() {
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
pub(crate) fn named<'a>(
    state: &'a State,
    name: &'a str,
) -> impl Iterator<Item = (&'a WorkerId, &'a WorkerState)> {
    state
        .workers
        .iter()
        .filter(move |(worker, entry)| *worker.0 == *name || entry.info.host == name)
}

fn undrain(state: &State, name: &str) -> Result<Vec<Event>, Rejected> {
    let host_of_worker = named(state, name)
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
    let mut workers = named(state, host).map(|(_, worker)| worker);
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
    let drained = named(state, name)
        .filter(|(worker, entry)| entry.draining.is_some() && stays(worker, entry));
    events.extend(drained.map(|(worker, _)| Event::WorkerUndrained {
        worker: worker.clone(),
    }));
    Ok(events)
}
