//! A trial: one training, a cell of the grid and a seed; and the ids by which everything refers to it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::settings::Settings;

/// Version of what training means. It enters every trial's id: raise it when a change to the trainer or the data path
/// changes results for equal settings, so that old and new results never share a cell unnoticed.
pub const TRAINING_VERSION: u32 = 6;

/// Everything that decides the result of one training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialSpec {
    pub settings: Settings,
    pub seed: u64,
    /// A rehearsal whose results never mix with real ones: `SMOKE_EPOCHS` epochs of one step each, on generated tiny
    /// stand-in images, with drawn weights and a made-up hierarchy where the settings name files.
    pub smoke: bool,
}

/// Two, so that a rehearsal passes a learning rate change, a checkpoint and an epoch border.
pub const SMOKE_EPOCHS: u32 = 2;

impl TrialSpec {
    /// Epochs this trial runs.
    pub fn num_epochs(&self) -> u32 {
        let epochs = self.settings.num_epochs();
        if self.smoke { epochs.min(SMOKE_EPOCHS) } else { epochs }
    }

    /// Whether the evaluation set is looked at after this epoch, counted from 0.
    pub fn evaluates_after(&self, epoch: u32) -> bool {
        (epoch + 1).is_multiple_of(self.settings.evaluate_every.max(1)) || epoch + 1 == self.num_epochs()
    }

    /// The hash of everything that decides the result.
    pub fn id(&self) -> TrialId {
        let canonical = serde_json::to_vec(&(TRAINING_VERSION, self)).expect("settings are plain data");
        let hash = blake3::hash(&canonical);
        let mut bytes = [0; TrialId::LENGTH];
        bytes.copy_from_slice(&hash.as_bytes()[..TrialId::LENGTH]);
        TrialId(bytes)
    }
}

/// Shown as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrialId([u8; TrialId::LENGTH]);

impl TrialId {
    const LENGTH: usize = 8;

    /// Before every other id in order: where ranges begin.
    pub const MIN: Self = Self([0; Self::LENGTH]);
}

impl fmt::Display for TrialId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for TrialId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a trial id: 16 hexadecimal digits were expected")]
pub struct BadTrialId(pub String);

impl FromStr for TrialId {
    type Err = BadTrialId;

    fn from_str(text: &str) -> Result<Self, BadTrialId> {
        let bad = || BadTrialId(text.to_owned());
        if text.len() != 2 * Self::LENGTH || !text.is_ascii() {
            return Err(bad());
        }
        let mut bytes = [0; Self::LENGTH];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| bad())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for TrialId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TrialId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The n-th try at a trial, from 1: the fencing token of every message about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AttemptNo(pub u32);

impl fmt::Display for AttemptNo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
