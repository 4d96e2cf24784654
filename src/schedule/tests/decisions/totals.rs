//! The numbers that `status` shows, snapshots for reports, and the comparison of histories.

use schedule::event::{Input, Outcome};
use schedule::state::{Phase, State, WorkerId};
use schedule::tally::cost_of;
use sweep::AttemptId;
use sweep::definition::Role;
use sweep::record::FailureClass;

use crate::searches::place;
use crate::sweeps::{grid, search};
use crate::world::{Started, World, result};

fn running(world: &World) -> Option<AttemptId> {
    let mut trials = world.state.trials.iter();
    trials.find_map(|(id, trial)| match trial.phase {
        Phase::Running { attempt } => Some(id.attempt(attempt)),
        _ => None,
    })
}

#[test]
fn the_tally_follows_every_phase() {
    let mut world = World::new();
    world.submit(grid("a", 2, 2, ""));
    let costs: f64 = world.state.sweeps["a"]
        .trials
        .iter()
        .map(|trial| trial.cost)
        .sum();
    let cost = costs / 4.0;
    assert!(cost > 0.0);
    let close = |work: u128, expected: f64| {
        let is_close = (cost_of(work) - expected).abs() <= expected * 1e-6;
        assert!(is_close, "{} is not {expected}", cost_of(work));
    };
    let tally = |world: &World| world.state.sweeps["a"].tally.clone();
    close(tally(&world).waiting_work, 4.0 * cost);
    world.join("w", 2);
    let first = world.started();
    let now = tally(&world);
    assert_eq!((now.waiting.len(), now.running.len()), (2, 2));
    close(now.waiting_work, 2.0 * cost);
    close(now.running_work, 2.0 * cost);
    world.now += 2_000;
    world.finish(&first[0]).expect("it is current");
    let now = tally(&world);
    assert_eq!((now.done_ms, now.complete_cells), (2_000, 0));
    close(now.done_work, cost);
    let squares = |durations: &[f64]| -> u128 {
        let each = durations.iter().map(|ms| (ms * ms / cost) as u128);
        each.sum()
    };
    assert!(squares(&[2_000.0]) > 1);
    assert_eq!(now.done_squares, squares(&[2_000.0]));
    world.now += 1_000;
    world.finish(&first[1]).expect("it is current");
    assert_eq!(tally(&world).done_ms, 5_000);
    assert_eq!(tally(&world).done_squares, squares(&[2_000.0, 3_000.0]));
    while let Some(id) = running(&world) {
        let started = Started {
            worker: WorkerId("w".into()),
            slot: world.state.attempt(id).expect("it runs").slot,
            id,
        };
        world.finish(&started).expect("it is current");
    }
    let now = tally(&world);
    assert_eq!(now.complete_cells, 2);
    assert_eq!((now.waiting.len(), now.running.len()), (0, 0));
    assert_eq!((now.waiting_work, now.running_work), (0, 0));
    close(now.done_work, 4.0 * cost);
    assert_eq!(world.state.hosts["w"].succeeded_here, 4);
}

/// Trials of a search make no cell complete; result trials that failed do not either.
#[test]
fn only_results_complete_a_cell() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(search("s", 1, 2, 1));
    let mut complete = Vec::new();
    while let Some(started) = world.started().first().cloned() {
        let role = place(&world, &started).2;
        world
            .end(&started, Outcome::Finished(Box::new(result(0.5))))
            .expect("it is current");
        complete.push((role, world.state.sweeps["s"].tally.complete_cells));
    }
    assert!(complete.len() > 1);
    for (role, cells) in &complete {
        assert_eq!(*cells, u64::from(*role == Role::Result), "{complete:?}");
    }
    world.submit(grid("a", 1, 1, ""));
    let started = world.started()[0].clone();
    world
        .fail(&started, FailureClass::BadInput)
        .expect("it is current");
    assert_eq!(world.state.sweeps["a"].tally.complete_cells, 0);
}

