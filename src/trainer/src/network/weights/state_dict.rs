//! PyTorch's state dicts: zip archives since version 1.6, a stream of pickles and raw storages
//! before.
//!
//! A checkpoint that keeps the state dict under `state_dict` is accepted, and a `module.` prefix on
//! every name (DataParallel) is dropped. Both forms are common: pre-trained weights come that way,
//! torchvision's older ones in the old form. Nothing is written in this format. Rejects compressed
//! archives and big-endian data. Next: pickle.rs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufReader, Cursor, Read, Seek};

use tch::{Kind, Tensor};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{self, Pickle, StoredTensor, Value};

/// Raw bytes and element type by storage key.
type Storages = BTreeMap<String, Vec<u8>>;

/// Reads the zip form; `bytes` begins with the zip magic.
pub fn read_archive(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, String> {
    let damaged = |error: ZipError| format!("the archive is damaged: {error}");
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
    let names: Result<Vec<String>, _> = archive
        .file_names()
        .map(|name| name.map(Cow::into_owned))
        .collect();
    let names = names.map_err(damaged)?;
    let root = names.iter().find_map(|name| name.strip_suffix("data.pkl"));
    let root = root.ok_or("the archive has no data.pkl")?.to_owned();
    if names.contains(&format!("{root}byteorder"))
        && entry(&mut archive, &format!("{root}byteorder"))? != b"little"
    {
        return Err("its numbers are big-endian".to_owned());
    }
    let top = pickle::read(&mut entry(&mut archive, &format!("{root}data.pkl"))?.as_slice())?;
    let mut storages = Storages::new();
    let mut left = bytes.len();
    for name in &names {
        if let Some(key) = name.strip_prefix(&format!("{root}data/")) {
            let storage = entry(&mut archive, name)?;
            left = left
                .checked_sub(storage.len())
                .ok_or("the archive's entries overlap")?;
            storages.insert(key.to_owned(), storage);
        }
    }
    tensors(&top, &storages)
}

fn entry(archive: &mut ZipArchive<impl Read + Seek>, name: &str) -> Result<Vec<u8>, String> {
    let damaged =
        |error: &dyn std::fmt::Display| format!("an entry of the archive is damaged: {error}");
    let mut file = archive.by_name(name).map_err(|error| damaged(&error))?;
    if file.compression() != CompressionMethod::Stored {
        return Err("an entry of the archive is compressed, which PyTorch never does".to_owned());
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .map_err(|error| damaged(&error))?;
    Ok(bytes)
}

/// Reads the form before 1.6: magic, protocol, system, the object, the list of keys, then a length
/// and bytes per key.
pub fn read_stream(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, String> {
    let mut reader = BufReader::new(bytes);
    pickle::read(&mut reader)?;
    match pickle::read(&mut reader)?.top {
        Value::Int(1001) => {}
        _ => return Err("it has an unknown protocol version".to_owned()),
    }
    pickle::read(&mut reader)?;
    let top = pickle::read(&mut reader)?;
    let keys = pickle::read(&mut reader)?;
    let keys = keys
        .list(&keys.top)
        .ok_or("it lacks the list of its storages")?;
    let mut storages = Storages::new();
    for key in keys {
        let Value::Text(key) = key else {
            return Err(format!("{} names one of its storages", key.kind()));
        };
        let mut length = [0; 8];
        reader
            .read_exact(&mut length)
            .map_err(|_| "it ends before its last storage".to_owned())?;
        // without its class its bytes could not be skipped
        let kind = top
            .storage_classes
            .get(&**key)
            .ok_or("nothing refers to one of its storages");
        let element = kind_of(kind?)?.elt_size_in_bytes() as u64;
        let expected = u64::from_le_bytes(length).saturating_mul(element);
        let mut storage = Vec::new();
        (&mut reader)
            .take(expected)
            .read_to_end(&mut storage)
            .map_err(|error| error.to_string())?;
        if storage.len() as u64 != expected {
            return Err("it ends inside a storage".to_owned());
        }
        storages.insert(key.to_string(), storage);
    }
    tensors(&top, &storages)
}

fn tensors(pickle: &Pickle, storages: &Storages) -> Result<BTreeMap<String, Tensor>, String> {
    let no_dict = "it holds no state dict; save model.state_dict()";
    let is_inner = |key: &Value| matches!(key, Value::Text(key) if &**key == "state_dict");
    let inner = pickle
        .dict(&pickle.top)
        .ok_or(no_dict)?
        .find(|(key, _)| is_inner(key))
        .map(|(_, value)| value);
    let dict = inner
        .filter(|value| matches!(value, Value::Dict(_)))
        .unwrap_or(&pickle.top);
    let mut tensors = BTreeMap::new();
    for (key, value) in pickle.dict(dict).ok_or(no_dict)? {
        let Value::Text(name) = key else {
            return Err(format!(
                "{} names one of its entries; save model.state_dict() and nothing else",
                key.kind()
            ));
        };
        let tensor = match value {
            Value::Tensor(tensor) => tensor,
            _ => {
                return Err(
                    "it holds more than tensors; save model.state_dict() and nothing else"
                        .to_owned(),
                );
            }
        };
        let tensor = materialise(tensor, storages)
            .map_err(|error| format!("tensor {}: {error}", tensors.len() + 1))?;
        tensors.insert(name.to_string(), tensor);
    }
    const PARALLEL: &str = "module.";
    if tensors.keys().all(|name| name.starts_with(PARALLEL)) {
        tensors = tensors
            .into_iter()
            .map(|(name, tensor)| (name[PARALLEL.len()..].to_owned(), tensor))
            .collect();
    }
    Ok(tensors)
}

fn materialise(tensor: &StoredTensor, storages: &Storages) -> Result<Tensor, String> {
    let StoredTensor {
        storage,
        offset,
        size,
        stride,
    } = tensor;
    let kind = kind_of(&storage.class)?;
    let bytes = storages.get(&storage.key).ok_or("its storage is missing")?;
    let length = bytes.len() / kind.elt_size_in_bytes();
    let used = &bytes[..length * kind.elt_size_in_bytes()];
    let first_line = |error: tch::TchError| {
        error
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    // with a stride of 0 a small storage could become any amount of memory
    let elements = size
        .iter()
        .try_fold(1i64, |count, &side| count.checked_mul(side));
    if elements.is_none_or(|elements| elements > length as i64) {
        return Err(format!(
            "its shape {size:?} has more elements than its storage, which has {length}"
        ));
    }
    let flat = Tensor::f_from_data_size(used, &[length as i64], kind).map_err(first_line)?;
    // rejects anything outside of the storage
    let view = flat
        .f_as_strided(size.as_slice(), stride.as_slice(), *offset)
        .map_err(first_line)?;
    Ok(view.to_kind(Kind::Float).contiguous())
}

fn kind_of(class: &str) -> Result<Kind, String> {
    match class {
        "DoubleStorage" => Ok(Kind::Double),
        "FloatStorage" => Ok(Kind::Float),
        "HalfStorage" => Ok(Kind::Half),
        "BFloat16Storage" => Ok(Kind::BFloat16),
        "LongStorage" => Ok(Kind::Int64),
        _ => Err(
            "its numbers are of an unknown class; weights are floating-point numbers".to_owned(),
        ),
    }
}
