//! Exports and notices of whole sweeps. What `export` writes is read by the tools that it is for in
//! `make test-exporters`, which makes a Python environment with TensorBoard, MLflow, trackio and
//! pyarrow, and trains.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::binaries::binary;
use tests::{Process, System, wait_for};

const SWEEP: &str = "
name: exported
recipe: quick
set: {dataset: digits, model: resnet-8, samples_per_class: 5, schedule: {constant: {epochs: 3}}}
axes:
  loss: [xent, cos]
seeds: 2
outputs:
  - table: {rows: loss}
";

/// The Python environment of `make test-exporters`.
fn environment() -> PathBuf {
    let folder = std::env::var_os("ORCHESTRATOR_EXPORTERS");
    PathBuf::from(folder.expect("`make test-exporters` sets ORCHESTRATOR_EXPORTERS"))
}

fn program(name: &str) -> PathBuf {
    environment().join("bin").join(name)
}

/// A tracking server, and its address.
fn mlflow(system: &System) -> (Process, String) {
    let free = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = free.local_addr().expect("it is bound");
    drop(free);
    let mut command = system.marked(program("mlflow"));
    command
        .args(["server", "--backend-store-uri", "sqlite:///mlflow.db"])
        .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
        .args(["--workers", "1"]);
    let mut server = system.start("mlflow", command);
    wait_for("the MLflow server accepts connections", || {
        assert!(server.has_ended().is_none(), "{}", server.stderr());
        TcpStream::connect(address).ok()
    });
    (server, format!("http://{address}"))
}

/// Reads the exports with their tools. Returns the values that each read.
fn read(system: &System, url: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("exporters/check.py");
    let mut command = Command::new(program("python"));
    command.arg(script).arg(system.results("exported")).arg(url);
    let output = command.output().expect("python starts");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn run(system: &System, more: &[&str], mlflow: &str) {
    let words = [
        "run",
        "exported.yaml",
        "--devices",
        "cpu",
        "--export",
        mlflow,
    ];
    let mut command = system.orchestrator(&words);
    command.args(more);
    for destination in ["parquet", "tensorboard", "trackio"] {
        command.args(["--export", destination]);
    }
    let mut run = system.start("run", command);
    assert!(run.wait().success(), "{}", run.stderr());
    assert!(!run.stderr().contains("lacks results"), "{}", run.stderr());
}

#[test]
#[ignore = "needs Python packages: `make test-exporters`"]
fn tools_read_what_was_trained() {
    let system = System::new();
    system.file("exported.yaml", SWEEP);
    let (_server, url) = mlflow(&system);
    let destination = format!("mlflow:{url}");

    run(&system, &[], &destination);
    let live = read(&system, &url);
    // three epochs, each with a training loss and four numbers of an evaluation, of four trials
    assert!(live.contains("parquet 60\ntensorboard 60\n"), "{live}");

    // Afterwards, from the state folder alone: nothing is there twice.
    std::fs::remove_dir_all(system.results("exported").join("tensorboard"))
        .expect("it was written");
    let words = [
        "export",
        "exported",
        "parquet",
        "tensorboard",
        "trackio",
        &destination,
    ];
    let again = system.orchestrator(&words).output().expect("it starts");
    assert!(
        again.status.success(),
        "{}",
        String::from_utf8_lossy(&again.stderr)
    );
    assert_eq!(read(&system, &url), live);

    // Trials that were trained again replace those of before.
    run(&system, &["--fresh"], &destination);
    assert_eq!(read(&system, &url), live);
}

/// Event files below a folder.
fn event_files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let count = |path: &Path| match path.is_dir() {
        true => event_files(path),
        false => usize::from(path.to_string_lossy().contains("/events.out.tfevents.")),
    };
    entries
        .map(|entry| count(&entry.expect("a readable folder").path()))
        .sum()
}

/// Trainers obey without training.
#[test]
fn a_run_exports_its_trials_and_gives_notice_of_its_end() {
    let system = System::new();
    system.file("exported.yaml", SWEEP);
    let trainer = binary("orchestrator-trainer");
    let rehearse = format!("exec {} \"$@\" --rehearse", trainer.display());
    let trainer = system.script("trainer", &rehearse);
    system.script("hook", "cat >> notices.jsonl");
    let words = ["run", "exported.yaml", "--devices", "cpu", "--slots", "2"];
    let mut command = system.orchestrator(&words);
    command
        .arg("--trainer")
        .arg(trainer)
        .args(["--export", "tensorboard", "--export", "parquet"])
        // a missing command does not disturb the sweep
        .args(["--notify", "./hook", "--notify", "./absent 'with words'"]);
    let mut run = system.start("run", command);
    run.expect_exit(0);
    let notices = std::fs::read_to_string(system.path("notices.jsonl")).expect("the hook ran");
    let notices: Vec<Value> = notices
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let [notice] = notices.as_slice() else {
        panic!("one notice, of the end: {notices:?}")
    };
    assert_eq!(
        (&notice["event"], &notice["sweep"], &notice["succeeded"]),
        (&"ended".into(), &"exported".into(), &4.into())
    );
    let results = system.results("exported");
    assert_eq!(event_files(&results.join("tensorboard")), 4);
    assert!(results.join("curves.parquet").is_file());

    // from the state folder alone
    std::fs::remove_dir_all(results.join("tensorboard")).expect("it was written");
    let words = ["export", "exported", "tensorboard", "--output", "json"];
    let exported = system.orchestrator(&words).output().expect("it starts");
    let exported: Value = serde_json::from_slice(&exported.stdout).expect("JSON");
    assert_eq!(exported["exported"][0]["trials"], 4, "{exported}");
    assert_eq!(event_files(&results.join("tensorboard")), 4);
}
