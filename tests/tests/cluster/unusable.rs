//! Nodes on which a worker cannot work: what they cost, and how a user finds out before.

use std::process::Output;

use tests::System;
use tests::cluster::Cluster;

use crate::launching::{assert_nothing_left, folder, jobs, orchestrator, run};
use crate::reference::assert_same_table;

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn three_jobs_that_fail_in_a_row_end_the_run_and_the_same_command_asks_again() {
    let cluster = Cluster::start(&["--nodes", "4"]);
    let system = folder();
    system.file("prologue", "echo no driver on this node; exit 2\n");
    let flags = ["--prologue", "prologue"];
    let mut failed = run(&cluster, &system, &flags);
    failed.expect_exit(2);
    let stderr = failed.stderr();
    for words in [
        "no workers can be launched",
        "exit code 2",
        "no driver on this node",
        "after fixing the cause, the same command asks again",
    ] {
        assert!(stderr.contains(words), "{words} in {stderr}");
    }
    let states: Vec<_> = jobs(&cluster).into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, ["FAILED"; 3]);
    assert_nothing_left(&cluster, &system);
    system.file("prologue", "true\n");
    run(&cluster, &system, &flags).expect_exit(0);
    assert_same_table(&system);
    assert_nothing_left(&cluster, &system);
}

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn doctor_shows_what_a_worker_would_get_on_a_node() {
    let cluster = Cluster::start(&["--nodes", "1"]);
    let system = folder();
    let found = doctor(&cluster, &system, "127.0.0.1");
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    assert_eq!(found.status.code(), Some(0), "{text}");
    for name in ["CPU", "memory", "GPU", "trainer", "job", "time left"] {
        // the second column
        let mut columns = text.lines().filter_map(|line| line.get(8..20));
        assert!(
            columns.any(|column| column.starts_with(name)),
            "{name} in {text}"
        );
    }
    assert!(text.contains("coordinator reached at 127.0.0.1:"), "{text}");
    let work = system.path("state/work").display().to_string();
    assert!(text.contains(&work), "the worker's own folders: {text}");

    let unreached = doctor(&cluster, &system, "nowhere.invalid");
    let text = String::from_utf8_lossy(&unreached.stdout).into_owned();
    assert_eq!(unreached.status.code(), Some(2), "{text}");
    assert!(
        text.contains("this node does not reach nowhere.invalid:"),
        "{text}"
    );
    assert_nothing_left(&cluster, &system);
}

fn doctor(cluster: &Cluster, system: &System, advertise: &str) -> Output {
    let mut command = orchestrator(cluster, system, &["doctor", "--state-dir", "state"]);
    command.args(["--launch", "slurm", "--cpus-per-node", "2"]);
    command.args(["--advertise", advertise]);
    command.output().expect("the command starts")
}
