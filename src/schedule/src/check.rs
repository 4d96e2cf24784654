//! The invariants of the state, by name, checked after every step of the simulation and, by
//! `debug_assert!`, in the coordinator's loop. The documents refer to them by these ids.
//!
//! The checks read the whole state and share no code with what they check: an index is compared
//! with a recount.

use std::collections::{BTreeMap, BTreeSet};

use sweep::definition::{Role, Select};
use sweep::{AttemptNo, TrialId};

use crate::apply::blames_host;
use crate::search::best_candidate;
use crate::state::{Counts, Phase, Queue, State, SweepState, SweepTrial, WorkerId};
use crate::sweep_transitions::place_of;
use crate::tally::Tally;

/// Name and meaning of each invariant.
pub const INVARIANTS: &[(&str, &str)] = &[
    (
        "S1",
        "a running trial's attempt is its last, has not ended, and occupies exactly the slot it was given",
    ),
    (
        "S2",
        "every earlier attempt, and every attempt of a trial that does not run, has ended",
    ),
    (
        "S3",
        "a slot that holds a current attempt is its trial's; no two slots hold the same current attempt",
    ),
    ("S4", "a worker that is gone holds nothing"),
    (
        "S5",
        "a trial has a result exactly when its last attempt succeeded and no person asked for another training since",
    ),
    (
        "S6",
        "the queue holds every waiting trial once, at its place, and nothing else",
    ),
    (
        "S7",
        "a trial waits only while a sweep wants it, and is cancelled only while none does",
    ),
    (
        "S8",
        "sweeps and trials agree on who wants whom, and the counts and the tally equal a recount",
    ),
    (
        "S9",
        "a search chooses once per cell, and only after all its search trials; what is ready to choose is recorded",
    ),
    (
        "S10",
        "a failed trial's last attempt has the reason; no more failures of a class are counted than happened",
    ),
    (
        "S11",
        "broken slots of a host's devices are broken on each of its workers",
    ),
    (
        "S12",
        "only trials that failed on a host, and succeeded nowhere yet, are held against it",
    ),
    (
        "S13",
        "only workers that are present are connected, and each has sent a message since this coordinator started",
    ),
    (
        "S14",
        "only slots that their worker has are paused, and no attempt started in one before its pause was over",
    ),
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// A name in `INVARIANTS`.
    pub invariant: &'static str,
    pub detail: String,
}

/// Returns every violated invariant, with the place.
pub fn check(state: &State) -> Vec<Violation> {
    let mut found = Found::default();
    trials(state, &mut found);
    slots(state, &mut found);
    queue(state, &mut found);
    sweeps(state, &mut found);
    hosts(state, &mut found);
    live(state, &mut found);
    found.0
}

#[derive(Default)]
struct Found(Vec<Violation>);

impl Found {
    fn unless(&mut self, holds: bool, invariant: &'static str, detail: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Violation {
                invariant,
                detail: detail(),
            });
        }
    }
}

fn trials(state: &State, found: &mut Found) {
    for (id, trial) in state.trials.iter() {
        let last = AttemptNo(trial.attempts.len() as u32);
        let end = trial
            .attempts
            .last()
            .and_then(|attempt| attempt.ended.as_ref());
        let earlier = trial.attempts.iter().rev().skip(1);
        found.unless(
            earlier.clone().all(|attempt| attempt.ended.is_some()),
            "S2",
            || format!("an attempt of trial {id} before the last has not ended"),
        );
        match &trial.phase {
            Phase::Running { attempt } => {
                let held = trial.attempts.last().and_then(|entry| {
                    let worker = state.workers.get(&entry.worker)?;
                    *worker.slots.get(entry.slot as usize)?
                });
                let holds = *attempt == last && end.is_none() && held == Some(id.attempt(*attempt));
                found.unless(holds, "S1", || {
                    format!("attempt {attempt} of trial {id}: its slot holds {held:?}")
                });
            }
            Phase::Succeeded { attempt, result } => {
                let accepted = end.is_some_and(|end| {
                    end.succeeded && end.failure.is_none() && end.event == result.event
                });
                let holds = *attempt == last && accepted && trial.since <= last;
                found.unless(holds, "S5", || {
                    format!("trial {id} succeeded in attempt {attempt}, which ended {end:?}")
                });
            }
            Phase::Failed { attempt } => {
                let holds = *attempt == last && trial.failure().is_some();
                found.unless(holds, "S10", || {
                    format!("trial {id} failed in attempt {attempt}, which ended {end:?}")
                });
            }
            Phase::Waiting { .. } | Phase::Cancelled => {
                let holds = trial.attempts.is_empty() || end.is_some();
                found.unless(holds, "S2", || {
                    format!("trial {id} does not run, but its last attempt has not ended")
                });
                let superseded = end.is_none_or(|end| !end.succeeded) || trial.since > last;
                found.unless(superseded, "S5", || {
                    format!("trial {id} lost the result of its attempt {last}")
                });
            }
        }
        let wanted = state.is_wanted(trial);
        let holds = match trial.phase {
            Phase::Waiting { .. } => wanted,
            Phase::Cancelled => !wanted,
            Phase::Running { .. } | Phase::Succeeded { .. } | Phase::Failed { .. } => true,
        };
        found.unless(holds, "S7", || {
            format!("trial {id} is {:?}, wanted: {wanted}", trial.phase)
        });
        for (class, spent) in &trial.spent {
            let ends = trial
                .attempts
                .iter()
                .filter_map(|attempt| attempt.ended.as_ref()?.failure.as_ref());
            let happened = ends.filter(|failure| failure.class == *class).count();
            let holds = *spent as usize <= happened;
            found.unless(holds, "S10", || {
                format!("trial {id} spent {spent} {class:?}, {happened} happened")
            });
        }
    }
}

