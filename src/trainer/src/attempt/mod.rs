//! One attempt at a trial, from the request to its result: opens its inputs, trains on a thread per
//! replica, and concludes with the result.
//!
//! A panic in a replica, which is how libtorch's errors arrive, ends the attempt, not the process.
//! Read open.rs, then replicas.rs, train.rs and conclude.rs.

mod batch_that_fits;
mod checkpoint;
mod checkpoint_writer;
mod conclude;
mod epoch_hashes;
mod evaluate;
pub mod fault;
pub mod inputs;
mod kept;
mod leader;
mod open;
mod rate;
mod replica_threads;
mod replicas;
pub mod slot;
pub mod train;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use sweep::handoff::{Progress, RunRequest};
use sweep::record::TrialResult;

use crate::attempt::leader::Leader;
use crate::attempt::open::Attempt;
use crate::attempt::slot::SlotOptions;
use crate::attempt::train::TrainingEnd;
use crate::device::nvml::Meter;
use crate::device::process;
use crate::error::TrialError;

pub use open::Inputs;

/// The end of an attempt without an error.
pub enum AttemptEnd {
    Finished(Box<TrialResult>),
    Stopped,
}

/// Makes an attempt. `requested_at`: when its request arrived, before `inputs` were opened.
pub fn run(
    slot: &Arc<SlotOptions>,
    request: &RunRequest,
    inputs: Inputs,
    requested_at: Instant,
    stop: &Arc<AtomicBool>,
    report: &mut dyn FnMut(Progress),
) -> Result<AttemptEnd, TrialError> {
    let cpu_s_before = process::cpu_seconds();
    let attempt = Arc::new(Attempt::open(slot, request, inputs, stop)?);
    let mut meter = Meter::open(&slot.devices.gpus_of(attempt.num_replicas()));
    let mut report = |progress| {
        meter.sample();
        report(progress);
    };
    let mut leader = Leader::new(&attempt, requested_at, &mut report);
    let ended = replicas::run(&attempt, &mut leader)
        .map_err(|error| error.diagnosed(|| slot.devices.unhealthy()))?;
    match ended.training {
        TrainingEnd::Stopped => Ok(AttemptEnd::Stopped),
        TrainingEnd::Finished => {
            let mut result = conclude::result(&attempt, leader, ended)?;
            result.timing.gpu_busy = meter.mean();
            result.timing.gpu_energy_j = meter.energy_j();
            result.timing.cpu_s = Some(process::cpu_seconds() - cpu_s_before);
            Ok(AttemptEnd::Finished(Box::new(result)))
        }
    }
}
