//! The stream to the coordinator: opened, and reopened for as long as the worker lives. It does not
//! interpret messages, except refusals.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::limits::MAX_MESSAGE_BYTES;
use protocol::tls::explain;
use protocol::v1::fleet_client::FleetClient;
use protocol::{FromCoordinator, Token, v1};
use sweep::with_causes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::error::Error;

/// Capacity for outgoing messages to the coordinator; a message that does not fit is sent again
/// later.
const OUTGOING: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub type Outgoing = mpsc::Sender<v1::WorkerMessage>;

/// The place where a coordinator listens.
#[derive(Clone, Debug)]
pub struct Place {
    /// `https://HOST:PORT`, or `http://` on this machine
    pub address: String,
    pub token: Option<Token>,
    /// The file that the token was read from; read again when the coordinator refuses the token.
    pub token_file: Option<PathBuf>,
}

/// How a worker finds its coordinator.
#[derive(Clone)]
pub struct Coordinator {
    /// Name in messages: an address, or the file that holds it.
    pub name: String,
    /// Asked before each attempt to connect, since a coordinator may come back elsewhere. May block.
    /// The error is a sentence for people.
    pub find: Arc<dyn Fn() -> Result<Place, String> + Send + Sync>,
}

impl Coordinator {
    /// A coordinator that stays where it is.
    pub fn at(address: String, token: Option<Token>, token_file: Option<PathBuf>) -> Self {
        let place = Place {
            address: address.clone(),
            token,
            token_file,
        };
        Self {
            name: address,
            find: Arc::new(move || Ok(place.clone())),
        }
    }
}

impl Coordinator {
    /// Opens a connection of its own, beside the worker's stream, with the token that the place's
    /// file holds now. The error is a sentence for people.
    pub async fn connect(
        &self,
    ) -> Result<FleetClient<InterceptedService<Channel, impl Interceptor>>, String> {
        let (endpoint, place) = self.locate().await?;
        let replaced = place.token_file.map(|file| Token::from_file(&file));
        let token = replaced.and_then(Result::ok).or(place.token);
        let channel = open(&endpoint, token.as_ref())
            .await
            .map_err(|error| with_causes(&*error))?;
        let authorize = protocol::token::attach(token);
        Ok(FleetClient::with_interceptor(channel, authorize))
    }

    /// Finds the place, without blocking.
    async fn locate(&self) -> Result<(Endpoint, Place), String> {
        let find = self.find.clone();
        // a network file system may hang
        let place = tokio::task::spawn_blocking(move || find()).await;
        let place = place.map_err(|error| error.to_string())??;
        let endpoint = endpoint(&place.address).map_err(|error| error.to_string())?;
        Ok((endpoint, place))
    }
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

#[derive(Debug)]
pub enum ConnectionEvent {
    /// A new stream. The first message on it must be Hello.
    Opened(Outgoing),
    Message(FromCoordinator),
    /// `port_closed`: the coordinator's host refused the connection, since no process has its port.
    Lost {
        port_closed: bool,
    },
    /// The last event: a retry would not help.
    Refused(Error),
}

pub struct Connection {
    pub coordinator: Coordinator,
    /// The token that replaced the refused one of the same place.
    pub token: Option<Token>,
    /// The time for which a worker that was welcomed before treats refusals as temporary.
    pub patience: Duration,
    pub events: mpsc::Sender<ConnectionEvent>,
}

/// The reason why a stream ended, or why none was opened.
enum Problem {
    Broken(String),
    Refused(Error),
    /// The receiver of the events is gone.
    Abandoned,
}

/// Parses the address before anything is started.
pub fn endpoint(coordinator: &str) -> Result<Endpoint, Error> {
    let bad = |reason: String| Error::BadAddress {
        address: coordinator.to_owned(),
        reason,
    };
    let endpoint =
        Endpoint::from_shared(coordinator.to_owned()).map_err(|error| bad(error.to_string()))?;
    let uri = endpoint.uri();
    if !matches!(uri.scheme_str(), Some("http" | "https"))
        || uri.port_u16().is_none()
        || uri.host().is_none_or(str::is_empty)
    {
        return Err(bad(
            "https://HOST:PORT was expected, or http://HOST:PORT on one machine".to_owned(),
        ));
    }
    // a coordinator that was stopped, or a cable that was pulled, closes no connection: only
    // unanswered pings show it
    Ok(endpoint
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true))
}

