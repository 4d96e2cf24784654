//! Weights from files (safetensors and PyTorch state dicts) and to safetensors, under torchvision's
//! names.
//!
//! A file fits a network or it does not: every missing, extra or misshapen tensor is named in one
//! error, and nothing is loaded. Only layers of the head may differ, on purpose: fine-tuning starts
//! with other classes, and such layers keep their initial values and are reported as new. Read
//! weights/assignment.rs, then weights/files.rs.

mod assignment;
mod files;
mod pickle;
mod state_dict;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};

use crate::network::nn::{Inventory, Storage};
use assignment::{Assignment, assign};
pub use files::{metadata, write};

#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("cannot read the weights file")]
    File(#[source] data::Error),
    #[error("cannot {action} the weights file {path}", path = path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} is not a weights file that can be read: {reason}", path = path.display())]
    Format { path: PathBuf, reason: String },
    #[error("the weights in {path} do not fit the model: {problems}", path = path.display())]
    Misfit {
        path: PathBuf,
        problems: assignment::Problems,
    },
    #[error("the weights in {path} are not finite: {names}", path = path.display())]
    NotFinite { path: PathBuf, names: String },
}

/// Weights that were read and fit, on the CPU in f32, by index into the inventory.
#[derive(Debug)]
pub struct Weights {
    parameters: Vec<Option<Tensor>>,
    buffers: Vec<Option<Tensor>>,
}

impl Weights {
    /// Reads a file for the network that `inventory` describes. `head_layers` are the names of
    /// layers that may be absent or of another size; names below them (`cls_head.fc` below
    /// `cls_head`) are included.
    pub fn read(
        path: &Path,
        inventory: &Inventory,
        head_layers: &[&str],
    ) -> Result<Self, WeightsError> {
        let mut found = files::read(path)?;
        let shapes = found
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor.size()))
            .collect();
        let Assignment {
            parameters,
            buffers,
        } = assign(inventory, &shapes, head_layers).map_err(|problems| WeightsError::Misfit {
            path: path.to_owned(),
            problems,
        })?;
        let mut take = |wanted: Vec<bool>, names: Vec<&String>| -> Vec<Option<Tensor>> {
            let tensors = wanted.into_iter().zip(names);
            tensors
                .map(|(wanted, name)| {
                    if wanted {
                        found.remove(name.as_str())
                    } else {
                        None
                    }
                })
                .collect()
        };
        let weights = Self {
            parameters: take(
                parameters,
                inventory.parameters.iter().map(|note| &note.name).collect(),
            ),
            buffers: take(
                buffers,
                inventory.buffers.iter().map(|note| &note.name).collect(),
            ),
        };
        weights.check_finite(path, inventory)?;
        Ok(weights)
    }

    fn check_finite(&self, path: &Path, inventory: &Inventory) -> Result<(), WeightsError> {
        let parameters = inventory
            .parameters
            .iter()
            .map(|note| &note.name)
            .zip(&self.parameters);
        let buffers = inventory
            .buffers
            .iter()
            .map(|note| &note.name)
            .zip(&self.buffers);
        let is_finite = |tensor: &Tensor| tensor.isfinite().all().int64_value(&[]) == 1;
        let broken = |(name, tensor): (&String, &Option<Tensor>)| {
            tensor
                .as_ref()
                .is_some_and(|tensor| !is_finite(tensor))
                .then(|| name.clone())
        };
        let names: Vec<String> = parameters.chain(buffers).filter_map(broken).collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(WeightsError::NotFinite {
            path: path.to_owned(),
            names: names.join(", "),
        })
    }

    /// Copies the weights into a replica's storage; the new layers keep their values.
    pub fn load_into<G>(&self, inventory: &Inventory, storage: &mut Storage<G>) {
        let _guard = tch::no_grad_guard();
        for (index, tensor) in self.parameters.iter().enumerate() {
            if let Some(tensor) = tensor {
                storage.master(inventory, index).copy_(tensor);
            }
        }
        for (buffer, tensor) in storage.buffers.iter_mut().zip(&self.buffers) {
            if let Some(tensor) = tensor {
                buffer.copy_(tensor);
            }
        }
        storage.refresh_working_copy();
    }
}

/// Writes all parameters and moving statistics in f32 as safetensors, under names that
/// torchvision's networks load (`load_state_dict(safetensors.torch.load_file(path))`). The file
/// appears complete or not at all.
pub fn export<G>(
    path: &Path,
    inventory: &Inventory,
    storage: &Storage<G>,
    metadata: HashMap<String, String>,
) -> Result<(), WeightsError> {
    write(path, named(inventory, storage), metadata)
}

/// Returns weights and moving statistics in f32, under torchvision's names. They share the
/// storage's memory.
pub fn named<G>(inventory: &Inventory, storage: &Storage<G>) -> Vec<(String, Tensor)> {
    let _guard = tch::no_grad_guard();
    let parameters = inventory.parameters.iter().enumerate();
    let parameters =
        parameters.map(|(index, note)| (note.name.clone(), storage.master(inventory, index)));
    let buffers = inventory.buffers.iter().zip(&storage.buffers);
    let buffers = buffers.map(|(note, tensor)| (note.name.clone(), tensor.shallow_clone()));
    parameters
        .chain(buffers)
        .map(|(name, tensor)| (name, tensor.to_kind(Kind::Float)))
        .collect()
}
