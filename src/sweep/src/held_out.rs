//! Number of images that a search is evaluated on, and number of seeds required for it.
//!
//! With ten images, one more right answer is ten points: choices on a handful of images are random.
//! If the sweep file leaves the number of seeds to the program, each cell takes enough of them for
//! `WANTED_IMAGES` answers per candidate.

use crate::dataset;
use crate::definition::{Cell, Search, Select, Sweep};
use crate::settings::{SamplesPerClass, Settings};

/// Images that each candidate should classify, over all its seeds, before one is chosen.
pub const WANTED_IMAGES: u32 = 100;
/// Maximum number of seeds that the program chooses.
pub const MAX_SEEDS: u64 = 10;
/// Seeds of a cell whose data set has an unknown size.
const UNKNOWN_SEEDS: usize = 5;

impl Search {
    /// Returns the seeds of the search trials of one candidate of a cell.
    pub fn seeds_for(&self, cell: &Cell) -> &[u64] {
        if !self.automatic {
            return &self.seeds;
        }
        let wanted = match cell.held_out {
            Some(images) => WANTED_IMAGES.div_ceil(images.max(1)) as usize,
            None => UNKNOWN_SEEDS,
        };
        &self.seeds[..wanted.min(self.seeds.len())]
    }
}

impl Sweep {
    /// Returns the number of images that each candidate of a cell classifies before one is chosen.
    /// `None` without a held-out split, or if the size of the data set is unknown.
    pub fn search_images(&self, cell: &Cell) -> Option<u64> {
        let search = self
            .search
            .as_ref()
            .filter(|search| search.select == Select::Validation)?;
        Some(u64::from(cell.held_out?) * search.seeds_for(cell).len() as u64)
    }

    /// Returns that number if it is below `WANTED_IMAGES`.
    pub fn few_search_images(&self, cell: &Cell) -> Option<u64> {
        self.search_images(cell)
            .filter(|images| *images < u64::from(WANTED_IMAGES))
    }

    /// Records the number of images that each cell's search holds out, from the data on disk:
    /// `held_out` gets a cell's settings and the fraction, and returns `None` if the number is
    /// unknown.
    pub fn count_held_out(&mut self, held_out: impl Fn(&Settings, f64) -> Option<u32>) {
        let Some(search) = self
            .search
            .as_ref()
            .filter(|search| search.select == Select::Validation)
        else {
            return;
        };
        let of = |cell: &Cell| held_out(&self.cell_settings(cell), search.holdout);
        let found: Vec<Option<u32>> = self.cells.iter().map(of).collect();
        for (cell, found) in self.cells.iter_mut().zip(found) {
            cell.held_out = found.or(cell.held_out);
        }
    }
}

/// Returns the smallest difference, in points of accuracy, that is not noise: one standard error of
/// the difference between two shares of that many images, if half of the answers are right.
pub fn distinguishable(num_images: u64) -> f64 {
    100.0 * (0.5 / num_images.max(1) as f64).sqrt()
}

/// Returns the number of images held out of a data set of published size; `None` for others.
pub(crate) fn published(settings: &Settings, fraction: f64) -> Option<u32> {
    let counts = dataset::find(&settings.dataset)?.counts;
    Some(match settings.samples_per_class {
        SamplesPerClass::Count(count) => {
            counts.num_classes.saturating_mul(of_class(count, fraction))
        }
        SamplesPerClass::All => (f64::from(counts.num_train) * fraction).round() as u32,
    })
}

/// Returns the number of images held out of a class: rounded to the nearest, but at least one is
/// held out and one stays; 0 for a class of one image.
pub fn of_class(num_images: u32, fraction: f64) -> u32 {
    let rounded = (f64::from(num_images) * fraction).round() as u32;
    rounded.max(1).min(num_images.saturating_sub(1))
}
