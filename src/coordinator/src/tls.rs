//! The server's half of encrypted connections: TLS 1.3, with a certificate for each accepted token.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::tls::{ServerCertificate, server_certificate};
use protocol::{AcceptedTokens, Now};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::connections::Connection;

/// Time for a peer to finish the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Certificates that are kept; one that is needed again later is made again.
const MAX_CERTIFICATES: usize = 256;

/// Encrypts connections.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl Tls {
    pub fn new(tokens: AcceptedTokens) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certificates = Certificates {
            tokens,
            provider: provider.clone(),
            made: Mutex::default(),
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(certificates));
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(Arc::new(config).into()))
    }

    /// Performs the handshake on a new connection.
    pub async fn accept(&self, connection: Connection) -> io::Result<TlsStream<Connection>> {
        timeout(HANDSHAKE, self.0.accept(connection))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

/// The certificates of the accepted tokens, each made when a client first asks for it.
struct Certificates {
    tokens: AcceptedTokens,
    provider: Arc<CryptoProvider>,
    made: Mutex<Vec<(String, Arc<CertifiedKey>)>>,
}

impl Certificates {
    fn make(&self, token: &protocol::Token) -> Result<CertifiedKey, String> {
        let ServerCertificate { certificate, key } =
            server_certificate(token).map_err(|error| error.to_string())?;
        let key = PrivateKeyDer::Pkcs8(key.into());
        CertifiedKey::from_der(vec![certificate.into()], key, &self.provider)
            .map_err(|error| error.to_string())
    }
}

impl ResolvesServerCert for Certificates {
    /// Returns the certificate for the token that the client names. `None` ends the handshake: the
    /// client names no token, or one that is not accepted.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?;
        let token = self.tokens.named(name, Now::read())?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, key)) = made.iter().find(|(known, _)| known == name) {
            return Some(key.clone());
        }
        match self.make(&token) {
            Ok(key) => {
                let key = Arc::new(key);
                made.truncate(MAX_CERTIFICATES - 1);
                made.insert(0, (name.to_owned(), key.clone()));
                Some(key)
            }
            Err(reason) => {
                tracing::error!(reason, "cannot make a certificate");
                None
            }
        }
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Certificates")
    }
}
