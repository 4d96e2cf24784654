//! The result of a finished trial, with what it ran on.

use sweep::record::{Provenance, TrialResult};

use crate::attempt::leader::Leader;
use crate::attempt::open::Attempt;
use crate::attempt::replicas::ReplicaReport;
use crate::device::{self, process};
use crate::error::TrialError;
use crate::step::{images, precision};

/// Returns the result. Waits for the last checkpoint, so that nothing is written after it.
pub fn result(
    attempt: &Attempt,
    leader: Leader,
    replica: ReplicaReport,
) -> Result<TrialResult, TrialError> {
    let watched_step_ms = replica.watched_step_ms;
    let peak_memory_mib = attempt.slot.devices.peak_memory_mib();
    let mut result = leader.result(provenance(attempt, replica), peak_memory_mib)?;
    result.timing.watched_step_ms = watched_step_ms;
    Ok(result)
}

fn provenance(attempt: &Attempt, replica: ReplicaReport) -> Provenance {
    let (devices, pipeline) = (&attempt.slot.devices, &attempt.pipeline);
    let num_replicas = attempt.num_replicas();
    Provenance {
        trainer: sweep::build(),
        libtorch: device::libtorch_version(),
        devices: devices.describe(num_replicas),
        host: process::host_name(),
        precision: precision::name(attempt.format).to_owned(),
        execution: replica.execution,
        kernels: replica.kernels,
        images: images::site_of(attempt.form).to_owned(),
        libraries: devices.libraries(num_replicas),
        skipped_images: pipeline.dataset().skipped as u64,
        environment: String::new(),
        data_fingerprint: pipeline.fingerprint().to_owned(),
        inputs: attempt.inputs.hashes.clone(),
        subset: pipeline.subset().clone(),
        num_eval_images: pipeline.num_eval() as u32,
        num_parameters: replica.num_parameters,
    }
}
