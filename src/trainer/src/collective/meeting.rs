//! Where the threads of a group meet: a barrier that every wait of which has a deadline, and that one failure ends.
//!
//! The first failure is kept and returned to everybody, now and later. Knows nothing of tensors: what the threads share
//! is `T`. Used by shared_memory.rs and nccl.rs.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::CollectiveError;

pub struct Meeting<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    pub deadline: Duration,
}

struct State<T> {
    /// Rounds completed; a waiting thread leaves when the round it waits for is over.
    round: u64,
    arrived: Vec<bool>,
    failure: Option<CollectiveError>,
    shared: T,
}

impl<T> Meeting<T> {
    pub fn new(size: usize, deadline: Duration, shared: T) -> Self {
        let state = State { round: 0, arrived: vec![false; size], failure: None, shared };
        Self { state: Mutex::new(state), changed: Condvar::new(), deadline }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }

    /// Looks at what is shared, or changes it, while nobody else does.
    pub fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        body(&mut self.lock().shared)
    }

    pub fn failure(&self) -> Option<CollectiveError> {
        self.lock().failure.clone()
    }

    /// Ends the group, unless something has already, and returns why it ended.
    pub fn fail(&self, failure: CollectiveError) -> CollectiveError {
        let kept = self.lock().failure.get_or_insert(failure).clone();
        self.changed.notify_all();
        kept
    }

    /// Waits until every replica has come here, for at most the deadline. `prepare` runs under the lock on arrival;
    /// `last` once, when all are here and before any leaves.
    pub fn meet(
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
            let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                let missing = (0..state.arrived.len()).filter(|&other| !state.arrived[other]).collect();
                let seconds = self.deadline.as_secs();
                let failure = CollectiveError::TimedOut { rank, operation, seconds, missing };
                state.failure = Some(failure.clone());
                self.changed.notify_all();
                return Err(failure);
            };
            state = self.changed.wait_timeout(state, left).expect("nothing panics while it holds the lock").0;
        }
    }
}
