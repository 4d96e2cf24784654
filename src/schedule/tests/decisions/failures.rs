//! Failure classes, their budgets and backoff, and their effect on a host.

use schedule::event::{EndedAttempt, Input, Outcome, Recorded};
use schedule::state::{Phase, Slot, WorkerId, WorkerInfo};
use sweep::record::{Failure, FailureClass, TrialResult};

use crate::sweeps::grid;
use crate::world::{Started, World, info, result};

/// Fails the only trial again and again; returns the number of its attempts.
fn attempts_until_failed(class: FailureClass, hosts: u32) -> usize {
    let mut world = World::new();
    for host in 0..hosts {
        world.join(&format!("w{host}"), 1);
    }
    world.submit(grid("a", 1, 1, ""));
    let mut started = world.started();
    for _ in 0..50 {
        let trial = started[0].id.trial;
        world.fail(&started[0], class).expect("it is current");
        if world.is_failed(trial) {
            return world.trial(trial).attempts.len();
        }
        assert!(world.is_waiting(trial) || !world.started().is_empty());
        started = world.started();
        // Longer than any backoff and any pause.
        for _ in 0..400 {
            if started.is_empty() {
                // The workers must send heartbeats meanwhile.
                world.now += 1_000;
                for host in 0..hosts {
                    world
                        .beat(&WorkerId(format!("w{host}").into()), &[], 0)
                        .expect("it is present");
                    if started.is_empty() {
                        started = world.started();
                    }
                }
            }
        }
    }
    50
}

#[test]
fn each_class_has_its_own_budget() {
    let cases = [
        (FailureClass::BadInput, 1),
        (FailureClass::NonFinite, 1),
        (FailureClass::OutOfMemory, 2),
        (FailureClass::Crashed, 4),
        (FailureClass::Stalled, 4),
        (FailureClass::Unreachable, 50),
        (FailureClass::Preempted, 50),
        (FailureClass::BadDevice, 6),
        (FailureClass::Node, 50),
    ];
    for (class, attempts) in cases {
        // More hosts than attempts: a broken device takes its host's only slot.
        assert_eq!(attempts_until_failed(class, 7), attempts, "{class:?}");
    }
}

#[test]
fn out_of_memory_is_not_tried_again_on_the_same_host() {
    assert_eq!(attempts_until_failed(FailureClass::OutOfMemory, 1), 1);
}

#[test]
fn budgets_of_different_classes_do_not_add_up() {
    let mut world = World::new();
    let worker = world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let mut started = world.started();
    for class in [FailureClass::Crashed, FailureClass::Stalled].repeat(3) {
        world.fail(&started[0], class).expect("it is current");
        started = world.started();
        while started.is_empty() {
            world.now += 1_000;
            world.beat(&worker, &[], 0).expect("it is present");
            started = world.started();
        }
    }
    world
        .fail(&started[0], FailureClass::Crashed)
        .expect("it is current");
    assert!(world.is_failed(started[0].id.trial));
}

#[test]
fn backoff_doubles_up_to_a_bound() {
    let budget = schedule::Budget {
        retries: None,
        first_ms: 0,
        then_ms: 500,
        most_ms: 10_000,
    };
    let waits: Vec<_> = (1..=9).map(|spent| budget.backoff(spent)).collect();
    let expected = [0, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000, 10_000].map(Some);
    assert_eq!(waits, expected);
    assert_eq!(budget.backoff(u32::MAX), Some(10_000));
}

