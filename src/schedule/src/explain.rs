//! Why a trial is not running, or why it runs again: data first, text second. The reasons are those that `plan` and
//! `decide` act on, from the same functions.

use std::fmt;

use serde::Serialize;
use sweep::definition::Role;
use sweep::record::FailureClass;
use sweep::{AttemptNo, TrialId};

use crate::config::Config;
use crate::live::{lease_end, still_since};
use crate::plan::{WaitReason, failed_hosts, offers, wait_reason};
use crate::state::{Attempt, Millis, Phase, State, TrialState};

/// Everything that is known about one trial's way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    pub schema: u32,
    pub trial: TrialId,
    pub wanted_by: Vec<Wanted>,
    /// `waiting`, `running`, `succeeded`, `failed`, `cancelled`.
    pub phase: &'static str,
    /// Why it waits, when it does.
    pub waits: Option<WaitReason>,
    /// One sentence each, the most important first.
    pub because: Vec<String>,
    pub attempts: Vec<Tried>,
    /// Failures since the last retry, by class.
    pub spent: Vec<Spent>,
}

/// A place in a sweep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wanted {
    pub sweep: String,
    pub cell: String,
    pub seed: u64,
    /// Of a search: the value that this candidate sets.
    pub candidate: Option<String>,
    pub role: Role,
    /// Why the sweep does not want it any more.
    pub cancelled: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tried {
    pub attempt: AttemptNo,
    pub worker: String,
    pub host: String,
    pub slot: u32,
    pub started_at_ms: Millis,
    pub lasted_ms: Millis,
    /// `running`, `succeeded`, `stopped`, or the failure class.
    pub outcome: String,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Spent {
    pub class: FailureClass,
    pub failures: u32,
    /// Absent: without limit.
    pub retries: Option<u32>,
}

/// `None`: there is no such trial.
pub fn explain(state: &State, config: &Config, id: TrialId, now: Millis) -> Option<Explanation> {
    let trial = state.trials.get(&id)?;
    let waits = matches!(trial.phase, Phase::Waiting { .. }).then(|| wait_reason(state, id, now)).flatten();
    let (phase, because) = match &trial.phase {
        Phase::Waiting { not_before } => ("waiting", waiting(state, id, waits, *not_before, now)),
        Phase::Running { attempt } => ("running", running(state, config, (id, *attempt), now)),
        Phase::Succeeded { attempt, result } => {
            let accuracy = 100.0 * result.last_accuracy;
            ("succeeded", vec![format!("attempt {attempt} finished with {accuracy:.2} % accuracy")])
        }
        Phase::Failed { attempt } => ("failed", failed(state, config, id, *attempt)),
        Phase::Cancelled => ("cancelled", vec!["no sweep wants it any more".to_owned()]),
    };
    let attempts = (1..).zip(&trial.attempts).map(|(no, attempt)| tried(state, trial, (AttemptNo(no), attempt), now));
    let spent = trial.spent.iter().map(|(class, failures)| Spent {
        class: *class,
        failures: *failures,
        retries: config.budgets.of(*class).retries,
    });
    Some(Explanation {
        schema: 1,
        trial: id,
        wanted_by: wanted_by(state, trial),
        phase,
        waits,
        because,
        attempts: attempts.collect(),
        spent: spent.collect(),
    })
}

fn wanted_by(state: &State, trial: &TrialState) -> Vec<Wanted> {
    let places = trial.wanted_by.iter().map(|(name, index)| {
        let entry = &state.sweeps[name];
        let wanted = &entry.trials[*index as usize];
        let candidate = entry.sweep.search.as_ref().zip(wanted.candidate);
        Wanted {
            sweep: name.to_string(),
            cell: entry.sweep.cell_name(&entry.sweep.cells[wanted.cell as usize]),
            seed: wanted.seed,
            candidate: candidate.map(|(search, at)| format!("{} {}", search.field, search.candidates[at as usize])),
            role: wanted.role,
            cancelled: entry.cancelled.clone(),
        }
    });
    places.collect()
}

fn waiting(state: &State, id: TrialId, waits: Option<WaitReason>, not_before: Millis, now: Millis) -> Vec<String> {
    let trial = &state.trials[&id];
    let devices = plural(u64::from(trial.devices), "device");
    let offers = offers(state);
    let largest = offers.values().copied().max().unwrap_or(0);
    let mut because = vec![match waits {
        None => "it is placed next".to_owned(),
        Some(WaitReason::NoWorkers) => no_workers(state),
        Some(WaitReason::NoSlotLargeEnough) => format!(
            "it needs a slot of {devices}, and the largest offered has {largest}: start a worker with larger slots, or \
             change `devices_per_trial`"
        ),
        Some(WaitReason::SlotsBusy) => {
            let before = trial.place.map_or(0, |place| {
                state.queue.by_devices.values().map(|places| places.range(..place).count() as u64).sum()
            });
            let are = if before == 1 { "is" } else { "are" };
            format!("every slot of {devices} is occupied; {} {are} before it", plural(before, "trial"))
        }
        Some(WaitReason::Backoff) => {
            format!("it failed and is tried again in {}", seconds(not_before.saturating_sub(now)))
        }
        Some(WaitReason::AnotherHost) => {
            let failed: Vec<&str> = failed_hosts(state, trial).into_iter().collect();
            format!("it failed on {} and waits for a slot on another host", failed.join(", "))
        }
    }];
    because.extend(again(state, trial));
    because
}

fn no_workers(state: &State) -> String {
    let present: Vec<_> = state.workers.iter().filter(|(_, entry)| !entry.is_gone()).collect();
    let drained = state.hosts.iter().find_map(|(name, host)| Some((name, host.drained.as_ref()?)));
    let draining = present.iter().find_map(|(worker, entry)| Some((worker, entry.draining.as_ref()?)));
    match (present.is_empty(), drained, draining) {
        (false, Some((host, reason)), _) => {
            format!("host `{host}` is drained ({reason}): `orchestrator undrain {host}` lets it work again")
        }
        (false, None, Some((worker, reason))) => format!("worker `{worker}` takes no new work: {reason}"),
        (false, None, None) => "no worker is connected at the moment".to_owned(),
        (true, ..) => "no worker has joined: start one with `orchestrator worker --coordinator URL`".to_owned(),
    }
}

/// Why another attempt follows.
fn again(state: &State, trial: &TrialState) -> Option<String> {
    let last = trial.attempts.iter().rev().find(|attempt| attempt.ended.is_some())?;
    let failure = last.ended.as_ref()?.failure.as_ref()?;
    let host = &state.workers[&last.worker].info.host;
    let line = failure.message.lines().next().unwrap_or_default();
    Some(format!("the attempt before ended as {} on {host}: {line}", failure.class))
}

fn running(state: &State, config: &Config, (id, attempt): (TrialId, AttemptNo), now: Millis) -> Vec<String> {
    let trial = &state.trials[&id];
    let Some(entry) = trial.attempt(attempt) else { return Vec::new() };
    let host = &state.workers[&entry.worker].info.host;
    let since = seconds(now.saturating_sub(entry.started_at));
    let mut because = vec![format!("attempt {attempt} runs on {host}, slot {}, since {since}", entry.slot)];
    if !state.is_wanted(trial) {
        because.push("no sweep wants it any more: it is being stopped".to_owned());
    }
    if attempt.0 > 1 {
        because.extend(again(state, trial));
    }
    let heard = state.live.last_heard.get(&entry.worker).copied().unwrap_or(state.live.since);
    let silent = now.saturating_sub(heard);
    if silent > 3 * config.heartbeat_ms {
        let left = seconds(lease_end(state, config, &entry.worker).saturating_sub(now));
        because.push(format!("its worker is silent for {}; its lease ends in {left}", seconds(silent)));
    }
    let still = now.saturating_sub(still_since(state, (id, attempt), None, now));
    if still > config.stall_ms / 10 {
        let limit = seconds(config.stall_ms);
        because.push(format!("it made no progress for {}; at {limit} it counts as stalled", seconds(still)));
    }
    because
}

fn failed(state: &State, config: &Config, id: TrialId, attempt: AttemptNo) -> Vec<String> {
    let trial = &state.trials[&id];
    let Some(failure) = trial.failure() else { return Vec::new() };
    let spent = trial.spent.get(&failure.class).copied().unwrap_or(0);
    let budget = match config.budgets.of(failure.class).retries {
        Some(0) => "is never tried again by itself".to_owned(),
        Some(retries) if spent > retries => format!("is tried again {}, and that is spent", times(retries)),
        _ => "was not tried again, for want of another host".to_owned(),
    };
    let line = failure.message.lines().next().unwrap_or_default();
    let sweep = trial.wanted_by.first().map_or("SWEEP", |(name, _)| name);
    vec![
        format!("attempt {attempt} ended as {}: {line}", failure.class),
        format!("{} {budget}; `orchestrator retry --failed {sweep}` tries it with fresh budgets", failure.class),
    ]
}

fn tried(state: &State, trial: &TrialState, (no, attempt): (AttemptNo, &Attempt), now: Millis) -> Tried {
    let end = attempt.ended.as_ref();
    let failure = end.and_then(|end| end.failure.as_ref());
    let decided = matches!(trial.phase, Phase::Succeeded { attempt, .. } if attempt == no);
    let outcome = match (end, failure) {
        (None, _) => "running".to_owned(),
        (Some(_), Some(failure)) => failure.class.to_string(),
        (Some(_), None) if decided => "succeeded".to_owned(),
        (Some(_), None) => "stopped".to_owned(),
    };
    Tried {
        attempt: no,
        worker: attempt.worker.to_string(),
        host: state.workers[&attempt.worker].info.host.clone(),
        slot: attempt.slot,
        started_at_ms: attempt.started_at,
        lasted_ms: end.map_or(now, |end| end.at).saturating_sub(attempt.started_at),
        outcome,
        message: failure.map(|failure| failure.message.clone()).unwrap_or_default(),
    }
}

fn plural(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn times(count: u32) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        _ => format!("{count} times"),
    }
}

