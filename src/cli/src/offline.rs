//! Chooses the source of an answer: the named coordinator, else the one that runs on the state
//! directory, else its journal, read without changing it.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use coordinator::Answers;
use protocol::v1::FindReply;
use schedule::Config;
use schedule::state::{Millis, State};
use sweep::with_causes;

use crate::args::Target;
use crate::client::{Access, Client};
use crate::exit::ExpectedError;
use crate::{rendezvous, stderr};

pub enum Source {
    Live(Box<Client>),
    Journal(Box<Journal>),
}

impl Source {
    /// Finds what a user's word means: a sweep or, if a sweep is given, a trial of it.
    pub async fn find(&mut self, sweep: &str, text: &str) -> Result<FindReply, ExpectedError> {
        match self {
            Self::Live(client) => client.find(sweep, text).await,
            Self::Journal(journal) => Ok(journal.answers().find(sweep, text)?),
        }
    }

    /// Finds the trial of a sweep that a user's word means.
    pub async fn find_trial(&mut self, sweep: &str, text: &str) -> Result<String, ExpectedError> {
        let found = self.find(sweep, text).await?;
        if found.trial.is_empty() {
            return Err(ExpectedError::BadInput(format!(
                "cell `{}` of sweep `{sweep}` has no trials: it was left out when the sweep was submitted",
                found.cell
            )));
        }
        Ok(found.trial)
    }

    /// Returns the name of the sweep that a user's word means.
    pub async fn find_sweep(&mut self, text: &str) -> Result<String, ExpectedError> {
        Ok(self.find("", text).await?.sweep)
    }
}

/// The state of a journal that no coordinator uses.
pub struct Journal {
    pub state: State,
    pub state_dir: PathBuf,
    config: Config,
    read_at: Millis,
}

impl Journal {
    fn new(state: State, state_dir: &Path) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            state,
            state_dir: state_dir.to_path_buf(),
            config: Config::new(sweep::build()),
            read_at: since_1970.map_or(0, |since| since.as_millis() as Millis),
        }
    }

    /// Reads the journal of the state directory, whether or not a coordinator uses it.
    pub fn read(target: &Target) -> Result<Self, ExpectedError> {
        match journal::read(&target.state_dir) {
            Ok(state) => Ok(Self::new(state, &target.state_dir)),
            Err(journal::Error::Missing { .. }) => Err(no_journal(target)),
            Err(error) => Err(ExpectedError::Infrastructure {
                what: "the journal",
                reason: with_causes(&error),
            }),
        }
    }

    pub fn answers(&self) -> Answers<'_> {
        Answers::from_journal(&self.state, &self.config, self.read_at)
    }
}

/// Returns the source that can answer.
pub async fn source(target: &Target) -> Result<Source, ExpectedError> {
    if let Some(client) = live(target).await? {
        return Ok(Source::Live(Box::new(client)));
    }
    let journal = Journal::read(target)?;
    let place = target.state_dir.display();
    stderr::print(&match rendezvous::left_elsewhere(&target.state_dir) {
        None => format!("no coordinator runs on {place}: read from its journal"),
        Some(left) => format!("{left}: read from the journal of {place}"),
    });
    Ok(Source::Journal(Box::new(journal)))
}

/// Returns the named coordinator or the one on the state directory, `None` if none runs there.
pub async fn live(target: &Target) -> Result<Option<Client>, ExpectedError> {
    if let Some(address) = &target.coordinator {
        let access = Access::at(address, target.token_file_of(address))?;
        return Client::connect(access).await.map(Some);
    }
    let Some(found) = rendezvous::find(&target.state_dir) else {
        return Ok(None);
    };
    let access = Access::announced(&target.state_dir, &found, target.token_file.as_deref())?;
    match Client::connect(access).await {
        Ok(client) => Ok(Some(client)),
        // A stale file whose process id was reused by another process.
        Err(ExpectedError::Unreachable { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The error if there is neither a coordinator nor a journal.
pub fn no_journal(target: &Target) -> ExpectedError {
    ExpectedError::BadInput(format!(
        "no coordinator runs on the state directory {} and it holds no journal: name a coordinator with --coordinator, or its state directory with --state-dir",
        target.state_dir.display()
    ))
}
