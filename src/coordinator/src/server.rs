//! Start and shutdown of a coordinator.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State as Given};
use axum::http::header::AUTHORIZATION;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use protocol::limits::MAX_MESSAGE_BYTES;
use protocol::v1::control_server::ControlServer;
use protocol::v1::fleet_server::FleetServer;
use protocol::{AcceptedTokens, Bearer, Grant, Now, Token};
use schedule::Config;
use schedule::allocation::{LaunchInput, Launcher, QueueName, QueueSpec};
use schedule::event::Input;
use schedule::state::{Millis, State};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::clock::Clock;
use crate::connections::{Gate, Guard, Limits};
use crate::control::ControlService;
use crate::fleet::FleetService;
use crate::http::{Logins, Page, PageAddress, Sources};
use crate::kept_files::KeptFiles;
use crate::launcher;
use crate::notices::{Notices, Notify};
use crate::owner::Owner;
use crate::programs::ProgramStore;
use crate::requests::{OwnerRequest, Question, ask};
use crate::storage::{self, Storage, StorageFault};
use crate::stored_results::{JournalResults, OpenResults};
use crate::tls::Tls;
use crate::token_file;

/// Number of messages that may wait for the owner; further senders wait.
const INBOX: usize = 4096;
/// The work directory of a worker inside this process, below the state directory.
pub const WORK_DIR: &str = "work";
/// Maximum time for calls under way after `shutdown`.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// Time in which workers that were signalled with this process report that they leave.
const LEAVES_TOO: Duration = Duration::from_secs(1);
/// Time for the checkpoints of workers that leave: more than a worker gives its trainers.
const GIVES_BACK: Duration = Duration::from_secs(45);

/// Address for workers and commands.
pub enum Listen {
    Address(SocketAddr),
    /// A bound listener: tests and the embedded coordinator use port 0.
    Bound(TcpListener),
}

pub struct Options {
    pub listen: Listen,
    /// Directory of the journal, created if it is missing.
    pub state_dir: PathBuf,
    /// Needed to listen on anything but loopback.
    pub token: Option<Token>,
    /// File of the token; it is read again when it changes.
    pub token_file: Option<PathBuf>,
    /// Leases, limits and budgets, and the build that workers and submitters must have.
    pub config: Config,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}")]
    Listen {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "{address} can be reached from other machines, and everyone who reaches it can run trainings: give a token (--token-file), or listen on 127.0.0.1"
    )]
    NeedsToken { address: SocketAddr },
    #[error(
        "the token {} was granted for a {} by another: a coordinator needs one of its own (--token-file)",
        grant.id, grant.role
    )]
    GrantedToken { grant: Grant },
    #[error("cannot encrypt connections")]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Journal(#[from] journal::Error),
    #[error("the journal cannot be used any more: {0}")]
    JournalLost(String),
    #[error("cannot start the thread that owns the state")]
    Thread(#[source] io::Error),
    #[error(
        "the thread that owns the state has ended, which is a fault of the coordinator: see its log"
    )]
    OwnerEnded,
    #[error("the server ended: {0}")]
    Server(String),
}

pub struct Coordinator;

/// A running coordinator. Dropping it stops it abruptly; nothing acknowledged is lost.
pub struct Handle {
    address: SocketAddr,
    messages: mpsc::Sender<OwnerRequest>,
    page: Sources,
    token_watch: Option<JoinHandle<()>>,
    notices: Option<Notices>,
    stop_server: Option<oneshot::Sender<()>>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    server_ended: bool,
    owner_ended: Option<oneshot::Receiver<Result<(), StorageFault>>>,
}

impl Coordinator {
    /// Opens the journal, replays it, binds, and serves on tasks of the current runtime.
    pub async fn start(options: Options) -> Result<Handle, Error> {
        if let Some(token) = &options.token
            && let Some(grant) = Grant::parse(token.reveal())
        {
            return Err(Error::GrantedToken { grant });
        }
        let (listener, address) = bind(options.listen, options.token.is_some())?;
        let tokens = options.token.map(AcceptedTokens::new);
        let state_dir = options.state_dir;
        let path = state_dir.clone();
        let opened = tokio::task::spawn_blocking(move || storage::open(&path));
        let opened = opened.await.map_err(|_| Error::OwnerEnded)??;
        if let Some(tokens) = &tokens {
            let revoked = opened.0.revoked_tokens.iter();
            for id in revoked.filter_map(|id| id.parse().ok()) {
                tokens.revoke(id);
            }
        }
        let is_local = address.ip().is_loopback();
        let tls = tokens.clone().filter(|_| !is_local).map(Tls::new);
        let tls = tls.transpose()?;
        let kept = KeptFiles::of(&state_dir);
        let programs = ProgramStore::of(&state_dir);
        let work_dir = state_dir.join(WORK_DIR);
        let results: OpenResults = Arc::new(move || Box::new(JournalResults::of(&state_dir)));
        let config = options.config;
        let mut handle = serve(
            (listener, address, tls),
            tokens.clone(),
            config,
            opened,
            (results, kept, programs, work_dir),
        )?;
        handle.token_watch = options
            .token_file
            .zip(tokens)
            .map(|(path, tokens)| tokio::spawn(token_file::watch(path, tokens)));
        Ok(handle)
    }
}

