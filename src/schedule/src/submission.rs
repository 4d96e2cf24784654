//! The effects of submitting a sweep, and their reasons: finished trials are reused across sweeps
//! (P9), waiting and running ones are shared, those that no sweep wants any more are dropped; each
//! with a line for the user.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use sweep::definition::{Axis, Cell};
use sweep::{Sweep, Trainer, TrialId};

use crate::checked_sweep::CheckedSweep;
use crate::event::Event;
use crate::state::{Phase, State, SweepState, SweepTrial};

/// Summary of a submission, shown before it takes effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Submission {
    pub sweep: String,
    pub revision: u32,
    /// Number of trials; for searches, only those known so far.
    pub trials: u64,
    /// Trials among them that are already finished: their results are reused.
    pub reused: u64,
    /// Trials already waiting or running, for another sweep or for the revision before.
    pub shared: u64,
    /// Trials that failed before: they stay failed until `retry`.
    pub failed: u64,
    /// Trials wanted by the revision before and by no sweep now.
    pub dropped: u64,
    /// One line for each thing that was reused, dropped or changed, and why.
    pub explanation: Vec<String>,
}

/// Returns the summary of a submission without submitting.
pub fn preview(state: &State, sweep: &CheckedSweep) -> Submission {
    describe(state, sweep, is_same(state, sweep))
}

/// Returns the summary and the events of a submission: no events if nothing would change.
pub(crate) fn submitted(state: &State, sweep: &CheckedSweep) -> (Submission, Vec<Event>) {
    let same = is_same(state, sweep);
    let submission = describe(state, sweep, same);
    let events = match same {
        true => Vec::new(),
        false => vec![Event::SweepSubmitted {
            sweep: sweep.sweep().clone(),
            trials: sweep.trials().clone(),
        }],
    };
    (submission, events)
}

fn is_same(state: &State, sweep: &CheckedSweep) -> bool {
    let known = state.sweeps.get(sweep.sweep().name.as_str());
    known.is_some_and(|known| {
        known.cancelled.is_none()
            && known.sweep == *sweep.sweep()
            && of_another_version(known, &ids(sweep.trials())) == 0
    })
}

fn ids(trials: &[SweepTrial]) -> BTreeSet<TrialId> {
    trials.iter().map(|trial| trial.id).collect()
}

/// Counts the trials whose ids differ from those that this program gives to their settings: an
/// older version submitted them, and the meaning of a training has changed since. `current`: ids
/// that this program has just given, which need no second look.
fn of_another_version(known: &SweepState, current: &BTreeSet<TrialId>) -> usize {
    let id = |trial: &SweepTrial| {
        let candidate = trial.candidate.map(|candidate| candidate as usize);
        known
            .sweep
            .trial_spec(trial.cell as usize, candidate, trial.role, trial.seed)
            .id()
    };
    known
        .trials
        .iter()
        .filter(|trial| !current.contains(&trial.id) && id(trial) != trial.id)
        .count()
}

/// Summarises a submission. `same`: it is the current revision once more.
fn describe(state: &State, checked: &CheckedSweep, same: bool) -> Submission {
    let sweep = &**checked.sweep();
    let known = state.sweeps.get(sweep.name.as_str());
    let revision = known.map_or(0, |known| known.revision);
    let mut submission = Submission {
        sweep: sweep.name.clone(),
        revision: revision + 1,
        ..Submission::default()
    };
    // The same sweep may know more trials by now: those that its search chose.
    let trials = match known {
        Some(known) if same => known.trials.as_slice(),
        _ => checked.trials().as_slice(),
    };
    let mut elsewhere: BTreeMap<&str, u64> = Default::default();
    submission.trials = trials.len() as u64;
    for trial in trials
        .iter()
        .filter_map(|trial| state.trials.get(&trial.id))
    {
        match trial.phase {
            Phase::Succeeded { .. } => {
                submission.reused += 1;
                let others = trial
                    .wanted_by
                    .iter()
                    .map(|(name, _)| &**name)
                    .filter(|name| *name != sweep.name);
                if let Some(other) = others.min() {
                    *elsewhere.entry(other).or_default() += 1;
                }
            }
            Phase::Waiting { .. } | Phase::Running { .. } => submission.shared += 1,
            Phase::Failed { .. } => submission.failed += 1,
            Phase::Cancelled => {}
        }
    }
    if same {
        submission.revision = revision;
        submission.explanation.push(format!(
            "revision {revision} is the same file: nothing is done twice"
        ));
    } else if let Some(known) = known {
        let new = ids(trials);
        let ends = |id: &&TrialId| state.ends_without(&state.trials[id], &sweep.name);
        let old = ids(&known.trials);
        submission.dropped = old.difference(&new).filter(ends).count() as u64;
        if *known.sweep != *sweep {
            submission.explanation.extend(changes(&known.sweep, sweep));
        }
        submission
            .explanation
            .extend(trained_again(state, known, sweep, trials));
        let other = of_another_version(known, &new);
        if other > 0 {
            submission.explanation.push(format!(
                "revision {revision} was submitted by a version that trains differently: {other} of its trials count \
                 as others, and their results are not used"
            ));
        }
        if known.cancelled.is_some() {
            submission
                .explanation
                .push("it was cancelled and continues".to_owned());
        }
    }
    explain_numbers(&mut submission, elsewhere);
    submission
}

