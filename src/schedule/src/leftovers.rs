//! Which files that attempts left behind may go: the rule that bounds the disk of work directories.
//!
//! | the trial | its checkpoints | stderr of its attempts |
//! |---|---|---|
//! | is wanted and has no result | stay (the trainer keeps the newest two) | stays |
//! | succeeded | go | goes a day later |
//! | failed | go a day later | stays, as the failure is shown |
//! | is not wanted any more | go a day later | goes a day later |
//!
//! A day, because what failed or was cancelled is often asked for again, and then goes on where it was. Workers ask with
//! the trials whose files they see (several may share a directory, and a killed one cannot tidy up), and are told.

use sweep::{AttemptNo, TrialId};

use crate::state::{Millis, Phase, State};

pub const KEEP_MS: Millis = 24 * 3600 * 1000;

/// Files of these trials up to these attempts are not needed: a later attempt's are not meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    pub checkpoints: Vec<(TrialId, AttemptNo)>,
    pub logs: Vec<(TrialId, AttemptNo)>,
    /// Trials that are not in the journal.
    pub unknown: Vec<TrialId>,
    /// The coordinator's time, for those.
    pub now: Millis,
}

impl Leftovers {
    pub fn is_empty(&self) -> bool {
        self.checkpoints.is_empty() && self.logs.is_empty() && self.unknown.is_empty()
    }
}

/// Of the trials whose files a worker sees. A trial of which this coordinator started no attempt may be another
/// coordinator's: nothing is said of it, and one that is not even known is left to the worker's patience.
pub fn leftovers(state: &State, seen: &[TrialId], now: Millis) -> Leftovers {
    let mut leftovers = Leftovers { now, ..Leftovers::default() };
    for id in seen {
        let Some(trial) = state.trials.get(id) else {
            leftovers.unknown.push(*id);
            continue;
        };
        let last = AttemptNo(trial.attempts.len() as u32);
        let Some(ended) = trial.attempts.iter().filter_map(|attempt| attempt.ended.as_ref()).map(|end| end.at).max()
        else {
            continue;
        };
        let (checkpoints, logs) = not_needed(&trial.phase, now >= ended.saturating_add(KEEP_MS));
        if checkpoints {
            leftovers.checkpoints.push((*id, last));
        }
        if logs {
            leftovers.logs.push((*id, last));
        }
    }
    leftovers
}

/// Whether checkpoints and logs of a trial may go.
fn not_needed(phase: &Phase, is_old: bool) -> (bool, bool) {
    match phase {
        Phase::Waiting { .. } | Phase::Running { .. } => (false, false),
        Phase::Succeeded { .. } => (true, is_old),
        Phase::Failed { .. } => (is_old, false),
        Phase::Cancelled => (is_old, is_old),
    }
}
