//! Explanations of a trial, in every state it can be in.

use schedule::event::{Input, Outcome};
use schedule::{WaitReason, explain};
use sweep::TrialId;
use sweep::record::{Failure, FailureClass};

use crate::sweeps::{grid, search};
use crate::world::{World, result};

fn text(world: &World, id: TrialId) -> String {
    let explanation = explain(&world.state, &world.config, id, world.now).expect("it exists");
    serde_json::to_string(&explanation).expect("plain data");
    explanation.to_string().replace(&id.to_string(), "ID")
}

fn only(world: &World) -> TrialId {
    *world.state.trials.keys().next().expect("there is one")
}

#[test]
fn a_waiting_trial_reports_what_it_waits_for() {
    let mut world = World::new();
    world.submit(grid("a", 1, 1, "resources: {devices_per_trial: 2}\n"));
    let id = only(&world);
    assert_eq!(
        text(&world, id),
        "trial ID is waiting\n  \
         no worker has joined: start one with `orchestrator worker --coordinator URL`\n  \
         sweep a: 0.01, seed 0\n"
    );
    let worker = world.join("w", 1);
    assert!(text(&world, id).contains("needs a slot of 2 devices, and the largest offered has 1"));
    world
        .give(Input::Drain {
            name: worker.to_string(),
            reason: "maintenance".into(),
        })
        .expect("it joined");
    assert!(text(&world, id).contains("host `w` is drained (maintenance)"));
}

fn sweep_waits(world: &World, sweep: &str) -> Option<(WaitReason, String)> {
    schedule::sweep_waits(&world.state, sweep, world.now).map(|waits| (waits.reason, waits.because))
}

#[test]
fn broken_slots_are_named_with_what_lets_them_work_again() {
    let mut world = World::new();
    world.join("w", 2);
    world.submit(grid("a", 4, 1, ""));
    assert_eq!(sweep_waits(&world, "a"), None, "its own trials run");
    let started = world.started();
    world
        .fail(&started[0], FailureClass::BadDevice)
        .expect("it is current");
    assert_eq!(sweep_waits(&world, "a"), None, "its own trial runs");
    world
        .fail(&started[1], FailureClass::BadDevice)
        .expect("it is current");
    let because = "every slot of 1 device is broken: slot 0 of worker `w`: BadDevice for a test (1 more: \
                   `orchestrator status`); fix it, then `orchestrator undrain w`";
    assert_eq!(
        sweep_waits(&world, "a"),
        Some((WaitReason::SlotsBroken, because.to_owned()))
    );
    for id in world.state.trials.keys() {
        assert!(text(&world, *id).contains(because), "{}", text(&world, *id));
    }
    world
        .give(Input::Undrain { name: "w".into() })
        .expect("it is known");
    let waits = sweep_waits(&world, "a").map(|(reason, _)| reason);
    assert_ne!(waits, Some(WaitReason::SlotsBroken));
}

#[test]
fn a_sweep_without_progress_reports_why() {
    let mut world = World::new();
    world.submit(grid("wide", 2, 1, "resources: {devices_per_trial: 2}\n"));
    assert_eq!(
        sweep_waits(&world, "wide").expect("it waits").0,
        WaitReason::NoWorkers
    );
    world.join("w", 1);
    let (reason, because) = sweep_waits(&world, "wide").expect("it waits");
    assert_eq!(reason, WaitReason::NoSlotLargeEnough);
    assert!(
        because.contains("--devices-per-slot 2")
            && because.contains("`resources.devices_per_trial`"),
        "{because}"
    );
    world.submit(grid(
        "first",
        1,
        1,
        "overrides: [{when: {learning_rate: 0.01}, set: {repeats: 2}}]\n",
    ));
    let started = world.started();
    world.submit(grid("second", 1, 1, ""));
    let busy = "other sweeps occupy every slot of 1 device".to_owned();
    assert_eq!(
        sweep_waits(&world, "second"),
        Some((WaitReason::SlotsBusy, busy))
    );
    world.finish(&started[0]).expect("it is current");
    let started = world.started();
    assert_eq!(sweep_waits(&world, "second"), None);
    world
        .fail(&started[0], FailureClass::Crashed)
        .expect("it is current");
    assert_eq!(
        sweep_waits(&world, "second").expect("it waits").0,
        WaitReason::Backoff
    );
}

