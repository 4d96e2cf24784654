//! One slot: runs one attempt after another in a trainer that stays alive between them, and reports
//! each end only when nothing of the attempt is left (promise P5). It never starts or retries an
//! attempt by itself.

mod program;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use schedule::event::Outcome;
use schedule::state::SlotIndex;
use sweep::handoff::{PROTOCOL, Progress, Ready, Reply, Request, RunRequest};
use sweep::keep::Keep;
use sweep::record::{Failure, FailureClass};
use sweep::{AttemptId, AttemptNo, TrialSpec};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::executable;
use crate::gpu_release::{self, NotReleased};
use crate::launch::Launch;
use crate::out_of_memory::OomCounter;
use crate::programs::Programs;
use crate::start::Timing;
use crate::trainer::{Exit, Spawner, Trainer, TrainerError};
use crate::uploads::Uploads;
use crate::work_dir::WorkDir;

#[derive(Debug)]
pub enum Command {
    Run(Run),
    Stop {
        attempt: AttemptId,
        reason: StopReason,
    },
    /// Ends everything at once, without checkpoint or report; the slot ends too.
    Kill,
}

/// An attempt to run.
#[derive(Debug)]
pub struct Run {
    pub attempt: AttemptId,
    /// The first attempt of the present training.
    pub since: AttemptNo,
    pub spec: Box<TrialSpec>,
    pub keep: Keep,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The coordinator's request.
    Unwanted,
    /// The machine is being taken away.
    Preempted(String),
}

impl StopReason {
    /// Returns the outcome of an attempt that was stopped for this reason.
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

#[derive(Debug)]
pub enum SlotEvent {
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
pub struct SlotContext {
    pub spawner: Spawner,
    pub build: String,
    pub data_dir: PathBuf,
    /// See `Options::allowed_paths`.
    pub allowed_paths: Option<Vec<PathBuf>>,
    pub cache_dir: PathBuf,
    pub work_dir: WorkDir,
    pub timing: Timing,
    pub uploads: Uploads,
    pub programs: Programs,
}

pub struct Slot {
    index: SlotIndex,
    launch: Launch,
    /// The launch of the worker's own trainer, while that of a sweep's program is in use.
    own: Option<Launch>,
    /// Hash of the libraries of the program in use; empty: none is recorded.
    libraries: String,
    context: Arc<SlotContext>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<SlotEvent>,
    /// The trainer while no attempt runs.
    idle_trainer: Option<Trainer>,
    /// The number of trainers started.
    serial: u64,
    /// Runs that arrived while another one was still ending, and why one was stopped before it
    /// started.
    queued: VecDeque<(Run, Option<StopReason>)>,
}

/// The end of an attempt.
enum End {
    /// Nothing of the attempt is left.
    Outcome(Outcome),
    /// The slot must end too.
    Killed,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Outcome(Outcome::Failed(failure))
    }
}

/// The end of a conversation with a trainer that kept to the hand-off.
enum Conversation {
    /// The trainer is ready for the next attempt.
    Finished(Outcome),
    /// The trainer must be ended.
    Failed(Failure),
    /// The trainer did not answer a stop in time.
    StopTimedOut(StopReason),
    Killed,
}

/// The end of a trainer that was not asked to end.
struct Death {
    failure: Failure,
    /// A signal from outside ended it, and nothing shows that it was at fault.
    was_sent_a_signal: bool,
}

/// A command that ends the current attempt.
enum Interrupt {
    Stop(StopReason),
    Kill,
}

impl Slot {
    pub fn new(
        index: SlotIndex,
        launch: Launch,
        context: Arc<SlotContext>,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<SlotEvent>,
    ) -> Self {
        Self {
            index,
            launch,
            own: None,
            libraries: String::new(),
            context,
            commands,
            events,
            idle_trainer: None,
            serial: 0,
            queued: VecDeque::new(),
        }
    }

