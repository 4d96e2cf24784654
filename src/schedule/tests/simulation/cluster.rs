//! A cluster as a value, with the manners of Slurm: answers come late, twice, empty or not at all,
//! jobs wait, are preempted, lose their node and run out of time, and what has ended is soon
//! forgotten. Each job brings a host with a worker.

use std::collections::BTreeSet;

use schedule::allocation::{
    AllocationId, AllocationPhase, EndCause, GiveBack, JobId, JobState, LaunchAnswer, LaunchEvent,
    LaunchInput, LaunchRequest, ObservedJob, PauseCause, PendingReason, QueueName, QueueSpec,
    ReasonClass, SubmitOutcome,
};
use schedule::event::{Event, Input};
use schedule::state::{Millis, State};

use crate::random::Random;
use crate::world::{Happening, Host, Verdict, World};

const NODES: usize = 5;
pub const MAX_ALLOCATIONS: u32 = 4;
const TIME_LIMIT_MS: Millis = 130_000;
const NOTICE_MS: Millis = 60_000;
/// Longest time before its end at which an allocation's successor may be asked for.
const RENEWED_MS: Millis = NOTICE_MS + (TIME_LIMIT_MS - NOTICE_MS) / 2 * 11 / 8;
/// Longest time after a lost answer at which its job appears.
const LATEST_JOB_MS: Millis = 20_000;

pub enum Step {
    /// A submission takes effect.
    Appear {
        allocation: AllocationId,
    },
    Answer {
        coordinator: u64,
        answer: LaunchAnswer,
    },
    Start {
        job: usize,
    },
    /// The signal before the end.
    Warn {
        job: usize,
    },
    End {
        job: usize,
        cause: EndCause,
    },
    /// The cluster finds out that the job's node is gone.
    NodeLost {
        job: usize,
    },
}

/// A fault of the cluster, in a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterFault {
    Preempt {
        grace_ms: Millis,
    },
    NodeFails,
    /// A person cancels a job.
    Cancel,
    /// The controller does not answer.
    Away {
        ms: Millis,
    },
    Resume,
}

pub struct Cluster {
    jobs: Vec<Job>,
    asked: BTreeSet<AllocationId>,
    away_until: Millis,
    last_empty: Millis,
    min_job_age_ms: Millis,
    random: Random,
    pub counts: ClusterCounts,
}

/// Number of cases met: a simulation that never meets a case proves nothing about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterCounts {
    pub jobs: u64,
    pub lost_answers: u64,
    pub empty_answers: u64,
    pub failed_answers: u64,
    pub preempted: u64,
    pub nodes_failed: u64,
    pub timed_out: u64,
    pub cancelled: u64,
    pub completed: u64,
}

impl ClusterCounts {
    pub fn all(self) -> [u64; 9] {
        [
            self.jobs,
            self.lost_answers,
            self.empty_answers,
            self.failed_answers,
            self.preempted,
            self.nodes_failed,
            self.timed_out,
            self.cancelled,
            self.completed,
        ]
    }

    pub fn add(&mut self, other: Self) {
        let sum = self
            .all()
            .into_iter()
            .zip(other.all())
            .map(|(one, other)| one + other);
        let [
            jobs,
            lost_answers,
            empty_answers,
            failed_answers,
            preempted,
            nodes_failed,
            timed_out,
            cancelled,
            completed,
        ] = <[u64; 9]>::try_from(sum.collect::<Vec<_>>()).expect("as many as before");
        *self = Self {
            jobs,
            lost_answers,
            empty_answers,
            failed_answers,
            preempted,
            nodes_failed,
            timed_out,
            cancelled,
            completed,
        };
    }
}

struct Job {
    allocation: AllocationId,
    state: Truth,
    host: Option<usize>,
    ends_at: Option<Millis>,
}

#[derive(Clone, Debug, PartialEq)]
enum Truth {
    Pending,
    Running,
    Ended { cause: EndCause, at: Millis },
}

