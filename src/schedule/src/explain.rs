//! The reasons why a trial does not run, or runs again: data first, text second. They come from the
//! same functions that `placement.rs` and `decide` use.

use std::fmt;

use serde::Serialize;
use sweep::definition::Role;
use sweep::record::FailureClass;
use sweep::{AttemptId, AttemptNo, TrialId, counted};

use crate::config::Config;
use crate::event::{Event, Recorded};
use crate::live::{lease_end, no_progress_since};
use crate::state::{Attempt, Millis, Phase, State, TrialState};
use crate::waits::{WaitReason, because, paused_slots, wait_reason};

const ATTEMPT_BEFORE: &str = "the attempt before";

/// The history of one trial and the reasons for its phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    pub schema: u32,
    pub trial: TrialId,
    pub wanted_by: Vec<Wanted>,
    /// `waiting`, `running`, `succeeded`, `failed`, `cancelled`.
    pub phase: &'static str,
    /// The reason why it waits, if it waits.
    pub waits: Option<WaitReason>,
    /// Reasons, one sentence each, the most important first.
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
    /// For a search: the value that this candidate sets.
    pub candidate: Option<String>,
    pub role: Role,
    /// The reason why the sweep no longer wants it.
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
    /// Message of a failure. Long ones are shortened until `Explanation::read` gets the event.
    pub message: String,
    /// Number of the journal event that ended it.
    pub event: Option<u64>,
    /// File with its trainer's stderr, if it wrote any: below the worker's work directory.
    pub log: String,
}

impl Explanation {
    /// Returns the number of the event that has the whole message of the last failure.
    pub fn last_failure(&self) -> Option<u64> {
        self.attempts
            .iter()
            .rfind(|tried| !tried.message.is_empty())?
            .event
    }

    /// Adjusts the explanation to a coordinator that does not run: the trial waits for it and for
    /// nothing else, and no progress is known. `because` advises the user.
    pub fn at_rest(&mut self, because: &str) {
        let running = self.attempts.last().filter(|_| self.phase == "running");
        let line = match (self.phase, running) {
            ("waiting", _) => because.to_owned(),
            (_, Some(tried)) => {
                format!(
                    "attempt {} ran on {} when the coordinator ended; {because}",
                    tried.attempt, tried.host
                )
            }
            _ => return,
        };
        self.waits = None;
        // The reason why the attempt before ended is still true.
        self.because
            .retain(|known| known.starts_with(ATTEMPT_BEFORE));
        self.because.insert(0, line);
    }

    pub fn read(&mut self, number: u64, recorded: &Recorded) {
        let tried = self
            .attempts
            .iter_mut()
            .find(|tried| tried.event == Some(number));
        if let (Some(tried), Event::AttemptFailed { failure, .. }) = (tried, &recorded.event) {
            tried.message.clone_from(&failure.message);
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Spent {
    pub class: FailureClass,
    pub failures: u32,
    /// Absent: no limit.
    pub retries: Option<u32>,
}

/// Maximum number of trials ahead in the queue that are counted.
const MAX_COUNTED: usize = 10_000;

/// Explains a trial; `None` if it does not exist.
pub fn explain(state: &State, config: &Config, id: TrialId, now: Millis) -> Option<Explanation> {
    let trial = state.trials.get(&id)?;
    let waits = matches!(trial.phase, Phase::Waiting { .. })
        .then(|| wait_reason(state, id, now))
        .flatten();
    let (phase, because) = match &trial.phase {
        Phase::Waiting { not_before } => ("waiting", waiting(state, id, waits, *not_before, now)),
        Phase::Running { attempt } => {
            ("running", running(state, config, id.attempt(*attempt), now))
        }
        Phase::Succeeded { attempt, result } => {
            let accuracy = 100.0 * result.last_accuracy;
            (
                "succeeded",
                vec![format!(
                    "attempt {attempt} finished with {accuracy:.2} % accuracy"
                )],
            )
        }
        Phase::Failed { attempt } => ("failed", failed(state, config, id, *attempt)),
        Phase::Cancelled => ("cancelled", vec!["no sweep wants it any more".to_owned()]),
    };
    let attempts = (1..)
        .zip(&trial.attempts)
        .map(|(no, attempt)| tried(state, id, (AttemptNo(no), attempt), now));
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
            cell: entry
                .sweep
                .cell_name(&entry.sweep.cells[wanted.cell as usize]),
            seed: wanted.seed,
            candidate: candidate.map(|(search, at)| {
                format!("{} {}", search.label(), search.candidates[at as usize])
            }),
            role: wanted.role,
            cancelled: entry.cancelled.clone(),
        }
    });
    places.collect()
}

