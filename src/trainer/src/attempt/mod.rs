//! One attempt at a trial, from the request to its result: opens its inputs, starts a thread per
//! replica, joins them.
//!
//! All errors in data, weights or the slot are found here, before the first step. Settings were
//! checked when their sweep was compiled, and are checked again here. A panic in a replica, which
//! is how libtorch's errors arrive, ends the attempt, not the process. Next: train.rs.

mod batch_that_fits;
pub mod checkpoint;
mod checkpoint_writer;
pub mod epoch_hashes;
pub mod evaluate;
pub mod fault;
pub mod inputs;
pub mod leader;
mod rate;
pub mod replica_threads;
pub mod train;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use data::files::Reach;
use data::{Dataset, Form, Pipeline, Prefetch, PrefetchOptions};
use sweep::TrialSpec;
use sweep::handoff::{Progress, RunRequest};
use sweep::record::{Provenance, Timing, TrialResult};
use sweep::settings::Embedding;
use sweep::trial::TRAINING_VERSION;
use tch::{Device, Tensor};

use crate::attempt::checkpoint::{Checkpoint, Folder, Header, Position};
use crate::attempt::checkpoint_writer::CheckpointWriter;
use crate::attempt::epoch_hashes::History;
use crate::attempt::evaluate::Evaluator;
use crate::attempt::fault::Fault;
use crate::attempt::leader::{Duties, Leader};
use crate::attempt::replica_threads::{Measuring, clearest, join};
use crate::attempt::train::{Course, Ending, train};
use crate::device::collective::{AbortOnDrop, Collective};
use crate::device::cuda::CudaGraphs;
use crate::device::nvml::Meter;
use crate::device::{self, DeviceSet, Member};
use crate::device::{process, shim};
use crate::error::{TrialError, caught};
use crate::network::models;
use crate::network::nn::Format;
use crate::network::weights::{self, Weights};
use crate::step::batches::{Batches, ImageShape};
use crate::step::cuda_graph_steps::Policy;
use crate::step::images::{Images, ResidentSets};
use crate::step::replica::{Blueprint, Replica};
use crate::step::{head, images, precision};

/// The environment of an attempt, besides the request.
pub struct Surroundings<'a> {
    pub devices: &'a DeviceSet,
    pub dataset: Arc<Dataset>,
    /// Hashes of everything that was read, by name.
    pub inputs: BTreeMap<String, String>,
    pub resident: &'a Arc<ResidentSets>,
    pub requested_at: Instant,
    pub stop: &'a Arc<AtomicBool>,
    pub fault: Option<Fault>,
    /// Interval between checkpoints; see `leader::Duties`.
    pub checkpoint_interval: Duration,
    pub report_interval: Duration,
    /// Time that a replica waits for the others before it gives up the attempt.
    pub collective_deadline: Duration,
    /// Number of threads that prepare batches; with 0, the step does it.
    pub data_threads: usize,
    /// Policy for recording steps on a GPU.
    pub recording: Policy,
    /// Largest share of a GPU's memory to use.
    pub memory_share: f64,
    /// Path for the weights of a finished trial.
    pub weights_out: Option<PathBuf>,
}

pub enum Outcome {
    Finished(Box<TrialResult>),
    Stopped,
}

/// Data that all replicas share. Owned, because a replica that hangs may outlive the attempt.
struct Shared {
    course: Course,
    pipeline: Arc<Pipeline>,
    embeddings: Option<Vec<f32>>,
    format: Format,
    image: ImageShape,
    form: Form,
    resident: Arc<ResidentSets>,
    weights: Option<PathBuf>,
    weights_out: Option<PathBuf>,
    resumed: Option<Checkpoint>,
    position: Position,
    num_threads: usize,
    /// Time that a replica waits for the others, and for its device.
    deadline: Duration,
    /// Largest share of a GPU's memory to use.
    memory_share: f64,
    /// Used by `measured`.
    measuring: Measuring,
    /// True if a device has several replicas.
    shares_devices: bool,
    recording: Policy,
}

/// Report of a replica that ended without an error.
struct Ran {
    ending: Ending,
    num_parameters: u64,
    execution: String,
    kernels: String,
    watched_step_ms: Option<(f64, f64)>,
}