#[test]
fn a_queued_trial_reports_how_many_are_ahead() {
    let mut world = World::new();
    world.submit(grid("a", 3, 1, ""));
    world.join("w", 1);
    let last = world.state.queue.by_needs[&(1, sweep::Trainer::BuiltIn)]
        .last()
        .expect("two wait")
        .trial;
    assert!(
        text(&world, last).contains("every slot of 1 device is occupied; 1 trial is before it")
    );
}

#[test]
fn a_retried_trial_reports_why() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started()[0].clone();
    world.now += 5_000;
    world
        .fail(&started, FailureClass::Crashed)
        .expect("it is current");
    let id = started.id.trial;
    assert_eq!(
        text(&world, id),
        "trial ID is waiting\n  \
         it failed and is retried in 1.0 s\n  \
         the attempt before ended as crashed on w: Crashed for a test\n  \
         sweep a: 0.01, seed 0\n  \
         attempt 1 on w, slot 0, 5.0 s: crashed: Crashed for a test\n      \
         its log, if it wrote one: WORK_DIR/logs/ID/attempt-1.stderr (the worker's --work-dir)\n  \
         crashed: 1 failure, at most 3 retried\n"
    );
    world.wait(1_000);
    world.now += 4_000;
    assert_eq!(
        text(&world, id),
        "trial ID is running\n  \
         attempt 2 runs on w, slot 0, since 4.0 s\n  \
         the attempt before ended as crashed on w: Crashed for a test\n  \
         its worker is silent for 5.0 s; its lease ends in 5.0 s\n  \
         sweep a: 0.01, seed 0\n  \
         attempt 1 on w, slot 0, 5.0 s: crashed: Crashed for a test\n      \
         its log, if it wrote one: WORK_DIR/logs/ID/attempt-1.stderr (the worker's --work-dir)\n  \
         attempt 2 on w, slot 0, 4.0 s: running\n  \
         crashed: 1 failure, at most 3 retried\n"
    );
    world
        .end(
            &world
                .started()
                .first()
                .cloned()
                .unwrap_or(crate::world::Started {
                    id: id.attempt(sweep::AttemptNo(2)),
                    ..started
                }),
            Outcome::Finished(Box::new(result(0.5))),
        )
        .expect("it is current");
    assert!(text(&world, id).contains("attempt 2 finished with 50.00 % accuracy"));
}

#[test]
fn a_failed_trial_reports_whether_it_is_retried() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started()[0].clone();
    world
        .fail(&started, FailureClass::BadInput)
        .expect("it is current");
    let explanation = text(&world, started.id.trial);
    assert!(
        explanation.contains("attempt 1 ended as bad_input: BadInput for a test"),
        "{explanation}"
    );
    assert!(
        explanation.contains("bad_input is never retried automatically; `orchestrator retry a`")
    );
}

#[test]
fn a_cancelled_trial_names_the_reason() {
    let mut world = World::new();
    world.submit(search("s", 1, 2, 1));
    world
        .give(Input::Cancel {
            sweep: "s".into(),
            reason: "a test".into(),
        })
        .expect("it exists");
    let explanation = text(&world, only(&world));
    assert!(
        explanation.starts_with("trial ID is cancelled\n  no sweep wants it any more\n"),
        "{explanation}"
    );
    assert!(
        explanation.contains("candidate learning_rate")
            && explanation.contains("(cancelled: a test)")
    );
}

#[test]
fn a_failed_trial_names_the_budget_that_it_spent() {
    for (class, retries, expected) in [
        (
            FailureClass::Crashed,
            1,
            "crashed has used up its retries (1)",
        ),
        (
            FailureClass::Crashed,
            2,
            "crashed has used up its retries (2)",
        ),
        (
            FailureClass::Crashed,
            3,
            "crashed has used up its retries (3)",
        ),
        (
            FailureClass::OutOfMemory,
            1,
            "out_of_memory was not retried: there is no other host",
        ),
    ] {
        let mut world = World::new();
        world.config.budgets.crashed.retries = Some(retries);
        world.config.lease_ms = 1_000_000;
        world.join("w", 1);
        world.submit(grid("a", 1, 1, ""));
        let id = only(&world);
        while !world.is_failed(id) {
            if let Some(started) = world.started().first().cloned() {
                world.fail(&started, class).expect("it is current");
            } else {
                world.wait(60_000);
            }
        }
        let explanation = text(&world, id);
        assert!(explanation.contains(expected), "{explanation}");
    }
}

