//! The state of the launcher since this coordinator started, and the next request to it. Nothing
//! here is journalled: a restart observes every allocation again.
//!
//! At most one request is under way at a time. The next one follows from the state alone, so a
//! request that a crash lost is made again, except a submission: whether it reached the cluster is
//! found out by the allocation's name.

use std::collections::{BTreeMap, BTreeSet};

use sweep::text::Line;

use super::decide::{present_worker, queue_of, unended};
use super::record::{Allocation, PauseCause};
use super::{
    AllocationId, AllocationPhase, EndCause, GiveBack, JobState, LaunchAnswer, LaunchEvent,
    LaunchInput, LaunchRequest, ObservedJob, QueueName, QueueSpec, ReasonClass, SubmitOutcome,
};
use crate::config::Config;
use crate::event::{Event, Input, Recorded};
use crate::state::{Millis, State};

#[derive(Clone, Debug, PartialEq)]
pub struct LaunchLive {
    /// The queue in which this coordinator launches.
    pub queue: QueueName,
    /// The request under way.
    pub asked: Option<LaunchRequest>,
    /// Allocations intended since this coordinator started, and not yet submitted.
    untried: BTreeSet<AllocationId>,
    next_observation: Millis,
    /// Observations that failed in a row, and the last error.
    pub failures: u32,
    pub error: Option<Line>,
    pub jobs: BTreeMap<AllocationId, JobSeen>,
    /// Nodes on which an allocation failed, and when the last one did.
    pub failed_nodes: BTreeMap<String, Millis>,
    /// False after the cluster has refused a request that avoided nodes: they may be all there are.
    pub avoids_nodes: bool,
    /// Time since which more allocations wait than are wanted.
    pub surplus_since: Option<Millis>,
    /// Time of the last turn: the next is due a while later.
    pub looked_at: Millis,
}

/// The result of observations of an allocation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobSeen {
    /// Time of the first of the observations in a row that lack it.
    pub absent_since: Option<Millis>,
    /// Time since which its reason to wait cannot end.
    pub never_since: Option<Millis>,
    /// Time since which its job runs without a connected worker.
    pub silent_since: Option<Millis>,
    pub node: Option<String>,
    pub ends_at: Option<Millis>,
    /// The cluster's word for a state that this version does not know.
    pub unknown: Option<Line>,
    /// How it was given back last, and when.
    gave_back: Option<(GiveBack, Millis)>,
    /// The cluster accepted that it was given back.
    pub is_given_back: bool,
}

impl LaunchLive {
    fn new(queue: QueueName, now: Millis) -> Self {
        Self {
            queue,
            asked: None,
            untried: BTreeSet::new(),
            next_observation: now,
            failures: 0,
            error: None,
            jobs: BTreeMap::new(),
            failed_nodes: BTreeMap::new(),
            avoids_nodes: true,
            surplus_since: None,
            looked_at: now,
        }
    }
}

/// Attaches the launcher of a queue that was opened.
fn attach(state: &mut State, spec: &QueueSpec, now: Millis) {
    let Some(queue) = queue_of(state, spec).cloned() else {
        return;
    };
    match &mut state.live.launch {
        Some(live) => live.queue = queue,
        none => *none = Some(LaunchLive::new(queue, now)),
    }
}

