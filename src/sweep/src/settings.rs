//! The settings of one training: one flat record whose field names are the keys of the sweep
//! language.
//!
//! Every field may be fixed by a recipe, varied by an axis, or changed by an override. Everything
//! in here affects the numbers of a trial, and therefore its id (see `trial.rs`); everything else
//! (threads, directories, how often to print) is elsewhere. See `recipe.rs` for the named starting
//! points.

use serde::{Deserialize, Serialize};

/// Everything that decides the result of a training, except the seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    // -- data
    /// A data set's name (`digits`, `cub`, ...) or `folder:PATH`.
    pub dataset: String,
    /// Training images kept per class: a nested, seeded, class-stratified subset.
    pub samples_per_class: SamplesPerClass,
    /// Passes over the subset that make one epoch (the authors repeat small subsets, docs/paper.md,
    /// section 7).
    pub repeats: u32,
    /// Shorter side of training images after decoding, in pixels. If absent, they keep their size,
    /// and without a `crop_size` all must have the same.
    pub resize: Option<u32>,
    /// Shorter side of test and held-out images; the default is `resize`.
    #[serde(default)]
    pub test_resize: Option<u32>,
    /// Side of the square input of the network; absent: the image's own size.
    pub crop_size: Option<u32>,
    /// Where training crops are taken. Test images are always centre-cropped.
    pub crop: Crop,
    /// Largest random shift as a fraction of height and width (bilinear, edge replicated); 0: off.
    pub shift: f64,
    /// Horizontal flip with probability one half.
    pub flip: bool,
    /// Random erasing with probability one half, before cropping.
    pub erase: bool,
    pub rand_augment: Option<RandAugment>,
    pub cutmix: Option<CutMix>,
    /// Channel statistics that images are standardised with.
    pub normalise: Normalise,
    /// Handling of images that cannot be decoded.
    #[serde(default)]
    pub corrupt: Corrupt,
    // -- network
    pub model: Model,
    /// How weights are drawn before training.
    pub init: Init,
    pub batch_norm_eps: f64,
    /// Weight of the new batch in the moving statistics (PyTorch's definition; Keras' 0.99 is 0.01
    /// here).
    pub batch_norm_momentum: f64,
    pub batch_norm: BatchNorm,
    /// A safetensors or .pth state dict with torchvision's names to start from: relative to the
    /// data directory, or absolute.
    pub weights: Option<String>,
    /// With `weights`: epochs in which only the new layers train, before the schedule starts.
    pub finetune_epochs: u32,
    pub finetune_learning_rate: f64,
    // -- loss
    pub loss: Loss,
    /// Label smoothing of the cross-entropy; 0: off.
    pub label_smoothing: f64,
    /// Weight of the cross-entropy beside the cosine loss (lambda of the paper).
    pub cls_weight: f64,
    /// Layers between the normalised embedding and the logits of `cos_xent`.
    pub cls_head: ClsHead,
    /// Gradient form (`g += d * w`) of the L2 penalty on the kernel of that head, replacing
    /// `weight_decay` there.
    pub cls_head_decay: f64,
    pub softmax: Softmax,
    /// Target of the cosine and squared losses.
    pub embedding: Embedding,
    // -- optimiser
    pub schedule: Schedule,
    pub learning_rate: f64,
    pub momentum: f64,
    pub momentum_form: MomentumForm,
    pub nesterov: bool,
    /// Gradient form (`g += d * w`) of the L2 penalty.
    pub weight_decay: f64,
    pub weight_decay_on: WeightDecayOn,
    /// Global norm above which the gradient is scaled down; absent: no clipping.
    pub clip_norm: Option<f64>,
    /// Size of a batch, over all replicas.
    pub batch_size: u32,
    // -- execution, where it affects the numbers
    /// Copies of the model that share each batch.
    pub replicas: u32,
    pub precision: Precision,
    /// Use only deterministic kernels on CUDA. The CPU always does.
    pub deterministic: bool,
    // -- evaluation
    /// Hold this fraction of every class out of the training subset and evaluate on it instead of
    /// the test set.
    pub holdout: Option<f64>,
    /// Epochs between evaluations; the last epoch is always evaluated. It limits what `best` means:
    /// the best of the evaluated epochs.
    pub evaluate_every: u32,
}

