//! Sweeps that a user removes: what is refused, what stays for other sweeps, which files go.

use schedule::event::{Input, Outcome, Rejected};
use schedule::state::Phase;
use schedule::{KEEP_MS, removable, unused_kept};
use sweep::keep::Kept;
use sweep::record::FailureClass;
use sweep::{AttemptNo, Sweep, TrialId};

use crate::sweeps::{grid, search};
use crate::world::World;

fn remove(world: &mut World, sweep: &str, cancel: bool) -> Result<u64, Rejected> {
    let answer = world.give(Input::Remove {
        sweep: sweep.to_owned(),
        cancel,
    });
    answer.map(|answer| answer.trials)
}

fn keeping(name: &str, values: u32, kept: &[Kept]) -> Sweep {
    let mut sweep = grid(name, values, 1, "");
    sweep.keep = kept.iter().copied().collect();
    sweep
}

#[test]
fn a_sweep_that_trains_is_refused_unless_it_is_cancelled_with_it() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 2, 1, ""));
    let started = world.started().remove(0);
    let refused = remove(&mut world, "a", false).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "sweep `a` still trains (1 running, 1 waiting): `orchestrator cancel a` ends that, and so does --cancel"
    );
    assert_eq!(remove(&mut world, "a", true), Ok(2));
    assert_eq!(world.stopped(), [started.id.trial]);
    assert!(world.state.sweeps.is_empty());
    world
        .end(&started, Outcome::Stopped)
        .expect("it is current");
    let phases = world.state.trials.iter().map(|(_, trial)| &trial.phase);
    assert_eq!(phases.collect::<Vec<_>>(), [&Phase::Cancelled; 2]);
    let unknown = remove(&mut world, "a", true).unwrap_err();
    assert!(matches!(unknown, Rejected::UnknownSweep(_)), "{unknown}");
    world.restart();
}

#[test]
fn trials_of_other_sweeps_stay_and_train_on() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 3, 1, ""));
    let started = world.started().remove(0);
    world.submit(grid("b", 2, 1, ""));
    assert_eq!(
        remove(&mut world, "a", true),
        Ok(1),
        "the third value is of `a` alone"
    );
    assert_eq!(world.stopped(), [], "`b` wants the running one");
    world.finish(&started).expect("it is current");
    let second = world.started().remove(0);
    world.finish(&second).expect("it is current");
    assert!(world.state.is_complete("b"));
    assert_eq!(world.started(), [], "no sweep waits for the third one");
    world.restart();
}

#[test]
fn results_of_a_removed_sweep_count_again_where_they_are_asked_for() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started().remove(0);
    world.finish(&started).expect("it is current");
    assert_eq!(remove(&mut world, "a", false), Ok(1));
    world.restart();
    let again = world.submit(grid("a", 1, 1, ""));
    assert_eq!((again.revision, again.reused), (1, 1));
}

#[test]
fn a_search_that_is_removed_chooses_no_more() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(search("s", 1, 2, 1));
    // The last search trial has ended, and its choice follows in the same turn; before that:
    let started = world.started().remove(0);
    world.finish(&started).expect("it is current");
    assert!(!world.state.sweeps["s"].searching.is_empty());
    remove(&mut world, "s", true).expect("it exists");
    assert!(world.state.to_choose.is_empty());
    world.restart();
}

#[test]
fn files_of_a_removed_trial_go_once_nothing_of_it_runs() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started().remove(0);
    let may_go = |world: &World| {
        let found = removable(&world.state, &[started.id.trial], world.now);
        (found.checkpoints, found.logs)
    };
    remove(&mut world, "a", true).expect("it exists");
    assert_eq!(may_go(&world), (vec![], vec![]), "it is being stopped");
    world
        .end(&started, Outcome::Stopped)
        .expect("it is current");
    assert_eq!(may_go(&world), (vec![started.id], vec![started.id]));
    world.submit(grid("b", 1, 1, ""));
    assert_eq!(may_go(&world), (vec![], vec![]), "it is wanted again");
}

#[test]
fn the_log_of_a_failure_that_no_sweep_shows_goes_a_day_later() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 2, 1, ""));
    let started = world.started().remove(0);
    world
        .fail(&started, FailureClass::BadInput)
        .expect("it is current");
    let dropped: TrialId = started.id.trial;
    let mut other = grid("a", 1, 1, "");
    other.base.weight_decay = 0.25;
    let ids = |sweep: &Sweep| sweep.cell_trials(0, None)[0].id;
    other.name = "a".to_owned();
    assert_ne!(ids(&other), dropped);
    world.submit(other);
    let logs = |world: &World| removable(&world.state, &[dropped], world.now).logs;
    assert_eq!(logs(&world), []);
    world.now += KEEP_MS;
    assert_eq!(logs(&world), [started.id]);
}

#[test]
fn kept_files_that_no_sweep_asks_for_are_found() {
    let mut world = World::new();
    world.join("w", 2);
    world.submit(keeping("a", 2, &[Kept::Weights]));
    let started = world.started();
    let [first, second] = [started[0].id, started[1].id];
    let unused = |world: &World, without| {
        let stored = [first, second].map(|id| (id, Kept::Weights));
        unused_kept(&world.state, stored, without)
    };
    assert_eq!(
        unused(&world, None),
        [],
        "a running attempt sends its files before its result"
    );
    world.finish(&started[0]).expect("it is current");
    world.finish(&started[1]).expect("it is current");
    let both = vec![(first, Kept::Weights), (second, Kept::Weights)];
    assert_eq!(unused(&world, None), []);
    assert_eq!(unused(&world, Some("a")), both);
    world.submit(keeping("b", 1, &[Kept::Weights]));
    let of_a_alone = unused(&world, Some("a"));
    assert_eq!(of_a_alone.len(), 1, "`b` keeps the other");
    // The next revision keeps another kind, and wants one trial less.
    world.submit(keeping("a", 1, &[Kept::Predictions]));
    assert_eq!(unused(&world, None), of_a_alone);
    assert_eq!(unused(&world, Some("b")), both);
    let (stale, foreign) = (
        first.trial.attempt(AttemptNo(2)),
        "00000000000000ff".parse::<TrialId>().expect("an id"),
    );
    let odd = [stale, foreign.attempt(AttemptNo(1))].map(|id| (id, Kept::Weights));
    assert_eq!(unused_kept(&world.state, odd, None), odd);
}
