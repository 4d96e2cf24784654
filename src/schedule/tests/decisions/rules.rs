//! Rules at their turning points: what is refused, explained or repeated only under a condition that
//! a plain scenario does not meet.

use schedule::event::{EndedAttempt, Input, Outcome};
use schedule::state::WorkerId;
use schedule::{CheckedSweep, Removable, WaitReason, next_deadline, preview};
use sweep::record::{Failure, FailureClass};
use sweep::{AttemptNo, Content, Sweep, TrialId};

use crate::sweeps::{grid, yaml};
use crate::world::{World, info, report_of};

fn because(world: &World, sweep: &str) -> Option<(WaitReason, String)> {
    let waits = schedule::sweep_waits(&world.state, sweep, world.now);
    waits.map(|waits| (waits.reason, waits.because))
}

fn drain(world: &mut World, name: &str) {
    let drain = Input::Drain {
        name: name.to_owned(),
        reason: "for a test".into(),
    };
    world.give(drain).expect("it is known");
}

#[test]
fn a_drained_host_is_drained_once() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started()[0].clone();
    world
        .fail(&started, FailureClass::BadDevice)
        .expect("it is current");
    drain(&mut world, "w");
    assert!(world.state.hosts["w"].drained.is_some());
    let number = world.journal.len();
    drain(&mut world, "w");
    assert_eq!(world.journal.len(), number);
}

#[test]
fn the_clock_rings_for_the_first_of_all_deadlines() {
    let mut world = World::new();
    let next = |world: &World| next_deadline(&world.state, &world.config, world.now);
    assert_eq!(next(&world), None);
    world.join("w", 2);
    world.submit(grid("a", 2, 1, ""));
    let lease = Some(world.now + world.config.lease_ms);
    assert_eq!(next(&world), lease);
    let started = world.started();
    world
        .fail(&started[0], FailureClass::Crashed)
        .expect("it is current");
    let backoff = world.now + world.config.budgets.crashed.first_ms;
    assert_eq!(next(&world), Some(backoff));
    // A backoff that is over is no deadline: the trial waits for a slot.
    world.now = backoff;
    assert_eq!(next(&world), lease);
    world.now = backoff - 1;
    world
        .fail(&started[1], FailureClass::Node)
        .expect("it is current");
    assert_eq!(next(&world), Some(backoff));
    world.config.lease_ms = 1_000_000;
    let pause = world.state.workers[&WorkerId("w".into())].pauses[&1].until;
    world.now = pause - 1;
    assert_eq!(next(&world), Some(pause));
    world.now = pause;
    assert_ne!(next(&world), Some(pause));
}

#[test]
fn a_trial_that_may_start_now_waits_for_nothing() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started()[0].clone();
    world
        .fail(&started, FailureClass::Crashed)
        .expect("it is current");
    assert_eq!(world.waits(), [WaitReason::Backoff]);
    world.now += world.config.budgets.crashed.first_ms;
    assert_eq!(world.waits(), []);
    assert_eq!(because(&world, "a"), None);
}

#[test]
fn the_broken_slot_that_is_named_meets_the_needs_of_the_trial() {
    let mut world = World::new();
    world.join("a-small", 1);
    world.submit(grid("small", 1, 1, ""));
    let small = world.started()[0].clone();
    world
        .fail(&small, FailureClass::BadDevice)
        .expect("it is current");
    let cancel = Input::Cancel {
        sweep: "small".to_owned(),
        reason: "for a test".into(),
    };
    world.give(cancel).expect("it exists");
    let wide = WorkerId("b-wide".into());
    world
        .connect(&wide, info("b-wide", 1, 2), &[], &[])
        .expect("it may join");
    world.submit(grid("wide", 1, 1, "resources: {devices_per_trial: 2}\n"));
    let started = world.started()[0].clone();
    world
        .fail(&started, FailureClass::BadDevice)
        .expect("it is current");
    let (reason, text) = because(&world, "wide").expect("it waits");
    assert_eq!(reason, WaitReason::SlotsBroken, "{text}");
    assert!(
        text.contains("slot 0 of worker `b-wide`") && !text.contains(" more"),
        "{text}"
    );
}

