//! The trainer: models, losses, optimiser, loop, collectives and checkpoints. The only crate that
//! links libtorch.
//!
//! It trains one trial at a time on the devices of one slot and talks to its worker over stdin and
//! stdout only. It never decides what to train, where, or whether to retry. A folder uses those
//! below it in this list, and none above: conversation, attempt, step, network, device. Read
//! command_line.rs, then attempt/train.rs, then network/nn/.

mod attempt;
mod bench;
mod command_line;
mod conversation;
mod device;
mod error;
mod network;
mod step;

pub use command_line::run as run_command_line;

// for tests in tests/
pub use attempt::AttemptEnd;
pub use attempt::fault::{Fault, VARIABLE as FAULT_VARIABLE};
pub use attempt::slot::SlotOptions;
pub use attempt::train::learning_rate;
pub use conversation::predict::{Model, Prediction};
pub use conversation::serve::Runner;
pub use conversation::session::Session;
pub use device::DeviceSet;
pub use step::cuda_graph_steps::Policy;
pub use step::loss::Criterion;
