//! The open `tail` calls: ends are sent at once, progress at most twice a second.

use std::collections::BTreeMap;

use protocol::v1;
use schedule::allocation::{AllocationEvent, LaunchEvent, PauseCause};
use schedule::event::{AfterFailure, Event, Recorded};
use schedule::state::{Millis, Phase, State, SweepState, SweepTrial};
use sweep::definition::Role;
use sweep::record::FailureClass;
use sweep::{TrialId, counted};
use tonic::Status;
use v1::tail_message::Message;

use crate::answers::{Answers, NoAnswer};
use crate::requests::ToTail;
use crate::status;

pub const STATUS_EVERY_MS: Millis = 500;
/// Maximum number of open calls: each may hold as many bytes as its outbox.
const MAX_OPEN: usize = 256;

#[derive(Default)]
pub struct Tails {
    open: Vec<Tail>,
    last_status: Millis,
    changed: bool,
}

struct Tail {
    sweep: String,
    messages: ToTail,
    /// The last status sent; an equal one is not sent again.
    last_sent: Option<v1::SweepStatus>,
}

impl Tails {
    pub fn open(&mut self, sweep: String, messages: ToTail, answers: &Answers<'_>) {
        self.open.retain(|tail| !tail.messages.is_closed());
        if self.open.len() >= MAX_OPEN {
            return messages.end(Status::resource_exhausted(format!(
                "{MAX_OPEN} commands follow sweeps already"
            )));
        }
        let status = match answers.sweep(&sweep) {
            Ok(status) => status,
            Err(unknown) => return messages.end(NoAnswer::from(unknown).into()),
        };
        let complete = status.complete;
        if !send(&messages, Message::Status(status.clone())) {
            return;
        }
        if complete {
            send(&messages, Message::Complete(status));
        } else {
            self.open.push(Tail {
                sweep,
                messages,
                last_sent: Some(status),
            });
        }
    }

    /// Notes that something may have changed; `flush` checks.
    pub fn touch(&mut self) {
        self.changed = true;
    }

    /// Returns the time at which `flush` is due, if it is.
    pub fn due(&self) -> Option<Millis> {
        (self.changed && !self.open.is_empty()).then_some(self.last_status + STATUS_EVERY_MS)
    }

    /// Sends the ends of trials, and other news for users.
    pub fn events(&mut self, recorded: &[Recorded], answers: &Answers<'_>) {
        self.changed |= !recorded.is_empty();
        if self.open.is_empty() {
            return;
        }
        for Recorded { event, .. } in recorded {
            self.event(event, answers.state);
        }
        if !recorded.is_empty() {
            self.complete(answers);
        }
    }

    pub fn flush(&mut self, answers: &Answers<'_>) {
        if self.due().is_none_or(|due| answers.now < due) {
            return;
        }
        self.changed = false;
        self.last_status = answers.now;
        let mut statuses: BTreeMap<String, Option<v1::SweepStatus>> = BTreeMap::new();
        self.open.retain_mut(|tail| {
            let status = statuses
                .entry(tail.sweep.clone())
                .or_insert_with(|| answers.sweep(&tail.sweep).ok())
                .clone();
            if !tail.messages.is_empty() {
                // It reads slowly: nothing is added to what it has not taken yet, and the status is
                // sent later.
                self.changed = true;
            } else if status != tail.last_sent
                && let Some(status) = status
            {
                tail.last_sent = Some(status.clone());
                return send(&tail.messages, Message::Status(status));
            }
            !tail.messages.is_closed()
        });
    }

