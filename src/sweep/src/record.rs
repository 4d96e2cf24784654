//! The record of a finished trial. It is sent from trainer to worker to coordinator and journalled,
//! and reports are made from nothing else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::text;
use crate::trial::TrialSpec;

/// The result of one trial. Accuracies are fractions in 0..=1 of the evaluation set (the test set,
/// or the held-out split of a search).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TrialResult {
    /// Accuracy after the last epoch.
    pub last_accuracy: f64,
    pub best_accuracy: f64,
    /// Counted from 0; the first evaluated epoch with the best accuracy.
    pub best_epoch: u32,
    /// Mean of per-class recalls after the last epoch.
    pub last_balanced_accuracy: f64,
    /// Training loss of the last epoch, mean over samples.
    pub train_loss: f64,
    /// Loss on the evaluation set after the last epoch, mean over samples.
    pub eval_loss: f64,
    /// One entry per epoch.
    pub epochs: Vec<EpochRecord>,
    /// Counts by class after the last epoch; absent in results from before they were kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<ClassCounts>,
    pub provenance: Provenance,
    pub timing: Timing,
}

/// A reason why a result is unusable, whatever its sender.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}`: {problem}")]
pub struct BadResult {
    /// Path within the result: `epochs[3].accuracy`.
    pub field: String,
    pub problem: String,
    /// Failure class of the attempt that sent the result.
    pub class: FailureClass,
}

impl BadResult {
    fn new(field: impl Into<String>, problem: String) -> Self {
        Self {
            field: field.into(),
            problem,
            class: FailureClass::Crashed,
        }
    }
}

/// The failure of an attempt whose trainer sent this result.
impl From<BadResult> for Failure {
    fn from(bad: BadResult) -> Self {
        Self::new(
            bad.class,
            format!("the trainer's result cannot be used: {bad}"),
        )
    }
}

/// Maximum length of a `state_hash`.
const MAX_HASH_BYTES: usize = 64;

impl TrialResult {
    /// Refuses numbers that no training produces: fractions outside 0..=1, numbers that are not
    /// finite, epochs that were not trained.
    pub fn check(&self) -> Result<(), BadResult> {
        let bad = |field: &str, problem: String| Err(BadResult::new(field, problem));
        let num_epochs = self.epochs.len();
        if num_epochs == 0 {
            return bad("epochs", "is empty".to_owned());
        }
        if self.best_epoch as usize >= num_epochs {
            return bad(
                "best_epoch",
                format!(
                    "is {} of {num_epochs} epochs, counted from 0",
                    self.best_epoch
                ),
            );
        }
        for (index, epoch) in self.epochs.iter().enumerate() {
            if let Some(accuracy) = epoch.accuracy {
                fraction(&format!("epochs[{index}].accuracy"), accuracy)?;
            }
            let fractions = [
                ("balanced_accuracy", epoch.balanced_accuracy),
                ("top5_accuracy", epoch.top5_accuracy),
            ];
            for (name, value) in fractions {
                if let Some(value) = value {
                    fraction(&format!("epochs[{index}].{name}"), value)?;
                }
            }
            finite(&format!("epochs[{index}].train_loss"), epoch.train_loss)?;
            let is_hash = |text: &str| {
                text.len() <= MAX_HASH_BYTES
                    && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
            };
            if !is_hash(&epoch.state_hash) {
                let field = format!("epochs[{index}].state_hash");
                return bad(
                    &field,
                    format!("is no hash of at most {MAX_HASH_BYTES} letters and digits"),
                );
            }
        }
        fraction("last_accuracy", self.last_accuracy)?;
        fraction("best_accuracy", self.best_accuracy)?;
        fraction("last_balanced_accuracy", self.last_balanced_accuracy)?;
        finite("train_loss", self.train_loss)?;
        finite("eval_loss", self.eval_loss)?;
        if let Some(classes) = &self.classes {
            classes.check()?;
        }
        self.timing.check(num_epochs)
    }

    /// Also refuses a result that belongs to another trial.
    pub fn check_against(&self, spec: &TrialSpec) -> Result<(), BadResult> {
        self.check()?;
        let (given, asked) = (self.epochs.len(), spec.num_epochs());
        if given != asked as usize {
            let problem = format!("holds {given} epochs, and {asked} were asked for");
            return Err(BadResult::new("epochs", problem));
        }
        Ok(())
    }
}

fn fraction(field: &str, value: f64) -> Result<(), BadResult> {
    finite(field, value)?;
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(BadResult::new(
        field,
        format!("is {value}; a fraction in 0..=1 was expected"),
    ))
}

fn finite(field: &str, value: f64) -> Result<(), BadResult> {
    if value.is_finite() {
        return Ok(());
    }
    let bad = BadResult::new(field, format!("is {value}; a finite number was expected"));
    Err(BadResult {
        class: FailureClass::NonFinite,
        ..bad
    })
}

