//! The owner without a network: a journal that fails or crashes where a test wants, and workers that are tasks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use protocol::{FromCoordinator, FromWorker, Hello, v1};
use schedule::Config;
use schedule::event::{EndedAttempt, Outcome, Recorded};
use schedule::state::{Slot, State, WorkerId, WorkerInfo};
use sweep::record::{EpochRecord, Provenance, Timing, TrialResult};
use sweep::{AttemptNo, Sweep, TrialId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::clock::Clock;
use crate::message::{Change, Message, Read, Reply, Stream};
use crate::owner::Owner;
use crate::storage::{Storage, StorageFault};

/// What a process that dies leaves behind.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    stored: Vec<Recorded>,
    appends: usize,
    full: bool,
    /// The process dies at this append, counted from 0, before or after the commit.
    crash: Option<(usize, Moment)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    BeforeCommit,
    AfterCommit,
}

impl Storage for Disk {
    fn append(&mut self, entries: &[Recorded]) -> Result<(), StorageFault> {
        let mut content = self.0.lock().unwrap();
        if content.full {
            return Err(StorageFault { reason: "the disk is full".into(), is_passing: true });
        }
        let crash = content.crash.filter(|(number, _)| *number == content.appends);
        content.appends += 1;
        if !matches!(crash, Some((_, Moment::BeforeCommit))) {
            content.stored.extend_from_slice(entries);
        }
        match crash {
            Some(_) => Err(StorageFault { reason: "killed".into(), is_passing: false }),
            None => Ok(()),
        }
    }

    fn event(&mut self, number: u64) -> Option<Recorded> {
        self.0.lock().unwrap().stored.get(number as usize - 1).cloned()
    }

    fn bytes(&self) -> u64 {
        self.0.lock().unwrap().stored.len() as u64
    }
}

impl Disk {
    fn replay(&self) -> State {
        schedule::replay(&self.0.lock().unwrap().stored).unwrap()
    }

