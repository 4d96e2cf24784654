//! The life of an allocation as one table: the phase that follows from each phase and each thing
//! that can happen to it.
//!
//! Live decisions and replay both use [`AllocationPhase::next`]. docs/ARCHITECTURE.md prints the
//! table, and the test below keeps it up to date.

use serde::{Deserialize, Serialize};
use sweep::text::Line;

use super::{EndCause, JobId, PendingReason};

/// The phase of an allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllocationPhase {
    /// Journalled; the cluster may or may not know it.
    Intended,
    /// The cluster has a job of its name.
    Submitted,
    /// The job waits.
    Pending {
        reason: PendingReason,
    },
    /// The job runs, or a worker of it has connected.
    Running,
    /// It is given back: a job that waits is cancelled, a worker that runs leaves.
    Draining {
        has_started: bool,
    },
    Ended {
        cause: EndCause,
    },
}

/// Something that happens to an allocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AllocationEvent {
    /// The cluster has a job for it, by its answer or by its name.
    Submitted {
        job: JobId,
    },
    /// The job waits, or waits again.
    Queued {
        reason: PendingReason,
    },
    /// The job runs.
    Started,
    /// A worker connected from it. Follows from `Event::WorkerJoined`, which has the worker.
    Joined,
    /// It is given back. For a worker that leaves this follows from `Event::WorkerDraining`.
    Drained {
        reason: Line,
    },
    /// Its worker stays after all: `Event::WorkerUndrained`.
    Undrained,
    Ended {
        cause: EndCause,
    },
}

/// A thing that cannot happen to an allocation in its phase.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{event}` cannot follow `{phase}`")]
pub struct IllegalStep {
    phase: &'static str,
    event: &'static str,
}

impl AllocationPhase {
    pub fn next(&self, event: &AllocationEvent) -> Result<Self, IllegalStep> {
        use AllocationEvent as Event;
        Ok(match (self, event) {
            (Self::Intended, Event::Submitted { .. }) => Self::Submitted,
            // A worker may be quicker than the answer to the request for it.
            (Self::Running, Event::Submitted { .. }) => Self::Running,
            (Self::Draining { has_started }, Event::Submitted { .. }) => Self::Draining {
                has_started: *has_started,
            },

            // A job that ran may be put back into its queue by the cluster's staff.
            (Self::Submitted | Self::Pending { .. } | Self::Running, Event::Queued { reason }) => {
                Self::Pending {
                    reason: reason.clone(),
                }
            }
            (Self::Draining { .. }, Event::Queued { .. }) => Self::Draining { has_started: false },

            (Self::Submitted | Self::Pending { .. }, Event::Started) => Self::Running,
            (Self::Draining { .. }, Event::Started) => Self::Draining { has_started: true },

            // A connected worker proves more than any answer of the cluster.
            (
                Self::Intended
                | Self::Submitted
                | Self::Pending { .. }
                | Self::Running
                | Self::Ended { .. },
                Event::Joined,
            ) => Self::Running,
            (Self::Draining { .. }, Event::Joined) => Self::Draining { has_started: true },

            (Self::Intended | Self::Submitted | Self::Pending { .. }, Event::Drained { .. }) => {
                Self::Draining { has_started: false }
            }
            (Self::Running, Event::Drained { .. }) => Self::Draining { has_started: true },
            (Self::Draining { has_started: true }, Event::Undrained) => Self::Running,

            (
                Self::Intended
                | Self::Submitted
                | Self::Pending { .. }
                | Self::Running
                | Self::Draining { .. },
                Event::Ended { cause },
            ) => Self::Ended {
                cause: cause.clone(),
            },

            (
                Self::Submitted | Self::Pending { .. } | Self::Ended { .. },
                Event::Submitted { .. },
            )
            | (Self::Intended | Self::Ended { .. }, Event::Queued { .. })
            | (Self::Intended | Self::Running | Self::Ended { .. }, Event::Started)
            | (Self::Draining { .. } | Self::Ended { .. }, Event::Drained { .. })
            | (
                Self::Intended
                | Self::Submitted
                | Self::Pending { .. }
                | Self::Running
                | Self::Draining { has_started: false }
                | Self::Ended { .. },
                Event::Undrained,
            )
            | (Self::Ended { .. }, Event::Ended { .. }) => {
                return Err(IllegalStep {
                    phase: self.name(),
                    event: event.name(),
                });
            }
        })
    }

