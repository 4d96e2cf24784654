//! Trainers that fail on request (ORCHESTRATOR_FAULT, src/trainer/src/attempt/fault.rs) in real training:
//! each failure class is recognised, costs what it should, and leaves nothing behind.

use serde_json::Value;
use tests::binaries::binary;
use tests::results::attempts;
use tests::{Process, System, wait_for};

fn sweep(replicas: u32) -> String {
    format!(
        "
name: faulty
recipe: quick
set:
  dataset: digits
  model: resnet-8
  samples_per_class: 10
  replicas: {replicas}
  schedule: {{constant: {{epochs: 4}}}}
axes:
  loss: [xent]
outputs:
  - table: {{rows: loss}}
"
    )
}

/// P8: heartbeats without progress are not health. One replica sleeps inside an all-reduce, the
/// other waits for it, and the worker sends heartbeats all the time. That costs one attempt.
#[test]
fn a_stuck_replica_costs_one_attempt() {
    let mut system = System::new();
    // longer than a trainer takes to start on a busy machine
    system.coordinator_flags = ["--heartbeat-ms", "200", "--stall-ms", "15000"]
        .map(str::to_owned)
        .to_vec();
    let _coordinator = system.coordinator();
    let _worker = worker(&system, "stall epoch=1 replica=1", 2);
    submit(&system, 2).expect_exit(0);
    assert_eq!(attempts(&system.results("faulty")), [2]);
    assert_eq!(failures(&system), ["stalled"]);
}

#[test]
fn a_crashed_trainer_is_tried_again_and_its_last_words_are_kept() {
    let mut system = System::new();
    let coordinator = system.coordinator();
    let _worker = worker(&system, "panic epoch=2", 1);
    submit(&system, 1).expect_exit(0);
    assert_eq!(attempts(&system.results("faulty")), [2]);
    assert_eq!(failures(&system), ["crashed"]);
    let failed = system
        .journal()
        .iter()
        .find_map(|entry| entry["event"].get("attempt_failed").cloned());
    let failed = failed.expect("just counted");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (message, trial) = (text(&failed["failure"]["message"]), text(&failed["trial"]));
    assert!(message.contains("injected fault"), "{message}");
    // more than the coordinator keeps in memory: the backtrace
    assert!(message.len() > 2000, "{message}");
    let live = system.ask(&["why", &trial]);
    coordinator.kill();
    let output = system
        .orchestrator(&["why", &trial, "--state-dir", "state"])
        .output()
        .expect("it starts");
    for explained in [
        live,
        String::from_utf8(output.stdout).expect("stdout is UTF-8"),
    ] {
        let log = format!("logs/{trial}/attempt-1.stderr");
        for line in message.lines().chain([format!("WORK_DIR/{log}").as_str()]) {
            assert!(explained.contains(line), "no `{line}` in {explained}");
        }
        assert!(system.path("work").join(&log).exists());
    }
}

/// The work directory is full while the first attempt trains. None of the trial's budgets is
/// charged, and it resumes from its last checkpoint when there is room again.
#[test]
fn a_full_work_directory_pauses_the_slot_and_costs_the_trial_nothing() {
    let mut system = System::new();
    let _coordinator = system.coordinator();
    let worker = worker(&system, "slow=300 epoch=0", 1);
    system.file("faulty.yaml", &sweep(1));
    let url = system.url();
    let mut run = system.start(
        "run",
        system.orchestrator(&["run", "faulty.yaml", "--coordinator", &url]),
    );
    let checkpoints = wait_for("the first checkpoint is written", || {
        let folder = std::fs::read_dir(system.path("work/checkpoints"))
            .ok()?
            .flatten()
            .next()?
            .path();
        let mut files = std::fs::read_dir(&folder)
            .ok()?
            .flatten()
            .map(|file| file.path());
        files
            .any(|file| {
                file.extension()
                    .is_some_and(|extension| extension == "safetensors")
            })
            .then_some(folder)
    });
    // writes to it find no space left
    for epoch in 2..=4 {
        let unfinished = checkpoints.join(format!("epoch-{epoch:05}.attempt-1.partial"));
        std::os::unix::fs::symlink("/dev/full", unfinished)
            .expect("the first attempt has not come so far");
    }
    let trial = checkpoints
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a trial's id")
        .to_owned();
    let paused = "its node could not run a trial";
    wait_for("the slot pauses", || {
        run.stderr().contains(paused).then_some(())
    });
    for part in [
        paused,
        "No space left on device",
        "--work-dir",
        "the next try is in",
    ] {
        let explained = system.ask(&["why", &trial]);
        assert!(explained.contains(part), "no `{part}` in {explained}");
    }
    assert!(
        system.ask(&["status"]).contains("pauses, used again in"),
        "{}",
        system.ask(&["status"])
    );
    run.expect_exit(0);
    assert_eq!(
        (attempts(&system.results("faulty")), failures(&system)),
        (vec![2], vec!["node".to_owned()])
    );
    assert_ne!(
        tests::results::resumed_from(&system.results("faulty")),
        [0],
        "it continues from its checkpoint"
    );
    assert!(
        !system.ask(&["why", &trial]).contains("node: 1 failure"),
        "no budget is touched"
    );
    wait_for("nothing is left of a finished trial", || {
        (!tests::system::contains_folder(&system.path("work/checkpoints"), &trial)).then_some(())
    });
    drop(worker);
}

