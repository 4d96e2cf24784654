//! The long-running processes: `orchestrator coordinator`, `orchestrator worker`, and both inside
//! `orchestrator run`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use coordinator::{Coordinator, Listen};
use protocol::Token;
use schedule::Config;
use schedule::state::Slot;
use sweep::with_causes;
use worker::devices::{self, Inventory};
use worker::slurm::Job;
use worker::{Ended, Timing};

use crate::args::{CoordinatorArgs, DeviceArgs, WorkerArgs};
use crate::client::{self, with_scheme};
use crate::exit::{ExpectedError, Outcome};
use crate::launch_args::How;
use crate::launching::{Launching, Reach};
use crate::preflight::Places;
use crate::rendezvous::{self, Announced};
use crate::signals::{HOW_TO_INSIST, Signals};
use crate::{launching, output, stderr, trainer};

/// The work directory of the embedded worker, below the state directory.
const WORK_DIR: &str = "work";

pub async fn coordinator(arguments: &CoordinatorArgs) -> Result<Outcome, ExpectedError> {
    let mut signals = Signals::listen()?;
    let mut config = Config::new(sweep::build());
    config.heartbeat_ms = arguments.heartbeat_ms.unwrap_or(config.heartbeat_ms);
    config.lease_ms = arguments.lease_ms.unwrap_or(config.lease_ms);
    config.stall_ms = arguments.stall_ms.unwrap_or(config.stall_ms);
    if config.lease_ms < 2 * config.heartbeat_ms {
        return Err(ExpectedError::BadInput(format!(
            "a lease of {} ms with a heartbeat every {} ms: one late heartbeat would cost trials; --lease-ms must be at least twice --heartbeat-ms",
            config.lease_ms, config.heartbeat_ms
        )));
    }
    let http = arguments
        .http
        .as_ref()
        .map(|http| http.resolve("--http"))
        .transpose()?;
    let listen = arguments.listen.resolve("--listen")?;
    if arguments.launch.launch.is_some() {
        // What cannot work is refused before anything starts.
        let launching = launching_for(arguments, listen)?;
        if arguments.launch.dry_run {
            let script = launching.script("orch-sweeps-RANDOM-1");
            return output::write(script.as_bytes()).map(|_| Outcome::Complete);
        }
    }
    let options = coordinator::Options {
        listen: Listen::Address(listen),
        state_dir: arguments.state_dir.clone(),
        token: client::token(arguments.token_file.as_deref())?,
        token_file: arguments.token_file.clone(),
        config,
    };
    let mut handle = Coordinator::start(options)
        .await
        .map_err(coordinator_error)?;
    if arguments.launch.launch.is_some() {
        let launching = launching_for(arguments, handle.address())?;
        launch(&handle, "sweeps", launching).await?;
    }
    let names = arguments
        .http_host
        .iter()
        .cloned()
        .chain(arguments.http.as_ref().map(ToString::to_string))
        .collect();
    let page = match http {
        Some(http) => Some(
            handle
                .serve_http(http, names)
                .await
                .map_err(coordinator_error)?,
        ),
        None => None,
    };
    let address = format!("http://{}", handle.address());
    let announced = rendezvous::announce(
        &arguments.state_dir,
        address.clone(),
        arguments.token_file.as_deref(),
        true,
    )?;
    stderr::print(&format!(
        "coordinator listening on {address}, state in {}",
        arguments.state_dir.display()
    ));
    if let Some(page) = &page {
        stderr::print(&format!("status page on http://{}", page.address()));
    }
    tokio::select! {
        error = handle.wait() => return Err(coordinator_error(error)),
        signal = signals.next() => stderr::print(&format!("{signal}: ending; started again it continues")),
    }
    drop(announced);
    let end = async {
        handle.take_back().await;
        handle.shutdown().await
    };
    tokio::select! {
        ended = end => ended.map_err(coordinator_error)?,
        _ = signals.next() => return Ok(Outcome::Interrupted),
    }
    Ok(Outcome::Complete)
}

/// Workers on a cluster for a coordinator of its own, which must be reached from there.
fn launching_for(
    arguments: &CoordinatorArgs,
    bound: SocketAddr,
) -> Result<Launching, ExpectedError> {
    let Some(token_file) = arguments.token_file.clone() else {
        return Err(ExpectedError::BadInput(
            "launched workers read the token from a file that they share with the coordinator: give --token-file"
                .to_owned(),
        ));
    };
    let host = match &arguments.launch.advertise {
        Some(host) => host.clone(),
        // Hosts reach it through their tunnels.
        None if matches!(arguments.launch.launch, Some(How::Ssh(_))) => "127.0.0.1".to_owned(),
        None if bound.ip().is_loopback() => {
            return Err(ExpectedError::BadInput(format!(
                "nodes do not reach {bound}: give --listen 0.0.0.0:{}, or --advertise HOST for the name by which they do",
                bound.port()
            )));
        }
        None if bound.ip().is_unspecified() => launching::own_address()?.to_string(),
        None => bound.ip().to_string(),
    };
    let reach = Reach {
        state_dir: &arguments.state_dir,
        address: format!("http://{host}:{}", bound.port()),
        port: bound.port(),
        token_file,
    };
    Launching::new(
        &arguments.launch,
        &arguments.devices,
        &arguments.data,
        &reach,
    )
}

