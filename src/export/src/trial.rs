//! A trial as exporters see it: a line of `trials.jsonl`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// A trial that has ended, with a result or with a failure.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Trial {
    pub sweep: String,
    pub trial: String,
    pub cell: String,
    /// Names of the axis values.
    pub axes: BTreeMap<String, String>,
    pub seed: u64,
    /// `result` or `search`.
    pub role: String,
    /// The value that a search tried.
    pub candidate: Option<Value>,
    pub settings: Map<String, Value>,
    /// The fields of results.json of these names; absent if the trial failed.
    pub result: Option<BTreeMap<String, Option<f64>>>,
    pub provenance: Option<Map<String, Value>>,
    pub timing: Option<Map<String, Value>>,
    pub failure: Option<Failure>,
    pub attempts: Vec<Attempt>,
    /// The numbers of each epoch, in order.
    pub curve: Vec<BTreeMap<String, f64>>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Failure {
    pub class: String,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Attempt {
    started_at_ms: u64,
    ended_at_ms: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
#[error("a line of the trials cannot be read: does the coordinator have another version?")]
pub struct BadTrial(#[source] serde_json::Error);

impl Trial {
    pub fn parse(line: &str) -> Result<Self, BadTrial> {
        serde_json::from_str(line).map_err(BadTrial)
    }

    /// Returns the trial's id with the number of its last attempt, in characters that are valid in
    /// file names. Each training of the same trial has its own.
    pub fn attempt(&self) -> String {
        format!("{}-{}", self.trial, self.attempts.len())
    }

    /// Returns a name for people: `cos/10 seed 3`.
    pub fn name(&self) -> String {
        let candidate = self.candidate.as_ref();
        let candidate = candidate.map_or_else(String::new, |value| format!(" {}", plain(value)));
        let search = if self.role == "search" { " search" } else { "" };
        format!("{}{candidate} seed {}{search}", self.cell, self.seed)
    }

    /// Returns when the last attempt started and ended, in milliseconds since 1970.
    pub fn span_ms(&self) -> (u64, u64) {
        let Some(last) = self.attempts.last() else {
            return (0, 0);
        };
        let end = last.ended_at_ms.unwrap_or(last.started_at_ms);
        (last.started_at_ms, end.max(last.started_at_ms))
    }

    /// Returns the time given to the end of an epoch, in milliseconds since 1970. The journal has
    /// none, so epochs are spread evenly over the last attempt.
    pub fn epoch_ms(&self, epoch: usize) -> u64 {
        let (start, end) = self.span_ms();
        let (done, all) = (epoch as u128 + 1, self.curve.len().max(1) as u128);
        start + (u128::from(end - start) * done.min(all) / all) as u64
    }

    /// Returns what the trial was trained with, as numbers, truth values and text: its settings, its
    /// seed, and the axes that are no setting. What is off is left out, mappings are JSON.
    pub fn parameters(&self) -> BTreeMap<String, Value> {
        let axes = self.axes.iter();
        let axes = axes.map(|(axis, value)| (axis.clone(), Value::from(value.as_str())));
        let settings = self.settings.iter().filter(|(_, value)| !value.is_null());
        let settings = settings.map(|(name, value)| {
            let value = match value {
                Value::Array(_) | Value::Object(_) => Value::from(value.to_string()),
                plain => plain.clone(),
            };
            (name.clone(), value)
        });
        // a setting wins over the axis of its name, whose value is a label
        let mut parameters: BTreeMap<String, Value> = axes.chain(settings).collect();
        parameters.insert("seed".to_owned(), self.seed.into());
        parameters
    }

    /// Returns the numbers of the result, those about its duration included.
    pub fn numbers(&self) -> BTreeMap<String, f64> {
        let result = self.result.iter().flatten();
        let result = result.filter_map(|(name, value)| Some((name.clone(), (*value)?)));
        let timing = self.timing.iter().flatten();
        let timing = timing.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)));
        timing.chain(result).collect()
    }
}

/// Returns a value as text, without the quotes of JSON.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Two epochs of ten seconds each.
    pub fn trial() -> Trial {
        let line = serde_json::json!({
            "sweep": "demo", "trial": "t0123456789abcdef", "cell": "cos/10", "axes": {"loss": "cos", "bundle": "wide"},
            "seed": 3, "role": "result", "candidate": null, "status": "succeeded",
            "settings": {"loss": "cos", "learning_rate": 0.1, "nesterov": true, "max_norm": null, "schedule": {"kind": "cosine"}},
            "result": {"last_accuracy": 0.75, "best_epoch": 1, "last_top5_accuracy": null},
            "provenance": {"trainer": "0.1.0"},
            "timing": {"train_s": 20.0, "host": "node1"},
            "failure": null,
            "attempts": [{"started_at_ms": 500, "ended_at_ms": 600}, {"started_at_ms": 1_000, "ended_at_ms": 21_000}],
            "curve": [{"train_loss": 0.5, "accuracy": 0.7}, {"train_loss": 0.1}],
        });
        Trial::parse(&line.to_string()).unwrap()
    }

    #[test]
    fn parameters_are_plain_and_settings_win_over_labels() {
        let parameters = trial().parameters();
        let names: Vec<&str> = parameters.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "bundle",
                "learning_rate",
                "loss",
                "nesterov",
                "schedule",
                "seed"
            ]
        );
        assert_eq!(parameters["schedule"], r#"{"kind":"cosine"}"#);
        assert_eq!(parameters["bundle"], "wide");
    }

    #[test]
    fn epochs_are_spread_over_the_last_attempt() {
        let trial = trial();
        assert_eq!(trial.attempt(), "t0123456789abcdef-2");
        assert_eq!(
            [0, 1, 7].map(|epoch| trial.epoch_ms(epoch)),
            [11_000, 21_000, 21_000]
        );
    }

    #[test]
    fn numbers_leave_out_what_was_not_measured_and_text() {
        let numbers = trial().numbers();
        let names: Vec<&str> = numbers.keys().map(String::as_str).collect();
        assert_eq!(names, ["best_epoch", "last_accuracy", "train_s"]);
    }
}
