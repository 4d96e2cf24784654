//! A sweep's own training code: the compiled form of `program:`, with the fields that it declares
//! and their possible values.
//!
//! `program_block.rs` reads the block, `trainer.rs` has the identity of the frozen files.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::field::{self, Complaint, Field, Kind, did_you_mean, show};
use crate::settings::Fields;

/// Settings that mean the same for every program: the data set and its splits.
pub(crate) const COMMON: [&str; 4] = ["dataset", "samples_per_class", "holdout", "evaluate_every"];
/// The field for the number of epochs of a program. The built-in trainer has a `schedule` instead.
pub(crate) const EPOCHS: &str = "epochs";
/// Largest archive of a program's files.
pub const MAX_ARCHIVE_BYTES: u64 = 64 << 20;
/// Largest number of files of a program.
pub const MAX_PROGRAM_FILES: usize = 10_000;
/// Number of hexadecimal digits of an archive's hash.
pub const HASH_DIGITS: usize = 32;
/// Largest number of fields.
pub const MAX_DECLARED: usize = 64;
/// Words that mark an environment variable as a secret, which no trainer receives.
pub const SECRETS: [&str; 4] = ["TOKEN", "SECRET", "PASSWORD", "CREDENTIAL"];
/// Largest number of entries of each list: words of a command, files, variables.
pub const MAX_WORDS: usize = 1024;

/// The compiled `program:` of a sweep.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramBlock {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Files and folders, relative to the folder of the sweep file.
    pub files: Vec<String>,
    /// The working folder, relative to the folder of the sweep file; empty for that folder itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub folder: String,
    /// Environment variables of the worker that the program receives in addition to the usual ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Arc<OwnField>>,
}

/// The libraries of a program, which must be on the worker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Environment {
    /// A virtual environment of Python.
    Venv(String),
    /// The prefix of a conda environment.
    Conda(String),
    /// An image for apptainer.
    Container(String),
}

impl Environment {
    pub fn path(&self) -> &str {
        match self {
            Self::Venv(path) | Self::Conda(path) | Self::Container(path) => path,
        }
    }
}

/// A field that a sweep's `program:` declares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnField {
    pub name: String,
    pub kind: OwnKind,
    pub default: Value,
    /// False if no axis and no search may set it.
    #[serde(default = "default_axis", skip_serializing_if = "is_true")]
    pub axis: bool,
}

const fn default_axis() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_true(flag: &bool) -> bool {
    *flag
}

/// Possible values of a field of a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OwnKind {
    Flag,
    /// One line.
    Text,
    OneOf(Vec<String>),
    Integer {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<i64>,
    },
    Number {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<f64>,
    },
}

/// Longest text of a field.
const MAX_TEXT: usize = 4096;

impl OwnKind {
    /// Describes the possible values, for messages.
    pub fn expected(&self) -> String {
        let range = |what: &str, from: Option<String>, to: Option<String>| match (from, to) {
            (None, None) => what.to_owned(),
            (Some(from), None) => format!("{what} from {from}"),
            (None, Some(to)) => format!("{what} up to {to}"),
            (Some(from), Some(to)) => format!("{what} from {from} to {to}"),
        };
        match self {
            Self::Flag => "true or false".to_owned(),
            Self::Text => "text of one line".to_owned(),
            Self::OneOf(words) => format!("one of {}", words.join(", ")),
            Self::Integer { from, to } => range(
                "a whole number",
                from.map(|low| low.to_string()),
                to.map(|high| high.to_string()),
            ),
            Self::Number { from, to } => range(
                "a number",
                from.map(|low| low.to_string()),
                to.map(|high| high.to_string()),
            ),
        }
    }

    /// Checks a value and returns it in its normal form, so that equal settings have equal ids: the
    /// number `1` becomes `1.0`.
    pub fn check(&self, value: &Value) -> Result<Value, Complaint> {
        let complain = |problem: &str| {
            Complaint::new(format!("is {}, which is {problem}", show(value)))
                .help(format!("write {}", self.expected()))
        };
        let wrong_type = || complain("the wrong type");
        match self {
            Self::Flag => value
                .is_boolean()
                .then(|| value.clone())
                .ok_or_else(wrong_type),
            Self::Text => {
                let text = value.as_str().ok_or_else(wrong_type)?;
                let is_line = text.len() <= MAX_TEXT && !text.contains(char::is_control);
                is_line
                    .then(|| value.clone())
                    .ok_or_else(|| complain("not one line"))
            }
            Self::OneOf(words) => {
                let text = value.as_str().ok_or_else(wrong_type)?;
                if words.iter().any(|word| word == text) {
                    return Ok(value.clone());
                }
                let help = did_you_mean(text, words.iter().map(String::as_str))
                    .unwrap_or_else(|| format!("possible: {}", words.join(", ")));
                Err(Complaint::new(format!("is `{text}`, which does not exist")).help(help))
            }
            Self::Integer { from, to } => {
                let number = value.as_i64().ok_or_else(wrong_type)?;
                let inside =
                    from.is_none_or(|low| number >= low) && to.is_none_or(|high| number <= high);
                inside
                    .then(|| value.clone())
                    .ok_or_else(|| complain("out of range"))
            }
            Self::Number { from, to } => {
                let number = value.as_f64().ok_or_else(wrong_type)?;
                let inside =
                    from.is_none_or(|low| number >= low) && to.is_none_or(|high| number <= high);
                inside
                    .then(|| Value::from(number))
                    .ok_or_else(|| complain("out of range"))
            }
        }
    }
}

