//! The truth: an append-only list of events in one SQLite file of the coordinator's state directory.
//!
//! What `append` returned `Ok` for survives `kill -9` and power loss (P3). A row carries a hash chained with the row
//! before, so that a damaged, missing or exchanged row is found when the journal is read. One process writes at a
//! time; others may export and verify meanwhile. It knows nothing of what the events mean, but for `replay`.
//! Read `store.rs`, then `place.rs` for locks and file systems, `offline.rs` for export and verify.

mod chain;
mod error;
mod offline;
mod place;
mod store;

pub use error::Error;
pub use offline::{Verified, event, export, read, verify};
pub use place::Mode;
pub use store::Journal;
