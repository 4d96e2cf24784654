//! The simulated cluster: one coordinator, four hosts, a network between them, virtual time. The
//! coordinator's side is the real `turn`; the rest behaves as processes, disks and connections do
//! when they fail.

use std::collections::BTreeMap;

use schedule::allocation::{AllocationId, EndCause};
use schedule::event::{Effect, Event, Input, Recorded, Rejected, Retry};
use schedule::state::{Millis, Phase, State};
use schedule::{Answer, Config, Turn, check, next_deadline, observe, replay, restart, turn};
use sweep::definition::Role;
use sweep::record::FailureClass;
use sweep::{AttemptId, TrialId};

use crate::cluster::{self, Cluster};
use crate::network::{Network, StreamNo};
use crate::random::Random;
use crate::script::{Action, Moment, NUM_HOSTS, QUIET_FROM, Script};
use crate::truth;
use crate::worker::{Message, STALL_MS, Worker};

/// Far beyond the time that the slowest trial needs after the last fault.
const LATEST_END: u64 = QUIET_FROM + 3_600_000;

pub enum Happening {
    Script(usize),
    ToCoordinator {
        stream: StreamNo,
        input: Input,
    },
    ToWorker {
        stream: StreamNo,
        message: Message,
    },
    WorkerNotices {
        stream: StreamNo,
    },
    CoordinatorNotices {
        stream: StreamNo,
    },
    Second {
        host: usize,
    },
    Deadline {
        at: Millis,
    },
    StartWorker {
        host: usize,
    },
    StartCoordinator,
    DiskFree,
    /// A person repairs what only a person can.
    Tend,
    Cluster(cluster::Step),
}

#[derive(Default)]
pub struct Host {
    pub worker: Option<Worker>,
    pub stream: Option<StreamNo>,
    runs: u64,
    frozen_until: Millis,
    pub partitioned_until: Millis,
    fail_next: Option<FailureClass>,
    starved_until: Millis,
    bad: bool,
    down_ms: u64,
    /// The allocation that lends it, and the time of its end.
    pub lent: Option<(AllocationId, Millis)>,
    /// Its job has ended: no worker starts here again.
    is_taken_away: bool,
    /// Its worker hangs until it is killed.
    is_stuck: bool,
}

impl Host {
    /// Returns a host that an allocation lends until this time. `is_stuck`: its worker hangs.
    pub fn lent(lent: (AllocationId, Millis), is_stuck: bool) -> Self {
        Self {
            lent: Some(lent),
            is_stuck,
            ..Self::default()
        }
    }
}

pub struct Coordinator {
    pub state: State,
    deadline: Option<Millis>,
    /// Events applied but not yet journalled: the disk is full.
    fault: Option<(Vec<Recorded>, Vec<Effect>)>,
}

impl Coordinator {
    /// Returns true if it decides nothing, because it cannot write its journal.
    pub fn is_held(&self) -> bool {
        self.fault.is_some()
    }
}

pub struct World {
    pub now: Millis,
    config: Config,
    pub coordinator: Option<Coordinator>,
    pub journal: Vec<Recorded>,
    pub hosts: Vec<Host>,
    pub network: Network,
    /// Checkpoints of the trainings that began with this attempt.
    checkpoints: BTreeMap<AttemptId, u64>,
    /// Injected failures, not the trial's own, which must stay within the budgets.
    injected: BTreeMap<(TrialId, FailureClass), u32>,
    kill_at: Option<(Moment, u64)>,
    /// Kills at the transaction of this number instead, counted from 1.
    pub kill_at_commit: Option<(u64, Moment)>,
    pub commits: u64,
    disk_full: bool,
    script: Vec<(u64, Action)>,
    pub steps: u64,
    work: Random,
    pub answers: Answers,
    pub cluster: Option<Cluster>,
    /// A fault that shows outside a turn.
    pub broken: Option<String>,
    /// A line for each turn, if they are wanted.
    pub trace: Option<Vec<String>>,
}

