//! The cost of the soak: read from the journal of a finished round and from its trainers' logs.
//!
//! A trainer's log has a line for each run, each start of training and each epoch, with its time.
//! Epochs beyond the trials' own number were trained twice: they are the lost work.

use std::collections::BTreeMap;
use std::time::Duration;

use tests::System;
use tests::results::attempts;

use crate::{Kill, Victim};

const NUM_EPOCHS: u64 = 24;

#[derive(Default)]
pub struct Figures {
    pub rounds: u32,
    pub freezes: u32,
    /// The number of times that a sweep ended with trials whose budget was used up.
    pub given_up: u32,
    kills: BTreeMap<Victim, usize>,
    trials: u64,
    attempts: u64,
    epochs_needed: u64,
    epochs_trained: u64,
    passed_over: usize,
    /// Milliseconds from each kill, by the event that ends the wait.
    recovery: BTreeMap<&'static str, Vec<u64>>,
}

/// The log of one run of one trainer process.
struct Run {
    pid: u32,
    trial: String,
    attempt: u64,
    /// The time of its first step.
    began: Option<u64>,
    num_epochs: u64,
}

impl Figures {
    pub fn num_kills(&self) -> usize {
        self.kills.values().sum()
    }

    pub fn learn(&mut self, system: &System, kills: Vec<Kill>) {
        self.rounds += 1;
        let attempts = attempts(&system.results("soak"));
        self.trials += attempts.len() as u64;
        self.attempts += attempts
            .iter()
            .map(|attempts| u64::from(*attempts))
            .sum::<u64>();
        let runs = self.runs(system);
        self.epochs_needed += NUM_EPOCHS * attempts.len() as u64;
        self.epochs_trained += runs.iter().map(|run| run.num_epochs).sum::<u64>();
        let dispatches = dispatches(system);
        for kill in kills {
            *self.kills.entry(kill.victim).or_default() += 1;
            self.recovered(&kill, &dispatches, &runs);
        }
    }

    fn recovered(&mut self, kill: &Kill, dispatches: &[Dispatch], runs: &[Run]) {
        let mut add = |what, at: Option<u64>| {
            if let Some(at) = at {
                self.recovery
                    .entry(what)
                    .or_default()
                    .push(at.saturating_sub(kill.at));
            }
        };
        let began = |trial: &str, attempt: u64| {
            runs.iter()
                .find(|run| run.trial == trial && run.attempt == attempt)
                .and_then(|run| run.began)
        };
        let again = |lost: &Dispatch| {
            let next =
                |next: &&Dispatch| next.trial == lost.trial && next.attempt == lost.attempt + 1;
            dispatches
                .iter()
                .find(next)
                .filter(|next| next.at >= kill.at)
        };
        match kill.victim {
            Victim::Coordinator => {
                let next = dispatches.iter().find(|dispatch| dispatch.at >= kill.at);
                add(
                    "of the coordinator to the next dispatch",
                    next.map(|next| next.at),
                );
            }
            Victim::Worker => {
                let mark = format!("-{}-", kill.pid);
                let held = |dispatch: &&Dispatch| {
                    dispatch.worker.contains(&mark)
                        && dispatch.at < kill.at
                        && dispatch.ended.is_none_or(|end| end > kill.at)
                };
                for next in dispatches.iter().filter(held).filter_map(again) {
                    add("of a worker to its trial given to another", Some(next.at));
                    add(
                        "of a worker to its trial training again",
                        began(&next.trial, next.attempt),
                    );
                }
            }
            Victim::Trainer => {
                // The last thing it ran, if that did not end before the kill.
                let Some(run) = runs.iter().rev().find(|run| run.pid == kill.pid) else {
                    return;
                };
                let lost = dispatches.iter().find(|dispatch| {
                    dispatch.trial == run.trial
                        && dispatch.attempt == run.attempt
                        && dispatch.ended.is_none_or(|end| end > kill.at)
                });
                if let Some(next) = lost.and_then(again) {
                    add(
                        "of a trainer to its trial training again",
                        began(&next.trial, next.attempt),
                    );
                }
            }
        }
    }

