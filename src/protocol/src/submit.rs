//! Submission of a compiled sweep.

use schedule::CheckedSweep;
use sweep::Sweep;

use crate::invalid::{Invalid, at_most};
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

    /// Reads and checks the sweep, which takes seconds for a large one. The build of the program
    /// that compiled it is the caller's to check.
    pub fn into_sweep(self) -> Result<CheckedSweep, Invalid> {
        at_most(
            "sweep_json",
            "bytes",
            self.sweep_json.len(),
            MAX_SWEEP_BYTES,
        )?;
        let sweep: Sweep = serde_json::from_slice(&self.sweep_json)
            .map_err(|error| Invalid::new("sweep_json", error))?;
        CheckedSweep::new(sweep).map_err(|bad| Invalid::new("sweep_json", bad))
    }
}