/// Number of answers of each kind: a simulation that never meets a case proves nothing about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    pub turns: u64,
    pub stale_attempts: u64,
    pub stale_connections: u64,
    pub unknown_workers: u64,
    pub coordinator_kills: u64,
    pub worker_kills: u64,
    pub cuts: u64,
    pub pauses: u64,
}

impl Answers {
    pub fn counts(self) -> [u64; 8] {
        let Self {
            turns,
            stale_attempts,
            stale_connections,
            unknown_workers,
            ..
        } = self;
        let Self {
            coordinator_kills,
            worker_kills,
            cuts,
            pauses,
            ..
        } = self;
        [
            turns,
            stale_attempts,
            stale_connections,
            unknown_workers,
            coordinator_kills,
            worker_kills,
            cuts,
            pauses,
        ]
    }

    pub fn plus(self, other: Self) -> Self {
        let [
            turns,
            stale_attempts,
            stale_connections,
            unknown_workers,
            coordinator_kills,
            worker_kills,
            cuts,
            pauses,
        ] = std::array::from_fn(|index| self.counts()[index] + other.counts()[index]);
        Self {
            turns,
            stale_attempts,
            stale_connections,
            unknown_workers,
            coordinator_kills,
            worker_kills,
            cuts,
            pauses,
        }
    }
}

/// The fault, in words.
pub type Verdict = Result<(), String>;

impl World {
    pub fn new(script: &Script) -> Self {
        let mut config = Config::new("1");
        config.stall_ms = STALL_MS;
        // A cluster brings hosts of its own.
        let num_hosts = if script.on_cluster { 0 } else { NUM_HOSTS };
        let mut world = Self {
            now: 0,
            config,
            coordinator: None,
            journal: Vec::new(),
            hosts: (0..num_hosts).map(|_| Host::default()).collect(),
            network: Network::new(script.seed),
            checkpoints: BTreeMap::new(),
            injected: BTreeMap::new(),
            kill_at: None,
            kill_at_commit: None,
            commits: 0,
            disk_full: false,
            script: script.actions.clone(),
            steps: 0,
            work: Random::new(script.seed, "work"),
            answers: Answers::default(),
            cluster: script.on_cluster.then(|| Cluster::new(script.seed)),
            broken: None,
            trace: None,
        };
        for (index, (at, _)) in script.actions.iter().enumerate() {
            world.network.at(*at, Happening::Script(index));
        }
        world.network.at(0, Happening::StartCoordinator);
        for host in 0..num_hosts {
            let at = 100 + world.work.below(3_000);
            world.network.at(at, Happening::StartWorker { host });
            world.network.at(at + 500, Happening::Second { host });
        }
        world.network.at(QUIET_FROM, Happening::Tend);
        world
    }

    /// Runs until every trial has ended and every worker is idle.
    pub fn run(&mut self) -> Verdict {
        while let Some((at, happening)) = self.network.next() {
            self.now = at;
            self.steps += 1;
            if at > LATEST_END {
                return Err(format!(
                    "not at an end after {LATEST_END} virtual milliseconds"
                ));
            }
            self.happen(happening)?;
            if at > QUIET_FROM && self.is_over() {
                return Ok(());
            }
        }
        Err("nothing happens any more, but the work is not at an end".to_owned())
    }

    fn is_over(&self) -> bool {
        let Some(coordinator) = &self.coordinator else {
            return false;
        };
        let state = &coordinator.state;
        let idle = |host: &Host| {
            host.worker.as_ref().is_none_or(|worker| {
                worker.ended.is_empty() && worker.slots.iter().all(Option::is_none)
            })
        };
        coordinator.fault.is_none()
            && self.hosts.iter().all(idle)
            && state.sweeps.keys().all(|name| state.is_complete(name))
            // Includes the trials that no sweep wants any more.
            && state.trials.values().all(|trial| trial.phase.is_terminal())
            && self.to_repair(state).is_none()
            && self.cluster.as_ref().is_none_or(Cluster::is_idle)
            && state.allocations.values().all(|entry| entry.phase.is_ended())
    }

