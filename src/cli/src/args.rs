//! The arguments of the command line. Every flag is documented here and nowhere else; `commands/`
//! implements them.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use export::Destination;
use worker::devices::DeviceChoice;

use crate::completion;
pub use crate::config::ConfigArgs;
pub use crate::doctor_args::DoctorArgs;
use crate::exit::EXIT_CODES;
pub use crate::init_args::InitArgs;
pub use crate::inspect_args::{
    CheckArgs, ExportArgs, ListArgs, LogsArgs, PredictArgs, ShowArgs, StatusArgs, SweepArgs,
    TableArgs, TailArgs, WhyArgs,
};
pub use crate::launch_args::LaunchArgs;
use crate::notify_args::NotifyArgs;
pub use crate::page_args::{HttpArgs, PageArgs, ReportArgs};
use crate::rendezvous;
pub use crate::serve_args::{CoordinatorArgs, WorkerArgs};
use crate::token_args::TokenCommand;
pub use crate::trainer_args::TrainerCommand;

/// Trains sweeps of small-data experiments on every device there is, survives anything being
/// killed, and fills in the table.
#[derive(Debug, Parser)]
#[command(
    name = "orchestrator",
    version = crate::libtorch::pins::build(),
    max_term_width = 100,
    after_help = EXIT_CODES,
    after_long_help = EXIT_CODES
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub global: Global,
}

#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Log more on stderr; three times for everything. RUST_LOG, where set, decides instead
    #[arg(short, long, action = ArgAction::Count, global = true, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Log nothing on stderr but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// How log lines on stderr are written
    #[arg(long, value_enum, default_value_t = LogFormat::Text, global = true, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Format of stdout: text for people, or JSON with `"schema": 1` for programs
    #[arg(long, value_enum, default_value_t = OutputFormat::Text, global = true, value_name = "FORMAT")]
    pub output: OutputFormat,
    /// Settings of the project, in place of the `orchestrator.toml` in this folder or above it
    #[arg(long, value_name = "FILE", env = "ORCHESTRATOR_CONFIG", global = true)]
    pub config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a sweep and print its table
    Run(RunArgs),
    /// Serve sweeps to workers and commands until a signal ends it
    Coordinator(CoordinatorArgs),
    /// Train for a coordinator on this machine's devices
    Worker(WorkerArgs),
    /// Write a sweep for a folder of images, after a look at them
    Init(InitArgs),
    /// Show what a sweep file means, and what it would train, without starting anything
    Plan(PlanArgs),
    /// Show sweeps, workers, and what runs now
    Status(StatusArgs),
    /// Print each result of a sweep as it lands, and the table as it fills
    Tail(TailArgs),
    /// Print the tables of a sweep with the results so far
    Table(TableArgs),
    /// Print whether the results support the sweep's claims; the exit code is the verdict
    Verify(SweepArgs),
    /// Make the report of an archive again, offline, and name every value that differs
    Check(CheckArgs),
    /// Write the results so far for TensorBoard, MLflow, trackio, as Parquet, or as an archive
    Export(ExportArgs),
    /// List the sweeps and how far they are
    List(ListArgs),
    /// Show where a cell of a table came from, or why a trial is not running or runs again
    Why(WhyArgs),
    /// Show the settings of a trial or a cell, and where each comes from
    Show(ShowArgs),
    /// Print the address of the page, with a login for a browser
    Page(PageArgs),
    /// Write a sweep's page to one file that can be mailed
    Report(ReportArgs),
    /// Print what the trainer of a trial's last attempt wrote to stderr
    Logs(LogsArgs),
    /// Print the class of each image, by a network that a sweep kept (`keep: [weights]`)
    Predict(PredictArgs),
    /// Stop a sweep; finished trials keep their results
    Cancel(SweepArgs),
    /// Try the failed trials of a sweep again, or train finished ones again on purpose
    Retry(RetryArgs),
    /// Remove a sweep, and the files that it keeps and no other sweep uses
    Rm(RmArgs),
    /// Give a worker or a host no new work; it leaves when what runs there has finished
    Drain(DrainArgs),
    /// Give a drained worker or host work again; a worker that has not left stays
    Undrain(UndrainArgs),
    /// Tokens for other people and machines, with fewer rights than the coordinator's own
    #[command(subcommand)]
    Token(TokenCommand),
    /// Workers that are launched on a cluster: what was asked for, what came, and why not
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Data sets: where they come from, whether they are there, what is in them
    #[command(subcommand)]
    Data(DataCommand),
    /// Fetch the libtorch that the trainer runs with, once; resumes where it was cut off
    Setup(SetupArgs),
    /// Show what this machine gives to workers and commands, what is in the way, and what to do
    Doctor(DoctorArgs),
    /// Show the settings in force, and whether each is from a flag, the environment or a file
    Config(ConfigArgs),
    /// Trainers of your own: hold one to the protocol
    #[command(subcommand)]
    Trainer(TrainerCommand),
    /// Write the class embeddings of a hierarchy
    Embed(EmbedArgs),
    /// The journal: export its events, verify it, or repair it after damage
    #[command(subcommand)]
    Journal(JournalCommand),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man(ManArgs),
}

