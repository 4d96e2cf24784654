//! Checks of results, whatever their sender, and the numbers derived from a result.

use sweep::record::{
    BadResult, ClassCounts, EpochRecord, Failure, FailureClass, Subset, Timing, TrialResult,
};
use sweep::settings::Schedule;
use sweep::{Settings, TrialSpec, recipe};

fn result() -> TrialResult {
    let epoch = EpochRecord {
        train_loss: 0.5,
        accuracy: Some(0.25),
        balanced_accuracy: Some(0.25),
        top5_accuracy: Some(0.25),
        state_hash: "0123456789abcdef".to_owned(),
        ..EpochRecord::default()
    };
    TrialResult {
        last_accuracy: 0.25,
        best_accuracy: 0.25,
        best_epoch: 1,
        last_balanced_accuracy: 0.25,
        train_loss: 0.5,
        eval_loss: 0.5,
        epochs: vec![epoch.clone(), epoch],
        classes: Some(ClassCounts {
            images: vec![3, 5],
            correct: vec![3, 0],
        }),
        provenance: Default::default(),
        timing: Timing::default(),
    }
}

/// Checks a changed result: fine, or refused because of this field.
fn check(refused: Option<&str>, change: impl Fn(&mut TrialResult)) {
    let mut result = result();
    change(&mut result);
    let found = result.check().map_err(|bad| bad.field);
    assert_eq!(found.err().as_deref(), refused, "{result:?}");
}

#[test]
fn numbers_that_no_training_produces_are_refused_by_field() {
    check(None, |_| {});
    check(Some("epochs"), |result| result.epochs.clear());
    check(Some("best_epoch"), |result| result.best_epoch = 2);
    check(None, |result| result.epochs[1].accuracy = None);
    for (field, of) in [
        (
            "last_accuracy",
            (|result| &mut result.last_accuracy) as fn(&mut TrialResult) -> &mut f64,
        ),
        ("best_accuracy", |result| &mut result.best_accuracy),
        ("last_balanced_accuracy", |result| {
            &mut result.last_balanced_accuracy
        }),
        ("epochs[1].accuracy", |result| {
            result.epochs[1]
                .accuracy
                .as_mut()
                .expect("it was evaluated")
        }),
        ("epochs[0].balanced_accuracy", |result| {
            result.epochs[0]
                .balanced_accuracy
                .as_mut()
                .expect("it was evaluated")
        }),
        ("epochs[0].top5_accuracy", |result| {
            result.epochs[0]
                .top5_accuracy
                .as_mut()
                .expect("it was evaluated")
        }),
    ] {
        for (value, refused) in [
            (0.0, None),
            (1.0, None),
            (-0.001, Some(field)),
            (1.001, Some(field)),
            (f64::NAN, Some(field)),
        ] {
            check(refused, |result| *of(result) = value);
        }
    }
    for (field, of) in [
        (
            "train_loss",
            (|result| &mut result.train_loss) as fn(&mut TrialResult) -> &mut f64,
        ),
        ("eval_loss", |result| &mut result.eval_loss),
        ("epochs[0].train_loss", |result| {
            &mut result.epochs[0].train_loss
        }),
        ("timing.train_s", |result| &mut result.timing.train_s),
        ("timing.peak_memory_mib", |result| {
            &mut result.timing.peak_memory_mib
        }),
    ] {
        check(None, |result| *of(result) = -7.0);
        check(Some(field), |result| *of(result) = f64::INFINITY);
    }
    check(Some("timing.watched_step_ms"), |result| {
        result.timing.watched_step_ms = Some((1.0, f64::NAN));
    });
    check(Some("timing.gpu_busy"), |result| {
        result.timing.gpu_busy = Some(f64::NAN);
    });
    check(Some("timing.cpu_s"), |result| {
        result.timing.cpu_s = Some(f64::INFINITY);
    });
    check(Some("timing.gpu_energy_j"), |result| {
        result.timing.gpu_energy_j = Some(f64::NAN);
    });
}

