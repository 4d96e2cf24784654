//! Decisions on launch queues and allocations: what users ask for, and what the launcher answers.
//!
//! An answer of a cluster is evidence, not truth. A failed observation proves nothing. A job that is
//! missing in one observation may be there in the next. A connected worker proves that its
//! allocation runs, whatever the cluster answers.

use std::collections::BTreeSet;

use sweep::text::Line;

use super::live::LaunchLive;
use super::record::{Allocation, PauseCause};
use super::{
    AllocationEvent, AllocationId, AllocationPhase, EndCause, JobState, LaunchAnswer, LaunchEvent,
    LaunchInput, LaunchRequest, ObservedJob, PendingReason, QueueName, QueueSpec, ReasonClass,
    SubmitOutcome,
};
use crate::config::{Config, LaunchLimits};
use crate::event::{Event, Rejected};
use crate::state::{Millis, Presence, State, WorkerId, WorkerState};

type Decided = Result<Vec<LaunchEvent>, Rejected>;

pub(crate) fn decide(
    state: &State,
    config: &Config,
    input: &LaunchInput,
    now: Millis,
) -> Result<Vec<Event>, Rejected> {
    let events = match input {
        LaunchInput::Open { name, spec } => open(state, name, spec)?,
        LaunchInput::Resume => resume(state)?,
        LaunchInput::Stop { reason } => return stop(state, reason),
        LaunchInput::Answered(answer) => answered(state, config, answer, now)?,
    };
    Ok(events.into_iter().map(Event::Launch).collect())
}

/// Opens the queue of this specification, or opens it again.
fn open(state: &State, name: &QueueName, spec: &QueueSpec) -> Decided {
    spec.check().map_err(Rejected::Invalid)?;
    let (name, is_new) = match queue_of(state, spec) {
        Some(known) => (known.clone(), false),
        None => (name.clone(), true),
    };
    let clean = |name: &QueueName| {
        let queue = &state.launch_queues[name];
        // Strikes and misses come with a delay.
        queue.paused.is_none() && queue.delay.is_none()
    };
    if !is_new && clean(&name) {
        return Ok(Vec::new());
    }
    let opened = LaunchEvent::QueueOpened {
        queue: name,
        spec: spec.clone(),
    };
    // Jobs of other queues that wait would come when the work is done.
    let others = unended(state, &spec.launcher).filter(|(_, entry)| {
        is_waiting(&entry.phase) && *state.launch_queues[&entry.queue].spec != *spec
    });
    let drained = others.map(|(id, _)| drained(id, "another queue took its place"));
    Ok(std::iter::once(opened).chain(drained).collect())
}

fn is_waiting(phase: &AllocationPhase) -> bool {
    match phase {
        AllocationPhase::Intended
        | AllocationPhase::Submitted
        | AllocationPhase::Pending { .. } => true,
        AllocationPhase::Running
        | AllocationPhase::Draining { .. }
        | AllocationPhase::Ended { .. } => false,
    }
}

/// The queue with this specification.
pub(crate) fn queue_of<'a>(state: &'a State, spec: &QueueSpec) -> Option<&'a QueueName> {
    let mut queues = state.launch_queues.iter();
    queues.find_map(|(name, queue)| (*queue.spec == *spec).then_some(name))
}

/// The queue that this coordinator launches in.
pub(crate) fn attached(state: &State) -> Result<&QueueName, Rejected> {
    let live = state.live.launch.as_ref();
    live.map(|live| &live.queue).ok_or(Rejected::NoLauncher)
}

fn resume(state: &State) -> Decided {
    let name = attached(state)?;
    let queue = &state.launch_queues[name];
    let is_held = queue.paused.is_some() || queue.delay.is_some();
    let resumed = is_held.then(|| LaunchEvent::QueueResumed {
        queue: name.clone(),
    });
    Ok(resumed.into_iter().collect())
}

