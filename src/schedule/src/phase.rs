//! The life of a trial as one table: the phase that follows from each phase and each thing that can
//! happen to it.
//!
//! Live decisions and replay both use [`Phase::next`]. What is not in the table cannot follow from
//! the history so far. docs/ARCHITECTURE.md prints the table, and the test below keeps it up to
//! date. Read its caller, `apply.rs`, next.

use std::sync::Arc;

use sweep::AttemptNo;

use crate::event::AfterFailure;
use crate::state::{Millis, Phase, ResultSummary};

/// Something that happens to a trial.
#[derive(Clone, Debug)]
pub enum TrialEvent {
    /// An attempt starts in a slot.
    Dispatched { attempt: AttemptNo },
    /// The attempt has a result.
    Succeeded {
        attempt: AttemptNo,
        result: Arc<ResultSummary>,
    },
    /// The attempt has none.
    Failed {
        attempt: AttemptNo,
        then: AfterFailure,
    },
    /// The attempt was stopped because no sweep wants the trial.
    Stopped { attempt: AttemptNo },
    /// A user retries the trials that failed.
    FailureRetried { at: Millis },
    /// A user asks for a new result of a trial that has ended.
    TrainedAgain { at: Millis },
    /// The sweeps that want the trial may have changed.
    WantsChanged { at: Millis },
}

/// A thing that cannot happen to a trial in its phase.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event} cannot follow {phase}{}", if *wanted { "" } else { " (no sweep wants the trial)" })]
pub struct Illegal {
    phase: &'static str,
    event: &'static str,
    wanted: bool,
}

impl Phase {
    /// Returns the phase after `event`. `wanted`: a sweep that is not cancelled lists the trial.
    pub fn next(&self, event: &TrialEvent, wanted: bool) -> Result<Phase, Illegal> {
        use AfterFailure::{GiveUp, Retry, Unwanted};
        use TrialEvent as Event;
        let phase = match (self, event) {
            (Phase::Waiting { .. }, Event::Dispatched { attempt }) if wanted => {
                Phase::Running { attempt: *attempt }
            }
            (Phase::Waiting { .. }, Event::WantsChanged { .. }) if !wanted => Phase::Cancelled,

            (Phase::Running { attempt: current }, Event::Succeeded { attempt, result })
                if current == attempt =>
            {
                Phase::Succeeded {
                    attempt: *attempt,
                    result: result.clone(),
                }
            }
            (Phase::Running { attempt: current }, Event::Failed { attempt, then })
                if current == attempt =>
            {
                match (then, wanted) {
                    (Retry { not_before }, true) => Phase::Waiting {
                        not_before: *not_before,
                    },
                    (GiveUp, true) => Phase::Failed { attempt: *attempt },
                    (Unwanted, false) => Phase::Cancelled,
                    (Retry { .. } | GiveUp, false) | (Unwanted, true) => {
                        return Err(self.refuses(event, wanted));
                    }
                }
            }
            (Phase::Running { attempt: current }, Event::Stopped { attempt })
                if current == attempt && !wanted =>
            {
                Phase::Cancelled
            }

            (Phase::Failed { .. }, Event::FailureRetried { at }) => {
                Phase::Waiting { not_before: *at }
            }
            (
                Phase::Succeeded { .. } | Phase::Failed { .. } | Phase::Cancelled,
                Event::TrainedAgain { at },
            ) => Phase::Waiting { not_before: *at },
            (Phase::Cancelled, Event::WantsChanged { at }) if wanted => {
                Phase::Waiting { not_before: *at }
            }

            (_, Event::WantsChanged { .. }) => self.clone(),
            (
                _,
                Event::Dispatched { .. }
                | Event::Succeeded { .. }
                | Event::Failed { .. }
                | Event::Stopped { .. }
                | Event::FailureRetried { .. }
                | Event::TrainedAgain { .. },
            ) => return Err(self.refuses(event, wanted)),
        };
        Ok(phase)
    }

    fn refuses(&self, event: &TrialEvent, wanted: bool) -> Illegal {
        Illegal {
            phase: self.name(),
            event: event.name(),
            wanted,
        }
    }

