//! The stream to the coordinator: opened, and opened again for as long as the worker lives. It knows nothing of what is
//! said on it, except that a refusal is final.

use std::time::Duration;

use protocol::limits::MAX_MESSAGE_BYTES;
use protocol::v1::fleet_client::FleetClient;
use protocol::{FromCoordinator, Token, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::options::Error;

/// Messages under way to the coordinator; what finds no room is said again later.
const OUTGOING: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub type Outgoing = mpsc::Sender<v1::WorkerMessage>;

#[derive(Debug)]
pub enum LinkEvent {
    /// A new stream; the first message on it must be Hello.
    Up(Outgoing),
    Message(FromCoordinator),
    Down,
    /// Trying again would not help.
    Final(Error),
}

pub struct Link {
    pub endpoint: Endpoint,
    pub token: Option<Token>,
    pub events: mpsc::Sender<LinkEvent>,
}

/// Checks the address before anything is started.
pub fn endpoint(coordinator: &str) -> Result<Endpoint, Error> {
    let bad = |reason: String| Error::BadAddress { address: coordinator.to_owned(), reason };
    let endpoint = Endpoint::from_shared(coordinator.to_owned()).map_err(|error| bad(error.to_string()))?;
    let uri = endpoint.uri();
    if uri.scheme_str() != Some("http") || uri.port_u16().is_none() || uri.host().is_none_or(str::is_empty) {
        return Err(bad("http://HOST:PORT was expected".to_owned()));
    }
    // a coordinator that was stopped, or a cable that was pulled, closes nothing: only unanswered pings show it
    Ok(endpoint
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true))
}

impl Link {
    /// Until nobody listens to its events any more, or a final answer.
    pub async fn run(self) {
        let mut pause = FIRST_PAUSE;
        let mut complained = false;
        loop {
            let mut was_up = false;
            let problem = match self.endpoint.connect().await {
                Ok(channel) => self.converse(channel, &mut was_up).await,
                Err(error) => Ok(chain(&error)),
            };
            let problem = match problem {
                Ok(problem) => problem,
                Err(error) => {
                    let _ = self.events.send(LinkEvent::Final(error)).await;
                    return;
                }
            };
            if self.events.send(LinkEvent::Down).await.is_err() {
                return;
            }
            if was_up {
                pause = FIRST_PAUSE;
                complained = false;
            }
            if !complained {
                tracing::warn!(coordinator = %self.endpoint.uri(), problem, "no connection; training goes on, trying again");
                complained = true;
            }
            tokio::select! {
                () = tokio::time::sleep(pause + jitter(pause)) => {}
                () = self.events.closed() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One stream, until it breaks: then why.
    async fn converse(&self, channel: Channel, was_up: &mut bool) -> Result<String, Error> {
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        if self.events.send(LinkEvent::Up(outgoing)).await.is_err() {
            return Ok("the worker ends".to_owned());
        }
        let mut client = FleetClient::with_interceptor(channel, protocol::token::attach(self.token.clone()))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let mut incoming = match client.connect(ReceiverStream::new(messages)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return self.judge(status),
        };
        loop {
            let message = match incoming.message().await {
                Ok(Some(message)) => FromCoordinator::try_from(message),
                Ok(None) => return Ok("the coordinator closed the stream".to_owned()),
                Err(status) => return self.judge(status),
            };
            match message {
                Ok(FromCoordinator::Refused { reason }) => return Err(Error::Refused { reason }),
                Ok(message) => {
                    *was_up = true;
                    if self.events.send(LinkEvent::Message(message)).await.is_err() {
                        return Ok("the worker ends".to_owned());
                    }
                }
                Err(invalid) => return Ok(format!("the coordinator said something impossible: {invalid}")),
            }
        }
    }

    fn judge(&self, status: tonic::Status) -> Result<String, Error> {
        let reason = status.message().to_owned();
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => Err(Error::Refused { reason }),
            Code::Unimplemented => Err(Error::NotACoordinator { address: self.endpoint.uri().to_string() }),
            code => Ok(format!("{code:?}: {reason}")),
        }
    }
}

/// The error and what caused it: tonic's own text is only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Up to half of the pause, so that the workers of a cluster do not all come back in one instant.
fn jitter(pause: Duration) -> Duration {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
    pause.mul_f64(f64::from(nanos % 1024) / 2048.0)
}
