//! The durable history: an append-only list of events in one SQLite file of the coordinator's state
//! directory.
//!
//! Events for which `append` returned `Ok` survive `kill -9` and power loss (P3). A row has a hash
//! chained with the row before, so that a damaged, missing or exchanged row is found when the
//! journal is read. A file beside the journal has the number and hash of the newest event, so that
//! missing rows at the end are found as well. One process writes at a time; others may export and
//! verify meanwhile. Except in `replay`, the journal does not know the meaning of events. Read
//! `store.rs`, then `head_file.rs` for how missing events are found, `state_dir.rs` for locks and file
//! systems, `offline.rs` for export and verify, `repair.rs` for the repair of damage.

mod chain;
mod error;
mod head_file;
mod offline;
mod open_files;
mod repair;
mod state_dir;
mod store;
mod wal;

pub use error::Error;
pub use offline::{Reader, Verified, export, read, verify};
pub use repair::{Lost, Repaired, repair};
pub use state_dir::Mode;
pub use store::Journal;
