//! How long a trial will take, in arbitrary units: good enough to start the longest first, and for nothing else.
//!
//! The figure is journalled with the trial, so that a better estimate in a later version reorders nothing that was
//! submitted. It never refuses: what it does not know it takes for average.

use sweep::TrialSpec;
use sweep::settings::{Model, SamplesPerClass};

/// Epochs times images times the work per image; finite and never negative.
pub(crate) fn cost(spec: &TrialSpec) -> f64 {
    let settings = &spec.settings;
    let (classes, per_class, native_side) = dataset(&settings.dataset);
    let kept = match settings.samples_per_class {
        SamplesPerClass::All => per_class,
        SamplesPerClass::Count(count) => count.min(per_class),
    };
    let images = f64::from(classes) * f64::from(kept) * f64::from(settings.repeats.max(1));
    let side = settings.crop_size.or(settings.resize).unwrap_or(native_side);
    let (work, at_side) = model(settings.model);
    let per_image = work * (f64::from(side) / at_side).powi(2);
    let cost = f64::from(spec.num_epochs()) * images * per_image;
    if cost.is_finite() && cost > 0.0 { cost } else { 0.0 }
}

/// Classes, training images per class, side in pixels: rounded.
fn dataset(name: &str) -> (u32, u32, u32) {
    match name {
        "digits" => (10, 120, 8),
        "fashion-mnist" => (10, 6000, 28),
        "cifar100" => (100, 500, 32),
        "cub" => (200, 30, 448),
        "nabirds" => (555, 43, 448),
        "cars" => (196, 42, 448),
        "flowers" => (102, 20, 448),
        "mit-indoor" => (67, 80, 448),
        _ => (100, 50, 224),
    }
}

/// Multiply-adds per image in millions, at a side in pixels.
fn model(model: Model) -> (f64, f64) {
    match model {
        Model::Resnet8 => (12.0, 32.0),
        Model::Resnet20 => (41.0, 32.0),
        Model::Resnet32 => (69.0, 32.0),
        Model::Resnet56 => (126.0, 32.0),
        Model::Resnet110 => (254.0, 32.0),
        Model::Resnet110Wfc => (1000.0, 32.0),
        Model::Resnet18 => (1800.0, 224.0),
        Model::Resnet34 => (3600.0, 224.0),
        Model::Resnet50 | Model::Resnet50Keras => (4100.0, 224.0),
        Model::Resnet50Fconv => (11_000.0, 224.0),
        Model::EfficientnetB0 => (800.0, 224.0),
    }
}
