//! The state machine under a seeded simulator: virtual time, workers as values, messages delayed, repeated, reordered
//! and lost, partitions, crashes of everything, full disks, edits in the middle. All invariants hold after each turn;
//! at the end every trial has ended, and the results are those of an undisturbed run.
//!
//! `SIMULATION_SEEDS=10000 SIMULATION_FIRST=50000 cargo test --release -p schedule --test simulation` runs more. A seed
//! that fails prints its script, made smaller: keep it in `found.rs`.

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

use script::Script;
use world::{Answers, World};

/// Steps and answers of a run that went well.
fn simulate(script: &Script) -> Result<(u64, Answers), String> {
    let mut world = World::new(script);
    world.run()?;
    verdict::judge(&world)?;
    Ok((world.steps, world.answers))
}

/// Leaves out what is not needed to fail.
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
                        panic!("seed {seed}: {reason}\nkeep this script in found.rs ({then}):\n{smaller:?}");
                    }
                }
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let steps: u64 = totals.iter().map(|total| total.0).sum();
    let answers = totals.into_iter().fold(Answers::default(), |sum, total| sum.plus(total.1));
    println!("{seeds} seeds, {steps} steps, {answers:?}");
    if seeds >= 1_000 {
        // the simulation meets what it is there to prove
        for count in answers.counts() {
            assert!(count > seeds / 20, "{answers:?}");
        }
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let script = Script::random(7);
    assert_eq!(simulate(&script), simulate(&script));
}
