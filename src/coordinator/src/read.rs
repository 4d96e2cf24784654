//! Questions that change nothing, answered between two turns.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use protocol::v1;
use schedule::state::{Presence, State, WorkerState};
use sweep::{NotATrial, TrialId, TrialPrefix};
use tonic::Status;

use crate::message::Read;
use crate::owner::Owner;
use crate::status;

/// Maximum number of gone workers in `status`, which shows those of the last day. They stay in the
/// state for ever.
const GONE_SHOWN: usize = 20;
const GONE_SHOWN_MS: u64 = 24 * 3600 * 1000;
/// Maximum number of sweeps in the error for an unknown one.
const MAX_NAMED: usize = 12;

impl Owner {
    pub(crate) fn read(&mut self, read: Read) {
        match read {
            Read::Status { sweep, reply } => drop(reply.send(guarded(|| self.status(&sweep)))),
            Read::Tail { sweep, messages } => {
                self.tell_tails(|tails, owner| {
                    tails.open(sweep, messages, owner.state, owner.config, owner.now)
                });
            }
            Read::Snapshot {
                sweep,
                known,
                reply,
            } => drop(reply.send(guarded(|| self.snapshot(&sweep, known)))),
            Read::Explain { trial, reply } => drop(reply.send(guarded(|| self.explain(&trial)))),
        }
    }

    fn snapshot(&self, sweep: &str, known: Option<u64>) -> Result<Option<Arc<State>>, Status> {
        self.journalled()?;
        let entry = self
            .state
            .sweeps
            .get(sweep)
            .ok_or_else(|| self.unknown_sweep(sweep))?;
        if known == Some(entry.changed) {
            return Ok(None);
        }
        Ok(self.state.snapshot(sweep).map(Arc::new))
    }

    /// Refuses a report while the state is ahead of the journal, because a report is a fold over
    /// the journal.
    fn journalled(&self) -> Result<(), Status> {
        match &self.fault {
            Some(fault) => Err(Status::unavailable(format!(
                "the journal cannot be written: {}",
                fault.cause.reason
            ))),
            None => Ok(()),
        }
    }

    fn status(&self, sweep: &str) -> Result<v1::StatusReply, Status> {
        let now = self.clock.now();
        if !sweep.is_empty() && !self.state.sweeps.contains_key(sweep) {
            return Err(self.unknown_sweep(sweep));
        }
        let wanted = self
            .state
            .sweeps
            .keys()
            .filter(|name| sweep.is_empty() || &***name == sweep);
        let sweeps = wanted
            .filter_map(|name| status::sweep(&self.state, &self.config, name, now))
            .collect();
        let mut workers: Vec<_> = self.state.workers.iter().collect();
        let is_gone = |(_, worker): &(_, &WorkerState)| worker.is_gone();
        let gone_at = |worker: &WorkerState| match worker.presence {
            Presence::Gone { at, .. } => Some(at),
            Presence::Present => None,
        };
        workers.retain(|(_, worker)| {
            gone_at(worker).is_none_or(|at| now.saturating_sub(at) < GONE_SHOWN_MS)
        });
        workers.sort_by_key(|(_, worker)| {
            (
                worker.is_gone(),
                std::cmp::Reverse(gone_at(worker).unwrap_or(worker.joined_at)),
            )
        });
        let num_present = workers.iter().filter(|worker| !is_gone(worker)).count();
        workers.truncate(num_present + GONE_SHOWN);
        let describe = |(id, _): (_, _)| {
            let worker = status::worker(&self.state, &self.config, id, now)?;
            Some(v1::WorkerStatus {
                work_dir_bytes: self.streams.work_dir_bytes(id),
                ..worker
            })
        };
        Ok(v1::StatusReply {
            sweeps,
            workers: workers.into_iter().filter_map(describe).collect(),
            journal_bytes: self.storage.bytes(),
            checkpoint_bytes: self.streams.checkpoint_bytes(),
            build: self.config.build.clone(),
            storage_fault: self
                .fault
                .as_ref()
                .map(|fault| fault.cause.reason.clone())
                .unwrap_or_default(),
        })
    }

    fn explain(&mut self, text: &str) -> Result<v1::ExplainReply, Status> {
        let trial = self.find_trial(text)?;
        let explanation = schedule::explain(&self.state, &self.config, trial, self.clock.now());
        let mut explanation =
            explanation.ok_or_else(|| Status::internal("a trial that was found is not there"))?;
        if let Some(number) = explanation.last_failure()
            && let Some(recorded) = self.storage.event(number)
        {
            explanation.read(number, &recorded);
        }
        let json = serde_json::to_vec(&explanation)
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(v1::ExplainReply {
            text: explanation.to_string(),
            json,
        })
    }

    /// Finds a trial by its id, or a unique prefix of one.
    fn find_trial(&self, text: &str) -> Result<TrialId, Status> {
        let status = |bad: NotATrial| match bad {
            NotATrial::Unknown(_) => Status::not_found(bad.to_string()),
            NotATrial::Malformed(_) | NotATrial::Ambiguous { .. } => {
                Status::invalid_argument(bad.to_string())
            }
        };
        let prefix: TrialPrefix = text.parse().map_err(status)?;
        // The order of ids is that of their digits.
        let from = self.state.trials.ids_from(prefix.lowest());
        prefix
            .find(from.take_while(|id| prefix.begins(*id)))
            .map_err(status)
    }

    fn unknown_sweep(&self, name: &str) -> Status {
        let known: Vec<&str> = self
            .state
            .sweeps
            .keys()
            .map(|name| &**name)
            .take(MAX_NAMED)
            .collect();
        let more = self.state.sweeps.len().saturating_sub(MAX_NAMED);
        let known = match (known.is_empty(), more) {
            (true, _) => "none".to_owned(),
            (false, 0) => known.join(", "),
            (false, more) => format!("{} and {more} more", known.join(", ")),
        };
        Status::not_found(format!("no sweep is named `{name}`; known: {known}"))
    }
}

/// Answers a question. A panic fails that question and nothing else, because the state is only
/// read.
pub(crate) fn guarded<T>(answer: impl FnOnce() -> Result<T, Status>) -> Result<T, Status> {
    let fault = |_| {
        Err(Status::internal(
            "the coordinator has a fault and cannot answer this: its log says more",
        ))
    };
    catch_unwind(AssertUnwindSafe(answer)).unwrap_or_else(fault)
}
