//! The Slurm job that this process runs in: its name, its node and its end.
//!
//! Slurm sets them in the environment, but for the end: before version 23.02 only `squeue` knows
//! it. Next: devices/granted.rs, for what a job may use.

use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use schedule::state::Millis;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Interval of questions to `squeue`: the time limit of a job can be changed while it runs.
const CHECK_EVERY: Duration = Duration::from_secs(10 * 60);
/// Timeout of `squeue`, which waits for a controller that is away.
const PATIENCE: Duration = Duration::from_secs(20);
/// Difference between two answers that is no change of the limit: `squeue` prints whole seconds.
const SAME_END_MS: Millis = 60_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub id: String,
    /// The node's name in Slurm, which need not be its host name.
    pub node: Option<String>,
    /// The end of the job, if the environment has it.
    end: Option<Millis>,
}

/// The time that a job has left, as `squeue` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeLeft {
    Limited(Duration),
    Unlimited,
}

impl Job {
    /// Returns the job that the environment names; `None` outside Slurm.
    pub fn of_environment() -> Option<Self> {
        Self::of(|name| std::env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let filled = |name| variable(name).filter(|value| !value.is_empty());
        let seconds = filled("SLURM_JOB_END_TIME").and_then(|text| text.parse::<u64>().ok());
        Some(Self {
            id: filled("SLURM_JOB_ID")?,
            node: filled("SLURMD_NODENAME"),
            end: seconds.and_then(|seconds| seconds.checked_mul(1_000)),
        })
    }

    /// Asks `squeue` for the time left. `None`: it gave no answer, or Slurm does not know yet.
    pub async fn time_left(&self) -> Option<TimeLeft> {
        let mut squeue = Command::new("squeue");
        squeue
            .args(["--noheader", "--jobs", &self.id, "--format", "%L"])
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        // a user's SQUEUE_FORMAT or SQUEUE_STATES changes the answer
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"SQUEUE_") {
                squeue.env_remove(name);
            }
        }
        let output = match timeout(PATIENCE, squeue.output()).await {
            Ok(Ok(output)) if output.status.success() => output,
            Ok(Ok(output)) => {
                let reason = String::from_utf8_lossy(&output.stderr);
                tracing::warn!(job = self.id, reason = reason.trim(), "squeue failed");
                return None;
            }
            Ok(Err(error)) => {
                tracing::warn!(job = self.id, %error, "squeue does not run");
                return None;
            }
            Err(_) => {
                tracing::warn!(job = self.id, "squeue did not answer within {PATIENCE:?}");
                return None;
            }
        };
        parse_time_left(&String::from_utf8_lossy(&output.stdout))
    }

    /// Returns the end of the job. `None`: it is unknown; `Some(None)`: there is none.
    async fn end(&self) -> Option<Option<Millis>> {
        if self.end.is_some() {
            return Some(self.end);
        }
        Some(match self.time_left().await? {
            TimeLeft::Limited(left) => Some(now().saturating_add(left.as_millis() as Millis)),
            TimeLeft::Unlimited => None,
        })
    }
}

/// Finds the end of the job and follows its changes for as long as the receiver exists.
pub async fn follow_end(job: Option<Job>) -> watch::Receiver<Option<Millis>> {
    let first = match &job {
        Some(job) => job.end().await.flatten(),
        None => None,
    };
    let (sender, receiver) = watch::channel(first);
    let asks = job.filter(|job| job.end.is_none());
    if let Some(job) = asks {
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = sleep(CHECK_EVERY) => {}
                    () = sender.closed() => return,
                }
                if let Some(end) = job.end().await {
                    sender.send_if_modified(|known| {
                        let changed = is_another(*known, end);
                        if changed {
                            *known = end;
                        }
                        changed
                    });
                }
            }
        });
    }
    receiver
}

fn is_another(known: Option<Millis>, end: Option<Millis>) -> bool {
    match (known, end) {
        (Some(known), Some(end)) => known.abs_diff(end) > SAME_END_MS,
        (None, None) => false,
        (Some(_), None) | (None, Some(_)) => true,
    }
}

fn now() -> Millis {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as Millis)
}

