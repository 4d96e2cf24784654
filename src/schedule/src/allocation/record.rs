//! The state of launch queues and allocations, and how their events change it.
//! `crate::apply` calls this; nothing else changes these records.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sweep::Trainer;
use sweep::text::Line;

use super::{
    AllocationEvent, AllocationId, AllocationPhase, EndCause, JobId, LaunchEvent, QueueName,
    QueueSpec,
};
use crate::state::{Millis, State, WorkerId, WorkerInfo};

/// A queue of a cluster in which allocations are asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct LaunchQueue {
    pub spec: Arc<QueueSpec>,
    /// Number of allocations intended so far: the number of the last one.
    pub issued: u32,
    /// Shape of the queue's last worker; `None` until its first has connected.
    pub shape: Option<Shape>,
    /// Failed allocations in a row.
    pub strikes: u32,
    /// Requests in a row that did not become a job.
    pub misses: u32,
    /// Nothing is asked for before this time.
    pub delay: Option<Delay>,
    pub paused: Option<Pause>,
}

/// The slots of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Devices of each slot.
    pub slots: Vec<u32>,
    pub trainer: Trainer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delay {
    pub until: Millis,
    pub reason: Line,
}

/// Nothing is asked for until a user resumes the queue, or opens it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    pub cause: PauseCause,
    pub reason: Line,
    pub at: Millis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseCause {
    /// The cluster refused the request for good.
    Refused,
    /// The cluster accepted the request, and can never start the job.
    NeverStarts,
    /// Allocations failed one after the other.
    Strikes,
    /// An allocation was cancelled outside this program.
    CancelledByOthers,
    /// `orchestrator cluster stop`, or the end of the run that opened it.
    Stopped,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    pub queue: QueueName,
    pub job: Option<JobId>,
    pub phase: AllocationPhase,
    pub intended_at: Millis,
    /// Start of the phase.
    pub since: Millis,
    /// Time at which the job was first known to run.
    pub started_at: Option<Millis>,
    /// Its last worker, and the time at which its first one connected.
    pub worker: Option<WorkerId>,
    pub joined_at: Option<Millis>,
    /// Why it is given back.
    pub drained: Option<Line>,
    /// The coordinator gave it back; otherwise its worker leaves for a reason of its own.
    pub is_given_back: bool,
}

type Applied = Result<(), String>;

/// Number of ended allocations whose record is kept.
pub const KEPT_ENDED: usize = 100;

pub(crate) fn apply(state: &mut State, event: &LaunchEvent, at: Millis) -> Applied {
    match event {
        LaunchEvent::QueueOpened { queue, spec } => queue_opened(state, queue, spec),
        LaunchEvent::QueuePaused {
            queue,
            cause,
            reason,
        } => {
            let (cause, reason) = (*cause, reason.clone());
            queue_mut(state, queue)?.paused = Some(Pause { cause, reason, at });
            Ok(())
        }
        LaunchEvent::QueueResumed { queue } => {
            forgive(queue_mut(state, queue)?);
            Ok(())
        }
        LaunchEvent::QueueDelayed {
            queue,
            until,
            reason,
            is_strike,
        } => {
            let (until, reason) = (*until, reason.clone());
            queue_delayed(
                queue_mut(state, queue)?,
                Delay { until, reason },
                *is_strike,
            );
            Ok(())
        }
        LaunchEvent::Intended { queue, allocation } => intended(state, queue, allocation, at),
        LaunchEvent::Changed { allocation, change } => {
            changed(state, allocation, change, at)?;
            if let Some(entry) = state.allocations.get_mut(allocation) {
                entry.is_given_back |= matches!(change, AllocationEvent::Drained { .. });
            }
            Ok(())
        }
    }
}

fn queue_opened(state: &mut State, name: &QueueName, spec: &QueueSpec) -> Applied {
    let spec = Arc::new(spec.clone());
    let opened = state
        .launch_queues
        .entry(name.clone())
        .or_insert_with(|| LaunchQueue {
            spec: spec.clone(),
            issued: 0,
            shape: None,
            strikes: 0,
            misses: 0,
            delay: None,
            paused: None,
        });
    opened.spec = spec;
    forgive(opened);
    Ok(())
}

fn forgive(queue: &mut LaunchQueue) {
    (queue.strikes, queue.misses) = (0, 0);
    (queue.delay, queue.paused) = (None, None);
}

fn queue_delayed(queue: &mut LaunchQueue, delay: Delay, is_strike: bool) {
    let count = match is_strike {
        true => &mut queue.strikes,
        false => &mut queue.misses,
    };
    *count = count.saturating_add(1);
    queue.delay = Some(delay);
}

fn intended(state: &mut State, name: &QueueName, id: &AllocationId, at: Millis) -> Applied {
    if state.allocations.contains_key(id) {
        return Err(format!("allocation `{id}` is intended twice"));
    }
    let queue = queue_mut(state, name)?;
    let number = queue.issued + 1;
    if AllocationId::new(name, number) != *id {
        return Err(format!(
            "allocation `{id}` is not number {number} of `{name}`"
        ));
    }
    queue.issued = number;
    let intended = Allocation {
        queue: name.clone(),
        job: None,
        phase: AllocationPhase::Intended,
        intended_at: at,
        since: at,
        started_at: None,
        worker: None,
        joined_at: None,
        drained: None,
        is_given_back: false,
    };
    state.allocations.insert(id.clone(), intended);
    Ok(())
}

