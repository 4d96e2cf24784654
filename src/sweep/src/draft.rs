//! The sweep file as written, with places: every key is read and checked by itself.
//!
//! How the parts combine (which override wins, and the resulting cells) is in `expand.rs`; tables,
//! figures and published numbers are in `output.rs`.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;

use crate::axis::{self, DraftAxis};
use crate::definition::{OnFailure, Resources, SeedBudget};
use crate::field::did_you_mean;
use crate::keep::{self, Keep, Kept};
use crate::program::{FieldRef, Namespace, ProgramBlock};
use crate::program_block;
use crate::reader::{Assignment, Mapping, Reader};
use crate::recipe;
use crate::search_draft::{self, DraftSearch};
use crate::seed;
use crate::seed_budget;
use crate::yaml::{Data, Node};

/// Larger grids are refused unless `limits: {trials: N}` raises the limit.
pub const DEFAULT_MAX_TRIALS: u64 = 100_000;
/// The highest limit that `limits` can set.
pub const HIGHEST_MAX_TRIALS: u64 = 1_000_000;
pub(crate) const MAX_SEEDS: u64 = 10_000;

const KEYS: &[&str] = &[
    "name",
    "description",
    "recipe",
    "program",
    "set",
    "axes",
    "seeds",
    "overrides",
    "exclude",
    "search",
    "resources",
    "outputs",
    "published",
    "claims",
    "on_failure",
    "keep",
    "limits",
];

pub(crate) struct Draft<'n> {
    pub name: String,
    pub description: String,
    /// Empty if the sweep has a program.
    pub recipe: String,
    pub program: Option<ProgramBlock>,
    /// Fields of `recipe`, then of `resources`, then of `set`: later ones take precedence.
    pub set: Vec<Assignment>,
    pub axes: Vec<DraftAxis>,
    pub seeds: Vec<u64>,
    /// The place of `seeds` and what it allows.
    pub seed_budget: Option<(Range<usize>, SeedBudget)>,
    pub overrides: Vec<Override>,
    pub exclude: Vec<Exclusion>,
    pub search: Option<DraftSearch>,
    pub resources: Resources,
    pub outputs: Option<&'n Node>,
    pub published: Option<&'n Node>,
    pub claims: Option<&'n Node>,
    pub on_failure: OnFailure,
    pub keep: Keep,
    pub max_trials: u64,
}

impl Draft<'_> {
    /// Returns the most seeds that a cell may get.
    pub fn most_seeds(&self) -> usize {
        let budget = self.seed_budget.as_ref();
        budget.map_or(self.seeds.len(), |(_, budget)| budget.at_most() as usize)
    }
}

pub(crate) struct Override {
    pub at: Range<usize>,
    pub when: Vec<Condition>,
    pub set: Vec<Assignment>,
    pub priority: i64,
    /// True if the whole override could be read: half a condition would match cells that it was not
    /// written for.
    pub sound: bool,
}

pub(crate) struct Exclusion {
    pub at: Range<usize>,
    pub when: Vec<Condition>,
}

pub(crate) enum Condition {
    /// Index of the axis, indices of its values.
    Axis(usize, Vec<u32>),
    /// Values as `Settings` writes them.
    Field(FieldRef, Vec<Value>),
}

