//! Allocations: what a cluster lends to the coordinator, each with one worker in it. A Slurm job
//! of one node is one; so is a worker that runs on a host over ssh.
//!
//! The launcher (crate `launch`) and the state machine share the types of this file. The
//! life of an allocation is the table in `phase.rs`, in the style of the trials' table.
//!
//! The name of an allocation is journalled before the cluster is asked for it, and the job has the
//! same name. So a job whose submission was never answered is found again.

pub(crate) mod decide;
mod live;
mod phase;
mod plan;
pub(crate) mod record;
mod status;

use std::borrow::Borrow;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sweep::text::{Line, Lines};

use crate::state::Millis;

pub use live::{JobSeen, LaunchLive};
pub(crate) use live::{ask, deadline, next_request, note_input, note_turn};
pub use phase::{AllocationEvent, AllocationPhase, IllegalStep};
pub use plan::FIRST_CHECKPOINT_MS;
pub(crate) use plan::{leaves_too_soon, plan};
pub use record::{Allocation, Delay, KEPT_ENDED, LaunchQueue, Pause, PauseCause, Shape};
pub use status::{AllocationStatus, ClusterStatus, QueueStatus, cluster_status};

/// Start of every name, so that a user recognises the jobs of this program.
const PREFIX: &str = "orch-";
/// Limit of a queue's label: a name stays short enough for every cluster.
const MAX_LABEL: usize = 32;

/// The name of a queue: `orch-LABEL-RANDOM`. The random part keeps the jobs of two coordinators
/// apart, also those of the same user and the same sweep.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct QueueName(Arc<str>);

