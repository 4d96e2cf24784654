//! The messages on the network: the gRPC code generated from `proto/`, conversion to and from the
//! types of the other crates, tokens and their roles, and the encryption that follows from a token. A peer may
//! send anything, so every conversion checks its input and names the field at fault. Nothing here
//! panics on input, and nothing here makes decisions. The comments in `proto/` are the specification.

mod accepted;
pub mod fleet;
mod grant;
pub mod invalid;
pub mod limits;
mod role;
mod secret;
mod status;
pub mod submit;
pub mod tls;
pub mod token;

/// The code generated from `proto/orchestrator/v1/`.
pub mod v1 {
    #![allow(clippy::large_enum_variant)]
    tonic::include_proto!("orchestrator.v1");
}

pub use accepted::{AcceptedTokens, Bearer, Now, Refusal};
pub use fleet::{DiskUse, FromCoordinator, FromWorker, Hello};
pub use grant::{Grant, GrantId};
pub use invalid::Invalid;
pub use role::Role;
pub use secret::WorkerSecret;
pub use token::{Token, TokenError};
