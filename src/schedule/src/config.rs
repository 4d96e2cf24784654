//! The numbers that decisions are made with: lease, stall limit, budgets per failure class, the bad-node rule.
//!
//! None of them is needed for replay: what was decided with them stands in the journal. They may change between two
//! starts of the coordinator.

use sweep::record::FailureClass;

use crate::state::Millis;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Version and build of this program: workers must have the same.
    pub build: String,
    pub heartbeat_ms: Millis,
    /// How long a worker may be silent before its attempts are given to others.
    pub lease_ms: Millis,
    /// How long an attempt may stand still while its worker is heard. Must leave room for decoding a data set, the
    /// first batch's cuDNN search and one evaluation: progress frames come once a second only while steps are made.
    pub stall_ms: Millis,
    pub budgets: Budgets,
    pub bad_node: BadNode,
}

impl Config {
    pub fn new(build: impl Into<String>) -> Self {
        Self {
            build: build.into(),
            heartbeat_ms: 1_000,
            // ten missed heartbeats: a lost packet or a busy node must not cost an attempt
            lease_ms: 10_000,
            stall_ms: 15 * 60_000,
            budgets: Budgets::default(),
            bad_node: BadNode { trials: 3, share: 0.5 },
        }
    }
}

/// A host is drained when at least `trials` distinct trials failed on it and then succeeded on another host, and they
/// are at least `share` of those and the trials that succeeded on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BadNode {
    pub trials: u32,
    pub share: f64,
}

/// How often attempts that end in one class are followed by another, and how soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// `None`: without limit.
    pub retries: Option<u32>,
    /// Before the first retry.
    pub first_ms: Millis,
    /// Before the second; doubled for each one after, up to `most_ms`.
    pub then_ms: Millis,
    pub most_ms: Millis,
}

impl Budget {
    const NEVER: Self = Self { retries: Some(0), first_ms: 0, then_ms: 0, most_ms: 0 };

    /// Wait before the retry that follows the `spent`-th failure of the class; `None` when the budget is spent.
    pub fn backoff(&self, spent: u32) -> Option<Millis> {
        match (self.retries, spent) {
            (Some(retries), _) if spent > retries => None,
            (_, 0 | 1) => Some(self.first_ms),
            _ => Some(self.then_ms.saturating_mul(1 << (spent - 2).min(20)).min(self.most_ms)),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budgets {
    pub non_finite: Budget,
    pub out_of_memory: Budget,
    pub crashed: Budget,
    pub stalled: Budget,
    pub unreachable: Budget,
    pub preempted: Budget,
    pub bad_device: Budget,
    /// Without limit; its waits are those of the slot, counted in a row, and not of the trial.
    pub node: Budget,
}

impl Default for Budgets {
    fn default() -> Self {
        let thrice = Budget { retries: Some(3), first_ms: 1_000, then_ms: 5_000, most_ms: 60_000 };
        // the trial did nothing wrong; the wait only keeps a flapping node from filling the journal
        let always = Budget { retries: None, first_ms: 0, then_ms: 500, most_ms: 10_000 };
        Self {
            // the same seed makes the same numbers again: a retry would only be the same failure later
            non_finite: Budget::NEVER,
            // once, and `decide` asks for another host first
            out_of_memory: Budget { retries: Some(1), first_ms: 5_000, then_ms: 5_000, most_ms: 5_000 },
            crashed: thrice,
            stalled: thrice,
            unreachable: always,
            preempted: always,
            bad_device: Budget { retries: Some(5), first_ms: 0, then_ms: 1_000, most_ms: 60_000 },
            // a disk that is full for a minute is soon tried again, one that stays full does not fill the journal
            node: Budget { retries: None, first_ms: 5_000, then_ms: 10_000, most_ms: 300_000 },
        }
    }
}

impl Budgets {
    pub fn of(&self, class: FailureClass) -> Budget {
        match class {
            FailureClass::BadInput => Budget::NEVER,
            FailureClass::NonFinite => self.non_finite,
            FailureClass::OutOfMemory => self.out_of_memory,
            FailureClass::Crashed => self.crashed,
            FailureClass::Stalled => self.stalled,
            FailureClass::Unreachable => self.unreachable,
            FailureClass::Preempted => self.preempted,
            FailureClass::BadDevice => self.bad_device,
            FailureClass::Node => self.node,
        }
    }
}
