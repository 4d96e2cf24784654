//! From a data set in memory to batches: the subset of a trial, the random choices of each step,
//! and the pixels.

pub(crate) mod choices;
pub(crate) mod lookup;
pub(crate) mod pipeline;
pub(crate) mod prefetch;
pub(crate) mod sheet;
pub mod subset;
