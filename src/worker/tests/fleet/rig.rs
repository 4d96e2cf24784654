//! A coordinator, its workers and a command, in one process and one temporary directory.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coordinator::Coordinator;
use protocol::limits::MAX_MESSAGE_BYTES;
use protocol::v1::control_client::ControlClient;
use protocol::{Token, v1};
use schedule::Config;
use schedule::event::{Event, Recorded};
use schedule::state::{Slot, SweepTrial};
use sweep::Sweep;
use sweep::keep::Kept;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use v1::report_chunk::Chunk;
use v1::tail_message::Message;
use worker::{Handle, Options, Place, Timing};

use crate::peer::Peer;

/// Waits with a timeout: nothing in these tests takes long, and a test must not hang for ever.
pub async fn patient<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("it hangs")
}

/// Returns the whole HTTP answer, head and body.
pub async fn get(port: u16, path: &str, authorization: Option<&str>) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let authorization =
        authorization.map_or_else(String::new, |value| format!("authorization: {value}\r\n"));
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{authorization}\r\n"
    );
    let mut connection = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    patient(connection.read_to_string(&mut answer))
        .await
        .unwrap();
    answer
}

const SWEEP: &str = "name: small\nrecipe: quick\n\
    set: {dataset: digits, schedule: {constant: {epochs: 5}}}\n\
    axes: {loss: [xent, cos, mse], samples_per_class: [5, 10]}\nseeds: 2\n\
    outputs: [{table: {name: table, rows: loss, columns: samples_per_class}}]\n";

pub struct Rig {
    dir: tempfile::TempDir,
    trainer: PathBuf,
    token: Token,
    port: u16,
    lease_ms: u64,
    refused: Duration,
    idle_timeout: Option<Duration>,
    goodbye: Duration,
    coordinator: Option<coordinator::Handle>,
    workers: Vec<Handle>,
}

pub fn sweep() -> Sweep {
    sweep::parse("small.yaml", SWEEP, &|_| Err(std::io::Error::other("none"))).unwrap()
}

