//! The settings of one training: one flat record whose field names are the keys of the sweep
//! language, declared once (see `declare.rs` for what a declaration gives).
//!
//! Every field may be fixed by a recipe, varied by an axis, or changed by an override. Everything
//! in here affects the numbers of a trial, and therefore its id (see `trial.rs`); everything else
//! (threads, directories, how often to print) is elsewhere. See `recipe.rs` for the named starting
//! points, and `contradiction.rs` for fields that cannot go together.

use std::collections::BTreeMap;

use serde::de::value::MapDeserializer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dataset;
use crate::declare::{FieldType, count_or, record, settings, variants, words};
use crate::field::{Kind, above, count, from};
use crate::held_out::Holdout;
use crate::program;

/// Number of evaluations of a training with `evaluate_every: auto`, unless an output reports the
/// best epoch.
pub const AUTOMATIC_EVALUATIONS: u32 = 20;

/// Longest part of a schedule, in epochs.
const EPOCHS: Kind = count(1..=100_000);

settings! {
    /// Everything that decides the result of a training, except the seed.
    pub struct Settings = paper(dataset);

    // -- data

    /// Data set to train on.
    dataset: String = dataset.to_owned(), Kind::Dataset;

    /// Training images kept of each class: a nested, seeded subset.
    samples_per_class: SamplesPerClass = SamplesPerClass::All;

    /// Passes over the subset that make one epoch. The authors repeat small subsets of CUB, so that
    /// an epoch has about as many steps as one of the whole (docs/paper.md, section 7).
    repeats: u32 = dataset::cub_subset(dataset).map_or(1, |count| 30 / count), count(1..=10_000);

    /// Shorter side of training images after decoding, in pixels; null: the originals, which must
    /// all have the same size unless there is a `crop_size`.
    resize: Option<u32> = None, count(1..=4096);

    /// Shorter side of test and held-out images; null: as `resize`.
    #[serde(default)]
    test_resize: Option<u32> = None, count(1..=4096);

    /// Side of the square that the network sees; null: the image's own size.
    crop_size: Option<u32> = None, count(1..=4096);

    /// Place of training crops. Test images are cropped at the centre.
    crop: Crop = Crop::Centre;

    /// Largest random shift as a fraction of height and width (bilinear, edge replicated); 0: off.
    shift: f64 = 0.0, from(0.0).below(1.0);

    /// Horizontal flip with probability one half.
    flip: bool = false;

    /// Random erasing with probability one half, before cropping.
    erase: bool = false;

    /// Random operations on each image.
    rand_augment: Option<RandAugment> = None;

    /// Patches of other images, and their labels.
    cutmix: Option<CutMix> = None;

    /// Channel statistics that images are standardised with: published, computed, or those of
    /// ImageNet.
    normalise: Normalise = Normalise::Dataset;

    /// Handling of images that cannot be decoded: the trial fails and lists them, or they are left
    /// out and the table reports how many.
    #[serde(default)]
    corrupt: Corrupt = Corrupt::Refuse;

    // -- network

    /// The network.
    model: Model = Model::Resnet8;

    /// Distribution that weights are drawn from before training.
    init: Init = Init::Keras;

    /// Number added to the variance in batch normalisation.
    batch_norm_eps: f64 = 1e-3, above(0.0).to(1.0);

    /// Weight of the new batch in the moving statistics (PyTorch's definition; Keras' 0.99 is 0.01
    /// here).
    batch_norm_momentum: f64 = 0.01, above(0.0).to(1.0);

    /// Statistics of each replica by itself, or of the whole batch.
    batch_norm: BatchNorm = BatchNorm::PerReplica;

    /// Pre-trained weights to start from: a safetensors or .pth state dict with torchvision's
    /// names.
    weights: Option<String> = None;

    /// With `weights`: epochs in which only the new layers train, before the schedule starts.
    finetune_epochs: u32 = 0, count(0..=100_000);

    /// Learning rate of those epochs.
    finetune_learning_rate: f64 = 0.1, above(0.0).to(1e6);

    // -- loss

    /// The loss, its head and its decision rule.
    loss: Loss = Loss::Xent;

    /// Label smoothing of the cross-entropy; 0: off.
    label_smoothing: f64 = 0.0, from(0.0).below(1.0);

    /// Weight of the cross-entropy beside the cosine loss (lambda of the paper).
    cls_weight: f64 = 0.1, from(0.0).to(1e6);

    /// Layers between the normalised embedding and the logits of `cos_xent`.
    cls_head: ClsHead = ClsHead::ReluBnFc;

    /// L2 penalty on that head's kernel, in place of `weight_decay` (gradient form). Keras'
    /// `l2(5e-4)` adds `5e-4 w^2` to the loss: `1e-3 w` to the gradient.
    cls_head_decay: f64 = 1e-3, from(0.0).to(1e3);

    /// Log-softmax, or Keras' clipped probabilities.
    softmax: Softmax = Softmax::KerasClip;

    /// Targets of `mse`, `cos` and `cos_xent`; `{hierarchy: PATH}` for short.
    embedding: Embedding = Embedding::OneHot;

    // -- optimiser

    /// Rule by which gradients change the weights. `adamw` for short has PyTorch's defaults: beta1
    /// 0.9, beta2 0.999, epsilon 1e-8.
    #[serde(default)]
    #[not_in_ids_if("Optimizer::is_sgd")]
    optimizer: Optimizer = Optimizer::Sgd;

    /// Number of epochs, and course of the learning rate.
    // 12 + 24 + 48 + 96 + 192 = 372 epochs. Not verified for every data set.
    schedule: Schedule = Schedule::Sgdr {
        base_cycle: 12,
        multiplier: 2,
        cycles: 5,
        learning_rate_min: 1e-6,
    };

    /// Highest learning rate of the schedule.
    // The authors' default. The published choice per data set and loss is in sweeps/table2.yaml.
    learning_rate: f64 = 0.1, above(0.0).to(1e6);

    /// Momentum of SGD.
    momentum: f64 = 0.9, from(0.0).below(1.0);

    /// Form of momentum: with the learning rate in it (Keras) or without (PyTorch).
    momentum_form: MomentumForm = MomentumForm::Keras;

    /// Nesterov's form of momentum.
    nesterov: bool = false;

    /// L2 penalty (gradient form: `g += d * w`). With `adamw` decoupled from the gradient:
    /// `w -= learning_rate * d * w`.
    // None on ResNet-50: the paper's cross-entropy baseline depends on that.
    weight_decay: f64 = 0.0, from(0.0).to(1e3);

    /// Parameters with weight decay: kernels alone, or all.
    weight_decay_on: WeightDecayOn = WeightDecayOn::Kernels;

    /// Global norm above which the gradient is scaled down; null: no clipping.
    clip_norm: Option<f64> = Some(10.0), above(0.0).to(1e9);

    /// Size of a batch, over all replicas.
    batch_size: u32 = 100, count(1..=1_000_000);

    // -- execution, where it affects the numbers

    /// Copies of the model that share each batch.
    replicas: u32 = 1, count(1..=64);

    /// Number format of the network; `auto`: chosen by the trainer for model, image side and
    /// device.
    precision: Precision = Precision::Auto;

    /// On CUDA: only deterministic kernels. The CPU has no others.
    deterministic: bool = false;

    // -- evaluation

    /// Part of the training subset that is held out and evaluated on instead of the test set: a
    /// fraction of every class, with a floor, or one of equal parts by the seed. A data set's own
    /// `val/` is used in its place.
    holdout: Option<Holdout> = None;

    /// Epochs between evaluations; the last epoch is always evaluated, and the best epoch is the
    /// best of those. `auto`: every epoch if an output has `value: best`, otherwise about 20
    /// evaluations in all.
    evaluate_every: EvaluateEvery = EvaluateEvery::Auto;
}