    fn event(&mut self, event: &Event, state: &State) {
        match event {
            Event::AttemptSucceeded { attempt, .. } => self.ended(attempt.trial, state),
            Event::AttemptFailed {
                attempt,
                failure,
                then,
                ..
            } => {
                match then {
                    AfterFailure::GiveUp => self.ended(attempt.trial, state),
                    // The pause of its slot is the news.
                    AfterFailure::Retry { .. } if failure.class == FailureClass::Node => {}
                    AfterFailure::Retry { .. } => {
                        let first_line = failure.message.lines().next().unwrap_or_default();
                        let (number, class) = (attempt.number, failure.class);
                        self.note_trial(attempt.trial, state, |name| {
                        format!("{name}: attempt {number} ended ({class}): {first_line}; it is retried")
                    });
                    }
                    AfterFailure::Unwanted => {}
                }
            }
            Event::WorkerJoined { worker, info, .. } => {
                self.note(&format!(
                    "worker {worker} joined with {} slots",
                    info.slots.len()
                ));
            }
            Event::WorkerGone { worker, reason } => {
                self.note(&format!("worker {worker} is gone: {reason}"))
            }
            Event::WorkerDraining { worker, reason } => {
                self.note(&format!("worker {worker} takes no new work: {reason}"));
            }
            Event::WorkerUndrained { worker } => {
                self.note(&format!("worker {worker} gets work again"))
            }
            Event::HostDrained { host, reason } => {
                self.note(&format!("host {host} gets no more work: {reason}"))
            }
            Event::HostUndrained { host } => self.note(&format!("host {host} gets work again")),
            Event::TokenRevoked { .. } => {}
            Event::SlotBroken {
                worker,
                slot,
                reason,
                ..
            } => {
                self.note(&format!(
                    "slot {slot} of worker {worker} is not used again: {reason}"
                ));
            }
            Event::SlotPaused {
                worker,
                slot,
                reason,
                ..
            } => {
                self.note(&format!("slot {slot} of worker {worker} pauses, its node could not run a trial: {reason}"));
            }
            Event::SweepCancelled { sweep, reason } => {
                self.note_sweep(sweep, &format!("cancelled: {reason}"))
            }
            Event::SweepRemoved { sweep } => self.removed(sweep),
            Event::FailedTrialsRetried { sweep, only: None } => {
                self.note_sweep(sweep, "failed trials are retried")
            }
            Event::FailedTrialsRetried {
                sweep,
                only: Some(only),
            } => {
                let retried = counted(only.len() as u64, "failed trial");
                self.note_sweep(sweep, &format!("to be retried: {retried}"));
            }
            Event::TrialsRetried { sweep, trials } => {
                self.note_sweep(
                    sweep,
                    &format!(
                        "{} of its trials are trained again from the start",
                        trials.len()
                    ),
                );
            }
            Event::SweepSubmitted { sweep, .. } => self.note_sweep(&sweep.name, "submitted"),
            Event::CandidateChosen {
                sweep,
                cell,
                candidate,
                ..
            } => {
                let chosen = state.sweeps.get(sweep.as_str()).and_then(|entry| {
                    let search = entry.sweep.search.as_ref()?;
                    let name = entry
                        .sweep
                        .cell_name(entry.sweep.cells.get(*cell as usize)?);
                    let value = search.assignment(*candidate as usize)?;
                    let remark = schedule::choice_of(state, entry, *cell)
                        .and_then(|choice| choice.remark(search));
                    let remark = remark.map_or_else(String::new, |remark| format!(" ({remark})"));
                    Some(format!("{name}: the search chose {value}{remark}"))
                });
                if let Some(note) = chosen {
                    self.note_sweep(sweep, &note);
                }
            }
            Event::RankingLookedAt {
                sweep,
                cells,
                seeds,
                undecided,
                trials,
            } => {
                let text = schedule::ranking::describe(
                    *seeds,
                    (undecided.len(), cells.len()),
                    trials.len(),
                );
                self.note_sweep(sweep, &text);
            }
            Event::Launch(event) => self.launched(event, state),
            Event::TrialDispatched { .. }
            | Event::AttemptStopped { .. }
            | Event::SlotFreed { .. } => {}
        }
    }

    fn launched(&mut self, event: &LaunchEvent, state: &State) {
        match event {
            LaunchEvent::QueuePaused { reason, cause, .. } if *cause != PauseCause::Stopped => {
                self.note(&format!(
                    "no more workers are launched: {reason}; `orchestrator cluster resume` tries again"
                ));
            }
            LaunchEvent::QueueDelayed { reason, .. } => {
                self.note(&format!(
                    "a worker could not be launched, the next try follows: {reason}"
                ));
            }
            LaunchEvent::Changed { allocation, change } => {
                let job = state
                    .allocations
                    .get(allocation)
                    .and_then(|entry| entry.job.as_ref());
                let job = job.map_or_else(String::new, |job| format!(" (job {job})"));
                match change {
                    AllocationEvent::Queued { reason } => self.note(&format!(
                        "allocation {allocation}{job} waits: {} ({})",
                        reason.sentence, reason.word
                    )),
                    AllocationEvent::Ended { cause } => {
                        self.note(&format!(
                            "allocation {allocation}{job} ended: {}",
                            cause.sentence()
                        ));
                    }
                    AllocationEvent::Submitted { .. }
                    | AllocationEvent::Started
                    | AllocationEvent::Joined
                    | AllocationEvent::Drained { .. }
                    | AllocationEvent::Undrained => {}
                }
            }
            LaunchEvent::QueueOpened { .. }
            | LaunchEvent::QueuePaused { .. }
            | LaunchEvent::QueueResumed { .. }
            | LaunchEvent::Intended { .. } => {}
        }
    }