fn slots(state: &State, found: &mut Found) {
    let mut current = BTreeSet::new();
    for (worker, entry) in &state.workers {
        found.unless(
            !entry.is_gone() || entry.slots.iter().all(Option::is_none),
            "S4",
            || format!("worker `{worker}`"),
        );
        for (slot, held) in entry.slots.iter().enumerate() {
            let Some(attempt) = *held else {
                continue;
            };
            if state.is_current(attempt, worker) {
                let given = state.attempt(attempt).map(|entry| entry.slot as usize);
                let holds = given == Some(slot) && current.insert(attempt);
                found.unless(holds, "S3", || {
                    format!("slot {slot} of `{worker}`: attempt {attempt}")
                });
            }
        }
        for (slot, pause) in &entry.pauses {
            let mut current = state
                .current_attempts(worker)
                .filter(|(held, _)| held == slot)
                .filter_map(|(_, attempt)| state.attempt(attempt));
            let holds = (*slot as usize) < entry.slots.len()
                && current.all(|attempt| attempt.started_at >= pause.until);
            found.unless(holds, "S14", || {
                format!("slot {slot} of `{worker}`, paused until {}", pause.until)
            });
        }
    }
}

fn queue(state: &State, found: &mut Found) {
    let mut expected = Queue::default();
    for (id, trial) in state.trials.iter() {
        let place = place_of(state, *id);
        found.unless(trial.place == place.map(|(place, _)| place), "S6", || {
            format!("trial {id} has another place")
        });
        if let Some((place, not_before)) = place {
            expected
                .by_needs
                .entry((trial.devices, trial.trainer.clone()))
                .or_default()
                .insert(place);
            expected.delayed.insert((not_before, *id));
        }
    }
    found.unless(expected == state.queue, "S6", || {
        "the queue differs from a recount".to_owned()
    });
}

fn sweeps(state: &State, found: &mut Found) {
    let mut listed = 0;
    for (name, entry) in &state.sweeps {
        let mut counts = Counts::default();
        let mut tally = Tally::of_cells(entry.sweep.cells.len());
        for (index, wanted) in entry.trials.iter().enumerate() {
            let trial = state.trials.get(&wanted.id);
            let known =
                trial.is_some_and(|trial| trial.wanted_by.contains(&(name.clone(), index as u32)));
            found.unless(known, "S8", || {
                format!(
                    "sweep `{name}` lists trial {}, which does not know it",
                    wanted.id
                )
            });
            if let Some(trial) = trial {
                *counts.of(&trial.phase) += 1;
                tally.enter(index as u32, wanted, trial);
            }
        }
        listed += entry.trials.len();
        found.unless(counts == entry.counts, "S8", || {
            format!("sweep `{name}` counts {:?}, not {counts:?}", entry.counts)
        });
        found.unless(tally == entry.tally, "S8", || {
            format!("sweep `{name}` tallies {:?}, not {tally:?}", entry.tally)
        });
        searches(state, name, entry, found);
        rankings(state, name, entry, found);
    }
    let wanted: usize = state
        .trials
        .values()
        .map(|trial| trial.wanted_by.len())
        .sum();
    found.unless(wanted == listed, "S8", || {
        format!("trials are wanted {wanted} times, sweeps list {listed}")
    });
}

