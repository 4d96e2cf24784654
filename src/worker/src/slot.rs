//! One slot: runs one attempt after another in a trainer that stays alive between them, and reports
//! each end only when nothing of the attempt is left (promise P5). It never starts or retries an
//! attempt by itself.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use schedule::event::Outcome;
use schedule::state::SlotIndex;
use sweep::handoff::{Progress, Reply, Request, RunRequest};
use sweep::record::{Failure, FailureClass};
use sweep::{AttemptId, AttemptNo, TrialSpec};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::executable;
use crate::launch::Launch;
use crate::options::Timing;
use crate::out_of_memory::OomCounter;
use crate::residue::{self, Residue};
use crate::trainer::{Broken, Exit, Spawner, Trainer};
use crate::work_dir::WorkDir;

#[derive(Debug)]
pub enum Command {
    Run {
        attempt: AttemptId,
        /// The first attempt of the present training.
        since: AttemptNo,
        spec: Box<TrialSpec>,
    },
    Stop {
        attempt: AttemptId,
        why: Why,
    },
    /// Ends everything at once, without checkpoint or report; the slot ends too.
    Kill,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The coordinator's request.
    Unwanted,
    /// The machine is being taken away.
    Preempted(String),
}

#[derive(Debug)]
pub enum Said {
    Progress {
        attempt: AttemptId,
        progress: Progress,
    },
    Ended {
        attempt: AttemptId,
        outcome: Outcome,
    },
}

/// The settings and services that all slots of a worker share.
pub struct Surroundings {
    pub spawner: Spawner,
    pub build: String,
    pub data_dir: PathBuf,
    /// See `Options::allowed_paths`.
    pub allowed_paths: Option<Vec<PathBuf>>,
    pub cache_dir: PathBuf,
    pub work_dir: WorkDir,
    pub timing: Timing,
}

pub struct Slot {
    index: SlotIndex,
    launch: Launch,
    around: Arc<Surroundings>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Said>,
    trainer: Option<Trainer>,
    /// The number of trainers started.
    serial: u64,
    /// Runs that arrived while another one was still ending.
    queued: VecDeque<Queued>,
}

struct Queued {
    attempt: AttemptId,
    since: AttemptNo,
    spec: Box<TrialSpec>,
    /// Set if it was stopped before it started.
    stopped: Option<Why>,
}

enum Started {
    Ready,
    Failed(Failure),
    Stopped(Why),
    Killed,
}

/// The slot must end too.
struct Killed;

impl Slot {
    pub fn new(
        index: SlotIndex,
        launch: Launch,
        around: Arc<Surroundings>,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Said>,
    ) -> Self {
        Self {
            index,
            launch,
            around,
            commands,
            events,
            trainer: None,
            serial: 0,
            queued: VecDeque::new(),
        }
    }

    /// Starts a trainer before the first attempt and checks that it has the worker's build.
    pub async fn prove_trainer(&mut self) -> Result<(), Failure> {
        match self.start_trainer(None).await {
            Started::Ready => Ok(()),
            Started::Failed(failure) => Err(failure),
            Started::Stopped(_) | Started::Killed => Err(Failure::new(
                FailureClass::Crashed,
                "stopped while the trainer started".to_owned(),
            )),
        }
    }

    /// Runs until the commands end or `Kill` arrives. No process of the slot is left then.
    pub async fn run(mut self) {
        while let Some(run) = self.next_run().await {
            let outcome = match run.stopped {
                Some(why) => why.outcome(),
                None => match self.attempt(run.attempt, run.since, run.spec).await {
                    Ok(outcome) => outcome,
                    Err(Killed) => break,
                },
            };
            if self
                .events
                .send(Said::Ended {
                    attempt: run.attempt,
                    outcome,
                })
                .await
                .is_err()
            {
                break;
            }
        }
        if let Some(trainer) = self.trainer.take() {
            self.end_unheard(trainer, self.around.timing.terminate)
                .await;
        }
    }

    async fn next_run(&mut self) -> Option<Queued> {
        if let Some(run) = self.queued.pop_front() {
            return Some(run);
        }
        loop {
            match self.commands.recv().await? {
                Command::Run {
                    attempt,
                    since,
                    spec,
                } => {
                    return Some(Queued {
                        attempt,
                        since,
                        spec,
                        stopped: None,
                    });
                }
                // the command crossed the end of the attempt
                Command::Stop { .. } => {}
                Command::Kill => return None,
            }
        }
    }

