//! The host names that a request may use. Another site's name that resolves to this address is
//! refused, so that its scripts can neither read a page nor act on it.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Hosts that a request may be sent to.
#[derive(Clone)]
pub struct Hosts {
    bound: IpAddr,
    names: Arc<[String]>,
}

impl Hosts {
    pub fn new(bound: IpAddr, names: Vec<String>) -> Self {
        Self {
            bound,
            names: names.into_iter().map(|name| without_port(&name)).collect(),
        }
    }

    /// Returns true for a host of this page. An IP address is accepted because it cannot be another
    /// site's name.
    fn include(&self, host: &str) -> bool {
        let host = without_port(host);
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
fn without_port(host: &str) -> String {
    let host = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => match host.split_once(':') {
            Some((name, port)) if !port.contains(':') => name,
            _ => host,
        },
    };
    host.trim_end_matches('.').to_ascii_lowercase()
}

pub async fn check_host(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
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
        "This is the page of an orchestrator. It answers to its own address, and was asked for as `{asked}`.\n\
         If that name is right, start the coordinator with `--http-host NAME`.\n"
    );
    (
        StatusCode::MISDIRECTED_REQUEST,
        [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")],
        text,
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
