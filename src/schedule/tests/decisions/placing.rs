//! The places of waiting trials, and the order in which they start.

use schedule::WaitReason;
use schedule::event::{Effect, Input};
use schedule::state::WorkerId;
use sweep::record::FailureClass;

use crate::sweeps::grid;
use crate::world::{World, info};

#[test]
fn sweeps_are_served_first_come_first_served_and_the_longest_trial_first() {
    let mut world = World::new();
    world.submit(grid("a", 1, 2, ""));
    world.submit(grid(
        "b",
        1,
        1,
        "overrides: [{when: {learning_rate: 0.01}, set: {repeats: 3}}]\n",
    ));
    world.join("w", 3);
    let order: Vec<_> = world
        .started()
        .iter()
        .map(|started| world.trial(started.id.trial).wanted_by[0].0.clone())
        .collect();
    assert_eq!(
        order.iter().map(|name| &**name).collect::<Vec<_>>(),
        ["a", "a", "b"]
    );

    let mut world = World::new();
    let sweep = grid(
        "c",
        3,
        1,
        "overrides: [{when: {learning_rate: 0.02}, set: {repeats: 3}}]\n",
    );
    world.submit(sweep);
    world.join("w", 1);
    let first = world.started()[0].id.trial;
    let longest = world
        .state
        .trials
        .values()
        .map(|trial| trial.cost)
        .fold(0.0, f64::max);
    assert_eq!(world.trial(first).cost, longest);
}

#[test]
fn every_slot_gets_one_trial_and_the_others_report_why_they_wait() {
    let mut world = World::new();
    world.submit(grid("a", 5, 1, ""));
    assert_eq!(world.waits(), [WaitReason::NoWorkers; 5]);
    world.join("w", 2);
    assert_eq!(world.started().len(), 2);
    assert_eq!(world.waits(), [WaitReason::SlotsBusy; 3]);
}

#[test]
fn a_trial_gets_the_smallest_slot_that_has_enough_devices() {
    let mut world = World::new();
    world.submit(grid("a", 1, 1, "resources: {devices_per_trial: 2}\n"));
    world.join("small", 1);
    assert_eq!(world.started(), []);
    assert_eq!(world.waits(), [WaitReason::NoSlotLargeEnough]);
    let mut large = info("large", 2, 4);
    large.slots[1].devices.truncate(2);
    world
        .connect(&WorkerId("large".into()), large, &[], &[])
        .expect("it may join");
    assert_eq!(world.started()[0].slot, 1);
}

#[test]
fn small_trials_go_past_one_that_no_free_slot_fits() {
    let mut world = World::new();
    world.submit(grid("wide", 1, 1, "resources: {devices_per_trial: 2}\n"));
    world.submit(grid(
        "narrow",
        2,
        2,
        "overrides: [{when: {learning_rate: 0.01}, set: {repeats: 2}}]\n",
    ));
    world.join("w", 2);
    let names: Vec<_> = world
        .started()
        .iter()
        .map(|started| world.trial(started.id.trial).wanted_by[0].0.clone())
        .collect();
    assert_eq!(
        names,
        [crate::world::named("narrow"), crate::world::named("narrow")]
    );
}

#[test]
fn an_edit_of_the_devices_frees_a_trial_that_could_not_be_placed() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, "resources: {devices_per_trial: 2}\n"));
    assert_eq!(world.started(), []);
    world.submit(grid("a", 1, 1, ""));
    assert_eq!(world.started().len(), 1);
}

#[test]
fn a_retry_goes_to_another_host_even_if_it_must_wait_for_it() {
    let mut world = World::new();
    world.join("bad", 1);
    world.submit(grid("a", 2, 1, ""));
    let first = world.started()[0].clone();
    world.join("good", 1);
    let second = world.started()[0].clone();
    world
        .fail(&first, FailureClass::Crashed)
        .expect("it is current");
    world.wait(2_000);
    assert_eq!(
        world.started(),
        [],
        "the only free slot is on the host that it failed on"
    );
    assert_eq!(world.waits(), [WaitReason::AnotherHost]);
    world.finish(&second).expect("it is current");
    assert_eq!(world.started()[0].worker, second.worker);
}

#[test]
fn a_retry_stays_when_there_is_no_other_host() {
    let mut world = World::new();
    world.join("only", 1);
    world.submit(grid("a", 1, 1, ""));
    let first = world.started()[0].clone();
    world
        .fail(&first, FailureClass::Crashed)
        .expect("it is current");
    assert_eq!(world.started(), [], "it waits for its backoff");
    world.wait(2_000);
    assert_eq!(world.started().len(), 1);
}

#[test]
fn nothing_is_placed_on_workers_that_drain_leave_or_are_cut_off() {
    let mut world = World::new();
    let draining = world.join("draining", 1);
    let leaving = world.join("leaving", 1);
    let cut = world.join("cut", 1);
    world
        .give(Input::Drain {
            name: draining.to_string(),
            reason: "a test".into(),
        })
        .expect("it joined");
    world
        .give(Input::Leaving {
            worker: leaving,
            reason: "SIGTERM".into(),
        })
        .expect("it joined");
    world
        .give(Input::Disconnected {
            worker: cut.clone(),
            connection: 3,
        })
        .expect("always");
    world.submit(grid("a", 3, 1, ""));
    assert_eq!(world.started(), []);
    world
        .connect(&cut, info("cut", 1, 1), &[], &[])
        .expect("it may return");
    assert_eq!(world.started().len(), 1);
}

#[test]
fn an_idle_worker_leaves_unless_a_trial_waits_that_it_can_take() {
    let idle = |world: &mut World, worker: &WorkerId| {
        let input = Input::Idle {
            worker: worker.clone(),
            reason: "idle for 300s".into(),
        };
        world.give(input).expect("it joined");
        let ends =
            |effect: &Effect| matches!(effect, Effect::Drain { worker: to, .. } if to == worker);
        let leaves = world.effects.iter().any(ends);
        assert_eq!(world.state.workers[worker].draining.is_some(), leaves);
        leaves
    };
    let mut world = World::new();
    let worker = world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let running = world.started()[0].clone();
    assert!(!idle(&mut world, &worker), "it holds an attempt");
    world
        .fail(&running, FailureClass::Crashed)
        .expect("it is current");
    assert_eq!(world.waits(), [WaitReason::Backoff]);
    assert!(!idle(&mut world, &worker), "a trial waits for its backoff");
    world.wait(1_000);
    let running = world.started()[0].clone();
    world.finish(&running).expect("it is current");
    assert!(idle(&mut world, &worker), "nothing is left to do");
    let mut world = World::new();
    let worker = world.join("small", 1);
    world.submit(grid("a", 1, 1, "resources: {devices_per_trial: 2}\n"));
    assert!(idle(&mut world, &worker), "it is too small for what waits");
}