/// Pauses the queue and gives every allocation back: workers write checkpoints and leave.
fn stop(state: &State, reason: &Line) -> Result<Vec<Event>, Rejected> {
    let name = attached(state)?;
    let queue = &state.launch_queues[name];
    let mut events = Vec::new();
    let stopped = queue.paused.as_ref().map(|pause| pause.cause) == Some(PauseCause::Stopped);
    if !stopped {
        events.push(Event::Launch(LaunchEvent::QueuePaused {
            queue: name.clone(),
            cause: PauseCause::Stopped,
            reason: reason.clone(),
        }));
    }
    for (id, entry) in unended(state, &queue.spec.launcher) {
        match present_worker(state, entry) {
            Some((worker, known)) if known.draining.is_none() => {
                events.push(Event::WorkerDraining {
                    worker: worker.clone(),
                    reason: reason.clone(),
                });
            }
            _ if entry.phase.is_draining() => {}
            _ => events.push(Event::Launch(drained(id, reason))),
        }
    }
    Ok(events)
}

/// Decides on the launcher's answer. The request it answers is in `State::live`.
fn answered(state: &State, config: &Config, answer: &LaunchAnswer, now: Millis) -> Decided {
    let live = state.live.launch.as_ref().ok_or(Rejected::NoLauncher)?;
    Ok(match (answer, &live.asked) {
        (
            LaunchAnswer::Submitted {
                allocation,
                outcome,
            },
            _,
        ) => {
            let avoided = live.asked.as_ref().is_some_and(LaunchRequest::avoids_nodes);
            submitted(state, config, allocation, (outcome, avoided), now)
        }
        (LaunchAnswer::Observed(Ok(jobs)), Some(LaunchRequest::Observe { allocations })) => {
            let mut events = Vec::new();
            let mut seen = Observation {
                state,
                config,
                live,
                now,
                paused: BTreeSet::new(),
            };
            for id in allocations {
                seen.allocation(id, jobs, &mut events);
            }
            events
        }
        (LaunchAnswer::Observed(_) | LaunchAnswer::GaveBack(_), _) => Vec::new(),
    })
}

fn submitted(
    state: &State,
    config: &Config,
    id: &AllocationId,
    (outcome, avoided): (&SubmitOutcome, bool),
    now: Millis,
) -> Vec<LaunchEvent> {
    let Some(entry) = state.allocations.get(id) else {
        return Vec::new();
    };
    let not_submitted = |message: &Line| {
        if entry.phase != AllocationPhase::Intended {
            return Vec::new();
        }
        let cause = EndCause::NotSubmitted {
            message: message.clone(),
        };
        vec![
            changed(id, AllocationEvent::Ended { cause }),
            missed(state, config, entry, message, now),
        ]
    };
    match outcome {
        SubmitOutcome::Submitted(job) => {
            let event = AllocationEvent::Submitted { job: job.clone() };
            let fits = entry.job.is_none() && entry.phase.next(&event).is_ok();
            fits.then(|| changed(id, event)).into_iter().collect()
        }
        // The avoided nodes may be all there are: the next request avoids none.
        SubmitOutcome::Refused { message } if avoided => not_submitted(message),
        SubmitOutcome::Refused { message } if entry.phase == AllocationPhase::Intended => {
            let cause = EndCause::Refused {
                message: message.clone(),
            };
            let queue = entry.queue.clone();
            let (cause_of_pause, reason) = (PauseCause::Refused, message.clone());
            vec![
                changed(id, AllocationEvent::Ended { cause }),
                LaunchEvent::QueuePaused {
                    queue,
                    cause: cause_of_pause,
                    reason,
                },
            ]
        }
        // Its worker has connected: the job is there.
        SubmitOutcome::Refused { .. } => Vec::new(),
        SubmitOutcome::Full { message } | SubmitOutcome::Unreachable { message } => {
            not_submitted(message)
        }
        // It is looked for by its name.
        SubmitOutcome::Unknown { .. } => Vec::new(),
    }
}

/// Delays the next request after one that did not become a job.
fn missed(
    state: &State,
    config: &Config,
    entry: &Allocation,
    message: &Line,
    now: Millis,
) -> LaunchEvent {
    let misses = state.launch_queues[&entry.queue].misses;
    let wait = LaunchLimits::nth(&config.launch.miss_delays_ms, misses);
    LaunchEvent::QueueDelayed {
        queue: entry.queue.clone(),
        until: now.saturating_add(wait),
        reason: message.clone(),
        is_strike: false,
    }
}

/// One successful observation.
struct Observation<'a> {
    state: &'a State,
    config: &'a Config,
    live: &'a LaunchLive,
    now: Millis,
    /// Queues that this observation paused already.
    paused: BTreeSet<QueueName>,
}