    fn happen(&mut self, happening: Happening) -> Verdict {
        match happening {
            Happening::Script(index) => self.act(self.script[index].1),
            Happening::ToCoordinator { stream, input } => self.deliver(stream, input),
            Happening::ToWorker { stream, message } => self.deliver_to_worker(stream, message),
            Happening::WorkerNotices { stream } => {
                let host = &mut self.hosts[self.network.host(stream)];
                if host.stream == Some(stream) {
                    host.stream = None;
                    if let Some(worker) = &mut host.worker {
                        worker.is_open = false;
                    }
                }
                Ok(())
            }
            Happening::CoordinatorNotices { stream } => {
                let (worker, connection) = self.network.ends(stream);
                match self.network.is_of_this_coordinator(stream) {
                    true => self.input(vec![Input::Disconnected { worker, connection }]),
                    false => Ok(()),
                }
            }
            Happening::Second { host } if self.hosts[host].is_taken_away => Ok(()),
            Happening::Second { host } => {
                self.network
                    .at(self.now + 1_000, Happening::Second { host });
                self.second(host);
                Ok(())
            }
            Happening::Deadline { at } => match &self.coordinator {
                Some(coordinator) if coordinator.deadline == Some(at) => {
                    self.input(vec![Input::Tick])
                }
                _ => Ok(()),
            },
            Happening::StartWorker { host } => {
                let place = &mut self.hosts[host];
                if place.worker.is_none() && !place.is_taken_away {
                    place.runs += 1;
                    place.worker = Some(Worker::new(host, place.runs, place.lent.clone()));
                }
                Ok(())
            }
            Happening::StartCoordinator => self.start_coordinator(),
            Happening::DiskFree => self.disk_free(),
            Happening::Tend => self.tend(),
            Happening::Cluster(step) => self.step_cluster(step),
        }
    }

    fn act(&mut self, action: Action) -> Verdict {
        let action = match action.on_host(self.hosts.len()) {
            Some(action) => action,
            // No host to hit.
            None => return Ok(()),
        };
        match action {
            Action::Cluster(fault) => return self.strike_cluster(fault),
            Action::Submit(submit) => {
                return self.ask(
                    Input::Submit {
                        sweep: submit.checked(),
                    },
                    action,
                );
            }
            Action::Cancel(sweep) => {
                return self.ask(
                    Input::Cancel {
                        sweep: sweep.to_owned(),
                        reason: "the script".into(),
                    },
                    action,
                );
            }
            Action::Remove(sweep) => {
                return self.ask(
                    Input::Remove {
                        sweep: sweep.to_owned(),
                        cancel: true,
                    },
                    action,
                );
            }
            Action::Retry(sweep) => {
                return self.ask(
                    Input::Retry {
                        sweep: sweep.to_owned(),
                        which: Retry::Failed,
                    },
                    action,
                );
            }
            Action::TrainAgain { sweep, whole } => {
                let known = self
                    .coordinator
                    .as_ref()
                    .and_then(|coordinator| coordinator.state.sweeps.get(sweep));
                let first = known.map(|known| known.sweep.cell_name(&known.sweep.cells[0]));
                let which = if whole {
                    Retry::All
                } else {
                    Retry::Cells(first.into_iter().collect())
                };
                return self.ask(
                    Input::Retry {
                        sweep: sweep.to_owned(),
                        which,
                    },
                    action,
                );
            }
            Action::Drain { host } => {
                let Some(worker) = self.hosts[host]
                    .worker
                    .as_ref()
                    .map(|worker| worker.id.clone())
                else {
                    return Ok(());
                };
                self.hosts[host].down_ms = 3_000;
                return self.ask(
                    Input::Drain {
                        name: worker.to_string(),
                        reason: "the script".into(),
                    },
                    action,
                );
            }
            Action::Undrain { host } => {
                return self.ask(
                    Input::Undrain {
                        name: format!("host{host}"),
                    },
                    action,
                );
            }
            Action::KillWorker { host, down_ms } => self.kill_worker(host, down_ms),
            Action::Leave { host, down_ms } => {
                self.hosts[host].down_ms = down_ms;
                if let Some(worker) = &mut self.hosts[host].worker {
                    worker.leave();
                }
            }
            Action::Freeze { host, ms } => self.hosts[host].frozen_until = self.now + ms,
            Action::Partition { host, ms } => self.hosts[host].partitioned_until = self.now + ms,
            Action::Cut { host } => {
                if let Some(stream) = self.hosts[host].stream {
                    self.answers.cuts += 1;
                    self.network.cut(stream, self.now);
                }
            }
            Action::FailNext { host, class } => self.hosts[host].fail_next = Some(class),
            Action::Starve { host, ms } => self.hosts[host].starved_until = self.now + ms,
            Action::Bad { host } => self.hosts[host].bad = !self.hosts[host].bad,
            Action::KillCoordinator {
                at: Moment::Idle,
                down_ms,
            } => return self.kill_coordinator(down_ms, true),
            Action::KillCoordinator { at, down_ms } => self.kill_at = Some((at, down_ms)),
            Action::DiskFull { ms } => {
                self.disk_full = true;
                self.network.at(self.now + ms, Happening::DiskFree);
            }
        }
        Ok(())
    }