fn explain_numbers(submission: &mut Submission, elsewhere: BTreeMap<&str, u64>) {
    let mut add_line = |count: u64, text: &str| {
        if count > 0 {
            submission.explanation.push(format!(
                "{count} {} {text}",
                if count == 1 { "trial" } else { "trials" }
            ));
        }
    };
    for (sweep, count) in elsewhere {
        add_line(
            count,
            &format!("with the same settings and seed finished in sweep `{sweep}`: reused"),
        );
    }
    add_line(
        submission.shared,
        "waiting or running already: shared, not trained twice",
    );
    add_line(
        submission.failed,
        &format!(
            "failed before: not retried, except by `orchestrator retry {}`",
            submission.sweep
        ),
    );
    add_line(
        submission.dropped,
        "of the revision before that no sweep wants now: dropped",
    );
}

/// Counts the trials that differ from trials of the revision before only in the data or the
/// trainer, and lists what differs.
fn trained_again(
    state: &State,
    known: &SweepState,
    sweep: &Sweep,
    trials: &[SweepTrial],
) -> Vec<String> {
    let changed = sweep.changed_inputs(&known.sweep);
    let other_trainer = known.sweep.trainer != sweep.trainer;
    if changed.is_empty() && !other_trainer {
        return Vec::new();
    }
    let old = ids(&known.trials);
    let has_result = |id: &TrialId| {
        state
            .trials
            .get(id)
            .is_some_and(|trial| matches!(trial.phase, Phase::Succeeded { .. }))
    };
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for trial in trials
        .iter()
        .filter(|trial| !has_result(&trial.id) && !old.contains(&trial.id))
    {
        let candidate = trial.candidate.map(|candidate| candidate as usize);
        let spec = sweep.trial_spec(trial.cell as usize, candidate, trial.role, trial.seed);
        let names = spec
            .settings
            .inputs()
            .into_iter()
            .map(|input| input.to_string());
        let mut causes: Vec<String> = names
            .filter_map(|name| changed.get(&name).cloned())
            .collect();
        if other_trainer {
            causes.push(other_program(&known.sweep.trainer, &sweep.trainer));
        }
        let before = known.sweep.spec(spec.settings, spec.seed);
        if old.contains(&before.id()) {
            *counts.entry(causes.join(", and ")).or_default() += 1;
        }
    }
    let line = |(cause, count): (String, u64)| {
        let trials = if count == 1 {
            "1 trial is".to_owned()
        } else {
            format!("{count} trials are")
        };
        format!("{trials} trained again: {cause}")
    };
    counts.into_iter().map(line).collect()
}

