//! A trainer that trains nothing, for tests. It speaks the hand-off protocol and misbehaves on
//! request.
//!
//! `FAKE_TRAINER` holds words: `start=hang|exit|garbage|other-build|other-protocol` at the start, and
//! `absent=UUID` if a GPU with that UUID is missing; `first=MODE` in the first attempt of every
//! trial and `always=MODE` in each, where MODE is `crash`, `exit`, `killed`, `garbage`, `huge`,
//! `hang`, `ignore-end`, `grandchild`, `failed`, `gpu`, `stop`; `epoch-ms=N` is the duration of an
//! epoch. The result depends on the trial alone.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sweep::TrialId;
use sweep::handoff::{
    EXIT_DEVICE_ABSENT, PROTOCOL, Progress, Ready, Reply, Request, RunRequest, read_frame,
    write_frame,
};
use sweep::record::{EpochRecord, Failure, FailureClass, Provenance, Timing, TrialResult};

fn main() {
    let words = std::env::var("FAKE_TRAINER").unwrap_or_default();
    let words: BTreeMap<&str, &str> = words
        .split_whitespace()
        .filter_map(|word| word.split_once('='))
        .collect();
    let stubborn = words.values().any(|mode| *mode == "ignore-end");
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    if let Some(place) = words
        .get("absent")
        .and_then(|absent| visible.split(',').position(|uuid| uuid == *absent))
    {
        eprintln!("error: `--devices` names cuda:{place}, but there are fewer");
        std::process::exit(EXIT_DEVICE_ABSENT.into())
    }
    let (mut protocol, mut build) = (PROTOCOL, "test");
    match words.get("start").copied() {
        Some("hang") => wait_for_ever(),
        Some("exit") => {
            eprintln!("no such device: a reason that people must see");
            std::process::exit(3)
        }
        Some("garbage") => {
            return std::io::stdout()
                .write_all(b"Hello, I am not a trainer")
                .unwrap();
        }
        Some("other-build") => build = "other",
        Some("other-protocol") => protocol = PROTOCOL + 1,
        _ => {}
    }
    send(&Reply::Ready(Ready {
        protocol,
        build: build.into(),
        libtorch: "none".into(),
        devices: vec!["cpu".into()],
    }));
    let requests = listen(stubborn);
    while let Ok(request) = requests.recv() {
        if let Request::Run(run) = request {
            attempt(&run, &words, &requests);
        }
    }
}

/// Reads requests. The end of stdin ends the process at once; a stubborn trainer keeps running.
fn listen(stubborn: bool) -> Receiver<Request> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        while let Ok(Some(request)) = read_frame(std::io::stdin().lock()) {
            sender.send(request).unwrap();
        }
        if !stubborn {
            std::process::exit(0)
        }
        wait_for_ever()
    });
    receiver
}

