//! Conditions at the end of every simulation: the promises P1, P2 and P4, judged from the journal
//! and from the truth about each trial, without the state machine's own logic.

use std::collections::{BTreeMap, BTreeSet};

use schedule::event::{AfterFailure, Event, Recorded};
use schedule::replay;
use schedule::state::{Phase, State, SweepState};
use sweep::definition::Role;
use sweep::record::FailureClass;
use sweep::{AttemptId, Sweep, TrialId};

use crate::truth;
use crate::world::{Verdict, World};

pub fn judge(world: &World) -> Verdict {
    let state = &world
        .coordinator
        .as_ref()
        .expect("it ends with a coordinator")
        .state;
    let replayed = replay(&world.journal).map_err(|impossible| impossible.to_string())?;
    if !replayed.same_history(state) {
        return Err("P4: replay differs from live at the end".to_owned());
    }
    for (id, trial) in state.trials.iter() {
        if !trial.phase.is_terminal() {
            return Err(format!("P1: trial {id} ends as {:?}", trial.phase));
        }
    }
    one_result_under_its_own_attempt(&world.journal)?;
    nothing_starts_on_a_broken_device(&world.journal)?;
    faults_of_nodes_cost_no_trial_and_pause_slots(&world.journal)?;
    for (name, sweep) in &state.sweeps {
        if sweep.cancelled.is_none() {
            results_are_those_of_an_undisturbed_run(name, state, sweep)?;
        }
    }
    Ok(())
}

