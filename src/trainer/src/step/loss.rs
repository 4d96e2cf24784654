//! The losses of docs/paper.md, section 1 as functions of a head's outputs, per sample, with their
//! decision rules.
//!
//! Losses are sums over classes, never means; the caller takes the batch mean, because shards are
//! weighted. This file has no parameters and draws nothing. Formulas: Barz & Denzler, WACV 2020, in
//! the form of the authors' code. Next: head.rs, which computes the outputs.

use sweep::Settings;
use sweep::settings::{Loss, Softmax};
use tch::{Device, Kind, Reduction, Tensor};

/// Keras' clip of probabilities: below it a sample's gradient is zero.
const KERAS_EPSILON: f64 = 1e-7;

/// Similarities this close to the largest count as the nearest class (the authors' `nn_accuracy`):
/// classes of a hierarchy can tie exactly.
const TIE: f64 = 1e-6;

/// Outputs of a head for a batch of features: f32, [batch, classes] each.
pub struct Outputs {
    /// The embedding: raw for `mse`, of unit length for the cosine losses. Undefined for `xent`.
    pub embedding: Option<Tensor>,
    /// Inputs of the softmax, if the loss has one.
    pub logits: Option<Tensor>,
}

/// A loss with its targets on one device.
pub struct Criterion {
    loss: Loss,
    softmax: Softmax,
    label_smoothing: f64,
    cls_weight: f64,
    /// Class embeddings, one row per class, and half their squared lengths.
    targets: Tensor,
    half_squares: Tensor,
    semantic: bool,
}

impl Criterion {
    /// Creates a criterion. `embeddings`: row-major [classes, classes], used for `embedding:
    /// hierarchy`.
    pub fn new(
        settings: &Settings,
        embeddings: Option<&[f32]>,
        num_classes: i64,
        device: Device,
    ) -> Self {
        let targets = match embeddings {
            None => Tensor::eye(num_classes, (Kind::Float, device)),
            Some(rows) => {
                assert_eq!(
                    rows.len() as i64,
                    num_classes * num_classes,
                    "one embedding per class"
                );
                Tensor::from_slice(rows)
                    .view([num_classes, num_classes])
                    .to_device(device)
            }
        };
        let half_squares = targets
            .square()
            .sum_dim_intlist([1i64].as_slice(), false, Kind::Float)
            / 2.0;
        Self {
            loss: settings.loss,
            softmax: settings.softmax,
            label_smoothing: settings.label_smoothing,
            cls_weight: settings.cls_weight,
            semantic: embeddings.is_some(),
            targets,
            half_squares,
        }
    }

    /// Returns the loss of each sample, `[batch]`. `labels`: int64 `[batch]`.
    pub fn per_sample(&self, outputs: &Outputs, labels: &Tensor) -> Tensor {
        match self.loss {
            Loss::Xent => self.cross_entropy(outputs.logits(), labels),
            Loss::Mse => (outputs.embedding() - self.target(labels))
                .square()
                .sum_dim_intlist([1i64].as_slice(), false, Kind::Float),
            Loss::Cos => self.cosine(outputs.embedding(), labels),
            Loss::CosXent | Loss::CosXentDirect => {
                let cosine = self.cosine(outputs.embedding(), labels);
                cosine + self.cross_entropy(outputs.logits(), labels) * self.cls_weight
            }
        }
    }

    /// Returns how well each class fits each sample, `[batch, classes]`: the logits, or a measure of
    /// how near the class's embedding is.
    pub fn scores(&self, outputs: &Outputs) -> Tensor {
        match self.loss {
            Loss::Xent | Loss::CosXent | Loss::CosXentDirect => outputs.logits().shallow_clone(),
            // nearest embedding in Euclidean distance; equals the argmax of z for one-hot
            // embeddings
            Loss::Mse => outputs.embedding().matmul(&self.targets.tr()) - &self.half_squares,
            Loss::Cos if self.semantic => outputs.embedding().matmul(&self.targets.tr()),
            Loss::Cos => outputs.embedding().shallow_clone(),
        }
    }

    /// Returns which samples are classified correctly, bool `[batch]`.
    pub fn hits(&self, scores: &Tensor, labels: &Tensor) -> Tensor {
        if self.has_ties() {
            let highest = scores.amax([1i64].as_slice(), false);
            return score_of(labels, scores)
                .squeeze_dim(1)
                .gt_tensor(&(highest - TIE));
        }
        scores.argmax(1, false).eq_tensor(labels)
    }

    /// Returns for which samples at most four classes fit better than the label, bool `[batch]`.
    pub fn top5_hits(&self, scores: &Tensor, labels: &Tensor) -> Tensor {
        let others = scores.size()[1] - 5;
        let mut of_label = score_of(labels, scores);
        if self.has_ties() {
            of_label += TIE;
        }
        let not_better = scores.le_tensor(&of_label);
        let not_better = not_better.sum_dim_intlist([1i64].as_slice(), false, Kind::Int64);
        not_better.gt(others.max(0))
    }

    fn has_ties(&self) -> bool {
        self.loss == Loss::Cos && self.semantic
    }

    /// Returns phi(y), [batch, classes].
    fn target(&self, labels: &Tensor) -> Tensor {
        self.targets.index_select(0, labels)
    }

    /// Returns 1 - <phi(y), psi>.
    fn cosine(&self, embedding: &Tensor, labels: &Tensor) -> Tensor {
        let similarity = if self.semantic {
            (embedding * self.target(labels)).sum_dim_intlist([1i64].as_slice(), false, Kind::Float)
        } else {
            of_label(embedding, labels)
        };
        1.0 - similarity
    }

    /// Returns -sum_c t_c log p_c with t_true = 1 - eps and t_other = eps / (C - 1).
    fn cross_entropy(&self, logits: &Tensor, labels: &Tensor) -> Tensor {
        let log_probabilities = match self.softmax {
            Softmax::LogSoftmax => logits.log_softmax(1, Kind::Float),
            Softmax::KerasClip => logits
                .softmax(1, Kind::Float)
                .clamp(KERAS_EPSILON, 1.0 - KERAS_EPSILON)
                .log(),
        };
        let of_label = of_label(&log_probabilities, labels);
        if self.label_smoothing == 0.0 {
            return -of_label;
        }
        let num_classes = self.targets.size()[0];
        let other = self.label_smoothing / (num_classes - 1).max(1) as f64;
        let all = log_probabilities.sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
        -(of_label * (1.0 - self.label_smoothing - other) + all * other)
    }
}

/// Returns `scores[b, labels[b]]`, `[batch, 1]`.
fn score_of(labels: &Tensor, scores: &Tensor) -> Tensor {
    scores.gather(1, &labels.unsqueeze(1), false)
}

/// Returns `values[b, labels[b]]`, float `[batch]`. Uses the likelihood, whose gradient writes one
/// element per row; the gradient of `gather` adds to its elements, for which CUDA's deterministic
/// form must sort.
fn of_label(values: &Tensor, labels: &Tensor) -> Tensor {
    const IGNORED: i64 = -100; // no label
    -values.g_nll_loss(labels, None::<Tensor>, Reduction::None, IGNORED)
}

impl Outputs {
    fn logits(&self) -> &Tensor {
        self.logits
            .as_ref()
            .expect("the head of this loss has logits")
    }

    fn embedding(&self) -> &Tensor {
        self.embedding
            .as_ref()
            .expect("the head of this loss has an embedding")
    }
}