    async fn start_trainer(&mut self, current: Option<AttemptId>) -> Started {
        self.serial += 1;
        let path = self.launch.program.display().to_string();
        if let Err(reason) = executable::check(&self.launch.program, &self.launch.trainer) {
            return Started::Failed(Failure::new(FailureClass::Node, reason));
        }
        let oom = OomCounter::read();
        let started = Trainer::start(&self.around.spawner, &self.launch, self.serial).await;
        let mut trainer = match started {
            Ok(trainer) => trainer,
            Err(error) => {
                return not_started(format!("cannot start the trainer `{path}`: {error}"));
            }
        };
        let deadline = Instant::now() + self.around.timing.trainer_start;
        let greeting = loop {
            tokio::select! {
                greeting = trainer.ready() => break Some(greeting),
                () = sleep_until(deadline) => break None,
                command = self.commands.recv() => match command.map(|command| self.note(command, current)) {
                    Some(Noted::Nothing) => {}
                    Some(Noted::Stop(why)) => {
                        let failure = self.put_away(trainer, "it was told to stop while its trainer started").await;
                        return failure.map_or(Started::Stopped(why), Started::Failed);
                    }
                    Some(Noted::Kill) | None => {
                        self.end_unheard(trainer, Duration::ZERO).await;
                        return Started::Killed;
                    }
                },
            }
        };
        let problem = match greeting {
            Some(Ok(ready)) if ready.build == self.around.build => {
                tracing::debug!(slot = self.index, devices = ?ready.devices, libtorch = ready.libtorch, "trainer ready");
                self.trainer = Some(trainer);
                return Started::Ready;
            }
            Some(Ok(ready)) => format!(
                "the trainer `{path}` is of build `{}`, this worker of `{}`: use those of one build",
                ready.build, self.around.build
            ),
            Some(Err(broken)) => {
                let failure = self
                    .post_mortem(trainer, broken, "before it was ready")
                    .await;
                return Started::Failed(before_any_trial(oom.explain(failure)));
            }
            None => {
                let seconds = self.around.timing.trainer_start.as_secs_f64();
                format!("the trainer `{path}` was not ready after {seconds} s")
            }
        };
        Started::Failed(
            self.ended(trainer, Failure::new(FailureClass::Node, problem))
                .await,
        )
    }

    async fn attempt(
        &mut self,
        attempt: AttemptId,
        since: AttemptNo,
        spec: Box<TrialSpec>,
    ) -> Result<Outcome, Killed> {
        match self.have_trainer(attempt).await {
            Started::Ready => {}
            Started::Failed(failure) => return Ok(Outcome::Failed(failure)),
            Started::Stopped(why) => return Ok(why.outcome()),
            Started::Killed => return Err(Killed),
        }
        let Some(mut trainer) = self.trainer.take() else {
            return Err(Killed);
        };
        let oom = OomCounter::read();
        trainer
            .stderr
            .attempt(self.around.work_dir.log_file(attempt));
        let run = Request::Run(Box::new(RunRequest {
            trial: attempt.trial,
            attempt: attempt.number,
            since,
            spec: *spec,
            data_dir: self.around.data_dir.clone(),
            allowed_paths: self.around.allowed_paths.clone(),
            cache_dir: self.around.cache_dir.clone(),
            checkpoint_dir: self.around.work_dir.checkpoint_dir(attempt.trial),
        }));
        let end = match trainer.send(&run).await {
            Ok(()) => self.converse(&mut trainer, attempt).await,
            Err(broken) => End::Broken(broken),
        };
        Ok(match end {
            End::Finished(outcome) => {
                self.trainer = Some(trainer);
                outcome
            }
            End::Failed(failure) => Outcome::Failed(self.ended(trainer, failure).await),
            End::Broken(broken) => Outcome::Failed(
                oom.explain(self.post_mortem(trainer, broken, "while it trained").await),
            ),
            End::TooSlowToStop(why) => {
                let failure = self
                    .put_away(trainer, "it was told to stop and did not")
                    .await;
                failure.map_or_else(|| why.outcome(), Outcome::Failed)
            }
            End::Killed => {
                self.end_unheard(trainer, Duration::ZERO).await;
                return Err(Killed);
            }
        })
    }

