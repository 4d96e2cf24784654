//! Training steps timed from outside, for bench/run.py, with a trial's data path, replica and
//! optimiser.
//!
//! `steps` makes the number of steps ordered on stdin and reports their duration; `gate` writes
//! weights and batches to files, trains on them and writes the state of each step, for the
//! reference to repeat. Not used by `serve` and `run`.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use data::{Pipeline, Prefetch, PrefetchOptions};
use serde_json::json;
use sweep::Settings;
use sweep::settings::{
    Crop, Init, Loss, Model, MomentumForm, Normalise, Precision, SamplesPerClass, Schedule, Softmax,
};
use tch::{Device, Kind, Tensor};

use crate::device::collective::Solo;
use crate::device::{self, DeviceSet};
use crate::device::{process, profile};
use crate::network::nn::{Format, OwnOperations};
use crate::network::weights;
use crate::step::batches::{Batches, ImageShape, NextBatch};
use crate::step::cuda_graph_steps::Policy;
use crate::step::images::{Images, ResidentSets};
use crate::step::precision;
use crate::step::replica::{Blueprint, Replica, Shard, StepOptions};

#[derive(Subcommand)]
pub enum Bench {
    /// Make steps on order: lines `go N` or `profile N FILE` on stdin, `{"images":, "seconds":}` on
    /// stdout
    Steps(StepsArgs),
    /// Write weights and batches, then train on them: a step for each line on stdin, answered by
    /// `{"loss":}`
    Gate(GateArgs),
}

#[derive(Args)]
pub struct Network {
    /// A network's name in sweep files
    #[arg(long)]
    model: String,
    #[arg(long)]
    side: u32,
    #[arg(long)]
    batch: u32,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    precision: Choice,
    /// `cpu` or `cuda:0`
    #[arg(long, default_value = "cpu")]
    device: String,
    /// On a GPU, record steps as CUDA graphs: `auto`, `always`, `never`
    #[arg(long, default_value = "auto")]
    graphs: Policy,
    /// On a GPU, how many kernels cuDNN times per shape
    #[arg(long, default_value_t = device::CUDNN_CANDIDATES)]
    cudnn_candidates: u32,
}

