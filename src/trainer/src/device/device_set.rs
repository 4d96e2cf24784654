//! The devices of a slot: the value of `--devices`, checked against the machine, and the group of
//! replicas on them.
//!
//! On the CPU any number of replicas share the slot's threads. On GPUs there is one replica per
//! GPU, or all of them on the only GPU. Does not choose devices: the worker did. Next:
//! collective/mod.rs.

use std::time::Duration;

use tch::{Cuda, Device};

use crate::device::collective::{Collective, CollectiveError, Solo, nccl, shared_memory};
use crate::device::shim::{self, ShimError};
use crate::device::{cuda, library_versions, nvml, process};

#[derive(Clone, Debug, PartialEq)]
pub enum DeviceSet {
    Cpu { num_threads: usize },
    Cuda { indices: Vec<usize> },
}

/// Environment variable for testing on one GPU: the GPU's only replica communicates with itself
/// over NCCL.
const NCCL_ALONE: &str = "ORCHESTRATOR_NCCL_ALONE";

/// One replica's end of its group, and its device.
pub type Member = (Box<dyn Collective>, Device);

/// A device that can no longer be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnhealthyDevice {
    /// The device as `--devices` names it.
    pub device: String,
    pub reason: String,
}

/// Returns a GPU's name in `--devices` and in failures.
pub fn cuda_name(index: usize) -> String {
    format!("cuda:{index}")
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("`--devices {0}` is not understood: `cpu`, `cuda:0`, `cuda:0-3` or `cuda:0,2` are")]
    Malformed(String),
    #[error("`--devices` names cuda:{index}, but {present}")]
    Absent { index: usize, present: String },
    #[error(
        "`replicas` = {num_replicas} do not fit {num_gpus} GPUs: one GPU each, or all on one GPU"
    )]
    TooFewGpus {
        num_replicas: usize,
        num_gpus: usize,
    },
}

impl DeviceSet {
    /// Parses `cpu`, or GPUs by index: `cuda:0-3`, `cuda:0,2`, `cuda:0,cuda:2`.
    pub fn parse(text: &str, num_threads: usize) -> Result<Self, DeviceError> {
        if text == "cpu" {
            return Ok(Self::Cpu {
                num_threads: num_threads.max(1),
            });
        }
        let bad = || DeviceError::Malformed(text.to_owned());
        if !text.starts_with("cuda:") {
            return Err(bad());
        }
        let mut indices = Vec::new();
        for part in text.split(',') {
            let part = part.strip_prefix("cuda:").unwrap_or(part);
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range: (usize, usize) = (
                first.parse().map_err(|_| bad())?,
                last.parse().map_err(|_| bad())?,
            );
            indices.extend(range.0..=range.1);
        }
        let mut distinct = indices.clone();
        distinct.sort_unstable();
        distinct.dedup();
        if indices.is_empty() || distinct.len() != indices.len() {
            return Err(bad());
        }
        Ok(Self::Cuda { indices })
    }

    /// Checks that every device named is present.
    pub fn check_present(&self) -> Result<(), DeviceError> {
        let Self::Cuda { indices } = self else {
            return Ok(());
        };
        let count = num_gpus();
        let present = match count {
            0 => why_no_gpus(),
            1 => "there is only cuda:0".to_owned(),
            _ => format!("there are cuda:0 to cuda:{}", count - 1),
        };
        match indices.iter().find(|&&index| index >= count) {
            Some(&index) => Err(DeviceError::Absent { index, present }),
            None => Ok(()),
        }
    }

