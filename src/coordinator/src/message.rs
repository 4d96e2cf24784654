//! Messages of the services to the owner, and the ways in which it answers.

use std::sync::Arc;

use protocol::{FromWorker, Hello, v1};
use schedule::Submission;
use schedule::event::Retry;
use schedule::state::{State, WorkerId};
use sweep::Sweep;
use sweep::text::Line;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::outbox::Outbox;

/// Outbox to one worker.
pub type ToWorker = Outbox<v1::CoordinatorMessage>;
/// Outbox to one `tail`.
pub type ToTail = Outbox<v1::TailMessage>;
pub type Reply<T> = oneshot::Sender<Result<T, Status>>;

pub enum Message {
    /// A stream has opened with its Hello. The owner keeps both ends; dropping them ends the
    /// stream.
    Connected {
        hello: Box<Hello>,
        stream: Stream,
    },
    Said {
        worker: WorkerId,
        connection: u64,
        message: FromWorker,
    },
    Closed {
        worker: WorkerId,
        connection: u64,
    },
    Change(Change),
    Read(Read),
    /// Journals the messages received so far and ends.
    Stop,
}

pub struct Stream {
    pub outgoing: ToWorker,
    /// Nothing is sent on it: dropping it ends the reading half.
    #[expect(dead_code, reason = "only its being dropped means something")]
    pub cut: oneshot::Sender<()>,
    /// Unblocks the reading half. Messages are read only after the Hello was accepted, because the
    /// worker and the stream number that it claims may be another's.
    pub accepted: Option<oneshot::Sender<()>>,
}

impl Stream {
    pub fn accept(&mut self) {
        if let Some(accepted) = self.accepted.take() {
            // The reading half is gone if the stream has already broken.
            let _ = accepted.send(());
        }
    }
}

/// A request for a change, answered when the change is durable.
pub enum Change {
    Submit {
        sweep: Box<Sweep>,
        build: String,
        reply: Reply<Submission>,
    },
    Cancel {
        sweep: String,
        reply: Reply<u64>,
    },
    Retry {
        sweep: String,
        which: Retry,
        reply: Reply<u64>,
    },
    Drain {
        worker: String,
        reason: Line,
        reply: Reply<()>,
    },
    Undrain {
        host: String,
        reply: Reply<()>,
    },
}

pub enum Read {
    Status {
        sweep: String,
        reply: Reply<v1::StatusReply>,
    },
    Tail {
        sweep: String,
        messages: ToTail,
    },
    /// Returns the state for a report; nothing if the sweep has not changed since `known`
    /// (`SweepState::changed`).
    Snapshot {
        sweep: String,
        known: Option<u64>,
        reply: Reply<Option<Arc<State>>>,
    },
    Explain {
        trial: String,
        reply: Reply<v1::ExplainReply>,
    },
}

/// Sends a question and waits for its answer.
pub async fn ask<T>(
    owner: &mpsc::Sender<Message>,
    question: impl FnOnce(Reply<T>) -> Message,
) -> Result<T, Status> {
    let ends = || Status::unavailable("the coordinator is ending");
    let (reply, answer) = oneshot::channel();
    owner.send(question(reply)).await.map_err(|_| ends())?;
    answer.await.map_err(|_| ends())?
}

impl Change {
    pub fn refuse(self, status: Status) {
        match self {
            Self::Submit { reply, .. } => drop(reply.send(Err(status))),
            Self::Cancel { reply, .. } | Self::Retry { reply, .. } => drop(reply.send(Err(status))),
            Self::Drain { reply, .. } | Self::Undrain { reply, .. } => {
                drop(reply.send(Err(status)))
            }
        }
    }
}