impl Job {
    fn is_alive(&self) -> bool {
        !matches!(self.state, Truth::Ended { .. })
    }
}

impl Cluster {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, "cluster");
        Self {
            jobs: Vec::new(),
            asked: BTreeSet::new(),
            away_until: 0,
            last_empty: 0,
            min_job_age_ms: [2_000, 300_000][random.below(2) as usize],
            random,
            counts: ClusterCounts::default(),
        }
    }

    pub fn is_idle(&self) -> bool {
        !self.jobs.iter().any(Job::is_alive)
    }

    fn snapshot(&mut self, allocations: &[AllocationId], now: Millis) -> Vec<ObservedJob> {
        let mut seen = Vec::new();
        for (number, job) in self.jobs.iter().enumerate() {
            let forgotten =
                matches!(&job.state, Truth::Ended { at, .. } if now > at + self.min_job_age_ms);
            if forgotten || !allocations.contains(&job.allocation) {
                continue;
            }
            let state = match &job.state {
                _ if self.random.one_in(30) => JobState::Unknown("EXPEDITING".into()),
                Truth::Pending => JobState::Pending(PendingReason {
                    word: ["Priority", "Resources"][self.random.below(2) as usize].into(),
                    sentence: "it waits".into(),
                    class: ReasonClass::Wait,
                }),
                Truth::Running => JobState::Running,
                Truth::Ended { cause, .. } => JobState::Ended(cause.clone()),
            };
            seen.push(ObservedJob {
                allocation: job.allocation.clone(),
                job: JobId(number.to_string().into()),
                state,
                node: job.host.map(|host| format!("host{host}")),
                ends_at: job.ends_at,
            });
        }
        if self.random.one_in(10) {
            // Repeated lines.
            seen.extend(seen.clone());
        }
        seen
    }
}

impl World {
    /// Opens the queue of this world's cluster at a coordinator that has just started.
    pub fn open_queue(&mut self) -> Verdict {
        let spec = QueueSpec {
            launcher: "slurm".to_owned(),
            request: "".into(),
            folder: "allocations".to_owned(),
            max_allocations: MAX_ALLOCATIONS,
            time_limit_ms: Some(TIME_LIMIT_MS),
            notice_ms: NOTICE_MS,
        };
        let name = QueueName::new("sweep", 7);
        self.input(vec![Input::Launch(LaunchInput::Open { name, spec })])
    }

    /// Does what the launcher does with a request.
    pub fn launch(&mut self, request: LaunchRequest) {
        let now = self.now;
        let cluster = self.cluster.as_mut().expect("a queue was opened");
        let away = now < cluster.away_until;
        let dice = cluster.random.below(20);
        let mut delay = 50 + cluster.random.below(2_000);
        let answer = match request {
            LaunchRequest::Submit { allocation, .. } => {
                if !cluster.asked.insert(allocation.clone()) {
                    self.broken = Some(format!("{allocation} was submitted twice"));
                }
                let message = "the answer of a simulated cluster".into();
                let outcome = match dice {
                    _ if away => {
                        delay = 20_000;
                        SubmitOutcome::Unreachable { message }
                    }
                    0 => SubmitOutcome::Unreachable { message },
                    1 => SubmitOutcome::Full { message },
                    2..=4 => {
                        cluster.counts.lost_answers += 1;
                        delay = 20_000;
                        if !cluster.random.one_in(3) {
                            let at = now + cluster.random.below(LATEST_JOB_MS);
                            let allocation = allocation.clone();
                            self.network
                                .at(at, Happening::Cluster(Step::Appear { allocation }));
                        }
                        SubmitOutcome::Unknown { message }
                    }
                    _ => {
                        self.appear(allocation.clone());
                        let cluster = self.cluster.as_ref().expect("it is there");
                        let number = cluster.jobs.len() - 1;
                        SubmitOutcome::Submitted(JobId(number.to_string().into()))
                    }
                };
                LaunchAnswer::Submitted {
                    allocation,
                    outcome,
                }
            }
            LaunchRequest::Observe { allocations } => {
                if cluster.random.one_in(10) {
                    delay = 20_000;
                }
                LaunchAnswer::Observed(match dice {
                    _ if away => Err("the controller is away".into()),
                    0 | 1 => {
                        cluster.counts.failed_answers += 1;
                        Err("a failed answer".into())
                    }
                    // Never twice in a row: a cluster that lies for a minute is believed.
                    2 if now > cluster.last_empty + 120_000 => {
                        cluster.counts.empty_answers += 1;
                        cluster.last_empty = now;
                        Ok(Vec::new())
                    }
                    _ => Ok(cluster.snapshot(&allocations, now)),
                })
            }
            LaunchRequest::GiveBack { allocations, how } => {
                let fails = away || dice == 0;
                if !away {
                    for (allocation, _) in allocations {
                        self.give_back(&allocation, how);
                    }
                }
                LaunchAnswer::GaveBack(if fails {
                    Err("no answer".into())
                } else {
                    Ok(())
                })
            }
        };
        let coordinator = self.network.coordinator();
        let twice = self
            .cluster
            .as_mut()
            .expect("it is there")
            .random
            .one_in(15);
        for at in [now + delay]
            .into_iter()
            .chain(twice.then_some(now + delay + 700))
        {
            let answer = answer.clone();
            let step = Step::Answer {
                coordinator,
                answer,
            };
            self.network.at(at, Happening::Cluster(step));
        }
    }

