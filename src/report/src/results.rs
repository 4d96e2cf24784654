//! One sweep's part of the state, folded into trials and cells: the source of every table, figure
//! and file.
//!
//! See `grid.rs` for how cells become a table.

use std::collections::BTreeMap;
use std::sync::Arc;

use schedule::comparison::Summary;
use schedule::state::{Attempt, Phase, ResultSummary, State, SweepState, SweepTrial, UnknownSweep};
use schedule::{Choice, Score, compared};
use serde_json::Value;
use sweep::definition::{Cell, Measure, Output, Role, Search, Select};
use sweep::record::{Failure, FailureClass};
use sweep::{Settings, Share, Sweep, seed};

/// A trial of the sweep and its outcome.
pub struct TrialRow<'a> {
    pub trial: &'a SweepTrial,
    pub status: TrialStatus<'a>,
    /// Oldest first; `AttemptNo(n)` is `attempts[n - 1]`.
    pub attempts: &'a [Attempt],
}

#[derive(Clone, Copy, Debug)]
pub enum TrialStatus<'a> {
    Waiting,
    Running,
    Succeeded(&'a Arc<ResultSummary>),
    Failed(&'a Failure),
    Cancelled,
}

impl TrialStatus<'_> {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Succeeded(_) => "succeeded",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    fn has_ended(&self) -> bool {
        match self {
            Self::Succeeded(_) | Self::Failed(_) | Self::Cancelled => true,
            Self::Waiting | Self::Running => false,
        }
    }
}

/// Everything about one sweep, ready to be reported.
pub struct Results<'a> {
    pub state: &'a SweepState,
    pub sweep: &'a Sweep,
    /// Ordered by cell, candidate, role, seed, independently of the coordinator's order.
    pub trials: Vec<TrialRow<'a>>,
    /// Range of each cell's trials in `trials`.
    cells: Vec<std::ops::Range<usize>>,
    /// `Sweep::base` as a record, so that reading one field of 100,000 cells does not build 100,000
    /// settings.
    base: Value,
    complete: bool,
}

/// The content of a table cell.
#[derive(Clone, Debug, PartialEq)]
pub struct CellSummary {
    pub status: CellStatus,
    /// Summary of the accuracies that count, as fractions.
    pub summary: Option<Summary>,
    /// Trials with a result; `total` is the number of trials that the cell needs.
    pub done: usize,
    pub total: usize,
    /// Index into `Search::candidates` of the candidate that counts.
    pub candidate: Option<usize>,
    /// Reason for that candidate, once a search has chosen.
    pub choice: Option<Choice>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CellStatus {
    Complete,
    /// Some seeds have results, others do not (yet).
    Partial,
    Searching,
    Running,
    Waiting,
    Failed,
    Cancelled,
    Skipped(String),
}

impl CellStatus {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "incomplete",
            Self::Searching => "searching",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Skipped(_) => "skipped",
        }
    }
}

impl<'a> Results<'a> {
    pub fn of(state: &'a State, name: &str) -> Result<Self, UnknownSweep> {
        let sweep_state = state.sweep(name)?;
        let sweep = sweep_state.sweep.as_ref();
        let mut trials: Vec<TrialRow> = sweep_state
            .trials
            .iter()
            .map(|trial| trial_row(state, trial))
            .collect();
        trials.sort_by_key(|row| {
            (
                row.trial.cell,
                row.trial.role,
                row.trial.candidate,
                row.trial.seed,
            )
        });
        let mut cells = Vec::with_capacity(sweep.cells.len());
        let mut start = 0;
        for index in 0..sweep.cells.len() {
            let length = trials[start..]
                .iter()
                .take_while(|row| row.trial.cell as usize == index)
                .count();
            cells.push(start..start + length);
            start += length;
        }
        let base = Value::Object(sweep.base.fields().into_iter().collect());
        Ok(Self {
            state: sweep_state,
            sweep,
            trials,
            cells,
            base,
            complete: state.is_complete(name),
        })
    }

    /// Returns the fields of `Sweep::base`.
    pub fn base(&self) -> &Value {
        &self.base
    }

    /// Returns one field of a cell's settings.
    pub fn field(&self, cell: &'a Cell, name: &str) -> &Value {
        cell.set.get(name).unwrap_or(&self.base[name])
    }

    /// Returns the settings that a trial is trained with, the candidate of a search included.
    pub fn settings(&self, row: &TrialRow) -> Settings {
        let role = row.trial.role;
        let spec = self
            .sweep
            .trial_spec(row.cell(), row.candidate(), role, row.trial.seed);
        spec.settings
    }

    /// Returns the measure of the sweep's first output.
    pub fn first_measure(&self) -> Measure {
        match self.sweep.outputs.first() {
            Some(Output::Table(table)) => table.value,
            Some(Output::Figure(figure)) => figure.value,
            None => Measure::Last,
        }
    }

    pub fn cell_trials(&self, cell: usize) -> &[TrialRow<'a>] {
        &self.trials[self.cells[cell].clone()]
    }

