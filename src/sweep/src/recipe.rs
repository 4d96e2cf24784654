//! Recipes: named starting points for every field of `Settings`, each right for the data set it is
//! used on. The paper's values stand with the declarations in `settings.rs`.
//!
//! Some values of a recipe depend on the data set: image size, augmentation (digits are never
//! flipped), network, batch. `set:`, axes and overrides of a sweep change any of them afterwards.
//! Facts and their certainty are those of the authors' code (cvjena/semantic-embeddings,
//! CosineLoss.md); unverified ones are marked as such.

use crate::dataset;
use crate::settings::{
    ClsHead, Crop, Init, Model, MomentumForm, Normalise, Schedule, Settings, Softmax, WeightDecayOn,
};

/// Every recipe and its purpose.
pub const RECIPES: &[(&str, &str)] = &[
    (
        "paper",
        "the paper's training; image size, augmentation and network as the paper had them on each data set",
    ),
    (
        "paper-finegrained",
        "the same with the paper's ResNet-50 at 448 pixels, on whatever data set",
    ),
    (
        "paper-cifar",
        "the same with the paper's ResNet-110 for small images, on whatever data set",
    ),
    ("quick", "a shorter schedule and small networks, for a CPU"),
    (
        "vipriors",
        "the VIPriors challenge's ImageNet training: 90 epochs, steps, weight decay",
    ),
];

pub fn names() -> impl Iterator<Item = &'static str> + Clone {
    RECIPES.iter().map(|(name, _)| *name)
}

/// Returns the settings of a recipe on a data set. `None` if no recipe has that name.
pub fn settings(recipe: &str, dataset: &str) -> Option<Settings> {
    let mut settings = match recipe {
        "paper" => match dataset {
            "cifar100" => cifar(Settings::paper(dataset)),
            "digits" | "fashion-mnist" => small(Settings::paper(dataset)),
            _ => fine_grained(Settings::paper(dataset)),
        },
        "paper-finegrained" => fine_grained(Settings::paper(dataset)),
        "paper-cifar" => cifar(Settings::paper(dataset)),
        "quick" => quick(dataset),
        "vipriors" => vipriors(dataset),
        _ => return None,
    };
    // A mirrored digit is another sign, or none.
    settings.flip &= dataset != "digits";
    Some(settings)
}

/// Largest side, in pixels, of images like CIFAR's: networks for photographs would halve them to
/// nothing.
const SMALL_SIDE: u32 = 64;

/// Returns the settings of a recipe on a user's own images, whose shorter side is typically `side`
/// pixels: no image is enlarged to the size of the paper's photographs. If the images were not
/// inspected, the recipe is unchanged.
pub fn fitted(recipe: &str, dataset: &str, side: Option<u32>) -> Option<Settings> {
    let settings = settings(recipe, dataset)?;
    if let ("paper-cifar", Some(side)) = (recipe, side) {
        // Photographs are scaled to CIFAR's size.
        let side = Some(if side <= SMALL_SIDE { side } else { 32 });
        return Some(Settings {
            resize: side,
            crop_size: side,
            ..settings
        });
    }
    let (Some(side), Some(resize), Some(crop_size)) =
        (side, settings.evaluated_resize(), settings.crop_size)
    else {
        return Some(settings);
    };
    if side >= resize {
        return Some(settings);
    }
    if side <= SMALL_SIDE && matches!(recipe, "paper" | "quick") {
        let small = self::settings(recipe, "cifar100")?;
        return Some(Settings {
            dataset: dataset.to_owned(),
            resize: Some(side),
            crop_size: Some(side),
            ..small
        });
    }
    // Multiples of 16, so that a few more images seldom change the training.
    let resize_to = if side > SMALL_SIDE {
        side / 16 * 16
    } else {
        side
    };
    let crop_to = (resize_to * crop_size / resize).max(1);
    let resized = |field: Option<u32>| field.map(|_| resize_to);
    let (resize, test_resize) = (resized(settings.resize), resized(settings.test_resize));
    Some(Settings {
        resize,
        test_resize,
        crop_size: Some(crop_to),
        ..settings
    })
}

/// Returns the side of a data set's images if all have the same small size.
fn small_side(dataset: &str) -> Option<u32> {
    dataset::find(dataset)?.side
}

