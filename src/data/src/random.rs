//! Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011).
//!
//! A draw is a pure function of (seed, purpose, epoch, sample, position), so threads, shards and
//! restarts cannot change it (promise P7), and no two purposes share a stream. Philox was chosen
//! over a hash because it is ten multiplications per four words, over splitmix because its counter
//! holds all of the coordinates without mixing them first, and because published known answers test
//! it.

/// Purpose of a stream. The numbers define the meaning of a seed: never reuse or renumber one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    Subset = 1,
    HoldOut = 2,
    Shuffle = 3,
    Augment = 4,
    EraseNoise = 5,
    RandAugment = 6,
    CutMix = 7,
    StandIn = 8,
    FolderSplit = 9,
}

/// One stream of draws.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    /// Block number, then sample, epoch, purpose and repeat.
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

impl Stream {
    /// Creates a stream. `repeat` is below 2^24: it shares a word with the purpose.
    pub fn new(seed: u64, purpose: Purpose, epoch: u32, repeat: u32, sample: u32) -> Self {
        debug_assert!(repeat < 1 << 24);
        let counter = [0, sample, epoch, purpose as u32 | repeat << 8];
        Self {
            key: [seed as u32, (seed >> 32) as u32],
            counter,
            block: [0; 4],
            used: 4,
        }
    }

    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// Returns four words at a given block number: random access, for noise that depends on a
    /// pixel's position.
    pub fn block_at(&self, block: u32) -> [u32; 4] {
        philox(
            [block, self.counter[1], self.counter[2], self.counter[3]],
            self.key,
        )
    }

    /// Draws uniformly from [0, 1), with 53 bits.
    pub fn unit(&mut self) -> f64 {
        let high = u64::from(self.next_u32()) << 21;
        let low = u64::from(self.next_u32()) >> 11;
        (high | low) as f64 / (1u64 << 53) as f64
    }

    /// Draws uniformly from [low, high).
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    pub fn coin(&mut self) -> bool {
        self.next_u32() >> 31 == 1
    }

    /// Draws uniformly from 0..bound, without bias (Lemire 2019). `bound` is at least 1.
    pub fn below(&mut self, bound: u32) -> u32 {
        let mut product = u64::from(self.next_u32()) * u64::from(bound);
        if (product as u32) < bound {
            let threshold = bound.wrapping_neg() % bound;
            while (product as u32) < threshold {
                product = u64::from(self.next_u32()) * u64::from(bound);
            }
        }
        (product >> 32) as u32
    }

    /// Draws from the standard normal distribution (Box and Muller, one of the pair).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Draws from the gamma distribution with scale 1 (Marsaglia and Tsang 2000, with their boost
    /// for shapes below 1).
    fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            return self.gamma(shape + 1.0) * (1.0 - self.unit()).powf(1.0 / shape);
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && (1.0 - self.unit()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
    }

    /// Draws from Beta(alpha, alpha).
    pub fn beta(&mut self, alpha: f64) -> f64 {
        let (a, b) = (self.gamma(alpha), self.gamma(alpha));
        if a + b > 0.0 { a / (a + b) } else { 0.5 }
    }

    /// Shuffles by Fisher and Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u32 + 1) as usize);
        }
    }
}

/// Returns 128 random bits of a 128-bit counter under a key.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let product_0 = u64::from(counter[0]) * 0xD251_1F53;
        let product_1 = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (product_1 >> 32) as u32 ^ counter[1] ^ key[0],
            product_1 as u32,
            (product_0 >> 32) as u32 ^ counter[3] ^ key[1],
            product_0 as u32,
        ];
        key = [
            key[0].wrapping_add(0x9E37_79B9),
            key[1].wrapping_add(0xBB67_AE85),
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_answers() {
        // The known-answer file of Random123, philox4x32-10.
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(
            philox(pi, [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn streams_differ_in_every_coordinate() {
        let first = |seed, purpose, epoch, repeat, sample| {
            Stream::new(seed, purpose, epoch, repeat, sample).next_u32()
        };
        let base = first(1, Purpose::Augment, 2, 3, 4);
        assert_eq!(base, first(1, Purpose::Augment, 2, 3, 4));
        for other in [
            first(2, Purpose::Augment, 2, 3, 4),
            first(1 << 40, Purpose::Augment, 2, 3, 4),
            first(1, Purpose::Shuffle, 2, 3, 4),
            first(1, Purpose::Augment, 3, 3, 4),
            first(1, Purpose::Augment, 2, 4, 4),
            first(1, Purpose::Augment, 2, 3, 5),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut stream = Stream::new(7, Purpose::CutMix, 0, 0, 0);
        let count = 40_000;
        let mean_and_variance = |draw: &mut dyn FnMut() -> f64| {
            let draws: Vec<f64> = (0..count).map(|_| draw()).collect();
            let mean = draws.iter().sum::<f64>() / f64::from(count);
            (
                mean,
                draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(count),
            )
        };
        let mut check =
            |name: &str, mean: f64, variance: f64, draw: &dyn Fn(&mut Stream) -> f64| {
                let (m, v) = mean_and_variance(&mut || draw(&mut stream));
                assert!((m - mean).abs() < 0.02, "{name}: mean {m}, expected {mean}");
                assert!(
                    (v - variance).abs() < 0.03,
                    "{name}: variance {v}, expected {variance}"
                );
            };
        check("unit", 0.5, 1.0 / 12.0, &|s| s.unit());
        check("normal", 0.0, 1.0, &|s| s.normal());
        check("beta(1)", 0.5, 1.0 / 12.0, &|s| s.beta(1.0));
        check("beta(0.5)", 0.5, 0.125, &|s| s.beta(0.5));
        check("below", 1.0, 2.0 / 3.0, &|s| f64::from(s.below(3)));
    }
}
