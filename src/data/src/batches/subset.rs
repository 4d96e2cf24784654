//! The training images of a trial: nested, class-stratified, seeded.
//!
//! Each class has one permutation of its images, drawn from (seed, class); a subset of n per class
//! is the first n of every permutation, so that 10 samples contain the 5 of the same seed. Held-out
//! images are the last of the chosen ones in the same permutation. How the authors drew theirs is
//! unknown (docs/paper.md, section 7).

use sweep::Holdout;
use sweep::record::Subset;
use sweep::settings::SamplesPerClass;

use crate::error::Error;
use crate::random::{Purpose, Stream};

/// Returns the images of each class in ascending order, shuffled by (seed, purpose, class).
fn permutations(
    indices: &[u32],
    labels: &[u32],
    num_classes: usize,
    seed: u64,
    purpose: Purpose,
) -> Vec<Vec<u32>> {
    let mut classes = vec![Vec::new(); num_classes];
    indices
        .iter()
        .for_each(|&index| classes[labels[index as usize] as usize].push(index));
    for (class, members) in classes.iter_mut().enumerate() {
        members.sort_unstable();
        Stream::new(seed, purpose, 0, 0, class as u32).shuffle(members);
    }
    classes
}

/// Chooses the training images of a trial; the indices ascend. An error names the class that has
/// too few.
pub fn choose(
    dataset: &str,
    labels: &[u32],
    class_names: &[String],
    samples_per_class: SamplesPerClass,
    seed: u64,
) -> Result<Subset, Error> {
    let SamplesPerClass::Count(requested) = samples_per_class else {
        return Ok(Subset::All);
    };
    let requested = requested as usize;
    let mut counts = vec![0; class_names.len()];
    labels.iter().for_each(|&label| counts[label as usize] += 1);
    require(dataset, class_names, &counts, samples_per_class)?;
    let all: Vec<u32> = (0..labels.len() as u32).collect();
    let classes = permutations(&all, labels, class_names.len(), seed, Purpose::Subset);
    let mut chosen: Vec<u32> = classes
        .iter()
        .flat_map(|members| &members[..requested])
        .copied()
        .collect();
    chosen.sort_unstable();
    Ok(Subset::Indices(chosen))
}

/// Checks, as `choose` does, at plan time: the first class with fewer images than requested is an
/// error.
pub fn require(
    dataset: &str,
    class_names: &[String],
    class_counts: &[usize],
    samples_per_class: SamplesPerClass,
) -> Result<(), Error> {
    let SamplesPerClass::Count(requested) = samples_per_class else {
        return Ok(());
    };
    match class_counts
        .iter()
        .position(|&count| count < requested as usize)
    {
        None => Ok(()),
        Some(class) => Err(Error::TooFewSamples {
            dataset: dataset.to_owned(),
            class: class_names[class].clone(),
            available: class_counts[class],
            requested: requested as usize,
        }),
    }
}

/// Splits chosen training images into those to train on and those held out, both ascending. The
/// seed of the subset shuffles each class, and the held-out images are a part of that order.
pub fn hold_out(
    indices: &[u32],
    labels: &[u32],
    class_names: &[String],
    holdout: &Holdout,
    seed: u64,
    fold: u64,
) -> Result<(Vec<u32>, Vec<u32>), Error> {
    let (mut kept, mut held_out) = (Vec::new(), Vec::new());
    let classes = permutations(indices, labels, class_names.len(), seed, Purpose::HoldOut);
    for (class, members) in classes.iter().enumerate() {
        if members.len() < holdout.fewest() as usize {
            let class = class_names[class].clone();
            return Err(Error::HoldoutTooSmall {
                class,
                available: members.len(),
                fewest: holdout.fewest(),
            });
        }
        let places = holdout.places(members.len() as u32, fold);
        kept.extend_from_slice(&members[..places.start]);
        kept.extend_from_slice(&members[places.end..]);
        held_out.extend_from_slice(&members[places]);
    }
    kept.sort_unstable();
    held_out.sort_unstable();
    Ok((kept, held_out))
}

