//! The time that a sweep takes, from a few timed steps of each kind of its trainings: `plan --time`.

use std::process::Command;

use serde_json::{Value, json};
use sweep::dataset::Counts;
use sweep::pace::Pace;
use sweep::record::TrialResult;
use sweep::{Sweep, with_causes};
use worker::devices::Inventory;

use crate::exit::ExpectedError;
use crate::preflight::Places;
use crate::stderr;
use crate::trainer::{self, Ready};

/// Kinds of training that are timed; further ones are taken to be as fast as the slowest of these.
const MAX_KINDS: usize = 8;

/// The measured speeds.
pub struct Timed {
    kinds: Vec<Kind>,
    /// Kinds that were not timed.
    untimed: usize,
    device_hours: f64,
    has_gpus: bool,
    /// Devices of this machine.
    devices: usize,
}

struct Kind {
    name: String,
    trials: usize,
    images_per_s: f64,
    device_hours: f64,
}

/// Times the kinds of training of a sweep, one after the other, on this machine.
pub fn measure(
    sweep: &Sweep,
    places: &Places,
    size: &dyn Fn(&str) -> Option<Counts>,
) -> Result<Timed, ExpectedError> {
    if !sweep.trainer.is_built_in() || sweep.smoke {
        return Err(ExpectedError::BadInput(
            "--time measures the built-in trainer on the sweep's data: it goes with neither --trainer nor --smoke"
                .to_owned(),
        ));
    }
    let trainer = trainer::ready(None)?;
    let inventory = Inventory::detect();
    let has_gpus = !inventory.gpus.is_empty();
    let devices = if has_gpus {
        inventory.gpus.len()
    } else {
        inventory.cpu_threads
    };
    let paces = sweep.paces(size);
    let untimed = paces.split_at(paces.len().min(MAX_KINDS)).1;
    let (mut kinds, mut slowest) = (Vec::new(), f64::INFINITY);
    for pace in &paces[..paces.len() - untimed.len()] {
        let wanted = pace.sample.settings.replicas as usize;
        if wanted > devices {
            return Err(ExpectedError::BadInput(format!(
                "a trial wants {wanted} devices and this machine has {devices}: run `plan --time` on one that has as many"
            )));
        }
        stderr::print(&format!("timing {}", pace.name));
        let result = train(&trainer, pace, places, has_gpus)?;
        let rate = pace.sample_work / result.timing.train_s.max(f64::MIN_POSITIVE);
        slowest = slowest.min(rate);
        kinds.push(Kind {
            name: pace.name.clone(),
            trials: pace.trials,
            images_per_s: result.timing.images_per_s,
            device_hours: pace.device_work / rate / 3600.0,
        });
    }
    let rest: f64 = untimed.iter().map(|pace| pace.device_work).sum();
    let hours: f64 = kinds.iter().map(|kind| kind.device_hours).sum();
    Ok(Timed {
        untimed: untimed.len(),
        device_hours: hours + rest / slowest / 3600.0,
        has_gpus,
        devices,
        kinds,
    })
}

/// Trains a short trial.
fn train(
    trainer: &Ready,
    pace: &Pace,
    places: &Places,
    has_gpus: bool,
) -> Result<TrialResult, ExpectedError> {
    let here = std::env::temp_dir();
    let folder = tempfile::tempdir().map_err(ExpectedError::file("write in", &here))?;
    let file = folder.path().join("trial.json");
    let checkpoints = folder.path().join("checkpoints");
    let specification = serde_json::to_vec(&pace.sample).expect("settings are JSON");
    std::fs::write(&file, specification).map_err(ExpectedError::file("write", &file))?;
    let replicas = pace.sample.settings.replicas;
    let devices = match (has_gpus, replicas) {
        (false, _) => "cpu".to_owned(),
        (true, 1) => "cuda:0".to_owned(),
        (true, _) => format!("cuda:0-{}", replicas - 1),
    };
    let mut command = Command::new(&trainer.path);
    command.arg("run").arg(&file);
    command.args(["--devices", &devices, "--checkpoint-interval", "0"]);
    command.args(["--threads", &replicas.to_string()]);
    command.arg("--data-dir").arg(&places.data_dir);
    command.arg("--cache-dir").arg(&places.cache_dir);
    command.arg("--checkpoint-dir").arg(&checkpoints);
    if let Some(libraries) = trainer.libraries() {
        command.env("LD_LIBRARY_PATH", worker::library_path(&libraries));
    }
    let ran = command
        .output()
        .map_err(ExpectedError::file("run", &trainer.path))?;
    if !ran.status.success() {
        let printed = String::from_utf8_lossy(&ran.stderr);
        let reason = printed
            .lines()
            .last()
            .unwrap_or_default()
            .trim_start_matches("error: ");
        return Err(ExpectedError::BadInput(format!("{}: {reason}", pace.name)));
    }
    serde_json::from_slice(&ran.stdout).map_err(|error| ExpectedError::Infrastructure {
        what: "the trainer's result cannot be read",
        reason: with_causes(&error),
    })
}

