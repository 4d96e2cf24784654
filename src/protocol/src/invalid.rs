//! The one error of conversion, and the checks that several messages share.

use serde::de::DeserializeOwned;
use sweep::{AttemptNo, TrialId};

use crate::limits::{MAX_DOCUMENT_BYTES, MAX_NAME_BYTES, MAX_TEXT_BYTES};
use crate::v1;

/// What is wrong with a message, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}`: {problem}")]
pub struct Invalid {
    /// Path from the message: `hello.slots[2].devices[0]`.
    pub field: String,
    pub problem: String,
}

impl Invalid {
    pub fn new(field: impl Into<String>, problem: impl ToString) -> Self {
        Self { field: field.into(), problem: problem.to_string() }
    }
}

impl From<Invalid> for tonic::Status {
    fn from(invalid: Invalid) -> Self {
        tonic::Status::invalid_argument(invalid.to_string())
    }
}

/// A message field that must be there.
pub(crate) fn present<T>(field: &str, value: Option<T>) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::new(field, "is missing"))
}

pub(crate) fn at_most(field: &str, what: &str, count: usize, limit: usize) -> Result<(), Invalid> {
    if count > limit {
        return Err(Invalid::new(field, format!("has {count} {what}, at most {limit} are allowed")));
    }
    Ok(())
}

/// A name: not empty, short, without control characters (it ends up in logs and on terminals).
pub(crate) fn name(field: &str, value: String) -> Result<String, Invalid> {
    if value.is_empty() {
        return Err(Invalid::new(field, "is empty"));
    }
    at_most(field, "bytes", value.len(), MAX_NAME_BYTES)?;
    match value.chars().find(|character| character.is_control()) {
        Some(character) => Err(Invalid::new(field, format!("holds the control character {character:?}"))),
        None => Ok(value),
    }
}

/// Free text for people; control characters are replaced, for it is shown on terminals.
pub(crate) fn text(field: &str, value: String) -> Result<String, Invalid> {
    at_most(field, "bytes", value.len(), MAX_TEXT_BYTES)?;
    Ok(plain(value))
}

/// Keeps newlines and tabs.
pub(crate) fn plain(value: String) -> String {
    let harmful = |character: char| character.is_control() && character != '\n' && character != '\t';
    if value.contains(harmful) { value.replace(harmful, "\u{fffd}") } else { value }
}

/// The longest beginning of `value` that is at most `limit` bytes.
pub(crate) fn shortened(mut value: String, limit: usize) -> String {
    if value.len() > limit {
        let end = (0..=limit).rev().find(|&end| value.is_char_boundary(end)).unwrap_or(0);
        value.truncate(end);
    }
    value
}

/// The error is serde's, with line and column.
pub(crate) fn document<T: DeserializeOwned>(field: &str, json: &[u8]) -> Result<T, Invalid> {
    at_most(field, "bytes", json.len(), MAX_DOCUMENT_BYTES)?;
    serde_json::from_slice(json).map_err(|error| Invalid::new(field, error))
}

pub(crate) fn attempt_ref(field: &str, value: Option<v1::AttemptRef>) -> Result<(TrialId, AttemptNo), Invalid> {
    let value = present(field, value)?;
    let trial = value.trial.parse().map_err(|error| Invalid::new(format!("{field}.trial"), error))?;
    if value.attempt == 0 {
        return Err(Invalid::new(format!("{field}.attempt"), "is 0; attempts are counted from 1"));
    }
    Ok((trial, AttemptNo(value.attempt)))
}

pub(crate) fn to_attempt_ref(trial: TrialId, attempt: AttemptNo) -> Option<v1::AttemptRef> {
    Some(v1::AttemptRef { trial: trial.to_string(), attempt: attempt.0 })
}
