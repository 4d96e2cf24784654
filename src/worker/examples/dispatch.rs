//! Measures the control plane with workers that finish every trial at once: trials per second, and
//! the time from reporting the end of an attempt to receiving the next start, including the journal
//! on disk.
//!
//! `cargo run --release -p worker --example dispatch -- TRIALS WORKERS SLOTS [STATE_DIR]`

use std::time::{Duration, Instant};

use coordinator::{Coordinator, Listen, Options};
use protocol::limits::MAX_MESSAGE_BYTES;
use protocol::v1::control_client::ControlClient;
use protocol::v1::fleet_client::FleetClient;
use protocol::{DiskUse, FromCoordinator, FromWorker, Hello, v1};
use schedule::event::{EndedAttempt, Outcome};
use schedule::state::{Slot, WorkerId, WorkerInfo};
use sweep::record::{EpochRecord, Provenance, Timing, TrialResult};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: usize| {
        arguments
            .get(index)
            .map_or(default, |text| text.parse().unwrap())
    };
    let (trials, workers, slots) = (number(0, 5_000), number(1, 4), number(2, 8));
    let temporary = tempfile::tempdir().unwrap();
    let state_dir = arguments
        .get(3)
        .map_or_else(|| temporary.path().to_owned(), Into::into);
    let listen = Listen::Address("127.0.0.1:0".parse().unwrap());
    let config = schedule::Config::new("measured");
    let handle = Coordinator::start(Options {
        listen,
        state_dir,
        token: None,
        token_file: None,
        config,
    })
    .await
    .unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", handle.address()))
        .unwrap()
        .tcp_nodelay(true);
    let mut peers = Vec::new();
    for index in 0..workers {
        peers.push(tokio::spawn(worker(
            endpoint.connect().await.unwrap(),
            index,
            slots,
        )));
    }
    let channel = endpoint.connect().await.unwrap();
    let mut control = ControlClient::new(channel).max_encoding_message_size(MAX_MESSAGE_BYTES);
    let started = Instant::now();
    let reply = control
        .submit(v1::SubmitRequest::new(&sweep(trials), "measured").unwrap())
        .await
        .unwrap()
        .into_inner();
    let submitted = started.elapsed();
    let mut tail = control
        .tail(v1::TailRequest { sweep: reply.sweep })
        .await
        .unwrap()
        .into_inner();
    while let Some(message) = tail.message().await.unwrap() {
        if let Some(v1::tail_message::Message::Complete(_)) = message.message {
            break;
        }
    }
    let elapsed = started.elapsed();
    let status = control
        .status(v1::StatusRequest {
            sweep: String::new(),
        })
        .await
        .unwrap()
        .into_inner();
    handle.shutdown().await.unwrap();
    let mut latencies = Vec::new();
    for peer in peers {
        latencies.extend(peer.await.unwrap());
    }
    print(
        reply.trials,
        (workers, slots),
        submitted,
        elapsed,
        status.journal_bytes,
        latencies,
    );
}

fn print(
    trials: u64,
    (workers, slots): (usize, usize),
    submitted: Duration,
    elapsed: Duration,
    journal_bytes: u64,
    mut latencies: Vec<Duration>,
) {
    latencies.sort();
    let quantile =
        |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let rate = trials as f64 / (elapsed - submitted).as_secs_f64();
    println!("{trials} trials, {workers} workers with {slots} slots each");
    println!("submitted in {:.1} ms", submitted.as_secs_f64() * 1e3);
    println!("{rate:.0} trials per second");
    println!(
        "from an attempt's end to the next start: p50 {:.2} ms, p99 {:.2} ms",
        quantile(0.5),
        quantile(0.99)
    );
    println!(
        "journal: {:.0} bytes per trial",
        journal_bytes as f64 / trials as f64
    );
}

fn sweep(trials: usize) -> sweep::Sweep {
    let seeds = trials.div_ceil(4);
    let text = format!(
        "name: measured\nrecipe: quick\nlimits: {{trials: {}}}\nset: {{dataset: digits, schedule: {{constant: {{epochs: 30}}}}}}\n\
         axes: {{loss: [xent, cos], samples_per_class: [5, 10]}}\nseeds: {seeds}\n\
         outputs: [{{table: {{name: table, rows: loss, columns: samples_per_class}}}}]\n",
        seeds * 4
    );
    sweep::parse("measured.yaml", &text, &|_| {
        Err(std::io::Error::other("none"))
    })
    .unwrap_or_else(|errors| {
        eprintln!("{errors}");
        std::process::exit(1)
    })
}

/// Ends every attempt at once. Returns the time from each end to the next start in any slot.
async fn worker(channel: Channel, index: usize, slots: usize) -> Vec<Duration> {
    let (outgoing, messages) = mpsc::channel::<v1::WorkerMessage>(1024);
    let slot = Slot {
        devices: vec!["cpu".into()],
        uuids: Vec::new(),
        description: String::new(),
    };
    let info = WorkerInfo {
        host: format!("host-{index}"),
        build: "measured".into(),
        trainer: Default::default(),
        slots: vec![slot; slots],
        allocation: None,
        leaves_at_ms: None,
    };
    let worker = WorkerId(format!("host-{index}-1-1").into());
    let secret = protocol::WorkerSecret::random().unwrap();
    let hello = Hello {
        worker,
        connection: 1,
        secret,
        info,
        running: Vec::new(),
        ended: Vec::new(),
    };
    outgoing
        .send(FromWorker::Hello(hello).into())
        .await
        .unwrap();
    let mut client = FleetClient::new(channel);
    let mut incoming = client
        .connect(ReceiverStream::new(messages))
        .await
        .unwrap()
        .into_inner();
    let mut ended_at: Vec<Option<Instant>> = vec![None; slots];
    let mut latencies = Vec::new();
    let mut beat = tokio::time::interval(Duration::from_secs(1));
    loop {
        let message = tokio::select! {
            message = incoming.message() => message,
            _ = beat.tick() => {
                let heartbeat = FromWorker::Heartbeat { running: Vec::new(), disk: DiskUse::default() };
                let _ = outgoing.try_send(heartbeat.into());
                continue;
            }
        };
        let Ok(Some(message)) = message else {
            return latencies;
        };
        if let FromCoordinator::Start { attempt, slot, .. } = message.try_into().unwrap() {
            latencies.extend(ended_at[slot as usize].map(|ended| ended.elapsed()));
            let outcome = Outcome::Finished(Box::new(result()));
            ended_at[slot as usize] = Some(Instant::now());
            let ended = FromWorker::Ended(EndedAttempt {
                id: attempt,
                outcome,
            });
            if outgoing.send(ended.into()).await.is_err() {
                return latencies;
            }
        }
    }
}

/// The result of a trial of 30 epochs.
fn result() -> TrialResult {
    let epoch = EpochRecord {
        train_loss: 0.5,
        accuracy: Some(0.5),
        state_hash: "0123456789abcdef".into(),
        ..EpochRecord::default()
    };
    TrialResult {
        classes: None,
        last_accuracy: 0.5,
        best_accuracy: 0.5,
        best_epoch: 0,
        last_balanced_accuracy: 0.5,
        train_loss: 0.5,
        eval_loss: 0.5,
        epochs: vec![epoch; 30],
        provenance: Provenance::default(),
        timing: Timing::default(),
    }
}
