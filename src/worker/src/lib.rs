//! A worker: holds the slots of one machine, runs a trainer in each, and reports the outcome of
//! attempts to the coordinator. It never decides what to train. Read `options.rs` for how it is
//! started, `run.rs` for its loop, `slot.rs` for what happens to one attempt.

mod attempts;
pub mod devices;
mod environment;
pub mod executable;
mod launch;
mod link;
mod options;
mod origin;
mod out_of_memory;
mod places;
mod processes;
mod residue;
mod run;
mod slot;
#[cfg(test)]
mod slot_tests;
mod stderr;
mod trainer;
mod work_dir;

pub use options::{Ended, Error, Handle, Options, Timing, Worker};
