//! Encryption between machines, from the shared token alone. The key of a certificate authority is
//! derived from the token: the coordinator signs its certificate with it, and a client with the token
//! accepts that authority and no other. So no certificate has to be made, copied or renewed, the
//! coordinator may have any name or address, and a client sends its token only to a peer that already
//! has it.

use std::error::Error as StdError;
use std::{io, iter};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519,
};
use rustls::{AlertDescription, CertificateError, InvalidMessage};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::Token;
use crate::grant::Grant;

/// The head of a private key of Ed25519 in PKCS #8; its 32 bytes follow (RFC 8410, section 7).
const ED25519: [u8; 16] = [
    0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
];

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("cannot encrypt connections")]
    Settings(#[from] tonic::transport::Error),
    #[error(
        "a coordinator that listens for other machines is known by its token: give --token-file"
    )]
    NoToken,
}

/// A certificate and its private key, in DER; the key in PKCS #8.
pub struct ServerCertificate {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

/// Returns the scheme of a coordinator's addresses.
pub fn scheme(is_encrypted: bool) -> &'static str {
    if is_encrypted { "https" } else { "http" }
}

/// The end of the names of coordinators.
const DOMAIN: &str = ".orchestrator";

/// Returns the server name with which a client asks for the certificate of its token. The token
/// cannot be computed from it. The name of a granted token is its public part.
pub fn server_name(token: &Token) -> String {
    if let Some(grant) = Grant::parse(token.reveal()) {
        return format!("{}{DOMAIN}", grant.text());
    }
    let name = token.derived("orchestrator 2026-11-28 name of the coordinator");
    let name: String = name[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{name}{DOMAIN}")
}

/// Returns the public part of the granted token whose certificate has this name.
pub(crate) fn granted_by_name(server_name: &str) -> Option<&str> {
    server_name.strip_suffix(DOMAIN)
}

/// Makes a certificate that is valid for clients with the token.
pub fn server_certificate(token: &Token) -> Result<ServerCertificate, rcgen::Error> {
    let (params, key) = authority(token)?;
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate()?;
    let params = CertificateParams::new([server_name(token)])?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(ServerCertificate {
        certificate: certificate.der().to_vec(),
        key: key.serialize_der(),
    })
}

/// Makes connections to this endpoint encrypted if its address asks for it.
pub fn secure(endpoint: Endpoint, token: Option<&Token>) -> Result<Endpoint, Error> {
    if endpoint.uri().scheme_str() != Some("https") {
        return Ok(endpoint);
    }
    let token = token.ok_or(Error::NoToken)?;
    let (params, key) = authority(token)?;
    let authority = Certificate::from_pem(params.self_signed(&key)?.pem());
    let config = ClientTlsConfig::new()
        .ca_certificate(authority)
        .domain_name(server_name(token));
    Ok(endpoint.tls_config(config)?)
}

/// Returns the authority of a token. It never expires, since the token does not either.
fn authority(token: &Token) -> Result<(CertificateParams, KeyPair), rcgen::Error> {
    let seed = token.derived("orchestrator 2026-11-28 authority of the coordinator");
    let key = [&ED25519[..], &seed].concat();
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&key[..].into(), &PKCS_ED25519)?;
    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(DnType::CommonName, "authority of an orchestrator's token");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok((params, key))
}

/// Returns true if a connection failed because the coordinator has no certificate for the client's
/// token, or the client does not know the certificate's authority.
pub fn is_refusal(error: &(dyn StdError + 'static)) -> bool {
    matches!(
        cause(error),
        Some(
            rustls::Error::AlertReceived(AlertDescription::AccessDenied)
                | rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)
        )
    )
}

/// Adds advice to the reason of a failed connection if its error shows that the address has the
/// wrong scheme.
pub fn explain(reason: String, error: &(dyn StdError + 'static), address: &str) -> String {
    // an alert of TLS, read as the head of a frame of HTTP/2
    let has_met_tls =
        || cause(error).and_then(h2::Error::reason) == Some(h2::Reason::FRAME_SIZE_ERROR);
    let has_met_no_tls = || {
        let invalid = rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType);
        cause(error) == Some(&invalid)
    };
    match address.strip_prefix("http://") {
        Some(place) if has_met_tls() => {
            format!("{reason}; it listens for other machines: it is at https://{place}")
        }
        None if has_met_no_tls() => {
            format!("{reason}; if it listens on loopback alone, its address begins with http://")
        }
        _ => reason,
    }
}

/// Finds an error of a type among an error and its causes. Looks into `io::Error` too, whose
/// `source` is that of the error in it.
fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    iter::successors(Some(error), |&error| error.source()).find_map(|error| {
        let inner = error.downcast_ref().and_then(io::Error::get_ref);
        error.downcast_ref().or_else(|| inner?.downcast_ref())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_authorities_follow_from_the_token_alone() {
        let [one, other] = [(); 2].map(|()| Token::random().unwrap());
        let again = Token::new(one.reveal()).unwrap();
        assert_eq!(server_name(&one), server_name(&again));
        assert_ne!(server_name(&one), server_name(&other));
        let public = |token: &Token| authority(token).unwrap().1.public_key_raw().to_vec();
        assert_eq!(public(&one), public(&again));
        assert_ne!(public(&one), public(&other));
        assert!(!server_name(&one).contains(one.reveal()));
    }

    #[test]
    fn an_encrypted_address_needs_a_token() {
        let endpoint = |address: &'static str| Endpoint::from_static(address);
        assert!(secure(endpoint("http://127.0.0.1:1"), None).is_ok());
        let error = secure(endpoint("https://a:1"), None).unwrap_err();
        assert!(error.to_string().contains("--token-file"), "{error}");
        let token = Token::random().unwrap();
        assert!(secure(endpoint("https://a:1"), Some(&token)).is_ok());
    }

    #[test]
    fn an_address_with_the_wrong_scheme_is_explained() {
        let from_tls = h2::Error::from(h2::Reason::FRAME_SIZE_ERROR);
        let from_no_tls = io::Error::new(
            io::ErrorKind::InvalidData,
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType),
        );
        let explained = |error: &(dyn StdError + 'static), address: &str| {
            explain("lost".to_owned(), error, address)
        };
        let advised = explained(&from_tls, "http://a:1");
        assert!(advised.ends_with("it is at https://a:1"), "{advised}");
        let advised = explained(&from_no_tls, "https://a:1");
        assert!(advised.contains("begins with http://"), "{advised}");
        let other = io::Error::from(io::ErrorKind::ConnectionRefused);
        for (error, address) in [
            (&from_tls as &(dyn StdError + 'static), "https://a:1"),
            (&from_no_tls, "http://a:1"),
            (&other, "http://a:1"),
            (&other, "https://a:1"),
        ] {
            assert_eq!(explained(error, address), "lost");
        }
    }

    #[test]
    fn a_refused_token_is_distinguished_from_other_failures() {
        let within = |error: rustls::Error| io::Error::new(io::ErrorKind::InvalidData, error);
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let refused = rustls::Error::AlertReceived(AlertDescription::AccessDenied);
        let expired = rustls::Error::InvalidCertificate(CertificateError::Expired);
        assert!(is_refusal(&within(unknown)) && is_refusal(&refused));
        assert!(!is_refusal(&within(expired)));
        assert!(!is_refusal(&io::Error::other("UnknownIssuer")));
    }
}
