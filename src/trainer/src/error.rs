//! Why a trial ended without a result, as the classes that the rest of the program acts on.
//!
//! libtorch reports by exception, which tch turns into a panic; `from_panic` reads those messages once, here, so that
//! running out of memory is not mistaken for a crash. Nothing here decides about retries. Next: trial.rs.

use std::any::Any;

use sweep::record::{Failure, FailureClass};

use crate::collective::CollectiveError;

#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// Missing or corrupt data, settings that cannot be: the user's to mend.
    #[error("{0}")]
    BadInput(String),
    /// `loss`: `training` or `evaluation`.
    #[error("the {loss} loss became {value} in epoch {epoch}; a lower `learning_rate` or `clip_norm` may help")]
    NonFinite { loss: &'static str, epoch: u32, value: f64 },
    /// `fits`: largest `batch_size` that would, where that could be measured.
    #[error("out of memory: {what}; {}", less_memory(*.fits))]
    OutOfMemory { what: String, fits: Option<usize> },
    #[error("a device failed: {0}")]
    BadDevice(String),
    /// Another replica's failure as this one saw it.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    #[error("{0}")]
    Crashed(String),
    #[error("cannot {action} {path}", path = path.display())]
    Io { action: &'static str, path: std::path::PathBuf, source: std::io::Error },
}

const OUT_OF_MEMORY: [&str; 4] =
    ["can't allocate memory", "out of memory", "DefaultCPUAllocator", "CUDA_ERROR_OUT_OF_MEMORY"];

/// What CUDA says when the hardware is at fault. Illegal addresses and failed assertions are not among it: those are
/// mistakes of a program, which would take every device out of use, one after the other.
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
            format!("by measurement a `batch_size` of {fits} would fit; `precision: bf16` needs less as well")
        }
        None => "a lower `batch_size` or `crop_size`, or `precision: bf16`, needs less".to_owned(),
    }
}

impl TrialError {
    pub fn bad_input(message: impl Into<String>) -> Self {
        Self::BadInput(message.into())
    }

    pub fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// Of a caught panic: libtorch's errors arrive as such.
    pub fn from_panic(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message");
        let line = |text: &str| text.lines().next().unwrap_or_default().to_owned();
        let names = |patterns: &[&str]| patterns.iter().any(|pattern| text.contains(pattern));
        if names(&OUT_OF_MEMORY) {
            Self::OutOfMemory { what: line(text), fits: None }
        } else if names(&BAD_DEVICE) {
            Self::BadDevice(line(text))
        } else {
            Self::Crashed(format!("the trainer panicked: {text}"))
        }
    }

    /// After an error of CUDA or NCCL: a device that is not well by its own account is at fault, whatever the error said.
    pub fn diagnosed(self, ailment: impl FnOnce() -> Option<String>) -> Self {
        let message = self.to_string();
        let is_of_gpu = message.contains("CUDA") || message.contains("NCCL") || message.contains("cuDNN");
        match self {
            Self::Crashed(_) | Self::Collective(_) if is_of_gpu => match ailment() {
                Some(ailment) => Self::BadDevice(format!("{ailment}, found after: {message}")),
                None => self,
            },
            _ => self,
        }
    }

    /// Whether this only tells of another replica's failure.
    pub fn is_secondary(&self) -> bool {
        matches!(self, Self::Collective(CollectiveError::Aborted { .. }))
    }

    pub fn class(&self) -> FailureClass {
        match self {
            Self::BadInput(_) => FailureClass::BadInput,
            Self::NonFinite { .. } => FailureClass::NonFinite,
            Self::OutOfMemory { .. } => FailureClass::OutOfMemory,
            Self::BadDevice(_) => FailureClass::BadDevice,
            Self::Collective(CollectiveError::TimedOut { .. }) => FailureClass::Stalled,
            Self::Collective(_) | Self::Crashed(_) | Self::Io { .. } => FailureClass::Crashed,
        }
    }

    /// The message with its causes, one line.
    pub fn failure(&self) -> Failure {
        let mut message = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        Failure::new(self.class(), message)
    }
}

/// Of the data crate. What it found on disk or in the settings is the user's; a file it could not read may be the
/// node's, and is worth another try elsewhere.
impl From<data::Error> for TrialError {
    fn from(error: data::Error) -> Self {
        let mut message = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        match error {
            data::Error::Io { .. } => Self::Crashed(message),
            _ => Self::BadInput(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(text: &str) -> FailureClass {
        TrialError::from_panic(&text.to_owned()).class()
    }

    #[test]
    fn libtorchs_messages_are_told_apart() {
        assert_eq!(class("CUDA out of memory. Tried to allocate 2.00 GiB."), FailureClass::OutOfMemory);
        assert_eq!(class("[enforce fail] DefaultCPUAllocator: can't allocate memory"), FailureClass::OutOfMemory);
        assert_eq!(class("CUDA error: uncorrectable ECC error encountered"), FailureClass::BadDevice);
        assert_eq!(class("CUDA error: no CUDA-capable device is detected"), FailureClass::BadDevice);
        for mistake in ["device-side assert triggered", "an illegal memory access was encountered"] {
            assert_eq!(class(&format!("CUDA error: {mistake}")), FailureClass::Crashed, "{mistake}");
        }
    }

    #[test]
    fn a_device_that_is_unwell_is_at_fault_for_errors_of_the_gpu_alone() {
        let unwell = || Some("cuda:0 is gone".to_owned());
        let crash = |text: &str| TrialError::from_panic(&text.to_owned());
        let found = crash("CUDA error: misaligned address").diagnosed(unwell);
        assert_eq!(found.class(), FailureClass::BadDevice);
        assert!(found.to_string().contains("cuda:0 is gone, found after: "), "{found}");
        assert_eq!(crash("CUDA error: misaligned address").diagnosed(|| None).class(), FailureClass::Crashed);
        assert_eq!(crash("index out of range").diagnosed(unwell).class(), FailureClass::Crashed);
        let memory = crash("CUDA out of memory").diagnosed(unwell);
        assert_eq!(memory.class(), FailureClass::OutOfMemory);
    }

    #[test]
    fn running_out_of_memory_names_the_batch_that_fits() {
        let message = |fits| TrialError::OutOfMemory { what: "CUDA out of memory".to_owned(), fits }.to_string();
        assert!(message(Some(96)).contains("a `batch_size` of 96 would fit"));
        assert!(message(None).contains("a lower `batch_size`"));
    }
}
