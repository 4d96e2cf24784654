//! The conversation with a trainer under examination: what it sends is checked as it arrives, and
//! whatever ends it becomes a problem with a remedy.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use schedule::state::Slot;
use serde_json::{Value, json};
use sweep::handoff::{PROTOCOL, Progress, Reply, Request, RunRequest};
use sweep::record::{Failure, TrialResult};
use sweep::settings::Schedule;
use sweep::{AttemptNo, TrialSpec};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Answer, Driver, Problem, Running};
use crate::gpu_release::NvidiaSmi;
use crate::launch::Launch;
use crate::trainer::{Trainer, TrainerError};

const STDOUT_REMEDY: &str = "send nothing but frames on stdout (a u32 length, little-endian, then JSON), and print to stderr: \
     in Python, `import orchestrator` before anything that prints";

impl Driver {
    /// Starts the program and waits until it is ready.
    pub(super) async fn start(&mut self) -> Result<Running, Problem> {
        self.serial += 1;
        let launch = Launch {
            program: self.options.program.clone(),
            arguments: self.options.arguments.clone(),
            trainer: sweep::Trainer::BuiltIn,
            libraries: None,
            slot: Slot {
                devices: vec!["cpu".to_owned()],
                uuids: Vec::new(),
                description: String::new(),
            },
            threads: 1,
            memory_share: 1.0,
            directory: None,
            variables: Vec::new(),
            mark: format!("check-{}", std::process::id()),
            driver: Arc::new(NvidiaSmi),
        };
        let started = Trainer::start(&self.spawner, &launch, self.serial).await;
        let mut trainer = started.map_err(|error| {
            problem(
                format!("it cannot be started: {error}"),
                "make the file executable, with the interpreter in its first line (`#!/usr/bin/env python3`)",
            )
        })?;
        let log = self.options.folder.join(format!("log-{}", self.serial));
        trainer.stderr.attempt(log);
        let ready = match timeout(self.options.patience, trainer.ready()).await {
            Ok(Ok(ready)) => ready,
            Ok(Err(error)) => {
                return Err(self.broken(trainer, error, "before it was ready").await);
            }
            Err(_) => {
                let (_, tail) = self.end_and_read(trainer).await;
                let seconds = self.options.patience.as_secs();
                return Err(problem(
                    format!("it did not send `ready` within {seconds} s{tail}"),
                    "send `ready` first, before data are read and models are made",
                ));
            }
        };
        if ready.protocol != PROTOCOL {
            self.finish(Some(trainer)).await;
            return Err(problem(
                format!(
                    "it uses version {} of the protocol, and this build has {PROTOCOL}",
                    ready.protocol
                ),
                "name the version that `ORCHESTRATOR_PROTOCOL` offers, if the trainer knows it",
            ));
        }
        Ok(Some(trainer))
    }

    /// Ends a trainer that is not needed any more. How long it may take is another case.
    pub(super) async fn finish(&self, running: Running) {
        if let Some(trainer) = running {
            let _ = trainer.end(FINISH).await;
        }
    }

    /// Returns the request to run a trial, with a folder of checkpoints below the driver's.
    pub(super) fn request(&self, seed: u64, num_epochs: u32, attempt: u32, folder: &str) -> Value {
        let mut settings = self.options.settings.clone();
        settings.weights = None;
        settings.schedule = Schedule::Constant { epochs: num_epochs };
        let spec = TrialSpec::new(settings, seed);
        let request = RunRequest {
            attempt: spec.id().attempt(AttemptNo(attempt)),
            since: AttemptNo::first(),
            num_epochs,
            spec,
            data_dir: self.options.data_dir.clone(),
            allowed_paths: None,
            cache_dir: self.options.folder.join("cache"),
            keep: Default::default(),
            checkpoint_dir: self.options.folder.join(folder),
        };
        json!(Request::Run(Box::new(request)))
    }

