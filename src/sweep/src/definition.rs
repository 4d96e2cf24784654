//! A compiled sweep: the meaning of a YAML file once every recipe, axis and override has been
//! resolved.
//!
//! Cells are stored as differences from one base, so that a sweep of 100,000 cells stays small in
//! memory and in the journal. The coordinator journals the compiled form, not the YAML, so that a
//! later version of the program with other recipe defaults replays the same trials.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::inputs::{self, Inputs};
use crate::keep::{self, Keep};
use crate::program::ProgramBlock;
pub use crate::search::{Candidate, MAX_MEAN, Metric, Search, Select};
pub use crate::seed_budget::SeedBudget;
use crate::settings::{EvaluateEvery, Settings};
use crate::text;
use crate::trainer::Trainer;
use crate::trial::{TrialId, TrialSpec};

/// A compiled sweep: everything that the coordinator needs to run it and to make its report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// Unique per coordinator: submitting another file with the same name replaces the sweep and
    /// keeps its results.
    pub name: String,
    #[serde(deserialize_with = "text::lines")]
    pub description: String,
    /// The recipe's name, for captions; empty if the sweep has a program.
    pub recipe: String,
    /// The sweep's own training code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramBlock>,
    pub base: Settings,
    pub axes: Vec<Axis>,
    pub cells: Vec<Cell>,
    /// Seeds of each cell; with a budget, those that it begins with.
    pub seeds: Vec<u64>,
    /// More seeds for cells that the first ones leave undecided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed_budget: Option<SeedBudget>,
    pub search: Option<Search>,
    pub outputs: Vec<Output>,
    pub published: Vec<PublishedValue>,
    #[serde(deserialize_with = "text::lines_list")]
    pub footnotes: Vec<String>,
    /// Statements that the results support, contradict or leave undecided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<Claim>,
    pub on_failure: OnFailure,
    /// Files that are kept of each trial besides its result.
    #[serde(
        default = "keep::default_keep",
        skip_serializing_if = "keep::is_default"
    )]
    pub keep: Keep,
    pub resources: Resources,
    /// True for a rehearsal on stand-in images.
    pub smoke: bool,
    /// Content of the data sets, weights and hierarchies that the cells read, as known where the
    /// sweep was submitted. Changes of inputs that were unknown there are not detected.
    #[serde(default, skip_serializing_if = "Inputs::is_empty")]
    pub inputs: Inputs,
    /// The program that trains it.
    #[serde(default, skip_serializing_if = "Trainer::is_built_in")]
    pub trainer: Trainer,
    /// The YAML as submitted.
    pub source: String,
}

/// A dimension of the grid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Axis {
    /// A settings field, or any name if every value is a named bundle of settings.
    pub name: String,
    pub values: Vec<AxisValue>,
}

/// One value of an axis: its name, and the fields that it sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AxisValue {
    /// Name that users type, and that `when:` and `published:` refer to: `cub`, `10`,
    /// `cos_semantic`.
    pub name: String,
    /// Name in tables.
    #[serde(deserialize_with = "text::line")]
    pub label: String,
    /// The fields that it sets.
    pub set: BTreeMap<String, Value>,
}

/// One point of the grid without the seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Index into the values of each axis, in the order of `Sweep::axes`.
    pub coordinates: Vec<u32>,
    /// Differences from `Sweep::base`: axis values and overrides, resolved.
    pub set: BTreeMap<String, Value>,
    /// Reason for leaving the cell out of the run, if it is left out (missing data under
    /// `--skip-missing`).
    #[serde(default, deserialize_with = "text::optional_line")]
    pub skipped: Option<String>,
    /// Number of images that a candidate is evaluated on with one split, over all of its folds, if
    /// known: see [`Search::seeds_for`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<u32>,
}

/// A table or figure of the report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    Table(Table),
    Figure(Figure),
}

