//! The one task that owns the state. It takes the messages that have arrived, lets `schedule::turn`
//! decide on all of them, journals the events in one transaction, and only then answers and acts
//! (promise P3).
//!
//! When the journal cannot be written, the turn is kept and retried. Until the retry succeeds
//! nothing new is decided, all changes are refused with the reason, and workers continue to train.
//! The state may then be ahead of the journal, but no peer is sent anything that the journal does
//! not have.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use protocol::FromCoordinator;
use schedule::event::{Effect, Input, Recorded, Rejected};
use schedule::state::{Millis, State, WorkerId};
use schedule::{Answer, Config, Turn};
use sweep::TrialId;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::clock::Clock;
use crate::message::{Change, Message, Reply, Stream};
use crate::storage::{Storage, StorageFault};
use crate::streams::Streams;
use crate::tail::Tails;

/// Maximum number of messages in one turn: bounds the size of a transaction and the wait of the
/// first for the last.
const MAX_BATCH: usize = 1024;
/// Deadlines are checked when no message waits, or after this time.
const TICK_OVERDUE_MS: Millis = 5_000;
/// Longest wait, when no worker is connected and no deadline is set.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub struct Owner {
    pub(crate) state: State,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) storage: Box<dyn Storage>,
    pub(crate) streams: Streams,
    pub(crate) tails: Tails,
    pub(crate) fault: Option<Fault>,
    pub(crate) last_tick: Millis,
}

/// A turn that is decided but not journalled.
pub(crate) struct Fault {
    pub(crate) cause: StorageFault,
    recorded: Vec<Recorded>,
    rest: Rest,
    retry_at: Instant,
    pause: Duration,
}

/// Data for the open `tail` calls.
pub(crate) struct Looking<'a> {
    pub state: &'a State,
    pub config: &'a Config,
    pub now: Millis,
}

/// Answers and effects that follow once a turn is durable.
struct Rest {
    answers: Vec<(After, Result<Answer, Rejected>)>,
    effects: Vec<Effect>,
}

/// The receiver of the answer to an input.
enum After {
    Nobody,
    Stream {
        worker: WorkerId,
        connection: u64,
        stream: Stream,
    },
    Leaving(WorkerId),
    Change(Asked),
}

enum Asked {
    Submit(Reply<schedule::Submission>),
    Count(Reply<u64>),
    Done(Reply<()>),
}

impl Owner {
    pub fn new(state: State, config: Config, clock: Clock, storage: Box<dyn Storage>) -> Self {
        let last_tick = clock.now();
        let (streams, tails) = (Streams::default(), Tails::default());
        Self {
            state,
            config,
            clock,
            storage,
            streams,
            tails,
            fault: None,
            last_tick,
        }
    }

