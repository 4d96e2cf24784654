//! A sweep that may be submitted, with the trials that it lists.
//!
//! The check of a large sweep and the ids of its trials take seconds. Both are done once, in
//! `CheckedSweep::new`, before the sweep reaches the task that owns the state.

use std::ops::Range;
use std::sync::Arc;

use sweep::definition::PlannedTrial;
use sweep::{BadSweep, Sweep};

use crate::state::SweepTrial;

/// A sweep that has passed `Sweep::check` and that the journal can give back unchanged.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedSweep {
    sweep: Arc<Sweep>,
    trials: Arc<Vec<SweepTrial>>,
}

impl CheckedSweep {
    /// Checks a sweep that came over the network and need not come from our compiler.
    pub fn new(sweep: Sweep) -> Result<Self, BadSweep> {
        sweep.check()?;
        check_journalled_form(&sweep)?;
        let trials = (0..sweep.cells.len() as u32)
            .flat_map(|cell| sweep_trials(&sweep, cell, None))
            .collect();
        Ok(Self {
            sweep: Arc::new(sweep),
            trials: Arc::new(trials),
        })
    }

    pub fn sweep(&self) -> &Arc<Sweep> {
        &self.sweep
    }

    /// Returns the trials that are known at submission, in the order of the cells. A search adds
    /// more once it has chosen.
    pub fn trials(&self) -> &Arc<Vec<SweepTrial>> {
        &self.trials
    }
}

/// Checks that the sweep is the same after it was written as JSON and read.
fn check_journalled_form(sweep: &Sweep) -> Result<(), BadSweep> {
    let bad = |reason: String| BadSweep {
        place: "the sweep".to_owned(),
        reason,
    };
    let json = serde_json::to_vec(sweep)
        .map_err(|error| bad(format!("cannot be written as JSON: {error}")))?;
    match serde_json::from_slice::<Sweep>(&json) {
        Ok(read) if read == *sweep => Ok(()),
        Ok(_) => Err(bad(
            "changes when it is written as JSON and read, so it cannot be journalled".to_owned(),
        )),
        Err(error) => Err(bad(format!(
            "cannot be read after it was written as JSON, so it cannot be journalled: {error}"
        ))),
    }
}

/// Returns the trials of one cell as they are journalled.
pub(crate) fn sweep_trials(sweep: &Sweep, cell: u32, chosen: Option<u32>) -> Vec<SweepTrial> {
    let planned = sweep.cell_trials(cell as usize, chosen.map(|chosen| chosen as usize));
    planned.iter().map(journalled).collect()
}

/// Returns the result trials of a cell with these seeds of its budget.
pub(crate) fn further_trials(
    sweep: &Sweep,
    cell: u32,
    chosen: Option<u32>,
    seeds: Range<u32>,
) -> Vec<SweepTrial> {
    let candidate = chosen.map(|chosen| chosen as usize);
    let planned = sweep.further_trials(cell as usize, candidate, seeds);
    planned.iter().map(journalled).collect()
}

fn journalled(planned: &PlannedTrial) -> SweepTrial {
    SweepTrial {
        id: planned.id,
        cell: planned.cell as u32,
        candidate: planned.candidate.map(|candidate| candidate as u32),
        role: planned.role,
        seed: planned.spec.seed,
        cost: finite(sweep::cost(&planned.spec)),
    }
}

/// Returns a cost that the queue can sort by.
fn finite(cost: f64) -> f64 {
    if cost.is_finite() { cost.max(0.0) } else { 0.0 }
}
