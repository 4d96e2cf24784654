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

mod cluster;
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

use cluster::ClusterCounts;
use script::{Action, Moment, Script, Submit};
use sweep::record::FailureClass;
use world::{Answers, World};

/// The numbers of runs that passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    steps: u64,
    answers: Answers,
    cluster: ClusterCounts,
}

impl Totals {
    fn plus(mut self, other: Self) -> Self {
        self.cluster.add(other.cluster);
        Self {
            steps: self.steps + other.steps,
            answers: self.answers.plus(other.answers),
            cluster: self.cluster,
        }
    }
}

/// Returns the numbers of a run that passed.
fn simulate(script: &Script) -> Result<Totals, String> {
    let mut world = World::new(script);
    world.run()?;
    verdict::judge(&world)?;
    world.judge_cluster()?;
    let cluster = world.cluster.as_ref().map(|cluster| cluster.counts);
    Ok(Totals {
        steps: world.steps,
        answers: world.answers,
        cluster: cluster.unwrap_or_default(),
    })
}

/// Returns a line for each turn of a run.
fn trace(script: &Script) -> Vec<String> {
    let mut world = World::new(script);
    world.trace = Some(Vec::new());
    world.run().expect("it passes");
    world.trace.expect("it was wanted")
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

/// Runs the scripts of many seeds and returns their number with the totals.
fn simulate_all(script: fn(u64) -> Script) -> (u64, Totals) {
    let first = number("SIMULATION_FIRST", 0);
    let seeds = number("SIMULATION_SEEDS", 3_000);
    let next = AtomicU64::new(first);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let totals: Vec<Totals> = thread::scope(|scope| {
        let run = || {
            let mut total = Totals::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + seeds {
                    return total;
                }
                let script = script(seed);
                match simulate(&script) {
                    Ok(passed) => total = total.plus(passed),
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
    let total = totals.into_iter().fold(Totals::default(), Totals::plus);
    println!("{seeds} seeds, {total:?}");
    (seeds, total)
}

#[test]
fn promises_hold_under_every_seed() {
    let (seeds, total) = simulate_all(Script::random);
    if seeds >= 1_000 {
        // The simulation must meet the cases that it is there to test.
        for count in total.answers.counts() {
            assert!(count > seeds / 20, "{total:?}");
        }
    }
}

/// No allocation is forgotten, none is submitted twice for one intent, there are never more than
/// were asked for, none is kept without work, and what is taken away never counts as a failure.
#[test]
fn promises_about_allocations_hold_under_every_seed() {
    let (seeds, total) = simulate_all(Script::random_on_cluster);
    if seeds >= 1_000 {
        for count in total.cluster.all() {
            assert!(count > seeds / 20, "{total:?}");
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
        on_cluster: false,
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

/// Without this a seed that failed could not be studied.
#[test]
fn the_same_seed_is_the_same_run_line_by_line() {
    for script in [Script::random(7), Script::random_on_cluster(7)] {
        let (one, other) = (trace(&script), trace(&script));
        assert!(one.len() > 100, "{}", one.len());
        for (one, other) in one.iter().zip(&other) {
            assert_eq!(one, other);
        }
        assert_eq!(one.len(), other.len());
    }
}