    /// Returns true if every trial has ended and no search has yet to choose.
    pub fn complete(&self) -> bool {
        self.complete
    }

    /// Returns the number of trials that ended without a result in cells that are not complete.
    pub fn failed_trials(&self) -> u64 {
        let mut failed = 0;
        for cell in 0..self.sweep.cells.len() {
            if self.cell(cell, Measure::Last).status != CellStatus::Complete {
                let lost = |row: &&TrialRow| {
                    matches!(row.status, TrialStatus::Failed(_) | TrialStatus::Cancelled)
                };
                failed += self.cell_trials(cell).iter().filter(lost).count() as u64;
            }
        }
        failed
    }

    pub fn cell(&self, cell: usize, measure: Measure) -> CellSummary {
        let blank = |status| CellSummary {
            status,
            summary: None,
            done: 0,
            total: 0,
            candidate: None,
            choice: None,
        };
        if let Some(reason) = &self.sweep.cells[cell].skipped {
            return blank(CellStatus::Skipped(reason.clone()));
        }
        let Some(search) = &self.sweep.search else {
            return self.seeds_of(cell, None, measure);
        };
        match (search.select, self.state.chosen.get(&(cell as u32))) {
            (Select::BestOnTest, _) => self.best_candidate(search, cell, measure),
            (Select::Validation, None) => blank(self.search_status(cell)),
            (Select::Validation, Some(&chosen)) => {
                let choice =
                    schedule::explain_choice(search, &self.scores(search, cell, measure), chosen);
                CellSummary {
                    choice,
                    ..self.seeds_of(cell, Some(chosen as usize), measure)
                }
            }
        }
    }

    /// Returns the scores that a search compares, by candidate: accuracy on held-out images, or on
    /// the test set by the table's measure. `None` for a candidate with a trial that has no result.
    pub fn scores(&self, search: &Search, cell: usize, measure: Measure) -> Vec<Option<Score>> {
        let role = match search.select {
            Select::Validation => Role::Search,
            Select::BestOnTest => Role::Result,
        };
        let accuracy = |result: &ResultSummary| match search.select {
            Select::Validation => compared(search.metric, result),
            Select::BestOnTest => accuracy(result, measure),
        };
        let of = |candidate| {
            let own =
                |row: &&TrialRow| row.trial.role == role && row.candidate() == Some(candidate);
            let results = self
                .cell_trials(cell)
                .iter()
                .filter(own)
                .map(TrialRow::result);
            Score::of(results, accuracy)
        };
        (0..search.candidates.len()).map(of).collect()
    }

    fn result_trials(
        &self,
        cell: usize,
        candidate: Option<usize>,
    ) -> impl Iterator<Item = &TrialRow<'a>> {
        let counts =
            move |row: &&TrialRow| row.trial.role == Role::Result && row.candidate() == candidate;
        self.cell_trials(cell).iter().filter(counts)
    }

    /// Returns the accuracies that count for a cell by subset; plain seeds each have their own.
    pub fn values_by_subset(
        &self,
        cell: usize,
        candidate: Option<usize>,
        measure: Measure,
    ) -> Vec<Vec<Share>> {
        let mut by_subset: BTreeMap<u64, Vec<Share>> = BTreeMap::new();
        for row in self.result_trials(cell, candidate) {
            if let Some(accuracy) = row.accuracy(measure) {
                let subset = seed::of_subset(row.trial.seed);
                by_subset.entry(subset).or_default().push(accuracy);
            }
        }
        by_subset.into_values().collect()
    }

    fn seeds_of(&self, cell: usize, candidate: Option<usize>, measure: Measure) -> CellSummary {
        let by_subset = self.values_by_subset(cell, candidate, measure);
        let done = by_subset.iter().map(Vec::len).sum();
        // Results of one subset are alike: its mean is one independent result.
        let means = by_subset.iter().filter_map(|values| Share::mean(values));
        let values: Vec<Share> = means.collect();
        // A ranking may have given the cell more seeds than the sweep begins with.
        let listed = self.result_trials(cell, candidate).count();
        let total = listed.max(self.sweep.seeds.len());
        let status = if done == total {
            CellStatus::Complete
        } else if done == 0 {
            progress_status(self.result_trials(cell, candidate))
        } else {
            CellStatus::Partial
        };
        CellSummary {
            status,
            summary: Summary::of(&values),
            done,
            total,
            candidate,
            choice: None,
        }
    }

    /// Follows the paper's protocol: the candidate with the highest mean on the test set.
    /// Candidates with a failed training count only if every candidate has one.
    fn best_candidate(&self, search: &Search, cell: usize, measure: Measure) -> CellSummary {
        let trials = self.cell_trials(cell);
        let choice = schedule::choose(search, &self.scores(search, cell, measure));
        let best = match &choice {
            Some(choice) => self.seeds_of(cell, Some(choice.candidate as usize), measure),
            None => {
                let candidates = (0..search.candidates.len())
                    .map(|number| self.seeds_of(cell, Some(number), measure));
                let mean = |cell: &CellSummary| cell.summary.map(|summary| summary.mean);
                let best = candidates.reduce(|best, other| {
                    if mean(&other) > mean(&best) {
                        other
                    } else {
                        best
                    }
                });
                best.unwrap_or_else(|| self.seeds_of(cell, None, measure))
            }
        };
        if choice.is_some() && trials.iter().all(|row| row.status.has_ended()) {
            return CellSummary { choice, ..best };
        }
        let done = trials
            .iter()
            .filter(|row| matches!(row.status, TrialStatus::Succeeded(_)))
            .count();
        let status = if done > 0 {
            CellStatus::Partial
        } else {
            progress_status(trials.iter())
        };
        CellSummary {
            status,
            done,
            total: search.candidates.len() * self.sweep.seeds.len(),
            ..best
        }
    }

    fn search_status(&self, cell: usize) -> CellStatus {
        let trials = self.cell_trials(cell);
        let succeeded = trials
            .iter()
            .any(|row| matches!(row.status, TrialStatus::Succeeded(_)));
        match progress_status(trials.iter()) {
            CellStatus::Running => CellStatus::Searching,
            CellStatus::Waiting if succeeded => CellStatus::Searching,
            _ if succeeded => CellStatus::Waiting,
            status => status,
        }
    }
}