    pub fn check_replicas(&self, num_replicas: usize) -> Result<(), DeviceError> {
        match self {
            Self::Cuda { indices } if indices.len() > 1 && indices.len() < num_replicas => {
                Err(DeviceError::TooFewGpus {
                    num_replicas,
                    num_gpus: indices.len(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Returns true if a device would have more than one replica.
    pub fn are_shared_by(&self, num_replicas: usize) -> bool {
        match self {
            Self::Cpu { .. } => num_replicas > 1,
            Self::Cuda { indices } => num_replicas > indices.len(),
        }
    }

    /// Returns the GPUs that hold `num_replicas` replicas.
    pub fn gpus_of(&self, num_replicas: usize) -> Vec<usize> {
        match self {
            Self::Cpu { .. } => Vec::new(),
            Self::Cuda { indices } => indices.iter().copied().take(num_replicas).collect(),
        }
    }

    /// Returns one of the devices, which are all of the same kind.
    pub fn kind(&self) -> Device {
        match self {
            Self::Cpu { .. } => Device::Cpu,
            Self::Cuda { indices } => Device::Cuda(indices[0]),
        }
    }

    /// Returns the number of CPU threads for each replica's tensor operations.
    pub fn threads_per_replica(&self, num_replicas: usize) -> usize {
        match self {
            Self::Cpu { num_threads } => (num_threads / num_replicas).max(1),
            Self::Cuda { .. } => 1,
        }
    }

    /// Returns the default number of threads that prepare batches: on a fully used CPU the
    /// computing threads leave no core free, and idle cores are for more slots.
    pub fn default_data_threads(&self) -> usize {
        match self {
            Self::Cpu { num_threads } => usize::from(*num_threads > 1),
            Self::Cuda { .. } => {
                data_threads_beside_gpus(process::num_cores(), num_gpus_of_machine())
            }
        }
    }

    /// Returns the GPUs of a group over NCCL, if `num_replicas` replicas form one.
    fn nccl_devices(&self, num_replicas: usize) -> Option<&[usize]> {
        let Self::Cuda { indices } = self else {
            return None;
        };
        let is_group = match num_replicas {
            1 => std::env::var_os(NCCL_ALONE).is_some(),
            _ => indices.len() > 1,
        };
        is_group.then(|| &indices[..num_replicas])
    }

    /// Returns the versions of the libraries, besides libtorch, with the replicas' kernels, for a
    /// trial's record.
    pub fn libraries(&self, num_replicas: usize) -> Vec<String> {
        match self {
            Self::Cpu { .. } => Vec::new(),
            Self::Cuda { .. } => {
                library_versions::of_gpus(self.nccl_devices(num_replicas).is_some())
            }
        }
    }

    /// Returns the replicas of a trial with their devices, in rank order.
    pub fn group(
        &self,
        num_replicas: usize,
        deadline: Duration,
    ) -> Result<Vec<Member>, CollectiveError> {
        let device = |rank: usize| match self {
            Self::Cpu { .. } => Device::Cpu,
            Self::Cuda { indices } => Device::Cuda(indices[rank % indices.len()]),
        };
        let ends: Vec<Box<dyn Collective>> = match self.nccl_devices(num_replicas) {
            Some(devices) => nccl(devices, deadline)?,
            None if num_replicas == 1 => vec![Box::new(Solo::default())],
            None => shared_memory(num_replicas, deadline),
        };
        Ok(ends
            .into_iter()
            .enumerate()
            .map(|(rank, end)| (end, device(rank)))
            .collect())
    }

    /// Limits this process to a share of its GPUs' memory.
    pub fn limit_memory(&self, share: f64) -> anyhow::Result<()> {
        anyhow::ensure!(
            share > 0.0 && share <= 1.0,
            "`--memory-share {share}` is not in 0..1"
        );
        let Self::Cuda { indices } = self else {
            return Ok(());
        };
        for &index in indices.iter().filter(|_| share < 1.0) {
            cuda::set_memory_share(index, share)?;
        }
        Ok(())
    }

    /// Starts a new measurement of `peak_memory_mib`.
    pub fn reset_peak_memory(&self) {
        process::reset_peak_memory();
        if let Self::Cuda { indices } = self {
            // a device has no peak before its first use
            indices
                .iter()
                .for_each(|&index| drop(shim::reset_peak_cuda_memory(index)));
        }
    }

    /// Returns the peak memory since the last reset: of the process on the CPU, otherwise of the
    /// fullest GPU.
    pub fn peak_memory_mib(&self) -> f64 {
        match self {
            Self::Cpu { .. } => process::peak_memory_mib(),
            Self::Cuda { indices } => {
                let peak = indices
                    .iter()
                    .filter_map(|&index| shim::peak_cuda_memory(index).ok())
                    .max();
                peak.unwrap_or(0) as f64 / f64::from(1 << 20)
            }
        }
    }

    /// Returns the devices that are not healthy, with the reason; called after an error.
    pub fn unhealthy(&self) -> Vec<UnhealthyDevice> {
        let Self::Cuda { indices } = self else {
            return Vec::new();
        };
        let unhealthy = |&index| {
            nvml::health_problem(index).map(|reason| UnhealthyDevice {
                device: cuda_name(index),
                reason,
            })
        };
        indices.iter().filter_map(unhealthy).collect()
    }

    /// Returns the devices that the replicas ran on, for a trial's record.
    pub fn describe(&self, num_replicas: usize) -> Vec<String> {
        match self {
            Self::Cpu { num_threads } => {
                let plural = if *num_threads == 1 { "" } else { "s" };
                vec![format!(
                    "cpu ({}, {num_threads} thread{plural})",
                    process::cpu_name()
                )]
            }
            Self::Cuda { indices } => indices
                .iter()
                .take(num_replicas)
                .map(|&index| nvml::describe(index))
                .collect(),
        }
    }
}

/// Returns the number of GPUs that libtorch can use.
pub fn num_gpus() -> usize {
    // libtorch knows no CUDA before its library is opened, and remembers its first answer
    if cuda::libtorch().is_ok() && Cuda::is_available() {
        Cuda::device_count().max(0) as usize
    } else {
        0
    }
}

/// Returns the machine's number of GPUs: those of other slots, hidden by CUDA_VISIBLE_DEVICES, need
/// the same cores.
fn num_gpus_of_machine() -> usize {
    nvml::Inventory::read()
        .map_or(0, |inventory| inventory.num_gpus as usize)
        .max(num_gpus())
}

fn data_threads_beside_gpus(num_cores: usize, num_gpus: usize) -> usize {
    (num_cores / num_gpus.max(1)).clamp(1, 4)
}

/// Returns the first reason that applies: no CUDA in this libtorch, no driver, no device.
fn why_no_gpus() -> String {
    if let Err(error) = cuda::libtorch() {
        return error.to_string();
    }
    match nvml::Inventory::read() {
        Err(error) => error.to_string(),
        Ok(inventory) if inventory.num_gpus == 0 => {
            format!("driver {} has no GPU", inventory.driver)
        }
        Ok(inventory) => format!(
            "libtorch sees none of the {} GPUs of driver {}: is it older than CUDA 13 needs, or does \
             CUDA_VISIBLE_DEVICES hide them?",
            inventory.num_gpus, inventory.driver
        ),
    }
}

/// Default number of candidates that cuDNN times per shape of a convolution.
pub const CUDNN_CANDIDATES: u32 = 10;

/// Prepares a replica's thread; must be called before the thread makes its first tensor on the
/// device.
pub fn prepare_thread(
    device: Device,
    deterministic: bool,
    cudnn_candidates: u32,
) -> Result<(), ShimError> {
    let Device::Cuda(index) = device else {
        return Ok(());
    };
    shim::use_stream(index)?;
    shim::set_autograd_threads(false)?;
    shim::choose_cuda_kernels(deterministic, cudnn_candidates)
}

/// Returns the version that this program was built with and runs with.
pub fn libtorch_version() -> String {
    crate::device::shim::libtorch_version().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_in_every_form() {
        let cuda = |indices: &[usize]| {
            Ok(DeviceSet::Cuda {
                indices: indices.to_vec(),
            })
        };
        assert_eq!(
            DeviceSet::parse("cpu", 2),
            Ok(DeviceSet::Cpu { num_threads: 2 })
        );
        assert_eq!(DeviceSet::parse("cuda:0-3", 1), cuda(&[0, 1, 2, 3]));
        assert_eq!(DeviceSet::parse("cuda:2,0", 1), cuda(&[2, 0]));
        assert_eq!(DeviceSet::parse("cuda:0,cuda:3", 1), cuda(&[0, 3]));
        for text in [
            "",
            "gpu",
            "cuda",
            "cuda:",
            "cuda:0,0",
            "cuda:x",
            "cuda:2-1",
            "cpu,cuda:0",
        ] {
            assert_eq!(
                DeviceSet::parse(text, 1),
                Err(DeviceError::Malformed(text.to_owned())),
                "{text}"
            );
        }
    }

    /// Runs on any machine, with either kind of libtorch.
    #[test]
    fn an_absent_gpu_is_named_with_the_reason() {
        let absent = num_gpus();
        let error = DeviceSet::Cuda {
            indices: vec![absent],
        }
        .check_present()
        .unwrap_err()
        .to_string();
        assert!(
            error.starts_with(&format!("`--devices` names cuda:{absent}, but ")),
            "{error}"
        );
        let reasons = ["libtorch_cuda.so", "no NVIDIA driver here", "GPU", "cuda:0"];
        assert!(
            reasons.iter().any(|reason| error.contains(reason)),
            "{error}"
        );
    }

    #[test]
    fn the_gpus_of_a_machine_share_its_cores() {
        let threads = data_threads_beside_gpus;
        assert_eq!(
            (
                threads(16, 8),
                threads(16, 1),
                threads(4, 8),
                threads(16, 0)
            ),
            (2, 4, 1, 4)
        );
    }

    #[test]
    fn one_gpu_is_no_group_and_several_are_as_many_as_there_are_replicas() {
        let set = DeviceSet::Cuda {
            indices: vec![2, 0, 3],
        };
        assert_eq!(set.nccl_devices(2), Some(&[2, 0][..]));
        assert_eq!(set.nccl_devices(1), None);
        assert_eq!(
            DeviceSet::Cuda { indices: vec![3] }.nccl_devices(4),
            None,
            "they share its memory"
        );
        assert_eq!(DeviceSet::Cpu { num_threads: 2 }.nccl_devices(2), None);
    }

    #[test]
    fn replicas_fit_one_gpu_or_one_each() {
        let set = DeviceSet::Cuda {
            indices: vec![0, 1],
        };
        assert!(
            set.check_replicas(2).is_ok()
                && set.check_replicas(1).is_ok()
                && set.check_replicas(4).is_err()
        );
        assert!(
            DeviceSet::Cuda { indices: vec![3] }
                .check_replicas(4)
                .is_ok()
        );
    }
}
