//! The reasons why trials wait, as data and as text for users. Reads what `placement.rs` reads, and
//! changes nothing.

use std::collections::BTreeMap;

use serde::Serialize;
use sweep::{Trainer, TrialId, counted};

use crate::placement::{Placement, failed_hosts, is_usable};
use crate::state::{Millis, Phase, Presence, SlotIndex, State, TrialState, WorkerId, WorkerState};

/// The reason why a waiting trial was not placed; the worst for its sweep first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// Every connected worker's slots that are large enough are broken: a person has to repair
    /// them.
    SlotsBroken,
    /// No connected worker has a slot with enough devices.
    NoSlotLargeEnough,
    /// No connected worker has its trainer.
    NoTrainer,
    /// No worker that takes work is connected.
    NoWorkers,
    /// Every connected worker's slots that are large enough are paused: their nodes could not run
    /// the last trial.
    SlotsPaused,
    /// Every slot that fits is occupied; other trials are ahead.
    SlotsBusy,
    /// It failed on the hosts that have a free slot; another host can run it and is busy.
    AnotherHost,
    /// It failed, and its backoff is not over.
    Backoff,
}

/// Maximum number of waiting trials of a sweep to check: there are few reasons, and a million
/// trials share them.
const MAX_TRIALS_CHECKED: usize = 1_000;

/// The reason why a sweep makes no progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepWaits {
    pub reason: WaitReason,
    /// Text without counts and times, so that it stays the same as long as the reason does.
    pub because: String,
}

/// Returns the reason why a sweep waits; `None`: it does not wait, or only for its own trials.
pub fn sweep_waits(state: &State, sweep: &str, now: Millis) -> Option<SweepWaits> {
    let entry = state.sweeps.get(sweep)?;
    if entry.counts.waiting == 0 {
        return None;
    }
    let survey = SlotSurvey::new(state, now);
    let mut worst: Option<(WaitReason, TrialId)> = None;
    for index in entry.tally.waiting.iter().take(MAX_TRIALS_CHECKED) {
        let wanted = &entry.trials[*index as usize];
        let trial = &state.trials[&wanted.id];
        let reason = match survey.shortage(trial) {
            Some(reason) => reason,
            // Its own trials have the slots.
            None if entry.counts.running > 0 => continue,
            None => survey.reason(wanted.id, trial, now)?,
        };
        if worst.is_none_or(|(known, _)| reason < known) {
            worst = Some((reason, wanted.id));
        }
    }
    let (reason, id) = worst?;
    let trial = &state.trials[&id];
    let because = match reason {
        WaitReason::SlotsBusy => format!(
            "other sweeps occupy every slot of {}",
            counted(u64::from(trial.devices), "device")
        ),
        WaitReason::Backoff => "its trials failed, and are retried after a pause".to_owned(),
        WaitReason::SlotsBroken
        | WaitReason::NoSlotLargeEnough
        | WaitReason::NoTrainer
        | WaitReason::NoWorkers
        | WaitReason::SlotsPaused
        | WaitReason::AnotherHost => because(state, trial, reason, now),
    };
    Some(SweepWaits { reason, because })
}

/// Returns the reason why this trial waits now; `None`: it does not wait, or is placed next.
pub(crate) fn wait_reason(state: &State, id: TrialId, now: Millis) -> Option<WaitReason> {
    let trial = state.trials.get(&id)?;
    match trial.phase {
        Phase::Waiting { .. } => SlotSurvey::new(state, now).reason(id, trial, now),
        _ => None,
    }
}

struct SlotSurvey<'a> {
    placement: Placement<'a>,
    /// For each trainer, devices of the largest slot that takes work, of the largest that will
    /// after its pause, and of the largest that would if it were not broken.
    in_service: Largest<'a>,
    paused: Largest<'a>,
    broken: Largest<'a>,
}

type Largest<'a> = BTreeMap<&'a Trainer, u32>;

fn largest<'a>(slots: impl Iterator<Item = (&'a Trainer, u32)>) -> Largest<'a> {
    let mut largest = BTreeMap::new();
    for (trainer, devices) in slots {
        let known = largest.entry(trainer).or_insert(0);
        *known = devices.max(*known);
    }
    largest
}

/// Returns the devices of the largest of these slots whose worker trains the trial.
fn offered(largest: &Largest, trial: &TrialState) -> u32 {
    let fitting = largest
        .iter()
        .filter(|(trainer, _)| trial.trainer.runs_on(trainer));
    fitting.map(|(_, devices)| *devices).max().unwrap_or(0)
}

