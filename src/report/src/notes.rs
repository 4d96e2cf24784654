//! The text around a table: the meaning of its numbers, warnings, failures.

use std::collections::{BTreeMap, BTreeSet};

use schedule::Choice;
use schedule::comparison::SIGNIFICANCE;
use sweep::definition::{Cell, Measure, Metric, Search, Select, Spread, Table};
use sweep::{Share, Sweep, held_out, seed};

use crate::claims::Verdict;
use crate::families::{Family, Sign};
use crate::grid::general_footnotes;
use crate::results::{CellStatus, CellSummary, Results, TrialStatus};
use crate::statistics;

/// Maximum number of failures listed below a table; the rest is in results.csv.
const MAX_FAILURES: usize = 8;
/// Maximum number of cells with a close search choice listed below a table; the rest is in the
/// table's CSV.
const MAX_CELLS: usize = 8;

/// Describes the numbers: measure, spread and n, recipe, search.
pub fn protocol(results: &Results, measure: Measure, spread: Spread) -> String {
    let sweep = results.sweep;
    let evaluated = if sweep.base.holdout.is_some() {
        "a held-out split of the training set"
    } else {
        "the test set"
    };
    let measured = match measure {
        Measure::Last => format!("Accuracy on {evaluated} in per cent after the last epoch"),
        Measure::Best => {
            format!(
                "Accuracy in per cent of the best epoch on {evaluated} (the paper's protocol: optimistic)"
            )
        }
    };
    let spread = match (nested(results), sweep.seeds.len()) {
        (Some((1, inits)), _) => {
            format!("one subset, so no spread (n = 1, the mean of {inits} initial weights)")
        }
        (Some((subsets, inits)), _) => {
            let spread = spread_name(spread);
            format!(
                "mean ± {spread} over subsets (n = {subsets}, each the mean of {inits} initial weights)"
            )
        }
        (None, 1) => "one seed, so no spread (n = 1)".to_owned(),
        (None, n) => {
            let spread = spread_name(spread);
            let most = match &sweep.seed_budget {
                Some(budget) => format!(" to {}", budget.at_most()),
                None => String::new(),
            };
            format!("mean ± {spread} over seeds (n = {n}{most})")
        }
    };
    let mut text = format!("{measured}; {spread}");
    if sweep.program.is_none() {
        text.push_str(&format!("; recipe `{}`", sweep.recipe));
    }
    text.push('.');
    if !sweep.trainer.is_built_in() {
        text.push_str(&format!(" Trained by {}.", sweep.trainer));
    }
    if let Some(search) = &sweep.search {
        let choice = match search.select {
            Select::BestOnTest => {
                "chosen on the test set (select: best_on_test, the paper's protocol: optimistic)"
                    .into()
            }
            Select::Validation => {
                let by = match search.metric {
                    Metric::Last => String::new(),
                    Metric::MeanOfLast(_) => format!("by {} ", search.metric),
                };
                format!(
                    "chosen {by}on {}, then trained on all of them",
                    search.holdout
                )
            }
        };
        let budget = budget(sweep, search);
        text.push_str(&format!(
            " Per cell, the best of {}, {choice}{budget}.",
            search.origin()
        ));
    }
    text
}

fn spread_name(spread: Spread) -> &'static str {
    match spread {
        Spread::Std => "sample standard deviation",
        Spread::Se => "standard error",
        Spread::Ci95 => "half of its 95 % interval (Student's t)",
    }
}

/// Returns the numbers of subsets and of initial weights of each; `None` for plain seeds.
fn nested(results: &Results) -> Option<(usize, usize)> {
    let seeds = &results.sweep.seeds;
    let subsets: Option<BTreeSet<u32>> = seeds
        .iter()
        .map(|&seed| seed::pair_of(seed).map(|(subset, _)| subset))
        .collect();
    let subsets = subsets.filter(|subsets| !subsets.is_empty())?.len();
    Some((subsets, seeds.len() / subsets))
}

/// Describes how cells came to their numbers of seeds, and what the looks so far left undecided;
/// nothing without a budget.
pub fn seed_budget(results: &Results) -> Vec<String> {
    let Some(budget) = &results.sweep.seed_budget else {
        return Vec::new();
    };
    let share = 100.0 * SIGNIFICANCE / budget.looks.len() as f64;
    let mut notes = vec![format!(
        "Seeds: cells are compared with the best at {} seeds, at each with {share:.2} % of the 5 % \
         (Bonferroni over the looks). Those that are not shown to be lower get the next number, and so \
         does the best; others keep theirs.",
        budget.listed()
    )];
    let rankings = &results.state.rankings.list;
    let (mut decided, mut spent, mut undecided) = (0, 0, 0);
    for ranking in rankings.iter().filter(|ranking| ranking.is_over(budget)) {
        match ranking.looks.last() {
            Some(last) if !last.undecided.is_empty() => {
                spent += 1;
                undecided += last.undecided.len();
            }
            _ => decided += 1,
        }
    }
    if spent > 0 {
        notes.push(format!(
            "The budget of seeds was used up in {spent} of {}, with {} not distinguishable from the \
             best; {decided} decided.",
            sweep::counted(rankings.len() as u64, "ranking"),
            sweep::counted(undecided as u64, "cell"),
        ));
    }
    notes
}