/// Parses `D-HH:MM:SS`, `HH:MM:SS`, `MM:SS` and `UNLIMITED`. Every other answer is none: `NOT_SET`
/// of a job that has not started, `INVALID` of one that is over its limit.
fn parse_time_left(text: &str) -> Option<TimeLeft> {
    let text = text.trim();
    if text == "UNLIMITED" {
        return Some(TimeLeft::Unlimited);
    }
    let (days, clock) = match text.split_once('-') {
        Some((days, clock)) => (number(days)?, clock),
        None => (0, text),
    };
    let mut parts = clock.split(':').map(number);
    let (first, second, third) = (parts.next()??, parts.next()??, parts.next());
    let (hours, minutes, seconds) = match third {
        Some(seconds) => (first, second, seconds?),
        None => (0, first, second),
    };
    let is_clock = parts.next().is_none() && minutes < 60 && seconds < 60;
    // `MM:SS` has up to 59 minutes, and a clock with days has hours
    if !is_clock || (days > 0 && (third.is_none() || hours >= 24)) {
        return None;
    }
    let seconds = days
        .checked_mul(86_400)?
        .checked_add(hours.checked_mul(3_600)?)?
        .checked_add(minutes * 60 + seconds)?;
    Some(TimeLeft::Limited(Duration::from_secs(seconds)))
}

fn number(digits: &str) -> Option<u64> {
    let are_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    are_digits.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn job(variables: &[(&str, &str)]) -> Option<Job> {
        Job::of(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_job_is_found_in_the_environment() {
        assert_eq!(job(&[]), None);
        assert_eq!(
            job(&[("SLURM_JOB_ID", ""), ("SLURMD_NODENAME", "n1")]),
            None
        );
        let found = job(&[("SLURM_JOB_ID", "17"), ("SLURMD_NODENAME", "n1")]).unwrap();
        assert_eq!(
            (found.id.as_str(), found.node.as_deref()),
            ("17", Some("n1"))
        );
        assert_eq!(found.end, None);
        for (text, end) in [
            ("1796000000", Some(1_796_000_000_000)),
            ("", None),
            ("soon", None),
            ("99999999999999999999", None),
        ] {
            let found = job(&[("SLURM_JOB_ID", "17"), ("SLURM_JOB_END_TIME", text)]).unwrap();
            assert_eq!(found.end, end, "{text}");
        }
    }

    #[test]
    fn what_squeue_prints_as_the_time_left_is_read() {
        let seconds = |seconds| Some(TimeLeft::Limited(Duration::from_secs(seconds)));
        for (text, expected) in [
            ("0:00", seconds(0)),
            ("1:05\n", seconds(65)),
            ("59:59", seconds(3_599)),
            ("1:00:00", seconds(3_600)),
            ("23:59:59", seconds(86_399)),
            ("1-00:00:00", seconds(86_400)),
            ("365-01:02:03", seconds(365 * 86_400 + 3_723)),
            ("UNLIMITED", Some(TimeLeft::Unlimited)),
            ("NOT_SET", None),
            ("INVALID", None),
            ("", None),
            ("90", None),
            ("1:60", None),
            ("60:00", None),
            ("-1:00", None),
            ("1-24:00:00", None),
            ("1-00:00", None),
            ("1:2:3:4", None),
            ("18446744073709551615-00:00:00", None),
            ("slurm_load_jobs error: Invalid job id specified", None),
        ] {
            assert_eq!(parse_time_left(text), expected, "{text}");
        }
    }

    #[test]
    fn rounding_is_no_change_of_the_limit() {
        assert!(!is_another(Some(100_000), Some(101_000)));
        assert!(!is_another(None, None));
        assert!(is_another(Some(100_000), Some(700_000)));
        assert!(is_another(Some(100_000), None) && is_another(None, Some(1)));
    }

    proptest! {
        #[test]
        fn every_time_left_is_read_back(total in 0_u64..10_000_000) {
            let (days, rest) = (total / 86_400, total % 86_400);
            let (hours, minutes, seconds) = (rest / 3_600, rest % 3_600 / 60, rest % 60);
            let text = match (days, hours) {
                (0, 0) => format!("{minutes}:{seconds:02}"),
                (0, hours) => format!("{hours}:{minutes:02}:{seconds:02}"),
                (days, hours) => format!("{days}-{hours:02}:{minutes:02}:{seconds:02}"),
            };
            let expected = TimeLeft::Limited(Duration::from_secs(total));
            prop_assert_eq!(parse_time_left(&text), Some(expected));
        }

        #[test]
        fn any_answer_is_a_time_or_none(text in "[0-9:. A-Z_-]{0,24}") {
            let _ = parse_time_left(&text);
        }
    }
}