fn changed(state: &mut State, id: &AllocationId, change: &AllocationEvent, at: Millis) -> Applied {
    let Some(allocation) = state.allocations.get_mut(id) else {
        return Err(format!("no allocation `{id}`"));
    };
    let next = allocation.phase.next(change);
    let next = next.map_err(|illegal| format!("allocation `{id}`: {illegal}"))?;
    if allocation.phase.name() != next.name() {
        allocation.since = at;
    }
    allocation.phase = next;
    let queue = state.launch_queues.get_mut(&allocation.queue);
    let queue = queue.expect("allocations are of known queues");
    match change {
        AllocationEvent::Submitted { job } => {
            allocation.job = Some(job.clone());
            queue.misses = 0;
        }
        AllocationEvent::Started => {
            allocation.started_at.get_or_insert(at);
        }
        AllocationEvent::Drained { reason } => allocation.drained = Some(reason.clone()),
        AllocationEvent::Undrained => allocation.drained = None,
        AllocationEvent::Ended { cause } => {
            // The queue works: whatever failed before is over.
            if allocation.joined_at.is_some() && cause.is_good() {
                queue.strikes = 0;
            }
            forget_the_longest_ended(state);
        }
        AllocationEvent::Queued { .. } => allocation.started_at = None,
        AllocationEvent::Joined => {}
    }
    Ok(())
}

/// Notes the worker of an allocation. A worker of an allocation that is not known here is like any
/// other.
pub(crate) fn worker_joined(
    state: &mut State,
    worker: &WorkerId,
    info: &WorkerInfo,
    at: Millis,
) -> Applied {
    let Some((id, allocation)) = of_info(state, info) else {
        return Ok(());
    };
    let (id, queue) = (id.clone(), allocation.queue.clone());
    changed(state, &id, &AllocationEvent::Joined, at)?;
    let allocation = state.allocations.get_mut(&id).expect("just found");
    allocation.worker = Some(worker.clone());
    allocation.joined_at.get_or_insert(at);
    allocation.started_at.get_or_insert(at);
    queue_mut(state, &queue)?.shape = Some(Shape {
        slots: info
            .slots
            .iter()
            .map(|slot| slot.devices.len() as u32)
            .collect(),
        trainer: info.trainer.clone(),
    });
    Ok(())
}

/// Follows a worker that takes no more work, or takes work again.
pub(crate) fn worker_changed(
    state: &mut State,
    worker: &WorkerId,
    change: &AllocationEvent,
    at: Millis,
) -> Applied {
    let info = state.workers.get(worker).map(|entry| &entry.info);
    let found = info.and_then(|info| of_info(state, info));
    let Some((id, allocation)) = found else {
        return Ok(());
    };
    // The worker of an allocation that was given back before.
    if allocation.worker.as_ref() != Some(worker) || allocation.phase.next(change).is_err() {
        return Ok(());
    }
    let id = id.clone();
    changed(state, &id, change, at)
}

fn of_info<'a>(state: &'a State, info: &WorkerInfo) -> Option<(&'a AllocationId, &'a Allocation)> {
    state.allocations.get_key_value(info.allocation.as_deref()?)
}

fn queue_mut<'a>(state: &'a mut State, name: &QueueName) -> Result<&'a mut LaunchQueue, String> {
    let queue = state.launch_queues.get_mut(name);
    queue.ok_or_else(|| format!("no launch queue `{name}`"))
}

fn forget_the_longest_ended(state: &mut State) {
    let ended = |(id, entry): (&AllocationId, &Allocation)| {
        entry.phase.is_ended().then(|| (entry.since, id.clone()))
    };
    let mut ended: Vec<_> = state.allocations.iter().filter_map(ended).collect();
    let Some(too_many) = ended.len().checked_sub(KEPT_ENDED) else {
        return;
    };
    ended.sort_unstable();
    for (_, id) in ended.into_iter().take(too_many) {
        state.allocations.remove(&id);
    }
}

impl EndCause {
    /// Returns true if the allocation served its purpose, or was taken away for no fault of its own.
    fn is_good(&self) -> bool {
        match self {
            Self::Completed | Self::TimedOut | Self::Preempted | Self::CancelledByUs => true,
            Self::Failed { .. }
            | Self::OutOfMemory
            | Self::NodeFailed
            | Self::CancelledByOthers
            | Self::Refused { .. }
            | Self::NotSubmitted { .. }
            | Self::Gone => false,
        }
    }

    /// Returns true if the allocation itself failed. `held_ms`: time since its worker connected,
    /// if one did.
    pub(crate) fn is_strike(&self, held_ms: Option<Millis>, early_ms: Millis) -> bool {
        match self {
            Self::Failed { .. } | Self::OutOfMemory => held_ms.is_none_or(|held| held < early_ms),
            Self::Completed => held_ms.is_none(),
            Self::Gone
            | Self::TimedOut
            | Self::Preempted
            | Self::NodeFailed
            | Self::CancelledByUs
            | Self::CancelledByOthers
            | Self::Refused { .. }
            | Self::NotSubmitted { .. } => false,
        }
    }
}
