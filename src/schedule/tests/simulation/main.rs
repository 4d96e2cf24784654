//! The state machine under a seeded simulator: virtual time, workers as values, messages delayed,
//! repeated, reordered and lost, partitions, crashes of everything, full disks, edits in the
//! middle. All invariants hold after each turn. At the end every trial has ended, and the results
//! are those of an undisturbed run.
//!
//! `SIMULATION_SEEDS=10000 SIMULATION_FIRST=50000 cargo test --release -p schedule --test
//! simulation` runs more seeds. A seed that fails prints its reduced script: keep that in
//! `found.rs`.

#[path = "../support/sweeps.rs"]
mod sweeps;

mod found;
mod network;
mod random;
mod script;
mod truth;
mod verdict;
mod worker;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use script::{Action, Moment, Script, Submit};
use sweep::record::FailureClass;
use world::{Answers, World};

/// Returns the steps and answers of a run that passed.
fn simulate(script: &Script) -> Result<(u64, Answers), String> {
    let mut world = World::new(script);
    world.run()?;
    verdict::judge(&world)?;
    Ok((world.steps, world.answers))
}

/// Reduces a script to the parts that are needed to fail.
fn make_smaller(script: &Script) -> Script {
    let mut smallest = script.clone();
    let mut index = smallest.actions.len();
    while index > 0 {
        index -= 1;
        let mut without = smallest.clone();
        without.actions.remove(index);
        if simulate(&without).is_err() {
            smallest = without;
        }
    }
    smallest
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn promises_hold_under_every_seed() {
    let first = number("SIMULATION_FIRST", 0);
    let seeds = number("SIMULATION_SEEDS", 3_000);
    let next = AtomicU64::new(first);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let totals: Vec<(u64, Answers)> = thread::scope(|scope| {
        let run = || {
            let mut total = (0, Answers::default());
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + seeds {
                    return total;
                }
                let script = Script::random(seed);
                match simulate(&script) {
                    Ok((steps, answers)) => total = (total.0 + steps, total.1.plus(answers)),
                    Err(reason) => {
                        let smaller = make_smaller(&script);
                        let then = simulate(&smaller).err().unwrap_or_default();
                        panic!(
                            "seed {seed}: {reason}\nkeep this script in found.rs ({then}):\n{smaller:?}"
                        );
                    }
                }
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    let steps: u64 = totals.iter().map(|total| total.0).sum();
    let answers = totals
        .into_iter()
        .fold(Answers::default(), |sum, total| sum.plus(total.1));
    println!("{seeds} seeds, {steps} steps, {answers:?}");
    if seeds >= 1_000 {
        // The simulation must meet the cases that it is there to test.
        for count in answers.counts() {
            assert!(count > seeds / 20, "{answers:?}");
        }
    }
}

/// The coordinator dies at each of its transactions in turn, before and after the commit.
#[test]
fn a_coordinator_killed_at_any_append_ends_in_the_same_results() {
    let search = Submit::Search {
        name: "alpha",
        cells: 2,
        candidates: 3,
        seeds: 2,
    };
    let grid = Submit::Grid {
        name: "beta",
        values: 4,
        seeds: 2,
        stop: false,
        wide: true,
    };
    let crash = Action::FailNext {
        host: 1,
        class: FailureClass::Crashed,
    };
    let actions = [
        Action::Submit(search),
        Action::Submit(grid),
        crash,
        Action::KillWorker {
            host: 0,
            down_ms: 20_000,
        },
    ];
    let script = Script {
        seed: 1,
        actions: [1_000, 9_000, 12_000, 15_000]
            .into_iter()
            .zip(actions)
            .collect(),
    };
    for moment in [Moment::BeforeCommit, Moment::AfterCommit] {
        let mut commit = 1;
        loop {
            let mut world = World::new(&script);
            world.kill_at_commit = Some((commit, moment));
            let outcome = world.run().and_then(|()| verdict::judge(&world));
            assert_eq!(outcome, Ok(()), "killed at commit {commit}, {moment:?}");
            if world.kill_at_commit.is_some() {
                break;
            }
            assert_eq!(world.answers.coordinator_kills, 1);
            commit += 1;
        }
        assert!(commit > 30, "{commit}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let script = Script::random(7);
    assert_eq!(simulate(&script), simulate(&script));
}
