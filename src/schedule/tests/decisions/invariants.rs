//! Each invariant notices a state that breaks it.

use std::sync::Arc;

use schedule::check;
use schedule::state::{Phase, Presence, SlotPause, State};
use sweep::record::FailureClass;
use sweep::{AttemptNo, TrialId};

use crate::sweeps::{grid, search};
use crate::world::World;

/// Returns a running trial, one with a result, one whose only attempt crashed, and one that waits
/// for its first attempt.
fn world() -> (World, [TrialId; 4]) {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 4, 1, ""));
    let finished = world.started()[0].clone();
    world.finish(&finished).expect("it is current");
    let failed = world.started()[0].clone();
    world
        .fail(&failed, FailureClass::Crashed)
        .expect("it is current");
    let running = world.started()[0].clone();
    let waiting = *world
        .state
        .trials
        .keys()
        .find(|id| ![running.id.trial, finished.id.trial, failed.id.trial].contains(id))
        .expect("there are four");
    let ids = [
        running.id.trial,
        finished.id.trial,
        failed.id.trial,
        waiting,
    ];
    (world, ids)
}

/// Returns the invariants that the state breaks after `damage`.
fn broken_by(state: &State, damage: impl FnOnce(&mut State)) -> Vec<&'static str> {
    let mut state = state.clone();
    assert_eq!(check(&state), []);
    damage(&mut state);
    let mut broken: Vec<_> = check(&state)
        .into_iter()
        .map(|violation| violation.invariant)
        .collect();
    broken.sort_unstable();
    broken.dedup();
    broken
}

