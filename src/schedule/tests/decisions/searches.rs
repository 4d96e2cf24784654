//! Searches: which candidate wins a cell, and the trials that follow.

use schedule::event::{Event, Input, Outcome, Recorded, Retry};
use schedule::state::SweepTrial;
use schedule::{DecidedBy, choice_of};
use sweep::definition::Role;
use sweep::record::{FailureClass, TrialResult};

use crate::sweeps::search;
use crate::world::{Started, World, result};

/// Ends all attempts that start, with an accuracy (or none) by candidate, until none starts.
pub fn train(world: &mut World, accuracy: impl Fn(&World, &Started) -> Option<f64>) {
    let mut running = world.started();
    while let Some(started) = running.pop() {
        match accuracy(world, &started) {
            Some(accuracy) => world.end(&started, Outcome::Finished(Box::new(result(accuracy)))),
            None => world.fail(&started, FailureClass::NonFinite),
        }
        .expect("it is current");
        running.extend(world.started());
    }
}

pub fn place(world: &World, started: &Started) -> (u32, Option<u32>, Role) {
    let (name, index) = &world.trial(started.id.trial).wanted_by[0];
    let wanted = &world.state.sweeps[name].trials[*index as usize];
    (wanted.cell, wanted.candidate, wanted.role)
}

fn chosen(world: &World) -> Vec<(u32, u32)> {
    world.state.sweeps["s"]
        .chosen
        .iter()
        .map(|(cell, candidate)| (*cell, *candidate))
        .collect()
}

#[test]
fn the_best_candidate_on_the_held_out_split_makes_the_cell() {
    let mut world = World::new();
    world.join("w", 3);
    assert_eq!(world.submit(search("s", 2, 3, 4)).trials, 2 * 3 * 2);
    train(&mut world, |world, started| match place(world, started) {
        (0, Some(1), Role::Search) => Some(0.9),
        (1, Some(2), Role::Search) => Some(0.8),
        _ => Some(0.5),
    });
    assert_eq!(chosen(&world), [(0, 1), (1, 2)]);
    let sweep = &world.state.sweeps["s"];
    assert_eq!(sweep.trials.len(), 12 + 2 * 4);
    assert!(world.state.is_complete("s"));
    for wanted in sweep
        .trials
        .iter()
        .filter(|wanted| wanted.role == Role::Result)
    {
        let spec = world.state.spec_of(wanted.id).expect("it is wanted");
        assert_eq!((spec.id(), spec.settings.holdout), (wanted.id, None));
    }
    world.restart();
}

/// Candidates with equally many right answers: the lower loss decides, then the value in the
/// middle.
#[test]
fn ties_go_to_the_lower_loss_then_to_the_middle_and_failed_candidates_do_not_count() {
    let mut world = World::new();
    world.join("w", 3);
    world.submit(search("s", 3, 4, 1));
    let mut running = world.started();
    while let Some(started) = running.pop() {
        let place = place(&world, &started);
        let ended = match place {
            // All are equal: 0.02 is the smaller of the two in the middle.
            (0, ..) => world.end(&started, Outcome::Finished(Box::new(result(0.5)))),
            (1, Some(3), Role::Search) => {
                let better = TrialResult {
                    classes: None,
                    eval_loss: 0.19,
                    ..result(0.5)
                };
                world.end(&started, Outcome::Finished(Box::new(better)))
            }
            (1, ..) => world.end(&started, Outcome::Finished(Box::new(result(0.5)))),
            (_, Some(0), Role::Search) => world.fail(&started, FailureClass::NonFinite),
            _ => world.end(&started, Outcome::Finished(Box::new(result(0.5)))),
        };
        ended.expect("it is current");
        running.extend(world.started());
    }
    assert_eq!(chosen(&world), [(0, 1), (1, 3), (2, 2)]);
    let entry = &world.state.sweeps["s"];
    let choice = |cell| choice_of(&world.state, entry, cell).expect("it was made");
    assert_eq!(
        [0, 1, 2].map(|cell| choice(cell).decided_by),
        [DecidedBy::Middle, DecidedBy::Loss, DecidedBy::Middle]
    );
    assert_eq!(
        (choice(0).tied, choice(2).tied),
        (vec![0, 2, 3], vec![1, 3])
    );
}

