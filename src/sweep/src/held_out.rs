//! How images are held out of a training subset, the number of images that a search is evaluated
//! on, and the number of seeds required for it.
//!
//! With ten images, one more right answer is ten points: choices on a handful of images are random.
//! If the sweep file leaves the number of seeds to the program, each cell takes enough of them for
//! `WANTED_IMAGES` answers per candidate.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::dataset;
use crate::declare::{FieldType, record};
use crate::definition::{Cell, Search, Select, Sweep};
use crate::field::{self, Kind, above, count};
use crate::settings::{SamplesPerClass, Settings};

/// The part of the training images that is evaluated on in place of the test set.
///
/// Displayed as in "chosen on 20 % of the training images held out".
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Holdout {
    /// This fraction of every class.
    Fraction(f64),
    AtLeast(AtLeast),
    Folds(Folds),
}

impl FieldType for Holdout {
    const KIND: Kind = Kind::RealOr(FRACTION, &[AtLeast::PARTS, Folds::PARTS]);
}

const FRACTION: field::Range = field::Range {
    low: 0.0,
    high: 1.0,
    low_excluded: true,
    high_excluded: true,
};

record! {
    /// A fraction of every class, but no fewer images than this.
    #[derive(Copy)]
    pub struct AtLeast {
        fraction: f64, above(0.0).below(1.0);
        at_least_per_class: u32, count(1..=1_000_000);
    }
}

record! {
    /// One of equal parts, by the trial's seed: cross-validation.
    #[derive(Copy)]
    pub struct Folds {
        folds: u32, count(2..=100);
    }
}

impl Holdout {
    /// Returns the number of trainings in which every image is held out once.
    pub const fn folds(&self) -> u32 {
        match self {
            Self::Fraction(_) | Self::AtLeast(_) => 1,
            Self::Folds(split) => split.folds,
        }
    }

    /// Returns the fewest images of a class that can be split.
    pub const fn fewest(&self) -> u32 {
        match self {
            Self::Fraction(_) => 2,
            Self::AtLeast(split) => split.at_least_per_class.saturating_add(1),
            Self::Folds(split) => split.folds,
        }
    }

    /// Returns the places of the held-out images among the shuffled images of a class: rounded to
    /// the nearest number, but at least one is held out and one stays. None for a class of one.
    /// `fold` counts on beyond the number of folds.
    pub fn places(&self, num_images: u32, fold: u64) -> Range<usize> {
        let at_the_end = |held_out: u32| (num_images - held_out) as usize..num_images as usize;
        match self {
            Self::Fraction(fraction) => at_the_end(of_class(num_images, *fraction)),
            Self::AtLeast(split) => {
                let least = split.at_least_per_class.min(num_images.saturating_sub(1));
                at_the_end(of_class(num_images, split.fraction).max(least))
            }
            Self::Folds(split) => {
                let folds = u64::from(split.folds);
                let fold = fold % folds;
                let border = |fold: u64| (fold * u64::from(num_images) / folds) as usize;
                border(fold)..border(fold + 1)
            }
        }
    }

    /// Returns the number of a class's images that are evaluated on with one subset: over all folds,
    /// every one of them.
    pub fn evaluated(&self, num_images: u32) -> u32 {
        match self {
            Self::Fraction(_) | Self::AtLeast(_) => self.places(num_images, 0).len() as u32,
            Self::Folds(_) => num_images,
        }
    }

    /// Returns the share of the images that one training holds out, for classes of that many.
    pub fn share(&self, images_per_class: f64) -> f64 {
        match self {
            Self::Fraction(fraction) => *fraction,
            Self::AtLeast(split) => {
                let least = f64::from(split.at_least_per_class) / images_per_class.max(1.0);
                split.fraction.max(least).min(1.0)
            }
            Self::Folds(split) => 1.0 / f64::from(split.folds),
        }
    }
}