    /// Ensures that there is a trainer: after `Ready` it lives in `self.trainer`.
    async fn have_trainer(&mut self, attempt: AttemptId) -> Started {
        if let Some(mut idle) = self.trainer.take() {
            if idle.is_quiet() {
                self.trainer = Some(idle);
                return Started::Ready;
            }
            tracing::warn!(
                slot = self.index,
                "the idle trainer ended by itself; starting another"
            );
            if let Some(failure) = self
                .put_away(idle, "it had not begun; the idle trainer ended by itself")
                .await
            {
                return Started::Failed(failure);
            }
        }
        self.start_trainer(Some(attempt)).await
    }

    /// Runs the attempt from `Run` to whatever ends it.
    async fn converse(&mut self, trainer: &mut Trainer, attempt: AttemptId) -> End {
        let mut stopping: Option<(Why, Instant)> = None;
        loop {
            let deadline = stopping.as_ref().map(|(_, deadline)| *deadline);
            tokio::select! {
                reply = trainer.reply() => match reply {
                    Ok(Reply::Progress(progress)) => {
                        if self.events.send(Said::Progress { attempt, progress }).await.is_err() {
                            return End::Killed;
                        }
                    }
                    Ok(Reply::Finished(mut result)) => {
                        let devices = &mut result.provenance.devices;
                        devices.iter_mut().for_each(|device| *device = self.launch.named(device));
                        return End::Finished(Outcome::Finished(result));
                    }
                    Ok(Reply::Failed(mut failure)) => {
                        failure.message = self.launch.named(&failure.message);
                        failure.devices.iter_mut().for_each(|device| *device = self.launch.named(device));
                        return End::Failed(failure);
                    }
                    Ok(Reply::Stopped) => match stopping {
                        Some((why, _)) => return End::Finished(why.outcome()),
                        None => return End::Broken(Broken::Garbage("it stopped without being told to".into())),
                    },
                    Ok(Reply::Ready(_)) => return End::Broken(Broken::Garbage("it said Ready twice".into())),
                    Err(broken) => return End::Broken(broken),
                },
                command = self.commands.recv() => match command.map(|command| self.note(command, Some(attempt))) {
                    Some(Noted::Nothing) => {}
                    Some(Noted::Stop(why)) if stopping.is_none() => {
                        if let Err(broken) = trainer.send(&Request::Stop).await {
                            return End::Broken(broken);
                        }
                        stopping = Some((why, Instant::now() + self.around.timing.checkpoint));
                    }
                    Some(Noted::Stop(_)) => {}
                    Some(Noted::Kill) | None => return End::Killed,
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    if let Some((why, _)) = stopping {
                        return End::TooSlowToStop(why);
                    }
                }
            }
        }
    }

    /// Interprets a command while the attempt `current` runs.
    fn note(&mut self, command: Command, current: Option<AttemptId>) -> Noted {
        match command {
            Command::Run {
                attempt,
                since,
                spec,
            } => {
                self.queued.push_back(Queued {
                    attempt,
                    since,
                    spec,
                    stopped: None,
                });
                Noted::Nothing
            }
            Command::Stop { attempt, why } if Some(attempt) == current => Noted::Stop(why),
            Command::Stop { attempt, why } => {
                let queued = self.queued.iter_mut().find(|run| run.attempt == attempt);
                if let Some(run) = queued.filter(|run| run.stopped.is_none()) {
                    run.stopped = Some(why);
                }
                Noted::Nothing
            }
            Command::Kill => Noted::Kill,
        }
    }

    /// Ends a trainer that stopped responding and returns the reason.
    async fn post_mortem(&self, trainer: Trainer, broken: Broken, when: &str) -> Failure {
        let timing = &self.around.timing;
        let alone = match broken {
            Broken::Closed | Broken::Unreachable(_) => timing.terminate,
            Broken::Garbage(_) => Duration::ZERO,
        };
        let (exit, tail) = self.end_and_read(trainer, alone, timing.terminate).await;
        let failure = match broken {
            Broken::Closed if exit.lacks_a_device() => self.absent_device().await,
            Broken::Closed => {
                let how = format!("{}{}", exit.describe(), hint(&exit));
                Failure::new(
                    FailureClass::Crashed,
                    format!("the trainer ended {when} with {how}"),
                )
            }
            Broken::Garbage(_) | Broken::Unreachable(_) => {
                Failure::new(FailureClass::Crashed, format!("{broken}, {when}"))
            }
        };
        self.told(failure, exit, &tail)
    }

