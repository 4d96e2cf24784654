//! The owner without a network: a journal that fails or crashes where a test requires it, and
//! workers that are tasks.

mod reports;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use protocol::{DiskUse, FromCoordinator, FromWorker, Hello, v1};
use schedule::event::{EndedAttempt, Input, Outcome, Recorded};
use schedule::state::{Slot, State, WorkerId, WorkerInfo};
use schedule::{CheckedSweep, Config};
use sweep::record::{EpochRecord, Failure, FailureClass, Provenance, Timing, TrialResult};
use sweep::{AttemptId, TrialId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic::{Code, Status};
use v1::{ReportFiles, report_chunk::Chunk};

use crate::clock::Clock;
use crate::outbox::{OutboxStream, outbox};
use crate::owner::Owner;
use crate::reports::{Reports, Text};
use crate::requests::{OwnerRequest, Question, Reply, Stream};
use crate::storage::{Storage, StorageFault};
use crate::stored_results::result_of;

/// State that survives the death of a process.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    stored: Vec<Recorded>,
    appends: usize,
    full: bool,
    /// Reading an event panics, like a bug in the program.
    faulty: bool,
    /// The process dies at this append, counted from 0, before or after the commit.
    crash: Option<(usize, Moment)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    BeforeCommit,
    AfterCommit,
}

impl report::StoredResults for Disk {
    fn result(&mut self, event: u64) -> std::io::Result<TrialResult> {
        result_of(self.event(event), event)
    }
}

impl Storage for Disk {
    fn append(&mut self, entries: &[Recorded]) -> Result<(), StorageFault> {
        let mut content = self.0.lock().unwrap();
        if content.full {
            return Err(StorageFault {
                reason: "the disk is full".into(),
                is_passing: true,
            });
        }
        let crash = content
            .crash
            .filter(|(number, _)| *number == content.appends);
        content.appends += 1;
        if !matches!(crash, Some((_, Moment::BeforeCommit))) {
            content.stored.extend_from_slice(entries);
        }
        match crash {
            Some(_) => Err(StorageFault {
                reason: "killed".into(),
                is_passing: false,
            }),
            None => Ok(()),
        }
    }

    fn event(&mut self, number: u64) -> Option<Recorded> {
        let content = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let entry = content.stored.get(number as usize - 1).cloned();
        let faulty = content.faulty;
        drop(content);
        assert!(!faulty, "a fault that a test wants");
        entry
    }

    fn bytes(&self) -> u64 {
        self.0.lock().unwrap().stored.len() as u64
    }
}

impl Disk {
    fn replay(&self) -> State {
        schedule::replay(&self.0.lock().unwrap().stored).unwrap()
    }

    /// Starts a coordinator on this disk, whose leases are so short that lost workers cost no time.
    fn start(
        &self,
    ) -> (
        mpsc::Sender<OwnerRequest>,
        JoinHandle<Result<(), StorageFault>>,
    ) {
        self.start_with_lease(200)
    }

    /// Starts a coordinator on this disk with leases of this many milliseconds.
    fn start_with_lease(
        &self,
        lease_ms: u64,
    ) -> (
        mpsc::Sender<OwnerRequest>,
        JoinHandle<Result<(), StorageFault>>,
    ) {
        let mut state = self.replay();
        let mut config = Config::new("test");
        config.lease_ms = lease_ms;
        for budget in [&mut config.budgets.unreachable, &mut config.budgets.crashed] {
            (budget.first_ms, budget.then_ms, budget.most_ms) = (0, 0, 0);
        }
        let clock = Clock::start(0);
        schedule::restart(&mut state, clock.now());
        let (messages, inbox) = mpsc::channel(256);
        let owner = Owner::new(state, config, clock, Box::new(self.clone()));
        (messages, tokio::spawn(owner.run(inbox)))
    }
}

fn sweep() -> CheckedSweep {
    let text = "name: small\nrecipe: quick\nset: {dataset: digits, schedule: {constant: {epochs: 1}}}\naxes: {loss: [xent, cos]}\nseeds: 2\n\
                outputs: [{table: {name: table, rows: loss, columns: []}}]\n";
    let none = |_: &str| Err(std::io::Error::other("none"));
    CheckedSweep::new(sweep::parse("small.yaml", text, &none).unwrap()).unwrap()
}

fn result(trial: TrialId) -> TrialResult {
    let accuracy = (trial.bits() % 1000) as f64 / 1000.0;
    TrialResult {
        classes: None,
        last_accuracy: accuracy,
        best_accuracy: accuracy,
        best_epoch: 0,
        last_balanced_accuracy: accuracy,
        train_loss: 0.5,
        eval_loss: 0.5,
        epochs: vec![EpochRecord {
            train_loss: 0.5,
            accuracy: Some(accuracy),
            state_hash: trial.to_string(),
            ..EpochRecord::default()
        }],
        provenance: Provenance::default(),
        timing: Timing::default(),
    }
}

