//! Prints what people wait for at a coordinator with one large sweep whose trials have all ended:
//! the figures of docs/performance.md.
//!
//! `cargo run --release -p coordinator --example scale -- TRIALS [DIRECTORY]`. The journal goes to
//! DIRECTORY (default: the system's temporary one) and is removed afterwards. Each trial has one
//! attempt and a result of one epoch. A second process opens the journal, so that its memory is
//! that of a coordinator which was started again, and of a client that keeps nothing.

use std::error::Error;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coordinator::{Coordinator, Listen, Options};
use journal::Journal;
use protocol::limits::MAX_MESSAGE_BYTES;
use protocol::v1::control_client::ControlClient;
use protocol::v1::report_chunk::Chunk;
use protocol::{Token, v1};
use schedule::event::{Effect, EndedAttempt, Input, Outcome};
use schedule::state::{SecretHash, Slot, State, WorkerId, WorkerInfo};
use schedule::{CheckedSweep, Config, restart, turn};
use sweep::AttemptId;
use sweep::record::{EpochRecord, Provenance, TrialResult};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

type Outcomes<T> = Result<T, Box<dyn Error + Send + Sync>>;

const SLOTS: usize = 500;
const SEEDS: u32 = 10;
const SWEEP: &str = "large";
/// How long the owner's answers are timed, alone and beside people who poll.
const TIMED: Duration = Duration::from_secs(10);
const PEOPLE: usize = 3;

fn main() -> Outcomes<()> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().ok_or("name the number of trials")?;
    if first == "ask" {
        let directory = arguments.next().ok_or("name the directory")?;
        return tokio::runtime::Runtime::new()?.block_on(ask(Path::new(&directory)));
    }
    let directory = arguments
        .next()
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = directory.join(format!("orchestrator-scale-{}", std::process::id()));
    let measured = fill(first.parse()?, &directory).and_then(|()| {
        let status = Command::new(std::env::current_exe()?)
            .arg("ask")
            .arg(&directory)
            .status()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the second process ended with {status}").into())
        }
    });
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    measured
}

/// Submits, dispatches and ends every trial, many to a turn.
fn fill(trials: u32, directory: &Path) -> Outcomes<()> {
    let config = Config::new("scale");
    let mut state = State::default();
    restart(&mut state, 1);
    let mut journal = Journal::open(directory)?;
    let sweep = grid(trials)?;
    let started = Instant::now();
    let sweep = CheckedSweep::new(sweep)?;
    println!(
        "check a sweep, beside the owner: {:.2} s",
        started.elapsed().as_secs_f64()
    );
    let started = Instant::now();
    let submitted = turn(&mut state, &config, &[Input::Submit { sweep }], 1).recorded;
    journal.append(&submitted)?;
    println!(
        "submit {} trials, the owner's turn with its append: {:.2} s",
        state.trials.len(),
        started.elapsed().as_secs_f64()
    );
    let worker = WorkerId("host-1-abcdef".into());
    let slot = Slot {
        devices: vec!["cpu".to_owned()],
        uuids: Vec::new(),
        description: "1 thread".to_owned(),
    };
    let info = WorkerInfo {
        host: "host-1".to_owned(),
        build: "scale".to_owned(),
        trainer: Default::default(),
        slots: vec![slot; SLOTS],
        allocation: None,
        leaves_at_ms: None,
    };
    let joined = Input::Connected {
        worker: worker.clone(),
        connection: 1,
        secret: SecretHash::new([0; 32]),
        info,
        running: Vec::new(),
        ended: Vec::new(),
    };
    let mut inputs = vec![joined];
    let mut now = 1;
    while !inputs.is_empty() {
        now += 1;
        let turn = turn(&mut state, &config, &inputs, now);
        journal.append(&turn.recorded)?;
        let started = turn.effects.into_iter().filter_map(|effect| match effect {
            Effect::Start { attempt, .. } => Some(attempt),
            _ => None,
        });
        inputs = started.map(|attempt| end(&worker, attempt)).collect();
    }
    let done = state.sweeps[SWEEP].counts.succeeded;
    println!(
        "{done} trials ended, journal {:.0} MiB",
        journal.bytes() as f64 / 1048576.0
    );
    Ok(())
}

