//! The arguments of `orchestrator trainer`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum TrainerCommand {
    /// Drive a trainer through every case of the protocol, and list what it does wrong
    Check(TrainerCheckArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orchestrator trainer check ./train.py
  orchestrator trainer check --sweep mine.yaml -- python3 train.py

The program is started some fifteen times and trains trials of 4 epochs, and of more if it is too
fast to be stopped in those. The cases are in the order in which one fixes what they find. Exit code
1 if the program fails one.")]
pub struct TrainerCheckArgs {
    /// A sweep whose first cell has the settings of the trials; by default a small one on digits
    #[arg(long, value_name = "FILE")]
    pub sweep: Option<PathBuf>,
    /// Where data sets lie [default: data]
    #[arg(long, value_name = "DIR", env = "ORCHESTRATOR_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Timeout of the program's first message, and between two messages of a trial, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub patience: u64,
    /// The program, and arguments of its own
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<OsString>,
}
