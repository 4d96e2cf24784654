//! The owner's side of questions: each is answered between two turns, from the state as it is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use protocol::v1;
use schedule::state::{State, WorkerId};
use tonic::Status;

use crate::answers::{Answers, NoAnswer};
use crate::owner::Owner;
use crate::requests::{Held, Question};

impl Owner {
    pub(crate) fn answer(&mut self, question: Question) {
        match question {
            Question::Status { sweep, reply } => {
                drop(reply.send(guarded(|| self.status(&sweep))));
            }
            Question::Tail { sweep, messages } => {
                self.update_tails(|tails, answers| tails.open(sweep, messages, &answers));
            }
            Question::Snapshot {
                sweep,
                known,
                reply,
            } => drop(reply.send(guarded(|| self.snapshot(&sweep, known)))),
            Question::Explain { trial, reply } => {
                drop(reply.send(guarded(|| self.explain(&trial))));
            }
            Question::Trial { trial, reply } => {
                drop(reply.send(guarded(|| self.trial(&trial))));
            }
            Question::Held { reply } => drop(reply.send(guarded(|| Ok(self.held())))),
        }
    }

    fn status(&self, sweep: &str) -> Result<v1::StatusReply, Status> {
        let answers = Answers::live(&self.state, &self.config, self.clock.now());
        let mut status = answers.status(sweep)?;
        for worker in &mut status.workers {
            let id = WorkerId(worker.worker.as_str().into());
            worker.work_dir_bytes = self.streams.work_dir_bytes(&id);
        }
        Ok(v1::StatusReply {
            journal_bytes: self.storage.bytes(),
            checkpoint_bytes: self.streams.checkpoint_bytes(),
            storage_fault: self.storage_fault().unwrap_or_default().to_owned(),
            now_ms: self.clock.now(),
            ..status
        })
    }

    fn held(&self) -> Held {
        let live = &self.state.live;
        let held = |worker: &WorkerId| {
            let entry = &self.state.workers[worker];
            entry.slots.iter().flatten().count()
        };
        let leaving = |worker: &&WorkerId| live.leaving.contains(*worker);
        Held {
            attempts: live.connected.keys().map(held).sum(),
            given_back: live.connected.keys().filter(leaving).map(held).sum(),
        }
    }

    fn snapshot(&self, sweep: &str, known: Option<u64>) -> Result<Option<Arc<State>>, Status> {
        // A report is a fold over the journal, and the state may be ahead of it.
        if let Some(reason) = self.storage_fault() {
            return Err(Status::unavailable(format!(
                "the journal cannot be written: {reason}"
            )));
        }
        let entry = self.state.sweep(sweep).map_err(NoAnswer::from)?;
        if known == Some(entry.changed) {
            return Ok(None);
        }
        Ok(self.state.snapshot(sweep).map(Arc::new))
    }

    fn explain(&mut self, trial: &str) -> Result<v1::ExplainReply, Status> {
        let answers = Answers::live(&self.state, &self.config, self.clock.now());
        let storage = &mut self.storage;
        Ok(answers.explain(trial, |number| storage.event(number))?)
    }

    fn trial(&mut self, trial: &str) -> Result<v1::TrialReply, Status> {
        let answers = Answers::live(&self.state, &self.config, self.clock.now());
        let storage = &mut self.storage;
        Ok(answers.trial(trial, |number| storage.event(number))?)
    }
}

/// Answers a question. A panic fails that question and nothing else, because the state is only
/// read.
fn guarded<T>(answer: impl FnOnce() -> Result<T, Status>) -> Result<T, Status> {
    let fault = |_| {
        Err(Status::internal(
            "the coordinator has a fault and cannot answer this: its log has the details",
        ))
    };
    catch_unwind(AssertUnwindSafe(answer)).unwrap_or_else(fault)
}
