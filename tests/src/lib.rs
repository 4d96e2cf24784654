//! What the system tests drive: the real binaries in real processes, started as users start them.
//!
//! Nothing here knows the crates of this workspace; what a test sees is what a user's script would see. Build the
//! binaries first (`make test` does). Read `system.rs` for a coordinator with workers, `process.rs` for one process.

pub mod binaries;
pub mod process;
pub mod results;
pub mod system;

pub use process::Process;
pub use system::System;

use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine with two cores; reached only when something is broken.
pub const DEADLINE: Duration = Duration::from_secs(300);

/// Asks until there is an answer. Panics with what was waited for once the deadline has passed.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "waited {} s in vain: {what}", DEADLINE.as_secs());
        // how often to ask, not how long something takes
        std::thread::sleep(Duration::from_millis(20));
    }
}