    pub fn is_draining(&self) -> bool {
        matches!(self, Self::Draining { .. })
    }

    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Ended { .. })
    }

    /// The phase's name in messages, in `orchestrator cluster status` and in docs/ARCHITECTURE.md.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Intended => "intended",
            Self::Submitted => "submitted",
            Self::Pending { .. } => "pending",
            Self::Running => "running",
            Self::Draining { has_started: false } => "draining, waits",
            Self::Draining { has_started: true } => "draining, runs",
            Self::Ended { .. } => "ended",
        }
    }
}

impl AllocationEvent {
    /// The event's name in messages and in docs/ARCHITECTURE.md.
    fn name(&self) -> &'static str {
        match self {
            Self::Submitted { .. } => "submitted",
            Self::Queued { .. } => "queued",
            Self::Started => "started",
            Self::Joined => "worker joined",
            Self::Drained { .. } => "drained",
            Self::Undrained => "undrained",
            Self::Ended { .. } => "ended",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::allocation::ReasonClass;

    fn reason(word: &str) -> PendingReason {
        PendingReason {
            word: word.into(),
            sentence: "it waits for free nodes".into(),
            class: ReasonClass::Wait,
        }
    }

    fn phases() -> [AllocationPhase; 7] {
        [
            AllocationPhase::Intended,
            AllocationPhase::Submitted,
            AllocationPhase::Pending {
                reason: reason("Resources"),
            },
            AllocationPhase::Running,
            AllocationPhase::Draining { has_started: false },
            AllocationPhase::Draining { has_started: true },
            AllocationPhase::Ended {
                cause: EndCause::Gone,
            },
        ]
    }

    fn events() -> [AllocationEvent; 7] {
        [
            AllocationEvent::Submitted {
                job: JobId("7".into()),
            },
            AllocationEvent::Queued {
                reason: reason("Priority"),
            },
            AllocationEvent::Started,
            AllocationEvent::Joined,
            AllocationEvent::Drained { reason: "".into() },
            AllocationEvent::Undrained,
            AllocationEvent::Ended {
                cause: EndCause::Preempted,
            },
        ]
    }

    /// The table as docs/ARCHITECTURE.md prints it; a dash is a history that cannot have happened.
    fn table() -> String {
        let phases = phases();
        let mut text = "| event |".to_owned();
        for phase in &phases {
            write!(text, " {} |", phase.name()).unwrap();
        }
        text += "\n|---|---|---|---|---|---|---|---|\n";
        for event in events() {
            write!(text, "| {} |", event.name()).unwrap();
            for phase in &phases {
                let next = phase.next(&event);
                write!(text, " {} |", next.as_ref().map_or("-", |next| next.name())).unwrap();
            }
            text += "\n";
        }
        text
    }

    #[test]
    fn the_table_of_the_architecture_is_this_code() {
        crate::architecture::assert_table("allocations", &table());
    }

    #[test]
    fn an_ended_allocation_comes_back_only_with_its_worker() {
        let [.., ended] = phases();
        for event in events() {
            let next = ended.next(&event);
            match event {
                AllocationEvent::Joined => assert_eq!(next, Ok(AllocationPhase::Running)),
                _ => assert!(next.is_err(), "{event:?}"),
            }
        }
    }

    #[test]
    fn reason_and_cause_of_the_phase_are_those_of_the_event() {
        let [_, submitted, ..] = phases();
        let queued = submitted.next(&AllocationEvent::Queued {
            reason: reason("Priority"),
        });
        assert_eq!(
            queued,
            Ok(AllocationPhase::Pending {
                reason: reason("Priority")
            })
        );
        let ended = submitted.next(&AllocationEvent::Ended {
            cause: EndCause::TimedOut,
        });
        assert_eq!(
            ended,
            Ok(AllocationPhase::Ended {
                cause: EndCause::TimedOut
            })
        );
    }
}
