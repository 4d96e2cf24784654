//! A worker as a value: its slots, its unacknowledged outcomes, its stream. It follows the
//! protocol, and reports an error if the coordinator asks for something forbidden.

use std::collections::BTreeMap;

use schedule::allocation::AllocationId;
use schedule::event::{EndedAttempt, Input, Outcome, RunningAttempt};
use schedule::state::{SecretHash, Slot, WorkerId, WorkerInfo};
use sweep::handoff::Progress;
use sweep::record::{Failure, FailureClass};
use sweep::{AttemptId, AttemptNo, TrialId};

use crate::script::NUM_HOSTS;
use crate::truth;

/// A stall limit longer than any lease or delay of the simulation.
pub const STALL_MS: u64 = 30_000;

/// Seconds without a trial after which a worker gives back a host that is lent.
const IDLE_S: u64 = 30;

pub struct Worker {
    pub id: WorkerId,
    pub host: usize,
    run: u64,
    pub slots: Vec<Option<Training>>,
    /// Outcomes that are not yet acknowledged.
    pub ended: Vec<EndedAttempt>,
    /// Number of its newest stream.
    pub connection: u64,
    /// True if it believes that stream to be open.
    pub is_open: bool,
    pub leaving: bool,
    pub draining: bool,
    /// The allocation that lends its host, and the time of its end.
    lent: Option<(AllocationId, u64)>,
    /// Seconds without a trial.
    idle_s: u64,
}

pub struct Training {
    pub id: AttemptId,
    since: AttemptNo,
    done: u64,
    steps: u64,
    /// The failure in which it ends instead of its true outcome.
    fate: Option<FailureClass>,
    /// A stop under way: the trainer takes some time to end.
    stop: Option<(u64, Outcome)>,
}

pub enum Message {
    Start {
        attempt: AttemptId,
        slot: u32,
        since: AttemptNo,
        devices: u32,
    },
    Stop {
        attempt: AttemptId,
    },
    Acknowledged {
        attempt: AttemptId,
    },
    Drain,
}

impl Worker {
    /// Returns a worker of two slots: two devices and one on odd hosts; two that share a device on
    /// the last but one.
    pub fn new(host: usize, run: u64, lent: Option<(AllocationId, u64)>) -> Self {
        let id = WorkerId(format!("host{host}-{run}").into());
        let slots = (0..2).map(|_| None).collect();
        Self {
            id,
            host,
            run,
            slots,
            ended: Vec::new(),
            connection: 0,
            is_open: false,
            leaving: false,
            draining: false,
            lent,
            idle_s: 0,
        }
    }

    fn shares_a_device(&self) -> bool {
        self.lent.is_none() && self.host + 2 == NUM_HOSTS
    }

    fn info(&self) -> WorkerInfo {
        let device = |number: usize| format!("cuda:{number}");
        let first = if self.lent.is_some() || self.host % 2 == 1 {
            vec![device(0), device(1)]
        } else {
            vec![device(0)]
        };
        let second = if self.shares_a_device() {
            first.clone()
        } else {
            vec![device(2)]
        };
        // The first process of a host knows GPUs by name alone, as those of an older version did.
        let uuid = |name: &String| format!("GPU-{}-{name}", self.host);
        let uuids = |devices: &[String]| {
            if self.run > 1 {
                devices.iter().map(uuid).collect()
            } else {
                Vec::new()
            }
        };
        let slots = [first, second].map(|devices| Slot {
            uuids: uuids(&devices),
            devices,
            description: String::new(),
        });
        let slots = slots.to_vec();
        WorkerInfo {
            host: format!("host{}", self.host),
            build: "1".to_owned(),
            trainer: Default::default(),
            slots,
            allocation: self
                .lent
                .as_ref()
                .map(|(allocation, _)| allocation.to_string()),
            leaves_at_ms: self.lent.as_ref().map(|(_, ends_at)| *ends_at),
        }
    }

    fn running(&self) -> Vec<RunningAttempt> {
        let held = (0..)
            .zip(&self.slots)
            .filter_map(|(slot, held)| Some((slot, held.as_ref()?)));
        let running = held.map(|(slot, held)| RunningAttempt {
            id: held.id,
            slot,
            progress: Progress {
                step: held.steps,
                ..Progress::default()
            },
        });
        running.collect()
    }

    pub fn hello(&mut self) -> Input {
        self.connection += 1;
        self.is_open = true;
        Input::Connected {
            worker: self.id.clone(),
            connection: self.connection,
            secret: SecretHash::new([self.run as u8; 32]),
            info: self.info(),
            running: self.running(),
            ended: self.ended.clone(),
        }
    }

    /// Returns its messages of one second, with every outcome that was not acknowledged.
    pub fn messages(&self) -> Vec<Input> {
        let worker = &self.id;
        let mut inputs = vec![Input::Heartbeat {
            worker: worker.clone(),
            running: self.running(),
        }];
        if self.leaving {
            inputs.push(Input::Leaving {
                worker: worker.clone(),
                reason: "SIGTERM".into(),
            });
        }
        // every second process of a host has an idle timeout
        let is_idle = self.ended.is_empty() && self.slots.iter().all(Option::is_none);
        if self.run.is_multiple_of(2) && is_idle {
            inputs.push(Input::Idle {
                worker: worker.clone(),
                reason: "idle".into(),
            });
        }
        inputs.extend(self.ended.iter().map(|ended| Input::Ended {
            worker: worker.clone(),
            ended: ended.clone(),
        }));
        inputs
    }