async fn ask<T>(
    messages: &mpsc::Sender<OwnerRequest>,
    message: impl FnOnce(Reply<T>) -> OwnerRequest,
) -> Option<Result<T, Status>> {
    let (reply, answer) = oneshot::channel();
    messages.send(message(reply)).await.ok()?;
    answer.await.ok()
}

async fn submit(
    messages: &mpsc::Sender<OwnerRequest>,
) -> Option<Result<schedule::Submission, Status>> {
    let input = Input::Submit { sweep: sweep() };
    let answer = ask(messages, |reply| OwnerRequest::Command { input, reply }).await?;
    Some(answer.map(|answer| answer.submission))
}

async fn status(messages: &mpsc::Sender<OwnerRequest>) -> Option<v1::StatusReply> {
    ask(messages, |reply| {
        OwnerRequest::Question(Question::Status {
            sweep: String::new(),
            reply,
        })
    })
    .await
    .map(Result::unwrap)
}

fn stream() -> (Stream, OutboxStream<v1::CoordinatorMessage>) {
    let (outgoing, incoming) = outbox(1 << 20);
    (
        Stream {
            outgoing,
            cut: oneshot::channel().0,
            accepted: None,
        },
        incoming,
    )
}

fn hello(worker: &WorkerId, connection: u64, ended: Vec<EndedAttempt>) -> Box<Hello> {
    let slot = Slot {
        devices: vec!["cpu".into()],
        uuids: Vec::new(),
        description: String::new(),
    };
    let info = WorkerInfo {
        host: "host".into(),
        build: "test".into(),
        trainer: Default::default(),
        slots: vec![slot; 2],
        allocation: None,
        leaves_at_ms: None,
    };
    let secret = protocol::WorkerSecret::try_from(&[7; 32][..]).unwrap();
    Box::new(Hello {
        worker: worker.clone(),
        connection,
        secret,
        info,
        running: Vec::new(),
        ended,
    })
}

/// A worker that finishes everything at once and outlives coordinators.
struct TaskWorker {
    id: WorkerId,
    connections: u64,
    ended: BTreeMap<AttemptId, EndedAttempt>,
}

impl TaskWorker {
    fn new(id: &str) -> Self {
        Self {
            id: WorkerId(id.into()),
            connections: 0,
            ended: BTreeMap::new(),
        }
    }

    /// Serves until the stream ends.
    async fn serve(&mut self, messages: &mpsc::Sender<OwnerRequest>) {
        self.connections += 1;
        let connection = self.connections;
        let (stream, mut incoming) = stream();
        let hello = hello(&self.id, connection, self.ended.values().cloned().collect());
        if messages
            .send(OwnerRequest::Connected { hello, stream })
            .await
            .is_err()
        {
            return;
        }
        while let Some(Ok(message)) = incoming.next().await {
            match FromCoordinator::try_from(message).unwrap() {
                FromCoordinator::Start { attempt, .. } => {
                    let outcome = Outcome::Finished(Box::new(result(attempt.trial)));
                    let ended = EndedAttempt {
                        id: attempt,
                        outcome,
                    };
                    self.ended.insert(attempt, ended.clone());
                    let message = FromWorker::Ended(ended);
                    let worker = self.id.clone();
                    let _ = messages
                        .send(OwnerRequest::Received {
                            worker,
                            connection,
                            message,
                        })
                        .await;
                }
                FromCoordinator::Acknowledged { attempt } => drop(self.ended.remove(&attempt)),
                _ => {}
            }
        }
    }
}

