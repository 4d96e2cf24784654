//! `orchestrator plan`: explains a sweep file without starting anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use coordinator::NoAnswer;
use schedule::{CheckedSweep, Submission};
use serde_json::{Value, json};
use sweep::definition::{Candidate, Metric, Output as SweepOutput, Search, Select};
use sweep::{Sweep, TrialId, TrialPrefix, TrialSpec, held_out, seed, with_causes};

use crate::args::PlanArgs;
use crate::commands::run::load;
use crate::estimate;
use crate::exit::{ExpectedError, Outcome};
use crate::output::{Output, SCHEMA};
use crate::planned_disk::PlannedDisk;
use crate::preflight::{self, Checked, Places};
use crate::programs;
use crate::timed::{self, Timed};

pub fn plan(arguments: &PlanArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let places = Places::of(&arguments.data)?;
    let mut sweep = load(&arguments.file, Some(&places))?;
    if arguments.smoke {
        sweep = sweep.into_smoke();
    }
    programs::identify(&mut sweep, &arguments.file, arguments.trainer.as_deref())?;
    // A plan is not refused for missing data: it reports what a run would refuse.
    let checked = preflight::survey(&mut sweep, &places)?;
    if let Some(id) = &arguments.trial {
        let specification = specification(&sweep, id)?;
        output.print(|| format!("{specification:#}\n"), || specification.clone())?;
        return Ok(Outcome::Complete);
    }
    let submission = preview(&arguments.state_dir, &sweep)?;
    let size = |dataset: &str| checked.sizes.get(dataset).copied();
    let timed = match arguments.time {
        true => Some(timed::measure(&sweep, &places, &size)?),
        false => None,
    };
    let parts = Parts {
        sweep: &sweep,
        checked: &checked,
        submission: submission.as_ref(),
        timed: timed.as_ref(),
    };
    output.print(|| text(&parts, arguments.cells), || document(&parts))?;
    Ok(Outcome::Complete)
}

/// The effect of a submission to the coordinator of this state directory; `None` if nothing was
/// ever submitted.
fn preview(state_dir: &Path, sweep: &Sweep) -> Result<Option<Submission>, ExpectedError> {
    match journal::read(state_dir) {
        Ok(state) => {
            let sweep = CheckedSweep::new(sweep.clone())
                .map_err(|bad| ExpectedError::BadInput(format!("sweep `{}`: {bad}", sweep.name)))?;
            Ok(Some(schedule::preview(&state, &sweep)))
        }
        Err(journal::Error::Missing { .. }) => Ok(None),
        Err(error) => Err(ExpectedError::Infrastructure {
            what: "the journal",
            reason: with_causes(&error),
        }),
    }
}

/// Returns one of all the trials that a run could start: a search chooses among them by its
/// results.
fn specification(sweep: &Sweep, id: &str) -> Result<Value, ExpectedError> {
    let candidates = sweep
        .search
        .as_ref()
        .map_or(0, |search| search.candidates.len());
    let chosen = || [None].into_iter().chain((0..candidates).map(Some));
    let cells = 0..sweep.cells.len();
    let trials =
        cells.flat_map(|index| chosen().flat_map(move |chosen| sweep.cell_trials(index, chosen)));
    let specs: BTreeMap<TrialId, TrialSpec> = trials.map(|trial| (trial.id, trial.spec)).collect();
    let found = id
        .parse::<TrialPrefix>()
        .and_then(|prefix| prefix.find(specs.keys().copied()));
    let id = found.map_err(NoAnswer::from)?;
    Ok(serde_json::to_value(&specs[&id]).expect("settings are JSON"))
}

/// The sources of a plan.
struct Parts<'a> {
    sweep: &'a Sweep,
    checked: &'a Checked,
    submission: Option<&'a Submission>,
    timed: Option<&'a Timed>,
}

impl Parts<'_> {
    fn disk(&self) -> Option<PlannedDisk> {
        PlannedDisk::of(self.sweep, &|dataset| {
            self.checked.sizes.get(dataset).copied()
        })
    }
}