pub fn run(
    request: &RunRequest,
    around: &Surroundings,
    report: &mut dyn FnMut(Progress),
) -> Result<Outcome, TrialError> {
    let RunRequest { spec, .. } = request;
    let settings = &spec.settings;
    settings
        .check()
        .map_err(|contradiction| TrialError::BadInput(contradiction.to_string()))?;
    around
        .devices
        .check_replicas(settings.replicas as usize)
        .map_err(|error| TrialError::bad_input(error.to_string()))?;
    let pipeline = Arc::new(Pipeline::new(
        around.dataset.clone(),
        settings,
        spec.seed,
        spec.smoke,
    )?);
    let reach = Reach {
        data_dir: &request.data_dir,
        allowed: request.allowed_paths.as_deref(),
    };
    let embeddings = embeddings(spec, &around.dataset, reach)?;
    let weights = settings.weights.as_ref().filter(|_| !spec.smoke);
    let weights = weights
        .map(|named| reach.resolve("weights", named))
        .transpose()?;
    let folder = Folder::new(&request.checkpoint_dir, request.attempt, request.since);
    folder.remove_unfinished();
    let resumed = folder.newest(pipeline.fingerprint())?;
    let device = around.devices.kind();
    let format = match &resumed {
        Some(checkpoint) => precision::parse(&checkpoint.header.precision).ok_or_else(|| {
            TrialError::Crashed(format!(
                "unknown precision `{}`",
                checkpoint.header.precision
            ))
        })?,
        None => precision::choose(settings, pipeline.side(), device),
    };
    let position = resumed
        .as_ref()
        .map_or(Position::default(), |checkpoint| checkpoint.header.position);
    let image = ImageShape {
        channels: pipeline.channels(),
        side: pipeline.side(),
    };
    let header = match &resumed {
        Some(checkpoint) => checkpoint.header.clone(),
        None => fresh_header(request, format, pipeline.fingerprint()),
    };
    let num_replicas = settings.replicas as usize;
    let form = around
        .resident
        .form(&around.devices.gpus_of(num_replicas), &pipeline);
    let steps_per_epoch = pipeline.steps_per_epoch();
    let shares_devices = around.devices.are_shared_by(num_replicas);
    let shared = Shared {
        course: Course {
            spec: spec.clone(),
            attempt: request.attempt.number,
            steps_per_epoch,
            images_per_epoch: images_per_epoch(&pipeline),
            batches: batches(&pipeline, spec, position, form, around),
            fault: around.fault,
        },
        pipeline: pipeline.clone(),
        embeddings,
        format,
        image,
        form,
        resident: around.resident.clone(),
        weights,
        weights_out: around.weights_out.clone(),
        resumed,
        position,
        num_threads: around.devices.threads_per_replica(num_replicas),
        deadline: around.collective_deadline,
        memory_share: around.memory_share,
        measuring: Measuring::default(),
        shares_devices,
        recording: if shares_devices {
            Policy::Shared
        } else {
            around.recording
        },
    };
    let mut meter = Meter::open(&around.devices.gpus_of(num_replicas));
    let mut report = |progress| {
        meter.sample();
        report(progress);
    };
    let duties = Duties {
        writer: CheckpointWriter::start(folder),
        history: History::open(
            &request.checkpoint_dir,
            request.since..request.attempt.number,
        ),
        checkpoint_interval: around.checkpoint_interval,
        report: &mut report,
        report_interval: around.report_interval,
        requested_at: around.requested_at,
        num_epochs: spec.num_epochs(),
        steps_per_epoch,
    };
    let mut leader = Leader::new(duties, header);
    let group = around
        .devices
        .group(num_replicas, around.collective_deadline);
    let ran = group
        .map_err(TrialError::from)
        .and_then(|group| run_replicas(&Arc::new(shared), group, &mut leader));
    let ran = ran.map_err(|error| error.diagnosed(|| around.devices.ailments()))?;
    match ran.ending {
        Ending::Stopped => Ok(Outcome::Stopped),
        Ending::Finished => {
            let watched_step_ms = ran.watched_step_ms;
            let provenance = Provenance {
                inputs: around.inputs.clone(),
                ..provenance(
                    &pipeline,
                    around.devices,
                    (format, form),
                    settings.replicas,
                    ran,
                )
            };
            let mut result = leader.result(provenance, around.devices.peak_memory_mib())?;
            result.timing.watched_step_ms = watched_step_ms;
            result.timing.gpu_busy = meter.mean();
            Ok(Outcome::Finished(Box::new(result)))
        }
    }
}

/// Returns the batches from `position` on.
fn batches(
    pipeline: &Arc<Pipeline>,
    spec: &TrialSpec,
    position: Position,
    form: Form,
    around: &Surroundings,
) -> Batches {
    let options = PrefetchOptions {
        epoch: position.epoch,
        step: position.step,
        num_epochs: spec.num_epochs(),
        form,
        num_threads: around.data_threads,
        depth: 2 * around.data_threads.max(1),
    };
    let first = u64::from(position.epoch) * pipeline.steps_per_epoch() + position.step;
    let prefetch = Prefetch::start(pipeline.clone(), options);
    Batches::new(
        prefetch,
        first,
        spec.settings.replicas as usize,
        around.stop.clone(),
    )
}

