//! The numbers that decisions use: lease, stall limit, budgets per failure class, the bad-node
//! rule.
//!
//! Replay needs none of them, because the journal holds what was decided. They may change between
//! two starts of the coordinator.

use sweep::record::FailureClass;

use crate::state::Millis;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Version and build of this program; workers must have the same.
    pub build: String,
    pub heartbeat_ms: Millis,
    /// Time without a message after which a worker's attempts are given to other workers.
    pub lease_ms: Millis,
    /// Time without progress after which an attempt fails although its worker sends heartbeats. It
    /// must leave room for decoding a data set, the first batch's cuDNN search and one evaluation:
    /// progress frames come once a second only during steps.
    pub stall_ms: Millis,
    pub budgets: Budgets,
    pub bad_node: BadNode,
    pub launch: LaunchLimits,
    /// Trials that may wait, of all sweeps together: a submission that would exceed it is refused.
    pub max_waiting: u64,
}

impl Config {
    pub fn new(build: impl Into<String>) -> Self {
        Self {
            build: build.into(),
            heartbeat_ms: 1_000,
            // Ten missed heartbeats: a lost packet or a busy node must not cost an attempt.
            lease_ms: 10_000,
            stall_ms: 15 * 60_000,
            budgets: Budgets::default(),
            bad_node: BadNode {
                trials: 3,
                share: 0.5,
            },
            launch: LaunchLimits::default(),
            // ten of the largest sweeps that need no `max_trials` of their own
            max_waiting: 1_000_000,
        }
    }
}

/// The numbers of decisions on allocations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchLimits {
    /// Time between two observations of the cluster, and the longest after failed ones.
    pub observe_ms: Millis,
    pub longest_wait_ms: Millis,
    /// Time to the next observation after a submission, or after a worker fell silent.
    pub soon_ms: Millis,
    /// Time between two turns while there are allocations.
    pub look_ms: Millis,
    /// Time after which an allocation has ended that its cluster does not know and that has no
    /// worker; shorter if its submission was never answered.
    pub gone_ms: Millis,
    pub lost_ms: Millis,
    /// Time after which a job that runs without a connected worker is given up.
    pub silent_ms: Millis,
    /// Time after which a job is given up whose reason to wait cannot end.
    pub never_ms: Millis,
    /// An allocation that fails within this time of its worker's arrival counts as a strike.
    pub early_ms: Millis,
    /// Strikes in a row that pause the queue.
    pub max_strikes: u32,
    /// Delay after the first strike, the second, and so on; the last one stays.
    pub strike_delays_ms: [Millis; 4],
    /// The same after requests that did not become a job.
    pub miss_delays_ms: [Millis; 4],
    /// Maximum number of allocations that wait.
    pub max_queued: u32,
    /// Time after which allocations that wait and that no trial needs are cancelled.
    pub surplus_ms: Millis,
    /// Longest time before an allocation's notice at which its successor is asked for.
    pub renew_ms: Millis,
    /// Time that workers have to leave in order when their queue is stopped.
    pub stop_grace_ms: Millis,
    /// Time for which a node is avoided on which an allocation failed, and the maximum number of
    /// nodes that are avoided.
    pub avoid_ms: Millis,
    pub max_avoided: usize,
}

impl LaunchLimits {
    /// Returns the delay after `before` failures in a row and another one.
    pub(crate) fn nth(delays: &[Millis], before: u32) -> Millis {
        let last = delays.len() - 1;
        delays[last.min(before as usize)]
    }
}

impl Default for LaunchLimits {
    fn default() -> Self {
        Self {
            // Slurm's manual asks for few calls; a worker reports sooner than any of them.
            observe_ms: 30_000,
            longest_wait_ms: 300_000,
            soon_ms: 5_000,
            look_ms: 5_000,
            gone_ms: 300_000,
            lost_ms: 60_000,
            silent_ms: 300_000,
            never_ms: 60_000,
            early_ms: 60_000,
            max_strikes: 3,
            strike_delays_ms: [0, 60_000, 300_000, 900_000],
            miss_delays_ms: [10_000, 30_000, 60_000, 120_000],
            max_queued: 4,
            surplus_ms: 60_000,
            renew_ms: 600_000,
            stop_grace_ms: 30_000,
            avoid_ms: 3_600_000,
            max_avoided: 16,
        }
    }
}

/// The bad-node rule: a host is drained when at least `trials` distinct trials failed on it and
/// then succeeded on another host, and when they make up at least `share` of those trials and the
/// ones that succeeded on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BadNode {
    pub trials: u32,
    pub share: f64,
}

/// The number of retries after failures of one class, and their backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Maximum number of retries; `None`: no limit.
    pub retries: Option<u32>,
    /// Wait before the first retry.
    pub first_ms: Millis,
    /// Wait before the second retry; doubles for each later one, up to `most_ms`.
    pub then_ms: Millis,
    pub most_ms: Millis,
}

impl Budget {
    const NEVER: Self = Self {
        retries: Some(0),
        first_ms: 0,
        then_ms: 0,
        most_ms: 0,
    };

    /// Returns the wait before the retry after the `spent`-th failure of the class; `None` when the
    /// budget is spent.
    pub fn backoff(&self, spent: u32) -> Option<Millis> {
        match (self.retries, spent) {
            (Some(retries), _) if spent > retries => None,
            (_, 0 | 1) => Some(self.first_ms),
            _ => Some(
                self.then_ms
                    .saturating_mul(1 << (spent - 2).min(20))
                    .min(self.most_ms),
            ),
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
    /// Has no limit. Its waits are those of the slot, counted in a row, not those of the trial.
    pub node: Budget,
}

impl Default for Budgets {
    fn default() -> Self {
        let thrice = Budget {
            retries: Some(3),
            first_ms: 1_000,
            then_ms: 5_000,
            most_ms: 60_000,
        };
        // The trial did nothing wrong; the wait only keeps a flapping node from filling the
        // journal.
        let always = Budget {
            retries: None,
            first_ms: 0,
            then_ms: 500,
            most_ms: 10_000,
        };
        Self {
            // The same seed gives the same numbers, so a retry would fail in the same way.
            non_finite: Budget::NEVER,
            // Once only; `decide` first checks that another host can run it.
            out_of_memory: Budget {
                retries: Some(1),
                first_ms: 5_000,
                then_ms: 5_000,
                most_ms: 5_000,
            },
            crashed: thrice,
            stalled: thrice,
            unreachable: always,
            preempted: always,
            bad_device: Budget {
                retries: Some(5),
                first_ms: 0,
                then_ms: 1_000,
                most_ms: 60_000,
            },
            // Retries soon if the disk is full for a minute; does not fill the journal if it stays
            // full.
            node: Budget {
                retries: None,
                first_ms: 5_000,
                then_ms: 10_000,
                most_ms: 300_000,
            },
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
