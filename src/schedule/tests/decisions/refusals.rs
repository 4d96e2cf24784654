//! Histories that cannot have happened, and reports that no longer count: each is refused with its
//! reason, and changes nothing.

use std::collections::BTreeMap;

use schedule::event::{EndedAttempt, Event, Input, Outcome, Recorded, Rejected};
use sweep::record::{Failure, FailureClass};
use sweep::{AttemptNo, TrialId};

use crate::searches::{place, train};
use crate::sweeps::{grid, search};
use crate::world::{Started, World, info, result};

/// Applies an event that must be refused, and returns the reason.
fn reason(world: &mut World, event: Event) -> String {
    let before = world.state.clone();
    let at = world.now;
    let error = world
        .force(&Recorded { at, event })
        .expect_err("it cannot follow");
    assert_eq!(world.state, before);
    error.reason
}

#[test]
fn a_dispatch_that_no_worker_could_take_is_impossible() {
    let mut world = World::new();
    let worker = world.join("w", 2);
    world.submit(grid("a", 3, 1, ""));
    let [first, second] = &world.started()[..] else {
        panic!("two start")
    };
    let (first, second) = (first.clone(), second.clone());
    let waiting = *world
        .state
        .trials
        .keys()
        .find(|id| world.is_waiting(**id))
        .expect("one waits");
    let dispatch = |slot: u32, number: u32| Event::TrialDispatched {
        attempt: waiting.attempt(AttemptNo(number)),
        worker: worker.clone(),
        slot,
    };
    assert!(reason(&mut world, dispatch(0, 1)).contains("is occupied by"));
    assert!(reason(&mut world, dispatch(2, 1)).contains("has no slot 2"));
    assert!(reason(&mut world, dispatch(0, 2)).contains("is dispatched"));
    world
        .fail(&first, FailureClass::BadDevice)
        .expect("it is current");
    assert!(reason(&mut world, dispatch(first.slot, 1)).contains("takes no work in slot"));
    world
        .give(Input::Drain {
            name: worker.to_string(),
            reason: "a test".into(),
        })
        .expect("it joined");
    assert!(reason(&mut world, dispatch(second.slot, 1)).contains("takes no work in slot"));
    world.finish(&second).expect("it is current");
    let connection = world.state.live.connected[&worker];
    world
        .give(Input::Disconnected {
            worker: worker.clone(),
            connection,
        })
        .expect("it joined");
    assert!(world.state.workers[&worker].is_gone());
    let gone = world.state.workers.get_mut(&worker).expect("it is known");
    gone.draining = None;
    assert!(reason(&mut world, dispatch(second.slot, 1)).contains("takes no work in slot"));
}

#[test]
fn a_worker_that_joins_without_its_current_attempt_is_impossible() {
    let mut world = World::new();
    let worker = world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let running = world.started()[0].clone();
    let joined = |occupied: BTreeMap<u32, sweep::AttemptId>| Event::WorkerJoined {
        worker: worker.clone(),
        info: info("w", 1, 1),
        secret: None,
        occupied,
    };
    assert!(reason(&mut world, joined([].into())).contains("which runs there"));
    assert!(reason(&mut world, joined([(1, running.id)].into())).contains("occupies slot 1 of 1"));
    let next = running.id.trial.attempt(AttemptNo(2));
    assert!(reason(&mut world, joined([(0, next)].into())).contains("which runs there"));
}

#[test]
fn a_sweep_with_trials_of_no_cell_is_impossible() {
    let mut world = World::new();
    world.submit(search("s", 1, 2, 1));
    let entry = &world.state.sweeps["s"];
    let (sweep, trials) = (entry.sweep.clone(), entry.trials.clone());
    type Damage = fn(&mut schedule::state::SweepTrial);
    let damages: [Damage; 5] = [
        |trial| trial.cell = 1,
        |trial| trial.candidate = Some(2),
        |trial| trial.cost = f64::NAN,
        |trial| trial.cost = f64::INFINITY,
        |trial| trial.cost = -1.0,
    ];
    for damage in damages {
        let mut trials = trials.to_vec();
        damage(&mut trials[0]);
        let event = Event::SweepSubmitted {
            sweep: sweep.clone(),
            trials: trials.into(),
        };
        assert!(reason(&mut world, event).contains("is not one of its cells"));
    }
    // A cost of nothing is one.
    let mut trials = trials.to_vec();
    trials[0].cost = 0.0;
    let event = Event::SweepSubmitted {
        sweep,
        trials: trials.into(),
    };
    world
        .force(&Recorded { at: 0, event })
        .expect("it can follow");
}

#[test]
fn a_search_chooses_once_and_only_when_it_is_over() {
    let mut world = World::new();
    world.join("w", 2);
    world.submit(search("s", 1, 2, 1));
    let choice = Event::CandidateChosen {
        sweep: "s".into(),
        cell: 0,
        candidate: 0,
        trials: Vec::new(),
    };
    let refused = "has no search to choose from";
    assert!(reason(&mut world, choice.clone()).contains(refused));
    train(&mut world, |world, started| {
        Some(if place(world, started).1 == Some(1) {
            0.9
        } else {
            0.5
        })
    });
    assert_eq!(world.state.sweeps["s"].chosen[&0], 1);
    assert!(reason(&mut world, choice).contains(refused));
}

