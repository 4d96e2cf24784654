//! Seeds of trials. `seeds: {subset: 3, init: 4}` gives the subset a seed of its own: one number holds
//! both, so that everything that carries a seed carries the pair.
//!
//! A plain seed is below 2^32 and decides everything. A pair has the seed of the subset, plus one, in
//! the upper 32 bits. The whole number decides initial weights, order and augmentation, so that these
//! differ between subsets.

const SUBSET_SHIFT: u32 = 32;

/// Returns the seed of a pair.
pub(crate) fn pair(subset: u32, init: u32) -> u64 {
    ((u64::from(subset) + 1) << SUBSET_SHIFT) | u64::from(init)
}

/// Returns the pair of subset and initial weights in a seed; `None` for a plain seed.
pub fn pair_of(seed: u64) -> Option<(u32, u32)> {
    let subset = (seed >> SUBSET_SHIFT).checked_sub(1)?;
    Some((subset as u32, seed as u32))
}

/// Returns the seed that decides which images a trial is trained on, and which are held out.
pub fn of_subset(seed: u64) -> u64 {
    pair_of(seed).map_or(seed, |(subset, _)| u64::from(subset))
}

/// Returns the seed of initial weights, order and augmentation: within a subset, no two are equal.
pub fn of_init(seed: u64) -> u64 {
    pair_of(seed).map_or(seed, |(_, init)| u64::from(init))
}

/// Returns a seed as users see it: `3`, or `2.1` for subset 2 and initial weights 1.
pub fn name(seed: u64) -> String {
    match pair_of(seed) {
        Some((subset, init)) => format!("{subset}.{init}"),
        None => seed.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_one_number_and_a_plain_seed_is_itself() {
        assert_eq!(pair(0, 0), 1 << 32);
        assert_eq!(pair_of(pair(2, 1)), Some((2, 1)));
        assert_eq!(pair_of(u64::from(u32::MAX)), None);
        assert_eq!([of_subset(pair(2, 1)), of_subset(7)], [2, 7]);
        assert_eq!([name(pair(2, 1)), name(7)], ["2.1", "7"]);
    }
}
