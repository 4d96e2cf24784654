//! What NCCL and CUDA do for `Nccl`, as a trait: the real libraries (device.rs) or a fake in tests (fake.rs).
//!
//! No call may block for longer than it takes to hand work over; waiting is polling, and is done by the caller.

use tch::Tensor;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sum.
    AllReduce,
    /// From rank 0.
    Broadcast,
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all-reduce",
            Self::Broadcast => "broadcast",
        }
    }
}

/// Of a communicator: whether what was begun on it has been handed to its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Ready,
    InProgress,
    Failed(String),
}

/// Errors are texts of the library, with its name for them.
pub trait Backend: Send + Sync + 'static {
    type Communicator: Send;
    /// A point in a device's queue.
    type Event: Send;

    /// Begins to make one communicator for each device; they are usable once their state is `Ready`.
    fn start(&self, devices: &[usize]) -> Result<Vec<Self::Communicator>, String>;

    fn state(&self, communicator: &Self::Communicator) -> State;

    /// Queues the operation, in place, behind everything that torch queued on the device. The tensor must live until
    /// the device is done.
    fn enqueue(
        &self,
        communicator: &Self::Communicator,
        device: usize,
        operation: Operation,
        tensor: &Tensor,
    ) -> Result<(), String>;

    /// Marks the end of the device's queue as it is now.
    fn mark(&self, device: usize) -> Result<Self::Event, String>;

    /// Whether the device has come to the mark.
    fn is_done(&self, device: usize, event: &Self::Event) -> Result<bool, String>;

    /// Stops the communicator's kernels and frees it. No thread may be inside the library with this communicator.
    fn abort(&self, communicator: Self::Communicator);

    /// Frees all communicators of an idle set.
    fn close(&self, communicators: Vec<Self::Communicator>);
}