impl Observation<'_> {
    fn allocation(
        &mut self,
        id: &AllocationId,
        jobs: &[ObservedJob],
        events: &mut Vec<LaunchEvent>,
    ) {
        let Some(entry) = self.state.allocations.get(id) else {
            return;
        };
        if entry.phase.is_ended() {
            return;
        }
        let mut named = jobs.iter().filter(|job| job.allocation == *id);
        let known = entry.job.as_ref();
        match named.find(|job| known.is_none_or(|known| *known == job.job)) {
            Some(job) => self.seen(id, entry, job, events),
            None => self.absent(id, entry, events),
        }
    }

    fn seen(
        &mut self,
        id: &AllocationId,
        entry: &Allocation,
        job: &ObservedJob,
        events: &mut Vec<LaunchEvent>,
    ) {
        let mut phase = entry.phase.clone();
        let mut follow = |event: AllocationEvent| {
            // What the table refuses is old news.
            if let Ok(next) = phase.next(&event) {
                phase = next;
                events.push(changed(id, event));
            }
        };
        if entry.job.is_none() {
            follow(AllocationEvent::Submitted {
                job: job.job.clone(),
            });
        }
        let is_here = present_worker(self.state, entry).is_some();
        match &job.state {
            JobState::Pending(reason) => {
                let is_known = matches!(&entry.phase, AllocationPhase::Pending { reason: known } if known == reason);
                let is_drained = entry.phase == AllocationPhase::Draining { has_started: false };
                if !is_here && !is_known && !is_drained {
                    follow(AllocationEvent::Queued {
                        reason: reason.clone(),
                    });
                }
                self.hopeless(id, entry, reason, events);
            }
            JobState::Running => {
                if entry.phase != (AllocationPhase::Draining { has_started: true }) {
                    follow(AllocationEvent::Started);
                }
            }
            JobState::Ended(cause) if !is_here => self.ended(id, entry, cause.clone(), events),
            JobState::Ended(_) | JobState::Ending | JobState::Unknown(_) => {}
        }
    }

    /// Gives up a job that can never start, once it has been so for a while: a cluster that is being
    /// reconfigured reports such reasons too.
    fn hopeless(
        &mut self,
        id: &AllocationId,
        entry: &Allocation,
        reason: &PendingReason,
        events: &mut Vec<LaunchEvent>,
    ) {
        let since = self.live.jobs.get(id).and_then(|seen| seen.never_since);
        let lasts = since.is_some_and(|since| self.now >= since + self.config.launch.never_ms);
        if reason.class != ReasonClass::Never || !lasts || entry.phase.is_draining() {
            return;
        }
        let text = Line::from(format!("{} ({})", reason.sentence, reason.word));
        events.push(drained(id, &text));
        self.pause(entry, PauseCause::NeverStarts, text, events);
    }

    fn absent(&mut self, id: &AllocationId, entry: &Allocation, events: &mut Vec<LaunchEvent>) {
        if present_worker(self.state, entry).is_some() {
            return;
        }
        let seen = self.live.jobs.get(id);
        let since = seen.and_then(|seen| seen.absent_since);
        let is_given_back = seen.is_some_and(|seen| seen.is_given_back);
        let launch = &self.config.launch;
        let never_seen = entry.job.is_none() && entry.joined_at.is_none();
        // The more is known of its end, the sooner its absence is believed.
        let window = match (never_seen, is_given_back, self.left_in_order(entry)) {
            (true, ..) => launch.lost_ms,
            (false, true, _) => launch.soon_ms,
            (false, false, true) => launch.observe_ms,
            (false, false, false) => launch.gone_ms,
        };
        if since.is_none_or(|since| self.now < since + window) {
            return;
        }
        let cause = if never_seen {
            let message: Line = "its submission was not answered, and no job has its name".into();
            events.push(missed(self.state, self.config, entry, &message, self.now));
            EndCause::NotSubmitted { message }
        } else if self.left_in_order(entry) {
            EndCause::Completed
        } else if is_given_back {
            EndCause::CancelledByUs
        } else {
            EndCause::Gone
        };
        self.ended(id, entry, cause, events);
    }

    /// Returns true if its worker announced that it leaves, and left.
    fn left_in_order(&self, entry: &Allocation) -> bool {
        let worker = entry.worker.as_ref();
        let known = worker.and_then(|worker| self.state.workers.get(worker));
        known.is_some_and(|known| known.draining.is_some() && known.is_gone())
    }

    fn ended(
        &mut self,
        id: &AllocationId,
        entry: &Allocation,
        cause: EndCause,
        events: &mut Vec<LaunchEvent>,
    ) {
        let was_drained = entry.phase.is_draining();
        let pause = self.state.launch_queues[&entry.queue].paused.as_ref();
        let is_stopped = pause.is_some_and(|pause| pause.cause == PauseCause::Stopped);
        let cause = match cause {
            // Its worker leaves at scancel too, which does not make it a wish of ours.
            EndCause::CancelledByOthers if entry.is_given_back || is_stopped => {
                EndCause::CancelledByUs
            }
            cause => cause,
        };
        events.push(changed(
            id,
            AllocationEvent::Ended {
                cause: cause.clone(),
            },
        ));
        if cause == EndCause::CancelledByOthers {
            let job = entry
                .job
                .as_ref()
                .map_or_else(String::new, |job| format!(" {job}"));
            let reason = format!("job{job} was cancelled outside this program");
            self.pause(entry, PauseCause::CancelledByOthers, reason.into(), events);
        }
        let held_ms = entry
            .joined_at
            .map(|joined| self.now.saturating_sub(joined));
        if !was_drained && cause.is_strike(held_ms, self.config.launch.early_ms) {
            self.strike(entry, cause.sentence().as_str().into(), events);
        }
    }

    fn strike(&mut self, entry: &Allocation, reason: Line, events: &mut Vec<LaunchEvent>) {
        events.push(struck(
            self.state,
            self.config,
            entry,
            reason.clone(),
            self.now,
        ));
        if self.state.launch_queues[&entry.queue].strikes + 1 >= self.config.launch.max_strikes {
            self.pause(entry, PauseCause::Strikes, reason, events);
        }
    }

    fn pause(
        &mut self,
        entry: &Allocation,
        cause: PauseCause,
        reason: Line,
        events: &mut Vec<LaunchEvent>,
    ) {
        let queue = &self.state.launch_queues[&entry.queue];
        if queue.paused.is_none() && self.paused.insert(entry.queue.clone()) {
            let queue = entry.queue.clone();
            events.push(LaunchEvent::QueuePaused {
                queue,
                cause,
                reason,
            });
        }
    }
}

