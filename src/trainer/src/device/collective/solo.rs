//! A group of one: nothing to sum, no replica to wait for.
//!
//! It still counts collectives, so progress reports mean the same for any number of replicas. Next:
//! shared_memory.rs.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tch::Tensor;

use super::{Collective, CollectiveError};

#[derive(Debug, Default)]
pub struct Solo {
    num_completed: AtomicU64,
    aborted: OnceLock<String>,
}

impl Solo {
    fn complete(&self) -> Result<(), CollectiveError> {
        self.wait()?;
        self.num_completed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Collective for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce(&self, _tensor: &Tensor) -> Result<(), CollectiveError> {
        self.complete()
    }

    fn broadcast(&self, _tensor: &Tensor) -> Result<(), CollectiveError> {
        self.complete()
    }

    fn wait(&self) -> Result<(), CollectiveError> {
        self.check()
    }

    fn check(&self) -> Result<(), CollectiveError> {
        let abort = |reason: &String| CollectiveError::Aborted {
            rank: 0,
            reason: reason.clone(),
        };
        self.aborted.get().map(abort).map_or(Ok(()), Err)
    }

    fn num_completed(&self) -> u64 {
        self.num_completed.load(Ordering::Relaxed)
    }

    fn abort(&self, reason: &str) {
        let _ = self.aborted.set(reason.to_owned());
    }
}