#[test]
fn counts_of_classes_are_of_the_same_classes_and_images() {
    check(None, |result| result.classes = None);
    let lists = [
        (&[][..], None),
        (&[3, 5], None),
        (&[4, 0], Some("classes")),
        (&[1], Some("classes")),
    ];
    for (correct, refused) in lists {
        check(refused, |result| {
            let classes = result.classes.as_mut().expect("they were counted");
            classes.correct = correct.to_vec();
            if correct.is_empty() {
                classes.images.clear();
            }
        });
    }
    let counts = result().classes.expect("they were counted");
    assert_eq!(counts.classes().collect::<Vec<_>>(), [(3, 3), (5, 0)]);
}

#[test]
fn hashes_and_epochs_of_a_result_are_bounded() {
    for (hash, refused) in [
        ("a".repeat(64), None),
        (String::new(), None),
        ("a".repeat(65), Some("epochs[0].state_hash")),
        ("a/b".to_owned(), Some("epochs[0].state_hash")),
        ("é".to_owned(), Some("epochs[0].state_hash")),
    ] {
        check(refused, |result| result.epochs[0].state_hash = hash.clone());
    }
    for (epoch, is_refused) in [(0, false), (2, false), (3, true)] {
        check(
            is_refused.then_some("timing.resumed_from_epoch"),
            |result| {
                result.timing.resumed_from_epoch = epoch;
            },
        );
        check(is_refused.then_some("timing.departed_at_epoch"), |result| {
            result.timing.departed_at_epoch = Some(epoch);
        });
    }
}

#[test]
fn a_result_holds_the_epochs_of_its_trial_and_is_checked_first() {
    let spec = |epochs| {
        let schedule = Schedule::Constant { epochs };
        let settings = recipe::settings("quick", "digits").expect("a recipe");
        TrialSpec::new(
            Settings {
                schedule,
                ..settings
            },
            1,
        )
    };
    assert_eq!(result().check_against(&spec(2)), Ok(()));
    let refused = result().check_against(&spec(3)).unwrap_err();
    assert_eq!(refused.class, FailureClass::Crashed);
    let text = refused.to_string();
    assert_eq!(text, "field `epochs`: holds 2 epochs, and 3 were asked for");
    let mut bad = result();
    bad.eval_loss = f64::NAN;
    let refused: BadResult = bad.check_against(&spec(2)).unwrap_err();
    assert_eq!(refused.field, "eval_loss");
    let failure = Failure::from(refused);
    assert_eq!(failure.class, FailureClass::NonFinite);
    assert!(
        failure
            .message
            .starts_with("the trainer's result cannot be used: field `eval_loss`")
    );
}

#[test]
fn the_chosen_images_are_known_by_number_and_order() {
    let subset = |indices: &[u32]| Subset::Indices(indices.to_vec());
    assert_eq!(
        (Subset::All.num_images(), Subset::All.fingerprint()),
        (None, "all".to_owned())
    );
    assert_eq!(subset(&[3, 1, 2]).num_images(), Some(3));
    // b3sum of the indices as 32-bit numbers, little-endian.
    assert_eq!(subset(&[]).fingerprint(), "af1349b9f5f9a1a6");
    assert_eq!(subset(&[3, 1]).fingerprint().len(), 16);
    assert_ne!(subset(&[3, 1]).fingerprint(), subset(&[1, 3]).fingerprint());
}

#[test]
fn the_share_of_waiting_is_of_the_training_time() {
    let share = |train_s, data_wait_s| {
        let timing = Timing {
            train_s,
            data_wait_s,
            ..Timing::default()
        };
        timing.data_wait_share()
    };
    assert_eq!(share(8.0, 2.0), 0.25);
    assert_eq!(share(0.0, 2.0), 0.0);
}

#[test]
fn a_class_has_one_name_in_the_journal_and_in_tables() {
    for class in [
        FailureClass::BadInput,
        FailureClass::NonFinite,
        FailureClass::OutOfMemory,
        FailureClass::Crashed,
        FailureClass::Stalled,
        FailureClass::Unreachable,
        FailureClass::Preempted,
        FailureClass::BadDevice,
        FailureClass::Node,
    ] {
        let journalled = serde_json::to_value(class).expect("plain data");
        assert_eq!(journalled, class.to_string());
    }
    assert_eq!(FailureClass::OutOfMemory.to_string(), "out_of_memory");
}
