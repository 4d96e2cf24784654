//! Sums of batch statistics inside the forward and backward pass, for synchronised batch
//! normalisation.
//!
//! The sum is an autograd node of the C++ shim that calls back into this replica's `Collective`.
//! All replicas run the same network, and therefore the same layers in the same order, as the sums
//! require. Next: network/nn/layers.rs, the user.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tch::Tensor;

use crate::device::collective::Collective;
use crate::device::shim;
use crate::network::nn::StatisticsReduction;

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

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use tch::Kind;

    use super::*;
    use crate::device::collective::shared_memory;

    /// Forward, the result is the sum. Backward, every replica's loss depends on every input, so
    /// gradients are summed too.
    #[test]
    fn sums_inside_a_graph_pass_the_gradient_to_all() {
        let group: Vec<Arc<dyn Collective>> = shared_memory(2, Duration::from_secs(60))
            .into_iter()
            .map(Arc::from)
            .collect();
        thread::scope(|scope| {
            for end in group {
                scope.spawn(move || {
                    let rank = end.rank() as f64;
                    let statistics = BatchStatistics::new(end);
                    let x = Tensor::from_slice(&[1.0 + rank, 2.0]).set_requires_grad(true);
                    let sum = statistics.sum(&x);
                    assert_eq!(Vec::<f64>::try_from(&sum).unwrap(), [3.0, 4.0]);
                    // losses: rank 0 sum^2, rank 1 2 sum^2; d/dx of their total is 6 sum
                    (&sum * &sum * (1.0 + rank)).sum(Kind::Double).backward();
                    assert_eq!(Vec::<f64>::try_from(x.grad()).unwrap(), [18.0, 24.0]);
                });
            }
        });
    }
}