impl<'a> SlotSurvey<'a> {
    fn new(state: &'a State, now: Millis) -> Self {
        let placement = Placement::new(state, now);
        let in_service = largest(
            placement
                .offers
                .iter()
                .map(|((_, trainer), devices)| (*trainer, *devices)),
        );
        let paused = largest(paused_slots(state, now).map(|held| (held.trainer, held.num_devices)));
        let broken = largest(broken_slots(state, now).map(|held| (held.trainer, held.num_devices)));
        Self {
            placement,
            in_service,
            paused,
            broken,
        }
    }

    /// Returns the reason that keeps all trials with these needs from starting, whatever the slots
    /// hold.
    fn shortage(&self, trial: &TrialState) -> Option<WaitReason> {
        let of = |largest: &Largest| offered(largest, trial);
        let (in_service, paused, broken) =
            (of(&self.in_service), of(&self.paused), of(&self.broken));
        if in_service >= trial.devices {
            None
        } else if paused >= trial.devices {
            Some(WaitReason::SlotsPaused)
        } else if broken >= trial.devices {
            Some(WaitReason::SlotsBroken)
        } else if in_service > 0 || paused > 0 || broken > 0 {
            Some(WaitReason::NoSlotLargeEnough)
        } else if !(self.in_service.is_empty() && self.paused.is_empty() && self.broken.is_empty())
        {
            Some(WaitReason::NoTrainer)
        } else {
            Some(WaitReason::NoWorkers)
        }
    }

    fn reason(&self, id: TrialId, trial: &TrialState, now: Millis) -> Option<WaitReason> {
        if let Some(shortage) = self.shortage(trial) {
            return Some(shortage);
        }
        if matches!(trial.phase, Phase::Waiting { not_before } if not_before > now) {
            return Some(WaitReason::Backoff);
        }
        if self.placement.is_placed_next(id, trial) {
            return None;
        }
        let avoids_hosts = !failed_hosts(self.placement.state, trial).is_empty();
        let elsewhere = avoids_hosts && self.placement.elsewhere(trial);
        Some(if elsewhere {
            WaitReason::AnotherHost
        } else {
            WaitReason::SlotsBusy
        })
    }
}

/// A slot that would take work if it were not paused or broken.
pub(crate) struct HeldBack<'a> {
    worker: &'a WorkerId,
    host: &'a str,
    trainer: &'a Trainer,
    slot: SlotIndex,
    num_devices: u32,
    why: &'a str,
    /// End of a pause.
    pub until: Option<Millis>,
}

fn broken_slots(state: &State, now: Millis) -> impl Iterator<Item = HeldBack<'_>> {
    let usable = state
        .workers
        .iter()
        .filter(move |(worker, entry)| is_usable(state, worker, entry, now));
    usable.flat_map(move |(worker, entry)| {
        entry
            .broken_slots
            .iter()
            .filter_map(|(slot, why)| held_back(worker, entry, *slot, why, None))
    })
}

pub(crate) fn paused_slots(state: &State, now: Millis) -> impl Iterator<Item = HeldBack<'_>> {
    let usable = state
        .workers
        .iter()
        .filter(move |(worker, entry)| is_usable(state, worker, entry, now));
    usable.flat_map(move |(worker, entry)| {
        let pauses = entry
            .pauses
            .iter()
            .filter(move |(_, pause)| pause.until > now);
        let not_broken = pauses.filter(|(slot, _)| !entry.broken_slots.contains_key(slot));
        not_broken.filter_map(|(slot, pause)| {
            held_back(worker, entry, *slot, &pause.reason, Some(pause.until))
        })
    })
}

fn held_back<'a>(
    worker: &'a WorkerId,
    entry: &'a WorkerState,
    slot: SlotIndex,
    why: &'a str,
    until: Option<Millis>,
) -> Option<HeldBack<'a>> {
    let num_devices = entry.info.slots.get(slot as usize)?.devices.len() as u32;
    let (host, trainer) = (entry.info.host.as_str(), &entry.info.trainer);
    Some(HeldBack {
        worker,
        host,
        trainer,
        slot,
        num_devices,
        why,
        until,
    })
}