#[derive(Args)]
pub struct StepsArgs {
    #[command(flatten)]
    network: Network,
    /// Parts of a trial that these steps do without, to see what each gains
    #[arg(long, value_enum)]
    without: Vec<Lever>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Lever {
    /// See `process::keep_freed_memory`
    KeptMemory,
    /// Threads that prepare batches
    Prefetch,
    /// See `nn::OwnOperations`
    FusedNorm,
    /// See `nn::OwnOperations`
    Products,
    /// The data set in a GPU's memory; see `images::ResidentSets`
    Residency,
}

#[derive(Args)]
pub struct GateArgs {
    #[command(flatten)]
    network: Network,
    #[arg(long)]
    steps: usize,
    #[arg(long)]
    classes: usize,
    #[arg(long)]
    learning_rate: f64,
    /// Written: a safetensors file
    #[arg(long)]
    weights: PathBuf,
    /// Written: a safetensors file with `images` and `labels` of every step
    #[arg(long)]
    batches: PathBuf,
    /// Written with each step: the weights before it, and its gradients under names that begin with
    /// `gradient/`
    #[arg(long)]
    state: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Choice {
    /// The format that a trial would get
    Auto,
    #[value(name = "f32-nhwc")]
    F32Nhwc,
    #[value(name = "bf16-nhwc")]
    Bf16Nhwc,
}

const SEED: u64 = 0;
const NUM_CLASSES: u32 = 100;
/// Steps before the first measured one: they build primitives and show the allocator every size.
const WARM_UP: usize = 3;
const DEADLINE: Duration = Duration::from_secs(120);

pub fn run(bench: &Bench) -> anyhow::Result<()> {
    match bench {
        Bench::Steps(arguments) => steps(&arguments.network, &arguments.without),
        Bench::Gate(arguments) => gate(arguments),
    }
}

fn steps(network: &Network, without: &[Lever]) -> anyhow::Result<()> {
    if without.contains(&Lever::KeptMemory) {
        process::give_freed_memory_back();
    }
    let settings = network.settings(0.01)?;
    let device = network.prepare()?;
    let format = network.format(&settings, device);
    // crops come from images an eighth larger, like 224 out of 256
    let stored = network.side + network.side / 8;
    let num_images = (network.batch * 8).max(256);
    let dataset = data::stand_in::uniform(
        NUM_CLASSES,
        num_images.div_ceil(NUM_CLASSES) as usize,
        stored as usize,
    );
    let pipeline = Arc::new(Pipeline::new(Arc::new(dataset), &settings, SEED, false)?);
    let image = ImageShape {
        channels: 3,
        side: network.side as usize,
    };
    let data_threads = match without.contains(&Lever::Prefetch) {
        true => 0,
        false => network.devices()?.default_data_threads(),
    };
    let resident = ResidentSets::new(if without.contains(&Lever::Residency) {
        0.0
    } else {
        1.0
    });
    let form = resident.form(&network.devices()?.gpus_of(1), &pipeline);
    let options = PrefetchOptions {
        epoch: 0,
        step: 0,
        num_epochs: settings.num_epochs(),
        form,
        num_threads: data_threads,
        depth: 2 * data_threads.max(1),
    };
    let batches = Batches::new(
        Prefetch::start(pipeline.clone(), options),
        0,
        1,
        Arc::default(),
    );
    let images_of = Images::new(form, &resident, &pipeline, image, device);
    let mut replica = network.replica(&settings, format, NUM_CLASSES as usize, device)?;
    replica.own_operations = OwnOperations {
        fused_norm: !without.contains(&Lever::FusedNorm),
        products: !without.contains(&Lever::Products),
    };
    let mut number = 0;
    let mut make_steps = |replica: &mut Replica, count: usize| -> anyhow::Result<usize> {
        let mut images = 0;
        for _ in 0..count {
            let NextBatch::Batch(batch) = batches.take(number)? else {
                anyhow::bail!("no stop was requested")
            };
            let shard = batches.shard(&batch, 0..batch.len(), &images_of);
            replica.train_step(&shard, step_options(0.01, number))?;
            images += batch.len();
            number += 1;
        }
        // as at the end of an epoch
        anyhow::ensure!(replica.loss_sum()?.is_finite(), "the loss is not finite");
        Ok(images)
    };
    make_steps(&mut replica, WARM_UP)?;
    let mut stdout = std::io::stdout().lock();
    writeln!(
        stdout,
        "{}",
        json!({ "ready": true, "precision": precision::name(format) })
    )?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let order = Order::parse(&line)
            .with_context(|| format!("`{line}` is neither `go N` nor `profile N FILE`"))?;
        let (start, computed) = (Instant::now(), process::thread_cpu_seconds());
        let images = match order {
            Order::Go(count) => make_steps(&mut replica, count)?,
            Order::Profile(count, file) => {
                profile::trace(device, file, || make_steps(&mut replica, count))?
            }
        };
        let cpu_seconds = process::thread_cpu_seconds() - computed;
        let seconds = start.elapsed().as_secs_f64();
        let peak_mib = network.devices()?.peak_memory_mib();
        let execution = replica.execution();
        let block = json!({
            "images": images, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": peak_mib,
            "execution": execution,
        });
        writeln!(stdout, "{block}")?;
        stdout.flush()?;
    }
    Ok(())
}

/// A line on stdin.
enum Order<'a> {
    Go(usize),
    Profile(usize, &'a Path),
}

impl<'a> Order<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        if let Some(count) = line.strip_prefix("go ") {
            return Some(Self::Go(count.parse().ok()?));
        }
        let (count, file) = line.strip_prefix("profile ")?.split_once(' ')?;
        Some(Self::Profile(count.parse().ok()?, Path::new(file)))
    }
}

