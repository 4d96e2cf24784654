//! A rough estimate of how long a sweep takes on a CPU, to warn before hours pass.

use std::time::Duration;

/// Multiply-adds of training per core and second. The networks and machines of bench/results range
/// from 3e10 (f32) to 1e11 (bf16 with matrix tiles).
const PER_CORE: f64 = 5e10;

/// The duration from which on a run prints its estimate at the start.
pub const LONG: Duration = Duration::from_secs(3600);

/// Estimates the time for `cost`, in 10^12 multiply-adds as in `sweep::cost`.
pub fn on_cpu(cost: f64, threads: usize) -> Duration {
    let seconds = cost * 1e12 / (PER_CORE * threads.max(1) as f64);
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// Formats a time in the unit that fits.
pub fn text(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        ..120.0 => format!("{seconds:.0} s"),
        ..7_200.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.0} h", seconds / 3_600.0),
        _ => format!("{:.0} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_unit_that_fits() {
        let estimated = |cost: f64, threads: usize| text(on_cpu(cost, threads));
        assert_eq!(estimated(1.0, 1), "20 s");
        assert_eq!(estimated(1_000.0, 2), "3 h");
        assert_eq!(estimated(1_000.0, 1), "6 h");
        assert_eq!(estimated(1e6, 1), "231 days");
        assert_eq!(estimated(f64::INFINITY, 0), text(Duration::MAX));
    }
}
