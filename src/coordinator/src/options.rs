//! How a coordinator is started, and stopped again.

use std::net::SocketAddr;
use std::path::PathBuf;

use protocol::Token;

/// Where workers and commands connect to.
pub enum Listen {
    Address(SocketAddr),
    /// Already bound: tests and the embedded coordinator take port 0.
    Bound(std::net::TcpListener),
}

pub struct Options {
    pub listen: Listen,
    /// Holds the journal; made when it is missing.
    pub state_dir: PathBuf,
    /// Needed to listen on anything but loopback.
    pub token: Option<Token>,
    /// Version and build: workers and submitters must have the same.
    pub build: String,
    /// Read-only status page and metrics.
    pub http: Option<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("not built yet")]
    NotBuilt,
}

pub struct Coordinator;

/// A running coordinator. Dropping it stops it without ceremony; nothing acknowledged is lost.
pub struct Handle {
    address: SocketAddr,
}

impl Coordinator {
    /// Opens the journal, replays it, binds, and serves on tasks of the current runtime (multi-threaded or not).
    pub async fn start(_options: Options) -> Result<Handle, Error> {
        Err(Error::NotBuilt)
    }
}

impl Handle {
    /// What was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The status page, when one was asked for.
    pub fn http_address(&self) -> Option<SocketAddr> {
        None
    }

    /// Until it ends by itself, which only an error makes it do.
    pub async fn wait(&mut self) -> Result<(), Error> {
        Err(Error::NotBuilt)
    }

    /// Journals what has been received, closes every stream and ends.
    pub async fn shutdown(self) -> Result<(), Error> {
        Err(Error::NotBuilt)
    }
}
