//! The control plane with trainers that obey without training (`orchestrator-trainer serve
//! --rehearse`): promises that need no training, and the cost of the control plane. Faults of real
//! trainers: faults.rs.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::binaries::binary;
use tests::{Process, System, wait_for};

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

/// P9: a trial with a result is not trained again, not even in another sweep, and the reuse is
/// explained.
#[test]
fn finished_trials_are_reused_and_the_reuse_is_explained() {
    let mut system = System::new();
    let _coordinator = system.coordinator();
    let _worker = rehearsing_worker(&mut system);
    submit(&system, 4).expect_exit(0);
    let dispatched = num_dispatches(&system);
    assert_eq!(dispatched, 8);
    submit(&system, 4).expect_exit(0);
    assert_eq!(
        num_dispatches(&system),
        dispatched,
        "submitted twice, trained twice"
    );
    system.file("wider.yaml", &sweep(6).replace("name: idle", "name: wider"));
    let url = system.url();
    let mut run = system.start(
        "run",
        system.orchestrator(&["run", "wider.yaml", "--coordinator", &url]),
    );
    run.expect_exit(0);
    assert_eq!(
        num_dispatches(&system),
        dispatched + 4,
        "only the new seeds are trained"
    );
    assert!(run.stderr().contains("reused"), "{}", run.stderr());
}

/// `run`, `tail` and `status` explain why nothing starts: once, while the reason stays the same.
#[test]
fn a_sweep_that_no_slot_can_take_reports_it() {
    let mut system = System::new();
    let _coordinator = system.coordinator();
    system.file(
        "wide.yaml",
        &sweep(2).replace("seeds: 2", "seeds: 2\nresources: {devices_per_trial: 4}"),
    );
    let url = system.url();
    let run = system.start(
        "run",
        system.orchestrator(&["run", "wide.yaml", "--coordinator", &url]),
    );
    let no_worker = format!(
        "idle waits: no worker has joined: start one with `orchestrator worker --coordinator {url} --token-file "
    );
    wait_for("the run says what it waits for", || {
        run.stderr().contains(&no_worker).then_some(())
    });
    let _worker = rehearsing_worker(&mut system);
    let too_small = "waits: it needs a slot of 4 devices, and the largest offered has 1: start a worker with \
                     --devices-per-slot 4, or change `resources.devices_per_trial`";
    wait_for("the run says that the slots are too small", || {
        run.stderr().contains(too_small).then_some(())
    });
    let tail = system.start(
        "tail",
        system.orchestrator(&["tail", "idle", "--coordinator", &url]),
    );
    wait_for("tail says so too", || {
        tail.stderr().contains(too_small).then_some(())
    });
    assert!(
        system.ask(&["status"]).contains(too_small),
        "{}",
        system.ask(&["status"])
    );
    let status = system.status().expect("the coordinator runs");
    assert_eq!(status["sweeps"][0]["waits"], "no_slot_large_enough");
    // another worker joins and changes nothing
    let _other = system.worker("other", 1);
    wait_for("the other joins", || {
        run.stderr().contains("worker other").then_some(())
    });
    assert_eq!(
        run.stderr().matches(too_small).count(),
        1,
        "{}",
        run.stderr()
    );

    // no other worker can join the coordinator inside this process
    rehearse(&mut system, "--rehearse-epoch-ms 2");
    let mut own = system.orchestrator(&["run", "wide.yaml", "--devices", "cpu", "--slots", "1"]);
    own.args(["--devices-per-slot", "1"]);
    let mut own = system.start("own", own);
    own.expect_exit(2);
    assert!(
        own.stderr()
            .contains("the sweep cannot continue: it needs a slot of 4 devices"),
        "{}",
        own.stderr()
    );
}

