//! Communication between replicas: sums and broadcasts that either complete on all replicas or fail
//! on all of them.
//!
//! A replica that fails calls `abort`, and the current or next call of every other replica returns
//! an error: an attempt with a dead, panicked or stuck replica ends instead of hanging. A group
//! that has failed stays failed: it is never retried or repaired. Read shared_memory.rs for
//! replicas as threads in one memory, nccl/mod.rs for one replica per GPU.

mod barrier;
#[cfg(test)]
mod contract;
mod nccl;
mod shared_memory;
mod solo;

use tch::Tensor;

#[cfg(test)]
pub(crate) use nccl::fake::group as fake_nccl;
pub use nccl::{cuda_version, nccl, nccl_version, pci_bus_id};
pub use shared_memory::shared_memory;
pub use solo::Solo;

/// One replica's end of a group. All replicas call the same operations in the same order on tensors
/// of equal shape, dtype and layout. Operations on a GPU may only be queued; `wait` returns when
/// they are done.
pub trait Collective: Send + Sync {
    /// This replica's rank. Rank 0 leads: it reports, writes checkpoints, and evaluates alone where
    /// that is cheaper.
    fn rank(&self) -> usize;

    fn size(&self) -> usize;

    /// Replaces the tensor by its sum over all replicas. The result has the same bits on all
    /// replicas and in all runs.
    fn all_reduce(&self, tensor: &Tensor) -> Result<(), CollectiveError>;

    /// Replaces the tensor by the tensor of rank 0.
    fn broadcast(&self, tensor: &Tensor) -> Result<(), CollectiveError>;

    /// Blocks until everything queued on this replica's device is done, the deadline passes, or the
    /// group fails. Must be called before the host reads a value that a collective contributed to.
    fn wait(&self) -> Result<(), CollectiveError>;

    /// Returns an error if the group has failed, without waiting: for loops that wait for something
    /// else.
    fn check(&self) -> Result<(), CollectiveError>;

    /// Returns the number of collectives that this replica has completed since the group was made.
    fn num_completed(&self) -> u64;

    /// Makes all current and later calls of every replica fail with `reason`. The first reason is
    /// kept.
    fn abort(&self, reason: &str);
}

/// The reason why a group of replicas cannot continue. A replica that receives one ends the
/// attempt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    #[error("replica {rank} gave up: {reason}")]
    Aborted { rank: usize, reason: String },
    #[error(
        "replica {rank} waited {seconds} s for the others in {operation}; missing: {missing:?}"
    )]
    TimedOut {
        rank: usize,
        operation: &'static str,
        seconds: u64,
        missing: Vec<usize>,
    },
    #[error("{operation} failed: {reason}")]
    Failed {
        operation: &'static str,
        reason: String,
    },
    /// This replica's own device did not finish in time.
    #[error("replica {rank} waited {seconds} s for its device in {operation}")]
    Stuck {
        rank: usize,
        operation: &'static str,
        seconds: u64,
    },
}

/// Aborts the group if a replica leaves before it calls `finished`, through an error or a panic.
pub struct AbortOnDrop<'a> {
    collective: &'a dyn Collective,
    finished: bool,
}

impl<'a> AbortOnDrop<'a> {
    pub fn new(collective: &'a dyn Collective) -> Self {
        Self {
            collective,
            finished: false,
        }
    }

    pub fn finished(mut self) {
        self.finished = true;
    }
}

impl Drop for AbortOnDrop<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let reason = if std::thread::panicking() {
                "it panicked"
            } else {
                "it ended early"
            };
            self.collective.abort(reason);
        }
    }
}