/// Records an answer that was decided on.
fn note_answer(state: &mut State, config: &Config, answer: &LaunchAnswer, now: Millis) {
    let State {
        live,
        allocations,
        launch_queues,
        ..
    } = state;
    let Some(live) = &mut live.launch else {
        return;
    };
    // An answer that comes twice is not that to the next request.
    if !live
        .asked
        .as_ref()
        .is_some_and(|asked| asked.is_answered_by(answer))
    {
        return;
    }
    match (answer, live.asked.take()) {
        (LaunchAnswer::Submitted { outcome, .. }, asked) => {
            live.next_observation = now + config.launch.soon_ms;
            let is_refused = matches!(outcome, SubmitOutcome::Refused { .. });
            if is_refused && asked.is_some_and(|asked| asked.avoids_nodes()) {
                live.avoids_nodes = false;
            }
        }
        (LaunchAnswer::Observed(Err(error)), _) => {
            live.failures = live.failures.saturating_add(1);
            live.error = Some(error.clone());
            let wait = config.launch.observe_ms << live.failures.min(6);
            live.next_observation = now + wait.min(config.launch.longest_wait_ms);
        }
        (LaunchAnswer::Observed(Ok(jobs)), Some(LaunchRequest::Observe { allocations: asked })) => {
            (live.failures, live.error) = (0, None);
            let pause = launch_queues[&live.queue].paused.as_ref();
            let stopped = pause.is_some_and(|pause| pause.cause == PauseCause::Stopped);
            // A user waits for the end.
            let wait = if stopped {
                config.launch.soon_ms
            } else {
                config.launch.observe_ms
            };
            live.next_observation = now + wait;
            for id in &asked {
                let Some(entry) = allocations.get(id) else {
                    continue;
                };
                let is_it = |job: &&ObservedJob| {
                    job.allocation == *id
                        && entry.job.as_ref().is_none_or(|known| *known == job.job)
                };
                let job = jobs.iter().find(is_it);
                if entry.phase.is_ended() {
                    if let Some(node) = job.and_then(|job| failed_node(entry, job, config, now)) {
                        live.failed_nodes.insert(node.to_owned(), now);
                    }
                    live.jobs.remove(id);
                    continue;
                }
                let seen = live.jobs.entry(id.clone()).or_default();
                let Some(job) = job else {
                    seen.absent_since.get_or_insert(now);
                    continue;
                };
                seen.absent_since = None;
                let is_never = matches!(&job.state, JobState::Pending(reason) if reason.class == ReasonClass::Never);
                seen.never_since = is_never.then(|| seen.never_since.unwrap_or(now));
                (seen.node, seen.ends_at) = (job.node.clone(), job.ends_at);
                seen.unknown = match &job.state {
                    JobState::Unknown(word) => Some(word.clone()),
                    _ => None,
                };
            }
            let lately = |at: &Millis| now < at.saturating_add(config.launch.avoid_ms);
            live.failed_nodes.retain(|_, at| lately(at));
            live.jobs.retain(|id, _| {
                allocations
                    .get(id)
                    .is_some_and(|entry| !entry.phase.is_ended())
            });
        }
        (LaunchAnswer::GaveBack(result), Some(LaunchRequest::GiveBack { allocations, how })) => {
            for (id, _) in allocations {
                let seen = live.jobs.entry(id).or_default();
                seen.gave_back = Some((how, now));
                seen.is_given_back |= result.is_ok();
            }
            live.error = result.as_ref().err().cloned();
            live.observe_by(now + config.launch.soon_ms);
        }
        (LaunchAnswer::Observed(Ok(_)) | LaunchAnswer::GaveBack(_), _) => {}
    }
}

/// Returns the node of a job that ended there for a reason that may be the node's.
fn failed_node<'a>(
    entry: &Allocation,
    job: &'a ObservedJob,
    config: &Config,
    now: Millis,
) -> Option<&'a str> {
    let JobState::Ended(cause) = &job.state else {
        return None;
    };
    let held_ms = entry.joined_at.map(|joined| now.saturating_sub(joined));
    let failed = *cause == EndCause::NodeFailed || cause.is_strike(held_ms, config.launch.early_ms);
    job.node.as_deref().filter(|_| failed)
}

impl LaunchLive {
    fn observe_by(&mut self, time: Millis) {
        self.next_observation = self.next_observation.min(time);
    }
}

/// Records what a turn's events mean for the launcher, and the passing of time.
pub(crate) fn note_turn(state: &mut State, config: &Config, recorded: &[Recorded], now: Millis) {
    let Some(mut live) = state.live.launch.take() else {
        return;
    };
    live.looked_at = now;
    for entry in recorded {
        match &entry.event {
            Event::Launch(LaunchEvent::Intended { allocation, .. }) => {
                live.untried.insert(allocation.clone());
            }
            // A user has seen to the cause.
            Event::Launch(LaunchEvent::QueueOpened { .. } | LaunchEvent::QueueResumed { .. }) => {
                live.failed_nodes.clear();
                live.avoids_nodes = true;
            }
            Event::WorkerGone { worker, .. } => {
                let known = state.workers.get(worker);
                if known.is_some_and(|known| known.info.allocation.is_some()) {
                    live.observe_by(now + config.launch.soon_ms);
                }
            }
            _ => {}
        }
    }
    for (id, entry) in state
        .allocations
        .iter()
        .filter(|(_, entry)| !entry.phase.is_ended())
    {
        let started = match entry.phase {
            AllocationPhase::Running | AllocationPhase::Draining { has_started: true } => true,
            AllocationPhase::Intended
            | AllocationPhase::Submitted
            | AllocationPhase::Pending { .. }
            | AllocationPhase::Draining { has_started: false }
            | AllocationPhase::Ended { .. } => false,
        };
        let seen = live.jobs.entry(id.clone()).or_default();
        // A job that the cluster does not show is a question of its own.
        let silent = started && seen.absent_since.is_none();
        if silent && present_worker(state, entry).is_none() {
            seen.silent_since.get_or_insert(now);
        } else {
            seen.silent_since = None;
        }
    }
    let surplus = super::plan::Need::of(state, config, &live, now).surplus;
    live.surplus_since = (surplus > 0).then(|| live.surplus_since.unwrap_or(now));
    state.live.launch = Some(live);
}

