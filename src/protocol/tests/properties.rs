//! Messages that a peer may send: round trips keep every value, wrong fields are named, and no
//! bytes cause a panic.

use proptest::prelude::*;
use prost::Message;
use protocol::{DiskUse, FromCoordinator, FromWorker, Hello, Invalid, WorkerSecret, v1};
use schedule::Removable;
use schedule::event::{EndedAttempt, Outcome, RunningAttempt};
use schedule::state::{Slot, WorkerId, WorkerInfo};
use sweep::handoff::Progress;
use sweep::record::{EpochRecord, Failure, FailureClass, Provenance, Timing, TrialResult};
use sweep::{AttemptId, AttemptNo, Program, Trainer, TrialId};

fn trial() -> impl Strategy<Value = TrialId> {
    "[0-9a-f]{16}".prop_map(|digits| digits.parse().unwrap())
}

fn attempt() -> impl Strategy<Value = AttemptId> {
    (trial(), 1..=u32::MAX).prop_map(|(trial, number)| trial.attempt(AttemptNo(number)))
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9µ.:-]{1,40}"
}

fn fraction() -> impl Strategy<Value = f64> {
    0.0..=1.0f64
}

fn finite() -> impl Strategy<Value = f64> {
    any::<f64>().prop_filter("finite", |value| value.is_finite())
}

prop_compose! {
    fn progress()(
        epoch in any::<u32>(), num_epochs in any::<u32>(), step in any::<u64>(), steps_per_epoch in any::<u64>(),
        collectives in any::<u64>(), train_loss in proptest::option::of(finite()),
        accuracy in proptest::option::of(fraction()), images_per_s in finite(),
    ) -> Progress {
        Progress { epoch, num_epochs, step, steps_per_epoch, collectives, train_loss, accuracy, images_per_s }
    }
}

prop_compose! {
    fn running()(id in attempt(), slot in any::<u32>(), progress in progress()) -> RunningAttempt {
        RunningAttempt { id, slot, progress }
    }
}

prop_compose! {
    fn epoch()(train_loss in finite(), accuracy in proptest::option::of(fraction()), hash in any::<u64>()) -> EpochRecord {
        EpochRecord { train_loss, accuracy, state_hash: format!("{hash:016x}"), ..EpochRecord::default() }
    }
}

prop_compose! {
    fn result()(
        last_accuracy in fraction(), best_accuracy in fraction(), best in any::<prop::sample::Index>(),
        last_balanced_accuracy in fraction(), train_loss in finite(), eval_loss in finite(),
        epochs in proptest::collection::vec(epoch(), 1..4), host in name(), train_s in finite(),
    ) -> TrialResult {
        let best_epoch = best.index(epochs.len()) as u32;
        TrialResult {
classes: None,
            last_accuracy, best_accuracy, best_epoch, last_balanced_accuracy, train_loss, eval_loss, epochs,
            provenance: Provenance { host, ..Provenance::default() },
            timing: Timing { train_s, ..Timing::default() },
        }
    }
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        result().prop_map(|result| Outcome::Finished(Box::new(result))),
        "[ -~\n]{0,200}"
            .prop_map(|message| Outcome::Failed(Failure::new(FailureClass::Crashed, message))),
        Just(Outcome::Stopped),
    ]
}

prop_compose! {
    fn ended()(id in attempt(), outcome in outcome()) -> EndedAttempt {
        EndedAttempt { id, outcome }
    }
}

prop_compose! {
    fn hello()(
        worker in name(), allocation in proptest::option::of(name()), leaves_at_ms in any::<Option<u64>>(), connection in 1..=protocol::limits::MAX_CONNECTIONS, host in name(), build in name(), program in name(), own in any::<bool>(),
        slots in proptest::collection::vec((proptest::collection::vec((name(), name()), 1..3), any::<bool>(), name()), 1..4),
        running in proptest::collection::vec(running(), 0..4), ended in proptest::collection::vec(ended(), 0..4),
    ) -> Hello {
        let slot = |(devices, have_uuids, description): (Vec<(String, String)>, bool, String)| {
            let (devices, uuids): (Vec<_>, Vec<_>) = devices.into_iter().unzip();
            Slot { devices, uuids: if have_uuids { uuids } else { Vec::new() }, description }
        };
        let slots = slots.into_iter().map(slot).collect();
        let foreign = Program { name: program, hash: "0123456789abcdef".to_owned() };
        let trainer = if own { Trainer::BuiltIn } else { Trainer::Foreign(foreign.into()) };
        let secret = WorkerSecret::try_from(&[9; 32][..]).unwrap();
        let info = WorkerInfo { host, build, trainer, slots, allocation, leaves_at_ms };
        Hello { worker: WorkerId(worker.into()), connection, secret, info, running, ended }
    }
}