/// Splits the variance between results into the parts of subset and initial weights; nothing for
/// plain seeds.
pub fn variance_parts(
    results: &Results,
    summaries: &[CellSummary],
    measure: Measure,
) -> Option<String> {
    let (subsets, inits) = nested(results)?;
    let complete = summaries.iter().enumerate();
    let complete = complete.filter(|(_, cell)| cell.status == CellStatus::Complete);
    let cells: Vec<Vec<Vec<f64>>> = complete
        .map(|(index, cell)| {
            let by_subset = results.values_by_subset(index, cell.candidate, measure);
            let fractions = |values: &Vec<Share>| values.iter().map(Share::fraction).collect();
            by_subset.iter().map(fractions).collect()
        })
        .collect();
    let parts = statistics::variance_parts(&cells)?;
    let total = parts.subset + parts.init;
    (total > 0.0).then(|| {
        format!(
            "Of the variance between results, {:.0} % comes from the subset and {:.0} % from initial \
             weights and order (nested analysis of variance: {} of {subsets} subsets with {inits} \
             initial weights each). Comparisons count subsets.",
            100.0 * parts.subset / total,
            100.0 * parts.init / total,
            sweep::counted(cells.len() as u64, "cell"),
        )
    })
}

/// Returns the warnings that every reader must see: rehearsals, and numbers that were not produced
/// under equal conditions.
pub fn warnings(results: &Results) -> Vec<String> {
    let mut warnings = Vec::new();
    if results.sweep.smoke {
        warnings.push(
            "REHEARSAL (--smoke): tiny generated images, two epochs of one step each. These numbers mean nothing."
                .to_owned(),
        );
    }
    let mut builds = BTreeSet::new();
    let mut libraries = BTreeSet::new();
    let mut precisions = BTreeSet::new();
    let mut devices = BTreeSet::new();
    let mut kernels = BTreeSet::new();
    let mut fingerprints: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut inputs: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for row in &results.trials {
        let Some(result) = row.result() else { continue };
        let provenance = &result.provenance;
        builds.insert(provenance.trainer.clone());
        libraries.insert(provenance.libtorch.clone());
        precisions.insert(provenance.precision.clone());
        devices.insert(device_kind(&provenance.devices));
        kernels.insert(provenance.kernels.clone());
        let cell = &results.sweep.cells[row.cell()];
        // A decoded data set depends on these settings and no others.
        let decoded = format!(
            "dataset {}, resize {}",
            results.field(cell, "dataset"),
            results.field(cell, "resize")
        );
        fingerprints
            .entry(decoded)
            .or_default()
            .insert(provenance.data_fingerprint.clone());
        for (name, hash) in &provenance.inputs {
            inputs.entry(name).or_default().insert(hash.clone());
        }
    }
    for (what, values) in [
        ("builds of the trainer", builds),
        ("versions of libtorch", libraries),
        ("precisions", precisions),
        ("kinds of device", devices),
        ("kinds of kernels", kernels),
    ] {
        if values.len() > 1 {
            warnings.push(format!(
                "MIXED: results of several {what}: {}",
                list(&values)
            ));
        }
    }
    for (decoded, values) in fingerprints
        .into_iter()
        .filter(|(_, values)| values.len() > 1)
    {
        warnings.push(format!(
            "MIXED: {decoded}: was not the same data everywhere: fingerprints {}",
            list(&values)
        ));
    }
    for (name, values) in inputs.into_iter().filter(|(_, values)| values.len() > 1) {
        warnings.push(format!(
            "MIXED: {name} had not the same content everywhere: {}",
            list(&values)
        ));
    }
    warnings
}

/// Explains bold type.
pub fn best(results: &Results) -> String {
    let mut text =
        "highest mean of the complete cells with the same data and pre-training".to_owned();
    let n = nested(results).map_or(results.sweep.seeds.len(), |(subsets, _)| subsets);
    if n < 2 {
        text.push_str("; one seed gives no spread, so it cannot be distinguished from the others");
    }
    text
}

