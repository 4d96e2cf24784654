//! The read-only page for users and Prometheus: `/` (HTML), `/status` (JSON), `/metrics`. It sends
//! the owner the same question as `orchestrator status`, and can change nothing. It answers only
//! requests that name its own address, so that no other site in a browser can read it through a
//! name that resolves to this address.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use protocol::{AcceptedTokens, v1};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::answers::status_document;
use crate::connections::{Gate, Guard, Limits};
use crate::requests::{self, OwnerRequest, Question};
use crate::server::Error;

type Owner = mpsc::Sender<OwnerRequest>;

/// The status page; dropping it ends it.
pub struct Page {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Page {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the page. If it is not on loopback, every request must carry `authorization: Bearer
    /// TOKEN`.
    pub(crate) async fn start(
        address: SocketAddr,
        names: Vec<String>,
        tokens: Option<AcceptedTokens>,
        owner: Owner,
    ) -> Result<Self, Error> {
        let is_local = address.ip().is_loopback();
        if !is_local && tokens.is_none() {
            return Err(Error::NeedsToken { address });
        }
        let failed = |source| Error::Listen {
            address: address.to_string(),
            source,
        };
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .and_then(tokio::net::TcpListener::into_std);
        let listener = listener.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let gate = Gate::new(listener, Limits::of_process()).map_err(failed)?;
        let mut router = Router::new()
            .route("/", get(page))
            .route("/status", get(status))
            .route("/metrics", get(metrics))
            .with_state(owner)
            .layer(from_fn(keep_connection));
        if let Some(tokens) = tokens.filter(|_| !is_local) {
            router = router.layer(from_fn_with_state(tokens, check_token));
        }
        let router = router.layer(from_fn_with_state(
            Hosts::new(address.ip(), names),
            check_host,
        ));
        let task = tokio::spawn(async move {
            let service = router.into_make_service_with_connect_info::<Guard>();
            if let Err(error) = axum::serve(gate, service).await {
                tracing::warn!(%error, "the status page has ended");
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps the connection while a request on it is answered. The peer then has to send the next
/// request in time.
async fn keep_connection(
    ConnectInfo(guard): ConnectInfo<Guard>,
    request: Request,
    next: Next,
) -> Response {
    guard.begin_request();
    let response = next.run(request).await;
    guard.end_request();
    response
}

/// Hosts that a request may name.
#[derive(Clone)]
struct Hosts {
    bound: IpAddr,
    names: Arc<[String]>,
}

impl Hosts {
    fn new(bound: IpAddr, names: Vec<String>) -> Self {
        Self {
            bound,
            names: names.into_iter().map(|name| bare(&name)).collect(),
        }
    }

    /// Returns true for this page's hosts. A typed address is this machine's, and not the name of
    /// another site.
    fn include(&self, host: &str) -> bool {
        let host = bare(host);
        let is_everywhere = self.bound.is_unspecified();
        let by_address = match host.parse::<IpAddr>() {
            Ok(address) => {
                address == self.bound
                    || is_everywhere
                    || self.bound.is_loopback() && address.is_loopback()
            }
            Err(_) => host == "localhost" && (self.bound.is_loopback() || is_everywhere),
        };
        by_address || self.names.contains(&host)
    }
}

/// Returns a host without its port, in lower case.
fn bare(host: &str) -> String {
    let host = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => match host.split_once(':') {
            Some((name, port)) if !port.contains(':') => name,
            _ => host,
        },
    };
    host.trim_end_matches('.').to_ascii_lowercase()
}

async fn check_host(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let named = request
        .headers()
        .get_all(header::HOST)
        .iter()
        .map(|host| host.to_str().unwrap_or_default());
    let named: Vec<&str> = named
        .chain(
            request
                .uri()
                .authority()
                .map(|authority| authority.as_str()),
        )
        .collect();
    if !named.is_empty() && named.iter().all(|host| hosts.include(host)) {
        return next.run(request).await;
    }
    let asked: String = named.join(", ").chars().take(200).collect();
    let text = format!(
        "This is the status page of an orchestrator. It answers to its own address, and was asked for as `{asked}`.\n\
         If that name is right, start the coordinator with `--http-host NAME`.\n"
    );
    (
        StatusCode::MISDIRECTED_REQUEST,
        [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")],
        text,
    )
        .into_response()
}

async fn check_token(
    State(tokens): State<AcceptedTokens>,
    request: Request,
    next: Next,
) -> Response {
    let carried = request.headers().get(header::AUTHORIZATION);
    if carried.is_some_and(|value| tokens.are_carried_by(value.as_bytes(), Instant::now())) {
        next.run(request).await
    } else {
        (
            StatusCode::UNAUTHORIZED,
            "the header `authorization: Bearer TOKEN` is needed\n",
        )
            .into_response()
    }
}

async fn ask(owner: &Owner) -> Result<v1::StatusReply, Response> {
    let question = |reply| {
        OwnerRequest::Question(Question::Status {
            sweep: String::new(),
            reply,
        })
    };
    requests::ask(owner, question).await.map_err(|status| {
        let text = format!("{}\n", status.message());
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    })
}

async fn status(State(owner): State<Owner>) -> Result<Json<Value>, Response> {
    Ok(Json(status_document(&ask(&owner).await?)))
}

async fn metrics(State(owner): State<Owner>) -> Result<impl IntoResponse, Response> {
    let text = as_metrics(&ask(&owner).await?);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}

async fn page(State(owner): State<Owner>) -> Result<Html<String>, Response> {
    Ok(Html(as_html(&ask(&owner).await?)))
}

/// Formats the status in the text format of Prometheus.
fn as_metrics(status: &v1::StatusReply) -> String {
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, values: &[(String, u64)]| {
        let _ = writeln!(
            text,
            "# HELP orchestrator_{name} {help}\n# TYPE orchestrator_{name} gauge"
        );
        for (labels, value) in values {
            let _ = writeln!(text, "orchestrator_{name}{labels} {value}");
        }
    };
    let single = |value: u64| vec![(String::new(), value)];
    gauge(
        "journal_bytes",
        "Disk that the journal occupies.",
        &single(status.journal_bytes),
    );
    gauge(
        "checkpoint_bytes",
        "Disk that checkpoints of running trials occupy.",
        &single(status.checkpoint_bytes),
    );
    let fault = u64::from(!status.storage_fault.is_empty());
    gauge(
        "storage_fault",
        "1 while the journal cannot be written.",
        &single(fault),
    );
    let mut trials = Vec::new();
    let mut cells = Vec::new();
    for sweep in &status.sweeps {
        let name = escaped(&sweep.name);
        let phases = [
            ("waiting", sweep.waiting),
            ("running", sweep.running),
            ("succeeded", sweep.succeeded),
            ("failed", sweep.failed),
            ("cancelled", sweep.cancelled),
        ];
        trials.extend(
            phases.map(|(phase, count)| (format!("{{sweep=\"{name}\",phase=\"{phase}\"}}"), count)),
        );
        cells.push((
            format!("{{sweep=\"{name}\",complete=\"yes\"}}"),
            sweep.complete_cells,
        ));
        let open = sweep.cells.saturating_sub(sweep.complete_cells);
        cells.push((format!("{{sweep=\"{name}\",complete=\"no\"}}"), open));
    }
    gauge("trials", "Trials of a sweep by phase.", &trials);
    gauge("cells", "Cells of a sweep.", &cells);
    let mut slots = Vec::new();
    for worker in status
        .workers
        .iter()
        .filter(|worker| worker.presence() != v1::Presence::Gone)
    {
        let labels = |use_: &str| {
            let (name, presence) = (escaped(&worker.worker), worker.presence());
            format!("{{worker=\"{name}\",presence=\"{presence}\",use=\"{use_}\"}}")
        };
        slots.push((labels("busy"), u64::from(worker.busy_slots)));
        slots.push((
            labels("free"),
            u64::from(worker.slots.saturating_sub(worker.busy_slots)),
        ));
    }
    gauge("slots", "Slots of a worker.", &slots);
    let present = status
        .workers
        .iter()
        .filter(|worker| worker.presence() != v1::Presence::Gone);
    let work_dirs: Vec<_> = present
        .map(|worker| {
            (
                format!("{{worker=\"{}\"}}", escaped(&worker.worker)),
                worker.work_dir_bytes,
            )
        })
        .collect();
    gauge(
        "work_dir_bytes",
        "Disk that checkpoints and logs in a worker's work directory occupy.",
        &work_dirs,
    );
    text
}

/// Escapes the value of a label.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn as_html(status: &v1::StatusReply) -> String {
    let mut page = String::from(
        "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=5><title>orchestrator</title>\
         <style>body{font:15px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:right}\
         td:first-child,th:first-child,td.text{text-align:left}</style><h1>orchestrator</h1>",
    );
    if !status.storage_fault.is_empty() {
        let _ = write!(
            page,
            "<p><strong>The journal cannot be written, so nothing new is accepted:</strong> {}</p>",
            html(&status.storage_fault)
        );
    }
    page.push_str(
        "<h2>Sweeps</h2><table><tr><th>sweep<th>cells<th>succeeded<th>running<th>waiting<th>failed<th>cancelled",
    );
    for sweep in &status.sweeps {
        let v1::SweepStatus {
            complete_cells,
            cells,
            succeeded,
            running,
            waiting,
            failed,
            cancelled,
            ..
        } = sweep;
        let _ = write!(
            page,
            "<tr><td>{}<td>{complete_cells}/{cells}<td>{succeeded}<td>{running}<td>{waiting}<td>{failed}<td>{cancelled}",
            html(&sweep.name)
        );
    }
    page.push_str("</table><h2>Running</h2><table><tr><th>trial<th>seed<th>epoch<th>images/s<th>accuracy<th>condition");
    for trial in status.sweeps.iter().flat_map(|sweep| &sweep.running_trials) {
        let accuracy = trial.accuracy.map_or_else(String::new, |accuracy| {
            format!("{} %", sweep::Share::new(accuracy, 0))
        });
        let v1::RunningTrial {
            seed,
            epoch,
            num_epochs,
            images_per_s,
            ..
        } = trial;
        let condition = trial.condition();
        let cell = html(&trial.cell);
        let epoch = if *num_epochs == 0 {
            "starting".to_owned()
        } else {
            format!("{epoch}/{num_epochs}")
        };
        let _ = write!(
            page,
            "<tr><td>{cell}<td>{seed}<td>{epoch}<td>{images_per_s:.0}<td>{accuracy}<td>{condition}"
        );
    }
    page.push_str(
        "</table><h2>Workers</h2><table><tr><th>worker<th>slots busy<th>presence<th>reason",
    );
    for worker in &status.workers {
        let v1::WorkerStatus {
            busy_slots, slots, ..
        } = worker;
        let presence = worker.presence();
        let (name, reason) = (html(&worker.worker), html(&worker.reason));
        let _ = write!(
            page,
            "<tr><td>{name}<td>{busy_slots}/{slots}<td>{presence}<td class=text>{reason}"
        );
    }
    page.push_str("</table>\n");
    page
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> v1::StatusReply {
        let sweep = v1::SweepStatus {
            name: "a \"b\" <c>".into(),
            waiting: 1,
            running: 2,
            succeeded: 3,
            cells: 4,
            complete_cells: 1,
            ..Default::default()
        };
        let worker = v1::WorkerStatus {
            worker: "node-1-2".into(),
            presence: v1::Presence::Present.into(),
            slots: 2,
            busy_slots: 1,
            reason: "<script>".into(),
            ..Default::default()
        };
        v1::StatusReply {
            sweeps: vec![sweep],
            workers: vec![worker],
            journal_bytes: 5,
            ..Default::default()
        }
    }

    #[test]
    fn only_hosts_that_lead_here_are_answered() {
        let hosts = |bound: &str, names: &[&str]| {
            Hosts::new(
                bound.parse().unwrap(),
                names.iter().map(|name| (*name).to_owned()).collect(),
            )
        };
        let (local, everywhere) = (
            hosts("127.0.0.1", &["Login1.example:80"]),
            hosts("0.0.0.0", &[]),
        );
        for host in [
            "127.0.0.1:7480",
            "localhost",
            "LOCALHOST:1",
            "[::1]:7480",
            "127.0.0.2",
            "login1.example:7480",
        ] {
            assert!(local.include(host), "{host}");
        }
        for host in [
            "evil.example:7480",
            "",
            "10.0.0.1",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "[x]",
        ] {
            assert!(!local.include(host), "{host}");
        }
        assert!(
            everywhere.include("10.1.2.3:7480")
                && everywhere.include("[fe80::1]")
                && everywhere.include("localhost")
        );
        assert!(!everywhere.include("login1.example"));
        let one = hosts("10.1.2.3", &[]);
        assert!(one.include("10.1.2.3") && !one.include("10.1.2.4") && !one.include("localhost"));
    }

    #[test]
    fn metrics_are_in_the_text_format() {
        let text = as_metrics(&status());
        assert!(
            text.contains(
                "\norchestrator_trials{sweep=\"a \\\"b\\\" <c>\",phase=\"succeeded\"} 3\n"
            ),
            "{text}"
        );
        assert!(text.contains(
            "\norchestrator_slots{worker=\"node-1-2\",presence=\"present\",use=\"free\"} 1\n"
        ));
        assert!(text.contains("\norchestrator_journal_bytes 5\n"));
    }

    #[test]
    fn what_peers_named_cannot_become_markup() {
        let page = as_html(&status());
        assert!(page.contains("a &quot;b&quot; &lt;c&gt;") && page.contains("&lt;script&gt;"));
        assert!(!page.contains("<script>"));
    }
}
