//! Comparisons of the cells of a family, with all of them together wrong in at most 5 % of tables.
//!
//! Cells are compared with the best of them (Tukey and Kramer: the best is chosen by the data, so
//! every pair must hold) or with a baseline named in the sweep (Dunnett). Both take the spread from
//! the whole family, which is what makes three seeds worth comparing: ten cells of three seeds
//! estimate one spread with 20 degrees of freedom. If the two cells of a pair spread more than the
//! family, the pair's own spread counts, so a collapsed cell does not make the others look precise.
//!
//! Seeds are not paired. Results of one seed are alike because they share a subset, which makes the
//! differences less variable than assumed here: the rate of errors falls, it does not rise.
//! docs/statistics.md has the measured rates.

use std::collections::BTreeMap;

use sweep::Share;
use sweep::definition::Spread as Shown;

/// Rate at which a family has any wrong difference, if there is none.
pub const SIGNIFICANCE: f64 = 0.05;

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
    pub fn spread(&self, shown: Shown) -> Option<f64> {
        let deviation = self.deviation?;
        let error = deviation / (self.n as f64).sqrt();
        Some(match shown {
            Shown::Std => deviation,
            Shown::Se => error,
            Shown::Ci95 => student(SIGNIFICANCE, self.n - 1) * error,
        })
    }
}

/// The difference of one cell from the cell it is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Mean of the cell minus the mean of the other, as a fraction.
    pub difference: f64,
    /// Half of the width of the interval around it; the intervals of a family hold together.
    pub margin: f64,
}

impl Comparison {
    /// Returns true if the interval leaves out zero.
    pub fn is_shown(&self) -> bool {
        self.difference.abs() > self.margin
    }
}

/// The two methods, with the factors that they have computed: tables repeat few of them.
pub struct Comparisons {
    /// Number of times that the results are looked at, each with an equal share of the rate.
    looks: usize,
    /// Tukey's factors; keys: number of cells, degrees of freedom.
    of_ranges: BTreeMap<(usize, usize), f64>,
    /// Dunnett's factors; keys: numbers of results (the baseline's first), degrees of freedom.
    of_controls: BTreeMap<(Vec<usize>, usize), f64>,
    /// Student's factors; keys: number of comparisons that hold together, degrees of freedom.
    of_pairs: BTreeMap<(usize, usize), f64>,
}

impl Comparisons {
    /// Comparisons of results that are looked at this number of times, this one included.
    pub fn of_looks(looks: usize) -> Self {
        Self {
            looks,
            of_ranges: BTreeMap::new(),
            of_controls: BTreeMap::new(),
            of_pairs: BTreeMap::new(),
        }
    }

    fn rate(&self) -> f64 {
        SIGNIFICANCE / self.looks as f64
    }

    /// Compares every cell of a family with the one of the highest mean (the first of equals),
    /// which is compared with none, after Tukey and Kramer. Returns nothing if no cell has two
    /// results, or if there is only one cell.
    ///
    /// Kramer, "Extension of multiple range tests to group means with unequal numbers of
    /// replications", Biometrics 12 (1956).
    pub fn with_best(&mut self, family: &[Summary]) -> Option<Vec<Option<Comparison>>> {
        let spread = Spread::of(family).filter(|_| family.len() > 1)?;
        let (count, freedom, rate) = (family.len(), spread.freedom, self.rate());
        let factor = *self.of_ranges.entry((count, freedom)).or_insert_with(|| {
            quantile(rate, |q| probability_of_range(q, count, freedom)) / 2.0_f64.sqrt()
        });
        Some(spread.compare_with_best(family, factor))
    }

