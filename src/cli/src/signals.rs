//! The signals that ask the program to end, as a stream of requests: the first is a request, the
//! second insists.
//!
//! One request often arrives as several signals: a shell, `timeout`, `make` or `srun` signals the
//! process and its whole group, and some send SIGTERM after SIGINT. Signals within a second of a
//! request therefore belong to it.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::exit::ExpectedError;

/// Signals this soon after a request are part of it.
const SAME_REQUEST: Duration = Duration::from_secs(1);

pub struct Signals {
    requests: mpsc::UnboundedReceiver<&'static str>,
}

impl Signals {
    /// Starts to listen: these signals no longer end the process by themselves. A signal that was
    /// ignored when the program started (`nohup`, a background job of a script) stays ignored.
    pub fn listen() -> Result<Self, ExpectedError> {
        let mut sources = Sources::open()?;
        let (sender, requests) = mpsc::unbounded_channel();
        // its own task, so that a signal counts from its arrival even if the command is busy
        tokio::spawn(async move {
            let mut last = LastRequest::default();
            loop {
                let name = sources.next().await;
                if last.is_new(Instant::now()) && sender.send(name).is_err() {
                    return;
                }
            }
        });
        Ok(Self { requests })
    }

    /// Waits for the next request and returns its signal. SIGUSR1 is Slurm's notice before it takes
    /// a node away.
    pub async fn next(&mut self) -> &'static str {
        match self.requests.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }
}

/// Distinguishes requests from the signals that repeat them.
#[derive(Default)]
struct LastRequest {
    at: Option<Instant>,
}

impl LastRequest {
    /// Returns true if a signal at this time is a new request.
    fn is_new(&mut self, now: Instant) -> bool {
        let new = self
            .at
            .is_none_or(|at| now.duration_since(at) >= SAME_REQUEST);
        if new {
            self.at = Some(now);
        }
        new
    }
}

struct Sources {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
    user: Option<Signal>,
}

impl Sources {
    fn open() -> Result<Self, ExpectedError> {
        let ignored = ignored();
        let listen = |kind: SignalKind| {
            if ignored & (1 << (kind.as_raw_value() - 1)) != 0 {
                return Ok(None);
            }
            signal(kind)
                .map(Some)
                .map_err(|error| ExpectedError::Infrastructure {
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

    async fn next(&mut self) -> &'static str {
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

/// Returns the mask of signals that this process ignores, from /proc; empty if that cannot be read.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_within_a_second_are_one_request() {
        let start = Instant::now();
        let mut last = LastRequest::default();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let requests: Vec<u64> = [0, 0, 3, 400, 999, 1_000, 1_001, 1_999, 5_000]
            .into_iter()
            .filter(|&ms| last.is_new(at(ms)))
            .collect();
        assert_eq!(
            requests,
            [0, 1_000, 5_000],
            "counted from the request, so that holding Ctrl-C insists"
        );
    }
}