fn one_result_under_its_own_attempt(journal: &[Recorded]) -> Verdict {
    let mut dispatched: BTreeMap<TrialId, (u32, String)> = BTreeMap::new();
    let mut succeeded = BTreeMap::new();
    for recorded in journal {
        match &recorded.event {
            Event::TrialDispatched {
                attempt,
                worker,
                slot,
            } => {
                let AttemptId { trial, number } = *attempt;
                let before =
                    dispatched.insert(trial, (number.0, format!("{worker}/{slot}/{number}")));
                if before.map_or(0, |(number, _)| number) + 1 != number.0 {
                    return Err(format!(
                        "P2: attempt {attempt} does not follow the one before"
                    ));
                }
                if succeeded.contains_key(&trial) {
                    return Err(format!("P1: trial {trial} is dispatched after its result"));
                }
            }
            // A user asked for another training: the result before it no longer counts.
            Event::TrialsRetried { trials, .. } => trials.iter().for_each(|trial| {
                succeeded.remove(trial);
            }),
            Event::AttemptSucceeded { attempt, result } => {
                let AttemptId { trial, number } = *attempt;
                let newest = &dispatched[&trial];
                if newest.0 != number.0 || newest.1 != result.provenance.trainer {
                    let by = &result.provenance.trainer;
                    return Err(format!(
                        "P2: attempt {attempt} has a result by {by}, not by {newest:?}"
                    ));
                }
                if succeeded.insert(trial, number).is_some() {
                    return Err(format!("P1: trial {trial} has two results"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks devices by name: in the simulation a GPU keeps its place.
fn nothing_starts_on_a_broken_device(journal: &[Recorded]) -> Verdict {
    let mut workers = BTreeMap::new();
    let mut broken: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for recorded in journal {
        match &recorded.event {
            Event::WorkerJoined { worker, info, .. } => {
                workers.insert(worker, info);
            }
            Event::TrialDispatched {
                attempt,
                worker,
                slot,
                ..
            } => {
                let devices = &workers[worker].slots[*slot as usize].devices;
                let bad = broken.get(workers[worker].host.as_str());
                if bad.is_some_and(|bad| devices.iter().any(|device| bad.contains(device.as_str())))
                {
                    return Err(format!(
                        "{attempt} was given to slot {slot} of {worker}, which has a broken device"
                    ));
                }
            }
            Event::SlotBroken {
                worker,
                slot,
                devices,
                ..
            } => {
                let held = &workers[worker].slots[*slot as usize].devices;
                let named: Vec<&str> = held
                    .iter()
                    .filter(|one| devices.contains(one))
                    .map(String::as_str)
                    .collect();
                let all = held.iter().map(String::as_str).filter(|_| named.is_empty());
                broken
                    .entry(&workers[worker].host)
                    .or_default()
                    .extend(all.chain(named.iter().copied()));
            }
            Event::HostUndrained { host } => {
                broken.remove(host.as_str());
            }
            _ => {}
        }
    }
    Ok(())
}

fn faults_of_nodes_cost_no_trial_and_pause_slots(journal: &[Recorded]) -> Verdict {
    let mut hosts = BTreeMap::new();
    let mut paused = BTreeMap::new();
    for recorded in journal {
        match &recorded.event {
            Event::WorkerJoined { worker, info, .. } => {
                hosts.insert(worker, info.host.as_str());
            }
            Event::AttemptFailed {
                attempt,
                failure,
                then: AfterFailure::GiveUp,
                ..
            } if failure.class == FailureClass::Node => {
                return Err(format!("{attempt} failed through the fault of a node"));
            }
            Event::SlotPaused {
                worker,
                slot,
                until,
                ..
            } => {
                paused.insert((worker, *slot), *until);
            }
            Event::HostUndrained { host } => paused.retain(|(worker, _), _| hosts[*worker] != host),
            Event::TrialDispatched {
                attempt,
                worker,
                slot,
                ..
            } if paused
                .get(&(worker, *slot))
                .is_some_and(|until| recorded.at < *until) =>
            {
                return Err(format!(
                    "{attempt} was given to slot {slot} of {worker}, which pauses"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn results_are_those_of_an_undisturbed_run(
    name: &str,
    state: &State,
    entry: &SweepState,
) -> Verdict {
    let mut expected = expected_trials(&entry.sweep);
    expected.extend(further_trials(entry)?);
    expected.sort();
    let mut found: Vec<(TrialId, u32, Option<u32>)> = entry
        .trials
        .iter()
        .map(|wanted| (wanted.id, wanted.cell, wanted.candidate))
        .collect();
    found.sort();
    if found != expected {
        return Err(format!(
            "sweep `{name}` ends with trials {found:?}, not {expected:?}"
        ));
    }
    for (id, ..) in found {
        let phase = &state.trials[&id].phase;
        let holds = match (truth::doom(id), phase) {
            (None, Phase::Succeeded { result, .. }) => result.last_accuracy == truth::accuracy(id),
            // A fault of the script may come first: out of memory with no other host to try is
            // final too, and no user retries a trial that would fail again.
            (Some(class), Phase::Failed { .. }) => {
                state.trials[&id].failure().is_some_and(|failure| {
                    failure.class == class || failure.class == FailureClass::OutOfMemory
                })
            }
            _ => false,
        };
        if !holds {
            return Err(format!(
                "trial {id} of sweep `{name}` ends as {phase:?}, doom {:?}",
                truth::doom(id)
            ));
        }
    }
    Ok(())
}

/// Returns the trials that the looks at its rankings added: seeds without a gap, of cells that were
/// undecided, up to the next look. Each ranking is over.
fn further_trials(entry: &SweepState) -> Result<Vec<(TrialId, u32, Option<u32>)>, String> {
    let mut further = Vec::new();
    let Some(budget) = &entry.sweep.seed_budget else {
        return Ok(further);
    };
    for ranking in &entry.rankings.list {
        if !ranking.is_over(budget) {
            return Err(format!("a ranking ends before it is over: {ranking:?}"));
        }
        for &cell in &ranking.cells {
            let was_open = |number: &usize| ranking.looks[*number].undecided.contains(&cell);
            let last = (0..ranking.looks.len()).rev().find(was_open);
            let next = last.map(|number| (number + 1).min(budget.looks.len() - 1));
            let seeds = next.map_or(budget.looks[0], |next| budget.looks[next]);
            let listed = entry.trials.iter().filter(|trial| trial.cell == cell);
            let listed = listed.count() as u32;
            // A look that was made again may have added seeds that a later one would not.
            if listed < seeds || !budget.looks.contains(&listed) {
                return Err(format!("cell {cell} has {listed} seeds, not {seeds}"));
            }
            let trials = entry
                .sweep
                .further_trials(cell as usize, None, budget.looks[0]..listed);
            further.extend(trials.iter().map(|trial| (trial.id, cell, None)));
        }
    }
    Ok(further)
}

/// Returns every trial of the sweep, including the result trials of each search's rightful winner.
fn expected_trials(sweep: &Sweep) -> Vec<(TrialId, u32, Option<u32>)> {
    let mut expected = Vec::new();
    for cell in 0..sweep.cells.len() {
        let searched = sweep.cell_trials(cell, None);
        let candidates = sweep
            .search
            .as_ref()
            .map_or(0, |search| search.candidates.len());
        let mean = |candidate: usize| {
            let mine = searched
                .iter()
                .filter(|trial| trial.role == Role::Search && trial.candidate == Some(candidate));
            let ids: Vec<TrialId> = mine.map(|trial| trial.id).collect();
            let eligible = !ids.is_empty() && ids.iter().all(|id| truth::doom(*id).is_none());
            eligible
                .then(|| ids.iter().map(|id| truth::accuracy(*id)).sum::<f64>() / ids.len() as f64)
        };
        let means: Vec<(usize, f64)> = (0..candidates)
            .filter_map(|at| Some((at, mean(at)?)))
            .collect();
        // Folding from behind with `>=` gives the first of equal candidates.
        let best = means
            .iter()
            .rev()
            .copied()
            .reduce(|best, other| if other.1 >= best.1 { other } else { best });
        let trials = sweep.cell_trials(cell, best.map(|(candidate, _)| candidate));
        expected.extend(trials.iter().map(|trial| {
            (
                trial.id,
                trial.cell as u32,
                trial.candidate.map(|candidate| candidate as u32),
            )
        }));
    }
    expected.sort();
    expected
}
