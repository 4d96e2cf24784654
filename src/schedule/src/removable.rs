//! Decides which files of attempts may be removed: the rule that bounds the disk use of work
//! directories.
//!
//! | the trial | its checkpoints | stderr of its attempts |
//! |---|---|---|
//! | is wanted and has no result | stay (the trainer keeps the newest two) | stays |
//! | succeeded | are removed | is removed a day later |
//! | failed | are removed a day later | stays, because the failure is shown |
//! | is not wanted any more | are removed a day later | is removed a day later |
//! | was removed with its sweep | are removed | is removed |
//!
//! The day is there because failed or cancelled trials are often retried and then resume. Workers
//! send the trials whose files they see (several may share a directory, and a killed worker cannot
//! clean up), and get this answer.

use sweep::keep::Kept;
use sweep::{AttemptId, AttemptNo, TrialId};

use crate::state::{Millis, Phase, State, TrialState};

pub const KEEP_MS: Millis = 24 * 3600 * 1000;

/// Trials and the last attempt whose files are no longer needed; files of later attempts stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removable {
    pub checkpoints: Vec<AttemptId>,
    pub logs: Vec<AttemptId>,
    /// Trials that are not in the journal.
    pub unknown: Vec<TrialId>,
    /// The coordinator's time, for the unknown trials.
    pub now: Millis,
}

impl Removable {
    pub fn is_empty(&self) -> bool {
        self.checkpoints.is_empty() && self.logs.is_empty() && self.unknown.is_empty()
    }
}

/// Returns what may be removed of the trials whose files a worker sees. A trial without an attempt of
/// this coordinator may be another coordinator's, so it is left out; for an unknown trial, the
/// worker decides how long to wait.
pub fn removable(state: &State, seen: &[TrialId], now: Millis) -> Removable {
    let mut removable = Removable {
        now,
        ..Removable::default()
    };
    for id in seen {
        let Some(trial) = state.trials.get(id) else {
            removable.unknown.push(*id);
            continue;
        };
        let last = id.attempt(AttemptNo(trial.attempts.len() as u32));
        let Some(ended) = trial
            .attempts
            .iter()
            .filter_map(|attempt| attempt.ended.as_ref())
            .map(|end| end.at)
            .max()
        else {
            continue;
        };
        let is_old = now >= ended.saturating_add(KEEP_MS);
        let has_ended = trial.attempts.iter().all(|attempt| attempt.ended.is_some());
        let (checkpoints, logs) = match trial.is_removed && has_ended {
            true => (true, true),
            false => not_needed(trial, is_old),
        };
        if checkpoints {
            removable.checkpoints.push(last);
        }
        if logs {
            removable.logs.push(last);
        }
    }
    removable
}

/// Returns whether the checkpoints and the logs of a trial may be removed.
fn not_needed(trial: &TrialState, is_old: bool) -> (bool, bool) {
    match trial.phase {
        Phase::Waiting { .. } | Phase::Running { .. } => (false, false),
        Phase::Succeeded { .. } => (true, is_old),
        Phase::Failed { .. } => (is_old, is_old && trial.wanted_by.is_empty()),
        Phase::Cancelled => (is_old, is_old),
    }
}

/// Returns those of these stored files that no sweep asks for: of trials that no sweep wants, of
/// attempts whose results do not count, and of a kind that no sweep keeps. `without`: a sweep that is
/// taken for removed.
pub fn unused_kept(
    state: &State,
    stored: impl IntoIterator<Item = (AttemptId, Kept)>,
    without: Option<&str>,
) -> Vec<(AttemptId, Kept)> {
    let is_used = |(id, kept): &(AttemptId, Kept)| {
        let Some(trial) = state.trials.get(&id.trial) else {
            return false;
        };
        let counts = match trial.phase {
            Phase::Succeeded { attempt, .. } | Phase::Running { attempt } => attempt == id.number,
            Phase::Waiting { .. } | Phase::Failed { .. } | Phase::Cancelled => false,
        };
        let mut wanted_by = trial.wanted_by.iter();
        counts
            && wanted_by.any(|(name, _)| {
                let keep = state.sweeps.get(name).map(|entry| &entry.sweep.keep);
                Some(&**name) != without && keep.is_some_and(|keep| keep.contains(kept))
            })
    };
    stored.into_iter().filter(|file| !is_used(file)).collect()
}
