//! A command of the cluster, run to its end: without a terminal, within a time limit, in an
//! environment that does not change what it prints.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// The end of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{program} cannot be started: {reason}")]
    NotStarted { program: String, reason: String },
    /// It may still have done its work.
    #[error("{program} did not answer within {seconds} s")]
    TimedOut { program: String, seconds: u64 },
}

/// Makes a command of Slurm. Inside a job the job's own variables would decide what it does:
/// `SLURM_MEM_PER_CPU` alone makes a submission fail.
pub(crate) fn slurm<A: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        if is_of_a_job(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
    command
}

fn is_of_a_job(name: &str) -> bool {
    name.starts_with("SLURM_") && name != "SLURM_CONF"
}

/// Makes a command of Slurm that only asks. The variables by which users change its output are left
/// out, and times are seconds since 1970.
pub(crate) fn question<A: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Command {
    let mut command = slurm(program, arguments);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["SQUEUE_", "SACCT_", "SCONTROL_", "SINFO_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C").env("SLURM_TIME_FORMAT", "%s");
    command
}

/// Runs the command to its end, or kills it at the time limit.
pub(crate) async fn run(mut command: Command, limit: Duration) -> Result<Output, Failure> {
    let program = command
        .as_std()
        .get_program()
        .to_string_lossy()
        .into_owned();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let child = command.spawn().map_err(|error| Failure::NotStarted {
        program: program.clone(),
        reason: error.to_string(),
    })?;
    let Ok(ended) = tokio::time::timeout(limit, child.wait_with_output()).await else {
        return Err(Failure::TimedOut {
            program,
            seconds: limit.as_secs(),
        });
    };
    let output = ended.map_err(|error| Failure::NotStarted {
        program,
        reason: error.to_string(),
    })?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Output {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_a_job_are_left_out() {
        assert!(is_of_a_job("SLURM_MEM_PER_CPU"));
        assert!(is_of_a_job("SLURM_JOB_ID"));
        assert!(!is_of_a_job("SLURM_CONF"), "it names the cluster");
        assert!(!is_of_a_job("SBATCH_ACCOUNT"), "it is the user's choice");
    }

    #[tokio::test]
    async fn a_command_that_does_not_answer_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("echo $$ >{}; exec sleep 600", pid.display()));
        let failure = run(command, Duration::from_millis(500)).await.unwrap_err();
        assert_eq!(failure.to_string(), "sh did not answer within 0 s");
        let pid = std::fs::read_to_string(pid).unwrap();
        let status = format!("/proc/{}/status", pid.trim());
        loop {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            if text.is_empty() || text.contains("State:\tZ") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
