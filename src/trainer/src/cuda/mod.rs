//! What only machines with a GPU have, opened when one is asked for: libtorch's CUDA library and the shim's CUDA half.
//!
//! The trainer is linked without either, so that one binary runs everywhere. Nothing here is needed on the CPU. Never
//! run on hardware so far. Read half.rs, then graph.rs, norm.rs and run_ahead.rs.

mod graph;
mod half;
mod norm;
#[cfg(test)]
mod norm_drills;
#[cfg(test)]
mod norm_tests;
mod run_ahead;

pub use graph::CudaGraphs;
pub use half::{MemoryShareError, OpenError, libtorch, set_memory_share};
pub use norm::fused_norm_available;
pub use run_ahead::{RunAhead, wait_for};
