//! What a finished trial leaves behind. It crosses from trainer to worker to coordinator, is journalled, and is all
//! that reports are made from.

use serde::{Deserialize, Serialize};

/// The result of one trial. Accuracies are fractions in 0..=1 of the evaluation set (the test set, or the held-out
/// split of a search).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialResult {
    /// After the last epoch.
    pub last_accuracy: f64,
    pub best_accuracy: f64,
    /// Counted from 0; the first evaluated one with the best accuracy.
    pub best_epoch: u32,
    /// Mean of per-class recalls after the last epoch.
    pub last_balanced_accuracy: f64,
    /// Training loss of the last epoch, mean over samples.
    pub train_loss: f64,
    /// Loss on the evaluation set after the last epoch, mean over samples.
    pub eval_loss: f64,
    /// One entry per epoch.
    pub epochs: Vec<EpochRecord>,
    pub provenance: Provenance,
    pub timing: Timing,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    pub train_loss: f64,
    /// Absent where the epoch was not evaluated (`Settings::evaluate_every`).
    pub accuracy: Option<f64>,
    /// First 64 bits of the hash of parameters, momentum and batch-norm statistics chained with the epoch before:
    /// equal chains mean bit-equal training. 16 hexadecimal digits.
    pub state_hash: String,
}

/// Where the numbers came from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version and build of the trainer.
    pub trainer: String,
    pub libtorch: String,
    /// `cpu (AMD EPYC, 1 thread)`, `NVIDIA H200`, ...
    pub devices: Vec<String>,
    pub host: String,
    /// `f32` or `bf16`: what `precision: auto` became.
    pub precision: String,
    /// How steps reached the device: `queued`, with the reason where there was a choice, or `recorded` (CUDA graphs).
    #[serde(default)]
    pub execution: String,
    /// Which operations were the trainer's own, which round otherwise than libtorch's: `fused-norm`, `fused-norm+products`,
    /// or `libtorch` for none.
    #[serde(default)]
    pub kernels: String,
    /// Where pixels were made: of bytes `resident` on the device, of bytes `staged` there batch by batch, or on the `host`.
    #[serde(default)]
    pub images: String,
    /// On a GPU, the libraries that have its kernels: `CUDA 13.0`, `cuDNN 9.19.0`, and `NCCL 2.28.9` where it was used.
    #[serde(default)]
    pub libraries: Vec<String>,
    /// Hash of the decoded data set.
    pub data_fingerprint: String,
    /// The chosen training images, by index into the data set's training split.
    pub subset: Subset,
    pub num_parameters: u64,
}

/// The training images of a trial: all of them, or a list that is the same for the same data set, count and seed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subset {
    #[default]
    All,
    Indices(Vec<u32>),
}

impl Subset {
    /// Number of chosen images; `None` for all of them.
    pub fn num_images(&self) -> Option<u32> {
        match self {
            Self::All => None,
            Self::Indices(indices) => Some(indices.len() as u32),
        }
    }

    /// First 64 bits of the hash of the chosen indices in their order, as 16 hexadecimal digits; `all` for all of them.
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

/// Where the time went, in seconds, over all attempts that led to this result; what was lost with a killed attempt
/// is not in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// Where it was measured whether recorded steps would be faster: milliseconds to queue a step, and until the device was
    /// done with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched_step_ms: Option<(f64, f64)>,
    /// Share of the time in which the GPUs of this attempt had a kernel to run, as the driver counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_busy: Option<f64>,
    /// Epoch this attempt resumed from, 0 for a fresh start.
    pub resumed_from_epoch: u32,
    /// First epoch (from 0) that this or an earlier attempt found to differ, in the bits of its state, from an attempt
    /// before: the trial was not resumed exactly (other hardware, other threads, kernels that are not deterministic).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub departed_at_epoch: Option<u32>,
}

impl Timing {
    /// Share of the training time in which a step waited for its batch.
    pub fn data_wait_share(&self) -> f64 {
        if self.train_s > 0.0 { self.data_wait_s / self.train_s } else { 0.0 }
    }
}

/// Why an attempt ended without a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub class: FailureClass,
    /// One line, then details such as the tail of stderr.
    pub message: String,
    /// The devices at fault, as the slot names them (`cuda:1`; the trainer counts its own, and the worker puts the slot's
    /// names there); none: nobody knows which, so all of the slot's are suspected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
}

impl Failure {
    /// Of no device in particular.
    pub const fn new(class: FailureClass, message: String) -> Self {
        Self { class, message, devices: Vec::new() }
    }
}

/// Each class has a budget of its own (see the schedule crate): they say different things about trial and node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The user's to mend (missing or corrupt data, impossible settings): never tried again by itself.
    BadInput,
    /// The loss became infinite or not a number.
    NonFinite,
    /// The device or host ran out of memory.
    OutOfMemory,
    /// The trainer ended with an error, an exit code or a signal.
    Crashed,
    /// Heartbeats went on, epoch, step and collective counter did not.
    Stalled,
    /// The worker was silent for longer than its lease.
    Unreachable,
    /// The worker was told to give the machine back.
    Preempted,
    /// A device failed (Xid, ECC, gone from the bus): its slot is not used again.
    BadDevice,
}

/// As in the journal and in tables: `out_of_memory`.
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
        })
    }
}
