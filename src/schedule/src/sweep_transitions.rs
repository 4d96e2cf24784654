//! The sweeps' side of the state machine: which sweeps want a trial, and what that means for its
//! phase, its place in the queue, the sweeps' counts and their searches.
//!
//! Every change of a phase goes through `set_phase`, so that derived data cannot lag behind. Only
//! `apply.rs` calls this.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use sweep::definition::Role;
use sweep::{AttemptNo, Sweep, TrialId};

use crate::event::Context;
use crate::phase::TrialEvent;
use crate::ranking::{Look, Rankings};
use crate::search::best_candidate;
use crate::state::{Counts, Phase, Place, Searching, State, SweepState, SweepTrial, TrialState};
use crate::tally::Tally;

type Applied = Result<(), String>;

pub(crate) fn sweep_submitted(
    state: &mut State,
    sweep: &Arc<Sweep>,
    trials: &[SweepTrial],
    context: Context,
) -> Applied {
    check_trials(sweep, trials)?;
    let searching = searches(trials)?;
    let name: Arc<str> = match state.sweeps.get_key_value(sweep.name.as_str()) {
        Some((name, _)) => name.clone(),
        None => sweep.name.as_str().into(),
    };
    let before = state.sweeps.remove(&name);
    let changed_inputs = before.as_ref().map_or_else(Default::default, |before| {
        sweep.changed_inputs(&before.sweep)
    });
    let entry = SweepState {
        sweep: sweep.clone(),
        revision: before.as_ref().map_or(0, |before| before.revision) + 1,
        submitted_at: context.at,
        order: context.number,
        cancelled: None,
        trials: Arc::new(Vec::with_capacity(trials.len())),
        chosen: Default::default(),
        searching,
        rankings: Rankings::of(sweep),
        changed_inputs,
        counts: Counts::default(),
        tally: Tally::of_cells(sweep.cells.len()),
        changed: context.number,
    };
    let dropped: Vec<TrialId> = before.map_or(Vec::new(), |before| {
        before.trials.iter().map(|trial| trial.id).collect()
    });
    for id in &dropped {
        let trial = state
            .trials
            .get_mut(id)
            .expect("sweeps list trials that exist");
        trial.wanted_by.retain(|(other, _)| *other != name);
    }
    state.sweeps.insert(name.clone(), entry);
    list_trials(state, &name, &dropped, trials, context)
}

/// Gives a sweep that lists nothing its trials, and releases those that it listed before.
fn list_trials(
    state: &mut State,
    name: &Arc<str>,
    before: &[TrialId],
    trials: &[SweepTrial],
    context: Context,
) -> Applied {
    state.to_choose.retain(|(other, _)| other != name);
    add_trials(state, name, trials, context)?;
    for id in before {
        settle(state, *id, context)?;
    }
    let cells: Vec<u32> = state.sweeps[name].searching.keys().copied().collect();
    cells
        .into_iter()
        .for_each(|cell| settle_search(state, name, cell));
    Ok(())
}

pub(crate) fn sweep_cancelled(
    state: &mut State,
    sweep: &str,
    reason: &str,
    context: Context,
) -> Applied {
    let entry = state
        .sweeps
        .get_mut(sweep)
        .ok_or_else(|| format!("no sweep `{sweep}`"))?;
    entry.cancelled = Some(reason.to_owned());
    entry.changed = context.number;
    settle_all(state, sweep, context)
}

pub(crate) fn sweep_removed(state: &mut State, sweep: &str, context: Context) -> Applied {
    let (name, removed) = state
        .sweeps
        .remove_entry(sweep)
        .ok_or_else(|| format!("no sweep `{sweep}`"))?;
    state.to_choose.retain(|(other, _)| *other != name);
    let ids: BTreeSet<TrialId> = removed.trials.iter().map(|trial| trial.id).collect();
    for id in ids {
        let trial = state
            .trials
            .get_mut(&id)
            .expect("sweeps list trials that exist");
        trial.wanted_by.retain(|(other, _)| *other != name);
        trial.is_removed = trial.wanted_by.is_empty();
        settle(state, id, context)?;
    }
    Ok(())
}