impl TrialRow<'_> {
    pub fn cell(&self) -> usize {
        self.trial.cell as usize
    }

    pub fn candidate(&self) -> Option<usize> {
        self.trial.candidate.map(|candidate| candidate as usize)
    }

    /// Returns the share of right answers on the evaluation set; `None` without a result.
    pub fn accuracy(&self, measure: Measure) -> Option<Share> {
        Some(accuracy(self.result()?, measure))
    }

    pub fn result(&self) -> Option<&ResultSummary> {
        match self.status {
            TrialStatus::Succeeded(result) => Some(result),
            _ => None,
        }
    }

    /// Returns the seconds of its attempts, from dispatch to end by the coordinator's clock, that
    /// were not spent on getting ready, training, evaluation or checkpoints: dispatch, the start of
    /// a trainer, and the time lost with failed attempts.
    pub fn idle_s(&self) -> Option<f64> {
        let timing = &self.result()?.timing;
        let length = |attempt: &Attempt| {
            Some(
                attempt
                    .ended
                    .as_ref()?
                    .at
                    .saturating_sub(attempt.started_at),
            )
        };
        let total_ms = self.attempts.iter().try_fold(0u64, |sum, attempt| {
            Some(sum.saturating_add(length(attempt)?))
        })?;
        let busy = timing.start_s + timing.train_s + timing.evaluate_s + timing.checkpoint_s;
        Some((total_ms as f64 / 1000.0 - busy).max(0.0))
    }
}

fn accuracy(result: &ResultSummary, measure: Measure) -> Share {
    let accuracy = match measure {
        Measure::Last => result.last_accuracy,
        Measure::Best => result.best_accuracy,
    };
    Share::new(accuracy, result.provenance.num_eval_images)
}

/// Only a damaged journal records a failure without its reason; the report still shows that the
/// trial failed.
static UNKNOWN_FAILURE: Failure = Failure::new(FailureClass::Crashed, String::new());

fn trial_row<'a>(state: &'a State, trial: &'a SweepTrial) -> TrialRow<'a> {
    let Some(known) = state.trials.get(&trial.id) else {
        return TrialRow {
            trial,
            status: TrialStatus::Waiting,
            attempts: &[],
        };
    };
    let status = match &known.phase {
        Phase::Waiting { .. } => TrialStatus::Waiting,
        Phase::Running { .. } => TrialStatus::Running,
        Phase::Succeeded { result, .. } => TrialStatus::Succeeded(result),
        Phase::Failed { .. } => TrialStatus::Failed(known.failure().unwrap_or(&UNKNOWN_FAILURE)),
        Phase::Cancelled => TrialStatus::Cancelled,
    };
    TrialRow {
        trial,
        status,
        attempts: &known.attempts,
    }
}

/// Returns the common status of trials that all lack a result.
fn progress_status<'a, 'b: 'a>(trials: impl Iterator<Item = &'a TrialRow<'b>>) -> CellStatus {
    let (mut running, mut waiting, mut failed, mut any) = (false, false, false, false);
    for row in trials {
        any = true;
        match row.status {
            TrialStatus::Running => running = true,
            TrialStatus::Waiting => waiting = true,
            TrialStatus::Failed(_) => failed = true,
            TrialStatus::Succeeded(_) | TrialStatus::Cancelled => {}
        }
    }
    match (running, waiting, failed) {
        (true, _, _) => CellStatus::Running,
        (_, true, _) => CellStatus::Waiting,
        (_, _, true) => CellStatus::Failed,
        _ if any => CellStatus::Cancelled,
        _ => CellStatus::Waiting,
    }
}
