//! Keeps the host at most a few steps ahead of its GPU, and bounds every wait for the GPU.
//!
//! Without a limit, a step that is one recorded graph would be queued a thousand times: progress
//! would count steps not yet executed, a stop would wait for all of them, and each holds
//! page-locked memory of its batch. Two steps ahead suffice to keep a GPU busy. A GPU that hangs
//! answers no blocking call, so every wait polls, has a deadline, and ends when the group fails.
//! Used by replica.rs.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use crate::device::collective::{Collective, CollectiveError};
use crate::device::shim::{self, ShimError};

const STEPS_AHEAD: usize = 2;
const PAUSE: Duration = Duration::from_micros(50);

/// A point in a device's queue.
pub trait Mark {
    fn is_passed(&self) -> Result<bool, ShimError>;
}

/// The reason why a device was not waited for to the end.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The group failed, or the deadline passed.
    #[error(transparent)]
    Group(#[from] CollectiveError),
    #[error(transparent)]
    Shim(#[from] ShimError),
}

/// Waits until a device has reached a mark; `operation` names the device's work. For the time
/// `awake` it polls without pauses, for waits that are timed.
pub fn wait_for(
    mark: &impl Mark,
    operation: &'static str,
    group: &dyn Collective,
    deadline: Duration,
    awake: Duration,
) -> Result<(), WaitError> {
    let began = Instant::now();
    while !mark.is_passed()? {
        group.check()?;
        let waited = began.elapsed();
        if waited >= deadline {
            return Err(CollectiveError::Stuck {
                rank: group.rank(),
                operation,
                seconds: deadline.as_secs(),
            }
            .into());
        }
        if waited < awake {
            thread::yield_now()
        } else {
            thread::sleep(PAUSE)
        }
    }
    Ok(())
}

/// The queued work of one replica: steps of training, or batches of an evaluation.
pub struct RunAhead<M> {
    marks: VecDeque<M>,
}

impl<M> Default for RunAhead<M> {
    fn default() -> Self {
        Self {
            marks: VecDeque::new(),
        }
    }
}

impl<M: Mark> RunAhead<M> {
    /// Registers a queued step by the mark behind it; waits until few enough are left, for at most
    /// the deadline each.
    pub fn queued(
        &mut self,
        mark: M,
        group: &dyn Collective,
        deadline: Duration,
    ) -> Result<(), WaitError> {
        self.marks.push_back(mark);
        while self.marks.len() > STEPS_AHEAD {
            wait_for(&self.marks[0], "a step", group, deadline, Duration::ZERO)?;
            self.marks.pop_front();
        }
        Ok(())
    }
}

impl Mark for shim::Event {
    fn is_passed(&self) -> Result<bool, ShimError> {
        self.query()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::device::collective::{Solo, shared_memory};

    const PATIENT: Duration = Duration::from_secs(60);

    /// A device that completes one step each time it is polled.
    struct Fake {
        number: u32,
        made: Rc<Cell<u32>>,
    }

    impl Mark for Fake {
        fn is_passed(&self) -> Result<bool, ShimError> {
            let passed = self.made.get() >= self.number;
            self.made.set(self.made.get() + u32::from(!passed));
            Ok(passed)
        }
    }

    /// A device that never reaches a mark.
    struct Hung;

    impl Mark for Hung {
        fn is_passed(&self) -> Result<bool, ShimError> {
            Ok(false)
        }
    }

    #[test]
    fn the_host_is_never_more_than_two_steps_ahead() {
        let made = Rc::new(Cell::new(0));
        let mut run_ahead = RunAhead::default();
        for number in 1..=9 {
            run_ahead
                .queued(
                    Fake {
                        number,
                        made: made.clone(),
                    },
                    &Solo::default(),
                    PATIENT,
                )
                .unwrap();
            assert_eq!(made.get(), number.saturating_sub(2));
        }
    }

    #[test]
    fn a_device_that_hangs_ends_the_wait_at_the_deadline() {
        let mut run_ahead = RunAhead::default();
        let mut queue = || run_ahead.queued(Hung, &Solo::default(), Duration::from_millis(20));
        assert!(
            queue().is_ok() && queue().is_ok(),
            "two steps are queued without a wait"
        );
        let error = queue().unwrap_err();
        let WaitError::Group(CollectiveError::Stuck {
            rank: 0,
            operation: "a step",
            ..
        }) = error
        else {
            panic!("{error}");
        };
    }

    /// The deadline is a minute: the other replica ends the wait.
    #[test]
    fn a_group_that_fails_ends_the_wait_for_a_device_that_hangs() {
        let group = shared_memory(2, PATIENT);
        thread::scope(|scope| {
            let waiting =
                scope.spawn(|| wait_for(&Hung, "a step", &*group[0], PATIENT, Duration::ZERO));
            group[1].abort("its device failed");
            let error = waiting.join().unwrap().unwrap_err();
            assert!(
                matches!(
                    error,
                    WaitError::Group(CollectiveError::Aborted { rank: 1, .. })
                ),
                "{error}"
            );
        });
    }
}
