//! The clock for decisions: milliseconds since 1970 that never go back, whatever happens to the
//! wall clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use schedule::state::Millis;

#[derive(Clone, Debug)]
pub struct Clock {
    base: Millis,
    started: Instant,
}

impl Clock {
    /// Continues from the last time in the journal if the wall clock is behind it.
    pub fn start(last: Millis) -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as Millis);
        Self {
            base: wall.max(last),
            started: Instant::now(),
        }
    }

    pub fn now(&self) -> Millis {
        self.base + self.started.elapsed().as_millis() as Millis
    }
}
