//! The decisions, one scenario each, through the same `turn` that the coordinator runs; every
//! invariant is checked after each step. Random histories are in tests/simulation.

#[path = "../support/sweeps.rs"]
mod sweeps;

mod allocations;
mod edits;
mod explanations;
mod failures;
mod fleet;
mod identity;
mod invariants;
mod journals;
mod placing;
mod queues;
mod rankings;
mod refusals;
mod removable;
mod removals;
mod retries;
mod rules;
mod searches;
mod submissions;
mod totals;
mod world;
