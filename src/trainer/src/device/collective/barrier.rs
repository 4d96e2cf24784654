//! A barrier for a group's threads whose waits have a deadline and end at the first failure.
//!
//! The first failure is kept, and all replicas receive it from then on. Knows no tensors: the
//! threads share a `T`. Used by shared_memory.rs and nccl/mod.rs.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::CollectiveError;

pub struct GroupBarrier<T> {
    state: Mutex<BarrierState<T>>,
    changed: Condvar,
    pub deadline: Duration,
}

struct BarrierState<T> {
    /// Rounds completed; a waiting thread leaves when its round is over.
    round: u64,
    arrived: Vec<bool>,
    failure: Option<CollectiveError>,
    shared: T,
}

impl<T> GroupBarrier<T> {
    pub fn new(size: usize, deadline: Duration, shared: T) -> Self {
        let state = BarrierState {
            round: 0,
            arrived: vec![false; size],
            failure: None,
            shared,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            deadline,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BarrierState<T>> {
        self.state
            .lock()
            .expect("nothing panics while it holds the lock")
    }

    /// Runs `body` with exclusive access to the shared value.
    pub fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        body(&mut self.lock().shared)
    }

    pub fn failure(&self) -> Option<CollectiveError> {
        self.lock().failure.clone()
    }

    /// Ends the group unless it has already ended, and returns the reason why it ended.
    pub fn fail(&self, failure: CollectiveError) -> CollectiveError {
        let kept = self.lock().failure.get_or_insert(failure).clone();
        self.changed.notify_all();
        kept
    }

    /// Waits until every replica has arrived, at most the deadline. `prepare` runs under the lock
    /// on arrival; `last` runs once, after all have arrived and before any leaves.
    pub fn wait(
        &self,
        rank: usize,
        operation: &'static str,
        prepare: impl FnOnce(&mut T),
        last: impl FnOnce(&mut T),
    ) -> Result<(), CollectiveError> {
        let until = Instant::now() + self.deadline;
        let mut state = self.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        prepare(&mut state.shared);
        state.arrived[rank] = true;
        if state.arrived.iter().all(|&arrived| arrived) {
            state.arrived.fill(false);
            state.round += 1;
            last(&mut state.shared);
            self.changed.notify_all();
            return Ok(());
        }
        let round = state.round;
        loop {
            if state.round != round {
                return Ok(());
            }
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            let Some(left) = until
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())
            else {
                let missing = (0..state.arrived.len())
                    .filter(|&other| !state.arrived[other])
                    .collect();
                let seconds = self.deadline.as_secs();
                let failure = CollectiveError::TimedOut {
                    rank,
                    operation,
                    seconds,
                    missing,
                };
                state.failure = Some(failure.clone());
                self.changed.notify_all();
                return Err(failure);
            };
            state = self
                .changed
                .wait_timeout(state, left)
                .expect("nothing panics while it holds the lock")
                .0;
        }
    }
}
