//! Channel statistics that standardise images: the published ones of docs/paper.md, section 3.1, or
//! computed ones.
//!
//! Definition of the computed ones (the authors'): the mean is the mean over images of per-image
//! channel means, the standard deviation is sqrt(sum over images of the per-image mean squared
//! deviation from that mean / (N - 1)).

use rayon::prelude::*;
use sweep::settings::Normalise;

use crate::catalog;
use crate::dataset::{Dataset, Image};

/// Statistics with one value per channel, in units of 0..=255. `std` is never zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
}

/// Value that the authors add to the standard deviation of their small-image data sets (Keras'
/// ImageDataGenerator); here it also prevents a constant channel from causing a division by zero.
const SMALLEST_STD: f64 = 1e-6;

/// Mean and standard deviation of red, green and blue, in units of 0..=255.
pub(crate) type Moments = ([f64; 3], [f64; 3]);

const ILSVRC: Moments = (
    [122.65435242, 116.6545058, 103.99789959],
    [71.40583196, 69.56888997, 73.0440314],
);
pub(crate) const TORCHVISION: Moments = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]);

pub(crate) fn of(dataset: &Dataset, normalise: Normalise) -> Statistics {
    let fixed = match normalise {
        Normalise::Dataset => catalog::find(&dataset.name).and_then(|entry| entry.statistics),
        Normalise::Computed => None,
        Normalise::Ilsvrc => Some(ILSVRC),
        Normalise::Torchvision => Some(TORCHVISION),
    };
    match fixed {
        None => compute(dataset),
        Some((mean, std)) => {
            assert_eq!(
                dataset.channels, 3,
                "`normalise: {normalise:?}` for the images of `{}`",
                dataset.name
            );
            finish(&mean, &std)
        }
    }
}

fn finish(mean: &[f64], std: &[f64]) -> Statistics {
    Statistics {
        mean: mean.iter().map(|&value| value as f32).collect(),
        std: std
            .iter()
            .map(|&value| (value + SMALLEST_STD) as f32)
            .collect(),
    }
}

/// Computes the sums per image in integers and adds them in image order: the same bits for any
/// number of threads.
fn compute(dataset: &Dataset) -> Statistics {
    let split = &dataset.train;
    let images = 0..dataset.train_labels().len();
    let per_image: Vec<Vec<(f64, f64)>> = images
        .into_par_iter()
        .map(|i| moments(&split.image(i)))
        .collect();
    let count = per_image.len() as f64;
    let mut mean = vec![0.0; dataset.channels];
    for image in &per_image {
        mean.iter_mut()
            .zip(image)
            .for_each(|(mean, (first, _))| *mean += first / count);
    }
    let mut squares = vec![0.0; dataset.channels];
    for image in &per_image {
        for (channel, (first, second)) in image.iter().enumerate() {
            // E[(x - m)^2] over the pixels of one image, from its first two moments.
            squares[channel] +=
                second - 2.0 * mean[channel] * first + mean[channel] * mean[channel];
        }
    }
    let std: Vec<f64> = squares
        .iter()
        .map(|sum| (sum.max(0.0) / (count - 1.0).max(1.0)).sqrt())
        .collect();
    finish(&mean, &std)
}

/// Returns mean and mean square of each channel.
fn moments(image: &Image) -> Vec<(f64, f64)> {
    let count = (image.height * image.width) as f64;
    let moments = |channel: usize| {
        let values = image.pixels.iter().skip(channel).step_by(image.channels);
        let (sum, squares) = values.fold((0u64, 0u64), |(sum, squares), &value| {
            let value = u64::from(value);
            (sum + value, squares + value * value)
        });
        (sum as f64 / count, squares as f64 / count)
    };
    (0..image.channels).map(moments).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Split;

    fn dataset(name: &str, channels: usize, pixels: Vec<u8>) -> Dataset {
        let images = pixels.len() / (2 * channels);
        let train = Split::uniform(vec![0; images], pixels, 1, 2, channels);
        let names = vec!["only".to_owned()];
        Dataset {
            name: name.to_owned(),
            class_names: names.clone(),
            class_ids: names,
            channels,
            test: train.clone(),
            train,
            num_validation: 0,
            skipped: 0,
            fingerprint: String::new(),
            content: None,
        }
    }

    #[test]
    fn computed_statistics_follow_the_stated_definition() {
        // Image means 1 and 7, global mean 4; mean squared deviations ((4^2 + 2^2) / 2, (2^2 + 4^2)
        // / 2) = (10, 10).
        let statistics = dataset("folder:x", 1, vec![0, 2, 6, 8]).statistics(Normalise::Dataset);
        assert!((statistics.mean[0] - 4.0).abs() < 1e-6);
        assert!((statistics.std[0] - 20f32.sqrt()).abs() < 1e-5);
    }

    #[test]
    fn published_statistics_are_used_for_their_data_sets_only() {
        let cub = dataset("cub", 3, vec![9; 12]);
        assert_eq!(
            cub.statistics(Normalise::Dataset).mean[1],
            127.351_168_05_f64 as f32
        );
        assert_eq!(cub.statistics(Normalise::Computed).mean[1], 9.0);
        assert!(cub.statistics(Normalise::Computed).std[0] > 0.0);
        assert_eq!(cub.statistics(Normalise::Torchvision).std[0], 58.395);
    }
}
