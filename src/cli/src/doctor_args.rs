//! The arguments of `orchestrator doctor`.

use std::path::PathBuf;

use clap::Args;

use crate::args::{DataArgs, LaunchArgs, Target};

#[derive(Debug, Args)]
#[command(
    after_help = "It changes nothing. Exit code 2 if a line is an error; warnings alone are 0. In a job of Slurm,
`srun orchestrator doctor` shows what the job gets."
)]
pub struct DoctorArgs {
    /// Also write an archive (.tar.gz) for a bug report: this report, versions, settings, the
    /// environment and the ends of recent logs, without secrets
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
    #[command(flatten)]
    pub target: Target,
    /// Folder for results
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub results: PathBuf,
    /// Checkpoints and logs of a worker
    #[arg(long, value_name = "DIR", default_value = "orchestrator-work")]
    pub work_dir: PathBuf,
    /// The trainer's executable; by default the `orchestrator-trainer` beside this program
    #[arg(long, value_name = "FILE", env = "ORCHESTRATOR_TRAINER")]
    pub trainer: Option<PathBuf>,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub launch: LaunchArgs,
}
