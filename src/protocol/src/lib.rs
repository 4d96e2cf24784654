//! What crosses the network: the gRPC code generated from `proto/`, conversion to and from the words of the other crates,
//! and the shared token. A peer may lie, so every conversion checks and names the field; nothing here panics on
//! what it is given, and nothing here decides anything. The comments in `proto/` are the specification.

pub mod fleet;
pub mod invalid;
pub mod limits;
mod secret;
pub mod submit;
pub mod token;

/// As generated from `proto/orchestrator/v1/`.
pub mod v1 {
    #![allow(clippy::large_enum_variant)]
    tonic::include_proto!("orchestrator.v1");
}

pub use fleet::{DiskUse, FromCoordinator, FromWorker, Hello};
pub use invalid::Invalid;
pub use secret::WorkerSecret;
pub use token::{AcceptedTokens, Token, TokenError};