/// Reads a sweep. `None` if it is too broken to continue; the reader then has problems.
pub(crate) fn read<'n>(reader: &mut Reader, root: &'n Node, stem: &str) -> Option<Draft<'n>> {
    let top = reader.mapping(root, "the sweep", KEYS)?;
    let name = read_name(reader, &top, stem);
    let description = top
        .get("description")
        .and_then(|node| reader.text(node, "`description`"))
        .unwrap_or_default();
    let program = top
        .get("program")
        .map(|node| program_block::read(reader, node));
    if let Some(block) = &program {
        reader.fields = Namespace::of(block);
    }
    // Without a recipe nothing can be expanded, but everything else is still checked.
    let (recipe, mut set) = match (&program, top.get("recipe")) {
        (None, _) => read_recipe(reader, &top).unwrap_or_default(),
        (Some(_), None) => Default::default(),
        (Some(_), Some(node)) => {
            reader.refuse(
                &node.at,
                "the sweep has a `recipe` and a `program`",
                "recipes belong to the built-in trainer: remove one of the two",
            );
            Default::default()
        }
    };
    let resources = read_resources(reader, &top, &mut set);
    if let Some(node) = top.get("set") {
        let assignments = reader.assignments(node, "`set`");
        set.retain(|earlier| {
            assignments
                .iter()
                .all(|later| later.field.name() != earlier.field.name())
        });
        set.extend(assignments);
    }
    let axes = top
        .get("axes")
        .map_or_else(Vec::new, |node| axis::read(reader, node));
    let (seeds, seed_budget) = match top.get("seeds") {
        Some(node) if has_key(node, "start") => {
            let budget = read_seed_budget(reader, node);
            let start = budget.as_ref().map_or(1, |budget| budget.looks[0]);
            let at = node.at.clone();
            (
                (0..u64::from(start)).collect(),
                budget.map(|budget| (at, budget)),
            )
        }
        Some(node) => (read_result_seeds(reader, node), None),
        None => (vec![0], None),
    };
    let overrides = top
        .get("overrides")
        .map_or_else(Vec::new, |node| read_overrides(reader, node, &axes));
    let exclude = top
        .get("exclude")
        .map_or_else(Vec::new, |node| read_exclude(reader, node, &axes));
    let search = top
        .get("search")
        .and_then(|node| search_draft::read(reader, node, &axes));
    let on_failure = top.get("on_failure").and_then(|node| {
        reader.word(
            node,
            "`on_failure`",
            &[("continue", OnFailure::Continue), ("stop", OnFailure::Stop)],
        )
    });
    let keep = top.get("keep").map(|node| {
        let words = reader.list(node, "`keep`").unwrap_or_default();
        let kept = |node| reader.word(node, "an entry of `keep`", Kept::WORDS);
        words.iter().filter_map(kept).collect()
    });
    let max_trials = top.get("limits").and_then(|node| {
        let limits = reader.mapping(node, "`limits`", &["trials"])?;
        reader.count(
            limits.get("trials")?,
            "`limits.trials`",
            1..=HIGHEST_MAX_TRIALS,
        )
    });
    Some(Draft {
        name,
        description,
        recipe,
        program,
        set,
        axes,
        seeds,
        seed_budget,
        overrides,
        exclude,
        search,
        resources,
        outputs: top.get("outputs"),
        published: top.get("published"),
        claims: top.get("claims"),
        on_failure: on_failure.unwrap_or(OnFailure::Continue),
        keep: keep.unwrap_or_else(keep::default_keep),
        max_trials: max_trials.unwrap_or(DEFAULT_MAX_TRIALS),
    })
}

fn read_name(reader: &mut Reader, top: &Mapping<'_>, stem: &str) -> String {
    let (name, at) = match top.get("name") {
        Some(node) => (
            reader
                .text(node, "`name`")
                .unwrap_or_else(|| stem.to_owned()),
            node.at.clone(),
        ),
        None => (stem.to_owned(), 0..0),
    };
    if let Err(reason) = check_name(&name) {
        reader.refuse(
            &at,
            format!("the name `{}` {reason}", name.escape_debug()),
            "results are kept in a folder of this name: write `name: my-sweep`",
        );
    }
    name
}

/// Checks a name, which becomes the name of a folder or file and part of command lines.
pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    let usable = |symbol: char| symbol.is_ascii_alphanumeric() || matches!(symbol, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 {
        return Err("has not between 1 and 64 characters");
    }
    if !name.chars().all(usable) {
        return Err("holds something else than letters, digits, `-`, `_` and `.`");
    }
    if !name.starts_with(|symbol: char| symbol.is_ascii_alphanumeric()) {
        return Err("does not start with a letter or digit");
    }
    if name.ends_with(crate::derived::SMOKE_SUFFIX) {
        return Err("ends with `-smoke`, which is kept for rehearsals");
    }
    Ok(())
}

fn read_recipe(reader: &mut Reader, top: &Mapping<'_>) -> Option<(String, Vec<Assignment>)> {
    let all = recipe::names().collect::<Vec<_>>().join(", ");
    let Some(node) = top.get("recipe") else {
        reader.refuse(
            &(0..0),
            "the sweep has no `recipe`",
            format!("write `recipe: NAME`; recipes are {all}"),
        );
        return None;
    };
    let (name_node, fields) = match &node.data {
        Data::Map(_) => {
            let mapping = reader.mapping(node, "`recipe`", &[])?;
            let Some(base) = mapping.get("base") else {
                reader.refuse(
                    &node.at,
                    "`recipe` does not name the recipe it starts from",
                    format!("add `base: NAME`; recipes are {all}"),
                );
                return None;
            };
            let fields = mapping.0.iter().filter(|(key, _)| key.text != "base");
            let fields = fields.filter_map(|(key, value)| reader.assignment(key, value));
            (base, fields.collect())
        }
        _ => (node, Vec::new()),
    };
    let name = reader.text(name_node, "the recipe's name")?;
    if recipe::names().all(|known| known != name) {
        reader.refuse(
            &name_node.at,
            format!("no recipe is called `{name}`"),
            did_you_mean(&name, recipe::names()).unwrap_or_else(|| format!("recipes are {all}")),
        );
        return None;
    }
    Some((name, fields))
}

