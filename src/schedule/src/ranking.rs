//! More seeds for cells whose place among others is undecided (`seeds: {until: decided}`).
//!
//! The cells of a ranking are compared when all of their trials have ended: a look. Those that are
//! not shown to be lower than the best get more seeds, and so does the best, until all are decided
//! or the budget is spent. The numbers of seeds at which there is a look follow from the sweep's file,
//! and each look has an equal share of the rate of errors (Bonferroni over the looks), so that looking
//! repeatedly does not raise it. docs/statistics.md has the rates. `follow_up.rs` journals each look,
//! also one after which nothing is undecided.

use std::collections::{BTreeMap, BTreeSet};

use sweep::definition::{Measure, Role, SeedBudget};
use sweep::{Share, Sweep};

use crate::comparison::{Comparison, Comparisons, Summary};
use crate::event::Event;
use crate::state::{Phase, ResultSummary, State, SweepState, SweepTrial};

/// The rankings of a sweep; none without a budget of seeds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rankings {
    pub list: Vec<Ranking>,
    /// Index into `list` by cell; absent: the cell is in none.
    of_cell: Vec<Option<u32>>,
}

/// Cells that are ranked together.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// Indices into `Sweep::cells`.
    pub cells: Vec<u32>,
    /// Number of its cells' trials that have not ended, those of a search included.
    pub open: u32,
    /// The looks so far, oldest first.
    pub looks: Vec<Look>,
}

/// The outcome of one comparison of a ranking's cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Number of seeds of the cells that were still undecided.
    pub seeds: u32,
    /// Cells that are not shown to be lower than the best, and the best itself; empty: all are.
    pub undecided: Vec<u32>,
}

impl Rankings {
    pub fn of(sweep: &Sweep) -> Self {
        let Some(_) = &sweep.seed_budget else {
            return Self::default();
        };
        let ranking = |cells| Ranking {
            cells,
            open: 0,
            looks: Vec::new(),
        };
        let list: Vec<Ranking> = sweep.rankings().into_iter().map(ranking).collect();
        let mut of_cell = vec![None; sweep.cells.len()];
        for (index, ranking) in (0..).zip(&list) {
            for &cell in &ranking.cells {
                of_cell[cell as usize] = Some(index);
            }
        }
        Self { list, of_cell }
    }

    /// Returns the ranking that a cell is in.
    pub fn with_cell(&self, cell: u32) -> Option<&Ranking> {
        let index = (*self.of_cell.get(cell as usize)?)?;
        self.list.get(index as usize)
    }

    pub(crate) fn with_cell_mut(&mut self, cell: u32) -> Option<&mut Ranking> {
        let index = (*self.of_cell.get(cell as usize)?)?;
        self.list.get_mut(index as usize)
    }

    /// Forgets every trial, and the looks at rankings that one of these cells is in.
    pub(crate) fn start_again(&mut self, cells: impl IntoIterator<Item = u32>) {
        for ranking in &mut self.list {
            ranking.open = 0;
        }
        for cell in cells {
            if let Some(ranking) = self.with_cell_mut(cell) {
                ranking.looks.clear();
            }
        }
    }

    /// Has the last look at each ranking that one of these cells is in made again.
    pub(crate) fn look_again(&mut self, cells: &BTreeSet<u32>) {
        for ranking in &mut self.list {
            if ranking.cells.iter().any(|cell| cells.contains(cell)) {
                ranking.looks.pop();
            }
        }
    }

    /// Returns the rankings whose results are to be looked at now.
    pub(crate) fn due<'a>(&'a self, sweep: &'a Sweep) -> impl Iterator<Item = &'a Ranking> {
        let budget = sweep.seed_budget.as_ref();
        let is_due = move |ranking: &&Ranking| {
            ranking.open == 0 && budget.is_some_and(|budget| !ranking.is_over(budget))
        };
        self.list.iter().filter(is_due)
    }
}

impl Ranking {
    /// Returns true if no look is left, or none is needed.
    pub fn is_over(&self, budget: &SeedBudget) -> bool {
        let last = self.looks.last();
        self.looks.len() >= budget.looks.len() || last.is_some_and(|look| look.undecided.is_empty())
    }
}

/// Describes the cells that get more seeds now; `None`: there are none.
pub fn progress(entry: &SweepState) -> Option<String> {
    let budget = entry.sweep.seed_budget.as_ref()?;
    let (mut undecided, mut ranked, mut seeds) = (0, 0, 0);
    let open = entry.rankings.list.iter();
    for ranking in open.filter(|ranking| !ranking.is_over(budget)) {
        let Some(last) = ranking.looks.last() else {
            continue;
        };
        undecided += last.undecided.len();
        ranked += ranking.cells.len();
        seeds = seeds.max(budget.looks[ranking.looks.len()]);
    }
    (undecided > 0).then(|| {
        format!(
            "{undecided} of {} not distinguishable from the best, and trained with up to {seeds} seeds",
            sweep::counted(ranked as u64, "cell")
        )
    })
}

