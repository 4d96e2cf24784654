//! A trial, which is one training (a cell of the grid and a seed), and the ids that everything
//! refers to it by.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::inputs::{Inputs, hashes};
use crate::settings::{Fields, Settings};
use crate::trainer::Trainer;

/// Version of the training semantics. It is part of every trial's id: raise it if a change to the
/// trainer or the data path changes results for equal settings, so that old and new results never
/// share a cell unnoticed.
pub const TRAINING_VERSION: u32 = 6;

/// Everything that decides the result of one training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TrialSpec {
    #[cfg_attr(test, schemars(with = "crate::settings::Fields"))]
    pub settings: Settings,
    pub seed: u64,
    /// True for a rehearsal, whose results never mix with real ones: `SMOKE_EPOCHS` epochs of one
    /// step each, on generated tiny images, with random weights and a made-up hierarchy if the
    /// settings name files.
    pub smoke: bool,
    /// Content of the inputs that the settings name, as known where the sweep was submitted.
    /// Unknown ones are absent. A rehearsal has none.
    #[serde(default, skip_serializing_if = "Inputs::is_empty")]
    pub inputs: Inputs,
    /// The program that must train it.
    #[serde(default, skip_serializing_if = "Trainer::is_built_in")]
    pub trainer: Trainer,
}

/// Two, so that a rehearsal includes a learning rate change, a checkpoint and an epoch boundary.
pub const SMOKE_EPOCHS: u32 = 2;

impl TrialSpec {
    /// Returns a training by the built-in trainer on data of unknown content.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            seed,
            smoke: false,
            inputs: Inputs::new(),
            trainer: Trainer::BuiltIn,
        }
    }

    /// Returns the number of epochs of this trial.
    pub fn num_epochs(&self) -> u32 {
        let epochs = self.settings.num_epochs();
        if self.smoke {
            epochs.min(SMOKE_EPOCHS)
        } else {
            epochs
        }
    }

    /// Returns true if the trial is evaluated after this epoch, counted from 0.
    pub fn evaluates_after(&self, epoch: u32) -> bool {
        let interval = self.settings.evaluation_interval();
        (epoch + 1).is_multiple_of(interval) || epoch + 1 == self.num_epochs()
    }

    /// Returns the hash of everything that decides the result.
    pub fn id(&self) -> TrialId {
        // destructured, so that a new field cannot be forgotten here
        let Self {
            settings,
            seed,
            smoke,
            inputs,
            trainer,
        } = self;
        let decides = (
            TRAINING_VERSION,
            match settings.program {
                // The fields that the program has, and no others.
                Some(_) => Decisive::OfProgram(settings.fields()),
                None => Decisive::BuiltIn(settings.in_ids()),
            },
            seed,
            smoke,
            hashes(inputs),
            trainer.identity(),
        );
        let canonical = serde_json::to_vec(&decides).expect("a specification is plain data");
        let hash = blake3::hash(&canonical);
        let mut bytes = [0; TrialId::LENGTH];
        bytes.copy_from_slice(&hash.as_bytes()[..TrialId::LENGTH]);
        TrialId(bytes)
    }
}

/// The settings that decide a result.
#[derive(Serialize)]
#[serde(untagged)]
enum Decisive<S> {
    BuiltIn(S),
    OfProgram(Fields),
}

/// The id of a trial, displayed as a `t` and 16 hexadecimal digits, so that no program takes it for
/// a number (`884182218182e510` is one).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrialId([u8; TrialId::LENGTH]);

impl TrialId {
    const LENGTH: usize = 8;
    const DIGITS: usize = 2 * Self::LENGTH;

    /// The lowest id, where ranges begin.
    pub const MIN: Self = Self([0; Self::LENGTH]);

    /// Returns the 64 bits of the hash.
    pub const fn bits(self) -> u64 {
        u64::from_be_bytes(self.0)
    }

