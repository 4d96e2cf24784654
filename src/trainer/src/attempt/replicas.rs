//! The replicas of an attempt, a thread each: build, restore, train, export.
//!
//! Rank 0 runs on the calling thread, which stays warm between trials. A replica that hangs cannot
//! be joined: it is abandoned, and the worker ends the process after the failure. Next: train.rs.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use tch::{Device, Tensor};

use crate::attempt::batch_that_fits;
use crate::attempt::checkpoint::Checkpoint;
use crate::attempt::evaluate::Evaluator;
use crate::attempt::kept;
use crate::attempt::leader::Leader;
use crate::attempt::open::Attempt;
use crate::attempt::replica_threads::{clearest, join};
use crate::attempt::train::{TrainingEnd, train};
use crate::device;
use crate::device::collective::{AbortOnDrop, Collective};
use crate::error::{TrialError, caught};
use crate::network::{models, weights};
use crate::step::head;
use crate::step::images::Images;
use crate::step::replica::{Blueprint, Replica};

/// Report of a replica that ended without an error.
pub struct ReplicaReport {
    pub training: TrainingEnd,
    pub num_parameters: u64,
    pub execution: String,
    pub kernels: String,
    pub watched_step_ms: Option<(f64, f64)>,
}

type ReplicaResult = Result<ReplicaReport, TrialError>;

/// Trains on all replicas; returns the report of rank 0, or the failure that best shows the cause.
pub fn run(attempt: &Arc<Attempt>, leader: &mut Leader) -> ReplicaResult {
    let slot = &attempt.slot;
    let group = slot
        .devices
        .group(attempt.num_replicas(), slot.collective_deadline)?;
    let mut members = group
        .into_iter()
        .map(|(collective, device)| (Arc::from(collective), device));
    let first: (Arc<dyn Collective>, Device) =
        members.next().expect("a group has at least one replica");
    let start = |(collective, device): (Arc<dyn Collective>, Device)| {
        let name = format!("replica-{}", collective.rank());
        let attempt = attempt.clone();
        let body = move || {
            caught(|| run_replica(&attempt, collective, device, None))
                .map_err(|error| error.on(device))
        };
        thread::Builder::new()
            .name(name)
            .spawn(body)
            .expect("the system can start a thread")
    };
    let others: Vec<JoinHandle<ReplicaResult>> = members.map(start).collect();
    let (collective, device) = first;
    let mine = caught(|| run_replica(attempt, collective, device, Some(leader)))
        .map_err(|error| error.on(device));
    let failed_at = mine.is_err().then(Instant::now);
    let mut results = vec![mine];
    results.extend(
        others
            .into_iter()
            .filter_map(|thread| join(thread, failed_at, &attempt.measurement_claim)),
    );
    clearest(results)
}

fn run_replica(
    attempt: &Attempt,
    collective: Arc<dyn Collective>,
    device: Device,
    mut leader: Option<&mut Leader>,
) -> ReplicaResult {
    // also covers building: replicas that are ready wait for this one's first sum
    let guard = AbortOnDrop::new(&*collective);
    let threads = attempt
        .slot
        .devices
        .threads_per_replica(attempt.num_replicas());
    tch::set_num_threads(threads as i32);
    let deterministic = attempt.settings().deterministic;
    device::prepare_thread(device, deterministic, device::CUDNN_CANDIDATES)?;
    let mut replica = build(attempt, collective.clone(), device)?;
    let layout = replica.storage.layout.digest(&replica.inventory);
    if let Some(checkpoint) = &attempt.resumed {
        restore(&mut replica, checkpoint, &layout)?;
    }
    replica.collective.broadcast(&replica.storage.weights)?;
    replica.storage.refresh_working_copy();
    let images = Images::new(
        attempt.form,
        &attempt.inputs.resident,
        &attempt.pipeline,
        attempt.image,
        device,
    );
    let mut evaluator = Evaluator::new(&attempt.pipeline, &images);
    if let Some(leader) = &mut leader {
        leader.begin(layout);
    }
    let trained = caught(|| train(attempt, &mut replica, &images, &mut evaluator, leader));
    let training = match trained {
        Ok(training) => training,
        Err(error) => {
            let error = batch_that_fits::add_to(error, &mut replica, attempt);
            // dropping the state of a device that hangs may wait for it; the worker ends the
            // process after the failure
            let may_hang = matches!(
                error,
                TrialError::Collective(_) | TrialError::BadDevice { .. }
            );
            if device.is_cuda() && may_hang {
                std::mem::forget(replica);
            }
            return Err(error);
        }
    };
    if let (TrainingEnd::Finished, Some(path), 0) =
        (training, &attempt.slot.weights_out, collective.rank())
    {
        kept::export(path, attempt, &replica)?;
    }
    if training == TrainingEnd::Finished {
        kept::write(attempt, &replica, &mut evaluator)?;
    }
    guard.finished();
    Ok(ReplicaReport {
        training,
        num_parameters: replica.inventory.num_parameters(),
        execution: replica.execution(),
        kernels: replica.kernels(),
        watched_step_ms: replica.watched_step_ms(),
    })
}

/// Builds a replica with the weights that a trial starts from.
fn build(
    attempt: &Attempt,
    collective: Arc<dyn Collective>,
    device: Device,
) -> Result<Replica, TrialError> {
    let settings = attempt.settings();
    let blueprint = Blueprint {
        settings,
        seed: attempt.spec().seed,
        channels: attempt.pipeline.channels(),
        num_classes: attempt.pipeline.num_classes(),
        embeddings: attempt.embeddings.as_deref(),
        format: attempt.format,
        deadline: attempt.slot.collective_deadline,
    };
    let mut replica =
        Replica::new(&blueprint, collective, device)?.with_cuda_graphs(attempt.recording());
    if let Some(path) = &attempt.weights {
        let layers = [models::classifier_name(settings.model), head::CLS_HEAD];
        let weights = weights::Weights::read(path, &replica.inventory, &layers)
            .map_err(|error| TrialError::of_input(&error))?;
        weights.load_into(&replica.inventory, &mut replica.storage);
    }
    Ok(replica)
}

/// Restores a replica's state from a checkpoint, bit for bit.
fn restore(replica: &mut Replica, checkpoint: &Checkpoint, layout: &str) -> Result<(), TrialError> {
    let Checkpoint {
        header,
        weights,
        momentum,
        statistics,
        loss_sums,
    } = checkpoint;
    let (rank, size) = (replica.collective.rank(), replica.collective.size());
    if header.layout != layout || loss_sums.len() != size {
        return Err(TrialError::Crashed(
            "the checkpoint was written by another form of the same model: remove its folder"
                .to_owned(),
        ));
    }
    let _guard = tch::no_grad_guard();
    let storage = &mut replica.storage;
    for (flat, values) in [
        (&mut storage.weights, weights),
        (&mut storage.momentum, momentum),
        (&mut storage.statistics, statistics),
    ] {
        flat.copy_(&Tensor::from_slice(values));
    }
    replica.set_loss_sum(loss_sums[rank]);
    Ok(())
}