#[test]
fn a_worker_that_leaves_by_itself_is_not_to_be_undrained() {
    let mut world = World::new();
    let worker = world.join("w", 1);
    world.submit(grid("a", 2, 1, ""));
    let leaving = Input::Leaving {
        worker: worker.clone(),
        reason: "SIGTERM".into(),
    };
    world.give(leaving).expect("it is present");
    let text = |world: &World| because(world, "a").expect("it waits").1;
    assert_eq!(text(&world), "worker `w` leaves (SIGTERM)");
    let mut world = World::new();
    world
        .connect(&worker, info("h", 1, 1), &[], &[])
        .expect("it may join");
    world.submit(grid("a", 2, 1, ""));
    drain(&mut world, "w");
    assert_eq!(
        text(&world),
        "worker `w` takes no new work (for a test): `orchestrator undrain w` lets it work again"
    );
}

#[test]
fn a_worker_has_work_only_in_slots_that_are_not_broken() {
    let mut world = World::new();
    let worker = world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started()[0].clone();
    world
        .fail(&started, FailureClass::BadDevice)
        .expect("it is current");
    assert!(world.is_waiting(started.id.trial));
    let idle = Input::Idle {
        worker: worker.clone(),
        reason: "idle".into(),
    };
    world.give(idle).expect("it is present");
    assert!(world.state.workers[&worker].draining.is_some());
}

#[test]
fn a_preview_is_the_answer_of_a_submission_and_changes_nothing() {
    let mut world = World::new();
    world.submit(grid("a", 1, 1, ""));
    for sweep in [
        grid("a", 1, 1, ""),
        grid("a", 2, 1, ""),
        grid("b", 1, 2, ""),
    ] {
        let checked = CheckedSweep::new(sweep.clone()).expect("a compiled sweep");
        let number = world.journal.len();
        let foreseen = preview(&world.state, &checked);
        assert_eq!(world.journal.len(), number);
        assert_eq!(foreseen, world.submit(sweep));
    }
}

/// The same search, with as many seeds as the images that are held out ask for.
#[test]
fn other_numbers_of_held_out_images_are_explained() {
    let sweep = |held_out: [u32; 2]| -> Sweep {
        let mut sweep = yaml(
            "name: s\nrecipe: quick\nset: {dataset: digits, schedule: {constant: {epochs: 1}}}\nseeds: 1\n\
             axes: {samples_per_class: [10, 20]}\nsearch: {field: learning_rate, candidates: [0.1, 0.2]}\n",
        );
        for (cell, count) in sweep.cells.iter_mut().zip(held_out) {
            cell.held_out = Some(count);
        }
        sweep
    };
    let line = "the search takes another number of seeds: other numbers of images are held out";
    let explained = |after: Sweep| {
        let mut world = World::new();
        world.submit(sweep([20, 40]));
        world
            .submit(after)
            .explanation
            .iter()
            .any(|found| found == line)
    };
    assert!(explained(sweep([10, 40])));
    assert!(!explained(sweep([21, 40])), "as many seeds as before");
    let mut fewer = sweep([10, 40]);
    fewer.cells.truncate(1);
    assert!(!explained(fewer), "the cells are others");
}

