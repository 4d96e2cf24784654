//! The attempts of this worker: those that run, and outcomes that are not acknowledged yet. This is
//! everything a worker knows, and what it reports to the coordinator after every reconnection.
//! Pure: it sends nothing and starts nothing.

use std::collections::{BTreeMap, BTreeSet};

use protocol::limits::{MAX_ENDED, MAX_HELLO_RESULT_BYTES};
use schedule::event::{EndedAttempt, Outcome, RunningAttempt};
use schedule::state::SlotIndex;
use sweep::handoff::Progress;
use sweep::{AttemptId, TrialId};

#[derive(Debug, Default)]
pub struct Attempts {
    running: BTreeMap<AttemptId, (SlotIndex, Progress)>,
    ended: BTreeMap<AttemptId, (SlotIndex, Outcome)>,
}

/// The result of a `Start` from the coordinator.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    New,
    /// The attempt runs already.
    Running,
    /// The attempt has ended; its outcome must be sent again.
    Ended,
}

impl Attempts {
    pub fn start(&mut self, id: AttemptId, slot: SlotIndex) -> Admission {
        if self.ended.contains_key(&id) {
            return Admission::Ended;
        }
        if self.running.contains_key(&id) {
            return Admission::Running;
        }
        self.running.insert(id, (slot, Progress::default()));
        Admission::New
    }

    pub fn progress(&mut self, id: AttemptId, progress: Progress) {
        if let Some((_, last)) = self.running.get_mut(&id) {
            *last = progress;
        }
    }

    pub fn end(&mut self, id: AttemptId, outcome: Outcome) {
        if let Some((slot, _)) = self.running.remove(&id) {
            self.ended.insert(id, (slot, outcome));
        }
    }

    /// Removes and returns the outcome if it was not acknowledged yet.
    pub fn acknowledge(&mut self, id: AttemptId) -> Option<Outcome> {
        self.ended.remove(&id).map(|(_, outcome)| outcome)
    }

    pub fn slot_of(&self, id: AttemptId) -> Option<SlotIndex> {
        self.running.get(&id).map(|(slot, _)| *slot)
    }

    pub fn running_ids(&self) -> Vec<AttemptId> {
        self.running.keys().copied().collect()
    }

    /// Trials that run, or whose outcome is not acknowledged yet.
    pub fn trials(&self) -> BTreeSet<TrialId> {
        self.running
            .keys()
            .chain(self.ended.keys())
            .map(|attempt| attempt.trial)
            .collect()
    }

    /// Returns true if nothing runs and every outcome is acknowledged.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty() && self.ended.is_empty()
    }

    pub fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    pub fn running(&self) -> Vec<RunningAttempt> {
        self.running
            .iter()
            .map(|(id, (slot, progress))| running(*id, *slot, progress.clone()))
            .collect()
    }

    pub fn ended(&self) -> impl Iterator<Item = EndedAttempt> + '_ {
        self.ended.iter().map(|(id, (_, outcome))| EndedAttempt {
            id: *id,
            outcome: outcome.clone(),
        })
    }

    pub fn outcome(&self, id: AttemptId) -> Option<EndedAttempt> {
        let (_, outcome) = self.ended.get(&id)?;
        Some(EndedAttempt {
            id,
            outcome: outcome.clone(),
        })
    }

    /// Both lists of a `Hello`. An outcome that does not fit into the message is listed as running:
    /// it occupies its slot until the outcome is sent, and `ended()` returns it afterwards. If the
    /// slot is in use again, the coordinator has received the outcome, and it is left out.
    pub fn hello_lists(&self) -> (Vec<RunningAttempt>, Vec<EndedAttempt>) {
        let mut running_now = self.running();
        let mut ended_now = Vec::new();
        let mut room = MAX_HELLO_RESULT_BYTES;
        for (id, (slot, outcome)) in &self.ended {
            let size = size(outcome);
            if ended_now.len() < MAX_ENDED && size <= room {
                room -= size;
                ended_now.push(EndedAttempt {
                    id: *id,
                    outcome: outcome.clone(),
                });
            } else if running_now.iter().all(|running| running.slot != *slot) {
                running_now.push(running(*id, *slot, Progress::default()));
            }
        }
        (running_now, ended_now)
    }
}

fn running(id: AttemptId, slot: SlotIndex, progress: Progress) -> RunningAttempt {
    RunningAttempt { id, slot, progress }
}

fn size(outcome: &Outcome) -> usize {
    serde_json::to_vec(outcome).map_or(0, |json| json.len())
}

#[cfg(test)]
mod tests {
    use sweep::record::{Failure, FailureClass};

    use super::*;

    fn id(trial: u8) -> AttemptId {
        format!("t{trial:016x}#1").parse().unwrap()
    }

    fn failure(length: usize) -> Outcome {
        Outcome::Failed(Failure::new(FailureClass::Crashed, "x".repeat(length)))
    }

    #[test]
    fn an_outcome_is_kept_until_it_is_acknowledged() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.start(id(1), 0), Admission::New);
        assert_eq!(attempts.start(id(1), 0), Admission::Running);
        attempts.end(id(1), Outcome::Stopped);
        assert_eq!(attempts.start(id(1), 0), Admission::Ended);
        assert_eq!(attempts.hello_lists().1.len(), 1);
        assert_eq!(attempts.acknowledge(id(1)), Some(Outcome::Stopped));
        assert_eq!(attempts.acknowledge(id(1)), None);
        assert!(attempts.is_empty());
    }

    #[test]
    fn reports_about_unknown_attempts_change_nothing() {
        let mut attempts = Attempts::default();
        attempts.progress(id(1), Progress::default());
        attempts.end(id(1), Outcome::Stopped);
        assert!(attempts.is_empty());
    }

    #[test]
    fn outcomes_without_room_are_listed_as_running() {
        let mut attempts = Attempts::default();
        for number in 0..3 {
            attempts.start(id(number), u32::from(number));
            attempts.end(id(number), failure(15 << 20));
        }
        let (running, ended) = attempts.hello_lists();
        assert_eq!(
            ended.iter().map(|ended| ended.id).collect::<Vec<_>>(),
            [id(0), id(1)]
        );
        assert_eq!(
            running
                .iter()
                .map(|running| (running.id, running.slot))
                .collect::<Vec<_>>(),
            [(id(2), 2)]
        );
        assert_eq!(attempts.ended().count(), 3);
    }
}