/// Fields by name, with values as `Settings` writes them.
pub type Fields = BTreeMap<String, Value>;

impl Settings {
    /// Returns all fields; for a program, those that it has.
    pub fn fields(&self) -> Fields {
        let mut fields: Fields = match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields.into_iter().collect(),
            _ => unreachable!("settings are a record"),
        };
        if let Some(own) = &self.program {
            fields.retain(|name, _| program::COMMON.contains(&name.as_str()));
            if self.dataset.is_empty() {
                fields.remove("dataset");
            }
            fields.insert(program::EPOCHS.to_owned(), Value::from(self.num_epochs()));
            fields.extend(own.clone());
        }
        fields
    }

    /// Returns the settings of a program with these values of its own fields, and one epoch. An
    /// empty name is no data set.
    pub fn of_program(dataset: &str, own: Fields) -> Self {
        Self {
            schedule: Schedule::Constant { epochs: 1 },
            program: Some(own),
            ..Self::paper(dataset)
        }
    }

    /// Returns the settings of a program with some fields replaced.
    fn with_own(&self, own: &Fields, set: &Fields) -> Result<Self, serde_json::Error> {
        let is_common = |name: &str| program::COMMON.contains(&name);
        let built_in = Self {
            program: None,
            ..self.clone()
        };
        let mut fields = built_in.fields();
        let mut own = own.clone();
        for (name, value) in set {
            if is_common(name) {
                fields.insert(name.clone(), value.clone());
            } else if name == program::EPOCHS {
                let epochs = serde_json::from_value(value.clone())?;
                let schedule = serde_json::to_value(Schedule::Constant { epochs })?;
                fields.insert("schedule".to_owned(), schedule);
            } else {
                own.insert(name.clone(), value.clone());
            }
        }
        Ok(Self {
            program: Some(own),
            ..Self::from_fields(&fields)?
        })
    }

    /// Returns the settings with these fields. The error is serde's and names the field.
    pub fn from_fields(fields: &Fields) -> Result<Self, serde_json::Error> {
        let entries = fields.iter().map(|(name, value)| (name.as_str(), value));
        Self::deserialize(MapDeserializer::new(entries))
    }

    /// Returns the settings with some fields replaced.
    pub fn with(&self, set: &Fields) -> Result<Self, serde_json::Error> {
        if set.is_empty() {
            return Ok(self.clone());
        }
        if let Some(own) = &self.program {
            return self.with_own(own, set);
        }
        let mut fields = self.fields();
        fields.extend(set.clone());
        Self::from_fields(&fields)
    }

    /// Returns the number of epochs between evaluations, `auto` being resolved without regard to the
    /// outputs.
    pub fn evaluation_interval(&self) -> u32 {
        match self.evaluate_every {
            EvaluateEvery::Count(epochs) => epochs,
            EvaluateEvery::Auto => self.num_epochs().div_ceil(AUTOMATIC_EVALUATIONS).max(1),
        }
    }

    /// Returns the shorter side of evaluated images; absent: they keep their size.
    pub fn evaluated_resize(&self) -> Option<u32> {
        self.test_resize.or(self.resize)
    }

    /// Returns the number of epochs before the schedule, in which fine-tuning trains the new layers
    /// alone.
    pub fn first_phase(&self) -> u32 {
        if self.weights.is_some() {
            self.finetune_epochs
        } else {
            0
        }
    }

    /// Returns the number of epochs of a trial: the first phase and the schedule.
    pub fn num_epochs(&self) -> u32 {
        self.schedule
            .num_epochs()
            .saturating_add(self.first_phase())
    }
}

