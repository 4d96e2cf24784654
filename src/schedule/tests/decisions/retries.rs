//! Trials trained again on a user's request: results that no longer count, running trials that are
//! left alone, searches that are decided again.

use schedule::check;
use schedule::event::{Event, Input, Outcome, Rejected, Retry};
use schedule::state::Phase;
use sweep::definition::Role;
use sweep::record::FailureClass;
use sweep::{AttemptNo, TrialId};

use crate::searches::{place, train};
use crate::sweeps::{grid, search};
use crate::world::{Started, World, result};

/// Returns the number of trials that wait again.
fn again(world: &mut World, sweep: &str, which: Retry) -> Result<u64, Rejected> {
    let answer = world.give(Input::Retry {
        sweep: sweep.to_owned(),
        which,
    });
    answer.map(|answer| answer.trials)
}

fn accuracy(world: &World, id: TrialId) -> Option<f64> {
    match &world.trial(id).phase {
        Phase::Succeeded { result, .. } => Some(result.last_accuracy),
        _ => None,
    }
}

#[test]
fn finished_trials_are_trained_again_from_the_start_and_their_results_count_no_more() {
    let mut world = World::new();
    world.join("w", 3);
    world.submit(grid("a", 3, 1, ""));
    let started = world.started();
    world.finish(&started[0]).expect("it is current");
    world
        .fail(&started[1], FailureClass::BadInput)
        .expect("it is current");
    world.submit(grid("b", 3, 1, ""));
    assert_eq!(again(&mut world, "a", Retry::All), Ok(2));
    // The third one runs: it is being trained already.
    assert_eq!(
        (
            world.trial(started[2].id.trial).phase.clone(),
            world.stopped()
        ),
        (
            Phase::Running {
                attempt: AttemptNo(1)
            },
            vec![]
        )
    );
    let restarted = world.started();
    assert_eq!(restarted.len(), 2);
    for Started { id, .. } in &restarted {
        assert_eq!(
            (id.number, world.trial(id.trial).since),
            (AttemptNo(2), AttemptNo(2))
        );
    }
    assert_eq!(
        accuracy(&world, started[0].id.trial),
        None,
        "it is no result while another is made"
    );
    // It is shared: the other sweep waits for it as well.
    assert!(!world.state.is_complete("b"));
    for started in &restarted {
        world
            .end(started, Outcome::Finished(Box::new(result(0.9))))
            .expect("it is current");
    }
    world.finish(&started[2]).expect("it was never disturbed");
    assert_eq!(accuracy(&world, started[0].id.trial), Some(0.9));
    let explained = schedule::explain(&world.state, &world.config, started[0].id.trial, world.now)
        .expect("it exists");
    let outcomes: Vec<&str> = explained
        .attempts
        .iter()
        .map(|tried| tried.outcome.as_str())
        .collect();
    assert_eq!(
        outcomes,
        ["succeeded, and trained again since", "succeeded"]
    );
    world.restart();
}

#[test]
fn a_late_report_of_a_superseded_attempt_changes_nothing() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let first = world.started().remove(0);
    world.finish(&first).expect("it is current");
    again(&mut world, "a", Retry::All).expect("it is known");
    let second = world.started().remove(0);
    assert!(matches!(
        world.finish(&first),
        Err(Rejected::StaleAttempt { .. })
    ));
    world
        .end(&second, Outcome::Finished(Box::new(result(0.7))))
        .expect("it is current");
    assert_eq!(accuracy(&world, first.id.trial), Some(0.7));
}

#[test]
fn only_the_cells_that_are_named_are_trained_again() {
    let mut world = World::new();
    world.join("w", 4);
    world.submit(grid("a", 2, 2, ""));
    for started in world.started() {
        world.finish(&started).expect("it is current");
    }
    let unknown = again(
        &mut world,
        "a",
        Retry::Cells(vec!["0.01".to_owned(), "0.5".to_owned()]),
    );
    assert!(
        matches!(unknown, Err(Rejected::Invalid(reason)) if reason.contains("no cell `0.5`; it has: 0.01, 0.02"))
    );
    assert_eq!(
        again(&mut world, "a", Retry::Cells(vec!["0.02".to_owned()])),
        Ok(2)
    );
    let cells: Vec<u32> = world
        .started()
        .iter()
        .map(|started| place(&world, started).0)
        .collect();
    assert_eq!(cells, [1, 1]);
    assert_eq!(world.state.sweeps["a"].counts.succeeded, 2);
}

