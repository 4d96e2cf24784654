//! Slurm as the source of allocations: one job of one node for each.
//!
//! `text.rs`, `state.rs` and `reason.rs` understand what Slurm prints; this file runs its commands.
//! Output is asked for in fixed fields and never as JSON, whose form changes between versions.

pub mod probe;
pub mod reason;
pub mod service;
pub mod state;
pub mod text;

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schedule::allocation::{
    AllocationId, Answering, EndCause, GiveBack, JobId, JobState, LaunchAnswer, LaunchRequest,
    Launcher, ObservedJob, SubmitOutcome,
};
use sweep::node_fault;
use sweep::text::{Line, Lines};

use crate::command::{self, Failure, Output, question, slurm};
use crate::script::Template;

/// A hanging controller answers sbatch after 20 s, one that is gone after 40 s.
const SUBMIT_LIMIT: Duration = Duration::from_secs(60);
const ASK_LIMIT: Duration = Duration::from_secs(45);
/// Short: the answer is useful, but not needed.
const TEST_LIMIT: Duration = Duration::from_secs(10);
/// The part of a failed job's log that is reported with it.
const LOG_TAIL_BYTES: u64 = 2 << 10;

pub struct Slurm {
    template: Template,
    /// False once sacct has failed: many clusters keep no accounts.
    keeps_accounts: bool,
}

impl Slurm {
    pub fn new(template: Template) -> Self {
        Self {
            template,
            keeps_accounts: true,
        }
    }

    /// Asks Slurm whether it refuses an allocation, without a job. The error has Slurm's own words. A
    /// controller that does not answer refuses nothing, and some requests that can never start are
    /// accepted all the same.
    pub async fn test(&self, allocation: &AllocationId) -> Result<(), Line> {
        if names_several_partitions(&self.template) {
            return Ok(());
        }
        let mut words = vec!["--test-only".to_owned()];
        words.extend(self.template.all_options(allocation, &[]));
        // the options are all that it looks at
        words.push("--wrap=true".to_owned());
        match command::run(slurm("sbatch", words), TEST_LIMIT).await {
            Ok(output) if output.code == Some(0) => Ok(()),
            Ok(output) => match text::refused(&output.stderr) {
                SubmitOutcome::Refused { message } => Err(message),
                outcome => {
                    tracing::info!(?outcome, "sbatch --test-only gives no answer");
                    Ok(())
                }
            },
            Err(failure @ Failure::TimedOut { .. }) => {
                tracing::info!(%failure, "sbatch --test-only gives no answer");
                Ok(())
            }
            Err(failure) => Err(failure.to_string().into()),
        }
    }

    async fn submit(&self, allocation: &AllocationId, avoid: &[String]) -> SubmitOutcome {
        let text = self.template.text(allocation, avoid);
        let script = match write_script(&self.template.script_of(allocation), &text) {
            Ok(script) => script,
            Err(outcome) => return outcome,
        };
        let options = self.template.all_options(allocation, avoid);
        let outcome = submitted_by(&options, &script).await;
        if let SubmitOutcome::Submitted(job) = &outcome {
            // For people; the journal has it too.
            let note = self.template.folder_of(allocation).join("job");
            if let Err(error) = fs::write(&note, format!("{job}\n")) {
                tracing::warn!(%error, file = %note.display(), "the job's number was not written");
            }
        }
        outcome
    }

    /// The state of all these jobs, by one call: squeue for those that are there, sacct for others
    /// where accounts are kept.
    async fn observe(&mut self, allocations: &[AllocationId]) -> Result<Vec<ObservedJob>, Line> {
        if allocations.is_empty() {
            return Ok(Vec::new());
        }
        let names = joined(allocations);
        let squeue = question(
            "squeue",
            ["-h", "--me", "-t", "all", &names, "-o", text::SQUEUE_FORMAT],
        );
        let output = succeeded(command::run(squeue, ASK_LIMIT).await)?;
        let mut jobs = text::queue(&output.stdout);
        // One name has two jobs only if its submission was repeated; the one that lives counts.
        jobs.sort_by_key(|job| {
            (
                !matches!(job.state, JobState::Ended(_)),
                job.job.0.len(),
                job.job.clone(),
            )
        });
        let known: Vec<_> = jobs.iter().map(|job| job.allocation.clone()).collect();
        let absent: Vec<_> = allocations
            .iter()
            .filter(|name| !known.contains(name))
            .cloned()
            .collect();
        if !absent.is_empty() && self.keeps_accounts {
            jobs.extend(self.accounts(&absent).await);
        }
        let mut known = Vec::with_capacity(jobs.len());
        for job in jobs {
            let log = self.template.log_of(&job.allocation);
            known.push(explained(job, &log).await);
        }
        Ok(known)
    }