/// `0.4 s`, `12 s`, `3 min`, `2.5 h`.
fn seconds(ms: Millis) -> String {
    match ms {
        0..10_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        10_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{}.{} h", ms / 3_600_000, ms % 3_600_000 / 360_000),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "trial {} is {}", self.trial, self.phase)?;
        for line in &self.because {
            writeln!(out, "  {line}")?;
        }
        for wanted in &self.wanted_by {
            let candidate = wanted.candidate.as_ref().map(|value| format!(", candidate {value}")).unwrap_or_default();
            let cell = if wanted.cell.is_empty() { "the only cell" } else { &wanted.cell };
            write!(out, "  sweep {}: {cell}{candidate}, seed {}", wanted.sweep, wanted.seed)?;
            match &wanted.cancelled {
                Some(reason) => writeln!(out, " (cancelled: {reason})")?,
                None => writeln!(out)?,
            }
        }
        for tried in &self.attempts {
            let line = tried.message.lines().next().unwrap_or_default();
            let message = if line.is_empty() { String::new() } else { format!(": {line}") };
            let lasted = seconds(tried.lasted_ms);
            let (attempt, host, slot) = (tried.attempt, &tried.host, tried.slot);
            writeln!(out, "  attempt {attempt} on {host}, slot {slot}, {lasted}: {}{message}", tried.outcome)?;
        }
        for spent in &self.spent {
            let failures = plural(u64::from(spent.failures), "failure");
            match spent.retries {
                Some(retries) => {
                    writeln!(out, "  {}: {failures}, at most {retries} tried again", spent.class)?;
                }
                None => writeln!(out, "  {}: {failures}, each tried again", spent.class)?,
            }
        }
        Ok(())
    }
}
