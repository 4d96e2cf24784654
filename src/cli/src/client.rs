//! The coordinator as seen from a command: one method per request, and the meaning of each gRPC
//! code for the user.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::limits::KEPT_PIECE_BYTES;
use protocol::tls::explain;
use protocol::{GrantId, Token, v1};
use report::FileSink;
use schedule::allocation::ClusterStatus;
use sweep::{Sweep, with_causes};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use v1::control_client::ControlClient;
use v1::report_chunk::Chunk;

use crate::args::quoted;
use crate::exit::ExpectedError;
use crate::output;
use crate::rendezvous::{self, Rendezvous};
use crate::reports::{Discard, Report, sink_error};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval and timeout that detect a coordinator that vanished without closing its connection.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub struct Client {
    control: ControlClient<Channel>,
    /// Metadata with the token.
    metadata: MetadataMap,
    access: Access,
}

/// Where a coordinator is reached, and with which token.
#[derive(Clone, Debug)]
pub struct Access {
    pub address: String,
    pub token: Option<Token>,
    /// The file that the token came from; read again for each connection.
    token_file: Option<PathBuf>,
    /// The state directory in which it announces itself: looked at for each new connection.
    state_dir: Option<PathBuf>,
}

impl Access {
    /// The coordinator at an address, with the token in a file.
    pub fn at(address: &str, token_file: Option<PathBuf>) -> Result<Self, ExpectedError> {
        Ok(Self {
            address: with_scheme(address),
            token: token(token_file.as_deref())?,
            token_file,
            state_dir: None,
        })
    }

    /// The coordinator of this process.
    pub fn embedded(address: &str, token: Token) -> Self {
        Self {
            address: address.to_owned(),
            token: Some(token),
            token_file: None,
            state_dir: None,
        }
    }

    /// The coordinator that announced itself in a state directory; `given` replaces its token file.
    pub fn announced(
        state_dir: &Path,
        found: &Rendezvous,
        given: Option<&Path>,
    ) -> Result<Self, ExpectedError> {
        let token_file = given.map(Path::to_owned).or(found.token_file.clone());
        Ok(Self {
            state_dir: Some(state_dir.to_owned()),
            ..Self::at(&found.address, token_file)?
        })
    }

    /// Returns the access to the same coordinator by now: it may have come back at another address,
    /// and its token may have been replaced.
    fn again(&self) -> Result<Self, ExpectedError> {
        if let Some(state_dir) = &self.state_dir
            && let Some(found) = rendezvous::find(state_dir)
        {
            let is_same = self.address == found.address;
            let token_file = self.token_file.as_deref().filter(|_| is_same);
            return Self::announced(state_dir, &found, token_file);
        }
        let token = match token(self.token_file.as_deref())? {
            Some(token) => Some(token),
            None => self.token.clone(),
        };
        Ok(Self {
            token,
            ..self.clone()
        })
    }
}

/// Reads the token from the file. Returns `None` without a file.
pub fn token(file: Option<&Path>) -> Result<Option<Token>, ExpectedError> {
    file.map(Token::from_file)
        .transpose()
        .map_err(ExpectedError::Token)
}

/// Adds the scheme if it is missing: HOST:PORT is also accepted as a coordinator's address. One on
/// another machine encrypts its connections.
pub fn with_scheme(address: &str) -> String {
    if address.contains("://") {
        return address.to_owned();
    }
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let is_loopback = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
    format!("{}://{address}", protocol::tls::scheme(!is_loopback))
}

fn no_connection(error: &tonic::transport::Error, address: &str) -> ExpectedError {
    let (address, reason) = (address.to_owned(), with_causes(error));
    if protocol::tls::is_refusal(error) {
        let message = format!("the token is not the coordinator's: check --token-file ({reason})");
        return ExpectedError::Refused { address, message };
    }
    ExpectedError::Unreachable {
        reason: explain(reason, error, &address),
        address,
    }
}