pub(crate) fn failed_trials_retried(
    state: &mut State,
    sweep: &str,
    only: Option<&BTreeSet<TrialId>>,
    context: Context,
) -> Applied {
    let entry = state
        .sweeps
        .get_mut(sweep)
        .ok_or_else(|| format!("no sweep `{sweep}`"))?;
    entry.cancelled = None;
    entry.changed = context.number;
    let is_meant = |id: &TrialId| only.is_none_or(|only| only.contains(id));
    let has_failed = |trial: &&SweepTrial| {
        is_meant(&trial.id) && matches!(state.trials[&trial.id].phase, Phase::Failed { .. })
    };
    let cells = entry.trials.iter().filter(has_failed);
    let cells = cells.map(|trial| trial.cell).collect();
    entry.rankings.look_again(&cells);
    let listed = entry.trials.iter().map(|trial| trial.id);
    for id in listed.filter(is_meant).collect::<Vec<_>>() {
        let trial = state
            .trials
            .get_mut(&id)
            .expect("sweeps list trials that exist");
        if matches!(trial.phase, Phase::Failed { .. }) {
            trial.spent.clear();
            advance(state, id, &TrialEvent::FailureRetried { at: context.at })?;
        }
    }
    settle_all(state, sweep, context)
}

pub(crate) fn trials_retried(
    state: &mut State,
    sweep: &str,
    trials: &[TrialId],
    context: Context,
) -> Applied {
    let (name, entry) = state
        .sweeps
        .get_key_value(sweep)
        .ok_or_else(|| format!("no sweep `{sweep}`"))?;
    let name = name.clone();
    let again: BTreeSet<TrialId> = trials.iter().copied().collect();
    let listed: BTreeSet<TrialId> = entry.trials.iter().map(|trial| trial.id).collect();
    if let Some(foreign) = again.iter().find(|id| !listed.contains(id)) {
        return Err(format!(
            "trial {foreign} is trained again for sweep `{sweep}`, which does not want it"
        ));
    }
    if let Some(open) = again
        .iter()
        .find(|id| !state.trials[id].phase.is_terminal())
    {
        return Err(format!("trial {open} is trained again, but has not ended"));
    }
    let is_searched = |trial: &&SweepTrial| trial.role == Role::Search && again.contains(&trial.id);
    let searched: BTreeSet<u32> = entry
        .trials
        .iter()
        .filter(is_searched)
        .map(|trial| trial.cell)
        .collect();
    let entry = state.sweeps.get_mut(&name).expect("just found");
    entry.cancelled = None;
    entry.changed = context.number;
    let cells = entry.trials.iter();
    let cells = cells.filter(|trial| again.contains(&trial.id));
    let cells = cells.map(|trial| trial.cell).collect();
    entry.rankings.look_again(&cells);
    for id in &again {
        let trial = state
            .trials
            .get_mut(id)
            .expect("sweeps list trials that exist");
        trial.spent.clear();
        trial.since = trial.next_attempt();
        advance(state, *id, &TrialEvent::TrainedAgain { at: context.at })?;
    }
    if !searched.is_empty() {
        search_again(state, &name, &searched, context)?;
    }
    // A search that is decided again may have dropped some of them.
    again
        .into_iter()
        .try_for_each(|id| settle(state, id, context))?;
    settle_all(state, sweep, context)
}

/// Undoes the choices in these cells, and drops the trials that they led to.
fn search_again(
    state: &mut State,
    name: &Arc<str>,
    cells: &BTreeSet<u32>,
    context: Context,
) -> Applied {
    let entry = state.sweeps.get_mut(name).expect("the caller found it");
    let chosen = |trial: &SweepTrial| trial.role == Role::Result && cells.contains(&trial.cell);
    let kept: Vec<SweepTrial> = entry
        .trials
        .iter()
        .filter(|trial| !chosen(trial))
        .cloned()
        .collect();
    entry.searching = searches(&kept)?;
    entry.chosen.retain(|cell, _| !cells.contains(cell));
    entry.rankings.start_again(cells.iter().copied());
    entry.counts = Counts::default();
    entry.tally = Tally::of_cells(entry.sweep.cells.len());
    let before: Vec<TrialId> = std::mem::take(&mut entry.trials)
        .iter()
        .map(|trial| trial.id)
        .collect();
    for id in &before {
        let trial = state
            .trials
            .get_mut(id)
            .expect("sweeps list trials that exist");
        trial.wanted_by.retain(|(other, _)| other != name);
    }
    list_trials(state, name, &before, &kept, context)
}

