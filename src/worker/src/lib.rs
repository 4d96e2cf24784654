//! A worker: holds the slots of one machine, runs a trainer in each, and tells the coordinator what became of attempts.
//! It never decides what to train. Read `options.rs` for how it is started.

pub mod devices;
mod options;

pub use options::{Ended, Error, Handle, Options, Timing, Worker};