fn disk_use() -> impl Strategy<Value = DiskUse> {
    (
        any::<u64>(),
        any::<u64>(),
        proptest::collection::vec(trial(), 0..4),
    )
        .prop_map(|(checkpoint_bytes, work_dir_bytes, seen)| DiskUse {
            checkpoint_bytes,
            work_dir_bytes,
            seen,
        })
}

fn from_worker() -> impl Strategy<Value = FromWorker> {
    prop_oneof![
        hello().prop_map(FromWorker::Hello),
        (proptest::collection::vec(running(), 0..4), disk_use())
            .prop_map(|(running, disk)| FromWorker::Heartbeat { running, disk }),
        ended().prop_map(FromWorker::Ended),
        name().prop_map(|reason| FromWorker::Leaving {
            reason: reason.into()
        }),
    ]
}

fn attempts() -> impl Strategy<Value = Vec<AttemptId>> {
    proptest::collection::vec(attempt(), 0..4)
}

fn from_coordinator() -> impl Strategy<Value = FromCoordinator> {
    prop_oneof![
        (1..=u64::MAX, 1..=u64::MAX).prop_map(|(heartbeat_ms, lease_ms)| {
            FromCoordinator::Welcome {
                heartbeat_ms,
                lease_ms,
            }
        }),
        name().prop_map(|reason| FromCoordinator::Refused { reason }),
        (attempt(), name()).prop_map(|(attempt, reason)| FromCoordinator::Stop { attempt, reason }),
        attempt().prop_map(|attempt| FromCoordinator::Acknowledged { attempt }),
        name().prop_map(|reason| FromCoordinator::Drain { reason }),
        (attempts(), attempts()).prop_map(|(checkpoints, logs)| {
            let unknown = checkpoints.iter().map(|attempt| attempt.trial).collect();
            FromCoordinator::Remove(Removable {
                checkpoints,
                logs,
                unknown,
                now: 7,
            })
        }),
    ]
}

/// Generates messages with arbitrary strings, numbers and documents.
fn hostile_worker() -> impl Strategy<Value = v1::WorkerMessage> {
    let attempt = || prop_oneof![".{0,20}", "t[0-9a-f]{16}#[0-2]"];
    let document = || proptest::collection::vec(any::<u8>(), 0..60);
    let outcome = prop_oneof![
        document().prop_map(v1::attempt_ended::Outcome::ResultJson),
        document().prop_map(v1::attempt_ended::Outcome::FailureJson),
    ];
    let ended = (attempt(), proptest::option::of(outcome))
        .prop_map(|(attempt, outcome)| v1::AttemptEnded { attempt, outcome });
    let running =
        (attempt(), any::<u32>(), document()).prop_map(|(attempt, slot, progress_json)| {
            v1::Running {
                attempt,
                slot,
                progress_json,
            }
        });
    let slots = proptest::collection::vec(".{0,9}", 0..3);
    prop_oneof![
        (
            ".{0,9}",
            0..2u64,
            ".{0,9}",
            slots,
            proptest::collection::vec(running, 0..3)
        )
            .prop_map(|(worker, connection, host, devices, running)| {
                let slots = vec![v1::Slot {
                    devices,
                    uuids: vec![worker.clone()],
                    description: host.clone(),
                }];
                let build = worker.clone();
                let secret = vec![1; 31 + connection as usize];
                let hello = v1::Hello {
                    worker,
                    connection,
                    secret,
                    build,
                    host,
                    slots,
                    running,
                    ..v1::Hello::default()
                };
                v1::worker_message::Message::Hello(hello)
            }),
        ended.prop_map(v1::worker_message::Message::Ended),
    ]
    .prop_map(|message| v1::WorkerMessage {
        message: Some(message),
    })
}

