//! The trainer from its worker's point of view: a real process, with frames over its stdin and
//! stdout.
//!
//! Waits for replies, never for a time. Trials are tiny but real; faults are injected through the
//! environment. Next: src/serve.rs.

mod rig;

use std::io::Write;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use sweep::TrialSpec;
use sweep::handoff::{EXIT_DEVICE_ABSENT, Ready, Reply, Request, read_frame, write_frame};
use sweep::record::{FailureClass, Provenance};
use sweep::settings::{EvaluateEvery, Model, SamplesPerClass, Schedule, Settings};

struct Trainer {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    ready: Ready,
    folder: tempfile::TempDir,
}

impl Trainer {
    fn start(arguments: &[&str], fault: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_orchestrator-trainer"))
            .arg("serve")
            .args(arguments)
            .env(trainer::FAULT_VARIABLE, fault)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, mut stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        let Some(Reply::Ready(ready)) = read_frame(&mut stdout).unwrap() else {
            panic!("the first reply is `ready`")
        };
        Self {
            child,
            stdin,
            stdout,
            ready,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn send(&mut self, request: &Request) {
        write_frame(self.stdin.as_mut().unwrap(), request).unwrap();
    }

    fn run(&mut self, spec: &TrialSpec) {
        let request = rig::request(spec, 1, self.folder.path());
        self.send(&Request::Run(Box::new(request)));
    }

    fn reply(&mut self) -> Reply {
        read_frame(&mut self.stdout).unwrap().expect("a reply")
    }

    /// Returns the reply that ends a run.
    fn answer(&mut self) -> Reply {
        loop {
            let reply = self.reply();
            if !matches!(reply, Reply::Progress(_)) {
                return reply;
            }
        }
    }

    fn failure(&mut self) -> (FailureClass, String) {
        match self.answer() {
            Reply::Failed(failure) => (failure.class, failure.message),
            reply => panic!("a failure was expected, not {reply:?}"),
        }
    }

    /// Closes stdin, waits for the exit and returns its code.
    fn end(mut self) -> Option<i32> {
        self.stdin = None;
        self.child.wait().unwrap().code()
    }
}

fn spec(num_epochs: u32, seed: u64) -> TrialSpec {
    let settings = Settings {
        samples_per_class: SamplesPerClass::Count(2),
        schedule: Schedule::Constant { epochs: num_epochs },
        evaluate_every: EvaluateEvery::Count(num_epochs),
        ..sweep::recipe::settings("quick", "digits").expect("a recipe")
    };
    TrialSpec::new(settings, seed)
}

/// The most epochs that settings may ask for.
const ENDLESS: u32 = 100_000;

#[test]
fn trains_trial_after_trial_and_ends_with_its_stdin() {
    let mut trainer = Trainer::start(&[], "");
    assert_eq!(trainer.ready.build, sweep::build());
    assert!(
        trainer.ready.libtorch.starts_with("2.11.0")
            && trainer.ready.devices[0].starts_with("cpu (")
    );
    let mut hashes = Vec::new();
    for seed in [1, 2, 1] {
        trainer.run(&spec(2, seed));
        let Reply::Finished(result) = trainer.answer() else {
            panic!("it finishes")
        };
        assert_eq!(result.epochs.len(), 2);
        assert_eq!(result.provenance.subset.num_images(), Some(20));
        let Provenance {
            execution,
            kernels,
            images,
            libraries,
            ..
        } = &result.provenance;
        assert_eq!((execution.as_str(), images.as_str()), ("queued", "host"));
        assert!(
            ["libtorch", "fused-norm", "fused-norm+products"].contains(&kernels.as_str()),
            "{kernels}"
        );
        assert!(
            libraries.is_empty() && result.timing.gpu_busy.is_none(),
            "these are a GPU's"
        );
        assert_eq!(result.timing.gpu_energy_j, None, "this is a GPU's");
        assert!(result.timing.cpu_s.is_some_and(|seconds| seconds > 0.0));
        hashes.push(result.epochs[1].state_hash.clone());
    }
    assert!(
        hashes[0] == hashes[2] && hashes[0] != hashes[1],
        "what ran before leaves no trace: {hashes:?}"
    );
    // a stop that arrives after the end of its run has no effect on the next
    trainer.send(&Request::Stop);
    trainer.run(&spec(1, 1));
    assert!(matches!(trainer.answer(), Reply::Finished(_)));
    assert_eq!(trainer.end(), Some(0));
}

/// The allocator keeps what a trial frees for the next of its kind; the peak reported for a smaller
/// one excludes it.
#[test]
fn peak_memory_is_the_trials_own() {
    let mut trainer = Trainer::start(&[], "");
    let mut peak_of = |batch_size| {
        let mut spec = spec(1, 1);
        spec.settings.samples_per_class = SamplesPerClass::Count(100);
        spec.settings.model = Model::Resnet20;
        spec.settings.batch_size = batch_size;
        trainer.run(&spec);
        let Reply::Finished(result) = trainer.answer() else {
            panic!("it finishes")
        };
        result.timing.peak_memory_mib
    };
    let (small, large, small_again) = (peak_of(10), peak_of(1000), peak_of(10));
    let added = large - small;
    assert!(added > 20.0, "{small} {large}: the test needs a difference");
    assert!(
        small_again < small + added / 2.0,
        "{small} {large} {small_again} MiB"
    );
}

#[test]
fn stops_on_request_and_continues_from_there() {
    let mut trainer = Trainer::start(&[], "");
    trainer.run(&spec(ENDLESS, 1));
    loop {
        match trainer.reply() {
            Reply::Progress(progress) if progress.epoch > 2 => break,
            Reply::Progress(_) => {}
            reply => panic!("progress was expected, not {reply:?}"),
        }
    }
    trainer.send(&Request::Stop);
    assert_eq!(trainer.answer(), Reply::Stopped);
    trainer.run(&spec(ENDLESS, 1));
    let Reply::Progress(progress) = trainer.reply() else {
        panic!("progress comes first")
    };
    assert!(progress.epoch > 2 && progress.step == 0, "{progress:?}");
    // the end of stdin ends the process in the middle of a trial
    assert_eq!(trainer.end(), Some(0));
}

#[test]
fn failures_have_classes_and_the_trainer_lives_on() {
    let mut trainer = Trainer::start(&[], "non_finite epoch=1");
    let mut absent = spec(1, 1);
    absent.settings.dataset = "cifar100".to_owned();
    trainer.run(&absent);
    let (class, message) = trainer.failure();
    assert!(
        class == FailureClass::BadInput && message.contains("cifar100"),
        "{class:?} {message}"
    );
    let mut greedy = spec(1, 1);
    greedy.settings.samples_per_class = SamplesPerClass::Count(5000);
    trainer.run(&greedy);
    let (class, message) = trainer.failure();
    assert!(
        class == FailureClass::BadInput && message.contains("5000"),
        "{class:?} {message}"
    );
    trainer.run(&spec(3, 1));
    let (class, message) = trainer.failure();
    assert!(
        class == FailureClass::NonFinite && message.contains("epoch 1"),
        "{class:?} {message}"
    );
    trainer.run(&spec(1, 2));
    assert!(matches!(trainer.answer(), Reply::Finished(_)));
}

#[test]
fn dies_by_exit_code_on_order() {
    let mut trainer = Trainer::start(&[], "exit=7 epoch=1");
    trainer.run(&spec(3, 1));
    while let Ok(Some(Reply::Progress(_))) = read_frame(&mut trainer.stdout) {}
    assert_eq!(trainer.child.wait().unwrap().code(), Some(7));
}

#[test]
fn nonsense_on_stdin_ends_the_process() {
    let mut trainer = Trainer::start(&["--rehearse"], "");
    trainer
        .stdin
        .as_mut()
        .unwrap()
        .write_all(&[4, 0, 0, 0, b'n', b'o', b'p', b'e'])
        .unwrap();
    assert_eq!(trainer.child.wait().unwrap().code(), Some(2));
}

#[test]
fn rehearses_without_training() {
    let mut trainer = Trainer::start(&["--rehearse", "--rehearse-epoch-ms", "1"], "");
    let long = spec(5, 1);
    trainer.run(&long);
    let Reply::Finished(first) = trainer.answer() else {
        panic!("it finishes")
    };
    assert_eq!(first.epochs.len(), 5);
    trainer.run(&long);
    let Reply::Finished(second) = trainer.answer() else {
        panic!("it finishes")
    };
    assert_eq!(
        first.epochs, second.epochs,
        "a trial's made-up numbers are always the same"
    );
    trainer.run(&spec(ENDLESS, 1));
    trainer.send(&Request::Stop);
    assert_eq!(trainer.answer(), Reply::Stopped);
    assert_eq!(trainer.end(), Some(0));
}

/// The worker distinguishes this failure from others by the exit code.
#[test]
fn a_device_that_is_not_there_has_an_exit_code_of_its_own() {
    let end = |devices: &str| {
        let arguments = ["serve", "--devices", devices];
        let output = Command::new(env!("CARGO_BIN_EXE_orchestrator-trainer"))
            .args(arguments)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, message) = end("cuda:4000");
    assert_eq!(code, Some(i32::from(EXIT_DEVICE_ABSENT)), "{message}");
    assert!(
        message.contains("`--devices` names cuda:4000, but "),
        "{message}"
    );
    assert_eq!(
        end("cuda:").0,
        Some(1),
        "a mistake of the command line is none of a device"
    );
}
