//! The control plane with trainers that do nothing (src/bin/idle-trainer.rs): what does not need training to be shown,
//! and what it costs.

use std::time::Instant;

use serde_json::Value;
use tests::binaries::binary;
use tests::results::attempts;
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

/// P8: heartbeats without progress are not health. The stuck trainer costs one attempt, and is gone afterwards.
#[test]
fn a_stuck_trainer_costs_one_attempt() {
    let mut system = System::new();
    system.coordinator_flags = ["--heartbeat-ms", "50", "--stall-ms", "500"].map(str::to_owned).to_vec();
    let _coordinator = system.coordinator();
    let _worker = idle_worker(&system, 2, &[("IDLE_TRAINER_STUCK", "stuck-once")]);
    let mut run = submit(&system, 4);
    run.expect_exit(0);
    let attempts = attempts(&system.results("idle"));
    assert_eq!(attempts.iter().filter(|attempts| **attempts == 2).count(), 1, "{attempts:?}");
    let classes = failure_classes(&system);
    assert_eq!(classes, ["stalled"]);
}

/// P9: what has a result is not trained again, in another sweep either, and the reuse is explained.
#[test]
fn finished_trials_are_reused_and_the_reuse_is_explained() {
    let mut system = System::new();
    let _coordinator = system.coordinator();
    let _worker = idle_worker(&system, 2, &[]);
    submit(&system, 4).expect_exit(0);
    let dispatched = num_dispatches(&system);
    assert_eq!(dispatched, 8);
    submit(&system, 4).expect_exit(0);
    assert_eq!(num_dispatches(&system), dispatched, "submitted twice, trained twice");
    system.sweep("wider.yaml", &sweep(6).replace("name: idle", "name: wider"));
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
    let _worker = idle_worker(&system, 2, &[]);
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

fn idle_worker(system: &System, slots: u32, environment: &[(&str, &str)]) -> Process {
    let mut command = system.worker_command("idle", slots);
    command.arg("--trainer").arg(binary("idle-trainer")).envs(environment.iter().copied());
    system.start("worker", command)
}

fn submit(system: &System, seeds: u32) -> Process {
    system.sweep("idle.yaml", &sweep(seeds));
    let url = system.url();
    system.start("run", system.orchestrator(&["run", "idle.yaml", "--coordinator", &url]))
}

fn num_dispatches(system: &System) -> usize {
    system.journal().iter().filter(|entry| entry["event"].get("trial_dispatched").is_some()).count()
}

fn failure_classes(system: &System) -> Vec<String> {
    let failed = system.journal();
    let failed = failed.iter().filter_map(|entry| entry["event"].get("attempt_failed"));
    failed.map(|event: &Value| event["failure"]["class"].as_str().unwrap_or_default().to_owned()).collect()
}