/// Explains the sign of a comparison.
pub fn sign(results: &Results, table: &Table, sign: Sign) -> String {
    if table.baseline.is_empty() {
        return "not distinguishable from the best at this n".to_owned();
    }
    let label = |(axis, value): (&String, &String)| {
        let axis = results
            .sweep
            .axes
            .iter()
            .find(|known| known.name == *axis)?;
        let value = axis.values.iter().find(|known| known.name == *value)?;
        Some(value.label.clone())
    };
    let names: Vec<String> = table.baseline.iter().filter_map(label).collect();
    let names = names.join(" / ");
    match sign {
        Sign::Same => format!("not distinguishable from {names} at this n"),
        Sign::Higher => format!("higher than {names}"),
        Sign::Lower => format!("lower than {names}"),
    }
}

/// Names the method of comparison and what the seeds could have shown; nothing if no cells were
/// compared.
pub fn comparisons(
    results: &Results,
    table: &Table,
    families: &[Family],
    headings: &[String],
) -> Option<String> {
    let points = |family: &Family| format!("{:.1}", 100.0 * family.smallest_shown);
    let columns: Vec<&Family> = families
        .iter()
        .filter(|family| family.column.is_some())
        .collect();
    let numbers = match (families, columns.len()) {
        ([], _) => return None,
        ([one], _) => points(one),
        (_, count) if count == families.len() && count <= MAX_CELLS => columns
            .iter()
            .filter_map(|family| Some(format!("{}: {}", headings[family.column?], points(family))))
            .collect::<Vec<_>>()
            .join(", "),
        _ => {
            let by_size = |a: &&Family, b: &&Family| a.smallest_shown.total_cmp(&b.smallest_shown);
            let least = families.iter().min_by(by_size).map(points)?;
            let most = families.iter().max_by(by_size).map(points)?;
            format!("{least} to {most}, by column")
        }
    };
    let (subject, method) = if table.baseline.is_empty() {
        ("Compared with the best", "Tukey-Kramer")
    } else {
        ("Compared with the baseline", "Dunnett")
    };
    // `5`, and for a share of it `1.25`
    let rate = 100.0 * SIGNIFICANCE / results.sweep.num_looks() as f64;
    let rate = (100.0 * rate).round() / 100.0;
    Some(format!(
        "{subject} by {method}, with the spread of all compared cells and {rate} % for all comparisons \
         of a column together. Smallest difference that shows, in points: {numbers}."
    ))
}

/// Returns the notes that apply to all published numbers.
pub fn published(results: &Results) -> Vec<String> {
    general_footnotes(results)
        .into_iter()
        .map(|text| format!("Published numbers: {text}"))
        .collect()
}

/// Explains the verdicts on published numbers; nothing if the table has none.
pub fn tolerance(table: &Table, verdicts: &[Option<Verdict>]) -> Option<String> {
    let points = table.tolerance?;
    let count = verdicts.iter().flatten().count();
    (count > 0).then(|| {
        format!(
            "Published numbers: agrees means within {points} points, differs means not; undecided: \
             this n leaves both open. All intervals hold together with 95 % (Bonferroni, {}).",
            sweep::counted(count as u64, "comparison")
        )
    })
}

/// Describes the number of trainings that each cell's search gets.
fn budget(sweep: &Sweep, search: &Search) -> String {
    let seeds = |cell: &Cell| match search.select {
        Select::Validation => search.seeds_for(cell).len(),
        Select::BestOnTest => sweep.seeds.len(),
    };
    let trainings = |cell: &Cell| search.candidates.len() * seeds(cell);
    let cells = || sweep.cells.iter().filter(|cell| cell.skipped.is_none());
    let (fewest, most) = (cells().map(trainings).min(), cells().map(trainings).max());
    match fewest.zip(most) {
        None => String::new(),
        Some((fewest, most)) if fewest == most => format!("; {most} trainings for each choice"),
        Some((fewest, most)) => format!("; {fewest} to {most} trainings for each choice"),
    }
}