/// The coordinator that a command asks, or that a worker serves.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// The coordinator, as https://HOST:PORT, or http://HOST:PORT on its own machine; by default the
    /// one that announces itself in the state directory
    #[arg(long, value_name = "URL", env = "ORCHESTRATOR_COORDINATOR")]
    pub coordinator: Option<String>,
    /// File with the coordinator's token, or one granted from it (`token create`), mode 0600; by
    /// default that of the state directory's coordinator
    #[arg(long, value_name = "FILE", env = "ORCHESTRATOR_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// The coordinator's state directory, on this machine or shared: its journal, and the address and
    /// the token by which it is found
    #[arg(long, value_name = "DIR", default_value = "orchestrator-state")]
    pub state_dir: PathBuf,
}

impl Target {
    /// Returns the file with the token of the coordinator at this address: the given one, or that of
    /// the state directory, if its coordinator is there.
    pub fn token_file_of(&self, address: &str) -> Option<PathBuf> {
        let given = self.token_file.clone();
        given.or_else(|| rendezvous::token_file_of(&self.state_dir, address))
    }

    /// Returns ` --coordinator URL --token-file FILE`, or ` --state-dir DIR` if that leads to
    /// address and token: the flags that a command shown to a user needs to contact the same
    /// coordinator.
    pub fn flags(&self) -> String {
        let Some(url) = &self.coordinator else {
            return format!(" --state-dir {}", quoted(&self.state_dir.to_string_lossy()));
        };
        let token = self
            .token_file
            .as_ref()
            .map(|file| format!(" --token-file {}", quoted(&file.to_string_lossy())));
        format!(
            " --coordinator {}{}",
            quoted(url),
            token.unwrap_or_default()
        )
    }
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, Args)]
pub struct ViewArgs {
    /// How progress is shown: `auto` takes the whole screen of a terminal with at least 60 columns
    /// and 16 rows, and prints lines elsewhere; `plain` always prints lines
    #[arg(
        long,
        value_enum,
        default_value_t = ViewChoice::Auto,
        value_name = "VIEW",
        env = "ORCHESTRATOR_VIEW"
    )]
    pub view: ViewChoice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ViewChoice {
    Auto,
    Plain,
}