/// A table: the axes of its rows and columns, outermost first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub name: String,
    #[serde(deserialize_with = "text::lines")]
    pub caption: String,
    /// Axes whose combinations are the rows (columns), outermost first. Both lists cover all axes
    /// with several values.
    pub rows: Vec<String>,
    pub columns: Vec<String>,
    pub value: Measure,
    /// Axis name to value name: each cell is compared with the one that has these values and is
    /// otherwise equal. Empty: with the best of its column.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub baseline: BTreeMap<String, String>,
    /// Points within which a mean agrees with its published number; absent: the table shows no
    /// verdicts on published numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// The summary of each row over the columns, as a note below the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overall: Option<Overall>,
    #[serde(default, skip_serializing_if = "Look::is_default")]
    pub look: Look,
}

/// One number for each row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overall {
    /// Mean of its ranks in the columns.
    Rank,
    /// Interquartile mean of its results.
    Iqm,
}

/// The appearance of a table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Look {
    #[serde(default)]
    pub spread: Spread,
    /// True for a table without bold type and signs.
    #[serde(default)]
    pub unmarked: bool,
    #[serde(default)]
    pub style: Style,
    /// True if numbers in LaTeX are in columns of the package siunitx, aligned at their points.
    #[serde(default)]
    pub siunitx: bool,
}

impl Look {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The environment of a table in LaTeX.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// `table`.
    #[default]
    Table,
    /// `table*`: over both columns of the page.
    Wide,
    /// `sidewaystable`, of the package rotating.
    Sideways,
    /// `tabular` alone; captions and notes are comments.
    Tabular,
}

/// The number after the ± of a mean over seeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// Sample standard deviation of the seeds' results.
    #[default]
    Std,
    /// Standard error of the mean.
    Se,
    /// Half of the 95 % interval of the mean (Student's t).
    Ci95,
}

/// A figure: the axes of its horizontal direction, its lines and its panels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub name: String,
    #[serde(deserialize_with = "text::lines")]
    pub caption: String,
    pub x: String,
    pub series: Vec<String>,
    /// One panel per value of this axis.
    pub panels: Option<String>,
    pub value: Measure,
}

/// The accuracy that an output shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Accuracy after the last epoch.
    Last,
    /// Accuracy of the best epoch on the evaluation set: the paper's protocol, named so in the
    /// caption.
    Best,
}

/// A published number for one cell, in per cent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PublishedValue {
    /// Axis name to value name; axes that are not named match any value.
    pub cell: BTreeMap<String, String>,
    pub value: f64,
    /// Index into `Sweep::footnotes`.
    pub footnote: Option<u32>,
}

/// A statement about pairs of cells, written before there are results. It is supported if every
/// pair supports it, and contradicted if one contradicts it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// The statement in words.
    #[serde(deserialize_with = "text::line")]
    pub text: String,
    pub value: Measure,
    pub relation: Relation,
    pub pairs: Vec<ClaimedPair>,
}

/// The relation of a cell to what it is compared with, in points of per cent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// Better by more than this.
    Beats { by: f64 },
    /// At most this far away, in either direction.
    Within { points: f64 },
}

/// A cell of a claim and what it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClaimedPair {
    /// Index into `Sweep::cells`.
    pub cell: u32,
    /// Index into `Sweep::cells`; absent: the cell's published number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<u32>,
}

/// Effect of a failed trial on the rest of the sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The other trials continue; the table marks the missing results.
    Continue,
    /// The first failed trial cancels the rest of the sweep.
    Stop,
}

/// Resources that each trial gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Devices of one trial: GPUs, or CPU threads. Several GPUs are used only by several
    /// `replicas`; CPU threads need none.
    pub devices_per_trial: u32,
}

/// One training of a sweep: see [`Sweep::cell_trials`].
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedTrial {
    pub id: TrialId,
    /// Index into `Sweep::cells`.
    pub cell: usize,
    /// Index into `Search::candidates`.
    pub candidate: Option<usize>,
    pub role: Role,
    pub spec: TrialSpec,
}

/// Use of a trial's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Its accuracy enters the table.
    Result,
    /// It decides which candidate's trials enter the table.
    Search,
}