    /// The jobs that squeue no longer lists, from Slurm's accounts.
    async fn accounts(&mut self, allocations: &[AllocationId]) -> Vec<ObservedJob> {
        let names = joined(allocations);
        let words = ["-n", "-P", "-X", "-D", "-S", "now-30days", &names];
        let mut sacct = question("sacct", words);
        sacct.args(["-o", text::SACCT_FORMAT]);
        match command::run(sacct, ASK_LIMIT).await {
            Ok(output) if output.code == Some(0) => text::accounts(&output.stdout),
            Ok(output) => {
                let reason = text::errors(&output.stderr);
                tracing::info!(
                    reason,
                    "this cluster keeps no accounts: sacct is not asked again"
                );
                self.keeps_accounts = false;
                Vec::new()
            }
            Err(failure @ Failure::NotStarted { .. }) => {
                tracing::info!(%failure, "sacct is not asked again");
                self.keeps_accounts = false;
                Vec::new()
            }
            Err(failure) => {
                tracing::warn!(%failure, "Slurm's accounts were not read");
                Vec::new()
            }
        }
    }

    async fn give_back(
        &self,
        allocations: &[(AllocationId, Option<JobId>)],
        how: GiveBack,
    ) -> Result<(), Line> {
        let mut jobs: Vec<JobId> = allocations
            .iter()
            .filter_map(|(_, job)| job.clone())
            .collect();
        let nameless: Vec<AllocationId> = allocations
            .iter()
            .filter(|(_, job)| job.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        if !nameless.is_empty() {
            let names = joined(&nameless);
            let squeue = question("squeue", ["-h", "--me", &names, "-o", text::SQUEUE_FORMAT]);
            let output = succeeded(command::run(squeue, ASK_LIMIT).await)?;
            jobs.extend(text::queue(&output.stdout).into_iter().map(|job| job.job));
        }
        if jobs.is_empty() {
            return Ok(());
        }
        let flags: &[&str] = match how {
            GiveBack::Waiting => &["--state=PENDING"],
            GiveBack::Leave => &["--batch", "--signal=USR1"],
            GiveBack::Now => &[],
        };
        let mut scancel = slurm("scancel", flags);
        scancel.args(jobs.iter().map(|job| job.0.as_ref()));
        match succeeded(command::run(scancel, ASK_LIMIT).await) {
            Err(message) if !is_over(&message) => Err(message),
            _ => Ok(()),
        }
    }
}

/// Writes a script, with the folder that it is in. A full disk gets room again: the error is then that
/// of a cluster that does not answer, and the submission is tried later.
fn write_script(path: &Path, text: &str) -> Result<PathBuf, SubmitOutcome> {
    let written = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o700);
        options.open(path)?.write_all(text.as_bytes())
    };
    written().map(|()| path.to_owned()).map_err(|error| {
        let message = format!("cannot write {}: {error}", path.display()).into();
        match node_fault::is_of_node(&error) {
            true => SubmitOutcome::Unreachable { message },
            false => SubmitOutcome::Refused { message },
        }
    })
}

/// Submits a script with these options of sbatch.
async fn submitted_by(options: &[String], script: &Path) -> SubmitOutcome {
    let mut sbatch = slurm("sbatch", ["--parsable"]);
    sbatch.args(options).arg(script);
    let output = match command::run(sbatch, SUBMIT_LIMIT).await {
        Ok(output) => output,
        Err(failure @ Failure::TimedOut { .. }) => {
            return SubmitOutcome::Unknown {
                message: failure.to_string().into(),
            };
        }
        Err(failure) => {
            return SubmitOutcome::Refused {
                message: failure.to_string().into(),
            };
        }
    };
    if output.code != Some(0) {
        return text::refused(&output.stderr);
    }
    match text::submitted(&output.stdout) {
        Some(job) => SubmitOutcome::Submitted(job),
        None => {
            let message = format!("sbatch printed no job number: {}", output.stdout.trim());
            SubmitOutcome::Unknown {
                message: message.into(),
            }
        }
    }
}

/// Adds what is known about the end of a failed job: its exit code and the end of its log.
async fn explained(mut job: ObservedJob, log: &Path) -> ObservedJob {
    let JobState::Ended(EndCause::Failed { .. }) = &job.state else {
        return job;
    };
    let details = details(&job.job).await.unwrap_or_default();
    let JobState::Ended(cause) = &mut job.state else {
        return job;
    };
    if let Some(exit) = details.get("ExitCode") {
        *cause = text::with_exit(cause.clone(), exit);
    }
    if let EndCause::Failed { detail } = cause {
        let text = match log_tail(log) {
            Some(tail) => format!("{detail}; {} ends with:\n{tail}", log.display()),
            None => format!("{detail}; {} is empty", log.display()),
        };
        *detail = Lines::from(text);
    }
    job
}