#[test]
fn a_broken_device_takes_its_slot_out_of_use_on_this_and_later_workers() {
    let mut world = World::new();
    let mut gpus = info("node", 2, 1);
    gpus.slots[0].devices = vec!["cuda:0".to_owned()];
    gpus.slots[1].devices = vec!["cuda:1".to_owned()];
    world
        .connect(&WorkerId("first".into()), gpus.clone(), &[], &[])
        .expect("it may join");
    world.submit(grid("a", 5, 1, ""));
    let started = world.started();
    let (bad, good) = (started[0].clone(), started[1].clone());
    world
        .fail(&bad, FailureClass::BadDevice)
        .expect("it is current");
    assert_eq!(world.started(), []);
    world.finish(&good).expect("it is current");
    assert_eq!(world.started()[0].slot, good.slot);
    // Another process on the same node has the same broken device.
    world
        .connect(&WorkerId("second".into()), gpus, &[], &[])
        .expect("it may join");
    assert!(
        world
            .started()
            .iter()
            .all(|started| started.slot != bad.slot)
    );
    world
        .give(Input::Undrain {
            name: "node".into(),
        })
        .expect("the host is known");
    assert!(!world.started().is_empty());
}

/// A worker with these devices in its slots; UUIDs are the names in capitals, as if the driver had
/// never renumbered.
fn gpus(slots: &[&[&str]]) -> WorkerInfo {
    let slots = slots.iter().map(|devices| Slot {
        devices: devices.iter().map(|name| (*name).to_owned()).collect(),
        uuids: devices.iter().map(|name| name.to_uppercase()).collect(),
        description: String::new(),
    });
    WorkerInfo {
        host: "node".to_owned(),
        build: "build 1".to_owned(),
        trainer: Default::default(),
        slots: slots.collect(),
        allocation: None,
        leaves_at_ms: None,
    }
}

fn bad_device(devices: &[&str]) -> Outcome {
    let devices = devices.iter().map(|name| (*name).to_owned()).collect();
    Outcome::Failed(Failure {
        devices,
        ..Failure::new(FailureClass::BadDevice, "an Xid".to_owned())
    })
}

fn broken_slots(world: &World, worker: &str) -> Vec<u32> {
    world.state.workers[&WorkerId(worker.into())]
        .broken_slots
        .keys()
        .copied()
        .collect()
}

#[test]
fn slots_that_share_a_broken_device_are_broken_together() {
    let mut world = World::new();
    world
        .connect(
            &WorkerId("w".into()),
            gpus(&[&["cuda:0"], &["cuda:1"], &["cuda:0"]]),
            &[],
            &[],
        )
        .expect("it joins");
    world.submit(grid("a", 5, 1, ""));
    let started = world.started();
    assert_eq!(
        started
            .iter()
            .map(|started| started.slot)
            .collect::<Vec<_>>(),
        [0, 1, 2]
    );
    world
        .end(&started[0], bad_device(&["cuda:0"]))
        .expect("it is current");
    assert_eq!(broken_slots(&world, "w"), [0, 2]);
    assert_eq!(world.started(), []);
    // The trial that runs there finishes, and no other follows.
    world.finish(&started[2]).expect("it is current");
    assert_eq!(world.started(), []);
    world.finish(&started[1]).expect("it is current");
    assert_eq!(world.started()[0].slot, 1);
}

#[test]
fn of_a_slot_of_several_devices_only_those_named_are_broken_elsewhere() {
    let slots: &[&[&str]] = &[&["cuda:0", "cuda:1"], &["cuda:0"], &["cuda:1"]];
    // The broken device is unknown, or one that the slot does not have.
    for (named, broken) in [
        (&["cuda:1"][..], vec![0, 2]),
        (&[], vec![0, 1, 2]),
        (&["cuda:7"], vec![0, 1, 2]),
    ] {
        let mut world = World::new();
        world
            .connect(&WorkerId("w".into()), gpus(slots), &[], &[])
            .expect("it joins");
        world.submit(grid("a", 1, 1, "resources: {devices_per_trial: 2}\n"));
        let started = world.started();
        world
            .end(&started[0], bad_device(named))
            .expect("it is current");
        assert_eq!(broken_slots(&world, "w"), broken, "{named:?}");
        world.restart();
        assert_eq!(broken_slots(&world, "w"), broken, "{named:?}");
    }
}

