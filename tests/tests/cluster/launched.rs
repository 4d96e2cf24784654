//! `orchestrator run FILE --launch slurm`: workers come while there is work and are given back,
//! and whatever happens to jobs, nodes, Slurm or the coordinator, the table is that of a local run.

use std::collections::BTreeSet;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::binaries::binary;
use tests::cluster::Cluster;
use tests::{Process, System, wait_for};

use crate::reference::{SWEEP, assert_same_table, running};

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
    for (name, state) in &jobs {
        assert!(name.starts_with("orch-job-"), "{name}");
        assert!(
            ["COMPLETED", "CANCELLED"].contains(&state.as_str()),
            "{jobs:#?}"
        );
    }
    assert_nothing_left(&cluster, &system);
    assert_no_trial_failed(&system);
}

/// A killed run is begun again while the answer to its submission was lost: Slurm has the job, and
/// no second one is submitted for the same intent.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_coordinator_killed_between_intent_and_answer_submits_no_job_twice() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let system = folder();
    cluster.signal("slurmctld", Signal::SIGSTOP);
    let first = run(&cluster, &system, &[]);
    wait_for("sbatch waits for its answer", || {
        let sbatch = |pid: &u32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name == "sbatch\n")
        };
        system.processes().into_iter().find(sbatch)
    });
    first.kill();
    cluster.signal("slurmctld", Signal::SIGCONT);
    run(&cluster, &system, &[]).expect_exit(0);
    assert_same_table(&system);
    assert_one_job_for_each_name(&cluster);
    assert_nothing_left(&cluster, &system);
}

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_submission_without_an_answer_is_one_job_and_a_controller_that_was_away_costs_nothing() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let system = folder();
    cluster.signal("slurmctld", Signal::SIGSTOP);
    let mut run = run(&cluster, &system, &[]);
    wait_for("sbatch gives up", || {
        cluster_status(&cluster, &system).filter(|text| text.contains("timed out"))
    });
    cluster.signal("slurmctld", Signal::SIGCONT);
    wait_until_training(&run);
    cluster.signal("slurmctld", Signal::SIGKILL);
    wait_for("a trial has ended without a controller", || {
        run.stderr().contains("(best").then_some(())
    });
    cluster.start_controller();
    run.expect_exit(0);
    assert_same_table(&system);
    assert_one_job_for_each_name(&cluster);
    assert_nothing_left(&cluster, &system);
}

/// Complaint 1: preemption is no failure, of a trial or of the queue.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn preempted_workers_are_replaced_and_nothing_counts_as_failed() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let system = folder();
    let mut run = run(&cluster, &system, &["--nodes", "2"]);
    wait_until_training(&run);
    let mut urgent = cluster.command(&system, "sbatch");
    urgent.args([
        "--partition=urgent",
        "--nodes=2",
        "--exclusive",
        "--output=urgent.log",
    ]);
    let urgent = urgent
        .arg("--wrap=sleep 3")
        .output()
        .expect("sbatch starts");
    assert!(
        urgent.status.success(),
        "{}",
        String::from_utf8_lossy(&urgent.stderr)
    );
    run.expect_exit(0);
    assert_same_table(&system);
    let jobs = jobs(&cluster);
    assert!(
        jobs.iter().any(|(_, state)| state == "PREEMPTED"),
        "{jobs:#?}"
    );
    assert_no_trial_failed(&system);
    assert_nothing_left(&cluster, &system);
}

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_node_that_fails_is_replaced() {
    let cluster = Cluster::start(&["--nodes", "3"]);
    let system = folder();
    let mut run = run(&cluster, &system, &["--nodes", "2"]);
    wait_until_training(&run);
    let node = cluster.ask("squeue", &["-h", "-t", "running", "-o", "%N"]);
    let node = node.lines().next().expect("a job runs").to_owned();
    let update = format!("nodename={node}");
    cluster.ask(
        "scontrol",
        &["update", &update, "state=down", "reason=test"],
    );
    run.expect_exit(0);
    assert_same_table(&system);
    let jobs = jobs(&cluster);
    assert!(
        jobs.iter().any(|(_, state)| state == "NODE_FAIL"),
        "{jobs:#?}"
    );
    assert_nothing_left(&cluster, &system);
}