    /// Runs a trial that must finish, in a process of its own.
    pub(super) async fn in_new_process(&mut self, request: &Value) -> Result<TrialResult, Problem> {
        let mut running = self.start().await?;
        let result = self.finished(&mut running, request).await?;
        self.finish(running).await;
        Ok(result)
    }

    /// Returns the result of the long trial without any disturbance.
    pub(super) async fn undisturbed(&mut self) -> Result<TrialResult, Problem> {
        if self.whole.is_none() {
            let request = self.request(super::SEEDS[0], self.num_epochs, 1, "undisturbed");
            self.whole = Some(self.in_new_process(&request).await?);
        }
        Ok(self.whole.clone().expect("it was just made"))
    }

    /// Runs a trial that must finish.
    pub(super) async fn finished(
        &self,
        running: &mut Running,
        request: &Value,
    ) -> Result<TrialResult, Problem> {
        match self.converse(running, request, false).await? {
            Answer::Finished(result) => Ok(*result),
            Answer::Failed(failure) => Err(failed(&failure)),
            Answer::Stopped => Err(unasked_stop()),
        }
    }

    /// Runs a trial to its answer, and checks what is sent on the way. With `stop`, asks the trainer
    /// to stop after the first epoch.
    pub(super) async fn converse(
        &self,
        running: &mut Running,
        request: &Value,
        stop: bool,
    ) -> Result<Answer, Problem> {
        self.send(running, request).await?;
        let num_epochs = request["run"]["num_epochs"].as_u64().unwrap_or_default() as u32;
        let mut last: Option<Progress> = None;
        let mut stop_deadline = None;
        loop {
            match self.next(running, stop_deadline).await? {
                Reply::Progress(progress) => {
                    check_progress(&progress, last.as_ref(), num_epochs)?;
                    if stop && stop_deadline.is_none() && progress.epoch > 0 {
                        let limit = self.limits.checkpoint.min(self.options.patience);
                        stop_deadline = Some(Instant::now() + limit);
                        self.send(running, &json!(Request::Stop)).await?;
                    }
                    last = Some(progress);
                }
                Reply::Finished(result) => {
                    check_result(&result, last.as_ref(), num_epochs)?;
                    return Ok(Answer::Finished(result));
                }
                Reply::Failed(failure) => return Ok(Answer::Failed(failure)),
                Reply::Stopped if stop_deadline.is_some() => return Ok(Answer::Stopped),
                Reply::Stopped => return Err(unasked_stop()),
                Reply::Ready(_) => {
                    return Err(problem(
                        "it sent `ready` twice".to_owned(),
                        "send `ready` once, before the first trial",
                    ));
                }
            }
        }
    }