/// Runs the sweep to its end, through crashes; returns `results.csv` and the number of appends.
async fn run_to_the_end(disk: &Disk) -> (String, usize) {
    let mut worker = TaskWorker::new("worker-1-1");
    loop {
        let (messages, owner) = disk.start();
        let person = {
            let messages = messages.clone();
            async move {
                let _ = submit(&messages).await;
                while let Some(status) = status(&messages).await {
                    if status.sweeps.first().is_some_and(|sweep| sweep.complete) {
                        return;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            }
        };
        tokio::select! {
            () = worker.serve(&messages) => {}
            () = person => {}
        }
        let _ = messages.send(OwnerRequest::Stop).await;
        if owner.await.unwrap().is_ok() {
            let report = report::report(&disk.replay(), &mut disk.clone(), "small").unwrap();
            assert!(report.complete);
            let file = report
                .files
                .into_iter()
                .find(|(name, _)| name == "results.csv")
                .unwrap();
            return (
                String::from_utf8(file.1).unwrap(),
                disk.0.lock().unwrap().appends,
            );
        }
    }
}

#[tokio::test]
async fn a_crash_at_any_append_changes_no_result() {
    let (undisturbed, appends) = run_to_the_end(&Disk::default()).await;
    assert!(
        appends >= 3,
        "submission, dispatch and results are journalled one after the other"
    );
    for number in 0..appends {
        for moment in [Moment::BeforeCommit, Moment::AfterCommit] {
            let disk = Disk::default();
            disk.0.lock().unwrap().crash = Some((number, moment));
            let (results, _) = run_to_the_end(&disk).await;
            assert_eq!(results, undisturbed, "crash at append {number}, {moment:?}");
        }
    }
}

#[tokio::test]
async fn while_the_journal_fails_nothing_is_acknowledged_and_then_everything_is() {
    let disk = Disk::default();
    let (messages, owner) = disk.start();
    disk.0.lock().unwrap().full = true;
    let (reply, mut first) = oneshot::channel();
    let input = Input::Submit { sweep: sweep() };
    messages
        .send(OwnerRequest::Command { input, reply })
        .await
        .unwrap();
    // Questions after it are answered while it waits.
    let shown = status(&messages).await.unwrap();
    assert_eq!(shown.storage_fault, "the disk is full");
    assert!(first.try_recv().is_err(), "it is not in the journal");
    let second = submit(&messages).await.unwrap().unwrap_err();
    assert_eq!(second.code(), Code::Unavailable);
    let snapshot = |reply| {
        OwnerRequest::Question(Question::Snapshot {
            sweep: "small".into(),
            known: None,
            reply,
        })
    };
    let report = ask(&messages, snapshot).await;
    assert_eq!(report.unwrap().unwrap_err().code(), Code::Unavailable);
    let (stream, mut incoming) = stream();
    let worker = WorkerId("worker-1-1".into());
    messages
        .send(OwnerRequest::Connected {
            hello: hello(&worker, 1, Vec::new()),
            stream,
        })
        .await
        .unwrap();
    assert_eq!(
        incoming.next().await.unwrap().unwrap_err().code(),
        Code::Unavailable
    );
    assert!(disk.0.lock().unwrap().stored.is_empty());
    disk.0.lock().unwrap().full = false;
    assert_eq!(first.await.unwrap().unwrap().submission.trials, 4);
    assert_eq!(disk.0.lock().unwrap().stored.len(), 1);
    assert_eq!(status(&messages).await.unwrap().storage_fault, "");
    messages.send(OwnerRequest::Stop).await.unwrap();
    owner.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_worker_that_does_not_read_is_cut_off() {
    let disk = Disk::default();
    let (messages, owner) = disk.start_with_lease(60_000);
    let worker = WorkerId("worker-1-1".into());
    // The outbox has room for Welcome alone, not for the first Start.
    let (outgoing, mut incoming) = outbox(1);
    let (cut, is_cut) = oneshot::channel();
    let stream = Stream {
        outgoing,
        cut,
        accepted: None,
    };
    messages
        .send(OwnerRequest::Connected {
            hello: hello(&worker, 1, Vec::new()),
            stream,
        })
        .await
        .unwrap();
    submit(&messages).await.unwrap().unwrap();
    is_cut.await.unwrap_err();
    incoming.next().await.unwrap().unwrap();
    assert_eq!(
        incoming.next().await.unwrap().unwrap_err().code(),
        Code::Aborted
    );
    assert!(incoming.next().await.is_none());
    // Its attempts never started; when it returns with its lists they are started again.
    let mut returned = TaskWorker {
        id: worker,
        connections: 1,
        ended: BTreeMap::new(),
    };
    let complete = async {
        while !status(&messages).await.unwrap().sweeps[0].complete {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = returned.serve(&messages) => panic!("it reads, so its stream stays open"),
        () = complete => {}
    }
    messages.send(OwnerRequest::Stop).await.unwrap();
    owner.await.unwrap().unwrap();
}

#[tokio::test]
async fn trials_are_found_by_a_unique_beginning() {
    let disk = Disk::default();
    let (messages, _owner) = disk.start();
    submit(&messages).await.unwrap().unwrap();
    let explain = async |text: &str| {
        let trial = text.to_owned();
        ask(&messages, |reply| {
            OwnerRequest::Question(Question::Explain { trial, reply })
        })
        .await
        .unwrap()
    };
    let state = disk.replay();
    for id in state.trials.keys() {
        let id = id.to_string();
        assert!(explain(&id).await.unwrap().text.contains(&id));
        assert!(
            explain(&id[..15].to_uppercase())
                .await
                .unwrap()
                .text
                .contains(&id)
        );
    }
    let of_cell = explain("xent").await.unwrap().text;
    assert!(of_cell.contains("small: xent, seed"), "{of_cell}");
    for (selector, reason) in [
        ("last", "no trial has started"),
        ("failed", "no trial has failed"),
    ] {
        let refused = explain(selector).await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::NotFound, reason)
        );
    }
    assert_eq!(explain("").await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(
        explain("xyz").await.unwrap_err().code(),
        Code::InvalidArgument
    );
    assert_eq!(
        explain("0000000000000000").await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn a_trial_is_described_with_its_settings_and_its_curve() {
    let disk = Disk::default();
    run_to_the_end(&disk).await;
    let (messages, _owner) = disk.start();
    let state = disk.replay();
    let id = *state.trials.keys().next().unwrap();
    let trial = id.to_string();
    let question = |reply| {
        OwnerRequest::Question(Question::Trial {
            trial,
            origins: false,
            reply,
        })
    };
    let described = ask(&messages, question).await.unwrap().unwrap();
    let point = &described.curve[0];
    assert_eq!((point.epoch, point.train_loss), (1, Some(0.5)));
    let settings: serde_json::Value = serde_json::from_slice(&described.settings_json).unwrap();
    assert_eq!(settings["dataset"], "digits");
    assert_eq!(described.worker, "worker-1-1");
    assert_eq!(described.log, format!("logs/{id}/attempt-1.stderr"));
    assert!(described.explanation.contains("succeeded"));
}

#[tokio::test]
async fn a_panic_while_answering_answers_that_question_and_nothing_else() {
    let disk = Disk::default();
    let (messages, owner) = disk.start();
    submit(&messages).await.unwrap().unwrap();
    let worker = WorkerId("worker-1-1".into());
    let (stream, mut incoming) = stream();
    messages
        .send(OwnerRequest::Connected {
            hello: hello(&worker, 1, Vec::new()),
            stream,
        })
        .await
        .unwrap();
    let attempt = loop {
        match FromCoordinator::try_from(incoming.next().await.unwrap().unwrap()).unwrap() {
            FromCoordinator::Start { attempt, .. } => break attempt,
            _ => continue,
        }
    };
    let outcome = Outcome::Failed(Failure::new(FailureClass::BadInput, "no data".to_owned()));
    let message = FromWorker::Ended(EndedAttempt {
        id: attempt,
        outcome,
    });
    messages
        .send(OwnerRequest::Received {
            worker,
            connection: 1,
            message,
        })
        .await
        .unwrap();
    let explain = async || {
        let trial = attempt.trial.to_string();
        ask(&messages, |reply| {
            OwnerRequest::Question(Question::Explain { trial, reply })
        })
        .await
        .unwrap()
    };
    disk.0.lock().unwrap().faulty = true;
    let refused = explain().await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    assert!(
        refused.message().contains("its log has the details"),
        "{refused}"
    );
    assert_eq!(
        status(&messages).await.unwrap().sweeps[0].failed,
        1,
        "others are answered"
    );
    disk.0.lock().unwrap().faulty = false;
    assert!(explain().await.unwrap().text.contains("no data"));
    messages.send(OwnerRequest::Stop).await.unwrap();
    owner.await.unwrap().unwrap();
}

#[tokio::test]
async fn numbers_of_a_lying_worker_do_not_end_the_coordinator() {
    let disk = Disk::default();
    let (messages, owner) = disk.start();
    let mut open = Vec::new();
    for name in ["worker-1-1", "worker-2-1"] {
        let worker = WorkerId(name.into());
        let (stream, mut incoming) = stream();
        messages
            .send(OwnerRequest::Connected {
                hello: hello(&worker, 1, Vec::new()),
                stream,
            })
            .await
            .unwrap();
        incoming.next().await.expect("it is welcome").unwrap();
        open.push(incoming);
        let disk = DiskUse {
            checkpoint_bytes: u64::MAX,
            work_dir_bytes: u64::MAX,
            seen: Vec::new(),
        };
        let message = FromWorker::Heartbeat {
            running: Vec::new(),
            disk,
        };
        messages
            .send(OwnerRequest::Received {
                worker,
                connection: 1,
                message,
            })
            .await
            .unwrap();
    }
    assert_eq!(status(&messages).await.unwrap().checkpoint_bytes, u64::MAX);
    messages.send(OwnerRequest::Stop).await.unwrap();
    owner.await.unwrap().unwrap();
}
