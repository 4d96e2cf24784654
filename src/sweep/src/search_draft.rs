//! Reads `search:`: candidates of one field as a list, or spaces of several fields that are
//! combined to a grid or drawn at random.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;

use crate::axis::DraftAxis;
use crate::definition::{Candidate, MAX_MEAN, Metric, Search, Select};
use crate::draft::{MAX_SEEDS, read_seeds};
use crate::held_out::{self, Holdout};
use crate::program::{FieldRef, Namespace};
use crate::reader::{Mapping, Reader};
use crate::search::{Drawn, Space};
use crate::seed;
use crate::settings::Fields;
use crate::yaml::{Data, Key, Node};

/// Maximum number of candidates of a search.
pub(crate) const MAX_CANDIDATES: usize = 1000;

/// Seeds of a search in the sweep file.
const MAX_SEED: u64 = u32::MAX as u64;

const KEYS: [&str; 9] = [
    "field",
    "candidates",
    "space",
    "method",
    "seed",
    "select",
    "holdout",
    "metric",
    "seeds",
];

pub(crate) struct DraftSearch {
    pub search: Search,
    pub at: Range<usize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Method {
    Grid,
    Random,
}

pub(crate) fn read(reader: &mut Reader, node: &Node, axes: &[DraftAxis]) -> Option<DraftSearch> {
    let mapping = reader.mapping(node, "`search`", &KEYS)?;
    let at = mapping.start(node);
    let (candidates, drawn) = match mapping.get("space") {
        Some(space) => of_space(reader, &mapping, space, axes)?,
        None => (listed(reader, &mapping, &at, axes)?, None),
    };
    let words = [
        ("validation", Select::Validation),
        ("best_on_test", Select::BestOnTest),
    ];
    let select = mapping
        .get("select")
        .and_then(|node| reader.word(node, "`search.select`", &words));
    let select = select.unwrap_or(Select::Validation);
    let holdout = mapping
        .get("holdout")
        .and_then(|node| read_holdout(reader, node));
    let holdout = holdout.unwrap_or(Holdout::Fraction(0.2));
    let metric = mapping
        .get("metric")
        .and_then(|node| read_metric(reader, node));
    let written = mapping
        .get("seeds")
        .map(|node| read_seeds(reader, node, "`search.seeds`"));
    let automatic = written.is_none() && select == Select::Validation;
    let seeds = written.unwrap_or_else(|| match automatic {
        true => (0..held_out::MAX_SEEDS).collect(),
        false => vec![0],
    });
    let seeds = match holdout.folds() {
        1 => seeds,
        folds => of_folds(reader, &at, &seeds, folds),
    };
    if select == Select::BestOnTest
        && let Some((key, _)) = mapping
            .0
            .iter()
            .find(|(key, _)| ["holdout", "metric", "seeds"].contains(&key.text.as_str()))
    {
        reader.refuse(
            &key.at,
            format!("`{}` has no use with `select: best_on_test`", key.text),
            "remove it: that protocol trains every candidate on everything, with the sweep's seeds",
        );
    }
    let search = Search {
        candidates,
        drawn,
        select,
        holdout,
        metric: metric.unwrap_or_default(),
        seeds,
        automatic,
    };
    Some(DraftSearch { search, at })
}

/// Reads a value of the field `holdout`, which is not switched off.
fn read_holdout(reader: &mut Reader, node: &Node) -> Option<Holdout> {
    let field = reader.fields.find("holdout")?;
    let value = reader.value(&field, node)?;
    if value.is_null() {
        let help = "it is the part of the training images that candidates are compared on: 0.2";
        reader.refuse(&node.at, "`search.holdout` has no value", help);
    }
    serde_json::from_value(value).ok()
}

/// Returns a pair of subset and fold for each training of a candidate.
fn of_folds(reader: &mut Reader, at: &Range<usize>, seeds: &[u64], folds: u32) -> Vec<u64> {
    let count = seeds.len() as u64 * u64::from(folds);
    if count > MAX_SEEDS || seeds.contains(&MAX_SEED) {
        let message = format!("{folds} folds of these seeds are too many trainings or too large");
        let help = format!("write fewer `seeds`, each below {MAX_SEED}: at most {MAX_SEEDS} folds");
        reader.refuse(at, message, help);
        return Vec::new();
    }
    let of = |&seed: &u64| (0..folds).map(move |fold| seed::pair(seed as u32, fold));
    seeds.iter().flat_map(of).collect()
}

fn read_metric(reader: &mut Reader, node: &Node) -> Option<Metric> {
    if let Data::Map(_) = node.data {
        let mapping = reader.mapping(node, "`search.metric`", &["mean_of_last"])?;
        let what = "`search.metric.mean_of_last`";
        let count = reader.count(mapping.get("mean_of_last")?, what, 2..=u64::from(MAX_MEAN))?;
        return Some(Metric::MeanOfLast(count as u32));
    }
    reader.word(node, "`search.metric`", &[("last", Metric::Last)])
}

/// Reads `field` and its `candidates`.
fn listed(
    reader: &mut Reader,
    mapping: &Mapping<'_>,
    at: &Range<usize>,
    axes: &[DraftAxis],
) -> Option<Vec<Candidate>> {
    let (Some(field_node), Some(candidates)) = (mapping.get("field"), mapping.get("candidates"))
    else {
        reader.refuse(
            at,
            "`search` needs `field` and `candidates`, or `space`",
            "write {field: learning_rate, candidates: [0.5, 0.1, 0.05]}",
        );
        return None;
    };
    for key in ["method", "seed"] {
        if let Some(node) = mapping.get(key) {
            let message = format!("`search.{key}` has no use with `field` and `candidates`");
            let help = "it says how candidates are made of `space`: remove it, or write `space`";
            reader.refuse(&node.at, message, help);
        }
    }
    let name = reader.text(field_node, "`search.field`")?;
    let field = searched_field(reader, &name, &field_node.at, axes)?;
    let mut values: Vec<Value> = Vec::new();
    for item in reader.list(candidates, "`search.candidates`")? {
        let Some(value) = reader.value(&field, item) else {
            continue;
        };
        if values.contains(&value) {
            reader.report(reader.problem(&item.at, "this candidate occurs twice"));
        }
        values.push(value);
    }
    check_count(reader, &candidates.at, values.len());
    let candidate = |value| Candidate(Fields::from([(name.clone(), value)]));
    Some(values.into_iter().map(candidate).collect())
}

fn check_count(reader: &mut Reader, at: &Range<usize>, count: usize) {
    if !(2..=MAX_CANDIDATES).contains(&count) {
        reader.refuse(
            at,
            format!("a search between {count} candidates"),
            format!("write from 2 to {MAX_CANDIDATES} candidates, or put the one value into `set`"),
        );
    }
}

fn searched_field(
    reader: &mut Reader,
    name: &str,
    at: &Range<usize>,
    axes: &[DraftAxis],
) -> Option<FieldRef> {
    let Some(field) = reader.fields.find(name) else {
        reader.report(
            reader
                .problem(at, format!("no field is called `{name}`"))
                .maybe_help(reader.fields.help_for(name)),
        );
        return None;
    };
    let on_axis = axes.iter().any(|axis| axis.name == name || axis.sets(name));
    if on_axis || !field.may_vary() || ["dataset", "samples_per_class", "holdout"].contains(&name) {
        reader.refuse(
            at,
            format!("`{name}` cannot be searched over"),
            "a search chooses a field that no axis sets, for every cell by itself",
        );
    }
    Some(field)
}

/// Reads `space`, and makes the candidates of it.
fn of_space(
    reader: &mut Reader,
    mapping: &Mapping<'_>,
    node: &Node,
    axes: &[DraftAxis],
) -> Option<(Vec<Candidate>, Option<Drawn>)> {
    if let Some((key, _)) = mapping.0.iter().find(|(key, _)| key.text == "field") {
        reader.refuse(
            &key.at,
            "`search` has `field` and `space`",
            "keep `space`: {learning_rate: [0.5, 0.1]} is a list of one field there",
        );
    }
    let words = [("grid", Method::Grid), ("random", Method::Random)];
    let method = mapping
        .get("method")
        .and_then(|node| reader.word(node, "`search.method`", &words));
    let entries = reader.mapping(node, "`search.space`", &[])?;
    if entries.0.is_empty() {
        let help = "write {learning_rate: {log_uniform: [0.001, 1.0]}}";
        reader.refuse(&node.at, "`search.space` has no field", help);
        return None;
    }
    let mut spaces = BTreeMap::new();
    for (key, value) in &entries.0 {
        let Some(field) = searched_field(reader, &key.text, &key.at, axes) else {
            continue;
        };
        if let Some(space) = read_space(reader, &field, key, value) {
            spaces.insert(field.name().to_owned(), space);
        }
    }
    if spaces.len() < entries.0.len() {
        return None;
    }
    let continuous = spaces
        .iter()
        .find(|(_, space)| !matches!(space, Space::Choice(_)));
    let count_node = mapping.get("candidates");
    let random = method.map_or(count_node.is_some() || continuous.is_some(), |method| {
        method == Method::Random
    });
    if !random {
        if let Some((name, _)) = continuous {
            let message = format!("a grid cannot hold every value of `{name}`");
            let help = "list its values, or write `method: random` and the number of `candidates`";
            reader.refuse(&node.at, message, help);
            return None;
        }
        for key in ["candidates", "seed"] {
            if let Some(node) = mapping.get(key) {
                let message = format!("`search.{key}` has no use with `method: grid`");
                let help = "a grid has every combination: remove it, or write `method: random`";
                reader.refuse(&node.at, message, help);
            }
        }
        let combined = combinations(&spaces).filter(|number| *number <= MAX_CANDIDATES);
        let candidates = combined.map_or_else(Vec::new, |_| grid(&spaces));
        let count = combinations(&spaces).unwrap_or(usize::MAX);
        check_count(reader, &node.at, count);
        return Some((candidates, None));
    }
    let Some(count_node) = count_node else {
        let help = "write `candidates: 20`: the number of random draws that each cell tries";
        reader.refuse(&node.at, "a random search has no end", help);
        return None;
    };
    let range = 2..=MAX_CANDIDATES as u64;
    let count = reader.count(count_node, "`search.candidates`", range)?;
    let seed = mapping.get("seed").map_or(Some(0), |node| {
        reader.count(node, "`search.seed`", 0..=MAX_SEED)
    })?;
    if continuous.is_none()
        && let Some(all) = combinations(&spaces).filter(|all| *all as u64 <= count)
    {
        let message = format!("`search.space` has {all} combinations, and {count} are to be drawn");
        reader.refuse(
            &count_node.at,
            message,
            "write `method: grid`, which takes them all",
        );
        return None;
    }
    let drawn = Drawn {
        seed,
        space: spaces,
    };
    Some((draw(&reader.fields, &drawn, count as usize), Some(drawn)))
}

/// Draws candidates until there is that number of different ones.
fn draw(fields: &Namespace, drawn: &Drawn, count: usize) -> Vec<Candidate> {
    /// Enough for all but one of the combinations of a small space.
    const MAX_DRAWS: u64 = 1_000_000;
    let whole = |name: &str| {
        let field = fields.find(name);
        field.is_some_and(|field| field.is_whole())
    };
    let mut candidates: Vec<Candidate> = Vec::with_capacity(count);
    for number in 0..MAX_DRAWS {
        let candidate = drawn.candidate(number, whole);
        if !candidates.contains(&candidate) {
            candidates.push(candidate);
        }
        if candidates.len() == count {
            break;
        }
    }
    candidates
}

/// Returns the number of combinations; `None` if it is beyond counting.
fn combinations(spaces: &BTreeMap<String, Space>) -> Option<usize> {
    spaces
        .values()
        .try_fold(1_usize, |count, space| match space {
            Space::Choice(values) => count.checked_mul(values.len()),
            Space::Uniform(..) | Space::LogUniform(..) => None,
        })
}

/// Returns every combination; the last field varies fastest.
fn grid(spaces: &BTreeMap<String, Space>) -> Vec<Candidate> {
    let mut candidates = vec![Fields::new()];
    for (name, space) in spaces {
        let Space::Choice(values) = space else {
            continue;
        };
        let extended = candidates.iter().flat_map(|fields| {
            values.iter().map(|value| {
                let mut fields = fields.clone();
                fields.insert(name.clone(), value.clone());
                fields
            })
        });
        candidates = extended.collect();
    }
    candidates.into_iter().map(Candidate).collect()
}

/// Reads the possible values of a field: a list, or one of the spaces by name.
fn read_space(reader: &mut Reader, field: &FieldRef, key: &Key, node: &Node) -> Option<Space> {
    let what = format!("`search.space.{}`", key.text);
    if let Data::List(_) = node.data {
        return choice(reader, field, node, &what);
    }
    let mapping = reader.mapping(node, &what, &["choice", "uniform", "log_uniform"])?;
    let [(word, inner)] = mapping.0.as_slice() else {
        let help =
            "write one of {choice: [...]}, {uniform: [LOW, HIGH]} and {log_uniform: [LOW, HIGH]}";
        reader.refuse(&node.at, format!("{what} needs one kind of space"), help);
        return None;
    };
    if word.text == "choice" {
        return choice(reader, field, inner, &what);
    }
    let what = format!("`search.space.{}.{}`", key.text, word.text);
    if !field.is_number() {
        let message = format!("`{}` is not a number", field.name());
        reader.refuse(&word.at, message, "list its values: {choice: [...]}");
        return None;
    }
    let items = reader.list(inner, &what)?;
    let ends: Vec<f64> = items
        .iter()
        .filter_map(|item| reader.value(field, item)?.as_f64())
        .collect();
    let log = word.text == "log_uniform";
    match ends.as_slice() {
        [low, high] if low < high && (*low > 0.0 || !log) => Some(match log {
            true => Space::LogUniform(*low, *high),
            false => Space::Uniform(*low, *high),
        }),
        _ => {
            let more = if log { ", both above 0" } else { "" };
            let message = format!("{what} is no range");
            let help = format!("write [LOW, HIGH], the lower number first{more}");
            reader.refuse(&inner.at, message, help);
            None
        }
    }
}

fn choice(reader: &mut Reader, field: &FieldRef, node: &Node, what: &str) -> Option<Space> {
    let items = reader.list(node, what)?;
    let mut values: Vec<Value> = Vec::new();
    for item in items {
        let value = reader.value(field, item)?;
        if values.contains(&value) {
            reader.report(reader.problem(&item.at, format!("{what} has this value twice")));
        }
        values.push(value);
    }
    if values.is_empty() {
        reader.refuse(&node.at, format!("{what} has no value"), "list its values");
        return None;
    }
    Some(Space::Choice(values))
}
