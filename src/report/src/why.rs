//! History of a table cell: its trials and attempts, the training and its data, and the choice of a
//! search.
//!
//! The schedule's `explain` answers another question: why a trial is *not running*.

use std::collections::BTreeSet;

use schedule::state::{Attempt, Millis, State};
use serde_json::{Value, json};
use sweep::definition::{Measure, Metric, Select};
use sweep::{Settings, Share, held_out};
use time::OffsetDateTime;

use crate::files::{SCHEMA, candidate, cell_json, role_name, trial_json};
use crate::grid::number;
use crate::results::{CellSummary, Results, TrialRow, TrialStatus};

/// The history of a cell, as text and as JSON (`"schema": 1`).
#[derive(Clone, Debug, PartialEq)]
pub struct Why {
    pub text: String,
    pub json: Value,
}

/// Returns the history of one cell, named as in `cub/cos`: every axis in order, or any part of the
/// names that matches exactly one cell. The error names the sweep or cell that does not exist, and
/// those that do.
pub fn why(state: &State, sweep: &str, cell: &str) -> Result<Why, String> {
    let results = Results::of(state, sweep).map_err(|unknown| unknown.to_string())?;
    let index = results.sweep.find_cell(cell)?;
    let changed = changed_settings(&results, index);
    let json = json!({
        "schema": SCHEMA,
        "sweep": results.sweep.name,
        "revision": results.state.revision,
        "recipe": results.sweep.recipe,
        "smoke": results.sweep.smoke,
        "cell": cell_json(&results, index),
        "settings": results.sweep.cell_settings(&results.sweep.cells[index]).fields(),
        "differs_from_recipe": changed.iter().cloned().collect::<serde_json::Map<String, Value>>(),
        "search": results.sweep.search,
        "inputs": cell_inputs(&results, index),
        "trials": results.cell_trials(index).iter().map(|row| trial_json(&results, row)).collect::<Vec<_>>(),
    });
    Ok(Why {
        text: why_text(&results, index, &changed),
        json,
    })
}

/// Returns by name the content that the cell's trials were submitted with (`null` if unknown), and
/// its changes.
fn cell_inputs(results: &Results, index: usize) -> Value {
    let settings = results.sweep.cell_settings(&results.sweep.cells[index]);
    let inputs = settings.inputs().into_iter().map(|input| {
        let name = input.to_string();
        let content = results.sweep.inputs.get(&name);
        let entry = json!({
            "hash": content.map(|content| &content.hash),
            "files": content.map(|content| content.files),
            "bytes": content.map(|content| content.bytes),
            "changed": results.state.changed_inputs.get(&name),
        });
        (name, entry)
    });
    Value::Object(inputs.collect())
}

/// Returns the fields in which a cell differs from its recipe on its data set, with the cell's
/// values.
fn changed_settings(results: &Results, index: usize) -> Vec<(String, Value)> {
    let settings = results.sweep.cell_settings(&results.sweep.cells[index]);
    let recipe = match &results.sweep.program {
        Some(block) => Some(Settings::of_program(&settings.dataset, block.defaults())),
        None => sweep::recipe::settings(&results.sweep.recipe, &settings.dataset),
    };
    let recipe = recipe.map(|recipe| recipe.fields()).unwrap_or_default();
    settings
        .fields()
        .into_iter()
        .filter(|(field, value)| recipe.get(field) != Some(value))
        .collect()
}