/// Returns the hash under which an archive is stored.
pub fn archive_hash(archive: &[u8]) -> String {
    blake3::hash(archive).to_hex()[..HASH_DIGITS].to_owned()
}

impl ProgramBlock {
    pub fn field(&self, name: &str) -> Option<&Arc<OwnField>> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Returns the declared fields with their defaults.
    pub fn defaults(&self) -> Fields {
        let default = |field: &Arc<OwnField>| (field.name.clone(), field.default.clone());
        self.fields.iter().map(default).collect()
    }

    /// Returns the name of the program for people: the file that it runs, without its folder.
    pub fn name(&self) -> String {
        let runs = self.command.iter().find(|word| self.contains(word));
        let path = runs.or(self.command.first()).map_or("", String::as_str);
        path.rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// Returns true if a path is one of the program's files.
    fn contains(&self, path: &str) -> bool {
        let plain = |path: &str| {
            path.trim_start_matches("./")
                .trim_end_matches('/')
                .to_owned()
        };
        let path = plain(path);
        self.files
            .iter()
            .map(|file| plain(file))
            .any(|file| file == path || file == "." || path.starts_with(&format!("{file}/")))
    }
}

/// A field of the built-in trainer, or one that a program declares.
#[derive(Clone, Debug)]
pub(crate) enum FieldRef {
    BuiltIn(&'static Field),
    Own(Arc<OwnField>),
}

impl FieldRef {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::BuiltIn(field) => field.name,
            Self::Own(field) => &field.name,
        }
    }

    /// Returns true if `null` switches it off.
    pub(crate) fn is_optional(&self) -> bool {
        match self {
            Self::BuiltIn(field) => field.optional,
            Self::Own(_) => false,
        }
    }

    /// Returns true if an axis or a search may set it.
    pub(crate) fn may_vary(&self) -> bool {
        match self {
            Self::BuiltIn(_) => true,
            Self::Own(field) => field.axis,
        }
    }

    /// Returns true if its values are whole numbers.
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            Self::BuiltIn(field) => matches!(field.kind, Kind::Count(..) | Kind::CountOr(..)),
            Self::Own(field) => matches!(field.kind, OwnKind::Integer { .. }),
        }
    }

    pub(crate) fn is_number(&self) -> bool {
        let is_real = match self {
            Self::BuiltIn(field) => matches!(field.kind, Kind::Real(_)),
            Self::Own(field) => matches!(field.kind, OwnKind::Number { .. }),
        };
        is_real || self.is_whole()
    }

    pub(crate) fn check(&self, value: &Value) -> Result<Value, Complaint> {
        match self {
            Self::BuiltIn(field) => field.check(value),
            Self::Own(_) if value.is_null() => {
                Err(Complaint::new("has no value").help(format!("write {}", self.expected())))
            }
            Self::Own(field) => field.kind.check(value),
        }
    }

    fn expected(&self) -> String {
        match self {
            Self::BuiltIn(field) => field.kind.expected(),
            Self::Own(field) => field.kind.expected(),
        }
    }
}

/// The fields that a sweep file can set: those of the built-in trainer, or those that its `program:`
/// declares and the common ones.
#[derive(Clone, Debug, Default)]
pub(crate) enum Namespace {
    #[default]
    BuiltIn,
    Program(Vec<FieldRef>),
}

impl Namespace {
    pub(crate) fn of(block: &ProgramBlock) -> Self {
        let common = COMMON.iter().filter_map(|name| field::find(name));
        let own = block.fields.iter().cloned().map(FieldRef::Own);
        let epochs = FieldRef::Own(Arc::new(epochs_field()));
        Self::Program(
            common
                .map(FieldRef::BuiltIn)
                .chain([epochs])
                .chain(own)
                .collect(),
        )
    }

    pub(crate) fn find(&self, name: &str) -> Option<FieldRef> {
        match self {
            Self::BuiltIn => field::find(name).map(FieldRef::BuiltIn),
            Self::Program(fields) => fields.iter().find(|field| field.name() == name).cloned(),
        }
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        match self {
            Self::BuiltIn => field::names().collect(),
            Self::Program(fields) => fields.iter().map(FieldRef::name).collect(),
        }
    }

    /// Suggests what to write instead of a name that is not a field.
    pub(crate) fn help_for(&self, name: &str) -> Option<String> {
        match self {
            Self::BuiltIn => field::help_for(name),
            Self::Program(_) => did_you_mean(name, self.names().into_iter()).or_else(|| {
                Some(format!(
                    "declare it: `program: {{fields: {{{name}: DEFAULT}}}}`; this sweep has {}",
                    self.names().join(", ")
                ))
            }),
        }
    }
}

/// Returns the declaration of `epochs`, which every program has.
fn epochs_field() -> OwnField {
    OwnField {
        name: EPOCHS.to_owned(),
        kind: OwnKind::Integer {
            from: Some(1),
            to: Some(100_000),
        },
        default: Value::from(1),
        axis: true,
    }
}