impl fmt::Display for Holdout {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fraction(fraction) => {
                write!(
                    formatter,
                    "{} % of the training images held out",
                    100.0 * fraction
                )
            }
            Self::AtLeast(split) => write!(
                formatter,
                "{} % of the training images held out (at least {} of each class)",
                100.0 * split.fraction,
                split.at_least_per_class
            ),
            Self::Folds(split) => write!(
                formatter,
                "{} equal parts of the training images, each held out in turn",
                split.folds
            ),
        }
    }
}

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
        let trials = wanted.saturating_mul(self.holdout.folds() as usize);
        &self.seeds[..trials.min(self.seeds.len())]
    }

    /// Returns the number of times that every candidate of a cell is evaluated on a split, or on all
    /// folds of one.
    pub fn num_splits(&self, cell: &Cell) -> usize {
        self.seeds_for(cell)
            .len()
            .div_ceil(self.holdout.folds() as usize)
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
        Some(u64::from(cell.held_out?) * search.num_splits(cell) as u64)
    }

    /// Returns that number if it is below `WANTED_IMAGES`.
    pub fn few_search_images(&self, cell: &Cell) -> Option<u64> {
        self.search_images(cell)
            .filter(|images| *images < u64::from(WANTED_IMAGES))
    }

    /// Records the number of images that each cell's search holds out, from the data on disk:
    /// `held_out` gets a cell's settings and the split, and returns `None` if the number is unknown.
    pub fn count_held_out(&mut self, held_out: impl Fn(&Settings, &Holdout) -> Option<u32>) {
        let Some(search) = self
            .search
            .as_ref()
            .filter(|search| search.select == Select::Validation)
        else {
            return;
        };
        let of = |cell: &Cell| held_out(&self.cell_settings(cell), &search.holdout);
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
pub(crate) fn published(settings: &Settings, holdout: &Holdout) -> Option<u32> {
    let counts = dataset::find(&settings.dataset)?.counts;
    let per_class = f64::from(counts.num_train) / f64::from(counts.num_classes.max(1));
    Some(match (settings.samples_per_class, holdout) {
        (SamplesPerClass::Count(count), _) => {
            counts.num_classes.saturating_mul(holdout.evaluated(count))
        }
        (SamplesPerClass::All, Holdout::Folds(_)) => counts.num_train,
        (SamplesPerClass::All, _) => {
            (f64::from(counts.num_train) * holdout.share(per_class)).round() as u32
        }
    })
}

fn of_class(num_images: u32, fraction: f64) -> u32 {
    let rounded = (f64::from(num_images) * fraction).round() as u32;
    rounded.max(1).min(num_images.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_is_held_out_in_one_fold() {
        let split = Holdout::Folds(Folds { folds: 3 });
        for num_images in [3, 4, 5, 10, 100] {
            let folds: Vec<Range<usize>> =
                (0..3).map(|fold| split.places(num_images, fold)).collect();
            assert_eq!((folds[0].start, folds[2].end), (0, num_images as usize));
            assert!(folds.windows(2).all(|pair| pair[0].end == pair[1].start));
            let sizes = folds.iter().map(|fold| fold.len());
            assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
            assert_eq!(split.evaluated(num_images), num_images);
        }
        assert_eq!(split.places(9, 4), split.places(9, 1));
    }

    #[test]
    fn a_floor_holds_where_the_fraction_is_smaller_and_one_image_stays() {
        let split = Holdout::AtLeast(AtLeast {
            fraction: 0.2,
            at_least_per_class: 3,
        });
        let held_out = [2, 4, 10, 20, 30].map(|count| split.evaluated(count));
        assert_eq!(held_out, [1, 3, 3, 4, 6]);
        assert_eq!(split.places(10, 5), 7..10);
        assert_eq!(split.fewest(), 4);
        assert_eq!([split.share(10.0), split.share(100.0)], [0.3, 0.2]);
    }

    #[test]
    fn a_fraction_is_rounded_and_a_class_of_one_is_whole() {
        let held_out = [
            (1, 0.5),
            (2, 0.01),
            (2, 0.99),
            (10, 0.2),
            (10, 0.25),
            (10, 0.999),
        ]
        .map(|(count, fraction)| Holdout::Fraction(fraction).evaluated(count));
        assert_eq!(held_out, [0, 1, 1, 2, 3, 9]);
    }
}