pub(crate) fn candidate_chosen(
    state: &mut State,
    sweep: &str,
    (cell, candidate): (u32, u32),
    trials: &[SweepTrial],
    context: Context,
) -> Applied {
    let (name, entry) = state
        .sweeps
        .get_key_value(sweep)
        .ok_or_else(|| format!("no sweep `{sweep}`"))?;
    let name = name.clone();
    check_trials(&entry.sweep, trials)?;
    match entry.searching.get(&cell) {
        Some(searching) if searching.unfinished == 0 && !entry.chosen.contains_key(&cell) => {}
        _ => {
            return Err(format!(
                "cell {cell} of `{sweep}` has no search to choose from"
            ));
        }
    }
    let belongs = |trial: &SweepTrial| {
        (trial.cell, trial.candidate, trial.role) == (cell, Some(candidate), Role::Result)
    };
    if !trials.iter().all(belongs) {
        return Err(format!(
            "cell {cell} of `{sweep}` gets trials of another cell or candidate"
        ));
    }
    let entry = state.sweeps.get_mut(&name).expect("just found");
    entry.chosen.insert(cell, candidate);
    entry.changed = context.number;
    state.to_choose.remove(&(name.clone(), cell));
    add_trials(state, &name, trials, context)
}

pub(crate) fn ranking_looked_at(
    state: &mut State,
    sweep: &str,
    (cells, look): (&[u32], Look),
    trials: &[SweepTrial],
    context: Context,
) -> Applied {
    let (name, entry) = state
        .sweeps
        .get_key_value(sweep)
        .ok_or_else(|| format!("no sweep `{sweep}`"))?;
    let name = name.clone();
    check_trials(&entry.sweep, trials)?;
    let due = entry.rankings.due(&entry.sweep);
    let due = { due }.find(|ranking| ranking.cells == cells);
    let Some(ranking) = due else {
        return Err(format!(
            "cells {cells:?} of `{sweep}` are no ranking whose trials have all ended"
        ));
    };
    if let Some(stranger) = look.undecided.iter().find(|cell| !cells.contains(cell)) {
        return Err(format!(
            "cell {stranger} of `{sweep}` is undecided in a ranking that it is not in"
        ));
    }
    let budget = entry.sweep.seed_budget.as_ref();
    let expected = budget.and_then(|budget| budget.looks.get(ranking.looks.len()));
    if expected != Some(&look.seeds) {
        return Err(format!(
            "a ranking of `{sweep}` is looked at with {} seeds, out of turn",
            look.seeds
        ));
    }
    let belongs = |trial: &SweepTrial| {
        trial.role == Role::Result
            && look.undecided.contains(&trial.cell)
            && trial.candidate == entry.chosen.get(&trial.cell).copied()
    };
    if !trials.iter().all(belongs) {
        return Err(format!(
            "cells of `{sweep}` that are decided get more trials"
        ));
    }
    let first = cells[0];
    let entry = state.sweeps.get_mut(&name).expect("just found");
    entry.changed = context.number;
    if let Some(ranking) = entry.rankings.with_cell_mut(first) {
        ranking.looks.push(look);
    }
    add_trials(state, &name, trials, context)
}

fn check_trials(sweep: &Sweep, trials: &[SweepTrial]) -> Applied {
    let candidates = sweep
        .search
        .as_ref()
        .map_or(0, |search| search.candidates.len());
    for trial in trials {
        let known = (trial.cell as usize) < sweep.cells.len()
            && trial
                .candidate
                .is_none_or(|candidate| (candidate as usize) < candidates);
        // A negative or infinite cost would break the order of the queue.
        if !known || !trial.cost.is_finite() || trial.cost < 0.0 {
            return Err(format!(
                "trial {} of sweep `{}` is not one of its cells",
                trial.id, sweep.name
            ));
        }
    }
    Ok(())
}

