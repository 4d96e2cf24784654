//! Notices to people when a sweep ends, fails or stalls. A notice that does not arrive is logged, and
//! the sweep does not notice.
//!
//! `Watch` compares one status with the one before and decides; it has no clock and no IO. The task
//! asks the owner and delivers.

use std::collections::HashMap;
use std::fmt;
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use protocol::v1::{Condition, SweepStatus, WaitReason};
use schedule::allocation::ClusterStatus;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::requests::{OwnerRequest, Question, ask};

/// Interval between two looks at the sweeps.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Timeout of a command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for notices under way when the coordinator ends.
const LAST_DELIVERIES: Duration = Duration::from_secs(20);
/// Version of a notice.
const SCHEMA: u32 = 1;

/// Where notices go, and when a sweep counts as stalled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    pub receivers: Vec<Receiver>,
    pub stalled_after: Duration,
}

/// A receiver of notices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// Gets a notice as the body of a POST.
    Webhook(String),
    /// A program and its arguments, which gets a notice on stdin. No shell reads them.
    Command(Vec<String>),
}

impl FromStr for Receiver {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Self::Webhook(text.to_owned()));
        }
        match shlex::split(text) {
            Some(words) if !words.is_empty() => Ok(Self::Command(words)),
            Some(_) => Err("names neither an address nor a program"),
            None => Err("a quote is not closed"),
        }
    }
}

/// Formats what is read again as the same receiver.
impl fmt::Display for Receiver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Webhook(url) => formatter.write_str(url),
            Self::Command(words) => {
                let words = words.iter().map(String::as_str);
                formatter.write_str(&shlex::try_join(words).unwrap_or_default())
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ended,
    Failed,
    Stalled,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Failed => "failed",
            Self::Stalled => "stalled",
        }
    }
}

/// The sweeps as they were at the last look.
struct Watch {
    stalled_after_ms: u64,
    /// True while a cluster's queue has a request for workers.
    is_queued: bool,
    /// `None` before the first status, whose sweeps are no news.
    sweeps: Option<HashMap<String, Seen>>,
}

struct Seen {
    revision: u32,
    /// Notices that were given and whose reason still holds.
    ended: bool,
    failed: bool,
    stalled: bool,
    /// Numbers of trials by outcome.
    counts: [u64; 4],
    /// The last time at which it advanced.
    advanced_at_ms: u64,
}

impl Watch {
    fn new(stalled_after: Duration) -> Self {
        Self {
            stalled_after_ms: stalled_after.as_millis() as u64,
            is_queued: false,
            sweeps: None,
        }
    }

    /// Returns the notices that a status gives reason for.
    fn look(&mut self, now_ms: u64, sweeps: &[SweepStatus]) -> Vec<Value> {
        let is_first = self.sweeps.is_none();
        let is_queued = self.is_queued;
        let known = self.sweeps.get_or_insert_default();
        known.retain(|name, _| sweeps.iter().any(|sweep| sweep.name == *name));
        let mut notices = Vec::new();
        for sweep in sweeps {
            let fresh = Seen {
                revision: sweep.revision,
                ended: is_first && has_ended(sweep),
                failed: is_first && sweep.failed > 0,
                stalled: false,
                counts: counts(sweep),
                advanced_at_ms: now_ms,
            };
            let is_same = |seen: &Seen| seen.revision == sweep.revision;
            if !known.get(&sweep.name).is_some_and(is_same) {
                known.insert(sweep.name.clone(), fresh);
            }
            let seen = known.get_mut(&sweep.name).expect("it was just added");
            for kind in seen.news(now_ms, sweep, self.stalled_after_ms, is_queued) {
                notices.push(notice(kind, now_ms, sweep));
            }
        }
        notices
    }
}

impl Seen {
    fn news(
        &mut self,
        now_ms: u64,
        sweep: &SweepStatus,
        stalled_after_ms: u64,
        is_queued: bool,
    ) -> Vec<Kind> {
        // A queue that is long is no fault, and the cluster states why it waits.
        let is_in_queue = is_queued && sweep.waits() == WaitReason::NoWorkers;
        let ended = has_ended(sweep);
        let advances = |condition| condition == Condition::Running as i32;
        let runs = sweep
            .running_trials
            .iter()
            .any(|trial| advances(trial.condition));
        let counts = counts(sweep);
        if ended || runs || is_in_queue || counts != self.counts {
            (self.counts, self.advanced_at_ms) = (counts, now_ms);
        }
        let stalled = now_ms.saturating_sub(self.advanced_at_ms) >= stalled_after_ms && !ended;
        // The notice of an end has the number of failures.
        let failed = sweep.failed > 0;
        let news = [
            (Kind::Ended, ended && !self.ended),
            (Kind::Failed, failed && !self.failed && !ended),
            (Kind::Stalled, stalled && !self.stalled),
        ];
        (self.ended, self.failed, self.stalled) = (ended, failed, stalled);
        let news = news.into_iter().filter(|(_, is_news)| *is_news);
        news.map(|(kind, _)| kind).collect()
    }
}

/// Returns true if a cluster has a request in its queue, and its commands work.
fn is_queued(cluster_json: &[u8]) -> bool {
    let cluster: ClusterStatus = serde_json::from_slice(cluster_json).unwrap_or_default();
    let works =
        |queue: &schedule::allocation::QueueStatus| queue.error.is_none() && queue.paused.is_none();
    let mut allocations = cluster.allocations.iter();
    cluster.queue.as_ref().is_some_and(works)
        && allocations.any(|entry| ["submitted", "pending"].contains(&entry.state.as_str()))
}

