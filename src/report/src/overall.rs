//! One number for each row of a table, over its columns: the mean rank, or the interquartile mean,
//! with an interval by a stratified bootstrap.
//!
//! Agarwal, Schwarzer, Castro, Courville and Bellemare, "Deep reinforcement learning at the edge of
//! the statistical precipice", NeurIPS 2021. Each cell's results are drawn again with replacement
//! within the cell; the draws are counted, so that the same results give the same interval.

use sweep::definition::Overall;

/// Number of bootstrap samples.
pub const SAMPLES: usize = 2_000;

/// The summary of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OfRow {
    pub value: f64,
    /// The 95 % interval, from low to high.
    pub interval: (f64, f64),
}

/// Summarises each row. `cells` holds the results of every cell by row, then column, each with at
/// least one result. Returns nothing without rows or columns.
pub fn summarise(
    cells: &[Vec<Vec<f64>>],
    overall: Overall,
    higher_is_better: bool,
) -> Option<Vec<OfRow>> {
    let columns = cells.first()?.len();
    if columns == 0 {
        return None;
    }
    let summary = |cells: &[Vec<Vec<f64>>]| match overall {
        Overall::Rank => mean_ranks(cells, higher_is_better),
        Overall::Iqm => cells.iter().map(|row| interquartile_mean(row)).collect(),
    };
    let found = summary(cells);
    let mut draws = Draws(0);
    let mut samples: Vec<Vec<f64>> = vec![Vec::with_capacity(SAMPLES); cells.len()];
    for _ in 0..SAMPLES {
        let drawn: Vec<Vec<Vec<f64>>> = cells
            .iter()
            .map(|row| row.iter().map(|cell| draws.again(cell)).collect())
            .collect();
        for (of_row, value) in samples.iter_mut().zip(summary(&drawn)) {
            of_row.push(value);
        }
    }
    let of_row = |(value, mut samples): (f64, Vec<f64>)| {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| samples[(share * (SAMPLES - 1) as f64).round() as usize];
        OfRow {
            value,
            interval: (at(0.025), at(0.975)),
        }
    };
    Some(found.into_iter().zip(samples).map(of_row).collect())
}

/// Returns the rank of each row's mean in a column, averaged over the columns. 1 is the best; rows
/// with equal means share the mean of their ranks.
fn mean_ranks(cells: &[Vec<Vec<f64>>], higher_is_better: bool) -> Vec<f64> {
    let columns = cells[0].len();
    let mut ranks = vec![0.0; cells.len()];
    for column in 0..columns {
        let mean = |row: &Vec<Vec<f64>>| {
            let cell = &row[column];
            let mean = cell.iter().sum::<f64>() / cell.len() as f64;
            if higher_is_better { mean } else { -mean }
        };
        let means: Vec<f64> = cells.iter().map(mean).collect();
        for (rank, own) in ranks.iter_mut().zip(&means) {
            let better = means.iter().filter(|other| *other > own).count();
            let equal = means.iter().filter(|other| *other == own).count();
            *rank += better as f64 + (equal + 1) as f64 / 2.0;
        }
    }
    ranks.iter().map(|sum| sum / columns as f64).collect()
}

/// Returns the mean of the middle half of a row's results. A result at the edge of the half counts
/// with the share of it that is inside.
fn interquartile_mean(row: &[Vec<f64>]) -> f64 {
    let mut values: Vec<f64> = row.iter().flatten().copied().collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len() as f64 / 4.0, values.len() as f64 * 3.0 / 4.0);
    let inside = |index: usize| {
        let (start, end) = (index as f64, (index + 1) as f64);
        (end.min(high) - start.max(low)).max(0.0)
    };
    let weighted = values.iter().enumerate();
    let sum: f64 = weighted.map(|(index, value)| inside(index) * value).sum();
    sum / (high - low)
}