async fn ask(directory: &Path) -> Outcomes<()> {
    let started = Instant::now();
    let token = Token::random()?;
    let options = Options {
        listen: Listen::Bound(TcpListener::bind(("127.0.0.1", 0))?),
        state_dir: directory.to_owned(),
        token: Some(token.clone()),
        token_file: None,
        config: Config::new("scale"),
    };
    let coordinator = Coordinator::start(options).await?;
    show("start again (replay)", started, "")?;
    let channel = Endpoint::from_shared(format!("http://{}", coordinator.address()))?
        .connect()
        .await?;
    let client = Client(channel, token);
    for what in ["status", "status again"] {
        let started = Instant::now();
        let reply = client
            .control()
            .status(v1::StatusRequest {
                sweep: String::new(),
            })
            .await?
            .into_inner();
        show(
            what,
            started,
            &format!("{} trials", reply.sweeps[0].succeeded),
        )?;
    }
    for (what, files) in [
        ("table", v1::ReportFiles::None),
        ("table, unchanged", v1::ReportFiles::None),
        ("table as JSON", v1::ReportFiles::Json),
        ("every file of the results folder", v1::ReportFiles::All),
    ] {
        let started = Instant::now();
        let bytes = client.report(files).await?;
        show(what, started, &format!("{:.1} MB", bytes as f64 / 1e6))?;
    }
    let started = Instant::now();
    let request = v1::WhyRequest {
        sweep: SWEEP.to_owned(),
        cell: "0.001/1".to_owned(),
    };
    let why = client.control().why(request).await?.into_inner();
    show(
        "why of one cell",
        started,
        &format!("{:.1} kB", why.json.len() as f64 / 1e3),
    )?;
    let started = Instant::now();
    let mut tail = client
        .control()
        .tail(v1::TailRequest {
            sweep: SWEEP.to_owned(),
        })
        .await?
        .into_inner();
    tail.message().await?;
    show("tail, to its first message", started, "")?;

    println!(
        "an answer of the owner, with no other request under way: {}",
        client.owner_answers().await?
    );
    let started = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let polls = Arc::new(AtomicU64::new(0));
    let people: Vec<_> = (0..PEOPLE)
        .map(|_| {
            let (client, stop, polls) = (client.clone(), stop.clone(), polls.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    client.report(v1::ReportFiles::All).await?;
                    polls.fetch_add(1, Ordering::Relaxed);
                }
                Outcomes::Ok(())
            })
        })
        .collect();
    let answers = client.owner_answers().await?;
    stop.store(true, Ordering::Relaxed);
    for person in people {
        person.await??;
    }
    println!("the same while {PEOPLE} people fetch every file: {answers}");
    show(
        "until the last of them is done",
        started,
        &format!("{} reports", polls.load(Ordering::Relaxed)),
    )?;
    coordinator.shutdown().await?;
    Ok(())
}

#[derive(Clone)]
struct Client(Channel, Token);

type Control = ControlClient<InterceptedService<Channel, WithToken>>;

#[derive(Clone)]
struct WithToken(Token);

impl Interceptor for WithToken {
    fn call(&mut self, request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        protocol::token::attach(Some(self.0.clone()))(request)
    }
}