    pub fn is_finished(&self) -> bool {
        (self.leaving || self.draining)
            && self.ended.is_empty()
            && self.slots.iter().all(Option::is_none)
    }

    /// Takes a message. The error names a request that a worker must never get.
    pub fn receive(
        &mut self,
        message: Message,
        fate: impl FnOnce(TrialId) -> Option<FailureClass>,
        done: u64,
    ) -> Result<(), String> {
        match message {
            Message::Start {
                attempt,
                slot,
                since,
                devices,
            } => {
                let trial = attempt.trial;
                let offered = self.info().slots[slot as usize].devices.len();
                if self.slots[slot as usize].is_some() {
                    return Err(format!(
                        "slot {slot} of {} was given to trial {trial} while occupied",
                        self.id
                    ));
                }
                if self
                    .slots
                    .iter()
                    .flatten()
                    .any(|held| held.id.trial == trial)
                {
                    return Err(format!("trial {trial} was given to {} twice", self.id));
                }
                if offered < devices as usize {
                    return Err(format!(
                        "trial {trial} needs {devices} devices, slot {slot} has {offered}"
                    ));
                }
                let fate = fate(trial);
                self.slots[slot as usize] = Some(Training {
                    id: attempt,
                    since,
                    done,
                    steps: 0,
                    fate,
                    stop: None,
                });
            }
            Message::Stop { attempt } => {
                for held in self.slots.iter_mut().flatten() {
                    if held.id == attempt && held.stop.is_none() {
                        // Half of the stalls are due to the device, which shows when the trainer
                        // cannot be killed.
                        let hangs =
                            held.fate == Some(FailureClass::Stalled) && attempt.number.0 % 2 == 1;
                        let broken = Outcome::Failed(failure(FailureClass::BadDevice));
                        held.stop = Some((2, if hangs { broken } else { Outcome::Stopped }));
                    }
                }
            }
            Message::Acknowledged { attempt } => self.ended.retain(|ended| ended.id != attempt),
            Message::Drain => self.draining = true,
        }
        Ok(())
    }

    pub fn leave(&mut self) {
        self.leaving = true;
        for held in self
            .slots
            .iter_mut()
            .flatten()
            .filter(|held| held.stop.is_none())
        {
            held.stop = Some((1, Outcome::Failed(failure(FailureClass::Preempted))));
        }
    }

    /// Trains for one second in every slot; `checkpoints` outlive everything.
    pub fn train(&mut self, checkpoints: &mut BTreeMap<AttemptId, u64>) {
        for (slot, place) in self.slots.iter_mut().enumerate() {
            let Some(held) = place else { continue };
            if let Some(outcome) = held.second(&self.id, slot, checkpoints) {
                self.ended.push(EndedAttempt {
                    id: held.id,
                    outcome,
                });
                *place = None;
            }
        }
        self.idle();
    }

    /// Leaves a lent host that has had no trial for a while.
    fn idle(&mut self) {
        let is_busy = !self.ended.is_empty() || self.slots.iter().any(Option::is_some);
        self.idle_s = if is_busy { 0 } else { self.idle_s + 1 };
        if self.lent.is_some() && self.idle_s == IDLE_S {
            self.leave();
        }
    }
}

impl Training {
    fn second(
        &mut self,
        worker: &WorkerId,
        slot: usize,
        checkpoints: &mut BTreeMap<AttemptId, u64>,
    ) -> Option<Outcome> {
        if let Some((left, outcome)) = &mut self.stop {
            *left -= 1;
            return (*left == 0).then(|| outcome.clone());
        }
        match self.fate {
            Some(FailureClass::Stalled) => return None,
            Some(class) if self.steps >= 1 => return Some(Outcome::Failed(failure(class))),
            _ => {}
        }
        self.steps += 1;
        self.done += 1;
        let work = truth::work(self.id.trial);
        if let Some(class) = truth::doom(self.id.trial)
            && self.done >= work / 2
        {
            return Some(Outcome::Failed(failure(class)));
        }
        let saved = checkpoints
            .entry(self.id.trial.attempt(self.since))
            .or_insert(0);
        *saved = (*saved).max(self.done.saturating_sub(1));
        (self.done >= work).then(|| {
            let signature = format!("{worker}/{slot}/{}", self.id.number);
            Outcome::Finished(Box::new(truth::result(self.id.trial, signature)))
        })
    }
}

/// Returns a failure that names its broken device: the first one in a slot of two, if the slot has
/// it.
fn failure(class: FailureClass) -> Failure {
    let devices = if class == FailureClass::BadDevice {
        vec!["cuda:0".to_owned()]
    } else {
        Vec::new()
    };
    Failure {
        devices,
        ..Failure::new(class, format!("{class:?} in the simulation"))
    }
}
