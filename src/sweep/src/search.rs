//! A search: the candidates that each cell chooses among before its trials count, and how they are
//! compared.
//!
//! Random candidates are drawn when the sweep is compiled, from counters: a value depends on the
//! seed of the search, the name of its field and the number of the draw, and on nothing else. Every
//! cell chooses among the same candidates.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::definition::Role;
use crate::held_out::Holdout;
use crate::settings::{Fields, Settings};

/// A search that chooses fields per cell before the cell's trials count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Search {
    pub candidates: Vec<Candidate>,
    /// Origin of random candidates; absent: the sweep file lists them, alone or as a grid.
    pub drawn: Option<Drawn>,
    pub select: Select,
    /// Part of the training subset that is held out while searching, with `Select::Validation`.
    pub holdout: Holdout,
    /// Accuracy by which candidates are compared, with `Select::Validation`.
    pub metric: Metric,
    /// Seeds of each candidate's search trials, with `Select::Validation`. With folds each is a
    /// pair: the seed of the subset, and the fold.
    pub seeds: Vec<u64>,
    /// True if the sweep file leaves the number of seeds to the program: each cell then takes as
    /// many of them as its held-out images require.
    pub automatic: bool,
}

/// Values for the fields that a search chooses: the same fields in every candidate.
///
/// Displayed as its values, in the order of the fields' names.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate(pub Fields);

/// The spaces that random candidates were drawn from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drawn {
    pub seed: u64,
    pub space: BTreeMap<String, Space>,
}

/// The possible values of one field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Space {
    Choice(Vec<Value>),
    /// Equally likely between two numbers.
    Uniform(f64, f64),
    /// With equally likely orders of magnitude.
    LogUniform(f64, f64),
}

/// Rule by which a search chooses among its candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// Train each candidate without the held-out split, choose by its accuracy there, then train on
    /// everything.
    Validation,
    /// The paper's protocol: train every candidate fully and report the best on the test set.
    BestOnTest,
}

/// The accuracy of a search trial by which its candidate is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// That of the last epoch.
    #[default]
    Last,
    /// Mean over this many evaluations, the last ones, or over all if there are fewer.
    MeanOfLast(u32),
}

/// Maximum number of evaluations in a mean.
pub const MAX_MEAN: u32 = 10;

impl Metric {
    /// Returns the number of evaluations that it is about, counted from the last.
    pub fn num_evaluations(self) -> usize {
        match self {
            Self::Last => 1,
            Self::MeanOfLast(count) => count as usize,
        }
    }

    fn is_last(&self) -> bool {
        *self == Self::Last
    }
}

/// Displayed as in a sentence.
impl fmt::Display for Metric {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last => formatter.write_str("the accuracy after the last epoch"),
            Self::MeanOfLast(count) => {
                write!(
                    formatter,
                    "the mean accuracy of the last {count} evaluations"
                )
            }
        }
    }
}

impl Search {
    /// Returns a search among values of one field, on a fifth of the images.
    pub fn among(field: &str, values: &[Value], select: Select, seeds: &[u64]) -> Self {
        let candidate =
            |value: &Value| Candidate(Fields::from([(field.to_owned(), value.clone())]));
        Self {
            candidates: values.iter().map(candidate).collect(),
            drawn: None,
            select,
            holdout: Holdout::Fraction(0.2),
            metric: Metric::Last,
            seeds: seeds.to_vec(),
            automatic: false,
        }
    }

