//! Programs in Python as trainers: the tests of the Python package, and a sweep whose trainer is
//! killed, stopped and resumed; and `orchestrator trainer check`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
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
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}");
    let count = printed
        .lines()
        .find_map(|line| line.strip_prefix("Ran ")?.split(' ').next()?.parse().ok());
    assert!(count.is_some_and(|count: u32| count >= 15), "{printed}");
}

/// Writes the program of the fixtures, and the sweep.
fn prepare(system: &System) {
    fs::create_dir(system.path("data")).expect("the test's folder can be written");
    let text = include_str!("../fixtures/programs/train.py");
    tests::write_executable(&system.path("train.py"), text);
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

/// Each mistake of `mistakes.py`, the case that finds it, and a part of the problem's text.
const MISTAKES: [(&str, &str, &str); 32] = [
    (
        "does-not-start",
        READY,
        "it ended before it was ready with exit code 1",
    ),
    ("is-never-ready", READY, "did not send `ready` within 20 s"),
    (
        "has-another-version",
        READY,
        "uses version 2 of the protocol",
    ),
    ("begins-with-something-else", READY, "missing field `epoch`"),
    ("is-ready-twice", TRIAL, "sent `ready` twice"),
    ("prints", TRIAL, "text on stdout that begins with `epoc`"),
    (
        "announces-a-huge-frame",
        TRIAL,
        "4294967295 bytes was announced",
    ),
    ("sends-an-unknown-reply", TRIAL, "unknown variant `done`"),
    ("sends-nan", TRIAL, "expected value at line 1"),
    ("stops-unasked", TRIAL, "sent `stopped` without a request"),
    ("crashes", TRIAL, "it ended during a trial with exit code 7"),
    ("reports-percent", TRIAL, "`epochs[0].accuracy`: is 85"),
    (
        "loses-an-epoch",
        TRIAL,
        "holds 3 epochs, and 4 were asked for",
    ),
    ("leaves-out-a-field", TRIAL, "missing field `provenance`"),
    ("lies-about-its-epoch", TRIAL, "its progress went back"),
    (
        "counts-epochs-from-0",
        TRIAL,
        "it had reported 3 of 4 epochs",
    ),
    ("sends-no-progress", TRIAL, "it sent no `progress`"),
    (
        "repeats-its-answer",
        TRIAL,
        "sent `finished` after its answer",
    ),
    (
        "hashes-nothing",
        TRIAL,
        "two epochs have the same state hash",
    ),
    (
        "ignores-the-seed",
        "trains a second trial",
        "two seeds gave the same training",
    ),
    (
        "keeps-state-between-trials",
        "trains a second trial",
        "differs from the same trial",
    ),
    (
        "ignores-stop",
        "stops when asked",
        "did not answer `stop` in time",
    ),
    (
        "stops-without-checkpoint",
        "names its files after the attempt",
        "left no checkpoint",
    ),
    (
        "names-without-attempt",
        "names its files after the attempt",
        "`latest.json` has no attempt",
    ),
    (
        "never-resumes",
        "resumes after a stop",
        "began again instead of continuing",
    ),
    (
        "forgets-the-chain",
        "resumes after a stop",
        "a resumed trial differs",
    ),
    (
        "resumes-from-before-since",
        "starts over when asked",
        "before `since`",
    ),
    (
        "trusts-a-torn-checkpoint",
        "skips a torn checkpoint",
        "a torn checkpoint ends it",
    ),
    (
        "ignores-a-later-attempt",
        "yields to a later attempt",
        "continued although attempt 9",
    ),
    (
        "blames-itself",
        "refuses what it cannot use",
        "fails as `crashed`",
    ),
    (
        "outlives-its-worker",
        "ends with its worker",
        "5 s after the end of its stdin",
    ),
    (
        "uses-no-settings",
        "refuses what it cannot use",
        "ended during a trial with exit code 5",
    ),
];
const READY: &str = "starts and is ready";
const TRIAL: &str = "trains a trial";

/// Checks a trainer. Returns the exit code, and the cases of the JSON document.
fn check(system: &System, command: &[&str]) -> (Option<i32>, Vec<Value>) {
    let mut check = system.orchestrator(&["trainer", "check", "--output", "json"]);
    check
        .env("PYTHONPATH", package())
        .args(["--patience", "20", "--"]);
    let output = check.args(command).output().expect("the command starts");
    let document: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let cases = document["cases"].as_array().expect("a list of cases");
    (output.status.code(), cases.clone())
}

fn problems(cases: &[Value]) -> Vec<(&str, &str)> {
    let found = cases.iter().filter(|case| case["ok"] == false);
    found
        .map(|case| {
            let field = |name: &str| case[name].as_str().expect("a text");
            (field("case"), field("problem"))
        })
        .collect()
}

#[test]
fn a_check_finds_each_planted_mistake() {
    let system = System::new();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/programs/mistakes.py");
    let program = program.to_str().expect("a path in UTF-8");
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((mistake, case, part)) =
                    MISTAKES.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let (code, cases) = check(&system, &["python3", program, mistake]);
                    let found = problems(&cases);
                    assert_eq!(code, Some(1), "{mistake}: {cases:#?}");
                    assert!(
                        found
                            .iter()
                            .any(|(name, problem)| name == case && problem.contains(part)),
                        "{mistake}: {found:#?}"
                    );
                }
            });
        }
    });
}

#[test]
fn a_check_finds_nothing_wrong_with_a_sound_trainer() {
    let system = System::new();
    prepare(&system);
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/programs/mistakes.py");
    let program = program.to_str().expect("a path in UTF-8");
    for command in [&["python3", program, "none"][..], &["./train.py"]] {
        let (code, cases) = check(&system, command);
        assert_eq!(problems(&cases), Vec::new(), "{command:?}");
        assert_eq!((code, cases.len()), (Some(0), 13), "{command:?}");
    }
}