count_or! {
    /// `all`, or a number of training images of every class.
    pub enum SamplesPerClass { All = "all", Count = 1..=10_000_000 }
}

count_or! {
    /// A number of epochs, or `auto`: every epoch if an output reports the best one, otherwise
    /// about [`AUTOMATIC_EVALUATIONS`] in all.
    pub enum EvaluateEvery { Auto = "auto", Count = 1..=100_000 }
}

words! {
    /// Place of training crops.
    pub enum Crop {
        /// The centre, as at test time.
        Centre = "centre",
        /// Uniform over all positions; images smaller than the crop are reflect-padded.
        Random = "random",
        /// Area in 8..100 %, aspect ratio in 3/4..4/3, resized to the crop (torchvision's
        /// RandomResizedCrop).
        RandomResized = "random_resized",
    }
}

record! {
    /// RandAugment's choice of operations.
    pub struct RandAugment {
        /// Number of operations per image.
        operations: u32, count(1..=100);
        magnitude: f64, from(0.0).to(10.0);
        /// Standard deviation of the magnitude.
        magnitude_std: f64, from(0.0).to(10.0);
        /// Probability that each chosen operation is applied.
        probability: f64, from(0.0).to(1.0);
    }
}

record! {
    /// CutMix' mixing of images.
    pub struct CutMix {
        /// Both parameters of the Beta distribution that the mixing ratio is drawn from.
        alpha: f64, above(0.0).to(1000.0);
        /// Probability that a batch is mixed.
        probability: f64, from(0.0).to(1.0);
    }
}

