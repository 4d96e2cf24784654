//! Mean and spread of a cell's results.

use sweep::Share;
use sweep::definition::Spread;

use crate::comparison::student_factor;

/// The accuracy of one cell over its seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub n: usize,
    pub mean: Share,
    /// Sample standard deviation (n - 1) as a fraction; absent for fewer than two values.
    pub deviation: Option<f64>,
}

impl Summary {
    /// Summarises values; `None` if there are none.
    pub fn of(values: &[Share]) -> Option<Self> {
        Some(Self {
            n: values.len(),
            mean: Share::mean(values)?,
            deviation: Share::deviation(values),
        })
    }

    /// Returns the number after the ± as a fraction; absent for fewer than two values.
    pub fn spread(&self, spread: Spread) -> Option<f64> {
        let deviation = self.deviation?;
        let error = deviation / (self.n as f64).sqrt();
        Some(match spread {
            Spread::Std => deviation,
            Spread::Se => error,
            Spread::Ci95 => student_factor(self.n) * error,
        })
    }
}

/// The variance between results, by its source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VarianceParts {
    pub subset: f64,
    pub init: f64,
}

/// Splits the variance within cells by a nested analysis of variance: cells of subsets of results,
/// with equally many results in each subset. A negative estimate of the subset's part is 0. Returns
/// nothing if no cell has two subsets of two results.
///
/// Searle, Casella and McCulloch, "Variance components" (1992), section 3.5.
pub fn variance_parts(cells: &[Vec<Vec<f64>>]) -> Option<VarianceParts> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let squares = |values: &[f64]| {
        let mean = mean(values);
        values
            .iter()
            .map(|value| (value - mean).powi(2))
            .sum::<f64>()
    };
    let (mut between, mut within) = (0.0, 0.0);
    let (mut freedom_between, mut freedom_within) = (0, 0);
    let inits = cells.first()?.first()?.len();
    for cell in cells {
        let means: Vec<f64> = cell.iter().map(|subset| mean(subset)).collect();
        between += inits as f64 * squares(&means);
        freedom_between += cell.len() - 1;
        for subset in cell {
            within += squares(subset);
            freedom_within += subset.len() - 1;
        }
    }
    if freedom_between == 0 || freedom_within == 0 {
        return None;
    }
    let (between, within) = (
        between / freedom_between as f64,
        within / freedom_within as f64,
    );
    Some(VarianceParts {
        subset: ((between - within) / inits as f64).max(0.0),
        init: within,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64, tolerance: f64) {
        assert!((a - b).abs() < tolerance, "{a} is not {b}");
    }

    fn share(fraction: f64) -> Share {
        Share::new(fraction, 0)
    }

    #[test]
    fn mean_and_sample_deviation() {
        let values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0].map(|tenths| share(tenths / 10.0));
        let summary = Summary::of(&values).unwrap();
        close(summary.mean.fraction(), 0.5, 1e-12);
        close(summary.deviation.unwrap(), 0.213_808_993_529_939_5, 1e-12);
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&values[..1]).unwrap().deviation, None);
    }

    #[test]
    fn spreads_of_five_results() {
        let five = Summary {
            n: 5,
            mean: share(0.5),
            deviation: Some(0.05),
        };
        close(five.spread(Spread::Std).unwrap(), 0.05, 1e-12);
        close(five.spread(Spread::Se).unwrap(), 0.022_360_679_775, 1e-12);
        // 2.776445: the two-sided 5 % point of Student's t at 4 degrees of freedom
        close(
            five.spread(Spread::Ci95).unwrap(),
            2.776_445_105_198 * 0.022_360_679_775,
            1e-9,
        );
        let one = Summary {
            n: 1,
            deviation: None,
            ..five
        };
        assert_eq!(one.spread(Spread::Se), None);
    }

    /// Values of scipy, written by scripts/scipy_goldens.py.
    fn scipy(name: &str) -> Vec<serde_json::Value> {
        let text = include_str!("../../../tests/fixtures/scipy.json");
        let document: serde_json::Value = serde_json::from_str(text).expect("the file is JSON");
        let values = document[name].as_array().expect("a list");
        assert!(!values.is_empty(), "{name}");
        values.clone()
    }

    fn number(value: &serde_json::Value) -> f64 {
        value.as_f64().expect("a number")
    }

    fn numbers(value: &serde_json::Value) -> Vec<f64> {
        let values = value.as_array().expect("a list");
        values.iter().map(number).collect()
    }

    #[test]
    fn means_errors_and_intervals_are_scipys() {
        for case in scipy("cells") {
            let values: Vec<Share> = numbers(&case["values"]).into_iter().map(share).collect();
            let summary = Summary::of(&values).unwrap();
            close(summary.mean.fraction(), number(&case["mean"]), 1e-12);
            for (spread, name) in [
                (Spread::Std, "std"),
                (Spread::Se, "se"),
                (Spread::Ci95, "ci95"),
            ] {
                close(summary.spread(spread).unwrap(), number(&case[name]), 1e-9);
            }
        }
    }

    /// scipy's analysis of variance has the ratio of the mean squares between and within subsets.
    #[test]
    fn the_parts_of_the_variance_follow_from_scipys_analysis() {
        for case in scipy("nested") {
            let subsets = case["subsets"].as_array().unwrap();
            let cell: Vec<Vec<f64>> = subsets.iter().map(numbers).collect();
            let (ratio, within) = (number(&case["f"]), number(&case["within"]));
            let parts = variance_parts(std::slice::from_ref(&cell)).unwrap();
            close(parts.init, within, 1e-12);
            let subset = (ratio - 1.0) * within / cell[0].len() as f64;
            close(parts.subset, subset, 1e-9 * subset);
        }
    }

    /// One cell of three subsets by two: mean squares 0.5 within, and 2 * 1 between, by hand.
    #[test]
    fn the_variance_of_nested_results_is_split() {
        let cell = |means: [f64; 3]| {
            let subset = |mean: f64| vec![mean - 0.5, mean + 0.5];
            means.map(subset).to_vec()
        };
        let parts = variance_parts(&[cell([1.0, 2.0, 3.0])]).unwrap();
        close(parts.init, 0.5, 1e-12);
        close(parts.subset, 0.75, 1e-12);
        // Another cell may have another mean.
        let parts = variance_parts(&[cell([1.0, 2.0, 3.0]), cell([11.0, 12.0, 13.0])]).unwrap();
        close(parts.subset, 0.75, 1e-12);
        let alike = variance_parts(&[cell([1.0, 1.0, 1.0])]).unwrap();
        assert_eq!(alike.subset, 0.0);
        assert_eq!(variance_parts(&[vec![vec![1.0], vec![2.0]]]), None);
        assert_eq!(variance_parts(&[vec![vec![1.0, 2.0]]]), None);
        assert_eq!(variance_parts(&[]), None);
    }
}
