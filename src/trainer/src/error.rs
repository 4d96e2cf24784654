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
    #[error("out of memory: {0}; a lower `batch_size` or `crop_size`, or `precision: bf16`, needs less")]
    OutOfMemory(String),
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
        let memory = ["can't allocate memory", "out of memory", "DefaultCPUAllocator", "CUDA_ERROR_OUT_OF_MEMORY"];
        let device = ["ECC error", "device-side assert", "illegal memory access", "unspecified launch failure", "Xid"];
        let line = |text: &str| text.lines().next().unwrap_or_default().to_owned();
        if memory.iter().any(|pattern| text.contains(pattern)) {
            Self::OutOfMemory(line(text))
        } else if device.iter().any(|pattern| text.contains(pattern)) {
            Self::BadDevice(line(text))
        } else {
            Self::Crashed(format!("the trainer panicked: {text}"))
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
            Self::OutOfMemory(_) => FailureClass::OutOfMemory,
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
        Failure { class: self.class(), message }
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
