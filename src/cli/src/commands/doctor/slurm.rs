//! The use of Slurm from here: does `--launch slurm` work, and what does a job get?

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;
use worker::slurm::{Job, TimeLeft};

use super::{Finding, error, ok};
use crate::follow::duration;

/// The commands of Slurm that a launcher needs, and that explain the end of a job where the site
/// keeps accounts.
const NEEDED: [&str; 4] = ["sbatch", "squeue", "scancel", "scontrol"];
const OPTIONAL: [&str; 1] = ["sacct"];
/// Timeout of one command: commands wait while the controller is away.
const PATIENCE: Duration = Duration::from_secs(20);

/// Adds what was found to the other findings.
pub async fn slurm(findings: &mut Vec<Finding>) {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&folders).collect();
    let missing = |names: &[&'static str]| -> Vec<&'static str> {
        let mut names = names.to_vec();
        names.retain(|name| !folders.iter().any(|folder| is_program(&folder.join(name))));
        names
    };
    let needed = missing(&NEEDED);
    if needed.len() == NEEDED.len() {
        let text = "its commands are not in PATH: `--launch slurm` does not work from here";
        return findings.push(ok("Slurm", text));
    }
    if !needed.is_empty() {
        let text = format!("not in PATH: {}", needed.join(", "));
        let remedy = "`--launch slurm` needs them: load Slurm's module, or add its folder to PATH";
        findings.push(error("Slurm", text, remedy));
    }
    for name in missing(&OPTIONAL) {
        findings.push(ok("Slurm", format!("no {name}, which is not needed")));
    }
    findings.push(match run("sbatch", &["--version"]).await {
        Ok(version) => ok("version", version),
        Err(reason) => error("version", reason, "check that Slurm's commands work here"),
    });
    findings.push(match run("scontrol", &["ping"]).await {
        Ok(answer) => ok("controller", answer),
        Err(reason) => error(
            "controller",
            reason,
            "Slurm's controller is away: ask its administrators",
        ),
    });
    let Some(job) = Job::of_environment() else {
        return findings.push(ok(
            "job",
            "this is not one; `srun orchestrator doctor` shows what a job gets",
        ));
    };
    let node = job.node.as_deref().unwrap_or("no node");
    findings.push(ok("job", format!("{} on {node}", job.id)));
    findings.push(match job.time_left().await {
        Some(TimeLeft::Limited(left)) => ok("time left", duration(left.as_millis() as u64)),
        Some(TimeLeft::Unlimited) => ok("time left", "no limit"),
        None => error(
            "time left",
            "squeue does not report it",
            "workers cannot leave before the job ends: check that squeue works in jobs",
        ),
    });
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Runs a command of Slurm and returns its output, or the reason why there is none.
async fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    match timeout(PATIENCE, command.output()).await {
        Err(_) => Err(format!("{program} did not answer within {PATIENCE:?}")),
        Ok(Err(error)) => Err(format!("{program} does not run: {error}")),
        Ok(Ok(output)) if output.status.success() => Ok(text(&output.stdout)),
        Ok(Ok(output)) => Err(format!("{program} failed: {}", text(&output.stderr))),
    }
}

fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim().replace('\n', "; ")
}
