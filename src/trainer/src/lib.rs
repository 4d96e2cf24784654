//! The trainer: models, losses, optimiser, loop, collectives and checkpoints. The only crate that
//! links libtorch.
//!
//! It trains one trial at a time on the devices of one slot and talks to its worker over stdin and
//! stdout only. It never decides what to train, where, or whether to retry. A folder uses those
//! below it in this list, and none above: conversation, attempt, step, network, device. Read
//! main.rs, then attempt/train.rs, then network/nn/.

pub mod attempt;
pub mod bench;
pub mod conversation;
pub mod device;
pub mod error;
pub mod network;
pub mod step;