#[test]
fn damaged_attempts_and_slots_are_noticed() {
    let (world, [running, finished, failed, waiting]) = world();
    let state = &world.state;
    let notices = |invariant: &str, damage: &dyn Fn(&mut State)| {
        let broken = broken_by(state, damage);
        assert!(broken.contains(&invariant), "{invariant}: {broken:?}");
    };
    notices("S1", &|state| {
        let entry = state.trials.get_mut(&running).expect("it exists");
        entry.phase = Phase::Running {
            attempt: AttemptNo(2),
        };
    });
    notices("S1", &|state| {
        let worker = state.workers.values_mut().next().expect("it joined");
        worker.slots[0] = None;
    });
    notices("S1", &|state| {
        let ended = state.trials[&finished].attempts[0].ended.clone();
        state.trials.get_mut(&running).expect("it exists").attempts[0].ended = ended;
    });
    notices("S2", &|state| {
        state.trials.get_mut(&failed).expect("it exists").attempts[0].ended = None;
    });
    notices("S2", &|state| {
        let attempt = state.trials[&running].attempts[0].clone();
        let entry = state.trials.get_mut(&running).expect("it exists");
        entry.attempts.push(attempt);
    });
    notices("S3", &|state| {
        let worker = state.workers.values_mut().next().expect("it joined");
        worker.slots.push(Some(running.attempt(AttemptNo(1))));
    });
    notices("S4", &|state| {
        let worker = state.workers.values_mut().next().expect("it joined");
        worker.presence = Presence::Gone {
            reason: String::new(),
            at: 0,
        };
    });
    notices("S5", &|state| {
        let entry = state.trials.get_mut(&finished).expect("it exists");
        entry.since = AttemptNo(2);
    });
    notices("S5", &|state| {
        let entry = state.trials.get_mut(&finished).expect("it exists");
        entry.attempts[0]
            .ended
            .as_mut()
            .expect("it ended")
            .succeeded = false;
    });
    notices("S5", &|state| {
        let entry = state.trials.get_mut(&finished).expect("it exists");
        entry.attempts[0].ended.as_mut().expect("it ended").event += 1;
    });
    notices("S5", &|state| {
        let failure = state.trials[&failed].attempts[0].ended.clone();
        let entry = state.trials.get_mut(&finished).expect("it exists");
        entry.attempts[0].ended.as_mut().expect("it ended").failure =
            failure.expect("it ended").failure;
    });
    notices("S5", &|state| {
        let entry = state.trials.get_mut(&failed).expect("it exists");
        entry.attempts[0]
            .ended
            .as_mut()
            .expect("it ended")
            .succeeded = true;
    });
    notices("S6", &|state| state.queue.by_needs.clear());
    notices("S6", &|state| {
        state.trials.get_mut(&waiting).expect("it exists").place = None;
    });
    notices("S6", &|state| {
        state.queue.delayed.clear();
    });
    notices("S7", &|state| {
        let sweep = state.sweeps.get_mut("a").expect("it exists");
        sweep.cancelled = Some("a test".into());
    });
    notices("S7", &|state| {
        state.trials.get_mut(&waiting).expect("it exists").phase = Phase::Cancelled;
    });
    notices("S8", &|state| {
        let sweep = state.sweeps.get_mut("a").expect("it exists");
        sweep.counts.waiting += 1;
    });
    notices("S8", &|state| {
        let sweep = state.sweeps.get_mut("a").expect("it exists");
        sweep.tally.done_ms += 1;
    });
    notices("S8", &|state| {
        let entry = state.trials.get_mut(&waiting).expect("it exists");
        entry.wanted_by.clear();
    });
    notices("S10", &|state| {
        let entry = state.trials.get_mut(&failed).expect("it exists");
        entry.spent.insert(FailureClass::Crashed, 2);
    });
    notices("S10", &|state| {
        let entry = state.trials.get_mut(&finished).expect("it exists");
        entry.phase = Phase::Failed {
            attempt: AttemptNo(1),
        };
    });
    notices("S11", &|state| state.hosts.clear());
    notices("S12", &|state| {
        let host = state.hosts.get_mut("w").expect("it is known");
        host.failed_here.insert(finished);
    });
    notices("S12", &|state| {
        let host = state.hosts.get_mut("w").expect("it is known");
        host.failed_here.insert(waiting);
    });
    notices("S12", &|state| {
        let elsewhere = state.hosts.entry("x".into()).or_default();
        elsewhere.failed_here.insert(failed);
    });
    notices("S13", &|state| state.live.last_message.clear());
    notices("S13", &|state| state.live.since = u64::MAX);
    notices("S13", &|state| {
        state
            .live
            .connected
            .insert(schedule::state::WorkerId("x".into()), 1);
    });
    let pause = |until| SlotPause {
        until,
        count: 1,
        reason: String::new(),
    };
    notices("S14", &|state| {
        let worker = state.workers.values_mut().next().expect("it joined");
        worker.pauses.insert(0, pause(u64::MAX));
    });
    notices("S14", &|state| {
        let worker = state.workers.values_mut().next().expect("it joined");
        worker.pauses.insert(1, pause(0));
    });
    // A pause that was over when the attempt started breaks nothing.
    let over = broken_by(state, |state| {
        let worker = state.workers.values_mut().next().expect("it joined");
        worker.pauses.insert(0, pause(world.now));
    });
    assert_eq!(over, [""; 0]);
}

#[test]
fn a_damaged_search_is_noticed() {
    let mut world = World::new();
    world.submit(search("s", 1, 2, 1));
    let noticed = |damage: &dyn Fn(&mut State)| broken_by(&world.state, damage).contains(&"S9");
    assert!(noticed(&|state| {
        state.to_choose.insert(("s".into(), 0));
    }));
    assert!(noticed(&|state| {
        let sweep = state.sweeps.get_mut("s").expect("it exists");
        sweep.searching.get_mut(&0).expect("it searches").unfinished += 1;
    }));
    assert!(noticed(&|state| {
        let sweep = state.sweeps.get_mut("s").expect("it exists");
        sweep.chosen.insert(0, 1);
    }));
    let unlisted = |state: &mut State| {
        let sweep = state.sweeps.get_mut("s").expect("it exists");
        Arc::make_mut(&mut sweep.trials).pop();
    };
    assert!(broken_by(&world.state, unlisted).contains(&"S8"));
}

#[test]
fn a_host_blamed_for_a_trial_that_has_succeeded_is_noticed() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let first = world.started()[0].clone();
    world
        .fail(&first, FailureClass::Crashed)
        .expect("it is current");
    world.wait(world.config.budgets.crashed.first_ms);
    let second = world.started()[0].clone();
    world.finish(&second).expect("it is current");
    let broken = broken_by(&world.state, |state| {
        let host = state.hosts.get_mut("w").expect("it joined");
        host.failed_here.insert(first.id.trial);
    });
    assert_eq!(broken, ["S12"]);
}