/// A run inside one process also finishes an older run's sweep, and announces it first.
#[test]
fn an_older_unfinished_sweep_is_announced() {
    let mut system = System::new();
    rehearse(&mut system, "--rehearse-epoch-ms 60000");
    system.file(
        "older.yaml",
        &sweep(3)
            .replace("name: idle", "name: older")
            .replace("class: 5", "class: 6"),
    );
    let embedded = |system: &System, file: &str| {
        system.start(
            "run",
            system.orchestrator(&["run", file, "--devices", "cpu", "--slots", "1"]),
        )
    };
    let mut older = embedded(&system, "older.yaml");
    wait_for("a trial of the older sweep runs", || {
        (!system.trainers().is_empty()).then_some(())
    });
    older.signal(Signal::SIGINT);
    wait_for("it writes checkpoints", || {
        older.stderr().contains("writing checkpoints").then_some(())
    });
    // within a second it would be part of the same request
    std::thread::sleep(Duration::from_millis(1_100));
    older.signal(Signal::SIGINT);
    older.wait();
    system.file("idle.yaml", &sweep(1));
    rehearse(&mut system, "--rehearse-epoch-ms 2");
    let mut run = embedded(&system, "idle.yaml");
    run.expect_exit(0);
    let output = run.stderr();
    for part in [
        "unfinished sweep `older`",
        " before these",
        "orchestrator cancel older --state-dir",
    ] {
        assert!(output.contains(part), "it lacks `{part}`: {output}");
    }
    assert!(!output.contains("unfinished sweep `idle`"), "{output}");
}

/// The coordinator of another command has its own token: the state directory leads to both.
#[test]
fn what_a_run_at_a_borrowed_coordinator_advises_works() {
    let mut system = System::new();
    rehearse(&mut system, "--rehearse-epoch-ms 60000");
    system.file("idle.yaml", &sweep(1));
    let run = |name: &str| {
        let mut command =
            system.orchestrator(&["run", "idle.yaml", "--devices", "cpu", "--slots", "1"]);
        command.args(["--state-dir", "my state"]);
        system.start(name, command)
    };
    let first = run("first");
    wait_for("the first runs a trial", || {
        first.stderr().contains("idle: ").then_some(())
    });
    let mut second = run("second");
    wait_for("the second follows it", || {
        second.stderr().contains("idle: ").then_some(())
    });
    assert!(
        second.stderr().contains("submitting to it"),
        "{}",
        second.stderr()
    );
    second.signal(Signal::SIGINT);
    second.expect_exit(130);
    let tail = system.start(
        "tail",
        system.as_printed(&second.stderr(), "orchestrator tail idle"),
    );
    wait_for("the command that was shown follows the sweep", || {
        tail.stderr().contains("idle: ").then_some(())
    });
}

/// SIGSTOP of the coordinator for longer than the lease: no worker was silent, so none loses its
/// trials.
#[test]
fn a_stopped_coordinator_costs_no_attempt() {
    let mut system = System::new();
    system.coordinator_flags = ["--heartbeat-ms", "500", "--lease-ms", "3000"]
        .map(str::to_owned)
        .to_vec();
    let coordinator = system.coordinator();
    rehearse(&mut system, "--rehearse-epoch-ms 150");
    let _worker = system.worker("rehearsing", 2);
    let mut run = submit(&system, 1);
    wait_for("both trials run", || {
        let running = system.status()?["sweeps"][0]["running"].as_u64()?;
        (running == 2).then_some(())
    });
    coordinator.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_secs(7));
    coordinator.signal(Signal::SIGCONT);
    run.expect_exit(0);
    let journal = system.journal();
    let lost: Vec<_> = journal
        .iter()
        .filter(|entry| entry["event"].get("attempt_failed").is_some())
        .collect();
    assert!(lost.is_empty(), "the stop cost an attempt: {lost:?}");
    assert_eq!(num_dispatches(&system), 2);
    let noticed = coordinator.stderr() + &coordinator.stdout();
    assert!(
        noticed.contains("was held up"),
        "the stop was shorter than the lease, or went unnoticed: {noticed}"
    );
}

/// Not a test of speed: prints figures that issue and README quote. `make soak` runs it.
#[test]
#[ignore = "a measurement: make soak"]
fn what_a_trial_costs_without_training() {
    const SEEDS: u32 = 5_000;
    let mut system = System::new();
    let coordinator = system.coordinator();
    let _worker = rehearsing_worker(&mut system);
    let start = Instant::now();
    submit(&system, SEEDS).expect_exit(0);
    let seconds = start.elapsed().as_secs_f64();
    let trials = f64::from(2 * SEEDS);
    println!(
        "idle: {trials} trials in {seconds:.1} s, submission and report included: {:.0} trials per second, {:.2} ms each",
        trials / seconds,
        1e3 * seconds / trials
    );
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", coordinator.pid())).expect("it runs");
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .expect("Linux says so");
    println!("idle: the coordinator's peak memory: {peak}");
}

