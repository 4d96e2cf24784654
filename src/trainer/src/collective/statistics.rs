//! Sums of batch statistics inside the forward and backward pass, for synchronised batch
//! normalisation.
//!
//! The sum is an autograd node of the C++ shim that calls back into this replica's `Collective`.
//! All replicas run the same network, and therefore the same layers in the same order, as the sums
//! require. Next: nn/layers.rs, the user.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tch::Tensor;

use super::Collective;
use crate::nn::StatisticsReduction;
use crate::shim;

/// The sums of one replica. Lives as long as the replica, and therefore longer than any graph that
/// refers to it.
pub struct BatchStatistics {
    /// Boxed because the graph keeps its address.
    context: Box<Arc<dyn Collective>>,
    batch_len: usize,
}

impl BatchStatistics {
    pub fn new(collective: Arc<dyn Collective>) -> Self {
        Self {
            context: Box::new(collective),
            batch_len: 0,
        }
    }

    /// Sets the batch's length; must be called before each pass.
    pub fn set_batch_len(&mut self, batch_len: usize) {
        self.batch_len = batch_len;
    }
}

extern "C" fn reduce(context: *mut c_void, tensor: *mut c_void) -> i32 {
    let sum = || {
        // SAFETY: `context` is the boxed Arc of a BatchStatistics that outlives the graph (see
        // `sum`), only shared; `tensor` is the shim's argument of this very call.
        let (collective, tensor) = unsafe {
            (
                &*context.cast::<Arc<dyn Collective>>(),
                shim::borrowed(tensor),
            )
        };
        collective.all_reduce(&tensor).is_err()
    };
    // the group keeps the error itself: a caller whose pass fails gets it from `wait`
    i32::from(catch_unwind(AssertUnwindSafe(sum)).unwrap_or(true))
}

impl StatisticsReduction for BatchStatistics {
    fn sum(&self, tensor: &Tensor) -> Tensor {
        let context = std::ptr::from_ref(&*self.context)
            .cast_mut()
            .cast::<c_void>();
        // SAFETY: the box lives as long as this object, which its replica drops after the step's
        // graph is gone.
        let sum = unsafe { shim::sum_over_replicas(tensor, reduce, context) };
        sum.unwrap_or_else(|error| panic!("synchronised batch normalisation: {error}"))
    }

    fn batch_len(&self) -> usize {
        self.batch_len
    }
}
