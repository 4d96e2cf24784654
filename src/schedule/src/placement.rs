//! Which waiting trial starts in which free slot. Sweeps are first come, first served; inside a
//! sweep the longest trial is first. A trial runs in one slot (`waits.rs` explains why the others
//! wait).
//!
//! No two attempts of one trial and no two trials in one slot are placed, and nothing on a worker
//! without a stream: `apply` would refuse the first two. The message to the worker is an order and
//! leaves it no choice.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;

use sweep::{Trainer, TrialId};

use crate::allocation;
use crate::apply::blames_host;
use crate::event::Event;
use crate::state::{
    Millis, Needs, Phase, Place, SlotIndex, State, TrialState, WorkerId, WorkerState,
};

/// Returns true if the worker takes new work, given a free slot.
pub(crate) fn is_usable(
    state: &State,
    worker: &WorkerId,
    entry: &WorkerState,
    now: Millis,
) -> bool {
    !entry.is_gone()
        && entry.draining.is_none()
        && !allocation::leaves_too_soon(state, entry, now)
        && state.live.connected.contains_key(worker)
        && state
            .hosts
            .get(&entry.info.host)
            .is_none_or(|host| host.drained.is_none())
}

/// Returns true if a trial waits that the worker can take, now or after a backoff or a pause.
pub(crate) fn has_work_for(
    state: &State,
    worker: &WorkerId,
    entry: &WorkerState,
    now: Millis,
) -> bool {
    let offers = |needed: u32| {
        let slots = (0..).zip(&entry.info.slots);
        slots
            .filter(|(index, _)| !entry.broken_slots.contains_key(index))
            .any(|(_, slot)| slot.devices.len() as u32 >= needed)
    };
    is_usable(state, worker, entry, now)
        && state
            .queue
            .by_needs
            .iter()
            .any(|((devices, trainer), waiting)| {
                !waiting.is_empty() && trainer.runs_on(&entry.info.trainer) && offers(*devices)
            })
}

/// Returns the hosts that take work and their trainers, with the number of devices of their largest
/// slot, occupied or not. Broken and paused slots are left out.
pub(crate) fn offers(state: &State, now: Millis) -> BTreeMap<(&str, &Trainer), u32> {
    let mut offers = BTreeMap::new();
    for (_, entry) in state
        .workers
        .iter()
        .filter(|(worker, entry)| is_usable(state, worker, entry, now))
    {
        let slots = (0..).zip(&entry.info.slots);
        let in_service = slots.filter(|(index, _)| is_in_service(entry, *index, now));
        if let Some(largest) = in_service.map(|(_, slot)| slot.devices.len() as u32).max() {
            let known = offers
                .entry((entry.info.host.as_str(), &entry.info.trainer))
                .or_insert(0);
            *known = largest.max(*known);
        }
    }
    offers
}

/// Returns true if the slot is neither broken nor paused.
fn is_in_service(entry: &WorkerState, slot: SlotIndex, now: Millis) -> bool {
    !entry.broken_slots.contains_key(&slot) && entry.pause_of(slot, now).is_none()
}

/// Returns the hosts on which this trial failed in a way that another host might avoid.
pub(crate) fn failed_hosts<'a>(state: &'a State, trial: &TrialState) -> BTreeSet<&'a str> {
    let ended = trial.attempts.iter().filter(|attempt| {
        let failure = attempt.ended.as_ref().and_then(|end| end.failure.as_ref());
        failure.is_some_and(|failure| blames_host(failure.class))
    });
    ended
        .map(|attempt| state.workers[&attempt.worker].info.host.as_str())
        .collect()
}

struct FreeSlot<'a> {
    devices: u32,
    worker: &'a WorkerId,
    slot: SlotIndex,
    host: &'a str,
    trainer: &'a Trainer,
}

impl FreeSlot<'_> {
    fn fits(&self, devices: u32, trainer: &Trainer) -> bool {
        self.devices >= devices && trainer.runs_on(self.trainer)
    }
}

pub(crate) struct Placement<'a> {
    pub state: &'a State,
    pub offers: BTreeMap<(&'a str, &'a Trainer), u32>,
    free: Vec<FreeSlot<'a>>,
    /// Free slots per worker: the worker with the most gets the next trial.
    free_slots: BTreeMap<&'a WorkerId, usize>,
    events: Vec<Event>,
}

