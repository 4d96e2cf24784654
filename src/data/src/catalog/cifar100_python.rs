//! The Python form of CIFAR-100: pickles of dictionaries with `bytes` keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_pickle::{DeOptions, HashableValue, Value};

use super::cifar100::{check_names, interleave};
use super::found::{Arrays, Content, Found, Labelled, all_there, numbers, widen};
use crate::error::Error;
use crate::files;
use crate::formats::pickle;

const IMAGE: usize = 3 * 32 * 32;

pub(super) fn find(root: PathBuf) -> Result<Found, Error> {
    let (train, test, meta) = (root.join("train"), root.join("test"), root.join("meta"));
    let files = vec![train.clone(), test.clone(), meta.clone()];
    all_there("cifar100", files.iter())?;
    let class_names = names(&meta)?;
    check_names(&meta, &class_names)?;
    let read = move || {
        Ok(Arrays {
            height: 32,
            width: 32,
            train: split(&train)?,
            test: split(&test)?,
        })
    };
    Ok(Found {
        root: Some(root),
        channels: 3,
        class_ids: numbers(class_names.len()),
        class_names,
        files,
        content: Content::Arrays(Box::new(read)),
        notes: Vec::new(),
    })
}

type Dictionary = BTreeMap<HashableValue, Value>;

fn dictionary(path: &Path) -> Result<Dictionary, Error> {
    let bytes = files::read(path, files::MAX_ARRAY_BYTES)?;
    // numpy's reconstruction calls are kept as plain values; no call of a pickle is ever executed.
    let options = DeOptions::new().replace_unresolved_globals();
    match pickle::value(path, &bytes, options)? {
        Value::Dict(dictionary) => Ok(dictionary),
        _ => Err(Error::malformed(path, "it is not a pickled dictionary")),
    }
}

/// Returns the entry under a key that is `bytes` or, written by Python 3, a string.
fn entry<'a>(path: &Path, dictionary: &'a Dictionary, key: &str) -> Result<&'a Value, Error> {
    let as_bytes = HashableValue::Bytes(key.as_bytes().to_vec());
    let found = dictionary
        .get(&as_bytes)
        .or_else(|| dictionary.get(&HashableValue::String(key.to_owned())));
    found.ok_or_else(|| Error::malformed(path, format!("it has no entry `{key}`")))
}

fn names(path: &Path) -> Result<Vec<String>, Error> {
    let dictionary = dictionary(path)?;
    let Value::List(names) = entry(path, &dictionary, "fine_label_names")? else {
        return Err(Error::malformed(path, "`fine_label_names` is not a list"));
    };
    let name = |value: &Value| match value {
        Value::String(name) => Ok(name.clone()),
        Value::Bytes(name) => Ok(String::from_utf8_lossy(name).into_owned()),
        _ => Err(Error::malformed(
            path,
            "`fine_label_names` holds something that is not a string",
        )),
    };
    names.iter().map(name).collect()
}

fn split(path: &Path) -> Result<Labelled, Error> {
    let mut dictionary = dictionary(path)?;
    let Value::List(labels) = entry(path, &dictionary, "fine_labels")? else {
        return Err(Error::malformed(path, "`fine_labels` is not a list"));
    };
    let label = |value: &Value| match value {
        Value::I64(label) => u8::try_from(*label).ok(),
        _ => None,
    };
    let labels: Option<Vec<u8>> = labels.iter().map(label).collect();
    let labels = labels.ok_or_else(|| {
        Error::malformed(path, "`fine_labels` holds something that is not a class")
    })?;
    let labels = widen(path, &labels, 100)?;
    entry(path, &dictionary, "data")?;
    let data = dictionary
        .remove(&HashableValue::Bytes(b"data".to_vec()))
        .or_else(|| dictionary.remove(&HashableValue::String("data".to_owned())));
    let planes = array(data)
        .ok_or_else(|| Error::malformed(path, "`data` is not a numpy array of bytes in C order"))?;
    if labels.is_empty() || planes.len() != labels.len() * IMAGE {
        let reason = format!(
            "`data` has {} bytes for {} images of {IMAGE}",
            planes.len(),
            labels.len()
        );
        return Err(Error::malformed(path, reason));
    }
    let mut pixels = Vec::with_capacity(planes.len());
    planes
        .chunks_exact(IMAGE)
        .for_each(|image| interleave(image, &mut pixels));
    Ok(Labelled { labels, pixels })
}

/// Returns the bytes of a pickled numpy array. Its state is (version, shape, dtype, is Fortran
/// order, bytes); the types of the classes around it are ignored.
fn array(value: Option<Value>) -> Option<Vec<u8>> {
    let Value::Tuple(mut state) = value? else {
        return None;
    };
    if state.len() != 5 || !matches!(state[3], Value::Bool(false)) {
        return None;
    }
    match state.pop() {
        Some(Value::Bytes(bytes)) => Some(bytes),
        _ => None,
    }
}
