//! The events that hit a simulated cluster from outside: submissions, edits, crashes, cuts. A
//! script is data, so that one that found a fault can be printed, reduced, and kept as a test.

use std::collections::BTreeMap;
use std::sync::Mutex;

use schedule::CheckedSweep;
use sweep::Sweep;
use sweep::record::FailureClass;

use crate::cluster::ClusterFault;
use crate::random::Random;
use crate::sweeps;

pub const NUM_HOSTS: usize = 4;
/// Time of the last fault, in virtual milliseconds.
pub const QUIET_FROM: u64 = 150_000;

#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    /// Seed of delays, speeds and the like.
    pub seed: u64,
    pub actions: Vec<(u64, Action)>,
    /// Its workers come from a cluster.
    pub on_cluster: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Submit(Submit),
    Cancel(&'static str),
    /// Removes the sweep, whatever runs of it.
    Remove(&'static str),
    Retry(&'static str),
    /// Trains again from the start, finished trials too: the whole sweep, or its first cell.
    TrainAgain {
        sweep: &'static str,
        whole: bool,
    },
    Drain {
        host: usize,
    },
    Undrain {
        host: usize,
    },
    /// The worker process dies with its trainers; another one starts later.
    KillWorker {
        host: usize,
        down_ms: u64,
    },
    /// SIGTERM with notice.
    Leave {
        host: usize,
        down_ms: u64,
    },
    /// SIGSTOP: the worker sends and receives nothing, and its trainers continue.
    Freeze {
        host: usize,
        ms: u64,
    },
    /// No message passes in either direction, and neither end notices.
    Partition {
        host: usize,
        ms: u64,
    },
    /// The stream breaks; the ends notice at different times.
    Cut {
        host: usize,
    },
    /// The next attempt that starts on the host ends like this.
    FailNext {
        host: usize,
        class: FailureClass,
    },
    /// The host's disk is full for a while: every attempt that starts on it ends through the node's
    /// fault.
    Starve {
        host: usize,
        ms: u64,
    },
    /// Every attempt that starts on the host crashes, until the next such action.
    Bad {
        host: usize,
    },
    KillCoordinator {
        at: Moment,
        down_ms: u64,
    },
    Cluster(ClusterFault),
    /// Nothing can be journalled for a while.
    DiskFull {
        ms: u64,
    },
}

/// The moment in its turn at which the coordinator dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Idle,
    BeforeCommit,
    /// After the commit, before any effect.
    AfterCommit,
}

/// Small sweeps that share trials with one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Submit {
    Grid {
        name: &'static str,
        values: u32,
        seeds: u64,
        stop: bool,
        wide: bool,
    },
    Search {
        name: &'static str,
        cells: u32,
        candidates: u32,
        seeds: u64,
    },
    /// More seeds until the cells are ranked.
    Ranked {
        name: &'static str,
        values: u32,
        at_most: u64,
    },
}

impl Submit {
    /// Returns the sweep as the coordinator takes it. There are few of them, and to compile and
    /// check one takes as long as hundreds of turns: each is made once.
    pub fn checked(self) -> CheckedSweep {
        static MADE: Mutex<BTreeMap<Submit, CheckedSweep>> = Mutex::new(BTreeMap::new());
        let mut made = MADE.lock().expect("nothing panics while it holds the lock");
        let checked = || CheckedSweep::new(self.sweep()).expect("a compiled sweep");
        made.entry(self).or_insert_with(checked).clone()
    }

    fn sweep(self) -> Sweep {
        match self {
            Self::Grid {
                name,
                values,
                seeds,
                stop,
                wide,
            } => {
                let on_failure = if stop { "on_failure: stop\n" } else { "" };
                let devices = if wide {
                    "resources: {devices_per_trial: 2}\n"
                } else {
                    ""
                };
                sweeps::grid(name, values, seeds, &format!("{on_failure}{devices}"))
            }
            Self::Search {
                name,
                cells,
                candidates,
                seeds,
            } => sweeps::search(name, cells, candidates, seeds),
            Self::Ranked {
                name,
                values,
                at_most,
            } => sweeps::ranked(name, values, at_most),
        }
    }
}