impl Sweep {
    /// Returns the settings of a cell: the base with the cell's own fields.
    pub fn cell_settings(&self, cell: &Cell) -> Settings {
        self.base
            .with(&cell.set)
            .expect("a compiled cell holds valid fields")
    }

    /// Returns the trials of one cell. Without a search: one per seed. With `Select::BestOnTest`:
    /// every candidate for every seed. With `Select::Validation`: the search trials of every
    /// candidate, and the results of `chosen` once it is known.
    pub fn cell_trials(&self, index: usize, chosen: Option<usize>) -> Vec<PlannedTrial> {
        let cell = &self.cells[index];
        if cell.skipped.is_some() {
            return Vec::new();
        }
        let settings = self.cell_settings(cell);
        let trial = |settings: &Settings, seed: u64, candidate: Option<usize>, role: Role| {
            let spec = self.spec(settings.clone(), seed);
            PlannedTrial {
                id: spec.id(),
                cell: index,
                candidate,
                role,
                spec,
            }
        };
        let Some(search) = &self.search else {
            return self
                .seeds
                .iter()
                .map(|&seed| trial(&settings, seed, None, Role::Result))
                .collect();
        };
        let mut trials = Vec::new();
        for number in 0..search.candidates.len() {
            let mut add = |seeds: &[u64], role: Role| {
                let settings = search.with_candidate(&settings, number, role);
                let seeds = seeds.iter();
                trials.extend(seeds.map(|&seed| trial(&settings, seed, Some(number), role)));
            };
            if search.select == Select::Validation {
                add(search.seeds_for(cell), Role::Search);
            }
            if search.select == Select::BestOnTest || chosen == Some(number) {
                add(&self.seeds, Role::Result);
            }
        }
        trials
    }

    /// Returns the training of one trial of a cell: an entry of [`Sweep::cell_trials`].
    ///
    /// # Panics
    /// Panics if the sweep lacks the cell or the candidate.
    pub fn trial_spec(
        &self,
        cell: usize,
        candidate: Option<usize>,
        role: Role,
        seed: u64,
    ) -> TrialSpec {
        let mut settings = self.cell_settings(&self.cells[cell]);
        if let (Some(search), Some(candidate)) = (&self.search, candidate) {
            settings = search.with_candidate(&settings, candidate, role);
        }
        self.spec(settings, seed)
    }

    /// Returns a training with these settings, with the inputs and the trainer of this sweep.
    /// `evaluate_every: auto` is resolved, so that it is the number that results record.
    pub fn spec(&self, mut settings: Settings, seed: u64) -> TrialSpec {
        if settings.evaluate_every == EvaluateEvery::Auto {
            let interval = match self.reports_best() {
                true => 1,
                false => settings.evaluation_interval(),
            };
            settings.evaluate_every = EvaluateEvery::Count(interval);
        }
        let inputs = if self.smoke {
            Inputs::new()
        } else {
            inputs::of_settings(&self.inputs, &settings)
        };
        TrialSpec {
            settings,
            seed,
            smoke: self.smoke,
            inputs,
            trainer: self.trainer.clone(),
        }
    }

    /// Returns true if an output or a claim is about the accuracy of the best epoch.
    fn reports_best(&self) -> bool {
        let of_outputs = self.outputs.iter().map(Output::value);
        let of_claims = self.claims.iter().map(|claim| claim.value);
        of_outputs
            .chain(of_claims)
            .any(|value| value == Measure::Best)
    }

    /// Returns the names of a cell's axis values, in the order of the axes.
    pub fn value_names(&self, cell: &Cell) -> Vec<&str> {
        let values = self.axes.iter().zip(&cell.coordinates);
        values
            .map(|(axis, &index)| axis.values[index as usize].name.as_str())
            .collect()
    }

    /// Returns the name of a cell as users write it: its value names joined with `/`, as in
    /// `cub/cos`.
    pub fn cell_name(&self, cell: &Cell) -> String {
        self.value_names(cell).join("/")
    }
}
