//! The worker's loop: receives messages from the coordinator, the slots and the user, and keeps
//! `Attempts` up to date. It starts the attempts that it is sent, reports outcomes until they are
//! acknowledged, and decides nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::{DiskUse, FromCoordinator, FromWorker, Hello, WorkerSecret};
use schedule::Removable;
use schedule::event::Outcome;
use schedule::state::{Millis, SlotIndex, WorkerId, WorkerInfo};
use sweep::keep::Keep;
use sweep::record::{Failure, FailureClass};
use sweep::trial::TRAINING_VERSION;
use sweep::{AttemptId, AttemptNo, TrialSpec};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::attempts::{Admission, Attempts};
use crate::connection::{ConnectionEvent, Outgoing};
use crate::error::Error;
use crate::slot::{Command, Run, SlotContext, SlotEvent, StopReason};
use crate::start::Ended;

/// Interval, in heartbeats, at which outcomes without an acknowledgement are sent again.
const RESEND_EVERY: u64 = 5;
/// Interval, in heartbeats, at which the work directory is measured and the coordinator is asked
/// about other trials in it.
const SURVEY_EVERY: u64 = 15;
/// Interval at which an idle worker asks to leave.
const LEAVE_REQUEST_EVERY: Duration = Duration::from_secs(1);
/// Time that a leaving worker gives a coordinator whose port is closed: one that restarts is back by
/// then.
const RESTART_TIME: Duration = Duration::from_secs(2);

/// A request of the user, made through the handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    Work,
    Leave(String),
    StopNow,
}

pub struct WorkerLoop {
    pub worker: WorkerId,
    pub secret: WorkerSecret,
    pub info: WorkerInfo,
    pub context: Arc<SlotContext>,
    /// The command channels, one for each slot.
    pub slots: Vec<mpsc::Sender<Command>>,
    pub slot_events: mpsc::Receiver<SlotEvent>,
    pub connection: mpsc::Receiver<ConnectionEvent>,
    pub intent: watch::Receiver<Intent>,
    /// The end of the Slurm job that the worker runs in.
    pub job_end: watch::Receiver<Option<Millis>>,
    /// The coordinator's address, or the file that holds it, for messages.
    pub coordinator: String,
    /// See `Options::idle_timeout`.
    pub idle_timeout: Option<Duration>,
    pub session: Session,
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
    /// The time since which a leaving worker only waits for acknowledgements.
    goodbye_since: Option<Instant>,
    /// The time since which the coordinator's port has been closed.
    port_closed_since: Option<Instant>,
    /// The time since which no coordinator has welcomed this worker, from its start.
    unwelcome_since: Option<Instant>,
    /// The time since which no attempt runs.
    idle_since: Option<Instant>,
    /// The last time that the worker asked to leave because it is idle.
    asked_to_leave: Option<Instant>,
    /// Attempts ended here without having finished, because the worker leaves.
    gave_back: bool,
}

impl WorkerLoop {
    /// Runs until the user or the coordinator ends it. The slots still hold their trainers
    /// afterwards.
    pub async fn run(mut self) -> Result<Ended, Error> {
        let ended = self.serve().await;
        // files that are not removed now stay for ever; a file system that hangs must not delay the
        // end
        let removed = async { while self.session.removals.join_next().await.is_some() {} };
        let _ = timeout(Duration::from_secs(10), removed).await;
        ended
    }