#[test]
fn late_reports_name_what_came_after_them() {
    let mut world = World::new();
    let worker = world.join("w", 1);
    world.submit(grid("a", 2, 1, ""));
    let first = world.started()[0].clone();
    let other = world.join("other", 1);
    let refusal = |world: &mut World, started: &Started| match world.finish(started) {
        Err(Rejected::StaleAttempt { reason, .. }) => reason,
        answer => panic!("{answer:?}"),
    };
    let elsewhere = Started {
        worker: other.clone(),
        ..first.clone()
    };
    assert_eq!(
        refusal(&mut world, &elsewhere),
        format!("it was given to worker `{worker}`")
    );
    let future = Started {
        id: first.id.trial.attempt(AttemptNo(2)),
        ..first.clone()
    };
    assert_eq!(refusal(&mut world, &future), "it was never dispatched");
    let unknown = Started {
        id: TrialId::MIN.attempt(AttemptNo(1)),
        ..first.clone()
    };
    assert_eq!(refusal(&mut world, &unknown), "no sweep has such a trial");
    world
        .fail(&first, FailureClass::Preempted)
        .expect("it is current");
    let again = world
        .started()
        .into_iter()
        .find(|started| started.id.trial == first.id.trial)
        .expect("it is retried at once");
    assert_eq!(refusal(&mut world, &first), "attempt 2 came after it");
    world.finish(&again).expect("it is current");
    assert_eq!(refusal(&mut world, &again), "it has ended already");
}

/// A broken device is believed of the worker that ran the attempt, and of no other.
#[test]
fn a_late_broken_device_is_taken_from_its_own_worker_alone() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let first = world.started()[0].clone();
    world
        .fail(&first, FailureClass::Preempted)
        .expect("it is current");
    let other = world.join("other", 1);
    let number = world.journal.len();
    let ended = EndedAttempt {
        id: first.id,
        outcome: Outcome::Failed(Failure::new(FailureClass::BadDevice, "gone".to_owned())),
    };
    let answer = world.give(Input::Ended {
        worker: other,
        ended,
    });
    assert!(matches!(answer, Err(Rejected::StaleAttempt { .. })));
    assert_eq!(world.journal.len(), number);
}

#[test]
fn undrain_of_a_sound_host_changes_nothing() {
    let mut world = World::new();
    world.join("w", 1);
    let number = world.journal.len();
    world
        .give(Input::Undrain { name: "w".into() })
        .expect("it is known");
    assert_eq!(world.journal.len(), number);
}

#[test]
fn an_attempt_stopped_on_request_has_no_failure() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started()[0].clone();
    world
        .give(Input::Cancel {
            sweep: "a".into(),
            reason: "a test".into(),
        })
        .expect("it exists");
    world
        .end(&started, Outcome::Stopped)
        .expect("its stop was sent");
    let end = world.trial(started.id.trial).attempts[0]
        .ended
        .clone()
        .expect("it has ended");
    assert_eq!((end.failure, end.succeeded), (None, false));
}

#[test]
fn slots_that_a_worker_no_longer_offers_lose_their_breakage_and_pause() {
    for (class, is_pause) in [(FailureClass::BadDevice, false), (FailureClass::Node, true)] {
        let mut world = World::new();
        let worker = world.join("w", 2);
        world.submit(grid("a", 2, 1, ""));
        for started in world.started() {
            world.fail(&started, class).expect("it is current");
        }
        let held_back = |world: &World| {
            let entry = &world.state.workers[&worker];
            match is_pause {
                true => entry.pauses.keys().copied().collect::<Vec<_>>(),
                false => entry.broken_slots.keys().copied().collect(),
            }
        };
        assert_eq!(held_back(&world), [0, 1]);
        world
            .connect(&worker, info("w", 1, 1), &[], &[])
            .expect("it may return");
        assert_eq!(held_back(&world), [0]);
        world.restart();
    }
}

#[test]
fn results_of_one_origin_share_its_description() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 258, ""));
    let mut train = |host: String| {
        let started = world.started()[0].clone();
        let mut made = result(0.5);
        made.provenance.host = host;
        world
            .end(&started, Outcome::Finished(Box::new(made)))
            .expect("it is current");
        world.state.provenances.len()
    };
    assert_eq!(train("one".to_owned()), 1);
    assert_eq!(train("one".to_owned()), 1);
    for host in 2..=256 {
        assert_eq!(train(host.to_string()), host);
    }
    assert_eq!(train("one too many".to_owned()), 256, "the list has an end");
}

#[test]
fn a_sweep_has_the_number_of_the_event_that_changed_it_last() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    assert_eq!(world.state.sweeps["a"].changed, world.state.applied);
    let started = world.started()[0].clone();
    world.join("other", 1);
    assert_eq!(world.state.sweeps["a"].changed + 1, world.state.applied);
    world.finish(&started).expect("it is current");
    assert_eq!(world.state.sweeps["a"].changed, world.state.applied);
}