/// Returns the target vectors of the classes if the settings name a hierarchy.
fn embeddings(
    spec: &TrialSpec,
    dataset: &Dataset,
    reach: Reach,
) -> Result<Option<Vec<f32>>, TrialError> {
    let Embedding::Hierarchy(file) = &spec.settings.embedding else {
        return Ok(None);
    };
    if spec.smoke {
        return Ok(Some(data::hierarchy::stand_in_embeddings(
            dataset.num_classes(),
        )));
    }
    let path = reach.resolve("embedding", &file.path)?;
    let rows = data::hierarchy::class_embeddings(
        &path,
        file.child_parent,
        &dataset.class_ids,
        &dataset.class_names,
    );
    rows.map(Some).map_err(|error| TrialError::of_input(&error))
}

/// Returns the number of images per epoch. All batches are full except the last of each repeat.
fn images_per_epoch(pipeline: &Pipeline) -> u64 {
    let (count, batch) = (pipeline.num_train() as u64, pipeline.batch_size() as u64);
    let steps_per_repeat = count.div_ceil(batch);
    (0..pipeline.steps_per_epoch())
        .map(|step| batch.min(count - step % steps_per_repeat * batch))
        .sum()
}

fn fresh_header(request: &RunRequest, format: Format, data_fingerprint: &str) -> Header {
    Header {
        trial: request.attempt.trial,
        training_version: TRAINING_VERSION,
        data_fingerprint: data_fingerprint.to_owned(),
        position: Position::default(),
        num_replicas: request.spec.settings.replicas as usize,
        layout: String::new(),
        precision: precision::name(format).to_owned(),
        epochs: Vec::new(),
        chain: String::new(),
        last_balanced_accuracy: 0.0,
        eval_loss: 0.0,
        images: 0,
        timing: Timing::default(),
    }
}

type ReplicaResult = Result<Ran, TrialError>;

/// Runs rank 0 on this thread, which stays warm between trials, and every other replica on its own
/// thread. A replica that hangs cannot be joined: it is left behind, and the worker ends the
/// process after the failure.
fn run_replicas(shared: &Arc<Shared>, group: Vec<Member>, leader: &mut Leader) -> ReplicaResult {
    let mut members = group
        .into_iter()
        .map(|(collective, device)| (Arc::from(collective), device));
    let first: (Arc<dyn Collective>, Device) =
        members.next().expect("a group has at least one replica");
    let start = |(collective, device): (Arc<dyn Collective>, Device)| {
        let name = format!("replica-{}", collective.rank());
        let shared = shared.clone();
        let body = move || {
            caught(|| run_replica(&shared, collective, device, None))
                .map_err(|error| error.on(device))
        };
        thread::Builder::new()
            .name(name)
            .spawn(body)
            .expect("the system can start a thread")
    };
    let others: Vec<JoinHandle<ReplicaResult>> = members.map(start).collect();
    let (collective, device) = first;
    let mine = caught(|| run_replica(shared, collective, device, Some(leader)))
        .map_err(|error| error.on(device));
    let failed_at = mine.is_err().then(Instant::now);
    let mut results = vec![mine];
    results.extend(
        others
            .into_iter()
            .filter_map(|thread| join(thread, failed_at, &shared.measuring)),
    );
    clearest(results)
}