    /// Starts a trainer before the first attempt and checks that it has the worker's build.
    pub async fn check_trainer(&mut self) -> Result<(), Failure> {
        match self.start_trainer(None).await {
            Ok(trainer) => {
                self.idle_trainer = Some(trainer);
                Ok(())
            }
            Err(End::Outcome(Outcome::Failed(failure))) => Err(failure),
            Err(End::Outcome(Outcome::Finished(_) | Outcome::Stopped) | End::Killed) => {
                Err(Failure::new(
                    FailureClass::Crashed,
                    "stopped while the trainer started".to_owned(),
                ))
            }
        }
    }

    /// Runs until the commands end or `Kill` arrives. No process of the slot is left then.
    pub async fn run(mut self) {
        while let Some((run, stopped)) = self.next_run().await {
            let attempt = run.attempt;
            let outcome = match stopped {
                Some(reason) => reason.outcome(),
                None => match self.attempt(run).await {
                    End::Outcome(outcome) => outcome,
                    End::Killed => break,
                },
            };
            let ended = SlotEvent::Ended { attempt, outcome };
            if self.events.send(ended).await.is_err() {
                break;
            }
        }
        if let Some(trainer) = self.idle_trainer.take() {
            self.end_unreported(trainer, self.context.timing.exit).await;
        }
    }

    async fn next_run(&mut self) -> Option<(Run, Option<StopReason>)> {
        if let Some(run) = self.queued.pop_front() {
            return Some(run);
        }
        loop {
            match self.commands.recv().await? {
                Command::Run(run) => return Some((run, None)),
                // the command crossed the end of the attempt
                Command::Stop { .. } => {}
                Command::Kill => return None,
            }
        }
    }

    async fn attempt(&mut self, run: Run) -> End {
        let attempt = run.attempt;
        if let Err(end) = self.use_program(attempt, &run.spec.trainer).await {
            return end;
        }
        let mut trainer = match self.take_trainer(attempt).await {
            Ok(trainer) => trainer,
            Err(end) => return end,
        };
        let oom = OomCounter::read();
        let work_dir = &self.context.work_dir;
        trainer.stderr.attempt(work_dir.log_file(attempt));
        let request = RunRequest {
            attempt,
            since: run.since,
            num_epochs: run.spec.num_epochs(),
            spec: *run.spec,
            data_dir: self.context.data_dir.clone(),
            allowed_paths: self.context.allowed_paths.clone(),
            cache_dir: self.context.cache_dir.clone(),
            keep: run.keep.clone(),
            checkpoint_dir: work_dir.checkpoint_dir(attempt.trial),
        };
        let mut stopping = None;
        let conversation = self.converse(&mut trainer, attempt, request, &mut stopping);
        match conversation.await {
            Ok(Conversation::Finished(outcome)) => {
                self.idle_trainer = Some(trainer);
                match outcome {
                    Outcome::Finished(_) => self.finished(attempt, &run.keep, outcome).await,
                    outcome => End::Outcome(outcome),
                }
            }
            Ok(Conversation::Failed(failure)) => self.end_failed(trainer, failure).await.into(),
            Ok(Conversation::StopTimedOut(reason)) => {
                self.end_stopped(trainer, reason, "it did not stop in time")
                    .await
            }
            Ok(Conversation::Killed) => {
                self.end_unreported(trainer, Duration::ZERO).await;
                End::Killed
            }
            Err(error) => {
                let death = self
                    .end_broken(trainer, error, "while it trained", &oom)
                    .await;
                let stopping = stopping.map(|(reason, _)| reason);
                self.end_after(death, stopping, Some(attempt)).await
            }
        }
    }

    /// Sends the files that are kept of a finished attempt. A request to stop ends the sending, not the
    /// result.
    async fn finished(&mut self, attempt: AttemptId, keep: &Keep, outcome: Outcome) -> End {
        let context = self.context.clone();
        let folder = context.work_dir.checkpoint_dir(attempt.trial);
        for kept in keep {
            let Some(name) = kept.file_of_attempt(attempt.number) else {
                continue;
            };
            let path = folder.join(name);
            tokio::select! {
                () = context.uploads.send(attempt, *kept, &path) => {}
                interrupt = self.interrupt(Some(attempt)) => match interrupt {
                    Interrupt::Stop(_) => break,
                    Interrupt::Kill => return End::Killed,
                },
            }
        }
        End::Outcome(outcome)
    }

