//! The data files of a report: results.csv, timing.csv, results.json, the cells behind each table,
//! manifest.json.
//!
//! results.csv and the tables hold nothing that depends on when or where a trial ran or on its
//! number of attempts: they are byte-identical for a disturbed and an undisturbed run. The rest is
//! in timing.csv, and in results.json under `timing` and `attempts`.

use std::io::{self, Write};

use schedule::Choice;
use schedule::ranking::{Look, Ranking};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};
use sweep::definition::{Candidate, Measure, Role, Search, SeedBudget, Table};
use sweep::field::FIELDS;
use sweep::record::Provenance;
use sweep::{Settings, Sweep, seed};

use crate::claims::{self, Verdict};
use crate::csv;
use crate::families::Sign;
use crate::grid::{TableLayout, footnotes_of, published_value};
use crate::results::{CellStatus, CellSummary, Results, TrialRow, TrialStatus};
use crate::sink::Written;

/// Version of every JSON document of this crate.
pub const SCHEMA: u32 = 1;

/// Columns of results.csv before those of the axes (`BEFORE_AXES`) and after them (`AFTER_AXES`).
/// The settings come last, one column per field of [`FIELDS`].
const BEFORE_AXES: [&str; 2] = ["trial", "cell"];
const AFTER_AXES: [&str; 29] = [
    "seed",
    "subset_seed",
    "init_seed",
    "role",
    "candidate",
    "chosen",
    "choice",
    "status",
    "last_accuracy",
    "best_accuracy",
    "best_epoch",
    "last_balanced_accuracy",
    "last_top5_accuracy",
    "best_balanced_accuracy",
    "best_top5_accuracy",
    "train_loss",
    "eval_loss",
    "num_eval_images",
    "num_epochs",
    "num_parameters",
    "precision",
    "data_fingerprint",
    "num_subset_images",
    "subset_fingerprint",
    "state_hash",
    "trainer",
    "libtorch",
    "failure_class",
    "failure",
];
/// Columns of a table's CSV after those of the axes.
const CELL_COLUMNS: [&str; 15] = [
    "measure",
    "status",
    "n",
    "total",
    "mean_percent",
    "deviation_percent",
    "mark",
    "difference_percent",
    "margin_percent",
    "candidate",
    "choice",
    "published_percent",
    "footnote",
    "published_verdict",
    "skipped",
];