fn text(parts: &Parts<'_>, cells: bool) -> String {
    let &Parts {
        sweep,
        checked,
        submission,
        timed,
    } = parts;
    let summary = sweep.summary_with(&|dataset| checked.sizes.get(dataset).copied());
    let mut text = format!("{}: {}\n", sweep.name, sweep.description.trim());
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:12}{value}\n"));
    match &sweep.program {
        Some(block) => line("program", block.command.join(" ")),
        None => line("recipe", sweep.recipe.clone()),
    }
    for axis in &sweep.axes {
        let values: Vec<&str> = axis
            .values
            .iter()
            .map(|value| value.name.as_str())
            .collect();
        line("axis", format!("{}: {}", axis.name, values.join(", ")));
    }
    let seeds: Vec<String> = sweep.seeds.iter().map(|&seed| seed::name(seed)).collect();
    line("seeds", seeds.join(", "));
    if let Some(budget) = &sweep.seed_budget {
        let text = format!(
            "more where cells are not distinguishable from the best: looked at with {}",
            budget.listed()
        );
        line("", text);
    }
    if let Some(search) = &sweep.search {
        let how = match search.select {
            Select::Validation => {
                let by = match search.metric {
                    Metric::Last => String::new(),
                    Metric::MeanOfLast(_) => format!("by {} ", search.metric),
                };
                format!("chosen {by}on {}", search.holdout)
            }
            Select::BestOnTest => {
                "chosen on the test set, the paper's protocol: optimistic".to_owned()
            }
        };
        let among = match search.drawn {
            Some(_) => search.origin(),
            None => {
                let candidates = search.candidates.iter().map(Candidate::to_string);
                let separator = if search.fields().count() > 1 {
                    "; "
                } else {
                    ", "
                };
                let candidates = candidates.collect::<Vec<_>>().join(separator);
                format!("{} among {candidates}", search.label())
            }
        };
        line("search", format!("{among}, {how}"));
        if search.select == Select::Validation {
            line("", judged_on(sweep, search));
        }
    }
    line("cells", summary.cells.to_string());
    for (reason, count) in &summary.skipped {
        line("", format!("{count} left out: {reason}"));
    }
    let mut trials = summary.result_trials.to_string();
    if summary.search_trials > 0 {
        trials.push_str(&format!(" and {} that search", summary.search_trials));
    }
    if summary.shared_trials > 0 {
        trials.push_str(&format!("; {} serve several cells", summary.shared_trials));
    }
    line("trials", trials);
    if let Some(most) = sweep.most_trials() {
        let least = summary.result_trials + summary.search_trials;
        line("", format!("these {least} at least, {most} at most"));
    }
    line("epochs", summary.epochs.to_string());
    let work = match &sweep.program {
        Some(_) => "not known for a program".to_owned(),
        None => format!(
            "{:.3e} multiply-adds, the longest trial {:.3e}; on one CPU core about {}, {:.0} % of \
             it for evaluation",
            1e12 * summary.cost,
            1e12 * summary.longest,
            estimate::text(estimate::on_cpu(summary.cost, 1)),
            100.0 * summary.evaluation / summary.cost.max(f64::MIN_POSITIVE),
        ),
    };
    line("work", work);
    for (name, value) in timed.map_or_else(Vec::new, Timed::lines) {
        line(name, value);
    }
    let disk = parts.disk().map_or_else(Vec::new, |disk| disk.lines());
    for (index, value) in disk.into_iter().enumerate() {
        line(if index == 0 { "disk" } else { "" }, value);
    }
    line(
        "devices",
        format!("{} per trial", sweep.resources.devices_per_trial),
    );
    for settings in wrapped(&sweep.settings_in_force()) {
        line("settings", settings);
    }
    for output in &sweep.outputs {
        match output {
            SweepOutput::Table(table) => {
                line(
                    "table",
                    format!(
                        "{}: {} by {}",
                        table.name,
                        table.rows.join(", "),
                        names(&table.columns)
                    ),
                );
            }
            SweepOutput::Figure(figure) => {
                line(
                    "figure",
                    format!(
                        "{}: {} over {}",
                        figure.name,
                        names(&figure.series),
                        figure.x
                    ),
                );
            }
        }
    }
    for remark in sweep.remarks() {
        line("note", remark);
    }
    for note in &checked.notes {
        line("data", note.clone());
    }
    if !sweep.trainer.is_built_in() {
        line("trainer", sweep.trainer.to_string());
    }
    for (name, content) in &sweep.inputs {
        line("reads", format!("{name}: {content}"));
    }
    for lacks in &checked.missing {
        line("missing", lacks.clone());
    }
    if let Some(submission) = submission {
        if submission.reused > 0 {
            line(
                "finished",
                format!(
                    "{} of these trials: their results are reused",
                    submission.reused
                ),
            );
        }
        for explanation in &submission.explanation {
            line("submitted", explanation.clone());
        }
    }
    if cells {
        text.push_str("cells\n");
        for cell in &sweep.cells {
            let set: Vec<String> = cell
                .set
                .iter()
                .map(|(field, value)| format!("{field} {value}"))
                .collect();
            let skipped = cell
                .skipped
                .as_ref()
                .map(|reason| format!("  left out: {reason}"))
                .unwrap_or_default();
            text.push_str(&format!(
                "  {}  {}{skipped}\n",
                sweep.cell_name(cell),
                set.join(", ")
            ));
        }
    }
    text
}