/// CPU threads have no identity: only the slot that reported the failure is given up.
#[test]
fn a_slot_without_gpus_can_be_broken_too() {
    let mut world = World::new();
    world.join("w", 2);
    world.submit(grid("a", 3, 1, ""));
    let started = world.started();
    world
        .end(&started[1], bad_device(&[]))
        .expect("it is current");
    assert_eq!(
        (broken_slots(&world, "w"), world.started()),
        (vec![1], vec![])
    );
}

/// After a reboot without the lost GPU the driver gives its number to another, healthy one.
#[test]
fn a_broken_device_is_known_by_its_uuid() {
    let mut world = World::new();
    world
        .connect(
            &WorkerId("first".into()),
            gpus(&[&["cuda:0"], &["cuda:1"]]),
            &[],
            &[],
        )
        .expect("it joins");
    world.submit(grid("a", 2, 1, ""));
    let started = world.started();
    world
        .end(&started[0], bad_device(&["cuda:0"]))
        .expect("it is current");
    let mut counted_anew = gpus(&[&["cuda:0"], &["cuda:1"]]);
    counted_anew.slots[0].uuids = vec!["CUDA:1".to_owned()];
    counted_anew.slots[1].uuids = vec!["CUDA:0".to_owned()];
    world
        .connect(&WorkerId("second".into()), counted_anew, &[], &[])
        .expect("it joins");
    assert_eq!(
        (
            broken_slots(&world, "first"),
            broken_slots(&world, "second")
        ),
        (vec![0], vec![1])
    );
}

/// Older journals have neither UUIDs nor devices at fault: a device is its name, and all of the
/// slot are bad.
#[test]
fn broken_slots_of_older_journals_stay_broken() {
    let lines = [
        r#"{"worker_joined":{"worker":"old","info":{"host":"node","build":"0","slots":[
            {"devices":["cuda:0","cuda:1"],"description":""},{"devices":["cuda:2"],"description":""}]}}}"#,
        r#"{"slot_broken":{"worker":"old","slot":0,"reason":"an Xid"}}"#,
    ];
    let mut world = World::new();
    for line in lines {
        let event = serde_json::from_str(line).expect("older events are read");
        world
            .force(&Recorded { at: 0, event })
            .expect("they can be replayed");
    }
    let slots: &[&[&str]] = &[&["cuda:0"], &["cuda:1"], &["cuda:2"]];
    world
        .connect(&WorkerId("new".into()), gpus(slots), &[], &[])
        .expect("it joins");
    assert_eq!(
        (broken_slots(&world, "old"), broken_slots(&world, "new")),
        (vec![0], vec![0, 1])
    );
}

/// A GPU that hangs first shows as a stall; it is known to be broken when its trainer could not be
/// killed.
#[test]
fn a_device_that_fails_after_its_attempt_was_given_up_is_not_used_again() {
    let mut world = World::new();
    let worker = WorkerId("w".into());
    world
        .connect(&worker, gpus(&[&["cuda:0"]]), &[], &[])
        .expect("it joins");
    world.submit(grid("a", 2, 1, ""));
    let started = world.started();
    world.beat(&worker, &started, 0).expect("it is present");
    world.now += world.config.stall_ms;
    world.beat(&worker, &started, 0).expect("it is present");
    assert!(
        world.is_waiting(started[0].id.trial) && world.stopped().contains(&started[0].id.trial)
    );
    world
        .end(&started[0], bad_device(&[]))
        .expect("it occupied its slot");
    assert!(world.acknowledged(&started[0]) && world.started().is_empty());
    assert_eq!(
        (
            broken_slots(&world, "w"),
            &world.state.workers[&worker].slots[0]
        ),
        (vec![0], &None)
    );
    // A repeated report changes nothing.
    assert!(world.end(&started[0], bad_device(&[])).is_err());
    world.restart();
    assert_eq!(broken_slots(&world, "w"), [0]);
}