    pub(super) async fn send(&self, running: &mut Running, request: &Value) -> Result<(), Problem> {
        let trainer = running.as_mut().expect("it was started");
        match trainer.send(request).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let trainer = running.take().expect("it was started");
                Err(self
                    .broken(trainer, error, "when it was sent a request")
                    .await)
            }
        }
    }

    /// Returns the next message. `deadline` is that of the answer to a stop.
    pub(super) async fn next(
        &self,
        running: &mut Running,
        deadline: Option<Instant>,
    ) -> Result<Reply, Problem> {
        let trainer = running.as_mut().expect("it was started");
        let end = deadline.unwrap_or_else(|| Instant::now() + self.options.patience);
        let error = match timeout_at(end, trainer.reply()).await {
            Ok(Ok(reply)) => return Ok(reply),
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        let trainer = running.take().expect("it was started");
        if let Some(error) = error {
            return Err(self.broken(trainer, error, "during a trial").await);
        }
        let (_, tail) = self.end_and_read(trainer).await;
        Err(match deadline {
            Some(_) => problem(
                format!("it did not answer `stop` in time{tail}"),
                "read stdin while a trial runs; after `stop`, write a checkpoint and send `stopped` within 30 s",
            ),
            None => problem(
                format!(
                    "it sent nothing for {} s during a trial{tail}",
                    self.options.patience.as_secs()
                ),
                "send `progress` at the end of each epoch, and within long ones; a longer `--patience` allows more",
            ),
        })
    }

    /// Ends a trainer that broke the protocol or ended by itself, and describes what it did.
    pub(super) async fn broken(
        &self,
        trainer: Trainer,
        error: TrainerError,
        when: &str,
    ) -> Problem {
        let (how, tail) = self.end_and_read(trainer).await;
        match error {
            TrainerError::Closed => problem(
                format!("it ended {when} with {how}{tail}"),
                "send `failed` with a class and a message if a trial cannot be trained, and wait for requests otherwise",
            ),
            TrainerError::Violation(reason) => {
                problem(format!("{reason}, {when}{tail}"), STDOUT_REMEDY)
            }
            TrainerError::Unreachable(reason) => problem(
                format!("it cannot be reached {when}: {reason}{tail}"),
                "read requests from stdin all the time, in a thread of their own",
            ),
        }
    }

    /// Ends a trainer. Returns its exit status and the end of its stderr, as the end of a sentence.
    async fn end_and_read(&self, trainer: Trainer) -> (String, String) {
        let tail = trainer.stderr.tail();
        let exit = trainer.end(self.limits.exit).await;
        let lines = tail.text();
        let last: Vec<&str> = lines.lines().rev().take(TAIL_LINES).collect();
        let tail = match last.is_empty() {
            true => String::new(),
            false => {
                let last: Vec<&str> = last.into_iter().rev().collect();
                format!("; its stderr ends with:\n{}", last.join("\n"))
            }
        };
        (exit.describe(), tail)
    }

    /// Lists the files of a folder of checkpoints.
    pub(super) fn files(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.options.folder.join(folder));
        let entries = entries.into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Copies a folder of checkpoints. Returns the name of the copy.
    pub(super) fn copy(&self, from: &str, to: &str) -> Result<String, Problem> {
        let target = self.options.folder.join(to);
        fs::create_dir_all(&target).map_err(|error| here(&target, &error))?;
        for name in self.files(from) {
            let path = self.options.folder.join(from).join(&name);
            fs::copy(&path, target.join(&name)).map_err(|error| here(&path, &error))?;
        }
        Ok(to.to_owned())
    }

    /// Lists the files of the newest checkpoint of the first attempt: those that share the beginning
    /// of the last one by name.
    pub(super) fn newest(&self, folder: &str) -> Vec<PathBuf> {
        let stem = |name: &str| Some(name.split_once("attempt-1")?.0.to_owned());
        let names = self.files(folder);
        // `chain.attempt-1` holds hashes, and is no checkpoint
        let is_checkpoint = |name: &&String| !name.starts_with("chain.");
        let stems = names
            .iter()
            .filter(is_checkpoint)
            .filter_map(|name| stem(name));
        let Some(newest) = stems.max() else {
            return Vec::new();
        };
        let of_newest = names
            .iter()
            .filter(|name| stem(name).as_ref() == Some(&newest));
        of_newest
            .map(|name| self.options.folder.join(folder).join(name))
            .collect()
    }
}

const FINISH: Duration = Duration::from_millis(500);
/// Lines of stderr in a problem.
const TAIL_LINES: usize = 5;

fn check_progress(
    progress: &Progress,
    last: Option<&Progress>,
    num_epochs: u32,
) -> Result<(), Problem> {
    let remedy =
        "in `progress`, `epoch` is the number of finished epochs, of `num_epochs` of the request";
    if progress.num_epochs != num_epochs || progress.epoch > num_epochs {
        let (epoch, of) = (progress.epoch, progress.num_epochs);
        let what = format!("it reported epoch {epoch} of {of}, and {num_epochs} were asked for");
        return Err(problem(what, remedy));
    }
    if let Some(last) = last
        && (progress.epoch < last.epoch || progress.step < last.step)
    {
        return Err(problem(
            format!(
                "its progress went back, from epoch {} and step {} to epoch {} and step {}",
                last.epoch, last.step, progress.epoch, progress.step
            ),
            "epoch and step only grow within an attempt, over all of its epochs",
        ));
    }
    Ok(())
}

