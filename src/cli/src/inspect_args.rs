//! The arguments of commands that only read.

use std::path::PathBuf;

use clap::Args;
use export::Destination;

use crate::args::{DataArgs, Target, ViewArgs};
use crate::completion;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orchestrator predict results/quickstart/trials/t884182218182e510/weights.safetensors *.png
  orchestrator predict weights.safetensors photo.jpg --output json

Prints CSV: image, class, probability. The JSON has the score of every class too. Losses without
probabilities (cos, mse) leave that column empty.")]
pub struct PredictArgs {
    /// The network: `weights.safetensors` of a trial in the results folder
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// Image files
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,
    /// CPU threads that compute
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: u16,
    /// The trainer's executable; by default the `orchestrator-trainer` beside this program
    #[arg(long, value_name = "FILE", env = "ORCHESTRATOR_TRAINER")]
    pub trainer: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// One sweep, by its name, `last`, `failed`, or a trial or cell of it; absent: all
    #[arg(value_name = "SWEEP", add = completion::sweeps())]
    pub sweep: Option<String>,
    /// Show it again and again until Ctrl-C, full-screen on a terminal
    #[arg(short, long)]
    pub watch: bool,
    #[command(flatten)]
    pub view: ViewArgs,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
pub struct TailArgs {
    /// The sweep's name, `last`, `failed`, or a trial or cell of it
    #[arg(value_name = "SWEEP", add = completion::sweeps())]
    pub sweep: String,
    #[command(flatten)]
    pub view: ViewArgs,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
pub struct SweepArgs {
    /// The sweep's name, `last`, or `failed`
    #[arg(value_name = "SWEEP", add = completion::sweeps())]
    pub sweep: String,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
pub struct TableArgs {
    /// The sweep's name, `last`, `failed`, or a trial or cell of it
    #[arg(value_name = "SWEEP", add = completion::sweeps())]
    pub sweep: String,
    /// Also write the whole results folder, into a folder of the sweep's name below this one
    #[arg(long, value_name = "DIR")]
    pub results: Option<PathBuf>,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orchestrator export quickstart parquet
  orchestrator export quickstart tensorboard mlflow:http://localhost:5000
  orchestrator export quickstart --archive quickstart.zip

Destinations:
  parquet[:DIR]      learning curves, as curves.parquet in DIR [default: the results folder]
  tensorboard[:DIR]  event files [default: `tensorboard` in the results folder]
  trackio[:DIR]      fragments below this TRACKIO_DIR [default: `trackio` in the results folder]
  mlflow[:URL]       runs on a tracking server [default: MLFLOW_TRACKING_URI]

Exporting again adds what is new and changes nothing else. `run --export` does it while results
arrive.")]
pub struct ExportArgs {
    /// The sweep's name, `last`, `failed`, or a trial or cell of it
    #[arg(value_name = "SWEEP", add = completion::sweeps())]
    pub sweep: String,
    /// Where results go
    #[arg(value_name = "DESTINATION", required_unless_present = "archive")]
    pub destinations: Vec<Destination>,
    /// Also write one file with the sweep, its part of the journal, and its report, which
    /// `orchestrator check` makes again anywhere. From the journal in the state directory
    #[arg(long, value_name = "FILE")]
    pub archive: Option<PathBuf>,
    /// Folder for results, in which the sweep has a folder of its name
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub results: PathBuf,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orchestrator check quickstart.zip
  orchestrator check quickstart.zip --output json

Needs neither a coordinator nor a journal. Every file of the report (cells, statistics, claims,
curves) is made again from the events in the archive. Exit code 4: something differs.")]
pub struct CheckArgs {
    /// The file of `orchestrator export SWEEP --archive FILE`
    #[arg(value_name = "FILE")]
    pub archive: PathBuf,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orchestrator why table2 cub/cos
  orchestrator why t8841
  orchestrator why failed --output json
  orchestrator why table2 failed

A cell is named by its axis values, joined with `/`, a trial by its id or a unique beginning of it,
by `last` (the one that started last) or `failed` (of those that failed), or by its cell. In place of
a sweep's name, `last` means the one submitted last, `failed` the last one with failed trials.")]
pub struct WhyArgs {
    /// A trial, or a sweep and one of its cells or trials
    #[arg(value_names = ["TRIAL | SWEEP", "CELL | TRIAL"], num_args = 1..=2, required = true, add = completion::sweep_and_cells())]
    pub names: Vec<String>,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orchestrator show table2 cub/cos
  orchestrator show t8841
  orchestrator show sweeps/table2.yaml cub/cos

Each setting is a default (the paper's value for the data set), or comes from the recipe, from `set`,
from an axis or a bundle of one, from an override, or from the search.")]
pub struct ShowArgs {
    /// A trial, or a sweep and one of its cells or trials, or a sweep file and one of its cells
    #[arg(value_names = ["TRIAL | SWEEP | FILE", "CELL | TRIAL"], num_args = 1..=2, required = true, add = completion::sweep_and_cells())]
    pub names: Vec<String>,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orchestrator logs failed
  orchestrator logs cos/10 -f
  orchestrator logs table2 cub/cos

Logs are in the work directory of the worker that ran the attempt, until its trial has a result.")]
pub struct LogsArgs {
    /// A trial, by its id or a unique beginning of it, `last`, `failed`, or its cell; or a sweep and
    /// one of its trials
    #[arg(value_names = ["TRIAL | SWEEP", "TRIAL"], num_args = 1..=2, required = true, add = completion::sweep_and_cells())]
    pub names: Vec<String>,
    /// Continue until the attempt ends
    #[arg(short, long)]
    pub follow: bool,
    /// The worker's work directory [default: `work` in the state directory, then orchestrator-work]
    #[arg(long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
    #[command(flatten)]
    pub target: Target,
}
