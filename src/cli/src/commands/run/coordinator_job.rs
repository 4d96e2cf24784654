//! `orchestrator run --coordinator-job`: the coordinator is a Slurm job of its own, and this process
//! a client that may go and come back.
//!
//! The sweep is submitted here, by a coordinator of this process that ends before the job starts.
//! The name of the job is recorded before sbatch is called, so that a second command finds the job
//! and submits none.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use launch::slurm::service::Service;
use schedule::allocation::{JobState, ObservedJob, ReasonClass, SubmitOutcome};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{CHECK_INTERVAL, Run, SUBMIT_TIMEOUT};
use crate::client::Access;
use crate::commands::follow_sweep::{Follower, submit};
use crate::commands::serve::Embedded;
use crate::exit::{ExpectedError, Outcome};
use crate::launching;
use crate::output::SCHEMA;
use crate::results_folder::ResultsFolder;
use crate::signals::Signals;
use crate::{output, rendezvous, stderr};

/// Folder of the job's record, script and log, below the state directory.
const FOLDER: &str = "coordinator-job";
/// Interval between two questions to Slurm.
const ASK: Duration = Duration::from_secs(10);
/// Time for Slurm to list a job whose submission was not answered, or the end of one whose process is
/// gone.
const LOST: Duration = Duration::from_secs(60);
/// Time without sweeps to train and without launched workers after which the job ends.
const END_WHEN_IDLE: &str = "60s";

/// The job that this state directory's coordinator is, or will be.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    schema: u32,
    name: String,
    /// `None` until sbatch has answered.
    job: Option<String>,
}