    fn ended(&mut self, id: TrialId, state: &State) {
        for (sweep, wanted) in wanting(state, id) {
            let Some(message) = ended(state, sweep, wanted) else {
                continue;
            };
            let name = &sweep.sweep.name;
            self.open.retain(|tail| {
                tail.sweep != *name || send(&tail.messages, Message::Ended(message.clone()))
            });
        }
    }

    /// Ends the calls that follow a sweep which is no longer there.
    fn removed(&mut self, sweep: &str) {
        self.open.retain(|tail| {
            let is_other = tail.sweep != sweep;
            if !is_other {
                let reason = format!("sweep `{sweep}` was removed");
                tail.messages.end(Status::not_found(reason));
            }
            is_other
        });
    }

    fn complete(&mut self, answers: &Answers<'_>) {
        self.open.retain(|tail| {
            if !answers.state.is_complete(&tail.sweep) {
                return true;
            }
            if let Ok(status) = answers.sweep(&tail.sweep) {
                send(&tail.messages, Message::Complete(status));
            }
            false
        });
    }

    fn note_trial(&mut self, id: TrialId, state: &State, text: impl Fn(&str) -> String) {
        for (sweep, wanted) in wanting(state, id) {
            let name = format!(
                "{} seed {}",
                status::cell_name(sweep, wanted),
                sweep::seed::name(wanted.seed)
            );
            self.note_sweep(&sweep.sweep.name, &text(&name));
        }
    }

    fn note_sweep(&mut self, sweep: &str, text: &str) {
        self.open.retain(|tail| {
            tail.sweep != sweep || send(&tail.messages, Message::Note(text.to_owned()))
        });
    }

    /// Sends a note to all calls.
    fn note(&mut self, text: &str) {
        self.open
            .retain(|tail| send(&tail.messages, Message::Note(text.to_owned())));
    }
}

/// Returns false if the peer does not read, or not fast enough; the call is then over.
fn send(messages: &ToTail, message: Message) -> bool {
    messages.send(v1::TailMessage {
        message: Some(message),
    })
}

/// Returns the places where sweeps want this trial; a sweep may do so in several cells.
fn wanting(state: &State, id: TrialId) -> impl Iterator<Item = (&SweepState, &SweepTrial)> {
    let wanted_by = state
        .trials
        .get(&id)
        .map(|trial| trial.wanted_by.as_slice())
        .unwrap_or_default();
    wanted_by.iter().filter_map(|(name, index)| {
        let sweep = state.sweeps.get(name)?;
        Some((sweep, sweep.trials.get(*index as usize)?))
    })
}

fn ended(state: &State, sweep: &SweepState, wanted: &SweepTrial) -> Option<v1::TrialEnded> {
    use v1::trial_ended::Outcome;
    let trial = state.trials.get(&wanted.id)?;
    let (outcome, best_accuracy, seconds) = match &trial.phase {
        Phase::Succeeded { result, .. } => {
            let seconds = result.timing.train_s + result.timing.evaluate_s;
            (
                Outcome::Accuracy(result.last_accuracy),
                result.best_accuracy,
                seconds,
            )
        }
        Phase::Failed { .. } => (
            Outcome::Failure(
                trial
                    .failure()
                    .map(|failure| failure.message.clone())
                    .unwrap_or_default(),
            ),
            0.0,
            0.0,
        ),
        Phase::Waiting { .. } | Phase::Running { .. } | Phase::Cancelled => return None,
    };
    Some(v1::TrialEnded {
        trial: wanted.id.to_string(),
        cell: status::cell_name(sweep, wanted),
        seed: wanted.seed,
        attempts: trial.attempts.len() as u32,
        outcome: Some(outcome),
        best_accuracy,
        seconds,
        search: wanted.role == Role::Search,
    })
}
