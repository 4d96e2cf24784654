//! Programs in Python as trainers: the tests of the Python package, and a sweep whose trainer is
//! killed, stopped and resumed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::results::{any_departed, assert_same, attempts, resumed_from, undisturbed_files};
use tests::{Process, System, wait_for};

const SWEEP: &str = "
name: mine
recipe: quick
set:
  dataset: digits
  learning_rate: 0.05
  schedule: {constant: {epochs: 6}}
axes:
  samples_per_class: [5, 20]
seeds: 2
outputs:
  - table: {columns: samples_per_class}
";

fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../python")
}

/// Python, with the package of this repository.
fn python() -> Command {
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", package());
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    python
}

#[test]
fn the_python_package_passes_its_tests() {
    let output = python()
        .args(["-m", "unittest", "discover", "-s"])
        .arg(package().join("tests"))
        .output()
        .expect("this test needs python3 (on Debian: apt install python3)");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let count = said
        .lines()
        .find_map(|line| line.strip_prefix("Ran ")?.split(' ').next()?.parse().ok());
    assert!(count.is_some_and(|count: u32| count >= 15), "{said}");
}

/// Writes the program of the fixtures, and the sweep.
fn prepare(system: &System) {
    fs::create_dir(system.path("data")).expect("the test's folder can be written");
    let text = include_str!("../fixtures/programs/train.py");
    let program = system.file("train.py", text);
    fs::set_permissions(program, PermissionsExt::from_mode(0o755))
        .expect("the test owns its files");
    system.file("mine.yaml", SWEEP);
}

fn run(system: &System) -> Process {
    let arguments = [
        "run",
        "mine.yaml",
        "--trainer",
        "./train.py",
        "--data-dir",
        "data",
        "--devices",
        "cpu",
        "--slots",
        "1",
        "--devices-per-slot",
        "1",
    ];
    let mut command = system.orchestrator(&arguments);
    command.env("PYTHONPATH", package());
    system.start("run", command)
}

#[test]
fn a_python_trainer_that_is_killed_and_stopped_gives_the_same_results() {
    let undisturbed = System::new();
    prepare(&undisturbed);
    run(&undisturbed).expect_exit(0);

    let system = System::new();
    prepare(&system);
    let (first, second) = (system.path("data/hold-1"), system.path("data/hold-2"));
    fs::write(&first, "").expect("the test's folder can be written");
    fs::write(&second, "").expect("the test's folder can be written");
    let mut interrupted = run(&system);
    let held = |attempt: u32| {
        wait_for("an attempt holds", || {
            fs::read_to_string(system.path(&format!("data/held-{attempt}"))).ok()
        })
    };
    let trainer: i32 = held(1).parse().expect("a process id");
    fs::remove_file(&first).expect("the file is there");
    kill(Pid::from_raw(trainer), Signal::SIGKILL).expect("the trainer runs");
    held(2);
    interrupted.signal(Signal::SIGINT);
    interrupted.expect_exit(130);
    assert_eq!(system.processes(), Vec::<u32>::new(), "processes are left");
    let mut resumed = run(&system);
    resumed.expect_exit(0);

    let folder = system.results("mine");
    assert_same(
        &undisturbed_files(&undisturbed.results("mine")),
        &undisturbed_files(&folder),
    );
    assert_eq!(
        attempts(&folder).iter().max(),
        Some(&3),
        "killed once, stopped once: {:?}",
        attempts(&folder)
    );
    assert_eq!(resumed_from(&folder).iter().max(), Some(&4));
    assert!(!any_departed(&folder), "an epoch came out otherwise");
    let text = fs::read_to_string(folder.join("results.csv")).expect("the report is there");
    assert_eq!(text.lines().count(), 5, "{text}");
}
