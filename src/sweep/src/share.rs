//! Exact accuracies: right answers out of a number of images.
//!
//! The last bit of a sum of fractions depends on its order, and that bit used to decide which of
//! two equal cells was bold and whether 96.35 was printed as 96.3 or 96.4. Shares are added,
//! compared and rounded as whole numbers.

use std::cmp::Ordering;
use std::fmt;

/// A fraction in lowest terms, so that equal shares have equal fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    right: u64,
    of: u64,
}

/// Denominator of an accuracy whose number of images was not recorded: it is rounded to 12
/// decimals.
const UNKNOWN: u64 = 1_000_000_000_000;

impl Share {
    /// Returns the share behind a recorded accuracy. `num_images` is 0 if it was not recorded.
    pub fn new(accuracy: f64, num_images: u32) -> Self {
        let accuracy = if accuracy.is_finite() {
            accuracy.clamp(0.0, 1.0)
        } else {
            0.0
        };
        let right = (accuracy * f64::from(num_images)).round();
        let counted = num_images > 0 && (right / f64::from(num_images) - accuracy).abs() < 1e-9;
        if counted {
            Self::reduced(right as u64, u64::from(num_images))
        } else {
            Self::approximate(accuracy)
        }
    }

    /// Converts a number in per cent as a person wrote it, so that it is rounded like all others.
    pub fn of_percent(percent: f64) -> Self {
        Self::approximate(percent / 100.0)
    }

    fn approximate(fraction: f64) -> Self {
        Self::reduced((fraction * UNKNOWN as f64).round() as u64, UNKNOWN)
    }

    fn reduced(right: u64, of: u64) -> Self {
        let divisor = gcd(right, of).max(1);
        Self {
            right: right / divisor,
            of: of / divisor,
        }
    }

    /// Returns the mean, exact if all shares have the same number of images; `None` for no shares.
    pub fn mean(shares: &[Self]) -> Option<Self> {
        let (right, of) = common(shares)?;
        let of = u128::from(of) * shares.len() as u128;
        let right: u128 = right.iter().sum();
        let divisor = gcd_wide(right, of).max(1);
        let narrow = |number: u128| u64::try_from(number / divisor).ok();
        match (narrow(right), narrow(of)) {
            (Some(right), Some(of)) => Some(Self { right, of }),
            _ => Some(Self::approximate(right as f64 / of as f64)),
        }
    }

    /// Returns the sample standard deviation as a fraction, independent of the order; absent for
    /// fewer than two shares.
    pub fn deviation(shares: &[Self]) -> Option<f64> {
        let n = shares.len() as u128;
        let (right, of) = common(shares).filter(|_| n > 1)?;
        // right answers are at most 10^12 and seeds at most 10^4: this stays below 10^33
        let (sum, squares) = right.iter().fold((0u128, 0u128), |(sum, squares), right| {
            (sum + right, squares + right * right)
        });
        let spread = n * squares - sum * sum;
        Some((spread as f64 / (n * (n - 1)) as f64).sqrt() / of as f64)
    }

    pub fn fraction(&self) -> f64 {
        self.right as f64 / self.of as f64
    }

    /// Returns the number nearest to the share in per cent.
    pub fn percent(&self) -> f64 {
        (100 * u128::from(self.right)) as f64 / self.of as f64
    }
}

