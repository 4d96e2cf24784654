//! Code for machines with a GPU, opened on first use: libtorch's CUDA library and the shim's CUDA
//! library.
//!
//! The trainer is linked without either, so one binary runs everywhere. The CPU needs nothing from
//! here. Never run on hardware so far. Read cuda_library.rs, then graph.rs, norm.rs and
//! run_ahead.rs.

mod cuda_library;
mod graph;
mod norm;
#[cfg(test)]
mod norm_drills;
#[cfg(test)]
mod norm_tests;
mod run_ahead;

pub use cuda_library::{libtorch, set_memory_share};
pub use graph::CudaGraphs;
pub use norm::fused_norm_available;
pub use run_ahead::{RunAhead, WaitError, wait_for};