/// Not a test of speed: prints figures for the documents, with the default lease of 10 s. `make
/// soak` runs it, and the soak prints the same figures for real training under a shorter lease.
#[test]
#[ignore = "a measurement: make soak"]
fn what_recovery_takes() {
    let mut system = System::new();
    let mut coordinator = system.coordinator();
    // trials of about a second
    rehearse(&mut system, "--rehearse-epoch-ms 12");
    let worker = |system: &System, name: &str| system.worker(name, 2);
    let _steady = worker(&system, "steady");
    let mut victim = worker(&system, "victim");
    let run = submit(&system, 500);
    let mut kills: Vec<(&str, u64)> = Vec::new();
    let pause = || std::thread::sleep(Duration::from_millis(1_700));
    for _ in 0..20 {
        pause();
        kills.push(("coordinator", now_ms()));
        coordinator.kill_now();
        coordinator = system.coordinator();
    }
    for _ in 0..20 {
        pause();
        let trainer = system.trainers()[0];
        kills.push(("crashed", now_ms()));
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(trainer.try_into().expect("a process id")),
            Signal::SIGKILL,
        )
        .expect("a trainer waits for work when it has none");
    }
    for _ in 0..3 {
        pause();
        kills.push(("unreachable", now_ms()));
        victim.kill_now();
        victim = worker(&system, "victim");
        std::thread::sleep(Duration::from_secs(11));
    }
    run.kill();
    let journal = system.journal();
    for kind in ["coordinator", "crashed", "unreachable"] {
        let mut times: Vec<u64> = kills
            .iter()
            .filter(|(of, _)| *of == kind)
            .flat_map(|(_, at)| recovered(&journal, kind, *at))
            .collect();
        times.sort_unstable();
        println!(
            "idle: from the kill of a {} to the next dispatch{}: median {} ms, most {} ms, n = {}",
            match kind {
                "coordinator" => kind,
                "crashed" => "trainer",
                _ => "worker",
            },
            if kind == "coordinator" {
                ""
            } else {
                " of its trials"
            },
            times[times.len() / 2],
            times[times.len() - 1],
            times.len()
        );
    }
}

/// Milliseconds from a kill to the dispatch that follows it: the first dispatch, or the next one of
/// each trial whose attempt ended in this class before anything else was killed.
fn recovered(journal: &[Value], kind: &str, kill: u64) -> Vec<u64> {
    let at = |entry: &Value| entry["at"].as_u64().expect("a time");
    let after = || journal.iter().filter(|entry| at(entry) >= kill);
    let dispatch = |trial: Option<&Value>, from: u64| {
        let mut dispatches = after()
            .filter(|entry| at(entry) >= from)
            .filter_map(|entry| {
                let dispatched = entry["event"].get("trial_dispatched")?;
                trial
                    .is_none_or(|trial| dispatched["trial"] == *trial)
                    .then(|| at(entry))
            });
        dispatches.next()
    };
    if kind == "coordinator" {
        return dispatch(None, kill)
            .into_iter()
            .map(|next| next - kill)
            .collect();
    }
    let most = if kind == "crashed" { 1_500 } else { 12_000 };
    let lost = after()
        .take_while(|entry| at(entry) < kill + most)
        .filter_map(|entry| {
            let failed = entry["event"].get("attempt_failed")?;
            // a second crash of the same trial waits longer, by its budget
            let counts = kind != "crashed" || failed["attempt"] == 1;
            (failed["failure"]["class"] == kind && counts).then(|| (&failed["trial"], at(entry)))
        });
    lost.filter_map(|(trial, ended)| dispatch(Some(trial), ended))
        .map(|next| next - kill)
        .collect()
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970");
    since.as_millis().try_into().expect("milliseconds fit")
}

/// Installs a trainer that trains nothing and takes the requested time.
fn rehearse(system: &mut System, more: &str) {
    let trainer = binary("orchestrator-trainer");
    system.install_trainer(&format!(
        "exec {} \"$@\" --rehearse {more}",
        trainer.display()
    ));
}

fn rehearsing_worker(system: &mut System) -> Process {
    rehearse(system, "");
    system.worker("rehearsing", 2)
}

fn submit(system: &System, seeds: u32) -> Process {
    system.file("idle.yaml", &sweep(seeds));
    let url = system.url();
    system.start(
        "run",
        system.orchestrator(&["run", "idle.yaml", "--coordinator", &url]),
    )
}

fn num_dispatches(system: &System) -> usize {
    system
        .journal()
        .iter()
        .filter(|entry| entry["event"].get("trial_dispatched").is_some())
        .count()
}
