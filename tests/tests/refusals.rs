//! Requests that are refused before anything starts: one message on stderr, nothing on stdout, a
//! documented exit code.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use tests::binaries::binary;
use tests::{System, wait_for};

const BAD_INPUT: i32 = 1;
const INFRASTRUCTURE: i32 = 2;

const SWEEP: &str = "
name: tiny
recipe: quick
set: {dataset: digits, model: resnet-8, samples_per_class: 5}
axes:
  loss: [xent, cos]
outputs:
  - table: {rows: loss}
";

#[test]
fn a_bad_sweep_file_starts_nothing() {
    let system = System::new();
    system.file(
        "bad.yaml",
        &SWEEP
            .replace("recipe: quick", "recipe: quick\nseedz: 3")
            .replace("xent, cos", "xent, coz"),
    );
    let output = system
        .orchestrator(&["run", "bad.yaml"])
        .output()
        .expect("the client starts");
    let message = refused(&output, BAD_INPUT);
    for part in ["bad.yaml", "seedz", "did you mean", "seeds", "coz"] {
        assert!(
            message.contains(part),
            "the message lacks `{part}`: {message}"
        );
    }
    assert!(
        !system.path("orchestrator-state").exists(),
        "a state directory was made"
    );
    assert!(
        !system.path("results").exists(),
        "a results folder was made"
    );
}

#[test]
fn a_second_coordinator_on_the_same_state_directory_is_refused() {
    let mut system = System::new();
    let mut first = system.coordinator();
    let mut second = system.start(
        "second",
        system.orchestrator(&[
            "coordinator",
            "--listen",
            "127.0.0.1:0",
            "--state-dir",
            "state",
        ]),
    );
    second.expect_exit(INFRASTRUCTURE);
    assert!(
        second.stderr().contains("another coordinator"),
        "{}",
        second.stderr()
    );
    assert!(first.has_ended().is_none(), "the first one must not notice");
}

/// A folder that hosts share: the other host's loopback address is not tried, and the journal's
/// lock decides.
#[test]
fn a_state_directory_that_another_host_uses_is_refused_with_file_and_host() {
    let mut system = System::new();
    let _coordinator = system.coordinator();
    system.announced_by("state", "elsewhere");
    system.file("tiny.yaml", SWEEP);
    let output = system
        .orchestrator(&["run", "tiny.yaml", "--state-dir", "state"])
        .output()
        .expect("the client starts");
    let message = refused(&output, INFRASTRUCTURE);
    for part in [
        "another coordinator uses state",
        "state/coordinator.json",
        "host elsewhere",
        &system.url(),
    ] {
        assert!(
            message.contains(part),
            "the message lacks `{part}`: {message}"
        );
    }
    assert!(!message.contains("submitting to it"), "{message}");
}

#[test]
fn a_token_that_others_can_read_is_refused() {
    let system = System::new();
    let token = system.file("token", "between-you-and-me-0123456789abcdef\n");
    std::fs::set_permissions(&token, PermissionsExt::from_mode(0o644))
        .expect("the test owns its files");
    let mut command = system.orchestrator(&["coordinator", "--listen", "127.0.0.1:0"]);
    command.args(["--state-dir", "state", "--token-file", "token"]);
    let output = command.output().expect("the coordinator starts");
    assert!(refused(&output, BAD_INPUT).contains("0600"));
}

/// Every user of a login node can connect to its loopback.
#[test]
fn a_coordinator_on_loopback_answers_only_to_who_can_read_its_state_directory() {
    let mut system = System::new();
    let _coordinator = system.coordinator();
    let stranger = ["status", "--state-dir", "nowhere"];
    let message = refused(&system.client(&stranger), INFRASTRUCTURE);
    assert!(
        message.contains("--token-file") && message.contains("--state-dir"),
        "{message}"
    );
    let url = system.url();
    let worker = ["worker", "--coordinator", &url, "--state-dir", "nowhere"];
    let output = system.orchestrator(&worker).output();
    let message = refused(&output.expect("the worker starts"), BAD_INPUT);
    assert!(message.contains("no token for"), "{message}");
    // neither address nor token is named
    let worker = ["worker", "--state-dir", "state", "--devices", "cpu"];
    let _worker = system.start("worker", system.orchestrator(&worker));
    wait_for("the worker joins", || {
        system.status()?["workers"][0]["worker"]
            .as_str()
            .map(|_| ())
    });
}

#[test]
fn a_wrong_token_is_refused_and_the_right_one_is_not() {
    let mut system = System::new();
    for (name, token) in [
        ("token", "between-you-and-me-0123456789abcdef"),
        ("wrong", "0123456789abcdef-something-else!!!!"),
    ] {
        system.private_file(name, token);
    }
    system.coordinator_flags = vec!["--token-file".to_owned(), "token".to_owned()];
    let _coordinator = system.coordinator();
    let message = refused(
        &system.client(&["status", "--token-file", "wrong"]),
        INFRASTRUCTURE,
    );
    assert!(message.contains("token"), "{message}");
    system.ask(&["status", "--token-file", "token"]);

    let url = system.url();
    let mut worker = system.start(
        "worker",
        system.orchestrator(&["worker", "--coordinator", &url, "--token-file", "wrong"]),
    );
    worker.expect_exit(INFRASTRUCTURE);
    assert!(worker.stderr().contains("token"), "{}", worker.stderr());
}

