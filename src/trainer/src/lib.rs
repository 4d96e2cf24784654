//! The trainer: models, losses, optimiser, loop, collectives and checkpoints. The only crate that links libtorch.
//!
//! It trains one trial at a time on the devices of one slot and talks to its worker over stdin and stdout, nothing
//! else; it never decides what to train, where, or whether to try again. Read main.rs, then train.rs, then nn/.

pub mod collective;
pub mod models;
pub mod nn;
pub mod shim;