    /// Returns the idle trainer if it is still alive, and otherwise a new one.
    async fn take_trainer(&mut self, attempt: AttemptId) -> Result<Trainer, End> {
        if let Some(mut idle) = self.idle_trainer.take() {
            if idle.is_quiet() {
                return Ok(idle);
            }
            tracing::warn!(
                slot = self.index,
                "the idle trainer ended by itself; starting another"
            );
            let what_happened = "it had not begun; the idle trainer ended by itself";
            if let Some(failure) = self.end_healthy(idle, what_happened).await {
                return Err(failure.into());
            }
        }
        self.start_trainer(Some(attempt)).await
    }

    async fn start_trainer(&mut self, current: Option<AttemptId>) -> Result<Trainer, End> {
        let class = self.class_of_start();
        let node_failure = |message| Failure::new(class, message);
        self.serial += 1;
        let path = self.launch.program.display().to_string();
        executable::check(&self.launch.program, &self.launch.trainer).map_err(node_failure)?;
        let oom = OomCounter::read();
        let mut trainer = Trainer::start(&self.context.spawner, &self.launch, self.serial)
            .await
            .map_err(|error| node_failure(format!("cannot start the trainer `{path}`: {error}")))?;
        let deadline = Instant::now() + self.context.timing.trainer_start;
        let greeting = tokio::select! {
            greeting = trainer.ready() => Some(greeting),
            () = sleep_until(deadline) => None,
            interrupt = self.interrupt(current) => return Err(match interrupt {
                Interrupt::Stop(reason) => {
                    self.end_stopped(trainer, reason, "it was stopped while its trainer started").await
                }
                Interrupt::Kill => {
                    self.end_unreported(trainer, Duration::ZERO).await;
                    End::Killed
                }
            }),
        };
        let problem = match greeting {
            Some(Ok(ready)) => match mismatch(&ready, &self.launch.trainer, &self.context.build) {
                None => {
                    tracing::debug!(slot = self.index, devices = ?ready.devices, libtorch = ready.libtorch, "trainer ready");
                    return Ok(trainer);
                }
                Some(problem) => format!("the trainer `{path}` {problem}"),
            },
            Some(Err(error)) => {
                let mut death = self
                    .end_broken(trainer, error, "before it was ready", &oom)
                    .await;
                death.failure = before_any_trial(death.failure, class);
                return Err(self.end_after(death, None, current).await);
            }
            None => {
                let seconds = self.context.timing.trainer_start.as_secs_f64();
                format!("the trainer `{path}` was not ready after {seconds} s")
            }
        };
        Err(self.end_failed(trainer, node_failure(problem)).await.into())
    }

    /// Sends the request and runs the attempt to whatever ends it. The error is a trainer that
    /// ended or broke the hand-off; `stopping` then has the stop that it was sent.
    async fn converse(
        &mut self,
        trainer: &mut Trainer,
        attempt: AttemptId,
        request: RunRequest,
        stopping: &mut Option<(StopReason, Instant)>,
    ) -> Result<Conversation, TrainerError> {
        trainer.send(&Request::Run(Box::new(request))).await?;
        loop {
            let deadline = stopping.as_ref().map(|(_, deadline)| *deadline);
            tokio::select! {
                reply = trainer.reply() => match reply? {
                    Reply::Progress(progress) => {
                        if self.events.send(SlotEvent::Progress { attempt, progress }).await.is_err() {
                            return Ok(Conversation::Killed);
                        }
                    }
                    Reply::Finished(mut result) => {
                        for device in &mut result.provenance.devices {
                            *device = self.launch.with_machine_names(device);
                        }
                        result.provenance.environment.clone_from(&self.libraries);
                        return Ok(Conversation::Finished(Outcome::Finished(result)));
                    }
                    Reply::Failed(mut failure) => {
                        for text in failure.devices.iter_mut().chain([&mut failure.message]) {
                            *text = self.launch.with_machine_names(text);
                        }
                        return Ok(Conversation::Failed(failure));
                    }
                    Reply::Stopped => match stopping.take() {
                        Some((reason, _)) => return Ok(Conversation::Finished(reason.outcome())),
                        None => return Err(TrainerError::Violation("it stopped without a request".into())),
                    },
                    Reply::Ready(_) => return Err(TrainerError::Violation("it sent Ready twice".into())),
                },
                interrupt = self.interrupt(Some(attempt)) => match interrupt {
                    Interrupt::Stop(reason) if stopping.is_none() => {
                        let deadline = Instant::now() + self.context.timing.checkpoint;
                        *stopping = Some((reason, deadline));
                        trainer.send(&Request::Stop).await?;
                    }
                    Interrupt::Stop(_) => {}
                    Interrupt::Kill => return Ok(Conversation::Killed),
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    if let Some((reason, _)) = stopping.take() {
                        return Ok(Conversation::StopTimedOut(reason));
                    }
                }
            }
        }
    }