fn script(dir: &Path, name: &str, behaviour: &str) -> PathBuf {
    let program = std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .join("../examples/fake_trainer");
    assert!(
        program.exists(),
        "{} is missing: `cargo test -p worker` builds it",
        program.display()
    );
    let script = dir.join(name);
    fs::write(
        &script,
        format!(
            "#!/bin/sh\nFAKE_TRAINER='{behaviour}' exec '{}' \"$@\"\n",
            program.display()
        ),
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

impl Rig {
    pub fn new(behaviour: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let trainer = script(dir.path(), "trainer.sh", behaviour);
        let token = Token::random().unwrap();
        let refused = Timing::default().refused;
        Self {
            dir,
            trainer,
            token,
            port: 0,
            lease_ms: 60_000,
            refused,
            idle_timeout: None,
            goodbye: Timing::default().goodbye,
            coordinator: None,
            workers: Vec::new(),
        }
    }

    /// Sets a short lease for tests where it must expire. The default is longer than any delay of a
    /// loaded machine.
    pub fn with_short_lease(mut self) -> Self {
        self.lease_ms = 500;
        self
    }

    pub fn idle_for(&mut self, timeout: Duration) {
        self.idle_timeout = Some(timeout);
    }

    pub fn goodbye_takes(&mut self, patience: Duration) {
        self.goodbye = patience;
    }

    pub fn refused_after(&mut self, patience: Duration) {
        self.refused = patience;
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn token(&self) -> Option<Token> {
        Some(self.token.clone())
    }

    /// The token file that workers read again when they are refused.
    pub fn token_file(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    /// Makes the coordinator's next start require another token; workers find it with
    /// `publish_token`.
    pub fn rotate_token(&mut self) -> String {
        let text = "another-token-of-32-characters-1";
        self.token = Token::new(text).unwrap();
        text.to_owned()
    }

    pub fn publish_token(&self, text: &str) {
        let file = self.token_file();
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Chooses the port before a coordinator runs.
    pub fn choose_port(&mut self) {
        self.port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
    }

    /// Starts a coordinator, or restarts it on the same port and state. A connection of another
    /// process may have been given the port in between: then it waits for the end of that.
    pub async fn coordinator(&mut self) {
        let listens = async {
            loop {
                match self.start_coordinator(self.port).await {
                    Err(coordinator::Error::Listen { source, .. })
                        if source.kind() == std::io::ErrorKind::AddrInUse =>
                    {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    started => break started,
                }
            }
        };
        let handle = patient(listens).await.unwrap();
        self.port = handle.address().port();
        self.coordinator = Some(handle);
    }

    pub async fn start_coordinator(
        &self,
        port: u16,
    ) -> Result<coordinator::Handle, coordinator::Error> {
        let mut config = Config::new("test");
        (config.heartbeat_ms, config.lease_ms) = (50, self.lease_ms);
        for budget in [
            &mut config.budgets.crashed,
            &mut config.budgets.unreachable,
            &mut config.budgets.preempted,
        ] {
            (budget.first_ms, budget.then_ms, budget.most_ms) = (0, 0, 0);
        }
        let listen = coordinator::Listen::Address(([127, 0, 0, 1], port).into());
        let state_dir = self.dir.path().join("state");
        Coordinator::start(coordinator::Options {
            listen,
            state_dir,
            token: self.token(),
            token_file: None,
            config,
        })
        .await
    }

    pub async fn page(&self, address: &str) -> Result<coordinator::Page, coordinator::Error> {
        self.coordinator
            .as_ref()
            .unwrap()
            .serve_http(
                coordinator::PageAddress::Exactly(address.parse().unwrap()),
                Vec::new(),
            )
            .await
    }

    /// Drops the coordinator without notice to any worker.
    pub async fn drop_coordinator(&mut self) {
        drop(self.coordinator.take());
        let lock = || journal::Journal::open(&self.dir.path().join("state"));
        while lock().is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the coordinator as its command does when it is asked to.
    pub async fn end_coordinator(&mut self) {
        let handle = self.coordinator.take().unwrap();
        handle.take_back().await;
        handle.shutdown().await.unwrap();
    }

    pub fn worker_options(&self, slots: usize) -> Options {
        let slot = Slot {
            devices: vec!["cpu".into()],
            uuids: Vec::new(),
            description: "a test".into(),
        };
        Options {
            coordinator: worker::Coordinator::at(
                format!("http://127.0.0.1:{}", self.port),
                self.token(),
                Some(self.token_file()),
            ),
            build: "test".into(),
            name: None,
            slots: vec![slot; slots],
            trainer: self.trainer.clone(),
            program: sweep::Trainer::BuiltIn,
            libraries: None,
            data_dir: self.dir.path().into(),
            allowed_paths: None,
            cache_dir: self.dir.path().into(),
            work_dir: self.dir.path().join("work"),
            idle_timeout: self.idle_timeout,
            allocation: None,
            job: None,
            timing: Timing {
                exit: Duration::from_millis(200),
                refused: self.refused,
                goodbye: self.goodbye,
                ..Timing::default()
            },
        }
    }

    pub fn trainer_of_build(&self, behaviour: &str) -> PathBuf {
        script(self.dir.path(), "other-trainer.sh", behaviour)
    }

    /// Starts a worker and returns its index, for `handle`.
    pub async fn worker(&mut self, slots: usize) -> usize {
        self.workers.push(
            patient(worker::start(self.worker_options(slots)))
                .await
                .unwrap(),
        );
        self.workers.len() - 1
    }

    /// Starts a worker that looks for the coordinator's place in `published` before each connection.
    pub async fn worker_that_looks_in(&mut self, published: Arc<Mutex<Option<Place>>>) -> usize {
        let find = move || {
            let place = published.lock().unwrap().clone();
            place.ok_or_else(|| "nothing is published".to_owned())
        };
        let options = Options {
            coordinator: worker::Coordinator {
                name: "a test".to_owned(),
                find: Arc::new(find),
            },
            ..self.worker_options(2)
        };
        self.workers
            .push(patient(worker::start(options)).await.unwrap());
        self.workers.len() - 1
    }

    /// The place where the coordinator listens.
    pub fn place(&self) -> Place {
        Place {
            address: format!("http://127.0.0.1:{}", self.port),
            token: self.token(),
            token_file: None,
        }
    }

    pub fn handle(&mut self, worker: usize) -> &mut Handle {
        &mut self.workers[worker]
    }

    /// Kills a worker as SIGKILL does: without a report, and with its trainers.
    pub async fn kill(&mut self, worker: usize) {
        self.workers[worker].stop_now();
        patient(self.workers[worker].wait()).await.unwrap();
    }

    pub async fn peer(&self, worker: &str) -> Peer {
        Peer::connect(self.channel().await, self.token.clone(), worker).await
    }

    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port)).unwrap();
        patient(endpoint.connect()).await.unwrap()
    }

    pub async fn try_submit(
        &self,
        build: &str,
        token: Option<Token>,
    ) -> Result<v1::SubmitReply, Status> {
        let mut client =
            ControlClient::with_interceptor(self.channel().await, protocol::token::attach(token))
                .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let request = v1::SubmitRequest::new(&sweep(), build).unwrap();
        patient(client.submit(request))
            .await
            .map(tonic::Response::into_inner)
    }

    /// Submits the sweep so that predictions are kept.
    pub async fn submit_keeping_predictions(&self) {
        let token = protocol::token::attach(self.token());
        let mut client = ControlClient::with_interceptor(self.channel().await, token);
        let sweep = Sweep {
            keep: [Kept::Predictions].into(),
            ..sweep()
        };
        let request = v1::SubmitRequest::new(&sweep, "test").unwrap();
        patient(client.submit(request)).await.unwrap();
    }

    /// Returns the attempts and contents of the files that the sweep keeps.
    pub async fn kept_files(&self) -> Vec<(String, String)> {
        let token = protocol::token::attach(self.token());
        let mut client = ControlClient::with_interceptor(self.channel().await, token);
        let request = v1::ListKeptRequest {
            sweep: "small".into(),
        };
        let listed = patient(client.list_kept(request)).await.unwrap();
        let mut files = Vec::new();
        for file in listed.into_inner().files {
            assert_eq!(file.kept, "predictions");
            let mut pieces = patient(client.get_kept(file.clone()))
                .await
                .unwrap()
                .into_inner();
            let mut content = Vec::new();
            while let Some(piece) = patient(pieces.message()).await.unwrap() {
                content.extend(piece.content);
            }
            assert_eq!(content.len() as u64, file.bytes);
            files.push((file.attempt, String::from_utf8(content).unwrap()));
        }
        files
    }

    /// Returns true once a trainer has written a file to keep.
    pub fn has_written_predictions(&self) -> bool {
        let trials = fs::read_dir(self.dir.path().join("work/checkpoints"));
        let files = trials
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|trial| fs::read_dir(trial.path()).ok());
        files.flatten().flatten().any(|file| {
            let name = file.file_name();
            name.to_string_lossy().starts_with("predictions.")
        })
    }

    pub async fn submit(&self) -> v1::SubmitReply {
        self.try_submit("test", self.token()).await.unwrap()
    }

    pub async fn status(&self) -> v1::StatusReply {
        let token = protocol::token::attach(self.token());
        let mut client = ControlClient::with_interceptor(self.channel().await, token);
        patient(client.status(v1::StatusRequest {
            sweep: String::new(),
        }))
        .await
        .unwrap()
        .into_inner()
    }

    pub async fn sweep_status(&self) -> v1::SweepStatus {
        self.status().await.sweeps.remove(0)
    }

    pub async fn until(&self, reached: impl Fn(&v1::SweepStatus) -> bool) -> v1::SweepStatus {
        patient(async {
            loop {
                let status = self.sweep_status().await;
                if reached(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    pub async fn complete(&self) -> v1::SweepStatus {
        self.until(|status| status.complete).await
    }

    pub async fn cancel(&self) {
        let token = protocol::token::attach(self.token());
        let mut client = ControlClient::with_interceptor(self.channel().await, token);
        patient(client.cancel(v1::CancelRequest {
            sweep: "small".into(),
        }))
        .await
        .unwrap();
    }

    pub async fn drain(&mut self, worker: usize) {
        let worker = self.handle(worker).worker().to_string();
        let token = protocol::token::attach(self.token());
        let mut client = ControlClient::with_interceptor(self.channel().await, token);
        patient(client.drain(v1::DrainRequest {
            worker,
            reason: "for a test".into(),
        }))
        .await
        .unwrap();
    }

    /// Follows the sweep from now on and returns every result and the last status.
    pub async fn tail(
        &self,
    ) -> impl Future<Output = (Vec<v1::TrialEnded>, v1::SweepStatus)> + Send + 'static {
        let token = protocol::token::attach(self.token());
        let mut client = ControlClient::with_interceptor(self.channel().await, token);
        let mut messages = patient(client.tail(v1::TailRequest {
            sweep: "small".into(),
        }))
        .await
        .unwrap()
        .into_inner();
        async move {
            let mut ended = Vec::new();
            loop {
                match messages
                    .message()
                    .await
                    .unwrap()
                    .expect("complete comes last")
                    .message
                {
                    Some(Message::Ended(trial)) => ended.push(trial),
                    Some(Message::Complete(status)) => return (ended, status),
                    Some(Message::Status(_) | Message::Note(_)) | None => {}
                }
            }
        }
    }

    /// Reads `results.csv`, which holds neither times nor attempts.
    pub async fn results(&self) -> String {
        self.report_file("results.csv").await
    }

    async fn report_file(&self, name: &str) -> String {
        let token = protocol::token::attach(self.token());
        let mut client = ControlClient::with_interceptor(self.channel().await, token);
        let request = v1::ReportRequest {
            sweep: "small".into(),
            width: 0,
            files: v1::ReportFiles::All.into(),
            tables_only: false,
        };
        let mut chunks = patient(client.get_report(request))
            .await
            .unwrap()
            .into_inner();
        let (mut content, mut is_it, mut ended) = (Vec::new(), false, false);
        while let Some(chunk) = patient(chunks.message()).await.unwrap() {
            match chunk.chunk.unwrap() {
                Chunk::File(file) => is_it = file == name,
                Chunk::Content(piece) if is_it => content.extend(piece),
                Chunk::End(_) => ended = true,
                Chunk::Head(_) | Chunk::Text(_) | Chunk::Content(_) => {}
            }
        }
        assert!(ended, "the report was cut off");
        String::from_utf8(content).unwrap()
    }

    /// The largest number of attempts of any trial, from the journal.
    pub async fn most_attempts(&mut self) -> usize {
        self.drop_coordinator().await;
        let state = journal::Journal::open(&self.dir.path().join("state"))
            .unwrap()
            .replay()
            .unwrap();
        self.coordinator().await;
        state
            .trials
            .values()
            .map(|trial| trial.attempts.len())
            .max()
            .unwrap()
    }

    /// Rewrites the journal, while no coordinator runs, as if a version with other training ids had
    /// submitted the sweep.
    pub fn submitted_by_an_older_version(&self) {
        let sweep = sweep();
        let planned = (0..sweep.cells.len()).flat_map(|cell| {
            sweep
                .cell_trials(cell, None)
                .into_iter()
                .map(move |planned| (cell as u32, planned))
        });
        let trials = (0_u64..)
            .zip(planned)
            .map(|(number, (cell, planned))| SweepTrial {
                id: format!("{number:016x}").parse().unwrap(),
                cell,
                candidate: None,
                role: planned.role,
                seed: planned.spec.seed,
                cost: 1.0,
            });
        let event = Event::SweepSubmitted {
            trials: Arc::new(trials.collect()),
            sweep: Arc::new(sweep),
        };
        let mut journal = journal::Journal::open(&self.dir.path().join("state")).unwrap();
        journal.append(&[Recorded { at: 1, event }]).unwrap();
    }

    /// Writes a checkpoint as if another worker had made it.
    pub fn leave_checkpoint(&self, trial: &str, bytes: usize) {
        let dir = self.dir.path().join("work/checkpoints").join(trial);
        fs::create_dir(&dir).unwrap();
        fs::write(
            dir.join("epoch-00001.attempt-1.safetensors"),
            vec![0; bytes],
        )
        .unwrap();
    }

    /// The number of checkpoint files.
    pub fn checkpoints(&self) -> usize {
        let dirs = fs::read_dir(self.dir.path().join("work/checkpoints")).unwrap();
        dirs.map(|dir| fs::read_dir(dir.unwrap().path()).map_or(0, |files| files.count()))
            .sum()
    }

    pub async fn results_of_undisturbed_run() -> String {
        let mut rig = Self::new("");
        rig.coordinator().await;
        rig.worker(2).await;
        rig.submit().await;
        rig.complete().await;
        let results = rig.results().await;
        rig.end().await;
        results
    }

    pub async fn end(mut self) {
        for worker in &self.workers {
            worker.stop_now();
        }
        for mut worker in self.workers.drain(..) {
            // some have ended already, and their result was taken
            let _ = patient(worker.wait()).await;
        }
        if let Some(coordinator) = self.coordinator.take() {
            patient(coordinator.shutdown()).await.unwrap();
        }
    }
}