    /// Compares every one of `others` with the baseline, after Dunnett (two-sided). Returns nothing
    /// if no cell has two results, or if there are no others.
    ///
    /// Dunnett, "A multiple comparison procedure for comparing several treatments with a control",
    /// Journal of the American Statistical Association 50 (1955).
    pub fn with_baseline(
        &mut self,
        baseline: &Summary,
        others: &[Summary],
    ) -> Option<Vec<Comparison>> {
        let family: Vec<Summary> = std::iter::once(baseline).chain(others).copied().collect();
        let spread = Spread::of(&family).filter(|_| !others.is_empty())?;
        let counts: Vec<usize> = family.iter().map(|cell| cell.n).collect();
        let share = |&n: &usize| n as f64 / (n + baseline.n) as f64;
        let shares: Vec<f64> = counts[1..].iter().map(share).collect();
        let rate = self.rate();
        let factor = *self
            .of_controls
            .entry((counts, spread.freedom))
            .or_insert_with(|| {
                quantile(rate, |d| probability_of_control(d, &shares, spread.freedom))
            });
        let compare = |cell| spread.compare(cell, baseline, factor);
        Some(others.iter().map(compare).collect())
    }

    /// Returns the margin of the difference of a cell's mean from another's, or from a fixed number,
    /// as one of `count` comparisons that hold together (Bonferroni, with Student's t). Returns
    /// nothing if no cell of the family has two results.
    ///
    /// Dunn, "Multiple comparisons among means", Journal of the American Statistical Association 56
    /// (1961).
    pub fn margin(
        &mut self,
        family: &[Summary],
        cell: &Summary,
        other: Option<&Summary>,
        count: usize,
    ) -> Option<f64> {
        let spread = Spread::of(family)?;
        let (key, rate) = ((count, spread.freedom), self.rate() / count as f64);
        let factor = *self
            .of_pairs
            .entry(key)
            .or_insert_with(|| student(rate, spread.freedom));
        Some(spread.margin(cell, other, factor))
    }
}

/// Returns the two-sided point of Student's t that is exceeded at this rate.
fn student(rate: f64, freedom: usize) -> f64 {
    quantile(rate, |t| probability_of_control(t, &[0.0], freedom))
}

/// The spread of a family: the variance within its cells and its degrees of freedom.
struct Spread {
    variance: f64,
    freedom: usize,
}

impl Spread {
    fn of(family: &[Summary]) -> Option<Self> {
        let freedom: usize = family.iter().map(|cell| cell.n.saturating_sub(1)).sum();
        let squares: f64 = family.iter().map(squares).sum();
        (freedom > 0).then(|| Self {
            variance: squares / freedom as f64,
            freedom,
        })
    }

    /// Compares all cells but the best with the best.
    fn compare_with_best(&self, family: &[Summary], factor: f64) -> Vec<Option<Comparison>> {
        let higher = |best: usize, index: usize| match family[index].mean > family[best].mean {
            true => index,
            false => best,
        };
        let best = (0..family.len()).fold(0, higher);
        let compare =
            |index| (index != best).then(|| self.compare(&family[index], &family[best], factor));
        (0..family.len()).map(compare).collect()
    }

    fn compare(&self, cell: &Summary, other: &Summary, factor: f64) -> Comparison {
        Comparison {
            difference: cell.mean.fraction() - other.mean.fraction(),
            margin: self.margin(cell, Some(other), factor),
        }
    }

    /// Returns the margin of the difference of a cell's mean from another's, or from a fixed number.
    fn margin(&self, cell: &Summary, other: Option<&Summary>, factor: f64) -> f64 {
        let cells = || std::iter::once(cell).chain(other);
        let freedom: usize = cells().map(|cell| cell.n - 1).sum();
        let own = match freedom {
            0 => 0.0,
            freedom => cells().map(squares).sum::<f64>() / freedom as f64,
        };
        let per_mean: f64 = cells().map(|cell| 1.0 / cell.n as f64).sum();
        factor * (self.variance.max(own) * per_mean).sqrt()
    }
}

/// Returns the sum of squared deviations of a cell's results from their mean.
fn squares(cell: &Summary) -> f64 {
    cell.deviation
        .map_or(0.0, |deviation| deviation.powi(2) * (cell.n - 1) as f64)
}

