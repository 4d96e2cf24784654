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

use protocol::{FromCoordinator, Hello};
use schedule::allocation::LaunchRequest;
use schedule::event::{Effect, Input, Rejected};
use schedule::state::{Millis, State, WorkerId};
use schedule::{Answer, Config, Turn};
use sweep::TrialId;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::answers::Answers;
use crate::clock::Clock;
use crate::requests::{OwnerRequest, Reply, Stream};
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
    launcher: Option<mpsc::Sender<LaunchRequest>>,
    held: Option<HeldTurn>,
    last_tick: Millis,
}

/// A turn, with the receivers of its answers in their order.
struct Decided {
    turn: Turn,
    recipients: Vec<Recipient>,
}

/// A turn whose append failed: it is appended again, and nothing is decided until that succeeds.
struct HeldTurn {
    decided: Decided,
    cause: StorageFault,
    retry_at: Instant,
    pause: Duration,
}

/// The receiver of the answer to an input.
enum Recipient {
    Nobody,
    NewStream {
        worker: WorkerId,
        connection: u64,
        stream: Stream,
    },
    LeavingWorker(WorkerId),
    User(Reply<Answer>),
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
            launcher: None,
            held: None,
            last_tick,
        }
    }

    /// Runs until a stop message, until no sender is left, or until the journal cannot be used
    /// again.
    pub async fn run(
        mut self,
        mut requests: mpsc::Receiver<OwnerRequest>,
    ) -> Result<(), StorageFault> {
        // A coordinator that has just started may have trials to place.
        self.turn(vec![(Input::Tick, Recipient::Nobody)], self.clock.now());
        loop {
            let before = self.clock.now();
            let wait = self.wait(before);
            let first = tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => Some(request),
                    None => return Ok(()),
                },
                () = sleep(wait) => None,
            };
            let woken = self.clock.now();
            let due = before.saturating_add(wait.as_millis() as Millis);
            self.extend_leases(woken.saturating_sub(due));
            let mut batch: Vec<OwnerRequest> = first.into_iter().collect();
            while batch.len() < MAX_BATCH
                && let Ok(request) = requests.try_recv()
            {
                batch.push(request);
            }
            let stop = self.take(batch, requests.is_empty());
            self.extend_leases(self.clock.now().saturating_sub(woken));
            match &self.held {
                Some(held) if !held.cause.is_passing => return Err(held.cause.clone()),
                _ if stop => return Ok(()),
                _ => {}
            }
        }
    }

    /// Decides on a batch; `is_last`: no further request waits. Returns true if it is time to end.
    fn take(&mut self, batch: Vec<OwnerRequest>, is_last: bool) -> bool {
        if !self.append_held_turn() {
            return self.take_while_held(batch);
        }
        let mut inputs: Vec<(Input, Recipient)> = Vec::new();
        let mut questions = Vec::new();
        let mut stop = false;
        for request in batch {
            match request {
                OwnerRequest::Question(question) => questions.push(question),
                OwnerRequest::Stop => stop = true,
                OwnerRequest::Launcher(launcher) => self.launcher = Some(launcher),
                OwnerRequest::Command { input, reply } => {
                    inputs.push((input, Recipient::User(reply)))
                }
                request => inputs.extend(self.input_of_worker(request)),
            }
        }
        let cut = self.streams.take_cut().into_iter();
        inputs.extend(cut.map(|input| (input, Recipient::Nobody)));
        let now = self.clock.now();
        if self.tick_is_due(now) && (is_last || now > self.last_tick + TICK_OVERDUE_MS) {
            self.last_tick = now;
            inputs.push((Input::Tick, Recipient::Nobody));
        }
        if !inputs.is_empty() {
            self.turn(inputs, now);
        }
        self.update_tails(|tails, answers| tails.flush(&answers));
        for question in questions {
            self.answer(question);
        }
        stop
    }

    /// Returns the input for a worker's request; nothing for a message on a stream that was
    /// replaced.
    fn input_of_worker(&mut self, request: OwnerRequest) -> Option<(Input, Recipient)> {
        match request {
            OwnerRequest::Connected { hello, stream } => Some(connected(*hello, stream)),
            OwnerRequest::Closed { worker, connection } => {
                self.streams.remove(&worker, connection);
                let input = Input::Disconnected { worker, connection };
                Some((input, Recipient::Nobody))
            }
            OwnerRequest::Received {
                worker,
                connection,
                message,
            } if self.streams.is_current(&worker, connection) => self.received(worker, message),
            OwnerRequest::Received { .. }
            | OwnerRequest::Command { .. }
            | OwnerRequest::Question(_)
            | OwnerRequest::Launcher(_)
            | OwnerRequest::Stop => None,
        }
    }

    fn received(
        &mut self,
        worker: WorkerId,
        message: protocol::FromWorker,
    ) -> Option<(Input, Recipient)> {
        use protocol::FromWorker;
        match message {
            FromWorker::Hello(_) => {
                self.streams
                    .disconnect(&worker, "Hello was sent twice on one stream");
                None
            }
            FromWorker::Heartbeat { running, disk } => {
                self.send_removable(&worker, &disk.seen);
                self.streams.note_disk(&worker, disk);
                self.tails.touch();
                Some((Input::Heartbeat { worker, running }, Recipient::Nobody))
            }
            FromWorker::Ended(ended) => Some((Input::Ended { worker, ended }, Recipient::Nobody)),
            FromWorker::Leaving { reason } => Some((
                Input::Leaving {
                    worker: worker.clone(),
                    reason,
                },
                Recipient::LeavingWorker(worker),
            )),
            FromWorker::Idle { reason } => {
                Some((Input::Idle { worker, reason }, Recipient::Nobody))
            }
        }
    }

    /// Sends a worker the files that it may remove. Not while the state is ahead of the journal:
    /// removal is final.
    fn send_removable(&mut self, worker: &WorkerId, seen: &[TrialId]) {
        if self.held.is_none() {
            let removable = schedule::removable(&self.state, seen, self.clock.now());
            if !removable.is_empty() {
                self.streams
                    .send(worker, FromCoordinator::Remove(removable));
            }
        }
    }

    /// Runs one turn. `now` is the time at which it became due: if the process is stopped in
    /// between, a later time must not count.
    fn turn(&mut self, inputs: Vec<(Input, Recipient)>, now: Millis) {
        let (inputs, recipients): (Vec<Input>, Vec<Recipient>) = inputs.into_iter().unzip();
        let turn = schedule::turn(&mut self.state, &self.config, &inputs, now);
        debug_assert_eq!(
            schedule::check(&self.state),
            [],
            "an invariant of the state does not hold"
        );
        let decided = Decided { turn, recipients };
        if decided.turn.recorded.is_empty() {
            return self.finish(decided);
        }
        match self.storage.append(&decided.turn.recorded) {
            Ok(()) => self.finish(decided),
            Err(cause) => {
                if cause.is_passing {
                    tracing::error!(
                        cause.reason,
                        "the journal cannot be written; every request is refused until it can be"
                    );
                }
                self.held = Some(HeldTurn {
                    decided,
                    cause,
                    retry_at: Instant::now() + FIRST_PAUSE,
                    pause: FIRST_PAUSE,
                });
            }
        }
    }

    /// Sends the answers and performs the effects of a turn whose events are durable.
    fn finish(&mut self, Decided { turn, recipients }: Decided) {
        for (recipient, answer) in recipients.into_iter().zip(turn.answers) {
            self.send_answer(recipient, answer);
        }
        for effect in turn.effects {
            self.perform(effect);
        }
        self.update_tails(|tails, answers| tails.events(&turn.recorded, &answers));
    }

    /// Updates the `tail` calls. A panic there ends these calls and nothing else.
    pub(crate) fn update_tails(&mut self, update: impl FnOnce(&mut Tails, Answers<'_>)) {
        let answers = Answers::live(&self.state, &self.config, self.clock.now());
        if catch_unwind(AssertUnwindSafe(|| update(&mut self.tails, answers))).is_err() {
            self.tails = Tails::default();
        }
    }

    fn send_answer(&mut self, recipient: Recipient, answer: Result<Answer, Rejected>) {
        match (recipient, answer) {
            (Recipient::Nobody, Ok(_)) => {}
            (Recipient::Nobody, Err(rejected)) => tracing::debug!(%rejected, "nothing changes"),
            (
                Recipient::NewStream {
                    worker,
                    connection,
                    stream,
                },
                Ok(_),
            ) => self.welcome(worker, connection, stream),
            (Recipient::NewStream { worker, stream, .. }, Err(rejected)) => {
                refuse(&worker, &stream, &rejected);
            }
            // The reply that lets the worker end.
            (Recipient::LeavingWorker(worker), Ok(_)) => {
                let reason = "the worker leaves".to_owned();
                self.streams
                    .send(&worker, FromCoordinator::Drain { reason });
            }
            (Recipient::LeavingWorker(worker), Err(rejected)) => {
                tracing::debug!(%worker, %rejected, "nothing changes");
            }
            (Recipient::User(reply), answer) => {
                drop(reply.send(answer.map_err(|rejected| status_of(&rejected))));
            }
        }
    }

    fn welcome(&mut self, worker: WorkerId, connection: u64, mut stream: Stream) {
        stream.accept();
        tracing::info!(%worker, connection, "worker connected");
        self.streams.insert(worker.clone(), connection, stream);
        let welcome = FromCoordinator::Welcome {
            heartbeat_ms: self.config.heartbeat_ms,
            lease_ms: self.config.lease_ms,
        };
        self.streams.send(&worker, welcome);
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Start {
                worker,
                slot,
                attempt,
            } => match self.state.spec_of(attempt.trial) {
                Some(spec) => {
                    let since = self
                        .state
                        .trials
                        .get(&attempt.trial)
                        .map_or(attempt.number, |trial| trial.since);
                    let start = FromCoordinator::Start {
                        attempt,
                        slot,
                        since,
                        spec: Box::new(spec),
                        keep: self.state.keep_of(attempt.trial),
                    };
                    self.streams.send(&worker, start);
                }
                None => {
                    tracing::error!(%attempt, "an attempt was dispatched at a trial that no sweep lists")
                }
            },
            Effect::Stop {
                worker,
                attempt,
                reason,
            } => {
                self.streams
                    .send(&worker, FromCoordinator::Stop { attempt, reason });
            }
            Effect::Acknowledge { worker, attempt } => {
                self.streams
                    .send(&worker, FromCoordinator::Acknowledged { attempt });
            }
            Effect::Drain { worker, reason } => self
                .streams
                .send(&worker, FromCoordinator::Drain { reason }),
            Effect::Disconnect { worker, reason } => self.streams.disconnect(&worker, &reason),
            Effect::Launch(request) => {
                let sent = self
                    .launcher
                    .as_ref()
                    .map(|launcher| launcher.try_send(request));
                if !matches!(sent, Some(Ok(()))) {
                    tracing::error!("the launcher has ended: no workers are launched any more");
                }
            }
        }
    }

    fn tick_is_due(&self, now: Millis) -> bool {
        schedule::next_deadline(&self.state, &self.config, now)
            .is_some_and(|deadline| deadline <= now)
    }

    fn wait(&self, now: Millis) -> Duration {
        if let Some(held) = &self.held {
            return held.retry_at.saturating_duration_since(Instant::now());
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
    fn extend_leases(&mut self, gap: Millis) {
        if schedule::held_up(&mut self.state, &self.config, gap, self.clock.now()) {
            tracing::warn!(
                gap_ms = gap,
                "the coordinator itself was held up; leases are longer by that time"
            );
        }
    }

    /// Returns the reason why the journal cannot be written, while it cannot.
    pub(crate) fn storage_fault(&self) -> Option<&str> {
        self.held.as_ref().map(|held| held.cause.reason.as_str())
    }

    /// Appends the held turn once its retry is due. Returns true if none is held any more.
    fn append_held_turn(&mut self) -> bool {
        let Some(mut held) = self.held.take() else {
            return true;
        };
        if Instant::now() >= held.retry_at {
            match self.storage.append(&held.decided.turn.recorded) {
                Ok(()) => {
                    tracing::info!("the journal can be written again");
                    // Workers whose messages could not be read meanwhile were not silent.
                    self.extend_leases(self.config.lease_ms);
                    self.finish(held.decided);
                    return true;
                }
                Err(cause) => {
                    held.cause = cause;
                    held.pause = (held.pause * 2).min(LONGEST_PAUSE);
                    held.retry_at = Instant::now() + held.pause;
                }
            }
        }
        self.held = Some(held);
        false
    }

    /// Handles requests without deciding. Workers repeat outcomes until they are acknowledged, and
    /// retry to connect.
    fn take_while_held(&mut self, batch: Vec<OwnerRequest>) -> bool {
        let reason = self.storage_fault().unwrap_or_default().to_owned();
        let refusal = || Status::unavailable(format!("the journal cannot be written: {reason}"));
        let mut stop = false;
        for request in batch {
            match request {
                OwnerRequest::Connected { stream, .. } => stream.outgoing.end(refusal()),
                OwnerRequest::Command { reply, .. } => drop(reply.send(Err(refusal()))),
                OwnerRequest::Question(question) => self.answer(question),
                OwnerRequest::Stop => stop = true,
                OwnerRequest::Launcher(launcher) => self.launcher = Some(launcher),
                request @ (OwnerRequest::Received { .. } | OwnerRequest::Closed { .. }) => {
                    // Live state is never journalled.
                    if let Some((
                        input @ (Input::Heartbeat { .. } | Input::Disconnected { .. }),
                        _,
                    )) = self.input_of_worker(request)
                    {
                        schedule::observe(&mut self.state, &input, self.clock.now());
                    }
                }
            }
        }
        self.update_tails(|tails, answers| tails.flush(&answers));
        stop
    }
}

fn connected(hello: Hello, stream: Stream) -> (Input, Recipient) {
    let recipient = Recipient::NewStream {
        worker: hello.worker.clone(),
        connection: hello.connection,
        stream,
    };
    let input = Input::Connected {
        worker: hello.worker,
        connection: hello.connection,
        secret: hello.secret.hash(),
        info: hello.info,
        running: hello.running,
        ended: hello.ended,
    };
    (input, recipient)
}

/// Ends the stream of a worker that may not connect. An old stream is not worth a warning.
fn refuse(worker: &WorkerId, stream: &Stream, rejected: &Rejected) {
    let reason = rejected.to_string();
    if let Rejected::StaleConnection { .. } = rejected {
        tracing::debug!(%worker, reason, "closing an old stream");
        stream.outgoing.end(Status::aborted(reason));
    } else {
        tracing::warn!(%worker, reason, "refusing a worker");
        stream
            .outgoing
            .send(FromCoordinator::Refused { reason }.into());
    }
}

fn status_of(rejected: &Rejected) -> Status {
    let text = rejected.to_string();
    match rejected {
        Rejected::UnknownSweep(_)
        | Rejected::UnknownWorker(_)
        | Rejected::UnknownPlace(_)
        | Rejected::HasLeft { .. } => Status::not_found(text),
        Rejected::NoLauncher
        | Rejected::OtherBuild { .. }
        | Rejected::StaleConnection { .. }
        | Rejected::StaleAttempt { .. } => Status::failed_precondition(text),
        Rejected::TooManyWait { .. } => Status::out_of_range(text),
        Rejected::Impostor(_) => Status::permission_denied(text),
        Rejected::StillTrains { .. } | Rejected::Invalid(_) => Status::invalid_argument(text),
        Rejected::Internal(_) => Status::internal(text),
    }
}