impl Run<'_> {
    pub(super) async fn with_coordinator_job(
        &self,
        signals: &mut Signals,
    ) -> Result<Outcome, ExpectedError> {
        if !self.arguments.detach {
            ResultsFolder::new(&self.arguments.results, &self.sweep.name).prepare()?;
        }
        self.launching()?.test().await?;
        // `None` until this command has submitted the sweep or found who has it
        let mut job = None;
        loop {
            let attached = tokio::select! {
                attached = self.attach(&mut job) => attached?,
                signal = signals.next() => {
                    stderr::print(&format!(
                        "{signal}: no longer waiting for the coordinator's job; the same command follows it"
                    ));
                    return Ok(Outcome::Interrupted);
                }
            };
            let access = match attached {
                Attached::Complete(outcome) => return Ok(outcome),
                Attached::Detached => {
                    stderr::print("the same command without --detach follows the sweep");
                    return Ok(Outcome::Complete);
                }
                Attached::To(access) => access,
            };
            let service = match job.take() {
                Some(service) => service,
                None => self.service(&self.record()?.unwrap_or_else(Record::new))?,
            };
            let followed = tokio::select! {
                followed = self.with_coordinator(&access, true, signals) => followed,
                error = job_ends(&service) => Err(error),
            };
            match followed {
                Err(error @ ExpectedError::Unreachable { .. }) => tokio::select! {
                    waits = self.restarts(&service, &access, error) => waits?,
                    _ = signals.next() => return Ok(Outcome::Interrupted),
                },
                followed => return followed,
            }
            job = Some(service);
        }
    }

    /// Waits for the coordinator, and submits its job if there is none. `job`: the one that this
    /// command submitted or found; its end is an error, and no reason to submit another.
    async fn attach(&self, job: &mut Option<Service>) -> Result<Attached, ExpectedError> {
        let state_dir = &self.arguments.target.state_dir;
        loop {
            let found = rendezvous::find(state_dir);
            if let Some(found) = found.filter(|found| found.lasts) {
                if job.is_none()
                    && let Some(record) = self.record()?
                {
                    self.print_flags_in_force(&record)?;
                }
                return Access::announced(state_dir, &found, None).map(Attached::To);
            }
            if let Some(service) = job {
                self.until_it_serves(service).await?;
                continue;
            }
            match self.submit_here().await {
                Ok(Some(outcome)) => return Ok(Attached::Complete(outcome)),
                Ok(None) => {}
                // The job starts at this moment.
                Err(ExpectedError::Taken(_)) => {
                    sleep(CHECK_INTERVAL).await;
                    continue;
                }
                Err(error) => return Err(error),
            }
            *job = Some(self.job().await?);
            if self.arguments.detach {
                return Ok(Attached::Detached);
            }
        }
    }

    /// Returns once the coordinator that cannot be reached serves elsewhere, or its job waits to
    /// start again. An error: the job has ended, or runs where this machine does not reach it.
    async fn restarts(
        &self,
        service: &Service,
        last: &Access,
        unreachable: ExpectedError,
    ) -> Result<(), ExpectedError> {
        let deadline = Instant::now() + LOST;
        loop {
            if let Ok(Some(job)) = service.job().await {
                state_of(&job)?;
                if matches!(job.state, JobState::Pending(_)) {
                    return Ok(());
                }
            }
            let state_dir = &self.arguments.target.state_dir;
            if let Some(found) = rendezvous::find(state_dir).filter(|found| found.lasts)
                && Access::announced(state_dir, &found, None)?.address != last.address
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(unreachable);
            }
            sleep(Duration::from_secs(2)).await;
        }
    }

    /// Submits the sweep by a coordinator of this process. Returns the outcome if nothing is left to
    /// train.
    async fn submit_here(&self) -> Result<Option<Outcome>, ExpectedError> {
        let embedded = Embedded::without_worker(&self.arguments.target.state_dir).await?;
        let (mut client, reply) =
            submit(&embedded.access, self.submission(), SUBMIT_TIMEOUT).await?;
        self.discard_results(&mut client, &reply.sweep).await?;
        let status = client.status(Some(&reply.sweep)).await?;
        let is_complete = status.sweeps.iter().all(|sweep| sweep.complete);
        let mut outcome = None;
        if is_complete {
            self.print_submission(&reply);
            let mut writer = self.writer(&client, &reply.sweep)?;
            let mut follower = Follower::new(client, &reply.sweep, false);
            let last = writer.last_report(&mut follower).await;
            outcome = Some(self.conclude(&writer, last, None));
        }
        embedded.shutdown().await?;
        outcome.transpose()
    }

    /// Returns the job that is or will be the coordinator, and submits it if there is none.
    async fn job(&self) -> Result<Service, ExpectedError> {
        let _lock = self.lock().await?;
        let known = self.record()?;
        if let Some(record) = &known {
            let service = self.service(record)?;
            if let Some(job) = self.look_for(&service, record).await?
                && !matches!(job.state, JobState::Ended(_))
            {
                self.print_flags_in_force(record)?;
                return Ok(service);
            }
        }
        let mut record = Record::new();
        let service = self.service(&record)?;
        self.write(&record)?;
        service.forget_log();
        let refused = |message: &dyn std::fmt::Display| ExpectedError::Infrastructure {
            what: "the coordinator's job was not submitted",
            reason: message.to_string(),
        };
        match service.submit().await {
            SubmitOutcome::Submitted(job) => {
                stderr::print(&format!(
                    "job {job} will be the coordinator; its log is {}",
                    service.log().display()
                ));
                record.job = Some(job.to_string());
                self.write(&record)?;
                Ok(service)
            }
            SubmitOutcome::Unknown { message } => match self.look_for(&service, &record).await? {
                Some(_) => Ok(service),
                None => Err(refused(&message)),
            },
            SubmitOutcome::Refused { message }
            | SubmitOutcome::Full { message }
            | SubmitOutcome::Unreachable { message } => {
                // No job has this name: the next command must not wait for one.
                let path = self.record_path();
                std::fs::remove_file(&path).map_err(ExpectedError::file("remove", path))?;
                Err(refused(&message))
            }
        }
    }

    /// Asks Slurm for the recorded job. One whose submission was not answered may appear late.
    async fn look_for(
        &self,
        service: &Service,
        record: &Record,
    ) -> Result<Option<ObservedJob>, ExpectedError> {
        loop {
            let found = service.job().await.map_err(unknown)?;
            let age = self
                .record_path()
                .metadata()
                .and_then(|found| found.modified());
            let age = age.map(|written| {
                SystemTime::now()
                    .duration_since(written)
                    .unwrap_or_default()
            });
            let may_come = record.job.is_none() && age.is_ok_and(|age| age < LOST);
            if found.is_some() || !may_come {
                return Ok(found);
            }
            sleep(Duration::from_secs(2)).await;
        }
    }

    /// Waits until the coordinator announces itself, and prints what its job waits for.
    async fn until_it_serves(&self, service: &Service) -> Result<(), ExpectedError> {
        let mut printed = String::new();
        let mut next = Instant::now();
        loop {
            if rendezvous::find(&self.arguments.target.state_dir).is_some_and(|found| found.lasts) {
                return Ok(());
            }
            if Instant::now() >= next {
                next = Instant::now() + ASK;
                match service.job().await {
                    Ok(Some(job)) => {
                        let text = state_of(&job)?;
                        if printed != text {
                            stderr::print(&text);
                            printed = text;
                        }
                    }
                    // It may not be listed yet.
                    Ok(None) => {}
                    Err(reason) => {
                        let text = format!("Slurm does not answer ({reason}); retrying");
                        if printed != text {
                            stderr::print(&text);
                            printed = text;
                        }
                    }
                }
            }
            sleep(CHECK_INTERVAL).await;
        }
    }

    /// Prints that the job was submitted with other flags than those of this command, if it was.
    fn print_flags_in_force(&self, record: &Record) -> Result<(), ExpectedError> {
        let service = self.service(record)?;
        if service.was_submitted_otherwise() {
            stderr::print(&format!(
                "the coordinator's job {} was submitted with other flags, which stay in force: {}",
                record.job.as_deref().unwrap_or(&record.name),
                service.script().display()
            ));
        }
        Ok(())
    }

    fn service(&self, record: &Record) -> Result<Service, ExpectedError> {
        let arguments = &self.arguments.launch;
        let given = self
            .arguments
            .coordinator_job
            .as_deref()
            .unwrap_or_default();
        let mut options = arguments.slurm_options_of_coordinator();
        options.extend(given.split_whitespace().map(str::to_owned));
        let state_dir = &self.arguments.target.state_dir;
        let mut command =
            launching::coordinator(arguments, &self.devices(), &self.arguments.data, state_dir)?;
        command.extend(["--end-when-idle".to_owned(), END_WHEN_IDLE.to_owned()]);
        command.extend(self.arguments.notify.flags());
        command.extend(arguments.further_options());
        Ok(Service {
            name: record.name.as_str().into(),
            folder: launching::absolute(&self.folder())?,
            options,
            command,
        })
    }

    /// Prints the script of the coordinator's job, for `--dry-run`.
    pub(super) fn print_coordinator_script(&self) -> Result<(), ExpectedError> {
        let record = Record {
            name: "orch-coordinator-RANDOM".to_owned(),
            ..Record::new()
        };
        output::write(self.service(&record)?.text().as_bytes()).map(drop)
    }

    fn folder(&self) -> PathBuf {
        self.arguments.target.state_dir.join(FOLDER)
    }

    fn record_path(&self) -> PathBuf {
        self.folder().join("record.json")
    }

    fn record(&self) -> Result<Option<Record>, ExpectedError> {
        let path = self.record_path();
        match std::fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ExpectedError::file("read", path)(error)),
        }
    }

    fn write(&self, record: &Record) -> Result<(), ExpectedError> {
        let text = serde_json::to_vec_pretty(record).expect("a record of text can be written");
        rendezvous::write_private(&self.record_path(), &text)
    }

    /// Keeps a second command from submitting at the same time.
    async fn lock(&self) -> Result<File, ExpectedError> {
        let folder = self.folder();
        std::fs::create_dir_all(&folder).map_err(ExpectedError::file("make", &folder))?;
        let path = folder.join("lock");
        let file = File::create(&path).map_err(ExpectedError::file("open", &path))?;
        let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
        let locked = locked.map_err(std::io::Error::other).flatten();
        locked.map_err(ExpectedError::file("lock", path))
    }
}