fn searches(state: &State, name: &std::sync::Arc<str>, entry: &SweepState, found: &mut Found) {
    let mut unfinished: BTreeMap<u32, u32> = BTreeMap::new();
    let mut has_results = BTreeSet::new();
    for wanted in entry.trials.iter() {
        match wanted.role {
            Role::Search => {
                let open = !state.trials[&wanted.id].phase.is_terminal();
                *unfinished.entry(wanted.cell).or_default() += u32::from(open);
            }
            Role::Result => {
                has_results.insert((wanted.cell, wanted.candidate));
            }
        }
    }
    let recorded: BTreeMap<u32, u32> = entry
        .searching
        .iter()
        .map(|(cell, search)| (*cell, search.unfinished))
        .collect();
    found.unless(recorded == unfinished, "S9", || {
        format!("sweep `{name}` records {recorded:?} unfinished, not {unfinished:?}")
    });
    for (cell, open) in &unfinished {
        let ready = *open == 0
            && !entry.chosen.contains_key(cell)
            && best_candidate(state, entry, *cell).is_some();
        let recorded = state.to_choose.contains(&(name.clone(), *cell));
        found.unless(ready == recorded, "S9", || {
            format!("cell {cell} of `{name}`: ready {ready}, recorded {recorded}")
        });
    }
    let validates = entry
        .sweep
        .search
        .as_ref()
        .is_some_and(|search| search.select == Select::Validation);
    let chosen: BTreeSet<_> = entry
        .chosen
        .iter()
        .map(|(cell, candidate)| (*cell, Some(*candidate)))
        .collect();
    let seeds = !entry.sweep.seeds.is_empty();
    found.unless(!validates || !seeds || has_results == chosen, "S9", || {
        format!("sweep `{name}` chose {chosen:?} and has results of {has_results:?}")
    });
}

fn rankings(state: &State, name: &str, entry: &SweepState, found: &mut Found) {
    for ranking in &entry.rankings.list {
        let is_open = |wanted: &&SweepTrial| {
            ranking.cells.contains(&wanted.cell) && !state.trials[&wanted.id].phase.is_terminal()
        };
        let open = entry.trials.iter().filter(is_open).count();
        found.unless(open == ranking.open as usize, "S9", || {
            let recorded = ranking.open;
            format!("a ranking of `{name}` records {recorded} open trials, not {open}")
        });
        let undecided = ranking.looks.iter().flat_map(|look| &look.undecided);
        let known = { undecided }.all(|cell| ranking.cells.contains(cell));
        found.unless(known, "S9", || {
            format!("a ranking of `{name}` holds a cell that it does not rank")
        });
    }
}

fn hosts(state: &State, found: &mut Found) {
    for (worker, entry) in &state.workers {
        let Some(host) = state.hosts.get(&entry.info.host) else {
            found.unless(false, "S11", || {
                format!("worker `{worker}` is on an unknown host")
            });
            continue;
        };
        for (index, slot) in entry.info.slots.iter().enumerate() {
            let holds =
                host.breakage(slot).is_none() || entry.broken_slots.contains_key(&(index as u32));
            found.unless(holds, "S11", || {
                format!("slot {index} of `{worker}` holds a broken device")
            });
        }
    }
    for (name, host) in &state.hosts {
        let holds = host
            .failed_here
            .iter()
            .all(|id| failed_on(state, *id, name) && !succeeded(state, *id));
        found.unless(holds, "S12", || {
            format!(
                "host `{name}` is held responsible for {:?}",
                host.failed_here
            )
        });
    }
}

fn succeeded(state: &State, id: TrialId) -> bool {
    matches!(state.trials[&id].phase, Phase::Succeeded { .. })
}

fn failed_on(state: &State, id: TrialId, host: &str) -> bool {
    let on = |worker: &WorkerId| {
        state
            .workers
            .get(worker)
            .is_some_and(|entry| entry.info.host == host)
    };
    state.trials[&id].attempts.iter().any(|attempt| {
        let failure = attempt.ended.as_ref().and_then(|end| end.failure.as_ref());
        on(&attempt.worker) && failure.is_some_and(|failure| blames_host(failure.class))
    })
}

fn live(state: &State, found: &mut Found) {
    for worker in state.live.connected.keys() {
        let present = state
            .workers
            .get(worker)
            .is_some_and(|entry| !entry.is_gone());
        found.unless(present, "S13", || {
            format!("worker `{worker}` is connected, but not present")
        });
        let is_recent = state
            .live
            .last_message
            .get(worker)
            .is_some_and(|at| *at >= state.live.since);
        found.unless(is_recent, "S13", || {
            format!("worker `{worker}` is connected, but has sent no message")
        });
    }
}