fn why_text(results: &Results, index: usize, changed: &[(String, Value)]) -> String {
    let sweep = results.sweep;
    let cell = &sweep.cells[index];
    let revision = results.state.revision;
    let mut out = format!(
        "{} of sweep `{}` (revision {revision})\n",
        sweep.cell_name(cell),
        sweep.name
    );
    if sweep.smoke {
        out.push_str("!! REHEARSAL (--smoke): these numbers mean nothing\n");
    }
    let (last, best) = (
        results.cell(index, Measure::Last),
        results.cell(index, Measure::Best),
    );
    out.push_str(&format!("last epoch   {}\n", summary_text(&last)));
    out.push_str(&format!(
        "best epoch   {}  (on the test set: optimistic)\n",
        summary_text(&best)
    ));
    if let Some(value) = crate::grid::published_value(results, cell) {
        let footnotes = crate::grid::footnotes_of(results, value).join("; ");
        let footnotes = if footnotes.is_empty() {
            footnotes
        } else {
            format!("  ({footnotes})")
        };
        out.push_str(&format!(
            "published    {}{footnotes}\n",
            Share::of_percent(value.value)
        ));
    }
    if let Some(reason) = &cell.skipped {
        out.push_str(&format!("skipped      {reason}\n"));
    }
    search_text(&mut out, results, index, (&last, &best));
    seeds_text(&mut out, results, index);
    let from = match &sweep.program {
        Some(block) => format!("the defaults of `{}`", block.name()),
        None => format!("recipe `{}`", sweep.recipe),
    };
    out.push_str(&format!("\nsettings that differ from {from}\n"));
    if changed.is_empty() {
        out.push_str("  none\n");
    }
    let widest = changed
        .iter()
        .map(|(field, _)| field.len())
        .max()
        .unwrap_or(0);
    for (field, value) in changed {
        out.push_str(&format!("  {field:widest$}  {value}\n"));
    }
    let searched = sweep
        .search
        .as_ref()
        .is_some_and(|search| search.chooses("learning_rate"));
    if sweep.program.is_none()
        && !searched
        && !changed.iter().any(|(field, _)| field == "learning_rate")
    {
        out.push_str(&format!(
            "  learning_rate is the recipe's {}\n",
            results.field(cell, "learning_rate")
        ));
    }
    inputs_text(&mut out, results, index);
    let rows = results.cell_trials(index);
    provenance_text(&mut out, rows);
    out.push_str("\ntrials\n");
    for row in rows {
        trial_text(&mut out, results, row);
    }
    out
}

fn summary_text(cell: &CellSummary) -> String {
    match cell.summary {
        Some(summary) => {
            let deviation = summary.deviation.map(|deviation| 100.0 * deviation);
            format!(
                "{}  n = {} ({} of {} trials)",
                number(summary.mean, deviation),
                summary.n,
                cell.done,
                cell.total
            )
        }
        None => cell.status.name().to_owned(),
    }
}

/// Lists the looks at the cell's ranking, and what each meant for the cell.
fn seeds_text(out: &mut String, results: &Results, index: usize) {
    let Some(budget) = &results.sweep.seed_budget else {
        return;
    };
    let cell = index as u32;
    let Some(ranking) = results.state.rankings.with_cell(cell) else {
        return;
    };
    for (number, look) in ranking.looks.iter().enumerate() {
        let is_open = look.undecided.contains(&cell);
        let outcome = match (is_open, budget.looks.get(number + 1)) {
            (true, Some(next)) => format!(
                "not distinguishable among {} of {} cells, so trained with up to {next}",
                look.undecided.len(),
                ranking.cells.len()
            ),
            (true, None) => "still not distinguishable, and the budget is used up".to_owned(),
            (false, _) if look.undecided.is_empty() => "every cell is decided".to_owned(),
            (false, _) => "shown to be lower than the best, so no more seeds".to_owned(),
        };
        out.push_str(&format!("seeds        {}: {outcome}\n", look.seeds));
    }
}