fn read_resources(reader: &mut Reader, top: &Mapping<'_>, set: &mut Vec<Assignment>) -> Resources {
    let mut resources = Resources {
        devices_per_trial: 1,
    };
    let mapping = top
        .get("resources")
        .and_then(|node| reader.mapping(node, "`resources`", &["devices_per_trial", "replicas"]));
    for (key, node) in mapping.map_or_else(Vec::new, |mapping| mapping.0) {
        if key.text == "replicas" {
            let assignment = reader.assignment(key, node);
            set.retain(|earlier| earlier.field.name() != "replicas");
            set.extend(assignment);
        } else if let Some(devices) = reader.count(node, "`devices_per_trial`", 1..=64) {
            resources.devices_per_trial = u32::try_from(devices).unwrap_or(1);
        }
    }
    resources
}

fn has_key(node: &Node, key: &str) -> bool {
    match &node.data {
        Data::Map(entries) => entries.iter().any(|(known, _)| known.text == key),
        _ => false,
    }
}

/// Reads `{start: 3, until: decided, at_most: 20}`.
fn read_seed_budget(reader: &mut Reader, node: &Node) -> Option<SeedBudget> {
    const FORM: &str = "write {start: 3, until: decided, at_most: 20}";
    let mapping = reader.mapping(node, "`seeds`", &["start", "until", "at_most"])?;
    for key in ["until", "at_most"] {
        if mapping.get(key).is_none() {
            let message = format!("`seeds` has `start` and no `{key}`");
            reader.refuse(&mapping.start(node), message, FORM);
            return None;
        }
    }
    reader.word(mapping.get("until")?, "`seeds.until`", &[("decided", ())])?;
    let limits = 2..=u64::from(seed_budget::MAX_SEEDS);
    let start = reader.count(mapping.get("start")?, "`seeds.start`", limits.clone())?;
    let at_most = reader.count(mapping.get("at_most")?, "`seeds.at_most`", limits)?;
    if at_most <= start {
        reader.refuse(
            &mapping.get("at_most")?.at,
            format!("`seeds.at_most` is {at_most}, and `start` is {start}"),
            "the most seeds of a cell are more than it begins with; a fixed number is `seeds: 5`",
        );
        return None;
    }
    Some(SeedBudget::doubling(start as u32, at_most as u32))
}

/// Reads the seeds of results: plain ones, or `{subset: 3, init: 4}`.
fn read_result_seeds(reader: &mut Reader, node: &Node) -> Vec<u64> {
    if !matches!(node.data, Data::Map(_)) {
        return read_seeds(reader, node, "`seeds`");
    }
    let keys = ["subset", "init"];
    let Some(mapping) = reader.mapping(node, "`seeds`", &keys) else {
        return Vec::new();
    };
    let counts = keys.map(|key| match mapping.get(key) {
        Some(node) => reader.count(node, &format!("`seeds.{key}`"), 1..=1000),
        None => {
            reader.refuse(
                &mapping.start(node),
                format!("`seeds` has no `{key}`"),
                "write {subset: 3, init: 4}: 4 initial weights for each of 3 subsets, or a number",
            );
            None
        }
    });
    let [Some(subsets), Some(inits)] = counts else {
        return Vec::new();
    };
    if subsets * inits > MAX_SEEDS {
        reader.report(reader.problem(
            &node.at,
            format!("`seeds` makes more than {MAX_SEEDS} seeds"),
        ));
        return Vec::new();
    }
    let of_subset = |subset: u64| (0..inits).map(move |init| (subset as u32, init as u32));
    let pairs = (0..subsets).flat_map(of_subset);
    pairs
        .map(|(subset, init)| seed::pair(subset, init))
        .collect()
}

/// Reads a number of seeds (from 0), or a list of them.
pub(crate) fn read_seeds(reader: &mut Reader, node: &Node, what: &str) -> Vec<u64> {
    let Data::List(items) = &node.data else {
        let count = reader.count(node, what, 1..=MAX_SEEDS).unwrap_or(1);
        return (0..count).collect();
    };
    if items.is_empty() {
        reader.refuse(
            &node.at,
            format!("{what} is empty"),
            "write `seeds: 5`, or a list of numbers",
        );
    }
    let mut places: BTreeMap<u64, Range<usize>> = BTreeMap::new();
    let mut seeds = Vec::new();
    for item in items {
        let Some(seed) = reader.count(item, "a seed", 0..=u64::from(u32::MAX)) else {
            continue;
        };
        if let Some(first) = places.insert(seed, item.at.clone()) {
            let message = format!("the seed {seed} occurs twice");
            let help = "each seed is one more independent training";
            reader.refuse_again(&item.at, &first, message, help);
        } else {
            seeds.push(seed);
        }
    }
    if seeds.len() as u64 > MAX_SEEDS {
        reader.report(reader.problem(
            &node.at,
            format!("{what} holds more than {MAX_SEEDS} seeds"),
        ));
    }
    seeds
}

