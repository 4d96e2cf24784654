//! `orchestrator run --coordinator-job`: the coordinator is a job of its own, and moves while the jobs
//! of its workers wait.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::cluster::Cluster;
use tests::{Process, System, wait_for, wait_for_command};

use crate::launching::{
    assert_no_failure_but, assert_nothing_left, assert_one_job_for_each_name, folder, jobs,
    orchestrator,
};
use crate::reference::{assert_same_table, running};

/// The partition of the workers is down until the coordinator has moved twice: into another job after
/// a crash, and to another address when Slurm requeues its job.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn jobs_that_wait_find_a_coordinator_that_has_moved() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let system = folder();
    let mut first = run(&cluster, &system, &[]);
    let waiting = wait_for_command("a worker's job waits", || {
        named(&cluster, "pending", "orch-sweeps-").pop()
    });
    let address = published(&system).expect("the coordinator runs");
    let process = running(&system, "coordinator");
    assert_eq!(process.len(), 1, "{process:?}");
    kill(Pid::from_raw(process[0]), Signal::SIGKILL).expect("it runs");
    first.expect_exit(2);
    let stderr = first.stderr();
    assert!(
        stderr.contains("the same command submits another"),
        "{stderr}"
    );

    let mut second = run(&cluster, &system, &[]);
    let moved = wait_for("the second job serves", || moved_from(&system, &address));
    let job = named(&cluster, "running", "orch-coordinator-").pop();
    let job = job.expect("it runs");
    // it is attached to, with flags that are not used
    let mut other = run(&cluster, &system, &["--nodes", "2", "--detach"]);
    other.expect_exit(0);
    let stderr = other.stderr();
    for words in [
        "was submitted with other flags, which stay in force",
        "at most 2 at a time, are not used",
    ] {
        assert!(stderr.contains(words), "{words} in {stderr}");
    }
    cluster.ask("scontrol", &["requeue", &job]);
    wait_for("the same job serves elsewhere", || {
        moved_from(&system, &moved)
    });
    assert_eq!(
        named(&cluster, "pending", "orch-sweeps-"),
        [waiting],
        "the worker's job still waits, alone"
    );
    cluster.ask("scontrol", &["update", "partitionname=closed", "state=up"]);
    second.expect_exit(0);
    assert_same_table(&system);
    assert_no_failure_but(&system, &[]);
    assert_one_job_for_each_name(&cluster);
    let workers = jobs(&cluster)
        .into_iter()
        .filter(|(name, _)| name.starts_with("orch-sweeps-"));
    assert_eq!(workers.count(), 1, "{:#?}", jobs(&cluster));
    // the coordinator's job ends by itself
    assert_nothing_left(&cluster, &system);
}

fn run(cluster: &Cluster, system: &System, flags: &[&str]) -> Process {
    let mut command = orchestrator(
        cluster,
        system,
        &["run", "job.yaml", "--state-dir", "state"],
    );
    command.args(["--launch", "slurm", "--cpus-per-node", "2", "--time", "10"]);
    command.args(["--idle-timeout", "2", "--partition", "closed"]);
    command
        .arg("--coordinator-job=--partition=main")
        .args(flags);
    system.start("run", command)
}

/// The address that the coordinator has published.
fn published(system: &System) -> Option<String> {
    let text = fs::read(system.path("state/coordinator.json")).ok()?;
    let published: Value = serde_json::from_slice(&text).ok()?;
    let lasts = published["lasts"].as_bool()?;
    lasts.then(|| published["address"].as_str().map(str::to_owned))?
}

fn moved_from(system: &System, address: &str) -> Option<String> {
    published(system).filter(|now| now != address)
}

/// The jobs in this state whose name begins like this.
fn named(cluster: &Cluster, state: &str, start: &str) -> Vec<String> {
    let text = cluster.ask("squeue", &["-h", "-t", state, "-o", "%A %j"]);
    let jobs = text.lines().filter_map(|line| line.split_once(' '));
    jobs.filter(|(_, name)| name.starts_with(start))
        .map(|(job, _)| job.to_owned())
        .collect()
}