/// Describes the differences that a search with a held-out split can resolve.
fn judged_on(sweep: &Sweep, search: &Search) -> String {
    let cells = || sweep.cells.iter().filter(|cell| cell.skipped.is_none());
    let range = |low: u64, high: u64| {
        if low == high {
            low.to_string()
        } else {
            format!("{low} to {high}")
        }
    };
    let seeds = || cells().map(|cell| search.num_splits(cell) as u64);
    let mut seeds = range(seeds().min().unwrap_or(0), seeds().max().unwrap_or(0));
    if let folds @ 2.. = search.holdout.folds() {
        seeds.push_str(&format!(" x {folds} folds"));
    }
    let images: Vec<u64> = cells()
        .filter_map(|cell| sweep.search_images(cell))
        .collect();
    let (Some(&low), Some(&high)) = (images.iter().min(), images.iter().max()) else {
        return format!(
            "seeds per candidate: {seeds}; how many images are held out is not known here"
        );
    };
    let points = held_out::distinguishable(low);
    let smallest = if low == high {
        ""
    } else {
        "in the smallest cells "
    };
    format!(
        "held-out images per candidate: {} (seeds: {seeds}); {smallest}differences below {points:.1} points are noise",
        range(low, high)
    )
}

/// Joins entries with commas, in lines that fit a terminal.
fn wrapped(entries: &[String]) -> Vec<String> {
    const WIDTH: usize = 100;
    let mut lines: Vec<String> = Vec::new();
    for entry in entries {
        match lines.last_mut() {
            Some(line) if line.chars().count() + entry.chars().count() + 2 <= WIDTH => {
                line.push_str(", ");
                line.push_str(entry);
            }
            _ => lines.push(entry.clone()),
        }
    }
    lines
}

fn names(axes: &[String]) -> String {
    if axes.is_empty() {
        "nothing".to_owned()
    } else {
        axes.join(", ")
    }
}

fn document(parts: &Parts<'_>) -> Value {
    let &Parts {
        sweep,
        checked,
        submission,
        timed,
    } = parts;
    let ids = |index: usize| -> BTreeSet<String> {
        sweep
            .cell_trials(index, None)
            .iter()
            .map(|trial| trial.id.to_string())
            .collect()
    };
    let cells = sweep.cells.iter().enumerate().map(|(index, cell)| {
        json!({
            "cell": sweep.cell_name(cell),
            "set": cell.set,
            "skipped": cell.skipped,
            "trials": ids(index),
        })
    });
    json!({
        "schema": SCHEMA,
        "sweep": sweep.name,
        "description": sweep.description,
        "recipe": sweep.recipe,
        "smoke": sweep.smoke,
        "seeds": sweep.seeds,
        "seed_budget": sweep.seed_budget,
        "most_trials": sweep.most_trials(),
        "axes": sweep.axes,
        "search": sweep.search,
        "base": sweep.base.fields(),
        "outputs": sweep.outputs,
        "devices_per_trial": sweep.resources.devices_per_trial,
        "summary": sweep.summary_with(&|dataset| checked.sizes.get(dataset).copied()),
        "remarks": sweep.remarks(),
        "missing": checked.missing,
        "data_notes": checked.notes,
        "inputs": sweep.inputs,
        "trainer": sweep.trainer,
        "submission": submission,
        "time": timed.map(Timed::document),
        "disk": parts.disk().map(|disk| disk.document()),
        "cells": cells.collect::<Vec<Value>>(),
    })
}
