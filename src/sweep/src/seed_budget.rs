//! `seeds: {start: 3, until: decided, at_most: 20}`: every cell begins with a few seeds, and cells
//! whose place the results leave undecided get more.
//!
//! The numbers of seeds at which results are looked at follow from the file alone, so that the rate
//! of errors can be divided between the looks before there are results.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::definition::{Cell, Output, PlannedTrial, Role, Sweep};
use crate::trial::TrialId;

/// The seeds that a cell may get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedBudget {
    /// Number of seeds of a cell at each look, ascending. The first is the number of the sweep's
    /// `seeds`, which are 0 and up.
    pub looks: Vec<u32>,
}

impl SeedBudget {
    /// Looks at `start` seeds, at twice as many, and so on, the last at `at_most`.
    pub(crate) fn doubling(start: u32, at_most: u32) -> Self {
        let doubled = std::iter::successors(Some(start), |seeds| seeds.checked_mul(2));
        let below = doubled.take_while(|&seeds| seeds < at_most);
        Self {
            looks: below.chain([at_most]).collect(),
        }
    }

    pub fn at_most(&self) -> u32 {
        self.looks.last().copied().unwrap_or(0)
    }

    /// Returns true if the looks can be those of a sweep with this number of seeds.
    pub(crate) fn is_valid(&self, seeds: usize) -> bool {
        self.looks.len() > 1
            && self.looks[0] as usize == seeds
            && self.looks[0] > 1
            && self.at_most() <= MAX_SEEDS
            && self.looks.is_sorted_by(|one, next| one < next)
    }

    /// Returns the numbers in words: `3, 6, 12 and 20`.
    pub fn listed(&self) -> String {
        let numbers: Vec<String> = self.looks.iter().map(u32::to_string).collect();
        match numbers.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
            None => String::new(),
        }
    }
}

/// Maximum number of seeds of a cell.
pub(crate) const MAX_SEEDS: u32 = 1000;

impl Sweep {
    /// Returns the number of times that results are compared, between which the rate of errors is
    /// divided.
    pub fn num_looks(&self) -> usize {
        let budget = self.seed_budget.as_ref();
        budget.map_or(1, |budget| budget.looks.len())
    }

    /// Returns the number of distinct trials if every cell uses its budget; `None` without one.
    pub fn most_trials(&self) -> Option<usize> {
        let budget = self.seed_budget.as_ref()?;
        let mut ids: BTreeSet<TrialId> = BTreeSet::new();
        let start = self.seeds.len() as u32;
        for (index, cell) in self.cells.iter().enumerate() {
            let foreseen = self.foreseen_trials(index);
            if cell.skipped.is_none() {
                let candidate = self.search.as_ref().map(|_| 0);
                let further = self.further_trials(index, candidate, start..budget.at_most());
                ids.extend(further.iter().map(|trial| trial.id));
            }
            ids.extend(foreseen.iter().map(|trial| trial.id));
        }
        Some(ids.len())
    }

    /// Returns the result trials of a cell with these seeds of its budget.
    pub fn further_trials(
        &self,
        cell: usize,
        candidate: Option<usize>,
        seeds: Range<u32>,
    ) -> Vec<PlannedTrial> {
        let trial = |seed: u32| {
            let spec = self.trial_spec(cell, candidate, Role::Result, u64::from(seed));
            PlannedTrial {
                id: spec.id(),
                cell,
                candidate,
                role: Role::Result,
                spec,
            }
        };
        seeds.map(trial).collect()
    }

    /// Returns the cells that are ranked together, as indices into `Sweep::cells`: those of one
    /// column of the first table that have the same training images and kind of start. Where these
    /// differ within a column, or without a table, columns do not count. Cells without trials are in
    /// none.
    pub fn rankings(&self) -> Vec<Vec<u32>> {
        let columns: Vec<usize> = match self.outputs.first() {
            Some(Output::Table(table)) => {
                let at = |name: &String| self.axes.iter().position(|axis| axis.name == *name);
                table.columns.iter().filter_map(at).collect()
            }
            Some(Output::Figure(_)) | None => Vec::new(),
        };
        let base = Value::Object(self.base.fields().into_iter().collect());
        let column_of = |cell: &Cell| -> Vec<u32> {
            columns.iter().map(|&axis| cell.coordinates[axis]).collect()
        };
        let mut problems: BTreeMap<Vec<u32>, BTreeSet<String>> = BTreeMap::new();
        for cell in &self.cells {
            let problem = problem(&base, cell);
            problems.entry(column_of(cell)).or_default().insert(problem);
        }
        let by_column = problems.values().all(|problems| problems.len() == 1);
        let mut rankings: BTreeMap<(Vec<u32>, String), Vec<u32>> = BTreeMap::new();
        for (index, cell) in (0..).zip(&self.cells) {
            if cell.skipped.is_none() {
                let column = match by_column {
                    true => column_of(cell),
                    false => Vec::new(),
                };
                let key = (column, problem(&base, cell));
                rankings.entry(key).or_default().push(index);
            }
        }
        rankings.into_values().collect()
    }
}

/// Returns a key that two cells must share to be comparable: the same training images and the same
/// kind of start. `base` holds the fields of the sweep's base.
pub fn problem(base: &Value, cell: &Cell) -> String {
    let field = |name: &str| cell.set.get(name).unwrap_or(&base[name]);
    format!(
        "{} {} {}",
        field("dataset"),
        field("samples_per_class"),
        !field("weights").is_null()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_double_up_to_the_most() {
        let looks = |start, at_most| SeedBudget::doubling(start, at_most).looks;
        assert_eq!(looks(3, 20), [3, 6, 12, 20]);
        assert_eq!(looks(5, 20), [5, 10, 20]);
        assert_eq!(looks(3, 4), [3, 4]);
        assert_eq!(SeedBudget::doubling(3, 20).listed(), "3, 6, 12 and 20");
    }

    #[test]
    fn looks_that_no_file_leads_to_are_refused() {
        let valid = |looks: &[u32], seeds| {
            let looks = looks.to_vec();
            SeedBudget { looks }.is_valid(seeds)
        };
        assert!(valid(&[3, 6], 3));
        assert!(!valid(&[3, 6], 4), "another number of seeds");
        assert!(!valid(&[3], 3), "one look");
        assert!(!valid(&[1, 2], 1), "no spread at the first look");
        assert!(!valid(&[3, 3], 3), "not ascending");
        assert!(!valid(&[3, 1001], 3), "too many");
        assert!(!valid(&[], 0), "none");
    }
}