impl QueueName {
    /// Makes a name of a label, usually a sweep's name, and random bits. Characters that a cluster
    /// might not accept in a name become `-`.
    pub fn new(label: &str, random: u32) -> Self {
        let accepted = |letter: char| match letter.is_ascii_alphanumeric() || letter == '_' {
            true => letter,
            false => '-',
        };
        let label: String = label.chars().map(accepted).take(MAX_LABEL).collect();
        Self(format!("{PREFIX}{label}-{random:08x}").into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The name of an allocation and of its job: the queue's name and a number, which are never used
/// twice. Letters, digits, `_` and `-` only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AllocationId(Arc<str>);

impl AllocationId {
    pub fn new(queue: &QueueName, number: u32) -> Self {
        Self(format!("{queue}-{number}").into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for AllocationId {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

/// A worker sends its allocation's name as text.
impl Borrow<str> for AllocationId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AllocationId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The cluster's own name of a job: Slurm's number, or a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub Arc<str>);

impl fmt::Display for JobId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A source of allocations, as the user asked for it on the command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSpec {
    /// `slurm` or `ssh`: only a launcher of this kind is asked about the queue's allocations.
    pub launcher: String,
    /// The request of each allocation, for users: `--partition=gpu --time=04:00:00`.
    pub request: Line,
    /// Absolute path of the folder with a folder for each allocation, named after it. Its `log` is
    /// the worker's output.
    pub folder: String,
    /// Maximum number of allocations at a time (`--nodes`), without those that are about to end.
    pub max_allocations: u32,
    /// Duration of an allocation; `None`: it does not end by itself.
    pub time_limit_ms: Option<Millis>,
    /// Time between the signal that the allocation is about to end and its end.
    pub notice_ms: Millis,
}

impl QueueSpec {
    /// Returns the reason why no allocation of this kind could train, if there is one.
    pub fn check(&self) -> Result<(), String> {
        if self.max_allocations == 0 {
            return Err(
                "a queue of no allocations would launch nothing: --nodes must be at least 1"
                    .to_owned(),
            );
        }
        let needed = self.notice_ms.saturating_add(FIRST_CHECKPOINT_MS);
        match self.time_limit_ms {
            Some(limit) if limit < needed => Err(format!(
                "an allocation of {} s ends before a trial in it can write a checkpoint: it is warned {} s before its \
                 end, and a trial needs {} s before that; ask for more time",
                limit / 1000,
                self.notice_ms / 1000,
                FIRST_CHECKPOINT_MS / 1000
            )),
            _ => Ok(()),
        }
    }
}

/// The state of a job, as its cluster reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    Pending(PendingReason),
    Running,
    /// It is being taken down; the end comes.
    Ending,
    Ended(EndCause),
    /// A word that this version does not know: the last state stays. Users see the word.
    Unknown(Line),
}

/// The reason why a job waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingReason {
    /// The cluster's own word: `QOSMaxJobsPerUserLimit`.
    pub word: Line,
    /// The same as a sentence for users, without a full stop.
    pub sentence: Line,
    pub class: ReasonClass,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonClass {
    /// It ends by waiting.
    Wait,
    /// The job as it was submitted can never start.
    Never,
    /// A person holds the job; only a person can release it.
    Held,
}

/// The reason why an allocation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// Its worker left in order.
    Completed,
    /// Its worker, or the script around it, failed. `detail`: exit code and the end of its log.
    Failed {
        detail: Lines,
    },
    OutOfMemory,
    /// Its time was over.
    TimedOut,
    Preempted,
    NodeFailed,
    /// The coordinator cancelled it.
    CancelledByUs,
    /// Another person cancelled it.
    CancelledByOthers,
    /// The cluster refused the request, in its own words.
    Refused {
        message: Line,
    },
    /// The request did not become a job.
    NotSubmitted {
        message: Line,
    },
    /// The cluster does not know the job any more, and did not report its end.
    Gone,
}

/// The outcome of one request for an allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubmitOutcome {
    Submitted(JobId),
    /// The cluster will never accept this request: no such partition, account or resource.
    Refused {
        message: Line,
    },
    /// A limit of jobs or of submissions is reached; there is no job.
    Full {
        message: Line,
    },
    /// The cluster's controller was not reached; there is no job.
    Unreachable {
        message: Line,
    },
    /// The answer was lost: there may be a job, now or later.
    Unknown {
        message: Line,
    },
}

/// One job in an observation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedJob {
    pub allocation: AllocationId,
    pub job: JobId,
    pub state: JobState,
    pub node: Option<String>,
    /// Time of its end, as the cluster plans it.
    pub ends_at: Option<Millis>,
}

/// How allocations are given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveBack {
    /// Only those that wait: one that has started meanwhile is left alone.
    Waiting,
    /// Those that run: their workers write checkpoints and leave.
    Leave,
    /// All, at once.
    Now,
}

/// Messages of users and the launcher to the state machine.
#[derive(Clone, Debug, PartialEq)]
pub enum LaunchInput {
    /// This coordinator launches workers by this specification. `name` is used if it has no
    /// queue yet.
    Open {
        name: QueueName,
        spec: QueueSpec,
    },
    /// Ends the pause of the queue.
    Resume,
    /// Gives every allocation back: those that wait are cancelled, workers write checkpoints and
    /// leave.
    Stop {
        reason: Line,
    },
    Answered(LaunchAnswer),
}

/// A journalled change of launch queues and allocations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchEvent {
    /// Workers are launched in this queue from now on.
    QueueOpened {
        queue: QueueName,
        spec: QueueSpec,
    },
    /// Nothing is asked for until the queue is resumed or opened again.
    QueuePaused {
        queue: QueueName,
        cause: PauseCause,
        reason: Line,
    },
    QueueResumed {
        queue: QueueName,
    },
    /// Nothing is asked for before this time. `is_strike`: because an allocation failed; otherwise
    /// because a request did not become a job.
    QueueDelayed {
        queue: QueueName,
        until: Millis,
        reason: Line,
        is_strike: bool,
    },
    /// The allocation will be asked for. Its job gets this name.
    Intended {
        queue: QueueName,
        allocation: AllocationId,
    },
    Changed {
        allocation: AllocationId,
        change: AllocationEvent,
    },
}

/// A request of the state machine to a launcher. At most one is under way at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchRequest {
    /// `avoid`: nodes on which allocations failed lately, or that are drained.
    Submit {
        allocation: AllocationId,
        avoid: Vec<String>,
    },
    /// Reports the state of all these, in one call to the cluster. Jobs that the cluster does not
    /// know are left out of the answer.
    Observe { allocations: Vec<AllocationId> },
    GiveBack {
        allocations: Vec<(AllocationId, Option<JobId>)>,
        how: GiveBack,
    },
}

