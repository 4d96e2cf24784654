//! What NVIDIA's driver knows of the GPUs: names, memory, and which processes are on them.
//!
//! The library comes with the driver and is opened when it is asked; a machine without it has no devices, and
//! `NvmlError` says so. Read only: nothing here changes a device's settings. Never run on hardware so far. The worker
//! makes its slots from `nvidia-smi`, see its devices.rs; this is for a trial's record and for the proof that a
//! finished attempt holds nothing.

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError};
use nvml_wrapper::error::NvmlError as Reason;

use crate::collective::pci_bus_id;

/// The name that the driver's package installs; the wrapper's own default exists only with development packages.
const LIBRARY: &str = "libnvidia-ml.so.1";

#[derive(Debug, thiserror::Error)]
pub enum NvmlError {
    #[error("no NVIDIA driver here: {LIBRARY} cannot be opened")]
    Absent { source: Reason },
    #[error("the NVIDIA driver does not answer: {action}")]
    Refused { action: String, source: Reason },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// `580.65.06`
    pub driver: String,
    /// In the order of the driver, which CUDA_VISIBLE_DEVICES does not change.
    pub gpus: Vec<Gpu>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    pub name: String,
    /// Stays the same over reboots: `GPU-...`
    pub uuid: String,
    /// `00000000:17:00.0`
    pub pci_bus_id: String,
    pub memory_bytes: u64,
    pub memory_used_bytes: u64,
    /// Ids of the processes that hold a CUDA context on it.
    pub processes: Vec<u32>,
}

impl Inventory {
    pub fn read() -> Result<Self, NvmlError> {
        let nvml = open()?;
        let driver = nvml.sys_driver_version().map_err(refused("its version"))?;
        let count = nvml.device_count().map_err(refused("counting GPUs"))?;
        let gpus = (0..count).map(|index| gpu(&nvml, index)).collect::<Result<_, _>>()?;
        Ok(Self { driver, gpus })
    }

    /// The GPU at a place on the bus, in the form of NVML or of CUDA (which writes a shorter domain).
    pub fn at(&self, pci_bus_id: &str) -> Option<&Gpu> {
        self.gpus.iter().find(|gpu| same_place(&gpu.pci_bus_id, pci_bus_id))
    }
}

/// A GPU in CUDA's counting, for a trial's record: `cuda:0 (NVIDIA H200, 143771 MiB, driver 580.65.06)`; the index alone
/// where the driver does not tell more.
pub fn describe(index: usize) -> String {
    let found = pci_bus_id(index).and_then(|place| {
        let inventory = Inventory::read().map_err(|error| error.to_string())?;
        let gpu = inventory.at(&place).ok_or_else(|| format!("the driver has no GPU at {place}"))?;
        Ok(format!("{}, {} MiB, driver {}", gpu.name, gpu.memory_bytes >> 20, inventory.driver))
    });
    match found {
        Ok(text) => format!("cuda:{index} ({text})"),
        Err(reason) => {
            tracing::warn!(reason, "cuda:{index} cannot be described");
            format!("cuda:{index}")
        }
    }
}

/// Why a GPU, in CUDA's counting, cannot be trusted any more; `None` as far as the driver knows of nothing.
pub fn ailment(index: usize) -> Option<String> {
    // a device that CUDA has lost has no place any more
    let place = match pci_bus_id(index) {
        Ok(place) => place,
        Err(reason) => return Some(format!("cuda:{index} does not answer ({reason})")),
    };
    let nvml = open().ok()?;
    match nvml.device_by_pci_bus_id(place.as_str()).and_then(|device| {
        device.memory_info()?;
        device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile)
    }) {
        Ok(0) | Err(Reason::NotSupported) => None,
        Ok(errors) => Some(format!("cuda:{index} at {place} has {errors} uncorrectable memory errors since its start")),
        Err(reason) => Some(format!("cuda:{index} at {place} does not answer ({reason})")),
    }
}

fn open() -> Result<Nvml, NvmlError> {
    Nvml::builder().lib_path(LIBRARY.as_ref()).init().map_err(|source| match source {
        Reason::LibloadingError(_) | Reason::LibraryNotFound => NvmlError::Absent { source },
        source => refused("starting it")(source),
    })
}

fn gpu(nvml: &Nvml, index: u32) -> Result<Gpu, NvmlError> {
    let device = nvml.device_by_index(index).map_err(refused(&format!("GPU {index}")))?;
    let memory = device.memory_info().map_err(refused(&format!("memory of GPU {index}")))?;
    let processes = device.running_compute_processes().map_err(refused(&format!("processes on GPU {index}")))?;
    Ok(Gpu {
        name: device.name().map_err(refused(&format!("name of GPU {index}")))?,
        uuid: device.uuid().map_err(refused(&format!("id of GPU {index}")))?,
        pci_bus_id: device.pci_info().map_err(refused(&format!("place of GPU {index}")))?.bus_id,
        memory_bytes: memory.total,
        memory_used_bytes: memory.used,
        processes: processes.into_iter().map(|process| process.pid).collect(),
    })
}

fn refused(action: &str) -> impl FnOnce(Reason) -> NvmlError {
    let action = action.to_owned();
    move |source| NvmlError::Refused { action, source }
}

/// Domains have four digits in CUDA's form and eight in NVML's; letters may be of either case.
fn same_place(one: &str, other: &str) -> bool {
    let normal = |text: &str| text.trim_start_matches('0').to_ascii_lowercase();
    normal(one) == normal(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_driver_the_error_says_so() {
        match Inventory::read() {
            Err(error @ NvmlError::Absent { .. }) => {
                assert_eq!(error.to_string(), "no NVIDIA driver here: libnvidia-ml.so.1 cannot be opened");
            }
            Err(error) => panic!("{error}"),
            Ok(inventory) => eprintln!("skipped: driver {} with {} GPUs", inventory.driver, inventory.gpus.len()),
        }
    }

    #[test]
    fn places_are_compared_across_forms() {
        assert!(same_place("00000000:17:00.0", "0000:17:00.0"));
        assert!(same_place("00000000:B3:00.0", "0000:b3:00.0"));
        assert!(!same_place("00000000:17:00.0", "0000:18:00.0"));
        assert!(same_place("00000001:17:00.0", "0001:17:00.0"));
    }
}
