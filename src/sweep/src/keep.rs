//! The files that a sweep keeps of its trials besides their results, and the words of `keep` in a
//! sweep file. None of it changes a trial or its id.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::trial::AttemptNo;

/// A thing that is kept of every trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// curves.csv and classes.csv of the results folder, from the results in the journal.
    Curves,
    /// The scores that the trained network gives each evaluation image.
    Predictions,
    /// The number of evaluation images by class and by predicted class.
    Confusion,
    /// The trained network.
    Weights,
}

pub type Keep = BTreeSet<Kept>;

impl Kept {
    pub const WORDS: &[(&str, Self)] = &[
        ("curves", Self::Curves),
        ("predictions", Self::Predictions),
        ("confusion", Self::Confusion),
        ("weights", Self::Weights),
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Curves => "curves",
            Self::Predictions => "predictions",
            Self::Confusion => "confusion",
            Self::Weights => "weights",
        }
    }

    pub fn of_word(word: &str) -> Option<Self> {
        let known = Self::WORDS.iter().find(|(name, _)| *name == word);
        known.map(|(_, kept)| *kept)
    }

    /// Returns the name of the file that a trainer writes; `None` for what the journal has.
    pub fn file(self) -> Option<&'static str> {
        self.ending().map(|(file, _)| file)
    }

    /// Returns that name with the attempt that wrote it, as in a checkpoint's name.
    pub fn file_of_attempt(self, attempt: AttemptNo) -> Option<String> {
        let (_, ending) = self.ending()?;
        Some(format!("{}.attempt-{attempt}.{ending}", self.word()))
    }

    /// Reads such a name.
    pub fn of_attempt_file(name: &str) -> Option<(Self, AttemptNo)> {
        let mut files = Self::WORDS.iter().filter_map(|(word, kept)| {
            let (_, ending) = kept.ending()?;
            let number = name
                .strip_prefix(&format!("{word}.attempt-"))?
                .strip_suffix(&format!(".{ending}"))?;
            Some((*kept, AttemptNo(number.parse().ok()?)))
        });
        files.next()
    }

    fn ending(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Curves => None,
            Self::Predictions => Some(("predictions.csv.gz", "csv.gz")),
            Self::Confusion => Some(("confusion.csv", "csv")),
            Self::Weights => Some(("weights.safetensors", "safetensors")),
        }
    }
}

/// Returns what is kept if the sweep file does not name it.
pub fn default_keep() -> Keep {
    BTreeSet::from([Kept::Curves])
}

pub(crate) fn is_default(keep: &Keep) -> bool {
    *keep == default_keep()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_files_are_those_of_the_journal_and_of_checkpoints() {
        for (word, kept) in Kept::WORDS {
            assert_eq!((kept.word(), Kept::of_word(word)), (*word, Some(*kept)));
            assert_eq!(serde_json::to_value(kept).unwrap(), *word);
        }
        let of = |kept: Kept| kept.file_of_attempt(AttemptNo(3));
        assert_eq!(of(Kept::Curves), None);
        assert_eq!(
            of(Kept::Predictions).unwrap(),
            "predictions.attempt-3.csv.gz"
        );
        assert_eq!(Kept::of_word("logits"), None);
        for kept in [Kept::Predictions, Kept::Weights] {
            let name = of(kept).unwrap();
            assert_eq!(Kept::of_attempt_file(&name), Some((kept, AttemptNo(3))));
            assert_eq!(Kept::of_attempt_file(&format!("{name}.partial")), None);
        }
    }
}
