//! The most frequent complaints about launchers, each as a test that is named after it. Complaint 7
//! and 9 are in disturbed.rs, complaint 10 is about Kubernetes (docs/cluster.md has the list).

use std::fs;

use tests::cluster::Cluster;
use tests::{Process, System, wait_for, wait_for_command};

use crate::launching::{
    Checkpoints, assert_all_ended_in_order, assert_no_failure_but, assert_nothing_left,
    assert_nothing_trained_twice, cluster_status, folder, jobs, jobs_in, orchestrator, run,
    run_as_asked, run_command, site, start_at_site, wait_for_status, wait_until_training,
};
use crate::reference::{SWEEP, assert_same_table};

/// Complaint 1.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn preemption_is_not_counted_as_a_failure() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let system = folder();
    let mut run = run(&cluster, &system, &["--nodes", "2"]);
    wait_until_training(&run);
    let mut urgent = cluster.command(&system, "sbatch");
    urgent.args(["--partition=urgent", "--nodes=2", "--exclusive"]);
    urgent.args(["--output=urgent.log", "--wrap=sleep 3"]);
    assert!(urgent.status().expect("sbatch starts").success());
    run.expect_exit(0);
    assert_same_table(&system);
    let jobs = jobs(&cluster);
    let preempted = jobs.iter().filter(|(_, state)| state == "PREEMPTED");
    assert!(preempted.count() >= 1, "{jobs:#?}");
    assert_no_failure_but(&system, &["preempted"]);
    assert_nothing_trained_twice(&system, &system.path("state/work"), &Checkpoints::none());
    assert_nothing_left(&cluster, &system);
}

/// Complaint 2.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_queue_that_gets_no_job_gives_the_reason() {
    let cluster = Cluster::start(&["--nodes", "1"]);
    let system = folder();
    let mut run = run(&cluster, &system, &["--partition", "closed"]);
    wait_for_status(&cluster, &system, "its partition is down");
    cluster.ask("scontrol", &["update", "partitionname=closed", "state=up"]);
    run.expect_exit(0);
    assert_same_table(&system);
    assert_nothing_left(&cluster, &system);
}

/// Complaint 3. squeue succeeds and lists nothing.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_live_allocation_is_not_declared_gone_after_an_empty_answer() {
    let cluster = Cluster::start(&["--nodes", "1"]);
    let system = folder();
    let (lie, answers) = (system.file("lie", ""), system.path("answers"));
    site(
        &system,
        "squeue",
        &format!(
            "case \" $* \" in *--name=*) [ ! -e {lie} ] || {{ echo empty >>{answers}; exit 0; }} ;; esac\n\
             exec /usr/bin/squeue \"$@\"",
            lie = lie.display(),
            answers = answers.display()
        ),
    );
    let mut run = start_at_site(&system, run_command(&cluster, &system, &[]));
    wait_until_training(&run);
    wait_for("an empty answer was given", || fs::read(&answers).ok());
    let status = cluster_status(&cluster, &system).expect("the coordinator runs");
    assert!(status.contains("running"), "{status}");
    assert_eq!(jobs(&cluster).len(), 1, "{status}");
    fs::remove_file(&lie).expect("the test's file");
    run.expect_exit(0);
    assert_same_table(&system);
    assert_eq!(jobs(&cluster).len(), 1, "nothing took its place");
    assert_no_failure_but(&system, &[]);
    assert_nothing_left(&cluster, &system);
}

/// Complaint 4: workers leave by themselves when they have nothing to do, and new work brings new
/// ones.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn scaling_down_kills_no_starting_and_no_busy_worker() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let system = folder();
    let other = SWEEP.replace("name: job", "name: other");
    system.file("other.yaml", &other.replace("xent, ", ""));
    let (_coordinator, address) = coordinator(&cluster, &system);
    for sweep in ["job", "other"] {
        submit(&system, &address, &format!("{sweep}.yaml"), &[]);
        wait_for_command("the workers have left", || {
            cluster.queue().is_empty().then_some(())
        });
    }
    assert_same_table(&system);
    assert_no_failure_but(&system, &[]);
    assert_all_ended_in_order(&cluster);
}