#[test]
fn retry_resumes_a_cancelled_sweep_and_its_trials_start_from_the_beginning() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 2, 1, ""));
    let started = world.started().remove(0);
    world
        .give(Input::Cancel {
            sweep: "a".to_owned(),
            reason: "a test".into(),
        })
        .expect("it exists");
    world
        .end(&started, Outcome::Stopped)
        .expect("its stop was sent");
    assert_eq!(again(&mut world, "a", Retry::All), Ok(2));
    assert_eq!(world.trial(started.id.trial).since, AttemptNo(2));
    assert_eq!(
        again(&mut world, "a", Retry::All),
        Ok(0),
        "nothing has ended since"
    );
}

#[test]
fn a_search_whose_trials_are_trained_again_is_decided_again() {
    let mut world = World::new();
    world.join("w", 3);
    world.submit(search("s", 2, 2, 2));
    let prefers = |candidate: u32| {
        move |at: (u32, Option<u32>, Role)| {
            if at == (0, Some(candidate), Role::Search) {
                0.9
            } else {
                0.5
            }
        }
    };
    let first = prefers(0);
    train(&mut world, |world, started| {
        Some(first(place(world, started)))
    });
    assert_eq!(world.state.sweeps["s"].chosen[&0], 0);
    let old: Vec<TrialId> = world.state.sweeps["s"]
        .trials
        .iter()
        .map(|trial| trial.id)
        .collect();
    assert_eq!(
        again(&mut world, "s", Retry::Cells(vec!["10".to_owned()])),
        Ok(4 + 2)
    );
    assert!(
        !world.state.sweeps["s"].chosen.contains_key(&0)
            && world.state.sweeps["s"].chosen.contains_key(&1)
    );
    let second = prefers(1);
    train(&mut world, |world, started| {
        Some(second(place(world, started)))
    });
    let sweep = &world.state.sweeps["s"];
    assert_eq!((sweep.chosen[&0], sweep.trials.len()), (1, old.len()));
    assert!(world.state.is_complete("s"));
    // No sweep wants the result trials of the first choice any more.
    let dropped: Vec<&TrialId> = old
        .iter()
        .filter(|id| world.trial(**id).wanted_by.is_empty())
        .collect();
    assert_eq!(dropped.len(), 2);
    assert!(
        dropped
            .iter()
            .all(|id| world.trial(**id).phase == Phase::Cancelled)
    );
    // If they are chosen again, they are trained again.
    again(&mut world, "s", Retry::Cells(vec!["10".to_owned()])).expect("it is known");
    let third = prefers(0);
    train(&mut world, |world, started| {
        Some(third(place(world, started)))
    });
    assert!(
        dropped
            .iter()
            .all(|id| world.trial(**id).attempts.len() == 2)
    );
    world.restart();
}

#[test]
fn a_history_that_supersedes_what_has_not_ended_is_impossible() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let running = world.started()[0].id.trial;
    let force = |world: &mut World, trials: Vec<TrialId>| {
        let event = Event::TrialsRetried {
            sweep: "a".to_owned(),
            trials,
        };
        world
            .force(&schedule::event::Recorded { at: 0, event })
            .expect_err("it cannot have happened")
            .reason
    };
    assert!(force(&mut world, vec![running]).contains("has not ended"));
    assert!(force(&mut world, vec![TrialId::MIN]).contains("does not want it"));
    assert_eq!(check(&world.state), []);
}

#[test]
fn a_trial_is_retried_alone_and_by_its_phase() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 3, 1, ""));
    let finished = world.started()[0].clone();
    world.finish(&finished).expect("it is current");
    let failed = world.started()[0].clone();
    world
        .fail(&failed, FailureClass::BadInput)
        .expect("it is current");
    let running = world.started()[0].clone();
    let retried = |world: &mut World, trials: &[TrialId]| {
        let number = world.journal.len();
        let count = again(world, "a", Retry::Trials(trials.to_vec()));
        let events = world.journal[number..].iter();
        let events = events.filter(|recorded| {
            matches!(
                recorded.event,
                Event::FailedTrialsRetried { .. } | Event::TrialsRetried { .. }
            )
        });
        (count, events.count())
    };
    let trial = |started: &Started| started.id.trial;
    assert_eq!(retried(&mut world, &[trial(&running)]), (Ok(0), 0));
    assert_eq!(retried(&mut world, &[trial(&failed)]), (Ok(1), 1));
    assert!(world.is_waiting(trial(&failed)));
    assert!(!world.is_waiting(trial(&finished)));
    assert_eq!(retried(&mut world, &[trial(&finished)]), (Ok(1), 1));
    assert!(world.is_waiting(trial(&finished)));
    let absent: TrialId = "00000000000000ff".parse().expect("an id");
    assert!(retried(&mut world, &[absent]).0.is_err());
}