/// Writes one row per trial: identity, axes, outcome, settings.
pub fn results_csv(results: &Results, out: &mut dyn Write) -> io::Result<()> {
    let axes = results.sweep.axes.iter().map(|axis| axis.name.as_str());
    let fields = settings_names(results.sweep);
    let settings_columns: Vec<String> = fields
        .iter()
        .map(|name| format!("settings.{name}"))
        .collect();
    let mut others = [&BEFORE_AXES[..], &AFTER_AXES[..]].concat();
    others.extend(settings_columns.iter().map(String::as_str));
    let axes = csv::axis_columns(axes, &others);
    let fixed = |names: &[&str]| {
        names
            .iter()
            .map(|&name| name.to_owned())
            .collect::<Vec<_>>()
    };
    let head = [
        fixed(&BEFORE_AXES),
        axes,
        fixed(&AFTER_AXES),
        settings_columns,
    ];
    out.write_all(csv::line(head.concat()).as_bytes())?;
    let measure = results.first_measure();
    let (mut of_cell, mut of_training) = (None, None);
    for row in &results.trials {
        // The rows of a cell and of a candidate are adjacent.
        let summary = kept(&mut of_cell, row.cell(), || {
            results.cell(row.cell(), measure)
        });
        let training = (row.trial.cell, row.trial.candidate, row.trial.role);
        let settings = kept(&mut of_training, training, || {
            settings_fields(&fields, &results.settings(row))
        });
        let cell = &results.sweep.cells[row.cell()];
        let mut fields = vec![
            row.trial.id.to_string(),
            csv::text(results.sweep.cell_name(cell)),
        ];
        fields.extend(results.sweep.value_names(cell).into_iter().map(csv::text));
        let seed = row.trial.seed;
        let seeds = [seed, seed::of_subset(seed), seed::of_init(seed)];
        fields.extend(seeds.map(|seed| seed.to_string()));
        fields.push(role_name(row.trial.role).to_owned());
        fields.push(
            candidate(results, row).map_or_else(String::new, |value| csv::text(value.to_string())),
        );
        let is_chosen = summary
            .choice
            .as_ref()
            .map(|choice| (row.candidate() == Some(choice.candidate as usize), choice));
        fields.push(is_chosen.map_or_else(String::new, |(chosen, _)| chosen.to_string()));
        let choice = is_chosen.filter(|(chosen, _)| *chosen);
        fields.push(
            choice
                .map_or("", |(_, choice)| choice_word(choice))
                .to_owned(),
        );
        fields.push(row.status.name().to_owned());
        match row.result() {
            None => fields.extend(std::iter::repeat_n(String::new(), 19)),
            Some(result) => {
                let provenance = &result.provenance;
                let numbers = [result.last_accuracy, result.best_accuracy];
                fields.extend(numbers.map(|number| number.to_string()));
                fields.push(result.best_epoch.to_string());
                let numbers = [
                    Some(result.last_balanced_accuracy),
                    result.last_top5_accuracy,
                    result.best_balanced_accuracy,
                    result.best_top5_accuracy,
                    Some(result.train_loss),
                    Some(result.eval_loss),
                ];
                let optional = |number: Option<f64>| {
                    number.map_or_else(String::new, |number| number.to_string())
                };
                fields.extend(numbers.map(optional));
                let images = provenance.num_eval_images;
                fields.push(if images > 0 {
                    images.to_string()
                } else {
                    String::new()
                });
                fields.extend([
                    result.num_epochs.to_string(),
                    provenance.num_parameters.to_string(),
                ]);
                fields.extend([&provenance.precision, &provenance.data_fingerprint].map(csv::text));
                fields.push(
                    result
                        .num_subset_images
                        .map_or_else(String::new, |count| count.to_string()),
                );
                fields.extend([&result.subset_fingerprint, &result.state_hash].map(csv::text));
                fields.extend([&provenance.trainer, &provenance.libtorch].map(csv::text));
            }
        }
        match row.status {
            TrialStatus::Failed(failure) => {
                fields.push(failure.class.to_string());
                fields.push(csv::text(
                    failure.message.lines().next().unwrap_or_default(),
                ));
            }
            _ => fields.extend([String::new(), String::new()]),
        }
        fields.extend_from_slice(settings);
        out.write_all(csv::line(fields).as_bytes())?;
    }
    Ok(())
}

/// Returns what was made last for this key, or makes it.
fn kept<K: PartialEq, V>(last: &mut Option<(K, V)>, key: K, make: impl FnOnce() -> V) -> &V {
    let known = last.take().filter(|(made_for, _)| *made_for == key);
    &last.insert(known.unwrap_or_else(|| (key, make()))).1
}

/// Returns the settings as fields of results.csv, in the order of their declaration: text as it is,
/// mappings as JSON, and nothing for what is off.
fn settings_fields(names: &[String], settings: &Settings) -> Vec<String> {
    let values = settings.fields();
    let field = |name: &String| match values.get(name).unwrap_or(&Value::Null) {
        Value::Null => String::new(),
        Value::String(text) => csv::text(text),
        value => csv::text(value.to_string()),
    };
    names.iter().map(field).collect()
}

/// Returns the names of the settings, in the order of their declaration: those of the built-in
/// trainer, or those of the sweep's program.
fn settings_names(sweep: &Sweep) -> Vec<String> {
    match &sweep.program {
        Some(_) => sweep.base.fields().into_keys().collect(),
        None => FIELDS.iter().map(|field| field.name.to_owned()).collect(),
    }
}

/// Describes in a word how clearly a search chose.
fn choice_word(choice: &Choice) -> &'static str {
    match (choice.tied.is_empty(), choice.close.is_empty()) {
        (false, _) => "tied",
        (true, false) => "close",
        (true, true) => "clear",
    }
}

