//! The users' view of launch queues and allocations: `orchestrator cluster status`.

use serde::{Deserialize, Serialize};

use super::decide::present_worker;
use super::plan::{Need, avoided};
use super::record::{Allocation, PauseCause};
use super::{AllocationId, AllocationPhase};
use crate::config::Config;
use crate::state::{Millis, State};

/// The document of `orchestrator cluster status --output json`, without its schema number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The queue that the coordinator launches in; `None`: it launches no workers.
    pub queue: Option<QueueStatus>,
    /// Those that have not ended first, then the newest.
    pub allocations: Vec<AllocationStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueStatus {
    pub name: String,
    pub launcher: String,
    pub request: String,
    pub max_allocations: u32,
    /// Number of allocations that the work could use now.
    pub wanted: u32,
    pub paused: Option<PauseCause>,
    /// Why it is paused, or why the next request waits.
    pub reason: Option<String>,
    /// Time of the next request, if it is delayed.
    pub delayed_until_ms: Option<Millis>,
    /// The last error of the cluster's commands, while they fail.
    pub error: Option<String>,
    /// Nodes that the next request avoids: drained, or an allocation failed there lately.
    #[serde(default)]
    pub avoided: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AllocationStatus {
    pub allocation: String,
    pub job: Option<String>,
    /// `intended`, `submitted`, `pending`, `running`, `draining`, `ended`.
    pub state: String,
    /// The reason of the state, as a sentence.
    pub reason: Option<String>,
    pub node: Option<String>,
    /// Its worker, while it is connected.
    pub worker: Option<String>,
    pub time_left_ms: Option<Millis>,
    pub since_ms: Millis,
    /// The worker's output.
    pub log: String,
}

/// Returns what is known of the cluster now.
pub fn cluster_status(state: &State, config: &Config, now: Millis) -> ClusterStatus {
    let live = state.live.launch.as_ref();
    let queue = live.map(|live| {
        let queue = &state.launch_queues[&live.queue];
        let paused = queue.paused.as_ref();
        let delay = queue.delay.as_ref().filter(|delay| delay.until > now);
        let reason = paused.map(|pause| &pause.reason);
        QueueStatus {
            name: live.queue.to_string(),
            launcher: queue.spec.launcher.clone(),
            request: queue.spec.request.to_string(),
            max_allocations: queue.spec.max_allocations,
            wanted: Need::of(state, config, live, now).wanted,
            paused: paused.map(|pause| pause.cause),
            reason: reason
                .or(delay.map(|delay| &delay.reason))
                .map(ToString::to_string),
            delayed_until_ms: delay.map(|delay| delay.until),
            error: live.error.as_ref().map(ToString::to_string),
            avoided: avoided(state, config, live, now),
        }
    });
    let mut allocations: Vec<_> = state.allocations.iter().collect();
    allocations.sort_by_key(|(_, entry)| (entry.phase.is_ended(), !entry.intended_at));
    let allocations = allocations
        .into_iter()
        .map(|(id, entry)| allocation_status(state, id, entry, now))
        .collect();
    ClusterStatus { queue, allocations }
}

fn allocation_status(
    state: &State,
    id: &AllocationId,
    entry: &Allocation,
    now: Millis,
) -> AllocationStatus {
    let seen = state
        .live
        .launch
        .as_ref()
        .and_then(|live| live.jobs.get(id));
    let worker = present_worker(state, entry);
    let host = worker.map(|(_, known)| known.info.host.clone());
    let by_worker = worker.and_then(|(_, known)| known.info.leaves_at_ms);
    let ends_at = by_worker.or(seen.and_then(|seen| seen.ends_at));
    let runs = !entry.phase.is_ended() && entry.started_at.is_some();
    let unknown = seen.and_then(|seen| seen.unknown.as_ref());
    let reason = match (&entry.phase, unknown) {
        (AllocationPhase::Ended { cause }, _) => Some(cause.sentence()),
        (_, Some(word)) => Some(format!(
            "the cluster reports `{word}`, which is not known here"
        )),
        (AllocationPhase::Pending { reason }, _) => {
            Some(format!("{} ({})", reason.sentence, reason.word))
        }
        (AllocationPhase::Draining { .. }, _) => entry.drained.as_ref().map(ToString::to_string),
        (AllocationPhase::Running, _) if worker.is_none() => Some(match entry.joined_at {
            Some(_) => "its worker is not connected".to_owned(),
            None => "its worker has not connected yet".to_owned(),
        }),
        (AllocationPhase::Intended, _) => {
            Some("the cluster has not answered the request for it".to_owned())
        }
        (AllocationPhase::Submitted | AllocationPhase::Running, _) => None,
    };
    let folder = &state.launch_queues[&entry.queue].spec.folder;
    AllocationStatus {
        allocation: id.to_string(),
        job: entry.job.as_ref().map(ToString::to_string),
        state: match entry.phase {
            AllocationPhase::Draining { .. } => "draining",
            ref phase => phase.name(),
        }
        .to_owned(),
        reason,
        node: host.or_else(|| seen.and_then(|seen| seen.node.clone())),
        worker: worker.map(|(worker, _)| worker.to_string()),
        time_left_ms: ends_at.filter(|_| runs).map(|end| end.saturating_sub(now)),
        since_ms: entry.since,
        log: format!("{folder}/{id}/log"),
    }
}

impl ClusterStatus {
    /// Allocations that have not ended.
    pub fn num_open(&self) -> usize {
        let open = self
            .allocations
            .iter()
            .filter(|entry| entry.state != "ended");
        open.count()
    }
}