fn searches(trials: &[SweepTrial]) -> Result<std::collections::BTreeMap<u32, Searching>, String> {
    let mut found = std::collections::BTreeMap::new();
    for (index, trial) in trials
        .iter()
        .enumerate()
        .filter(|(_, trial)| trial.role == Role::Search)
    {
        let first = index as u32;
        let searching = found.entry(trial.cell).or_insert(Searching {
            first,
            count: 0,
            unfinished: 0,
        });
        if searching.first + searching.count != first {
            return Err(format!(
                "the search trials of cell {} do not stand together",
                trial.cell
            ));
        }
        searching.count += 1;
    }
    Ok(found)
}

/// Adds trials to a sweep: new ones wait, known ones are shared.
fn add_trials(
    state: &mut State,
    name: &Arc<str>,
    trials: &[SweepTrial],
    context: Context,
) -> Applied {
    for trial in trials {
        let entry = state.sweeps.get_mut(name).expect("the caller found it");
        let devices = entry.sweep.resources.devices_per_trial;
        let trainer = &entry.sweep.trainer;
        let index = entry.trials.len() as u32;
        Arc::make_mut(&mut entry.trials).push(trial.clone());
        let known = state.trials.get_or_insert_with(trial.id, || TrialState {
            phase: Phase::Cancelled,
            wanted_by: Vec::with_capacity(1),
            attempts: Vec::new(),
            spent: Default::default(),
            since: AttemptNo(1),
            cost: trial.cost,
            devices,
            trainer: trainer.clone(),
            place: None,
            is_removed: false,
        });
        known.is_removed = false;
        known.wanted_by.push((name.clone(), index));
        // The newest revision counts: a user who saw that no slot is large enough edits this
        // number.
        known.devices = devices;
        known.cost = trial.cost;
        *entry.counts.of(&known.phase) += 1;
        entry.tally.enter(index, trial, known);
        if !known.phase.is_terminal() {
            if trial.role == Role::Search
                && let Some(searching) = entry.searching.get_mut(&trial.cell)
            {
                searching.unfinished += 1;
            }
            if let Some(ranking) = entry.rankings.with_cell_mut(trial.cell) {
                ranking.open += 1;
            }
        }
        settle(state, trial.id, context)?;
    }
    Ok(())
}

fn settle_all(state: &mut State, sweep: &str, context: Context) -> Applied {
    let ids: Vec<TrialId> = state.sweeps[sweep]
        .trials
        .iter()
        .map(|trial| trial.id)
        .collect();
    ids.into_iter()
        .try_for_each(|id| settle(state, id, context))
}

/// Derives phase and place from the sweeps that want the trial.
fn settle(state: &mut State, id: TrialId, context: Context) -> Applied {
    let phase = next_phase(state, id, &TrialEvent::WantsChanged { at: context.at })?;
    if phase != state.trials[&id].phase {
        set_phase(state, id, phase);
    } else if matches!(phase, Phase::Waiting { .. }) {
        // Its place depends on the sweeps that want it.
        enqueue(state, id);
    }
    Ok(())
}

/// Returns the phase of a trial after `event`, by the table in `phase.rs`; changes nothing.
pub(crate) fn next_phase(state: &State, id: TrialId, event: &TrialEvent) -> Result<Phase, String> {
    let trial = state
        .trials
        .get(&id)
        .ok_or_else(|| format!("no trial {id}"))?;
    trial
        .phase
        .next(event, state.is_wanted(trial))
        .map_err(|illegal| format!("trial {id}: {illegal}"))
}

/// Changes a trial's phase by the table; changes nothing if the event cannot follow.
fn advance(state: &mut State, id: TrialId, event: &TrialEvent) -> Applied {
    let phase = next_phase(state, id, event)?;
    set_phase(state, id, phase);
    Ok(())
}

