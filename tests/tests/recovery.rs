//! Promises P1, P2, P3 and P6 as users see them: kill a real process in the middle of real
//! training, and the results are those of an undisturbed run, byte for byte.
//!
//! Each test kills only once training has begun, and checks that the kill cost an attempt or a
//! restart: a kill that comes too late to matter proves nothing.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::results::{all_files, assert_same, attempts, resumed_from, undisturbed_files};
use tests::{Process, System, wait_for};

/// Two losses x two sample counts x two seeds of real training, a few seconds each.
const SWEEP: &str = "
name: small
recipe: quick
set:
  dataset: digits
  model: resnet-8
  schedule: {sgdr: {base_cycle: 8, multiplier: 2, cycles: 2, learning_rate_min: 1e-6}}
axes:
  loss: [xent, cos]
  samples_per_class: [10, 30]
seeds: 2
outputs:
  - table: {rows: loss, columns: samples_per_class}
";

#[test]
fn a_killed_worker_changes_no_result() {
    let mut system = System::new();
    let _coordinator = system.coordinator();
    let first = system.worker("first", 2);
    let mut run = submit(&system);
    wait_for("both slots of the first worker train", || {
        (epochs_under_way(&system).len() == 2).then_some(())
    });
    let _second = system.worker("second", 2);
    first.kill();
    run.expect_exit(0);
    let folder = system.results("small");
    assert_same(undisturbed(), &undisturbed_files(&folder));
    assert!(
        attempts(&folder)
            .iter()
            .filter(|attempts| **attempts > 1)
            .count()
            >= 1,
        "the kill cost no attempt"
    );
}

#[test]
fn a_killed_coordinator_changes_no_result() {
    let mut system = System::new();
    let coordinator = system.coordinator();
    let _first = system.worker("first", 2);
    let _second = system.worker("second", 2);
    let mut run = submit(&system);
    wait_for("a trial trains", || {
        (!epochs_under_way(&system).is_empty()).then_some(())
    });
    coordinator.kill();
    assert!(
        run.has_ended().is_none(),
        "the client gave up with its coordinator: {}",
        run.stderr()
    );
    let coordinator = system.coordinator();
    run.expect_exit(0);
    let folder = system.results("small");
    assert_same(undisturbed(), &undisturbed_files(&folder));
    // Workers kept training while it was away: nothing was trained twice.
    assert!(
        attempts(&folder).iter().all(|attempts| *attempts == 1),
        "{:?}",
        attempts(&folder)
    );
    // P4: the replayed journal gives the report of the live coordinator, byte for byte.
    let live = system.ask(&["table", "small", "--results", "live"]);
    coordinator.kill();
    let table = [
        "table",
        "small",
        "--results",
        "replayed",
        "--state-dir",
        "state",
    ];
    let replayed = system
        .orchestrator(&table)
        .output()
        .expect("the command starts");
    assert!(String::from_utf8_lossy(&replayed.stderr).contains("read from its journal"));
    assert_eq!(live, String::from_utf8_lossy(&replayed.stdout));
    assert_same(
        &all_files(&system.path("live/small")),
        &all_files(&system.path("replayed/small")),
    );
}

#[test]
fn a_killed_trainer_changes_no_result_and_leaves_nothing() {
    let mut system = System::new();
    let coordinator = system.coordinator();
    let mut worker = system.worker("only", 2);
    let mut run = submit(&system);
    wait_for("a trial trains", || {
        (!epochs_under_way(&system).is_empty()).then_some(())
    });
    let trainer = system.trainers()[0];
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(trainer.try_into().expect("a process id")),
        Signal::SIGKILL,
    )
    .expect("the trainer runs");
    run.expect_exit(0);
    let folder = system.results("small");
    assert_same(undisturbed(), &undisturbed_files(&folder));
    assert_eq!(
        attempts(&folder)
            .iter()
            .filter(|attempts| **attempts > 1)
            .count(),
        1,
        "{:?}",
        attempts(&folder)
    );
    // P5: a worker that was asked to end leaves no process behind.
    worker.signal(Signal::SIGTERM);
    worker.expect_exit(0);
    coordinator.kill();
    assert_eq!(system.processes(), Vec::<u32>::new());
}

/// Slurm with `proctrack/linuxproc` signals every process below a job's step, a trainer before its
/// worker. A trial that is longer than many time limits meets this more often than its budget for
/// crashes allows.
#[test]
fn a_signal_to_every_process_of_a_job_is_no_crash() {
    const SIGNALS: [Signal; 5] = [
        Signal::SIGUSR1,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGTERM,
        Signal::SIGUSR1,
    ];
    let mut system = System::new();
    let _coordinator = system.coordinator();
    let mut run = submit(&system);
    for signal in SIGNALS {
        let mut worker = system.worker("node", 2);
        wait_for("both slots train", || {
            (epochs_under_way(&system).len() == 2).then_some(())
        });
        for trainer in system.trainers() {
            let trainer = nix::unistd::Pid::from_raw(trainer.try_into().expect("a process id"));
            nix::sys::signal::kill(trainer, signal).expect("the trainer runs");
        }
        worker.signal(signal);
        worker.wait();
    }
    let _last = system.worker("node", 2);
    run.expect_exit(0);
    assert_same(undisturbed(), &undisturbed_files(&system.results("small")));
    let failures: Vec<String> = system
        .journal()
        .iter()
        .filter_map(|event| {
            Some(
                event["event"]["attempt_failed"]["failure"]["class"]
                    .as_str()?
                    .to_owned(),
            )
        })
        .collect();
    assert!(failures.len() >= SIGNALS.len(), "{failures:?}");
    assert!(
        failures.iter().all(|class| class == "preempted"),
        "{failures:?}"
    );
}

