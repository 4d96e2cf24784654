//! Gradients, and weights on the CPU, with as few passes over memory as possible.
//!
//! With millions of weights and a batch of a few images, memory traffic dominates an update. The
//! arithmetic is in shim/update.cpp and rounds like libtorch's operations, of which optimiser.rs
//! needs six: a trial's bits do not depend on which of the two made them. On a GPU, whose steps are
//! recorded, optimiser.rs updates weights with libtorch's.

use std::ffi::{c_char, c_void};
use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::shim::{self, ShimError};

/// Rule for one update of a range of the flat buffers. Same layout as in shim/update.cpp.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    pub learning_rate: f32,
    pub momentum: f32,
    /// Factor of the weight that is added to the gradient if `decays`.
    pub decay: f32,
    /// Keras' form of momentum, not PyTorch's.
    pub keras: bool,
    pub nesterov: bool,
    pub decays: bool,
}

#[repr(C)]
struct Buffers {
    weights: *mut f32,
    gradients: *const f32,
    momentum: *mut f32,
    working: *mut u16,
    num_working: i64,
}

unsafe extern "C" {
    fn shim_collect_gradients(
        leaves: *const *mut c_void,
        places: *const *mut c_void,
        count: i64,
    ) -> *mut c_char;
    fn shim_forget_gradients(leaves: *const *mut c_void, count: i64) -> *mut c_char;
    fn shim_update_weights(buffers: *const Buffers, rule: *const Rule, begin: i64, end: i64);
}

/// Moves the gradients of `leaves` to their `places`; a leaf without a gradient counts as zero. The
/// backward pass then moves its own tensors instead of adding them to buffers that had to be zeroed
/// before.
pub fn collect_gradients(leaves: &[Tensor], places: &[Tensor]) -> Result<(), ShimError> {
    assert_eq!(leaves.len(), places.len(), "a place for each gradient");
    let (from, to) = (pointers(leaves), pointers(places));
    // SAFETY: both arrays hold the same number of pointers to tensors, which live as long as the
    // slices do.
    shim::check(unsafe { shim_collect_gradients(from.as_ptr(), to.as_ptr(), from.len() as i64) })
}

/// Drops the gradients of `leaves`.
pub fn forget_gradients(leaves: &[Tensor]) -> Result<(), ShimError> {
    let from = pointers(leaves);
    // SAFETY: the array holds `len` pointers to tensors, which live as long as the slice does.
    shim::check(unsafe { shim_forget_gradients(from.as_ptr(), from.len() as i64) })
}

fn pointers(tensors: &[Tensor]) -> Vec<*mut c_void> {
    tensors
        .iter()
        .map(|tensor| tensor.as_ptr() as *mut c_void)
        .collect()
}

/// Updates `weights` and `momentum` from `gradients`, and rounds the first weights to `working`,
/// their bf16 copy. All are contiguous tensors on the CPU.
pub fn update(
    (weights, momentum): (&mut Tensor, &mut Tensor),
    gradients: &Tensor,
    working: Option<&mut Tensor>,
    range: Range<usize>,
    rule: Rule,
) {
    let length = weights.numel();
    for (name, tensor) in [
        ("weights", &*weights),
        ("momentum", &*momentum),
        ("gradients", gradients),
    ] {
        check(name, tensor, Kind::Float);
        assert_eq!(
            tensor.numel(),
            length,
            "the buffers are equally long: {name}"
        );
    }
    assert!(
        range.start <= range.end && range.end <= length,
        "{range:?} of {length} weights"
    );
    let num_working = working.as_ref().map_or(0, |working| working.numel());
    if let Some(working) = &working {
        check("the working copy", working, Kind::BFloat16);
        assert!(
            num_working <= length,
            "{num_working} rounded weights of {length}"
        );
    }
    let buffers = Buffers {
        weights: weights.data_ptr().cast(),
        gradients: gradients.data_ptr().cast(),
        momentum: momentum.data_ptr().cast(),
        working: working.map_or(std::ptr::null_mut(), |working| working.data_ptr().cast()),
        num_working: num_working as i64,
    };
    // SAFETY: the pointers are to contiguous CPU tensors of the kinds that the C++ side expects,
    // checked above, and alive for the call; every index is below `range.end`, or below
    // `num_working` for the working copy. Nothing else uses them during the call: the caller holds
    // exclusive references to those that are written.
    unsafe { shim_update_weights(&buffers, &rule, range.start as i64, range.end as i64) }
}

fn check(name: &str, tensor: &Tensor, kind: Kind) {
    assert!(
        tensor.device() == Device::Cpu && tensor.kind() == kind && tensor.is_contiguous(),
        "{name}: a contiguous tensor of {kind:?} on the CPU is needed, not {tensor:?}"
    );
}
