//! The parts of the variance between a cell's results.

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
