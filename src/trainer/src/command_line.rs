//! The command line of the trainer: `serve` for workers, `run` for people who debug one trial,
//! `devices` for both.
//!
//! Only parses arguments and starts the commands; see conversation/. Exit codes:
//! 0 done, 1 bad input, 2 broken connection to the worker, 3 the trial failed, 4 a device is
//! missing.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::attempt::fault::Fault;
use crate::attempt::slot::SlotOptions;
use crate::bench::{self, Bench};
use crate::conversation::predict;
use crate::conversation::rehearsal::Rehearsal;
use crate::conversation::run_file::{RunOptions, run_file};
use crate::conversation::serve::{Runner, serve};
use crate::conversation::session::Session;
use crate::device::collective::nccl_version;
use crate::device::{self, DeviceError, DeviceSet};
use crate::device::{nvml, process, shim};
use crate::step::cuda_graph_steps::Policy;
use clap::{Args, Parser, Subcommand};
use sweep::handoff::{EXIT_DEVICE_ABSENT, Ready};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Interval between reports; the hand-off protocol promises progress once a second.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// Trains the trials of a sweep. Workers start it; `run` is for debugging a single trial.
#[derive(Parser)]
#[command(name = "orchestrator-trainer", version = sweep::build().leak() as &str, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take trials from a worker: frames on stdin and stdout, until stdin ends
    Serve {
        #[command(flatten)]
        slot: SlotArgs,
        /// Obey without training: every trial gets a made-up result
        #[arg(long)]
        rehearse: bool,
        /// Duration of an epoch of a rehearsal, in milliseconds
        #[arg(long, default_value_t = 0, requires = "rehearse")]
        rehearse_epoch_ms: u64,
    },
    /// Run one trial from a file, without coordinator and worker
    Run {
        #[command(flatten)]
        slot: SlotArgs,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Print the class of each image, as a line of JSON, by a network that a sweep kept
    Predict {
        #[arg(value_name = "MODEL.safetensors")]
        model: PathBuf,
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<PathBuf>,
        /// CPU threads that compute
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
        threads: u16,
    },
    /// Time training steps, for bench/run.py
    #[command(subcommand, hide = true)]
    Bench(Bench),
    /// Print the devices that libtorch can use
    Devices,
}

/// The devices and threads of a slot.
#[derive(Args)]
struct SlotArgs {
    /// `cpu`, `cuda:0`, `cuda:0-3`, `cuda:0,2`
    #[arg(long, default_value = "cpu")]
    devices: String,
    /// CPU threads that compute, over all replicas
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// CPU threads that prepare batches; 0: between steps
    #[arg(long)]
    data_threads: Option<usize>,
    /// On a GPU, record steps as CUDA graphs: `auto`, `always`, `never`
    #[arg(long, default_value = "auto")]
    graphs: Policy,
    /// On a GPU, most of its memory to take, as a share of all of it: for slots that share it
    #[arg(long, default_value_t = 1.0)]
    memory_share: f64,
    /// Seconds between checkpoints, at least; 0: after every epoch
    #[arg(long, default_value_t = 1.0)]
    checkpoint_interval: f64,
    /// Seconds that a replica waits for the others
    #[arg(long, default_value_t = 120)]
    collective_deadline: u64,
}

#[derive(Args)]
struct RunArgs {
    /// A trial specification in JSON, as `orchestrator plan FILE --trial ID` prints it
    file: PathBuf,
    #[arg(long, default_value = "data")]
    data_dir: PathBuf,
    /// Decoded data sets (default: `cache` in the data directory)
    #[arg(long)]
    cache_dir: Option<PathBuf>,
    /// Keep checkpoints here and resume from them (default: none are kept)
    #[arg(long)]
    checkpoint_dir: Option<PathBuf>,
    /// Write the trained weights here as safetensors, under torchvision's names
    #[arg(long, value_parser = safetensors_path, value_name = "FILE.safetensors")]
    weights_out: Option<PathBuf>,
}

