//! Requests of the services to the owner, and its answers.

use std::sync::Arc;

use protocol::{FromWorker, Hello, v1};
use schedule::allocation::LaunchRequest;
use schedule::curve::Point;
use schedule::event::Input;
use schedule::state::{State, WorkerId};
use schedule::{Answer, Explanation};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::kept_files::KeptFile;
use crate::outbox::Outbox;

/// Outbox to one worker.
pub type ToWorker = Outbox<v1::CoordinatorMessage>;
/// Outbox to one `tail`.
pub type ToTail = Outbox<v1::TailMessage>;
pub type Reply<T> = oneshot::Sender<Result<T, Status>>;

pub enum OwnerRequest {
    /// A stream has opened with its Hello. The owner keeps both ends; dropping them ends the
    /// stream.
    Connected {
        hello: Box<Hello>,
        stream: Stream,
    },
    Received {
        worker: WorkerId,
        connection: u64,
        message: FromWorker,
    },
    Closed {
        worker: WorkerId,
        connection: u64,
    },
    /// An input of a user, answered when its events are durable.
    Command {
        input: Input,
        reply: Reply<Answer>,
    },
    Question(Question),
    /// The launcher of this coordinator takes the owner's requests here.
    Launcher(mpsc::Sender<LaunchRequest>),
    /// Journals the requests received so far and ends.
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

/// A request that changes nothing.
pub enum Question {
    /// The status of a sweep, or of all if the name is empty.
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
    Trial {
        trial: String,
        /// Also where its settings come from.
        origins: bool,
        reply: Reply<v1::TrialReply>,
    },
    Explain {
        trial: String,
        reply: Reply<v1::ExplainReply>,
    },
    /// Returns the sweep or, if one is given, the trial of it that a user's word means.
    Find {
        sweep: String,
        text: String,
        reply: Reply<v1::FindReply>,
    },
    /// Returns the stored files that only this sweep uses; if the name is empty, those that no sweep
    /// does.
    Unused {
        stored: Vec<KeptFile>,
        sweep: String,
        reply: Reply<Unused>,
    },
    /// Returns a trial in parts, for its page.
    TrialParts {
        trial: String,
        reply: Reply<TrialParts>,
    },
    /// Returns what shows that a page has changed.
    Version {
        reply: Reply<Version>,
    },
    Held {
        reply: Reply<Held>,
    },
}

/// Files and trials that have no use once a sweep is removed.
pub struct Unused {
    pub files: Vec<KeptFile>,
    /// Number of its trials that no other sweep wants.
    pub trials: u64,
}

/// The history of a trial, and its learning curve.
pub struct TrialParts {
    pub explanation: Explanation,
    pub curve: Vec<Point>,
}

/// Differs between two moments if a page may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Number of the last event.
    pub event: u64,
    /// Progress is no event: while trials run, pages change without one.
    pub is_running: bool,
}

/// The attempts that connected workers hold.
pub struct Held {
    pub attempts: usize,
    /// Those of workers that leave: they write checkpoints and give them back.
    pub given_back: usize,
}

/// Sends a request and waits for its answer.
pub async fn ask<T>(
    owner: &mpsc::Sender<OwnerRequest>,
    request: impl FnOnce(Reply<T>) -> OwnerRequest,
) -> Result<T, Status> {
    let ends = || Status::unavailable("the coordinator is ending");
    let (reply, answer) = oneshot::channel();
    owner.send(request(reply)).await.map_err(|_| ends())?;
    answer.await.map_err(|_| ends())?
}