fn gate(arguments: &GateArgs) -> anyhow::Result<()> {
    let network = &arguments.network;
    let settings = network.settings(arguments.learning_rate)?;
    let device = network.prepare()?;
    let format = network.format(&settings, device);
    let mut replica = network.replica(&settings, format, arguments.classes, device)?;
    weights::export(
        &arguments.weights,
        &replica.inventory,
        &replica.storage,
        Default::default(),
    )?;
    tch::manual_seed(1);
    let (steps, batch, side) = (
        arguments.steps as i64,
        i64::from(network.batch),
        i64::from(network.side),
    );
    let images = Tensor::randn([steps, batch, 3, side, side], (Kind::Float, Device::Cpu));
    let labels = Tensor::randint(
        arguments.classes as i64,
        [steps, batch],
        (Kind::Int64, Device::Cpu),
    );
    Tensor::write_safetensors(
        &[("images", &images), ("labels", &labels)],
        &arguments.batches,
    )?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", json!({ "ready": true }))?;
    for (step, line) in (0..steps).zip(std::io::stdin().lock().lines()) {
        line?;
        let images = images.select(0, step).to_device(device);
        let images = images
            .permute([0, 2, 3, 1])
            .contiguous()
            .permute([0, 3, 1, 2]);
        let labels = labels.select(0, step).to_device(device);
        let shard = Shard {
            images,
            labels,
            mixed: None,
            batch_len: batch as usize,
        };
        let named = weights::named(&replica.inventory, &replica.storage).into_iter();
        let mut state: Vec<(String, Tensor)> =
            named.map(|(name, tensor)| (name, tensor.copy())).collect();
        replica.set_loss_sum(0.0);
        replica.train_step(&shard, step_options(arguments.learning_rate, step as u64))?;
        // cross-entropy without decay or clipping does not change the gradients
        let gradients = replica
            .inventory
            .parameters
            .iter()
            .enumerate()
            .map(|(index, note)| {
                (
                    format!("gradient/{}", note.name),
                    replica.storage.gradient(&replica.inventory, index),
                )
            });
        state.extend(gradients);
        weights::write(&arguments.state, state, Default::default())?;
        writeln!(
            stdout,
            "{}",
            json!({ "loss": replica.loss_sum()? / batch as f64 })
        )?;
        stdout.flush()?;
    }
    Ok(())
}

fn step_options(learning_rate: f64, steps_made: u64) -> StepOptions {
    StepOptions {
        learning_rate,
        steps_made,
        new_layers_only: false,
    }
}

impl Network {
    /// Returns the reference's settings: PyTorch's forms and defaults, cross-entropy, momentum,
    /// nothing else.
    fn settings(&self, learning_rate: f64) -> anyhow::Result<Settings> {
        let model: Model = serde_json::from_value(json!(self.model))
            .with_context(|| format!("`--model {}` is not a network", self.model))?;
        let base = sweep::recipe::settings("quick", "cifar100").expect("the recipe exists");
        Ok(Settings {
            dataset: "stand-in".to_owned(),
            samples_per_class: SamplesPerClass::All,
            crop_size: Some(self.side),
            crop: Crop::Random,
            shift: 0.0,
            flip: true,
            normalise: Normalise::Torchvision,
            model,
            init: Init::Torchvision,
            batch_norm_eps: 1e-5,
            batch_norm_momentum: 0.1,
            loss: Loss::Xent,
            softmax: Softmax::LogSoftmax,
            schedule: Schedule::Constant { epochs: 100_000 },
            learning_rate,
            momentum: 0.9,
            momentum_form: MomentumForm::Torch,
            weight_decay: 0.0,
            clip_norm: None,
            batch_size: self.batch,
            precision: Precision::Auto,
            ..base
        })
    }

    fn devices(&self) -> anyhow::Result<DeviceSet> {
        Ok(DeviceSet::parse(&self.device, self.threads)?)
    }

    /// Prepares this thread for the device.
    fn prepare(&self) -> anyhow::Result<Device> {
        let devices = self.devices()?;
        devices.check_present()?;
        tch::set_num_threads(self.threads as i32);
        device::prepare_thread(devices.kind(), false, self.cudnn_candidates)?;
        Ok(devices.kind())
    }

    fn format(&self, settings: &Settings, device: Device) -> Format {
        match self.precision {
            Choice::Auto => precision::choose(settings, self.side as usize, device),
            Choice::F32Nhwc => Format { bf16: false },
            Choice::Bf16Nhwc => Format { bf16: true },
        }
    }

    fn replica(
        &self,
        settings: &Settings,
        format: Format,
        num_classes: usize,
        device: Device,
    ) -> anyhow::Result<Replica> {
        let blueprint = Blueprint {
            settings,
            seed: SEED,
            channels: 3,
            num_classes,
            embeddings: None,
            format,
            deadline: DEADLINE,
        };
        let replica = Replica::new(&blueprint, Arc::new(Solo::default()), device)?;
        Ok(replica.with_cuda_graphs(self.graphs))
    }
}
