//! The trainer: models, losses, optimiser, loop, collectives and checkpoints. The only crate that
//! links libtorch.
//!
//! It trains one trial at a time on the devices of one slot and talks to its worker over stdin and
//! stdout only. It never decides what to train, where, or whether to retry. Read main.rs, then
//! train.rs, then nn/.

pub mod attempt;
pub mod batches;
pub mod bench;
pub mod checkpoint;
pub mod collective;
pub mod cuda;
pub mod device;
pub mod dynamic;
pub mod error;
pub mod evaluate;
pub mod fault;
#[cfg(test)]
mod gpu_tests;
pub mod gradients;
pub mod hardware;
pub mod head;
pub mod history;
pub mod images;
#[cfg(test)]
mod images_tests;
pub mod inputs;
pub mod leader;
pub mod libraries;
pub mod loss;
#[cfg(test)]
mod loss_tests;
pub mod memory;
pub mod models;
pub mod nn;
pub mod nvml;
pub mod optimiser;
#[cfg(test)]
mod optimiser_tests;
pub mod precision;
pub mod process;
pub mod profile;
mod rate;
pub mod recorded;
#[cfg(test)]
mod recorded_tests;
pub mod rehearse;
pub mod replica;
#[cfg(test)]
mod replica_tests;
pub mod run;
pub mod serve;
pub mod session;
pub mod shim;
pub mod threads;
pub mod train;
pub mod weights;
pub mod writer;
