//! Promise P6: a trial interrupted any number of times ends with the bits of an uninterrupted one.
//!
//! Interruptions are requested stops at every step border, and kills in every epoch. The bits are
//! compared through the hash chain over weights, momentum and moving statistics, and through every
//! number of the record.

mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rig::{checkpoints, finish, request};
use sweep::TrialSpec;
use sweep::handoff::Progress;
use sweep::record::{EpochRecord, FailureClass, TrialResult};
use sweep::settings::{AdamW, Loss, Optimizer, SamplesPerClass, Schedule, Settings};
use trainer::{AttemptEnd, Fault, Runner, Session, SlotOptions};

const NUM_EPOCHS: u32 = 3;
/// Steps for 40 images in batches of 16.
const STEPS_PER_EPOCH: u32 = 3;

fn spec(replicas: u32) -> TrialSpec {
    let settings = sweep::recipe::settings("quick", "digits").expect("a recipe");
    let settings = Settings {
        samples_per_class: SamplesPerClass::Count(4),
        batch_size: 16,
        loss: Loss::CosXent,
        shift: 0.1,
        schedule: Schedule::Cosine { epochs: NUM_EPOCHS },
        replicas,
        ..settings
    };
    TrialSpec::new(settings, 3)
}

fn session(fault: Option<&str>) -> Session {
    Session::new(options(fault))
}

fn options(fault: Option<&str>) -> SlotOptions {
    SlotOptions {
        fault: fault.map(|text| Fault::parse(text).unwrap()),
        checkpoint_interval: Duration::ZERO,
        report_interval: Duration::ZERO,
        ..rig::options()
    }
}

fn undisturbed(spec: &TrialSpec) -> TrialResult {
    let folder = tempfile::tempdir().unwrap();
    finish(&mut session(None), &request(spec, 1, folder.path()))
}

/// Returns all values that must be equal: everything but times and places.
fn numbers(result: &TrialResult) -> (Vec<EpochRecord>, [u64; 5], u32) {
    let values = [
        result.last_accuracy,
        result.best_accuracy,
        result.last_balanced_accuracy,
        result.train_loss,
        result.eval_loss,
    ];
    (
        result.epochs.clone(),
        values.map(f64::to_bits),
        result.best_epoch,
    )
}

fn stop_after_every_step(spec: &TrialSpec) {
    let replicas = spec.settings.replicas;
    let expected = undisturbed(spec);
    let folder = tempfile::tempdir().unwrap();
    let mut session = session(None);
    for attempt in 1.. {
        let stop = Arc::new(AtomicBool::new(false));
        // the first report comes before the first step
        let mut report = |progress: Progress| stop.store(progress.step > 0, Ordering::Relaxed);
        match session
            .run(&request(spec, attempt, folder.path()), &stop, &mut report)
            .unwrap()
        {
            AttemptEnd::Stopped => assert!(
                attempt <= NUM_EPOCHS * STEPS_PER_EPOCH,
                "every attempt makes a step"
            ),
            AttemptEnd::Finished(result) => {
                // a second replica may begin the next step before the first one's report is
                // received
                let fewest = if replicas == 1 {
                    NUM_EPOCHS * STEPS_PER_EPOCH
                } else {
                    2
                };
                assert!(attempt >= fewest, "only {attempt} attempts");
                assert_eq!(numbers(&result), numbers(&expected));
                return;
            }
        }
    }
}

#[test]
fn stopped_after_every_step() {
    stop_after_every_step(&spec(1));
}

#[test]
fn stopped_after_every_step_with_two_replicas() {
    stop_after_every_step(&spec(2));
}

/// AdamW keeps more than a momentum: mean squared gradients, and the number of steps.
#[test]
fn stopped_after_every_step_of_adamw() {
    let base = spec(1);
    let constants = AdamW {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
    };
    let settings = Settings {
        optimizer: Optimizer::Adamw(constants),
        learning_rate: 1e-3,
        weight_decay: 0.05,
        ..base.settings.clone()
    };
    stop_after_every_step(&TrialSpec { settings, ..base });
}

/// Momentum is reset, and moving statistics start to take in batches, where the second phase
/// begins.
#[test]
fn stopped_after_every_step_of_a_fine_tuning() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("weights.safetensors");
    let options = SlotOptions {
        weights_out: Some(weights.clone()),
        ..options(None)
    };
    let base = spec(1);
    finish(
        &mut Session::new(options),
        &request(&base, 1, folder.path()),
    );
    let schedule = Schedule::Cosine {
        epochs: NUM_EPOCHS - 1,
    };
    let settings = Settings {
        weights: Some(weights.display().to_string()),
        finetune_epochs: 1,
        schedule,
        ..base.settings.clone()
    };
    stop_after_every_step(&TrialSpec { settings, ..base });
}

#[test]
fn died_in_every_epoch() {
    let spec = spec(1);
    let expected = undisturbed(&spec);
    let folder = tempfile::tempdir().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    for epoch in 0..NUM_EPOCHS {
        let attempt = epoch + 1;
        let mut session = session(Some(&format!("panic epoch={epoch} attempt={attempt}")));
        let failure = session
            .run(&request(&spec, attempt, folder.path()), &stop, &mut |_| ())
            .err()
            .unwrap();
        assert_eq!(failure.class(), FailureClass::Crashed);
    }
    // the newest checkpoint is damaged as well: the previous one is used
    let newest = std::fs::read_dir(checkpoints(&spec, folder.path()))
        .unwrap()
        .map(|file| file.unwrap().path())
        .max();
    let newest = newest.expect("checkpoints were written");
    let sound = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &sound[..sound.len() / 2]).unwrap();
    let attempt = NUM_EPOCHS + 1;
    let request = request(&spec, attempt, folder.path());
    let result = finish(&mut session(None), &request);
    assert_eq!(numbers(&result), numbers(&expected));
    assert_eq!(result.timing.resumed_from_epoch, NUM_EPOCHS - 2);
}