#[test]
fn a_device_that_fails_while_its_worker_is_cut_off_is_not_used_again() {
    let mut world = World::new();
    let (worker, info) = (WorkerId("w".into()), gpus(&[&["cuda:0"], &["cuda:1"]]));
    world
        .connect(&worker, info.clone(), &[], &[])
        .expect("it joins");
    world.submit(grid("a", 2, 1, ""));
    let started = world.started();
    world.wait(world.config.lease_ms);
    let ended = |started: &Started| EndedAttempt {
        id: started.id,
        outcome: bad_device(&[]),
    };
    let lists = [ended(&started[1])];
    world
        .connect(&worker, info.clone(), &[], &lists)
        .expect("it may come back");
    assert_eq!(broken_slots(&world, "w"), [1]);
    assert!(world.started().iter().all(|started| started.slot == 0));
    // The same in a message of its own, when the lists had nothing of it.
    let mut world = World::new();
    world
        .connect(&worker, info.clone(), &[], &[])
        .expect("it joins");
    world.submit(grid("a", 2, 1, ""));
    let started = world.started();
    world.wait(world.config.lease_ms);
    world
        .connect(&worker, info, &[], &[])
        .expect("it may come back");
    world.end(&started[1], bad_device(&[])).expect("it is news");
    assert_eq!(broken_slots(&world, "w"), [1]);
    assert!(
        world.end(&started[1], bad_device(&[])).is_err(),
        "it is known"
    );
}

#[test]
fn a_host_that_fails_what_succeeds_elsewhere_is_drained_and_can_come_back() {
    let mut world = World::new();
    world.join("bad", 1);
    world.join("good", 1);
    world.submit(grid("a", 8, 1, ""));
    let mut running: Vec<Started> = world.started();
    let mut next: Vec<Started> = Vec::new();
    while world.state.hosts["bad"].drained.is_none() && !running.is_empty() {
        for started in running.drain(..) {
            if &*started.worker.0 == "bad" {
                world
                    .fail(&started, FailureClass::Crashed)
                    .expect("it is current");
            } else {
                world.finish(&started).expect("it is current");
            }
            next.extend(world.started());
        }
        world.wait(2_000);
        next.extend(world.started());
        std::mem::swap(&mut running, &mut next);
    }
    let reason = world.state.hosts["bad"]
        .drained
        .clone()
        .expect("the rule applies after three trials");
    assert!(reason.contains("3 trials failed here"), "{reason}");
    assert!(world.state.hosts["good"].drained.is_none());
    for started in running {
        // The attempt that had started there before finishes.
        world.finish(&started).expect("it is current");
        assert!(
            world
                .started()
                .iter()
                .all(|started| &*started.worker.0 == "good")
        );
    }
    world.restart();
    assert!(world.state.hosts["bad"].drained.is_some());
    world
        .give(Input::Undrain { name: "bad".into() })
        .expect("the host is known");
    assert!(world.state.hosts["bad"].drained.is_none());
}

#[test]
fn a_result_of_no_such_training_is_a_failure_of_the_attempt() {
    type Lie = fn(&mut TrialResult);
    let lies: [(&str, Lie); 8] = [
        ("`best_epoch`: is 4294967295 of 1 epochs", |result| {
            result.best_epoch = u32::MAX
        }),
        ("`epochs`: is empty", |result| result.epochs.clear()),
        ("`epochs`: holds 2 epochs, and 1 were asked for", |result| {
            result.epochs.push(result.epochs[0].clone())
        }),
        ("`last_accuracy`: is 91", |result| {
            result.last_accuracy = 91.0
        }),
        ("`best_accuracy`: is -1", |result| {
            result.best_accuracy = -1.0
        }),
        ("`timing.departed_at_epoch`: is 7 of 1 epochs", |result| {
            result.timing.departed_at_epoch = Some(7)
        }),
        ("`timing.resumed_from_epoch`: is 4294967295", |result| {
            result.timing.resumed_from_epoch = u32::MAX
        }),
        ("`epochs[0].state_hash`: is no hash", |result| {
            result.epochs[0].state_hash = "\u{1b}[2J".to_owned()
        }),
    ];
    for (expected, lie) in lies {
        let mut world = World::new();
        world.join("w", 1);
        world.submit(grid("a", 1, 1, ""));
        let started = world.started().remove(0);
        let mut lied = result(0.5);
        lie(&mut lied);
        world
            .end(&started, Outcome::Finished(Box::new(lied)))
            .expect("it is current");
        assert!(
            world.acknowledged(&started),
            "it is not to be sent again: {expected}"
        );
        let attempt = world.trial(started.id.trial).attempts[0].clone();
        let failure = attempt
            .ended
            .expect("it has ended")
            .failure
            .expect("not a result");
        assert!(
            failure.message.contains(expected),
            "{expected}: {}",
            failure.message
        );
        world.wait(1_000);
        let again = world.started().remove(0);
        world.finish(&again).expect("it is current");
        assert!(
            matches!(world.trial(started.id.trial).phase, Phase::Succeeded { .. }),
            "{expected}"
        );
    }
}

