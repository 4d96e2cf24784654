//! The long-running processes: `orchestrator coordinator`, `orchestrator worker`, and both inside
//! `orchestrator run`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coordinator::{Coordinator, Listen, Page, WORK_DIR};
use protocol::Token;
use protocol::v1::SweepStatus;
use schedule::Config;
use schedule::state::Slot;
use sweep::with_causes;
use worker::devices::{self, Inventory};
use worker::slurm::Job;
use worker::{Ended, Timing};

use crate::args::{CoordinatorArgs, DeviceArgs, HttpArgs, LaunchArgs, Target, WorkerArgs};
use crate::client::{self, Access, Client, with_scheme};
use crate::exit::{ExpectedError, Outcome};
use crate::launch_args::How;
use crate::launching::{Launching, Reach};
use crate::preflight::Places;
use crate::rendezvous::{self, Announced, Announcement};
use crate::signals::{HOW_TO_INSIST, Signals};
use crate::{launching, output, stderr, trainer};

/// Timeout for another process to release the state directory, and the interval of checks.
const FREE_TIMEOUT: Duration = Duration::from_secs(60);
const IDLE_CHECK: Duration = Duration::from_secs(2);

pub async fn coordinator(arguments: &CoordinatorArgs) -> Result<Outcome, ExpectedError> {
    let mut signals = Signals::listen()?;
    let mut config = Config::new(sweep::build());
    config.heartbeat_ms = arguments.heartbeat_ms.unwrap_or(config.heartbeat_ms);
    config.lease_ms = arguments.lease_ms.unwrap_or(config.lease_ms);
    config.stall_ms = arguments.stall_ms.unwrap_or(config.stall_ms);
    config.max_waiting = arguments.max_waiting.unwrap_or(config.max_waiting);
    arguments.launch.configure(&mut config);
    if config.lease_ms < 2 * config.heartbeat_ms {
        return Err(ExpectedError::BadInput(format!(
            "a lease of {} ms with a heartbeat every {} ms: one late heartbeat would cost trials; --lease-ms must be at least twice --heartbeat-ms",
            config.lease_ms, config.heartbeat_ms
        )));
    }
    // What cannot work is refused before anything starts.
    arguments.http.address()?;
    let listen = arguments.listen.resolve("--listen")?;
    let state_dir = &arguments.state_dir;
    let (token, token_file) = match &arguments.token_file {
        Some(file) => (Token::from_file(file)?, file.clone()),
        None => (
            rendezvous::token(state_dir)?,
            rendezvous::token_file(state_dir),
        ),
    };
    if arguments.launch.launch.is_some() {
        // What cannot work is refused before anything starts.
        advertised(arguments, listen)?;
        let launching = launching_for(arguments, listen, &token_file)?;
        if arguments.launch.dry_run {
            let script = launching.script("orch-sweeps-RANDOM-1");
            return output::write(script.as_bytes()).map(|_| Outcome::Complete);
        }
        launching.test().await?;
    }
    let options = coordinator::Options {
        listen: Listen::Address(listen),
        state_dir: state_dir.clone(),
        token: Some(token.clone()),
        token_file: Some(token_file.clone()),
        config,
    };
    let mut handle = match arguments.end_when_idle {
        // A command that changes the same state ends soon.
        Some(_) => start_when_free(options).await?,
        None => Coordinator::start(options)
            .await
            .map_err(coordinator_error)?,
    };
    handle.notify(arguments.notify.notify()).await;
    let bound = handle.address();
    let access = Access::embedded(&rendezvous::address_here(bound), token.clone());
    if arguments.token_file.is_none() {
        // Only now is the state directory known to be ours.
        rendezvous::write_token(state_dir, &token)?;
    }
    let advertise = advertised(arguments, bound)?;
    let announcement = Announcement {
        bound,
        advertise: advertise.as_deref(),
        token_file: &token_file,
        lasts: true,
    };
    // before a worker is launched, which looks there
    let announced = rendezvous::announce(state_dir, &announcement)?;
    if arguments.launch.launch.is_some() {
        let launching = launching_for(arguments, bound, &token_file)?;
        launch(&handle, "sweeps", launching).await?;
    }
    stderr::print(&format!(
        "coordinator listening on {}://{bound}, state in {}",
        protocol::tls::scheme(handle.is_encrypted()),
        state_dir.display()
    ));
    let _page = arguments.http.serve(&handle).await?;
    tokio::select! {
        error = handle.wait() => return Err(coordinator_error(error)),
        signal = signals.next() => stderr::print(&format!("{signal}: ending; started again it continues")),
        () = idle(access, arguments.end_when_idle) => {
            stderr::print("no sweep has trials to train, and no launched worker is left: ending");
        }
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

/// Starts a coordinator, also when another process still holds the state directory for a moment.
async fn start_when_free(
    options: coordinator::Options,
) -> Result<coordinator::Handle, ExpectedError> {
    let deadline = Instant::now() + FREE_TIMEOUT;
    while let Err(journal::Error::Locked { .. }) = journal::Journal::open(&options.state_dir)
        && Instant::now() < deadline
    {
        tokio::time::sleep(IDLE_CHECK).await;
    }
    Coordinator::start(options).await.map_err(coordinator_error)
}

/// Waits until no sweep has had trials to train and no launched worker has been left for this long;
/// for ever without a limit.
async fn idle(access: Access, limit: Option<Duration>) {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    let mut since: Option<Instant> = None;
    loop {
        tokio::time::sleep(IDLE_CHECK.min(limit)).await;
        // An answer that does not come proves nothing.
        since = match is_idle(&access).await {
            Ok(true) => Some(since.unwrap_or_else(Instant::now)),
            Ok(false) | Err(_) => None,
        };
        if since.is_some_and(|since| since.elapsed() >= limit) {
            return;
        }
    }
}

async fn is_idle(access: &Access) -> Result<bool, ExpectedError> {
    let mut client = Client::connect(access.clone()).await?;
    let status = client.status(None).await?;
    let trains = |sweep: &SweepStatus| !sweep.complete && sweep.cancelled_reason.is_empty();
    let open = client.cluster_status().await?.num_open();
    Ok(open == 0 && !status.sweeps.iter().any(trains))
}

/// Returns the name or address by which other machines reach the coordinator; `None`: it listens on
/// loopback alone.
fn advertised(
    arguments: &CoordinatorArgs,
    bound: SocketAddr,
) -> Result<Option<String>, ExpectedError> {
    let launches = matches!(arguments.launch.launch, Some(How::Slurm));
    match &arguments.launch.advertise {
        Some(host) => Ok(Some(host.clone())),
        None if bound.ip().is_loopback() && launches => Err(ExpectedError::BadInput(format!(
            "nodes do not reach {bound}: give --listen 0.0.0.0:{}, or --advertise HOST for the name by which they do",
            bound.port()
        ))),
        None if bound.ip().is_loopback() => Ok(None),
        None if bound.ip().is_unspecified() && launches => {
            Ok(Some(launching::own_address()?.to_string()))
        }
        // A machine without a network has no address, and no other reaches it.
        None if bound.ip().is_unspecified() => {
            Ok(launching::own_address().ok().map(|ip| ip.to_string()))
        }
        None => Ok(Some(bound.ip().to_string())),
    }
}

/// Workers on a cluster for a coordinator of its own.
fn launching_for(
    arguments: &CoordinatorArgs,
    bound: SocketAddr,
    token_file: &Path,
) -> Result<Launching, ExpectedError> {
    let reach = Reach {
        state_dir: &arguments.state_dir,
        port: bound.port(),
        is_encrypted: !bound.ip().is_loopback(),
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
    let trainer = trainer::ready(arguments.devices.trainer.as_deref())?;
    if !trainer.program.is_built_in() {
        stderr::print(&format!(
            "note: {} trains here, and only the trials of sweeps that ask for it",
            trainer.program
        ));
    }
    let coordinator = coordinator_of(&arguments.target)?;
    let whose = coordinator.name.clone();
    let options = worker::Options {
        coordinator,
        build: sweep::build(),
        name: arguments
            .name
            .clone()
            .or_else(|| job.as_ref()?.node.clone()),
        slots: slots(&arguments.devices)?,
        libraries: trainer.libraries(),
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
        "worker {} with {num_slots} slots ({description}) for {whose}",
        handle.worker(),
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

/// Returns the coordinator that a worker serves: the named one, or the one that announces itself in
/// the state directory, wherever it is by then.
fn coordinator_of(target: &Target) -> Result<worker::Coordinator, ExpectedError> {
    let state_dir = &target.state_dir;
    let token_file = target.token_file.clone();
    if let Some(address) = &target.coordinator {
        let address = with_scheme(address);
        if token_file.is_some() {
            let token = client::token(token_file.as_deref())?;
            return Ok(worker::Coordinator::at(address, token, token_file));
        }
        if !rendezvous::announces(state_dir, &address) {
            return Err(ExpectedError::BadInput(format!(
                "no token for the coordinator at {address}: give --token-file FILE, or --state-dir DIR with its state \
                 directory"
            )));
        }
    } else if !state_dir.is_dir() {
        return Err(ExpectedError::BadInput(format!(
            "there is no state directory {}: name that of the coordinator with --state-dir, or the coordinator with \
             --coordinator http://HOST:PORT and --token-file FILE",
            state_dir.display()
        )));
    }
    let state_dir =
        std::path::absolute(state_dir).map_err(ExpectedError::file("find", state_dir))?;
    Ok(worker::Coordinator {
        name: format!("the coordinator of {}", state_dir.display()),
        find: Arc::new(move || rendezvous::place(&state_dir, token_file.as_deref())),
    })
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
    pub access: Access,
    pub port: u16,
    coordinator: coordinator::Handle,
    worker: Option<worker::Handle>,
    page: Option<Page>,
    _announced: Announced,
}

impl Embedded {
    pub async fn start(
        state_dir: &Path,
        slots: Vec<Slot>,
        trainer: trainer::Ready,
        places: &Places,
    ) -> Result<Self, ExpectedError> {
        let mut embedded = Self::without_worker(state_dir).await?;
        let work_dir = state_dir.join(WORK_DIR);
        let options = worker::Options {
            coordinator: worker::Coordinator::at(
                embedded.access.address.clone(),
                embedded.access.token.clone(),
                None,
            ),
            build: sweep::build(),
            name: None,
            slots,
            libraries: trainer.libraries(),
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
        let config = Config::new(sweep::build());
        Self::start_coordinator(state_dir, IpAddr::V4(Ipv4Addr::LOCALHOST), None, config).await
    }

    /// Starts a coordinator that launched workers on other machines reach by this name. `ip` decides
    /// whether there are other machines.
    pub async fn on_network(
        state_dir: &Path,
        ip: &IpAddr,
        advertise: &str,
        arguments: &LaunchArgs,
    ) -> Result<Self, ExpectedError> {
        let mut config = Config::new(sweep::build());
        arguments.configure(&mut config);
        let ip = match ip.is_loopback() {
            true => *ip,
            false => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        Self::start_coordinator(state_dir, ip, Some(advertise), config).await
    }

    async fn start_coordinator(
        state_dir: &Path,
        ip: IpAddr,
        advertise: Option<&str>,
        config: Config,
    ) -> Result<Self, ExpectedError> {
        let token = rendezvous::token(state_dir)?;
        let options = coordinator::Options {
            listen: Listen::Address((ip, 0).into()),
            state_dir: state_dir.to_owned(),
            token: Some(token.clone()),
            token_file: None,
            config,
        };
        let coordinator = Coordinator::start(options)
            .await
            .map_err(|error| taken(state_dir, error))?;
        let bound = coordinator.address();
        // Only now is the state directory known to be ours.
        let token_file = rendezvous::write_token(state_dir, &token)?;
        let announcement = Announcement {
            bound,
            advertise,
            token_file: &token_file,
            lasts: false,
        };
        let announced = rendezvous::announce(state_dir, &announcement)?;
        Ok(Self {
            access: Access::embedded(&rendezvous::address_here(bound), token),
            port: bound.port(),
            coordinator,
            worker: None,
            page: None,
            _announced: announced,
        })
    }

    /// Starts to send notices.
    pub async fn notify(&mut self, notify: coordinator::Notify) {
        self.coordinator.notify(notify).await;
    }

    /// Starts to serve the page.
    pub async fn serve_page(&mut self, arguments: &HttpArgs) -> Result<(), ExpectedError> {
        self.page = arguments.serve(&self.coordinator).await?;
        Ok(())
    }

    /// Starts to launch workers, in a queue of this label.
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
