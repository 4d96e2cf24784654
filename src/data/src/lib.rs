//! Data sets: readers of the real on-disk formats, download, the decode-once cache, subsets,
//! augmentation, batches, and the embeddings of class hierarchies. No libtorch: pixels are returned
//! as plain slices.
//!
//! `catalog/` has a file for each data set, `formats/` the file formats they come in, `fetch/` the
//! download. `open.rs` makes a data set available, by way of `cache/`; `images/` decodes and
//! changes single images, and `batches/` makes the batches of a trial. `hierarchy/` is on its own.

mod batches;
mod cache;
pub mod catalog;
mod check;
mod dataset;
mod error;
mod fetch;
pub mod files;
mod formats;
mod heads;
pub mod hierarchy;
mod images;
mod lock;
mod open;
mod random;
pub mod stand_in;
mod statistics;
#[cfg(test)]
mod tests;

pub use batches::choices::{Erase, Mix, SamplePlan, StepPlan, Window};
pub use batches::lookup::{ByteSource, Interpolation, Lookup};
pub use batches::pipeline::{Pipeline, StepLookup};
pub use batches::prefetch::{Batch, Broken, Form, Prefetch, PrefetchOptions};
pub use batches::sheet::contact_sheet;
pub use batches::subset;
pub use cache::content::{content, file_content};
pub use catalog::stand_in_files;
pub use check::{Check, ClassCounts, Listing, Presence, Sizes, check, list};
pub use dataset::{Dataset, Image, Split};
pub use error::Error;
pub use fetch::{FetchProgress, FetchRequest, Fetched, FetchedFile, fetch, fetch_file, sha256};
pub use heads::{Heads, heads, typical_side};
pub use images::input_form::InputForm;
pub use open::{OpenRequest, Preflight, open, preflight};
pub use random::philox;
pub use statistics::Statistics;