fn check_result(
    result: &TrialResult,
    last: Option<&Progress>,
    num_epochs: u32,
) -> Result<(), Problem> {
    let remedy = "docs/trainer-protocol/reply.schema.json describes every field of a result";
    if let Err(bad) = result.check() {
        return Err(problem(format!("its result cannot be used: {bad}"), remedy));
    }
    let given = result.epochs.len();
    if given != num_epochs as usize {
        let what = format!("its result holds {given} epochs, and {num_epochs} were asked for");
        return Err(problem(
            what,
            "send a record of each epoch, also of those before a resume",
        ));
    }
    match last {
        // a resumed trial may have nothing left to train
        None if result.timing.resumed_from_epoch < num_epochs => Err(problem(
            "it sent no `progress`".to_owned(),
            "send `progress` at the end of each epoch: a trial without it counts as stalled after 15 minutes",
        )),
        Some(last) if last.epoch < num_epochs => Err(problem(
            format!(
                "it finished after it had reported {} of {num_epochs} epochs",
                last.epoch
            ),
            "send `progress` after the last epoch too, with the number of finished epochs",
        )),
        _ => Ok(()),
    }
}

pub(super) fn problem(what: String, remedy: &'static str) -> Problem {
    Problem { what, remedy }
}

pub(super) fn failed(failure: &Failure) -> Problem {
    problem(
        format!("it failed as `{}`: {}", failure.class, first_line(failure)),
        "try the trial by hand; `--sweep FILE` checks with the settings of a sweep of yours",
    )
}

pub(super) fn unasked_stop() -> Problem {
    problem(
        "it sent `stopped` without a request to stop".to_owned(),
        "a `stop` belongs to the trial before it: forget it when the next `run` arrives",
    )
}

pub(super) fn first_line(failure: &Failure) -> &str {
    failure.message.lines().next().unwrap_or_default()
}

/// Returns the problem for an error of this machine.
pub(super) fn here(path: &Path, error: &std::io::Error) -> Problem {
    problem(
        format!("the check cannot continue: {}: {error}", path.display()),
        "make room for temporary files, or set TMPDIR",
    )
}

/// Compares two results of one trial by what must not depend on disturbances.
pub(super) fn same(
    expected: &TrialResult,
    found: &TrialResult,
    what: &str,
    remedy: &'static str,
) -> Result<(), Problem> {
    let lasting = |epoch: &sweep::record::EpochRecord| {
        (
            epoch.state_hash.clone(),
            epoch.train_loss.to_bits(),
            epoch.accuracy.map(f64::to_bits),
        )
    };
    let pairs = expected.epochs.iter().zip(&found.epochs);
    let differing = pairs
        .map(|(a, b)| lasting(a) != lasting(b))
        .position(|differs| differs);
    match differing {
        None if expected.last_accuracy == found.last_accuracy => Ok(()),
        None => Err(problem(format!("{what}, in its last accuracy"), remedy)),
        Some(epoch) => Err(problem(
            format!("{what}, from epoch {epoch} (counted from 0)"),
            remedy,
        )),
    }
}

pub(super) fn hashes(result: &TrialResult) -> Vec<&str> {
    let epochs = result.epochs.iter();
    epochs.map(|epoch| epoch.state_hash.as_str()).collect()
}

/// Returns the word of a message.
pub(super) fn name_of(reply: &Reply) -> &'static str {
    match reply {
        Reply::Ready(_) => "ready",
        Reply::Progress(_) => "progress",
        Reply::Finished(_) => "finished",
        Reply::Failed(_) => "failed",
        Reply::Stopped => "stopped",
    }
}