    fn runs(&mut self, system: &System) -> Vec<Run> {
        let mut runs = Vec::new();
        for (pid, log) in system.logs_of("trainer-") {
            for line in log.lines() {
                let at = || milliseconds(line).unwrap_or_else(|| panic!("no time in `{line}`"));
                let last = |runs: &mut Vec<Run>| -> usize {
                    assert!(
                        runs.last().is_some_and(|run: &Run| run.pid == pid),
                        "`{line}` belongs to no run"
                    );
                    runs.len() - 1
                };
                if line.contains("trainer::conversation::serve: run ") {
                    let id = field(line, "attempt");
                    let (trial, number) = id.split_once('#').expect("TRIAL#N");
                    runs.push(Run {
                        pid,
                        trial: trial.to_owned(),
                        attempt: number.parse().expect("a number"),
                        began: None,
                        num_epochs: 0,
                    });
                } else if line.contains("trainer::attempt::leader: training ") {
                    let run = last(&mut runs);
                    runs[run].began = Some(at());
                } else if line.contains("trainer::attempt::leader: epoch done ") {
                    let run = last(&mut runs);
                    runs[run].num_epochs += 1;
                } else if line.contains("checkpoint passed over") {
                    self.passed_over += 1;
                }
            }
        }
        runs
    }

    pub fn print(&mut self, took: Duration) {
        let count = |victim| self.kills.get(&victim).copied().unwrap_or(0);
        println!(
            "soak: {} rounds in {:.0} s, every one with identical results",
            self.rounds,
            took.as_secs_f64()
        );
        println!(
            "soak: {} kills: {} of the coordinator, {} of workers, {} of trainers; {} workers frozen beyond their lease",
            self.num_kills(),
            count(Victim::Coordinator),
            count(Victim::Worker),
            count(Victim::Trainer),
            self.freezes
        );
        println!(
            "soak: {} trials took {} attempts; a sweep ended with trials given up, and was asked for them again, {} times",
            self.trials, self.attempts, self.given_up
        );
        println!(
            "soak: work lost: {} epochs trained for the {} that the trials have, {:.1} % twice, and what was under way; \
             {} checkpoints passed over as unsound",
            self.epochs_trained,
            self.epochs_needed,
            100.0 * (self.epochs_trained as f64 / self.epochs_needed as f64 - 1.0),
            self.passed_over
        );
        for (what, times) in &mut self.recovery {
            times.sort_unstable();
            println!(
                "soak: from the kill {what}: median {} ms, most {} ms, n = {}",
                times[times.len() / 2],
                times[times.len() - 1],
                times.len()
            );
        }
    }
}

struct Dispatch {
    at: u64,
    trial: String,
    attempt: u64,
    worker: String,
    ended: Option<u64>,
}

/// Every dispatch of a journal, in order, with the time at which its attempt ended.
fn dispatches(system: &System) -> Vec<Dispatch> {
    let mut dispatches: Vec<Dispatch> = Vec::new();
    for entry in system.journal() {
        let at = entry["at"].as_u64().expect("a time");
        let event = entry["event"].as_object().expect("an event");
        let (kind, content) = event.iter().next().expect("of one kind");
        let text = |name: &str| content[name].as_str().unwrap_or_default().to_owned();
        let attempt = content["attempt"].as_u64().unwrap_or_default();
        match kind.as_str() {
            "trial_dispatched" => {
                let (trial, worker) = (text("trial"), text("worker"));
                dispatches.push(Dispatch {
                    at,
                    trial,
                    attempt,
                    worker,
                    ended: None,
                });
            }
            "attempt_succeeded" | "attempt_failed" | "attempt_stopped" => {
                let trial = text("trial");
                let of = dispatches
                    .iter_mut()
                    .find(|dispatch| dispatch.trial == trial && dispatch.attempt == attempt);
                of.expect("what ends was dispatched").ended = Some(at);
            }
            _ => {}
        }
    }
    dispatches
}

/// `VALUE` of `NAME=VALUE` in a line of a log.
fn field(line: &str, name: &str) -> String {
    let start = format!("{name}=");
    let value = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix(start.as_str()));
    value
        .unwrap_or_else(|| panic!("no {name} in `{line}`"))
        .to_owned()
}

/// Converts `2026-11-23T15:28:34.123456Z` at the beginning of a line to milliseconds since the Unix
/// epoch.
fn milliseconds(line: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| line.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    // Howard Hinnant's days_from_civil, for years after 1970
    let (shifted, of_march) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let (era, year_of_era) = (shifted / 400, shifted % 400);
    let day_of_year = (153 * of_march + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100
        + day_of_year
        - 719_468;
    let seconds = ((days * 24 + number(11..13)?) * 60 + number(14..16)?) * 60 + number(17..19)?;
    Some(seconds * 1_000 + number(20..23)?)
}

#[test]
fn times_of_logs_are_read() {
    assert_eq!(milliseconds("1970-01-01T00:00:00.001000Z  INFO"), Some(1));
    assert_eq!(
        milliseconds("2024-02-29T12:34:56.789123Z  INFO"),
        Some(1_709_210_096_789)
    );
    assert_eq!(milliseconds("no time at all"), None);
}
