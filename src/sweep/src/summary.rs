//! Summary of a sweep before anything runs, and of the changes in an edited one: for `plan`, and
//! for `run` to explain why it trains.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cost::work;
use crate::dataset::Counts;
use crate::definition::{Cell, PlannedTrial, Role, Select, Sweep};
use crate::field::show;
use crate::trial::TrialId;

/// A sweep in numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub cells: usize,
    /// Number of cells left out of the run, by reason.
    pub skipped: BTreeMap<String, usize>,
    /// Distinct trainings whose results enter the tables; a search with validation counts as one
    /// candidate per cell.
    pub result_trials: usize,
    /// Distinct trainings that only choose candidates.
    pub search_trials: usize,
    /// Trials that more than one cell needs, trained once.
    pub shared_trials: usize,
    pub epochs: u64,
    /// Sum of `cost` over all trials.
    pub cost: f64,
    /// The part of `cost` that evaluates.
    pub evaluation: f64,
    /// `cost` of the longest trial.
    pub longest: f64,
}

impl Sweep {
    pub fn summary(&self) -> Summary {
        self.summary_with(&|_| None)
    }

    /// Returns the summary with the sizes of data sets that were inspected.
    pub fn summary_with(&self, size: &dyn Fn(&str) -> Option<Counts>) -> Summary {
        let mut uses: BTreeMap<TrialId, usize> = BTreeMap::new();
        let mut summary = Summary {
            cells: self.cells.len(),
            skipped: BTreeMap::new(),
            result_trials: 0,
            search_trials: 0,
            shared_trials: 0,
            epochs: 0,
            cost: 0.0,
            evaluation: 0.0,
            longest: 0.0,
        };
        for (index, cell) in self.cells.iter().enumerate() {
            if let Some(reason) = &cell.skipped {
                *summary.skipped.entry(reason.clone()).or_default() += 1;
            }
            for trial in self.foreseen_trials(index) {
                let uses = uses.entry(trial.id).or_default();
                *uses += 1;
                match *uses {
                    1 => count(&mut summary, &trial, size(&trial.spec.settings.dataset)),
                    2 => summary.shared_trials += 1,
                    _ => {}
                }
            }
        }
        summary
    }

    /// Returns the trials of a cell, assuming that a search chooses its first candidate.
    pub(crate) fn foreseen_trials(&self, index: usize) -> Vec<PlannedTrial> {
        let validated = self
            .search
            .as_ref()
            .is_some_and(|search| search.select == Select::Validation);
        self.cell_trials(index, validated.then_some(0))
    }
}

fn count(summary: &mut Summary, trial: &PlannedTrial, size: Option<Counts>) {
    match trial.role {
        Role::Result => summary.result_trials += 1,
        Role::Search => summary.search_trials += 1,
    }
    let work = work(&trial.spec, size);
    summary.epochs += u64::from(trial.spec.num_epochs());
    summary.cost += work.total();
    summary.evaluation += work.evaluation;
    summary.longest = summary.longest.max(work.total());
}

/// Returns the changes in the new revision of a sweep, one line each; empty if nothing affects
/// results. Cells are compared by the names of their axis values.
pub fn diff(old: &Sweep, new: &Sweep) -> Vec<String> {
    let mut lines = Vec::new();
    if old.base.dataset != new.base.dataset && old.axes == new.axes {
        lines.push(format!(
            "dataset: {} -> {}",
            old.base.dataset, new.base.dataset
        ));
    }
    let (before, after) = (named_cells(old), named_cells(new));
    let added: Vec<&str> = after
        .keys()
        .filter(|name| !before.contains_key(*name))
        .map(String::as_str)
        .collect();
    let removed: Vec<&str> = before
        .keys()
        .filter(|name| !after.contains_key(*name))
        .map(String::as_str)
        .collect();
    lines.extend(list_cells("new", &added, after.len()));
    lines.extend(list_cells("gone", &removed, before.len()));
    lines.extend(changed_fields(old, new, &before, &after));
    lines.extend(changed_seeds(old, new));
    if old.search != new.search {
        lines.push("search: changed".to_owned());
    }
    if old.outputs != new.outputs
        || old.published != new.published
        || old.footnotes != new.footnotes
    {
        lines.push("outputs or published numbers changed: no training changes by that".to_owned());
    }
    lines
}

fn named_cells(sweep: &Sweep) -> BTreeMap<String, &Cell> {
    let axes = || sweep.axes.iter();
    let name = |cell: &Cell| {
        let values = sweep.value_names(cell);
        let mut parts: Vec<String> = axes()
            .zip(values)
            .map(|(axis, value)| format!("{}={value}", axis.name))
            .collect();
        // Cells are the same whatever the order of axes and of keys in the file.
        parts.sort();
        parts.join(" ")
    };
    sweep.cells.iter().map(|cell| (name(cell), cell)).collect()
}

fn list_cells(what: &str, names: &[&str], of: usize) -> Option<String> {
    const SHOWN: usize = 3;
    let shown = names
        .iter()
        .take(SHOWN)
        .copied()
        .collect::<Vec<_>>()
        .join("; ");
    let more = if names.len() > SHOWN { "; ..." } else { "" };
    (!names.is_empty()).then(|| format!("{} {what} cells of {of}: {shown}{more}", names.len()))
}

/// Adds one line per field and pair of values, with the cells concerned.
fn changed_fields(
    old: &Sweep,
    new: &Sweep,
    before: &BTreeMap<String, &Cell>,
    after: &BTreeMap<String, &Cell>,
) -> Vec<String> {
    let fields = |sweep: &Sweep, cell: &Cell| sweep.cell_settings(cell).fields();
    let mut changes: BTreeMap<(String, String, String), Vec<&str>> = BTreeMap::new();
    let mut common = 0;
    for (name, cell) in after {
        let Some(earlier) = before.get(name) else {
            continue;
        };
        common += 1;
        let (then, now) = (fields(old, earlier), fields(new, cell));
        for (field, value) in &now {
            let old_value = then.get(field).unwrap_or(&Value::Null);
            if old_value != value {
                changes
                    .entry((field.clone(), show(old_value), show(value)))
                    .or_default()
                    .push(name);
            }
        }
    }
    let line = |((field, from, to), cells): ((String, String, String), Vec<&str>)| {
        let whose = if cells.len() == common {
            "all cells".to_owned()
        } else {
            list_cells("changed", &cells, common).unwrap_or_default()
        };
        format!("{field}: {from} -> {to} ({whose})")
    };
    changes.into_iter().map(line).collect()
}

fn changed_seeds(old: &Sweep, new: &Sweep) -> Option<String> {
    let (before, after): (BTreeSet<_>, BTreeSet<_>) =
        (old.seeds.iter().collect(), new.seeds.iter().collect());
    if old.seed_budget != new.seed_budget {
        let shown = |sweep: &Sweep| match &sweep.seed_budget {
            Some(budget) => format!("looks at {}", budget.listed()),
            None => "a fixed number".to_owned(),
        };
        return Some(format!("seeds: {} -> {}", shown(old), shown(new)));
    }
    let list = |seeds: Vec<&&u64>| {
        seeds
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let added = list(after.difference(&before).collect());
    let removed = list(before.difference(&after).collect());
    match (added.is_empty(), removed.is_empty()) {
        (true, true) => None,
        (false, true) => Some(format!("seeds: {added} added")),
        (true, false) => Some(format!("seeds: {removed} removed")),
        (false, false) => Some(format!("seeds: {added} added, {removed} removed")),
    }
}
