//! Events that follow from the state alone: searches choose, sweeps and hosts stop, and trials start
//! (`placement.rs`).

use std::collections::BTreeSet;
use std::sync::Arc;

use sweep::definition::{OnFailure, Role};

use crate::checked_sweep::sweep_trials;
use crate::config::Config;
use crate::event::Event;
use crate::placement::{Placement, offers};
use crate::ranking::look;
use crate::search::best_candidate;
use crate::state::{Millis, Phase, State, SweepState};

/// Returns the events to journal and apply. More may follow from those (a search chose, so its
/// trials can start).
pub(crate) fn follow_up(state: &State, config: &Config, now: Millis) -> Vec<Event> {
    let mut events = chosen_candidates(state);
    // What a search chooses is trained before its cell is compared.
    if events.is_empty() {
        events = looks(state);
    }
    events.extend(stopped_sweeps(state));
    events.extend(bad_hosts(state, config, now));
    // These events change what is to be placed, and where.
    if !events.is_empty() || state.queue.is_empty() {
        return events;
    }
    Placement::new(state, now).run(now)
}

impl State {
    /// Returns true if every trial of the sweep has ended, with or without a result, and neither a
    /// search nor a ranking will add more.
    pub fn is_complete(&self, sweep: &str) -> bool {
        let Some(entry) = self.sweeps.get(sweep) else {
            return false;
        };
        let name: Arc<str> = sweep.into();
        let chooses = self
            .to_choose
            .range((name.clone(), 0)..=(name, u32::MAX))
            .next()
            .is_some();
        let grows = chooses || entry.rankings.due(&entry.sweep).next().is_some();
        entry.counts.waiting + entry.counts.running == 0 && (entry.cancelled.is_some() || !grows)
    }
}

fn chosen_candidates(state: &State) -> Vec<Event> {
    let mut events = Vec::new();
    for (name, cell) in &state.to_choose {
        let entry = &state.sweeps[name];
        if entry.cancelled.is_some() {
            continue;
        }
        if let Some(candidate) = best_candidate(state, entry, *cell) {
            let trials = sweep_trials(&entry.sweep, *cell, Some(candidate));
            let trials = trials
                .into_iter()
                .filter(|trial| trial.role == Role::Result)
                .collect();
            events.push(Event::CandidateChosen {
                sweep: name.to_string(),
                cell: *cell,
                candidate,
                trials,
            });
        }
    }
    events
}

/// Returns a look at each ranking whose trials have all ended.
fn looks(state: &State) -> Vec<Event> {
    let active = state.sweeps.values();
    let active = active.filter(|entry| entry.cancelled.is_none());
    let of_sweep = |entry: &SweepState| -> Vec<Event> {
        let due = entry.rankings.due(&entry.sweep);
        due.filter_map(|ranking| look(state, entry, ranking))
            .collect()
    };
    active.flat_map(of_sweep).collect()
}

fn stopped_sweeps(state: &State) -> Vec<Event> {
    let stops = state.sweeps.iter().filter(|(_, entry)| {
        entry.sweep.on_failure == OnFailure::Stop
            && entry.counts.failed > 0
            && entry.cancelled.is_none()
    });
    let events = stops.map(|(name, entry)| {
        let failed = entry
            .trials
            .iter()
            .find(|trial| matches!(state.trials[&trial.id].phase, Phase::Failed { .. }));
        let trial = failed
            .map(|trial| format!("trial {} failed", trial.id))
            .unwrap_or_default();
        Event::SweepCancelled {
            sweep: name.to_string(),
            reason: format!("{trial} and the sweep has `on_failure: stop`").into(),
        }
    });
    events.collect()
}

/// Drains hosts on which trials fail that succeed elsewhere, as long as another host can work.
fn bad_hosts(state: &State, config: &Config, now: Millis) -> Vec<Event> {
    let bad = state.hosts.iter().filter(|(_, host)| {
        let elsewhere = host.succeeded_elsewhere;
        let share = f64::from(elsewhere) / f64::from((elsewhere + host.succeeded_here).max(1));
        host.drained.is_none()
            && elsewhere >= config.bad_node.trials
            && share >= config.bad_node.share
    });
    let mut bad = bad.peekable();
    if bad.peek().is_none() {
        // The usual case: no need to look at every worker's slots.
        return Vec::new();
    }
    let mut left: BTreeSet<&str> = offers(state, now)
        .into_keys()
        .map(|(host, _)| host)
        .collect();
    let mut events = Vec::new();
    for (name, host) in bad {
        if !left.iter().any(|other| other != name) {
            continue;
        }
        left.remove(name.as_str());
        let reason = format!(
            "{} trials failed here and succeeded on other hosts; {} succeeded here",
            host.succeeded_elsewhere, host.succeeded_here
        );
        events.push(Event::HostDrained {
            host: name.clone(),
            reason: reason.into(),
        });
    }
    events
}