/// Returns the next request to the launcher; `None`: there is none, or one is under way. The caller
/// records it with [`ask`].
pub(crate) fn next_request(state: &State, config: &Config, now: Millis) -> Option<LaunchRequest> {
    let live = state
        .live
        .launch
        .as_ref()
        .filter(|live| live.asked.is_none())?;
    let launcher = &state.launch_queues[&live.queue].spec.launcher;
    let ways = [GiveBack::Now, GiveBack::Waiting, GiveBack::Leave];
    for how in ways {
        let due = unended(state, launcher)
            .filter(|(id, entry)| way_back(state, config, live, (id, entry), now) == Some(how));
        let allocations: Vec<_> = due
            .map(|(id, entry)| (id.clone(), entry.job.clone()))
            .collect();
        if !allocations.is_empty() {
            return Some(LaunchRequest::GiveBack { allocations, how });
        }
    }
    let mut untried = live.untried.iter();
    let intended = |id: &&AllocationId| {
        state
            .allocations
            .get(*id)
            .is_some_and(|entry| entry.phase == AllocationPhase::Intended)
    };
    if let Some(allocation) = untried.find(intended).cloned() {
        let avoid = super::plan::avoided(state, config, live, now);
        return Some(LaunchRequest::Submit { allocation, avoid });
    }
    let allocations: Vec<_> = unended(state, launcher).map(|(id, _)| id.clone()).collect();
    let is_due = now >= live.next_observation && !allocations.is_empty();
    is_due.then_some(LaunchRequest::Observe { allocations })
}

/// Marks a request as under way.
pub(crate) fn ask(state: &mut State, request: &LaunchRequest) {
    let Some(live) = &mut state.live.launch else {
        return;
    };
    if let LaunchRequest::Submit { allocation, .. } = request {
        live.untried.remove(allocation);
    }
    live.asked = Some(request.clone());
}

/// How a draining allocation is given back now; `None`: not now, or it ends by itself.
fn way_back(
    state: &State,
    config: &Config,
    live: &LaunchLive,
    (id, entry): (&AllocationId, &Allocation),
    now: Millis,
) -> Option<GiveBack> {
    let AllocationPhase::Draining { has_started } = entry.phase else {
        return None;
    };
    let seen = live.jobs.get(id);
    let pause = state.launch_queues[&live.queue].paused.as_ref();
    let stopped = pause.is_some_and(|pause| pause.cause == PauseCause::Stopped);
    let overdue = stopped && now >= entry.since + config.launch.stop_grace_ms;
    let silent = seen
        .and_then(|seen| seen.silent_since)
        .is_some_and(|since| now >= since + config.launch.silent_ms);
    let how = match has_started {
        _ if overdue || silent => GiveBack::Now,
        false => GiveBack::Waiting,
        true if stopped => GiveBack::Leave,
        true => return None,
    };
    let before = seen.and_then(|seen| seen.gave_back);
    let again =
        before.is_none_or(|(before, at)| before != how || now >= at + config.launch.observe_ms);
    again.then_some(how)
}

/// Returns true if the launcher was not asked for this allocation and never will be.
pub(crate) fn is_never_submitted(live: &LaunchLive, id: &AllocationId) -> bool {
    live.untried.contains(id)
}

/// Returns the time of the next turn that the launcher needs.
pub(crate) fn deadline(state: &State, config: &Config) -> Option<Millis> {
    let live = state.live.launch.as_ref()?;
    let queue = &state.launch_queues[&live.queue];
    let waits = queue.paused.is_none() && !state.queue.is_empty();
    let is_needed = waits || unended(state, &queue.spec.launcher).next().is_some();
    is_needed.then(|| live.looked_at + config.launch.look_ms)
}

/// Records an accepted input.
pub(crate) fn note_input(state: &mut State, config: &Config, input: &Input, now: Millis) {
    match input {
        Input::Launch(LaunchInput::Open { spec, .. }) => attach(state, spec, now),
        Input::Launch(LaunchInput::Answered(answer)) => note_answer(state, config, answer, now),
        // Its allocation may be over.
        Input::Disconnected { worker, .. } => {
            let known = state.workers.get(worker);
            if known.is_some_and(|known| known.info.allocation.is_some())
                && let Some(live) = &mut state.live.launch
            {
                live.observe_by(now + config.launch.soon_ms);
            }
        }
        _ => {}
    }
}
