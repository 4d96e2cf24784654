//! Which cells of a table are compared with which, and what the comparison shows.
//!
//! A cell can be best only among complete cells that solve the same problem (data set, sample
//! count, pre-training), column by column unless the problem changes from row to row. It is
//! compared with the best of them, or with the cell that differs from it only in the values that
//! the table's `baseline` names.

use std::collections::BTreeMap;

use schedule::comparison::{Comparison, Comparisons, Summary};
use sweep::definition::{Cell, Table};

use crate::results::{CellStatus, CellSummary, Results};

/// The place of a cell among those that it is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Standing {
    /// True for the highest mean of its problem.
    pub best: bool,
    /// Absent for the cell that the others are compared with, and where nothing can be compared.
    pub comparison: Option<Comparison>,
    pub sign: Option<Sign>,
}

/// The result of a comparison, as the table shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// The seeds show no difference.
    Same,
    /// Shown to be higher than the baseline.
    Higher,
    /// Shown to be lower than the baseline. A cell that is shown to be lower than the best has no
    /// sign: it is the rule, not the exception.
    Lower,
}

impl Sign {
    pub fn symbol(self) -> char {
        match self {
            Self::Same => '≈',
            Self::Higher => '↑',
            Self::Lower => '↓',
        }
    }
}

/// The standings of all cells, and what each family could have shown.
pub struct Standings {
    /// Indexed by cell.
    pub cells: Vec<Standing>,
    pub families: Vec<Family>,
}

/// Cells that were compared together.
pub struct Family {
    /// The column, unless families reach over columns.
    pub column: Option<usize>,
    /// Smallest difference that its seeds show, as a fraction: the median of the margins.
    pub smallest_shown: f64,
}

/// Compares the cells of a table. `positions` holds the cells by row, then column; `summaries` is
/// indexed by cell.
pub fn standings(
    results: &Results,
    table: &Table,
    positions: &[Vec<Option<usize>>],
    summaries: &[CellSummary],
) -> Standings {
    let mut standings = Standings {
        cells: vec![Standing::default(); summaries.len()],
        families: Vec::new(),
    };
    let mut comparisons = Comparisons::of_looks(results.sweep.num_looks());
    let complete = |cell: usize| {
        let summary = &summaries[cell];
        (summary.status == CellStatus::Complete).then_some(summary.summary)?
    };
    for (column, family) in same_problem(results, positions, &|cell| complete(cell).is_some()) {
        let members: Vec<Summary> = family.iter().filter_map(|&cell| complete(cell)).collect();
        let highest = members.iter().map(|summary| summary.mean).max();
        for (&cell, summary) in family.iter().zip(&members) {
            standings.cells[cell].best = Some(summary.mean) == highest;
        }
        if table.baseline.is_empty()
            && let Some(compared) = comparisons.with_best(&members)
        {
            let compared = family.iter().copied().zip(compared);
            let others = compared.filter_map(|(cell, compared)| Some((cell, compared?)));
            standings.record(column, others, |cell, shown| {
                (!cell.best && !shown).then_some(Sign::Same)
            });
        }
    }
    for (baseline, others) in by_baseline(results, table) {
        let others: Vec<usize> = others
            .into_iter()
            .filter(|&cell| complete(cell).is_some())
            .collect();
        let members: Vec<Summary> = others.iter().filter_map(|&cell| complete(cell)).collect();
        let compared =
            complete(baseline).and_then(|baseline| comparisons.with_baseline(&baseline, &members));
        if let Some(compared) = compared {
            let within_columns = table
                .columns
                .iter()
                .all(|axis| !table.baseline.contains_key(axis));
            let column = column_of(positions, baseline).filter(|_| within_columns);
            standings.record(column, others.into_iter().zip(compared), |cell, shown| {
                let higher = cell.comparison.is_some_and(|one| one.difference > 0.0);
                Some(match (shown, higher) {
                    (false, _) => Sign::Same,
                    (true, true) => Sign::Higher,
                    (true, false) => Sign::Lower,
                })
            });
        }
    }
    standings
}

impl Standings {
    fn record(
        &mut self,
        column: Option<usize>,
        compared: impl Iterator<Item = (usize, Comparison)>,
        sign: impl Fn(&Standing, bool) -> Option<Sign>,
    ) {
        let mut margins = Vec::new();
        for (index, comparison) in compared {
            let cell = &mut self.cells[index];
            cell.comparison = Some(comparison);
            cell.sign = sign(cell, comparison.is_shown());
            margins.push(comparison.margin);
        }
        margins.sort_by(f64::total_cmp);
        if let Some(&smallest_shown) = margins.get(margins.len() / 2) {
            self.families.push(Family {
                column,
                smallest_shown,
            });
        }
    }
}

/// Returns the families of cells that can be best, of at least two members each, with their column
/// unless the problem changes from row to row.
fn same_problem(
    results: &Results,
    positions: &[Vec<Option<usize>>],
    is_complete: &dyn Fn(usize) -> bool,
) -> Vec<(Option<usize>, Vec<usize>)> {
    let cells = &results.sweep.cells;
    let problems: Vec<String> = cells.iter().map(|cell| problem(results, cell)).collect();
    let num_columns = positions.first().map_or(0, Vec::len);
    let changes_down = (0..num_columns).any(|column| {
        let mut down = positions
            .iter()
            .filter_map(|row| row[column])
            .map(|cell| &problems[cell]);
        let first = down.next();
        down.any(|problem| Some(problem) != first)
    });
    let mut families: BTreeMap<(Option<usize>, &str), Vec<usize>> = BTreeMap::new();
    for row in positions {
        for (column, cell) in row.iter().enumerate() {
            if let Some(cell) = cell.filter(|&cell| is_complete(cell)) {
                let column = (!changes_down).then_some(column);
                families
                    .entry((column, &problems[cell]))
                    .or_default()
                    .push(cell);
            }
        }
    }
    families
        .into_iter()
        .filter(|(_, family)| family.len() > 1)
        .map(|((column, _), family)| (column, family))
        .collect()
}

/// Returns every cell that is a baseline, with the cells that are compared with it.
fn by_baseline(results: &Results, table: &Table) -> BTreeMap<usize, Vec<usize>> {
    let sweep = results.sweep;
    let mut families: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    if table.baseline.is_empty() {
        return families;
    }
    let places: BTreeMap<&[u32], usize> = (sweep.cells.iter().enumerate())
        .map(|(index, cell)| (cell.coordinates.as_slice(), index))
        .collect();
    for (index, cell) in sweep.cells.iter().enumerate() {
        let mut at = cell.coordinates.clone();
        for (axis, coordinate) in sweep.axes.iter().zip(&mut at) {
            let named = table
                .baseline
                .get(&axis.name)
                .and_then(|name| axis.values.iter().position(|value| value.name == *name));
            if let Some(named) = named {
                *coordinate = named as u32;
            }
        }
        if let Some(&baseline) = places.get(at.as_slice()).filter(|&&at| at != index) {
            families.entry(baseline).or_default().push(index);
        }
    }
    families
}

fn column_of(positions: &[Vec<Option<usize>>], cell: usize) -> Option<usize> {
    positions
        .iter()
        .find_map(|row| row.iter().position(|&at| at == Some(cell)))
}

/// Returns a key that two cells must share to be comparable: the same training images and the same
/// kind of start.
pub fn problem(results: &Results, cell: &Cell) -> String {
    sweep::seed_budget::problem(results.base(), cell)
}
