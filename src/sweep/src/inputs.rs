//! Files that a sweep names but does not contain: data sets, weights, hierarchies. Their content
//! affects results like settings do, so it is part of a trial's identity. The `data` crate reads
//! and hashes it; this module holds the outcome.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::dataset;
use crate::definition::Sweep;
use crate::settings::{Embedding, Settings};
use crate::trial::TrialSpec;

/// The content of inputs, by name as [`Input`] formats it.
pub type Inputs = BTreeMap<String, Arc<Content>>;

/// Something outside the sweep that a training reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input<'a> {
    /// The name in the sweep file: `cub`, `folder:PATH`.
    Dataset(&'a str),
    /// The path in the sweep file.
    Weights(&'a str),
    Hierarchy(&'a str),
}

/// Formats `data set folder:t`, `weights w.safetensors`, `hierarchy tree.txt`.
impl fmt::Display for Input<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dataset(name) => write!(formatter, "data set {name}"),
            Self::Weights(path) => write!(formatter, "weights {path}"),
            Self::Hierarchy(path) => write!(formatter, "hierarchy {path}"),
        }
    }
}

/// Hash and size of the files of one input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Hash of the names, classes and bytes of all its files: 32 hexadecimal digits. Equal hashes
    /// mean equal content.
    pub hash: String,
    pub files: u64,
    pub bytes: u64,
    /// Hashes of its parts, to locate a difference: single files if there are few, otherwise
    /// folders, or ranges of folders. At most [`Content::MAX_PARTS`], 16 hexadecimal digits each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, String>,
}

impl Content {
    pub const MAX_PARTS: usize = 256;

    /// Lists where two contents differ, for people: `train/cat/3.png differs`. Empty if the parts
    /// do not show it.
    pub fn differences(&self, wanted: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let comparable = self
            .parts
            .keys()
            .any(|part| wanted.parts.contains_key(part));
        if !comparable {
            return found;
        }
        for (part, hash) in &wanted.parts {
            match self.parts.get(part) {
                None => found.push(format!("{part} is missing")),
                Some(here) if here != hash => found.push(format!("{part} differs")),
                Some(_) => {}
            }
        }
        let additional = self
            .parts
            .keys()
            .filter(|part| !wanted.parts.contains_key(*part));
        found.extend(additional.map(|part| format!("{part} is additional")));
        found
    }
}

/// Formats `1,234 files, 5.6 MiB`.
impl fmt::Display for Content {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = if self.files == 1 { "file" } else { "files" };
        let size = match self.bytes {
            0..10_000 => format!("{} bytes", self.bytes),
            10_000..10_000_000 => format!("{:.1} kB", self.bytes as f64 / 1e3),
            10_000_000..10_000_000_000 => format!("{:.1} MB", self.bytes as f64 / 1e6),
            _ => format!("{:.1} GB", self.bytes as f64 / 1e9),
        };
        write!(formatter, "{} {files}, {size}", self.files)
    }
}

impl TrialSpec {
    /// Accepts the content that the trial was submitted with. The error gives the differences and
    /// the fix.
    pub fn accept(&self, name: &str, here: &Content) -> Result<(), String> {
        let Some(wanted) = self
            .inputs
            .get(name)
            .filter(|wanted| wanted.hash != here.hash)
        else {
            return Ok(());
        };
        let mut differences = here.differences(wanted);
        let more = differences.len().saturating_sub(MAX_DIFFERENCES);
        differences.truncate(MAX_DIFFERENCES);
        if more > 0 {
            differences.push(format!("and {more} more"));
        }
        let differences = if differences.is_empty() {
            String::new()
        } else {
            format!(": {}", differences.join(", "))
        };
        Err(format!(
            "{name} is not what the sweep was submitted with{differences}; it has {here} here and had {wanted} there. \
             Give this host the same files and retry, or submit the sweep again from where they are as they should be"
        ))
    }
}

/// Maximum number of differences in a message.
const MAX_DIFFERENCES: usize = 5;

impl Sweep {
    /// Returns a sentence for each input that both this revision and the previous one read and
    /// whose content differs.
    pub fn changed_inputs(&self, before: &Self) -> BTreeMap<String, String> {
        let mut changes = BTreeMap::new();
        let appeared = self
            .inputs
            .keys()
            .any(|name| !before.inputs.contains_key(name));
        let unknown_before = if appeared {
            before.unknown_inputs()
        } else {
            BTreeSet::new()
        };
        for (name, now) in &self.inputs {
            let sentence = match before.inputs.get(name) {
                Some(then) if then.hash != now.hash => format!("the content of {name} changed"),
                None if unknown_before.contains(name) => {
                    format!("the content of {name} was not known before")
                }
                Some(_) | None => continue,
            };
            changes.insert(name.clone(), sentence);
        }
        let vanished = before
            .inputs
            .keys()
            .any(|name| !self.inputs.contains_key(name));
        let unknown_now = if vanished {
            self.unknown_inputs()
        } else {
            BTreeSet::new()
        };
        let forgotten = before
            .inputs
            .keys()
            .filter(|name| unknown_now.contains(*name));
        changes.extend(forgotten.map(|name| {
            (
                name.clone(),
                format!("the content of {name} is not known any more"),
            )
        }));
        changes
    }

    /// Returns the names of all inputs that the cells read and whose content is unknown.
    pub fn unknown_inputs(&self) -> BTreeSet<String> {
        let mut unknown = BTreeSet::new();
        for cell in self
            .cells
            .iter()
            .filter(|cell| !self.smoke && cell.skipped.is_none())
        {
            let settings = self.cell_settings(cell);
            let names = settings.inputs().into_iter().map(|input| input.to_string());
            unknown.extend(names.filter(|name| !self.inputs.contains_key(name)));
        }
        unknown
    }
}

impl Settings {
    /// Returns all inputs of a training with these settings.
    pub fn inputs(&self) -> Vec<Input<'_>> {
        let mut inputs = Vec::new();
        if !dataset::is_built_in(&self.dataset) && !self.dataset.is_empty() {
            inputs.push(Input::Dataset(&self.dataset));
        }
        inputs.extend(self.weights.as_deref().map(Input::Weights));
        if let Embedding::Hierarchy(file) = &self.embedding {
            inputs.push(Input::Hierarchy(&file.path));
        }
        inputs
    }
}

/// Returns the known inputs that these settings read.
pub(crate) fn of_settings(known: &Inputs, settings: &Settings) -> Inputs {
    if known.is_empty() {
        return Inputs::new();
    }
    let names = settings.inputs().into_iter().map(|input| input.to_string());
    names
        .filter_map(|name| known.get_key_value(&name))
        .map(|(name, content)| (name.clone(), content.clone()))
        .collect()
}

/// Returns the hashes that enter an id. The parts do not: the same content can be grouped
/// differently.
pub(crate) fn hashes(inputs: &Inputs) -> BTreeMap<&str, &str> {
    inputs
        .iter()
        .map(|(name, content)| (name.as_str(), content.hash.as_str()))
        .collect()
}