fn attempt(run: &RunRequest, words: &BTreeMap<&str, &str>, requests: &Receiver<Request>) {
    eprintln!("attempt {} of {}", run.attempt.number, run.attempt.trial);
    let first = words.get("first").filter(|_| run.attempt.number.0 == 1);
    if let Some(mode) = first.or(words.get("always")) {
        misbehave(mode);
    }
    let epoch_ms = words
        .get("epoch-ms")
        .map_or(1, |text| text.parse().unwrap());
    let num_epochs = run.spec.num_epochs();
    for epoch in resume(run)..num_epochs {
        match requests.recv_timeout(Duration::from_millis(epoch_ms)) {
            Ok(Request::Stop) => return send(&Reply::Stopped),
            Ok(Request::Run(_)) => panic!("two runs at once"),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let step = u64::from(epoch + 1);
        send(&Reply::Progress(Progress {
            epoch: epoch + 1,
            num_epochs,
            step,
            steps_per_epoch: 1,
            ..Progress::default()
        }));
        std::fs::create_dir_all(&run.checkpoint_dir).unwrap();
        let name = format!("epoch-{:05}.attempt-{}.fake", epoch + 1, run.attempt.number);
        std::fs::write(run.checkpoint_dir.join(name), "state").unwrap();
    }
    for kept in &run.keep {
        if let Some(name) = kept.file_of_attempt(run.attempt.number) {
            let content = format!("{} of {}", kept.word(), run.attempt).repeat(30_000);
            std::fs::write(run.checkpoint_dir.join(name), content).unwrap();
        }
    }
    send(&Reply::Finished(Box::new(result(
        run.attempt.trial,
        num_epochs,
    ))));
}

fn resume(run: &RunRequest) -> u32 {
    let Ok(entries) = std::fs::read_dir(&run.checkpoint_dir) else {
        return 0;
    };
    let epoch = |name: String| name.strip_prefix("epoch-")?.get(..5)?.parse().ok();
    entries
        .filter_map(|entry| epoch(entry.unwrap().file_name().into_string().unwrap()))
        .max()
        .unwrap_or(0)
}

fn misbehave(mode: &str) {
    match mode {
        "crash" => std::process::abort(),
        "exit" => std::process::exit(7),
        "killed" => {
            kill(Pid::this(), Signal::SIGKILL).unwrap();
            wait_for_ever()
        }
        "garbage" => {
            std::io::stdout().write_all(b"\x04\0\0\0oops").unwrap();
            std::io::stdout().flush().unwrap();
            wait_for_ever()
        }
        "huge" => {
            std::io::stdout()
                .write_all(&u32::MAX.to_le_bytes())
                .unwrap();
            std::io::stdout().flush().unwrap();
            wait_for_ever()
        }
        "hang" => wait_for_ever(),
        "ignore-end" => {
            send(&Reply::Failed(Failure::new(
                FailureClass::NonFinite,
                "and it will not go".into(),
            )));
            wait_for_ever()
        }
        "grandchild" => {
            // leaves the process group and outlives its parent
            let mut sleeper = Command::new("sleep");
            sleeper
                .arg("600")
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            sleeper.spawn().unwrap();
            std::process::exit(9)
        }
        "failed" => {
            eprintln!("why it failed, in detail");
            send(&Reply::Failed(Failure::new(
                FailureClass::NonFinite,
                "the loss is NaN".into(),
            )));
            wait_for_ever()
        }
        "gpu" => {
            eprintln!("the last line about cuda:1");
            let failure = Failure::new(FailureClass::BadDevice, "cuda:1 has an Xid".into());
            send(&Reply::Failed(Failure {
                devices: vec!["cuda:1".into()],
                ..failure
            }));
            wait_for_ever()
        }
        "stop" => {
            send(&Reply::Stopped);
            wait_for_ever()
        }
        other => panic!("unknown mode {other}"),
    }
}

fn wait_for_ever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn send(reply: &Reply) {
    write_frame(std::io::stdout().lock(), reply).unwrap();
}

/// The names of the devices, counted from 0 as a real trainer counts them.
fn devices() -> Vec<String> {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let gpus = visible
        .split(',')
        .filter(|uuid| uuid.starts_with("GPU-"))
        .enumerate();
    gpus.map(|(index, uuid)| format!("cuda:{index} ({uuid})"))
        .collect()
}

/// A result that depends on the trial alone.
fn result(trial: TrialId, num_epochs: u32) -> TrialResult {
    let digits = trial.bits();
    let accuracy = (digits % 1000) as f64 / 1000.0;
    let epoch = EpochRecord {
        train_loss: 0.5,
        accuracy: Some(accuracy),
        state_hash: trial.to_string(),
        ..EpochRecord::default()
    };
    TrialResult {
        classes: None,
        last_accuracy: accuracy,
        best_accuracy: accuracy,
        best_epoch: 0,
        last_balanced_accuracy: accuracy,
        train_loss: 0.5,
        eval_loss: 0.5,
        epochs: vec![epoch; num_epochs as usize],
        provenance: Provenance {
            devices: devices(),
            ..Provenance::default()
        },
        timing: Timing::default(),
    }
}
