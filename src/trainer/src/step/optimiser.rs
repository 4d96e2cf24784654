//! SGD with momentum, and AdamW, on the flat buffers: weight decay, clipping and update in a
//! handful of operations.
//!
//! SGD's order is the authors': L2 gradients are added, the global norm is clipped, then momentum
//! is applied. AdamW is PyTorch's: the norm is that of the loss's gradients, and decay acts on the
//! weights alone. Gradients must be those of the whole batch: this runs after the all-reduce. The host
//! reads no value back. The learning rate, a function of the epoch (`sweep::settings::Schedule`),
//! is kept on the device, so that an update can be recorded and replayed at another rate. Next:
//! replica.rs.

use sweep::Settings;
use sweep::settings::{AdamW, MomentumForm, Optimizer, WeightDecayOn};
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
pub struct Optimiser {
    rule: Optimizer,
    momentum: f64,
    form: MomentumForm,
    nesterov: bool,
    clip_norm: Option<f64>,
    /// On the device: `addcmul_` takes tensors only, and uploading one per step would wait for it.
    weight_decay: Option<Tensor>,
    cls_head_decay: Option<Tensor>,
    learning_rate: f64,
    /// Factor of gradients or momentum: -`learning_rate` in Keras' form of momentum, `learning_rate`
    /// otherwise.
    step_size: Tensor,
}

impl Optimiser {
    pub fn new(settings: &Settings, device: Device) -> Self {
        let coefficient =
            |value: f64| (value != 0.0).then(|| Tensor::full([], value, (Kind::Float, device)));
        Self {
            rule: settings.optimizer.clone(),
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

    /// Makes room in `storage.momentum` for the state of this rule: one number for each weight, or
    /// with AdamW the mean gradients, the mean squared gradients and the number of steps.
    pub fn prepare(&self, storage: &mut Storage<Group>) {
        if matches!(self.rule, Optimizer::Adamw(_)) {
            let length = 2 * storage.weights.size()[0] + 1;
            storage.momentum = Tensor::zeros([length], (Kind::Float, storage.weights.device()));
        }
    }

    /// Sets the rate for all later updates.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        if learning_rate != self.learning_rate {
            self.learning_rate = learning_rate;
            let is_negative = self.rule == Optimizer::Sgd && self.form == MomentumForm::Keras;
            let sign = if is_negative { -1.0 } else { 1.0 };
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
                let mut weights = storage.weights.narrow(0, start, length);
                match self.rule {
                    Optimizer::Sgd => {
                        let _ = gradients.addcmul_(&weights, decay);
                    }
                    Optimizer::Adamw(_) => {
                        let _ = weights.g_mul_(&(1.0 - &self.step_size * decay));
                    }
                }
            }
        }
        // with SGD the clipped norm is that of gradients and decay together
        if let Some(limit) = self.clip_norm {
            clip(&mut storage.gradients, limit);
        }
        match &self.rule {
            Optimizer::Sgd => self.update(storage),
            Optimizer::Adamw(constants) => self.update_adamw(constants, storage),
        }
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

impl Optimiser {
    /// m += (1 - beta1) (g - m); v = beta2 v + (1 - beta2) g^2; then, both without their bias towards
    /// zero, w -= lr m / (sqrt(v) + epsilon).
    fn update_adamw(&self, constants: &AdamW, storage: &mut Storage<Group>) {
        let &AdamW {
            beta1,
            beta2,
            epsilon,
        } = constants;
        let length = storage.weights.size()[0];
        let state = &storage.momentum;
        let (mut mean, mut squares) = (state.narrow(0, 0, length), state.narrow(0, length, length));
        let mut steps = state.narrow(0, 2 * length, 1);
        let gradients = &storage.gradients;
        let _ = steps.g_add_scalar_(1.0);
        let _ = mean.lerp_(gradients, 1.0 - beta1);
        let _ = squares.g_mul_scalar_(beta2);
        let _ = squares.g_add_(&(gradients.square() * (1.0 - beta2)));
        // 1 - beta^steps, without the digits that f32 would lose for a beta near 1
        let unbiased = |beta: f64| -(&steps * beta.ln()).expm1();
        let root = (squares / unbiased(beta2)).sqrt() + epsilon;
        let size = &self.step_size / unbiased(beta1);
        let _ = storage.weights.g_sub_(&(mean * size / root));
    }
}

/// Scales g by limit / |g| if |g| exceeds the limit. The norm is accumulated in f64: f32 loses
/// digits on long tensors.
fn clip(gradients: &mut Tensor, limit: f64) {
    let norm = gradients.norm_scalaropt_dtype(2, Kind::Double);
    let scale = (norm.reciprocal() * limit).clamp_max(1.0);
    let _ = gradients.g_mul_(&scale.to_kind(Kind::Float));
}
