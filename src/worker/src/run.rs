//! The worker's loop: receives messages from the coordinator, the slots and the user, and keeps
//! `Attempts` up to date. It starts the attempts that it is sent, reports outcomes until they are
//! acknowledged, and decides nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::{DiskUse, FromCoordinator, FromWorker, Hello, WorkerSecret};
use schedule::Removable;
use schedule::event::Outcome;
use schedule::state::{SlotIndex, WorkerId, WorkerInfo};
use sweep::record::{Failure, FailureClass};
use sweep::trial::TRAINING_VERSION;
use sweep::{AttemptId, AttemptNo, TrialSpec};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::attempts::{Attempts, Start};
use crate::link::{LinkEvent, Outgoing};
use crate::options::{Ended, Error};
use crate::slot::{Command, Said, Surroundings, Why};

/// Interval, in heartbeats, at which outcomes without an acknowledgement are sent again.
const SAY_AGAIN: u64 = 5;
/// Interval, in heartbeats, at which the work directory is measured and the coordinator is asked
/// about other trials in it.
const MEASURE: u64 = 15;

/// A request of the user, made through the handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    Work,
    Leave(String),
    StopNow,
}

pub struct Loop {
    pub worker: WorkerId,
    pub secret: WorkerSecret,
    pub info: WorkerInfo,
    pub around: Arc<Surroundings>,
    /// The command channels, one for each slot.
    pub slots: Vec<mpsc::Sender<Command>>,
    pub said: mpsc::Receiver<Said>,
    pub link: mpsc::Receiver<LinkEvent>,
    pub intent: watch::Receiver<Intent>,
    pub state: Session,
}

/// The state that changes while the worker runs.
#[derive(Default)]
pub struct Session {
    attempts: Attempts,
    outgoing: Option<Outgoing>,
    /// Welcome was received on this stream.
    welcome: bool,
    /// The number of streams opened.
    connections: u64,
    heartbeats: u64,
    disk: Arc<Mutex<DiskUse>>,
    /// Tasks that remove files that are not needed any more.
    removals: JoinSet<()>,
    leaving: Option<String>,
    draining: Option<String>,
    /// The coordinator refuses this worker: it leaves, and no acknowledgement will come.
    refused: Option<Error>,
    /// The deadline of a leaving worker for acknowledgements.
    goodbye: Option<Instant>,
}

impl Loop {
    /// Runs until the user or the coordinator ends it. The slots still hold their trainers
    /// afterwards.
    pub async fn run(mut self) -> Result<Ended, Error> {
        let ended = self.serve().await;
        // files that are not removed now stay for ever; a file system that hangs must not delay the
        // end
        let removed = async { while self.state.removals.join_next().await.is_some() {} };
        let _ = timeout(Duration::from_secs(10), removed).await;
        ended
    }

