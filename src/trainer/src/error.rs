//! The reasons why a trial ended without a result, as the classes that the rest of the program acts
//! on.
//!
//! libtorch throws exceptions, which tch turns into panics; `from_panic` parses those messages in
//! one place, so that running out of memory is not mistaken for a crash. Retries are decided
//! elsewhere. Next: attempt/mod.rs.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sweep::record::{Failure, FailureClass};
use sweep::{node_fault, with_causes};

use tch::Device;

use crate::device::collective::CollectiveError;
use crate::device::cuda::WaitError;
use crate::device::shim::ShimError;
use crate::device::{UnhealthyDevice, cuda_name};

#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// Missing or corrupt data or impossible settings, which the user must fix.
    #[error("{0}")]
    BadInput(String),
    /// `loss`: `training` or `evaluation`.
    #[error(
        "the {loss} loss became {value} in epoch {epoch}; a lower `learning_rate` or `clip_norm` may help"
    )]
    NonFinite {
        loss: &'static str,
        epoch: u32,
        value: f64,
    },
    /// `fits`: largest `batch_size` that would fit, where it could be measured.
    #[error("out of memory: {what}; {}", less_memory(*.fits))]
    OutOfMemory { what: String, fits: Option<usize> },
    /// `devices`: names as in `--devices`, where they are known.
    #[error("a device failed: {what}")]
    BadDevice { what: String, devices: Vec<String> },
    /// Another replica's failure as seen by this one.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    #[error("{0}")]
    Crashed(String),
    /// The node could not run the trial: see `sweep::node_fault`.
    #[error("{0}")]
    Node(String),
}

/// Messages about memory. The last is the common part of CUBLAS_STATUS_ALLOC_FAILED and its like in
/// other libraries.
const OUT_OF_MEMORY: [&str; 5] = [
    "can't allocate memory",
    "out of memory",
    "DefaultCPUAllocator",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "ALLOC_FAILED",
];

/// CUDA's messages about faulty hardware. Illegal addresses and failed assertions are not included:
/// they are bugs of a program, and would take one device after the other out of use.
const BAD_DEVICE: [&str; 11] = [
    "ECC error",
    "Xid",
    "hardware stack error",
    "uncorrectable NVLink error",
    "unspecified launch failure",
    "fallen off the bus",
    "GPU is lost",
    "device is lost",
    "no CUDA-capable device is detected",
    "busy or unavailable",
    "CUDA error: unknown error",
];

fn less_memory(fits: Option<usize>) -> String {
    match fits {
        Some(fits) => {
            format!(
                "by measurement a `batch_size` of {fits} would fit; `precision: bf16` needs less as well"
            )
        }
        None => "a lower `batch_size` or `crop_size`, or `precision: bf16`, needs less".to_owned(),
    }
}

/// Returns the message in a panic of tch or an error of libtorch, without the debug form around it
/// and the C++ frames after it, which are in the trainer's log; returns other texts unchanged.
fn libtorch_message(text: &str) -> String {
    let escaped = text.strip_prefix("called `Result::unwrap()` on an `Err` value: Torch(\"");
    let message = match escaped {
        Some(rest) => rest
            .trim_end_matches("\")")
            .replace("\\n", "\n")
            .replace("\\\"", "\"")
            .replace("\\\\", "\\"),
        None => text.to_owned(),
    };
    message
        .split("\nException raised from ")
        .next()
        .unwrap_or_default()
        .trim_end()
        .to_owned()
}

impl TrialError {
    pub fn bad_input(message: impl Into<String>) -> Self {
        Self::BadInput(message.into())
    }

