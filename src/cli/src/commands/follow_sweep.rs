//! Follows one sweep at a coordinator: its events as they arrive, also after the connection broke,
//! and its results folder as results arrive.

use std::time::Duration;

use protocol::v1;
use protocol::v1::{ReportFiles, SweepStatus, TailMessage, TrialEnded, tail_message::Message};
use tokio::time::Instant;
use tonic::Streaming;

use crate::client::{Access, Client};
use crate::exit::ExpectedError;
use crate::exports::LiveExports;
use crate::kept_files;
use crate::reports::{Discard, Report};
use crate::results_folder::ResultsFolder;
use crate::stderr;

/// Pause between two attempts to reach a coordinator that went away.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Pause between two reports while results arrive.
const REPORT_EVERY: Duration = Duration::from_secs(2);
/// The shortest pause after a report, as a multiple of the time it took: reports of a large sweep
/// are slow.
const REPORT_SHARE: u32 = 10;
/// Longest pause between two failed attempts to write results: a full disk stays full for a while.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Attempts to write the last report.
const LAST_ATTEMPTS: u32 = 3;

#[derive(Debug)]
pub enum Step {
    Status(Box<SweepStatus>),
    Ended(TrialEnded),
    Note(String),
    Complete(Box<SweepStatus>),
}

pub struct Follower {
    pub client: Client,
    sweep: String,
    stream: Option<Streaming<TailMessage>>,
    /// False for a coordinator in this process: it does not come back.
    reconnects: bool,
    wait: Duration,
    /// True from a lost connection until the next one.
    away: bool,
}

impl Follower {
    pub fn new(client: Client, sweep: &str, reconnects: bool) -> Self {
        Self {
            client,
            sweep: sweep.to_owned(),
            stream: None,
            reconnects,
            wait: FIRST_RETRY_PAUSE,
            away: false,
        }
    }

    /// Waits for the next step. May be dropped while it waits: only an attempt to connect is lost.
    pub async fn next(&mut self) -> Result<Step, ExpectedError> {
        loop {
            match self.try_next().await {
                Ok(Some(step)) => return Ok(step),
                // A message of a newer coordinator, or an end without a final message: ask again.
                Ok(None) => {}
                Err(ExpectedError::Unreachable { address, reason }) if self.reconnects => {
                    if !self.away {
                        stderr::print(&format!(
                            "the coordinator at {address} cannot be reached ({reason}); retrying"
                        ));
                        self.away = true;
                    }
                }
                Err(error) => return Err(error),
            }
            if self.stream.is_none() {
                tokio::time::sleep(self.wait).await;
                self.wait = (self.wait * 2).min(LONGEST_RETRY_PAUSE);
            }
        }
    }

    async fn try_next(&mut self) -> Result<Option<Step>, ExpectedError> {
        if self.stream.is_none() {
            if self.away {
                self.client.reconnect().await?;
            }
            self.stream = Some(self.client.tail(&self.sweep).await?);
            if std::mem::take(&mut self.away) {
                stderr::print("the coordinator is back");
            }
            self.wait = FIRST_RETRY_PAUSE;
        }
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        match stream.message().await {
            Ok(Some(message)) => Ok(message.message.map(|message| match message {
                Message::Status(status) => Step::Status(Box::new(status)),
                Message::Ended(ended) => Step::Ended(ended),
                Message::Note(note) => Step::Note(note),
                Message::Complete(status) => Step::Complete(Box::new(status)),
            })),
            Ok(None) => {
                self.stream = None;
                Ok(None)
            }
            Err(status) => {
                self.stream = None;
                Err(self.client.failure("following the sweep", &status))
            }
        }
    }

    /// Fetches the report's text. Waits for a coordinator that is away.
    pub async fn report(&mut self) -> Result<Report, ExpectedError> {
        loop {
            match self
                .client
                .report(&self.sweep, ReportFiles::None, &mut Discard)
                .await
            {
                Err(ExpectedError::Unreachable { .. }) if self.reconnects => {
                    self.connect_again().await
                }
                answer => return answer,
            }
        }
    }

    /// Writes the report's files into their folder. Waits for a coordinator that is away.
    async fn write_report(&mut self, folder: &ResultsFolder) -> Result<(), ExpectedError> {
        loop {
            match write_report(&mut self.client, &self.sweep, folder).await {
                Err(ExpectedError::Unreachable { .. }) if self.reconnects => {
                    self.connect_again().await
                }
                answer => return answer,
            }
        }
    }

    async fn connect_again(&mut self) {
        tokio::time::sleep(FIRST_RETRY_PAUSE).await;
        // the next request finds out whether it is back
        let _ = self.client.reconnect().await;
    }
}