/// Counted random numbers (splitmix64).
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Draws as many values again, with replacement.
    fn again(&mut self, values: &[f64]) -> Vec<f64> {
        let one = |_: &f64| {
            let scaled = u128::from(self.next()) * values.len() as u128;
            values[(scaled >> 64) as usize]
        };
        values.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<Vec<Vec<f64>>> {
        vec![
            vec![vec![0.90, 0.91, 0.92], vec![0.50, 0.51, 0.55]],
            vec![vec![0.80, 0.81, 0.82], vec![0.50, 0.52, 0.54]],
            vec![vec![0.70, 0.71, 0.72], vec![0.40, 0.41, 0.42]],
        ]
    }

    #[test]
    fn ranks_are_averaged_over_columns_and_shared_by_equals() {
        let values = |cells: &[Vec<Vec<f64>>], direction| {
            let found = summarise(cells, Overall::Rank, direction).expect("there are cells");
            found.iter().map(|row| row.value).collect::<Vec<_>>()
        };
        // the two middle means of the second column are equal
        let mut cells = table();
        cells[0][1] = vec![0.52];
        cells[1][1] = vec![0.52];
        assert_eq!(values(&cells, true), [1.25, 1.75, 3.0]);
        assert_eq!(values(&cells, false), [2.75, 2.25, 1.0]);
    }

    #[test]
    fn the_interquartile_mean_takes_the_middle_half() {
        assert_eq!(interquartile_mean(&[vec![9.0, 1.0], vec![2.0, 4.0]]), 3.0);
        // scipy.stats.trim_mean needs whole numbers; by hand: (0.75 * 2 + 3 + 0.75 * 4) / 2.5
        let five = [vec![1.0, 2.0, 3.0], vec![4.0, 50.0]];
        assert!((interquartile_mean(&five) - 3.0).abs() < 1e-12);
    }

    #[test]
    fn intervals_are_the_same_every_time_and_cover_the_value() {
        for overall in [Overall::Rank, Overall::Iqm] {
            let found = summarise(&table(), overall, true).expect("there are cells");
            assert_eq!(Some(found.clone()), summarise(&table(), overall, true));
            for row in &found {
                let (low, high) = row.interval;
                assert!(low <= row.value && row.value <= high, "{row:?}");
            }
        }
        let ranks = summarise(&table(), Overall::Rank, true).expect("there are cells");
        // the third row is last in every draw, the first two change places in one column
        assert_eq!(ranks[2].interval, (3.0, 3.0));
        assert!(ranks[0].interval.1 > ranks[0].interval.0);
        assert_eq!(summarise(&[], Overall::Rank, true), None);
    }

    /// Values of scipy, written by scripts/scipy_goldens.py. Its interval comes from 50,000 samples, ours
    /// from 2,000, whose ends vary: by a step of the ranks, or by 0.002.
    #[test]
    fn ranks_middle_halves_and_their_intervals_are_scipys() {
        let text = include_str!("../../../tests/fixtures/scipy.json");
        let document: serde_json::Value = serde_json::from_str(text).expect("the file is JSON");
        let case = &document["overall"];
        let read = |value: &serde_json::Value| -> f64 { value.as_f64().expect("a number") };
        let table: Vec<Vec<Vec<f64>>> =
            serde_json::from_value(case["table"].clone()).expect("a table of cells");
        for (overall, name, tolerance) in [
            (Overall::Rank, "rank", 1.0 / 3.0 + 1e-9),
            (Overall::Iqm, "iqm", 0.002),
        ] {
            let found = summarise(&table, overall, true).expect("there are cells");
            assert_eq!(found.len(), 4);
            for (row, found) in found.iter().enumerate() {
                let expected = read(&case[name][row]);
                assert!((found.value - expected).abs() < 1e-12, "{name} {row}");
                let ends = &case[format!("{name}_interval")][row];
                for (found, expected) in [
                    (found.interval.0, read(&ends[0])),
                    (found.interval.1, read(&ends[1])),
                ] {
                    assert!(
                        (found - expected).abs() <= tolerance,
                        "{name} {row}: {found} is not {expected}"
                    );
                }
            }
        }
    }

    /// A cell's results are drawn from that cell alone.
    #[test]
    fn draws_stay_within_their_cell() {
        let mut draws = Draws(0);
        let values = [1.0, 2.0, 3.0, 4.0];
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..50 {
            let drawn = draws.again(&values);
            assert_eq!(drawn.len(), 4);
            seen.extend(drawn.iter().map(|value| *value as u32));
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4]);
    }
}
