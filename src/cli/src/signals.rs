//! The signals that ask the program to end, as a stream: the first asks politely, the second insists.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::ExpectedError;

pub struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
    user: Option<Signal>,
}

impl Signals {
    /// From here on these signals no longer end the process by themselves. One that was ignored when the program
    /// started (`nohup`, a background job of a script) stays ignored.
    pub fn listen() -> Result<Self, ExpectedError> {
        let ignored = ignored();
        let listen = |kind: SignalKind| {
            if ignored & (1 << (kind.as_raw_value() - 1)) != 0 {
                return Ok(None);
            }
            signal(kind).map(Some).map_err(|error| ExpectedError::Infrastructure {
                what: "cannot listen for signals",
                reason: error.to_string(),
            })
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            user: listen(SignalKind::user_defined1())?,
        })
    }

    /// The name of the next one. SIGUSR1 is Slurm's notice before it takes a node away.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            () = received(&mut self.interrupt) => "SIGINT",
            () = received(&mut self.terminate) => "SIGTERM",
            () = received(&mut self.hangup) => "SIGHUP",
            () = received(&mut self.user) => "SIGUSR1",
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// The mask of signals that this process ignores, from /proc; none where that cannot be read.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