    /// Sends a user's request; it is repeated later while no coordinator can take it.
    fn ask(&mut self, input: Input, action: Action) -> Verdict {
        if self
            .coordinator
            .as_ref()
            .is_none_or(|coordinator| coordinator.fault.is_some())
        {
            self.script.push((self.now + 1_000, action));
            self.network
                .at(self.now + 1_000, Happening::Script(self.script.len() - 1));
            return Ok(());
        }
        self.input(vec![input])
    }

    // -- workers

    fn second(&mut self, host: usize) {
        let place = &mut self.hosts[host];
        let Some(worker) = &mut place.worker else {
            return;
        };
        worker.train(&mut self.checkpoints);
        if self.now < place.frozen_until || place.is_stuck {
            return;
        }
        if worker.is_finished() {
            if place.lent.is_some() {
                self.job_of_host_ends(host, EndCause::Completed);
                return;
            }
            let down_ms = place.down_ms;
            self.kill_worker(host, down_ms);
            return;
        }
        match place.stream {
            Some(stream) => {
                for input in worker.messages() {
                    self.network.send_to_coordinator(
                        stream,
                        input,
                        self.now,
                        place.partitioned_until,
                    );
                }
            }
            None => {
                let reachable = self.coordinator.is_some() && self.now >= place.partitioned_until;
                if reachable && !self.work.one_in(3) {
                    let hello = worker.hello();
                    let stream = self
                        .network
                        .open(host, worker.id.clone(), worker.connection);
                    place.stream = Some(stream);
                    self.network.send_to_coordinator(stream, hello, self.now, 0);
                }
            }
        }
    }

    /// Ends a worker whose node is taken away.
    pub fn remove_worker(&mut self, host: usize) {
        let place = &mut self.hosts[host];
        place.worker = None;
        place.is_taken_away = true;
        if let Some(stream) = place.stream.take() {
            self.network.cut(stream, self.now);
        }
    }

    fn kill_worker(&mut self, host: usize, down_ms: u64) {
        let place = &mut self.hosts[host];
        if place.lent.is_some() {
            if !place.is_taken_away {
                let detail = "exit 137".into();
                self.job_of_host_ends(host, EndCause::Failed { detail });
            }
            return;
        }
        if place.worker.take().is_some() {
            self.answers.worker_kills += 1;
            self.network
                .at(self.now + down_ms, Happening::StartWorker { host });
        }
        if let Some(stream) = place.stream.take() {
            self.network.cut(stream, self.now);
        }
    }

