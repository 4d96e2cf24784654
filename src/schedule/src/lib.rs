//! The decisions of the coordinator, as functions of state, input and time. No clock, no
//! randomness, no IO.
//!
//! An input becomes events (`decide`), only events change the state (`apply`), more events follow
//! from the state (`follow_up`), and the shell gets its actions (`effects`). `turn` runs them in
//! order.
//! Read `state.rs`, `event.rs`, then `apply.rs`.

pub mod allocation;
mod apply;
#[cfg(test)]
mod architecture;
mod check;
mod checked_sweep;
pub mod comparison;
mod config;
pub mod curve;
mod decide;
mod effects;
pub mod event;
mod explain;
mod fleet;
mod follow_up;
mod live;
mod phase;
mod placement;
pub mod ranking;
mod removable;
mod search;
mod snapshot;
pub mod state;
mod submission;
mod sweep_transitions;
pub mod tally;
mod trials;
mod turn;
mod waits;

pub use apply::{Impossible, KEPT_GONE, apply, replay};
pub use check::{INVARIANTS, Violation, check};
pub use checked_sweep::CheckedSweep;
pub use config::{BadNode, Budget, Budgets, Config};
pub use decide::{Answer, Decision, decide};
pub use effects::{effects, replies};
pub use explain::{Explanation, Spent, Tried, Wanted, explain};
pub use live::{held_up, longest_wait, next_deadline, observe, restart};
pub use phase::{Illegal, TrialEvent};
pub use removable::{KEEP_MS, Removable, removable, unused_kept};
pub use search::{Choice, DecidedBy, Score, choice_of, choose, compared, explain_choice};
pub use submission::{Submission, preview};
pub use trials::Trials;
pub use turn::{Turn, turn};
pub use waits::{SweepWaits, WaitReason, sweep_waits};
