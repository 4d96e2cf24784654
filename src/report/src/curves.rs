//! curves.csv: the epochs of every trial that has a result, one number a row.
//!
//! The state keeps no epochs, so that 100,000 trials stay small in memory. They are read one result
//! at a time from where the journal keeps them.

use std::io::{self, Write};

use sweep::record::EpochRecord;

use crate::csv;
use crate::files::{candidate, role_name};
use crate::results::Results;

/// The epochs of results, by the number of the journal's event that holds the result
/// (`ResultSummary::event`).
pub trait Epochs {
    fn epochs(&mut self, event: u64) -> io::Result<Vec<EpochRecord>>;
}

const BEFORE_AXES: [&str; 3] = ["sweep", "trial", "cell"];
const AFTER_AXES: [&str; 6] = ["seed", "role", "candidate", "epoch", "name", "value"];

/// Writes one row per trial, epoch and number, in the order of results.csv.
pub fn curves_csv(
    results: &Results,
    epochs: &mut dyn Epochs,
    out: &mut dyn Write,
) -> io::Result<()> {
    let sweep = results.sweep;
    let axes = sweep.axes.iter().map(|axis| axis.name.as_str());
    let axes = csv::axis_columns(axes, &[&BEFORE_AXES[..], &AFTER_AXES[..]].concat());
    let fixed = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let head: [Vec<String>; 3] = [fixed(&BEFORE_AXES), axes, fixed(&AFTER_AXES)];
    out.write_all(csv::line(head.concat()).as_bytes())?;
    for row in &results.trials {
        let Some(result) = row.result() else {
            continue;
        };
        let cell = &sweep.cells[row.cell()];
        let mut identity = vec![
            csv::text(&*sweep.name),
            row.trial.id.to_string(),
            csv::text(sweep.cell_name(cell)),
        ];
        identity.extend(sweep.value_names(cell).into_iter().map(csv::text));
        identity.push(row.trial.seed.to_string());
        identity.push(role_name(row.trial.role).to_owned());
        let candidate = candidate(results, row).map(|value| csv::text(value.to_string()));
        identity.push(candidate.unwrap_or_default());
        let identity = csv::line(identity);
        let identity = identity.trim_end_matches('\n');
        for (number, epoch) in epochs.epochs(result.event)?.iter().enumerate() {
            for (name, value) in numbers(epoch) {
                writeln!(out, "{identity},{number},{name},{value}")?;
            }
        }
    }
    Ok(())
}

/// Returns what an epoch recorded. One that was not evaluated has fewer numbers.
fn numbers(epoch: &EpochRecord) -> impl Iterator<Item = (&'static str, f64)> {
    let numbers = [
        ("train_loss", Some(epoch.train_loss)),
        ("accuracy", epoch.accuracy),
    ];
    numbers
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
}