impl Client {
    fn control(&self) -> Control {
        let control = ControlClient::with_interceptor(self.0.clone(), WithToken(self.1.clone()));
        control.max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Bytes of the text and the files.
    async fn report(&self, files: v1::ReportFiles) -> Outcomes<usize> {
        let request = v1::ReportRequest {
            sweep: SWEEP.to_owned(),
            width: 120,
            files: files.into(),
            tables_only: false,
        };
        let mut chunks = self.control().get_report(request).await?.into_inner();
        let mut bytes = 0;
        while let Some(chunk) = chunks.message().await? {
            match chunk.chunk {
                Some(Chunk::Text(piece)) => bytes += piece.len(),
                Some(Chunk::Content(piece)) => bytes += piece.len(),
                Some(Chunk::End(_)) => return Ok(bytes),
                _ => {}
            }
        }
        Err("the report was cut off".into())
    }

    /// A question that takes the owner no work, every few milliseconds.
    async fn owner_answers(&self) -> Outcomes<String> {
        let mut control = self.control();
        let mut times = Vec::new();
        let until = Instant::now() + TIMED;
        while Instant::now() < until {
            let started = Instant::now();
            let refused = control
                .explain(v1::ExplainRequest {
                    trial: "t0000000000000000".to_owned(),
                })
                .await;
            times.push(started.elapsed());
            if refused.is_ok() {
                return Err("a trial has this id".into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        times.sort_unstable();
        let at =
            |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        Ok(format!(
            "p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms",
            at(0.5),
            at(0.99),
            at(1.0)
        ))
    }
}

/// Prints what was done since the last line, with the peak of the memory meanwhile.
fn show(what: &str, started: Instant, more: &str) -> Outcomes<()> {
    let seconds = started.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .ok_or("no VmHWM")?;
    let kib: f64 = peak.trim().trim_end_matches(" kB").parse()?;
    let more = if more.is_empty() {
        String::new()
    } else {
        format!(", {more}")
    };
    println!(
        "{what}: {seconds:.2} s, peak memory {:.0} MiB{more}",
        kib / 1024.0
    );
    // the next peak is counted from what is held now
    std::fs::write("/proc/self/clear_refs", "5")?;
    Ok(())
}

fn grid(trials: u32) -> Outcomes<sweep::Sweep> {
    let cells = trials / SEEDS;
    let rates: Vec<String> = (1..=1_000.min(cells))
        .map(|value| format!("{}", f64::from(value) / 10_000.0))
        .collect();
    let kept: Vec<String> = (1..=(cells / rates.len() as u32).max(1))
        .map(|count| count.to_string())
        .collect();
    let text = format!(
        "name: {SWEEP}\nrecipe: quick\nset: {{dataset: digits, schedule: {{constant: {{epochs: 1}}}}}}\nseeds: {SEEDS}\n\
         limits: {{trials: {trials}}}\naxes:\n  learning_rate: [{}]\n  samples_per_class: [{}]\n",
        rates.join(", "),
        kept.join(", ")
    );
    let no_file = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    sweep::parse("large.yaml", &text, &no_file).map_err(|errors| errors.to_string().into())
}

fn end(worker: &WorkerId, attempt: AttemptId) -> Input {
    let accuracy = (attempt.trial.bits() % 1000) as f64 / 1000.0;
    let epoch = EpochRecord {
        train_loss: 0.5,
        accuracy: Some(accuracy),
        state_hash: "0123456789abcdef".to_owned(),
        ..EpochRecord::default()
    };
    let provenance = Provenance {
        trainer: "0.1.0 (0123456)".to_owned(),
        libtorch: "2.11.0".to_owned(),
        devices: vec!["cpu (1 thread)".to_owned()],
        host: "host-1".to_owned(),
        precision: "f32".to_owned(),
        data_fingerprint: "0123456789abcdef".to_owned(),
        ..Provenance::default()
    };
    let result = TrialResult {
        classes: None,
        last_accuracy: accuracy,
        best_accuracy: accuracy,
        best_epoch: 0,
        last_balanced_accuracy: accuracy,
        train_loss: 0.5,
        eval_loss: 0.5,
        epochs: vec![epoch],
        provenance,
        timing: Default::default(),
    };
    let outcome = Outcome::Finished(Box::new(result));
    Input::Ended {
        worker: worker.clone(),
        ended: EndedAttempt {
            id: attempt,
            outcome,
        },
    }
}