    fn deliver_to_worker(&mut self, stream: StreamNo, message: Message) -> Verdict {
        let host = self.network.host(stream);
        let place = &mut self.hosts[host];
        if place.stream != Some(stream) || self.network.is_cut(stream) {
            return Ok(());
        }
        let deaf_until = place.frozen_until.max(place.partitioned_until);
        if self.now < deaf_until {
            self.network
                .at(deaf_until, Happening::ToWorker { stream, message });
            return Ok(());
        }
        let Some(worker) = &mut place.worker else {
            return Ok(());
        };
        let done = match &message {
            Message::Start { attempt, since, .. } => self
                .checkpoints
                .get(&attempt.trial.attempt(*since))
                .copied()
                .unwrap_or(0),
            Message::Stop { .. } | Message::Acknowledged { .. } | Message::Drain => 0,
        };
        let searches = self
            .coordinator
            .as_ref()
            .is_some_and(|coordinator| is_searching(&coordinator.state, &message));
        let is_starved = self.now < place.starved_until;
        let wanted = if place.bad {
            Some(FailureClass::Crashed)
        } else {
            place.fail_next
        };
        let (injected, fail_next) = (&mut self.injected, &mut place.fail_next);
        let fate = |trial: TrialId| {
            if is_starved {
                return Some(FailureClass::Node);
            }
            let class = wanted?;
            let spent = injected.entry((trial, class)).or_insert(0);
            // A failed search trial would rightly change the choice.
            let limit = if class == FailureClass::OutOfMemory && searches {
                0
            } else {
                3
            };
            (*spent < limit).then(|| {
                *spent += 1;
                *fail_next = None;
                class
            })
        };
        worker.receive(message, fate, done)
    }

    // -- the coordinator

    fn deliver(&mut self, stream: StreamNo, input: Input) -> Verdict {
        let host = self.network.host(stream);
        if !self.network.arrives(stream, self.now) {
            return Ok(());
        }
        let blocked_until = self.hosts[host].partitioned_until;
        if self.now < blocked_until && !self.network.is_cut(stream) {
            self.network
                .at(blocked_until, Happening::ToCoordinator { stream, input });
            return Ok(());
        }
        let mut inputs = vec![input];
        // Messages at nearly the same time are decided in one turn.
        while let Some((next, input)) = self.network.also_arriving(self.now + 3) {
            if self.network.arrives(next, self.now)
                && self.now >= self.hosts[self.network.host(next)].partitioned_until
            {
                inputs.push(input);
            }
        }
        self.input(inputs)
    }

