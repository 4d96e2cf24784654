//! A trainer, driven through every case of the protocol as a worker would drive it, for people who
//! write one: `orchestrator trainer check`.
//!
//! The cases are in the order in which one fixes what they find. A trainer that cannot do the first
//! two is not asked for more. docs/trainer-protocol.md is the text that they hold it to.

mod driver;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use sweep::handoff::Reply;
use sweep::record::{Failure, FailureClass, TrialResult};
use sweep::settings::Settings;
use tokio::time::{Instant, timeout};

use crate::start::Timing;
use crate::trainer::{Spawner, Trainer};
use driver::{failed, first_line, hashes, here, name_of, problem, same};

/// The program to drive, and the settings and folders of its trials.
#[derive(Clone, Debug)]
pub struct Options {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// Settings of the trials. Their schedule is replaced: the cases need few and many epochs.
    pub settings: Settings,
    pub data_dir: PathBuf,
    /// An empty folder for checkpoints and the like.
    pub folder: PathBuf,
    /// Timeout of the first message and between two messages of a trial.
    pub patience: Duration,
}

/// The outcome of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    pub name: &'static str,
    pub problem: Option<Problem>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub what: String,
    pub remedy: &'static str,
}

/// Epochs of a trial, and of those in which a stop must arrive before the end: more each time.
const FEW: u32 = 4;
const MANY: [u32; 4] = [FEW, 64, 1024, 16_384];
/// Time in which a second answer to the same request arrives, if the trainer sends one.
const ANOTHER_ANSWER: Duration = Duration::from_millis(500);
/// More than the buffer of a pipe.
const LONG_TEXT: usize = 1 << 20;
/// The first seed, and another.
const SEEDS: [u64; 2] = [1, 2];

/// Drives the trainer through all cases. The error is one of this machine.
pub async fn check(options: Options) -> io::Result<Vec<Case>> {
    let mut driver = Driver {
        spawner: Spawner::start()?,
        limits: Timing::default(),
        options,
        serial: 0,
        num_epochs: FEW,
        whole: None,
    };
    let mut cases = Vec::new();
    let mut record = |name, outcome: Outcome| {
        let problem = outcome.err();
        let passed = problem.is_none();
        cases.push(Case { name, problem });
        passed
    };
    let ready = driver.ready().await;
    if !record("starts and is ready", ready) {
        return Ok(cases);
    }
    let first = driver.whole_trial().await;
    if !record("trains a trial", first) {
        return Ok(cases);
    }
    record("trains a second trial", driver.second_trial().await);
    let stops = driver.stop().await;
    if record("stops when asked", stops) {
        record("names its files after the attempt", driver.names());
        record("resumes after a stop", driver.resume().await);
        record("starts over when asked", driver.start_over().await);
        record("skips a torn checkpoint", driver.torn().await);
        record("yields to a later attempt", driver.later_attempt().await);
    } else {
        driver.num_epochs = FEW;
    }
    record("continues after it was killed", driver.killed().await);
    record("refuses what it cannot use", driver.bad_settings().await);
    record("reads a long request", driver.long_request().await);
    record("ends with its worker", driver.end().await);
    Ok(cases)
}

type Outcome = Result<(), Problem>;

/// A trainer, until it is ended.
type Running = Option<Trainer>;

/// The answer to a request.
#[derive(Debug)]
enum Answer {
    Finished(Box<TrialResult>),
    Failed(Failure),
    Stopped,
}

struct Driver {
    spawner: Spawner,
    limits: Timing,
    options: Options,
    serial: u64,
    /// Epochs of a trial that is long enough to be stopped.
    num_epochs: u32,
    /// The result of that trial without any disturbance, once it was needed.
    whole: Option<TrialResult>,
}

impl Driver {
    async fn ready(&mut self) -> Outcome {
        let running = self.start().await?;
        self.finish(running).await;
        Ok(())
    }

