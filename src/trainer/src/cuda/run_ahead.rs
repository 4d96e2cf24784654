//! Keeps the host at most a few steps ahead of its GPU.
//!
//! Unbounded, a step that is one recorded graph would be queued a thousand times over: progress would tell of steps that
//! nobody has made, a stop would wait for all of them, and each holds page-locked memory of its batch. Two steps ahead
//! suffice to keep a GPU busy. Used by replica.rs.

use std::collections::VecDeque;
use std::thread;
use std::time::Duration;

use crate::shim::{self, ShimError};

const STEPS_AHEAD: usize = 2;
const PAUSE: Duration = Duration::from_micros(50);

/// A point in a device's queue.
pub trait Mark {
    fn is_passed(&self) -> Result<bool, ShimError>;
}

/// Of one replica.
pub struct RunAhead<M> {
    marks: VecDeque<M>,
}

impl<M> Default for RunAhead<M> {
    fn default() -> Self {
        Self { marks: VecDeque::new() }
    }
}

impl<M: Mark> RunAhead<M> {
    /// After a step was queued, with the mark behind it: waits until few enough are left.
    pub fn queued(&mut self, mark: M) -> Result<(), ShimError> {
        self.marks.push_back(mark);
        while self.marks.len() > STEPS_AHEAD {
            while !self.marks[0].is_passed()? {
                thread::sleep(PAUSE);
            }
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

    /// A device that makes one step each time it is asked about.
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

    #[test]
    fn the_host_is_never_more_than_two_steps_ahead() {
        let made = Rc::new(Cell::new(0));
        let mut run_ahead = RunAhead::default();
        for number in 1..=9 {
            run_ahead.queued(Fake { number, made: made.clone() }).unwrap();
            assert_eq!(made.get(), number.saturating_sub(2));
        }
    }
}
