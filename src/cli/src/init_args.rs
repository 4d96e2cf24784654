//! The arguments of `orchestrator init`.

use std::path::PathBuf;

use clap::Args;

use crate::args::DataArgs;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orchestrator init data/birds
  orchestrator init data/birds --minutes 10 --out small.yaml

The folder holds one folder of images per class, or `train/` and `test/` of such; or it is a
published data set as its archive unpacks. Only the heads of the files are read.")]
pub struct InitArgs {
    /// The folder of images
    #[arg(value_name = "FOLDER", default_value = ".")]
    pub folder: PathBuf,
    /// Where the sweep goes [default: a file of the folder's name, here]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Replace a file that exists
    #[arg(long)]
    pub force: bool,
    /// Minutes that the sweep may take on this machine's CPU: sizes, networks and epochs follow
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub minutes: u32,
    #[command(flatten)]
    pub data: DataArgs,
}