    /// Makes an error about the work directory, which exists for trainers to write in: whatever the
    /// reason, the trial is not at fault.
    pub fn work_dir(
        action: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(std::io::Error) -> Self {
        move |error| {
            Self::Node(format!(
                "cannot {action} {} (below the worker's --work-dir): {error}",
                path.display()
            ))
        }
    }

    /// Makes an error about an input of the user, unless a fault of the node caused it.
    pub fn of_input(error: &(dyn std::error::Error + 'static)) -> Self {
        let message = with_causes(error);
        if node_fault::is_cause_of(error) {
            Self::Node(message)
        } else {
            Self::BadInput(message)
        }
    }

    /// Makes an error from a caught panic, the form in which libtorch's errors arrive.
    pub fn from_panic(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("a panic without a message");
        let text = libtorch_message(text);
        Self::recognised(&text)
            .unwrap_or_else(|| Self::Crashed(format!("the trainer panicked: {text}")))
    }

    /// Classifies libtorch's messages that have a class of their own.
    fn recognised(text: &str) -> Option<Self> {
        let line = || text.lines().next().unwrap_or_default().to_owned();
        let names = |patterns: &[&str]| patterns.iter().any(|pattern| text.contains(pattern));
        if names(&OUT_OF_MEMORY) {
            Some(Self::OutOfMemory {
                what: line(),
                fits: None,
            })
        } else if names(&BAD_DEVICE) {
            Some(Self::BadDevice {
                what: line(),
                devices: Vec::new(),
            })
        } else if node_fault::is_named_in(text) {
            Some(Self::Node(line()))
        } else {
            None
        }
    }

    /// Adds the device of the failed replica to a device failure that names no device.
    pub fn on(self, device: Device) -> Self {
        match (self, device) {
            (Self::BadDevice { what, devices }, Device::Cuda(index)) if devices.is_empty() => {
                Self::BadDevice {
                    what,
                    devices: vec![cuda_name(index)],
                }
            }
            (error, _) => error,
        }
    }

    /// Blames unhealthy devices after an error of CUDA or between replicas, whatever the error's
    /// text (a missed deadline may be a GPU that hangs).
    pub fn diagnosed(self, find_unhealthy: impl FnOnce() -> Vec<UnhealthyDevice>) -> Self {
        let message = self.to_string();
        let is_of_gpu =
            message.contains("CUDA") || message.contains("NCCL") || message.contains("cuDNN");
        let is_suspect = match &self {
            Self::Collective(_) => true,
            Self::Crashed(_) => is_of_gpu,
            _ => false,
        };
        let unhealthy = if is_suspect {
            find_unhealthy()
        } else {
            Vec::new()
        };
        if unhealthy.is_empty() {
            return self;
        }
        let reasons: Vec<String> = unhealthy
            .iter()
            .map(|device| device.reason.clone())
            .collect();
        Self::BadDevice {
            what: format!("{}, found after: {message}", reasons.join("; ")),
            devices: unhealthy.into_iter().map(|device| device.device).collect(),
        }
    }

    /// Ranks the failures of a group's replicas by how little they reveal of the cause: a device
    /// that fails or is out of memory makes NCCL fail as well, and a replica that gave up only
    /// knows of another's failure.
    pub fn cause_rank(&self) -> u8 {
        match self {
            Self::BadDevice { .. } => 0,
            Self::OutOfMemory { fits: Some(_), .. } => 1,
            Self::OutOfMemory { fits: None, .. } => 2,
            Self::Node(_) => 2,
            Self::BadInput(_) | Self::NonFinite { .. } | Self::Crashed(_) => 3,
            Self::Collective(CollectiveError::Aborted { .. }) => 5,
            Self::Collective(_) => 4,
        }
    }

    pub fn class(&self) -> FailureClass {
        match self {
            Self::BadInput(_) => FailureClass::BadInput,
            Self::NonFinite { .. } => FailureClass::NonFinite,
            Self::OutOfMemory { .. } => FailureClass::OutOfMemory,
            Self::BadDevice { .. } => FailureClass::BadDevice,
            Self::Collective(CollectiveError::TimedOut { .. } | CollectiveError::Stuck { .. }) => {
                FailureClass::Stalled
            }
            Self::Collective(_) | Self::Crashed(_) => FailureClass::Crashed,
            Self::Node(_) => FailureClass::Node,
        }
    }

    /// Returns the message with its causes, on one line.
    pub fn failure(&self) -> Failure {
        let devices = match self {
            Self::BadDevice { devices, .. } => devices.clone(),
            _ => Vec::new(),
        };
        Failure {
            class: self.class(),
            message: with_causes(self),
            devices,
        }
    }
}

/// Errors of calls into libtorch that return a result.
impl From<ShimError> for TrialError {
    fn from(error: ShimError) -> Self {
        let text = error.to_string();
        Self::recognised(&text).unwrap_or(Self::Crashed(text))
    }
}

impl From<WaitError> for TrialError {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Group(error) => error.into(),
            WaitError::Shim(error) => error.into(),
        }
    }
}