/// With other threads, sums have another order: a resumed attempt that repeats an epoch gets other
/// bits.
#[test]
fn an_attempt_that_departs_from_the_one_before_is_flagged() {
    let spec = spec(1);
    let stop = Arc::new(AtomicBool::new(false));
    let attempts = |forge: bool| {
        let folder = tempfile::tempdir().unwrap();
        let died = session(Some("panic epoch=2")).run(
            &request(&spec, 1, folder.path()),
            &stop,
            &mut |_| (),
        );
        assert_eq!(died.err().unwrap().class(), FailureClass::Crashed);
        // as if the last checkpoint had not been written
        let checkpoints = checkpoints(&spec, folder.path());
        std::fs::remove_file(checkpoints.join("epoch-00002.attempt-1.safetensors")).unwrap();
        if forge {
            let chain = checkpoints.join("chain.attempt-1");
            let noted = std::fs::read_to_string(&chain).unwrap();
            let (_, hash) = noted
                .lines()
                .find_map(|line| line.split_once("1 "))
                .unwrap();
            std::fs::write(&chain, noted.replace(hash, "0123456789abcdef")).unwrap();
        }
        let timing = finish(&mut session(None), &request(&spec, 2, folder.path())).timing;
        (timing.resumed_from_epoch, timing.departed_at_epoch)
    };
    assert_eq!(attempts(false), (1, None));
    assert_eq!(attempts(true), (1, Some(1)));
}

#[test]
fn a_replica_that_fails_ends_the_attempt_with_its_reason() {
    let spec = spec(2);
    let stop = Arc::new(AtomicBool::new(false));
    let faults = [
        (
            "panic epoch=1 replica=1",
            FailureClass::Crashed,
            "injected fault",
        ),
        (
            "non_finite epoch=1 replica=0",
            FailureClass::NonFinite,
            "epoch 1",
        ),
        (
            "out_of_memory epoch=0 replica=1",
            FailureClass::OutOfMemory,
            "batch_size",
        ),
    ];
    for (fault, class, words) in faults {
        let folder = tempfile::tempdir().unwrap();
        let error = session(Some(fault))
            .run(&request(&spec, 1, folder.path()), &stop, &mut |_| ())
            .err()
            .unwrap();
        let failure = error.failure();
        assert!(
            failure.class == class && failure.message.contains(words),
            "{fault}: {failure:?}"
        );
    }
}

/// A trial with one step an epoch, the first of them so large that activations overflow in the
/// evaluation after it. In training the batch's own statistics normalise them, and it recovers.
fn diverging(epochs: u32) -> TrialSpec {
    let spec = spec(1);
    let settings = Settings {
        learning_rate: 1e6,
        batch_size: 40,
        schedule: Schedule::Constant { epochs },
        loss: Loss::Xent,
        ..spec.settings
    };
    TrialSpec { settings, ..spec }
}

#[test]
fn a_checkpoint_with_numbers_that_are_not_finite_is_resumed_from() {
    let spec = diverging(NUM_EPOCHS);
    let stop = Arc::new(AtomicBool::new(false));
    let expected = numbers(&undisturbed(&spec));
    let folder = tempfile::tempdir().unwrap();
    let died =
        session(Some("panic epoch=1")).run(&request(&spec, 1, folder.path()), &stop, &mut |_| ());
    assert_eq!(died.err().unwrap().class(), FailureClass::Crashed);
    let mut first = None;
    let mut report = |progress: Progress| {
        first.get_or_insert(progress.epoch);
    };
    let resumed = session(None).run(&request(&spec, 2, folder.path()), &stop, &mut report);
    let result = rig::finished(resumed);
    assert_eq!(
        first,
        Some(1),
        "the checkpoint of the first epoch was not used"
    );
    assert_eq!(numbers(&result), expected);
}

#[test]
fn a_result_has_finite_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let failure = session(None)
        .run(
            &request(&diverging(1), 1, folder.path()),
            &stop,
            &mut |_| (),
        )
        .err()
        .unwrap()
        .failure();
    assert_eq!(failure.class, FailureClass::NonFinite, "{failure:?}");
    assert!(
        failure.message.contains("evaluation loss") && failure.message.contains("epoch 0"),
        "{failure:?}"
    );
}

#[test]
fn a_stuck_replica_ends_the_attempt_at_the_deadline() {
    let spec = spec(2);
    let folder = tempfile::tempdir().unwrap();
    let options = SlotOptions {
        collective_deadline: Duration::from_millis(100),
        ..options(Some("stall epoch=1 replica=1"))
    };
    let stop = Arc::new(AtomicBool::new(false));
    let error = Session::new(options)
        .run(&request(&spec, 1, folder.path()), &stop, &mut |_| ())
        .err()
        .unwrap();
    assert_eq!(error.class(), FailureClass::Stalled, "{error}");
}
