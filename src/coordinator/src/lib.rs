//! The shell around the state machine of `schedule`: gRPC, timers, the journal and the effects of
//! decisions. It decides nothing itself. Read `options.rs` for the start, `owner.rs` for the loop
//! that owns the state.

mod clock;
mod connections;
mod control;
pub mod document;
mod fleet;
mod http;
mod message;
mod options;
mod outbox;
mod owner;
#[cfg(test)]
mod owner_tests;
mod read;
mod remaining;
mod reports;
pub mod status;
mod storage;
mod streams;
mod tail;
mod token_file;

pub use http::Page;
pub use options::{Coordinator, Error, Handle, Listen, Options};