async fn write_report(
    client: &mut Client,
    sweep: &str,
    folder: &ResultsFolder,
) -> Result<(), ExpectedError> {
    let mut update = folder.update()?;
    client.report(sweep, ReportFiles::All, &mut update).await?;
    update.finish()?;
    kept_files::fetch(client, sweep, folder).await
}

/// Submits the sweep. Waits for a coordinator that has not started yet or is restarting.
pub async fn submit(
    access: &Access,
    (sweep, archive): (&sweep::Sweep, Option<&[u8]>),
    timeout: Duration,
) -> Result<(Client, v1::SubmitReply), ExpectedError> {
    let deadline = Instant::now() + timeout;
    let mut reported = false;
    loop {
        let submitted = async {
            let mut client = Client::connect(access.clone()).await?;
            if let (Some(program), Some(archive)) = (sweep.trainer.submitted(), archive) {
                client.put_program(&program.archive, archive).await?;
            }
            let reply = client.submit(sweep).await?;
            Ok((client, reply))
        };
        match submitted.await {
            Err(ExpectedError::Unreachable { address, reason }) if Instant::now() < deadline => {
                if !std::mem::replace(&mut reported, true) {
                    stderr::print(&format!(
                        "the coordinator at {address} cannot be reached yet ({reason}); retrying"
                    ));
                }
                tokio::time::sleep(FIRST_RETRY_PAUSE).await;
            }
            answer => return answer,
        }
    }
}

/// A report, and whether its files were written.
pub type LastReport = (Report, Result<(), ExpectedError>);

/// Keeps the results folder up to date at a reasonable rate. Training never depends on it: files
/// that cannot be written now are written later.
pub struct ResultsWriter {
    folder: ResultsFolder,
    exports: Option<LiveExports>,
    dirty: bool,
    next: Instant,
    /// The pause after the last failure; zero if the last report was written.
    pause: Duration,
}

impl ResultsWriter {
    pub fn new(folder: ResultsFolder, exports: Option<LiveExports>) -> Self {
        Self {
            folder,
            exports,
            dirty: false,
            next: Instant::now(),
            pause: Duration::ZERO,
        }
    }

    pub fn folder(&self) -> &ResultsFolder {
        &self.folder
    }

    pub fn result_arrived(&mut self) {
        self.dirty = true;
        if let Some(exports) = &self.exports {
            exports.result_arrived();
        }
    }

    /// Returns when the folder should be written, and never if nothing has changed.
    pub async fn due(&self) {
        if self.dirty {
            tokio::time::sleep_until(self.next).await;
        } else {
            std::future::pending().await
        }
    }

    /// Updates the folder in the middle of a sweep. A failure is reported once and retried later.
    pub async fn refresh(&mut self, client: &mut Client, sweep: &str) {
        let started = Instant::now();
        match write_report(client, sweep, &self.folder).await {
            Ok(()) => {
                if std::mem::take(&mut self.pause) > Duration::ZERO {
                    stderr::print(&format!(
                        "results are written again, into {}",
                        self.folder.path().display()
                    ));
                }
                self.dirty = false;
                self.next = Instant::now() + REPORT_EVERY.max(started.elapsed() * REPORT_SHARE);
            }
            // the follower reports a coordinator that is away
            Err(ExpectedError::Unreachable { .. }) => self.next = Instant::now() + REPORT_EVERY,
            Err(error) => {
                if self.pause.is_zero() {
                    let reason = error.render().trim_end().to_owned();
                    stderr::print(&format!(
                        "results are not written for now ({reason}); training continues, and writing is retried"
                    ));
                }
                self.pause = (self.pause * 2).clamp(REPORT_EVERY, LONGEST_PAUSE);
                self.next = Instant::now() + self.pause;
            }
        }
    }

    /// Fetches the last report of a command, writes its files, and exports the last results.
    pub async fn last_report(
        &mut self,
        follower: &mut Follower,
    ) -> Result<LastReport, ExpectedError> {
        let report = follower.report().await?;
        let written = self.finish(follower).await;
        if let Some(exports) = self.exports.take() {
            exports.finish().await;
        }
        Ok((report, written))
    }

    /// Writes the last report of a command, which is worth a few attempts.
    pub async fn finish(&mut self, follower: &mut Follower) -> Result<(), ExpectedError> {
        let mut attempts = 1;
        loop {
            match follower.write_report(&self.folder).await {
                Err(_) if attempts < LAST_ATTEMPTS => {
                    attempts += 1;
                    tokio::time::sleep(FIRST_RETRY_PAUSE).await;
                }
                written => return written,
            }
        }
    }
}