impl Connection {
    /// Runs until the receiver of its events is gone, or until a final answer. A refusal is final
    /// before the first Welcome: the address, the token or the build is wrong. Later, something may
    /// answer in place of the coordinator for a moment (a proxy with 403 or 404, another program on
    /// its port), or the token was replaced: then the worker retries.
    pub async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut warned = false;
        let mut was_welcomed = false;
        let mut refused_since: Option<Instant> = None;
        let mut known: Option<String> = None;
        loop {
            let mut was_up = false;
            let mut port_closed = false;
            let (mut token_file, mut used) = (None, None);
            let problem = match self.coordinator.locate().await {
                Ok((endpoint, place)) => {
                    if known.as_ref().is_some_and(|known| *known != place.address) {
                        tracing::info!(
                            coordinator = place.address,
                            "the coordinator is elsewhere now"
                        );
                        (self.token, refused_since) = (None, None);
                    }
                    known = Some(place.address);
                    token_file = place.token_file;
                    let token = self.token.clone().or(place.token);
                    used.clone_from(&token);
                    match open(&endpoint, token.as_ref()).await {
                        Ok(channel) => self.converse(&endpoint, channel, token, &mut was_up).await,
                        Err(error) => {
                            port_closed = was_refused(&*error);
                            no_connection(&*error, known.as_deref().unwrap_or_default())
                        }
                    }
                }
                Err(reason) => {
                    port_closed = true;
                    Problem::Broken(reason)
                }
            };
            let lost = ConnectionEvent::Lost { port_closed };
            if self.events.send(lost).await.is_err() {
                return;
            }
            if was_up {
                (pause, warned, was_welcomed, refused_since) = (FIRST_PAUSE, false, true, None);
            }
            let problem = match problem {
                Problem::Abandoned => return,
                Problem::Broken(problem) => problem,
                Problem::Refused(_) if self.has_new_token(token_file.as_deref(), used.as_ref()) => {
                    (pause, refused_since) = (FIRST_PAUSE, None);
                    "its token was replaced; the token file has another one now".to_owned()
                }
                Problem::Refused(error) => {
                    // after a connection was lost, a refusal is news
                    warned = warned && refused_since.is_some();
                    let since = *refused_since.get_or_insert_with(Instant::now);
                    if !was_welcomed || since.elapsed() >= self.patience {
                        let _ = self.events.send(ConnectionEvent::Refused(error)).await;
                        return;
                    }
                    format!(
                        "{error}; that is final if it stays so for {} s",
                        self.patience.as_secs()
                    )
                }
            };
            if !warned {
                tracing::warn!(
                    coordinator = self.coordinator.name,
                    problem,
                    "no connection; training continues, and the worker retries"
                );
                warned = true;
            }
            tokio::select! {
                () = tokio::time::sleep(pause + jitter(pause)) => {}
                () = self.events.closed() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Reads the token file. Returns true if it holds another token than the one that was used.
    fn has_new_token(&mut self, file: Option<&Path>, used: Option<&Token>) -> bool {
        let Some(file) = file else {
            return false;
        };
        match Token::from_file(file) {
            Ok(token) if used.is_none_or(|used| !used.is_same(&token)) => {
                self.token = Some(token);
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(
                    reason = with_causes(&error),
                    "the token file cannot be read again"
                );
                false
            }
        }
    }

    /// Runs one stream until it ends.
    async fn converse(
        &self,
        endpoint: &Endpoint,
        channel: Channel,
        token: Option<Token>,
        was_up: &mut bool,
    ) -> Problem {
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        if self
            .events
            .send(ConnectionEvent::Opened(outgoing))
            .await
            .is_err()
        {
            return Problem::Abandoned;
        }
        let mut client = FleetClient::with_interceptor(channel, protocol::token::attach(token))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let mut incoming = match client.connect(ReceiverStream::new(messages)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return judge(endpoint, status),
        };
        loop {
            let message = match incoming.message().await {
                Ok(Some(message)) => FromCoordinator::try_from(message),
                Ok(None) => {
                    return Problem::Broken("the coordinator closed the stream".to_owned());
                }
                Err(status) => return judge(endpoint, status),
            };
            match message {
                Ok(FromCoordinator::Refused { reason }) => {
                    return Problem::Refused(Error::Refused { reason });
                }
                Ok(message) => {
                    *was_up = true;
                    if self
                        .events
                        .send(ConnectionEvent::Message(message))
                        .await
                        .is_err()
                    {
                        return Problem::Abandoned;
                    }
                }
                Err(invalid) => {
                    return Problem::Broken(format!(
                        "the coordinator sent an invalid message: {invalid}"
                    ));
                }
            }
        }
    }
}

/// Opens a connection to the coordinator with this token.
async fn open(
    endpoint: &Endpoint,
    token: Option<&Token>,
) -> Result<Channel, Box<dyn std::error::Error + Send + Sync>> {
    let endpoint = protocol::tls::secure(endpoint.clone(), token)?;
    Ok(endpoint.connect().await?)
}

fn no_connection(error: &(dyn std::error::Error + 'static), address: &str) -> Problem {
    let reason = with_causes(error);
    if protocol::tls::is_refusal(error) {
        return Problem::Refused(Error::Refused {
            reason: format!("the token is not the coordinator's ({reason})"),
        });
    }
    Problem::Broken(explain(reason, error, address))
}

fn judge(endpoint: &Endpoint, status: tonic::Status) -> Problem {
    let reason = status.message().to_owned();
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => {
            Problem::Refused(Error::Refused { reason })
        }
        Code::Unimplemented => Problem::Refused(Error::NotACoordinator {
            address: endpoint.uri().to_string(),
        }),
        code => {
            let reason = match std::error::Error::source(&status) {
                Some(_) => with_causes(&status),
                None => format!("{code:?}: {reason}"),
            };
            Problem::Broken(explain(reason, &status, &endpoint.uri().to_string()))
        }
    }
}

fn was_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// A random part of the pause, at most half of it, so that the workers of a cluster do not all
/// reconnect at once.
fn jitter(pause: Duration) -> Duration {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.subsec_nanos());
    pause.mul_f64(f64::from(nanos % 1024) / 2048.0)
}
