//! The harness of the system tests: the real binaries in real processes, started as users start
//! them; and golden files, which tests of other crates compare as well.
//!
//! Nothing here depends on the crates of this workspace; a test sees what a user's script would
//! see. Build the binaries first (`make test` does). Read `system.rs` for a coordinator with
//! workers, `process.rs` for one process, `browser.rs` for
//! one that looks at the page.

pub mod binaries;
pub mod browser;
pub mod cluster;
mod executable;
pub mod golden;
mod normals;
pub mod process;
pub mod results;
pub mod sshd;
pub mod system;
pub mod terminal;

pub use browser::Browser;
pub use executable::{copy_executable, write_executable};
pub use normals::Normals;
pub use process::Process;
pub use system::System;

use std::time::{Duration, Instant};

/// A timeout longer than anything here takes on a busy machine with two cores; it expires only if
/// something is broken.
pub const DEADLINE: Duration = Duration::from_secs(300);

/// Polls until there is an answer. Panics with `what` once the deadline has passed.
pub fn wait_for<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    poll(what, Duration::from_millis(20), ask)
}

/// Does the same for questions that start processes, such as commands of Slurm: less often, since
/// other tests need the CPUs too.
pub fn wait_for_command<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    poll(what, Duration::from_millis(250), ask)
}

fn poll<T>(what: &str, interval: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            start.elapsed() < DEADLINE,
            "waited {} s in vain: {what}",
            DEADLINE.as_secs()
        );
        // the interval of polling, not the duration of anything
        std::thread::sleep(interval);
    }
}