    /// The failure for a missing device. The driver knows which one: a trainer sees the GPUs up to
    /// the first missing one.
    async fn absent_device(&self) -> Failure {
        let slot = &self.launch.slot;
        let absent = residue::absent(&self.launch.driver, &slot.uuids).await;
        let devices = self.launch.names_of(&absent);
        // the name may belong to another GPU by now
        let known: Vec<String> = devices
            .iter()
            .zip(&absent)
            .map(|(name, uuid)| format!("{name} ({uuid})"))
            .collect();
        let message = match known.is_empty() {
            true => format!(
                "the trainer does not find the devices of its slot ({})",
                slot.devices.join(", ")
            ),
            false => format!("{}: not there any more", known.join(", ")),
        };
        Failure {
            devices,
            ..Failure::new(FailureClass::BadDevice, message)
        }
    }

    /// Ends a trainer that has failed.
    async fn ended(&self, trainer: Trainer, failure: Failure) -> Failure {
        let (exit, tail) = self
            .end_and_read(trainer, Duration::ZERO, self.around.timing.terminate)
            .await;
        self.told(failure, exit, &tail)
    }

    /// Ends a trainer that is not at fault. Returns a failure, with `why` for the user, if the
    /// trainer leaves something behind.
    async fn put_away(&self, trainer: Trainer, why: &str) -> Option<Failure> {
        let (exit, tail) = self
            .end_and_read(trainer, Duration::ZERO, self.around.timing.terminate)
            .await;
        let failure = Failure::new(FailureClass::Crashed, why.to_owned());
        exit.residue
            .is_some()
            .then(|| self.told(failure, exit, &tail))
    }

    /// Ends a trainer whose slot ends with it: no one receives a report about a residue.
    async fn end_unheard(&self, trainer: Trainer, grace: Duration) {
        if let Some(Residue { reason, .. }) = trainer.end(Duration::ZERO, grace).await.residue {
            tracing::warn!(
                slot = self.index,
                reason,
                "the trainer may have left something on its GPUs"
            );
        }
    }

    async fn end_and_read(
        &self,
        trainer: Trainer,
        alone: Duration,
        grace: Duration,
    ) -> (Exit, String) {
        let tail = trainer.stderr.tail();
        let exit = trainer.end(alone, grace).await;
        (exit, self.launch.named(&tail.text()))
    }

    /// Adds the exit of the process to a failure: if something is left on a GPU, the slot is
    /// broken.
    fn told(&self, failure: Failure, exit: Exit, tail: &str) -> Failure {
        let Some(Residue { reason, uuids }) = exit.residue else {
            return Failure {
                message: with_tail(failure.message, tail),
                ..failure
            };
        };
        let mut devices = self.launch.names_of(&uuids);
        // if the GPUs with a residue are not known, all devices of the slot are suspect
        if !devices.is_empty() {
            devices.extend(failure.devices);
        }
        let message = with_tail(
            format!("{reason}; the attempt itself: {}", failure.message),
            tail,
        );
        Failure {
            devices,
            ..Failure::new(FailureClass::BadDevice, message)
        }
    }
}

fn not_started(message: String) -> Started {
    Started::Failed(Failure::new(FailureClass::Node, message))
}

/// The failure when no trial was running, so that none is blamed; a missing or broken device stays
/// a device failure.
fn before_any_trial(failure: Failure) -> Failure {
    let class = if failure.class == FailureClass::BadDevice {
        failure.class
    } else {
        FailureClass::Node
    };
    Failure { class, ..failure }
}

fn with_tail(message: String, tail: &str) -> String {
    if tail.is_empty() {
        message
    } else {
        format!("{message}\nstderr:\n{tail}")
    }
}

fn hint(exit: &Exit) -> &'static str {
    if exit.was_killed() {
        " (sent from outside, or by the kernel for want of memory)"
    } else {
        ""
    }
}

enum End {
    /// The trainer stays alive.
    Finished(Outcome),
    Failed(Failure),
    Broken(Broken),
    TooSlowToStop(Why),
    Killed,
}

enum Noted {
    Nothing,
    Stop(Why),
    Kill,
}

impl Why {
    fn outcome(self) -> Outcome {
        match self {
            Self::Unwanted => Outcome::Stopped,
            Self::Preempted(reason) => Outcome::Failed(Failure::new(
                FailureClass::Preempted,
                format!("the worker leaves: {reason}"),
            )),
        }
    }
}