#[test]
fn a_snapshot_has_its_own_sweep_alone() {
    let mut world = World::new();
    world.submit(grid("a", 2, 1, ""));
    world.submit(search("s", 2, 2, 1));
    assert_eq!(world.state.snapshot("no"), None);
    let copy = world.state.snapshot("s").expect("it exists");
    assert_eq!(
        copy.sweeps.keys().map(|name| &**name).collect::<Vec<_>>(),
        ["s"]
    );
    let (was, is) = (&world.state.sweeps["s"], &copy.sweeps["s"]);
    assert_eq!(
        (&is.trials, is.counts, is.changed),
        (&was.trials, was.counts, was.changed)
    );
    assert_eq!(copy.trials.len(), world.state.trials.len());
    assert_eq!(copy.applied, world.state.applied);
}

#[test]
fn histories_that_differ_anywhere_are_not_the_same() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 2, 1, ""));
    let state = &world.state;
    type Change = fn(&mut State);
    let changes: [Change; 8] = [
        |state| state.applied += 1,
        |state| state.sweeps.clear(),
        |state| state.trials = Default::default(),
        |state| state.workers.clear(),
        |state| state.hosts.clear(),
        |state| state.queue.delayed.clear(),
        |state| state.provenances.push(Default::default()),
        |state| {
            state.to_choose.insert(("a".into(), 0));
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut other = state.clone();
        change(&mut other);
        assert!(!other.same_history(state), "change {number}");
    }
    let mut live = state.clone();
    live.live.connected.clear();
    assert!(live.same_history(state), "messages are not part of it");
}

/// The worker with the most free slots gets the next trial.
#[test]
fn trials_are_spread_over_workers() {
    let mut world = World::new();
    world.join("v", 3);
    world.join("w", 3);
    world.submit(grid("a", 4, 1, ""));
    let mut on_v = world.started();
    on_v.retain(|started| &*started.worker.0 == "v");
    assert_eq!((world.started().len(), on_v.len()), (4, 2));
}

/// Two slots of one worker never hold the same trial: its attempts share a directory.
#[test]
fn a_trial_is_not_placed_where_an_earlier_attempt_is_not_gone_yet() {
    let mut world = World::new();
    let worker = world.join("w", 2);
    world.submit(grid("a", 1, 1, ""));
    let first = world.started()[0].clone();
    world.config.stall_ms = 5_000;
    world.now += 5_000;
    world.beat(&worker, &[], 0).expect("it is present");
    assert!(world.is_waiting(first.id.trial));
    world.wait(2_000);
    assert!(world.started().is_empty(), "its first attempt is not gone");
    let stopped = world.end(&first, Outcome::Stopped);
    assert!(stopped.is_ok());
    assert_eq!(world.started()[0].id.number.0, 2);
}

#[test]
fn a_host_is_drained_by_the_share_of_its_failures() {
    for (succeeded_here, is_drained) in [(4, false), (3, true)] {
        let mut world = World::new();
        world.join("bad", 1);
        world.join("good", 1);
        let host = world.state.hosts.get_mut("bad").expect("it joined");
        host.succeeded_elsewhere = 3;
        host.succeeded_here = succeeded_here;
        world.give(Input::Tick).expect("time always passes");
        assert_eq!(world.state.hosts["bad"].drained.is_some(), is_drained);
    }
}

#[test]
fn the_last_host_that_can_work_is_not_drained() {
    for (hosts, num_drained) in [(&["a"][..], 0), (&["a", "b"], 1), (&["a", "b", "c"], 2)] {
        let mut world = World::new();
        for name in hosts {
            world.join(name, 1);
            let host = world.state.hosts.get_mut(*name).expect("it joined");
            host.succeeded_elsewhere = 3;
        }
        world.give(Input::Tick).expect("time always passes");
        let is_drained = |name: &&&str| world.state.hosts[**name].drained.is_some();
        assert_eq!(hosts.iter().filter(is_drained).count(), num_drained);
    }
}
