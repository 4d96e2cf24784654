//! Submission of a compiled sweep.

use sweep::Sweep;

use crate::invalid::{Invalid, at_most, name};
use crate::limits::MAX_MESSAGE_BYTES;
use crate::v1;

/// Space reserved for the rest of the message.
const ENVELOPE_BYTES: usize = 4096;
/// Largest sweep as JSON.
pub const MAX_SWEEP_BYTES: usize = MAX_MESSAGE_BYTES - ENVELOPE_BYTES;

impl v1::SubmitRequest {
    pub fn new(sweep: &Sweep, build: &str) -> Result<Self, Invalid> {
        let sweep_json =
            serde_json::to_vec(sweep).map_err(|error| Invalid::new("sweep_json", error))?;
        at_most("sweep_json", "bytes", sweep_json.len(), MAX_SWEEP_BYTES)?;
        Ok(Self {
            sweep_json,
            build: build.to_owned(),
        })
    }

    /// Returns the sweep and the build of the program that compiled it.
    pub fn into_sweep(self) -> Result<(Box<Sweep>, String), Invalid> {
        at_most(
            "sweep_json",
            "bytes",
            self.sweep_json.len(),
            MAX_SWEEP_BYTES,
        )?;
        let build = name("build", self.build)?;
        let sweep: Box<Sweep> = serde_json::from_slice(&self.sweep_json)
            .map_err(|error| Invalid::new("sweep_json", error))?;
        sweep
            .check()
            .map_err(|bad| Invalid::new(format!("sweep_json.{}", bad.place), bad.reason))?;
        Ok((sweep, build))
    }
}
