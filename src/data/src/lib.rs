//! Data sets: readers of the real on-disk formats, download, the decode-once cache, subsets,
//! augmentation, batches. No libtorch: pixels are returned as plain slices.

mod affine;
mod augment;
mod cache;
pub mod catalog;
mod check;
mod content;
mod dataset;
mod decode;
mod error;
mod fetch;
pub mod files;
mod idx;
mod lock;
mod lookup;
mod mat5;
mod memo;
mod metadata;
mod open;
mod pipeline;
mod plan;
mod prefetch;
mod rand_augment;
mod random;
mod readers;
mod resize;
mod sheet;
pub mod stand_in;
pub mod stand_in_files;
mod statistics;
pub mod subset;
mod unpack;

#[cfg(test)]
mod tests_fetch;
#[cfg(test)]
mod tests_images;
#[cfg(test)]
mod tests_pipeline;
#[cfg(test)]
mod tests_readers;

pub use augment::Layout;
pub use check::{Check, ClassCounts, Listing, Sizes, State, check, list};
pub use content::{content, file_content};
pub use dataset::{Dataset, Image, Split};
pub use error::Error;
pub use fetch::{FetchProgress, FetchRequest, Fetched, FetchedFile, fetch};
pub use lookup::{Between, Lookup, Origin};
pub use open::{OpenRequest, Preflight, open, preflight, typical_side};
pub use pipeline::{Pipeline, StepLookup};
pub use plan::{Erase, Mix, SamplePlan, StepPlan, Window};
pub use prefetch::{Batch, Broken, Form, Prefetch, PrefetchOptions};
pub use random::philox;
pub use sheet::contact_sheet;
pub use statistics::Statistics;
