//! `orchestrator run FILE --launch`: how these tests start it, and what must hold after every
//! disturbance.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::binaries::binary;
use tests::cluster::Cluster;
use tests::{Process, System, wait_for, wait_for_command};

use crate::reference::{SWEEP, slowed};

/// Milliseconds that each step of a first attempt sleeps: long enough for a disturbance.
const SLOW: u32 = 100;

pub fn folder() -> System {
    let system = System::new();
    system.file("job.yaml", SWEEP);
    system
}

pub fn orchestrator(cluster: &Cluster, system: &System, arguments: &[&str]) -> Command {
    let mut command = cluster.command(system, &binary("orchestrator").to_string_lossy());
    command.args(arguments);
    slowed(&mut command, SLOW);
    command
}

/// `run` with nodes of two CPUs and ten minutes. The coordinator is on loopback, which all nodes
/// share here.
pub fn run_command(cluster: &Cluster, system: &System, flags: &[&str]) -> Command {
    let flags: Vec<&str> = ["--cpus-per-node", "2", "--time", "10"]
        .into_iter()
        .chain(flags.iter().copied())
        .collect();
    run_as_asked(cluster, system, &flags)
}

/// `run` with these flags alone for the nodes.
pub fn run_as_asked(cluster: &Cluster, system: &System, flags: &[&str]) -> Command {
    let mut command = orchestrator(
        cluster,
        system,
        &["run", "job.yaml", "--state-dir", "state"],
    );
    command.args(["--launch", "slurm", "--advertise", "127.0.0.1"]);
    command.args(flags);
    command
}

pub fn run(cluster: &Cluster, system: &System, flags: &[&str]) -> Process {
    system.start("run", run_command(cluster, system, flags))
}

/// Puts a command of the site's own before Slurm's.
pub fn site(system: &System, program: &str, script: &str) {
    fs::create_dir_all(system.path("site")).expect("the test's folder can be written");
    system.script(&format!("site/{program}"), script);
}

/// Starts a command that finds the site's commands first.
pub fn start_at_site(system: &System, mut command: Command) -> Process {
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", system.path("site").display()));
    system.start("run", command)
}

pub fn wait_until_training(run: &Process) {
    wait_for("an epoch has been trained", || {
        run.stderr().contains(" epoch ").then_some(())
    });
}

/// The output of `orchestrator cluster status`; `None` while there is no coordinator.
pub fn cluster_status(cluster: &Cluster, system: &System) -> Option<String> {
    let mut command = orchestrator(
        cluster,
        system,
        &["cluster", "status", "--state-dir", "state"],
    );
    let output = command.output().expect("the client starts");
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits until `orchestrator cluster status` contains these words.
pub fn wait_for_status(cluster: &Cluster, system: &System, words: &str) -> String {
    wait_for_command(&format!("the status has `{words}`"), || {
        cluster_status(cluster, system).filter(|text| text.contains(words))
    })
}

pub fn resume(cluster: &Cluster, system: &System) {
    let mut resume = orchestrator(
        cluster,
        system,
        &["cluster", "resume", "--state-dir", "state"],
    );
    assert!(resume.status().expect("the client starts").success());
}

/// The numbers of the jobs in these states, such as `running`.
pub fn jobs_in(cluster: &Cluster, states: &str) -> Vec<String> {
    let text = cluster.ask("squeue", &["-h", "-t", states, "-o", "%A"]);
    text.lines().map(str::to_owned).collect()
}

/// Name and state of every job of this program that the cluster remembers.
pub fn jobs(cluster: &Cluster) -> Vec<(String, String)> {
    let text = cluster.ask("squeue", &["-h", "-t", "all", "-o", "%j %T"]);
    let jobs = text.lines().filter_map(|line| line.split_once(' '));
    jobs.filter(|(name, _)| name.starts_with("orch-"))
        .map(|(name, state)| (name.to_owned(), state.to_owned()))
        .collect()
}

/// Requires that every job ended because its worker left, or before it had started.
pub fn assert_all_ended_in_order(cluster: &Cluster) {
    let jobs = jobs(cluster);
    let in_order = |state: &str| ["COMPLETED", "CANCELLED"].contains(&state);
    assert!(jobs.iter().all(|(_, state)| in_order(state)), "{jobs:#?}");
}

pub fn assert_one_job_for_each_name(cluster: &Cluster) {
    let jobs = jobs(cluster);
    let names: BTreeSet<_> = jobs.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), jobs.len(), "one job for each name: {jobs:#?}");
}

