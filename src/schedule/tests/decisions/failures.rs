//! Failure classes, their budgets and backoff, and what they say about a host.

use schedule::event::{Input, Outcome};
use schedule::state::{Phase, WorkerId};
use sweep::record::FailureClass;

use crate::sweeps::grid;
use crate::world::{Started, World, info, result};

/// Fails the only trial again and again; how many attempts it got.
fn attempts_until_failed(class: FailureClass, hosts: u32) -> usize {
    let mut world = World::new();
    for host in 0..hosts {
        world.join(&format!("w{host}"), 1);
    }
    world.submit(grid("a", 1, 1, ""));
    let mut started = world.started();
    for _ in 0..50 {
        let trial = started[0].2;
        world.fail(&started[0], class).expect("it is current");
        if world.is_failed(trial) {
            return world.trial(trial).attempts.len();
        }
        assert!(world.is_waiting(trial) || !world.started().is_empty());
        started = world.started();
        for _ in 0..100 {
            if started.is_empty() {
                // the workers must be heard meanwhile
                world.now += 1_000;
                for host in 0..hosts {
                    world.beat(&WorkerId(format!("w{host}").into()), &[], 0).expect("it is present");
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
    ];
    for (class, attempts) in cases {
        assert_eq!(attempts_until_failed(class, 2), attempts, "{class:?}");
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
    world.fail(&started[0], FailureClass::Crashed).expect("it is current");
    assert!(world.is_failed(started[0].2));
}

#[test]
fn backoff_doubles_up_to_a_bound() {
    let budget = schedule::Budget { retries: None, first_ms: 0, then_ms: 500, most_ms: 10_000 };
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
    world.connect(&WorkerId("first".into()), gpus.clone(), &[], &[]).expect("it may join");
    world.submit(grid("a", 5, 1, ""));
    let started = world.started();
    let (bad, good) = (started[0].clone(), started[1].clone());
    world.fail(&bad, FailureClass::BadDevice).expect("it is current");
    assert_eq!(world.started(), []);
    world.finish(&good).expect("it is current");
    assert_eq!(world.started()[0].1, good.1);
    // another process on the same node has the same broken device
    world.connect(&WorkerId("second".into()), gpus, &[], &[]).expect("it may join");
    assert!(world.started().iter().all(|(_, slot, ..)| *slot != bad.1));
    world.give(Input::Undrain { host: "node".into() }).expect("the host is known");
    assert!(!world.started().is_empty());
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
            if &*started.0.0 == "bad" {
                world.fail(&started, FailureClass::Crashed).expect("it is current");
            } else {
                world.finish(&started).expect("it is current");
            }
            next.extend(world.started());
        }
        world.wait(2_000);
        next.extend(world.started());
        std::mem::swap(&mut running, &mut next);
    }
    let reason = world.state.hosts["bad"].drained.clone().expect("the rule applies after three trials");
    assert!(reason.contains("3 trials failed here"), "{reason}");
    assert!(world.state.hosts["good"].drained.is_none());
    for started in running {
        // what had started there before goes on
        world.finish(&started).expect("it is current");
        assert!(world.started().iter().all(|(worker, ..)| &*worker.0 == "good"));
    }
    world.restart();
    assert!(world.state.hosts["bad"].drained.is_some());
    world.give(Input::Undrain { host: "bad".into() }).expect("the host is known");
    assert!(world.state.hosts["bad"].drained.is_none());
}

#[test]
fn numbers_that_cannot_be_journalled_are_a_failure_of_the_attempt() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started();
    world.end(&started[0], Outcome::Finished(Box::new(result(f64::NAN)))).expect("it is current");
    let failure = world.trial(started[0].2).failure().expect("not a result");
    assert_eq!(failure.class, FailureClass::NonFinite);
    assert!(failure.message.contains("last_accuracy"));
}

#[test]
fn a_long_message_keeps_its_first_line_and_its_end() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started();
    let message = format!("the trainer crashed\n{}\nthe last line é", "stderr é\n".repeat(100_000));
    let failure = sweep::record::Failure::new(FailureClass::BadInput, message);
    world.end(&started[0], Outcome::Failed(failure)).expect("it is current");
    let kept = &world.trial(started[0].2).failure().expect("it failed").message;
    assert!(kept.starts_with("the trainer crashed\n") && kept.ends_with("the last line é") && kept.len() < 1_000);
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
    world.give(Input::Leaving { worker: leaving, reason: "SIGTERM".into() }).expect("it joined");
    assert_eq!(world.trial(started[0].2).phase, Phase::Running { attempt: started[0].3 });
    world.fail(&started[0], FailureClass::Preempted).expect("it is current");
    assert_eq!(&*world.started()[0].0.0, "other");
}