/// Sets the phase of a trial, which comes from [`next_phase`], and all data derived from it.
pub(crate) fn set_phase(state: &mut State, id: TrialId, phase: Phase) {
    dequeue(state, id);
    let number = state.applied + 1;
    let trial = state.trials.get_mut(&id).expect("the caller found it");
    for (name, index) in &trial.wanted_by {
        let entry = state
            .sweeps
            .get_mut(name)
            .expect("trials are wanted by sweeps that exist");
        *entry.counts.of(&trial.phase) -= 1;
        entry
            .tally
            .leave(*index, &entry.trials[*index as usize], trial);
    }
    let before = std::mem::replace(&mut trial.phase, phase);
    let mut searched = Vec::new();
    for (name, index) in &trial.wanted_by {
        let entry = state
            .sweeps
            .get_mut(name)
            .expect("trials are wanted by sweeps that exist");
        *entry.counts.of(&trial.phase) += 1;
        entry.changed = number;
        let wanted = &entry.trials[*index as usize];
        entry.tally.enter(*index, wanted, trial);
        if let Some(ranking) = entry.rankings.with_cell_mut(wanted.cell) {
            match (before.is_terminal(), trial.phase.is_terminal()) {
                (false, true) => ranking.open -= 1,
                (true, false) => ranking.open += 1,
                (false, false) | (true, true) => {}
            }
        }
        if wanted.role == Role::Search
            && let Some(searching) = entry.searching.get_mut(&wanted.cell)
        {
            match (before.is_terminal(), trial.phase.is_terminal()) {
                (false, true) => searching.unfinished -= 1,
                (true, false) => searching.unfinished += 1,
                (false, false) | (true, true) => {}
            }
            searched.push((name.clone(), wanted.cell));
        }
    }
    enqueue(state, id);
    searched
        .into_iter()
        .for_each(|(name, cell)| settle_search(state, &name, cell));
}

/// Records whether a candidate of this cell can be chosen now.
fn settle_search(state: &mut State, name: &Arc<str>, cell: u32) {
    let entry = &state.sweeps[name];
    let ended = entry
        .searching
        .get(&cell)
        .is_some_and(|searching| searching.unfinished == 0);
    let ready =
        ended && !entry.chosen.contains_key(&cell) && best_candidate(state, entry, cell).is_some();
    let key = (name.clone(), cell);
    if ready {
        state.to_choose.insert(key);
    } else {
        state.to_choose.remove(&key);
    }
}

fn dequeue(state: &mut State, id: TrialId) {
    let trial = state.trials.get_mut(&id).expect("the caller found it");
    let Some(place) = trial.place.take() else {
        return;
    };
    let needs = (place.devices, trial.trainer.clone());
    if let Some(places) = state.queue.by_needs.get_mut(&needs) {
        places.remove(&place);
        if places.is_empty() {
            state.queue.by_needs.remove(&needs);
        }
    }
    if let Phase::Waiting { not_before } = trial.phase {
        state.queue.delayed.remove(&(not_before, id));
    }
}

fn enqueue(state: &mut State, id: TrialId) {
    dequeue(state, id);
    let Some((place, not_before)) = place_of(state, id) else {
        return;
    };
    let trial = state.trials.get_mut(&id).expect("the caller found it");
    trial.place = Some(place);
    state
        .queue
        .by_needs
        .entry((place.devices, trial.trainer.clone()))
        .or_default()
        .insert(place);
    state.queue.delayed.insert((not_before, id));
}

/// Returns the place of a trial in the queue, if it waits.
pub(crate) fn place_of(state: &State, id: TrialId) -> Option<(Place, u64)> {
    let trial = &state.trials[&id];
    let Phase::Waiting { not_before } = trial.phase else {
        return None;
    };
    let active = trial
        .wanted_by
        .iter()
        .filter(|(name, _)| state.sweeps[name].cancelled.is_none());
    let (order, index) = active
        .map(|(name, index)| (state.sweeps[name].order, *index))
        .min()?;
    let cost = Reverse(trial.cost.to_bits());
    Some((
        Place {
            order,
            cost,
            index,
            trial: id,
            devices: trial.devices,
        },
        not_before,
    ))
}

impl Counts {
    pub(crate) fn of(&mut self, phase: &Phase) -> &mut u64 {
        match phase {
            Phase::Waiting { .. } => &mut self.waiting,
            Phase::Running { .. } => &mut self.running,
            Phase::Succeeded { .. } => &mut self.succeeded,
            Phase::Failed { .. } => &mut self.failed,
            Phase::Cancelled => &mut self.cancelled,
        }
    }
}
