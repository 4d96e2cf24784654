//! What people are told about a trial, in every state it can be in.

use schedule::event::{Input, Outcome};
use schedule::explain;
use sweep::TrialId;
use sweep::record::FailureClass;

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
fn a_waiting_trial_says_for_what() {
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
    world.give(Input::Drain { worker, reason: "maintenance".into() }).expect("it joined");
    assert!(text(&world, id).contains("worker `w` takes no new work: maintenance"));
}

#[test]
fn a_trial_in_the_queue_says_how_many_are_before_it() {
    let mut world = World::new();
    world.submit(grid("a", 3, 1, ""));
    world.join("w", 1);
    let last = world.state.queue.by_devices[&1].last().expect("two wait").trial;
    assert!(text(&world, last).contains("every slot of 1 device is occupied; 1 trial is before it"));
}

#[test]
fn a_trial_that_runs_again_says_why() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started()[0].clone();
    world.now += 5_000;
    world.fail(&started, FailureClass::Crashed).expect("it is current");
    let id = started.2;
    assert_eq!(
        text(&world, id),
        "trial ID is waiting\n  \
         it failed and is tried again in 1.0 s\n  \
         the attempt before ended as crashed on w: Crashed for a test\n  \
         sweep a: 0.01, seed 0\n  \
         attempt 1 on w, slot 0, 5.0 s: crashed: Crashed for a test\n  \
         crashed: 1 failure, at most 3 tried again\n"
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
         attempt 1 on w, slot 0, 5.0 s: crashed: Crashed for a test\n  \
         attempt 2 on w, slot 0, 4.0 s: running\n  \
         crashed: 1 failure, at most 3 tried again\n"
    );
    world
        .end(
            &world.started().first().cloned().unwrap_or((started.0, 0, id, sweep::AttemptNo(2))),
            Outcome::Finished(Box::new(result(0.5))),
        )
        .expect("it is current");
    assert!(text(&world, id).contains("attempt 2 finished with 50.00 % accuracy"));
}

#[test]
fn a_failed_trial_says_whether_it_is_ever_tried_again() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started()[0].clone();
    world.fail(&started, FailureClass::BadInput).expect("it is current");
    let explanation = text(&world, started.2);
    assert!(explanation.contains("attempt 1 ended as bad_input: BadInput for a test"), "{explanation}");
    assert!(explanation.contains("bad_input is never tried again by itself; `orchestrator retry --failed a`"));
}

#[test]
fn a_cancelled_trial_names_the_reason() {
    let mut world = World::new();
    world.submit(search("s", 1, 2, 1));
    world.give(Input::Cancel { sweep: "s".into(), reason: "a test".into() }).expect("it exists");
    let explanation = text(&world, only(&world));
    assert!(explanation.starts_with("trial ID is cancelled\n  no sweep wants it any more\n"), "{explanation}");
    assert!(explanation.contains("candidate learning_rate") && explanation.contains("(cancelled: a test)"));
}
