//! Sweeps derived from a sweep: the rehearsal on stand-in images, and the sweep without the cells
//! whose data is missing.

use crate::definition::{Cell, Sweep};
use crate::settings::Settings;

/// Suffix of the name of every rehearsal, and of no other sweep.
pub(crate) const SMOKE_SUFFIX: &str = "-smoke";

impl Sweep {
    /// Returns the same cells as a rehearsal: a name of its own, trials with other ids, one seed
    /// each, no published numbers and no claims. See `TrialSpec::smoke` for the differences in training.
    #[must_use]
    pub fn into_smoke(mut self) -> Self {
        if self.smoke {
            return self;
        }
        self.smoke = true;
        self.name.push_str(SMOKE_SUFFIX);
        self.seeds.truncate(1);
        self.seed_budget = None;
        if let Some(search) = &mut self.search {
            search.seeds.truncate(1);
        }
        self.inputs.clear();
        self.published.clear();
        self.footnotes.clear();
        self.claims.clear();
        self
    }

    /// Marks every cell that `reason` returns a reason for (its data or weights are missing) as
    /// left out of the run. Returns the number of these cells.
    pub fn skip_cells(&mut self, reason: impl Fn(&Settings) -> Option<String>) -> usize {
        let reasons: Vec<_> = self
            .cells
            .iter()
            .map(|cell| reason(&self.cell_settings(cell)))
            .collect();
        let mark = |(cell, reason): (&mut Cell, Option<String>)| {
            let skipped = reason.is_some();
            cell.skipped = reason.or(cell.skipped.take());
            skipped
        };
        self.cells
            .iter_mut()
            .zip(reasons)
            .map(mark)
            .filter(|&skipped| skipped)
            .count()
    }
}
