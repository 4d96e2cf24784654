//! Gradients moved into their flat buffer instead of added to it.
//!
//! The backward pass then hands over its own tensors, and nothing has to be zeroed before it.

use std::ffi::{c_char, c_void};

use tch::Tensor;

use crate::device::shim::{self, ShimError};

unsafe extern "C" {
    fn shim_collect_gradients(
        leaves: *const *mut c_void,
        places: *const *mut c_void,
        count: i64,
    ) -> *mut c_char;
    fn shim_forget_gradients(leaves: *const *mut c_void, count: i64) -> *mut c_char;
}

/// Moves the gradients of `leaves` to their `places`; a leaf without a gradient counts as zero.
pub fn collect(leaves: &[Tensor], places: &[Tensor]) -> Result<(), ShimError> {
    assert_eq!(leaves.len(), places.len(), "a place for each gradient");
    let (from, to) = (pointers(leaves), pointers(places));
    // SAFETY: both arrays hold the same number of pointers to tensors, which live as long as the
    // slices do.
    shim::check(unsafe { shim_collect_gradients(from.as_ptr(), to.as_ptr(), from.len() as i64) })
}

/// Drops the gradients of `leaves`.
pub fn forget(leaves: &[Tensor]) -> Result<(), ShimError> {
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
