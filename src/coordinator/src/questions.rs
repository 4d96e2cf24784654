//! The owner's side of questions: each is answered between two turns, from the state as it is.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use protocol::v1;
use schedule::state::{State, WorkerId};
use schedule::unused_kept;
use sweep::TrialId;
use tonic::Status;

use crate::answers::{Answers, NoAnswer};
use crate::kept_files::KeptFile;
use crate::owner::Owner;
use crate::requests::{Held, Question, TrialParts, Unused, Version};

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
            Question::Trial {
                trial,
                origins,
                reply,
            } => drop(reply.send(guarded(|| self.trial(&trial, origins)))),
            Question::Find { sweep, text, reply } => {
                drop(reply.send(guarded(|| self.find(&sweep, &text))));
            }
            Question::Unused {
                stored,
                sweep,
                reply,
            } => drop(reply.send(guarded(|| self.unused(stored, &sweep)))),
            Question::TrialParts { trial, reply } => {
                drop(reply.send(guarded(|| self.trial_parts(&trial))));
            }
            Question::Version { reply } => drop(reply.send(Ok(self.version()))),
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

    fn trial_parts(&mut self, trial: &str) -> Result<TrialParts, Status> {
        let answers = Answers::live(&self.state, &self.config, self.clock.now());
        let storage = &mut self.storage;
        let (explanation, curve) = answers.trial_parts(trial, |number| storage.event(number))?;
        Ok(TrialParts { explanation, curve })
    }

    fn version(&self) -> Version {
        let mut sweeps = self.state.sweeps.values();
        Version {
            event: self.state.applied,
            is_running: sweeps.any(|entry| entry.counts.running > 0),
        }
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

    fn find(&self, sweep: &str, text: &str) -> Result<v1::FindReply, Status> {
        let answers = Answers::live(&self.state, &self.config, self.clock.now());
        Ok(answers.find(sweep, text)?)
    }

    fn unused(&self, stored: Vec<KeptFile>, sweep: &str) -> Result<Unused, Status> {
        // Removal is final, and the state may be ahead of the journal.
        if let Some(reason) = self.storage_fault() {
            return Err(Status::unavailable(format!(
                "the journal cannot be written: {reason}"
            )));
        }
        let names = |file: &KeptFile| (file.attempt, file.kept);
        if sweep.is_empty() {
            let unused = unused_kept(&self.state, stored.iter().map(names), None);
            let unused: BTreeSet<_> = unused.into_iter().collect();
            let files = stored.into_iter();
            return Ok(Unused {
                files: files.filter(|file| unused.contains(&names(file))).collect(),
                trials: 0,
            });
        }
        let entry = self.state.sweep(sweep).map_err(NoAnswer::from)?;
        let of_sweep: BTreeSet<TrialId> = entry.trials.iter().map(|trial| trial.id).collect();
        let is_of_no_other = |id: &&TrialId| {
            let mut wanted_by = self.state.trials[*id].wanted_by.iter();
            wanted_by.all(|(name, _)| **name == *sweep)
        };
        let trials = of_sweep.iter().filter(is_of_no_other).count() as u64;
        let mut files = stored;
        files.retain(|file| of_sweep.contains(&file.attempt.trial));
        let unused = unused_kept(&self.state, files.iter().map(names), Some(sweep));
        let unused: BTreeSet<_> = unused.into_iter().collect();
        files.retain(|file| unused.contains(&names(file)));
        Ok(Unused { files, trials })
    }

    fn explain(&mut self, trial: &str) -> Result<v1::ExplainReply, Status> {
        let answers = Answers::live(&self.state, &self.config, self.clock.now());
        let storage = &mut self.storage;
        Ok(answers.explain(trial, |number| storage.event(number))?)
    }

    fn trial(&mut self, trial: &str, origins: bool) -> Result<v1::TrialReply, Status> {
        let answers = Answers::live(&self.state, &self.config, self.clock.now());
        let storage = &mut self.storage;
        Ok(answers.trial(trial, origins, |number| storage.event(number))?)
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