/// Returns the newest job of a name, ended ones included. An error proves nothing.
async fn newest_job(name: &AllocationId, log: &Path) -> Result<Option<ObservedJob>, Line> {
    let name = format!("--name={name}");
    let words = ["-h", "--me", "-t", "all", &name, "-o", text::SQUEUE_FORMAT];
    let output = succeeded(command::run(question("squeue", words), ASK_LIMIT).await)?;
    let jobs = text::queue(&output.stdout).into_iter();
    Ok(
        match jobs.max_by_key(|job| (job.job.0.len(), job.job.clone())) {
            Some(job) => Some(explained(job, log).await),
            None => None,
        },
    )
}

/// Several partitions of which one has no nodes made `sbatch --test-only` end controllers before
/// 25.11.7.
fn names_several_partitions(template: &Template) -> bool {
    let words: Vec<&String> = template
        .options
        .iter()
        .chain(&template.user_options)
        .collect();
    let is_flag = |word: &str| word == "-p" || word == "--partition";
    let is_list = |(at, word): (usize, &&String)| {
        let is_value = at > 0 && is_flag(words[at - 1]);
        let has_value = word.starts_with("-p") || word.starts_with("--partition=");
        word.contains(',') && (is_value || has_value)
    };
    let by_variable = std::env::var("SBATCH_PARTITION").is_ok_and(|value| value.contains(','));
    by_variable || words.iter().enumerate().any(is_list)
}

/// Returns true if scancel only complained that jobs had ended.
fn is_over(message: &str) -> bool {
    message.split("; ").all(|line| {
        line.contains("Invalid job id specified")
            || line.contains("already completing or completed")
    })
}

/// Slurm's view of one job, by the names of `scontrol show job`.
pub async fn details(job: &JobId) -> Result<std::collections::BTreeMap<String, String>, Line> {
    let scontrol = question("scontrol", ["show", "job", "-o", &*job.0]);
    let output = succeeded(command::run(scontrol, ASK_LIMIT).await)?;
    let line = output
        .stdout
        .lines()
        .find(|line| line.starts_with("JobId="));
    Ok(text::details(line.unwrap_or_default()))
}

/// The version of Slurm on this machine, as its commands print it: `slurm-wlm 22.05.8`.
pub async fn version() -> Result<Line, Line> {
    let output = succeeded(command::run(question("sbatch", ["--version"]), ASK_LIMIT).await)?;
    Ok(Line::from(output.stdout.trim()))
}

fn joined(allocations: &[AllocationId]) -> String {
    let names: Vec<_> = allocations.iter().map(AllocationId::as_str).collect();
    format!("--name={}", names.join(","))
}

fn succeeded(ended: Result<Output, Failure>) -> Result<Output, Line> {
    match ended {
        Ok(output) if output.code == Some(0) => Ok(output),
        Ok(output) => match text::errors(&output.stderr) {
            silent if silent.is_empty() => {
                Err(format!("the command ended with status {:?}", output.code).into())
            }
            message => Err(message.into()),
        },
        Err(failure) => Err(failure.to_string().into()),
    }
}

/// The last lines of a log; `None` if there is none or it is empty.
fn log_tail(path: &Path) -> Option<String> {
    let mut file = fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let start = length.saturating_sub(LOG_TAIL_BYTES);
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = match start {
        0 => text.trim(),
        // the first line is not whole
        _ => text
            .split_once('\n')
            .map_or(&*text, |(_, rest)| rest)
            .trim(),
    };
    (!text.is_empty()).then(|| text.to_owned())
}

impl Launcher for Slurm {
    fn perform(&mut self, request: LaunchRequest) -> Answering<'_> {
        Box::pin(async move {
            match request {
                LaunchRequest::Submit { allocation, avoid } => {
                    let outcome = self.submit(&allocation, &avoid).await;
                    LaunchAnswer::Submitted {
                        allocation,
                        outcome,
                    }
                }
                LaunchRequest::Observe { allocations } => {
                    LaunchAnswer::Observed(self.observe(&allocations).await)
                }
                LaunchRequest::GiveBack { allocations, how } => {
                    LaunchAnswer::GaveBack(self.give_back(&allocations, how).await)
                }
            }
        })
    }
}
