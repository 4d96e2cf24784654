//! The words with which users name sweeps and trials: a sweep's name, a trial's id or the beginning
//! of one, a cell, `last`, `failed`.

use std::cmp::Reverse;

use protocol::v1;
use schedule::state::{Phase, State, SweepState, TrialState};
use sweep::{TrialId, TrialPrefix};

use crate::answers::{Answers, NoAnswer};

const LAST: &str = "last";
const FAILED: &str = "failed";

/// Returns true if the text is a word that selects, and no name.
pub fn is_selector(text: &str) -> bool {
    [LAST, FAILED].contains(&text)
}

impl Answers<'_> {
    /// Returns the sweep that a text means or, if a sweep is given, the trial or cell of it.
    pub fn find(&self, sweep: &str, text: &str) -> Result<v1::FindReply, NoAnswer> {
        if sweep.is_empty() {
            return self.find_sweep(text);
        }
        let entry = self.state.sweep(sweep)?;
        let trial = self.find_trial(Some(sweep), text);
        let cell = cell_named(entry, text, trial.as_ref().ok());
        match (trial, cell) {
            (Err(reason), None) => Err(reason),
            (trial, cell) => Ok(v1::FindReply {
                sweep: sweep.to_owned(),
                trial: trial.map(|trial| trial.to_string()).unwrap_or_default(),
                cell: cell.unwrap_or_default(),
            }),
        }
    }

    /// Returns the sweep that a text means: the one of this name; `last`, the one submitted last;
    /// `failed`, the one submitted last among those with failed trials; or else the sweep of the
    /// trial or cell that the text means, with it.
    fn find_sweep(&self, text: &str) -> Result<v1::FindReply, NoAnswer> {
        let reply = |entry: &SweepState| v1::FindReply {
            sweep: entry.sweep.name.clone(),
            ..v1::FindReply::default()
        };
        let unknown = match self.state.sweep(text) {
            Ok(entry) => return Ok(reply(entry)),
            Err(unknown) => unknown,
        };
        let nothing = |text: &str| NoAnswer::Nothing(text.to_owned());
        let mut newest = newest_first(self.state).into_iter();
        match text {
            LAST => {
                let found = newest.next().map(reply);
                return found.ok_or_else(|| nothing("no sweep was submitted"));
            }
            FAILED => {
                let found = newest.find(|entry| entry.counts.failed > 0).map(reply);
                return found.ok_or_else(|| nothing("no sweep has failed trials"));
            }
            _ => {}
        }
        let Ok(trial) = self.find_trial(None, text) else {
            return Err(unknown.into());
        };
        let of_trial = |entry: &&SweepState| {
            let mut trials = entry.trials.iter();
            trials.any(|wanted| wanted.id == trial)
        };
        let entry = newest
            .find(of_trial)
            .ok_or_else(|| NoAnswer::Nothing(format!("no sweep wants trial {trial} any more")))?;
        let cell = cell_named(entry, text, Some(&trial));
        Ok(v1::FindReply {
            sweep: entry.sweep.name.clone(),
            trial: trial.to_string(),
            cell: cell.unwrap_or_default(),
        })
    }

    /// Finds a trial, of this sweep or of all: by its id or a unique beginning of it, as `last` (the
    /// one that started last) or `failed` (of those that failed), or by a cell. What several trials
    /// fit means the one that started last.
    pub(crate) fn find_trial(&self, sweep: Option<&str>, text: &str) -> Result<TrialId, NoAnswer> {
        let entry = sweep.map(|name| self.state.sweep(name)).transpose()?;
        let is_of_sweep = |trial: &TrialState| {
            let mut wanted_by = trial.wanted_by.iter();
            sweep.is_none_or(|sweep| wanted_by.any(|(name, _)| **name == *sweep))
        };
        let trials = || {
            let all = self.state.trials.iter();
            all.filter(|(_, trial)| is_of_sweep(trial))
                .map(|(id, trial)| (*id, trial))
        };
        let place = sweep.map_or_else(String::new, |sweep| format!(" of sweep `{sweep}`"));
        match text {
            LAST => {
                let found = started_last(trials());
                return found
                    .ok_or_else(|| NoAnswer::Nothing(format!("no trial{place} has started")));
            }
            FAILED => {
                let failed =
                    trials().filter(|(_, trial)| matches!(trial.phase, Phase::Failed { .. }));
                return started_last(failed)
                    .ok_or_else(|| NoAnswer::Nothing(format!("no trial{place} has failed")));
            }
            _ => {}
        }
        let by_id = text.parse::<TrialPrefix>().and_then(|prefix| {
            // The order of ids is that of their digits.
            let from = self.state.trials.ids_from(prefix.lowest());
            let begun = from.take_while(|id| prefix.begins(*id));
            prefix.find(begun.filter(|id| is_of_sweep(&self.state.trials[id])))
        });
        let not_an_id = match by_id {
            Ok(id) => return Ok(id),
            Err(reason) => reason,
        };
        let of_cell = match entry {
            Some(entry) => trial_of_cell(self.state, entry, text),
            None => newest_first(self.state)
                .into_iter()
                .find_map(|entry| trial_of_cell(self.state, entry, text)),
        };
        match (of_cell, entry) {
            (Some(id), _) => Ok(id),
            (None, Some(entry)) if matches!(not_an_id, sweep::NotATrial::Malformed(_)) => {
                let unknown = entry.sweep.find_cell(text).err();
                Err(unknown.map_or(not_an_id.into(), NoAnswer::UnknownCell))
            }
            (None, _) => Err(not_an_id.into()),
        }
    }
}

/// Returns the sweeps, those submitted last first.
fn newest_first(state: &State) -> Vec<&SweepState> {
    let mut sweeps: Vec<_> = state.sweeps.values().collect();
    sweeps.sort_by_key(|entry| Reverse(entry.order));
    sweeps
}

/// Returns the cell that a text names, unless it is the beginning of the trial's id.
fn cell_named(entry: &SweepState, text: &str, trial: Option<&TrialId>) -> Option<String> {
    let is_id = |id: &TrialId| {
        text.parse::<TrialPrefix>()
            .is_ok_and(|prefix| prefix.begins(*id))
    };
    if trial.is_some_and(is_id) || is_selector(text) {
        return None;
    }
    let cell = entry.sweep.find_cell(text).ok()?;
    Some(entry.sweep.cell_name(&entry.sweep.cells[cell]))
}

/// Returns the trial of the cell of this name that started last, or one of those that wait.
fn trial_of_cell(state: &State, entry: &SweepState, name: &str) -> Option<TrialId> {
    let cell = entry.sweep.find_cell(name).ok()?;
    let wanted = entry.trials.iter();
    let ids = wanted
        .filter(|trial| trial.cell as usize == cell)
        .map(|trial| trial.id);
    let trials = ids
        .clone()
        .filter_map(|id| Some((id, state.trials.get(&id)?)));
    started_last(trials).or_else(|| ids.min())
}

fn started_last<'a>(trials: impl Iterator<Item = (TrialId, &'a TrialState)>) -> Option<TrialId> {
    let started = trials.filter_map(|(id, trial)| Some((trial.attempts.last()?.started_at, id)));
    started.max().map(|(_, id)| id)
}