    /// Returns the names of the fields that it chooses.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        let first = self.candidates.first();
        first
            .into_iter()
            .flat_map(|first| first.0.keys().map(String::as_str))
    }

    pub fn chooses(&self, field: &str) -> bool {
        self.fields().any(|name| name == field)
    }

    /// Returns the names of its fields as one text: `learning_rate, weight_decay`.
    pub fn label(&self) -> String {
        self.fields().collect::<Vec<_>>().join(", ")
    }

    /// Returns a candidate as `learning_rate=0.1 weight_decay=0.01`; `None` if there is none of that
    /// number.
    pub fn assignment(&self, candidate: usize) -> Option<String> {
        let fields = self.candidates.get(candidate)?.0.iter();
        let parts: Vec<String> = fields
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        Some(parts.join(" "))
    }

    /// Describes where its candidates come from: `4 values of learning_rate`.
    pub fn origin(&self) -> String {
        let count = self.candidates.len();
        match &self.drawn {
            None if self.fields().count() == 1 => format!("{count} values of {}", self.label()),
            None => format!("{count} combinations of {}", self.label()),
            Some(drawn) => {
                let of = |(name, space): (&String, &Space)| format!("{name} ({space})");
                let spaces: Vec<String> = drawn.space.iter().map(of).collect();
                format!(
                    "{count} random values (search seed {}) of {}",
                    drawn.seed,
                    spaces.join(", ")
                )
            }
        }
    }

    /// Returns a cell's settings with one of the candidates.
    pub(crate) fn with_candidate(
        &self,
        settings: &Settings,
        candidate: usize,
        role: Role,
    ) -> Settings {
        let settings = settings
            .with(&self.candidates[candidate].0)
            .expect("a compiled search holds valid candidates");
        match role {
            Role::Result => settings,
            Role::Search => Settings {
                holdout: Some(self.holdout),
                ..settings
            },
        }
    }
}

impl Candidate {
    /// Returns the value of its only field, or all its fields as an object.
    pub fn json(&self) -> Value {
        match self.0.len() {
            1 => self.0.values().next().cloned().unwrap_or_default(),
            _ => Value::Object(self.0.clone().into_iter().collect()),
        }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values: Vec<String> = self.0.values().map(Value::to_string).collect();
        formatter.pad(&values.join(", "))
    }
}

impl fmt::Display for Space {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Choice(values) => {
                let values: Vec<String> = values.iter().map(Value::to_string).collect();
                formatter.write_str(&values.join(", "))
            }
            Self::Uniform(low, high) => write!(formatter, "uniform from {low} to {high}"),
            Self::LogUniform(low, high) => write!(formatter, "log-uniform from {low} to {high}"),
        }
    }
}

impl Drawn {
    /// Returns the values of one draw. `whole`: fields that take whole numbers.
    pub(crate) fn candidate(&self, draw: u64, whole: impl Fn(&str) -> bool) -> Candidate {
        let value = |(name, space): (&String, &Space)| {
            let unit = unit(self.seed, name, draw);
            let number = match space {
                Space::Choice(values) => {
                    let index = (unit * values.len() as f64) as usize;
                    return (name.clone(), values[index.min(values.len() - 1)].clone());
                }
                Space::Uniform(low, high) => low + unit * (high - low),
                Space::LogUniform(low, high) => {
                    let (low, high) = (libm::log(*low), libm::log(*high));
                    libm::exp(low + unit * (high - low))
                }
            };
            let value = match whole(name) {
                true => Value::from(number.round() as u64),
                false => Value::from(rounded(number)),
            };
            (name.clone(), value)
        };
        Candidate(self.space.iter().map(value).collect())
    }
}

/// Returns a number in [0, 1) that depends on these three and nothing else.
fn unit(seed: u64, field: &str, draw: u64) -> f64 {
    let hash = blake3::hash(format!("search {seed} {field} {draw}").as_bytes());
    let mut bits = [0; 8];
    bits.copy_from_slice(&hash.as_bytes()[..8]);
    (u64::from_le_bytes(bits) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Rounds to four digits: what a table can print and a person can type.
fn rounded(number: f64) -> f64 {
    format!("{number:.3e}")
        .parse()
        .expect("a number was written")
}

/// A search in journals and results. One with a single field has the form that it had when there
/// was no other: the field, and its values.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    candidates: Vec<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drawn: Option<Drawn>,
    select: Select,
    holdout: Holdout,
    #[serde(default, skip_serializing_if = "Metric::is_last")]
    metric: Metric,
    seeds: Vec<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    automatic: bool,
}

impl TryFrom<Written> for Search {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let candidate = |value: Value| match (&written.field, value) {
            (Some(field), value) => Ok(Candidate(Fields::from([(field.clone(), value)]))),
            (None, Value::Object(fields)) => Ok(Candidate(fields.into_iter().collect())),
            (None, value) => Err(format!("candidate {value} does not name its fields")),
        };
        Ok(Self {
            candidates: written
                .candidates
                .into_iter()
                .map(candidate)
                .collect::<Result<_, _>>()?,
            drawn: written.drawn,
            select: written.select,
            holdout: written.holdout,
            metric: written.metric,
            seeds: written.seeds,
            automatic: written.automatic,
        })
    }
}

