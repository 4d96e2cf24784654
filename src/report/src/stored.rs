//! curves.csv and classes.csv: what a result holds by epoch and by class, one number a row. And
//! trials.jsonl, which exporters read.
//!
//! The state keeps none of it, so that 100,000 trials stay small in memory. Results are read one at a
//! time from where the journal keeps them.

use std::io::{self, Write};

use serde_json::{Map, Value};
use sweep::record::{EpochRecord, TrialResult};

use crate::csv;
use crate::files::{candidate, role_name, trial_json};
use crate::results::{Results, TrialRow, TrialStatus};

/// Whole results, by the number of the journal's event that holds one (`ResultSummary::event`).
pub trait StoredResults {
    fn result(&mut self, event: u64) -> io::Result<TrialResult>;
}

/// Writes one of these files.
pub type Fill = fn(&Results, &mut dyn StoredResults, &mut dyn Write) -> io::Result<()>;

const BEFORE_AXES: [&str; 3] = ["sweep", "trial", "cell"];
const AFTER_AXES: [&str; 3] = ["seed", "role", "candidate"];

/// Writes one row per trial, epoch and number, in the order of results.csv.
pub fn curves_csv(
    results: &Results,
    stored: &mut dyn StoredResults,
    out: &mut dyn Write,
) -> io::Result<()> {
    rows_by_trial(
        results,
        stored,
        &["epoch", "name", "value"],
        out,
        |result| {
            let epochs = result.epochs.iter().enumerate();
            let rows = epochs.flat_map(|(epoch, record)| {
                numbers(record).map(move |(name, value)| format!("{epoch},{name},{value}"))
            });
            rows.collect()
        },
    )
}

/// Writes one row per trial and class.
pub fn classes_csv(
    results: &Results,
    stored: &mut dyn StoredResults,
    out: &mut dyn Write,
) -> io::Result<()> {
    let columns = ["class", "images", "correct", "recall"];
    rows_by_trial(results, stored, &columns, out, |result| {
        let counts = result.classes.iter().flat_map(|counts| counts.classes());
        let row = |(class, (images, correct)): (usize, (u32, u32))| {
            let recall = match images {
                0 => String::new(),
                _ => (f64::from(correct) / f64::from(images)).to_string(),
            };
            format!("{class},{images},{correct},{recall}")
        };
        counts.enumerate().map(row).collect()
    })
}

/// Writes a line of JSON for each trial that has a result or has failed: what results.json has of
/// it, with the sweep's name and the learning curve.
pub fn trials_jsonl(
    results: &Results,
    stored: &mut dyn StoredResults,
    out: &mut dyn Write,
) -> io::Result<()> {
    for row in &results.trials {
        let curve: Vec<Value> = match row.status {
            TrialStatus::Succeeded(result) => {
                let epochs = stored.result(result.event)?.epochs;
                let numbers = |epoch: &EpochRecord| {
                    let named = numbers(epoch).map(|(name, value)| (name.to_owned(), value.into()));
                    Value::Object(named.collect::<Map<_, _>>())
                };
                epochs.iter().map(numbers).collect()
            }
            TrialStatus::Failed(_) => Vec::new(),
            TrialStatus::Waiting | TrialStatus::Running | TrialStatus::Cancelled => continue,
        };
        let mut line = trial_json(results, row);
        line["sweep"] = (*results.sweep.name).into();
        line["curve"] = curve.into();
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Writes the rows of each trial that has a result, after the columns that identify the trial.
fn rows_by_trial(
    results: &Results,
    stored: &mut dyn StoredResults,
    columns: &[&str],
    out: &mut dyn Write,
    rows: impl Fn(&TrialResult) -> Vec<String>,
) -> io::Result<()> {
    let axes = results.sweep.axes.iter().map(|axis| axis.name.as_str());
    let after = [&AFTER_AXES[..], columns].concat();
    let axes = csv::axis_columns(axes, &[&BEFORE_AXES[..], &after].concat());
    let fixed = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let head: [Vec<String>; 3] = [fixed(&BEFORE_AXES), axes, fixed(&after)];
    out.write_all(csv::line(head.concat()).as_bytes())?;
    for row in &results.trials {
        let Some(result) = row.result() else {
            continue;
        };
        let identity = identity(results, row);
        for row in rows(&stored.result(result.event)?) {
            writeln!(out, "{identity},{row}")?;
        }
    }
    Ok(())
}

/// Returns the beginning of a trial's rows.
fn identity(results: &Results, row: &TrialRow) -> String {
    let sweep = results.sweep;
    let cell = &sweep.cells[row.cell()];
    let mut fields = vec![
        csv::text(&*sweep.name),
        row.trial.id.to_string(),
        csv::text(sweep.cell_name(cell)),
    ];
    fields.extend(sweep.value_names(cell).into_iter().map(csv::text));
    fields.push(row.trial.seed.to_string());
    fields.push(role_name(row.trial.role).to_owned());
    let candidate = candidate(results, row).map(|value| csv::text(value.to_string()));
    fields.push(candidate.unwrap_or_default());
    let mut line = csv::line(fields);
    line.pop();
    line
}

/// Returns what an epoch recorded. One that was not evaluated has fewer numbers.
fn numbers(epoch: &EpochRecord) -> impl Iterator<Item = (&'static str, f64)> {
    let numbers = [
        ("train_loss", Some(epoch.train_loss)),
        ("accuracy", epoch.accuracy),
        ("balanced_accuracy", epoch.balanced_accuracy),
        ("top5_accuracy", epoch.top5_accuracy),
        ("eval_loss", epoch.eval_loss),
    ];
    numbers
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
}
