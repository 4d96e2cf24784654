//! The answers to questions of users, from a state: that of a running coordinator between two turns,
//! or that of a journal while no coordinator runs.

use std::cmp::Reverse;
use std::io;

use protocol::v1;
use report::{FileSink, Reporter, StoredResults};
use schedule::curve::{self, Point};
use schedule::event::Recorded;
use schedule::state::{Millis, Phase, Presence, State, UnknownSweep, WorkerState};
use schedule::{Config, Explanation, Tried};
use serde_json::Value;
use sweep::{NotATrial, TrialId};
use tonic::Status;

use crate::status;

/// Maximum number of gone workers in `status`, which shows those of the last day. They stay in the
/// state for ever.
const GONE_SHOWN: usize = 20;
const GONE_SHOWN_MS: Millis = 24 * 3600 * 1000;
/// Version of the status as JSON.
const STATUS_SCHEMA: u32 = 1;
const NO_COORDINATOR: &str = "no coordinator runs on this state directory: `orchestrator run FILE` with the sweep's file continues it, and so does `orchestrator coordinator` with its workers";

pub struct Answers<'a> {
    pub(crate) state: &'a State,
    pub(crate) config: &'a Config,
    pub(crate) now: Millis,
    coordinator_runs: bool,
}

/// The reason why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    #[error(transparent)]
    UnknownSweep(#[from] UnknownSweep),
    #[error(transparent)]
    NotATrial(#[from] NotATrial),
    /// Nothing is what a selector asks for.
    #[error("{0}")]
    Nothing(String),
    /// No such cell, with the cells that there are.
    #[error("{0}")]
    UnknownCell(String),
}

impl From<NoAnswer> for Status {
    fn from(reason: NoAnswer) -> Self {
        let text = reason.to_string();
        match reason {
            NoAnswer::NotATrial(NotATrial::Malformed(_) | NotATrial::Ambiguous { .. }) => {
                Self::invalid_argument(text)
            }
            NoAnswer::UnknownSweep(_)
            | NoAnswer::UnknownCell(_)
            | NoAnswer::Nothing(_)
            | NoAnswer::NotATrial(NotATrial::Unknown(_)) => Self::not_found(text),
        }
    }
}

impl<'a> Answers<'a> {
    /// Answers from the state of a running coordinator.
    pub(crate) fn live(state: &'a State, config: &'a Config, now: Millis) -> Self {
        Self {
            state,
            config,
            now,
            coordinator_runs: true,
        }
    }

    /// Answers from the state of a journal: nothing runs, and everything waits for a coordinator.
    pub fn from_journal(state: &'a State, config: &'a Config, now: Millis) -> Self {
        Self {
            state,
            config,
            now,
            coordinator_runs: false,
        }
    }

    /// Returns the status of a sweep, or of all if the name is empty. What only a running
    /// coordinator knows (its disk, its streams) is left for it to fill in.
    pub fn status(&self, sweep: &str) -> Result<v1::StatusReply, NoAnswer> {
        let names: Vec<&str> = match sweep {
            "" => self.state.sweeps.keys().map(|name| &**name).collect(),
            name => vec![name],
        };
        let in_full = |name: &str| {
            let (entry, mut status) = (self.state.sweep(name)?, self.sweep(name)?);
            status.failures = status::failures(self.state, entry);
            status.description = entry.sweep.description.trim().to_owned();
            Ok::<_, UnknownSweep>(status)
        };
        let sweeps: Result<_, _> = names.into_iter().map(in_full).collect();
        Ok(v1::StatusReply {
            sweeps: sweeps?,
            workers: self.workers(),
            build: self.config.build.clone(),
            cluster_json: self.cluster(),
            ..v1::StatusReply::default()
        })
    }

    fn cluster(&self) -> Vec<u8> {
        let status = schedule::allocation::cluster_status(self.state, self.config, self.now);
        serde_json::to_vec(&status).expect("a record of text and numbers can be written")
    }

    pub(crate) fn sweep(&self, name: &str) -> Result<v1::SweepStatus, UnknownSweep> {
        let status = status::sweep(self.state, self.config, name, self.now)?;
        Ok(match self.coordinator_runs {
            true => status,
            false => without_coordinator(status),
        })
    }

    /// Returns the workers that are present, then those that left in the last day. None are present
    /// without a coordinator.
    fn workers(&self) -> Vec<v1::WorkerStatus> {
        if !self.coordinator_runs {
            return Vec::new();
        }
        let gone_at = |worker: &WorkerState| match worker.presence {
            Presence::Gone { at, .. } => Some(at),
            Presence::Present => None,
        };
        let is_recent = |at: Millis| self.now.saturating_sub(at) < GONE_SHOWN_MS;
        let mut workers: Vec<_> = self.state.workers.iter().collect();
        workers.retain(|(_, worker)| gone_at(worker).is_none_or(is_recent));
        workers.sort_by_key(|(_, worker)| {
            let since = gone_at(worker).unwrap_or(worker.joined_at);
            (worker.is_gone(), Reverse(since))
        });
        let num_present = workers
            .iter()
            .filter(|(_, worker)| !worker.is_gone())
            .count();
        workers.truncate(num_present + GONE_SHOWN);
        let describe = |(id, _)| status::worker(self.state, self.config, id, self.now);
        workers.into_iter().filter_map(describe).collect()
    }

    /// Explains the state of a trial, named by its id or a unique prefix of it. `event` reads an
    /// event from the journal by its number.
    pub fn explain(
        &self,
        trial: &str,
        event: impl FnOnce(u64) -> Option<Recorded>,
    ) -> Result<v1::ExplainReply, NoAnswer> {
        let explanation = self.explanation(self.find_trial(None, trial)?, event);
        Ok(v1::ExplainReply {
            text: explanation.to_string(),
            json: serde_json::to_vec(&explanation).expect("an explanation is JSON"),
        })
    }

    fn explanation(
        &self,
        trial: TrialId,
        event: impl FnOnce(u64) -> Option<Recorded>,
    ) -> Explanation {
        let explanation = schedule::explain(self.state, self.config, trial, self.now);
        let mut explanation = explanation.expect("the trial was just found");
        if let Some(number) = explanation.last_failure()
            && let Some(recorded) = event(number)
        {
            explanation.read(number, &recorded);
        }
        if !self.coordinator_runs {
            explanation.at_rest(NO_COORDINATOR);
        }
        explanation
    }

    /// Returns the history and the learning curve of a trial, named by its id or a unique prefix of it.
    /// `event` reads an event from the journal by its number.
    pub fn trial_parts(
        &self,
        trial: &str,
        event: impl FnMut(u64) -> Option<Recorded>,
    ) -> Result<(Explanation, Vec<Point>), NoAnswer> {
        Ok(self.parts_of(self.find_trial(None, trial)?, event))
    }

    fn parts_of(
        &self,
        id: TrialId,
        mut event: impl FnMut(u64) -> Option<Recorded>,
    ) -> (Explanation, Vec<Point>) {
        let explanation = self.explanation(id, &mut event);
        let points = match &self.state.trials[&id].phase {
            Phase::Succeeded { result, .. } => event(result.event)
                .map(|recorded| curve::of_result(&recorded.event))
                .unwrap_or_default(),
            _ => {
                let live = self.state.live.progress.get(&id);
                live.map_or_else(Vec::new, |live| live.curve.points().to_vec())
            }
        };
        (explanation, points)
    }

    /// Describes a trial, named by its id or a unique prefix of it; `with_origins`: also where its
    /// settings come from. `event` reads an event from the journal by its number.
    pub fn trial(
        &self,
        trial: &str,
        with_origins: bool,
        event: impl FnMut(u64) -> Option<Recorded>,
    ) -> Result<v1::TrialReply, NoAnswer> {
        let id = self.find_trial(None, trial)?;
        let (explanation, points) = self.parts_of(id, event);
        let curve = points.into_iter().map(|point| v1::CurvePoint {
            epoch: point.epoch,
            train_loss: point.train_loss,
            accuracy: point.accuracy,
        });
        let settings = self.state.spec_of(id).map(|spec| spec.settings.fields());
        let last = explanation.attempts.last();
        let of_last = |part: fn(&Tried) -> &String| last.map(part).cloned().unwrap_or_default();
        let wanted = explanation.wanted_by.first();
        let origins = wanted
            .filter(|_| with_origins)
            .and_then(|wanted| {
                let sweep = &self.state.sweep(&wanted.sweep).ok()?.sweep;
                let cell = sweep.find_cell(&wanted.cell).ok()?;
                Some(sweep.origins(&sweep.cells[cell], wanted.candidate.is_some()))
            })
            .unwrap_or_default();
        Ok(v1::TrialReply {
            sweep: wanted.map_or_else(String::new, |wanted| wanted.sweep.clone()),
            cell: wanted.map_or_else(String::new, |wanted| wanted.cell.clone()),
            seed: wanted.map_or(0, |wanted| wanted.seed),
            origins_json: serde_json::to_vec(&origins).expect("origins are JSON"),
            trial: id.to_string(),
            settings_json: serde_json::to_vec(&settings.unwrap_or_default())
                .expect("settings are JSON"),
            curve: curve.collect(),
            worker: of_last(|tried| &tried.worker),
            host: of_last(|tried| &tried.host),
            log: of_last(|tried| &tried.log),
            explanation: explanation.to_string(),
        })
    }
}

/// Adapts the status of a sweep that no coordinator drives.
fn without_coordinator(mut sweep: v1::SweepStatus) -> v1::SweepStatus {
    let ended = sweep.complete || !sweep.cancelled_reason.is_empty();
    (sweep.waits, sweep.waits_because) = match ended {
        true => (v1::WaitReason::Unspecified.into(), String::new()),
        false => (
            v1::WaitReason::NoCoordinator.into(),
            NO_COORDINATOR.to_owned(),
        ),
    };
    sweep.remaining_ms = 0;
    for trial in &mut sweep.running_trials {
        trial.set_condition(v1::Condition::NoCoordinator);
    }
    sweep
}

/// Returns the status as `orchestrator status --output json` and `/status` print it. Fields
/// are added to the messages, never renamed; the schema rises when one is removed.
pub fn status_document(status: &v1::StatusReply) -> Value {
    let mut document = serde_json::to_value(status).expect("a status is JSON");
    document["schema"] = STATUS_SCHEMA.into();
    document["cluster"] = serde_json::from_slice(&status.cluster_json).unwrap_or_default();
    document
}

/// Returns where the number of a cell comes from.
pub fn why(state: &State, sweep: &str, cell: &str) -> Result<v1::WhyReply, NoAnswer> {
    state.sweep(sweep)?;
    let why = report::why(state, sweep, cell).map_err(NoAnswer::UnknownCell)?;
    Ok(v1::WhyReply {
        text: why.text,
        json: why.json.to_string().into_bytes(),
    })
}

/// Returns the first part of a report.
pub fn report_head(reporter: &Reporter<'_>) -> v1::ReportHead {
    v1::ReportHead {
        complete: reporter.complete(),
        failed_trials: reporter.failed_trials(),
    }
}

/// Writes the files of a report that were asked for.
pub fn write_report(
    reporter: &Reporter<'_>,
    files: v1::ReportFiles,
    stored: &mut dyn StoredResults,
    sink: &mut dyn FileSink,
) -> io::Result<()> {
    match files {
        v1::ReportFiles::None => Ok(()),
        v1::ReportFiles::Json => reporter.write_json(sink),
        v1::ReportFiles::All => reporter.write_files(stored, sink),
        v1::ReportFiles::Trials => reporter.write_trials(stored, sink),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_as_json_has_the_fields_that_scripts_read() {
        let status = v1::StatusReply {
            sweeps: vec![v1::SweepStatus {
                running_trials: vec![v1::RunningTrial::default()],
                ..v1::SweepStatus::default()
            }],
            workers: vec![v1::WorkerStatus::default()],
            cluster_json: b"{\"paused\": null}".to_vec(),
            ..v1::StatusReply::default()
        };
        let document = status_document(&status);
        let fields = |part: &Value| {
            let part = part.as_object().unwrap();
            part.keys().cloned().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(document["schema"], 1);
        assert_eq!(
            fields(&document),
            "build checkpoint_bytes cluster journal_bytes now_ms schema storage_fault sweeps workers"
        );
        assert!(document["cluster"].is_object());
        let sweep = &document["sweeps"][0];
        assert_eq!(
            fields(sweep),
            "cancelled cancelled_reason cells complete complete_cells description failed failures more_seeds name \
             remaining_at_least remaining_high_ms remaining_low_ms remaining_ms revision running running_trials submitted_at_ms \
             succeeded waiting waits waits_because"
        );
        let trial = &sweep["running_trials"][0];
        assert_eq!(
            fields(trial),
            "accuracy attempt cell condition epoch images_per_s num_epochs search seed slot \
             train_loss trial worker"
        );
        assert_eq!(trial["accuracy"], Value::Null);
        assert_eq!(
            fields(&document["workers"][0]),
            "allocation busy_slots host leaves_in_ms presence reason silent_ms slot_descriptions \
             slots work_dir_bytes worker"
        );
    }
}