fn search_text(
    out: &mut String,
    results: &Results,
    index: usize,
    (last, best): (&CellSummary, &CellSummary),
) {
    let Some(search) = &results.sweep.search else {
        return;
    };
    let (how, one_choice) = match (search.select, search.metric) {
        (Select::BestOnTest, _) => (
            "by accuracy on the test set (the paper's protocol: optimistic)".to_owned(),
            false,
        ),
        (Select::Validation, Metric::Last) => {
            ("by accuracy on training images held out".to_owned(), true)
        }
        (Select::Validation, metric) => (format!("by {metric} on training images held out"), true),
    };
    let mut choice = |after: &str, cell: &CellSummary, measure: Measure| {
        let Some(number) = cell.candidate else {
            out.push_str(&format!(
                "search       {} {how}{after}: not chosen yet\n",
                search.label()
            ));
            return;
        };
        out.push_str(&format!(
            "search       {} = {}, chosen {how}{after}\n",
            search.label(),
            search.candidates[number]
        ));
        if let Some(remark) = cell
            .choice
            .as_ref()
            .and_then(|choice| choice.remark(search))
        {
            out.push_str(&format!("             {remark}\n"));
        }
        if let Some(images) = results.sweep.few_search_images(&results.sweep.cells[index]) {
            out.push_str(&format!(
                "             on {images} held-out images: differences below {:.0} points are noise\n",
                held_out::distinguishable(images)
            ));
        }
        for (value, score) in search
            .candidates
            .iter()
            .zip(results.scores(search, index, measure))
        {
            let came_to = score.map_or_else(
                || "not every trial has a result".to_owned(),
                |score| match score.num_images {
                    0 => format!("{} %, loss {:.4}", score.accuracy, score.loss),
                    images => format!("{} % of {images}, loss {:.4}", score.accuracy, score.loss),
                },
            );
            out.push_str(&format!(
                "  {value:>9}  {came_to}\n",
                value = value.to_string()
            ));
        }
    };
    if one_choice {
        choice("", last, Measure::Last);
    } else {
        choice(", last epoch", last, Measure::Last);
        choice(", best epoch", best, Measure::Best);
    }
}

/// Lists the inputs of the cell's trials, and their changes with this revision of the sweep.
fn inputs_text(out: &mut String, results: &Results, index: usize) {
    let settings = results.sweep.cell_settings(&results.sweep.cells[index]);
    let inputs = settings.inputs();
    if inputs.is_empty() || results.sweep.smoke {
        return;
    }
    out.push_str("\nread from outside\n");
    for input in inputs {
        let name = input.to_string();
        match results.sweep.inputs.get(&name) {
            Some(content) => {
                out.push_str(&format!("  {name}: {content}, content {}\n", content.hash))
            }
            None => out.push_str(&format!(
                "  {name}: content not known where the sweep was submitted\n"
            )),
        }
        if let Some(sentence) = results.state.changed_inputs.get(&name) {
            let revision = results.state.revision;
            out.push_str(&format!(
                "    with revision {revision} {sentence}: its trials were trained again\n"
            ));
        }
    }
}

/// Writes values that all results of a cell share once, and lists those that differ.
fn provenance_text(out: &mut String, rows: &[TrialRow]) {
    let results: Vec<_> = rows.iter().filter_map(TrialRow::result).collect();
    if results.is_empty() {
        return;
    }
    out.push_str("\nprovenance\n");
    let mut line = |what: &str, values: BTreeSet<String>| {
        let mixed = if values.len() > 1 { "MIXED: " } else { "" };
        let shown: Vec<&str> = values
            .iter()
            .map(|value| if value.is_empty() { "unknown" } else { value })
            .collect();
        out.push_str(&format!("  {what:17} {mixed}{}\n", shown.join(", ")));
    };
    let all = |get: &dyn Fn(&schedule::state::ResultSummary) -> String| {
        results.iter().map(|result| get(result)).collect()
    };
    let names: BTreeSet<&String> = results
        .iter()
        .flat_map(|result| result.provenance.inputs.keys())
        .collect();
    for name in names {
        line(
            name,
            all(&|result| {
                result
                    .provenance
                    .inputs
                    .get(name)
                    .cloned()
                    .unwrap_or_default()
            }),
        );
    }
    line(
        "data fingerprint",
        all(&|result| result.provenance.data_fingerprint.clone()),
    );
    line("trainer", all(&|result| result.provenance.trainer.clone()));
    line(
        "libtorch",
        all(&|result| result.provenance.libtorch.clone()),
    );
    line(
        "precision",
        all(&|result| result.provenance.precision.clone()),
    );
    line("kernels", all(&|result| result.provenance.kernels.clone()));
    line(
        "parameters",
        all(&|result| result.provenance.num_parameters.to_string()),
    );
    line(
        "devices",
        all(&|result| result.provenance.devices.join(" + ")),
    );
    // a CPU has no libraries besides libtorch
    let libraries: BTreeSet<String> = all(&|result| result.provenance.libraries.join(" + "));
    if libraries.iter().any(|names| !names.is_empty()) {
        line("libraries", libraries);
    }
    line(
        "execution",
        all(&|result| result.provenance.execution.clone()),
    );
    line("images", all(&|result| result.provenance.images.clone()));
    line("hosts", all(&|result| result.provenance.host.clone()));
}