/// Writes one row per trial: the machine, the duration, the number of attempts.
pub fn timing_csv(results: &Results, out: &mut dyn Write) -> io::Result<()> {
    let head = "trial,cell,seed,attempts,host,devices,train_s,evaluate_s,checkpoint_s,start_s,idle_s,data_wait_s,data_wait_share,\
                images_per_s,peak_memory_mib,resumed_from_epoch,departed_at_epoch,execution,kernels,images,libraries,gpu_busy,cpu_s,gpu_energy_j\n";
    out.write_all(head.as_bytes())?;
    for row in &results.trials {
        let cell = csv::text(results.sweep.cell_name(&results.sweep.cells[row.cell()]));
        let mut fields = vec![
            row.trial.id.to_string(),
            cell,
            row.trial.seed.to_string(),
            row.attempts.len().to_string(),
        ];
        match row.result() {
            None => fields.extend(std::iter::repeat_n(String::new(), 20)),
            Some(result) => {
                let timing = &result.timing;
                fields.extend(
                    [
                        &result.provenance.host,
                        &result.provenance.devices.join(" + "),
                    ]
                    .map(csv::text),
                );
                let split = [
                    timing.train_s,
                    timing.evaluate_s,
                    timing.checkpoint_s,
                    timing.start_s,
                ];
                fields.extend(split.map(|number| number.to_string()));
                fields.push(
                    row.idle_s()
                        .map_or_else(String::new, |seconds| format!("{seconds:.3}")),
                );
                fields.extend(
                    [timing.data_wait_s, timing.data_wait_share()].map(|number| number.to_string()),
                );
                fields.extend(
                    [timing.images_per_s, timing.peak_memory_mib].map(|number| number.to_string()),
                );
                fields.push(timing.resumed_from_epoch.to_string());
                fields.push(
                    timing
                        .departed_at_epoch
                        .map(|epoch| epoch.to_string())
                        .unwrap_or_default(),
                );
                let Provenance {
                    execution,
                    kernels,
                    images,
                    libraries,
                    ..
                } = &*result.provenance;
                fields.extend([execution, kernels, images, &libraries.join(" + ")].map(csv::text));
                let measured = [timing.gpu_busy, timing.cpu_s, timing.gpu_energy_j];
                fields.extend(
                    measured
                        .map(|number| number.map_or_else(String::new, |found| found.to_string())),
                );
            }
        }
        out.write_all(csv::line(fields).as_bytes())?;
    }
    Ok(())
}

/// Writes everything about trials and cells, for programs.
pub fn results_json(results: &Results, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &Document(results))?;
    out.write_all(b"\n")
}

/// results.json, whose cells and trials are built one at a time. The fields are ordered by name.
struct Document<'a>(&'a Results<'a>);

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(results) = self;
        let sweep = results.sweep;
        let mut document = serializer.serialize_map(None)?;
        document.serialize_entry(
            "axes",
            &sweep.axes.iter().map(|axis| &axis.name).collect::<Vec<_>>(),
        )?;
        document.serialize_entry("cancelled", &results.state.cancelled)?;
        document.serialize_entry(
            "cells",
            &Each(|| (0..sweep.cells.len()).map(|cell| cell_json(results, cell))),
        )?;
        document.serialize_entry("claims", &claims::json(results))?;
        document.serialize_entry("complete", &results.complete())?;
        document.serialize_entry("recipe", &sweep.recipe)?;
        document.serialize_entry("schema", &SCHEMA)?;
        document.serialize_entry("search", &json!(sweep.search))?;
        if let Some(budget) = &sweep.seed_budget {
            document.serialize_entry("seed_budget", &budget_json(results, budget))?;
        }
        document.serialize_entry("seeds", &sweep.seeds)?;
        document.serialize_entry("smoke", &sweep.smoke)?;
        document.serialize_entry("sweep", &sweep.name)?;
        document.serialize_entry(
            "trials",
            &Each(|| results.trials.iter().map(|row| trial_json(results, row))),
        )?;
        document.end()
    }
}

/// Returns the looks that a budget allows, and those at each ranking so far.
fn budget_json(results: &Results, budget: &SeedBudget) -> Value {
    let sweep = results.sweep;
    let names = |cells: &[u32]| -> Vec<String> {
        let cells = cells.iter().map(|&cell| &sweep.cells[cell as usize]);
        cells.map(|cell| sweep.cell_name(cell)).collect()
    };
    let look = |look: &Look| json!({"seeds": look.seeds, "undecided": names(&look.undecided)});
    let ranking = |ranking: &Ranking| {
        let looks: Vec<Value> = ranking.looks.iter().map(look).collect();
        json!({"cells": names(&ranking.cells), "looks": looks})
    };
    let rankings = results.state.rankings.list.iter().map(ranking);
    json!({"looks": budget.looks, "rankings": rankings.collect::<Vec<_>>()})
}

/// A list whose items are built while it is written.
struct Each<F>(F);

impl<F: Fn() -> I, I: Iterator<Item = Value>> Serialize for Each<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

