//! The HTTP client of downloads: its timeouts and its proxies.
//!
//! `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` are read by ureq, for proxies of HTTP (by
//! CONNECT) and of SOCKS.

use std::io::ErrorKind;
use std::time::Duration;

use ureq::config::RedirectAuthHeaders;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns a client, or the reason why there are no certificates to trust.
pub fn new() -> Result<ureq::Agent, String> {
    let config = ureq::Agent::config_builder()
        .tls_config(trust::tls()?)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(READ_TIMEOUT))
        .timeout_per_read(Some(READ_TIMEOUT))
        .redirect_auth_headers(RedirectAuthHeaders::SameHost)
        .http_status_as_error(false);
    Ok(ureq::Agent::new_with_config(config.build()))
}

/// Returns the reason for a server that is not trusted, which another try does not change.
pub fn distrust(error: &ureq::Error) -> Option<String> {
    match error {
        ureq::Error::Io(inner) if inner.kind() == ErrorKind::InvalidData => Some(format!(
            "{inner}. Where a proxy reads along, name a file with its certificate (PEM) in SSL_CERT_FILE, or let the \
             system trust it"
        )),
        _ => None,
    }
}