/// Errors of the data crate. Bad content on disk or in the settings is the user's fault; an
/// unreadable file may be the node's, and is worth a retry on another node.
impl From<data::Error> for TrialError {
    fn from(error: data::Error) -> Self {
        match (Self::of_input(&error), &error) {
            (Self::BadInput(message), data::Error::Cache { .. }) => Self::Node(message),
            (Self::BadInput(message), data::Error::Io { .. }) => Self::Crashed(message),
            (judged, _) => judged,
        }
    }
}

/// Runs `body` and turns a panic, which is how libtorch's errors arrive, into an error.
pub fn caught<T>(body: impl FnOnce() -> Result<T, TrialError>) -> Result<T, TrialError> {
    catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|payload| Err(TrialError::from_panic(&*payload)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(text: &str) -> FailureClass {
        let class = TrialError::from_panic(&text.to_owned()).class();
        assert_eq!(
            TrialError::from(ShimError(text.to_owned())).class(),
            class,
            "{text}"
        );
        class
    }

    #[test]
    fn libtorchs_messages_are_classified() {
        assert_eq!(
            class("CUDA out of memory. Tried to allocate 2.00 GiB."),
            FailureClass::OutOfMemory
        );
        assert_eq!(
            class("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            FailureClass::OutOfMemory
        );
        assert_eq!(
            class("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
            FailureClass::OutOfMemory
        );
        assert_eq!(
            class("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
            FailureClass::OutOfMemory
        );
        assert_eq!(
            class("CUDA error: uncorrectable ECC error encountered"),
            FailureClass::BadDevice
        );
        assert_eq!(
            class("CUDA error: no CUDA-capable device is detected"),
            FailureClass::BadDevice
        );
        for mistake in [
            "device-side assert triggered",
            "an illegal memory access was encountered",
        ] {
            assert_eq!(
                class(&format!("CUDA error: {mistake}")),
                FailureClass::Crashed,
                "{mistake}"
            );
        }
    }

    #[test]
    fn what_the_node_lacks_is_not_the_trials_fault() {
        use std::io::Error;
        let full = Error::from_raw_os_error(28);
        assert_eq!(
            class(&format!(
                "the system can start a thread: {:?}",
                Error::from_raw_os_error(11)
            )),
            FailureClass::Node
        );
        assert_eq!(
            class("unable to write to file </torch_1>: No space left on device (28)"),
            FailureClass::Node
        );
        let path = std::path::Path::new("work/checkpoints/x");
        // for every reason: a folder owned by another user as well as a full disk
        for error in [full, Error::from_raw_os_error(13)] {
            let failure = TrialError::work_dir("write", path)(error).failure();
            assert_eq!(failure.class, FailureClass::Node);
            assert!(
                failure.message.contains("work/checkpoints/x")
                    && failure.message.contains("--work-dir")
            );
        }
        let unread = |number| data::Error::Io {
            action: "read",
            path: path.to_owned(),
            source: Error::from_raw_os_error(number),
        };
        assert_eq!(
            TrialError::from(unread(24)).class(),
            FailureClass::Node,
            "no descriptors left"
        );
        assert_eq!(
            TrialError::from(unread(13)).class(),
            FailureClass::Crashed,
            "not readable here"
        );
        let cache = data::Error::Cache {
            action: "create",
            path: path.to_owned(),
            source: Error::from_raw_os_error(13),
        };
        let failure = TrialError::from(cache).failure();
        assert!(
            failure.class == FailureClass::Node && failure.message.contains("--cache-dir"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn a_message_of_libtorch_is_reported_without_its_frames() {
        let panic = |message: &str| {
            let text = format!(
                "{message}\nException raised from malloc at x.cpp:1 (most recent call first):\nframe #0: f"
            );
            let text = format!(
                "called `Result::unwrap()` on an `Err` value: {:?}",
                tch::TchError::Torch(text)
            );
            TrialError::from_panic(&text).to_string()
        };
        let memory = panic("CUDA out of memory. Tried to allocate 2.00 GiB.");
        assert!(
            memory.starts_with(
                "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB.; a lower"
            ),
            "{memory}"
        );
        let quoted = panic("expected \"a\\b\"\nbut got c");
        assert_eq!(quoted, "the trainer panicked: expected \"a\\b\"\nbut got c");
        // a real panic of tch
        let vector = |length: i64| tch::Tensor::zeros([length], (tch::Kind::Float, Device::Cpu));
        let payload = std::panic::catch_unwind(|| vector(2) + vector(3)).unwrap_err();
        let mismatch = TrialError::from_panic(&*payload).to_string();
        let expected =
            "the trainer panicked: The size of tensor a (2) must match the size of tensor b (3)";
        assert!(
            mismatch.starts_with(expected) && mismatch.lines().count() == 1,
            "{mismatch}"
        );
    }

    #[test]
    fn a_device_that_is_unwell_is_at_fault_for_errors_of_the_gpu_alone() {
        let device = |index: usize| UnhealthyDevice {
            device: cuda_name(index),
            reason: format!("cuda:{index} is gone"),
        };
        let unwell = || vec![device(0), device(2)];
        let crash = |text: &str| TrialError::from_panic(&text.to_owned());
        let found = crash("CUDA error: misaligned address").diagnosed(unwell);
        assert_eq!(found.class(), FailureClass::BadDevice);
        assert!(
            found
                .to_string()
                .contains("cuda:0 is gone; cuda:2 is gone, found after: "),
            "{found}"
        );
        assert_eq!(found.failure().devices, ["cuda:0", "cuda:2"]);
        assert_eq!(
            crash("CUDA error: misaligned address")
                .diagnosed(Vec::new)
                .class(),
            FailureClass::Crashed
        );
        assert_eq!(
            crash("index out of range").diagnosed(unwell).class(),
            FailureClass::Crashed
        );
        let memory = crash("CUDA out of memory").diagnosed(unwell);
        assert_eq!(memory.class(), FailureClass::OutOfMemory);
    }

    /// None of these errors' texts contains a name of CUDA.
    #[test]
    fn a_device_that_hangs_is_found_behind_the_deadline_that_passed() {
        let unwell = || {
            vec![UnhealthyDevice {
                device: cuda_name(1),
                reason: "cuda:1 does not answer".to_owned(),
            }]
        };
        let missing = vec![1];
        let late = CollectiveError::TimedOut {
            rank: 0,
            operation: "all-reduce",
            seconds: 120,
            missing,
        };
        let stuck = CollectiveError::Stuck {
            rank: 0,
            operation: "a step",
            seconds: 120,
        };
        for error in [late, stuck] {
            assert_eq!(
                TrialError::from(error.clone()).diagnosed(Vec::new).class(),
                FailureClass::Stalled
            );
            let failure = TrialError::from(error).diagnosed(unwell).failure();
            assert_eq!(
                (failure.class, failure.devices),
                (FailureClass::BadDevice, vec!["cuda:1".to_owned()])
            );
        }
    }

    #[test]
    fn a_device_that_fails_under_a_replica_is_that_replicas() {
        let error = || {
            TrialError::from_panic(&"CUDA error: uncorrectable ECC error encountered".to_owned())
        };
        assert_eq!(error().on(Device::Cuda(3)).failure().devices, ["cuda:3"]);
        assert_eq!(
            error()
                .on(Device::Cuda(3))
                .on(Device::Cuda(0))
                .failure()
                .devices,
            ["cuda:3"],
            "the first knows"
        );
        assert!(error().on(Device::Cpu).failure().devices.is_empty());
        let crash = TrialError::Crashed("index out of range".to_owned()).on(Device::Cuda(3));
        assert!(crash.failure().devices.is_empty());
    }

    #[test]
    fn running_out_of_memory_names_the_batch_that_fits() {
        let message = |fits| {
            TrialError::OutOfMemory {
                what: "CUDA out of memory".to_owned(),
                fits,
            }
            .to_string()
        };
        assert!(message(Some(96)).contains("a `batch_size` of 96 would fit"));
        assert!(message(None).contains("a lower `batch_size`"));
    }
}