    /// A coordinator on this disk.
    fn start(&self) -> (mpsc::Sender<Message>, JoinHandle<Result<(), StorageFault>>) {
        let mut state = self.replay();
        let mut config = Config::new("test");
        config.lease_ms = 200;
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

fn sweep() -> Box<Sweep> {
    let text = "name: small\nrecipe: quick\nset: {dataset: digits, schedule: {constant: {epochs: 1}}}\naxes: {loss: [xent, cos]}\nseeds: 2\n\
                outputs: [{table: {name: table, rows: loss, columns: []}}]\n";
    Box::new(sweep::parse("small.yaml", text, &|_| Err(std::io::Error::other("none"))).unwrap())
}

fn result(trial: TrialId) -> TrialResult {
    let accuracy = (trial.bits() % 1000) as f64 / 1000.0;
    TrialResult {
        last_accuracy: accuracy,
        best_accuracy: accuracy,
        best_epoch: 0,
        last_balanced_accuracy: accuracy,
        train_loss: 0.5,
        eval_loss: 0.5,
        epochs: vec![EpochRecord { train_loss: 0.5, accuracy: Some(accuracy), state_hash: trial.to_string() }],
        provenance: Provenance::default(),
        timing: Timing::default(),
    }
}

async fn ask<T>(
    messages: &mpsc::Sender<Message>,
    message: impl FnOnce(Reply<T>) -> Message,
) -> Option<Result<T, Status>> {
    let (reply, answer) = oneshot::channel();
    messages.send(message(reply)).await.ok()?;
    answer.await.ok()
}

async fn submit(messages: &mpsc::Sender<Message>) -> Option<Result<schedule::Submission, Status>> {
    ask(messages, |reply| Message::Change(Change::Submit { sweep: sweep(), build: "test".into(), reply })).await
}

async fn status(messages: &mpsc::Sender<Message>) -> Option<v1::StatusReply> {
    ask(messages, |reply| Message::Read(Read::Status { sweep: String::new(), reply })).await.map(Result::unwrap)
}

fn stream() -> (Stream, mpsc::Receiver<Result<v1::CoordinatorMessage, Status>>) {
    let (outgoing, incoming) = mpsc::channel(64);
    (Stream { outgoing, cut: oneshot::channel().0, accepted: None }, incoming)
}

fn hello(worker: &WorkerId, connection: u64, ended: Vec<EndedAttempt>) -> Box<Hello> {
    let slot = Slot { devices: vec!["cpu".into()], uuids: Vec::new(), description: String::new() };
    let info =
        WorkerInfo { host: "host".into(), build: "test".into(), trainer: Default::default(), slots: vec![slot; 2] };
    let secret = protocol::WorkerSecret::try_from(&[7; 32][..]).unwrap();
    Box::new(Hello { worker: worker.clone(), connection, secret, info, running: Vec::new(), ended })
}

/// A worker that finishes everything at once and outlives coordinators.
struct TaskWorker {
    id: WorkerId,
    connections: u64,
    ended: BTreeMap<(TrialId, AttemptNo), EndedAttempt>,
}

impl TaskWorker {
    fn new(id: &str) -> Self {
        Self { id: WorkerId(id.into()), connections: 0, ended: BTreeMap::new() }
    }

    /// Until the stream ends.
    async fn serve(&mut self, messages: &mpsc::Sender<Message>) {
        self.connections += 1;
        let connection = self.connections;
        let (stream, mut incoming) = stream();
        let hello = hello(&self.id, connection, self.ended.values().cloned().collect());
        if messages.send(Message::Connected { hello, stream }).await.is_err() {
            return;
        }
        while let Some(Ok(message)) = incoming.recv().await {
            match FromCoordinator::try_from(message).unwrap() {
                FromCoordinator::Start { trial, attempt, .. } => {
                    let outcome = Outcome::Finished(Box::new(result(trial)));
                    let ended = EndedAttempt { trial, attempt, outcome };
                    self.ended.insert((trial, attempt), ended.clone());
                    let message = FromWorker::Ended(ended);
                    let worker = self.id.clone();
                    let _ = messages.send(Message::Said { worker, connection, message }).await;
                }
                FromCoordinator::Acknowledged { trial, attempt } => drop(self.ended.remove(&(trial, attempt))),
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
        let _ = messages.send(Message::Stop).await;
        if owner.await.unwrap().is_ok() {
            let report = report::report(&disk.replay(), "small").unwrap();
            assert!(report.complete);
            let file = report.files.into_iter().find(|(name, _)| name == "results.csv").unwrap();
            return (String::from_utf8(file.1).unwrap(), disk.0.lock().unwrap().appends);
        }
    }
}

#[tokio::test]
async fn a_crash_at_any_append_changes_no_result() {
    let (undisturbed, appends) = run_to_the_end(&Disk::default()).await;
    assert!(appends >= 3, "submission, dispatch and results are journalled one after the other");
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
    let change = Change::Submit { sweep: sweep(), build: "test".into(), reply };
    messages.send(Message::Change(change)).await.unwrap();
    // whatever is asked after it is answered while it waits
    let shown = status(&messages).await.unwrap();
    assert_eq!(shown.storage_fault, "the disk is full");
    assert!(first.try_recv().is_err(), "it is not in the journal");
    let second = submit(&messages).await.unwrap().unwrap_err();
    assert_eq!(second.code(), Code::Unavailable);
    let report = ask(&messages, |reply| Message::Read(Read::Report { sweep: "small".into(), width: 0, reply })).await;
    assert_eq!(report.unwrap().unwrap_err().code(), Code::Unavailable);
    let (stream, mut incoming) = stream();
    let worker = WorkerId("worker-1-1".into());
    messages.send(Message::Connected { hello: hello(&worker, 1, Vec::new()), stream }).await.unwrap();
    assert_eq!(incoming.recv().await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(disk.0.lock().unwrap().stored.is_empty());
    disk.0.lock().unwrap().full = false;
    assert_eq!(first.await.unwrap().unwrap().trials, 4);
    assert_eq!(disk.0.lock().unwrap().stored.len(), 1);
    assert_eq!(status(&messages).await.unwrap().storage_fault, "");
    messages.send(Message::Stop).await.unwrap();
    owner.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_worker_that_does_not_read_is_cut_off() {
    let disk = Disk::default();
    let (messages, owner) = disk.start();
    let worker = WorkerId("worker-1-1".into());
    // room for Welcome alone: the first Start finds none
    let (outgoing, mut incoming) = mpsc::channel(1);
    let (cut, is_cut) = oneshot::channel();
    let stream = Stream { outgoing, cut, accepted: None };
    messages.send(Message::Connected { hello: hello(&worker, 1, Vec::new()), stream }).await.unwrap();
    submit(&messages).await.unwrap().unwrap();
    is_cut.await.unwrap_err();
    incoming.recv().await.unwrap().unwrap();
    assert!(incoming.recv().await.is_none());
    // its attempts were never started; when it is back with its lists they are given out again
    let mut returned = TaskWorker { id: worker, connections: 1, ended: BTreeMap::new() };
    let complete = async {
        while !status(&messages).await.unwrap().sweeps[0].complete {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = returned.serve(&messages) => panic!("it reads, so its stream stays open"),
        () = complete => {}
    }
    messages.send(Message::Stop).await.unwrap();
    owner.await.unwrap().unwrap();
}

#[tokio::test]
async fn trials_are_found_by_a_unique_beginning() {
    let disk = Disk::default();
    let (messages, _owner) = disk.start();
    submit(&messages).await.unwrap().unwrap();
    let explain = async |text: &str| {
        let trial = text.to_owned();
        ask(&messages, |reply| Message::Read(Read::Explain { trial, reply })).await.unwrap()
    };
    let state = disk.replay();
    for id in state.trials.keys() {
        let id = id.to_string();
        assert!(explain(&id).await.unwrap().text.contains(&id));
        assert!(explain(&id[..15].to_uppercase()).await.unwrap().text.contains(&id));
    }
    assert_eq!(explain("").await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(explain("xyz").await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(explain("0000000000000000").await.unwrap_err().code(), Code::NotFound);
}