#[cfg(test)]
mod tests {
    use sweep::held_out::{AtLeast, Folds};

    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|class| format!("class {class}")).collect()
    }

    fn labels() -> Vec<u32> {
        (0..300).map(|index| index % 7 % 3).collect()
    }

    fn chosen(count: u32, seed: u64) -> Vec<u32> {
        match choose(
            "digits",
            &labels(),
            &names(3),
            SamplesPerClass::Count(count),
            seed,
        )
        .unwrap()
        {
            Subset::Indices(indices) => indices,
            Subset::All => panic!("a count was asked for"),
        }
    }

    #[test]
    fn subsets_are_stratified_and_nested() {
        let labels = labels();
        let mut smaller: Vec<u32> = Vec::new();
        for count in [1, 2, 5, 10, 80] {
            let indices = chosen(count, 3);
            assert!(indices.is_sorted());
            assert!(
                smaller.iter().all(|index| indices.contains(index)),
                "{count} does not contain the smaller subset"
            );
            for class in 0..3 {
                assert_eq!(
                    indices
                        .iter()
                        .filter(|&&index| labels[index as usize] == class)
                        .count(),
                    count as usize
                );
            }
            smaller = indices;
        }
    }

    #[test]
    fn subsets_depend_on_the_seed_only() {
        assert_eq!(chosen(10, 1), chosen(10, 1));
        assert_ne!(chosen(10, 1), chosen(10, 2));
        // Golden: a change here changes the meaning of every recorded seed.
        assert_eq!(chosen(2, 1), GOLDEN);
    }

    const GOLDEN: [u32; 6] = [15, 44, 68, 143, 153, 155];

    /// The Python package draws the same subsets: its tests read this file too.
    #[test]
    fn the_python_packages_golden_subsets_are_these() {
        let labels = labels();
        let mut cases = Vec::new();
        let fraction = |fraction: f64| Some(Holdout::Fraction(fraction));
        let folds = || Some(Holdout::Folds(Folds { folds: 3 }));
        let floor = AtLeast {
            fraction: 0.1,
            at_least_per_class: 4,
        };
        for (count, seed, holdout, fold) in [
            (2, 1, None, 0),
            (10, 5, None, 0),
            (10, 5, fraction(0.2), 0),
            (5, 1 << 40 | 7, fraction(0.5), 0),
            (80, 0, fraction(0.31), 0),
            (10, 5, folds(), 0),
            (10, 5, folds(), 5),
            (10, 5, Some(Holdout::AtLeast(floor)), 0),
        ] {
            let indices = chosen(count, seed);
            let (chosen, held_out) = match &holdout {
                None => (indices, None),
                Some(holdout) => {
                    let (kept, out) =
                        hold_out(&indices, &labels, &names(3), holdout, seed, fold).unwrap();
                    (kept, Some(out))
                }
            };
            let mut case = serde_json::json!({
                "samples_per_class": count,
                "seed": seed,
                "holdout": holdout,
                "chosen": chosen,
                "held_out": held_out,
            });
            if let Some(Holdout::Folds(_)) = holdout {
                case["fold"] = fold.into();
            }
            cases.push(case);
        }
        let lines: Vec<String> = cases.iter().map(ToString::to_string).collect();
        let text = format!("[\n{}\n]\n", lines.join(",\n"));
        ::tests::golden::assert_file("../../python/tests/subsets.json", &text);
    }

    #[test]
    fn too_many_samples_name_the_class() {
        let error = choose(
            "digits",
            &[0, 0, 1],
            &names(2),
            SamplesPerClass::Count(2),
            0,
        )
        .unwrap_err();
        assert!(
            matches!(&error, Error::TooFewSamples { class, available: 1, requested: 2, .. } if class == "class 1")
        );
    }

    #[test]
    fn all_samples_need_no_list() {
        assert_eq!(
            choose("digits", &[0, 1], &names(2), SamplesPerClass::All, 0).unwrap(),
            Subset::All
        );
    }

    #[test]
    fn held_out_images_are_stratified_and_disjoint() {
        let labels = labels();
        let indices = chosen(10, 5);
        let split = Holdout::Fraction(0.2);
        let (kept, held_out) = hold_out(&indices, &labels, &names(3), &split, 5, 0).unwrap();
        assert_eq!((kept.len(), held_out.len()), (24, 6));
        let mut together = [kept.clone(), held_out.clone()].concat();
        together.sort_unstable();
        assert_eq!(together, indices);
        for class in 0..3 {
            assert_eq!(
                held_out
                    .iter()
                    .filter(|&&index| labels[index as usize] == class)
                    .count(),
                2
            );
        }
    }

    #[test]
    fn folds_hold_every_image_out_once() {
        let (labels, indices) = (labels(), chosen(10, 5));
        let split = Holdout::Folds(Folds { folds: 4 });
        let mut together = Vec::new();
        for fold in 0..4 {
            let (kept, out) = hold_out(&indices, &labels, &names(3), &split, 5, fold).unwrap();
            assert!(kept.iter().all(|index| !out.contains(index)));
            assert_eq!(kept.len() + out.len(), indices.len());
            together.extend(out);
        }
        together.sort_unstable();
        assert_eq!(together, indices);
        let few = hold_out(&[0, 1, 2], &[0, 0, 0], &names(1), &split, 0, 0).unwrap_err();
        assert!(few.to_string().contains("needs 4"), "{few}");
    }

    #[test]
    fn holding_out_of_a_single_image_is_refused() {
        let half = Holdout::Fraction(0.5);
        let error = hold_out(&[0, 1, 2], &[0, 0, 1], &names(2), &half, 0, 0).unwrap_err();
        assert!(error.to_string().contains("class 1"), "{error}");
    }
}
