//! Data sets: readers of the real on-disk formats, download, the decode-once cache, subsets, augmentation, batches.
//! No libtorch: pixels leave as plain slices.

mod augment;
pub mod catalog;
mod dataset;
mod error;
mod idx;
mod open;
mod pipeline;
mod plan;
mod prefetch;
mod rand_augment;
mod random;
mod readers;
mod resize;
pub mod stand_in;
mod statistics;
pub mod subset;

#[cfg(test)]
mod tests_pipeline;

pub use augment::Layout;
pub use dataset::{Dataset, Image, Split};
pub use error::Error;
pub use open::{OpenRequest, Preflight, open, preflight};
pub use pipeline::Pipeline;
pub use plan::{Erase, Mix, SamplePlan, StepPlan, Window};
pub use prefetch::{Batch, Broken, Prefetch, PrefetchOptions};
pub use statistics::Statistics;
