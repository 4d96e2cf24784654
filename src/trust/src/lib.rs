//! The certificates by which this program knows the servers of others: those of downloads, of MLflow
//! and of notices.

use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Name the certificates to trust in place of the system's.
const OWN_CERTIFICATES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Returns the configuration of a client, or the reason why there are no certificates to trust.
pub fn tls() -> Result<TlsConfig, String> {
    Ok(TlsConfig::builder().root_certs(trusted()?).build())
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
