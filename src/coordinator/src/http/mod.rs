//! The pages and metrics over HTTP: `/` for people, `/status` (JSON), `/metrics`. The crate `page`
//! draws pages from the owner's answers; a change becomes the same input as that of a command.
//! `hosts.rs` and `login.rs` decide which requests are answered, `pages.rs` and `actions.rs` answer
//! them, `events.rs` reports changes to browsers.

mod actions;
mod events;
mod hosts;
mod login;
mod metrics;
mod pages;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use axum::Router;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use protocol::v1;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::Status;

use self::hosts::{Hosts, check_host};
pub use self::login::Logins;
use self::pages::TableCache;
use crate::answers::status_document;
use crate::connections::{Gate, Guard, Limits};
use crate::kept_files::KeptFiles;
use crate::requests::{self, OwnerRequest, Question};
use crate::server::Error;
use crate::stored_results::OpenResults;

type Owner = mpsc::Sender<OwnerRequest>;

/// The policy of the pages: they load their own files and the figures inside them, and nothing else.
/// No script or style inside a page has an effect, so that no name in it can bring one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// The server of the pages. Dropping it stops it.
pub struct Page {
    address: SocketAddr,
    logins: Logins,
    task: JoinHandle<()>,
}

/// The address that the pages are to listen on.
#[derive(Clone, Copy, Debug)]
pub enum PageAddress {
    Exactly(SocketAddr),
    /// This address, or another port of it if this one is taken.
    Preferred(SocketAddr),
}

/// The sources of the pages.
#[derive(Clone)]
pub struct Sources {
    pub owner: Owner,
    pub results: OpenResults,
    pub kept: KeptFiles,
    pub logins: Logins,
    /// Work directory of the embedded worker, which may hold logs.
    pub work_dir: PathBuf,
}

#[derive(Clone)]
struct Shared {
    sources: Sources,
    tables: TableCache,
}

impl Page {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns an address that logs in once.
    pub fn login(&self) -> String {
        self.logins.link(self.address)
    }

    /// Starts the server. Every request must have the token, or the cookie of a login.
    pub(crate) async fn start(
        wanted: PageAddress,
        names: Vec<String>,
        sources: Sources,
    ) -> Result<Self, Error> {
        let (PageAddress::Exactly(address) | PageAddress::Preferred(address)) = wanted;
        if !address.ip().is_loopback() && sources.logins.tokens().is_none() {
            return Err(Error::NeedsToken { address });
        }
        let failed = |source| Error::Listen {
            address: address.to_string(),
            source,
        };
        let bound = tokio::net::TcpListener::bind(address).await;
        let bound = match (bound, wanted) {
            (Err(error), PageAddress::Preferred(_)) if error.kind() == io::ErrorKind::AddrInUse => {
                tokio::net::TcpListener::bind((address.ip(), 0)).await
            }
            (bound, _) => bound,
        };
        let listener = bound
            .and_then(tokio::net::TcpListener::into_std)
            .map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let logins = sources.logins.clone();
        let gate = Gate::new(listener, Limits::of_process(), logins.tokens()).map_err(failed)?;
        logins.set_address(Some(address));
        let hosts = Hosts::new(address.ip(), names);
        let router = router(sources, address.port(), hosts);
        let task = tokio::spawn(async move {
            let service = router.into_make_service_with_connect_info::<Guard>();
            if let Err(error) = axum::serve(gate, service).await {
                tracing::warn!(%error, "the page has ended");
            }
        });
        Ok(Self {
            address,
            logins,
            task,
        })
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.logins.set_address(None);
        self.task.abort();
    }
}

fn router(sources: Sources, port: u16, hosts: Hosts) -> Router {
    let logins = sources.logins.on_port(port);
    let shared = Shared {
        sources,
        tables: TableCache::default(),
    };
    Router::new()
        .route("/", get(pages::sweeps))
        .route("/sweep/{sweep}", get(pages::sweep))
        .route("/sweep/{sweep}/trials", get(pages::trials))
        .route("/sweep/{sweep}/trial/{trial}", get(pages::trial))
        .route("/sweep/{sweep}/cell", get(pages::cell))
        .route("/sweep/{sweep}/compare", get(pages::compare))
        .route("/sweep/{sweep}/figure/{figure}", get(pages::figure))
        .route("/sweep/{sweep}/cancel", post(actions::cancel))
        .route("/sweep/{sweep}/retry", post(actions::retry))
        .route("/workers", get(pages::workers))
        .route("/workers/drain", post(actions::drain))
        .route("/workers/undrain", post(actions::undrain))
        .route("/events", get(events::events))
        .route("/status", get(status))
        .route("/metrics", get(as_metrics))
        .fallback(pages::unknown)
        .layer(from_fn(keep_connection))
        .with_state(shared)
        .layer(from_fn_with_state(logins.clone(), login::check))
        .route("/assets/{name}", get(asset))
        .merge(login::routes(logins))
        .layer(from_fn_with_state(hosts, check_host))
        .layer(from_fn(add_headers))
}

/// Keeps the connection open while a request on it is answered. The deadline for the next request
/// begins with the end of the answer; an answer that follows a sweep does not end.
async fn keep_connection(
    ConnectInfo(guard): ConnectInfo<Guard>,
    request: Request,
    next: Next,
) -> Response {
    guard.begin_request();
    let response = next.run(request).await;
    let kind = response.headers().get(header::CONTENT_TYPE);
    if kind.is_none_or(|kind| kind != "text/event-stream") {
        guard.end_request();
    }
    response
}

/// Adds the usual headers, except those that an answer sets itself.
async fn add_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Forms need their origin, which a stricter policy would hide.
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}

async fn asset(Path(name): Path<String>) -> Response {
    let found = page::ASSETS.iter().find(|asset| asset.name == name);
    let Some(asset) = found else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, asset.media_type),
        (header::CACHE_CONTROL, "private, max-age=300"),
    ];
    (headers, asset.content).into_response()
}

/// Asks the owner for the status of every sweep.
async fn ask_status(owner: &Owner) -> Result<v1::StatusReply, Status> {
    let question = |reply| {
        OwnerRequest::Question(Question::Status {
            sweep: String::new(),
            reply,
        })
    };
    requests::ask(owner, question).await
}

fn unavailable(status: Status) -> Response {
    let text = format!("{}\n", status.message());
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn status(State(shared): State<Shared>) -> Result<Json<Value>, Response> {
    let status = ask_status(&shared.sources.owner).await;
    Ok(Json(status_document(&status.map_err(unavailable)?)))
}

async fn as_metrics(State(shared): State<Shared>) -> Result<impl IntoResponse, Response> {
    let status = ask_status(&shared.sources.owner).await;
    let text = metrics::as_metrics(&status.map_err(unavailable)?);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}
