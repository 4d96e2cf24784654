//! Sweeps made from sweeps: the rehearsal on stand-in images, and the one without the cells that lack their data.

use crate::definition::{Cell, Sweep};
use crate::settings::Settings;

/// Ends the name of every rehearsal, and of no other sweep.
pub const SMOKE_SUFFIX: &str = "-smoke";

impl Sweep {
    /// The same cells as a rehearsal: under a name of its own, with trials of other ids, one seed each and no published
    /// numbers beside them. `TrialSpec::smoke` says what the trainer does differently.
    #[must_use]
    pub fn into_smoke(mut self) -> Self {
        if self.smoke {
            return self;
        }
        self.smoke = true;
        self.name.push_str(SMOKE_SUFFIX);
        self.seeds.truncate(1);
        if let Some(search) = &mut self.search {
            search.seeds.truncate(1);
        }
        self.inputs.clear();
        self.published.clear();
        self.footnotes.clear();
        self
    }

    /// Marks every cell for which `reason` has one (its data or weights are missing) as left out of the run. Returns how
    /// many cells that are.
    pub fn skip_cells(&mut self, reason: impl Fn(&Settings) -> Option<String>) -> usize {
        let reasons: Vec<_> = self.cells.iter().map(|cell| reason(&self.cell_settings(cell))).collect();
        let mark = |(cell, reason): (&mut Cell, Option<String>)| {
            let skipped = reason.is_some();
            cell.skipped = reason.or(cell.skipped.take());
            skipped
        };
        self.cells.iter_mut().zip(reasons).map(mark).filter(|&skipped| skipped).count()
    }
}