/// Lists choices of a search that were made on few images, were ties, or were close to one.
pub fn searches(results: &Results, summaries: &[CellSummary]) -> Vec<String> {
    let chosen = || {
        summaries
            .iter()
            .zip(&results.sweep.cells)
            .filter_map(|(cell, at)| Some((cell.choice.as_ref()?, at)))
    };
    let line = |what: &str, holds: &dyn Fn(&Choice) -> bool| {
        let names = chosen()
            .filter(|(choice, _)| holds(choice))
            .map(|(_, cell)| results.sweep.cell_name(cell));
        let names: Vec<String> = names.collect();
        let more = names.len().saturating_sub(MAX_CELLS);
        let more = if more > 0 {
            format!(", and {more} more")
        } else {
            String::new()
        };
        let listed = names
            .iter()
            .take(MAX_CELLS)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ");
        let count = (names.len(), chosen().count());
        (!names.is_empty()).then(|| {
            format!(
                "Search: {} of {} choices {what}: {listed}{more}",
                count.0, count.1
            )
        })
    };
    let tied = line(
        "fell between values that were right equally often (the lower loss, then the middle value, decided)",
        &|choice| !choice.tied.is_empty(),
    );
    let close = line(
        "are within one binomial standard error of another value",
        &|choice| choice.tied.is_empty() && !choice.close.is_empty(),
    );
    let few: Vec<u64> = summaries
        .iter()
        .zip(&results.sweep.cells)
        .filter(|(summary, _)| summary.choice.is_some())
        .filter_map(|(_, cell)| results.sweep.few_search_images(cell))
        .collect();
    let few = few.iter().min().map(|&images| {
        format!(
            "Search: {} of {} choices were made on fewer than {} held-out images; on {images}, differences below {:.0} points are noise",
            few.len(),
            chosen().count(),
            held_out::WANTED_IMAGES,
            held_out::distinguishable(images)
        )
    });
    few.into_iter().chain(tied).chain(close).collect()
}

/// Returns the notes below the table: failures, and the reason if the sweep ended early.
pub fn below(results: &Results) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(reason) = &results.state.cancelled {
        notes.push(format!("Cancelled: {reason}"));
    }
    notes.extend(skipped_images(results));
    // Failures of one cell with equal text share a line.
    let mut failures: Vec<(String, Vec<String>)> = Vec::new();
    for row in &results.trials {
        let TrialStatus::Failed(failure) = row.status else {
            continue;
        };
        let cell = results.sweep.cell_name(&results.sweep.cells[row.cell()]);
        let candidate = match (&results.sweep.search, row.candidate()) {
            (Some(search), Some(number)) => {
                format!(", {} {}", search.label(), search.candidates[number])
            }
            _ => String::new(),
        };
        let reason = failure.message.lines().next().unwrap_or_default();
        let what = format!("{cell}{candidate}: {}: {reason}", failure.class);
        let trial = format!(
            "seed {} (trial {})",
            seed::name(row.trial.seed),
            row.trial.id
        );
        match failures.last_mut() {
            Some((last, trials)) if *last == what => trials.push(trial),
            _ => failures.push((what, vec![trial])),
        }
    }
    let more = failures.len().saturating_sub(MAX_FAILURES);
    for (what, trials) in failures.into_iter().take(MAX_FAILURES) {
        notes.push(format!("Failed: {what}: {}", trials.join(", ")));
    }
    if more > 0 {
        notes.push(format!(
            "Failed: {more} more lines like these; results.csv lists every trial"
        ));
    }
    notes
}

/// Returns, with `corrupt: skip`, the number of images per data set that trainings skipped.
fn skipped_images(results: &Results) -> impl Iterator<Item = String> {
    let mut counts: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for row in &results.trials {
        let skipped = row
            .result()
            .map_or(0, |result| result.provenance.skipped_images);
        if skipped > 0 {
            let dataset = results.field(&results.sweep.cells[row.cell()], "dataset");
            let name = dataset
                .as_str()
                .map_or_else(|| dataset.to_string(), str::to_owned);
            counts.entry(name).or_default().insert(skipped);
        }
    }
    counts.into_iter().map(|(dataset, counts)| {
        let counts: Vec<String> = counts.iter().map(u64::to_string).collect();
        let what = if counts == ["1"] { "image" } else { "images" };
        let counts = counts.join(" or ");
        format!("Left out of `{dataset}` (corrupt: skip), because they cannot be decoded: {counts} {what}")
    })
}

/// Returns the devices without the differences between equal ones: `NVIDIA H200, 143771 MiB, driver
/// 580.65.06`; `cpu (AMD EPYC, 1 thread)` stays as it is, since a different number of threads sums
/// in a different order.
fn device_kind(devices: &[String]) -> String {
    let kinds: BTreeSet<&str> = devices.iter().map(|device| without_index(device)).collect();
    kinds.into_iter().collect::<Vec<_>>().join(" + ")
}

/// Returns `NVIDIA H200` for `cuda:3 (NVIDIA H200)`, and `cuda` if the driver reported only
/// `cuda:3`.
fn without_index(device: &str) -> &str {
    let Some(rest) = device.strip_prefix("cuda:") else {
        return device;
    };
    match rest.trim_start_matches(|digit: char| digit.is_ascii_digit()) {
        "" => "cuda",
        kind => kind
            .strip_prefix(" (")
            .and_then(|kind| kind.strip_suffix(')'))
            .unwrap_or(device),
    }
}

fn list(values: &BTreeSet<String>) -> String {
    values
        .iter()
        .map(|value| if value.is_empty() { "unknown" } else { value })
        .collect::<Vec<_>>()
        .join(", ")
}