    async fn serve(&mut self) -> Result<Ended, Error> {
        let mut beat = interval(Duration::from_secs(1));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let goodbye = self.state.goodbye;
            tokio::select! {
                event = self.link.recv(), if self.state.refused.is_none() => match event {
                    Some(LinkEvent::Message(FromCoordinator::Welcome { heartbeat_ms, lease_ms })) => {
                        tracing::info!(worker = %self.worker, heartbeat_ms, lease_ms, "connected");
                        beat = interval(Duration::from_millis(heartbeat_ms));
                        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
                        self.welcomed();
                    }
                    Some(LinkEvent::Message(message)) => self.hear(message),
                    Some(LinkEvent::Up(outgoing)) => self.greet(outgoing),
                    Some(LinkEvent::Down) => self.state.forget_stream(),
                    Some(LinkEvent::Final(error)) => {
                        self.leave(error.to_string());
                        self.state.refused = Some(error);
                    }
                    None => return Ok(Ended::Stopped),
                },
                said = self.said.recv() => match said {
                    Some(said) => self.note(said),
                    None => return Ok(Ended::Stopped),
                },
                _ = beat.tick() => self.heartbeat(),
                changed = self.intent.changed() => {
                    let intent = if changed.is_ok() { self.intent.borrow().clone() } else { Intent::StopNow };
                    match intent {
                        Intent::Work => {}
                        Intent::Leave(reason) => self.leave(reason),
                        Intent::StopNow => return Ok(Ended::Stopped),
                    }
                }
                () = sleep_until(goodbye.unwrap_or_else(Instant::now)), if goodbye.is_some() => {
                    tracing::warn!("leaving although the coordinator has not acknowledged everything");
                    return Ok(Ended::Left);
                }
            }
            if let Some(ended) = self.finished() {
                return ended;
            }
        }
    }

    fn finished(&mut self) -> Option<Result<Ended, Error>> {
        let session = &mut self.state;
        if session.refused.is_some() {
            return if session.attempts.none_runs() {
                session.refused.take().map(Err)
            } else {
                None
            };
        }
        if session.leaving.is_some() && session.attempts.none_runs() && session.goodbye.is_none() {
            session.goodbye = Some(Instant::now() + self.around.timing.goodbye);
        }
        if !session.attempts.is_empty() {
            return None;
        }
        match (&session.leaving, &session.draining) {
            // `Drain` answers `Leaving`: before it arrives the coordinator may not have received
            // `Leaving`
            (Some(_), None) if session.outgoing.is_some() => None,
            (Some(_), _) => Some(Ok(Ended::Left)),
            (None, Some(reason)) => Some(Ok(Ended::Drained {
                reason: reason.clone(),
            })),
            (None, None) => None,
        }
    }

    /// Sends everything that this worker knows. It is the first message on a new stream.
    fn greet(&mut self, outgoing: Outgoing) {
        let session = &mut self.state;
        session.connections += 1;
        session.welcome = false;
        session.outgoing = Some(outgoing);
        let (running, ended) = session.attempts.whole();
        let hello = Hello {
            worker: self.worker.clone(),
            connection: session.connections,
            secret: self.secret.clone(),
            info: self.info.clone(),
            running,
            ended,
        };
        session.say(FromWorker::Hello(hello));
    }

    fn welcomed(&mut self) {
        self.state.welcome = true;
        if let Some(reason) = self.state.leaving.clone() {
            self.state.say(FromWorker::Leaving {
                reason: reason.into(),
            });
        }
        self.state.say_outcomes();
    }

    fn hear(&mut self, message: FromCoordinator) {
        match message {
            FromCoordinator::Start {
                attempt,
                slot,
                since,
                spec,
            } => self.start(attempt, slot, since, spec),
            FromCoordinator::Stop { attempt, reason } => {
                tracing::info!(%attempt, reason, "told to stop");
                self.stop(attempt, Why::Unwanted);
            }
            FromCoordinator::Acknowledged { attempt } => self.acknowledged(attempt),
            FromCoordinator::Drain { reason } => {
                tracing::info!(reason, "told to take no new work and to end");
                self.state.draining.get_or_insert(reason);
            }
            FromCoordinator::Remove(removable) => self.remove(removable),
            // handled by the caller and by the link
            FromCoordinator::Welcome { .. } | FromCoordinator::Refused { .. } => {}
        }
    }

    fn start(
        &mut self,
        attempt: AttemptId,
        slot: SlotIndex,
        since: AttemptNo,
        spec: Box<TrialSpec>,
    ) {
        match self.state.attempts.start(attempt, slot) {
            Start::Runs => return,
            Start::HasEnded => return self.state.say_outcome(attempt),
            Start::New => {}
        }
        let refusal = match (&self.state.leaving, self.slots.get(slot as usize)) {
            _ if spec.trainer != self.info.trainer => {
                let message = format!(
                    "this worker has {}, the trial asks for {}",
                    self.info.trainer, spec.trainer
                );
                Failure::new(FailureClass::BadInput, message)
            }
            _ if spec.id() != attempt.trial => {
                Failure::new(FailureClass::BadInput, other_training(&spec))
            }
            (Some(reason), _) => Failure::new(
                FailureClass::Preempted,
                format!("the worker leaves: {reason}"),
            ),
            (None, None) => {
                let message = format!("this worker has {} slots, no slot {slot}", self.slots.len());
                Failure::new(FailureClass::Crashed, message)
            }
            (None, Some(commands)) => {
                tracing::info!(%attempt, slot, "starting");
                // never waits: a slot that is ending a stubborn trainer must not delay heartbeats
                if commands
                    .try_send(Command::Run {
                        attempt,
                        since,
                        spec,
                    })
                    .is_ok()
                {
                    return;
                }
                Failure::new(
                    FailureClass::Crashed,
                    format!("slot {slot} takes no more commands"),
                )
            }
        };
        self.note(Said::Ended {
            attempt,
            outcome: Outcome::Failed(refusal),
        });
    }

    /// Stops the attempt. Does nothing if it does not run here: its outcome was sent, or no one
    /// waits for it.
    fn stop(&mut self, attempt: AttemptId, why: Why) {
        let slot = self.state.attempts.slot_of(attempt);
        if let Some(commands) = slot.and_then(|slot| self.slots.get(slot as usize)) {
            if commands.try_send(Command::Stop { attempt, why }).is_err() {
                tracing::warn!(%attempt, slot, "the slot takes no more commands");
            }
        } else {
            self.state.say_outcome(attempt);
        }
    }

    fn acknowledged(&mut self, attempt: AttemptId) {
        if let Some(Outcome::Finished(_)) = self.state.attempts.acknowledge(attempt) {
            self.remove(Removable {
                checkpoints: vec![attempt],
                ..Removable::default()
            });
        }
    }

    fn remove(&mut self, removable: Removable) {
        let work_dir = self.around.work_dir.clone();
        while self.state.removals.try_join_next().is_some() {}
        self.state.removals.spawn_blocking(move || {
            work_dir.remove_abandoned(&removable.unknown, removable.now);
            let checkpoints = removable.checkpoints.into_iter();
            let checkpoints = checkpoints.map(|attempt| (attempt, work_dir.remove_checkpoints(attempt)));
            let logs = removable.logs.into_iter();
            let logs = logs.map(|attempt| (attempt, work_dir.remove_logs(attempt)));
            for (attempt, removed) in checkpoints.chain(logs) {
                if let Err(error) = removed {
                    tracing::warn!(%attempt, %error, "cannot remove files that are not needed any more");
                }
            }
        });
    }

    fn note(&mut self, said: Said) {
        match said {
            Said::Progress { attempt, progress } => self.state.attempts.progress(attempt, progress),
            Said::Ended { attempt, outcome } => {
                match &outcome {
                    Outcome::Finished(_) => {
                        tracing::info!(%attempt, "finished")
                    }
                    Outcome::Failed(failure) if failure.class == FailureClass::Preempted => {
                        tracing::info!(%attempt, "checkpointed");
                    }
                    Outcome::Failed(failure) => {
                        // its own log target: `orchestrator run` reports failures itself. `explain`
                        // shows the whole message
                        let reason = failure.message.lines().next().unwrap_or_default();
                        tracing::warn!(target: "attempt", %attempt, class = %failure.class, "failed: {reason}");
                    }
                    Outcome::Stopped => tracing::info!(%attempt, "stopped"),
                }
                self.state.attempts.end(attempt, outcome);
                self.state.say_outcome(attempt);
            }
        }
    }

    fn heartbeat(&mut self) {
        let session = &mut self.state;
        session.heartbeats += 1;
        if session.heartbeats % MEASURE == 1 {
            let held = session.attempts.trials();
            let (work_dir, disk) = (self.around.work_dir.clone(), session.disk.clone());
            let round = session.heartbeats / MEASURE;
            tokio::task::spawn_blocking(move || {
                let found = work_dir.survey(&held, round);
                *disk.lock().unwrap_or_else(PoisonError::into_inner) = found;
            });
        }
        if !session.welcome {
            return;
        }
        let disk = {
            let mut found = session.disk.lock().unwrap_or_else(PoisonError::into_inner);
            // sent once per survey
            DiskUse {
                seen: std::mem::take(&mut found.seen),
                ..*found
            }
        };
        session.say(FromWorker::Heartbeat {
            running: session.attempts.running(),
            disk,
        });
        if session.heartbeats.is_multiple_of(SAY_AGAIN) {
            session.say_outcomes();
        }
    }

    fn leave(&mut self, reason: String) {
        if self.state.leaving.is_some() {
            return;
        }
        tracing::info!(reason, "leaving: attempts checkpoint and stop");
        self.state.leaving = Some(reason.clone());
        self.state.say(FromWorker::Leaving {
            reason: reason.as_str().into(),
        });
        for attempt in self.state.attempts.running_ids() {
            self.stop(attempt, Why::Preempted(reason.clone()));
        }
    }
}

/// Explains why a trial of another training version is refused: trained under its old id, results
/// of two versions would share a cell unnoticed.
fn other_training(spec: &TrialSpec) -> String {
    let id = spec.id();
    format!(
        "an older version, which trains differently, submitted this trial: with version {TRAINING_VERSION} of training \
         its settings are trial {id}; submit the sweep's file again (`orchestrator run FILE`)"
    )
}

impl Session {
    fn forget_stream(&mut self) {
        self.outgoing = None;
        self.welcome = false;
    }

    /// Sends a message. One that does not fit is not lost: everything is sent again, or is part of
    /// the next Hello.
    fn say(&self, message: FromWorker) {
        if let Some(outgoing) = &self.outgoing
            && outgoing.try_send(message.into()).is_err()
        {
            tracing::debug!("the stream to the coordinator is full or closed");
        }
    }

    fn say_outcome(&self, attempt: AttemptId) {
        if let Some(ended) = self.attempts.outcome(attempt) {
            self.say(FromWorker::Ended(ended));
        }
    }

    fn say_outcomes(&self) {
        for ended in self.attempts.ended() {
            self.say(FromWorker::Ended(ended));
        }
    }
}
