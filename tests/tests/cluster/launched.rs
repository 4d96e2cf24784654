//! `orchestrator run FILE --launch slurm`: workers come while there is work and are given back, and
//! what users and the queue do to its jobs is obeyed and explained.

use nix::sys::signal::Signal;
use tests::cluster::Cluster;
use tests::wait_for_command;

use crate::launching::{
    Checkpoints, assert_all_ended_in_order, assert_no_failure_but, assert_nothing_left,
    assert_nothing_trained_twice, folder, jobs, jobs_in, resume, run, run_command, wait_for_status,
    wait_until_training,
};
use crate::reference::assert_same_table;

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn three_nodes_come_and_go_and_the_table_is_that_of_a_local_run() {
    let cluster = Cluster::start(&["--nodes", "3"]);
    let system = folder();
    let mut run = run(&cluster, &system, &["--nodes", "3"]);
    run.expect_exit(0);
    assert_same_table(&system);
    let jobs = jobs(&cluster);
    assert!(!jobs.is_empty() && jobs.len() <= 3, "{jobs:#?}");
    let are_named = jobs.iter().all(|(name, _)| name.starts_with("orch-job-"));
    assert!(are_named, "{jobs:#?}");
    assert_all_ended_in_order(&cluster);
    assert_nothing_left(&cluster, &system);
    assert_no_failure_but(&system, &[]);
}

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_held_job_is_explained_and_starts_when_it_is_released() {
    let cluster = Cluster::start(&["--nodes", "1"]);
    let system = folder();
    let mut run = run(&cluster, &system, &["--", "--hold"]);
    wait_for_status(
        &cluster,
        &system,
        "you hold it; `scontrol release JOB` lets it start",
    );
    let held = jobs_in(&cluster, "pending");
    assert_eq!(held.len(), 1, "a held job is not replaced: {held:?}");
    cluster.ask("scontrol", &["release", &held[0]]);
    run.expect_exit(0);
    assert_same_table(&system);
    assert_eq!(jobs(&cluster).len(), 1);
    assert_nothing_left(&cluster, &system);
}

/// A person's wish counts: no other job takes the place of the cancelled one.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_waiting_job_cancelled_from_outside_pauses_the_queue_until_it_is_resumed() {
    let cluster = Cluster::start(&["--nodes", "1"]);
    let system = folder();
    let mut run = run(&cluster, &system, &["--partition", "closed"]);
    let job = wait_for_command("a job waits", || jobs_in(&cluster, "pending").pop());
    cluster.ask("scancel", &[&job]);
    wait_for_status(&cluster, &system, "paused");
    assert_eq!(cluster.queue(), Vec::<String>::new());
    cluster.ask("scontrol", &["update", "partitionname=closed", "state=up"]);
    resume(&cluster, &system);
    run.expect_exit(0);
    assert_same_table(&system);
    assert_nothing_left(&cluster, &system);
}

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_running_job_cancelled_from_outside_pauses_the_queue_and_costs_no_trial() {
    let cluster = Cluster::start(&["--nodes", "1"]);
    let system = folder();
    let mut run = run(&cluster, &system, &[]);
    wait_until_training(&run);
    let job = jobs_in(&cluster, "running").pop().expect("a job runs");
    cluster.ask("scancel", &[&job]);
    wait_for_status(&cluster, &system, "paused");
    resume(&cluster, &system);
    run.expect_exit(0);
    assert_same_table(&system);
    assert_no_failure_but(&system, &["preempted"]);
    assert_nothing_trained_twice(&system, &system.path("state/work"), &Checkpoints::none());
    assert_nothing_left(&cluster, &system);
}

/// `scancel` of every job of the user: two run, one waits.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn all_jobs_cancelled_from_outside_at_once_pause_the_queue_and_cost_no_trial() {
    let cluster = Cluster::start(&["--nodes", "2", "--cpus", "1"]);
    let system = folder();
    let flags = ["--nodes", "3", "--cpus-per-node", "1", "--time", "10"];
    let command = crate::launching::run_as_asked(&cluster, &system, &flags);
    let mut run = system.start("run", command);
    wait_until_training(&run);
    wait_for_command("a third job waits", || {
        (jobs_in(&cluster, "running").len() == 2 && jobs_in(&cluster, "pending").len() == 1)
            .then_some(())
    });
    let mine = format!("--user={}", whoami());
    cluster.ask("scancel", &[&mine]);
    wait_for_status(&cluster, &system, "paused");
    wait_for_command("no job is left", || {
        cluster.queue().is_empty().then_some(())
    });
    assert_eq!(jobs(&cluster).len(), 3, "none was replaced");
    resume(&cluster, &system);
    run.expect_exit(0);
    assert_same_table(&system);
    assert_no_failure_but(&system, &["preempted"]);
    assert_nothing_trained_twice(&system, &system.path("state/work"), &Checkpoints::none());
    assert_nothing_left(&cluster, &system);
}

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_request_that_slurm_refuses_ends_the_run_with_slurms_words() {
    let cluster = Cluster::start(&["--nodes", "1"]);
    for (option, words) in [
        (
            "--partition=nowhere",
            "invalid partition specified: nowhere",
        ),
        (
            "--gres=gpu:2",
            "Invalid generic resource (gres) specification",
        ),
    ] {
        let system = folder();
        let mut run = run(&cluster, &system, &["--", option]);
        run.expect_exit(2);
        assert!(run.stderr().contains(words), "{}", run.stderr());
        assert_nothing_left(&cluster, &system);
    }
}

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn an_interrupted_run_gives_its_nodes_back_and_the_same_command_continues() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let system = folder();
    let mut first = run(&cluster, &system, &["--nodes", "2"]);
    wait_until_training(&first);
    first.signal(Signal::SIGINT);
    first.expect_exit(130);
    assert_nothing_left(&cluster, &system);
    let mut second = system.start("run", run_command(&cluster, &system, &["--nodes", "2"]));
    second.expect_exit(0);
    assert_same_table(&system);
    assert_no_failure_but(&system, &["preempted"]);
    assert_nothing_trained_twice(&system, &system.path("state/work"), &Checkpoints::none());
}

/// The name of the user that runs this test.
fn whoami() -> String {
    let output = std::process::Command::new("id").arg("-un").output();
    let output = output.expect("id is installed");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
