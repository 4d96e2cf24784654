//! Accuracy and loss on the evaluation images: large batches, no gradients, a share of the images
//! for each replica.
//!
//! The images of small evaluation sets are kept as tensors between evaluations. The pipeline
//! decides which split this is. Next: train.rs.

use std::ops::Range;

use data::Pipeline;
use sweep::record::ClassCounts;
use tch::{Device, Kind, Tensor};

use crate::device::cuda::RunAhead;
use crate::error::TrialError;
use crate::step::batches::labels_tensor;
use crate::step::images::Images;
use crate::step::replica::{Judged, Replica};

/// Number of f32 values per batch of images: bounds memory for large images and keeps small ones in
/// the caches.
const BATCH_VALUES: usize = 4 << 20;
const LARGEST_BATCH: usize = 500;

/// Largest number of f32 values of images kept between evaluations.
const KEPT_VALUES: usize = 16 << 20;

#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    pub accuracy: f64,
    /// Mean of per-class recalls, over classes that have images.
    pub balanced_accuracy: f64,
    /// Share of the images whose class is one of the five that fit best.
    pub top5_accuracy: f64,
    /// Mean over samples.
    pub loss: f64,
    pub classes: ClassCounts,
}

pub struct Evaluator<'a> {
    pipeline: &'a Pipeline,
    images: &'a Images,
    kept: Vec<(Tensor, Tensor)>,
}

impl<'a> Evaluator<'a> {
    pub fn new(pipeline: &'a Pipeline, images: &'a Images) -> Self {
        Self {
            pipeline,
            images,
            kept: Vec::new(),
        }
    }

    /// Evaluates the replica; must be called by all replicas, and each gets the result.
    pub fn evaluate(&mut self, replica: &Replica) -> Result<Evaluation, TrialError> {
        let num_classes = self.pipeline.num_classes() as i64;
        let options = (Kind::Double, replica.device);
        // hits per class, images per class, loss, images with their class among five
        let totals = Tensor::zeros([2 * num_classes + 2], options);
        self.judge_share(replica, |range, labels, judged| {
            let hits = judged.hits.to_kind(Kind::Double);
            let ones = Tensor::ones([range.len() as i64], options);
            let _ = totals
                .narrow(0, 0, num_classes)
                .index_add_(0, labels, &hits);
            let _ = totals
                .narrow(0, num_classes, num_classes)
                .index_add_(0, labels, &ones);
            let _ = totals
                .narrow(0, 2 * num_classes, 1)
                .g_add_(&judged.losses.sum(Kind::Double));
            let _ = totals
                .narrow(0, 2 * num_classes + 1, 1)
                .g_add_(&judged.top5_hits.sum(Kind::Double));
        })?;
        replica.collective.all_reduce(&totals)?;
        replica.wait()?;
        let totals = Vec::<f64>::try_from(&totals.to_device(Device::Cpu)).expect("a vector of f64");
        Ok(summarise(&totals, num_classes as usize))
    }

    /// Returns how well each class fits each evaluation image, f32 [images, classes] on the CPU; must
    /// be called by all replicas, and each gets the result.
    pub fn scores(&mut self, replica: &Replica) -> Result<Tensor, TrialError> {
        let size = [
            self.pipeline.num_eval() as i64,
            self.pipeline.num_classes() as i64,
        ];
        let scores = Tensor::zeros(size, (Kind::Float, replica.device));
        self.judge_share(replica, |range, _, judged| {
            scores
                .narrow(0, range.start as i64, range.len() as i64)
                .copy_(&judged.scores);
        })?;
        // the rows of other replicas are zero
        replica.collective.all_reduce(&scores)?;
        replica.wait()?;
        Ok(scores.to_device(Device::Cpu))
    }

    /// Judges the replica's share of the images; passes the place of each batch, its labels and
    /// the verdict to `each`.
    fn judge_share(
        &mut self,
        replica: &Replica,
        mut each: impl FnMut(Range<usize>, &Tensor, Judged),
    ) -> Result<(), TrialError> {
        let (rank, size) = (replica.collective.rank(), replica.collective.size());
        let count = self.pipeline.num_eval();
        let share = count * rank / size..count * (rank + 1) / size;
        let batch_len = (BATCH_VALUES / self.pipeline.image_len()).clamp(1, LARGEST_BATCH);
        let mut run_ahead = RunAhead::default();
        for (number, start) in share.clone().step_by(batch_len).enumerate() {
            let range = start..(start + batch_len).min(share.end);
            let (images, labels) = self.batch(number, range.clone(), replica.device);
            let judged = replica.evaluate(&images, &labels);
            tch::no_grad(|| each(range, &labels, judged));
            replica.keep_close(&mut run_ahead)?;
        }
        Ok(())
    }

    fn batch(&mut self, number: usize, range: Range<usize>, device: Device) -> (Tensor, Tensor) {
        if let Some((images, labels)) = self.kept.get(number) {
            return (images.shallow_clone(), labels.shallow_clone());
        }
        let images = self.images.evaluate(self.pipeline, range.clone());
        let labels = labels_tensor(&self.pipeline.eval_labels()[range], device);
        if self.pipeline.num_eval() * self.pipeline.image_len() <= KEPT_VALUES {
            self.kept
                .push((images.shallow_clone(), labels.shallow_clone()));
        }
        (images, labels)
    }
}

/// Computes the result from `totals`: hits per class, images per class, sum of losses, hits among
/// five.
fn summarise(totals: &[f64], num_classes: usize) -> Evaluation {
    let (hits, rest) = totals.split_at(num_classes);
    let (images, sums) = rest.split_at(num_classes);
    let count: f64 = images.iter().sum();
    let recalls: Vec<f64> = hits
        .iter()
        .zip(images)
        .filter(|(_, images)| **images > 0.0)
        .map(|(hits, images)| hits / images)
        .collect();
    Evaluation {
        accuracy: hits.iter().sum::<f64>() / count.max(1.0),
        balanced_accuracy: recalls.iter().sum::<f64>() / (recalls.len() as f64).max(1.0),
        top5_accuracy: sums[1] / count.max(1.0),
        loss: sums[0] / count.max(1.0),
        classes: ClassCounts {
            images: images.iter().map(|&images| images as u32).collect(),
            correct: hits.iter().map(|&hits| hits as u32).collect(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_is_over_images_and_balanced_accuracy_over_classes() {
        let evaluation = summarise(&[1.0, 3.0, 0.0, 1.0, 9.0, 0.0, 5.0, 8.0], 3);
        assert_eq!(evaluation.accuracy, 0.4);
        assert!((evaluation.balanced_accuracy - (1.0 + 1.0 / 3.0) / 2.0).abs() < 1e-12);
        assert_eq!((evaluation.loss, evaluation.top5_accuracy), (0.5, 0.8));
        assert_eq!(evaluation.classes.images, [1, 9, 0]);
        assert_eq!(evaluation.classes.correct, [1, 3, 0]);
    }
}
