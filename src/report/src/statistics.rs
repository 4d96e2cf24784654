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
}