impl From<Search> for Written {
    fn from(search: Search) -> Self {
        let mut fields = search.fields();
        let field = match (fields.next(), fields.next()) {
            (Some(only), None) => Some(only.to_owned()),
            _ => None,
        };
        drop(fields);
        Self {
            field,
            candidates: search.candidates.iter().map(Candidate::json).collect(),
            drawn: search.drawn,
            select: search.select,
            holdout: search.holdout,
            metric: search.metric,
            seeds: search.seeds,
            automatic: search.automatic,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn drawn() -> Drawn {
        Drawn {
            seed: 0,
            space: BTreeMap::from([
                ("learning_rate".to_owned(), Space::LogUniform(1e-4, 0.1)),
                (
                    "batch_size".to_owned(),
                    Space::Choice(vec![json!(8), json!(16)]),
                ),
                ("momentum".to_owned(), Space::Uniform(0.5, 0.9)),
            ]),
        }
    }

    /// A journal of today must mean the same candidates tomorrow, on every machine.
    #[test]
    fn draws_are_golden_and_a_further_field_changes_none() {
        let mut drawn = drawn();
        let first = drawn.candidate(0, |_| false);
        assert_eq!(first.to_string(), GOLDEN);
        drawn.space.remove("momentum");
        let without = drawn.candidate(0, |_| false);
        assert_eq!(without.0["learning_rate"], first.0["learning_rate"]);
        drawn.seed = 1;
        assert_ne!(drawn.candidate(0, |_| false), without);
    }

    const GOLDEN: &str = "8, 0.007826, 0.5107";

    #[test]
    fn draws_cover_their_space_evenly() {
        let all: Vec<Candidate> = (0..1000)
            .map(|draw| drawn().candidate(draw, |_| false))
            .collect();
        let count =
            |holds: &dyn Fn(&Fields) -> bool| all.iter().filter(|one| holds(&one.0)).count();
        let number = |fields: &Fields, name: &str| fields[name].as_f64().unwrap_or_default();
        // A standard deviation is below 16 of 1000.
        for (what, found, expected) in [
            (
                "decade",
                count(&|one| number(one, "learning_rate") < 1e-3),
                333,
            ),
            (
                "decade",
                count(&|one| number(one, "learning_rate") >= 1e-2),
                333,
            ),
            ("half", count(&|one| number(one, "momentum") < 0.7), 500),
            ("choice", count(&|one| one["batch_size"] == json!(8)), 500),
        ] {
            assert!(found.abs_diff(expected) < 60, "{what}: {found} of 1000");
        }
        assert!(
            all.iter()
                .all(|one| (1e-4..=0.1).contains(&number(&one.0, "learning_rate")))
        );
    }

    #[test]
    fn a_search_of_one_field_is_written_as_it_always_was() {
        let old = json!({
            "field": "learning_rate", "candidates": [0.5, 0.1], "select": "validation",
            "holdout": 0.2, "seeds": [0, 1],
        });
        let search: Search = serde_json::from_value(old.clone()).unwrap();
        assert_eq!(search.candidates[1].to_string(), "0.1");
        assert_eq!(search.assignment(1).unwrap(), "learning_rate=0.1");
        assert_eq!(serde_json::to_value(&search).unwrap(), old);
    }

    #[test]
    fn several_fields_are_written_by_name() {
        let several = json!({
            "candidates": [{"batch_size": 8, "learning_rate": 0.1}], "select": "validation",
            "holdout": 0.2, "seeds": [0],
        });
        let search: Search = serde_json::from_value(several.clone()).unwrap();
        assert_eq!(search.label(), "batch_size, learning_rate");
        assert_eq!(search.candidates[0].to_string(), "8, 0.1");
        assert_eq!(serde_json::to_value(&search).unwrap(), several);
        let unnamed = json!({
            "candidates": [0.1], "select": "validation", "holdout": 0.2, "seeds": [0],
        });
        let refused = serde_json::from_value::<Search>(unnamed)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("does not name its fields"), "{refused}");
    }
}