pub fn assert_nothing_left(cluster: &Cluster, system: &System) {
    wait_for_command("the queue is empty and no process is left", || {
        (cluster.queue().is_empty() && system.processes().is_empty()).then_some(())
    });
}

/// Requires that no attempt failed, except in these classes.
pub fn assert_no_failure_but(system: &System, allowed: &[&str]) {
    let classes = failure_classes(system);
    let is_allowed = |class: &String| allowed.contains(&class.as_str());
    assert!(classes.values().all(is_allowed), "{classes:?}");
}

/// The class of each attempt that failed, by trial and number.
pub fn failure_classes(system: &System) -> BTreeMap<(String, u64), String> {
    let failed = |entry: &Value| {
        let failed = entry["event"].get("attempt_failed")?;
        let trial = failed["trial"].as_str().expect("a trial's id").to_owned();
        let number = failed["attempt"].as_u64().expect("a number");
        let class = failed["failure"]["class"].as_str().expect("a class");
        Some(((trial, number), class.to_owned()))
    };
    system.journal().iter().filter_map(failed).collect()
}

/// The newest checkpoint of each trial: the attempt that wrote it, and the epoch that follows it.
pub struct Checkpoints(BTreeMap<String, (u64, u64)>);

impl Checkpoints {
    pub fn none() -> Self {
        Self(BTreeMap::new())
    }

    /// Those on disk now. `work` is the work directory of the workers.
    pub fn of(work: &Path) -> Self {
        let newest = folders(&work.join("checkpoints")).filter_map(|(trial, folder)| {
            let names = folders(&folder).filter_map(|(name, _)| {
                // epoch-00003.attempt-1.safetensors
                let (epoch, rest) = name.strip_prefix("epoch-")?.split_once(".attempt-")?;
                let attempt = rest.strip_suffix(".safetensors")?;
                Some((attempt.parse().ok()?, epoch.parse().ok()?))
            });
            Some((trial, names.max_by_key(|(_, epoch)| *epoch)?))
        });
        Self(newest.collect())
    }
}

/// Requires that nothing was trained twice beyond the last checkpoint: an attempt after one that
/// left in order begins where that one ended, and one after a kill not before the checkpoint that
/// was there, which is in `saved`. `work` is the work directory that the workers share.
pub fn assert_nothing_trained_twice(system: &System, work: &Path, saved: &Checkpoints) {
    let classes = failure_classes(system);
    for (trial, logs) in folders(&work.join("logs")) {
        let mut before: Option<(u64, Trained)> = None;
        for (number, trained) in attempts(&logs) {
            if let Some((earlier, ended)) = &before
                && classes.get(&(trial.clone(), *earlier)).map(String::as_str) == Some("preempted")
            {
                assert_eq!(
                    trained.from, ended.until,
                    "attempt {number} of {trial} begins where the one before it left"
                );
            }
            if let Some((attempt, epoch)) = saved.0.get(&trial)
                && number > *attempt
            {
                let Trained { from, .. } = trained;
                assert!(
                    from >= *epoch,
                    "attempt {number} of {trial} begins in epoch {from}, and there was a checkpoint of {epoch}"
                );
            }
            before = Some((number, trained));
        }
    }
}

/// The epochs of an attempt, counted from 0.
struct Trained {
    from: u64,
    /// The one after the last that it finished.
    until: u64,
}

/// Every attempt that began to train, in order, from the logs of its trainers.
fn attempts(logs: &Path) -> BTreeMap<u64, Trained> {
    let read = |(name, path): (String, PathBuf)| {
        let number = name.strip_prefix("attempt-")?.strip_suffix(".stderr")?;
        let text = String::from_utf8_lossy(&fs::read(path).ok()?).into_owned();
        let from = epochs(&text, "leader: training ").next()?;
        let until = epochs(&text, "leader: epoch done ").last().unwrap_or(from);
        Some((number.parse().ok()?, Trained { from, until }))
    };
    folders(logs).filter_map(read).collect()
}

/// `E` of `epoch=E` in the lines with these words.
fn epochs<'a>(log: &'a str, words: &'a str) -> impl Iterator<Item = u64> + 'a {
    let lines = log.lines().filter(move |line| line.contains(words));
    lines.map(|line| {
        let fields = line.split_whitespace();
        let mut epochs = fields.filter_map(|field| field.strip_prefix("epoch=")?.parse().ok());
        epochs
            .next()
            .unwrap_or_else(|| panic!("no epoch in {line}"))
    })
}

/// Names and paths in a folder; none if there is no such folder.
fn folders(folder: &Path) -> impl Iterator<Item = (String, PathBuf)> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        (name, entry.path())
    })
}