#[test]
fn silence_and_stalls_are_explained_only_when_they_are_long() {
    let mut world = World::new();
    world.config.lease_ms = 1_000_000;
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let id = only(&world);
    world.now += 3 * world.config.heartbeat_ms;
    assert!(!text(&world, id).contains("is silent"));
    world.now += 1;
    assert!(text(&world, id).contains("its worker is silent for 3.0 s; its lease ends in 16 min"));
    world.now += world.config.stall_ms / 10 - 3 * world.config.heartbeat_ms - 1;
    assert!(!text(&world, id).contains("no progress"));
    world.now += 1;
    assert!(
        text(&world, id).contains("it made no progress for 90 s; at 15 min it counts as stalled")
    );
    world.now += 3 * 3_600_000;
    let explanation = text(&world, id);
    assert!(explanation.contains("since 3.0 h"), "{explanation}");
}

/// Without a coordinator a trial waits for one and for nothing else.
#[test]
fn explanations_at_rest_advise_to_start_a_coordinator() {
    let mut world = World::new();
    world.submit(grid("a", 2, 1, ""));
    world.join("w", 1);
    let running = world.started()[0].clone();
    let waiting = *world
        .state
        .trials
        .keys()
        .find(|id| world.is_waiting(**id))
        .expect("one waits");
    let at_rest = |world: &World, id| {
        let mut explanation =
            explain(&world.state, &world.config, id, world.now).expect("it exists");
        explanation.at_rest("start one");
        (explanation.because, explanation.waits)
    };
    assert_eq!(
        at_rest(&world, waiting),
        (vec!["start one".to_owned()], None)
    );
    let line = "attempt 1 ran on w when the coordinator ended; start one";
    assert_eq!(
        at_rest(&world, running.id.trial),
        (vec![line.to_owned()], None)
    );
    world
        .fail(&running, FailureClass::Crashed)
        .expect("it is current");
    assert_eq!(
        at_rest(&world, running.id.trial).0,
        [
            "start one",
            "the attempt before ended as crashed on w: Crashed for a test"
        ]
    );
    let other = world.started()[0].clone();
    world.finish(&other).expect("it is current");
    let ended = explain(&world.state, &world.config, other.id.trial, world.now);
    let because = ended.expect("it exists").because;
    assert_eq!(at_rest(&world, other.id.trial).0, because);
}

#[test]
fn the_journal_has_the_whole_message_of_a_failure() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started()[0].clone();
    let message = format!("first line\n{}\nlast line", "x".repeat(5_000));
    let failure = Failure::new(FailureClass::Crashed, message.clone());
    world
        .end(&started, Outcome::Failed(failure))
        .expect("it is current");
    let mut explanation =
        explain(&world.state, &world.config, started.id.trial, world.now).expect("it exists");
    let number = explanation.last_failure().expect("it failed");
    assert!(explanation.attempts[0].message.len() < message.len());
    let recorded = &world.journal[number as usize - 1];
    explanation.read(number + 1, recorded);
    assert!(explanation.attempts[0].message.len() < message.len());
    explanation.read(number, recorded);
    assert_eq!(explanation.attempts[0].message, message);
}

/// A slot that is paused or broken is too small as well: nothing but a larger one helps.
#[test]
fn small_slots_are_no_reason_to_wait_for_them() {
    for class in [FailureClass::Node, FailureClass::BadDevice] {
        let mut world = World::new();
        world.join("w", 1);
        world.submit(grid("a", 1, 1, ""));
        let started = world.started()[0].clone();
        world.fail(&started, class).expect("it is current");
        world.submit(grid("wide", 1, 2, "resources: {devices_per_trial: 2}\n"));
        assert_eq!(
            sweep_waits(&world, "wide").expect("it waits").0,
            WaitReason::NoSlotLargeEnough
        );
    }
}
