//! A worker without trainers that sends whatever a test wants, true or not.

use protocol::v1::fleet_client::FleetClient;
use protocol::{FromCoordinator, FromWorker, Hello, Token, WorkerSecret, v1};
use schedule::event::{EndedAttempt, Outcome, RunningAttempt};
use schedule::state::{Slot, WorkerId, WorkerInfo};
use sweep::AttemptId;
use sweep::handoff::Progress;
use sweep::record::{EpochRecord, Provenance, Timing, TrialResult};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::rig::patient;

pub struct Peer {
    worker: WorkerId,
    secret: WorkerSecret,
    outgoing: mpsc::Sender<v1::WorkerMessage>,
    incoming: Streaming<v1::CoordinatorMessage>,
}

pub fn result(accuracy: f64) -> TrialResult {
    let epoch = EpochRecord {
        train_loss: 0.5,
        accuracy: Some(accuracy),
        state_hash: "0123456789abcdef".into(),
        ..EpochRecord::default()
    };
    TrialResult {
        classes: None,
        last_accuracy: accuracy,
        best_accuracy: accuracy,
        best_epoch: 0,
        last_balanced_accuracy: accuracy,
        train_loss: 0.5,
        eval_loss: 0.5,
        epochs: vec![epoch],
        provenance: Provenance::default(),
        timing: Timing::default(),
    }
}

impl Peer {
    pub async fn connect(channel: Channel, token: Token, worker: &str) -> Self {
        let (outgoing, messages) = mpsc::channel(16);
        let mut client =
            FleetClient::with_interceptor(channel, protocol::token::attach(Some(token)));
        let incoming = patient(client.connect(ReceiverStream::new(messages)))
            .await
            .unwrap()
            .into_inner();
        // one secret that streams of the same process share
        let secret = WorkerSecret::try_from(&[1; 32][..]).unwrap();
        Self {
            worker: WorkerId(worker.into()),
            secret,
            outgoing,
            incoming,
        }
    }

    /// Turns this peer into another process, which knows the worker's id and nothing else.
    pub fn with_another_secret(mut self) -> Self {
        self.secret = WorkerSecret::random().unwrap();
        self
    }

    async fn send(&self, message: FromWorker) {
        self.outgoing.send(message.into()).await.unwrap();
    }

    pub async fn send_empty_hello(&self) {
        self.send_raw_hello(v1::Hello::default()).await;
    }

    /// Sends a Hello of another build, in which only name and build have the form of this one.
    pub async fn send_hello_of_another_build(&self) {
        let hello = v1::Hello {
            worker: self.worker.to_string(),
            build: "other".to_owned(),
            running: vec![v1::Running::default()],
            ..v1::Hello::default()
        };
        self.send_raw_hello(hello).await;
    }

    async fn send_raw_hello(&self, hello: v1::Hello) {
        let message = Some(v1::worker_message::Message::Hello(hello));
        self.outgoing
            .send(v1::WorkerMessage { message })
            .await
            .unwrap();
    }

    pub async fn hello(&self, connection: u64) {
        self.hello_with(connection, Vec::new()).await;
    }

    pub async fn hello_with(&self, connection: u64, running: Vec<AttemptId>) {
        let slot = Slot {
            devices: vec!["cpu".into()],
            uuids: Vec::new(),
            description: String::new(),
        };
        let info = WorkerInfo {
            host: "by-hand".into(),
            build: "test".into(),
            trainer: Default::default(),
            slots: vec![slot],
            allocation: None,
            leaves_at_ms: None,
        };
        let running = running.into_iter().map(|id| RunningAttempt {
            id,
            slot: 0,
            progress: Progress::default(),
        });
        let (worker, secret, running) =
            (self.worker.clone(), self.secret.clone(), running.collect());
        self.send(FromWorker::Hello(Hello {
            worker,
            connection,
            secret,
            info,
            running,
            ended: Vec::new(),
        }))
        .await;
    }

    pub async fn ended(&self, id: AttemptId, outcome: Outcome) {
        self.send(FromWorker::Ended(EndedAttempt { id, outcome }))
            .await;
    }

    /// Waits for the first message that the function accepts.
    async fn receive<T>(&mut self, wanted: impl Fn(FromCoordinator) -> Option<T>) -> T {
        patient(async {
            loop {
                let message = self
                    .incoming
                    .message()
                    .await
                    .unwrap()
                    .expect("the stream is open");
                if let Some(found) = wanted(message.try_into().unwrap()) {
                    return found;
                }
            }
        })
        .await
    }

    pub async fn welcome(&mut self) {
        self.receive(|message| matches!(message, FromCoordinator::Welcome { .. }).then_some(()))
            .await;
    }

    pub async fn start(&mut self) -> AttemptId {
        self.receive(|message| match message {
            FromCoordinator::Start { attempt, .. } => Some(attempt),
            _ => None,
        })
        .await
    }

    pub async fn stopped(&mut self, id: AttemptId) {
        self.receive(|message| {
            matches!(message, FromCoordinator::Stop { attempt, .. } if attempt == id).then_some(())
        })
        .await;
    }

    pub async fn acknowledged(&mut self, attempt: AttemptId) {
        self.receive(|message| {
            (message == FromCoordinator::Acknowledged { attempt }).then_some(())
        })
        .await;
    }

    pub async fn refused(&mut self) -> String {
        self.receive(|message| match message {
            FromCoordinator::Refused { reason } => Some(reason.to_string()),
            _ => None,
        })
        .await
    }

    /// Waits until the stream is closed. Returns the status, if that was an error.
    pub async fn is_closed(&mut self) -> Option<Status> {
        patient(async {
            loop {
                match self.incoming.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return None,
                    Err(status) => return Some(status),
                }
            }
        })
        .await
    }
}
