//! The files of attempts that may be removed, and when.

use schedule::event::{Input, Outcome, Retry};
use schedule::{KEEP_MS, Removable, removable};
use sweep::record::FailureClass;
use sweep::{AttemptNo, TrialId};

use crate::sweeps::grid;
use crate::world::{Started, World};

/// Returns whether checkpoints and logs may be removed now.
fn may_go(world: &World, trial: TrialId) -> (bool, bool) {
    let Removable {
        checkpoints, logs, ..
    } = removable(&world.state, &[trial], world.now);
    let last = trial.attempt(AttemptNo(world.trial(trial).attempts.len() as u32));
    assert!(
        checkpoints.iter().chain(&logs).all(|found| *found == last),
        "{checkpoints:?} {logs:?}"
    );
    (!checkpoints.is_empty(), !logs.is_empty())
}

fn a_day_later(world: &mut World) {
    world.now += KEEP_MS - 1;
}

fn begun() -> (World, Started) {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started().remove(0);
    (world, started)
}

#[test]
fn checkpoints_go_with_the_result_and_logs_a_day_later() {
    let (mut world, started) = begun();
    assert_eq!(may_go(&world, started.id.trial), (false, false), "it runs");
    world.finish(&started).expect("it is current");
    assert_eq!(may_go(&world, started.id.trial), (true, false));
    a_day_later(&mut world);
    assert_eq!(may_go(&world, started.id.trial), (true, false));
    world.now += 1;
    assert_eq!(may_go(&world, started.id.trial), (true, true));
}

#[test]
fn a_waiting_trial_keeps_all_its_files() {
    let (mut world, started) = begun();
    world
        .fail(&started, FailureClass::Crashed)
        .expect("it is current");
    assert!(world.is_waiting(started.id.trial));
    world.now += 100 * KEEP_MS;
    assert_eq!(may_go(&world, started.id.trial), (false, false));
}

#[test]
fn a_failure_keeps_its_stderr_for_as_long_as_it_is_shown() {
    let (mut world, started) = begun();
    world
        .fail(&started, FailureClass::NonFinite)
        .expect("it is current");
    assert!(world.is_failed(started.id.trial));
    assert_eq!(
        may_go(&world, started.id.trial),
        (false, false),
        "asked for again it continues from its checkpoint"
    );
    a_day_later(&mut world);
    world.now += 1;
    assert_eq!(may_go(&world, started.id.trial), (true, false));
    world
        .give(Input::Retry {
            sweep: "a".to_owned(),
            which: Retry::Failed,
        })
        .expect("it may be asked for again");
    assert_eq!(may_go(&world, started.id.trial), (false, false));
}

#[test]
fn what_was_cancelled_keeps_everything_for_a_day() {
    let (mut world, started) = begun();
    let cancel = Input::Cancel {
        sweep: "a".to_owned(),
        reason: "for a test".into(),
    };
    world.give(cancel).expect("it may be cancelled");
    assert_eq!(
        may_go(&world, started.id.trial),
        (false, false),
        "it is still being stopped"
    );
    world
        .end(&started, Outcome::Stopped)
        .expect("it is current");
    assert_eq!(may_go(&world, started.id.trial), (false, false));
    a_day_later(&mut world);
    world.now += 1;
    assert_eq!(may_go(&world, started.id.trial), (true, true));
}

#[test]
fn what_this_coordinator_did_not_start_stays_and_what_it_does_not_know_is_named() {
    let mut world = World::new();
    world.submit(grid("a", 1, 1, ""));
    let never_begun = *world.state.trials.keys().next().expect("a trial");
    world
        .give(Input::Cancel {
            sweep: "a".to_owned(),
            reason: Default::default(),
        })
        .expect("it may be cancelled");
    let foreign: TrialId = "00000000000000ff".parse().expect("an id");
    let found = removable(
        &world.state,
        &[never_begun, foreign],
        world.now + 100 * KEEP_MS,
    );
    assert!(found.checkpoints.is_empty() && found.logs.is_empty());
    assert_eq!(
        (found.unknown, found.now),
        (vec![foreign], world.now + 100 * KEEP_MS)
    );
}