impl Script {
    pub fn random(seed: u64) -> Self {
        let mut people = Random::new(seed, "people");
        let mut faults = Random::new(seed, "faults");
        let mut actions = vec![(1_000, Action::Submit(submission(&mut people)))];
        for _ in 0..people.below(6) {
            let action = match people.below(9) {
                0..=3 => Action::Submit(submission(&mut people)),
                4 if people.one_in(3) => Action::Remove(name(&mut people)),
                4 => Action::Cancel(name(&mut people)),
                5 => Action::Retry(name(&mut people)),
                6 => Action::TrainAgain {
                    sweep: name(&mut people),
                    whole: people.one_in(2),
                },
                7 => Action::Drain {
                    host: people.below(NUM_HOSTS as u64) as usize,
                },
                _ => Action::Undrain {
                    host: people.below(NUM_HOSTS as u64) as usize,
                },
            };
            actions.push((people.below(QUIET_FROM), action));
        }
        // From few faults to many.
        for _ in 0..faults.below(25) {
            actions.push((faults.below(QUIET_FROM), fault(&mut faults)));
        }
        actions.sort_by_key(|(at, _)| *at);
        Self {
            seed,
            actions,
            on_cluster: false,
        }
    }
}

impl Script {
    /// The same for a cluster, which has faults of its own.
    pub fn random_on_cluster(seed: u64) -> Self {
        let mut script = Self::random(seed);
        let mut faults = Random::new(seed, "cluster faults");
        script.on_cluster = true;
        for _ in 0..faults.below(10) {
            let fault = match faults.below(9) {
                0..=2 => ClusterFault::Preempt {
                    grace_ms: faults.below(30_000),
                },
                3 | 4 => ClusterFault::NodeFails,
                5 => ClusterFault::Cancel,
                6 => ClusterFault::Away {
                    ms: faults.below(120_000),
                },
                _ => ClusterFault::Resume,
            };
            let at = faults.below(QUIET_FROM);
            script.actions.push((at, Action::Cluster(fault)));
        }
        script.actions.sort_by_key(|(at, _)| *at);
        script
    }
}

impl Action {
    /// Moves an action on a host to one of those that there are; `None`: there is none.
    pub fn on_host(self, num_hosts: usize) -> Option<Self> {
        let mut action = self;
        match &mut action {
            Self::Drain { host }
            | Self::Undrain { host }
            | Self::KillWorker { host, .. }
            | Self::Leave { host, .. }
            | Self::Freeze { host, .. }
            | Self::Partition { host, .. }
            | Self::Cut { host }
            | Self::FailNext { host, .. }
            | Self::Starve { host, .. }
            | Self::Bad { host } => {
                // The newest hosts: those of a cluster come and go.
                let newest = num_hosts.min(NUM_HOSTS);
                *host = num_hosts - newest + host.checked_rem(newest)?;
            }
            Self::Submit(_)
            | Self::Cancel(_)
            | Self::Remove(_)
            | Self::Retry(_)
            | Self::TrainAgain { .. }
            | Self::Cluster(_)
            | Self::KillCoordinator { .. }
            | Self::DiskFull { .. } => {}
        }
        Some(action)
    }
}

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

fn name(random: &mut Random) -> &'static str {
    NAMES[random.below(NAMES.len() as u64) as usize]
}

fn submission(random: &mut Random) -> Submit {
    let name = name(random);
    if random.one_in(3) {
        let (cells, candidates) = (1 + random.below(2) as u32, 2 + random.below(2) as u32);
        return Submit::Search {
            name,
            cells,
            candidates,
            seeds: 1 + random.below(2),
        };
    }
    if random.one_in(5) {
        return Submit::Ranked {
            name,
            values: 1 + random.below(4) as u32,
            at_most: 3 + random.below(6),
        };
    }
    let (values, seeds) = (1 + random.below(5) as u32, 1 + random.below(3));
    Submit::Grid {
        name,
        values,
        seeds,
        stop: random.one_in(6),
        wide: random.one_in(5),
    }
}

fn fault(random: &mut Random) -> Action {
    let host = random.below(NUM_HOSTS as u64) as usize;
    // Below, about and above a lease of ten seconds.
    let ms = [500, 5_000, 9_500, 12_000, 40_000][random.below(5) as usize] + random.below(2_000);
    match random.below(17) {
        0..=2 => Action::KillWorker { host, down_ms: ms },
        3 => Action::Leave { host, down_ms: ms },
        4..=5 => Action::Freeze { host, ms },
        6..=7 => Action::Partition { host, ms },
        8..=9 => Action::Cut { host },
        10..=11 => Action::FailNext {
            host,
            class: class(random),
        },
        12 => Action::Bad { host },
        13..=14 => {
            let moments = [Moment::Idle, Moment::BeforeCommit, Moment::AfterCommit];
            Action::KillCoordinator {
                at: moments[random.below(3) as usize],
                down_ms: ms,
            }
        }
        15 => Action::Starve { host, ms },
        _ => Action::DiskFull { ms },
    }
}

fn class(random: &mut Random) -> FailureClass {
    let classes = [
        FailureClass::Crashed,
        FailureClass::Stalled,
        FailureClass::BadDevice,
        FailureClass::OutOfMemory,
    ];
    classes[random.below(4) as usize]
}
