//! Named tensors in files: safetensors and PyTorch's state dicts read, safetensors written.
//!
//! The content determines the format, not the name. Tensors are returned as f32 on the CPU. Never
//! runs code from a file, and never quotes a file that is not a weights file: a sweep may name any
//! file. Next: state_dict.rs.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use tch::{Device, Kind, Tensor};

use super::{WeightsError, state_dict};

type Named = BTreeMap<String, Tensor>;

const ZIP_MAGIC: &[u8] = b"PK\x03\x04";
const PICKLE_MAGIC: &[u8] = b"\x80\x02";

pub fn read(path: &Path) -> Result<Named, WeightsError> {
    let bytes =
        data::files::read(path, data::files::MAX_WEIGHTS_BYTES).map_err(WeightsError::File)?;
    let format = |reason: String| WeightsError::Format {
        path: path.to_owned(),
        reason,
    };
    let named = if bytes.starts_with(ZIP_MAGIC) {
        state_dict::read_archive(&bytes)
    } else if bytes.starts_with(PICKLE_MAGIC) {
        state_dict::read_stream(&bytes)
    } else if bytes.get(8) == Some(&b'{') {
        read_safetensors(&bytes)
    } else {
        Err("its content is neither safetensors nor a PyTorch state dict".to_owned())
    };
    let named = named.map_err(format)?;
    if named.is_empty() {
        return Err(format("it holds no tensors".to_owned()));
    }
    Ok(named)
}

/// Returns the metadata of a safetensors file; none for other formats.
pub fn metadata(path: &Path) -> Result<HashMap<String, String>, WeightsError> {
    let bytes =
        data::files::read(path, data::files::MAX_WEIGHTS_BYTES).map_err(WeightsError::File)?;
    let read = SafeTensors::read_metadata(&bytes).ok();
    let metadata = read.and_then(|(_, metadata)| metadata.metadata().clone());
    Ok(metadata.unwrap_or_default())
}

fn read_safetensors(bytes: &[u8]) -> Result<Named, String> {
    // The library's own message may quote the header.
    let file = SafeTensors::deserialize(bytes)
        .map_err(|_| "its header is damaged, or it was cut".to_owned())?;
    let read = |(name, view): (&str, TensorView<'_>)| {
        let kind = match view.dtype() {
            Dtype::F64 => Kind::Double,
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::I64 => Kind::Int64,
            other => {
                return Err(format!(
                    "a tensor has the type {other:?}; weights are floating-point numbers"
                ));
            }
        };
        let shape: Vec<i64> = view.shape().iter().map(|&length| length as i64).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, kind)
            .map_err(|error| error.to_string())?;
        Ok((name.to_owned(), tensor.to_kind(Kind::Float)))
    };
    file.iter().map(read).collect()
}

/// Writes tensors as row-major f32, whatever their layout.
pub fn write(
    path: &Path,
    tensors: Vec<(String, Tensor)>,
    metadata: HashMap<String, String>,
) -> Result<(), WeightsError> {
    let contents: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let shape = tensor
                .size()
                .into_iter()
                .map(|length| length as usize)
                .collect();
            let values = Vec::<f32>::try_from(tensor.to_device(Device::Cpu).contiguous().view(-1))
                .expect("an f32 tensor");
            (
                name,
                shape,
                values.into_iter().flat_map(f32::to_le_bytes).collect(),
            )
        })
        .collect();
    let bytes = write_safetensors(&contents, metadata).map_err(|error| WeightsError::Format {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    write_whole(path, &bytes).map_err(|source| WeightsError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

fn write_safetensors(
    contents: &[(String, Vec<usize>, Vec<u8>)],
    mut metadata: HashMap<String, String>,
) -> Result<Vec<u8>, safetensors::SafeTensorError> {
    let mut views = Vec::with_capacity(contents.len());
    for (name, shape, bytes) in contents {
        views.push((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?));
    }
    // other readers of the format look for this
    metadata.insert("format".to_owned(), "pt".to_owned());
    safetensors::serialize(views, Some(metadata))
}

/// Replaces a file atomically: a reader sees the old file or the new one, never a partial one.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let unfinished = path.with_extension(format!("{}.unfinished", std::process::id()));
    // remove the leftover of a process with this id, or a link placed there to have its target
    // overwritten
    let _ = fs::remove_file(&unfinished);
    let written = File::create_new(&unfinished).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    });
    if written.is_err() {
        // the first error is the one to report
        let _ = fs::remove_file(&unfinished);
    }
    written
}
