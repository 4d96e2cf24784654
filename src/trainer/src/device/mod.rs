//! The machine: processors, GPUs and their libraries, groups of replicas, the C++ shim, and the
//! process itself.
//!
//! Knows nothing of networks or trials. Read device_set.rs for the devices of a slot, collective/
//! for groups, cuda/ for what only GPUs need.

pub mod collective;
pub mod cuda;
mod device_set;
pub mod hardware;
mod library_versions;
pub mod nvml;
pub mod process;
pub mod profile;
pub mod recorder;
mod shared_library;
pub mod shim;

pub use device_set::{
    CUDNN_CANDIDATES, DeviceError, DeviceSet, UnhealthyDevice, cuda_name, libtorch_version,
    num_gpus, prepare_thread,
};
