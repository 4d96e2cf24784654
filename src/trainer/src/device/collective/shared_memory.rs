//! Replicas as threads of one process: each sums its own slice of all replicas' tensors, in rank
//! order.
//!
//! The order of additions is fixed, so results have the same bits on every replica and in every
//! run. Every wait has a deadline. Works for CPU tensors, and in tests for several replicas on one
//! GPU. Tensors must be contiguous. Next: contract.rs, the tests that every implementation passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tch::Tensor;

use super::barrier::GroupBarrier;
use super::{Collective, CollectiveError};

/// Makes the ends of one group, in rank order; move each to its replica's thread.
pub fn shared_memory(size: usize, deadline: Duration) -> Vec<Box<dyn Collective>> {
    assert!(size > 0, "a group has at least one replica");
    let shared = Exchange {
        inputs: (0..size).map(|_| None).collect(),
        sum: None,
    };
    let barrier = Arc::new(GroupBarrier::new(size, deadline, shared));
    let end = |rank| {
        Box::new(SharedMemory {
            barrier: barrier.clone(),
            rank,
            size,
            num_completed: AtomicU64::new(0),
        }) as Box<dyn Collective>
    };
    (0..size).map(end).collect()
}

struct SharedMemory {
    barrier: Arc<GroupBarrier<Exchange>>,
    rank: usize,
    size: usize,
    num_completed: AtomicU64,
}

/// The tensors that the threads of a group exchange.
struct Exchange {
    /// Handles on the tensors of all replicas, sharing their memory.
    inputs: Vec<Option<Tensor>>,
    /// Buffer for the sum, which every replica then copies.
    sum: Option<Tensor>,
}

impl SharedMemory {
    fn is_usable(tensor: &Tensor, operation: &'static str) -> Result<(), CollectiveError> {
        if tensor.is_contiguous() {
            return Ok(());
        }
        Err(CollectiveError::Failed {
            operation,
            reason: "the tensor is not contiguous".to_owned(),
        })
    }

    /// Adds up this replica's slice of all inputs, in rank order.
    fn reduce_slice(&self) {
        let (inputs, sum): (Vec<Tensor>, Tensor) = self.barrier.with(|shared| {
            let inputs = shared
                .inputs
                .iter()
                .flatten()
                .map(Tensor::shallow_clone)
                .collect();
            (
                inputs,
                shared
                    .sum
                    .as_ref()
                    .expect("made by the last to arrive")
                    .shallow_clone(),
            )
        });
        let length = sum.numel() as i64;
        let start = length * self.rank as i64 / self.size as i64;
        let end = length * (self.rank as i64 + 1) / self.size as i64;
        if start == end {
            return;
        }
        let slice = |tensor: &Tensor| tensor.view(-1).narrow(0, start, end - start);
        let mut sum = slice(&sum);
        sum.copy_(&slice(&inputs[0]));
        for input in &inputs[1..] {
            let _ = sum.g_add_(&slice(input));
        }
    }
}

impl Collective for SharedMemory {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce(&self, tensor: &Tensor) -> Result<(), CollectiveError> {
        let _guard = tch::no_grad_guard();
        Self::is_usable(tensor, "all-reduce")?;
        let mine = tensor.detach();
        let deposit = |shared: &mut Exchange| shared.inputs[self.rank] = Some(mine.shallow_clone());
        let make_sum = |shared: &mut Exchange| {
            let fits = |sum: &Tensor| {
                sum.size() == mine.size()
                    && sum.kind() == mine.kind()
                    && sum.device() == mine.device()
            };
            if !shared.sum.as_ref().is_some_and(fits) {
                shared.sum = Some(mine.empty_like());
            }
        };
        self.barrier
            .wait(self.rank, "all-reduce", deposit, make_sum)?;
        self.reduce_slice();
        self.barrier.wait(self.rank, "all-reduce", |_| (), |_| ())?;
        let sum = self
            .barrier
            .with(|shared| shared.sum.as_ref().expect("made above").shallow_clone());
        mine.shallow_clone().copy_(&sum);
        // no replica may overwrite the sum for the next round before all have copied it
        self.barrier.wait(
            self.rank,
            "all-reduce",
            |shared| shared.inputs[self.rank] = None,
            |_| (),
        )?;
        self.num_completed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn broadcast(&self, tensor: &Tensor) -> Result<(), CollectiveError> {
        let _guard = tch::no_grad_guard();
        Self::is_usable(tensor, "broadcast")?;
        let mut mine = tensor.detach();
        let deposit = |shared: &mut Exchange| shared.inputs[self.rank] = Some(mine.shallow_clone());
        self.barrier.wait(self.rank, "broadcast", deposit, |_| ())?;
        if self.rank != 0 {
            let first = self.barrier.with(|shared| {
                shared.inputs[0]
                    .as_ref()
                    .expect("deposited above")
                    .shallow_clone()
            });
            mine.copy_(&first);
        }
        self.barrier.wait(
            self.rank,
            "broadcast",
            |_| (),
            |shared| shared.inputs.fill_with(|| None),
        )?;
        self.num_completed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn wait(&self) -> Result<(), CollectiveError> {
        self.check()
    }

    fn check(&self) -> Result<(), CollectiveError> {
        self.barrier.failure().map_or(Ok(()), Err)
    }

    fn num_completed(&self) -> u64 {
        self.num_completed.load(Ordering::Relaxed)
    }

    fn abort(&self, reason: &str) {
        self.barrier.fail(CollectiveError::Aborted {
            rank: self.rank,
            reason: reason.to_owned(),
        });
    }
}
