//! Data sets: readers of the real on-disk formats, download, the decode-once cache, subsets, augmentation, batches.
//! No libtorch: pixels leave as plain slices.

mod augment;
mod dataset;
mod error;
mod open;
mod pipeline;
mod plan;
mod prefetch;
mod rand_augment;
mod random;
mod resize;
pub mod stand_in;
mod statistics;
pub mod subset;

pub use augment::Layout;
pub use dataset::{Dataset, Image, Split};
pub use error::Error;
pub use open::{OpenRequest, Preflight, open, preflight};
pub use pipeline::Pipeline;
pub use plan::{Erase, Mix, SamplePlan, StepPlan, Window};
pub use prefetch::{Batch, Broken, Prefetch, PrefetchOptions};
pub use statistics::Statistics;