/// Returns the differences between two revisions, one line each.
fn changes(before: &Sweep, after: &Sweep) -> Vec<String> {
    let mut lines = Vec::new();
    let fields = |sweep: &Sweep| match serde_json::to_value(&sweep.base) {
        Ok(Value::Object(fields)) => fields,
        _ => Default::default(),
    };
    let (old, new) = (fields(before), fields(after));
    for (field, value) in &new {
        if let Some(was) = old.get(field).filter(|was| *was != value) {
            lines.push(format!("`{field}` was {was} and is {value}"));
        }
    }
    lines.extend(difference("axis", &axis_names(before), &axis_names(after)));
    for axis in &after.axes {
        let Some(was) = before.axes.iter().find(|was| was.name == axis.name) else {
            continue;
        };
        let names = |axis: &Axis| -> Vec<String> {
            axis.values.iter().map(|value| value.name.clone()).collect()
        };
        lines.extend(difference(
            &format!("`{}` value", axis.name),
            &names(was),
            &names(axis),
        ));
        for value in &axis.values {
            if was
                .values
                .iter()
                .any(|other| other.name == value.name && other.set != value.set)
            {
                lines.push(format!(
                    "`{}` value `{}` sets something else",
                    axis.name, value.name
                ));
            }
        }
    }
    let seeds = |sweep: &Sweep| -> Vec<String> {
        sweep
            .seeds
            .iter()
            .map(|&seed| sweep::seed::name(seed))
            .collect()
    };
    lines.extend(difference("seed", &seeds(before), &seeds(after)));
    if before.seed_budget != after.seed_budget {
        lines.push("the budget of seeds is another one".to_owned());
    }
    if before.search != after.search {
        lines.push("the search is another one".to_owned());
    } else if let Some(search) = &after.search {
        let seeds = |sweep: &Sweep| -> Vec<usize> {
            sweep
                .cells
                .iter()
                .map(|cell| search.seeds_for(cell).len())
                .collect()
        };
        if before.cells.len() == after.cells.len() && seeds(before) != seeds(after) {
            lines.push(
                "the search takes another number of seeds: other numbers of images are held out"
                    .to_owned(),
            );
        }
    }
    let overridden = changed_cells(before, after);
    if overridden > 0 {
        lines.push(format!(
            "overrides change {overridden} cells that both revisions have"
        ));
    }
    for (name, sentence) in after.changed_inputs(before) {
        let parts = match (before.inputs.get(&name), after.inputs.get(&name)) {
            (Some(then), Some(now)) => now.differences(then),
            _ => Vec::new(),
        };
        lines.push(format!("{sentence}{}", examples(&parts)));
    }
    if before.trainer != after.trainer {
        lines.push(other_program(&before.trainer, &after.trainer));
    }
    if lines.is_empty() {
        lines.push(
            "nothing that decides a result changed; outputs, texts or resources did".to_owned(),
        );
    }
    lines
}

/// Describes the change from one trainer to another.
fn other_program(before: &Trainer, after: &Trainer) -> String {
    match (before.submitted(), after.submitted()) {
        (Some(then), Some(now)) if then.name == now.name => {
            let changes = now.changes_since(then);
            if changes.is_empty() {
                format!("what {after} gets from its workers changed")
            } else {
                format!("the program `{}` changed{}", now.name, examples(&changes))
            }
        }
        _ => format!("{after} trains, and not {before} any more"),
    }
}

/// Returns the first entries of a list, after a colon.
fn examples(all: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = all
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match all.len() {
        0 => String::new(),
        count if count <= SHOWN => format!(": {shown}"),
        count => format!(": {shown}, and {} more", count - SHOWN),
    }
}

fn axis_names(sweep: &Sweep) -> Vec<String> {
    sweep.axes.iter().map(|axis| axis.name.clone()).collect()
}

fn difference(what: &str, before: &[String], after: &[String]) -> Vec<String> {
    let list = |names: Vec<&String>, verb: &str| {
        let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
        (!names.is_empty()).then(|| format!("{what} {} {verb}", names.join(", ")))
    };
    let added = after.iter().filter(|name| !before.contains(name)).collect();
    let removed = before.iter().filter(|name| !after.contains(name)).collect();
    [list(added, "added"), list(removed, "removed")]
        .into_iter()
        .flatten()
        .collect()
}

/// Counts the cells of the same name whose own settings differ beyond what an axis value sets.
fn changed_cells(before: &Sweep, after: &Sweep) -> usize {
    if axis_names(before) != axis_names(after) {
        return 0;
    }
    let named = |sweep: &Sweep, cell: &Cell| (sweep.cell_name(cell), cell.set.clone());
    let old: BTreeMap<String, _> = before
        .cells
        .iter()
        .map(|cell| named(before, cell))
        .collect();
    let new = after.cells.iter().map(|cell| named(after, cell));
    new.filter(|(name, set)| old.get(name).is_some_and(|was| was != set))
        .count()
}