pub fn cell_json(results: &Results, index: usize) -> Value {
    let cell = &results.sweep.cells[index];
    let last = results.cell(index, Measure::Last);
    json!({
        "cell": results.sweep.cell_name(cell),
        "axes": axes_json(results, index),
        "status": last.status.name(),
        "skipped": cell.skipped,
        "published_percent": published_value(results, cell).map(|value| value.value),
        "published_footnotes": published_value(results, cell).map(|value| footnotes_of(results, value)),
        "last": summary_json(results, &last),
        "best": summary_json(results, &results.cell(index, Measure::Best)),
    })
}

fn summary_json(results: &Results, cell: &CellSummary) -> Value {
    let chosen = results.sweep.search.as_ref().zip(cell.candidate);
    json!({
        "done": cell.done,
        "total": cell.total,
        "n": cell.summary.map_or(0, |summary| summary.n),
        "mean": cell.summary.map(|summary| summary.mean.fraction()),
        "deviation": cell.summary.and_then(|summary| summary.deviation),
        "candidate": chosen.map(|(search, number)| json!(search.candidates[number].0)),
        "choice": results.sweep.search.as_ref().zip(cell.choice.as_ref()).map(choice_json),
    })
}

fn choice_json((search, choice): (&Search, &Choice)) -> Value {
    let values = |indices: &[u32]| -> Vec<Value> {
        indices
            .iter()
            .filter_map(|index| search.candidates.get(*index as usize))
            .map(Candidate::json)
            .collect()
    };
    json!({ "decided_by": choice.decided_by, "tied": values(&choice.tied), "close": values(&choice.close) })
}

fn axes_json(results: &Results, cell: usize) -> Map<String, Value> {
    let names = results.sweep.value_names(&results.sweep.cells[cell]);
    let axes = results.sweep.axes.iter().zip(names);
    axes.map(|(axis, value)| (axis.name.clone(), Value::from(value)))
        .collect()
}

/// Returns one trial with its result, timing and attempts.
pub fn trial_json(results: &Results, row: &TrialRow) -> Value {
    let mut provenance = Value::Null;
    let mut result = Value::Null;
    let mut timing = Value::Null;
    if let Some(summary) = row.result() {
        timing = json!(summary.timing);
        timing["data_wait_share"] = json!(summary.timing.data_wait_share());
        timing["idle_s"] = json!(row.idle_s());
        timing["host"] = json!(summary.provenance.host);
        timing["devices"] = json!(summary.provenance.devices);
        timing["execution"] = json!(summary.provenance.execution);
        timing["kernels"] = json!(summary.provenance.kernels);
        timing["images"] = json!(summary.provenance.images);
        timing["libraries"] = json!(summary.provenance.libraries);
        provenance = json!({
            "trainer": summary.provenance.trainer,
            "libtorch": summary.provenance.libtorch,
            "precision": summary.provenance.precision,
            "num_eval_images": summary.provenance.num_eval_images,
            "num_parameters": summary.provenance.num_parameters,
            "data_fingerprint": summary.provenance.data_fingerprint,
            "inputs": summary.provenance.inputs,
            "num_subset_images": summary.num_subset_images,
            "subset_fingerprint": summary.subset_fingerprint,
            "state_hash": summary.state_hash,
        });
        result = json!({
            "last_accuracy": summary.last_accuracy,
            "best_accuracy": summary.best_accuracy,
            "best_epoch": summary.best_epoch,
            "last_balanced_accuracy": summary.last_balanced_accuracy,
            "last_top5_accuracy": summary.last_top5_accuracy,
            "best_balanced_accuracy": summary.best_balanced_accuracy,
            "best_top5_accuracy": summary.best_top5_accuracy,
            "train_loss": summary.train_loss,
            "eval_loss": summary.eval_loss,
            "num_epochs": summary.num_epochs,
        });
    }
    let failure = match row.status {
        TrialStatus::Failed(failure) => json!(failure),
        _ => Value::Null,
    };
    json!({
        "trial": row.trial.id,
        "cell": results.sweep.cell_name(&results.sweep.cells[row.cell()]),
        "axes": axes_json(results, row.cell()),
        "seed": row.trial.seed,
        "subset_seed": seed::of_subset(row.trial.seed),
        "init_seed": seed::of_init(row.trial.seed),
        "role": row.trial.role,
        "candidate": candidate(results, row).map(Candidate::json),
        "settings": results.settings(row),
        "status": row.status.name(),
        "result": result,
        "provenance": provenance,
        "failure": failure,
        "timing": timing,
        "attempts": row.attempts.iter().zip(1..).map(attempt_json).collect::<Vec<Value>>(),
    })
}