/// Describes a look in words. `cells`: the number of those that are undecided, and of all.
pub fn describe(seeds: u32, (undecided, all): (usize, usize), trials: usize) -> String {
    let cells = sweep::counted(all as u64, "cell");
    match (undecided, trials) {
        (0, _) => format!("{cells} ranked after {seeds} seeds: decided"),
        (_, 0) => format!("{cells} ranked after {seeds} seeds, the most: {undecided} undecided"),
        (_, more) => format!(
            "{cells} ranked after {seeds} seeds: {undecided} undecided, which get {} more",
            sweep::counted(more as u64, "trial")
        ),
    }
}

/// Returns the event of a look at a ranking that is due.
pub(crate) fn look(state: &State, entry: &SweepState, ranking: &Ranking) -> Option<Event> {
    let sweep = &entry.sweep;
    let budget = sweep.seed_budget.as_ref()?;
    let number = ranking.looks.len();
    let results = results(state, entry, ranking);
    let (complete, family) = complete(&results);
    let mut comparisons = Comparisons::of_looks(budget.looks.len());
    let open = undecided(&family, &mut comparisons);
    let undecided: Vec<u32> = open.into_iter().map(|place| complete[place]).collect();
    let mut trials = Vec::new();
    if let Some(&next) = budget.looks.get(number + 1) {
        for cell in &undecided {
            let known = results.get(cell).map_or(0, |results| results.len() as u32);
            let candidate = entry.chosen.get(cell).copied();
            trials.extend(crate::checked_sweep::further_trials(
                sweep,
                *cell,
                candidate,
                known..next,
            ));
        }
    }
    Some(Event::RankingLookedAt {
        sweep: sweep.name.clone(),
        cells: ranking.cells.clone(),
        seeds: budget.looks[number],
        undecided,
        trials,
    })
}

/// Returns the accuracies of the result trials of each cell; `None` for one without a result.
fn results(
    state: &State,
    entry: &SweepState,
    ranking: &Ranking,
) -> BTreeMap<u32, Vec<Option<Share>>> {
    let measure = match entry.sweep.outputs.first() {
        Some(output) => output.value(),
        None => Measure::Last,
    };
    let mut results: BTreeMap<u32, Vec<Option<Share>>> = BTreeMap::new();
    for &cell in &ranking.cells {
        results.insert(cell, Vec::new());
    }
    let is_result = |trial: &&SweepTrial| trial.role == Role::Result;
    for trial in entry.trials.iter().filter(is_result) {
        if let Some(results) = results.get_mut(&trial.cell) {
            results.push(match &state.trials[&trial.id].phase {
                Phase::Succeeded { result, .. } => Some(accuracy(result, measure)),
                Phase::Waiting { .. }
                | Phase::Running { .. }
                | Phase::Failed { .. }
                | Phase::Cancelled => None,
            });
        }
    }
    results
}

fn accuracy(result: &ResultSummary, measure: Measure) -> Share {
    let accuracy = match measure {
        Measure::Last => result.last_accuracy,
        Measure::Best => result.best_accuracy,
    };
    Share::new(accuracy, result.provenance.num_eval_images)
}

/// Summarises the cells that have a result for each of their seeds: others are not compared and get
/// no more.
fn complete(results: &BTreeMap<u32, Vec<Option<Share>>>) -> (Vec<u32>, Vec<Summary>) {
    let summary = |(&cell, results): (&u32, &Vec<Option<Share>>)| {
        let shares: Vec<Share> = results.iter().copied().collect::<Option<_>>()?;
        Some((cell, Summary::of(&shares)?))
    };
    results.iter().filter_map(summary).unzip()
}

/// Returns the cells of a family that are not shown to be lower than the best, with the best, by
/// their places; none if all are.
fn undecided(family: &[Summary], comparisons: &mut Comparisons) -> Vec<usize> {
    let Some(compared) = comparisons.with_best(family) else {
        return Vec::new();
    };
    if compared.iter().flatten().all(Comparison::is_shown) {
        return Vec::new();
    }
    let is_open = |comparison: &Option<Comparison>| comparison.is_none_or(|one| !one.is_shown());
    let places = compared.iter().enumerate();
    let open = places.filter(|(_, comparison)| is_open(comparison));
    open.map(|(place, _)| place).collect()
}

#[cfg(test)]
#[path = "ranking_tests.rs"]
mod tests;