#[test]
fn a_cancelled_sweep_stops_training() {
    let mut system = System::new();
    let _coordinator = system.coordinator();
    let _worker = system.worker("only", 2);
    let text = SWEEP.replace("samples_per_class: 5", "samples_per_class: 50");
    system.file("tiny.yaml", &text);
    let url = system.url();
    let mut run = system.start(
        "run",
        system.orchestrator(&["run", "tiny.yaml", "--coordinator", &url]),
    );
    let running = |wanted: bool| {
        let status = system.status()?;
        status["sweeps"]
            .as_array()?
            .iter()
            .any(|sweep| sweep["running"].as_u64() > Some(0))
            .eq(&wanted)
            .then_some(())
    };
    wait_for("a trial runs", || running(true));
    system.ask(&["cancel", "tiny"]);
    wait_for("nothing runs any more", || running(false));
    // Finished, with cells that lack results.
    run.expect_exit(3);
}

/// A sweep may come from another user: for it a worker only reads from its data directory, or where
/// its operator allows, and no content of any other file is ever returned.
#[test]
fn a_sweep_reads_no_other_files_of_a_worker() {
    let mut system = System::new();
    let _coordinator = system.coordinator();
    std::fs::create_dir_all(system.path("data")).expect("the test's folder can be written");
    for secret in ["secret", "data/notes"] {
        system.file(secret, "password hunter2\nlogin hunter3\n");
    }
    assert!(
        Command::new("mkfifo")
            .arg(system.path("data/pipe"))
            .status()
            .expect("it starts")
            .success()
    );
    std::os::unix::fs::symlink(system.path("secret"), system.path("data/link"))
        .expect("a folder of the test");
    let outside = system.path("secret").display().to_string();
    let cells = [
        (
            "hierarchy",
            format!("embedding: {{hierarchy: {outside}}}"),
            "--allow-path",
        ),
        ("weights", format!("weights: {outside}"), "--allow-path"),
        (
            "folder",
            "dataset: \"folder:/etc\"".to_owned(),
            "--allow-path",
        ),
        (
            "link",
            "embedding: {hierarchy: link}".to_owned(),
            "--allow-path",
        ),
        (
            "notes",
            "embedding: {hierarchy: notes}".to_owned(),
            "2 roots",
        ),
        (
            "weights-notes",
            "weights: notes".to_owned(),
            "neither safetensors nor",
        ),
        (
            "pipe",
            "embedding: {hierarchy: pipe}".to_owned(),
            "is a pipe",
        ),
        ("weights-pipe", "weights: pipe".to_owned(), "is a pipe"),
        (
            "device",
            "embedding: {hierarchy: /dev/zero}".to_owned(),
            "is a device",
        ),
    ];
    let values: String = cells
        .iter()
        .map(|(name, set, _)| format!("    - {{name: {name}, set: {{{set}}}}}\n"))
        .collect();
    system.file(
        "nosy.yaml",
        &format!(
            "recipe: quick\nset: {{dataset: digits, model: resnet-8, loss: cos, schedule: {{constant: {{epochs: 1}}}}}}\n\
             axes:\n  reads:\n{values}"
        ),
    );
    let trainer = binary("orchestrator-trainer");
    system.install_trainer(&format!(
        "env > environment; exec {} \"$@\"",
        trainer.display()
    ));
    let mut worker = system.worker_command("only", 1, 1);
    worker.args(["--allow-path", "/dev"]);
    worker
        .env("AWS_SECRET_ACCESS_KEY", "hunter4")
        .env("ORCHESTRATOR_CACHE_TOKEN", "hunter5")
        .env("NCCL_DEBUG", "WARN");
    let _worker = system.start("worker", worker);
    let url = system.url();
    let mut run = system.start(
        "run",
        system.orchestrator(&["run", "nosy.yaml", "--coordinator", &url]),
    );
    run.expect_exit(3);
    let failures: Vec<(String, String)> = system
        .journal()
        .iter()
        .filter_map(|entry| {
            entry["event"]
                .get("attempt_failed")
                .map(|failed| failed["failure"].clone())
        })
        .map(|failure| (failure["class"].to_string(), failure["message"].to_string()))
        .collect();
    assert_eq!(
        failures.len(),
        cells.len(),
        "each is tried once: {failures:?}"
    );
    for (name, _, says) in &cells {
        assert!(
            failures.iter().any(|(_, message)| message.contains(says)),
            "{name}: no `{says}` in {failures:?}"
        );
    }
    assert!(
        failures.iter().all(|(class, _)| class == "\"bad_input\""),
        "{failures:?}"
    );
    assert_eq!(
        failures
            .iter()
            .filter(|(_, message)| message.contains("--allow-path"))
            .count(),
        4,
        "{failures:?}"
    );
    assert!(
        !format!("{failures:?} {} {}", run.stdout(), run.stderr()).contains("hunter"),
        "{failures:?}"
    );
    let environment =
        std::fs::read_to_string(system.path("environment")).expect("the trainer wrote it");
    assert!(
        environment.contains("NCCL_DEBUG=WARN") && environment.contains("PATH="),
        "{environment}"
    );
    assert!(!environment.contains("hunter"), "{environment}");
}

/// Returns the message of a command that must fail with this exit code and print nothing.
fn refused(output: &Output, code: i32) -> String {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(
        output.stdout.is_empty(),
        "stdout is for data: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    message
}
