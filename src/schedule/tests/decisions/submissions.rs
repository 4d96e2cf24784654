//! Submitting, editing, cancelling, retrying.

use std::sync::Arc;

use schedule::event::{Event, Input, Outcome, Rejected, Retry};
use schedule::state::Phase;
use schedule::{CheckedSweep, replay};
use sweep::record::FailureClass;
use sweep::{Sweep, TrialId};

use crate::sweeps::grid;
use crate::world::World;

/// Returns the number of trials that end.
fn cancel(world: &mut World, sweep: &str) -> Result<u64, Rejected> {
    let answer = world.give(Input::Cancel {
        sweep: sweep.to_owned(),
        reason: "for a test".into(),
    });
    answer.map(|answer| answer.trials)
}

/// Returns the number of trials that wait again.
fn retry(world: &mut World, sweep: &str) -> Result<u64, Rejected> {
    let answer = world.give(Input::Retry {
        sweep: sweep.to_owned(),
        which: Retry::Failed,
    });
    answer.map(|answer| answer.trials)
}

#[test]
fn the_same_file_twice_does_nothing_twice() {
    let mut world = World::new();
    assert_eq!(world.submit(grid("a", 2, 2, "")).trials, 4);
    let journal = world.journal.len();
    let again = world.submit(grid("a", 2, 2, ""));
    assert_eq!((again.revision, again.shared), (1, 4));
    assert_eq!(world.journal.len(), journal);
}

/// `TRAINING_VERSION` was raised since: replay keeps the old ids, and the same file now means other
/// trials.
#[test]
fn the_same_file_under_another_version_of_training_is_a_new_revision() {
    let mut world = World::new();
    world.submit(grid("a", 2, 2, ""));
    let Event::SweepSubmitted { trials, .. } = &mut world.journal[0].event else {
        panic!("it was submitted")
    };
    let old: Vec<TrialId> = (0..4)
        .map(|number| format!("{number:016x}").parse().expect("an id"))
        .collect();
    Arc::make_mut(trials)
        .iter_mut()
        .zip(&old)
        .for_each(|(trial, old)| trial.id = *old);
    world.state = replay(&world.journal).expect("an older version's journal");
    world.restart();
    world.join("w", 4);
    for started in world.started() {
        assert!(old.contains(&started.id.trial));
        world.finish(&started).expect("it is current");
    }
    let again = world.submit(grid("a", 2, 2, ""));
    assert_eq!((again.revision, again.trials, again.reused), (2, 4, 0));
    assert!(
        again
            .explanation
            .iter()
            .any(|line| line.contains("4 of its trials count as others")),
        "{again:?}"
    );
    assert!(
        !again
            .explanation
            .iter()
            .any(|line| line.contains("nothing that decides")),
        "{again:?}"
    );
    assert_eq!(
        world
            .started()
            .iter()
            .filter(|started| old.contains(&started.id.trial))
            .count(),
        0
    );
    assert_eq!(world.started().len(), 4);
    world.restart();
    assert_eq!(world.submit(grid("a", 2, 2, "")).revision, 2);
}

#[test]
fn finished_trials_are_reused_across_sweeps_and_the_reuse_is_explained() {
    let mut world = World::new();
    world.join("w", 4);
    world.submit(grid("a", 2, 2, ""));
    for started in world.started() {
        world.finish(&started).expect("it is current");
    }
    let submission = world.submit(grid("b", 3, 2, ""));
    assert_eq!((submission.trials, submission.reused), (6, 4));
    assert!(
        submission
            .explanation
            .iter()
            .any(|line| line.contains("4 trials") && line.contains("`a`"))
    );
    assert_eq!(world.started().len(), 2);
    assert_eq!(world.state.sweeps["b"].counts.succeeded, 4);
}

