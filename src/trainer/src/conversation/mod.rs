//! The ways to ask for trials: a worker's frames, a file, or a rehearsal.
//!
//! A `Runner` carries out one request at a time; `Session` is the one that trains. Read serve.rs,
//! then session.rs.

#[cfg(test)]
mod gpu_tests;
pub mod predict;
pub mod rehearsal;
pub mod run_file;
pub mod serve;
pub mod session;