/// A journal of an older program holds the first of equal candidates: it stays, and is explained as
/// an older choice.
#[test]
fn a_choice_in_the_journal_stands_whatever_would_be_chosen_now() {
    let mut world = World::new();
    world.join("w", 3);
    world.submit(search("s", 1, 3, 1));
    train(&mut world, |_, _| Some(0.5));
    assert_eq!(chosen(&world), [(0, 1)]);
    let mut older = Vec::new();
    for recorded in &world.journal {
        let Event::CandidateChosen { sweep, cell, .. } = &recorded.event else {
            older.push(recorded.clone());
            continue;
        };
        let candidate = 0;
        let planned = world.state.sweeps["s"]
            .sweep
            .cell_trials(*cell as usize, Some(candidate));
        let result = planned
            .into_iter()
            .find(|trial| trial.role == Role::Result)
            .expect("one seed");
        let (cell, candidate) = (*cell, candidate as u32);
        let trial = SweepTrial {
            id: result.id,
            cell,
            candidate: Some(candidate),
            role: Role::Result,
            seed: 0,
            cost: 1.0,
        };
        let event = Event::CandidateChosen {
            sweep: sweep.clone(),
            cell,
            candidate,
            trials: vec![trial],
        };
        older.push(Recorded {
            at: recorded.at,
            event,
        });
        break;
    }
    let state = schedule::replay(&older).expect("it could have happened");
    let entry = &state.sweeps["s"];
    assert_eq!(entry.chosen.get(&0), Some(&0));
    let choice = choice_of(&state, entry, 0).expect("it was made");
    assert_eq!(
        (choice.candidate, choice.decided_by),
        (0, DecidedBy::Earlier)
    );
}

#[test]
fn a_cell_all_of_whose_candidates_failed_ends_without_a_choice_until_retried() {
    let mut world = World::new();
    world.join("w", 2);
    world.submit(search("s", 1, 2, 1));
    train(&mut world, |_, _| None);
    assert_eq!(chosen(&world), []);
    assert!(world.state.is_complete("s"));
    world
        .give(Input::Retry {
            sweep: "s".into(),
            which: Retry::Failed,
        })
        .expect("it exists");
    assert!(!world.state.is_complete("s"));
    train(&mut world, |_, _| Some(0.5));
    assert_eq!(chosen(&world), [(0, 0)]);
    assert!(world.state.is_complete("s"));
}

#[test]
fn another_revision_chooses_again_without_training_what_is_known() {
    let mut world = World::new();
    world.join("w", 2);
    world.submit(search("s", 1, 2, 1));
    train(&mut world, |world, started| {
        Some(if place(world, started).1 == Some(1) {
            0.9
        } else {
            0.5
        })
    });
    let dispatched = |world: &World| {
        world
            .journal
            .iter()
            .filter(|recorded| matches!(recorded.event, Event::TrialDispatched { .. }))
            .count()
    };
    let before = dispatched(&world);
    // One more seed: the search trials are known, and so is the result of the first seed.
    world.submit(search("s", 1, 2, 2));
    assert_eq!(world.started().len(), 1);
    train(&mut world, |_, _| Some(0.5));
    assert_eq!(chosen(&world), [(0, 1)]);
    assert_eq!(dispatched(&world), before + 1);
}

#[test]
fn nothing_is_chosen_for_a_cancelled_sweep() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(search("s", 1, 2, 1));
    let started = world.started();
    world
        .give(Input::Cancel {
            sweep: "s".into(),
            reason: "a test".into(),
        })
        .expect("it exists");
    world.finish(&started[0]).expect("it is current");
    assert!(world.state.is_complete("s"));
    assert_eq!(chosen(&world), []);
}