    pub fn input(&mut self, inputs: Vec<Input>) -> Verdict {
        let Some(coordinator) = &mut self.coordinator else {
            return Ok(());
        };
        if coordinator.fault.is_some() {
            self.while_in_fault(inputs);
            return Ok(());
        }
        let Turn {
            recorded,
            answers,
            effects,
        } = turn(&mut coordinator.state, &self.config, &inputs, self.now);
        self.answers.turns += 1;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{} {inputs:?} {recorded:?} {effects:?}", self.now));
        }
        if let Some(violation) = check(&coordinator.state).first() {
            return Err(format!(
                "invariant {} after {inputs:?}: {}",
                violation.invariant, violation.detail
            ));
        }
        self.judge(&inputs, &answers)?;
        let pauses = recorded
            .iter()
            .filter(|entry| matches!(entry.event, Event::SlotPaused { .. }));
        self.answers.pauses += pauses.count() as u64;
        self.commits += u64::from(!recorded.is_empty());
        if let Some((commit, moment)) = self.kill_at_commit
            && commit == self.commits
        {
            self.kill_at_commit = None;
            self.kill_at = Some((moment, 2_000));
        }
        match self.kill_at.take() {
            Some((Moment::BeforeCommit, down_ms)) => return self.kill_coordinator(down_ms, false),
            Some((_, down_ms)) if !self.disk_full => {
                self.journal.extend(recorded);
                return self.kill_coordinator(down_ms, true);
            }
            later => self.kill_at = later,
        }
        if self.disk_full && !recorded.is_empty() {
            let coordinator = self.coordinator.as_mut().expect("it runs");
            coordinator.fault = Some((recorded, effects));
            return Ok(());
        }
        self.journal.extend(recorded);
        effects.into_iter().for_each(|effect| self.perform(effect));
        self.set_deadline();
        let coordinator = self.coordinator.as_ref().expect("it runs");
        self.check_cluster(&coordinator.state)
    }

    /// Acts as the shell does in a fault: decides nothing, records live state, refuses streams.
    fn while_in_fault(&mut self, inputs: Vec<Input>) {
        for input in inputs {
            match &input {
                Input::Connected {
                    worker, connection, ..
                } => {
                    if let Some(stream) = self.network.find(worker, *connection) {
                        self.network.cut(stream, self.now);
                    }
                }
                Input::Heartbeat { .. } | Input::Disconnected { .. } => {
                    let coordinator = self.coordinator.as_mut().expect("the caller found it");
                    observe(&mut coordinator.state, &input, self.now);
                }
                _ => {}
            }
        }
    }

    fn judge(&mut self, inputs: &[Input], answers: &[Result<Answer, Rejected>]) -> Verdict {
        for (input, answer) in inputs.iter().zip(answers) {
            match answer {
                Err(Rejected::StaleAttempt { .. }) => self.answers.stale_attempts += 1,
                Err(Rejected::UnknownWorker(_)) => self.answers.unknown_workers += 1,
                Err(
                    Rejected::UnknownSweep(_)
                    | Rejected::UnknownPlace(_)
                    | Rejected::HasLeft { .. },
                ) => {}
                Err(Rejected::StaleConnection { .. }) => self.answers.stale_connections += 1,
                Err(
                    rejected @ (Rejected::Internal(_)
                    | Rejected::NoLauncher
                    | Rejected::TooManyWait { .. }
                    | Rejected::StillTrains { .. }
                    | Rejected::Invalid(_)
                    | Rejected::Impostor(_)
                    | Rejected::OtherBuild { .. }),
                ) => {
                    return Err(format!("{input:?} was answered: {rejected}"));
                }
                Ok(_) => {}
            }
        }
        Ok(())
    }

    fn perform(&mut self, effect: Effect) {
        let coordinator = self.coordinator.as_ref().expect("it performs");
        let state = &coordinator.state;
        let (worker, message) = match effect {
            Effect::Start {
                worker,
                slot,
                attempt,
            } => {
                let trial = attempt.trial;
                let devices = state.trials[&trial].devices;
                assert_eq!(state.spec_of(trial).map(|spec| spec.id()), Some(trial));
                let since = state.trials[&trial].since;
                (
                    worker,
                    Message::Start {
                        attempt,
                        slot,
                        since,
                        devices,
                    },
                )
            }
            Effect::Stop {
                worker, attempt, ..
            } => (worker, Message::Stop { attempt }),
            Effect::Acknowledge { worker, attempt } => (worker, Message::Acknowledged { attempt }),
            Effect::Drain { worker, .. } => (worker, Message::Drain),
            Effect::Disconnect { worker, .. } => {
                if let Some(stream) = self.network.newest(&worker) {
                    self.network.cut(stream, self.now);
                }
                return;
            }
            Effect::Launch(request) => return self.launch(request),
        };
        let Some(connection) = state.live.connected.get(&worker) else {
            return;
        };
        if let Some(stream) = self.network.find(&worker, *connection) {
            self.network.send_to_worker(stream, message, self.now);
        }
    }

    fn set_deadline(&mut self) {
        let Some(coordinator) = &mut self.coordinator else {
            return;
        };
        let deadline = next_deadline(&coordinator.state, &self.config, self.now)
            .map(|at| at.max(self.now + 1));
        if deadline != coordinator.deadline {
            coordinator.deadline = deadline;
            if let Some(at) = deadline {
                self.network.at(at, Happening::Deadline { at });
            }
        }
    }

    /// Kills the coordinator. `is_journalled`: the state holds only what the journal has.
    fn kill_coordinator(&mut self, down_ms: u64, is_journalled: bool) -> Verdict {
        let Some(coordinator) = self.coordinator.take() else {
            return Ok(());
        };
        self.answers.coordinator_kills += 1;
        self.network.cut_all(self.now);
        self.network
            .at(self.now + down_ms, Happening::StartCoordinator);
        let replayed = replay(&self.journal).map_err(|impossible| impossible.to_string())?;
        if is_journalled
            && coordinator.fault.is_none()
            && !replayed.same_history(&coordinator.state)
        {
            return Err(
                "replay differs from what was live when the coordinator was killed".to_owned(),
            );
        }
        Ok(())
    }

    fn start_coordinator(&mut self) -> Verdict {
        if self.coordinator.is_some() {
            return Ok(());
        }
        let mut state = replay(&self.journal).map_err(|impossible| impossible.to_string())?;
        restart(&mut state, self.now);
        self.network.new_coordinator();
        self.coordinator = Some(Coordinator {
            state,
            deadline: None,
            fault: None,
        });
        self.set_deadline();
        match self.cluster {
            Some(_) => self.open_queue(),
            None => Ok(()),
        }
    }

    fn disk_free(&mut self) -> Verdict {
        self.disk_full = false;
        let Some(coordinator) = &mut self.coordinator else {
            return Ok(());
        };
        if let Some((recorded, effects)) = coordinator.fault.take() {
            self.journal.extend(recorded);
            effects.into_iter().for_each(|effect| self.perform(effect));
            self.set_deadline();
        }
        Ok(())
    }

    // -- people, after the last fault

    fn tend(&mut self) -> Verdict {
        self.network.at(self.now + 5_000, Happening::Tend);
        self.disk_free()?;
        self.kill_at = None;
        for host in &mut self.hosts {
            (
                host.frozen_until,
                host.partitioned_until,
                host.starved_until,
            ) = (0, 0, 0);
            (host.fail_next, host.bad) = (None, false);
        }
        self.tend_cluster()?;
        while let Some(input) = self
            .coordinator
            .as_ref()
            .and_then(|coordinator| self.to_repair(&coordinator.state))
        {
            self.input(vec![input])?;
        }
        Ok(())
    }

    fn to_repair(&self, state: &State) -> Option<Input> {
        let drained = |host: &schedule::state::HostState| {
            host.drained.is_some() || !host.broken_devices.is_empty()
        };
        if let Some((name, _)) = state.hosts.iter().find(|(_, host)| drained(host)) {
            return Some(Input::Undrain { name: name.clone() });
        }
        let by_script =
            |reason: &Option<String>| reason.as_ref().is_some_and(|reason| reason == "the script");
        let recovered = |id: TrialId| {
            matches!(state.trials[&id].phase, Phase::Failed { .. }) && truth::doom(id).is_none()
        };
        let sweep = state.sweeps.iter().find(|(_, sweep)| {
            !by_script(&sweep.cancelled) && sweep.trials.iter().any(|wanted| recovered(wanted.id))
        });
        sweep.map(|(name, _)| Input::Retry {
            sweep: name.to_string(),
            which: Retry::Failed,
        })
    }
}

fn is_searching(state: &State, message: &Message) -> bool {
    let Message::Start { attempt, .. } = message else {
        return false;
    };
    let wanted = state
        .trials
        .get(&attempt.trial)
        .map_or(&[][..], |trial| &trial.wanted_by);
    wanted
        .iter()
        .any(|(name, index)| state.sweeps[name].trials[*index as usize].role == Role::Search)
}
