//! The end of the program: one error type for everything that is expected to go wrong, one exit
//! code for each error, and the text that documents them.

use std::path::PathBuf;

use coordinator::NoAnswer;
use sweep::with_causes;

/// Text shown by `--help`.
pub const EXIT_CODES: &str = "Exit codes:
  0    complete: every cell has its results, or the command did what was asked
  1    bad input: a sweep file, a flag, a name or data that is not there; nothing was started
  2    infrastructure: no coordinator, a refused token, a disk, a trainer that does not start
  3    the sweep is finished, but trials failed or were cancelled: the table has marked cells
  4    `verify`: the results contradict a claim; `check`: an archive is not what follows from it
  5    `verify`: no claim is contradicted, but this many seeds leave one undecided
  75   a worker left, and trials that it had are not finished: other workers continue them
  130  interrupted; what was done is kept, and the same command continues";

/// The errors that are expected, grouped by what the user must do about them.
#[derive(Debug, thiserror::Error)]
pub enum ExpectedError {
    /// The errors of a sweep or configuration file, already formatted with excerpts of the file.
    #[error("{0}")]
    InFile(String),
    #[error("{0}")]
    BadInput(String),
    /// The missing inputs, one line each, with the command that gets it.
    #[error("{} missing:\n{}", count(.0), list(.0))]
    Missing(Vec<String>),
    #[error(transparent)]
    Token(#[from] protocol::TokenError),
    #[error(transparent)]
    Devices(#[from] worker::devices::DeviceError),
    #[error("{action}: {message}")]
    Rejected {
        action: &'static str,
        message: String,
    },
    #[error("the coordinator at {address} cannot be reached: {reason}")]
    Unreachable { address: String, reason: String },
    #[error("the coordinator at {address} refused the command: {message}")]
    Refused { address: String, message: String },
    #[error("{action} failed at the coordinator: {message}")]
    Coordinator {
        action: &'static str,
        message: String,
    },
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("no trainer was found: {0}")]
    NoTrainer(String),
    #[error(
        "the trainer needs libtorch {}, which is not here yet: run `orchestrator setup` once",
        crate::libtorch::pins::version()
    )]
    NoLibtorch,
    /// The state directory belongs to another coordinator.
    #[error("the coordinator: {0}")]
    Taken(String),
    #[error("{what}: {reason}")]
    Infrastructure { what: &'static str, reason: String },
    #[error("cannot write to stdout")]
    Stdout(#[source] std::io::Error),
}

/// The end of a command that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Complete,
    /// Finished, with cells that lack results.
    FailedCells,
    /// Results contradict a claim, or an archive the events in it.
    Contradicted,
    /// Results leave a claim undecided, and contradict none.
    Undecided,
    /// A worker left before what it held was finished.
    WorkOutstanding,
    Interrupted,
}

impl Outcome {
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::FailedCells => 3,
            Self::Contradicted => 4,
            Self::Undecided => 5,
            Self::WorkOutstanding => 75,
            Self::Interrupted => 130,
        }
    }

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::FailedCells => "failed_cells",
            Self::Contradicted => "contradicted",
            Self::Undecided => "undecided",
            Self::WorkOutstanding => "work_outstanding",
            Self::Interrupted => "interrupted",
        }
    }
}

impl ExpectedError {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::InFile(_)
            | Self::BadInput(_)
            | Self::Missing(_)
            | Self::Token(_)
            | Self::Devices(_)
            | Self::Rejected { .. } => 1,
            Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::Coordinator { .. }
            | Self::File { .. }
            | Self::NoTrainer(_)
            | Self::NoLibtorch
            | Self::Taken(_)
            | Self::Infrastructure { .. }
            | Self::Stdout(_) => 2,
        }
    }

    /// Returns true if this is what a command sees of a coordinator that has ended. Its token is
    /// removed with it.
    pub fn coordinator_is_gone(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Coordinator { .. }
                | Self::Refused { .. }
                | Self::Token(_)
        )
    }

    /// Formats the message and its causes for stderr.
    pub fn render(&self) -> String {
        if let Self::InFile(drawn) = self {
            return drawn.clone();
        }
        format!("error: {}\n", with_causes(self))
    }

    pub fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }
}

impl From<NoAnswer> for ExpectedError {
    fn from(reason: NoAnswer) -> Self {
        Self::BadInput(reason.to_string())
    }
}

fn count(lines: &[String]) -> String {
    match lines.len() {
        1 => "1 thing is".to_owned(),
        number => format!("{number} things are"),
    }
}

fn list(lines: &[String]) -> String {
    lines
        .iter()
        .map(|line| format!("  - {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts depend on these numbers: `EXIT_CODES` lists each, and the code agrees with it.
    #[test]
    fn documented_codes() {
        let io = || std::io::Error::other("full");
        let found = [
            Outcome::Complete.exit_code(),
            ExpectedError::BadInput("x".into()).exit_code(),
            ExpectedError::file("write", "x")(io()).exit_code(),
            Outcome::FailedCells.exit_code(),
            Outcome::Contradicted.exit_code(),
            Outcome::Undecided.exit_code(),
            Outcome::WorkOutstanding.exit_code(),
            Outcome::Interrupted.exit_code(),
        ];
        assert_eq!(found, [0, 1, 2, 3, 4, 5, 75, 130]);
        for code in found {
            assert!(
                EXIT_CODES
                    .lines()
                    .any(|line| line.trim_start().starts_with(&format!("{code} "))),
                "{code}"
            );
        }
    }

    #[test]
    fn every_missing_thing_is_listed_with_its_reasons() {
        let missing =
            ExpectedError::Missing(vec!["cub: fetch it".into(), "w.pth: put it there".into()]);
        assert_eq!(
            missing.render(),
            "error: 2 things are missing:\n  - cub: fetch it\n  - w.pth: put it there\n"
        );
        let file = ExpectedError::file("write", "a/b")(std::io::Error::other("disk full"));
        assert_eq!(file.render(), "error: cannot write a/b: disk full\n");
    }
}
