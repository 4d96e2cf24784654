//! What each input means, as events. Pure: they are facts only once they are journalled and applied.
//!
//! What worker's say is judged in `fleet.rs`; what people say, here. An input that means nothing gives no events; one
//! that must not count is refused with a value. What follows from the state alone (placing trials, ending a search,
//! the bad-node rule) is `plan.rs`.

use std::collections::BTreeSet;

use sweep::TrialId;

use crate::config::Config;
use crate::event::{Event, Input, Rejected, Retry};
use crate::fleet;
use crate::state::{Millis, Phase, State, SweepState, WorkerId, WorkerState};
use crate::submission;

pub fn decide(state: &State, config: &Config, input: &Input, now: Millis) -> Result<Vec<Event>, Rejected> {
    match input {
        Input::Submit { sweep } => submission::submitted(state, sweep).map(|(_, events)| events),
        Input::Cancel { sweep, reason } => cancel(state, sweep, reason),
        Input::Retry { sweep, which } => retry(state, sweep, which),
        Input::Drain { worker, reason } => drain(state, worker, reason),
        Input::Undrain { host } => undrain(state, host),
        Input::Connected { worker, connection, info, running, ended } => {
            let lists = fleet::Lists { info, running, ended };
            fleet::connected(state, config, worker, *connection, lists, now)
        }
        Input::Disconnected { worker, connection } => Ok(fleet::disconnected(state, worker, *connection)),
        Input::Heartbeat { worker, running } => fleet::heartbeat(state, config, worker, running, now),
        Input::Ended { worker, ended } => fleet::ended(state, config, worker, ended, now),
        Input::Leaving { worker, reason } => drain(state, worker, reason),
        Input::Tick => Ok(fleet::expired_leases(state, config, now)),
    }
}

fn cancel(state: &State, sweep: &str, reason: &str) -> Result<Vec<Event>, Rejected> {
    let entry = state.sweeps.get(sweep).ok_or_else(|| Rejected::UnknownSweep(sweep.to_owned()))?;
    if entry.cancelled.is_some() || state.is_complete(sweep) {
        return Ok(Vec::new());
    }
    Ok(vec![Event::SweepCancelled { sweep: sweep.to_owned(), reason: reason.into() }])
}

fn retry(state: &State, sweep: &str, which: &Retry) -> Result<Vec<Event>, Rejected> {
    let entry = state.sweeps.get(sweep).ok_or_else(|| Rejected::UnknownSweep(sweep.to_owned()))?;
    let cells: Option<BTreeSet<u32>> = match which {
        Retry::Failed => return Ok(retry_failed(state, sweep, entry)),
        Retry::All => None,
        Retry::Cells(names) => {
            let found = names.iter().map(|name| entry.sweep.find_cell(name).map(|cell| cell as u32));
            Some(found.collect::<Result<_, _>>().map_err(Rejected::Invalid)?)
        }
    };
    let asked = entry.trials.iter().filter(|trial| cells.as_ref().is_none_or(|cells| cells.contains(&trial.cell)));
    // what waits or runs is being trained already
    let ended: BTreeSet<TrialId> =
        asked.map(|trial| trial.id).filter(|id| state.trials[id].phase.is_terminal()).collect();
    if ended.is_empty() && entry.cancelled.is_none() {
        return Ok(Vec::new());
    }
    Ok(vec![Event::TrialsRetried { sweep: sweep.to_owned(), trials: ended.into_iter().collect() }])
}

fn retry_failed(state: &State, sweep: &str, entry: &SweepState) -> Vec<Event> {
    let failed = |id| matches!(state.trials[&id].phase, Phase::Failed { .. });
    if entry.cancelled.is_none() && !entry.trials.iter().any(|trial| failed(trial.id)) {
        return Vec::new();
    }
    vec![Event::FailedTrialsRetried { sweep: sweep.to_owned() }]
}

fn drain(state: &State, worker: &WorkerId, reason: &str) -> Result<Vec<Event>, Rejected> {
    let entry = present(state, worker)?;
    if entry.draining.is_some() {
        return Ok(Vec::new());
    }
    Ok(vec![Event::WorkerDraining { worker: worker.clone(), reason: reason.into() }])
}

fn undrain(state: &State, host: &str) -> Result<Vec<Event>, Rejected> {
    let entry = state.hosts.get(host).ok_or_else(|| Rejected::UnknownHost(host.to_owned()))?;
    let mut workers = state.workers.values().filter(|worker| worker.info.host == host);
    let holds_back = workers.any(|worker| !worker.broken_slots.is_empty() || !worker.pauses.is_empty());
    if entry.drained.is_none() && entry.broken_devices.is_empty() && !holds_back {
        return Ok(Vec::new());
    }
    Ok(vec![Event::HostUndrained { host: host.to_owned() }])
}

/// A worker whose word counts: one that is gone must connect again first, with its lists.
pub(crate) fn present<'a>(state: &'a State, worker: &WorkerId) -> Result<&'a WorkerState, Rejected> {
    let known = state.workers.get(worker).filter(|entry| !entry.is_gone());
    known.ok_or_else(|| Rejected::UnknownWorker(worker.clone()))
}