    /// Returns the id of this trial's attempt with this number.
    pub const fn attempt(self, number: AttemptNo) -> AttemptId {
        AttemptId {
            trial: self,
            number,
        }
    }
}

impl fmt::Display for TrialId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "t{:0digits$x}",
            self.bits(),
            digits = Self::DIGITS
        )
    }
}

impl fmt::Debug for TrialId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The error for a text that is not the id of a trial.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a trial id: `t` and 16 hexadecimal digits were expected")]
pub struct BadTrialId(pub String);

/// Accepts ids with or without the `t`, which journals of older versions lack.
impl FromStr for TrialId {
    type Err = BadTrialId;

    fn from_str(text: &str) -> Result<Self, BadTrialId> {
        let digits = text.strip_prefix('t').unwrap_or(text);
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bits = u64::from_str_radix(digits, 16)
            .ok()
            .filter(|_| is_hex && digits.len() == Self::DIGITS);
        bits.map(|bits| Self(bits.to_be_bytes()))
            .ok_or_else(|| BadTrialId(text.to_owned()))
    }
}

impl Serialize for TrialId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TrialId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The beginning of an id as a person types it: with or without the `t`, in either case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialPrefix {
    text: String,
    digits: String,
}

/// Reason why the beginning of an id identifies no trial.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotATrial {
    #[error("`{0}` is no trial id: `t` and up to 16 hexadecimal digits were expected")]
    Malformed(String),
    #[error("no trial's id begins with `{0}`")]
    Unknown(String),
    #[error("`{text}` begins several trial ids: {first}, {second}, ...")]
    Ambiguous {
        text: String,
        first: TrialId,
        second: TrialId,
    },
}

impl FromStr for TrialPrefix {
    type Err = NotATrial;

    fn from_str(text: &str) -> Result<Self, NotATrial> {
        let digits = text
            .strip_prefix(['t', 'T'])
            .unwrap_or(text)
            .to_ascii_lowercase();
        let fits = (1..=TrialId::DIGITS).contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !fits {
            return Err(NotATrial::Malformed(text.escape_debug().take(80).collect()));
        }
        Ok(Self {
            text: text.to_owned(),
            digits,
        })
    }
}

impl TrialPrefix {
    /// Returns the lowest id with this beginning.
    pub fn lowest(&self) -> TrialId {
        let digits = format!("{:0<width$}", self.digits, width = TrialId::DIGITS);
        digits.parse().expect("sixteen hexadecimal digits")
    }

    pub fn begins(&self, id: TrialId) -> bool {
        id.to_string()[1..].starts_with(&self.digits)
    }

    /// Returns the only one of these ids with this beginning.
    pub fn find(&self, ids: impl IntoIterator<Item = TrialId>) -> Result<TrialId, NotATrial> {
        let mut found = ids.into_iter().filter(|id| self.begins(*id));
        let text = self.text.clone();
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(id),
            (Some(first), Some(second)) => Err(NotATrial::Ambiguous {
                text,
                first,
                second,
            }),
            (None, _) => Err(NotATrial::Unknown(text)),
        }
    }
}

/// Number of an attempt at a trial, from 1: the fencing token of every message about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct AttemptNo(pub u32);

impl AttemptNo {
    pub const fn first() -> Self {
        Self(1)
    }
}

impl fmt::Display for AttemptNo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The id of an attempt, displayed as the trial's id and the number: `t884182218182e510#2`. In JSON
/// it has two fields, `trial` and `attempt`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AttemptId {
    pub trial: TrialId,
    #[serde(rename = "attempt")]
    pub number: AttemptNo,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}#{}", self.trial, self.number)
    }
}

impl fmt::Debug for AttemptId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Reason why a text is no attempt id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAttemptId {
    #[error(transparent)]
    Trial(#[from] BadTrialId),
    #[error("`{0}` is not an attempt id: a trial id, `#` and a number from 1 were expected")]
    Number(String),
}

impl FromStr for AttemptId {
    type Err = BadAttemptId;

