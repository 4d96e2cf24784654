//! The reasons why a worker does not start or ends with an error.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use protocol::limits::MAX_SLOTS;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the coordinator's address `{address}` cannot be used: {reason}")]
    BadAddress { address: String, reason: String },
    #[error("a worker needs at least one slot and at most {MAX_SLOTS}, not {count}")]
    BadSlots { count: usize },
    #[error("cannot use the {name} `{path}`; {flag} chooses another")]
    Directory {
        name: &'static str,
        flag: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot use the work directory `{path}`")]
    WorkDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the trainer cannot be used: {reason}")]
    Trainer { reason: String },
    #[error("the coordinator refused this worker: {reason}")]
    Refused { reason: String },
    #[error("what answers at `{address}` is not a coordinator")]
    NotACoordinator { address: String },
    #[error(
        "nothing runs here, and no coordinator has answered at `{address}` for {timeout:?}: start it, or check that this machine reaches the address"
    )]
    NoCoordinator { address: String, timeout: Duration },
    #[error("cannot start a thread or read this machine's name")]
    System(#[source] io::Error),
    #[error(
        "processes of trainers are still there {seconds} s after they were killed: look at the machine's devices"
    )]
    ProcessesLeft { seconds: u64 },
    #[error("the worker's task ended without an answer")]
    Vanished,
}
