//! The program that trains: the trainer of this project, another one that implements its hand-off
//! (`--trainer`), or the one that a sweep brings along (`program:`). Two programs never share a
//! trial: the program is part of a trial's id.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::program::Environment;

/// The program that trains a trial.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Trainer {
    /// `orchestrator-trainer`. Its versions differ in `TRAINING_VERSION`.
    #[default]
    BuiltIn,
    /// Identified by its executable, whatever it reports about itself.
    Foreign(Arc<Program>),
    /// The program of a sweep, frozen when the sweep was submitted.
    Submitted(Arc<Submitted>),
}

/// An executable file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// The file's name without its folder: a program's behaviour may depend on its name.
    pub name: String,
    /// Hash of the file's bytes.
    pub hash: String,
}

/// The program of a sweep: its frozen files, and how it is started.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Submitted {
    /// Its name for people: `train.py`.
    pub name: String,
    /// Hash of the archive of its files, under which it is stored: 32 hexadecimal digits.
    pub archive: String,
    /// Size of the archive in bytes.
    pub bytes: u64,
    /// Hash of each file, by its path in the archive: shows what changed.
    pub files: BTreeMap<String, String>,
    pub command: Vec<String>,
    /// The working folder in the archive; empty: its root.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub folder: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
}

/// The part of a trainer that decides results.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Identity<'a> {
    BuiltIn,
    Foreign(&'a Program),
    /// Files, command and working folder. Where its libraries are is the machine's business.
    Submitted(&'a str, &'a [String], &'a str),
}

impl Trainer {
    pub fn is_built_in(&self) -> bool {
        *self == Self::BuiltIn
    }

    /// Returns true if a worker with the program `other` trains its trials: workers fetch the
    /// programs of sweeps.
    pub fn runs_on(&self, other: &Self) -> bool {
        matches!(self, Self::Submitted(_)) || self == other
    }

    pub fn submitted(&self) -> Option<&Arc<Submitted>> {
        match self {
            Self::Submitted(program) => Some(program),
            Self::BuiltIn | Self::Foreign(_) => None,
        }
    }

    pub(crate) fn identity(&self) -> Identity<'_> {
        match self {
            Self::BuiltIn => Identity::BuiltIn,
            Self::Foreign(program) => Identity::Foreign(program),
            Self::Submitted(program) => {
                Identity::Submitted(&program.archive, &program.command, &program.folder)
            }
        }
    }
}

impl Submitted {
    /// Lists the differences from an earlier program, for people: `train.py changed`.
    pub fn changes_since(&self, before: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        for (path, hash) in &self.files {
            match before.files.get(path) {
                None => changes.push(format!("{path} is new")),
                Some(then) if then != hash => changes.push(format!("{path} changed")),
                Some(_) => {}
            }
        }
        let gone = before
            .files
            .keys()
            .filter(|path| !self.files.contains_key(*path));
        changes.extend(gone.map(|path| format!("{path} is gone")));
        if self.command != before.command {
            changes.push("the command changed".to_owned());
        }
        if self.folder != before.folder {
            changes.push("the working folder changed".to_owned());
        }
        if changes.is_empty() && self.archive != before.archive {
            changes.push("the mode of a file changed".to_owned());
        }
        changes
    }
}

/// Formats `the built-in trainer`, ``the trainer `mine.sh` (0123456789ab)``, ``the program `train.py`
/// (0123456789ab)``.
impl fmt::Display for Trainer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, name, hash) = match self {
            Self::BuiltIn => return formatter.write_str("the built-in trainer"),
            Self::Foreign(program) => ("trainer", &program.name, &program.hash),
            Self::Submitted(program) => ("program", &program.name, &program.archive),
        };
        let hash = hash.get(..12).unwrap_or(hash);
        write!(formatter, "the {what} `{name}` ({hash})")
    }
}