fn has_ended(sweep: &SweepStatus) -> bool {
    sweep.complete || (!sweep.cancelled_reason.is_empty() && sweep.running == 0)
}

fn counts(sweep: &SweepStatus) -> [u64; 4] {
    [
        sweep.waiting,
        sweep.succeeded,
        sweep.failed,
        sweep.cancelled,
    ]
}

fn notice(kind: Kind, now_ms: u64, sweep: &SweepStatus) -> Value {
    let SweepStatus {
        name,
        revision,
        waiting,
        running,
        succeeded,
        failed,
        cancelled,
        ..
    } = sweep;
    let trials = waiting + running + succeeded + failed + cancelled;
    let have = format!("{succeeded} of {trials} trials have results");
    let first_failure = sweep.failures.first().map(|trial| &trial.failure);
    let (reason, text) = match kind {
        Kind::Ended if !sweep.cancelled_reason.is_empty() => {
            let reason = &sweep.cancelled_reason;
            (
                Some(reason),
                format!("{name} was cancelled ({reason}): {have}"),
            )
        }
        Kind::Ended if *failed > 0 => (
            first_failure,
            format!("{name} has ended: {have}, {failed} failed"),
        ),
        Kind::Ended => (None, format!("{name} has ended: {have}")),
        Kind::Failed => (
            first_failure,
            format!("{name}: a trial failed; {have}, {failed} failed so far"),
        ),
        Kind::Stalled => {
            let reason = &sweep.waits_because;
            (Some(reason), format!("{name} makes no progress: {have}"))
        }
    };
    let reason = reason.filter(|reason| !reason.is_empty());
    json!({
        "schema": SCHEMA,
        "event": kind.word(),
        "sweep": name,
        "revision": revision,
        "at_ms": now_ms,
        "text": text,
        "reason": reason,
        "trials": trials,
        "succeeded": succeeded,
        "failed": failed,
        "cancelled": cancelled,
        "running": running,
        "waiting": waiting,
    })
}

/// The task that gives notices.
pub struct Notices {
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Notices {
    /// Begins. Sweeps that have ended by now are no news.
    pub async fn start(notify: Notify, owner: mpsc::Sender<OwnerRequest>) -> Self {
        let mut watch = Watch::new(notify.stalled_after);
        look(&mut watch, &owner).await;
        let (end, ended) = oneshot::channel();
        Self {
            end,
            task: tokio::spawn(run(watch, notify.receivers, owner, ended)),
        }
    }

    /// Looks once more, and waits a while for deliveries under way.
    pub async fn finish(mut self) {
        let _ = self.end.send(());
        if timeout(LAST_DELIVERIES, &mut self.task).await.is_err() {
            tracing::warn!("a notice was not delivered before the coordinator ended");
            self.task.abort();
        }
    }
}

async fn run(
    mut watch: Watch,
    receivers: Vec<Receiver>,
    owner: mpsc::Sender<OwnerRequest>,
    mut end: oneshot::Receiver<()>,
) {
    let mut deliveries = JoinSet::new();
    let mut is_last = false;
    while !is_last {
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            _ = &mut end => is_last = true,
        }
        for notice in look(&mut watch, &owner).await {
            for receiver in &receivers {
                deliveries.spawn(deliver(receiver.clone(), notice.clone()));
            }
        }
        while deliveries.try_join_next().is_some() {}
    }
    while deliveries.join_next().await.is_some() {}
}

async fn look(watch: &mut Watch, owner: &mpsc::Sender<OwnerRequest>) -> Vec<Value> {
    let status = ask(owner, |reply| {
        let sweep = String::new();
        OwnerRequest::Question(Question::Status { sweep, reply })
    });
    match status.await {
        Ok(status) => {
            watch.is_queued = is_queued(&status.cluster_json);
            watch.look(status.now_ms, &status.sweeps)
        }
        // It is ending.
        Err(_) => Vec::new(),
    }
}

async fn deliver(receiver: Receiver, notice: Value) {
    let delivered = match &receiver {
        Receiver::Webhook(url) => post(url.clone(), notice).await,
        Receiver::Command(words) => match timeout(COMMAND_TIMEOUT, command(words, &notice)).await {
            Ok(ended) => ended,
            Err(_) => Err(format!(
                "it did not end within {} s",
                COMMAND_TIMEOUT.as_secs()
            )),
        },
    };
    if let Err(reason) = delivered {
        // An address may hold a secret.
        let receiver = match &receiver {
            Receiver::Webhook(url) => url.split(['?', '#']).next().unwrap_or_default(),
            Receiver::Command(words) => &words[0],
        };
        tracing::warn!(receiver, reason, "a notice was not delivered");
    }
}

async fn post(url: String, notice: Value) -> Result<(), String> {
    let posted = tokio::task::spawn_blocking(move || export::post(&url, &notice));
    match posted.await {
        Ok(posted) => posted.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Runs a command to its end. Its stderr is logged if it fails.
async fn command(words: &[String], notice: &Value) -> Result<(), String> {
    let mut child = Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("it does not start: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command need not read its notice.
        let _ = stdin.write_all(format!("{notice}\n").as_bytes()).await;
    }
    let ended = child
        .wait_with_output()
        .await
        .map_err(|error| error.to_string())?;
    if ended.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&ended.stderr);
    let last = stderr.lines().last().unwrap_or_default();
    Err(format!("{}: {last}", ended.status))
}

#[cfg(test)]
#[path = "notices_tests.rs"]
mod tests;