/// Returns the probability that the range of `count` standard normal numbers, divided by an
/// independent estimate of their deviation with `freedom` degrees of freedom, stays below `q`:
/// the distribution of the studentized range.
fn probability_of_range(q: f64, count: usize, freedom: usize) -> f64 {
    let others = i32::try_from(count - 1).unwrap_or(i32::MAX);
    let nodes = normal_nodes().map(|(z, weight)| (z, count as f64 * weight, normal_below(z)));
    let nodes: Vec<(f64, f64, f64)> = nodes.collect();
    over_scales(freedom, |scale| {
        nodes
            .iter()
            .map(|(z, weight, below)| weight * (below - normal_below(z - q * scale)).powi(others))
            .sum()
    })
}

/// Returns the probability that all of Dunnett's statistics stay within `d`. `shares` has one
/// number for each comparison: n / (n + n of the control).
///
/// Given the control's own deviation z, the statistics are independent: each is
/// sqrt(share) z + sqrt(1 - share) x with a standard normal x of its own.
fn probability_of_control(d: f64, shares: &[f64], freedom: usize) -> f64 {
    let mut repeated: BTreeMap<u64, i32> = BTreeMap::new();
    for share in shares {
        *repeated.entry(share.to_bits()).or_default() += 1;
    }
    let within = |z: f64, limit: f64| -> f64 {
        repeated
            .iter()
            .map(|(&bits, &count)| {
                let share = f64::from_bits(bits);
                let (common, own) = (share.sqrt() * z, (1.0 - share).sqrt());
                let one =
                    normal_below((common + limit) / own) - normal_below((common - limit) / own);
                one.powi(count)
            })
            .product()
    };
    over_scales(freedom, |scale| {
        normal_nodes()
            .map(|(z, weight)| weight * within(z, d * scale))
            .sum()
    })
}

/// Returns the number that is exceeded at this rate, by its distribution function (regula falsi in
/// Illinois' form, on an interval found by doubling).
fn quantile(rate: f64, probability: impl Fn(f64) -> f64) -> f64 {
    let missing = |x: f64| probability(x) - (1.0 - rate);
    let (mut low, mut high) = (0.0, 2.0);
    let (mut at_low, mut at_high) = (missing(low), missing(high));
    while at_high < 0.0 {
        (low, at_low) = (high, at_high);
        high *= 2.0;
        at_high = missing(high);
    }
    while high - low > 1e-10 * high {
        let x = (low * at_high - high * at_low) / (at_high - at_low);
        let at = missing(x);
        if at.abs() < 1e-12 {
            return x;
        }
        if at < 0.0 {
            (low, at_low) = (x, at);
            at_high /= 2.0;
        } else {
            (high, at_high) = (x, at);
            at_low /= 2.0;
        }
    }
    high
}

/// Integrates over the distribution of an estimated deviation whose true value is 1:
/// sqrt(chi squared / freedom). The logarithm of the deviation is the variable, in which the
/// density falls off fast on both sides; the trapezoidal rule then converges faster than any power.
fn over_scales(freedom: usize, value: impl Fn(f64) -> f64) -> f64 {
    let half = freedom as f64 / 2.0;
    let constant = std::f64::consts::LN_2 + half * half.ln() - libm::lgamma(half);
    let step = 0.3 / (4.0 * half).sqrt();
    let term = |index: i32| {
        let log = f64::from(index) * step;
        let density = (constant + 2.0 * half * log - half * (2.0 * log).exp()).exp();
        (density, log.exp())
    };
    let mut sum = 0.0;
    for direction in [1, -1] {
        let mut index = if direction > 0 { 0 } else { -1 };
        loop {
            let (density, scale) = term(index);
            if density < 1e-14 {
                break;
            }
            sum += density * value(scale);
            index += direction;
        }
    }
    sum * step
}

/// Returns the nodes and weights of an integral over the standard normal distribution (trapezoidal
/// rule).
fn normal_nodes() -> impl Iterator<Item = (f64, f64)> {
    const STEP: f64 = 0.2;
    (-40..=40).map(|index| {
        let z = f64::from(index) * STEP;
        let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        (z, STEP * density)
    })
}

fn normal_below(z: f64) -> f64 {
    0.5 * libm::erfc(-z * std::f64::consts::FRAC_1_SQRT_2)
}

#[cfg(test)]
#[path = "comparison_tests.rs"]
mod tests;