#[test]
fn differences_of_an_inputs_content_are_listed_up_to_three() {
    let reading = |parts: u32, hash: &str| -> Sweep {
        let mut sweep = yaml(
            "name: r\nrecipe: quick\nset: {dataset: \"folder:mine\"}\naxes: {loss: [cos]}\nseeds: 1\n",
        );
        let part = |part: u32| (format!("part{part}"), hash.to_owned());
        let content = Content {
            hash: hash.to_owned(),
            files: 9,
            bytes: 9,
            parts: (0..parts).map(part).collect(),
        };
        sweep
            .inputs
            .insert("data set folder:mine".to_owned(), content.into());
        sweep
    };
    for (parts, expected) in [
        (0, "the content of data set folder:mine changed"),
        (
            1,
            "the content of data set folder:mine changed: part0 differs",
        ),
        (
            3,
            "the content of data set folder:mine changed: part0 differs, part1 differs, part2 differs",
        ),
        (
            5,
            "the content of data set folder:mine changed: part0 differs, part1 differs, part2 differs, and 2 more",
        ),
    ] {
        let mut world = World::new();
        world.submit(reading(parts, "aa"));
        let lines = world.submit(reading(parts, "bb")).explanation;
        assert!(lines.contains(&expected.to_owned()), "{lines:?}");
    }
}

#[test]
fn an_answer_about_files_is_empty_only_if_all_its_lists_are() {
    let id: TrialId = "00000000000000ff".parse().expect("an id");
    let attempt = id.attempt(sweep::AttemptNo(1));
    assert!(Removable::default().is_empty());
    for removable in [
        Removable {
            checkpoints: vec![attempt],
            ..Removable::default()
        },
        Removable {
            logs: vec![attempt],
            ..Removable::default()
        },
        Removable {
            unknown: vec![id],
            ..Removable::default()
        },
    ] {
        assert!(!removable.is_empty(), "{removable:?}");
    }
}

/// An attempt that is stopped while a sweep wants its trial again fails nothing.
#[test]
fn a_host_is_held_responsible_only_for_trials_that_failed_on_it() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started()[0].clone();
    world
        .end(&started, Outcome::Stopped)
        .expect("it is current");
    assert!(
        world
            .state
            .hosts
            .get("w")
            .is_none_or(|host| host.failed_here.is_empty())
    );
}

/// A success elsewhere counts against a host on which the trial failed, and against no other.
#[test]
fn hosts_are_compared_by_trials_that_failed_on_one_and_succeeded_on_another() {
    for (class, first, second, expected) in [
        (FailureClass::Crashed, "v", "w", 1),
        (FailureClass::Crashed, "v", "v", 0),
        (FailureClass::Preempted, "v", "w", 0),
    ] {
        let mut world = World::new();
        world.config.lease_ms = 1_000_000;
        let worker = world.join(first, 1);
        world.submit(grid("a", 1, 1, ""));
        let started = world.started()[0].clone();
        if first != second {
            drain(&mut world, &worker.0);
        }
        world.fail(&started, class).expect("it is current");
        if first != second {
            world.join(second, 1);
        }
        world.wait(world.config.budgets.crashed.first_ms);
        let trial = started.id.trial;
        let attempt = world.trial(trial).attempts.len() as u32;
        let again = crate::world::Started {
            worker: WorkerId(second.into()),
            slot: 0,
            id: trial.attempt(AttemptNo(attempt)),
        };
        world.finish(&again).expect("it is current");
        let host = &world.state.hosts[first];
        let case = format!("{class:?} on {first}, success on {second}");
        assert_eq!(host.succeeded_elsewhere, expected, "{case}");
        assert!(host.failed_here.is_empty(), "{case}");
    }
}

/// A worker may return with fewer slots than it had.
#[test]
fn a_broken_device_of_a_slot_that_is_gone_breaks_no_other() {
    let mut world = World::new();
    let worker = world.join("w", 2);
    world.submit(grid("a", 2, 1, ""));
    let second = world.started()[1].clone();
    assert_eq!(second.slot, 1);
    world.wait(world.config.lease_ms);
    let failure = Failure::new(FailureClass::BadDevice, "gone".to_owned());
    let late = EndedAttempt {
        id: second.id,
        outcome: Outcome::Failed(failure),
    };
    world
        .connect(&worker, info("w", 1, 1), &[], &[late])
        .expect("it may come back");
    assert!(world.state.workers[&worker].broken_slots.is_empty());
}

