//! The HTTP client of downloads: its timeouts, its proxies, and the certificates that it trusts.
//!
//! `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` are read by ureq, for proxies of HTTP (by
//! CONNECT) and of SOCKS.

use std::io::ErrorKind;
use std::time::Duration;

use ureq::config::RedirectAuthHeaders;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Name the certificates to trust in place of the system's.
const OWN_CERTIFICATES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Returns a client, or the reason why there are no certificates to trust.
pub fn new() -> Result<ureq::Agent, String> {
    let tls = TlsConfig::builder().root_certs(trusted()?).build();
    let config = ureq::Agent::config_builder()
        .tls_config(tls)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(READ_TIMEOUT))
        .timeout_per_read(Some(READ_TIMEOUT))
        .redirect_auth_headers(RedirectAuthHeaders::SameHost)
        .http_status_as_error(false);
    Ok(ureq::Agent::new_with_config(config.build()))
}

/// Returns the certificates of the system's store, where a site adds those of proxies that read
/// along. A machine without a store, such as a small container, gets Mozilla's.
fn trusted() -> Result<RootCerts, String> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let named = OWN_CERTIFICATES
            .into_iter()
            .find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
        let Some(name) = named else {
            return Ok(RootCerts::WebPki);
        };
        let reason = found.errors.first().map(|error| format!(": {error}"));
        return Err(format!(
            "{name} names no certificates{}",
            reason.unwrap_or_default()
        ));
    }
    let certificates = found
        .certs
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned());
    Ok(RootCerts::from(certificates))
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