/// The record of one epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EpochRecord {
    pub train_loss: f64,
    /// Absent if the epoch was not evaluated (`Settings::evaluate_every`).
    pub accuracy: Option<f64>,
    /// Mean of the classes' recalls. Records from before it was kept lack this and the next two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balanced_accuracy: Option<f64>,
    /// Share of the images whose class is one of the five that fit best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top5_accuracy: Option<f64>,
    /// Loss on the evaluation set, mean over samples; absent if it was not finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// First 64 bits of the hash of parameters, momentum and batch-norm statistics chained with the
    /// previous epoch: equal chains mean bit-equal training. 16 hexadecimal digits.
    #[serde(deserialize_with = "text::line")]
    pub state_hash: String,
}

/// Counts of an evaluation, by class in the order of the data set's labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ClassCounts {
    pub images: Vec<u32>,
    /// The images of each class that were classified correctly.
    pub correct: Vec<u32>,
}

impl ClassCounts {
    fn check(&self) -> Result<(), BadResult> {
        let problem = if self.images.len() != self.correct.len() {
            "has lists of different lengths"
        } else if self.classes().any(|(images, correct)| correct > images) {
            "has a class with more correct images than images"
        } else {
            return Ok(());
        };
        Err(BadResult::new("classes", problem.to_owned()))
    }

    /// Returns the numbers of images and of correct ones of each class.
    pub fn classes(&self) -> impl Iterator<Item = (u32, u32)> {
        let images = self.images.iter().copied();
        images.zip(self.correct.iter().copied())
    }
}

/// Origin of the numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Provenance {
    /// Version and build of the trainer.
    #[serde(deserialize_with = "text::line")]
    pub trainer: String,
    #[serde(deserialize_with = "text::line")]
    pub libtorch: String,
    /// `cpu (AMD EPYC, 1 thread)`, `NVIDIA H200`, ...
    #[serde(deserialize_with = "text::line_list")]
    pub devices: Vec<String>,
    #[serde(deserialize_with = "text::line")]
    pub host: String,
    /// `f32` or `bf16`: the choice made for `precision: auto`.
    #[serde(deserialize_with = "text::line")]
    pub precision: String,
    /// How steps reached the device: `queued`, with the reason if there was a choice, or `recorded`
    /// (CUDA graphs).
    #[serde(default, deserialize_with = "text::line")]
    pub execution: String,
    /// The trainer's own operations, whose rounding differs from libtorch's: `fused-norm`,
    /// `fused-norm+products`, or `libtorch` for none.
    #[serde(default, deserialize_with = "text::line")]
    pub kernels: String,
    /// Where pixels were made: from bytes `resident` on the device, from bytes `staged` there per
    /// batch, or on the `host`.
    #[serde(default, deserialize_with = "text::line")]
    pub images: String,
    /// On a GPU, the libraries with its kernels: `CUDA 13.0`, `cuDNN 9.19.0`, and `NCCL 2.28.9` if
    /// it was used.
    #[serde(default, deserialize_with = "text::line_list")]
    pub libraries: Vec<String>,
    /// Hash of the list of libraries in the environment of a sweep's program.
    #[serde(
        default,
        deserialize_with = "text::line",
        skip_serializing_if = "String::is_empty"
    )]
    pub environment: String,
    /// Hash of the decoded data set.
    #[serde(deserialize_with = "text::line")]
    pub data_fingerprint: String,
    /// Images of the data set that were left out because they cannot be decoded (`corrupt: skip`).
    #[serde(default)]
    pub skipped_images: u64,
    /// `sweep::Content::hash` of every input that was read, by the names of `sweep::Input`.
    #[serde(
        default,
        deserialize_with = "text::line_map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub inputs: BTreeMap<String, String>,
    /// The chosen training images, by index into the data set's training split.
    pub subset: Subset,
    /// Images that accuracies are fractions of; 0 in journals from before it was recorded.
    #[serde(default)]
    pub num_eval_images: u32,
    pub num_parameters: u64,
}

/// The training images of a trial: all of them, or a list that is the same for the same data set,
/// count and seed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Subset {
    #[default]
    All,
    Indices(Vec<u32>),
}

impl Subset {
    /// Returns the number of chosen images; `None` for all of them.
    pub fn num_images(&self) -> Option<u32> {
        match self {
            Self::All => None,
            Self::Indices(indices) => Some(indices.len() as u32),
        }
    }

    /// Returns the first 64 bits of the hash of the chosen indices in order, as 16 hexadecimal
    /// digits; `all` for all of them.
    pub fn fingerprint(&self) -> String {
        match self {
            Self::All => "all".to_owned(),
            Self::Indices(indices) => {
                let mut hasher = blake3::Hasher::new();
                for index in indices {
                    hasher.update(&index.to_le_bytes());
                }
                hasher.finalize().to_hex()[..16].to_owned()
            }
        }
    }
}