#[test]
fn a_curve_grows_with_its_attempt_and_starts_again_with_the_next() {
    let mut world = World::new();
    let worker = world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let beat = |world: &mut World, started: &crate::world::Started, epoch: u32| -> Vec<u32> {
        let mut report = report_of(started, u64::from(epoch));
        report.progress.epoch = epoch;
        let running = vec![report];
        let worker = worker.clone();
        world
            .give(Input::Heartbeat { worker, running })
            .expect("it is present");
        let curve = &world.state.live.progress[&started.id.trial].curve;
        curve.points().iter().map(|point| point.epoch).collect()
    };
    let first = world.started()[0].clone();
    assert_eq!(beat(&mut world, &first, 1), [1]);
    assert_eq!(beat(&mut world, &first, 2), [1, 2]);
    assert_eq!(beat(&mut world, &first, 3), [1, 2, 3]);
    world
        .fail(&first, FailureClass::Crashed)
        .expect("it is current");
    world.wait(world.config.budgets.crashed.first_ms);
    let second = world.started()[0].clone();
    assert_eq!(beat(&mut world, &second, 2), [2]);
    assert_eq!(beat(&mut world, &second, 3), [2, 3]);
}

/// A sweep whose trials wait for several reasons reports the worst, whichever trial has it.
#[test]
fn the_worst_reason_of_a_sweeps_trials_is_reported() {
    for order in [[0, 1], [1, 0]] {
        let mut world = World::new();
        world.join("w", 2);
        world.submit(grid("a", 2, 1, ""));
        let started = world.started();
        world.submit(grid("b", 2, 2, ""));
        for index in order {
            world
                .fail(&started[index], FailureClass::Crashed)
                .expect("it is current");
            world.now += world.config.budgets.crashed.first_ms - 1;
        }
        assert_eq!(world.state.sweeps["a"].counts.waiting, 2);
        let busy = "other sweeps occupy every slot of 1 device";
        assert_eq!(
            because(&world, "a"),
            Some((WaitReason::SlotsBusy, busy.to_owned())),
            "{order:?}"
        );
    }
}

#[test]
fn an_attempt_without_result_and_failure_was_stopped() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started()[0].clone();
    world
        .give(Input::Cancel {
            sweep: "a".to_owned(),
            reason: "for a test".into(),
        })
        .expect("it exists");
    world
        .end(&started, Outcome::Stopped)
        .expect("it is current");
    let explained = schedule::explain(&world.state, &world.config, started.id.trial, world.now);
    let outcomes: Vec<_> = explained
        .expect("it exists")
        .attempts
        .into_iter()
        .map(|attempt| attempt.outcome)
        .collect();
    assert_eq!(outcomes, ["stopped"]);
}

#[test]
fn the_hash_of_a_secret_has_64_hexadecimal_digits() {
    use schedule::state::SecretHash;
    let read = |text: &str| SecretHash::try_from(text.to_owned()).is_ok();
    assert!(read(&"0f".repeat(32)));
    for wrong in ["0f".repeat(31), "0f".repeat(33), "+f".repeat(32)] {
        assert!(!read(&wrong), "{wrong}");
    }
}

/// The progress of an attempt is forgotten with its end, and with that of no earlier attempt.
#[test]
fn a_late_end_of_an_earlier_attempt_keeps_the_progress_of_the_current_one() {
    let mut world = World::new();
    let worker = world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let first = world.started()[0].clone();
    world
        .connect(&worker, info("w", 1, 1), &[], &[])
        .expect("its start was lost");
    let second = world.started()[0].clone();
    let trial = first.id.trial;
    assert_eq!(second.id.trial, trial);
    world
        .beat(&worker, std::slice::from_ref(&second), 5)
        .expect("it is present");
    let late = world.end(&first, Outcome::Stopped);
    let attempt = |world: &World| {
        let known = world.state.live.progress.get(&trial);
        known.map(|known| known.attempt)
    };
    assert_eq!(attempt(&world), Some(second.id.number), "{late:?}");
    world.finish(&second).expect("it is current");
    assert_eq!(attempt(&world), None);
}
