//! The numbers that `status` shows of a sweep, updated with every change of a phase instead of
//! counted over all its trials: waiting and running trials, complete cells, predicted work done and
//! left.
//!
//! It follows from the trials alone (invariant S8).

use std::collections::BTreeSet;

use sweep::definition::Role;

use crate::state::{Phase, SweepTrial, TrialState};

/// The tally of one sweep, all in whole numbers, so that what was added can be subtracted exactly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Waiting trials, as indices into `SweepState::trials`.
    pub waiting: BTreeSet<u32>,
    pub running: BTreeSet<u32>,
    pub failed: BTreeSet<u32>,
    /// Cells that have result trials and a result for each.
    pub complete_cells: u64,
    /// Predicted work of the trials with a result, of those that wait and of those that run, in
    /// `WORK_UNITS`.
    pub done_work: u128,
    pub waiting_work: u128,
    pub running_work: u128,
    /// Total duration of the attempts that gave results.
    pub done_ms: u64,
    /// Sum over the trials with a result of the square of that duration divided by the predicted
    /// work, which gives the spread of their pace.
    pub done_squares: u128,
    /// Result trials of each cell, and how many of them have a result.
    cells: Vec<(u32, u32)>,
}

/// Units of work in one unit of `SweepTrial::cost`.
const WORK_UNITS: f64 = 1e9;

/// Converts predicted work to a whole number; a cast from a float saturates.
fn work(cost: f64) -> u128 {
    (cost * WORK_UNITS) as u128
}

/// Converts work back to the units of `SweepTrial::cost`.
pub fn cost_of(work: u128) -> f64 {
    work as f64 / WORK_UNITS
}

impl Tally {
    pub(crate) fn of_cells(num_cells: usize) -> Self {
        Self {
            cells: vec![(0, 0); num_cells],
            ..Self::default()
        }
    }

    /// Adds a trial in its present phase.
    pub(crate) fn enter(&mut self, index: u32, wanted: &SweepTrial, trial: &TrialState) {
        match &trial.phase {
            Phase::Waiting { .. } => {
                self.waiting.insert(index);
                self.waiting_work += work(wanted.cost);
            }
            Phase::Running { .. } => {
                self.running.insert(index);
                self.running_work += work(wanted.cost);
            }
            Phase::Succeeded { .. } => {
                self.done_work += work(wanted.cost);
                self.done_ms = self.done_ms.saturating_add(duration_ms(trial));
                self.done_squares = self.done_squares.saturating_add(square(wanted, trial));
            }
            Phase::Failed { .. } => {
                self.failed.insert(index);
            }
            Phase::Cancelled => {}
        }
        self.change_cell(wanted, |(trials, succeeded)| {
            *trials += 1;
            *succeeded += u32::from(has_result(trial));
        });
    }

    /// Subtracts a trial in its present phase, before that changes.
    pub(crate) fn leave(&mut self, index: u32, wanted: &SweepTrial, trial: &TrialState) {
        match &trial.phase {
            Phase::Waiting { .. } => {
                self.waiting.remove(&index);
                self.waiting_work -= work(wanted.cost);
            }
            Phase::Running { .. } => {
                self.running.remove(&index);
                self.running_work -= work(wanted.cost);
            }
            Phase::Succeeded { .. } => {
                self.done_work -= work(wanted.cost);
                self.done_ms = self.done_ms.saturating_sub(duration_ms(trial));
                self.done_squares = self.done_squares.saturating_sub(square(wanted, trial));
            }
            Phase::Failed { .. } => {
                self.failed.remove(&index);
            }
            Phase::Cancelled => {}
        }
        self.change_cell(wanted, |(trials, succeeded)| {
            *trials -= 1;
            *succeeded -= u32::from(has_result(trial));
        });
    }

    fn change_cell(&mut self, wanted: &SweepTrial, change: impl FnOnce(&mut (u32, u32))) {
        if wanted.role != Role::Result {
            return;
        }
        let Some(cell) = self.cells.get_mut(wanted.cell as usize) else {
            return;
        };
        let is_complete = |(trials, succeeded): (u32, u32)| trials > 0 && trials == succeeded;
        let before = u64::from(is_complete(*cell));
        change(cell);
        self.complete_cells = self.complete_cells + u64::from(is_complete(*cell)) - before;
    }
}

fn has_result(trial: &TrialState) -> bool {
    matches!(trial.phase, Phase::Succeeded { .. })
}

/// Returns the square of a trial's duration divided by its predicted work; a cast from a float
/// saturates.
fn square(wanted: &SweepTrial, trial: &TrialState) -> u128 {
    let duration = duration_ms(trial) as f64;
    (duration * duration / wanted.cost.max(f64::MIN_POSITIVE)) as u128
}

/// Returns the duration of the attempt that gave the result.
fn duration_ms(trial: &TrialState) -> u64 {
    let Phase::Succeeded { attempt, .. } = trial.phase else {
        return 0;
    };
    let Some(attempt) = trial.attempt(attempt) else {
        return 0;
    };
    attempt
        .ended
        .as_ref()
        .map_or(0, |ended| ended.at.saturating_sub(attempt.started_at))
}
