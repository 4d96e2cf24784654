//! Which tensors of a file go where, decided from names and shapes alone.
//!
//! All problems are collected before any is reported. A layer of the head is taken whole or not at
//! all: if a bias fits but its kernel does not, both belong to other classes. Does not guess
//! renamed or transposed tensors.

use std::collections::BTreeMap;
use std::fmt;

use crate::network::nn::Inventory;

/// Most names listed in an error; more are only counted, because a wrong file has hundreds of
/// mismatches.
const MAX_LISTED: usize = 12;

/// Decision by index into the inventory: true if the file's tensor is used. Tensors not used belong
/// to the head.
#[derive(Debug, PartialEq, Eq)]
pub struct Assignment {
    pub parameters: Vec<bool>,
    pub buffers: Vec<bool>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Problems {
    missing: Vec<String>,
    extra: Vec<String>,
    misshapen: Vec<String>,
}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = [
            ("missing", &self.missing),
            ("not in the model", &self.extra),
            ("of another shape", &self.misshapen),
        ];
        let mut separator = "";
        for (what, names) in groups.into_iter().filter(|(_, names)| !names.is_empty()) {
            let listed = names[..names.len().min(MAX_LISTED)].join(", ");
            write!(formatter, "{separator}{what}: {listed}")?;
            if names.len() > MAX_LISTED {
                write!(formatter, " and {} more", names.len() - MAX_LISTED)?;
            }
            separator = "; ";
        }
        Ok(())
    }
}

/// Decides which tensors to use. `found`: names and shapes in the file.
pub fn assign(
    inventory: &Inventory,
    found: &BTreeMap<&str, Vec<i64>>,
    head_layers: &[&str],
) -> Result<Assignment, Problems> {
    let mut problems = Problems::default();
    let parameters = inventory
        .parameters
        .iter()
        .map(|note| (note.name.as_str(), &note.shape));
    let buffers = inventory
        .buffers
        .iter()
        .map(|note| (note.name.as_str(), &note.shape));
    let wanted: BTreeMap<&str, &Vec<i64>> = parameters.clone().chain(buffers.clone()).collect();
    for (&name, &shape) in wanted
        .iter()
        .filter(|(name, _)| !is_below(name, head_layers))
    {
        match found.get(name) {
            None => problems.missing.push(name.to_owned()),
            Some(other) if other != shape => {
                problems.misshapen.push(format!(
                    "{name} is {other:?} in the file and {shape:?} in the model"
                ));
            }
            Some(_) => {}
        }
    }
    // torchvision's batch normalisations count batches; nothing uses the count
    let is_known = |name: &str| wanted.contains_key(name) || name.ends_with(".num_batches_tracked");
    let extra = found
        .keys()
        .filter(|name| !is_known(name) && !is_below(name, head_layers));
    problems.extra = extra.map(|&name| name.to_owned()).collect();
    if problems != Problems::default() {
        return Err(problems);
    }
    let fits = |name: &str| {
        wanted
            .get(name)
            .is_some_and(|&shape| found.get(name) == Some(shape))
    };
    let layer_fits = |name: &str| {
        wanted
            .keys()
            .filter(|other| layer(other) == layer(name))
            .all(|other| fits(other))
    };
    let taken = |name: &str| !is_below(name, head_layers) || layer_fits(name);
    Ok(Assignment {
        parameters: parameters.map(|(name, _)| taken(name)).collect(),
        buffers: buffers.map(|(name, _)| taken(name)).collect(),
    })
}

/// Returns the layer of a name: `fc` of `fc.weight`.
fn layer(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(layer, _)| layer)
}

fn is_below(name: &str, layers: &[&str]) -> bool {
    layers.iter().any(|layer| {
        name.strip_prefix(layer)
            .is_some_and(|rest| rest.starts_with('.'))
    })
}