impl<'a> Placement<'a> {
    pub fn new(state: &'a State, now: Millis) -> Self {
        let mut free = Vec::new();
        let mut free_slots = BTreeMap::new();
        for (worker, entry) in state
            .workers
            .iter()
            .filter(|(worker, entry)| is_usable(state, worker, entry, now))
        {
            for (slot, (held, offered)) in (0..).zip(entry.slots.iter().zip(&entry.info.slots)) {
                if held.is_none() && is_in_service(entry, slot, now) {
                    let devices = offered.devices.len() as u32;
                    free.push(FreeSlot {
                        devices,
                        worker,
                        slot,
                        host: &entry.info.host,
                        trainer: &entry.info.trainer,
                    });
                    *free_slots.entry(worker).or_insert(0) += 1;
                }
            }
        }
        let offers = offers(state, now);
        Self {
            state,
            offers,
            free,
            free_slots,
            events: Vec::new(),
        }
    }

    /// Places trials until no free slot fits: merges the queues of all needs that a free slot meets,
    /// in queue order.
    pub fn run(mut self, now: Millis) -> Vec<Event> {
        let queues = self.state.queue.by_needs.iter();
        let mut heads: Vec<(&Needs, Peekable<_>)> = queues
            .map(|(needs, places)| (needs, places.iter().peekable()))
            .collect();
        while !self.free.is_empty() {
            let fits = |(devices, trainer): &Needs| {
                self.free.iter().any(|free| free.fits(*devices, trainer))
            };
            let fitting = heads.iter_mut().filter(|(needs, _)| fits(needs));
            let next = fitting.filter_map(|(_, places)| Some((*places.peek()?, places)));
            let Some((place, places)) = next.min_by_key(|(place, _)| **place) else {
                break;
            };
            places.next();
            self.place(place, now);
        }
        self.events
    }

    fn place(&mut self, place: &Place, now: Millis) {
        let id = place.trial;
        let trial = &self.state.trials[&id];
        if matches!(trial.phase, Phase::Waiting { not_before } if not_before > now) {
            return;
        }
        if let Some(index) = self.best_slot(id, trial) {
            let FreeSlot { worker, slot, .. } = self.free.swap_remove(index);
            *self
                .free_slots
                .get_mut(worker)
                .expect("it offered the slot") -= 1;
            let (worker, attempt) = (worker.clone(), id.attempt(trial.next_attempt()));
            self.events.push(Event::TrialDispatched {
                attempt,
                worker,
                slot,
            });
        }
    }

    /// Returns true if a host on which the trial has not failed can run it, now or later.
    pub fn elsewhere(&self, trial: &TrialState) -> bool {
        let failed = failed_hosts(self.state, trial);
        self.offers.iter().any(|((host, trainer), devices)| {
            *devices >= trial.devices && trial.trainer.runs_on(trainer) && !failed.contains(host)
        })
    }

    /// Returns the smallest slot that fits, on the emptiest worker, away from hosts on which the
    /// trial failed.
    fn best_slot(&self, id: TrialId, trial: &TrialState) -> Option<usize> {
        let failed = failed_hosts(self.state, trial);
        // Hosts on which it failed are avoided while another host can run it, even a busy one: a
        // node that fails everything at once must not use up the budgets of all trials while the
        // good nodes are occupied.
        let elsewhere = self.elsewhere(trial);
        let fitting = self.free.iter().enumerate().filter(|(_, free)| {
            free.fits(trial.devices, &trial.trainer)
                && !(elsewhere && failed.contains(free.host))
                && !self.holds(free.worker, id)
        });
        let best = fitting.min_by_key(|(_, free)| {
            (
                free.devices,
                Reverse(self.free_slots[free.worker]),
                free.worker,
                free.slot,
            )
        });
        best.map(|(index, _)| index)
    }

    pub fn is_placed_next(&self, id: TrialId, trial: &TrialState) -> bool {
        self.best_slot(id, trial).is_some()
    }

    /// Returns true if the worker still holds the trial: an ended attempt may run there until it is
    /// stopped, and two attempts would share a directory.
    fn holds(&self, worker: &WorkerId, id: TrialId) -> bool {
        self.state.workers[worker]
            .slots
            .iter()
            .flatten()
            .any(|held| held.trial == id)
    }
}
