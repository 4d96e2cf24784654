//! The options of a slot: the same for every attempt that its trainer makes.

use std::path::PathBuf;
use std::time::Duration;

use crate::attempt::fault::Fault;
use crate::device::DeviceSet;
use crate::step::cuda_graph_steps::Policy;

#[derive(Clone, Debug)]
pub struct SlotOptions {
    pub devices: DeviceSet,
    pub fault: Option<Fault>,
    /// Minimum age of the last checkpoint when an epoch writes another: what a crash can cost in
    /// any case.
    pub checkpoint_interval: Duration,
    /// Longest time between progress reports while training steps run.
    pub report_interval: Duration,
    /// Time that a replica waits for the others, and for its device, before it gives up the
    /// attempt.
    pub collective_deadline: Duration,
    /// Number of threads that prepare batches; with 0, the step does it.
    pub data_threads: usize,
    /// Policy for recording steps on a GPU.
    pub recording: Policy,
    /// Largest share of a GPU's memory to take.
    pub memory_share: f64,
    /// Path for the weights of a finished trial.
    pub weights_out: Option<PathBuf>,
}