    fn appear(&mut self, allocation: AllocationId) {
        let cluster = self.cluster.as_mut().expect("it is there");
        cluster.counts.jobs += 1;
        let state = Truth::Pending;
        cluster.jobs.push(Job {
            allocation,
            state,
            host: None,
            ends_at: None,
        });
        let job = cluster.jobs.len() - 1;
        let at = self.now + 1_000 + cluster.random.below(40_000);
        self.network.at(at, Happening::Cluster(Step::Start { job }));
    }

    fn give_back(&mut self, allocation: &AllocationId, how: GiveBack) {
        let cluster = self.cluster.as_ref().expect("it is there");
        let named = (0..)
            .zip(&cluster.jobs)
            .filter(|(_, job)| job.allocation == *allocation);
        let alive: Vec<(usize, Truth)> = named
            .filter(|(_, job)| job.is_alive())
            .map(|(at, job)| (at, job.state.clone()))
            .collect();
        for (job, state) in alive {
            match (how, state) {
                (GiveBack::Waiting, Truth::Pending) | (GiveBack::Now, _) => {
                    self.end_job(job, EndCause::CancelledByOthers);
                }
                (GiveBack::Leave, Truth::Running) => self.warn(job),
                _ => {}
            }
        }
    }

    pub fn step_cluster(&mut self, step: Step) -> Verdict {
        match step {
            Step::Appear { allocation } => self.appear(allocation),
            Step::Answer {
                coordinator,
                answer,
            } => return self.answer(coordinator, answer),
            Step::Start { job } => self.start_job(job),
            Step::Warn { job } => self.warn(job),
            Step::End { job, cause } => self.end_job(job, cause),
            Step::NodeLost { job } => self.end_job(job, EndCause::NodeFailed),
        }
        Ok(())
    }

    /// An answer reaches the coordinator that asked; it is sent again while the disk is full.
    fn answer(&mut self, coordinator: u64, answer: LaunchAnswer) -> Verdict {
        let runs = self.coordinator.as_ref();
        if self.network.coordinator() != coordinator || runs.is_none() {
            return Ok(());
        }
        if runs.is_some_and(|runs| runs.is_held()) {
            let step = Step::Answer {
                coordinator,
                answer,
            };
            self.network.at(self.now + 1_000, Happening::Cluster(step));
            return Ok(());
        }
        self.input(vec![Input::Launch(LaunchInput::Answered(answer))])
    }

