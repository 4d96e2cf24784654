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

/// What the replicas of one process are in their group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// One for each replica of this process, in rank order.
    pub devices: Vec<usize>,
    pub first_rank: usize,
    /// Replicas of the group, in all processes.
    pub size: usize,
    /// What the processes of a group have in common; absent where this process is all of it.
    pub id: Option<GroupId>,
}

impl Part {
    pub fn whole(devices: &[usize]) -> Self {
        Self { devices: devices.to_owned(), first_rank: 0, size: devices.len(), id: None }
    }
}

/// NCCL's name of a group: made by one process, given to the others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct GroupId(pub [u8; GROUP_ID_BYTES]);

pub const GROUP_ID_BYTES: usize = 128;

impl std::fmt::Debug for GroupId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "GroupId({:02x?}..)", &self.0[..8])
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
    fn start(&self, part: &Part) -> Result<Vec<Self::Communicator>, String>;

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