/// Adds the fine-grained part: CUB, NABirds, Stanford Cars, Flowers-102 at 448 pixels, MIT Indoor
/// 67 at 224.
fn fine_grained(paper: Settings) -> Settings {
    // The paper's image size for MIT Indoor 67 is not verified: 224 is the default of the authors'
    // code.
    let low_resolution = matches!(paper.dataset.as_str(), "mit67" | "vipriors");
    let sized = match small_side(&paper.dataset) {
        // Images of a fixed small size are used as they are.
        Some(_) => paper,
        None => Settings {
            resize: Some(if low_resolution { 256 } else { 512 }),
            crop_size: Some(if low_resolution { 224 } else { 448 }),
            crop: Crop::Random,
            ..paper
        },
    };
    Settings {
        flip: true,
        erase: true,
        model: Model::Resnet50Keras,
        // 24 images on each of 4 GPUs, with batch normalisation separate on each.
        batch_size: 96,
        replicas: 4,
        ..sized
    }
}

fn cifar(paper: Settings) -> Settings {
    // Photographs are scaled to CIFAR's size. The content of a user's folder is unknown: it may be
    // small images.
    let photographs = dataset::find(&paper.dataset).is_some_and(|known| known.side.is_none());
    let side = photographs.then_some(32);
    Settings {
        resize: side,
        crop_size: side,
        shift: 0.15,
        flip: true,
        model: Model::Resnet110Wfc,
        // Keras' l2(2e-4) on the kernels of convolutions and the last layer.
        weight_decay: 4e-4,
        batch_size: 100,
        ..paper
    }
}

/// Adapts the paper's training to small images that are not in the paper: a suitable network and
/// augmentation.
fn small(settings: Settings) -> Settings {
    let fashion = settings.dataset == "fashion-mnist";
    let model = if fashion {
        Model::Resnet20
    } else {
        Model::Resnet8
    };
    Settings {
        shift: if fashion { 0.15 } else { 0.0 },
        flip: fashion,
        model,
        ..settings
    }
}

/// Returns three cycles of the paper's schedule, 84 epochs, with PyTorch's usual numerics.
fn quick(dataset: &str) -> Settings {
    let base = Settings::paper(dataset);
    let sized = match dataset {
        "digits" | "fashion-mnist" => Settings {
            model: Model::Resnet8,
            ..small(base)
        },
        "cifar100" => Settings {
            model: Model::Resnet20,
            weight_decay: 0.0,
            ..cifar(base)
        },
        _ => Settings {
            resize: Some(144),
            crop_size: Some(128),
            model: Model::Resnet18,
            replicas: 1,
            ..fine_grained(base)
        },
    };
    Settings {
        batch_norm_eps: 1e-5,
        // A schedule of some hundred steps is too short for moving averages over a hundred.
        batch_norm_momentum: 0.1,
        cls_head_decay: 0.0,
        softmax: Softmax::LogSoftmax,
        schedule: Schedule::Sgdr {
            base_cycle: 12,
            multiplier: 2,
            cycles: 3,
            learning_rate_min: 1e-6,
        },
        // Small subsets make few steps per epoch otherwise.
        batch_size: 32,
        ..sized
    }
}

/// Returns the challenge's base code: PyTorch's ImageNet example. Training crops are cut from the
/// originals.
fn vipriors(dataset: &str) -> Settings {
    let small = small_side(dataset);
    Settings {
        test_resize: if small.is_some() { None } else { Some(256) },
        crop_size: Some(small.unwrap_or(224)),
        crop: Crop::RandomResized,
        flip: true,
        normalise: if small.is_some() {
            Normalise::Dataset
        } else {
            Normalise::Torchvision
        },
        model: Model::Resnet50,
        init: Init::Torchvision,
        batch_norm_eps: 1e-5,
        batch_norm_momentum: 0.1,
        cls_head: ClsHead::PlainFc,
        cls_head_decay: 0.0,
        softmax: Softmax::LogSoftmax,
        schedule: Schedule::Step {
            epochs: 90,
            every: 30,
            factor: 0.1,
        },
        learning_rate: 0.1,
        momentum_form: MomentumForm::Torch,
        weight_decay: 1e-4,
        weight_decay_on: WeightDecayOn::All,
        clip_norm: None,
        batch_size: 256,
        ..Settings::paper(dataset)
    }
}
