//! The real backend: NCCL for the communication, CUDA's runtime for the state of the queues.
//!
//! Never run on hardware so far. Next: library.rs and cuda.rs, the two bindings.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tch::{Device, Tensor};

#[cfg(test)]
use super::backend::GroupId;
use super::backend::{Backend, CommunicatorState, GroupPart, Operation};
use super::cuda::{Event, Runtime};
use super::library::{Library, LibraryError, Raw};
use crate::device::shared_library::DynamicError;
use crate::device::shim;

/// Deadline for freeing an idle set of communicators; afterwards the set is aborted.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Nccl(#[from] LibraryError),
    #[error(transparent)]
    Cuda(#[from] DynamicError),
}

pub struct Gpus {
    nccl: Library,
    cuda: Arc<Runtime>,
}

pub struct Communicator(Raw);

// SAFETY: any thread may use a communicator, one thread at a time; `Nccl` keeps it behind a lock.
unsafe impl Send for Communicator {}

impl Gpus {
    pub fn open() -> Result<Self, OpenError> {
        let nccl = Library::open()?;
        tracing::info!(version = %nccl.version, path = nccl.path, "NCCL was opened");
        Ok(Self {
            nccl,
            cuda: Runtime::shared()?,
        })
    }

    pub fn version(&self) -> String {
        self.nccl.version.to_string()
    }

    #[cfg(test)]
    pub fn group_id(&self) -> Result<GroupId, String> {
        self.nccl.unique_id()
    }
}

impl Backend for Gpus {
    type Communicator = Communicator;
    type Event = Event;

    fn start(&self, part: &GroupPart) -> Result<Vec<Communicator>, String> {
        let raw = self
            .nccl
            .start(part, |place| self.cuda.select(part.devices[place]))?;
        Ok(raw.into_iter().map(Communicator).collect())
    }

    fn state(&self, communicator: &Communicator) -> CommunicatorState {
        self.nccl.state(communicator.0)
    }

    fn enqueue(
        &self,
        communicator: &Communicator,
        device: usize,
        operation: Operation,
        tensor: &Tensor,
    ) -> Result<(), String> {
        if tensor.device() != Device::Cuda(device) {
            return Err(format!(
                "the tensor is on {:?}, the communicator on cuda:{device}",
                tensor.device()
            ));
        }
        self.cuda.select(device)?;
        let stream = shim::current_stream(device).map_err(|error| error.to_string())?;
        let (data, count) = (tensor.data_ptr(), tensor.numel());
        // SAFETY: the caller holds the tensor until the device is done (`InFlight`), and checked
        // that it is contiguous.
        unsafe {
            match operation {
                Operation::AllReduce => {
                    self.nccl
                        .all_reduce(communicator.0, data, count, tensor.kind(), stream)
                }
                Operation::Broadcast => {
                    self.nccl
                        .broadcast(communicator.0, data, count, tensor.kind(), stream)
                }
            }
        }
    }

    fn mark(&self, device: usize) -> Result<Event, String> {
        self.cuda.select(device)?;
        let stream = shim::current_stream(device).map_err(|error| error.to_string())?;
        Event::record(&self.cuda, stream)
    }

    fn is_done(&self, _device: usize, event: &Event) -> Result<bool, String> {
        event.is_done()
    }

    fn abort(&self, communicator: Communicator) {
        self.nccl.abort(communicator.0);
    }

    /// Flushes all communicators before it destroys any: a single one would wait for the others.
    fn close(&self, communicators: Vec<Communicator>) {
        let begun = communicators
            .iter()
            .try_for_each(|communicator| self.nccl.finalize(communicator.0));
        let until = Instant::now() + CLOSE_DEADLINE;
        let is_flushed = |communicator: &Communicator| {
            self.nccl.state(communicator.0) == CommunicatorState::Ready
        };
        while begun.is_ok() && !communicators.iter().all(is_flushed) && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
        let flushed = begun.is_ok() && communicators.iter().all(is_flushed);
        for communicator in communicators {
            if flushed {
                self.nccl.destroy(communicator.0);
            } else {
                self.nccl.abort(communicator.0);
            }
        }
    }
}
