//! Tests that cross several modules of this crate.

mod fetch;
mod images;
pub(crate) mod pipeline;
pub(crate) mod readers;