/// The user sees the problem at the command line, before any trial starts.
#[test]
fn a_cache_directory_that_cannot_be_written_is_refused_at_the_start() {
    let system = System::new();
    system.file("faulty.yaml", &sweep(1));
    system.file("in-the-way", "");
    let mut run = system.start(
        "run",
        system.orchestrator(&["run", "faulty.yaml", "--cache-dir", "in-the-way/cache"]),
    );
    run.expect_exit(2);
    for part in [
        "cannot use the cache directory",
        "in-the-way/cache",
        "--cache-dir chooses another",
    ] {
        assert!(
            run.stderr().contains(part),
            "no `{part}` in {}",
            run.stderr()
        );
    }
    assert_eq!(system.processes(), Vec::<u32>::new());
}

/// Its first trainer crashes, and none starts again: the device of the only slot is gone. No other
/// slot can take the trial.
#[test]
fn a_run_whose_every_slot_is_broken_ends_and_explains_what_to_do() {
    let mut system = System::new();
    system.file("faulty.yaml", &sweep(1));
    let real = binary("orchestrator-trainer");
    system.install_trainer(&format!(
        "if mkdir started 2>/dev/null; then exec {0} \"$@\"; else exit 4; fi",
        real.display()
    ));
    let run = |system: &System, name: &str| {
        let mut command =
            system.orchestrator(&["run", "faulty.yaml", "--devices", "cpu", "--slots", "1"]);
        command.args(["--devices-per-slot", "1"]);
        command.env("ORCHESTRATOR_FAULT", "panic epoch=1");
        system.start(name, command)
    };
    let mut broken = run(&system, "broken");
    broken.expect_exit(2);
    for part in [
        "the sweep cannot continue: every slot of 1 device is broken",
        "`orchestrator undrain ",
    ] {
        assert!(
            broken.stderr().contains(part),
            "it lacks `{part}`: {}",
            broken.stderr()
        );
    }
    assert_eq!(
        system.processes(),
        Vec::<u32>::new(),
        "the run leaves no process"
    );
    // CPU threads have no identity by which a broken one could be remembered
    system.install_trainer(&format!("exec {} \"$@\"", real.display()));
    run(&system, "mended").expect_exit(0);
}

/// The same seed would fail in the same way: no retry, and exit code and table report it.
#[test]
fn a_loss_that_is_not_finite_is_final() {
    let mut system = System::new();
    system.private_file("token", "between-you-and-me-0123456789abcdef");
    system.coordinator_flags = vec!["--token-file".to_owned(), "token".to_owned()];
    let _coordinator = system.coordinator();
    let mut worker = system.worker_command("faulty", 1, 1);
    worker
        .args(["--token-file", "token"])
        .env("ORCHESTRATOR_FAULT", "non_finite epoch=1");
    let _worker = system.start("worker", worker);
    system.file("faulty.yaml", &sweep(1));
    let url = system.url();
    let run = [
        "run",
        "faulty.yaml",
        "--coordinator",
        &url,
        "--token-file",
        "token",
    ];
    let mut run = system.start("run", system.orchestrator(&run));
    run.expect_exit(3);
    assert_eq!(attempts(&system.results("faulty")), [1]);
    assert_eq!(failures(&system), ["non_finite"]);
    let results = std::fs::read_to_string(system.results("faulty").join("results.csv"))
        .expect("the report is there");
    assert!(results.contains("non_finite"), "{results}");
    // the advised command works exactly as printed, with this coordinator
    for (command, says) in [
        ("orchestrator why ", "non_finite is never retried"),
        ("orchestrator retry ", "1 trial"),
    ] {
        let output = system
            .as_printed(&run.stderr(), command)
            .output()
            .expect("a shell starts");
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success() && stdout.contains(says),
            "{command}: {stdout}{stderr}"
        );
    }
}

fn worker(system: &System, fault: &str, threads: u32) -> Process {
    let mut command = system.worker_command("faulty", 1, threads);
    command
        .env("ORCHESTRATOR_FAULT", fault)
        .env("RUST_BACKTRACE", "full");
    system.start("worker", command)
}

fn submit(system: &System, replicas: u32) -> Process {
    system.file("faulty.yaml", &sweep(replicas));
    let url = system.url();
    system.start(
        "run",
        system.orchestrator(&["run", "faulty.yaml", "--coordinator", &url]),
    )
}

/// Returns the class of every failed attempt, in order.
fn failures(system: &System) -> Vec<String> {
    let journal = system.journal();
    let failed = journal
        .iter()
        .filter_map(|entry| entry["event"].get("attempt_failed"));
    failed
        .map(|event: &Value| {
            event["failure"]["class"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
}