/// Quotes a word of a command line for a shell.
pub fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@+,=".contains(&byte);
    if text.bytes().all(plain) && !text.is_empty() {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The devices of a worker, and its trainer.
#[derive(Clone, Debug, Args)]
pub struct DeviceArgs {
    /// auto (every GPU, else the CPU), cpu, cuda, cuda:0-3, cuda:0,2
    #[arg(long, value_name = "DEVICES", default_value = "auto")]
    pub devices: DeviceChoice,
    /// Trials at a time; by default one per device (per thread on the CPU), so that the machine is
    /// full
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub slots: Option<u32>,
    /// Devices of one slot: GPUs, or CPU threads
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub devices_per_slot: Option<u32>,
    /// The trainer's executable; by default the `orchestrator-trainer` beside this program. Results
    /// of another program are kept apart
    #[arg(long, value_name = "FILE", env = "ORCHESTRATOR_TRAINER")]
    pub trainer: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct DataArgs {
    /// Where data sets, weights and hierarchies lie [default: data]
    #[arg(long, value_name = "DIR", env = "ORCHESTRATOR_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where decoded data sets are kept [default: ~/.cache/orchestrator]
    #[arg(long, value_name = "DIR", env = "ORCHESTRATOR_CACHE_DIR")]
    pub cache_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orchestrator run sweeps/quickstart.yaml
  orchestrator run sweeps/table2.yaml --smoke
  orchestrator run sweeps/table2.yaml --coordinator https://login1:7400 --token-file token --detach
  orchestrator run sweeps/table2.yaml --launch slurm --nodes 8 --gpus-per-node 4 --time 8:00:00
  orchestrator run sweeps/table2.yaml --launch slurm --nodes 8 --coordinator-job --detach

Without --coordinator, a coordinator and a worker run inside this process. Ctrl-C writes
checkpoints and keeps everything; again, a second later or more, it stops at once. The same
command continues.")]
pub struct RunArgs {
    /// The sweep file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub target: Target,
    /// Submit to the coordinator and return; follow later with `orchestrator tail`
    #[arg(long)]
    pub detach: bool,
    /// Folder for results; those of the sweep go into a folder of its name below it
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub results: PathBuf,
    /// Rehearse: every cell on tiny generated images, two steps each. Marked, never mixed with real
    /// results
    #[arg(long)]
    pub smoke: bool,
    /// Leave out cells whose data set, weights or hierarchy is not there, and mark them
    #[arg(long)]
    pub skip_missing: bool,
    /// Train everything again from the start: results that the sweep's trials have do not count any
    /// more
    #[arg(long)]
    pub fresh: bool,
    /// Also export results, whenever they arrive: parquet, tensorboard, trackio, mlflow:URL, as for
    /// `orchestrator export`. Repeatable
    #[arg(long, value_name = "DESTINATION")]
    pub export: Vec<Destination>,
    #[command(flatten)]
    pub notify: NotifyArgs,
    #[command(flatten)]
    pub view: ViewArgs,
    #[command(flatten)]
    pub devices: DeviceArgs,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub http: HttpArgs,
    #[command(flatten)]
    pub launch: LaunchArgs,
    /// Run the coordinator as a Slurm job of one CPU, where login nodes end long processes; this
    /// command follows it, and may end and be started again. OPTIONS of sbatch for this job, in one
    /// word: '--partition=cpu --time=7-0'
    #[arg(
        long,
        value_name = "OPTIONS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        requires = "launch",
        conflicts_with = "advertise",
        help_heading = "Workers on a cluster"
    )]
    pub coordinator_job: Option<String>,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The sweep file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Plan for `run --smoke`
    #[arg(long)]
    pub smoke: bool,
    /// List every cell with the settings that it changes
    #[arg(long)]
    pub cells: bool,
    /// Train a few steps of each kind of training here, and work out device-hours
    #[arg(long, conflicts_with_all = ["trial", "smoke"])]
    pub time: bool,
    /// Print one trial's specification and nothing else, as `orchestrator-trainer run` takes it; an
    /// id of `--output json`, or the beginning of one
    #[arg(long, value_name = "ID", conflicts_with = "cells")]
    pub trial: Option<String>,
    /// Plan for `run --trainer`: the program is part of the trials' ids
    #[arg(long, value_name = "FILE", env = "ORCHESTRATOR_TRAINER")]
    pub trainer: Option<PathBuf>,
    /// Where earlier submissions are looked up: what would be trained again, and why
    #[arg(long, value_name = "DIR", default_value = "orchestrator-state")]
    pub state_dir: PathBuf,
    #[command(flatten)]
    pub data: DataArgs,
}

#[derive(Debug, Args)]
pub struct RetryArgs {
    /// The sweep's name, `last` or `failed`; or a trial or a cell, which alone is retried
    #[arg(value_name = "SWEEP | TRIAL", add = completion::sweeps())]
    pub sweep: String,
    /// Train these cells of the sweep again from the start, their finished trials too, or try these
    /// trials again, named as for `orchestrator why`; by default all trials that failed are tried
    /// again
    #[arg(value_name = "CELL | TRIAL", conflicts_with_all = ["all", "failed"], add = completion::sweep_and_cells())]
    pub names: Vec<String>,
    /// Train every trial again from the start, finished ones too: their results do not count any
    /// more
    #[arg(long, conflicts_with = "failed")]
    pub all: bool,
    /// Retry the trials that failed, from their checkpoints: the default
    #[arg(long)]
    pub failed: bool,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orchestrator rm quickstart --dry-run
  orchestrator rm quickstart
  orchestrator rm --unused

The journal keeps every result: they count again if a sweep asks for them. Files that the sweep keeps
of its trials (`keep: [weights]`) are removed from the state directory, unless another sweep uses
them; a folder of results on this machine stays. --unused removes the files that no sweep uses: those
of trials that a later revision of a sweep dropped.")]
pub struct RmArgs {
    /// The sweep's name, `last`, or `failed`
    #[arg(value_name = "SWEEP", required_unless_present = "unused", add = completion::sweeps())]
    pub sweep: Option<String>,
    /// Cancel it first, if it still trains
    #[arg(long)]
    pub cancel: bool,
    /// Remove no sweep, but the kept files that none uses
    #[arg(long, conflicts_with_all = ["sweep", "cancel"])]
    pub unused: bool,
    /// Change nothing; print what would be removed, and the space it takes
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// A worker or a host, as `orchestrator status` shows them
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Shown to everyone who asks why
    #[arg(long, value_name = "TEXT", default_value = "drained by a user")]
    pub reason: String,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
pub struct UndrainArgs {
    /// A worker or a host, as `orchestrator status` shows them
    #[arg(value_name = "NAME")]
    pub name: String,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show the launch queue and its allocations, with the reason of each state
    Status(ClusterArgs),
    /// Ask the cluster for workers again, after a pause
    Resume(ClusterArgs),
    /// Ask for no more workers and give back what there is: workers write checkpoints and leave
    Stop(ClusterArgs),
}

#[derive(Debug, Args)]
pub struct ClusterArgs {
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Every data set with its origin, licence, size, and whether it is there
    List(DataListArgs),
    /// Download a data set (or `hierarchies`), verify and unpack it; resumes where it was cut off
    Fetch(FetchArgs),
    /// Decode every image of a data set, and compare its lists with the published counts
    Check(DataNameArgs),
    /// Write a contact sheet of augmented training images, as a PNG
    Sheet(SheetArgs),
}

#[derive(Debug, Args)]
pub struct DataListArgs {
    #[command(flatten)]
    pub data: DataArgs,
}

#[derive(Debug, Args)]
pub struct FetchArgs {
    /// The data set's name, or `hierarchies`
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Fetch the same file names from below this address: a mirror inside a cluster
    #[arg(long, value_name = "URL")]
    pub origin: Option<String>,
    #[command(flatten)]
    pub data: DataArgs,
}

#[derive(Debug, Args)]
pub struct DataNameArgs {
    /// The data set's name, or folder:PATH
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Resize each image to this shorter side as well, as the decoded cache does
    #[arg(long, value_name = "PIXELS")]
    pub resize: Option<u32>,
    #[command(flatten)]
    pub data: DataArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orchestrator data sheet cub --out cub.png
  orchestrator data sheet --sweep my.yaml --cell cos/10 --out mine.png

With --sweep, the images are those that the trials of this cell train on: the sweep's subset, sizes,
crops, flips and mixing, standardised with its mean and deviation, and converted back for the eye.")]
pub struct SheetArgs {
    /// The data set's name, or folder:PATH
    #[arg(value_name = "NAME", required_unless_present = "sweep")]
    pub name: Option<String>,
    /// The sweep file with the augmentation
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "recipe"])]
    pub sweep: Option<PathBuf>,
    /// The cell of that sweep; may be left out if there is only one
    #[arg(long, value_name = "CELL", requires = "sweep")]
    pub cell: Option<String>,
    /// Where the PNG goes
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Whose augmentation
    #[arg(long, value_name = "NAME", default_value = "paper")]
    pub recipe: String,
    /// [default: the first seed of the sweep, or 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub epoch: u32,
    /// Images on the sheet
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub images: u32,
    #[command(flatten)]
    pub data: DataArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orchestrator setup
  orchestrator setup --cuda
  orchestrator setup --from wheels

Nothing is fetched where libtorch is already: in a build from source, in a bundle, or where the
same Python environment has the right torch. Without --index, the index is that of pip's settings,
or else the public one.")]
pub struct SetupArgs {
    /// The kind for GPUs, on a machine without a driver too: a login node
    #[arg(long, conflicts_with = "cpu")]
    pub cuda: bool,
    /// The kind without CUDA, whatever the machine has
    #[arg(long)]
    pub cpu: bool,
    /// Fetch nothing: only check that the trainer starts with the libtorch that is there
    #[arg(long, conflicts_with = "from")]
    pub check: bool,
    /// The package index that has the wheels
    #[arg(
        long,
        value_name = "URL",
        env = "PIP_INDEX_URL",
        hide_env_values = true,
        conflicts_with = "from"
    )]
    pub index: Option<String>,
    /// A folder that holds the wheels, for machines without internet
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// Where libtorch goes, and where every command looks for it if the variable is set [default:
    /// in ~/.cache/orchestrator]
    #[arg(long, value_name = "DIR", env = crate::libtorch::VARIABLE)]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The file holds `embeddings` (classes x classes, f32, rows of length 1), with --similarity also
`similarity`, and in its metadata the class ids in the order of the rows."
)]
pub struct EmbedArgs {
    /// File of "parent child" lines
    #[arg(value_name = "HIERARCHY")]
    pub hierarchy: PathBuf,
    /// Where the embeddings go
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,
    /// Lines read "child parent" (NABirds' hierarchy.txt)
    #[arg(long)]
    pub child_parent: bool,
    /// Also write the matrix of class similarities
    #[arg(long)]
    pub similarity: bool,
}

#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    /// Print every event as a line of JSON
    Export(JournalArgs),
    /// Replay the journal and check every invariant
    Verify(JournalArgs),
    /// Recover a damaged journal; the damaged files are kept
    Repair(RepairArgs),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Every event that is still what was written is kept, in order from the first. If all are, the journal
is repaired. If not, the command shows what would be lost and changes nothing, until --accept-loss
is given. The damaged files are moved into a folder of the state directory. No coordinator may run on it."
)]
pub struct RepairArgs {
    #[command(flatten)]
    pub journal: JournalArgs,
    /// Continue without the events that cannot be recovered
    #[arg(long)]
    pub accept_loss: bool,
}

#[derive(Debug, Args)]
pub struct JournalArgs {
    /// Where the coordinator keeps its journal
    #[arg(long, value_name = "DIR", default_value = "orchestrator-state")]
    pub state_dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    pub shell: Shell,
}