impl Client {
    pub async fn connect(access: Access) -> Result<Self, ExpectedError> {
        let address = &access.address;
        let bad = |reason: String| {
            ExpectedError::BadInput(format!(
                "`{address}` is not a coordinator's address ({reason}): https://HOST:PORT was expected, or http://HOST:PORT on its own machine"
            ))
        };
        if !address.starts_with("http://") && !address.starts_with("https://") {
            return Err(bad("only https and http are supported".to_owned()));
        }
        let endpoint =
            Endpoint::from_shared(address.clone()).map_err(|error| bad(with_causes(&error)))?;
        if endpoint.uri().port_u16().is_none() {
            return Err(bad("it names no port".to_owned()));
        }
        let endpoint = protocol::tls::secure(endpoint, access.token.as_ref()).map_err(|error| {
            ExpectedError::BadInput(format!("{address}: {}", with_causes(&error)))
        })?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .connect()
            .await
            .map_err(|error| no_connection(&error, address))?;
        let metadata = match protocol::token::attach(access.token.clone())(Request::new(())) {
            Ok(request) => request.metadata().clone(),
            Err(status) => return Err(bad(status.message().to_owned())),
        };
        let limit = protocol::limits::MAX_MESSAGE_BYTES;
        let control = ControlClient::new(channel)
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit);
        Ok(Self {
            control,
            metadata,
            access,
        })
    }

    /// Opens a new connection to the same coordinator, wherever it is by now.
    pub async fn reconnect(&mut self) -> Result<(), ExpectedError> {
        *self = Self::connect(self.access.again()?).await?;
        Ok(())
    }

    /// The flags with which a command line reaches this coordinator: `--coordinator URL
    /// --token-file FILE`.
    pub fn flags(&self) -> String {
        let access = &self.access;
        let token = access
            .token_file
            .as_ref()
            .map(|file| format!(" --token-file {}", quoted(&file.to_string_lossy())));
        format!(
            "--coordinator {}{}",
            quoted(&access.address),
            token.unwrap_or_default()
        )
    }

    /// Sends the files of a sweep's program.
    pub async fn put_program(&mut self, hash: &str, archive: &[u8]) -> Result<(), ExpectedError> {
        let piece = |content: &[u8]| v1::ProgramPiece {
            archive: hash.to_owned(),
            content: content.to_vec(),
        };
        let pieces: Vec<_> = archive.chunks(KEPT_PIECE_BYTES).map(piece).collect();
        let request = self.request(tokio_stream::iter(pieces));
        let reply = self.control.put_program(request).await;
        self.answer("sending the sweep's program", reply)
            .map(|_| ())
    }

    pub async fn submit(&mut self, sweep: &Sweep) -> Result<v1::SubmitReply, ExpectedError> {
        let message = v1::SubmitRequest::new(sweep, &sweep::build()).map_err(|error| {
            ExpectedError::BadInput(format!("the sweep cannot be submitted: {error}"))
        })?;
        let reply = self.control.submit(self.request(message)).await;
        self.answer("submitting the sweep", reply)
    }

    pub async fn status(&mut self, sweep: Option<&str>) -> Result<v1::StatusReply, ExpectedError> {
        let message = v1::StatusRequest {
            sweep: sweep.unwrap_or_default().to_owned(),
        };
        let reply = self.control.status(self.request(message)).await;
        self.answer("asking for the status", reply)
    }

    pub async fn tail(&mut self, sweep: &str) -> Result<Streaming<v1::TailMessage>, ExpectedError> {
        let reply = self
            .control
            .tail(self.request(v1::TailRequest {
                sweep: sweep.to_owned(),
            }))
            .await;
        self.answer("following the sweep", reply)
    }

    /// Fetches the current report. The requested files go to the sink while they arrive.
    pub async fn report(
        &mut self,
        sweep: &str,
        files: v1::ReportFiles,
        sink: &mut dyn FileSink,
    ) -> Result<Report, ExpectedError> {
        let request = v1::ReportRequest {
            sweep: sweep.to_owned(),
            width: output::width() as u32,
            files: files.into(),
            tables_only: false,
        };
        self.fetch_report(request, sink).await
    }

    /// Fetches the trials that have ended, for exporters, into the sink.
    pub async fn trials(
        &mut self,
        sweep: &str,
        sink: &mut (impl FileSink + Send),
    ) -> Result<Report, ExpectedError> {
        let request = v1::ReportRequest {
            sweep: sweep.to_owned(),
            files: v1::ReportFiles::Trials.into(),
            ..v1::ReportRequest::default()
        };
        self.fetch_report(request, sink).await
    }

    /// Fetches the tables without their notes, at most that many columns wide.
    pub async fn tables(&mut self, sweep: &str, columns: usize) -> Result<String, ExpectedError> {
        let request = v1::ReportRequest {
            sweep: sweep.to_owned(),
            width: columns as u32,
            files: v1::ReportFiles::None.into(),
            tables_only: true,
        };
        let report = self.fetch_report(request, &mut Discard).await;
        report.map(|report| report.text)
    }

    async fn fetch_report(
        &mut self,
        request: v1::ReportRequest,
        sink: &mut (impl FileSink + ?Sized),
    ) -> Result<Report, ExpectedError> {
        const ACTION: &str = "asking for the report";
        let reply = self.control.get_report(self.request(request)).await;
        let mut chunks = self.answer(ACTION, reply)?;
        let mut report = Report::default();
        while let Some(chunk) = chunks
            .message()
            .await
            .map_err(|status| self.failure(ACTION, &status))?
        {
            match chunk.chunk {
                Some(Chunk::Head(v1::ReportHead {
                    complete,
                    failed_trials,
                })) => {
                    (report.complete, report.failed_trials) = (complete, failed_trials);
                }
                Some(Chunk::Text(piece)) => report.text.push_str(&piece),
                Some(Chunk::File(name)) => sink.begin(&name).map_err(sink_error)?,
                Some(Chunk::Content(piece)) => sink.write(&piece).map_err(sink_error)?,
                Some(Chunk::End(v1::ReportEnd {})) => return Ok(report),
                // an item from a newer coordinator
                None => {}
            }
        }
        let reason = "it sent only a part of the report".to_owned();
        Err(ExpectedError::Unreachable {
            address: self.access.address.clone(),
            reason,
        })
    }

    pub async fn kept_files(&mut self, sweep: &str) -> Result<Vec<v1::KeptFile>, ExpectedError> {
        let message = v1::ListKeptRequest {
            sweep: sweep.to_owned(),
        };
        let reply = self.control.list_kept(self.request(message)).await;
        self.answer("asking for kept files", reply)
            .map(|reply| reply.files)
    }

    /// Fetches a kept file in pieces.
    pub async fn kept_file(
        &mut self,
        file: &v1::KeptFile,
        mut write: impl FnMut(&[u8]) -> Result<(), ExpectedError>,
    ) -> Result<(), ExpectedError> {
        const ACTION: &str = "asking for a kept file";
        let reply = self.control.get_kept(self.request(file.clone())).await;
        let mut pieces = self.answer(ACTION, reply)?;
        let mut received = 0;
        while let Some(piece) = pieces
            .message()
            .await
            .map_err(|status| self.failure(ACTION, &status))?
        {
            received += piece.content.len() as u64;
            write(&piece.content)?;
        }
        if received == file.bytes {
            return Ok(());
        }
        Err(ExpectedError::Unreachable {
            address: self.access.address.clone(),
            reason: "it sent only a part of a kept file".to_owned(),
        })
    }

    /// Finds what a user's word means: a sweep or, if a sweep is given, a trial of it.
    pub async fn find(&mut self, sweep: &str, text: &str) -> Result<v1::FindReply, ExpectedError> {
        let message = v1::FindRequest {
            text: text.to_owned(),
            sweep: sweep.to_owned(),
        };
        let reply = self.control.find(self.request(message)).await;
        self.answer("looking for it", reply)
    }

    pub async fn remove(
        &mut self,
        message: v1::RemoveRequest,
    ) -> Result<v1::RemoveReply, ExpectedError> {
        let reply = self.control.remove(self.request(message)).await;
        self.answer("removing the sweep", reply)
    }

    /// Returns where the page is, and a code that logs in once.
    pub async fn open_page(&mut self) -> Result<v1::OpenPageReply, ExpectedError> {
        let reply = self
            .control
            .open_page(self.request(v1::OpenPageRequest {}))
            .await;
        self.answer("opening the page", reply)
    }

    pub async fn cancel(&mut self, sweep: &str) -> Result<u64, ExpectedError> {
        let reply = self
            .control
            .cancel(self.request(v1::CancelRequest {
                sweep: sweep.to_owned(),
            }))
            .await;
        self.answer("cancelling the sweep", reply)
            .map(|reply| reply.cancelled)
    }

    /// Retries the failed trials, unless `all` is set, or cells or trials are named.
    pub async fn retry(&mut self, message: v1::RetryRequest) -> Result<u64, ExpectedError> {
        let reply = self.control.retry(self.request(message)).await;
        self.answer("retrying trials", reply)
            .map(|reply| reply.retried)
    }

    pub async fn explain(&mut self, trial: &str) -> Result<v1::ExplainReply, ExpectedError> {
        let reply = self
            .control
            .explain(self.request(v1::ExplainRequest {
                trial: trial.to_owned(),
            }))
            .await;
        self.answer("explaining the trial", reply)
    }

    /// Describes a trial; `origins`: also where its settings come from.
    pub async fn trial(
        &mut self,
        trial: &str,
        origins: bool,
    ) -> Result<v1::TrialReply, ExpectedError> {
        let message = v1::TrialRequest {
            trial: trial.to_owned(),
            origins,
        };
        let reply = self.control.get_trial(self.request(message)).await;
        self.answer("asking about the trial", reply)
    }

    pub async fn why(&mut self, sweep: &str, cell: &str) -> Result<v1::WhyReply, ExpectedError> {
        let message = v1::WhyRequest {
            sweep: sweep.to_owned(),
            cell: cell.to_owned(),
        };
        let reply = self.control.why(self.request(message)).await;
        self.answer("asking about the cell", reply)
    }

    pub async fn drain(&mut self, name: &str, reason: &str) -> Result<(), ExpectedError> {
        let message = v1::DrainRequest {
            worker: name.to_owned(),
            reason: reason.to_owned(),
        };
        let reply = self.control.drain(self.request(message)).await;
        self.answer("draining", reply).map(|_| ())
    }

    pub async fn undrain(&mut self, name: &str) -> Result<(), ExpectedError> {
        let reply = self
            .control
            .undrain(self.request(v1::UndrainRequest {
                host: name.to_owned(),
            }))
            .await;
        self.answer("undraining", reply).map(|_| ())
    }

    pub async fn revoke_token(&mut self, id: &GrantId) -> Result<(), ExpectedError> {
        let id = id.to_string();
        let message = v1::RevokeTokenRequest { id };
        let reply = self.control.revoke_token(self.request(message)).await;
        self.answer("revoking the token", reply).map(|_| ())
    }

    pub async fn resume_cluster(&mut self) -> Result<(), ExpectedError> {
        let message = v1::ResumeClusterRequest {};
        let reply = self.control.resume_cluster(self.request(message)).await;
        self.answer("resuming the cluster", reply).map(|_| ())
    }

    pub async fn stop_cluster(&mut self, reason: &str) -> Result<(), ExpectedError> {
        let reason = reason.to_owned();
        let message = v1::StopClusterRequest { reason };
        let reply = self.control.stop_cluster(self.request(message)).await;
        self.answer("stopping the cluster", reply).map(|_| ())
    }

    pub async fn cluster_status(&mut self) -> Result<ClusterStatus, ExpectedError> {
        let status = self.status(None).await?;
        serde_json::from_slice(&status.cluster_json).map_err(|error| ExpectedError::Coordinator {
            action: "asking for the cluster",
            message: format!("its answer cannot be read: {error}"),
        })
    }

    /// Converts an error in the middle of a stream.
    pub fn failure(&self, action: &'static str, status: &Status) -> ExpectedError {
        let message = status.message().to_owned();
        let address = self.access.address.clone();
        match status.code() {
            Code::Unavailable => ExpectedError::Unreachable {
                reason: explain(message, status, &address),
                address,
            },
            Code::Unauthenticated | Code::PermissionDenied => {
                ExpectedError::Refused { address, message }
            }
            Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::OutOfRange => {
                ExpectedError::Rejected { action, message }
            }
            _ if is_transport(status) => ExpectedError::Unreachable {
                reason: explain(with_causes(status), status, &address),
                address,
            },
            _ => ExpectedError::Coordinator { action, message },
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        request
    }

    fn answer<T>(
        &self,
        action: &'static str,
        reply: Result<tonic::Response<T>, Status>,
    ) -> Result<T, ExpectedError> {
        reply
            .map(tonic::Response::into_inner)
            .map_err(|status| self.failure(action, &status))
    }
}

/// Returns true if the connection broke in the middle of an answer, which has no code of its own.
fn is_transport(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unknown | Code::Internal | Code::Cancelled
    ) && std::error::Error::source(status).is_some()
}