    fn start_job(&mut self, job: usize) {
        let now = self.now;
        let cluster = self.cluster.as_mut().expect("it is there");
        if cluster.jobs[job].state != Truth::Pending {
            return;
        }
        let running = cluster
            .jobs
            .iter()
            .filter(|job| job.state == Truth::Running)
            .count();
        if running >= NODES || now < cluster.away_until {
            self.network
                .at(now + 5_000, Happening::Cluster(Step::Start { job }));
            return;
        }
        let ends_at = now + TIME_LIMIT_MS;
        let host = self.hosts.len();
        let entry = &mut cluster.jobs[job];
        (entry.state, entry.host, entry.ends_at) = (Truth::Running, Some(host), Some(ends_at));
        let lent = (entry.allocation.clone(), ends_at);
        let is_stuck = cluster.random.one_in(15);
        self.hosts.push(Host::lent(lent, is_stuck));
        let early = cluster.random.below(60_000);
        // A worker that misses the signal is killed at the end.
        if !cluster.random.one_in(3) {
            let warn = Happening::Cluster(Step::Warn { job });
            self.network.at(ends_at - NOTICE_MS - early, warn);
        }
        let cause = EndCause::TimedOut;
        self.network
            .at(ends_at, Happening::Cluster(Step::End { job, cause }));
        if cluster.random.one_in(40) {
            let cause = EndCause::Failed {
                detail: "a script with a fault".into(),
            };
            self.network
                .at(now + 2_000, Happening::Cluster(Step::End { job, cause }));
            return;
        }
        let at = now + 1_000 + cluster.random.below(4_000);
        self.network.at(at, Happening::StartWorker { host });
        self.network.at(at + 500, Happening::Second { host });
    }

    fn warn(&mut self, job: usize) {
        let cluster = self.cluster.as_ref().expect("it is there");
        let entry = &cluster.jobs[job];
        if let (Truth::Running, Some(host)) = (&entry.state, entry.host)
            && let Some(worker) = &mut self.hosts[host].worker
        {
            worker.leave();
        }
    }

    fn end_job(&mut self, job: usize, cause: EndCause) {
        let now = self.now;
        let cluster = self.cluster.as_mut().expect("it is there");
        let entry = &mut cluster.jobs[job];
        if !entry.is_alive() {
            return;
        }
        match cause {
            EndCause::TimedOut => cluster.counts.timed_out += 1,
            EndCause::Preempted => cluster.counts.preempted += 1,
            EndCause::NodeFailed => cluster.counts.nodes_failed += 1,
            EndCause::CancelledByOthers => cluster.counts.cancelled += 1,
            EndCause::Completed => cluster.counts.completed += 1,
            _ => {}
        }
        entry.state = Truth::Ended { cause, at: now };
        if let Some(host) = entry.host {
            self.remove_worker(host);
        }
    }

    /// The worker of this host has ended, and its job with it.
    pub fn job_of_host_ends(&mut self, host: usize, cause: EndCause) {
        let cluster = self.cluster.as_ref().expect("the host is of a job");
        let job = cluster.jobs.iter().position(|job| job.host == Some(host));
        self.end_job(job.expect("the host is of a job"), cause);
    }

    pub fn strike_cluster(&mut self, fault: ClusterFault) -> Verdict {
        let now = self.now;
        let Some(cluster) = &mut self.cluster else {
            return Ok(());
        };
        let running: Vec<usize> = (0..cluster.jobs.len())
            .filter(|job| cluster.jobs[*job].state == Truth::Running)
            .collect();
        let victim = match running.len() {
            0 => None,
            count => Some(running[cluster.random.below(count as u64) as usize]),
        };
        match (fault, victim) {
            (ClusterFault::Away { ms }, _) => cluster.away_until = now + ms,
            (ClusterFault::Preempt { grace_ms }, Some(job)) => {
                let cause = EndCause::Preempted;
                self.network
                    .at(now + grace_ms, Happening::Cluster(Step::End { job, cause }));
                self.warn(job);
            }
            (ClusterFault::NodeFails, Some(job)) => {
                if let Some(host) = cluster.jobs[job].host {
                    self.remove_worker(host);
                }
                self.network
                    .at(now + 25_000, Happening::Cluster(Step::NodeLost { job }));
            }
            (ClusterFault::Cancel, Some(job)) => self.end_job(job, EndCause::CancelledByOthers),
            (ClusterFault::Resume, _) => {
                let holds = self
                    .coordinator
                    .as_ref()
                    .is_some_and(|runs| !runs.is_held());
                if holds {
                    return self.input(vec![Input::Launch(LaunchInput::Resume)]);
                }
            }
            (_, None) => {}
        }
        Ok(())
    }