/// Complaint 2: it waits, and the reason is given in words.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_job_that_waits_is_explained_and_starts_when_its_partition_is_up() {
    let cluster = Cluster::start(&["--nodes", "1"]);
    let system = folder();
    let mut run = run(&cluster, &system, &["--partition", "closed"]);
    wait_for("the status explains", || {
        cluster_status(&cluster, &system).filter(|text| text.contains("its partition is down"))
    });
    cluster.ask("scontrol", &["update", "partitionname=closed", "state=up"]);
    run.expect_exit(0);
    assert_same_table(&system);
    assert_nothing_left(&cluster, &system);
}

/// A person's wish counts: no other job takes the place of the cancelled one.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_waiting_job_cancelled_from_outside_pauses_the_queue_until_it_is_resumed() {
    let cluster = Cluster::start(&["--nodes", "1"]);
    let system = folder();
    let mut run = run(&cluster, &system, &["--partition", "closed"]);
    let job = wait_for("a job waits", || {
        let jobs = cluster.ask("squeue", &["-h", "-t", "pending", "-o", "%A"]);
        (!jobs.is_empty()).then_some(jobs)
    });
    cluster.ask("scancel", &[&job]);
    wait_for("the queue is paused", || {
        cluster_status(&cluster, &system).filter(|text| text.contains("paused"))
    });
    assert_eq!(cluster.queue(), Vec::<String>::new());
    cluster.ask("scontrol", &["update", "partitionname=closed", "state=up"]);
    let mut resume = orchestrator(
        &cluster,
        &system,
        &["cluster", "resume", "--state-dir", "state"],
    );
    assert!(resume.status().expect("the client starts").success());
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
    let job = cluster.ask("squeue", &["-h", "-t", "running", "-o", "%A"]);
    cluster.ask("scancel", &[&job]);
    wait_for("the queue is paused", || {
        cluster_status(&cluster, &system).filter(|text| text.contains("paused"))
    });
    let mut resume = orchestrator(
        &cluster,
        &system,
        &["cluster", "resume", "--state-dir", "state"],
    );
    assert!(resume.status().expect("the client starts").success());
    run.expect_exit(0);
    assert_same_table(&system);
    assert_no_trial_failed(&system);
    assert_nothing_left(&cluster, &system);
}

/// Slurm forgets ended jobs after two seconds here.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_killed_worker_is_replaced_also_where_slurm_forgets_jobs_at_once() {
    let cluster = Cluster::start(&["--nodes", "2", "--set", "MinJobAge=2"]);
    let system = folder();
    let mut run = run(&cluster, &system, &["--nodes", "2"]);
    wait_until_training(&run);
    let worker = wait_for("a worker runs", || running(&system, "worker").pop());
    kill(Pid::from_raw(worker), Signal::SIGKILL).expect("it runs");
    run.expect_exit(0);
    assert_same_table(&system);
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

/// Complaint 4: workers leave by themselves, and a running one is never cancelled for being idle.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn idle_workers_leave_by_themselves_and_new_work_brings_new_ones() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let system = folder();
    system.file(
        "other.yaml",
        &SWEEP
            .replace("name: job", "name: other")
            .replace("xent, ", ""),
    );
    let mut command = orchestrator(
        &cluster,
        &system,
        &["coordinator", "--listen", "127.0.0.1:0"],
    );
    command.args(["--state-dir", "state", "--launch", "slurm", "--nodes", "2"]);
    command.args([
        "--cpus-per-node",
        "2",
        "--time",
        "10",
        "--idle-timeout",
        "2",
        "--advertise",
        "127.0.0.1",
    ]);
    let coordinator = system.start("coordinator", command);
    let address = wait_for("it listens", || {
        let text = coordinator.stderr();
        let start = text.find("http://127.0.0.1:")?;
        Some(text[start..].split(',').next()?.trim().to_owned())
    });
    for sweep in ["job", "other"] {
        let file = format!("{sweep}.yaml");
        let mut run = system.orchestrator(&["run", &file, "--coordinator", &address]);
        assert!(run.status().expect("the client starts").success());
        wait_for("the workers have left", || {
            cluster.queue().is_empty().then_some(())
        });
    }
    assert_same_table(&system);
    let jobs = jobs(&cluster);
    assert!(
        jobs.iter()
            .all(|(_, state)| ["COMPLETED", "CANCELLED"].contains(&state.as_str())),
        "{jobs:#?}"
    );
}

