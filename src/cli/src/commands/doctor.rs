//! `orchestrator doctor`: what a worker would get where this command runs, and whether Slurm can be
//! used from here. It changes nothing. In a job, `srun orchestrator doctor` shows what the job gets.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use sweep::counted;
use tokio::process::Command;
use tokio::time::timeout;
use worker::devices::{self, DeviceChoice, Inventory};
use worker::memory;
use worker::slurm::{Job, TimeLeft};

use crate::exit::{ExpectedError, Outcome};
use crate::follow::duration;
use crate::output::{Output, SCHEMA};

/// The commands of Slurm that a launcher needs, and that explain the end of a job where the site
/// keeps accounts.
const NEEDED: [&str; 4] = ["sbatch", "squeue", "scancel", "scontrol"];
const OPTIONAL: [&str; 1] = ["sacct"];
/// Timeout of one command: a controller that is away lets its commands wait.
const PATIENCE: Duration = Duration::from_secs(20);

/// One finding: a name, what was found, and whether it stands in the way.
struct Finding {
    name: &'static str,
    text: String,
    is_problem: bool,
}

pub async fn doctor(output: Output) -> Result<Outcome, ExpectedError> {
    let mut findings = Vec::new();
    machine(&mut findings);
    slurm(&mut findings).await;
    let problems = findings.iter().filter(|finding| finding.is_problem).count();
    output.print(
        || findings.iter().map(Finding::line).collect(),
        || {
            json!({
                "schema": SCHEMA,
                "problems": problems,
                "findings": findings.iter().map(Finding::json).collect::<Vec<_>>(),
            })
        },
    )?;
    if problems == 0 {
        return Ok(Outcome::Complete);
    }
    Err(ExpectedError::Infrastructure {
        what: "this machine",
        reason: format!("{}: see above", counted(problems as u64, "problem")),
    })
}

impl Finding {
    fn line(&self) -> String {
        let mark = if self.is_problem { "problem: " } else { "" };
        format!("{:<12}{mark}{}\n", self.name, self.text)
    }

    fn json(&self) -> Value {
        json!({ "name": self.name, "found": self.text, "problem": self.is_problem })
    }
}

fn fine(name: &'static str, text: impl Into<String>) -> Finding {
    Finding {
        name,
        text: text.into(),
        is_problem: false,
    }
}

fn problem(name: &'static str, text: impl Into<String>) -> Finding {
    Finding {
        is_problem: true,
        ..fine(name, text)
    }
}

fn machine(findings: &mut Vec<Finding>) {
    let inventory = Inventory::detect();
    let threads = counted(inventory.cpu_threads as u64, "thread");
    findings.push(fine("CPU", format!("{threads} of {}", inventory.cpu_name)));
    findings.push(match memory::limit() {
        Some(bytes) => fine(
            "memory",
            format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
        ),
        None => fine("memory", "not known: /proc/meminfo cannot be read"),
    });
    match devices::slots(&DeviceChoice::Auto, None, None, &inventory) {
        Err(error) => findings.push(problem("GPUs", error.to_string())),
        Ok(_) if inventory.gpus.is_empty() => {
            findings.push(fine("GPUs", format!("none: {}", inventory.no_gpus)));
        }
        Ok(_) => findings.extend(
            inventory
                .gpus
                .iter()
                .map(|gpu| fine("GPU", gpu.to_string())),
        ),
    }
}

async fn slurm(findings: &mut Vec<Finding>) {
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
        return findings.push(fine("Slurm", text));
    }
    if !needed.is_empty() {
        let text = format!("not in PATH: {}", needed.join(", "));
        findings.push(problem("Slurm", text));
    }
    for name in missing(&OPTIONAL) {
        findings.push(fine("Slurm", format!("no {name}, which is not needed")));
    }
    findings.push(match run("sbatch", &["--version"]).await {
        Ok(version) => fine("version", version),
        Err(reason) => problem("version", reason),
    });
    findings.push(match run("scontrol", &["ping"]).await {
        Ok(answer) => fine("controller", answer),
        Err(reason) => problem("controller", reason),
    });
    let Some(job) = Job::of_environment() else {
        return findings.push(fine(
            "job",
            "this is not one; `srun orchestrator doctor` shows what a job gets",
        ));
    };
    let node = job.node.as_deref().unwrap_or("no node");
    findings.push(fine("job", format!("{} on {node}", job.id)));
    findings.push(match job.time_left().await {
        Some(TimeLeft::Limited(left)) => fine("time left", duration(left.as_millis() as u64)),
        Some(TimeLeft::Unlimited) => fine("time left", "no limit"),
        None => problem("time left", "squeue does not tell"),
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