fn run_replica(
    shared: &Shared,
    collective: Arc<dyn Collective>,
    device: Device,
    mut leader: Option<&mut Leader>,
) -> ReplicaResult {
    // also covers building: replicas that are ready wait for this one's first sum
    let guard = AbortOnDrop::new(&*collective);
    tch::set_num_threads(shared.num_threads as i32);
    let TrialSpec { settings, seed, .. } = &shared.course.spec;
    device::prepare_thread(device, settings.deterministic, device::CUDNN_CANDIDATES)?;
    let blueprint = Blueprint {
        settings,
        seed: *seed,
        channels: shared.pipeline.channels(),
        num_classes: shared.pipeline.num_classes(),
        embeddings: shared.embeddings.as_deref(),
        format: shared.format,
        deadline: shared.deadline,
    };
    let mut replica = recordable(
        Replica::new(&blueprint, collective.clone(), device)?,
        shared.recording,
    );
    if let Some(path) = &shared.weights {
        let layers = [models::classifier_name(settings.model), head::CLS_HEAD];
        let weights = Weights::read(path, &replica.inventory, &layers)
            .map_err(|error| TrialError::of_input(&error))?;
        weights.load_into(&replica.inventory, &mut replica.storage);
    }
    let layout = replica.storage.layout.digest(&replica.inventory);
    if let Some(checkpoint) = &shared.resumed {
        restore(&mut replica, checkpoint, &layout)?;
    }
    replica.collective.broadcast(&replica.storage.weights)?;
    replica.storage.refresh_working_copy();
    let images = Images::new(
        shared.form,
        &shared.resident,
        &shared.pipeline,
        shared.image,
        device,
    );
    let mut evaluator = Evaluator::new(&shared.pipeline, &images);
    if let Some(leader) = &mut leader {
        leader.begin(layout);
    }
    let ending = caught(|| {
        train(
            &shared.course,
            &mut replica,
            &images,
            &mut evaluator,
            shared.position,
            leader,
        )
    });
    let ending = match ending.map_err(|error| measured(error, &mut replica, shared)) {
        Ok(ending) => ending,
        Err(error) => {
            // dropping the state of a device that hangs may wait for it; the worker ends the
            // process after the failure
            if device.is_cuda()
                && matches!(
                    error,
                    TrialError::Collective(_) | TrialError::BadDevice { .. }
                )
            {
                std::mem::forget(replica);
            }
            return Err(error);
        }
    };
    if let (Ending::Finished, Some(path), 0) = (&ending, &shared.weights_out, collective.rank()) {
        weights::export(path, &replica.inventory, &replica.storage)
            .map_err(|error| TrialError::of_input(&error))?;
    }
    guard.finished();
    Ok(Ran {
        ending,
        num_parameters: replica.inventory.num_parameters(),
        execution: replica.execution(),
        kernels: replica.kernels(),
        watched_step_ms: replica.watched_step_ms(),
    })
}

/// Adds the largest batch that would have fitted to an out-of-memory error on a GPU.
fn measured(error: TrialError, replica: &mut Replica, shared: &Shared) -> TrialError {
    let (TrialError::OutOfMemory { what, .. }, Device::Cuda(index)) = (&error, replica.device)
    else {
        return error;
    };
    let num_replicas = shared.course.spec.settings.replicas as usize;
    // if replicas share a device, none of them can measure the memory of all
    if shared.shares_devices || !shared.measuring.take() {
        return error;
    }
    let ImageShape { channels, side, .. } = shared.image;
    let too_many = replica.shard(shared.pipeline.batch_size()).len();
    replica.retire();
    let peak_of = |images: usize| {
        shim::free_cached_cuda_memory()
            .and_then(|()| shim::reset_peak_cuda_memory(index))
            .ok()?;
        caught(|| replica.rehearse_passes(images, channels, side)).ok()?;
        shim::peak_cuda_memory(index).ok()
    };
    let memory = shim::free_cached_cuda_memory()
        .and_then(|()| shim::cuda_memory(index))
        .ok();
    let fits = memory.and_then(|memory| {
        batch_that_fits::largest_fitting(
            too_many,
            batch_that_fits::limit(memory, shared.memory_share),
            peak_of,
        )
    });
    shared.measuring.done();
    TrialError::OutOfMemory {
        what: what.clone(),
        fits: fits.map(|images| images * num_replicas),
    }
}

/// Enables the recording of steps on a GPU.
pub fn recordable(replica: Replica, policy: Policy) -> Replica {
    let Device::Cuda(index) = replica.device else {
        return replica;
    };
    match CudaGraphs::open(index) {
        Ok(graphs) => replica.with_recorder(Box::new(graphs), policy),
        Err(error) => {
            tracing::warn!(%error, "steps cannot be recorded");
            replica
        }
    }
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

fn provenance(
    pipeline: &Pipeline,
    devices: &DeviceSet,
    formats: (Format, Form),
    replicas: u32,
    ran: Ran,
) -> Provenance {
    let ((format, form), num_replicas) = (formats, replicas as usize);
    Provenance {
        trainer: sweep::build(),
        libtorch: crate::device::libtorch_version(),
        devices: devices.describe(num_replicas),
        host: process::host_name(),
        precision: precision::name(format).to_owned(),
        execution: ran.execution,
        kernels: ran.kernels,
        images: images::site_of(form).to_owned(),
        libraries: devices.libraries(num_replicas),
        skipped_images: pipeline.dataset().skipped as u64,
        data_fingerprint: pipeline.fingerprint().to_owned(),
        inputs: BTreeMap::new(),
        subset: pipeline.subset().clone(),
        num_eval_images: pipeline.num_eval() as u32,
        num_parameters: ran.num_parameters,
    }
}
