//! A sweep with a program of its own: frozen, sent to a worker, started there, killed and resumed;
//! what changes its trials, and what a worker refuses.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::results::{any_departed, assert_same, undisturbed_files};
use tests::{Process, System, wait_for};

const SWEEP: &str = "
name: mine
program:
  command: [python3, train.py]
  files: [train.py, library/]
  fields:
    learning_rate: {default: 0.05, from: 0}
    shift: 0
set: {dataset: digits, epochs: 6}
axes:
  shift: [0, 1]
seeds: 2
outputs:
  - table: {columns: shift}
";

fn prepare() -> System {
    let system = System::new();
    for folder in ["data", "library"] {
        fs::create_dir(system.path(folder)).expect("the test's folder can be written");
    }
    system.file("train.py", include_str!("../fixtures/programs/train.py"));
    system.file("library/one.py", "ONE = 1\n");
    system.file("mine.yaml", SWEEP);
    system
}

fn command(system: &System, words: &[&str]) -> std::process::Command {
    let mut command = system.orchestrator(words);
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../python");
    command.env("PYTHONPATH", package);
    command
}

fn run(system: &System) -> Process {
    let words = [
        "run",
        "mine.yaml",
        "--data-dir",
        "data",
        "--devices",
        "cpu",
        "--slots",
        "1",
        "--devices-per-slot",
        "1",
    ];
    system.start("run", command(system, &words))
}

#[test]
fn a_program_is_frozen_sent_killed_and_resumed_with_the_same_results() {
    let undisturbed = prepare();
    run(&undisturbed).expect_exit(0);

    let system = prepare();
    fs::write(system.path("data/hold-1"), "").expect("the test's folder can be written");
    let mut interrupted = run(&system);
    let trainer = wait_for("an attempt holds", || {
        fs::read_to_string(system.path("data/held-1")).ok()
    });
    // what was submitted is trained, whatever becomes of the file
    system.file("train.py", "raise SystemExit(1)\n");
    fs::remove_file(system.path("data/hold-1")).expect("the file is there");
    let trainer = Pid::from_raw(trainer.parse().expect("a process id"));
    kill(trainer, Signal::SIGKILL).expect("the trainer runs");
    interrupted.expect_exit(0);
    let folder = system.results("mine");
    assert_same(
        &undisturbed_files(&undisturbed.results("mine")),
        &undisturbed_files(&folder),
    );
    assert!(!any_departed(&folder), "an epoch came out otherwise");
    let text = fs::read_to_string(folder.join("results.csv")).expect("the report is there");
    let head = text.lines().next().unwrap_or_default();
    assert!(head.contains("settings.shift"), "{head}");
    assert!(!head.contains("settings.momentum"), "{head}");
}

#[test]
fn a_changed_file_is_named_with_the_trials_that_it_drops() {
    let system = prepare();
    run(&system).expect_exit(0);
    let plan = || {
        let output = command(&system, &["plan", "mine.yaml", "--data-dir", "data"])
            .output()
            .expect("the command starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let same = plan();
    assert!(!same.contains("changed"), "{same}");
    system.file("library/one.py", "ONE = 2\n");
    let changed = plan();
    assert!(
        changed.contains("the program `train.py` changed: library/one.py changed"),
        "{changed}"
    );
}

#[test]
fn what_cannot_be_packed_or_run_is_refused_with_the_reason() {
    let system = prepare();
    let refused = |from: &str, to: &str, expected: &str| {
        system.file("mine.yaml", &SWEEP.replacen(from, to, 1));
        let output = command(&system, &["plan", "mine.yaml", "--data-dir", "data"])
            .output()
            .expect("the command starts");
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{printed}");
        assert!(printed.contains(expected), "{printed}");
    };
    refused("library/]", "absent/]", "absent/ does not exist");
    refused(
        "[python3, train.py]",
        "[./start]",
        "is not one of `program.files`",
    );
    refused("[python3, train.py]", "[./train.py]", "is not executable");
    system.file("mine.yaml", &SWEEP.replacen("python3", "no-such-python", 1));
    let mut failed = run(&system);
    failed.expect_exit(3);
    let printed = failed.stderr();
    assert!(
        printed.contains("is started by `no-such-python`, which this worker does not have"),
        "{printed}"
    );
}
