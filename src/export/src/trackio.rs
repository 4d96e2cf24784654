//! Fragments for trackio: lines of JSON, which its dashboard takes in when it starts.
//!
//! trackio removes a fragment once it has read it. Reading it twice has no effect, because each
//! record has an id of its own.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::trial::Trial;
use crate::{Error, Exporter, files};

/// Version of trackio's fragments.
const VERSION: u32 = 1;
/// Folder of `TRACKIO_DIR` in which trackio looks for fragments.
const INBOX: &str = "inbox";

pub struct Fragments {
    folder: PathBuf,
    /// Attempts whose fragments this process has written: they may be gone by now.
    written: HashSet<String>,
}

impl Fragments {
    /// Writes below a `TRACKIO_DIR`.
    pub fn new(trackio: &Path, sweep: &str) -> Self {
        Self {
            folder: trackio.join(INBOX).join(format!("orchestrator-{sweep}")),
            written: HashSet::new(),
        }
    }
}

impl Exporter for Fragments {
    fn trial(&mut self, trial: &Trial) -> Result<(), Error> {
        let attempt = trial.attempt();
        if trial.curve.is_empty() || self.written.contains(&attempt) {
            return Ok(());
        }
        let path = self.folder.join(format!("{attempt}.jsonl"));
        files::write(&path, fragment(trial).as_bytes())?;
        self.written.insert(attempt);
        Ok(())
    }

    fn finish(&mut self, _complete: bool) -> Result<(), Error> {
        Ok(())
    }
}

/// Returns a record for each epoch. The last one has the numbers of the result too.
fn fragment(trial: &Trial) -> String {
    let attempt = trial.attempt();
    let last = trial.curve.len().saturating_sub(1);
    let record = |(epoch, numbers): (usize, &std::collections::BTreeMap<String, f64>)| {
        let mut metrics = numbers.clone();
        if epoch == last {
            let known = numbers;
            let more = trial.numbers().into_iter();
            metrics.extend(more.filter(|(name, _)| !known.contains_key(name)));
        }
        let record = json!({
            "v": VERSION,
            "kind": "metric",
            "project": trial.sweep,
            "run": trial.name(),
            "run_id": attempt,
            "metrics": metrics,
            "step": epoch,
            "timestamp": iso(trial.epoch_ms(epoch)),
            "config": (epoch == 0).then(|| config(trial)),
            "log_id": format!("{attempt}-{epoch}"),
        });
        format!("{record}\n")
    };
    trial.curve.iter().enumerate().map(record).collect()
}

/// Returns the settings, and what identifies the trial.
fn config(trial: &Trial) -> Value {
    let mut config = json!(trial.parameters());
    let identity = [
        ("trial", &trial.trial),
        ("cell", &trial.cell),
        ("role", &trial.role),
    ];
    for (name, value) in identity {
        config[name] = value.as_str().into();
    }
    config
}

/// `2026-11-28T05:00:00.250000+00:00`, as Python prints it.
fn iso(ms: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp((ms / 1000) as i64);
    let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    format!(
        "{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}+00:00",
        u8::from(month),
        ms % 1000 * 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::tests::trial;

    #[test]
    fn an_epoch_is_a_record_and_the_last_has_the_result() {
        let fragment = fragment(&trial());
        let records: Vec<Value> = fragment
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let mut first = records[0].clone();
        let config = first["config"].take();
        assert_eq!(
            first,
            json!({
                "v": 1, "kind": "metric", "project": "demo", "run": "cos/10 seed 3", "run_id": "t0123456789abcdef-2",
                "metrics": {"train_loss": 0.5, "accuracy": 0.7}, "step": 0, "timestamp": "1970-01-01T00:00:11.000000+00:00",
                "config": null, "log_id": "t0123456789abcdef-2-0",
            })
        );
        assert_eq!(
            (&config["learning_rate"], &config["trial"]),
            (&json!(0.1), &json!("t0123456789abcdef"))
        );
        assert_eq!(records.len(), 2);
        assert_eq!(
            records[1]["metrics"],
            json!({"train_loss": 0.1, "last_accuracy": 0.75, "best_epoch": 1.0, "train_s": 20.0})
        );
        assert_eq!(records[1]["config"], Value::Null);
    }

    #[test]
    fn a_fragment_that_was_taken_in_is_not_written_again() {
        let place = tempfile::tempdir().unwrap();
        let mut fragments = Fragments::new(place.path(), "demo");
        fragments.trial(&trial()).unwrap();
        let path = place
            .path()
            .join("inbox/orchestrator-demo/t0123456789abcdef-2.jsonl");
        std::fs::remove_file(&path).unwrap();
        fragments.trial(&trial()).unwrap();
        assert!(!path.exists());
    }
}
