//! Operations of NCCL and CUDA that `Nccl` needs, as a trait: the real libraries (gpus.rs) or a
//! test fake (fake.rs).
//!
//! No call may block for longer than it takes to hand over work; the caller waits by polling.

use tch::Tensor;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The sum over all ranks.
    AllReduce,
    /// The tensor of rank 0.
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

/// The part of a group that one process holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPart {
    /// The device of each replica of this process, in rank order.
    pub devices: Vec<usize>,
    pub first_rank: usize,
    /// Number of replicas in the group, over all processes.
    pub size: usize,
    /// Id that the processes of a group share; `None` if one process holds the whole group.
    pub id: Option<GroupId>,
}

impl GroupPart {
    pub fn whole(devices: &[usize]) -> Self {
        Self {
            devices: devices.to_owned(),
            first_rank: 0,
            size: devices.len(),
            id: None,
        }
    }
}

/// NCCL's id of a group: made by one process, passed to the others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct GroupId(pub [u8; GROUP_ID_BYTES]);

pub const GROUP_ID_BYTES: usize = 128;

impl std::fmt::Debug for GroupId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "GroupId({:02x?}..)", &self.0[..8])
    }
}

/// State of a communicator: `Ready` once everything started on it has been handed to its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommunicatorState {
    Ready,
    InProgress,
    Failed(String),
}

/// The functions of NCCL and CUDA. Errors are the library's texts, with its names for them.
pub trait Backend: Send + Sync + 'static {
    type Communicator: Send;
    /// A point in a device's queue.
    type Event: Send;

    /// Starts making one communicator for each device; they are usable once their state is `Ready`.
    fn start(&self, part: &GroupPart) -> Result<Vec<Self::Communicator>, String>;

    fn state(&self, communicator: &Self::Communicator) -> CommunicatorState;

    /// Queues the operation, in place, behind everything that torch queued on the device. The
    /// tensor must live until the device is done.
    fn enqueue(
        &self,
        communicator: &Self::Communicator,
        device: usize,
        operation: Operation,
        tensor: &Tensor,
    ) -> Result<(), String>;

    /// Marks the current end of the device's queue.
    fn mark(&self, device: usize) -> Result<Self::Event, String>;

    /// Returns true if the device has reached the mark.
    fn is_done(&self, device: usize, event: &Self::Event) -> Result<bool, String>;

    /// Stops the communicator's kernels and frees it. No thread may be inside the library with this
    /// communicator.
    fn abort(&self, communicator: Self::Communicator);

    /// Frees all communicators of an idle set.
    fn close(&self, communicators: Vec<Self::Communicator>);
}