/// P5: a stopped trainer cannot notice the end of stdin; the kernel's signal at its worker's death
/// ends it.
#[test]
fn a_stopped_trainer_goes_with_its_killed_worker() {
    let mut system = System::new();
    let _coordinator = system.coordinator();
    let worker = system.worker("only", 1);
    wait_for("the worker has proved its trainer", || {
        worker.stderr().contains("1 slots").then_some(())
    });
    let trainers = system.trainers();
    let trainer = nix::unistd::Pid::from_raw(trainers[0].try_into().expect("a process id"));
    nix::sys::signal::kill(trainer, Signal::SIGSTOP).expect("the trainer runs");
    worker.kill();
    wait_for("the trainer is gone", || {
        system.trainers().is_empty().then_some(())
    });
}

#[test]
fn an_interrupted_run_continues_where_it_stopped() {
    let system = System::new();
    system.file("small.yaml", SWEEP);
    let mut first = embedded_run(&system);
    wait_for("an epoch's checkpoint is on disk", || {
        let checkpoints =
            tests::system::contains_folder(&system.path("orchestrator-state"), "checkpoints");
        (checkpoints && !system.trainers().is_empty() && first.stderr().contains("epoch"))
            .then_some(())
    });
    first.signal(Signal::SIGINT);
    first.expect_exit(130);
    assert_eq!(
        system.processes(),
        Vec::<u32>::new(),
        "an interrupted run leaves no process"
    );
    let mut second = embedded_run(&system);
    second.expect_exit(0);
    assert_same(undisturbed(), &undisturbed_files(&system.results("small")));
    let resumed = resumed_from(&system.results("small"));
    assert!(
        resumed.iter().any(|epoch| *epoch > 0),
        "no trial went on from its checkpoint: {resumed:?}"
    );
    // P9: a repeated run trains nothing twice.
    let timing =
        std::fs::read(system.results("small").join("timing.csv")).expect("the report is there");
    embedded_run(&system).expect_exit(0);
    assert_eq!(
        timing,
        std::fs::read(system.results("small").join("timing.csv")).expect("the report is there")
    );
}

/// A node has died, and the user gives the same command on another one that shares the folder, or
/// in a new container.
#[test]
fn a_run_killed_on_another_host_continues_here() {
    let system = System::new();
    system.file("small.yaml", SWEEP);
    let first = embedded_run(&system);
    wait_for("a trial trains", || {
        first.stderr().contains("epoch").then_some(())
    });
    first.kill();
    system.announced_by("orchestrator-state", "elsewhere");
    let mut second = embedded_run(&system);
    second.expect_exit(0);
    assert_same(undisturbed(), &undisturbed_files(&system.results("small")));
}

/// The second of two commands on one state directory continues by itself when the first one, whose
/// coordinator it used, ends.
#[test]
fn a_second_run_takes_over_when_the_first_is_interrupted() {
    let system = System::new();
    system.file("small.yaml", SWEEP);
    let mut first = embedded_run(&system);
    wait_for("a trial trains", || {
        first.stderr().contains("epoch").then_some(())
    });
    let mut second = embedded_run(&system);
    let follows =
        || second.stderr().contains("submitting to it") && second.stderr().contains("(revision ");
    wait_for("the second follows the first", || follows().then_some(()));
    first.signal(Signal::SIGINT);
    first.expect_exit(130);
    second.expect_exit(0);
    assert!(
        second
            .stderr()
            .contains(&format!("process {} has ended", first.pid())),
        "{}",
        second.stderr()
    );
    assert_same(undisturbed(), &undisturbed_files(&system.results("small")));
    assert_eq!(system.processes(), Vec::<u32>::new());
}

fn submit(system: &System) -> Process {
    system.file("small.yaml", SWEEP);
    let url = system.url();
    system.start(
        "run",
        system.orchestrator(&["run", "small.yaml", "--coordinator", &url]),
    )
}

fn embedded_run(system: &System) -> Process {
    system.start("run", system.orchestrator(&["run", "small.yaml"]))
}

/// The numbers of finished epochs of the running trials that have finished at least one.
fn epochs_under_way(system: &System) -> Vec<u64> {
    let Some(status) = system.status() else {
        return Vec::new();
    };
    let sweeps = status["sweeps"].as_array().cloned().unwrap_or_default();
    let trials = sweeps.iter().flat_map(|sweep| {
        sweep["running_trials"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    });
    trials
        .filter_map(|trial: Value| trial["epoch"].as_u64())
        .filter(|epoch| *epoch >= 1)
        .collect()
}

/// The files of a run with everything in one process and nothing killed; made once.
fn undisturbed() -> &'static BTreeMap<String, Vec<u8>> {
    static FILES: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    FILES.get_or_init(|| {
        let system = System::new();
        system.file("small.yaml", SWEEP);
        embedded_run(&system).expect_exit(0);
        undisturbed_files(&system.results("small"))
    })
}
