//! Opens an attempt: settings, data, embeddings, weights and checkpoint, all before the first step.
//!
//! Errors in any of them, and in the slot, are found here. Settings were checked when their sweep
//! was compiled, and are checked again here. Next: replicas.rs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use data::files::Reach;
use data::{Dataset, Form, Pipeline, Prefetch, PrefetchOptions};
use sweep::TrialSpec;
use sweep::handoff::RunRequest;
use sweep::settings::{Embedding, Settings};

use crate::attempt::checkpoint::{Checkpoint, Folder, Position};
use crate::attempt::replica_threads::MeasurementClaim;
use crate::attempt::slot::SlotOptions;
use crate::error::TrialError;
use crate::network::nn::Format;
use crate::step::batches::{Batches, ImageShape};
use crate::step::cuda_graph_steps::Policy;
use crate::step::images::ResidentSets;
use crate::step::precision;

/// The data of an attempt, opened and compared with what the trial was submitted with.
pub struct Inputs {
    pub dataset: Arc<Dataset>,
    /// The data sets in the memory of this process's GPUs.
    pub resident: Arc<ResidentSets>,
    /// Hashes of everything that was read, by name.
    pub hashes: BTreeMap<String, String>,
}

/// One attempt with everything that its replicas share. Owned, because a replica that hangs may
/// outlive the call that made it.
pub struct Attempt {
    pub slot: Arc<SlotOptions>,
    pub request: RunRequest,
    pub inputs: Inputs,
    pub pipeline: Arc<Pipeline>,
    /// Batches from `start` on.
    pub batches: Batches,
    /// Images per epoch, repeats included.
    pub images_per_epoch: u64,
    /// Target vectors of the classes, for hierarchies.
    pub embeddings: Option<Vec<f32>>,
    /// File of weights to start from.
    pub weights: Option<PathBuf>,
    pub resumed: Option<Checkpoint>,
    pub format: Format,
    /// Form in which batches reach the devices.
    pub form: Form,
    pub image: ImageShape,
    pub measurement_claim: MeasurementClaim,
}

impl Attempt {
    pub fn open(
        slot: &Arc<SlotOptions>,
        request: &RunRequest,
        inputs: Inputs,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self, TrialError> {
        let TrialSpec {
            settings,
            seed,
            smoke,
            ..
        } = &request.spec;
        settings
            .check()
            .map_err(|contradiction| TrialError::BadInput(contradiction.to_string()))?;
        let num_replicas = settings.replicas as usize;
        slot.devices
            .check_replicas(num_replicas)
            .map_err(|error| TrialError::bad_input(error.to_string()))?;
        let pipeline = Pipeline::new(inputs.dataset.clone(), settings, *seed, *smoke)?;
        let pipeline = Arc::new(pipeline);
        let reach = Reach {
            data_dir: &request.data_dir,
            allowed: request.allowed_paths.as_deref(),
        };
        let embeddings = embeddings(&request.spec, &inputs.dataset, reach)?;
        let weights = settings.weights.as_ref().filter(|_| !smoke);
        let weights = weights
            .map(|named| reach.resolve("weights", named))
            .transpose()?;
        let folder = checkpoint_folder(request);
        folder.remove_unfinished();
        let resumed = folder.newest(pipeline.fingerprint())?;
        let format = match &resumed {
            Some(checkpoint) => stored_format(&checkpoint.header.precision)?,
            None => precision::choose(settings, pipeline.side(), slot.devices.kind()),
        };
        let gpus = slot.devices.gpus_of(num_replicas);
        let form = inputs.resident.form(&gpus, &pipeline);
        let start = start(&resumed);
        Ok(Self {
            slot: slot.clone(),
            request: request.clone(),
            inputs,
            batches: batches(&pipeline, &request.spec, start, form, slot, stop),
            images_per_epoch: images_per_epoch(&pipeline),
            embeddings,
            weights,
            resumed,
            format,
            form,
            image: ImageShape {
                channels: pipeline.channels(),
                side: pipeline.side(),
            },
            pipeline,
            measurement_claim: MeasurementClaim::default(),
        })
    }

    pub fn spec(&self) -> &TrialSpec {
        &self.request.spec
    }

    pub fn settings(&self) -> &Settings {
        &self.request.spec.settings
    }

    pub fn num_replicas(&self) -> usize {
        self.settings().replicas as usize
    }

    /// Returns the position of the attempt's first step.
    pub fn start(&self) -> Position {
        start(&self.resumed)
    }

    pub fn checkpoint_folder(&self) -> Folder {
        checkpoint_folder(&self.request)
    }

    /// Returns true if a device has several replicas.
    pub fn shares_devices(&self) -> bool {
        self.slot.devices.are_shared_by(self.num_replicas())
    }

    /// Returns the policy for recording steps on a GPU.
    pub fn recording(&self) -> Policy {
        if self.shares_devices() {
            Policy::Shared
        } else {
            self.slot.recording
        }
    }
}

fn checkpoint_folder(request: &RunRequest) -> Folder {
    Folder::new(&request.checkpoint_dir, request.attempt, request.since)
}

fn start(resumed: &Option<Checkpoint>) -> Position {
    resumed
        .as_ref()
        .map_or(Position::default(), |checkpoint| checkpoint.header.position)
}

/// Returns the number format of a resumed trial, which a trial keeps.
fn stored_format(name: &str) -> Result<Format, TrialError> {
    precision::parse(name)
        .ok_or_else(|| TrialError::Crashed(format!("unknown precision `{name}` in the checkpoint")))
}

fn batches(
    pipeline: &Arc<Pipeline>,
    spec: &TrialSpec,
    start: Position,
    form: Form,
    slot: &SlotOptions,
    stop: &Arc<AtomicBool>,
) -> Batches {
    let options = PrefetchOptions {
        epoch: start.epoch,
        step: start.step,
        num_epochs: spec.num_epochs(),
        form,
        num_threads: slot.data_threads,
        depth: 2 * slot.data_threads.max(1),
    };
    let first = u64::from(start.epoch) * pipeline.steps_per_epoch() + start.step;
    let prefetch = Prefetch::start(pipeline.clone(), options);
    Batches::new(
        prefetch,
        first,
        spec.settings.replicas as usize,
        stop.clone(),
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