    /// A person ends a pause, once the cluster answers again.
    pub fn tend_cluster(&mut self) -> Verdict {
        if let Some(cluster) = &mut self.cluster {
            cluster.away_until = 0;
        }
        let holds = |state: &State| {
            state
                .launch_queues
                .values()
                .any(|queue| queue.paused.is_some())
        };
        match &self.coordinator {
            Some(runs) if holds(&runs.state) => self.strike_cluster(ClusterFault::Resume),
            _ => Ok(()),
        }
    }

    /// Compares what the coordinator knows with what the cluster has lent.
    pub fn check_cluster(&self, state: &State) -> Verdict {
        let Some(cluster) = &self.cluster else {
            return Ok(());
        };
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let mut lasting = 0;
        for job in cluster.jobs.iter().filter(|job| job.is_alive()) {
            let Some(entry) = state.allocations.get(&job.allocation) else {
                return Err(format!("{} is forgotten", job.allocation));
            };
            if entry.phase.is_ended() {
                return Err(format!(
                    "{} is alive, and known as {:?}",
                    job.allocation, entry.phase
                ));
            }
            let expires = job
                .ends_at
                .is_some_and(|end| end <= self.now + RENEWED_MS + 6_000);
            let is_given_back = matches!(entry.phase, AllocationPhase::Draining { .. });
            lasting += u32::from(!expires && !is_given_back);
        }
        if lasting > MAX_ALLOCATIONS {
            return Err(format!(
                "{lasting} allocations, and {MAX_ALLOCATIONS} were asked for"
            ));
        }
        Ok(())
    }

    /// The promises about allocations at the end, judged from the journal.
    pub fn judge_cluster(&self) -> Verdict {
        if self.cluster.is_none() {
            return Ok(());
        }
        let state = &self
            .coordinator
            .as_ref()
            .expect("it ends with a coordinator")
            .state;
        let open = state
            .allocations
            .iter()
            .find(|(_, entry)| !entry.phase.is_ended());
        if let Some((id, entry)) = open {
            return Err(format!("{id} is kept without work: {:?}", entry.phase));
        }
        let mut names = BTreeSet::new();
        let mut last_end = None;
        for recorded in &self.journal {
            match &recorded.event {
                Event::Launch(LaunchEvent::Intended { allocation, .. })
                    if !names.insert(allocation) =>
                {
                    return Err(format!("{allocation} is intended twice"));
                }
                Event::Launch(LaunchEvent::Changed { change, .. }) => {
                    use schedule::allocation::AllocationEvent as Change;
                    match change {
                        Change::Ended { cause } => last_end = Some(cause.clone()),
                        Change::Drained { .. } => last_end = None,
                        _ => {}
                    }
                }
                Event::Launch(LaunchEvent::QueueDelayed {
                    is_strike: true, ..
                }) => {
                    let is_failure = matches!(
                        last_end,
                        None | Some(
                            EndCause::Failed { .. } | EndCause::OutOfMemory | EndCause::Completed
                        )
                    );
                    if !is_failure {
                        return Err(format!("{last_end:?} counted as a failure"));
                    }
                }
                Event::Launch(LaunchEvent::QueuePaused {
                    cause: PauseCause::Refused,
                    ..
                }) => {
                    return Err("a refusal that the cluster never gave".to_owned());
                }
                _ => {}
            }
        }
        Ok(())
    }
}