/// How a client found its coordinator.
enum Attached {
    To(Access),
    /// The sweep had been complete before.
    Complete(Outcome),
    Detached,
}

impl Record {
    /// A record of a name that no job has had.
    fn new() -> Self {
        let random = RandomState::new().hash_one(std::process::id()) as u32;
        Self {
            schema: SCHEMA,
            name: format!("orch-coordinator-{random:08x}"),
            job: None,
        }
    }
}

fn unknown(reason: sweep::text::Line) -> ExpectedError {
    ExpectedError::Infrastructure {
        what: "Slurm does not report whether the coordinator's job is there",
        reason: reason.to_string(),
    }
}

/// Returns a sentence about the state of the job. An error: it will not serve.
fn state_of(job: &ObservedJob) -> Result<String, ExpectedError> {
    let id = &job.job;
    let fails = |reason: String| {
        Err(ExpectedError::Infrastructure {
            what: "the coordinator's job",
            reason,
        })
    };
    match &job.state {
        JobState::Pending(reason) if reason.class == ReasonClass::Never => fails(format!(
            "job {id} can never start: {} ({}); `scancel {id}` removes it",
            reason.sentence, reason.word
        )),
        JobState::Pending(reason) => Ok(format!(
            "job {id}, the coordinator, waits: {} ({})",
            reason.sentence, reason.word
        )),
        JobState::Running => Ok(format!(
            "job {id}, the coordinator, starts on {}",
            job.node.as_deref().unwrap_or("its node")
        )),
        JobState::Ending | JobState::Unknown(_) => {
            Ok(format!("job {id}, the coordinator, is ending"))
        }
        JobState::Ended(cause) => fails(format!(
            "job {id} ended: {}; the same command submits another",
            cause.sentence()
        )),
    }
}