/// A failed allocation: its queue waits before the next request.
pub(crate) fn struck(
    state: &State,
    config: &Config,
    entry: &Allocation,
    reason: Line,
    now: Millis,
) -> LaunchEvent {
    let strikes = state.launch_queues[&entry.queue].strikes;
    let wait = LaunchLimits::nth(&config.launch.strike_delays_ms, strikes);
    LaunchEvent::QueueDelayed {
        queue: entry.queue.clone(),
        until: now.saturating_add(wait),
        reason,
        is_strike: true,
    }
}

pub(crate) fn changed(id: &AllocationId, change: AllocationEvent) -> LaunchEvent {
    LaunchEvent::Changed {
        allocation: id.clone(),
        change,
    }
}

pub(crate) fn drained(id: &AllocationId, reason: &str) -> LaunchEvent {
    let reason = reason.into();
    changed(id, AllocationEvent::Drained { reason })
}

/// The allocations of all queues of a kind of launcher that have not ended.
pub(crate) fn unended<'a>(
    state: &'a State,
    launcher: &'a str,
) -> impl Iterator<Item = (&'a AllocationId, &'a Allocation)> {
    state.allocations.iter().filter(move |(_, entry)| {
        !entry.phase.is_ended() && state.launch_queues[&entry.queue].spec.launcher == launcher
    })
}

/// The allocation's worker, if its lease has not run out.
pub(crate) fn present_worker<'a>(
    state: &'a State,
    entry: &'a Allocation,
) -> Option<(&'a WorkerId, &'a WorkerState)> {
    let worker = entry.worker.as_ref()?;
    let known = state.workers.get(worker)?;
    (known.presence == Presence::Present).then_some((worker, known))
}
