//! Batch normalisation, addition and ReLU as one operation where the shim has kernels for it,
//! otherwise as libtorch's.
//!
//! In a residual network these operations are bound by memory, not arithmetic: fused, they read and
//! write half as much (docs/performance.md). The kernels (shim/norm.h) need channels innermost in
//! memory and f32 or bf16. Statistics over replicas (layers.rs) and the networks' tests in f64 use
//! libtorch's operations. Next: layers.rs, the user.

use std::ffi::{c_char, c_void};

use tch::{Kind, Tensor};

use crate::device::cuda;
use crate::device::shim;

type Raw = *mut c_void;

unsafe extern "C" {
    fn shim_norm_train(
        x: Raw,
        weight: Raw,
        bias: Raw,
        moving_mean: Raw,
        moving_var: Raw,
        residual: Raw,
        momentum: f64,
        eps: f64,
        relu: bool,
        result: *mut Raw,
    ) -> *mut c_char;
    fn shim_norm_evaluate(
        x: Raw,
        weight: Raw,
        bias: Raw,
        moving_mean: Raw,
        moving_var: Raw,
        residual: Raw,
        eps: f64,
        relu: bool,
        result: *mut Raw,
    ) -> *mut c_char;
}

/// The operation after a normalisation.
#[derive(Clone, Copy)]
pub enum Epilogue<'a> {
    Nothing,
    Relu,
    /// ReLU of the sum with this tensor, which has the shape of the output.
    AddRelu(&'a Tensor),
}

/// The statistics that images are normalised with.
#[derive(Clone, Copy)]
pub enum Statistics {
    /// The batch's statistics, which also update the moving ones; a single value, which has no
    /// variance, does not.
    Batch {
        momentum: f64,
    },
    Moving,
}

/// The tensors of a layer, `[channels]` each, f32 where the operations are fused.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    pub weight: &'a Tensor,
    pub bias: &'a Tensor,
    pub moving_mean: &'a Tensor,
    pub moving_var: &'a Tensor,
    pub eps: f64,
    /// True if the operations are fused where possible.
    pub fused: bool,
}

impl Norm<'_> {
    /// Normalises images. Panics where libtorch's own operations fail.
    pub fn forward(&self, x: &Tensor, statistics: Statistics, epilogue: Epilogue) -> Tensor {
        match self.is_fused(x) {
            true => self.fused(x, statistics, epilogue),
            false => self.unfused(x, statistics, epilogue),
        }
    }

    fn is_fused(&self, x: &Tensor) -> bool {
        self.fused
            && x.dim() == 4
            && matches!(x.kind(), Kind::Float | Kind::BFloat16)
            && self.weight.kind() == Kind::Float
            && (!x.device().is_cuda() || cuda::fused_norm_available(x.device()))
            && shim::has_channels_innermost(x)
    }

    fn fused(&self, x: &Tensor, statistics: Statistics, epilogue: Epilogue) -> Tensor {
        let (relu, residual) = match epilogue {
            Epilogue::Nothing => (false, None),
            Epilogue::Relu => (true, None),
            Epilogue::AddRelu(residual) => (true, Some(residual)),
        };
        if let Some(residual) = residual {
            assert!(
                residual.size() == x.size() && residual.kind() == x.kind(),
                "{residual:?} is added to {x:?}"
            );
        }
        let raw = |tensor: &Tensor| tensor.as_ptr() as Raw;
        let residual = residual.map_or(std::ptr::null_mut(), raw);
        let (weight, bias) = (raw(self.weight), raw(self.bias));
        let moving = [raw(self.moving_mean), raw(self.moving_var)];
        let mut result = std::ptr::null_mut();
        let message = match statistics {
            Statistics::Batch { momentum } => {
                let [mean, var] = if is_single(x) {
                    [std::ptr::null_mut(); 2]
                } else {
                    moving
                };
                // SAFETY: tensors that live through the call, of the kinds and layouts that the
                // kernels expect (checked above and by `is_fused`), null where the C++ side takes
                // null; `result` is written on success only.
                unsafe {
                    shim_norm_train(
                        raw(x),
                        weight,
                        bias,
                        mean,
                        var,
                        residual,
                        momentum,
                        self.eps,
                        relu,
                        &mut result,
                    )
                }
            }
            // SAFETY: as above.
            Statistics::Moving => unsafe {
                let [mean, var] = moving;
                shim_norm_evaluate(
                    raw(x),
                    weight,
                    bias,
                    mean,
                    var,
                    residual,
                    self.eps,
                    relu,
                    &mut result,
                )
            },
        };
        shim::check(message).unwrap_or_else(|error| panic!("batch normalisation: {error}"));
        shim::owned(result)
    }

    fn unfused(&self, x: &Tensor, statistics: Statistics, epilogue: Epilogue) -> Tensor {
        let (weight, bias) = (Some(self.weight), Some(self.bias));
        let moving = (Some(self.moving_mean), Some(self.moving_var));
        let mut normalised = match statistics {
            // libtorch would store NaN here
            Statistics::Batch { .. } if is_single(x) => x.batch_norm(
                weight,
                bias,
                None::<&Tensor>,
                None,
                true,
                0.0,
                self.eps,
                false,
            ),
            Statistics::Batch { momentum } => x.batch_norm(
                weight, bias, moving.0, moving.1, true, momentum, self.eps, false,
            ),
            Statistics::Moving => x.batch_norm(
                weight, bias, moving.0, moving.1, false, 0.0, self.eps, false,
            ),
        };
        epilogue.apply(&mut normalised)
    }
}

impl Epilogue<'_> {
    /// Applies the operation in place, which autograd allows: no gradient needs the normalised
    /// values.
    pub fn apply(self, normalised: &mut Tensor) -> Tensor {
        match self {
            Epilogue::Nothing => normalised.shallow_clone(),
            Epilogue::Relu => normalised.relu_(),
            Epilogue::AddRelu(residual) => normalised.g_add_(residual).relu_(),
        }
    }
}

/// Returns true if there is only one value per channel.
fn is_single(x: &Tensor) -> bool {
    x.numel() as i64 == x.size()[1]
}