#[test]
fn numbers_that_cannot_be_journalled_are_a_failure_of_the_attempt() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started();
    world
        .end(&started[0], Outcome::Finished(Box::new(result(f64::NAN))))
        .expect("it is current");
    let failure = world
        .trial(started[0].id.trial)
        .failure()
        .expect("not a result");
    assert_eq!(failure.class, FailureClass::NonFinite);
    assert!(
        failure
            .message
            .contains("field `epochs[0].accuracy`: is NaN"),
        "{}",
        failure.message
    );
}

#[test]
fn a_long_message_keeps_its_first_line_and_its_end() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started();
    let message = format!(
        "the trainer crashed\n{}\nthe last line é",
        "stderr é\n".repeat(100_000)
    );
    let failure = sweep::record::Failure::new(FailureClass::BadInput, message);
    world
        .end(&started[0], Outcome::Failed(failure))
        .expect("it is current");
    let kept = &world
        .trial(started[0].id.trial)
        .failure()
        .expect("it failed")
        .message;
    assert!(
        kept.starts_with("the trainer crashed\n")
            && kept.ends_with("the last line é")
            && kept.len() < 1_000
    );
    let journalled = serde_json::to_vec(&world.journal).expect("events are plain data");
    assert!(journalled.len() < 64 << 10);
}