/// Returns the shares' right answers over a common number of images.
fn common(shares: &[Share]) -> Option<(Vec<u128>, u64)> {
    let largest = shares.iter().map(|share| share.of).max()?;
    let of = shares.iter().try_fold(1u64, |common, share| {
        let multiple = (common / gcd(common, share.of)).checked_mul(share.of)?;
        (multiple <= UNKNOWN).then_some(multiple)
    });
    match of {
        Some(of) => Some((
            shares
                .iter()
                .map(|share| u128::from(share.right) * u128::from(of / share.of))
                .collect(),
            of,
        )),
        // results of splits of unrelated sizes
        None => {
            let scale = UNKNOWN.max(largest);
            let scaled = |share: &Share| (share.fraction() * scale as f64).round() as u128;
            Some((shares.iter().map(scaled).collect(), scale))
        }
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn gcd_wide(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd_wide(b, a % b) }
}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Share {
    fn cmp(&self, other: &Self) -> Ordering {
        let across = |one: &Self, other: &Self| u128::from(one.right) * u128::from(other.of);
        across(self, other).cmp(&across(other, self))
    }
}

/// Formats per cent with one decimal, a half rounded up: `96.4`.
impl fmt::Display for Share {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (right, of) = (u128::from(self.right), u128::from(self.of));
        let tenths = (2000 * right + of) / (2 * of);
        // through `pad`, so that a width is respected
        formatter.pad(&format!("{}.{}", tenths / 10, tenths % 10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(right: &[u32], of: u32) -> Vec<Share> {
        right
            .iter()
            .map(|&right| Share::new(f64::from(right) / f64::from(of), of))
            .collect()
    }

    #[test]
    fn means_are_in_lowest_terms_and_shares_are_ordered_by_value() {
        let (third, half) = (Share { right: 1, of: 3 }, Share { right: 1, of: 2 });
        assert_eq!(Share::mean(&[half, half]), Some(half));
        assert_eq!(third.cmp(&half), Ordering::Less);
        assert_eq!(half.cmp(&third), Ordering::Greater);
        assert_eq!(half.cmp(&half), Ordering::Equal);
    }

    /// 1927 right answers of 2000, split among four seeds in five ways: one number, printed in one
    /// way.
    #[test]
    fn equal_counts_are_equal_however_they_are_spread() {
        let spreads: [[u32; 4]; 5] = [
            [480, 481, 482, 484],
            [484, 482, 481, 480],
            [477, 490, 460, 500],
            [481, 482, 482, 482],
            [500, 500, 500, 427],
        ];
        for spread in spreads {
            assert_eq!(spread.iter().sum::<u32>(), 1927);
            let mean = Share::mean(&shares(&spread, 500)).unwrap();
            assert_eq!(mean, Share::new(0.9635, 2000), "{spread:?}");
            assert_eq!(mean.to_string(), "96.4", "{spread:?}");
            assert_eq!(mean.percent(), 96.35, "{spread:?}");
        }
        assert!(
            Share::mean(&shares(&[480, 481, 482, 483], 500))
                < Share::mean(&shares(&spreads[0], 500))
        );
    }

    #[test]
    fn only_halves_round_up() {
        for (right, of, text) in [
            (1, 2000, "0.1"),
            (1, 2001, "0.0"),
            (9635, 10_000, "96.4"),
            (9645, 10_000, "96.5"),
        ] {
            assert_eq!(
                Share::new(f64::from(right) / f64::from(of), of).to_string(),
                text,
                "{right} of {of}"
            );
        }
        assert_eq!(
            [0.0, 1.0].map(|all| Share::new(all, 7).to_string()),
            ["0.0", "100.0"]
        );
        assert_eq!(
            [51.9, 67.65, 82.5, 100.0].map(|value| Share::of_percent(value).to_string()),
            ["51.9", "67.7", "82.5", "100.0"]
        );
    }

    /// Covers a journal from before the number of images was recorded, and a trainer that reports
    /// something else.
    #[test]
    fn without_a_number_of_images_twelve_decimals_decide() {
        assert_eq!(Share::new(0.9635, 0).to_string(), "96.4");
        assert_eq!(
            Share::mean(&[0.96, 0.962, 0.964, 0.968].map(|accuracy| Share::new(accuracy, 0)))
                .unwrap()
                .to_string(),
            "96.4"
        );
        assert_eq!(Share::new(0.123_456, 10).fraction(), 0.123_456);
        assert_eq!(Share::new(f64::NAN, 10).to_string(), "0.0");
    }

    #[test]
    fn splits_of_other_sizes_have_a_mean() {
        let mixed = [
            Share::new(1.0 / 3.0, 3),
            Share::new(0.5, 4),
            Share::new(1.0 / 999_983.0, 999_983),
            Share::new(0.25, 0),
        ];
        let mean = Share::mean(&mixed).unwrap().fraction();
        assert!(
            (mean - (1.0 / 3.0 + 0.5 + 1.0 / 999_983.0 + 0.25) / 4.0).abs() < 1e-11,
            "{mean}"
        );
        assert_eq!(Share::mean(&[]), None);
    }

    /// Denominators of unrelated data sets: their product is more than a share can hold.
    #[test]
    fn unrelated_splits_are_scaled_to_one_denominator() {
        let odd = |right: u64, of: u64| Share { right, of };
        let unrelated = [odd(1, 999_979), odd(500_000, 999_983), odd(3, 4)];
        let sum = 1.0 / 999_979.0 + 500_000.0 / 999_983.0 + 0.75;
        let mean = Share::mean(&unrelated).unwrap();
        assert!((mean.fraction() - sum / 3.0).abs() < 1e-11, "{mean:?}");
        let deviation = Share::deviation(&unrelated).unwrap();
        assert!((deviation - 0.381_881_6).abs() < 1e-6, "{deviation}");
        // Near the largest denominator that is common.
        let related = [odd(1, 1 << 20), odd(1, 5), odd(1, 3)];
        let exact = (1.0 / f64::from(1 << 20) + 1.0 / 5.0 + 1.0 / 3.0) / 3.0;
        assert!((Share::mean(&related).unwrap().fraction() - exact).abs() < 1e-15);
    }

    #[test]
    fn deviations_do_not_depend_on_the_order() {
        let (one, other) = (
            shares(&[480, 481, 482, 484], 500),
            shares(&[484, 481, 480, 482], 500),
        );
        assert_eq!(Share::deviation(&one), Share::deviation(&other));
        assert!((Share::deviation(&one).unwrap() - 1.707_825_127_659_933 / 500.0).abs() < 1e-15);
        assert_eq!(Share::deviation(&one[..1]), None);
        assert_eq!(Share::deviation(&[one[0]; 3]), Some(0.0));
    }
}
