//! Reading pickles as data: nothing of a pickle is ever run, and what a damaged one announces is not believed.

use std::path::Path;

use serde_pickle::{DeOptions, Value};

use crate::error::Error;

pub(super) fn value(path: &Path, bytes: &[u8], options: DeOptions) -> Result<Value, Error> {
    serde_pickle::value_from_slice(bytes, options).map_err(|error| {
        // The library quotes the value that it did not expect, which may be the whole file.
        let reason: String = error.to_string().chars().take(200).collect();
        Error::malformed(path, format!("it is not a pickle, or damaged: {reason}"))
    })
}