words! {
    /// Channel statistics that images are standardised with.
    pub enum Normalise {
        /// The published statistics of the data set if there are any, otherwise computed from the
        /// training set.
        Dataset = "dataset",
        /// Computed from the whole training set.
        Computed = "computed",
        /// The ILSVRC statistics the authors used with pre-trained weights.
        Ilsvrc = "ilsvrc",
        /// torchvision's .485 .456 .406 / .229 .224 .225.
        Torchvision = "torchvision",
    }
}

words! {
    /// Handling of images that cannot be decoded.
    #[derive(Default)]
    pub enum Corrupt {
        /// The trial fails and names them.
        #[default]
        Refuse = "refuse",
        /// They are left out of both splits, and tables report their number.
        Skip = "skip",
    }
}

words! {
    /// The network.
    #[derive(PartialOrd, Ord, Hash)]
    pub enum Model {
        Resnet8 = "resnet-8",
        Resnet20 = "resnet-20",
        Resnet32 = "resnet-32",
        Resnet56 = "resnet-56",
        Resnet110 = "resnet-110",
        /// The authors' wide CIFAR network: 32/64/128 channels, biased convolutions, pooled
        /// shortcuts.
        Resnet110Wfc = "resnet-110-wfc",
        Resnet18 = "resnet-18",
        Resnet34 = "resnet-34",
        /// torchvision's form: stride on the 3x3 convolution, no biases.
        Resnet50 = "resnet-50",
        /// The authors' form: stride on the first 1x1 convolution, biases.
        Resnet50Keras = "resnet-50-keras",
        /// Full convolutions (VIPriors).
        Resnet50Fconv = "resnet-50-fconv",
        EfficientnetB0 = "efficientnet-b0",
        /// Wide residual networks of 16 layers for small images, with twice or eight times the
        /// channels (Zagoruyko & Komodakis, BMVC 2016), without dropout.
        WideResnet16x2 = "wide-resnet-16-2",
        WideResnet16x8 = "wide-resnet-16-8",
    }
}

words! {
    /// Distribution that weights are drawn from before training.
    pub enum Init {
        /// Truncated He normal for ImageNet-form convolutions, Glorot uniform elsewhere, biases
        /// zero.
        Keras = "keras",
        /// He normal (fan out) for convolutions; PyTorch's default for linear layers.
        Torchvision = "torchvision",
    }
}

words! {
    /// Images that batch normalisation takes its statistics from.
    pub enum BatchNorm {
        /// Each replica normalises with the statistics of its own shard, as in the paper.
        PerReplica = "per_replica",
        /// Statistics over the whole batch: results do not depend on the number of replicas.
        Synchronised = "synchronised",
    }
}

words! {
    /// The loss, its head and its decision rule.
    #[derive(PartialOrd, Ord, Hash)]
    pub enum Loss {
        Xent = "xent",
        Mse = "mse",
        Cos = "cos",
        CosXent = "cos_xent",
        /// Cross-entropy directly on the unit-norm output, as in the VIPriors slides.
        CosXentDirect = "cos_xent_direct",
    }
}

