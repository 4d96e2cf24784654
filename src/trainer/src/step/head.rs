//! The part from pooled features to the losses' inputs: the last fully connected layer, and
//! `cos_xent`'s head.
//!
//! d = C for every loss (docs/paper.md, section 1): features -> Dense(C) = z, then psi = z / ||z||
//! for the cosine losses, then optionally ReLU -> BatchNorm -> Dense(C) on psi. The layer keeps
//! torchvision's name (`fc`), so that weights can be exchanged. Next: loss.rs.

use sweep::Settings;
use sweep::settings::{ClsHead, Loss};
use tch::{Kind, Tensor};

use crate::network::nn::{BatchNorm, Builder, Linear, Pass};
use crate::step::loss::Outputs;

/// TensorFlow's `l2_normalize` limit on the squared length.
const SMALLEST_SQUARED_LENGTH: f64 = 1e-12;

/// Name above the parameters of the head on the embedding.
pub const CLS_HEAD: &str = "cls_head";

pub struct Head {
    loss: Loss,
    fc: Linear,
    classifier: Option<Classifier>,
}

struct Classifier {
    norm: Option<BatchNorm>,
    fc: Linear,
}

impl Head {
    /// Declares the head; `name` is torchvision's name of the model's last layer.
    pub fn new(
        settings: &Settings,
        builder: &Builder,
        name: &str,
        num_features: i64,
        num_classes: i64,
    ) -> Self {
        let classifier = (settings.loss == Loss::CosXent).then(|| {
            let place = builder / CLS_HEAD;
            Classifier {
                norm: (settings.cls_head == ClsHead::ReluBnFc)
                    .then(|| BatchNorm::new(&(&place / "norm"), num_classes)),
                fc: Linear::new(&(&place / "fc"), num_classes, num_classes, true),
            }
        });
        Self {
            loss: settings.loss,
            fc: Linear::new(&(builder / name), num_features, num_classes, true),
            classifier,
        }
    }

    /// Computes the outputs; `features` is f32 [batch, features].
    pub fn forward(&self, features: &Tensor, pass: &Pass) -> Outputs {
        let z = self.fc.forward(features, pass);
        match self.loss {
            Loss::Xent => Outputs {
                embedding: None,
                logits: Some(z),
            },
            Loss::Mse => Outputs {
                embedding: Some(z),
                logits: None,
            },
            Loss::Cos => Outputs {
                embedding: Some(normalise(&z)),
                logits: None,
            },
            Loss::CosXentDirect => {
                let psi = normalise(&z);
                Outputs {
                    logits: Some(psi.shallow_clone()),
                    embedding: Some(psi),
                }
            }
            Loss::CosXent => {
                let psi = normalise(&z);
                let classifier = self.classifier.as_ref().expect("made with this loss");
                let logits = match &classifier.norm {
                    Some(norm) => classifier
                        .fc
                        .forward(&norm.forward(&psi.relu(), pass), pass),
                    None => classifier.fc.forward(&psi, pass),
                };
                Outputs {
                    embedding: Some(psi),
                    logits: Some(logits),
                }
            }
        }
    }
}

/// Scales to unit length along axis 1.
pub fn normalise(z: &Tensor) -> Tensor {
    let squares = z
        .square()
        .sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
    z * squares.clamp_min(SMALLEST_SQUARED_LENGTH).rsqrt()
}