    async fn serve(&mut self) -> Result<Ended, Error> {
        let mut beat = interval(Duration::from_secs(1));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.session.unwelcome_since = Some(Instant::now());
        loop {
            let idle = self.idle_deadline();
            let goodbye = self.session.goodbye(self.context.timing.goodbye);
            tokio::select! {
                event = self.connection.recv(), if self.session.refused.is_none() => match event {
                    Some(ConnectionEvent::Message(FromCoordinator::Welcome { heartbeat_ms, lease_ms })) => {
                        tracing::info!(worker = %self.worker, heartbeat_ms, lease_ms, "connected");
                        beat = interval(Duration::from_millis(heartbeat_ms));
                        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
                        self.welcomed();
                    }
                    Some(ConnectionEvent::Message(message)) => self.receive(message),
                    Some(ConnectionEvent::Opened(outgoing)) => self.send_hello(outgoing),
                    Some(ConnectionEvent::Lost { port_closed }) => {
                        self.session.forget_stream();
                        if port_closed {
                            self.session.port_closed_since.get_or_insert_with(Instant::now);
                        }
                    }
                    Some(ConnectionEvent::Refused(error)) => {
                        self.leave(error.to_string());
                        self.session.refused = Some(error);
                    }
                    None => return Ok(Ended::Stopped),
                },
                event = self.slot_events.recv() => match event {
                    Some(event) => self.slot_event(event),
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
                Ok(()) = self.job_end.changed() => self.report_job_end(),
                () = sleep_until(idle.unwrap_or_else(Instant::now)), if idle.is_some() => {
                    self.ask_to_leave()?;
                }
                () = sleep_until(goodbye.unwrap_or_else(Instant::now)), if goodbye.is_some() => {
                    tracing::warn!("leaving although the coordinator has not acknowledged everything");
                    return Ok(Ended::Left { outstanding: true });
                }
            }
            if let Some(ended) = self.finished() {
                return ended;
            }
        }
    }

    /// Returns the time at which the worker has been idle for too long, or asks to leave again.
    fn idle_deadline(&mut self) -> Option<Instant> {
        let session = &mut self.session;
        if session.attempts.is_idle() {
            session.idle_since.get_or_insert_with(Instant::now);
        } else {
            session.idle_since = None;
        }
        let ends = session.leaving.is_some() || session.draining.is_some();
        let idle = session.idle_since.filter(|_| !ends)?;
        // a coordinator that comes back has the whole time for its trials
        let since = session
            .unwelcome_since
            .map_or(idle, |since| since.max(idle));
        let due = since + self.idle_timeout?;
        let again = session
            .asked_to_leave
            .map(|asked| asked + LEAVE_REQUEST_EVERY);
        Some(again.map_or(due, |again| again.max(due)))
    }

    /// Asks to leave. The coordinator alone knows whether a trial waits for this worker, and answers
    /// `Drain` if none does. An error: there has been no coordinator for the whole time.
    fn ask_to_leave(&mut self) -> Result<(), Error> {
        let session = &mut self.session;
        let timeout = self.idle_timeout.unwrap_or_default();
        if session.unwelcome_since.is_some() {
            return Err(Error::NoCoordinator {
                address: self.coordinator.clone(),
                timeout,
            });
        }
        session.asked_to_leave = Some(Instant::now());
        session.send(FromWorker::Idle {
            reason: format!("idle for {timeout:?}").into(),
        });
        Ok(())
    }

    /// Reports another end of the job, in the Hello of a new stream.
    fn report_job_end(&mut self) {
        self.info.leaves_at_ms = *self.job_end.borrow();
        tracing::info!("the time limit of the job has changed: connecting again to report it");
        self.session.forget_stream();
    }

    fn finished(&mut self) -> Option<Result<Ended, Error>> {
        let session = &mut self.session;
        if session.refused.is_some() {
            return if session.attempts.is_idle() {
                session.refused.take().map(Err)
            } else {
                None
            };
        }
        if session.leaving.is_some() && session.attempts.is_idle() {
            session.goodbye_since.get_or_insert_with(Instant::now);
        }
        if !session.attempts.is_empty() {
            return None;
        }
        match (&session.leaving, &session.draining) {
            // `Drain` answers `Leaving`: before it arrives the coordinator may not have received
            // `Leaving`
            (Some(_), None) if session.outgoing.is_some() => None,
            (Some(_), _) => Some(Ok(Ended::Left {
                outstanding: session.gave_back,
            })),
            (None, Some(reason)) => Some(Ok(Ended::Drained {
                reason: reason.clone(),
            })),
            (None, None) => None,
        }
    }

    /// Sends everything that this worker knows. It is the first message on a new stream.
    fn send_hello(&mut self, outgoing: Outgoing) {
        let session = &mut self.session;
        session.connections += 1;
        session.welcome = false;
        session.port_closed_since = None;
        session.outgoing = Some(outgoing);
        let (running, ended) = session.attempts.hello_lists();
        let hello = Hello {
            worker: self.worker.clone(),
            connection: session.connections,
            secret: self.secret.clone(),
            info: self.info.clone(),
            running,
            ended,
        };
        session.send(FromWorker::Hello(hello));
    }

    fn welcomed(&mut self) {
        self.session.welcome = true;
        self.session.unwelcome_since = None;
        if let Some(reason) = self.session.leaving.clone() {
            self.session.send(FromWorker::Leaving {
                reason: reason.into(),
            });
        }
        self.session.send_outcomes();
    }

    fn receive(&mut self, message: FromCoordinator) {
        match message {
            FromCoordinator::Start {
                attempt,
                slot,
                since,
                spec,
                keep,
            } => self.start(attempt, slot, since, spec, keep),
            FromCoordinator::Stop { attempt, reason } => {
                tracing::info!(%attempt, reason, "the coordinator stops the attempt");
                self.stop(attempt, StopReason::Unwanted);
            }
            FromCoordinator::Acknowledged { attempt } => self.acknowledged(attempt),
            FromCoordinator::Drain { reason } => {
                tracing::info!(reason, "drained: no new work, then the end");
                self.session.draining.get_or_insert(reason);
            }
            FromCoordinator::Remove(removable) => self.remove(removable),
            // handled by the caller and by the connection
            FromCoordinator::Welcome { .. } | FromCoordinator::Refused { .. } => {}
        }
    }

    fn start(
        &mut self,
        attempt: AttemptId,
        slot: SlotIndex,
        since: AttemptNo,
        spec: Box<TrialSpec>,
        keep: Keep,
    ) {
        match self.session.attempts.start(attempt, slot) {
            Admission::Running => return,
            Admission::Ended => return self.session.send_outcome(attempt),
            Admission::New => {}
        }
        let refusal = match (&self.session.leaving, self.slots.get(slot as usize)) {
            _ if !spec.trainer.runs_on(&self.info.trainer) => {
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
                let run = Run {
                    attempt,
                    since,
                    spec,
                    keep,
                };
                // never waits: a slot that is ending a stubborn trainer must not delay heartbeats
                if commands.try_send(Command::Run(run)).is_ok() {
                    return;
                }
                Failure::new(
                    FailureClass::Crashed,
                    format!("the command queue of slot {slot} is full"),
                )
            }
        };
        self.slot_event(SlotEvent::Ended {
            attempt,
            outcome: Outcome::Failed(refusal),
        });
    }

    /// Stops the attempt. Does nothing if it does not run here: its outcome was sent, or no one
    /// waits for it.
    fn stop(&mut self, attempt: AttemptId, reason: StopReason) {
        let slot = self.session.attempts.slot_of(attempt);
        if let Some(commands) = slot.and_then(|slot| self.slots.get(slot as usize)) {
            if commands
                .try_send(Command::Stop { attempt, reason })
                .is_err()
            {
                tracing::warn!(%attempt, slot, "the slot's command queue is full");
            }
        } else {
            self.session.send_outcome(attempt);
        }
    }

    fn acknowledged(&mut self, attempt: AttemptId) {
        if let Some(Outcome::Finished(_)) = self.session.attempts.acknowledge(attempt) {
            self.remove(Removable {
                checkpoints: vec![attempt],
                ..Removable::default()
            });
        }
    }

    fn remove(&mut self, removable: Removable) {
        let work_dir = self.context.work_dir.clone();
        while self.session.removals.try_join_next().is_some() {}
        self.session.removals.spawn_blocking(move || {
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

    fn slot_event(&mut self, event: SlotEvent) {
        match event {
            SlotEvent::Progress { attempt, progress } => {
                self.session.attempts.progress(attempt, progress)
            }
            SlotEvent::Ended { attempt, outcome } => {
                match &outcome {
                    Outcome::Finished(_) => {
                        tracing::info!(%attempt, "finished")
                    }
                    Outcome::Failed(failure) if failure.class == FailureClass::Preempted => {
                        self.session.gave_back = true;
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
                self.session.attempts.end(attempt, outcome);
                self.session.send_outcome(attempt);
            }
        }
    }

    fn heartbeat(&mut self) {
        let session = &mut self.session;
        session.heartbeats += 1;
        if session.heartbeats % SURVEY_EVERY == 1 {
            let held = session.attempts.trials();
            let (work_dir, disk) = (self.context.work_dir.clone(), session.disk.clone());
            let round = session.heartbeats / SURVEY_EVERY;
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
        session.send(FromWorker::Heartbeat {
            running: session.attempts.running(),
            disk,
        });
        if session.heartbeats.is_multiple_of(RESEND_EVERY) {
            session.send_outcomes();
        }
    }

    fn leave(&mut self, reason: String) {
        if self.session.leaving.is_some() {
            return;
        }
        tracing::info!(reason, "leaving: attempts checkpoint and stop");
        self.session.leaving = Some(reason.clone());
        self.session.send(FromWorker::Leaving {
            reason: reason.as_str().into(),
        });
        for attempt in self.session.attempts.running_ids() {
            self.stop(attempt, StopReason::Preempted(reason.clone()));
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
    /// Returns the time at which a worker that only waits for acknowledgements leaves without them.
    fn goodbye(&self, patience: Duration) -> Option<Instant> {
        let since = self.goodbye_since?;
        let last = since + patience;
        Some(match self.port_closed_since {
            Some(closed) => last.min(closed.max(since) + RESTART_TIME),
            None => last,
        })
    }

    fn forget_stream(&mut self) {
        self.outgoing = None;
        self.welcome = false;
        self.unwelcome_since.get_or_insert_with(Instant::now);
    }

    /// Sends a message. One that does not fit is not lost: everything is sent again, or is part of
    /// the next Hello.
    fn send(&self, message: FromWorker) {
        if let Some(outgoing) = &self.outgoing
            && outgoing.try_send(message.into()).is_err()
        {
            tracing::debug!("the stream to the coordinator is full or closed");
        }
    }

    fn send_outcome(&self, attempt: AttemptId) {
        if let Some(ended) = self.attempts.outcome(attempt) {
            self.send(FromWorker::Ended(ended));
        }
    }

    fn send_outcomes(&self) {
        for ended in self.attempts.ended() {
            self.send(FromWorker::Ended(ended));
        }
    }
}
