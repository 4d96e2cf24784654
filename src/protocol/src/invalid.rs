//! The error type of conversion, and the checks that several messages share.

use std::fmt::Display;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use sweep::text::Line;

use crate::limits::{MAX_DOCUMENT_BYTES, MAX_NAME_BYTES};

/// A problem with a message, and the field that has it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}`: {problem}")]
pub struct Invalid {
    /// Path from the message: `hello.slots[2].devices[0]`.
    pub field: String,
    pub problem: String,
}

impl Invalid {
    pub fn new(field: impl Into<String>, problem: impl ToString) -> Self {
        Self {
            field: field.into(),
            problem: problem.to_string(),
        }
    }
}

impl From<Invalid> for tonic::Status {
    fn from(invalid: Invalid) -> Self {
        tonic::Status::invalid_argument(invalid.to_string())
    }
}

/// Returns a message field that must be present.
pub(crate) fn present<T>(field: &str, value: Option<T>) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::new(field, "is missing"))
}

pub(crate) fn at_most(field: &str, what: &str, count: usize, limit: usize) -> Result<(), Invalid> {
    if count > limit {
        return Err(Invalid::new(
            field,
            format!("has {count} {what}, at most {limit} are allowed"),
        ));
    }
    Ok(())
}

/// Checks a name: not empty, short, without control characters (names end up in logs and on
/// terminals).
pub fn name(field: &str, value: String) -> Result<String, Invalid> {
    if value.is_empty() {
        return Err(Invalid::new(field, "is empty"));
    }
    at_most(field, "bytes", value.len(), MAX_NAME_BYTES)?;
    let shown = Line::from(value.as_str());
    if *shown != *value {
        return Err(Invalid::new(
            field,
            format!("holds control characters: {}", value.escape_debug()),
        ));
    }
    Ok(value)
}

/// Checks a name that may be empty, which means every name.
pub fn optional_name(field: &str, value: String) -> Result<String, Invalid> {
    if value.is_empty() {
        Ok(value)
    } else {
        name(field, value)
    }
}

/// Checks a reason or a description, for people.
pub fn line(field: &str, value: &str) -> Result<Line, Invalid> {
    Line::checked(value).map_err(|too_long| Invalid::new(field, too_long))
}

/// Parses a JSON document. The error is serde's, with line and column.
pub(crate) fn document<T: DeserializeOwned>(field: &str, json: &[u8]) -> Result<T, Invalid> {
    at_most(field, "bytes", json.len(), MAX_DOCUMENT_BYTES)?;
    serde_json::from_slice(json).map_err(|error| Invalid::new(field, error))
}

/// Parses the id of a trial or of an attempt.
pub(crate) fn id<T>(field: &str, value: impl AsRef<str>) -> Result<T, Invalid>
where
    T: FromStr,
    T::Err: Display,
{
    value
        .as_ref()
        .parse()
        .map_err(|error| Invalid::new(field, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_optional_name_is_empty_or_a_name() {
        for accepted in ["", "table1"] {
            assert_eq!(
                optional_name("sweep", accepted.to_owned()).unwrap(),
                accepted
            );
        }
        let refused = optional_name("sweep", "a\x1b".to_owned()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "field `sweep`: holds control characters: a\\u{1b}"
        );
    }
}
