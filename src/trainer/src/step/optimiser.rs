//! SGD with momentum on the flat buffers: weight decay, clipping and update in a handful of
//! operations.
//!
//! The order is the authors': L2 gradients are added, the global norm is clipped, then momentum is
//! applied. Gradients must be those of the whole batch: this runs after the all-reduce. The host
//! reads no value back. The learning rate, a function of the epoch (`sweep::settings::Schedule`),
//! is kept on the device, so that an update can be recorded and replayed at another rate. Next:
//! replica.rs.

use sweep::Settings;
use sweep::settings::{MomentumForm, WeightDecayOn};
use tch::{Device, Kind, Tensor};

use crate::network::nn::{ParameterNote, Role, Storage};
use crate::step::head::CLS_HEAD;

/// Treatment of a parameter; parameters of one group are adjacent in the flat buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    pub part: Part,
    pub decay: Decay,
}

/// Parameters by the phase that trains them. Fine-tuning first trains the new fully connected
/// layers alone. The head's batch normalisation is also new, but is trained with the backbone, as
/// in the authors' code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Frozen,
    New,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decay {
    /// Decayed by `weight_decay`.
    Weights,
    /// Decayed by `cls_head_decay`.
    ClsHead,
    None,
}

impl Group {
    /// Returns a parameter's group. `classifier`: name of the model's last layer.
    pub fn of(note: &ParameterNote, settings: &Settings, classifier: &str) -> Self {
        let under = |place: &str| {
            note.name
                .strip_prefix(place)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        let is_norm = matches!(note.role, Role::NormWeight | Role::NormBias);
        let is_new = (under(classifier) || under(CLS_HEAD)) && !is_norm;
        let part = if is_new { Part::New } else { Part::Frozen };
        let decay = match settings.weight_decay_on {
            _ if under(CLS_HEAD) && note.role.is_kernel() => Decay::ClsHead,
            WeightDecayOn::Kernels if !note.role.is_kernel() => Decay::None,
            WeightDecayOn::Kernels | WeightDecayOn::All => Decay::Weights,
        };
        Self { part, decay }
    }
}

#[derive(Debug)]
pub struct Sgd {
    momentum: f64,
    form: MomentumForm,
    nesterov: bool,
    clip_norm: Option<f64>,
    /// On the device: `addcmul_` takes tensors only, and uploading one per step would wait for it.
    weight_decay: Option<Tensor>,
    cls_head_decay: Option<Tensor>,
    learning_rate: f64,
    /// Factor of gradients or momentum: -`learning_rate` in Keras' form, `learning_rate` in
    /// PyTorch's.
    step_size: Tensor,
}

impl Sgd {
    pub fn new(settings: &Settings, device: Device) -> Self {
        let coefficient =
            |value: f64| (value != 0.0).then(|| Tensor::full([], value, (Kind::Float, device)));
        Self {
            momentum: settings.momentum,
            form: settings.momentum_form,
            nesterov: settings.nesterov,
            clip_norm: settings.clip_norm,
            weight_decay: coefficient(settings.weight_decay),
            cls_head_decay: coefficient(settings.cls_head_decay),
            learning_rate: 0.0,
            step_size: Tensor::zeros([], (Kind::Float, device)),
        }
    }

    /// Sets the rate for all later updates.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        if learning_rate != self.learning_rate {
            self.learning_rate = learning_rate;
            let sign = if self.form == MomentumForm::Keras {
                -1.0
            } else {
                1.0
            };
            let _ = self.step_size.fill_(sign * learning_rate);
        }
    }

    fn decay(&self, decay: Decay) -> Option<&Tensor> {
        match decay {
            Decay::Weights => self.weight_decay.as_ref(),
            Decay::ClsHead => self.cls_head_decay.as_ref(),
            Decay::None => None,
        }
    }

    /// Updates all weights, or only those of the new layers. Overwrites `storage.gradients`.
    pub fn step(&self, storage: &mut Storage<Group>, new_layers_only: bool) {
        let _guard = tch::no_grad_guard();
        for segment in &storage.layout.segments {
            let (start, length) = (segment.range.start as i64, segment.range.len() as i64);
            let mut gradients = storage.gradients.narrow(0, start, length);
            if new_layers_only && segment.group.part == Part::Frozen {
                let _ = gradients.zero_();
                continue;
            }
            if let Some(decay) = self.decay(segment.group.decay) {
                let _ = gradients.addcmul_(&storage.weights.narrow(0, start, length), decay);
            }
        }
        // the clipped norm is that of gradients and decay together
        if let Some(limit) = self.clip_norm {
            clip(&mut storage.gradients, limit);
        }
        self.update(storage);
        storage.refresh_working_copy();
    }

    fn update(&self, storage: &mut Storage<Group>) {
        let Storage {
            weights,
            gradients,
            momentum,
            ..
        } = storage;
        let _ = momentum.g_mul_scalar_(self.momentum);
        match self.form {
            // v = m v - lr g; w += v, or with Nesterov w += m v - lr g
            MomentumForm::Keras => {
                let _ = gradients.g_mul_(&self.step_size);
                let _ = momentum.g_add_(gradients);
                if self.nesterov {
                    let _ = weights.g_add_(gradients);
                    let _ = weights.g_add_(&(&*momentum * self.momentum));
                } else {
                    let _ = weights.g_add_(momentum);
                }
            }
            // v = m v + g; w -= lr v, or with Nesterov w -= lr (g + m v)
            MomentumForm::Torch => {
                let _ = momentum.g_add_(gradients);
                if self.nesterov {
                    let _ = gradients.g_add_(&(&*momentum * self.momentum));
                    let _ = weights.g_sub_(&(&*gradients * &self.step_size));
                } else {
                    let _ = weights.g_sub_(&(&*momentum * &self.step_size));
                }
            }
        }
    }
}

/// Scales g by limit / |g| if |g| exceeds the limit. The norm is accumulated in f64: f32 loses
/// digits on long tensors.
fn clip(gradients: &mut Tensor, limit: f64) {
    let norm = gradients.norm_scalaropt_dtype(2, Kind::Double);
    let scale = (norm.reciprocal() * limit).clamp_max(1.0);
    let _ = gradients.g_mul_(&scale.to_kind(Kind::Float));
}