proptest! {
    #[test]
    fn a_workers_messages_survive_the_wire(message in from_worker()) {
        let bytes = v1::WorkerMessage::from(message.clone()).encode_to_vec();
        let back = FromWorker::try_from(v1::WorkerMessage::decode(&bytes[..]).unwrap()).unwrap();
        prop_assert_eq!(back, message);
    }

    #[test]
    fn a_coordinators_messages_survive_the_wire(message in from_coordinator()) {
        let bytes = v1::CoordinatorMessage::from(message.clone()).encode_to_vec();
        let back = FromCoordinator::try_from(v1::CoordinatorMessage::decode(&bytes[..]).unwrap()).unwrap();
        prop_assert_eq!(back, message);
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_understood(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = v1::WorkerMessage::decode(&bytes[..]) {
            let _ = FromWorker::try_from(message);
        }
        if let Ok(message) = v1::CoordinatorMessage::decode(&bytes[..]) {
            let _ = FromCoordinator::try_from(message);
        }
        if let Ok(message) = v1::SubmitRequest::decode(&bytes[..]) {
            let _ = message.into_sweep();
        }
    }

    #[test]
    fn a_damaged_message_is_refused_or_understood(
        message in from_worker(), position in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = v1::WorkerMessage::from(message).encode_to_vec();
        let position = position.index(bytes.len());
        bytes[position] = byte;
        if let Ok(message) = v1::WorkerMessage::decode(&bytes[..]) {
            let _ = FromWorker::try_from(message);
        }
    }

    #[test]
    fn what_is_accepted_from_a_hostile_worker_is_sound(message in hostile_worker()) {
        match FromWorker::try_from(message) {
            Ok(FromWorker::Hello(hello)) => {
                prop_assert!(!hello.worker.0.is_empty() && hello.connection > 0);
                prop_assert!(hello.info.slots.iter().all(|slot| !slot.devices.is_empty()));
                let whole = |slot: &Slot| slot.uuids.is_empty() || slot.uuids.len() == slot.devices.len();
                prop_assert!(hello.info.slots.iter().all(whole));
                prop_assert!(hello.running.iter().all(|running| running.id.number.0 > 0));
            }
            Ok(FromWorker::Ended(ended)) => prop_assert!(ended.id.number.0 > 0),
            Ok(other) => prop_assert!(false, "{other:?} was not sent"),
            Err(invalid) => prop_assert!(!invalid.field.is_empty() && !invalid.problem.is_empty()),
        }
    }
}

fn refused(message: v1::worker_message::Message) -> Invalid {
    FromWorker::try_from(v1::WorkerMessage {
        message: Some(message),
    })
    .unwrap_err()
}

fn good_hello() -> v1::Hello {
    v1::Hello {
        worker: "node-1-2".into(),
        connection: 1,
        secret: vec![1; 32],
        build: "b".into(),
        host: "node".into(),
        slots: vec![v1::Slot {
            devices: vec!["cpu".into()],
            ..v1::Slot::default()
        }],
        ..v1::Hello::default()
    }
}

fn slot_of(num_devices: usize) -> v1::Slot {
    v1::Slot {
        devices: vec!["cpu".into(); num_devices],
        ..v1::Slot::default()
    }
}

#[test]
fn reasons_of_any_length_are_refused_and_escape_sequences_are_dropped() {
    use v1::worker_message::Message::Leaving;
    let leaving = |reason: String| v1::WorkerMessage {
        message: Some(Leaving(v1::Leaving { reason })),
    };
    let invalid = FromWorker::try_from(leaving("x".repeat(40 << 20))).unwrap_err();
    assert_eq!(invalid.field, "leaving.reason");
    assert!(invalid.problem.contains("at most 1024"), "{invalid}");
    let message = FromWorker::try_from(leaving("\u{1b}[2Jthe node\nis needed".into())).unwrap();
    assert_eq!(
        message,
        FromWorker::Leaving {
            reason: "the node is needed".into()
        }
    );
}

#[test]
fn escape_sequences_do_not_pass_in_documents() {
    let dirty = "\u{1b}]0;title\u{7}v1";
    let epoch = EpochRecord {
        train_loss: 0.5,
        accuracy: None,
        state_hash: "00".into(),
        ..EpochRecord::default()
    };
    let provenance = Provenance {
        trainer: dirty.into(),
        host: dirty.into(),
        devices: vec![dirty.into()],
        libraries: vec![dirty.into()],
        ..Provenance::default()
    };
    let result = TrialResult {
        classes: None,
        last_accuracy: 0.5,
        best_accuracy: 0.5,
        best_epoch: 0,
        last_balanced_accuracy: 0.5,
        train_loss: 0.5,
        eval_loss: 0.5,
        epochs: vec![epoch],
        provenance,
        timing: Timing::default(),
    };
    let ended = EndedAttempt {
        id: "t0123456789abcdef#1".parse().unwrap(),
        outcome: Outcome::Finished(Box::new(result)),
    };
    let back = FromWorker::try_from(v1::WorkerMessage::from(FromWorker::Ended(ended))).unwrap();
    let FromWorker::Ended(EndedAttempt {
        outcome: Outcome::Finished(result),
        ..
    }) = back
    else {
        panic!("{back:?}")
    };
    let Provenance {
        trainer,
        host,
        devices,
        libraries,
        ..
    } = result.provenance;
    assert_eq!((trainer.as_str(), host.as_str()), ("v1", "v1"));
    assert_eq!(
        (devices, libraries),
        (vec!["v1".to_owned()], vec!["v1".to_owned()])
    );
}

#[test]
fn an_empty_message_is_refused() {
    let invalid = FromWorker::try_from(v1::WorkerMessage { message: None }).unwrap_err();
    assert_eq!(invalid.to_string(), "field `message`: is missing");
}

#[test]
fn bad_fields_of_a_hello_are_named() {
    type Damage = fn(&mut v1::Hello);
    let damages: [(&str, Damage); 14] = [
        ("hello.worker", |hello| hello.worker.clear()),
        ("hello.worker", |hello| hello.worker = "x".repeat(257)),
        ("hello.host", |hello| hello.host = "a\x1b[2Jb".into()),
        ("hello.connection", |hello| hello.connection = 0),
        ("hello.connection", |hello| hello.connection = u64::MAX),
        ("hello.secret", |hello| hello.secret.clear()),
        ("hello.slots", |hello| hello.slots.clear()),
        ("hello.slots", |hello| {
            hello.slots = vec![hello.slots[0].clone(); 1025]
        }),
        ("hello.slots", |hello| hello.slots = vec![slot_of(1024); 5]),
        ("hello.slots[0].description", |hello| {
            hello.slots[0].description = "x".repeat(1025)
        }),
        ("hello.build", |hello| hello.build = "a\u{202e}b".into()),
        ("hello.slots[0].devices", |hello| {
            hello.slots[0].devices.clear()
        }),
        ("hello.slots[0].uuids", |hello| {
            hello.slots[0].uuids = vec!["GPU-1".into(), "GPU-2".into()]
        }),
        ("hello.running[0].attempt", |hello| {
            hello.running.push(v1::Running {
                attempt: "t0123456789abcdeg#1".into(),
                slot: 0,
                progress_json: Vec::new(),
            });
        }),
    ];
    for (field, damage) in damages {
        let mut hello = good_hello();
        damage(&mut hello);
        assert_eq!(
            refused(v1::worker_message::Message::Hello(hello)).field,
            field
        );
    }
    assert!(Hello::try_from(good_hello()).is_ok());
}

#[test]
fn bad_fields_of_an_outcome_are_named() {
    use v1::attempt_ended::Outcome;
    let good = "t0123456789abcdef#1";
    let cases = [
        ("", None, "ended.attempt"),
        ("t0123456789abcdef#0", None, "ended.attempt"),
        (good, None, "ended.outcome"),
        (
            good,
            Some(Outcome::ResultJson(b"{}".to_vec())),
            "ended.result_json",
        ),
        (
            good,
            Some(Outcome::ResultJson(vec![b' '; 17 << 20])),
            "ended.result_json",
        ),
        (
            good,
            Some(Outcome::FailureJson(
                br#"{"class":"odd","message":""}"#.to_vec(),
            )),
            "ended.failure_json",
        ),
    ];
    for (attempt, outcome, field) in cases {
        let attempt = attempt.to_owned();
        let ended = v1::AttemptEnded { attempt, outcome };
        assert_eq!(
            refused(v1::worker_message::Message::Ended(ended)).field,
            field
        );
    }
}

#[test]
fn a_result_that_no_coordinator_would_accept_is_sent_as_a_failure() {
    let result = TrialResult {
        classes: None,
        last_accuracy: f64::NAN,
        best_accuracy: 1.0,
        best_epoch: 0,
        last_balanced_accuracy: 1.0,
        train_loss: 0.5,
        eval_loss: 0.5,
        epochs: vec![EpochRecord {
            train_loss: 0.5,
            accuracy: Some(0.5),
            state_hash: "00".into(),
            ..EpochRecord::default()
        }],
        provenance: Provenance::default(),
        timing: Timing::default(),
    };
    let ended = EndedAttempt {
        id: "t0123456789abcdef#1".parse().unwrap(),
        outcome: Outcome::Finished(Box::new(result)),
    };
    let back = FromWorker::try_from(v1::WorkerMessage::from(FromWorker::Ended(ended))).unwrap();
    let FromWorker::Ended(EndedAttempt {
        outcome: Outcome::Failed(failure),
        ..
    }) = back
    else {
        panic!("{back:?}");
    };
    assert!(
        failure.message.contains("last_accuracy"),
        "{}",
        failure.message
    );
}

#[test]
fn progress_that_is_not_a_number_is_left_out() {
    let progress = Progress {
        train_loss: Some(f64::NAN),
        images_per_s: f64::INFINITY,
        ..Progress::default()
    };
    let running = vec![RunningAttempt {
        id: "t0123456789abcdef#1".parse().unwrap(),
        slot: 0,
        progress,
    }];
    let message = v1::WorkerMessage::from(FromWorker::Heartbeat {
        running,
        disk: DiskUse::default(),
    });
    let Ok(FromWorker::Heartbeat { running, .. }) = FromWorker::try_from(message) else {
        panic!()
    };
    assert_eq!(running[0].progress, Progress::default());
}

#[test]
fn long_failures_are_cut_to_what_is_accepted() {
    let failure = Failure::new(FailureClass::Crashed, "é\x07".repeat(1 << 20));
    let ended = EndedAttempt {
        id: "t0123456789abcdef#1".parse().unwrap(),
        outcome: Outcome::Failed(failure),
    };
    let message = v1::WorkerMessage::from(FromWorker::Ended(ended));
    assert!(message.encoded_len() < 2 * sweep::text::MAX_LINES_BYTES);
    let back = FromWorker::try_from(message).unwrap();
    let FromWorker::Ended(EndedAttempt {
        outcome: Outcome::Failed(failure),
        ..
    }) = back
    else {
        panic!()
    };
    assert!(
        failure.message.starts_with("é\u{fffd}é")
            && failure.message.len() <= sweep::text::MAX_LINES_BYTES
    );
}

#[test]
fn a_start_resumes_from_one_of_its_own_attempts() {
    let started = |since: u32| {
        let no_file = |_: &str| Err(std::io::ErrorKind::NotFound.into());
        let yaml = "name: a\nrecipe: quick\nset: {dataset: digits}\nseeds: 1\n";
        let spec = sweep::parse("test.yaml", yaml, &no_file)
            .unwrap_or_else(|errors| panic!("{errors:?}"))
            .trial_spec(0, None, sweep::definition::Role::Result, 0);
        let mut message = v1::CoordinatorMessage::from(FromCoordinator::Start {
            attempt: "t0123456789abcdef#3".parse().unwrap(),
            slot: 0,
            since: AttemptNo(1),
            spec: Box::new(spec),
            keep: Default::default(),
        });
        let Some(v1::coordinator_message::Message::Start(start)) = &mut message.message else {
            panic!("it is a start")
        };
        start.since = since;
        FromCoordinator::try_from(message)
    };
    for since in 1..=3 {
        let Ok(FromCoordinator::Start { since: read, .. }) = started(since) else {
            panic!("attempt {since} of 3 is refused")
        };
        assert_eq!(read, AttemptNo(since));
    }
    for since in [0, 4, u32::MAX] {
        assert_eq!(started(since).unwrap_err().field, "start.since");
    }
}
