//! Initial weights from counters: every number is a pure function of (seed, parameter name, index).
//!
//! There is no generator state, so replicas, devices, layouts and partial rebuilds all start from
//! the same weights, and adding a parameter changes no other. The generator is Philox 4x32-10
//! (Salmon et al., SC 2011). Next: storage.rs.

use std::f64::consts::TAU;

use super::builder::Fill;

/// Standard deviation of a unit normal cut at +-2; Keras divides by it to get the intended
/// variance.
const STD_OF_UNIT_NORMAL_CUT_AT_TWO: f64 = 0.879_625_661_034_239_8;

/// Amount of numbers that justifies a thread.
const SHARE: usize = 1 << 16;

/// Draws the values of one parameter in row-major order, on the number of threads that libtorch
/// uses here.
pub fn draw(seed: u64, name: &str, shape: &[i64], fill: Fill) -> Vec<f32> {
    let count = shape.iter().product::<i64>() as usize;
    let (fan_in, fan_out) = fan_in_out(shape);
    let generator = Philox::keyed(seed, name);
    let uniform = |bound: f64| each(count, |i| (generator.uniform(i) * 2.0 - 1.0) * bound);
    let normal = |std: f64| each(count, |i| generator.normal(i, 0) * std);
    match fill {
        Fill::Zeros => vec![0.0; count],
        Fill::Ones => vec![1.0; count],
        Fill::HeNormalTruncated => {
            let std = (2.0 / fan_in).sqrt() / STD_OF_UNIT_NORMAL_CUT_AT_TWO;
            each(count, |i| generator.normal_cut_at_two(i) * std)
        }
        Fill::GlorotUniform => uniform((6.0 / (fan_in + fan_out)).sqrt()),
        Fill::KaimingNormalFanOut => normal((2.0 / fan_out).sqrt()),
        Fill::Uniform { bound } => uniform(bound),
        Fill::Normal { std } => normal(std),
    }
}

/// Computes `value` for each index.
fn each(count: usize, value: impl Fn(u64) -> f64 + Sync) -> Vec<f32> {
    let mut values = vec![0.0; count];
    let threads = tch::get_num_threads().max(1) as usize;
    let share = count.div_ceil(threads).max(SHARE);
    let fill = |first: usize, values: &mut [f32]| {
        for (at, slot) in values.iter_mut().enumerate() {
            *slot = value((first + at) as u64) as f32;
        }
    };
    std::thread::scope(|scope| {
        let mut shares = values.chunks_mut(share).enumerate();
        let own = shares.next();
        for (number, values) in shares {
            let fill = &fill;
            scope.spawn(move || fill(number * share, values));
        }
        if let Some((_, values)) = own {
            fill(0, values);
        }
    });
    values
}

/// Returns the fans of [out, in] or [out, in, height, width] as PyTorch and Keras count them, else
/// the length.
pub fn fan_in_out(shape: &[i64]) -> (f64, f64) {
    match *shape {
        [outputs, inputs, ref receptive @ ..] => {
            let receptive = receptive.iter().product::<i64>();
            ((inputs * receptive) as f64, (outputs * receptive) as f64)
        }
        [length] => (length as f64, length as f64),
        [] => (1.0, 1.0),
    }
}

#[derive(Clone, Copy)]
struct Philox {
    key: [u32; 2],
}

impl Philox {
    fn keyed(seed: u64, name: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"orchestrator initial weights");
        hasher.update(&seed.to_le_bytes());
        hasher.update(name.as_bytes());
        let hash = hasher.finalize();
        let word = |at: usize| {
            u32::from_le_bytes(hash.as_bytes()[at..at + 4].try_into().expect("four bytes"))
        };
        Self {
            key: [word(0), word(4)],
        }
    }

    /// Returns 128 random bits for a 128-bit counter.
    fn block(self, index: u64, round: u32) -> [u32; 4] {
        data::philox([index as u32, (index >> 32) as u32, round, 0], self.key)
    }

    /// Returns a number in the open interval (0, 1), with 53 bits.
    fn to_unit(high: u32, low: u32) -> f64 {
        let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
        (bits as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn uniform(self, index: u64) -> f64 {
        let [a, b, ..] = self.block(index, 0);
        Self::to_unit(a, b)
    }

    /// Draws from the unit normal (Box-Muller).
    fn normal(self, index: u64, round: u32) -> f64 {
        let [a, b, c, d] = self.block(index, round);
        (-2.0 * Self::to_unit(a, b).ln()).sqrt() * (TAU * Self::to_unit(c, d)).cos()
    }

    /// Redraws under the next round number until within two standard deviations: one in 22 is
    /// redrawn.
    fn normal_cut_at_two(self, index: u64) -> f64 {
        (0..)
            .map(|round| self.normal(index, round))
            .find(|value| value.abs() <= 2.0)
            .expect("an endless supply")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answer of the reference implementation (Random123 kat_vectors) for counter and key
    /// zero.
    #[test]
    fn philox_matches_the_reference() {
        let generator = Philox { key: [0, 0] };
        assert_eq!(
            generator.block(0, 0),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
    }

    fn moments(values: &[f32]) -> (f64, f64) {
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
        let var = values
            .iter()
            .map(|&v| (f64::from(v) - mean).powi(2))
            .sum::<f64>()
            / values.len() as f64;
        (mean, var.sqrt())
    }

    #[test]
    fn fills_have_the_stated_spread() {
        let shape = [64, 32, 3, 3];
        let expected = [
            (Fill::HeNormalTruncated, (2.0f64 / 288.0).sqrt()),
            (Fill::GlorotUniform, (2.0f64 / (288.0 + 576.0)).sqrt()),
            (Fill::KaimingNormalFanOut, (2.0f64 / 576.0).sqrt()),
            (Fill::Uniform { bound: 0.3 }, 0.3 / 3f64.sqrt()),
            (Fill::Normal { std: 0.02 }, 0.02),
        ];
        for (fill, std) in expected {
            let (mean, found) = moments(&draw(7, "conv.weight", &shape, fill));
            assert!(mean.abs() < 0.03 * std, "{fill:?}: mean {mean}");
            assert!(
                (found / std - 1.0).abs() < 0.02,
                "{fill:?}: {found} instead of {std}"
            );
        }
        let limit = 2.0 * (2.0f32 / 288.0).sqrt() / STD_OF_UNIT_NORMAL_CUT_AT_TWO as f32;
        let cut = draw(7, "conv.weight", &shape, Fill::HeNormalTruncated);
        assert!(cut.iter().all(|value| value.abs() <= limit * 1.000_001));
    }

    /// One count large enough for several threads, and one for a single thread.
    #[test]
    fn the_number_of_threads_changes_no_draw() {
        let shape = [3 * SHARE as i64 + 5];
        let drawn = [1, 3].map(|threads| {
            tch::set_num_threads(threads);
            draw(5, "w", &shape, Fill::Normal { std: 1.0 })
        });
        assert_eq!(drawn[0], drawn[1]);
        let generator = Philox::keyed(5, "w");
        assert!(
            (0..shape[0] as u64).all(|i| drawn[1][i as usize] == generator.normal(i, 0) as f32)
        );
    }

    #[test]
    fn draws_depend_on_seed_and_name_only() {
        let values = draw(1, "a", &[10, 10], Fill::GlorotUniform);
        assert_eq!(values, draw(1, "a", &[10, 10], Fill::GlorotUniform));
        assert_ne!(values, draw(2, "a", &[10, 10], Fill::GlorotUniform));
        assert_ne!(values, draw(1, "b", &[10, 10], Fill::GlorotUniform));
    }
}