impl Timed {
    fn unit(&self) -> &'static str {
        if self.has_gpus {
            "GPU-hours"
        } else {
            "core-hours"
        }
    }

    /// Returns the lines of a plan: a name, which may be empty, and a value.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let wall = self.device_hours / self.devices.max(1) as f64;
        let devices = match (self.has_gpus, self.devices) {
            (true, 1) => "GPU".to_owned(),
            (true, count) => format!("{count} GPUs"),
            (false, 1) => "core".to_owned(),
            (false, count) => format!("{count} cores"),
        };
        let mut lines = vec![(
            "time",
            format!(
                "{} {}, or {} on the {devices} of this machine if all are busy",
                hours(self.device_hours),
                self.unit(),
                crate::estimate::text(std::time::Duration::from_secs_f64(3600.0 * wall)),
            ),
        )];
        for kind in &self.kinds {
            let trials = if kind.trials == 1 { "trial" } else { "trials" };
            lines.push((
                "",
                format!(
                    "{}: {:.0} images/s, {} {} for {} {trials}",
                    kind.name,
                    kind.images_per_s,
                    hours(kind.device_hours),
                    self.unit(),
                    kind.trials,
                ),
            ));
        }
        if self.untimed > 0 {
            let text = format!(
                "{} further kinds of training, taken to be as fast as the slowest",
                self.untimed
            );
            lines.push(("", text));
        }
        lines
    }

    pub fn document(&self) -> Value {
        let kinds = self.kinds.iter().map(|kind| {
            json!({
                "kind": kind.name,
                "trials": kind.trials,
                "images_per_s": kind.images_per_s,
                "device_hours": kind.device_hours,
            })
        });
        json!({
            "device_hours": self.device_hours,
            "devices": if self.has_gpus { "gpu" } else { "cpu" },
            "devices_here": self.devices,
            "untimed_kinds": self.untimed,
            "kinds": kinds.collect::<Vec<Value>>(),
        })
    }
}

fn hours(hours: f64) -> String {
    match hours {
        ..0.01 => format!("{hours:.4}"),
        ..10.0 => format!("{hours:.2}"),
        _ => format!("{hours:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_the_unit_and_what_was_not_timed() {
        let kind = |name: &str, trials, device_hours| Kind {
            name: name.to_owned(),
            trials,
            images_per_s: 1234.4,
            device_hours,
        };
        let timed = Timed {
            kinds: vec![kind("a", 1, 12.3), kind("b", 4, 0.005)],
            untimed: 2,
            device_hours: 12.4,
            has_gpus: true,
            devices: 4,
        };
        let lines: Vec<String> = timed
            .lines()
            .into_iter()
            .map(|(name, text)| format!("{name}|{text}"))
            .collect();
        assert_eq!(
            lines,
            [
                "time|12 GPU-hours, or 3 h on the 4 GPUs of this machine if all are busy",
                "|a: 1234 images/s, 12 GPU-hours for 1 trial",
                "|b: 1234 images/s, 0.0050 GPU-hours for 4 trials",
                "|2 further kinds of training, taken to be as fast as the slowest",
            ]
        );
        assert_eq!(timed.document()["kinds"][1]["device_hours"], 0.005);
    }
}