fn attempt_json((attempt, number): (&schedule::state::Attempt, u32)) -> Value {
    json!({
        "attempt": number,
        "worker": attempt.worker,
        "slot": attempt.slot,
        "started_at_ms": attempt.started_at,
        "ended_at_ms": attempt.ended.as_ref().map(|end| end.at),
        "failure": attempt.ended.as_ref().and_then(|end| end.failure.as_ref()),
    })
}

/// Writes the cells behind a table or a figure: one row per cell, numbers in per cent.
pub fn cells_csv(
    results: &Results,
    table: &Table,
    layout: &TableLayout,
    out: &mut dyn Write,
) -> io::Result<()> {
    let axes = results.sweep.axes.iter().map(|axis| axis.name.as_str());
    let measured = if table.value == Measure::Best {
        "best"
    } else {
        "last"
    };
    let fixed = CELL_COLUMNS.map(str::to_owned).to_vec();
    out.write_all(csv::line([csv::axis_columns(axes, &CELL_COLUMNS), fixed].concat()).as_bytes())?;
    for (index, cell) in results.sweep.cells.iter().enumerate() {
        let summary = &layout.summaries[index];
        let mut fields: Vec<String> = results
            .sweep
            .value_names(cell)
            .into_iter()
            .map(csv::text)
            .collect();
        fields.extend([measured.to_owned(), summary.status.name().to_owned()]);
        fields.extend([
            summary.summary.map_or(0, |summary| summary.n).to_string(),
            summary.total.to_string(),
        ]);
        fields.push(
            summary
                .summary
                .map_or_else(String::new, |summary| summary.mean.percent().to_string()),
        );
        let deviation = summary.summary.and_then(|summary| summary.deviation);
        fields
            .push(deviation.map_or_else(String::new, |deviation| (100.0 * deviation).to_string()));
        let standing = &layout.standings.cells[index];
        let mark = match (standing.best, standing.sign) {
            (_, Some(Sign::Same)) => "not_distinguishable",
            (_, Some(Sign::Higher)) => "higher",
            (_, Some(Sign::Lower)) => "lower",
            (true, None) => "best",
            (false, None) => "",
        };
        fields.push(mark.to_owned());
        let compared = standing.comparison;
        let points = |value: Option<f64>| {
            value.map_or_else(String::new, |value| format!("{:.4}", 100.0 * value))
        };
        fields.push(points(compared.map(|one| one.difference)));
        fields.push(points(compared.map(|one| one.margin)));
        let chosen = results.sweep.search.as_ref().zip(summary.candidate);
        fields.push(chosen.map_or_else(String::new, |(search, number)| {
            csv::text(search.candidates[number].to_string())
        }));
        let choice = summary.choice.as_ref().map(choice_word);
        fields.push(choice.unwrap_or_default().to_owned());
        let published = published_value(results, cell);
        fields.push(published.map_or_else(String::new, |value| value.value.to_string()));
        fields.push(published.map_or_else(String::new, |value| {
            csv::text(footnotes_of(results, value).join("; "))
        }));
        fields.push(
            layout.verdicts[index]
                .map_or("", Verdict::on_published)
                .to_owned(),
        );
        fields.push(match &summary.status {
            CellStatus::Skipped(reason) => csv::text(reason),
            _ => String::new(),
        });
        out.write_all(csv::line(fields).as_bytes())?;
    }
    Ok(())
}

/// Returns names, sizes and hashes of the other files, and the progress of the sweep.
pub fn manifest(results: &Results, files: &[Written]) -> String {
    let list: Vec<Value> = files
        .iter()
        .map(
            |Written {
                 name,
                 bytes,
                 blake3,
             }| json!({ "name": name, "bytes": bytes, "blake3": blake3 }),
        )
        .collect();
    pretty(&json!({
        "schema": SCHEMA,
        "sweep": results.sweep.name,
        "revision": results.state.revision,
        "complete": results.complete(),
        "failed_trials": results.failed_trials(),
        "smoke": results.sweep.smoke,
        "files": list,
    }))
}

/// Returns the candidate value of a search that the trial was trained with.
pub fn candidate<'a>(results: &Results<'a>, row: &TrialRow) -> Option<&'a Candidate> {
    results
        .sweep
        .search
        .as_ref()?
        .candidates
        .get(row.candidate()?)
}

pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Result => "result",
        Role::Search => "search",
    }
}

pub fn pretty(document: &Value) -> String {
    serde_json::to_string_pretty(document).expect("a JSON value can be written") + "\n"
}