pub async fn worker(arguments: &WorkerArgs) -> Result<Outcome, ExpectedError> {
    let mut signals = Signals::listen()?;
    let places = Places::of(&arguments.data)?;
    let work_dir = &arguments.work_dir;
    let job = Job::of_environment();
    let trainer = trainer::find(arguments.devices.trainer.as_deref())?;
    if !trainer.program.is_built_in() {
        stderr::print(&format!(
            "note: {} trains here, and only the trials of sweeps that ask for it",
            trainer.program
        ));
    }
    let options = worker::Options {
        coordinator: with_scheme(&arguments.coordinator),
        token: client::token(arguments.token_file.as_deref())?,
        token_file: arguments.token_file.clone(),
        build: sweep::build(),
        name: arguments
            .name
            .clone()
            .or_else(|| job.as_ref()?.node.clone()),
        slots: slots(&arguments.devices)?,
        trainer: trainer.path,
        program: trainer.program,
        data_dir: places.data_dir,
        allowed_paths: Some(arguments.allowed_paths.clone()),
        cache_dir: places.cache_dir,
        work_dir: std::path::absolute(work_dir).map_err(ExpectedError::file("find", work_dir))?,
        idle_timeout: arguments.idle_timeout,
        allocation: arguments.allocation.clone(),
        job,
        timing: Timing::default(),
    };
    let num_slots = options.slots.len();
    let description = options
        .slots
        .first()
        .map(|slot| slot.description.clone())
        .unwrap_or_default();
    let mut handle = worker::start(options).await.map_err(worker_error)?;
    stderr::print(&format!(
        "worker {} with {num_slots} slots ({description}) for {}",
        handle.worker(),
        arguments.coordinator
    ));
    let mut asked = false;
    loop {
        tokio::select! {
            ended = handle.wait() => return match ended.map_err(worker_error)? {
                Ended::Left { outstanding: false } => Ok(Outcome::Complete),
                Ended::Left { outstanding: true } => Ok(Outcome::WorkOutstanding),
                Ended::Stopped => Ok(Outcome::Interrupted),
                Ended::Drained { reason } => {
                    stderr::print(&format!("drained: {reason}"));
                    Ok(Outcome::Complete)
                }
            },
            signal = signals.next() => {
                if asked {
                    stderr::print(&format!("{signal}: stopping at once"));
                    handle.stop_now();
                } else {
                    stderr::print(&format!("{signal}: writing checkpoints and leaving; {HOW_TO_INSIST}"));
                    handle.leave(signal.as_str());
                }
                asked = true;
            }
        }
    }
}

/// Returns the slots that the arguments ask for, made of the existing devices.
pub fn slots(arguments: &DeviceArgs) -> Result<Vec<Slot>, ExpectedError> {
    let inventory = Inventory::detect();
    Ok(devices::slots(
        &arguments.devices,
        arguments.slots,
        arguments.devices_per_slot,
        &inventory,
    )?)
}

/// A coordinator on loopback and a worker, in this process.
pub struct Embedded {
    pub address: String,
    pub port: u16,
    pub token: Token,
    pub token_file: PathBuf,
    coordinator: coordinator::Handle,
    worker: Option<worker::Handle>,
    _announced: Announced,
}

impl Embedded {
    pub async fn start(
        state_dir: &Path,
        slots: Vec<Slot>,
        trainer: trainer::Found,
        places: &Places,
    ) -> Result<Self, ExpectedError> {
        let mut embedded = Self::without_worker(state_dir).await?;
        let work_dir = state_dir.join(WORK_DIR);
        let options = worker::Options {
            coordinator: embedded.address.clone(),
            token: Some(embedded.token.clone()),
            token_file: None,
            build: sweep::build(),
            name: None,
            slots,
            trainer: trainer.path,
            program: trainer.program,
            data_dir: places.data_dir.clone(),
            // Its sweeps belong to the user of this process.
            allowed_paths: None,
            cache_dir: places.cache_dir.clone(),
            work_dir: std::path::absolute(&work_dir)
                .map_err(ExpectedError::file("find", &work_dir))?,
            idle_timeout: None,
            allocation: None,
            job: Job::of_environment(),
            timing: Timing::default(),
        };
        embedded.worker = Some(worker::start(options).await.map_err(worker_error)?);
        Ok(embedded)
    }

    /// Starts a coordinator without a worker, for commands that change a sweep while no coordinator
    /// runs.
    pub async fn without_worker(state_dir: &Path) -> Result<Self, ExpectedError> {
        let listener = listener(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)?;
        let token = Token::random()?;
        Self::start_coordinator(state_dir, listener, token).await
    }