/// Complaint 5: nodes on which the trials do not fit, and nodes for too short a time.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn allocations_that_cannot_run_the_work_come_in_no_storm() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let system = folder();
    let too_short = ["--nodes", "2", "--time", "1"];
    let mut short = system.start("short", run_as_asked(&cluster, &system, &too_short));
    short.expect_exit(1);
    let stderr = short.stderr();
    assert!(stderr.contains("ask for more time"), "{stderr}");
    assert_eq!(jobs(&cluster), []);
    assert!(!system.path("state").exists(), "nothing was submitted");

    let system = folder();
    let wide = SWEEP.replace("name: job", "name: wide");
    system.file("wide.yaml", &(wide + "resources: {devices_per_trial: 2}\n"));
    let (coordinator, address) = coordinator(&cluster, &system);
    submit(&system, &address, "wide.yaml", &["--detach"]);
    wait_for_command("a worker came and has left", || {
        (!jobs(&cluster).is_empty() && cluster.queue().is_empty()).then_some(())
    });
    let status = wait_for_status(&cluster, &system, ": 0 wanted");
    assert_eq!(
        jobs(&cluster).len(),
        1,
        "the first one alone, until it is known: {status}\n{}",
        coordinator.stderr()
    );
}

/// Complaint 6: what a site's commands print besides the answer, and what users and jobs have in
/// their environment.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn drifting_output_and_the_environment_change_nothing() {
    let cluster = Cluster::start(&["--nodes", "1"]);
    let system = folder();
    site(
        &system,
        "sbatch",
        "case \" $* \" in *--parsable*) id=$(/usr/bin/sbatch \"$@\") || exit; echo 'Welcome to the year 2026';\n\
         echo 17; echo \"$id;onehost\" ;; *) exec /usr/bin/sbatch \"$@\" ;; esac",
    );
    let mut command = run_command(&cluster, &system, &[]);
    command.envs([
        ("SLURM_JOB_ID", "1"),
        ("SLURM_MEM_PER_CPU", "100"),
        ("SLURM_MEM_PER_NODE", "100"),
        ("SQUEUE_FORMAT", "%i"),
        ("SLURM_TIME_FORMAT", "relative"),
        ("SBATCH_PARTITION", "main"),
    ]);
    let mut run = start_at_site(&system, command);
    run.expect_exit(0);
    assert_same_table(&system);
    assert_nothing_left(&cluster, &system);
}

/// Complaint 8: two runs of one user on one node, at a time.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn workers_get_the_cpus_of_their_job_without_nested_srun_or_fixed_ports() {
    let cluster = Cluster::start(&["--nodes", "1"]);
    let systems = [folder(), folder()];
    // a job that asks for no amount has the memory of the whole node
    let half = ["--", "--mem=4000"];
    let mut runs = systems
        .each_ref()
        .map(|system| run(&cluster, system, &half));
    let running = wait_for_command("both share the node", || {
        let running = jobs_in(&cluster, "running");
        (running.len() == 2).then_some(running)
    });
    let steps = cluster.ask("squeue", &["-h", "--steps", "-o", "%i"]);
    for step in steps.lines() {
        let is_batch = running.iter().any(|job| step == format!("{job}.batch"));
        assert!(is_batch, "the worker is the batch script: {steps}");
    }
    for (run, system) in runs.iter_mut().zip(&systems) {
        run.expect_exit(0);
        assert!(
            run.stderr().contains("joined with 2 slots"),
            "{}",
            run.stderr()
        );
        assert_same_table(system);
        assert_nothing_left(&cluster, system);
    }
}

/// A coordinator that launches workers of two CPUs, and its address.
fn coordinator(cluster: &Cluster, system: &System) -> (Process, String) {
    let mut command = orchestrator(cluster, system, &["coordinator", "--listen", "127.0.0.1:0"]);
    command.args(["--state-dir", "state"]);
    command.args(["--launch", "slurm", "--nodes", "2", "--time", "10"]);
    command.args(["--cpus-per-node", "2", "--idle-timeout", "2"]);
    command.args(["--advertise", "127.0.0.1"]);
    let coordinator = system.start("coordinator", command);
    let address = wait_for("it listens", || {
        let text = coordinator.stderr();
        let start = text.find("http://127.0.0.1:")?;
        Some(text[start..].split(',').next()?.trim().to_owned())
    });
    (coordinator, address)
}

fn submit(system: &System, address: &str, file: &str, flags: &[&str]) {
    let mut run = system.orchestrator(&["run", file, "--coordinator", address]);
    run.args(flags);
    let output = run.output().expect("the client starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