    /// Waits for a command that ends the attempt `current`. Commands about other attempts are
    /// carried out meanwhile. Safe to cancel.
    async fn interrupt(&mut self, current: Option<AttemptId>) -> Interrupt {
        loop {
            match self.commands.recv().await {
                Some(Command::Run(run)) => self.queued.push_back((run, None)),
                Some(Command::Stop { attempt, reason }) if Some(attempt) == current => {
                    return Interrupt::Stop(reason);
                }
                Some(Command::Stop { attempt, reason }) => {
                    let mut queued = self.queued.iter_mut();
                    if let Some((_, stopped)) = queued.find(|(run, _)| run.attempt == attempt) {
                        stopped.get_or_insert(reason);
                    }
                }
                Some(Command::Kill) | None => return Interrupt::Kill,
            }
        }
    }

    /// Returns the end of an attempt whose trainer has died. A signal to every process of a job
    /// reaches the trainer a moment before its worker is asked to leave: then the attempt was
    /// preempted.
    async fn end_after(
        &mut self,
        death: Death,
        stopping: Option<StopReason>,
        current: Option<AttemptId>,
    ) -> End {
        if !death.was_sent_a_signal || current.is_none() {
            return death.failure.into();
        }
        if let Some(reason) = stopping {
            return End::Outcome(reason.outcome());
        }
        tokio::select! {
            () = sleep(self.context.timing.signal_before_request) => death.failure.into(),
            interrupt = self.interrupt(current) => match interrupt {
                Interrupt::Stop(reason) => End::Outcome(reason.outcome()),
                Interrupt::Kill => End::Killed,
            },
        }
    }

    /// Ends a trainer that stopped responding and finds the reason.
    async fn end_broken(
        &self,
        trainer: Trainer,
        error: TrainerError,
        when: &str,
        oom: &OomCounter,
    ) -> Death {
        let (exit, tail) = self.end_and_read(trainer).await;
        let was_sent_a_signal =
            !matches!(error, TrainerError::Violation(_)) && exit.was_sent_a_signal();
        let failure = match error {
            TrainerError::Closed if exit.lacks_a_device() => self.missing_device().await,
            TrainerError::Closed => {
                let how = format!("{}{}", exit.describe(), hint(&exit));
                Failure::new(
                    FailureClass::Crashed,
                    format!("the trainer ended {when} with {how}"),
                )
            }
            TrainerError::Violation(_) | TrainerError::Unreachable(_) => {
                Failure::new(FailureClass::Crashed, format!("{error}, {when}"))
            }
        };
        let failure = oom.explain(self.with_exit(failure, exit, &tail));
        Death {
            // want of memory and a GPU that stays occupied have their own explanations
            was_sent_a_signal: was_sent_a_signal && failure.class == FailureClass::Crashed,
            failure,
        }
    }