    /// Runs until a stop message, until no sender is left, or until the journal cannot be used
    /// again.
    pub async fn run(mut self, mut messages: mpsc::Receiver<Message>) -> Result<(), StorageFault> {
        // A coordinator that has just started may have trials to place.
        self.turn(vec![(Input::Tick, After::Nobody)], self.clock.now());
        loop {
            let before = self.clock.now();
            let wait = self.wait(before);
            let first = tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => Some(message),
                    None => return Ok(()),
                },
                () = sleep(wait) => None,
            };
            let woken = self.clock.now();
            self.forgive(woken.saturating_sub(before.saturating_add(wait.as_millis() as Millis)));
            let mut batch: Vec<Message> = first.into_iter().collect();
            while batch.len() < MAX_BATCH
                && let Ok(message) = messages.try_recv()
            {
                batch.push(message);
            }
            let stop = self.take(batch, messages.is_empty());
            self.forgive(self.clock.now().saturating_sub(woken));
            match &self.fault {
                Some(fault) if !fault.cause.is_passing => return Err(fault.cause.clone()),
                _ if stop => return Ok(()),
                _ => {}
            }
        }
    }

    /// Decides on a batch. True: it is time to end.
    fn take(&mut self, batch: Vec<Message>, all_heard: bool) -> bool {
        if !self.mended() {
            return self.take_in_fault(batch);
        }
        let mut inputs: Vec<(Input, After)> = Vec::new();
        let mut reads = Vec::new();
        let mut stop = false;
        for message in batch {
            match message {
                Message::Read(read) => reads.push(read),
                Message::Stop => stop = true,
                Message::Change(change) => inputs.extend(self.change(change)),
                message => inputs.extend(self.hear(message)),
            }
        }
        inputs.extend(
            self.streams
                .take_cut()
                .into_iter()
                .map(|input| (input, After::Nobody)),
        );
        let now = self.clock.now();
        if self.tick_is_due(now) && (all_heard || now > self.last_tick + TICK_OVERDUE_MS) {
            self.last_tick = now;
            inputs.push((Input::Tick, After::Nobody));
        }
        if !inputs.is_empty() {
            self.turn(inputs, now);
        }
        self.tell_tails(|tails, owner| tails.flush(owner.state, owner.config, owner.now));
        for read in reads {
            self.read(read);
        }
        stop
    }

    /// Returns the input for a message; nothing for a message on a stream that was replaced.
    fn hear(&mut self, message: Message) -> Option<(Input, After)> {
        match message {
            Message::Connected { hello, stream } => {
                let worker = hello.worker.clone();
                let connection = hello.connection;
                let after = After::Stream {
                    worker: worker.clone(),
                    connection,
                    stream,
                };
                let protocol::Hello {
                    secret,
                    info,
                    running,
                    ended,
                    ..
                } = *hello;
                Some((
                    Input::Connected {
                        worker,
                        connection,
                        secret: secret.hash(),
                        info,
                        running,
                        ended,
                    },
                    after,
                ))
            }
            Message::Closed { worker, connection } => {
                self.streams.remove(&worker, connection);
                Some((Input::Disconnected { worker, connection }, After::Nobody))
            }
            Message::Said {
                worker,
                connection,
                message,
            } if self.streams.is_current(&worker, connection) => self.said(worker, message),
            Message::Said { .. } | Message::Change(_) | Message::Read(_) | Message::Stop => None,
        }
    }

    fn said(&mut self, worker: WorkerId, message: protocol::FromWorker) -> Option<(Input, After)> {
        use protocol::FromWorker;
        match message {
            FromWorker::Hello(_) => {
                self.streams
                    .disconnect(&worker, "Hello was said twice on one stream");
                None
            }
            FromWorker::Heartbeat { running, disk } => {
                self.answer_seen(&worker, &disk.seen);
                self.streams.note_disk(&worker, disk);
                self.tails.touch();
                Some((Input::Heartbeat { worker, running }, After::Nobody))
            }
            FromWorker::Ended(ended) => Some((Input::Ended { worker, ended }, After::Nobody)),
            FromWorker::Leaving { reason } => Some((
                Input::Leaving {
                    worker: worker.clone(),
                    reason,
                },
                After::Leaving(worker),
            )),
        }
    }

    /// Sends a worker the files that it may remove. Not while the state is ahead of the journal:
    /// removal is final.
    fn answer_seen(&mut self, worker: &WorkerId, seen: &[TrialId]) {
        if self.fault.is_none() {
            let leftovers = schedule::leftovers(&self.state, seen, self.clock.now());
            if !leftovers.is_empty() {
                self.streams
                    .send(worker, FromCoordinator::Remove(leftovers));
            }
        }
    }

    fn change(&self, change: Change) -> Option<(Input, After)> {
        Some(match change {
            Change::Submit { build, reply, .. } if build != self.config.build => {
                let own = &self.config.build;
                let reason = format!(
                    "this command is of build `{build}`, the coordinator of `{own}`: use those of one build"
                );
                let _ = reply.send(Err(Status::failed_precondition(reason)));
                return None;
            }
            Change::Submit { sweep, reply, .. } => {
                (Input::Submit { sweep }, After::Change(Asked::Submit(reply)))
            }
            Change::Cancel { sweep, reply } => {
                let reason = "cancelled by a user".into();
                (
                    Input::Cancel { sweep, reason },
                    After::Change(Asked::Count(reply)),
                )
            }
            Change::Retry {
                sweep,
                which,
                reply,
            } => (
                Input::Retry { sweep, which },
                After::Change(Asked::Count(reply)),
            ),
            Change::Drain {
                worker,
                reason,
                reply,
            } => (
                Input::Drain {
                    name: worker,
                    reason,
                },
                After::Change(Asked::Done(reply)),
            ),
            Change::Undrain { host, reply } => (
                Input::Undrain { name: host },
                After::Change(Asked::Done(reply)),
            ),
        })
    }

    /// Runs one turn. `now` is the time at which it became due: if the process is stopped in
    /// between, a later time must not count.
    fn turn(&mut self, inputs: Vec<(Input, After)>, now: Millis) {
        let (inputs, afters): (Vec<Input>, Vec<After>) = inputs.into_iter().unzip();
        let Turn {
            recorded,
            answers,
            effects,
        } = schedule::turn(&mut self.state, &self.config, &inputs, now);
        debug_assert_eq!(
            schedule::check(&self.state),
            [],
            "an invariant of the state does not hold"
        );
        let rest = Rest {
            answers: afters.into_iter().zip(answers).collect(),
            effects,
        };
        if recorded.is_empty() {
            return self.finish(&recorded, rest);
        }
        match self.storage.append(&recorded) {
            Ok(()) => self.finish(&recorded, rest),
            Err(cause) => {
                if cause.is_passing {
                    tracing::error!(
                        cause.reason,
                        "the journal cannot be written; nothing is acknowledged until it can"
                    );
                }
                let retry_at = Instant::now() + FIRST_PAUSE;
                self.fault = Some(Fault {
                    cause,
                    recorded,
                    rest,
                    retry_at,
                    pause: FIRST_PAUSE,
                });
            }
        }
    }

    /// Answers and acts, once the events are durable.
    fn finish(&mut self, recorded: &[Recorded], rest: Rest) {
        for (after, answer) in rest.answers {
            self.answer(after, answer);
        }
        for effect in rest.effects {
            self.perform(effect);
        }
        self.tell_tails(|tails, owner| {
            tails.events(recorded, owner.state, owner.config, owner.now)
        });
    }

    /// Updates the `tail` calls. A panic there ends these calls and nothing else.
    pub(crate) fn tell_tails(&mut self, tell: impl FnOnce(&mut Tails, Looking<'_>)) {
        let looking = Looking {
            state: &self.state,
            config: &self.config,
            now: self.clock.now(),
        };
        if catch_unwind(AssertUnwindSafe(|| tell(&mut self.tails, looking))).is_err() {
            self.tails = Tails::default();
        }
    }

    fn answer(&mut self, after: After, answer: Result<Answer, Rejected>) {
        match (after, answer) {
            (After::Nobody, Ok(_)) => {}
            (After::Nobody, Err(rejected)) => tracing::debug!(%rejected, "nothing changes"),
            (
                After::Stream {
                    worker,
                    connection,
                    mut stream,
                },
                Ok(_),
            ) => {
                stream.accept();
                let (heartbeat_ms, lease_ms) = (self.config.heartbeat_ms, self.config.lease_ms);
                tracing::info!(%worker, connection, "worker connected");
                self.streams.insert(worker.clone(), connection, stream);
                self.streams.send(
                    &worker,
                    FromCoordinator::Welcome {
                        heartbeat_ms,
                        lease_ms,
                    },
                );
            }
            (
                After::Stream { worker, stream, .. },
                Err(rejected @ Rejected::StaleConnection { .. }),
            ) => {
                tracing::debug!(%worker, %rejected, "closing an old stream");
                stream.outgoing.end(Status::aborted(rejected.to_string()));
            }
            (After::Stream { worker, stream, .. }, Err(rejected)) => {
                tracing::warn!(%worker, %rejected, "refusing a worker");
                let refused = FromCoordinator::Refused {
                    reason: rejected.to_string(),
                };
                stream.outgoing.send(refused.into());
            }
            // The reply that lets the worker end.
            (After::Leaving(worker), Ok(_)) => {
                self.streams.send(
                    &worker,
                    FromCoordinator::Drain {
                        reason: "the worker leaves".to_owned(),
                    },
                );
            }
            (After::Leaving(worker), Err(rejected)) => {
                tracing::debug!(%worker, %rejected, "nothing changes")
            }
            (After::Change(asked), answer) => {
                asked.answer(answer.map_err(|rejected| status_of(&rejected)))
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Start {
                worker,
                slot,
                trial,
                attempt,
            } => match self.state.spec_of(trial) {
                Some(spec) => {
                    let since = self
                        .state
                        .trials
                        .get(&trial)
                        .map_or(attempt, |trial| trial.since);
                    let start = FromCoordinator::Start {
                        trial,
                        attempt,
                        slot,
                        since,
                        spec: Box::new(spec),
                    };
                    self.streams.send(&worker, start);
                }
                None => tracing::error!(%trial, "a trial was dispatched that no sweep lists"),
            },
            Effect::Stop {
                worker,
                trial,
                attempt,
                reason,
            } => {
                self.streams.send(
                    &worker,
                    FromCoordinator::Stop {
                        trial,
                        attempt,
                        reason,
                    },
                );
            }
            Effect::Acknowledge {
                worker,
                trial,
                attempt,
            } => {
                self.streams
                    .send(&worker, FromCoordinator::Acknowledged { trial, attempt });
            }
            Effect::Drain { worker, reason } => self
                .streams
                .send(&worker, FromCoordinator::Drain { reason }),
            Effect::Disconnect { worker, reason } => self.streams.disconnect(&worker, &reason),
        }
    }

    fn tick_is_due(&self, now: Millis) -> bool {
        schedule::next_deadline(&self.state, &self.config, now)
            .is_some_and(|deadline| deadline <= now)
    }

    fn wait(&self, now: Millis) -> Duration {
        if let Some(fault) = &self.fault {
            return fault.retry_at.saturating_duration_since(Instant::now());
        }
        if self.streams.has_cut() {
            return Duration::ZERO;
        }
        let deadline = schedule::next_deadline(&self.state, &self.config, now);
        let next = deadline.into_iter().chain(self.tails.due()).min();
        // A deadline that has passed and changes nothing must not make the loop spin.
        let wait = next.map_or(LONGEST_WAIT, |next| {
            Duration::from_millis(next.saturating_sub(now).max(5))
        });
        let noticed = schedule::longest_wait(&self.state, &self.config).map(Duration::from_millis);
        noticed.map_or(wait, |noticed| wait.min(noticed))
    }

    /// Extends leases: after a SIGSTOP, a suspension or on a slow disk workers only look silent.
    fn forgive(&mut self, gap: Millis) {
        if schedule::held_up(&mut self.state, &self.config, gap, self.clock.now()) {
            tracing::warn!(
                gap_ms = gap,
                "the coordinator itself was held up; nobody's silence in that time counts"
            );
        }
    }

    /// Returns true if the journal works, after a retry of the kept turn.
    fn mended(&mut self) -> bool {
        let Some(mut fault) = self.fault.take() else {
            return true;
        };
        if Instant::now() >= fault.retry_at {
            match self.storage.append(&fault.recorded) {
                Ok(()) => {
                    tracing::info!("the journal can be written again");
                    // Workers whose messages could not be read meanwhile were not silent.
                    self.forgive(self.config.lease_ms);
                    self.finish(&fault.recorded, fault.rest);
                    return true;
                }
                Err(cause) => {
                    fault.cause = cause;
                    fault.pause = (fault.pause * 2).min(LONGEST_PAUSE);
                    fault.retry_at = Instant::now() + fault.pause;
                }
            }
        }
        self.fault = Some(fault);
        false
    }

    /// Handles messages without deciding. Workers repeat outcomes until they are acknowledged, and
    /// retry to connect.
    fn take_in_fault(&mut self, batch: Vec<Message>) -> bool {
        let reason = self
            .fault
            .as_ref()
            .map(|fault| fault.cause.reason.clone())
            .unwrap_or_default();
        let refusal = || Status::unavailable(format!("the journal cannot be written: {reason}"));
        let mut stop = false;
        for message in batch {
            match message {
                Message::Connected { stream, .. } => stream.outgoing.end(refusal()),
                Message::Change(change) => change.refuse(refusal()),
                Message::Read(read) => self.read(read),
                Message::Stop => stop = true,
                message @ (Message::Said { .. } | Message::Closed { .. }) => {
                    // Live state is never journalled.
                    if let Some((
                        input @ (Input::Heartbeat { .. } | Input::Disconnected { .. }),
                        _,
                    )) = self.hear(message)
                    {
                        schedule::observe(&mut self.state, &input, self.clock.now());
                    }
                }
            }
        }
        self.tell_tails(|tails, owner| tails.flush(owner.state, owner.config, owner.now));
        stop
    }
}

impl Asked {
    fn answer(self, answer: Result<Answer, Status>) {
        let odd = || Status::internal("the answer is of another question");
        match self {
            Self::Submit(reply) => drop(reply.send(answer.and_then(|answer| match answer {
                Answer::Submitted(submission) => Ok(submission),
                _ => Err(odd()),
            }))),
            Self::Count(reply) => drop(reply.send(answer.and_then(|answer| match answer {
                Answer::Cancelled(count) | Answer::Retried(count) => Ok(count),
                _ => Err(odd()),
            }))),
            Self::Done(reply) => drop(reply.send(answer.map(|_| ()))),
        }
    }
}

fn status_of(rejected: &Rejected) -> Status {
    let text = rejected.to_string();
    match rejected {
        Rejected::UnknownSweep(_)
        | Rejected::UnknownWorker(_)
        | Rejected::UnknownPlace(_)
        | Rejected::HasLeft { .. } => Status::not_found(text),
        Rejected::OtherBuild { .. }
        | Rejected::StaleConnection { .. }
        | Rejected::StaleAttempt { .. } => Status::failed_precondition(text),
        Rejected::Impostor(_) => Status::permission_denied(text),
        Rejected::Invalid(_) => Status::invalid_argument(text),
        Rejected::Internal(_) => Status::internal(text),
    }
}
