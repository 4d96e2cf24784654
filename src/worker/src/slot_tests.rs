//! Tests of a slot whose trainer misbehaves: the failure is reported, and nothing of the trainer is
//! left (P5).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use schedule::event::Outcome;
use schedule::state;
use sweep::record::{Failure, FailureClass};
use sweep::{AttemptId, AttemptNo, TrialSpec};
use tokio::sync::mpsc;

use crate::connection::Coordinator;
use crate::devices::DriverError;
use crate::gpu_release::{GpuDriver, NvidiaSmi};
use crate::launch::Launch;
use crate::processes::Family;
use crate::slot::{Command, Run, Slot, SlotContext, SlotEvent, StopReason};
use crate::start::Timing;
use crate::trainer::Spawner;
use crate::uploads::Uploads;
use crate::work_dir::WorkDir;

struct Bench {
    dir: tempfile::TempDir,
    mark: String,
    commands: mpsc::Sender<Command>,
    slot_events: mpsc::Receiver<SlotEvent>,
    slot: tokio::task::JoinHandle<()>,
}

/// Writes a script that runs the fake trainer with this behaviour.
fn fake_trainer(dir: &Path, behaviour: &str) -> PathBuf {
    let program = std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .join("../examples/fake_trainer");
    assert!(
        program.exists(),
        "{} is missing: `cargo test -p worker` builds it",
        program.display()
    );
    let script = dir.join("trainer.sh");
    fs::write(
        &script,
        format!(
            "#!/bin/sh\nFAKE_TRAINER='{behaviour}' exec '{}' \"$@\"\n",
            program.display()
        ),
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

fn spec() -> Box<TrialSpec> {
    let text = "recipe: quick\nset: {dataset: digits, samples_per_class: 5, schedule: {constant: {epochs: 5}}}\n\
                axes: {loss: [xent, cos]}\nseeds: 1\noutputs: [{table: {name: t, rows: loss, columns: []}}]\n";
    let sweep = sweep::parse("test.yaml", text, &|_| Err(std::io::Error::other("none"))).unwrap();
    Box::new(sweep.cell_trials(0, None).remove(0).spec)
}

/// A driver whose GPUs are present; it lists the processes on them, or does not answer.
struct Driver {
    there: Vec<String>,
    answers: bool,
}

impl GpuDriver for Driver {
    fn processes(&self) -> Result<Vec<(u32, String)>, DriverError> {
        if self.answers {
            Ok(Vec::new())
        } else {
            Err(DriverError::Silent("nvidia-smi did not answer".into()))
        }
    }

    fn gpus(&self) -> Result<Vec<String>, DriverError> {
        Ok(self.there.clone())
    }
}

impl Bench {
    fn new(behaviour: &str) -> Self {
        Self::on(behaviour, &["cpu"], &[], Arc::new(NvidiaSmi))
    }

    /// A bench on the machine's third and first GPU, of three; the driver has `there`.
    fn on_gpus(behaviour: &str, there: &[&str], answers: bool) -> Self {
        let there = there.iter().map(|uuid| (*uuid).to_owned()).collect();
        Self::on(
            behaviour,
            &["cuda:2", "cuda:0"],
            &["GPU-c", "GPU-a"],
            Arc::new(Driver { there, answers }),
        )
    }

    fn on(behaviour: &str, devices: &[&str], uuids: &[&str], driver: Arc<dyn GpuDriver>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().file_name().unwrap().to_str().unwrap().to_owned();
        let launch = Launch {
            program: fake_trainer(dir.path(), behaviour),
            arguments: Vec::new(),
            trainer: sweep::Trainer::BuiltIn,
            libraries: None,
            slot: state::Slot {
                devices: devices.iter().map(|name| (*name).to_owned()).collect(),
                uuids: uuids.iter().map(|uuid| (*uuid).to_owned()).collect(),
                description: String::new(),
            },
            threads: 1,
            memory_share: 1.0,
            directory: None,
            variables: Vec::new(),
            mark: format!("{mark}/0"),
            driver,
        };
        let context = SlotContext {
            spawner: Spawner::start().unwrap(),
            build: "test".into(),
            data_dir: dir.path().into(),
            allowed_paths: None,
            cache_dir: dir.path().into(),
            work_dir: WorkDir::open(&dir.path().join("work")).unwrap(),
            programs: crate::programs::Programs::unreachable(dir.path()),
            uploads: Uploads {
                coordinator: Coordinator::at("http://127.0.0.1:1".to_owned(), None, None),
                patience: Duration::ZERO,
            },
            timing: Timing {
                trainer_start: Duration::from_secs(if behaviour.contains("start=hang") {
                    1
                } else {
                    60
                }),
                checkpoint: Duration::from_secs(1),
                exit: Duration::from_millis(300),
                // longer than any delay of a busy machine, where a request follows
                signal_before_request: Duration::from_secs(if behaviour == "always=killed" {
                    60
                } else {
                    0
                }),
                goodbye: Duration::ZERO,
                uploads: Duration::ZERO,
                refused: Duration::ZERO,
            },
        };
        let (commands, receiver) = mpsc::channel(16);
        let (events, slot_events) = mpsc::channel(64);
        let slot = tokio::spawn(Slot::new(0, launch, Arc::new(context), receiver, events).run());
        Self {
            dir,
            mark,
            commands,
            slot_events,
            slot,
        }
    }

    async fn run(&self, attempt: AttemptId) {
        self.commands
            .send(Command::Run(Run {
                attempt,
                since: AttemptNo(1),
                spec: spec(),
                keep: Default::default(),
            }))
            .await
            .unwrap();
    }

    /// Waits until the trainer has written to stderr, as it does at the beginning of an attempt.
    async fn begun(&self, attempt: AttemptId) {
        let log = self
            .dir
            .path()
            .join("work/logs")
            .join(attempt.trial.to_string())
            .join(format!("attempt-{}.stderr", attempt.number));
        while fs::read_to_string(&log).unwrap_or_default().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn progress(&mut self) {
        assert!(matches!(
            self.slot_events.recv().await,
            Some(SlotEvent::Progress { .. })
        ));
    }

    async fn outcome(&mut self, expected: AttemptId) -> Outcome {
        loop {
            match self.slot_events.recv().await.unwrap() {
                SlotEvent::Progress { .. } => {}
                SlotEvent::Ended { attempt, outcome } => {
                    assert_eq!(attempt, expected);
                    return outcome;
                }
            }
        }
    }

    async fn failure(&mut self, attempt: AttemptId) -> Failure {
        match self.outcome(attempt).await {
            Outcome::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    fn processes(&self) -> usize {
        Family::of_worker(&self.mark).members().unwrap().len()
    }

    async fn end(self) {
        drop(self.commands);
        self.slot.await.unwrap();
        assert!(Family::of_worker(&self.mark).members().unwrap().is_empty());
        drop(self.dir);
    }
}

fn id(trial: u32, number: u32) -> AttemptId {
    format!("t{trial:016x}#{number}").parse().unwrap()
}

#[tokio::test]
async fn one_trainer_serves_trial_after_trial() {
    let mut bench = Bench::new("");
    for number in 1..4 {
        bench.run(id(number, 1)).await;
        let Outcome::Finished(result) = bench.outcome(id(number, 1)).await else {
            panic!()
        };
        assert_eq!(result.epochs.len(), 5);
        assert_eq!(bench.processes(), 1);
    }
    let log = fs::read_to_string(
        bench
            .dir
            .path()
            .join("work/logs/t0000000000000003/attempt-1.stderr"),
    )
    .unwrap();
    assert_eq!(log, "attempt 1 of t0000000000000003\n");
    bench.end().await;
}

/// The behaviour, its failure class, and texts that the message must contain.
const MISBEHAVIOUR: [(&str, FailureClass, &[&str]); 10] = [
    (
        "first=crash",
        FailureClass::Crashed,
        &["while it trained", "SIGABRT", "attempt 1 of"],
    ),
    ("first=exit", FailureClass::Crashed, &["exit code 7"]),
    (
        "first=killed",
        FailureClass::Crashed,
        &["SIGKILL", "sent from outside"],
    ),
    (
        "first=garbage",
        FailureClass::Crashed,
        &["broke the hand-off", "while it trained"],
    ),
    (
        "first=huge",
        FailureClass::Crashed,
        &["4294967295 bytes was announced"],
    ),
    (
        "first=failed",
        FailureClass::NonFinite,
        &["the loss is NaN", "why it failed, in detail"],
    ),
    (
        "first=stop",
        FailureClass::Crashed,
        &["stopped without a request"],
    ),
    (
        "first=ignore-end",
        FailureClass::NonFinite,
        &["and it will not go"],
    ),
    ("first=grandchild", FailureClass::Crashed, &["exit code 9"]),
    (
        "start=exit",
        FailureClass::Node,
        &[
            "before it was ready",
            "exit code 3",
            "a reason that people must see",
        ],
    ),
];

#[tokio::test]
async fn a_trainer_that_misbehaves_is_gone_when_its_failure_is_reported() {
    for (behaviour, class, parts) in MISBEHAVIOUR {
        let mut bench = Bench::new(behaviour);
        bench.run(id(1, 1)).await;
        let failure = bench.failure(id(1, 1)).await;
        assert_eq!(bench.processes(), 0, "{behaviour}: something is left");
        assert_eq!(failure.class, class, "{behaviour}");
        for part in parts {
            assert!(
                failure.message.contains(part),
                "{behaviour}: {}",
                failure.message
            );
        }
        if behaviour.starts_with("first") {
            bench.run(id(1, 2)).await;
            assert!(
                matches!(bench.outcome(id(1, 2)).await, Outcome::Finished(_)),
                "{behaviour}"
            );
        }
        bench.end().await;
    }
}

#[tokio::test]
async fn a_trainer_that_is_not_one_is_refused() {
    for (behaviour, part) in [
        ("start=hang", "not ready after 1 s"),
        ("start=garbage", "broke the hand-off"),
        (
            "start=other-build",
            "is of build `other`, this worker of `test`",
        ),
        ("start=other-protocol", "this worker has version 1"),
    ] {
        let mut bench = Bench::new(behaviour);
        bench.run(id(1, 1)).await;
        let failure = bench.failure(id(1, 1)).await;
        assert!(
            failure.message.contains(part),
            "{behaviour}: {}",
            failure.message
        );
        assert_eq!(
            (failure.class, bench.processes()),
            (FailureClass::Node, 0),
            "no trial was under way"
        );
        bench.end().await;
    }
}

#[tokio::test]
async fn a_missing_trainer_is_named() {
    let mut bench = Bench::new("");
    fs::remove_file(bench.dir.path().join("trainer.sh")).unwrap();
    bench.run(id(1, 1)).await;
    let failure = bench.failure(id(1, 1)).await;
    assert!(
        failure.message.contains("cannot start the trainer")
            && failure.message.contains("trainer.sh")
    );
    assert_eq!(failure.class, FailureClass::Node);
    bench.end().await;
}

#[tokio::test]
async fn stop_leaves_a_checkpoint_and_the_trainer() {
    let mut bench = Bench::new("epoch-ms=20");
    bench.run(id(1, 1)).await;
    bench.progress().await;
    bench
        .commands
        .send(Command::Stop {
            attempt: id(1, 1),
            reason: StopReason::Unwanted,
        })
        .await
        .unwrap();
    assert_eq!(bench.outcome(id(1, 1)).await, Outcome::Stopped);
    assert_eq!(bench.processes(), 1);
    assert!(
        bench
            .dir
            .path()
            .join("work/checkpoints/t0000000000000001/epoch-00001.attempt-1.fake")
            .exists()
    );
    bench.end().await;
}

#[tokio::test]
async fn a_trainer_that_does_not_stop_is_killed() {
    let mut bench = Bench::new("first=hang");
    bench.run(id(1, 1)).await;
    let reason = StopReason::Preempted("the node is needed".into());
    bench
        .commands
        .send(Command::Stop {
            attempt: id(1, 1),
            reason,
        })
        .await
        .unwrap();
    let failure = bench.failure(id(1, 1)).await;
    assert_eq!(failure.class, FailureClass::Preempted);
    assert!(failure.message.contains("the node is needed"));
    assert_eq!(bench.processes(), 0);
    bench.end().await;
}

#[tokio::test]
async fn runs_wait_for_their_turn_and_can_be_stopped_before_it() {
    let mut bench = Bench::new("epoch-ms=20");
    for number in 1..4 {
        bench.run(id(number, 1)).await;
    }
    bench
        .commands
        .send(Command::Stop {
            attempt: id(2, 1),
            reason: StopReason::Unwanted,
        })
        .await
        .unwrap();
    assert!(matches!(
        bench.outcome(id(1, 1)).await,
        Outcome::Finished(_)
    ));
    assert_eq!(bench.outcome(id(2, 1)).await, Outcome::Stopped);
    assert!(matches!(
        bench.outcome(id(3, 1)).await,
        Outcome::Finished(_)
    ));
    bench.end().await;
}

/// Slurm with `proctrack/linuxproc` signals every process below a job's step.
#[tokio::test]
async fn signals_that_ask_to_end_do_not_reach_a_trainer() {
    use nix::sys::signal::{Signal, kill};
    let mut bench = Bench::new("epoch-ms=20");
    bench.run(id(1, 1)).await;
    bench.progress().await;
    let before = Family::of_worker(&bench.mark).members().unwrap();
    for signal in [
        Signal::SIGUSR1,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGINT,
    ] {
        kill(before[0], signal).unwrap();
    }
    assert!(matches!(
        bench.outcome(id(1, 1)).await,
        Outcome::Finished(_)
    ));
    assert_eq!(Family::of_worker(&bench.mark).members().unwrap(), before);
    bench.end().await;
}

#[tokio::test]
async fn a_trainer_that_a_signal_ended_before_its_worker_leaves_was_preempted() {
    let mut bench = Bench::new("always=killed");
    bench.run(id(1, 1)).await;
    bench.begun(id(1, 1)).await;
    while bench.processes() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench
        .commands
        .send(Command::Stop {
            attempt: id(1, 1),
            reason: StopReason::Preempted("SIGTERM".into()),
        })
        .await
        .unwrap();
    let failure = bench.failure(id(1, 1)).await;
    assert_eq!(failure.class, FailureClass::Preempted);
    assert_eq!(failure.message, "the worker leaves: SIGTERM");
    bench.end().await;
}

async fn end_idle_trainer(bench: &Bench) {
    let trainer = Family::of_worker(&bench.mark).members().unwrap()[0];
    nix::sys::signal::kill(trainer, nix::sys::signal::Signal::SIGKILL).unwrap();
    // Wait until the last thread has ended: the process loses its environment, which marks it as
    // the worker's, before its pipes. WNOWAIT leaves it for the slot to reap.
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    tokio::task::spawn_blocking(move || waitid(Id::Pid(trainer), flags))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn an_idle_trainer_that_ends_is_replaced_without_a_failure() {
    let mut bench = Bench::new("");
    bench.run(id(1, 1)).await;
    bench.outcome(id(1, 1)).await;
    end_idle_trainer(&bench).await;
    bench.run(id(2, 1)).await;
    let outcome = bench.outcome(id(2, 1)).await;
    assert!(matches!(outcome, Outcome::Finished(_)), "{outcome:?}");
    bench.end().await;
}

#[tokio::test]
async fn kill_ends_everything_without_a_report() {
    let mut bench = Bench::new("always=ignore-end");
    bench.run(id(1, 1)).await;
    let hanging = Bench::new("always=hang");
    hanging.run(id(1, 1)).await;
    hanging.commands.send(Command::Kill).await.unwrap();
    hanging.end().await;
    bench.failure(id(1, 1)).await;
    bench.end().await;
}

const ALL: [&str; 3] = ["GPU-a", "GPU-b", "GPU-c"];

#[tokio::test]
async fn gpus_in_a_trainers_reports_have_the_machines_names() {
    let mut bench = Bench::on_gpus("first=gpu", &ALL, true);
    bench.run(id(1, 1)).await;
    let failure = bench.failure(id(1, 1)).await;
    assert_eq!(
        (failure.class, failure.devices),
        (FailureClass::BadDevice, vec!["cuda:0".to_owned()])
    );
    assert_eq!(
        failure.message,
        "cuda:0 has an Xid\nstderr:\nattempt 1 of t0000000000000001\nthe last line about cuda:0"
    );
    bench.run(id(1, 2)).await;
    let Outcome::Finished(result) = bench.outcome(id(1, 2)).await else {
        panic!()
    };
    assert_eq!(
        result.provenance.devices,
        ["cuda:2 (GPU-c)", "cuda:0 (GPU-a)"]
    );
    bench.end().await;
}

#[tokio::test]
async fn a_gpu_that_is_gone_when_a_trainer_starts_is_a_bad_device() {
    for (there, named, part) in [
        (
            &["GPU-a", "GPU-b"][..],
            vec!["cuda:2".to_owned()],
            "cuda:2 (GPU-c): not there any more\nstderr:\nerror: ",
        ),
        // the driver has both and CUDA has not, so it is not known which one is missing
        (
            &ALL,
            vec![],
            "does not find the devices of its slot (cuda:2, cuda:0)\n",
        ),
    ] {
        let mut bench = Bench::on_gpus("absent=GPU-c", there, true);
        bench.run(id(1, 1)).await;
        let failure = bench.failure(id(1, 1)).await;
        assert_eq!(
            (failure.class, failure.devices),
            (FailureClass::BadDevice, named)
        );
        assert!(failure.message.contains(part), "{}", failure.message);
        assert!(
            failure
                .message
                .contains("names cuda:2, but there are fewer"),
            "{}",
            failure.message
        );
        bench.end().await;
    }
}

/// Whatever ended the trainer, a driver that does not answer afterwards means that the device must
/// not be used again.
#[tokio::test]
async fn a_slot_whose_trainer_still_holds_a_gpu_is_broken() {
    let not_released = |failure: Failure, attempt: &str| {
        assert_eq!(
            (failure.class, failure.devices),
            (FailureClass::BadDevice, vec![])
        );
        let expected = format!("nvidia-smi did not answer; the attempt itself: {attempt}");
        assert!(
            failure.message.starts_with(&expected),
            "{}",
            failure.message
        );
    };
    let mut failing = Bench::on_gpus("always=failed", &ALL, false);
    failing.run(id(1, 1)).await;
    not_released(
        failing.failure(id(1, 1)).await,
        "the loss is NaN\nstderr:\n",
    );
    failing.end().await;

    // then the device that the trainer blames is not the only suspect
    let mut broken = Bench::on_gpus("always=gpu", &ALL, false);
    broken.run(id(1, 1)).await;
    not_released(broken.failure(id(1, 1)).await, "cuda:0 has an Xid\n");
    broken.end().await;

    let mut stubborn = Bench::on_gpus("always=hang", &ALL, false);
    stubborn.run(id(1, 1)).await;
    stubborn.begun(id(1, 1)).await;
    stubborn
        .commands
        .send(Command::Stop {
            attempt: id(1, 1),
            reason: StopReason::Unwanted,
        })
        .await
        .unwrap();
    not_released(
        stubborn.failure(id(1, 1)).await,
        "it did not stop in time\n",
    );
    stubborn.end().await;

    let mut starting = Bench::on_gpus("start=hang", &ALL, false);
    starting.run(id(1, 1)).await;
    starting
        .commands
        .send(Command::Stop {
            attempt: id(1, 1),
            reason: StopReason::Unwanted,
        })
        .await
        .unwrap();
    not_released(
        starting.failure(id(1, 1)).await,
        "it was stopped while its trainer started",
    );
    starting.end().await;

    let mut idle = Bench::on_gpus("", &ALL, false);
    idle.run(id(1, 1)).await;
    assert!(matches!(idle.outcome(id(1, 1)).await, Outcome::Finished(_)));
    end_idle_trainer(&idle).await;
    idle.run(id(2, 1)).await;
    not_released(
        idle.failure(id(2, 1)).await,
        "it had not begun; the idle trainer ended by itself",
    );
    idle.end().await;
}