    /// The failure for a missing device. The driver knows which one: a trainer sees the GPUs up to
    /// the first missing one.
    async fn missing_device(&self) -> Failure {
        let slot = &self.launch.slot;
        let missing = gpu_release::missing_gpus(&self.launch.driver, &slot.uuids).await;
        let devices = self.launch.names_of(&missing);
        // the name may belong to another GPU by now
        let known: Vec<String> = devices
            .iter()
            .zip(&missing)
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
    async fn end_failed(&self, trainer: Trainer, failure: Failure) -> Failure {
        let (exit, tail) = self.end_and_read(trainer).await;
        self.with_exit(failure, exit, &tail)
    }

    /// Ends a trainer that is not at fault. Returns a failure if the trainer still holds a GPU;
    /// `what_happened` to the attempt is part of its message.
    async fn end_healthy(&self, trainer: Trainer, what_happened: &str) -> Option<Failure> {
        let (exit, tail) = self.end_and_read(trainer).await;
        let failure = Failure::new(FailureClass::Crashed, what_happened.to_owned());
        exit.not_released
            .is_some()
            .then(|| self.with_exit(failure, exit, &tail))
    }

    /// Ends the trainer of a stopped attempt.
    async fn end_stopped(&self, trainer: Trainer, reason: StopReason, what_happened: &str) -> End {
        match self.end_healthy(trainer, what_happened).await {
            Some(failure) => failure.into(),
            None => End::Outcome(reason.outcome()),
        }
    }

    /// Ends a trainer whose slot ends with it: no one receives a report about GPUs that it holds.
    async fn end_unreported(&self, trainer: Trainer, patience: Duration) {
        let exit = trainer.end(patience).await;
        if let Some(NotReleased { reason, .. }) = exit.not_released {
            tracing::warn!(
                slot = self.index,
                reason,
                "the trainer may still hold memory of its GPUs"
            );
        }
    }

    async fn end_and_read(&self, trainer: Trainer) -> (Exit, String) {
        let tail = trainer.stderr.tail();
        let exit = trainer.end(self.context.timing.exit).await;
        (exit, self.launch.with_machine_names(&tail.text()))
    }

    /// Adds the exit of the process to a failure: if it still holds a GPU, the slot is broken.
    fn with_exit(&self, failure: Failure, exit: Exit, tail: &str) -> Failure {
        let Some(NotReleased { reason, uuids }) = exit.not_released else {
            return Failure {
                message: with_tail(failure.message, tail),
                ..failure
            };
        };
        let mut devices = self.launch.names_of(&uuids);
        // if it is not known which GPUs are held, all devices of the slot are suspected
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

/// Returns the reason why a trainer that is ready does not fit a worker of this build, as a predicate.
/// Another program is identified by its file, and its builds are its own.
fn mismatch(ready: &Ready, trainer: &sweep::Trainer, build: &str) -> Option<String> {
    if ready.protocol != PROTOCOL {
        return Some(format!(
            "uses version {} of the trainer protocol, and this worker has version {PROTOCOL}: \
             use a trainer for version {PROTOCOL} (docs/trainer-protocol.md)",
            ready.protocol
        ));
    }
    let is_other_build = trainer.is_built_in() && ready.build != build;
    is_other_build.then(|| {
        format!(
            "is of build `{}`, this worker of `{build}`: use those of one build",
            ready.build
        )
    })
}

/// The failure when no trial was running, so that none is blamed; a missing or broken device stays
/// a device failure.
fn before_any_trial(failure: Failure, class: FailureClass) -> Failure {
    let class = match failure.class {
        FailureClass::BadDevice => failure.class,
        _ => class,
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
        " (sent from outside, or by the kernel because memory ran out)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_program_has_builds_of_its_own() {
        let ready = |protocol| Ready {
            protocol,
            build: "mine 1".to_owned(),
            libtorch: String::new(),
            devices: Vec::new(),
        };
        let program = sweep::Program {
            name: "mine.sh".to_owned(),
            hash: String::new(),
        };
        let (built_in, foreign) = (
            sweep::Trainer::BuiltIn,
            sweep::Trainer::Foreign(program.into()),
        );
        assert_eq!(mismatch(&ready(PROTOCOL), &foreign, "test"), None);
        assert!(mismatch(&ready(PROTOCOL), &built_in, "test").is_some());
        assert!(mismatch(&ready(PROTOCOL + 1), &foreign, "test").is_some());
    }
}