/// Durations in seconds over all attempts that led to this result. Time lost with a killed attempt
/// is not included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Timing {
    pub train_s: f64,
    pub evaluate_s: f64,
    pub checkpoint_s: f64,
    /// Part of `train_s` in which the step waited for data.
    pub data_wait_s: f64,
    /// From the request to the first step of this attempt.
    pub start_s: f64,
    pub images_per_s: f64,
    pub peak_memory_mib: f64,
    /// Measured if the trainer compared recorded steps with queued ones: milliseconds to queue a
    /// step, and until the device had finished it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched_step_ms: Option<(f64, f64)>,
    /// Share of the time in which the GPUs of this attempt had a kernel to run, as counted by the
    /// driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_busy: Option<f64>,
    /// CPU seconds of the trainer, all threads, in this attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_s: Option<f64>,
    /// Energy that the GPUs took in this attempt, in joules, as counted by the driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_energy_j: Option<f64>,
    /// Epoch that this attempt resumed from, 0 for a fresh start.
    pub resumed_from_epoch: u32,
    /// First epoch (from 0) whose state this or an earlier attempt found to differ, in its bits,
    /// from that of a previous attempt: the trial was not resumed exactly (other hardware, other
    /// threads, kernels that are not deterministic).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub departed_at_epoch: Option<u32>,
}

impl Timing {
    fn check(&self, num_epochs: usize) -> Result<(), BadResult> {
        let (queued_ms, done_ms) = self.watched_step_ms.unwrap_or_default();
        let durations = [
            ("train_s", self.train_s),
            ("evaluate_s", self.evaluate_s),
            ("checkpoint_s", self.checkpoint_s),
            ("data_wait_s", self.data_wait_s),
            ("start_s", self.start_s),
            ("images_per_s", self.images_per_s),
            ("peak_memory_mib", self.peak_memory_mib),
            ("watched_step_ms", queued_ms),
            ("watched_step_ms", done_ms),
            ("gpu_busy", self.gpu_busy.unwrap_or_default()),
            ("cpu_s", self.cpu_s.unwrap_or_default()),
            ("gpu_energy_j", self.gpu_energy_j.unwrap_or_default()),
        ];
        for (name, value) in durations {
            finite(&format!("timing.{name}"), value)?;
        }
        let epochs = [
            ("resumed_from_epoch", Some(self.resumed_from_epoch)),
            ("departed_at_epoch", self.departed_at_epoch),
        ];
        for (name, epoch) in epochs {
            if let Some(epoch) = epoch.filter(|epoch| *epoch as usize > num_epochs) {
                return Err(BadResult::new(
                    format!("timing.{name}"),
                    format!("is {epoch} of {num_epochs} epochs"),
                ));
            }
        }
        Ok(())
    }

    /// Returns the share of the training time in which a step waited for its batch.
    pub fn data_wait_share(&self) -> f64 {
        if self.train_s > 0.0 {
            self.data_wait_s / self.train_s
        } else {
            0.0
        }
    }
}

/// Reason why an attempt ended without a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Failure {
    pub class: FailureClass,
    /// One line, then details such as the tail of stderr.
    #[serde(deserialize_with = "text::lines")]
    pub message: String,
    /// The devices at fault, as the slot names them (`cuda:1`; the trainer numbers its own devices,
    /// and the worker replaces these with the slot's names). If empty, the fault is unknown and all
    /// devices of the slot are suspected.
    #[serde(
        default,
        deserialize_with = "text::line_list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub devices: Vec<String>,
}

impl Failure {
    /// Returns a failure without a particular device.
    pub const fn new(class: FailureClass, message: String) -> Self {
        Self {
            class,
            message,
            devices: Vec::new(),
        }
    }
}

/// Class of a failure. Each has its own retry budget (see the schedule crate), since they have
/// different causes in trial and node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The user must fix it (missing or corrupt data, impossible settings): never retried
    /// automatically.
    BadInput,
    /// The loss became infinite or not a number.
    NonFinite,
    /// The device or host ran out of memory.
    OutOfMemory,
    /// The trainer ended with an error, an exit code or a signal.
    Crashed,
    /// Heartbeats continued, but epoch, step and collective counter did not change.
    Stalled,
    /// The worker sent nothing for longer than its lease.
    Unreachable,
    /// The worker was ordered to release the machine.
    Preempted,
    /// A device failed (Xid, ECC, gone from the bus): its slot is not used again.
    BadDevice,
    /// The node could not run it (a full disk, no descriptors or memory left, a trainer that does
    /// not start): its slot pauses, and no retry of the trial is used up. See `node_fault`.
    Node,
}

/// Formats the name used in the journal and in tables: `out_of_memory`.
impl std::fmt::Display for FailureClass {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::BadInput => "bad_input",
            Self::NonFinite => "non_finite",
            Self::OutOfMemory => "out_of_memory",
            Self::Crashed => "crashed",
            Self::Stalled => "stalled",
            Self::Unreachable => "unreachable",
            Self::Preempted => "preempted",
            Self::BadDevice => "bad_device",
            Self::Node => "node",
        })
    }
}
