//! The arguments of the page, and where it listens.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use coordinator::{Handle, Page, PageAddress};
use sweep::with_causes;

use crate::args::Target;
use crate::exit::ExpectedError;
use crate::host_port::HostPort;
use crate::stderr;

/// The usual address of the page; another port if this one is taken.
const USUAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7480);

/// Where the page of a coordinator listens.
#[derive(Clone, Debug, Default, Args)]
pub struct HttpArgs {
    /// Where the page and the metrics are served, as HOST:PORT, or `off` [default: 127.0.0.1:7480,
    /// or another port of 127.0.0.1 if it is taken]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<HttpChoice>,
    /// A further name that the page answers to, besides that of --http and, on loopback,
    /// `localhost`
    #[arg(long, value_name = "NAME", requires = "http")]
    pub http_host: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpChoice {
    Off,
    At(HostPort),
}

impl FromStr for HttpChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            address => address.parse().map(Self::At),
        }
    }
}

impl HttpArgs {
    /// Returns the address; `None`: no page is served.
    pub fn address(&self) -> Result<Option<PageAddress>, ExpectedError> {
        match &self.http {
            None => Ok(Some(PageAddress::Preferred(USUAL))),
            Some(HttpChoice::Off) => Ok(None),
            Some(HttpChoice::At(address)) => {
                let address = address.resolve("--http")?;
                Ok(Some(PageAddress::Exactly(address)))
            }
        }
    }

    /// Serves the page of a coordinator and prints where. One without a flag that cannot
    /// listen costs no more than a note.
    pub async fn serve(&self, coordinator: &Handle) -> Result<Option<Page>, ExpectedError> {
        let Some(address) = self.address()? else {
            return Ok(None);
        };
        let names = self.http_host.iter().cloned();
        let named = match &self.http {
            Some(HttpChoice::At(address)) => Some(address.to_string()),
            _ => None,
        };
        match (
            coordinator
                .serve_http(address, names.chain(named).collect())
                .await,
            address,
        ) {
            (Ok(page), _) => {
                stderr::print(&format!("page on {}", shown(&page)));
                Ok(Some(page))
            }
            (Err(error), PageAddress::Preferred(_)) => {
                stderr::print(&format!("note: no page: {}", with_causes(&error)));
                Ok(None)
            }
            (Err(error @ coordinator::Error::NeedsToken { .. }), _) => {
                Err(ExpectedError::BadInput(error.to_string()))
            }
            (Err(error), _) => Err(ExpectedError::Infrastructure {
                what: "the page",
                reason: with_causes(&error),
            }),
        }
    }
}

/// Returns the page's address: on a terminal with a code that logs in once, since a file that
/// stderr goes to may be read by others.
fn shown(page: &Page) -> String {
    match stderr::interactive() {
        true => page.login(),
        false => format!("http://{}/ (`orchestrator page` logs in)", page.address()),
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orchestrator page
  orchestrator page --open
  orchestrator page --coordinator https://login1:7400 --token-file token

Prints an address that logs a browser in: once, and within ten minutes.")]
pub struct PageArgs {
    /// Open it in this machine's browser
    #[arg(long)]
    pub open: bool,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orchestrator report table2 --html table2.html

The file has tables, figures, curves, cells and trials, needs no server and runs no script, so that
it can be mailed. It is read from the journal, whether or not a coordinator runs.")]
pub struct ReportArgs {
    /// The sweep's name
    #[arg(value_name = "SWEEP")]
    pub sweep: String,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub html: PathBuf,
    #[command(flatten)]
    pub target: Target,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_flag_another_port_will_do_and_off_is_no_address() {
        let of = |http: Option<&str>| {
            let http = http.map(|text| text.parse::<HttpChoice>().unwrap());
            let arguments = HttpArgs {
                http,
                ..HttpArgs::default()
            };
            arguments.address().unwrap()
        };
        assert!(matches!(of(None), Some(PageAddress::Preferred(USUAL))));
        assert!(of(Some("off")).is_none());
        assert!(
            matches!(of(Some("127.0.0.1:80")), Some(PageAddress::Exactly(address)) if address.port() == 80)
        );
        assert!("nowhere".parse::<HttpChoice>().is_err());
    }
}