/// Waits until the job of a coordinator that was there has ended for good.
async fn job_ends(service: &Service) -> ExpectedError {
    let mut absent = 0;
    loop {
        sleep(3 * ASK).await;
        match service.job().await {
            Ok(Some(job)) => {
                absent = 0;
                if let Err(error) = state_of(&job) {
                    return error;
                }
            }
            Ok(None) => absent += 1,
            // Nothing is known.
            Err(_) => {}
        }
        if absent == 3 {
            return ExpectedError::Infrastructure {
                what: "the coordinator's job",
                reason: format!(
                    "Slurm no longer knows {}; the same command submits another",
                    service.name
                ),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use schedule::allocation::{EndCause, JobId, PendingReason};

    use super::*;

    fn job(state: JobState) -> ObservedJob {
        ObservedJob {
            allocation: "orch-coordinator-7f3a9c1e".into(),
            job: JobId("17".into()),
            state,
            node: Some("node1".to_owned()),
            ends_at: None,
        }
    }

    fn waits(class: ReasonClass) -> JobState {
        JobState::Pending(PendingReason {
            word: "Priority".into(),
            sentence: "jobs with a higher priority come first".into(),
            class,
        })
    }

    #[test]
    fn a_job_that_waits_is_explained_and_one_that_will_not_serve_is_an_error() {
        let text = state_of(&job(waits(ReasonClass::Wait))).unwrap();
        assert_eq!(
            text,
            "job 17, the coordinator, waits: jobs with a higher priority come first (Priority)"
        );
        let text = state_of(&job(JobState::Running)).unwrap();
        assert!(text.ends_with("starts on node1"), "{text}");
        let never = state_of(&job(waits(ReasonClass::Never))).unwrap_err();
        assert!(never.to_string().contains("scancel 17"), "{never}");
        let ended = JobState::Ended(EndCause::CancelledByOthers);
        let ended = state_of(&job(ended)).unwrap_err().to_string();
        assert!(
            ended.contains("the same command submits another"),
            "{ended}"
        );
    }

    #[test]
    fn names_differ() {
        assert_ne!(Record::new().name, Record::new().name);
    }
}
