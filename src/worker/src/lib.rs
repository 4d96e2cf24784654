//! A worker: holds the slots of one machine, runs a trainer in each, and reports the outcome of
//! attempts to the coordinator. It never decides what to train. Read `start.rs` for how it is
//! started, `run.rs` for its loop, `slot.rs` for what happens to one attempt.

mod attempts;
pub mod conformance;
mod connection;
pub mod devices;
mod directories;
mod environment;
mod error;
pub mod executable;
mod gpu_release;
mod launch;
pub mod memory;
mod origin;
mod out_of_memory;
mod processes;
pub mod programs;
mod run;
mod slot;
#[cfg(test)]
mod slot_tests;
pub mod slurm;
mod start;
mod stderr;
mod trainer;
mod uploads;
mod work_dir;

pub use connection::{Coordinator, Place};
pub use error::Error;
pub use launch::library_path;
pub use start::{Ended, Handle, Options, Timing, start};