/// `all`, or a number of training images of every class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SamplesPerClass {
    Count(u32),
    All,
}

impl Serialize for SamplesPerClass {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u32(*count),
            Self::All => serializer.serialize_str("all"),
        }
    }
}

impl<'de> Deserialize<'de> for SamplesPerClass {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = SamplesPerClass;
            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("`all` or a whole number of at least 1")
            }
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<SamplesPerClass, E> {
                match u32::try_from(value) {
                    Ok(count) if count >= 1 => Ok(SamplesPerClass::Count(count)),
                    _ => Err(E::invalid_value(
                        serde::de::Unexpected::Unsigned(value),
                        &self,
                    )),
                }
            }
            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<SamplesPerClass, E> {
                match u64::try_from(value) {
                    Ok(value) => self.visit_u64(value),
                    Err(_) => Err(E::invalid_value(
                        serde::de::Unexpected::Signed(value),
                        &self,
                    )),
                }
            }
            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<SamplesPerClass, E> {
                match value {
                    "all" => Ok(SamplesPerClass::All),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(value), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl std::fmt::Display for SamplesPerClass {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(count) => count.fmt(formatter),
            Self::All => formatter.write_str("all"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crop {
    /// The centre, as at test time.
    Centre,
    /// Uniform over all positions; images smaller than the crop are reflect-padded.
    Random,
    /// Area in 8..100 %, aspect ratio in 3/4..4/3, resized to the crop (torchvision's
    /// RandomResizedCrop).
    RandomResized,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandAugment {
    /// Number of operations per image.
    pub operations: u32,
    /// 0..=10.
    pub magnitude: f64,
    /// Standard deviation of the magnitude.
    pub magnitude_std: f64,
    /// Probability that each chosen operation is applied.
    pub probability: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CutMix {
    /// Both parameters of the Beta distribution that the mixing ratio is drawn from.
    pub alpha: f64,
    /// Probability that a batch is mixed.
    pub probability: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalise {
    /// The published statistics of the data set if there are any, otherwise computed from the
    /// training set.
    Dataset,
    /// Computed from the whole training set.
    Computed,
    /// The ILSVRC statistics the authors used with pre-trained weights.
    Ilsvrc,
    /// torchvision's .485 .456 .406 / .229 .224 .225.
    Torchvision,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Corrupt {
    /// The trial fails and names them.
    #[default]
    Refuse,
    /// They are left out of both splits, and tables report their number.
    Skip,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Model {
    #[serde(rename = "resnet-8")]
    Resnet8,
    #[serde(rename = "resnet-20")]
    Resnet20,
    #[serde(rename = "resnet-32")]
    Resnet32,
    #[serde(rename = "resnet-56")]
    Resnet56,
    #[serde(rename = "resnet-110")]
    Resnet110,
    /// The authors' wide CIFAR network: 32/64/128 channels, biased convolutions, pooled shortcuts.
    #[serde(rename = "resnet-110-wfc")]
    Resnet110Wfc,
    #[serde(rename = "resnet-18")]
    Resnet18,
    #[serde(rename = "resnet-34")]
    Resnet34,
    /// torchvision's form: stride on the 3x3 convolution, no biases.
    #[serde(rename = "resnet-50")]
    Resnet50,
    /// The authors' form: stride on the first 1x1 convolution, biases.
    #[serde(rename = "resnet-50-keras")]
    Resnet50Keras,
    /// Full convolutions (VIPriors).
    #[serde(rename = "resnet-50-fconv")]
    Resnet50Fconv,
    #[serde(rename = "efficientnet-b0")]
    EfficientnetB0,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// Truncated He normal for ImageNet-form convolutions, Glorot uniform elsewhere, biases zero.
    Keras,
    /// He normal (fan out) for convolutions; PyTorch's default for linear layers.
    Torchvision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchNorm {
    /// Each replica normalises with the statistics of its own shard, as in the paper.
    PerReplica,
    /// Statistics over the whole batch: results do not depend on the number of replicas.
    Synchronised,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    Xent,
    Mse,
    Cos,
    CosXent,
    /// Cross-entropy directly on the unit-norm output, as in the VIPriors slides.
    CosXentDirect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClsHead {
    /// The head in the authors' code: ReLU, batch normalisation, fully connected.
    ReluBnFc,
    /// The head in the paper's text: fully connected.
    PlainFc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Softmax {
    LogSoftmax,
    /// Probabilities clipped to [1e-7, 1 - 1e-7]: a sample below has no gradient.
    KerasClip,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Embedding {
    OneHot,
    /// Unit vectors whose inner products are the similarities of a class hierarchy.
    Hierarchy(HierarchyFile),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HierarchyFile {
    /// Relative to the data directory, or absolute.
    pub path: String,
    /// True if lines read "child parent" instead of "parent child".
    #[serde(default)]
    pub child_parent: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Warm restarts: cycles of `base_cycle`, `base_cycle * multiplier`, ... epochs (docs/paper.md,
    /// section 2.2).
    Sgdr {
        base_cycle: u32,
        multiplier: u32,
        cycles: u32,
        learning_rate_min: f64,
    },
    /// The learning rate is multiplied by `factor` every `every` epochs.
    Step {
        epochs: u32,
        every: u32,
        factor: f64,
    },
    /// One half cosine down to zero, per epoch.
    Cosine {
        epochs: u32,
    },
    Constant {
        epochs: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MomentumForm {
    /// `v = m v - lr g; w += v`: the form behind the published numbers.
    Keras,
    /// `v = m v + g; w -= lr v`.
    Torch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightDecayOn {
    /// Weight decay on kernels of convolutions and fully connected layers.
    Kernels,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Chosen by the trainer for the model, image side and device; the choice is part of the
    /// record.
    Auto,
    F32,
    /// bf16 working weights and activations; f32 master weights and batch normalisation.
    Bf16,
}

impl Schedule {
    /// Returns the number of epochs of the whole schedule.
    pub fn num_epochs(&self) -> u32 {
        match *self {
            Self::Sgdr {
                base_cycle,
                multiplier,
                cycles,
                ..
            } => {
                let mut length = base_cycle;
                let mut total = 0u32;
                for _ in 0..cycles {
                    total = total.saturating_add(length);
                    length = length.saturating_mul(multiplier);
                }
                total
            }
            Self::Step { epochs, .. } | Self::Cosine { epochs } | Self::Constant { epochs } => {
                epochs
            }
        }
    }

    /// Returns the learning rate of an epoch, counted from 0. Warm restarts have the authors'
    /// quirk: the first epoch of a cycle runs at the maximum, epoch i > 0 at the point (i + 1) / T,
    /// so the last one runs at the minimum exactly.
    pub fn learning_rate(&self, maximum: f64, epoch: u32) -> f64 {
        use std::f64::consts::PI;
        match *self {
            Self::Sgdr {
                base_cycle,
                multiplier,
                cycles,
                learning_rate_min,
            } => {
                let mut position = epoch;
                let mut length = base_cycle;
                for _ in 1..cycles {
                    if position < length {
                        break;
                    }
                    position -= length;
                    length = length.saturating_mul(multiplier);
                }
                if position == 0 {
                    return maximum;
                }
                let progress = f64::from(position + 1) / f64::from(length);
                learning_rate_min
                    + (maximum - learning_rate_min) / 2.0 * (1.0 + (PI * progress).cos())
            }
            Self::Step { every, factor, .. } => {
                maximum * factor.powi((epoch / every.max(1)) as i32)
            }
            Self::Cosine { epochs } => {
                maximum / 2.0 * (1.0 + (PI * f64::from(epoch) / f64::from(epochs.max(1))).cos())
            }
            Self::Constant { .. } => maximum,
        }
    }
}

impl Settings {
    /// Returns the shorter side of evaluated images; absent: they keep their size.
    pub fn evaluated_resize(&self) -> Option<u32> {
        self.test_resize.or(self.resize)
    }

    /// Returns the number of epochs of a trial, including the first phase of fine-tuning.
    pub fn num_epochs(&self) -> u32 {
        let first_phase = if self.weights.is_some() {
            self.finetune_epochs
        } else {
            0
        };
        self.schedule.num_epochs().saturating_add(first_phase)
    }
}
