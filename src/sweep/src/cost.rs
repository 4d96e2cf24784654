//! Predicts the work of a trial from its settings: precise enough to start the longest first and to
//! add up a plan.
//!
//! The unit is multiply-adds of the network times images times passes. Devices and seconds are not
//! modelled: only ratios between trials are meaningful.

use crate::dataset::{self, Counts};
use crate::settings::{Model, SamplesPerClass, Settings};
use crate::trial::TrialSpec;

/// Assumed numbers of a data set that was not inspected.
const UNKNOWN: Counts = dataset::counts([50, 5_000, 5_000], [100, 100, 100]);
/// Assumed side of photographs that are not resized, in pixels.
const UNKNOWN_SIDE: u32 = 224;

/// Predicts the work of a trial, in 10^12 multiply-adds, including backward passes and evaluation.
pub fn cost(spec: &TrialSpec) -> f64 {
    work(spec, None).total()
}

/// The work of a trial, in 10^12 multiply-adds.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    pub training: f64,
    pub evaluation: f64,
}

impl Work {
    pub fn total(self) -> f64 {
        self.training + self.evaluation
    }
}

/// Predicts the work of a trial on a data set with these numbers, if it was inspected.
pub(crate) fn work(spec: &TrialSpec, counts: Option<Counts>) -> Work {
    let settings = &spec.settings;
    if settings.program.is_some() {
        // The work of a program is not known: longer trials start first.
        return Work {
            training: f64::from(spec.num_epochs()),
            evaluation: 0.0,
        };
    }
    let known = dataset::find(&settings.dataset);
    let counts = counts
        .or(known.map(|known| known.counts))
        .unwrap_or(UNKNOWN);
    let epochs = f64::from(spec.num_epochs());
    if spec.smoke {
        // One step per epoch of tiny images.
        let training = epochs * 2.0 * 3.0 * model_cost(settings.model, 32) / 1e12;
        return Work {
            training,
            evaluation: 0.0,
        };
    }
    let subset = match settings.samples_per_class {
        SamplesPerClass::All => f64::from(counts.num_train),
        SamplesPerClass::Count(count) => {
            (f64::from(count) * f64::from(counts.num_classes)).min(f64::from(counts.num_train))
        }
    };
    let (train, test) = match &settings.holdout {
        Some(holdout) => {
            let share = holdout.share(subset / f64::from(counts.num_classes.max(1)));
            (subset * (1.0 - share), subset * share)
        }
        None => (subset, f64::from(counts.num_test)),
    };
    let evaluations = (epochs / f64::from(settings.evaluation_interval())).ceil();
    // A backward pass costs two forward ones. The fixed overhead of a step matters for tiny images.
    let steps =
        epochs * f64::from(settings.repeats) * (train / f64::from(settings.batch_size)).ceil();
    let per_image = model_cost(
        settings.model,
        side(settings, known.and_then(|known| known.side)),
    );
    let passes = epochs * f64::from(settings.repeats) * train * 3.0;
    const STEP_OVERHEAD: f64 = 5e7;
    Work {
        training: (passes * per_image + steps * STEP_OVERHEAD) / 1e12,
        evaluation: evaluations * test * per_image / 1e12,
    }
}

fn side(settings: &Settings, known: Option<u32>) -> u32 {
    settings
        .crop_size
        .or(settings.evaluated_resize())
        .or(known)
        .unwrap_or(UNKNOWN_SIDE)
}

/// Multiply-adds of one forward pass of one image: the published figures at their usual side,
/// scaled by area.
fn model_cost(model: Model, side: u32) -> f64 {
    let (at_side, usual) = match model {
        Model::Resnet8 => (12.5e6, 32.0),
        Model::Resnet20 => (41e6, 32.0),
        Model::Resnet32 => (69e6, 32.0),
        Model::Resnet56 => (126e6, 32.0),
        Model::Resnet110 => (255e6, 32.0),
        Model::Resnet110Wfc => (1_020e6, 32.0),
        Model::Resnet18 => (1.82e9, 224.0),
        Model::Resnet34 => (3.67e9, 224.0),
        Model::Resnet50Keras => (3.86e9, 224.0),
        Model::Resnet50 => (4.09e9, 224.0),
        // Its last stage has 21x21 positions where ResNet-50's has 7x7.
        Model::Resnet50Fconv => (25e9, 224.0),
        Model::EfficientnetB0 => (0.39e9, 224.0),
        Model::WideResnet16x2 => (101e6, 32.0),
        Model::WideResnet16x8 => (1_549e6, 32.0),
    };
    at_side * (f64::from(side) / usual).powi(2)
}