fn waiting(
    state: &State,
    id: TrialId,
    waits: Option<WaitReason>,
    not_before: Millis,
    now: Millis,
) -> Vec<String> {
    let trial = &state.trials[&id];
    let mut lines = vec![match waits {
        None => "it is placed next".to_owned(),
        Some(WaitReason::SlotsBusy) => {
            let before = trial.place.map_or(0, |place| {
                let ahead = state
                    .queue
                    .by_needs
                    .values()
                    .flat_map(|places| places.range(..place));
                ahead.take(MAX_COUNTED + 1).count()
            });
            let busy = because(state, trial, WaitReason::SlotsBusy, now);
            match before {
                1 => format!("{busy}; 1 trial is before it"),
                0..=MAX_COUNTED => format!("{busy}; {before} trials are before it"),
                _ => format!("{busy}; more than {MAX_COUNTED} trials are before it"),
            }
        }
        Some(WaitReason::Backoff) => {
            format!(
                "it failed and is retried in {}",
                seconds(not_before.saturating_sub(now))
            )
        }
        Some(WaitReason::SlotsPaused) => {
            let paused = because(state, trial, WaitReason::SlotsPaused, now);
            let next = paused_slots(state, now)
                .filter_map(|held| held.until)
                .min()
                .unwrap_or(now);
            format!(
                "{paused}; the next try is in {}",
                seconds(next.saturating_sub(now))
            )
        }
        Some(reason) => because(state, trial, reason, now),
    }];
    lines.extend(again(state, trial));
    lines
}

/// Returns the reason why another attempt follows.
fn again(state: &State, trial: &TrialState) -> Option<String> {
    let last = trial
        .attempts
        .iter()
        .rev()
        .find(|attempt| attempt.ended.is_some())?;
    let failure = last.ended.as_ref()?.failure.as_ref()?;
    let host = &state.workers[&last.worker].info.host;
    let line = failure.message.lines().next().unwrap_or_default();
    Some(format!(
        "{ATTEMPT_BEFORE} ended as {} on {host}: {line}",
        failure.class
    ))
}

fn running(state: &State, config: &Config, id: AttemptId, now: Millis) -> Vec<String> {
    let (trial, attempt) = (&state.trials[&id.trial], id.number);
    let Some(entry) = trial.attempt(attempt) else {
        return Vec::new();
    };
    let host = &state.workers[&entry.worker].info.host;
    let since = seconds(now.saturating_sub(entry.started_at));
    let mut because = vec![format!(
        "attempt {attempt} runs on {host}, slot {}, since {since}",
        entry.slot
    )];
    if !state.is_wanted(trial) {
        because.push("no sweep wants it any more: it is being stopped".to_owned());
    }
    because.extend(again(state, trial));
    let last_message = state
        .live
        .last_message
        .get(&entry.worker)
        .copied()
        .unwrap_or(state.live.since);
    let silent = now.saturating_sub(last_message);
    if silent > config.heartbeat_ms.saturating_mul(3) {
        let left = seconds(lease_end(state, config, &entry.worker).saturating_sub(now));
        because.push(format!(
            "its worker is silent for {}; its lease ends in {left}",
            seconds(silent)
        ));
    }
    let still = now.saturating_sub(no_progress_since(state, id, None, now));
    if still > config.stall_ms / 10 {
        let limit = seconds(config.stall_ms);
        because.push(format!(
            "it made no progress for {}; at {limit} it counts as stalled",
            seconds(still)
        ));
    }
    because
}

