//! The control plane with trainers that obey without training (`orchestrator-trainer serve --rehearse`): what needs no
//! training to be shown, and what it costs. Faults of real trainers: faults.rs.

use std::time::Instant;

use tests::binaries::binary;
use tests::{Process, System};

fn sweep(seeds: u32) -> String {
    format!(
        "
name: idle
recipe: quick
set: {{dataset: digits, model: resnet-8, samples_per_class: 5}}
axes:
  loss: [xent, cos]
seeds: {seeds}
outputs:
  - table: {{rows: loss}}
"
    )
}

/// P9: what has a result is not trained again, in another sweep either, and the reuse is explained.
#[test]
fn finished_trials_are_reused_and_the_reuse_is_explained() {
    let mut system = System::new();
    let _coordinator = system.coordinator();
    let _worker = rehearsing_worker(&system);
    submit(&system, 4).expect_exit(0);
    let dispatched = num_dispatches(&system);
    assert_eq!(dispatched, 8);
    submit(&system, 4).expect_exit(0);
    assert_eq!(num_dispatches(&system), dispatched, "submitted twice, trained twice");
    system.file("wider.yaml", &sweep(6).replace("name: idle", "name: wider"));
    let url = system.url();
    let mut run = system.start("run", system.orchestrator(&["run", "wider.yaml", "--coordinator", &url]));
    run.expect_exit(0);
    assert_eq!(num_dispatches(&system), dispatched + 4, "only the new seeds are trained");
    assert!(run.stderr().contains("reused"), "{}", run.stderr());
}

/// Not a test of speed: prints what issue and README quote. `make soak` runs it.
#[test]
#[ignore = "a measurement: make soak"]
fn what_a_trial_costs_without_training() {
    const SEEDS: u32 = 5_000;
    let mut system = System::new();
    let coordinator = system.coordinator();
    let _worker = rehearsing_worker(&system);
    let start = Instant::now();
    submit(&system, SEEDS).expect_exit(0);
    let seconds = start.elapsed().as_secs_f64();
    let trials = f64::from(2 * SEEDS);
    println!(
        "idle: {trials} trials in {seconds:.1} s, submission and report included: {:.0} trials per second, {:.2} ms each",
        trials / seconds,
        1e3 * seconds / trials
    );
    let status = std::fs::read_to_string(format!("/proc/{}/status", coordinator.pid())).expect("it runs");
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).expect("Linux says so");
    println!("idle: the coordinator's peak memory: {peak}");
}

fn rehearsing_worker(system: &System) -> Process {
    let trainer =
        system.script("trainer", &format!("exec {} \"$@\" --rehearse", binary("orchestrator-trainer").display()));
    let mut command = system.worker_command("rehearsing", 2);
    command.arg("--trainer").arg(trainer);
    system.start("worker", command)
}

fn submit(system: &System, seeds: u32) -> Process {
    system.file("idle.yaml", &sweep(seeds));
    let url = system.url();
    system.start("run", system.orchestrator(&["run", "idle.yaml", "--coordinator", &url]))
}

fn num_dispatches(system: &System) -> usize {
    system.journal().iter().filter(|entry| entry["event"].get("trial_dispatched").is_some()).count()
}
