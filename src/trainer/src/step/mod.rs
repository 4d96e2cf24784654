//! One training step: a batch onto the device, forward and backward pass, update.
//!
//! Knows nothing of epochs, checkpoints or workers. Read replica.rs, then batches.rs, images.rs,
//! head.rs, loss.rs and optimiser.rs; cuda_graph_steps.rs makes the
//! same step from recordings.

pub mod batches;
pub mod cuda_graph_steps;
#[cfg(test)]
mod cuda_graph_steps_tests;
pub mod head;
pub mod images;
#[cfg(test)]
mod images_tests;
pub mod loss;
#[cfg(test)]
mod loss_tests;
mod moving_statistics;
pub mod optimiser;
#[cfg(test)]
mod optimiser_tests;
pub mod precision;
mod rehearse_passes;
pub mod replica;
mod replica_record;
#[cfg(test)]
mod replica_tests;
mod synchronised_statistics;