fn failed(state: &State, config: &Config, id: TrialId, attempt: AttemptNo) -> Vec<String> {
    let trial = &state.trials[&id];
    let Some(failure) = trial.failure() else {
        return Vec::new();
    };
    let spent = trial.spent.get(&failure.class).copied().unwrap_or(0);
    let budget = match config.budgets.of(failure.class).retries {
        Some(0) => "is never retried automatically".to_owned(),
        Some(retries) if spent > retries => {
            format!("has used up its retries ({retries})")
        }
        _ => "was not retried: there is no other host".to_owned(),
    };
    let line = failure.message.lines().next().unwrap_or_default();
    let sweep = trial.wanted_by.first().map_or("SWEEP", |(name, _)| name);
    vec![
        format!("attempt {attempt} ended as {}: {line}", failure.class),
        format!(
            "{} {budget}; `orchestrator retry {sweep}` tries it with fresh budgets",
            failure.class
        ),
    ]
}

fn tried(state: &State, id: TrialId, (no, attempt): (AttemptNo, &Attempt), now: Millis) -> Tried {
    let trial = &state.trials[&id];
    let end = attempt.ended.as_ref();
    let failure = end.and_then(|end| end.failure.as_ref());
    let decided = matches!(trial.phase, Phase::Succeeded { attempt, .. } if attempt == no);
    let outcome = match (end, failure) {
        (None, _) => "running".to_owned(),
        (Some(_), Some(failure)) => failure.class.to_string(),
        (Some(_), None) if decided => "succeeded".to_owned(),
        (Some(end), None) if end.succeeded => "succeeded, and trained again since".to_owned(),
        (Some(_), None) => "stopped".to_owned(),
    };
    Tried {
        attempt: no,
        worker: attempt.worker.to_string(),
        host: state.workers[&attempt.worker].info.host.clone(),
        slot: attempt.slot,
        started_at_ms: attempt.started_at,
        lasted_ms: end
            .map_or(now, |end| end.at)
            .saturating_sub(attempt.started_at),
        outcome,
        message: failure
            .map(|failure| failure.message.clone())
            .unwrap_or_default(),
        event: end.map(|end| end.event),
        log: format!("logs/{id}/attempt-{no}.stderr"),
    }
}

/// Formats a duration: `0.4 s`, `12 s`, `3 min`, `2.5 h`.
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
            let candidate = wanted
                .candidate
                .as_ref()
                .map(|value| format!(", candidate {value}"))
                .unwrap_or_default();
            let cell = if wanted.cell.is_empty() {
                "the only cell"
            } else {
                &wanted.cell
            };
            write!(
                out,
                "  sweep {}: {cell}{candidate}, seed {}",
                wanted.sweep, wanted.seed
            )?;
            match &wanted.cancelled {
                Some(reason) => writeln!(out, " (cancelled: {reason})")?,
                None => writeln!(out)?,
            }
        }
        for tried in &self.attempts {
            let line = tried.message.lines().next().unwrap_or_default();
            let message = if line.is_empty() {
                String::new()
            } else {
                format!(": {line}")
            };
            let lasted = seconds(tried.lasted_ms);
            let is_last = tried.event.is_some() && tried.event == self.last_failure();
            let (attempt, host, slot) = (tried.attempt, &tried.host, tried.slot);
            writeln!(
                out,
                "  attempt {attempt} on {host}, slot {slot}, {lasted}: {}{message}",
                tried.outcome
            )?;
            if is_last {
                tried
                    .message
                    .lines()
                    .skip(1)
                    .try_for_each(|line| writeln!(out, "      {line}"))?;
                writeln!(
                    out,
                    "      its log, if it wrote one: WORK_DIR/{} (the worker's --work-dir)",
                    tried.log
                )?;
            }
        }
        for spent in &self.spent {
            let failures = counted(u64::from(spent.failures), "failure");
            match spent.retries {
                Some(retries) => {
                    writeln!(
                        out,
                        "  {}: {failures}, at most {retries} retried",
                        spent.class
                    )?;
                }
                None => writeln!(out, "  {}: {failures}, each retried", spent.class)?,
            }
        }
        Ok(())
    }
}