/// Explains a reason to wait for one trial; the caller adds the trial's place in the queue and its
/// times.
pub(crate) fn because(
    state: &State,
    trial: &TrialState,
    reason: WaitReason,
    now: Millis,
) -> String {
    let devices = counted(u64::from(trial.devices), "device");
    match reason {
        WaitReason::SlotsBroken => slots_broken(state, trial, now),
        WaitReason::NoSlotLargeEnough => {
            let survey = SlotSurvey::new(state, now);
            let of = |largest: &Largest| offered(largest, trial);
            let largest = of(&survey.in_service).max(of(&survey.paused));
            format!(
                "it needs a slot of {devices}, and the largest offered has {largest}: start a worker with \
                 --devices-per-slot {}, or change `resources.devices_per_trial` in the sweep file",
                trial.devices
            )
        }
        WaitReason::NoTrainer => {
            let start = match trial.trainer {
                Trainer::BuiltIn | Trainer::Submitted(_) => "without --trainer",
                Trainer::Foreign(_) => "with --trainer and the path of this program",
            };
            format!(
                "no connected worker has {}: start one {start}",
                trial.trainer
            )
        }
        WaitReason::NoWorkers => no_workers(state),
        WaitReason::SlotsPaused => slots_paused(state, trial, now),
        WaitReason::SlotsBusy => format!("every slot of {devices} is occupied"),
        WaitReason::AnotherHost => {
            let failed: Vec<&str> = failed_hosts(state, trial).into_iter().collect();
            format!(
                "it failed on {} and waits for a slot on another host",
                failed.join(", ")
            )
        }
        WaitReason::Backoff => "it failed and is retried after a pause".to_owned(),
    }
}

fn slots_broken(state: &State, trial: &TrialState, now: Millis) -> String {
    match first_of(broken_slots(state, now), trial) {
        Some((first, host)) => format!(
            "every slot of {} is broken: {first}; fix it, then `orchestrator undrain {host}`",
            counted(u64::from(trial.devices), "device")
        ),
        None => no_workers(state),
    }
}

fn slots_paused(state: &State, trial: &TrialState, now: Millis) -> String {
    match first_of(paused_slots(state, now), trial) {
        Some((first, host)) => format!(
            "every slot of {} pauses, because its node could not run a trial: {first}; it is used again automatically, or \
             at once after `orchestrator undrain {host}`",
            counted(u64::from(trial.devices), "device")
        ),
        None => no_workers(state),
    }
}

/// Returns the first slot that meets the trial's needs, with what holds it back and the number of
/// others, and its host.
fn first_of<'a>(
    slots: impl Iterator<Item = HeldBack<'a>>,
    trial: &TrialState,
) -> Option<(String, &'a str)> {
    let mut fitting = slots
        .filter(|held| held.num_devices >= trial.devices && trial.trainer.runs_on(held.trainer));
    let HeldBack {
        worker,
        host,
        slot,
        why,
        ..
    } = fitting.next()?;
    let more = fitting.count();
    let more = if more > 0 {
        format!(" ({more} more: `orchestrator status`)")
    } else {
        String::new()
    };
    Some((
        format!("slot {slot} of worker `{worker}`: {why}{more}"),
        host,
    ))
}

fn no_workers(state: &State) -> String {
    let present: Vec<_> = state
        .workers
        .iter()
        .filter(|(_, entry)| !entry.is_gone())
        .collect();
    let drained = state
        .hosts
        .iter()
        .find_map(|(name, host)| Some((name, host.drained.as_ref()?)));
    let draining = present
        .iter()
        .find_map(|(worker, entry)| Some((worker, entry.draining.as_ref()?)));
    match (present.is_empty(), drained, draining) {
        (false, Some((host, reason)), _) => {
            format!(
                "host `{host}` is drained ({reason}): `orchestrator undrain {host}` lets it work again"
            )
        }
        // A worker that leaves on its own cannot be kept.
        (false, None, Some((worker, reason))) if state.live.leaving.contains(*worker) => {
            format!("worker `{worker}` leaves ({reason})")
        }
        (false, None, Some((worker, reason))) => {
            format!(
                "worker `{worker}` takes no new work ({reason}): `orchestrator undrain {worker}` lets it work again"
            )
        }
        (false, None, None) => "no worker is connected at the moment".to_owned(),
        (true, ..) => {
            let last = state
                .workers
                .values()
                .filter_map(|entry| match &entry.presence {
                    Presence::Gone { reason, at } => Some((at, &entry.info.host, reason)),
                    Presence::Present => None,
                });
            let which = match last.max() {
                None => "no worker has joined".to_owned(),
                Some((_, host, reason)) => {
                    format!("every worker has left, the last one from {host} ({reason})")
                }
            };
            format!("{which}: start one with `orchestrator worker --coordinator URL`")
        }
    }
}