type Opened = (State, Millis, Box<dyn Storage>);

fn serve(
    (listener, address, tls): (TcpListener, SocketAddr, Option<Tls>),
    tokens: Option<AcceptedTokens>,
    config: Config,
    (mut state, last, storage): Opened,
    (results, kept, programs, work_dir): (OpenResults, KeptFiles, ProgramStore, PathBuf),
) -> Result<Handle, Error> {
    let cannot_listen = |source| Error::Listen {
        address: address.to_string(),
        source,
    };
    let clock = Clock::start(last);
    schedule::restart(&mut state, clock.now());
    let (messages, inbox) = mpsc::channel(INBOX);
    let build = config.build.clone();
    let owner_ended = start_owner(Owner::new(state, config, clock, storage), inbox)?;
    let fleet = FleetServer::new(FleetService {
        owner: messages.clone(),
        build: build.clone(),
        kept: kept.clone(),
        programs: programs.clone(),
    })
    .max_decoding_message_size(MAX_MESSAGE_BYTES)
    .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let page = Sources {
        owner: messages.clone(),
        results: results.clone(),
        kept: kept.clone(),
        logins: Logins::new(tokens.clone()),
        work_dir,
    };
    let logins = page.logins.clone();
    let control = ControlService::new(messages.clone(), results, (kept, programs), logins, build);
    let control = ControlServer::new(control)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let routes = Routes::new(fleet).add_service(control).prepare();
    let routes = routes.into_axum_router();
    let routes = routes
        .layer(from_fn_with_state(tokens.clone(), admit))
        .into();
    let gate = Gate::new(listener, Limits::of_process(), tokens).map_err(cannot_listen)?;
    let (stop_server, stopped) = oneshot::channel();
    // If a worker's machine vanishes, the connection stays open: only unanswered pings show it.
    let server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(gate.into_stream(tls)), async {
            let _ = stopped.await;
        });
    let server = tokio::spawn(server);
    tracing::info!(%address, "coordinator listens");
    Ok(Handle {
        address,
        messages,
        page,
        token_watch: None,
        notices: None,
        stop_server: Some(stop_server),
        server,
        server_ended: false,
        owner_ended: Some(owner_ended),
    })
}

/// Answers calls with an accepted token whose role may make them. A connection with such a call is no
/// longer closed for lack of one.
async fn admit(
    Given(tokens): Given<Option<AcceptedTokens>>,
    mut request: Request,
    next: Next,
) -> Response {
    let header = request.headers().get(AUTHORIZATION);
    let header = header.map(|value| value.as_bytes());
    let bearer = match &tokens {
        None => Ok(Bearer::Owner),
        Some(tokens) => tokens.admit(header, request.uri().path(), Now::read()),
    };
    let bearer = match bearer {
        Ok(bearer) => bearer,
        Err(refusal) => return Status::from(refusal).into_http(),
    };
    if let Some(guard) = request.extensions().get::<Guard>() {
        guard.begin_request();
        if let Bearer::Granted(grant) = &bearer {
            guard.depends_on(grant.clone());
        }
    }
    request.extensions_mut().insert(bearer);
    next.run(request).await
}

/// Starts the owner. Journalling blocks, so it has its own thread, with its own runtime for its
/// timers.
fn start_owner(
    owner: Owner,
    inbox: mpsc::Receiver<OwnerRequest>,
) -> Result<oneshot::Receiver<Result<(), StorageFault>>, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(Error::Thread)?;
    let (ended, owner_ended) = oneshot::channel();
    let run = move || {
        let _ = ended.send(runtime.block_on(owner.run(inbox)));
    };
    std::thread::Builder::new()
        .name("owner".into())
        .spawn(run)
        .map_err(Error::Thread)?;
    Ok(owner_ended)
}

