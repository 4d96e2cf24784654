//! How replicas speak with each other: sums and broadcasts that either complete on all of them or fail on all of them.
//!
//! A replica that fails calls `abort`, and every other one's current or next call returns an error: an attempt with a
//! dead, panicked or stuck replica ends instead of hanging. Refuses to retry or repair: a group that failed once stays
//! failed. Read shared_memory.rs for replicas as threads on one memory, nccl.rs for one GPU each, statistics.rs for sums
//! inside autograd.

#[cfg(test)]
mod contract;
mod meeting;
mod nccl;
mod shared_memory;
mod solo;
mod statistics;

use tch::Tensor;

#[cfg(test)]
pub(crate) use nccl::fake::group as fake_nccl;
pub use nccl::{GroupId, cuda_version, nccl, nccl_among_processes, nccl_group_id, nccl_version, pci_bus_id};
pub use shared_memory::shared_memory;
pub use solo::Solo;
pub use statistics::BatchStatistics;

/// One replica's end of a group. All replicas call the same operations in the same order on tensors of equal shape,
/// dtype and layout. Operations on a GPU may be queued only; `wait` tells when they are done.
pub trait Collective: Send + Sync {
    /// 0 leads: it reports, evaluates alone where that is cheaper, and writes checkpoints.
    fn rank(&self) -> usize;

    fn size(&self) -> usize;

    /// Replaces the tensor by its sum over all replicas. The result is the same bits on every replica and in every run.
    fn all_reduce(&self, tensor: &Tensor) -> Result<(), CollectiveError>;

    /// Replaces the tensor by that of rank 0.
    fn broadcast(&self, tensor: &Tensor) -> Result<(), CollectiveError>;

    /// Blocks until everything queued on this replica's device is done, or the deadline passes, or the group fails.
    /// To be called before the host reads a value that a collective had a part in.
    fn wait(&self) -> Result<(), CollectiveError>;

    /// Whether the group has failed so far, without waiting for anything: for loops that wait for something else.
    fn check(&self) -> Result<(), CollectiveError>;

    /// Collectives completed by this replica since the group was made.
    fn num_completed(&self) -> u64;

    /// Makes every replica's current and later calls fail with `reason`. The first reason is kept.
    fn abort(&self, reason: &str);
}

/// Why a group of replicas cannot go on. Whoever gets one ends the attempt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    #[error("replica {rank} gave up: {reason}")]
    Aborted { rank: usize, reason: String },
    #[error("replica {rank} waited {seconds} s for the others in {operation}; missing: {missing:?}")]
    TimedOut { rank: usize, operation: &'static str, seconds: u64, missing: Vec<usize> },
    #[error("{operation} failed: {reason}")]
    Failed { operation: &'static str, reason: String },
    /// Of this replica's own device.
    #[error("replica {rank} waited {seconds} s for its device in {operation}")]
    Stuck { rank: usize, operation: &'static str, seconds: u64 },
}

/// Aborts the group when a replica leaves before it says `finished`: by an error or by a panic.
pub struct AbortOnDrop<'a> {
    collective: &'a dyn Collective,
    finished: bool,
}

impl<'a> AbortOnDrop<'a> {
    pub fn new(collective: &'a dyn Collective) -> Self {
        Self { collective, finished: false }
    }

    pub fn finished(mut self) {
        self.finished = true;
    }
}

impl Drop for AbortOnDrop<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let reason = if std::thread::panicking() { "it panicked" } else { "it ended early" };
            self.collective.abort(reason);
        }
    }
}
