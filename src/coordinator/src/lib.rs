//! The shell around the state machine of `schedule`: gRPC, timers, the journal and the effects of
//! decisions. It decides nothing itself. Read `server.rs` for the start, `owner.rs` for the loop
//! that owns the state.

mod answers;
mod clock;
mod connections;
mod control;
mod fleet;
mod http;
mod kept_files;
mod launcher;
mod notices;
mod outbox;
mod owner;
#[cfg(test)]
mod owner_tests;
mod programs;
mod questions;
mod reports;
mod requests;
mod selectors;
mod server;
mod status;
mod storage;
mod stored_results;
mod streams;
mod tail;
mod time_left;
mod tls;
mod token_file;

pub use answers::{Answers, NoAnswer, report_head, status_document, why, write_report};
pub use http::{Page, PageAddress};
pub use kept_files::{KeptFile, KeptFiles};
pub use notices::{Notify, Receiver};
pub use selectors::is_selector;
pub use server::{Coordinator, Error, Handle, Listen, Options, WORK_DIR};
pub use stored_results::JournalResults;