fn bind(listen: Listen, has_token: bool) -> Result<(TcpListener, SocketAddr), Error> {
    let cannot = |address: String| move |source| Error::Listen { address, source };
    let check = |address: SocketAddr| match address.ip().is_loopback() || has_token {
        true => Ok(()),
        false => Err(Error::NeedsToken { address }),
    };
    let listener = match listen {
        Listen::Address(address) => {
            check(address)?;
            TcpListener::bind(address).map_err(cannot(address.to_string()))?
        }
        Listen::Bound(listener) => listener,
    };
    let address = listener
        .local_addr()
        .map_err(cannot("the given socket".to_owned()))?;
    check(address)?;
    listener
        .set_nonblocking(true)
        .map_err(cannot(address.to_string()))?;
    Ok((listener, address))
}

impl Handle {
    /// Returns the bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns true if connections are encrypted: other machines may connect.
    pub fn is_encrypted(&self) -> bool {
        !self.address.ip().is_loopback()
    }

    /// Serves the pages and metrics, until they are dropped. Like the coordinator they need a token to
    /// listen on anything but loopback. They answer to their own address and to `names`.
    pub async fn serve_http(
        &self,
        address: PageAddress,
        names: Vec<String>,
    ) -> Result<Page, Error> {
        Page::start(address, names, self.page.clone()).await
    }

    /// Gives notices from now on of sweeps that end, fail or stall.
    pub async fn notify(&mut self, notify: Notify) {
        if !notify.receivers.is_empty() {
            self.notices = Some(Notices::start(notify, self.messages.clone()).await);
        }
    }

    /// Launches workers from now on: opens a queue of this label, or the one that was open before
    /// with the same specification.
    pub async fn launch(
        &self,
        label: &str,
        spec: QueueSpec,
        launcher: Box<dyn Launcher>,
    ) -> Result<(), Status> {
        let (requests, taken) = mpsc::channel(1);
        let _ = self.messages.send(OwnerRequest::Launcher(requests)).await;
        tokio::spawn(launcher::run(launcher, taken, self.messages.clone()));
        let random = RandomState::new().hash_one(std::process::id()) as u32;
        let name = QueueName::new(label, random);
        let input = Input::Launch(LaunchInput::Open { name, spec });
        let opened = ask(&self.messages, |reply| OwnerRequest::Command {
            input,
            reply,
        });
        opened.await.map(drop)
    }

    /// Waits until the coordinator ends on its own, which happens only through an error.
    pub async fn wait(&mut self) -> Error {
        let owner_ended = async {
            match &mut self.owner_ended {
                Some(ended) => ended.await,
                None => std::future::pending().await,
            }
        };
        let error = tokio::select! {
            ended = owner_ended => match ended {
                Ok(Err(fault)) => Error::JournalLost(fault.reason),
                Ok(Ok(())) | Err(_) => Error::OwnerEnded,
            },
            server = &mut self.server, if !self.server_ended => Error::Server(match server {
                Ok(Ok(())) => "without a reason".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            }),
        };
        match error {
            Error::Server(_) => self.server_ended = true,
            _ => self.owner_ended = None,
        }
        error
    }

    /// Waits until the workers that leave have given back what they hold. Ending a whole job
    /// signals its workers together with this process: they report a moment later that they leave,
    /// and write checkpoints.
    pub async fn take_back(&self) {
        let started = Instant::now();
        loop {
            let held = ask(&self.messages, |reply| {
                OwnerRequest::Question(Question::Held { reply })
            });
            let Ok(held) = held.await else { return };
            let waits = match started.elapsed() {
                elapsed if elapsed < LEAVES_TOO => held.attempts > 0,
                elapsed if elapsed < GIVES_BACK => held.given_back > 0,
                _ => false,
            };
            if !waits {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Journals the messages received so far, closes every stream and ends.
    pub async fn shutdown(mut self) -> Result<(), Error> {
        if let Some(notices) = self.notices.take() {
            notices.finish().await;
        }
        let _ = self.messages.send(OwnerRequest::Stop).await;
        let ended = match self.owner_ended.take() {
            Some(ended) => ended.await.map_err(|_| Error::OwnerEnded),
            None => Ok(Ok(())),
        };
        if let Some(stop) = self.stop_server.take() {
            let _ = stop.send(());
        }
        if !self.server_ended
            && tokio::time::timeout(SHUTDOWN_TIMEOUT, &mut self.server)
                .await
                .is_err()
        {
            self.server.abort();
        }
        ended?.map_err(|fault| Error::JournalLost(fault.reason))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _ = self.messages.try_send(OwnerRequest::Stop);
        self.server.abort();
        if let Some(watch) = &self.token_watch {
            watch.abort();
        }
    }
}