    /// Starts a coordinator that workers on other machines reach. After a `kill -9` it has the port
    /// and the token of the one before, so that the workers of that one find it.
    pub async fn on_network(state_dir: &Path, advertise: &IpAddr) -> Result<Self, ExpectedError> {
        let ip = match advertise.is_loopback() {
            true => *advertise,
            false => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        let listener = match rendezvous::port_left(state_dir) {
            Some(port) => listener(ip, port).or_else(|_| listener(ip, 0))?,
            None => listener(ip, 0)?,
        };
        let token = match rendezvous::token_left(state_dir) {
            Some(token) => token,
            None => Token::random()?,
        };
        Self::start_coordinator(state_dir, listener, token).await
    }

    async fn start_coordinator(
        state_dir: &Path,
        listener: TcpListener,
        token: Token,
    ) -> Result<Self, ExpectedError> {
        let options = coordinator::Options {
            listen: Listen::Bound(listener),
            state_dir: state_dir.to_owned(),
            token: Some(token.clone()),
            token_file: None,
            config: Config::new(sweep::build()),
        };
        let coordinator = Coordinator::start(options)
            .await
            .map_err(|error| taken(state_dir, error))?;
        let mut bound = coordinator.address();
        if bound.ip().is_unspecified() {
            bound.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        let address = format!("http://{bound}");
        // Only now is the state directory known to be ours.
        let token_file = rendezvous::write_token(state_dir, &token)?;
        let announced = rendezvous::announce(state_dir, address.clone(), Some(&token_file), false)?;
        Ok(Self {
            address,
            port: bound.port(),
            token,
            token_file,
            coordinator,
            worker: None,
            _announced: announced,
        })
    }

    /// Launches workers in a queue of this label from now on.
    pub async fn launch(&self, label: &str, launching: Launching) -> Result<(), ExpectedError> {
        launch(&self.coordinator, label, launching).await
    }

    /// Waits until a part fails that should keep running.
    pub async fn failed(&mut self) -> ExpectedError {
        let worker = async {
            match &mut self.worker {
                Some(worker) => worker.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            error = self.coordinator.wait() => coordinator_error(error),
            ended = worker => match ended {
                Ok(ended) => ExpectedError::Infrastructure {
                    what: "the worker ended before the sweep",
                    reason: match ended {
                        Ended::Drained { reason } => format!("it was drained ({reason})"),
                        Ended::Left { .. } | Ended::Stopped => "without a reason".to_owned(),
                    },
                },
                Err(error) => worker_error(error),
            },
        }
    }

    pub fn leave(&self, reason: &str) {
        if let Some(worker) = &self.worker {
            worker.leave(reason);
        }
    }

    pub fn stop_now(&self) {
        if let Some(worker) = &self.worker {
            worker.stop_now();
        }
    }

    pub async fn worker_ended(&mut self) -> Result<(), ExpectedError> {
        match &mut self.worker {
            Some(worker) => worker.wait().await.map(|_| ()).map_err(worker_error),
            None => Ok(()),
        }
    }

    pub async fn shutdown(self) -> Result<(), ExpectedError> {
        self.coordinator.shutdown().await.map_err(coordinator_error)
    }
}

async fn launch(
    coordinator: &coordinator::Handle,
    label: &str,
    launching: Launching,
) -> Result<(), ExpectedError> {
    let spec = launching.spec.clone();
    let launched = coordinator.launch(label, spec, launching.into_launcher());
    let refused = |status: tonic::Status| ExpectedError::Rejected {
        action: "launching workers",
        message: status.message().to_owned(),
    };
    launched.await.map_err(refused)
}

fn listener(ip: IpAddr, port: u16) -> Result<TcpListener, ExpectedError> {
    TcpListener::bind((ip, port)).map_err(|error| ExpectedError::Infrastructure {
        what: "cannot listen",
        reason: format!("{ip}:{port}: {error}"),
    })
}

/// The error if the state directory is taken. The journal's lock decides; its holder may be on
/// another host.
fn taken(state_dir: &Path, error: coordinator::Error) -> ExpectedError {
    match (
        coordinator_error(error),
        rendezvous::left_elsewhere(state_dir),
    ) {
        (ExpectedError::Taken(reason), Some(left)) => {
            ExpectedError::Taken(format!("{reason}; {left}"))
        }
        (error, _) => error,
    }
}

fn coordinator_error(error: coordinator::Error) -> ExpectedError {
    match error {
        coordinator::Error::NeedsToken { .. } => ExpectedError::BadInput(error.to_string()),
        coordinator::Error::Journal(journal::Error::Locked { .. }) => {
            ExpectedError::Taken(with_causes(&error))
        }
        error => ExpectedError::Infrastructure {
            what: "the coordinator",
            reason: with_causes(&error),
        },
    }
}

fn worker_error(error: worker::Error) -> ExpectedError {
    match error {
        worker::Error::BadAddress { .. } | worker::Error::BadSlots { .. } => {
            ExpectedError::BadInput(with_causes(&error))
        }
        error => ExpectedError::Infrastructure {
            what: "the worker",
            reason: with_causes(&error),
        },
    }
}