/// Complaint 6: what a site prints and what a user's environment holds change nothing.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn banners_cluster_names_and_the_environment_of_a_job_change_nothing() {
    let cluster = Cluster::start(&["--nodes", "1"]);
    let system = folder();
    std::fs::create_dir(system.path("site")).expect("the test's folder can be written");
    system.script(
        "site/sbatch",
        "case \" $* \" in *--parsable*) id=$(/usr/bin/sbatch \"$@\") || exit; echo 'Welcome to the year 2026';\n\
         echo 17; echo \"$id;onehost\" ;; *) exec /usr/bin/sbatch \"$@\" ;; esac",
    );
    let mut command = run_command(&cluster, &system, &[]);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", system.path("site").display()));
    command.envs([
        ("SLURM_JOB_ID", "1"),
        ("SLURM_MEM_PER_CPU", "100"),
        ("SLURM_MEM_PER_NODE", "100"),
        ("SQUEUE_FORMAT", "%i"),
        ("SLURM_TIME_FORMAT", "relative"),
        ("SBATCH_PARTITION", "main"),
    ]);
    let mut run = system.start("run", command);
    run.expect_exit(0);
    assert_same_table(&system);
    assert_nothing_left(&cluster, &system);
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
    run(&cluster, &system, &["--nodes", "2"]).expect_exit(0);
    assert_same_table(&system);
    assert_no_trial_failed(&system);
}

fn folder() -> System {
    let system = System::new();
    system.file("job.yaml", SWEEP);
    system
}

fn orchestrator(cluster: &Cluster, system: &System, arguments: &[&str]) -> Command {
    let mut command = cluster.command(system, &binary("orchestrator").to_string_lossy());
    command.args(arguments);
    command
}

/// `run` with nodes of two CPUs. The coordinator is on loopback, which all nodes share here.
fn run_command(cluster: &Cluster, system: &System, flags: &[&str]) -> Command {
    let mut command = orchestrator(
        cluster,
        system,
        &["run", "job.yaml", "--state-dir", "state"],
    );
    command.args(["--launch", "slurm", "--cpus-per-node", "2", "--time", "10"]);
    command.args(["--advertise", "127.0.0.1"]).args(flags);
    command
}

fn run(cluster: &Cluster, system: &System, flags: &[&str]) -> Process {
    system.start("run", run_command(cluster, system, flags))
}

fn wait_until_training(run: &Process) {
    wait_for("an epoch has been trained", || {
        run.stderr().contains(" epoch ").then_some(())
    });
}

/// The output of `orchestrator cluster status`; `None` while there is no coordinator.
fn cluster_status(cluster: &Cluster, system: &System) -> Option<String> {
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

/// Name and state of every job of this program that the cluster remembers.
fn jobs(cluster: &Cluster) -> Vec<(String, String)> {
    let text = cluster.ask("squeue", &["-h", "-t", "all", "-o", "%j %T"]);
    let jobs = text.lines().filter_map(|line| line.split_once(' '));
    jobs.filter(|(name, _)| name.starts_with("orch-"))
        .map(|(name, state)| (name.to_owned(), state.to_owned()))
        .collect()
}

fn assert_one_job_for_each_name(cluster: &Cluster) {
    let jobs = jobs(cluster);
    let names: BTreeSet<_> = jobs.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), jobs.len(), "one job for each name: {jobs:#?}");
}

fn assert_nothing_left(cluster: &Cluster, system: &System) {
    wait_for("the queue is empty and no process is left", || {
        (cluster.queue().is_empty() && system.processes().is_empty()).then_some(())
    });
}

/// No attempt ended for a reason that counts against its trial.
fn assert_no_trial_failed(system: &System) {
    for event in system.journal() {
        let classes = failure_classes(&event);
        assert!(classes.iter().all(|class| class == "preempted"), "{event}");
    }
}

fn failure_classes(event: &Value) -> Vec<String> {
    match event {
        Value::Object(fields) => {
            let class = fields
                .get("class")
                .and_then(Value::as_str)
                .map(str::to_owned);
            let inner = fields.values().flat_map(failure_classes);
            class
                .into_iter()
                .chain(inner)
                .filter(|class| class != "wait")
                .collect()
        }
        Value::Array(items) => items.iter().flat_map(failure_classes).collect(),
        _ => Vec::new(),
    }
}