#[test]
fn waiting_trials_are_joined_and_outlive_the_cancelling_of_one_sweep() {
    let mut world = World::new();
    world.submit(grid("a", 2, 1, ""));
    assert_eq!(world.submit(grid("b", 2, 1, "")).shared, 2);
    assert_eq!(cancel(&mut world, "a"), Ok(0));
    world.join("w", 2);
    assert_eq!(world.started().len(), 2);
    assert_eq!(cancel(&mut world, "b"), Ok(2));
    assert_eq!(world.stopped().len(), 2);
    assert_eq!(cancel(&mut world, "b"), Ok(0), "it is cancelled already");
}

#[test]
fn a_running_trial_that_another_sweep_wants_is_not_counted_as_cancelled() {
    let mut world = World::new();
    world.join("w", 2);
    world.submit(grid("a", 2, 1, ""));
    world.submit(grid("b", 1, 1, ""));
    assert_eq!(cancel(&mut world, "a"), Ok(1));
    assert_eq!(world.stopped().len(), 1);
}

#[test]
fn an_edit_trains_only_what_changed_and_explains_why() {
    let mut world = World::new();
    world.join("w", 2);
    world.submit(grid("a", 2, 1, ""));
    let started = world.started();
    let edited = world.submit(grid("a", 3, 2, "description: more\n"));
    assert_eq!(
        (
            edited.revision,
            edited.trials,
            edited.shared,
            edited.dropped
        ),
        (2, 6, 2, 0)
    );
    assert!(
        edited
            .explanation
            .iter()
            .any(|line| line.contains("`learning_rate` value") && line.contains("added"))
    );
    assert!(
        edited
            .explanation
            .iter()
            .any(|line| line.starts_with("seed"))
    );
    assert_eq!(world.stopped(), []);
    let narrowed = world.submit(grid("a", 1, 1, ""));
    assert_eq!(narrowed.dropped, 5);
    // One of the two that ran is not wanted any more.
    assert_eq!(world.stopped().len(), 1);
    let dropped = started
        .iter()
        .find(|started| world.stopped().contains(&started.id.trial))
        .expect("it ran")
        .clone();
    world
        .end(&dropped, Outcome::Stopped)
        .expect("its stop was sent");
    assert_eq!(world.trial(dropped.id.trial).phase, Phase::Cancelled);
}

#[test]
fn a_result_is_kept_when_no_sweep_wants_it_any_more() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started();
    cancel(&mut world, "a").expect("it runs");
    world
        .finish(&started[0])
        .expect("it is still the current attempt");
    assert_eq!(world.submit(grid("b", 1, 1, "")).reused, 1);
}

#[test]
fn a_stopped_trial_that_is_wanted_again_runs_again() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started();
    cancel(&mut world, "a").expect("it runs");
    world.submit(grid("b", 1, 1, ""));
    world
        .end(&started[0], Outcome::Stopped)
        .expect("it is current");
    assert_eq!(world.started().len(), 1);
    assert_eq!(world.started()[0].id.number.0, 2);
}

#[test]
fn on_failure_stop_cancels_the_sweep_and_retry_resumes_it() {
    let mut world = World::new();
    world.join("w", 2);
    world.submit(grid("a", 4, 1, "on_failure: stop\n"));
    let started = world.started();
    world
        .fail(&started[0], FailureClass::BadInput)
        .expect("it is current");
    let sweep = &world.state.sweeps["a"];
    assert!(
        sweep
            .cancelled
            .as_ref()
            .is_some_and(|reason| reason.contains("on_failure: stop"))
    );
    assert_eq!(
        (
            sweep.counts.failed,
            sweep.counts.cancelled,
            sweep.counts.running
        ),
        (1, 2, 1)
    );
    world
        .end(&started[1], Outcome::Stopped)
        .expect("its stop was sent");
    assert!(world.state.is_complete("a"));
    assert_eq!(retry(&mut world, "a"), Ok(4));
    assert_eq!(world.started().len(), 2);
}

