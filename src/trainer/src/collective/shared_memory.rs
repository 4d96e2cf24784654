//! Replicas as threads of one process: each sums its own slice of everybody's tensor, in rank order.
//!
//! The order of additions is fixed, so results are the same bits on every replica and in every run. Every wait has a
//! deadline. Works for CPU tensors, and for several replicas on one GPU in tests. Refuses tensors that are not
//! contiguous. Next: contract.rs, the tests that every implementation passes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tch::Tensor;

use super::{Collective, CollectiveError};

/// Makes the ends of one group, in rank order; each is to be moved to its replica's thread.
pub fn shared_memory(size: usize, deadline: Duration) -> Vec<Box<dyn Collective>> {
    assert!(size > 0, "a group has at least one replica");
    let state = State { arrived: vec![false; size], inputs: (0..size).map(|_| None).collect(), ..State::default() };
    let meeting = Arc::new(Meeting { state: Mutex::new(state), changed: Condvar::new(), deadline });
    let end = |rank| {
        Box::new(SharedMemory { meeting: meeting.clone(), rank, size, num_completed: AtomicU64::new(0) })
            as Box<dyn Collective>
    };
    (0..size).map(end).collect()
}

struct SharedMemory {
    meeting: Arc<Meeting>,
    rank: usize,
    size: usize,
    num_completed: AtomicU64,
}

/// Where the threads of a group meet.
struct Meeting {
    state: Mutex<State>,
    changed: Condvar,
    deadline: Duration,
}

#[derive(Default)]
struct State {
    /// Rounds completed; a waiting thread leaves when the round it waits for is over.
    round: u64,
    arrived: Vec<bool>,
    /// Handles on everybody's tensors, sharing their memory.
    inputs: Vec<Option<Tensor>>,
    /// Where the sum is made before it is copied to everybody.
    sum: Option<Tensor>,
    failure: Option<CollectiveError>,
}

impl Meeting {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }

    /// Waits until every replica has come here, for at most the deadline. `prepare` runs under the lock on arrival;
    /// `last` once, when all are here and before any leaves.
    fn meet(
        &self,
        rank: usize,
        operation: &'static str,
        prepare: impl FnOnce(&mut State),
        last: impl FnOnce(&mut State),
    ) -> Result<(), CollectiveError> {
        let until = Instant::now() + self.deadline;
        let mut state = self.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        prepare(&mut state);
        state.arrived[rank] = true;
        if state.arrived.iter().all(|&arrived| arrived) {
            state.arrived.fill(false);
            state.round += 1;
            last(&mut state);
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

impl SharedMemory {
    fn check(tensor: &Tensor, operation: &'static str) -> Result<(), CollectiveError> {
        if tensor.is_contiguous() {
            return Ok(());
        }
        Err(CollectiveError::Failed { operation, reason: "the tensor is not contiguous".to_owned() })
    }

    /// Adds up this replica's slice of all inputs, in rank order.
    fn reduce_slice(&self) {
        let (inputs, sum) = {
            let state = self.meeting.lock();
            let inputs: Vec<Tensor> = state.inputs.iter().flatten().map(Tensor::shallow_clone).collect();
            (inputs, state.sum.as_ref().expect("made by the last to arrive").shallow_clone())
        };
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
        Self::check(tensor, "all-reduce")?;
        let mine = tensor.detach();
        let deposit = |state: &mut State| state.inputs[self.rank] = Some(mine.shallow_clone());
        let make_sum = |state: &mut State| {
            let fits =
                |sum: &Tensor| sum.size() == mine.size() && sum.kind() == mine.kind() && sum.device() == mine.device();
            if !state.sum.as_ref().is_some_and(fits) {
                state.sum = Some(mine.empty_like());
            }
        };
        self.meeting.meet(self.rank, "all-reduce", deposit, make_sum)?;
        self.reduce_slice();
        self.meeting.meet(self.rank, "all-reduce", |_| (), |_| ())?;
        let sum = self.meeting.lock().sum.as_ref().expect("made above").shallow_clone();
        mine.shallow_clone().copy_(&sum);
        // nobody may overwrite the sum for the next round before all have copied it
        self.meeting.meet(self.rank, "all-reduce", |state| state.inputs[self.rank] = None, |_| ())?;
        self.num_completed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn broadcast(&self, tensor: &Tensor) -> Result<(), CollectiveError> {
        let _guard = tch::no_grad_guard();
        Self::check(tensor, "broadcast")?;
        let mut mine = tensor.detach();
        let deposit = |state: &mut State| state.inputs[self.rank] = Some(mine.shallow_clone());
        self.meeting.meet(self.rank, "broadcast", deposit, |_| ())?;
        if self.rank != 0 {
            let first = self.meeting.lock().inputs[0].as_ref().expect("deposited above").shallow_clone();
            mine.copy_(&first);
        }
        self.meeting.meet(self.rank, "broadcast", |_| (), |state| state.inputs.fill_with(|| None))?;
        self.num_completed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn wait(&self) -> Result<(), CollectiveError> {
        self.meeting.lock().failure.clone().map_or(Ok(()), Err)
    }

    fn num_completed(&self) -> u64 {
        self.num_completed.load(Ordering::Relaxed)
    }

    fn abort(&self, reason: &str) {
        let mut state = self.meeting.lock();
        if state.failure.is_none() {
            state.failure = Some(CollectiveError::Aborted { rank: self.rank, reason: reason.to_owned() });
        }
        self.meeting.changed.notify_all();
    }
}