pub fn run() -> ExitCode {
    process::keep_freed_memory();
    process::fix_cublas_workspace();
    let wanted = std::env::var("RUST_LOG").ok();
    let wanted = wanted.and_then(|wanted| wanted.parse::<Targets>().ok());
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(std::io::stderr)
        // a worker writes stderr to a log
        .with_ansi(std::io::stderr().is_terminal())
        .finish()
        .with(wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::WARN)))
        .init();
    match carry_out(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            let absent = matches!(error.downcast_ref(), Some(DeviceError::Absent { .. }));
            ExitCode::from(if absent { EXIT_DEVICE_ABSENT } else { 1 })
        }
    }
}

/// Accepts a path of a safetensors file, so that no user finds out after the training that
/// `torch.load` cannot read it.
fn safetensors_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path
        .extension()
        .is_some_and(|ending| ending == "safetensors")
    {
        return Ok(path);
    }
    Err(
        "weights are written as safetensors: end the name in `.safetensors`; in Python, \
         `torch.save(safetensors.torch.load_file(FILE), \"weights.pth\")` converts it"
            .to_owned(),
    )
}

fn carry_out(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Bench(bench) => bench::run(&bench).map(|()| ExitCode::SUCCESS),
        Command::Devices => print_devices(),
        Command::Predict {
            model,
            images,
            threads,
        } => predict::print(&model, &images, threads.into()).map(|()| ExitCode::SUCCESS),
        Command::Run { slot, run } => {
            let options = SlotOptions {
                weights_out: run.weights_out,
                ..slot.session()?
            };
            let run = RunOptions {
                cache_dir: run.cache_dir.unwrap_or_else(|| run.data_dir.join("cache")),
                data_dir: run.data_dir,
                checkpoint_dir: run.checkpoint_dir,
                file: run.file,
            };
            run_file(&run, options)
        }
        Command::Serve {
            slot,
            rehearse,
            rehearse_epoch_ms,
        } => {
            process::die_with_worker()?;
            let stdout = process::private_stdout()?;
            let options = slot.session()?;
            let ready = Ready {
                protocol: sweep::handoff::PROTOCOL,
                build: sweep::build(),
                libtorch: shim::libtorch_version().to_owned(),
                devices: options.devices.describe(usize::MAX),
            };
            let mut runner: Box<dyn Runner> = if rehearse {
                Box::new(Rehearsal {
                    epoch: Duration::from_millis(rehearse_epoch_ms),
                    fault: options.fault,
                })
            } else {
                Box::new(Session::new(options))
            };
            match serve(ready, &mut *runner, stdout) {
                Ok(()) => Ok(ExitCode::SUCCESS),
                Err(error) => {
                    eprintln!("error: the worker is gone: {error}");
                    Ok(ExitCode::from(2))
                }
            }
        }
    }
}

impl SlotArgs {
    fn session(&self) -> anyhow::Result<SlotOptions> {
        let devices = DeviceSet::parse(&self.devices, self.threads)?;
        devices.check_present()?;
        anyhow::ensure!(
            self.checkpoint_interval >= 0.0 && self.checkpoint_interval.is_finite(),
            "`--checkpoint-interval {}` is not a number of seconds",
            self.checkpoint_interval
        );
        devices.limit_memory(self.memory_share)?;
        Ok(SlotOptions {
            data_threads: self
                .data_threads
                .unwrap_or_else(|| devices.default_data_threads()),
            devices,
            fault: Fault::from_environment()?,
            checkpoint_interval: Duration::from_secs_f64(self.checkpoint_interval),
            report_interval: REPORT_INTERVAL,
            collective_deadline: Duration::from_secs(self.collective_deadline),
            recording: self.graphs,
            memory_share: self.memory_share,
            weights_out: None,
        })
    }
}

fn print_devices() -> anyhow::Result<ExitCode> {
    let mut lines = vec![
        format!("libtorch {}", shim::libtorch_version()),
        format!(
            "cpu: {}, {} threads",
            process::cpu_name(),
            process::num_cores()
        ),
    ];
    lines.extend((0..device::num_gpus()).map(nvml::describe));
    if device::num_gpus() > 0 {
        lines.push(match nccl_version() {
            Ok(version) => format!("NCCL {version}"),
            Err(error) => format!("NCCL cannot be used: {error}"),
        });
    }
    process::print(&lines.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}