#[test]
fn retry_gives_a_fresh_budget_and_keeps_counting_attempts() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started();
    world
        .fail(&started[0], FailureClass::BadInput)
        .expect("it is current");
    assert!(world.is_failed(started[0].id.trial));
    assert_eq!(world.submit(grid("b", 1, 1, "")).failed, 1);
    assert_eq!(retry(&mut world, "b"), Ok(1));
    let again = world.started();
    assert_eq!(again[0].id.number.0, 2);
    world.finish(&again[0]).expect("it is current");
    assert!(world.state.is_complete("a") && world.state.is_complete("b"));
}

#[test]
fn no_more_trials_wait_than_the_operator_allows() {
    let mut world = World::new();
    world.config.max_waiting = 5;
    let refusal = |world: &mut World, sweep: Sweep| {
        let sweep = CheckedSweep::new(sweep).expect("a compiled sweep");
        let refused = world.give(Input::Submit { sweep });
        refused.expect_err("too many would wait").to_string()
    };
    let message = refusal(&mut world, grid("a", 3, 2, ""));
    assert!(
        message.contains("6 trials would wait beside 0 others"),
        "{message}"
    );
    assert!(world.journal.is_empty(), "nothing was stored");
    world.submit(grid("a", 5, 1, ""));
    // the same again adds nothing, and none fits beside it
    world.submit(grid("a", 5, 1, ""));
    let message = refusal(&mut world, grid("b", 6, 1, ""));
    assert!(
        message.contains("1 trial would wait beside 5 others") && message.contains("--max-waiting"),
        "{message}"
    );
    // a trial that runs makes room
    world.join("w", 1);
    world.submit(grid("b", 6, 1, ""));
}

#[test]
fn a_revoked_token_is_revoked_once() {
    let mut world = World::new();
    let revoke = |world: &mut World| {
        let id = "5f0c2a91".to_owned();
        world
            .give(Input::RevokeToken { id })
            .expect("any token can be revoked");
        world.journal.len()
    };
    assert_eq!((revoke(&mut world), revoke(&mut world)), (1, 1));
    assert!(world.state.revoked_tokens.contains("5f0c2a91"));
    world.restart();
    assert!(world.state.revoked_tokens.contains("5f0c2a91"));
    let again = world.journal[0].clone();
    let impossible = world.force(&again).expect_err("it cannot follow");
    assert!(
        impossible.reason.contains("5f0c2a91"),
        "{}",
        impossible.reason
    );
}

#[test]
fn what_does_not_exist_is_refused_by_name() {
    let mut world = World::new();
    let unknown = |known: &str| Err(format!("no sweep is named `no`; known: {known}"));
    let text = |rejected: Rejected| rejected.to_string();
    assert_eq!(cancel(&mut world, "no").map_err(text), unknown("none"));
    assert_eq!(retry(&mut world, "no").map_err(text), unknown("none"));
    let drain = Input::Drain {
        name: "no".to_owned(),
        reason: Default::default(),
    };
    assert_eq!(
        world.give(drain),
        Err(Rejected::UnknownPlace("no".to_owned()))
    );
    assert_eq!(
        world.give(Input::Undrain { name: "no".into() }),
        Err(Rejected::UnknownPlace("no".to_owned()))
    );
    assert!(world.journal.is_empty());
    world.submit(grid("a", 1, 1, ""));
    assert_eq!(cancel(&mut world, "no").map_err(text), unknown("a"));
}

#[test]
fn a_sweep_that_could_not_be_read_back_is_refused() {
    let refusal = |change: &dyn Fn(&mut Sweep)| {
        let mut sweep = grid("a", 1, 1, "");
        change(&mut sweep);
        CheckedSweep::new(sweep)
            .expect_err("the journal would change it")
            .to_string()
    };
    let refused = refusal(&|sweep| sweep.base.learning_rate = f64::NAN);
    assert!(refused.starts_with("base.learning_rate"), "{refused}");
    // A reader removes escape sequences.
    let refused = refusal(&|sweep| sweep.description = "\u{1b}[31mred".to_owned());
    assert!(refused.contains("cannot be journalled"), "{refused}");
}