    /// The phase's name in messages and in docs/ARCHITECTURE.md.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Waiting { .. } => "waiting",
            Self::Running { .. } => "running",
            Self::Succeeded { .. } => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl TrialEvent {
    /// The event's name in messages and in docs/ARCHITECTURE.md.
    fn name(&self) -> &'static str {
        match self {
            Self::Dispatched { .. } => "dispatched",
            Self::Succeeded { .. } => "succeeded",
            Self::Failed {
                then: AfterFailure::Retry { .. },
                ..
            } => "failed, retry",
            Self::Failed {
                then: AfterFailure::GiveUp,
                ..
            } => "failed, give up",
            Self::Failed {
                then: AfterFailure::Unwanted,
                ..
            } => "failed, unwanted",
            Self::Stopped { .. } => "stopped",
            Self::FailureRetried { .. } => "failure retried",
            Self::TrainedAgain { .. } => "trained again",
            Self::WantsChanged { .. } => "wants changed",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    const ATTEMPT: AttemptNo = AttemptNo(1);

    fn phases() -> [Phase; 5] {
        let result = Arc::new(ResultSummary::default());
        [
            Phase::Waiting { not_before: 0 },
            Phase::Running { attempt: ATTEMPT },
            Phase::Succeeded {
                attempt: ATTEMPT,
                result,
            },
            Phase::Failed { attempt: ATTEMPT },
            Phase::Cancelled,
        ]
    }

    fn events(attempt: AttemptNo) -> [TrialEvent; 9] {
        let failed = |then| TrialEvent::Failed { attempt, then };
        [
            TrialEvent::Dispatched { attempt },
            TrialEvent::Succeeded {
                attempt,
                result: Arc::new(ResultSummary::default()),
            },
            failed(AfterFailure::Retry { not_before: 7 }),
            failed(AfterFailure::GiveUp),
            failed(AfterFailure::Unwanted),
            TrialEvent::Stopped { attempt },
            TrialEvent::FailureRetried { at: 7 },
            TrialEvent::TrainedAgain { at: 7 },
            TrialEvent::WantsChanged { at: 7 },
        ]
    }

    /// The table as docs/ARCHITECTURE.md prints it; a dash is a history that cannot have happened.
    fn table() -> String {
        let phases = phases();
        let mut text = "| event |".to_owned();
        phases
            .iter()
            .for_each(|phase| write!(text, " {} |", phase.name()).unwrap());
        text += "\n|---|---|---|---|---|---|\n";
        for event in events(ATTEMPT) {
            write!(text, "| {} |", event.name()).unwrap();
            for phase in &phases {
                let next = |wanted| phase.next(&event, wanted).map_or("-", |next| next.name());
                match (next(true), next(false)) {
                    (wanted, unwanted) if wanted == unwanted => {
                        write!(text, " {wanted} |").unwrap()
                    }
                    (wanted, unwanted) => {
                        write!(text, " {wanted}; unwanted: {unwanted} |").unwrap()
                    }
                }
            }
            text += "\n";
        }
        text
    }

    #[test]
    fn the_table_of_the_architecture_is_this_code() {
        crate::architecture::assert_table("phases", &table());
    }

    #[test]
    fn an_attempt_that_is_not_current_ends_nothing() {
        let running = Phase::Running {
            attempt: AttemptNo(2),
        };
        for event in &events(ATTEMPT)[1..6] {
            for wanted in [true, false] {
                assert!(running.next(event, wanted).is_err(), "{event:?}");
            }
        }
    }

    #[test]
    fn times_and_attempts_of_the_event_are_those_of_the_phase() {
        let [waiting, running, ..] = phases();
        let next = |phase: &Phase, event: &TrialEvent| phase.next(event, true).unwrap();
        let dispatched = TrialEvent::Dispatched {
            attempt: AttemptNo(3),
        };
        assert_eq!(
            next(&waiting, &dispatched),
            Phase::Running {
                attempt: AttemptNo(3)
            }
        );
        let retry = TrialEvent::Failed {
            attempt: ATTEMPT,
            then: AfterFailure::Retry { not_before: 99 },
        };
        assert_eq!(next(&running, &retry), Phase::Waiting { not_before: 99 });
        let unchanged = next(
            &Phase::Waiting { not_before: 5 },
            &TrialEvent::WantsChanged { at: 7 },
        );
        assert_eq!(
            unchanged,
            Phase::Waiting { not_before: 5 },
            "a backoff outlives a change of sweeps"
        );
    }
}