/// The answer to a request. An error proves nothing about any job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchAnswer {
    Submitted {
        allocation: AllocationId,
        outcome: SubmitOutcome,
    },
    Observed(Result<Vec<ObservedJob>, Line>),
    GaveBack(Result<(), Line>),
}

impl LaunchRequest {
    pub(crate) fn avoids_nodes(&self) -> bool {
        matches!(self, Self::Submit { avoid, .. } if !avoid.is_empty())
    }

    /// Returns true if the answer is of this request's kind, and of the same allocation.
    pub(crate) fn is_answered_by(&self, answer: &LaunchAnswer) -> bool {
        match (self, answer) {
            (
                Self::Submit {
                    allocation: asked, ..
                },
                LaunchAnswer::Submitted { allocation, .. },
            ) => asked == allocation,
            (Self::Observe { .. }, LaunchAnswer::Observed(_))
            | (Self::GiveBack { .. }, LaunchAnswer::GaveBack(_)) => true,
            (Self::Submit { .. } | Self::Observe { .. } | Self::GiveBack { .. }, _) => false,
        }
    }
}

/// The part of a program that talks to one kind of cluster; crate `launch` has them. Each call
/// ends within a time limit of its own, and holds nothing that a later call needs.
pub trait Launcher: Send + 'static {
    /// Performs one request. The answer is of the same kind as the request.
    fn perform(&mut self, request: LaunchRequest) -> Answering<'_>;
}

/// A launcher's answer to come.
pub type Answering<'a> = Pin<Box<dyn Future<Output = LaunchAnswer> + Send + 'a>>;

impl EndCause {
    /// A sentence for users, without a full stop.
    pub fn sentence(&self) -> String {
        match self {
            Self::Completed => "its worker left".to_owned(),
            Self::Failed { detail } => format!("it failed: {detail}"),
            Self::OutOfMemory => "it used more memory than it had asked for".to_owned(),
            Self::TimedOut => "its time was over".to_owned(),
            Self::Preempted => "it was preempted".to_owned(),
            Self::NodeFailed => "its node failed".to_owned(),
            Self::CancelledByUs => "it was no longer needed".to_owned(),
            Self::CancelledByOthers => "it was cancelled from outside".to_owned(),
            Self::Refused { message } => format!("the cluster refused it: {message}"),
            Self::NotSubmitted { message } => format!("it was not submitted: {message}"),
            Self::Gone => "the cluster no longer knows it".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_short() {
        let queue = QueueName::new("fig. 2/größe und noch viel mehr als erlaubt ist", 0xab);
        assert_eq!(
            queue.as_str(),
            "orch-fig--2-gr--e-und-noch-viel-mehr--000000ab"
        );
        assert_eq!(
            AllocationId::new(&queue, 3).to_string(),
            "orch-fig--2-gr--e-und-noch-viel-mehr--000000ab-3"
        );
        assert_eq!(JobId("17".into()).to_string(), "17");
    }

    #[test]
    fn a_name_is_plain_text_in_the_journal() {
        let id = AllocationId::from("orch-table2-7f3a9c1e-3");
        let text = serde_json::to_string(&id).unwrap();
        assert_eq!(text, "\"orch-table2-7f3a9c1e-3\"");
        assert_eq!(serde_json::from_str::<AllocationId>(&text).unwrap(), id);
    }

    #[test]
    fn a_request_is_answered_by_its_own_kind() {
        let request = LaunchRequest::Observe {
            allocations: Vec::new(),
        };
        assert!(request.is_answered_by(&LaunchAnswer::Observed(Ok(Vec::new()))));
        assert!(!request.is_answered_by(&LaunchAnswer::GaveBack(Ok(()))));
    }

    /// A job that ends early is a strike, and one whose worker has held long enough is none.
    #[test]
    fn only_an_early_failure_is_a_strike() {
        let strikes = |held_ms| EndCause::OutOfMemory.is_strike(held_ms, 1_000);
        assert!(strikes(None) && strikes(Some(999)));
        assert!(!strikes(Some(1_000)) && !strikes(Some(1_001)));
        assert!(EndCause::Completed.is_strike(None, 1_000));
        assert!(!EndCause::Completed.is_strike(Some(1), 1_000));
    }
}