    fn from_str(text: &str) -> Result<Self, BadAttemptId> {
        let malformed = || BadAttemptId::Number(text.escape_debug().take(80).collect());
        let (trial, number) = text.split_once('#').ok_or_else(malformed)?;
        let is_decimal = number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number
            .parse()
            .ok()
            .filter(|number| is_decimal && *number > 0)
            .ok_or_else(malformed)?;
        Ok(trial.parse::<TrialId>()?.attempt(AttemptNo(number)))
    }
}

#[cfg(test)]
impl schemars::JsonSchema for TrialId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TrialId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^t[0-9a-f]{16}$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> TrialId {
        text.parse().expect("an id")
    }

    #[test]
    fn an_id_begins_with_a_letter_and_is_read_with_and_without_it() {
        let one = id("884182218182e510");
        assert_eq!(one.to_string(), "t884182218182e510");
        assert_eq!(id("t884182218182e510"), one);
        assert_eq!(
            serde_json::to_string(&one).unwrap(),
            "\"t884182218182e510\""
        );
        assert_eq!(
            serde_json::from_str::<TrialId>("\"884182218182e510\"").unwrap(),
            one
        );
        for bad in [
            "",
            "t",
            "t88418221",
            "+84182218182e510",
            "t+84182218182e510",
            "tt84182218182e510",
            "884182218182e5100",
        ] {
            assert_eq!(bad.parse::<TrialId>(), Err(BadTrialId(bad.to_owned())));
        }
    }

    #[test]
    fn an_attempt_id_is_read_as_it_is_displayed() {
        let attempt = id("t884182218182e510").attempt(AttemptNo(2));
        assert_eq!(attempt.to_string(), "t884182218182e510#2");
        assert_eq!("t884182218182e510#2".parse(), Ok(attempt));
        assert_eq!(
            serde_json::to_string(&attempt).unwrap(),
            r#"{"trial":"t884182218182e510","attempt":2}"#
        );
        for bad in [
            "t884182218182e510",
            "t884182218182e510#",
            "t884182218182e510#0",
            "t884182218182e510#+1",
            "t884182218182e510#-1",
            "t884182218182e510#1#2",
            "t884182218182e510#4294967296",
        ] {
            assert_eq!(
                bad.parse::<AttemptId>(),
                Err(BadAttemptId::Number(bad.to_owned()))
            );
        }
        assert_eq!(
            "t1#1".parse::<AttemptId>(),
            Err(BadAttemptId::Trial(BadTrialId("t1".to_owned())))
        );
    }

    #[test]
    fn the_beginning_of_an_id_finds_it() {
        let ids = [
            id("0012000000000000"),
            id("0013000000000000"),
            id("ab00000000000000"),
        ];
        let find = |text: &str| {
            text.parse::<TrialPrefix>()
                .and_then(|prefix| prefix.find(ids))
        };
        assert_eq!(
            (find("t0012"), find("0012"), find("T0012")),
            (Ok(ids[0]), Ok(ids[0]), Ok(ids[0]))
        );
        assert_eq!(
            (find("AB"), find("tab00000000000000")),
            (Ok(ids[2]), Ok(ids[2]))
        );
        let ambiguous = find("t001").unwrap_err().to_string();
        assert_eq!(
            ambiguous,
            "`t001` begins several trial ids: t0012000000000000, t0013000000000000, ..."
        );
        assert_eq!(
            find("t5").unwrap_err().to_string(),
            "no trial's id begins with `t5`"
        );
        for bad in ["", "t", "xyz", "t00120000000000001"] {
            assert!(matches!(find(bad), Err(NotATrial::Malformed(_))), "{bad}");
        }
        assert_eq!("t0013".parse::<TrialPrefix>().unwrap().lowest(), ids[1]);
    }
}