fn trial_text(out: &mut String, results: &Results, row: &TrialRow) {
    let mut name = format!("seed {}", sweep::seed::name(row.trial.seed));
    if let Some((search, value)) = results.sweep.search.as_ref().zip(candidate(results, row)) {
        name.push_str(&format!(
            ", {} = {value}, {}",
            search.label(),
            role_name(row.trial.role)
        ));
    }
    out.push_str(&format!(
        "  {name}  trial {}  {}",
        row.trial.id,
        row.status.name()
    ));
    match row.status {
        TrialStatus::Succeeded(result) => {
            let (last, best) = (100.0 * result.last_accuracy, 100.0 * result.best_accuracy);
            let subset = match result.num_subset_images {
                Some(count) => format!("{count} images ({})", result.subset_fingerprint),
                None => "all images".to_owned(),
            };
            out.push_str(&format!(
                "\n    last {last:.2}  best {best:.2} (epoch {} of {})  trained on {subset}  state {}\n",
                u64::from(result.best_epoch) + 1,
                result.num_epochs,
                result.state_hash
            ));
            let timing = &result.timing;
            let idle = row
                .idle_s()
                .map_or_else(String::new, |seconds| format!(", idle {seconds:.1} s"));
            out.push_str(&format!(
                "    train {:.1} s ({:.0} % of it waiting for data), evaluate {:.1} s, checkpoint {:.1} s{idle}; \
                 {:.0} images/s, {:.0} MiB\n",
                timing.train_s,
                100.0 * timing.data_wait_share(),
                timing.evaluate_s,
                timing.checkpoint_s,
                timing.images_per_s,
                timing.peak_memory_mib
            ));
            if let Some(epoch) = timing.departed_at_epoch {
                out.push_str(&format!(
                    "    !! epoch {} differs in its bits from an earlier attempt's: not resumed exactly\n",
                    u64::from(epoch) + 1
                ));
            }
        }
        TrialStatus::Failed(failure) => {
            let reason = failure.message.lines().next().unwrap_or_default();
            out.push_str(&format!("\n    {}: {reason}\n", failure.class));
        }
        TrialStatus::Waiting | TrialStatus::Running | TrialStatus::Cancelled => out.push('\n'),
    }
    for (attempt, number) in row.attempts.iter().zip(1..) {
        out.push_str(&format!(
            "    attempt {number}: {}\n",
            attempt_text(attempt)
        ));
    }
}

fn attempt_text(attempt: &Attempt) -> String {
    let (worker, slot) = (&attempt.worker, attempt.slot);
    let started = format!("{} slot {slot} at {}", worker, utc(attempt.started_at));
    let Some(end) = &attempt.ended else {
        return format!("{started}, running");
    };
    let seconds = end.at.saturating_sub(attempt.started_at) as f64 / 1000.0;
    match &end.failure {
        None => format!("{started}, ended after {seconds:.1} s"),
        Some(failure) => {
            let reason = failure.message.lines().next().unwrap_or_default();
            format!(
                "{started}, {} after {seconds:.1} s: {reason}",
                failure.class
            )
        }
    }
}

/// Formats `2026-11-23 14:05:09 UTC`.
fn utc(at: Millis) -> String {
    let time = i64::try_from(at / 1000)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let Some(time) = time else {
        return format!("{at} ms after 1970");
    };
    let (hour, minute, second) = time.to_hms();
    format!("{} {hour:02}:{minute:02}:{second:02} UTC", time.date())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_795_435_509_000), "2026-11-23 12:05:09 UTC");
        assert_eq!(utc(Millis::MAX), "18446744073709551615 ms after 1970");
    }
}
