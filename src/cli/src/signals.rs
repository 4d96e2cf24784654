//! The signals that ask the program to end, as a stream of requests: the first asks it to end in
//! order, a later one insists that it stop at once.
//!
//! One request often arrives as several signals. A shell, `timeout`, `make` or `srun` signals the
//! process and its whole group, and some send SIGTERM after SIGINT. Slurm repeats itself for
//! longer: SIGTERM follows its notice SIGUSR1, and preemption sends SIGTERM twice. A second SIGINT
//! is a person's: it insists after a second. Other signals insist after five seconds, and in a
//! Slurm job never, because Slurm sends SIGKILL when its patience ends.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::exit::ExpectedError;

/// A SIGINT this soon after a request is part of it.
const SAME_INTERRUPT: Duration = Duration::from_secs(1);
/// Any other signal this soon after a request is part of it.
const SAME_REQUEST: Duration = Duration::from_secs(5);

/// Advice in messages after a first request, true wherever the program runs.
pub const HOW_TO_INSIST: &str = "Ctrl-C (SIGINT) a second later or more stops at once";

pub struct Signals {
    requests: mpsc::UnboundedReceiver<Signal>,
}

impl Signals {
    /// Starts to listen: these signals no longer end the process by themselves. A signal that was
    /// ignored when the program started (`nohup`, a background job of a script) stays ignored.
    pub fn listen() -> Result<Self, ExpectedError> {
        let mut sources = Sources::open()?;
        let (sender, requests) = mpsc::unbounded_channel();
        let in_slurm_job = std::env::var_os("SLURM_JOB_ID").is_some();
        // its own task, so that a signal counts from its arrival even if the command is busy
        tokio::spawn(async move {
            let mut last = LastRequest::new(in_slurm_job);
            loop {
                let signal = sources.next().await;
                if last.is_new(signal, Instant::now()) && sender.send(signal).is_err() {
                    return;
                }
            }
        });
        Ok(Self { requests })
    }

    /// Waits for the next request and returns its signal. SIGUSR1 is Slurm's notice before it takes
    /// a node away.
    pub async fn next(&mut self) -> Signal {
        match self.requests.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}

/// Distinguishes requests from the signals that repeat them.
struct LastRequest {
    in_slurm_job: bool,
    at: Option<Instant>,
}

impl LastRequest {
    fn new(in_slurm_job: bool) -> Self {
        Self {
            in_slurm_job,
            at: None,
        }
    }

    /// Returns true if this signal at this time is a new request.
    fn is_new(&mut self, signal: Signal, now: Instant) -> bool {
        let new = match (self.at, signal) {
            (None, _) => true,
            (Some(at), Signal::SIGINT) => now.duration_since(at) >= SAME_INTERRUPT,
            (Some(_), _) if self.in_slurm_job => false,
            (Some(at), _) => now.duration_since(at) >= SAME_REQUEST,
        };
        if new {
            self.at = Some(now);
        }
        new
    }
}

struct Sources {
    interrupt: Option<unix::Signal>,
    terminate: Option<unix::Signal>,
    hangup: Option<unix::Signal>,
    user: Option<unix::Signal>,
}

impl Sources {
    fn open() -> Result<Self, ExpectedError> {
        let ignored = ignored();
        let listen = |kind: SignalKind| {
            if ignored & (1 << (kind.as_raw_value() - 1)) != 0 {
                return Ok(None);
            }
            unix::signal(kind)
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

    async fn next(&mut self) -> Signal {
        tokio::select! {
            () = received(&mut self.interrupt) => Signal::SIGINT,
            () = received(&mut self.terminate) => Signal::SIGTERM,
            () = received(&mut self.hangup) => Signal::SIGHUP,
            () = received(&mut self.user) => Signal::SIGUSR1,
        }
    }
}

async fn received(signal: &mut Option<unix::Signal>) {
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
    use Signal::{SIGINT, SIGTERM, SIGUSR1};

    use super::*;

    /// Returns the times, in milliseconds, of the signals that are requests.
    fn requests(in_slurm_job: bool, signals: &[(Signal, u64)]) -> Vec<u64> {
        let start = Instant::now();
        let mut last = LastRequest::new(in_slurm_job);
        let new = signals
            .iter()
            .filter(|(signal, ms)| last.is_new(*signal, start + Duration::from_millis(*ms)));
        new.map(|(_, ms)| *ms).collect()
    }

    #[test]
    fn a_second_interrupt_insists_and_what_comes_within_a_second_is_one_request() {
        let signals = [0, 0, 3, 400, 999, 1_000, 1_001, 1_999, 5_000].map(|ms| (SIGINT, ms));
        for in_slurm_job in [false, true] {
            assert_eq!(
                requests(in_slurm_job, &signals),
                [0, 1_000, 5_000],
                "counted from the request, so that holding Ctrl-C insists"
            );
            assert_eq!(
                requests(
                    in_slurm_job,
                    &[(SIGTERM, 0), (SIGINT, 999), (SIGINT, 1_000)]
                ),
                [0, 1_000]
            );
        }
    }

    #[test]
    fn other_signals_insist_after_five_seconds_and_in_a_slurm_job_never() {
        let signals = [
            (SIGUSR1, 0),
            (SIGTERM, 2),
            (SIGTERM, 4_999),
            (SIGTERM, 5_000),
            (SIGTERM, 90_000),
        ];
        assert_eq!(requests(false, &signals), [0, 5_000, 90_000]);
        assert_eq!(requests(true, &signals), [0]);
    }
}
