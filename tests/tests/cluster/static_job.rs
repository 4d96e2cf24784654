//! `deploy/slurm.sbatch`, a sweep as one job: the table is that of a local run whatever happens to
//! the job, and no accident keeps an allocation without use.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::binaries::binary;
use tests::cluster::Cluster;
use tests::{System, wait_for};

use crate::reference::{SWEEP, assert_same_table, running, slowed};

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn jobs_of_one_and_three_nodes_give_the_table_of_a_local_run() {
    let cluster = Cluster::start(&["--nodes", "3"]);
    for nodes in ["--nodes=1", "--nodes=3"] {
        let system = folder();
        let job = submit(&cluster, &system, &[nodes, "--cpus-per-task=2"], "job.yaml");
        assert_eq!(cluster.ended(&job), "COMPLETED", "{}", log(&system, &job));
        assert_same_table(&system);
        assert_eq!(
            system.processes(),
            Vec::<u32>::new(),
            "the job leaves no process"
        );
        let log = log(&system, &job);
        assert!(
            log.contains("127.0.1."),
            "workers' lines name their node: {log}"
        );
    }
}

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_mistake_never_holds_an_allocation() {
    let cluster = Cluster::start(&["--nodes", "3"]);
    let system = folder();
    system.file("typo.yaml", &SWEEP.replace("xent", "xnet"));
    let mut jobs = Vec::new();
    for round in 0..20 {
        let file = ["typo.yaml", "absent.yaml"][round % 2];
        jobs.push(submit(&cluster, &system, &["--nodes=2"], file));
    }
    for job in jobs {
        assert_eq!(cluster.ended(&job), "FAILED");
        assert_eq!(cluster.exit_code(&job), "1:0", "{}", log(&system, &job));
        let log = log(&system, &job);
        assert!(
            log.contains("did you mean `xent`") || log.contains("absent.yaml"),
            "{log}"
        );
    }
}

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_killed_coordinator_and_killed_workers_are_replaced() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let system = folder();
    let job = submit_slowed(
        &cluster,
        &system,
        &["--nodes=2", "--cpus-per-task=2"],
        "job.yaml",
        100,
    );
    wait_until_training(&system, &job);
    for role in ["coordinator", "worker", "worker"] {
        let running = wait_for(&format!("a {role} runs"), || running(&system, role).pop());
        kill(Pid::from_raw(running), Signal::SIGKILL).expect("it runs");
    }
    assert_eq!(cluster.ended(&job), "COMPLETED", "{}", log(&system, &job));
    assert_same_table(&system);
    let log = log(&system, &job);
    assert!(
        log.contains("the coordinator ended with status 137: starting it again"),
        "{log}"
    );
    assert!(log.contains("starting it again"), "{log}");
}

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_job_without_a_worker_that_can_work_ends() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let mut system = System::new();
    system.file("job.yaml", SWEEP);
    system.install_trainer("echo no libtorch here >&2; exit 2");
    fs::create_dir(system.path("home")).expect("the test's folder can be written");
    link(&system.path("installed"), &system.path("home/bin"));
    let job = submit(&cluster, &system, &["--nodes=2"], "job.yaml");
    assert_eq!(cluster.ended(&job), "FAILED");
    assert_eq!(cluster.exit_code(&job), "2:0", "{}", log(&system, &job));
    let log = log(&system, &job);
    assert!(log.contains("three times in a row"), "{log}");
    assert!(log.contains("no worker could work"), "{log}");
    assert_eq!(system.processes(), Vec::<u32>::new());
}

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_job_near_its_time_limit_requeues_itself_and_continues() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let system = folder();
    let job = submit_slowed(
        &cluster,
        &system,
        &["--nodes=2", "--cpus-per-task=2"],
        "job.yaml",
        100,
    );
    wait_until_training(&system, &job);
    cluster.ask("scancel", &["--batch", "--signal=USR1", &job]);
    wait_for("the job is in the queue again", || {
        log(&system, &job)
            .contains("back into the queue")
            .then_some(())
    });
    assert_eq!(cluster.ended(&job), "COMPLETED", "{}", log(&system, &job));
    assert_same_table(&system);
}

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_job_that_is_stopped_or_cancelled_ends_and_the_same_command_continues() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let system = folder();
    for cancel in [&["--batch", "--signal=TERM"][..], &[]] {
        let job = submit_slowed(
            &cluster,
            &system,
            &["--nodes=2", "--cpus-per-task=2"],
            "job.yaml",
            100,
        );
        wait_until_training(&system, &job);
        let arguments: Vec<&str> = cancel.iter().copied().chain([job.as_str()]).collect();
        cluster.ask("scancel", &arguments);
        let state = cluster.ended(&job);
        assert!(["FAILED", "CANCELLED"].contains(&state.as_str()), "{state}");
        wait_for("no process of the job is left", || {
            system.processes().is_empty().then_some(())
        });
        let log = log(&system, &job);
        assert!(log.contains("the same sbatch command continues"), "{log}");
    }
    let job = submit_slowed(
        &cluster,
        &system,
        &["--nodes=2", "--cpus-per-task=2"],
        "job.yaml",
        100,
    );
    assert_eq!(cluster.ended(&job), "COMPLETED", "{}", log(&system, &job));
    assert_same_table(&system);
}

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_node_that_fails_costs_its_worker_and_not_the_job() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let system = folder();
    let job = submit_slowed(
        &cluster,
        &system,
        &["--nodes=2", "--cpus-per-task=2"],
        "job.yaml",
        100,
    );
    wait_until_training(&system, &job);
    let batch_node = cluster.ask("scontrol", &["show", "job", "-o", &job]);
    let other = if batch_node.contains("BatchHost=127.0.1.1") {
        "127.0.1.2"
    } else {
        "127.0.1.1"
    };
    let node = format!("nodename={other}");
    cluster.ask("scontrol", &["update", &node, "state=down", "reason=test"]);
    assert_eq!(cluster.ended(&job), "COMPLETED", "{}", log(&system, &job));
    assert_same_table(&system);
    let shown = cluster.ask("scontrol", &["show", "job", "-o", &job]);
    assert!(
        shown.contains("Restarts=0"),
        "the job was not begun again: {shown}"
    );
}

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn jobs_with_one_state_folder_share_a_coordinator() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let system = folder();
    system.file(
        "other.yaml",
        &SWEEP
            .replace("name: job", "name: other")
            .replace("xent, ", ""),
    );
    let flags = ["--nodes=1", "--cpus-per-task=2"];
    let jobs =
        ["job.yaml", "other.yaml", "job.yaml"].map(|file| submit(&cluster, &system, &flags, file));
    for job in &jobs {
        assert_eq!(cluster.ended(job), "COMPLETED", "{}", log(&system, job));
    }
    assert_same_table(&system);
    assert!(system.results("other").join("table.md").exists());
    let owners = jobs
        .iter()
        .filter(|job| log(&system, job).contains("coordinator listening"));
    assert!(owners.count() >= 1);
}

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_job_stays_for_the_sweeps_that_others_gave_to_its_coordinator() {
    let cluster = Cluster::start(&["--nodes", "1"]);
    let system = folder();
    let other = SWEEP
        .replace("name: job", "name: other")
        .replace("epochs: 12", "epochs: 13");
    system.file("other.yaml", &other);
    let job = submit_slowed(&cluster, &system, &["--cpus-per-task=2"], "job.yaml", 100);
    wait_until_training(&system, &job);
    let state = system.path("orchestrator-state");
    let published = fs::read_to_string(state.join("coordinator/coordinator.json"));
    let published = published.expect("the coordinator publishes its address");
    let published: Value = serde_json::from_str(&published).expect("JSON");
    let address = published["address"].as_str().expect("an address");
    let mut run = system.orchestrator(&["run", "other.yaml", "--detach"]);
    run.args(["--coordinator", address, "--token-file"])
        .arg(state.join("token"));
    assert!(run.status().expect("the client starts").success());
    assert_eq!(cluster.ended(&job), "COMPLETED", "{}", log(&system, &job));
    assert!(
        log(&system, &job).contains("the job stays for them"),
        "{}",
        log(&system, &job)
    );
    let mut table = system.orchestrator(&["status", "other", "--state-dir"]);
    let output = table
        .arg(state.join("coordinator"))
        .output()
        .expect("the command starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("4 of 4 trials"), "{text}");
}

/// A folder like the unpacked archive, with the sweep.
fn folder() -> System {
    let system = System::new();
    system.file("job.yaml", SWEEP);
    fs::create_dir(system.path("home")).expect("the test's folder can be written");
    let binaries = binary("orchestrator");
    link(
        binaries.parent().expect("a file has a folder"),
        &system.path("home/bin"),
    );
    system
}

fn link(to: &Path, from: &Path) {
    symlink(to, from).expect("a link can be made");
}

/// Submits the script and returns the job's id.
fn submit(cluster: &Cluster, system: &System, flags: &[&str], file: &str) -> String {
    submit_slowed(cluster, system, flags, file, 0)
}

/// Submits the script with trials whose steps sleep: the job will be disturbed.
fn submit_slowed(
    cluster: &Cluster,
    system: &System,
    flags: &[&str],
    file: &str,
    milliseconds: u32,
) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/slurm.sbatch");
    let mut command = cluster.command(system, "sbatch");
    command.args(["--parsable", "--time=10"]).args(flags);
    command.arg(script).arg(file);
    command.env("ORCHESTRATOR_HOME", system.path("home"));
    slowed(&mut command, milliseconds);
    let output = command.output().expect("sbatch starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn log(system: &System, job: &str) -> String {
    let path = system.path(&format!("slurm-{job}.out"));
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn wait_until_training(system: &System, job: &str) {
    wait_for("an epoch has been trained", || {
        log(system, job).contains(" epoch ").then_some(())
    });
}