fn read_overrides(reader: &mut Reader, node: &Node, axes: &[DraftAxis]) -> Vec<Override> {
    let Some(items) = reader.list(node, "`overrides`") else {
        return Vec::new();
    };
    let mut overrides = Vec::new();
    for item in items {
        let before = reader.problems.len();
        let Some(mapping) = reader.mapping(item, "an override", &["when", "set", "priority"])
        else {
            continue;
        };
        let at = mapping.start(item);
        let (Some(when), Some(set)) = (mapping.get("when"), mapping.get("set")) else {
            reader.refuse(
                &at,
                "an override needs both `when` and `set`",
                "write {when: {axis: value}, set: {field: value}}",
            );
            continue;
        };
        let when = read_when(reader, when, axes);
        let set = reader.assignments(set, "`set`");
        if let Some(assignment) = set.iter().find(|set| set.field.name() == "dataset") {
            reader.refuse(
                &assignment.at,
                "an override cannot change the data set",
                "the recipe's values follow the data set: make `dataset` an axis, or use `set`",
            );
        }
        let priority = mapping
            .get("priority")
            .and_then(|node| read_priority(reader, node));
        overrides.push(Override {
            at,
            when,
            set,
            priority: priority.unwrap_or(0),
            sound: reader.problems.len() == before,
        });
    }
    overrides
}

fn read_priority(reader: &mut Reader, node: &Node) -> Option<i64> {
    let priority = match &node.data {
        Data::Number(number) => number.as_i64(),
        _ => None,
    };
    if priority.is_none() {
        reader.refuse(
            &node.at,
            "`priority` is not a whole number",
            "0 unless given; the higher one wins where overrides meet",
        );
    }
    priority
}

fn read_exclude(reader: &mut Reader, node: &Node, axes: &[DraftAxis]) -> Vec<Exclusion> {
    let Some(items) = reader.list(node, "`exclude`") else {
        return Vec::new();
    };
    let mut exclude = Vec::new();
    for item in items {
        let Some(mapping) = reader.mapping(item, "an exclusion", &["when"]) else {
            continue;
        };
        let at = mapping.start(item);
        match mapping.get("when") {
            Some(when) => exclude.push(Exclusion {
                at,
                when: read_when(reader, when, axes),
            }),
            None => {
                reader.refuse(
                    &at,
                    "an exclusion needs `when`",
                    "write {when: {axis: value}}",
                );
            }
        }
    }
    exclude
}

fn read_when(reader: &mut Reader, node: &Node, axes: &[DraftAxis]) -> Vec<Condition> {
    let Some(mapping) = reader.mapping(node, "`when`", &[]) else {
        return Vec::new();
    };
    if mapping.0.is_empty() {
        reader.refuse(
            &node.at,
            "`when` names nothing",
            "what holds for every cell belongs into `set`",
        );
    }
    let mut conditions = Vec::new();
    for (key, value) in mapping.0 {
        let items = reader.one_or_many(value);
        if items.is_empty() {
            reader.report(reader.problem(&value.at, format!("`{}` lists no value", key.text)));
        } else if let Some((index, axis)) = axes
            .iter()
            .enumerate()
            .find(|(_, axis)| axis.name == key.text)
        {
            let values = items
                .iter()
                .filter_map(|item| axis.value_index(reader, item))
                .collect();
            conditions.push(Condition::Axis(index, values));
        } else if let Some(field) = reader.fields.find(&key.text) {
            let values = items
                .iter()
                .filter_map(|item| reader.value(&field, item))
                .collect();
            conditions.push(Condition::Field(field, values));
        } else {
            let axes: Vec<&str> = axes.iter().map(|axis| axis.name.as_str()).collect();
            let names = axes.iter().copied().chain(reader.fields.names());
            let help = did_you_mean(&key.text, names)
                .or_else(|| reader.fields.help_for(&key.text))
                .unwrap_or_else(|| format!("axes of this sweep: {}", axes.join(", ")));
            let message = format!("no axis or field is called `{}`", key.text);
            reader.refuse(&key.at, message, help);
        }
    }
    conditions
}
