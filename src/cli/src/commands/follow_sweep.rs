//! Follows one sweep at a coordinator: its events as they come, again after the connection broke, and its results
//! folder as results land.

use std::time::Duration;

use protocol::v1::{ReportReply, SweepStatus, TailMessage, TrialEnded, tail_message::Message};
use protocol::{Token, v1};
use tokio::time::Instant;
use tonic::Streaming;

use crate::client::Client;
use crate::exit::ExpectedError;
use crate::results_folder::ResultsFolder;
use crate::talk;

/// Between two attempts to reach a coordinator that went away.
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_AT_MOST: Duration = Duration::from_secs(5);
/// Between two reports while results land.
const REPORT_EVERY: Duration = Duration::from_secs(2);
/// A report of a large sweep takes its time: at most this share of the coordinator's.
const REPORT_SHARE: u32 = 10;

#[derive(Debug)]
pub enum Step {
    Status(Box<SweepStatus>),
    Ended(TrialEnded),
    Note(String),
    Complete(Box<SweepStatus>),
}

pub struct Follower {
    pub client: Client,
    token: Option<Token>,
    sweep: String,
    stream: Option<Streaming<TailMessage>>,
    /// A coordinator of its own process that goes away does not come back.
    reconnects: bool,
    wait: Duration,
    away: bool,
}

impl Follower {
    pub fn new(client: Client, token: Option<Token>, sweep: &str, reconnects: bool) -> Self {
        Self { client, token, sweep: sweep.to_owned(), stream: None, reconnects, wait: AGAIN, away: false }
    }

    /// The next thing that happens. May be dropped while it waits: nothing is lost but an attempt to connect.
    pub async fn next(&mut self) -> Result<Step, ExpectedError> {
        loop {
            match self.try_next().await {
                Ok(Some(step)) => return Ok(step),
                // A message of a newer coordinator, or an end without a last word: ask again.
                Ok(None) => {}
                Err(ExpectedError::Unreachable { address, reason }) if self.reconnects => {
                    if !self.away {
                        talk::say(&format!("the coordinator at {address} is away ({reason}); trying again"));
                        self.away = true;
                    }
                }
                Err(error) => return Err(error),
            }
            if self.stream.is_none() {
                tokio::time::sleep(self.wait).await;
                self.wait = (self.wait * 2).min(AGAIN_AT_MOST);
            }
        }
    }

    async fn try_next(&mut self) -> Result<Option<Step>, ExpectedError> {
        if self.stream.is_none() {
            if self.away {
                self.client = Client::connect(&self.client.address, self.token.clone()).await?;
            }
            self.stream = Some(self.client.tail(&self.sweep).await?);
            if std::mem::take(&mut self.away) {
                talk::say("the coordinator is back");
            }
            self.wait = AGAIN;
        }
        let Some(stream) = &mut self.stream else { return Ok(None) };
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

    /// The report, waiting for a coordinator that is away.
    pub async fn report(&mut self) -> Result<ReportReply, ExpectedError> {
        loop {
            match self.client.report(&self.sweep).await {
                Err(ExpectedError::Unreachable { .. }) if self.reconnects => {
                    tokio::time::sleep(AGAIN).await;
                    if let Ok(client) = Client::connect(&self.client.address, self.token.clone()).await {
                        self.client = client;
                    }
                }
                answer => return answer,
            }
        }
    }
}

/// Submits, waiting for a coordinator that is not there yet or restarts at this moment.
pub async fn submit(
    address: &str,
    token: Option<&Token>,
    sweep: &sweep::Sweep,
    patience: Duration,
) -> Result<(Client, v1::SubmitReply), ExpectedError> {
    let deadline = Instant::now() + patience;
    let mut said = false;
    loop {
        let submitted = async {
            let mut client = Client::connect(address, token.cloned()).await?;
            let reply = client.submit(sweep).await?;
            Ok((client, reply))
        };
        match submitted.await {
            Err(ExpectedError::Unreachable { address, reason }) if Instant::now() < deadline => {
                if !std::mem::replace(&mut said, true) {
                    talk::say(&format!("the coordinator at {address} is not there ({reason}); trying again"));
                }
                tokio::time::sleep(AGAIN).await;
            }
            answer => return answer,
        }
    }
}

/// Writes the results folder, not more often than makes sense.
pub struct Writer {
    folder: ResultsFolder,
    dirty: bool,
    next: Instant,
}

impl Writer {
    pub fn new(folder: ResultsFolder) -> Self {
        Self { folder, dirty: false, next: Instant::now() }
    }

    pub fn folder(&self) -> &ResultsFolder {
        &self.folder
    }

    pub fn result_landed(&mut self) {
        self.dirty = true;
    }

    /// When the folder is to be written; never, while nothing has changed.
    pub async fn due(&self) {
        if self.dirty {
            tokio::time::sleep_until(self.next).await;
        } else {
            std::future::pending().await
        }
    }

    /// In the middle of a sweep: a coordinator that is away is asked later.
    pub async fn refresh(&mut self, client: &mut Client, sweep: &str) -> Result<Option<ReportReply>, ExpectedError> {
        let started = Instant::now();
        let report = match client.report(sweep).await {
            Ok(report) => report,
            Err(ExpectedError::Unreachable { .. }) => {
                self.next = Instant::now() + REPORT_EVERY;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        self.write(&report)?;
        self.next = Instant::now() + REPORT_EVERY.max(started.elapsed() * REPORT_SHARE);
        Ok(Some(report))
    }

    pub fn write(&mut self, report: &ReportReply) -> Result<(), ExpectedError> {
        self.dirty = false;
        self.folder.write(report.files.iter().map(|file| (file.name.as_str(), file.content.as_slice())))
    }
}
