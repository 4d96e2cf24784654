//! Mean, sample standard deviation, and the test behind "not distinguishable from the best at this
//! n".
//!
//! The test is Welch's t-test, two-sided, at 5 %, with Holm's correction for the number of cells
//! compared with the best: a cell counts as worse only if its seeds show it. A cell with one seed
//! shows nothing.

use sweep::Share;

/// The accuracy of one cell over its seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub n: usize,
    pub mean: Share,
    /// Sample standard deviation (n - 1) as a fraction; absent for fewer than two values.
    pub deviation: Option<f64>,
}

/// Significance level of all comparisons with the best together.
pub const SIGNIFICANCE: f64 = 0.05;

impl Summary {
    /// Summarises values; `None` if there are none.
    pub fn of(values: &[Share]) -> Option<Self> {
        Some(Self {
            n: values.len(),
            mean: Share::mean(values)?,
            deviation: Share::deviation(values),
        })
    }
}

/// Returns the two-sided p-value of Welch's t-test of equal means; `None` if either side has fewer
/// than two values.
///
/// Welch, "The generalization of Student's problem when several different population variances are
/// involved", Biometrika 34 (1947); degrees of freedom after Satterthwaite.
pub fn welch_p(a: &Summary, b: &Summary) -> Option<f64> {
    let (variance_a, variance_b) = (
        a.deviation?.powi(2) / a.n as f64,
        b.deviation?.powi(2) / b.n as f64,
    );
    let variance = variance_a + variance_b;
    let difference = (a.mean.fraction() - b.mean.fraction()).abs();
    if variance == 0.0 {
        // Without any spread, equal means are equal and all others differ.
        return Some(if difference == 0.0 { 1.0 } else { 0.0 });
    }
    let squares = variance_a.powi(2) / (a.n - 1) as f64 + variance_b.powi(2) / (b.n - 1) as f64;
    let freedom = variance.powi(2) / squares;
    let t_squared = difference.powi(2) / variance;
    Some(incomplete_beta(
        freedom / 2.0,
        0.5,
        freedom / (freedom + t_squared),
    ))
}

/// Marks those of `others` that the data do not distinguish from `best` (Holm's step-down procedure
/// over all of them).
pub fn indistinguishable(best: &Summary, others: &[Summary]) -> Vec<bool> {
    let mut tested: Vec<(usize, f64)> = others
        .iter()
        .enumerate()
        .filter_map(|(index, other)| welch_p(best, other).map(|p| (index, p)))
        .collect();
    tested.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    let mut tied = vec![true; others.len()];
    for (rank, (index, p)) in tested.iter().enumerate() {
        if p * (others.len() - rank) as f64 >= SIGNIFICANCE {
            break;
        }
        tied[*index] = false;
    }
    tied
}

/// Regularised incomplete beta function I_x(a, b), by its continued fraction (Numerical Recipes
/// 6.4, Lentz's method).
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front =
        (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(a, b, x) / a
    } else {
        1.0 - front * beta_fraction(b, a, 1.0 - x) / b
    }
}

fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let keep_off_zero = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / keep_off_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for m in 1..500 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / keep_off_zero(1.0 + even * d);
        c = keep_off_zero(1.0 + even / c);
        fraction *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / keep_off_zero(1.0 + odd * d);
        c = keep_off_zero(1.0 + odd / c);
        fraction *= d * c;
        if (d * c - 1.0).abs() < 1e-14 {
            break;
        }
    }
    fraction
}

/// Lanczos' approximation (g = 7, nine terms), good to about 15 digits for positive arguments.
fn ln_gamma(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        let pi = std::f64::consts::PI;
        return (pi / (pi * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let mut sum = 0.999_999_999_999_809_9;
    for (index, coefficient) in COEFFICIENTS.iter().enumerate() {
        sum += coefficient / (x + index as f64 + 1.0);
    }
    let t = x + 7.5;
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + sum.ln()
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

    /// Student's t has closed forms for one and two degrees of freedom:
    /// p = 1 - 2 atan(t) / pi and p = 1 - t / sqrt(2 + t^2).
    #[test]
    fn tail_of_students_t() {
        let p =
            |t: f64, freedom: f64| incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + t * t));
        for t in [0.1, 0.7, 1.0, 3.0, 12.706] {
            close(
                p(t, 1.0),
                1.0 - 2.0 * t.atan() / std::f64::consts::PI,
                1e-12,
            );
            close(p(t, 2.0), 1.0 - t / (2.0 + t * t).sqrt(), 1e-12);
        }
        close(p(2.776_445, 4.0), 0.05, 1e-6);
        close(p(2.228_139, 10.0), 0.05, 1e-6);
    }

    /// For equal n and equal spread Welch's test is Student's with 2n - 2 degrees of freedom.
    #[test]
    fn welch_of_equal_groups_is_student() {
        let a = Summary {
            n: 3,
            mean: share(0.1),
            deviation: Some(0.1),
        };
        // t = difference / sqrt(2 / 3); the two-sided 5 % point at 4 degrees of freedom is
        // 2.776445.
        let b = Summary {
            n: 3,
            mean: share(0.1 + 0.277_644_5 * (2.0_f64 / 3.0).sqrt()),
            deviation: Some(0.1),
        };
        close(welch_p(&a, &b).unwrap(), 0.05, 1e-6);
    }

    #[test]
    fn one_seed_or_no_spread() {
        let one = Summary {
            n: 1,
            mean: share(0.5),
            deviation: None,
        };
        let three = Summary {
            n: 3,
            mean: share(0.9),
            deviation: Some(0.001),
        };
        let same = Summary {
            n: 3,
            mean: share(0.9),
            deviation: Some(0.0),
        };
        assert_eq!(welch_p(&one, &three), None);
        assert_eq!(indistinguishable(&three, &[one]), [true]);
        assert_eq!(welch_p(&same, &same), Some(1.0));
        assert_eq!(
            welch_p(
                &same,
                &Summary {
                    mean: share(0.8),
                    ..same
                }
            ),
            Some(0.0)
        );
    }

    /// Each of two cells is just significant alone; corrected for two comparisons, neither is.
    #[test]
    fn many_comparisons_are_corrected() {
        let best = Summary {
            n: 3,
            mean: share(0.9),
            deviation: Some(0.01),
        };
        let near = Summary {
            mean: share(0.9 - 0.0235),
            ..best
        };
        assert!(welch_p(&best, &near).unwrap() < SIGNIFICANCE);
        assert_eq!(indistinguishable(&best, &[near]), [false]);
        assert_eq!(indistinguishable(&best, &[near, near]), [true, true]);
        let far = Summary {
            mean: share(0.5),
            ..best
        };
        assert_eq!(indistinguishable(&best, &[far, near]), [false, false]);
    }
}
