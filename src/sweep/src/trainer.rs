//! The program that trains: the trainer of this project, or another one that implements its
//! hand-off. Two programs never share a trial: the program is part of a trial's id.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

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

impl Trainer {
    pub fn is_built_in(&self) -> bool {
        *self == Self::BuiltIn
    }
}

/// Formats `the built-in trainer`, ``the trainer `mine.sh` (0123456789ab)``.
impl fmt::Display for Trainer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => formatter.write_str("the built-in trainer"),
            Self::Foreign(program) => {
                let hash = program.hash.get(..12).unwrap_or(&program.hash);
                write!(formatter, "the trainer `{}` ({hash})", program.name)
            }
        }
    }
}
