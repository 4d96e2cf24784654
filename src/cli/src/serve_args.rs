//! The arguments of the processes that stay: `orchestrator coordinator` and `orchestrator worker`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::args::{DataArgs, DeviceArgs, HttpArgs, LaunchArgs, Target};
use crate::host_port::HostPort;
use crate::notify_args::NotifyArgs;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orchestrator coordinator --state-dir state
  orchestrator coordinator --listen 0.0.0.0:7400 --token-file token --http 127.0.0.1:7480

Without --token-file it makes a token in the state directory, which workers and commands with the
same --state-dir find, and other users cannot read. SIGTERM ends it; started again on the same state
directory it continues.")]
pub struct CoordinatorArgs {
    /// Where workers and commands connect to, as HOST:PORT; 0.0.0.0:PORT is every network of this
    /// machine
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400")]
    pub listen: HostPort,
    /// Holds the journal; made when it is missing
    #[arg(long, value_name = "DIR", default_value = "orchestrator-state")]
    pub state_dir: PathBuf,
    /// File with the coordinator's own token, mode 0600 [default: `token`
    /// in the state directory, made when it is missing]
    #[arg(long, value_name = "FILE", env = "ORCHESTRATOR_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    #[command(flatten)]
    pub http: HttpArgs,
    /// How often workers report, in milliseconds [default: 1000]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub heartbeat_ms: Option<u64>,
    /// How long a worker may be silent before its trials are given to others, in milliseconds
    /// [default: 10000]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(50..=86_400_000))]
    pub lease_ms: Option<u64>,
    /// How long a trial may make no progress before it is stopped and retried, in milliseconds
    /// [default: 900000]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(50..=86_400_000))]
    pub stall_ms: Option<u64>,
    /// How many trials may wait, of all sweeps together; a submission beyond that is refused [default:
    /// 1000000]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_waiting: Option<u64>,
    #[command(flatten)]
    pub devices: DeviceArgs,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub launch: LaunchArgs,
    #[command(flatten)]
    pub notify: NotifyArgs,
    /// End when for this long no sweep had trials to train and no launched worker was left, such as
    /// 5m; by default it stays
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub end_when_idle: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orchestrator worker
  orchestrator worker --state-dir /shared/orchestrator-state
  orchestrator worker --coordinator https://login1:7400 --token-file token --devices cuda:0-3

It reads address and token in the state directory again whenever it has lost its coordinator.

SIGTERM, SIGINT, SIGHUP and Slurm's SIGUSR1 make it write checkpoints and leave. SIGINT (Ctrl-C)
a second later or more stops it at once; so does, outside Slurm jobs, any other of them five
seconds later or more.

Its exit code is 0 if it left without unfinished trials (idle, drained, or asked to leave), 75 if
other workers have to finish what it held, 2 if it cannot work (no coordinator, a refused token, a
trainer that does not start), 130 if it was stopped at once.")]
pub struct WorkerArgs {
    #[command(flatten)]
    pub target: Target,
    /// Name of this machine, in place of a host name that means nothing [default: the node's name in
    /// Slurm, else the host name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Checkpoints and logs. Workers that share it take over each other's checkpoints
    #[arg(long, value_name = "DIR", default_value = "orchestrator-work")]
    pub work_dir: PathBuf,
    /// Leave when no trial has run here for this long and none waits that this worker can take,
    /// such as 5m or 90s; by default it stays
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub idle_timeout: Option<Duration>,
    /// Name of the allocation that a launcher made for this worker
    #[arg(long, value_name = "NAME")]
    pub allocation: Option<String>,
    /// Sweeps may name data sets, weights and hierarchies below this folder too, not only in the
    /// data directory. Repeatable; in the variable, folders are separated by `:`
    #[arg(
        long = "allow-path",
        value_name = "DIR",
        env = "ORCHESTRATOR_ALLOW_PATH",
        value_delimiter = ':'
    )]
    pub allowed_paths: Vec<PathBuf>,
    #[command(flatten)]
    pub devices: DeviceArgs,
    #[command(flatten)]
    pub data: DataArgs,
}