#[test]
fn a_preempted_trial_runs_elsewhere_at_once() {
    let mut world = World::new();
    let leaving = world.join("leaving", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started();
    world.join("other", 1);
    world
        .give(Input::Leaving {
            worker: leaving,
            reason: "SIGTERM".into(),
        })
        .expect("it joined");
    assert_eq!(
        world.trial(started[0].id.trial).phase,
        Phase::Running {
            attempt: started[0].id.number
        }
    );
    world
        .fail(&started[0], FailureClass::Preempted)
        .expect("it is current");
    assert_eq!(&*world.started()[0].worker.0, "other");
}

/// Fails the attempt through a node fault, and waits until the trial starts again.
fn starve(world: &mut World, worker: &WorkerId, started: &Started) -> (u64, Started) {
    world
        .fail(started, FailureClass::Node)
        .expect("it is current");
    let failed_at = world.now;
    while world.started().is_empty() {
        world.now += 1_000;
        world.beat(worker, &[], 0).expect("it is present");
    }
    (world.now - failed_at, world.started()[0].clone())
}

#[test]
fn a_fault_of_the_node_pauses_the_slot_longer_each_time_and_costs_the_trial_nothing() {
    let mut world = World::new();
    let worker = world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let mut started = world.started()[0].clone();
    let mut waits = Vec::new();
    for _ in 0..8 {
        let (waited, next) = starve(&mut world, &worker, &started);
        waits.push(waited);
        started = next;
    }
    assert_eq!(
        waits,
        [
            5_000, 10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000
        ]
    );
    assert!(world.trial(started.id.trial).spent.is_empty());
    // Replay restores the row, and an attempt that ends otherwise restarts it.
    world.restart();
    world
        .connect(
            &worker,
            info("w", 1, 1),
            std::slice::from_ref(&started),
            &[],
        )
        .expect("it may return");
    world
        .fail(&started, FailureClass::Crashed)
        .expect("it is current");
    while world.started().is_empty() {
        world.now += 1_000;
        world.beat(&worker, &[], 0).expect("it is present");
    }
    let started = world.started()[0].clone();
    assert_eq!(starve(&mut world, &worker, &started).0, 5_000);
}

#[test]
fn other_hosts_get_the_trial_while_a_slot_pauses() {
    let mut world = World::new();
    world.join("full", 1);
    world.submit(grid("a", 1, 1, ""));
    let first = world.started()[0].clone();
    world.join("good", 1);
    world
        .fail(&first, FailureClass::Node)
        .expect("it is current");
    let second = world.started()[0].clone();
    assert_eq!(
        (&*second.worker.0, second.id.trial, second.id.number.0),
        ("good", first.id.trial, 2)
    );
    world.finish(&second).expect("it is current");
    assert!(
        world.state.hosts["full"].failed_here.is_empty(),
        "it is not held against the host"
    );
}

#[test]
fn a_paused_slot_reports_why_and_undrain_ends_the_pause() {
    let mut world = World::new();
    let worker = world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started()[0].clone();
    let failure = Failure::new(
        FailureClass::Node,
        "cannot write work/x: No space left on device\nmore".to_owned(),
    );
    world
        .end(&started, Outcome::Failed(failure))
        .expect("it is current");
    assert_eq!(world.waits(), [schedule::WaitReason::SlotsPaused]);
    assert_eq!(
        schedule::next_deadline(&world.state, &world.config, world.now),
        Some(world.now + 5_000)
    );
    let because = "every slot of 1 device pauses, because its node could not run a trial: slot 0 of worker `w`: cannot \
                   write work/x: No space left on device; it is used again automatically, or at once after `orchestrator \
                   undrain w`";
    let waits = schedule::sweep_waits(&world.state, "a", world.now).expect("it waits");
    assert_eq!(
        (waits.because.as_str(), waits.reason),
        (because, schedule::WaitReason::SlotsPaused)
    );
    let explained = schedule::explain(&world.state, &world.config, started.id.trial, world.now)
        .expect("it exists");
    assert_eq!(
        explained.because[0],
        format!("{because}; the next try is in 5.0 s")
    );
    assert!(
        explained.because[1].starts_with("the attempt before ended as node on w: cannot write")
    );
    world
        .give(Input::Undrain { name: "w".into() })
        .expect("the host is known");
    assert_eq!(world.started()[0].worker, worker);
    world.restart();
    assert!(world.state.workers[&worker].pauses.is_empty());
}

/// Late reports: in the lists of a worker that returns, and of an attempt that has ended for the
/// coordinator.
#[test]
fn a_fault_of_the_node_that_is_reported_late_pauses_its_slot_too() {
    let ended = |started: &Started| EndedAttempt {
        id: started.id,
        outcome: Outcome::Failed(Failure::new(FailureClass::Node, "a full disk".to_owned())),
    };
    let mut world = World::new();
    let worker = world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let first = world.started()[0].clone();
    world
        .connect(&worker, info("w", 1, 1), &[], &[ended(&first)])
        .expect("it may return");
    assert_eq!(
        (world.started(), world.waits()),
        (vec![], vec![schedule::WaitReason::SlotsPaused])
    );

    let mut world = World::new();
    let worker = world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let first = world.started()[0].clone();
    world.wait(world.config.lease_ms);
    world
        .connect(&worker, info("w", 1, 1), std::slice::from_ref(&first), &[])
        .expect("it may return");
    world
        .end(&first, ended(&first).outcome)
        .expect("it frees the slot");
    assert_eq!(
        (world.started(), world.waits()),
        (vec![], vec![schedule::WaitReason::SlotsPaused])
    );
}
