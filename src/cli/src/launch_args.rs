//! The arguments of `--launch`: workers that a cluster lends while there is work.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use schedule::Config;

use crate::exit::ExpectedError;

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Workers on a cluster")]
pub struct LaunchArgs {
    /// Launch workers while there is work, and none when there is not. `slurm`: as jobs of one node
    /// each. `ssh:FILE`: on the hosts of a file, `[user@]host [slots=N] [devices=LIST] [dir=PATH]
    /// [data=PATH] [work=PATH]` in each line
    #[arg(long, value_name = "HOW")]
    pub launch: Option<How>,
    /// Maximum number of nodes at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub nodes: u32,
    /// GPUs of each node
    #[arg(long, value_name = "N", requires = "launch", conflicts_with = "cpus_per_node", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub gpus_per_node: Option<u32>,
    /// CPUs of each node
    #[arg(long, value_name = "N", requires = "launch", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub cpus_per_node: Option<u32>,
    /// Time limit of each job, as sbatch takes it: 90, 8:00:00, 2-00:00:00
    #[arg(long, value_name = "TIME", requires = "launch")]
    pub time: Option<TimeLimit>,
    /// The partition, or several
    #[arg(long, value_name = "NAME", requires = "launch")]
    pub partition: Option<String>,
    /// The account that pays
    #[arg(long, value_name = "NAME", requires = "launch")]
    pub account: Option<String>,
    /// Shell lines before the worker starts, for modules and environments
    #[arg(long, value_name = "FILE", requires = "launch")]
    pub prologue: Option<PathBuf>,
    /// A command before the worker's: 'apptainer exec --nv IMAGE'
    #[arg(long, value_name = "COMMAND", requires = "launch")]
    pub wrap: Option<String>,
    /// Seconds after which a worker without a trial gives its node back
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub idle_timeout: u64,
    /// Seconds between two questions to the cluster about all jobs; more after each that fails
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub observe_every: u64,
    /// Name or address of this machine as other machines reach it
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,
    /// Copy this build to hosts over ssh that have another one or none, into ~/.cache/orchestrator
    #[arg(long, requires = "launch")]
    pub push: bool,
    /// Print the script of a job and start nothing
    #[arg(long, requires = "launch")]
    pub dry_run: bool,
    /// Further options of sbatch, or of ssh, after `--`
    #[arg(last = true, value_name = "OPTIONS", requires = "launch")]
    pub options: Vec<String>,
}

/// The kind of cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    Slurm,
    /// With the path of the hosts file.
    Ssh(PathBuf),
}

impl fmt::Display for How {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slurm => formatter.write_str("slurm"),
            Self::Ssh(file) => write!(formatter, "ssh:{}", file.display()),
        }
    }
}

impl FromStr for How {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("ssh:") {
            Some(file) if !file.is_empty() => Ok(Self::Ssh(file.into())),
            None if text == "slurm" => Ok(Self::Slurm),
            _ => Err(format!(
                "`{text}` is no kind of cluster: `slurm` or `ssh:FILE` was expected"
            )),
        }
    }
}

/// A time limit, with the text that the user wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeLimit {
    text: String,
    pub limit: Duration,
}

impl FromStr for TimeLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let limit = launch::slurm::text::duration(text).filter(|limit| !limit.is_zero());
        let limit = limit.ok_or_else(|| {
            format!(
                "`{text}` is no time limit: MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS were expected"
            )
        })?;
        let text = text.to_owned();
        Ok(Self { text, limit })
    }
}

impl LaunchArgs {
    /// Refuses the name for nodes in a command that launches none; a coordinator may be reached by
    /// workers of others.
    pub fn refuse_advertise_alone(&self) -> Result<(), ExpectedError> {
        match (&self.launch, &self.advertise) {
            (None, Some(_)) => Err(ExpectedError::BadInput(
                "--advertise is for workers that --launch brings, and --launch is not given"
                    .to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// The coordinator's settings for such workers.
    pub fn configure(&self, config: &mut Config) {
        config.launch.observe_ms = self.observe_every * 1000;
    }

    /// The options of sbatch for a job that is the coordinator.
    pub fn slurm_options_of_coordinator(&self) -> Vec<String> {
        let given = [("partition", &self.partition), ("account", &self.account)];
        let given = given.into_iter().filter_map(|(name, value)| {
            let value = value.as_ref()?;
            Some(format!("--{name}={value}"))
        });
        given.collect()
    }

    /// These arguments on the command line of another process of this program, without the further
    /// options, which come last.
    pub fn words(&self) -> Vec<String> {
        let number = |count: u32| count.to_string();
        let how = self.launch.as_ref().map(ToString::to_string);
        let prologue = self.prologue.as_ref();
        let prologue = prologue.map(|file| std::path::absolute(file).unwrap_or(file.clone()));
        let given = [
            ("launch", how),
            ("nodes", Some(number(self.nodes))),
            ("gpus-per-node", self.gpus_per_node.map(number)),
            ("cpus-per-node", self.cpus_per_node.map(number)),
            ("time", self.time.as_ref().map(|time| time.text.clone())),
            ("partition", self.partition.clone()),
            ("account", self.account.clone()),
            (
                "prologue",
                prologue.map(|file| file.to_string_lossy().into_owned()),
            ),
            ("wrap", self.wrap.clone()),
            ("idle-timeout", Some(self.idle_timeout.to_string())),
            ("observe-every", Some(self.observe_every.to_string())),
            ("advertise", self.advertise.clone()),
        ];
        let given = given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        given
            .flat_map(|(name, value)| [format!("--{name}"), value])
            .collect()
    }

    /// The options after `--`, with it.
    pub fn further_options(&self) -> Vec<String> {
        let dashes = (!self.options.is_empty()).then(|| "--".to_owned());
        dashes
            .into_iter()
            .chain(self.options.iter().cloned())
            .collect()
    }

    /// The options of sbatch that these arguments are.
    pub fn slurm_options(&self) -> Vec<String> {
        let number = |count: u32| count.to_string();
        let given = [
            ("gpus-per-node", self.gpus_per_node.map(number)),
            ("cpus-per-task", self.cpus_per_node.map(number)),
            ("time", self.time.as_ref().map(|time| time.text.clone())),
            ("partition", self.partition.clone()),
            ("account", self.account.clone()),
        ];
        let given = given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        given
            .map(|(name, value)| format!("--{name}={value}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_limits_are_read_as_sbatch_reads_them() {
        for (text, seconds) in [
            ("90", 5_400),
            ("2:30", 150),
            ("8:00:00", 28_800),
            ("1-0", 86_400),
            ("1-2:03", 93_780),
            ("2-00:00:01", 172_801),
        ] {
            let limit = text.parse::<TimeLimit>().map(|time| time.limit.as_secs());
            assert_eq!(limit, Ok(seconds), "{text}");
        }
        for text in ["", "0", "x", "1:2:3:4", "-5", "1-", "1h"] {
            assert!(text.parse::<TimeLimit>().is_err(), "{text}");
        }
    }
}
