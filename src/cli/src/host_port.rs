//! `HOST:PORT`, where HOST is an address or a name.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use crate::exit::ExpectedError;

/// An address whose form is checked. Its name is resolved when it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort(String);

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |reason: &str| {
            Err(format!(
                "`{text}` {reason}: HOST:PORT was expected, such as 127.0.0.1:7400, [::1]:7400 or localhost:7400"
            ))
        };
        if text.contains("://") {
            return wrong("is a URL");
        }
        if text.parse::<SocketAddr>().is_ok() {
            return Ok(Self(text.to_owned()));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return wrong("names no port");
        };
        if port.parse::<u16>().is_err() {
            return wrong(&format!(
                "ends with `{port}`, which is no port from 0 to 65535"
            ));
        }
        let symbol =
            |symbol: char| symbol.is_ascii_alphanumeric() || matches!(symbol, '-' | '.' | '_');
        match host {
            "" => wrong("names no host"),
            // an IPv6 address needs brackets
            host if host.chars().all(symbol) => Ok(Self(text.to_owned())),
            _ => wrong("does not begin with a host's name or address"),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl HostPort {
    /// Resolves the name. Of several addresses it prefers IPv4, which every client reaches.
    pub fn resolve(&self, flag: &str) -> Result<SocketAddr, ExpectedError> {
        let found = self
            .0
            .to_socket_addrs()
            .map(|addresses| addresses.min_by_key(SocketAddr::is_ipv6));
        let reason = match found {
            Ok(Some(address)) => return Ok(address),
            Ok(None) => "the name has no address".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(ExpectedError::BadInput(format!(
            "{flag} {self} cannot be looked up ({reason}): give an address, or a name that this machine knows"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_with_a_port() {
        for text in [
            "127.0.0.1:7400",
            "[::1]:0",
            "localhost:7400",
            "login-1.cluster:65535",
            "0.0.0.0:1",
        ] {
            assert_eq!(
                text.parse::<HostPort>().map(|found| found.to_string()),
                Ok(text.to_owned())
            );
        }
        for (text, reason) in [
            ("localhost", "names no port"),
            ("7400", "names no port"),
            (":7400", "names no host"),
            ("localhost:port", "no port from 0 to 65535"),
            ("localhost:65536", "no port from 0 to 65535"),
            ("::1:7400", "does not begin with a host"),
            ("http://localhost:7400", "is a URL"),
            ("a b:1", "does not begin with a host"),
        ] {
            let error = text.parse::<HostPort>().unwrap_err();
            assert!(
                error.contains(reason) && error.contains("localhost:7400"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_name_is_looked_up() {
        let resolve = |text: &str| text.parse::<HostPort>().unwrap().resolve("--listen");
        assert_eq!(
            resolve("127.0.0.1:7400").unwrap(),
            "127.0.0.1:7400".parse().unwrap()
        );
        assert!(resolve("localhost:7400").unwrap().ip().is_loopback());
        let error = resolve("no-such-host.invalid:7400").unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert!(
            error
                .to_string()
                .contains("--listen no-such-host.invalid:7400"),
            "{error}"
        );
    }
}