    /// Runs a trial, and waits for what may follow its answer.
    async fn whole_trial(&mut self) -> Outcome {
        let mut running = self.start().await?;
        let request = self.request(SEEDS[0], FEW, 1, "whole");
        let result = self.finished(&mut running, &request).await?;
        let trainer = running.as_mut().expect("it was started");
        match timeout(ANOTHER_ANSWER, trainer.reply()).await {
            Err(_) => {}
            Ok(Ok(reply)) => {
                return Err(problem(
                    format!("it sent `{}` after its answer", name_of(&reply)),
                    "answer each `run` once, and then wait for the next request",
                ));
            }
            Ok(Err(error)) => {
                let trainer = running.take().expect("it was started");
                return Err(self.broken(trainer, error, "after its answer").await);
            }
        }
        if hashes(&result).windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(problem(
                "two epochs have the same state hash".to_owned(),
                "hash everything that training continues from, with the hash of the epoch before",
            ));
        }
        self.finish(running).await;
        Ok(())
    }

    async fn second_trial(&mut self) -> Outcome {
        let mut running = self.start().await?;
        let first = self.request(SEEDS[0], FEW, 1, "first");
        let first = self.finished(&mut running, &first).await?;
        let second = self.request(SEEDS[1], FEW, 1, "second");
        let second = self.finished(&mut running, &second).await?;
        self.finish(running).await;
        if hashes(&first) == hashes(&second) {
            return Err(problem(
                "two seeds gave the same training".to_owned(),
                "let everything random follow from `spec.seed`, and send each trial's own result",
            ));
        }
        let alone = self.request(SEEDS[1], FEW, 1, "alone");
        let alone = self.in_new_process(&alone).await?;
        same(
            &alone,
            &second,
            "a second trial in the same process differs from the same trial in a process of its own",
            "create a new model, optimiser and random number generators for each trial",
        )
    }

    async fn stop(&mut self) -> Outcome {
        for num_epochs in MANY {
            self.num_epochs = num_epochs;
            let folder = self.options.folder.join("stopped");
            let _ = fs::remove_dir_all(&folder);
            let mut running = self.start().await?;
            let request = self.request(SEEDS[0], num_epochs, 1, "stopped");
            match self.converse(&mut running, &request, true).await? {
                Answer::Stopped => {
                    self.finish(running).await;
                    return Ok(());
                }
                // it was too fast for the stop
                Answer::Finished(_) => self.finish(running).await,
                Answer::Failed(failure) => return Err(failed(&failure)),
            }
        }
        Err(problem(
            "it trained to the end although it was asked to stop".to_owned(),
            "read stdin while a trial runs; after `stop`, write a checkpoint and send `stopped`",
        ))
    }

    /// Looks at the files that the stopped attempt has left.
    fn names(&mut self) -> Outcome {
        let names = self.files("stopped");
        if names.is_empty() {
            return Err(problem(
                "it stopped and left no checkpoint".to_owned(),
                "write the state into `checkpoint_dir` before `stopped`",
            ));
        }
        match names.iter().find(|name| !name.contains("attempt-1")) {
            None => Ok(()),
            Some(name) => Err(problem(
                format!("its file `{name}` has no attempt in its name"),
                "name checkpoints as in `epoch-00012.attempt-3.EXTENSION`: another attempt may write too",
            )),
        }
    }

    async fn resume(&mut self) -> Outcome {
        let folder = self.copy("stopped", "resumed")?;
        let request = self.request(SEEDS[0], self.num_epochs, 2, &folder);
        let resumed = self.in_new_process(&request).await?;
        if resumed.timing.resumed_from_epoch == 0 {
            return Err(problem(
                "it began again instead of continuing from its checkpoint".to_owned(),
                "read the newest checkpoint of any attempt from `since` on, and report \
                 `timing.resumed_from_epoch`",
            ));
        }
        let whole = self.undisturbed().await?;
        same(
            &whole,
            &resumed,
            "a resumed trial differs from one that was not stopped",
            "save everything that training continues from: weights, optimiser, random numbers, order of images",
        )
    }

    async fn start_over(&mut self) -> Outcome {
        let folder = self.copy("stopped", "anew")?;
        let mut request = self.request(SEEDS[0], self.num_epochs, 2, &folder);
        request["run"]["since"] = json!(2);
        let result = self.in_new_process(&request).await?;
        if result.timing.resumed_from_epoch > 0 {
            return Err(problem(
                "it resumed from an attempt before `since`".to_owned(),
                "skip checkpoints of attempts before `since`: a user asked to train again",
            ));
        }
        Ok(())
    }

    async fn torn(&mut self) -> Outcome {
        let folder = self.copy("stopped", "torn")?;
        for path in self.newest(&folder) {
            let cut = fs::read(&path).and_then(|bytes| fs::write(&path, &bytes[..bytes.len() / 2]));
            cut.map_err(|error| here(&path, &error))?;
        }
        let remedy =
            "write a checksum with each checkpoint, and use the one before if it does not match";
        let request = self.request(SEEDS[0], self.num_epochs, 2, &folder);
        let mut running = self.start().await?;
        let finished = self.finished(&mut running, &request).await;
        let result = finished.map_err(|ended| {
            problem(format!("a torn checkpoint ends it: {}", ended.what), remedy)
        })?;
        self.finish(running).await;
        let whole = self.undisturbed().await?;
        let what = "after a torn checkpoint its result differs";
        same(&whole, &result, what, remedy)
    }

    async fn later_attempt(&mut self) -> Outcome {
        let folder = self.copy("stopped", "later")?;
        for path in self.newest(&folder) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let copy = path.with_file_name(name.replacen("attempt-1", "attempt-9", 1));
            fs::copy(&path, &copy).map_err(|error| here(&copy, &error))?;
        }
        let before = self.files(&folder);
        let request = self.request(SEEDS[0], self.num_epochs, 2, &folder);
        let mut running = self.start().await?;
        let answer = self.converse(&mut running, &request, false).await?;
        self.finish(running).await;
        let kept = self.files(&folder);
        let is_later = |name: &&String| name.contains("attempt-9");
        if let Some(name) = before
            .iter()
            .filter(is_later)
            .find(|name| !kept.contains(name))
        {
            return Err(problem(
                format!("it removed `{name}`, the file of a later attempt"),
                "remove only files of the own attempt and of earlier ones",
            ));
        }
        match answer {
            Answer::Failed(_) => Ok(()),
            Answer::Finished(_) | Answer::Stopped => Err(problem(
                "attempt 2 continued although attempt 9 of the same trial exists".to_owned(),
                "end with `failed`, class `crashed`, if there is a checkpoint of a later attempt",
            )),
        }
    }

    async fn killed(&mut self) -> Outcome {
        let mut running = self.start().await?;
        let request = self.request(SEEDS[0], self.num_epochs, 1, "killed");
        self.send(&mut running, &request).await?;
        let mut is_over = false;
        while !is_over {
            is_over = match self.next(&mut running, None).await? {
                Reply::Progress(progress) => progress.epoch >= 2,
                _ => true,
            };
        }
        if let Some(trainer) = running {
            let _ = trainer.end(Duration::ZERO).await;
        }
        let request = self.request(SEEDS[0], self.num_epochs, 2, "killed");
        let result = self.in_new_process(&request).await?;
        let whole = self.undisturbed().await?;
        same(
            &whole,
            &result,
            "a trial that was killed and retried differs from one that was not",
            "write a checkpoint beside its place, sync it, and rename it when it is whole",
        )
    }

    async fn bad_settings(&mut self) -> Outcome {
        let mut request = self.request(SEEDS[0], FEW, 1, "bad");
        request["run"]["spec"]["settings"] = json!({});
        let mut running = self.start().await?;
        let answer = self.converse(&mut running, &request, false).await?;
        self.finish(running).await;
        match answer {
            Answer::Failed(failure) if failure.class != FailureClass::BadInput => Err(problem(
                format!(
                    "a trial without settings fails as `{}` ({})",
                    failure.class,
                    first_line(&failure)
                ),
                "send class `bad_input` for what the user must fix: other classes are retried",
            )),
            _ => Ok(()),
        }
    }

    async fn long_request(&mut self) -> Outcome {
        let mut request = self.request(SEEDS[0], FEW, 1, "long");
        request["run"]["a_field_of_a_later_version"] = json!("x".repeat(LONG_TEXT));
        let result = self.in_new_process(&request).await?;
        let short = self.request(SEEDS[0], FEW, 1, "short");
        let short = self.in_new_process(&short).await?;
        same(
            &short,
            &result,
            "a field that it does not know changes the result",
            "ignore fields that are not in the description of the protocol",
        )
    }

    async fn end(&mut self) -> Outcome {
        let mut running = self.start().await?;
        let request = self.request(SEEDS[0], self.num_epochs, 1, "ended");
        self.send(&mut running, &request).await?;
        self.next(&mut running, None).await?;
        let limit = self.limits.exit;
        let asked = Instant::now();
        if let Some(trainer) = running {
            let _ = trainer.end(limit).await;
        }
        if asked.elapsed() < limit {
            return Ok(());
        }
        Err(problem(
            format!(
                "{} s after the end of its stdin it, or a process of it, still ran",
                limit.as_secs()
            ),
            "read stdin in a thread, exit at its end, and let no process outlive the trainer",
        ))
    }
}