words! {
    /// Layers between the normalised embedding and the logits of `cos_xent`.
    pub enum ClsHead {
        /// The head in the authors' code: ReLU, batch normalisation, fully connected.
        ReluBnFc = "relu_bn_fc",
        /// The head in the paper's text: fully connected.
        PlainFc = "plain_fc",
    }
}

words! {
    /// Form of the softmax in a cross-entropy.
    pub enum Softmax {
        LogSoftmax = "log_softmax",
        /// Probabilities clipped to [1e-7, 1 - 1e-7]: a sample below has no gradient.
        KerasClip = "keras_clip",
    }
}

/// Targets of the cosine and squared losses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Embedding {
    OneHot,
    /// Unit vectors whose inner products are the similarities of a class hierarchy.
    Hierarchy(HierarchyFile),
}

impl FieldType for Embedding {
    const KIND: Kind = Kind::Variant(&[("one_hot", &[]), ("hierarchy", HierarchyFile::PARTS)]);
}

record! {
    /// A file with the edges of a class hierarchy.
    pub struct HierarchyFile {
        /// Relative to the data directory, or absolute.
        path: String;
        /// True if lines read "child parent" instead of "parent child".
        #[serde(default)]
        child_parent: bool;
    }
}

/// Rule by which gradients change the weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// Gradient descent with momentum.
    #[default]
    Sgd,
    /// Adam with decoupled weight decay (Loshchilov & Hutter, ICLR 2019).
    Adamw(AdamW),
}

impl Optimizer {
    fn is_sgd(optimizer: &&Self) -> bool {
        **optimizer == Self::Sgd
    }
}

impl FieldType for Optimizer {
    const KIND: Kind = Kind::Variant(&[("sgd", &[]), ("adamw", AdamW::PARTS)]);
}

record! {
    /// Constants of AdamW, with PyTorch's defaults.
    pub struct AdamW {
        /// Decay of the mean gradient.
        beta1: f64 = 0.9, from(0.0).below(1.0);
        /// Decay of the mean squared gradient.
        beta2: f64 = 0.999, from(0.0).below(1.0);
        /// Number added to the root of the mean squared gradient.
        epsilon: f64 = 1e-8, above(0.0).to(1.0);
    }
}

variants! {
    /// Number of epochs, and course of the learning rate.
    pub enum Schedule {
        /// Warm restarts: cycles of `base_cycle`, `base_cycle * multiplier`, ... epochs
        /// (docs/paper.md, section 2.2).
        Sgdr = "sgdr" {
            base_cycle: u32, EPOCHS;
            multiplier: u32, count(1..=100);
            cycles: u32, count(1..=100);
            learning_rate_min: f64, from(0.0).to(1e6);
        }
        /// The learning rate is multiplied by `factor` every `every` epochs.
        Step = "step" {
            epochs: u32, EPOCHS;
            every: u32, EPOCHS;
            factor: f64, above(0.0).to(1.0);
        }
        /// One half cosine down to zero, per epoch.
        Cosine = "cosine" { epochs: u32, EPOCHS; }
        Constant = "constant" { epochs: u32, EPOCHS; }
    }
}

words! {
    /// Form of momentum.
    pub enum MomentumForm {
        /// `v = m v - lr g; w += v`: the form behind the published numbers.
        Keras = "keras",
        /// `v = m v + g; w -= lr v`.
        Torch = "torch",
    }
}

words! {
    /// Parameters with weight decay.
    pub enum WeightDecayOn {
        /// Weight decay on kernels of convolutions and fully connected layers.
        Kernels = "kernels",
        All = "all",
    }
}

words! {
    /// Number format of the network.
    pub enum Precision {
        /// Chosen by the trainer for the model, image side and device; the choice is part of the
        /// record.
        Auto = "auto",
        F32 = "f32",
        /// bf16 working weights and activations; f32 master weights and batch normalisation.
        Bf16 = "bf16",
    }
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
            Self::Step { every, factor, .. } => maximum * factor.powi((epoch / every) as i32),
            Self::Cosine { epochs } => {
                maximum / 2.0 * (1.0 + (PI * f64::from(epoch) / f64::from(epochs)).cos())
            }
            Self::Constant { .. } => maximum,
        }
    }
}
