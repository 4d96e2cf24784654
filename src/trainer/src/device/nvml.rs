//! The GPU data of NVIDIA's driver: names, memory, load and health.
//!
//! The library comes with the driver and is opened on first use; on a machine without it there are
//! no devices, and the caller gets `NvmlError`. Read only: nothing here changes a device's
//! settings. Never run on hardware so far. The worker creates its slots from `nvidia-smi` (its
//! devices/), and checks with it that finished attempts hold nothing (gpu_release.rs); this file
//! serves a trial's record, and the check of a device after an error.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError};
use nvml_wrapper::error::NvmlError as Reason;

use crate::device::collective::pci_bus_id;

/// Name that the driver's package installs; the wrapper's own default exists only with development
/// packages.
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
    /// Driver version, such as `580.65.06`.
    pub driver: String,
    /// Number of GPUs, regardless of CUDA_VISIBLE_DEVICES.
    pub num_gpus: u32,
}

impl Inventory {
    pub fn read() -> Result<Self, NvmlError> {
        let nvml = open()?;
        let driver = nvml.sys_driver_version().map_err(refused("its version"))?;
        let num_gpus = nvml.device_count().map_err(refused("counting GPUs"))?;
        Ok(Self { driver, num_gpus })
    }
}

/// Describes a GPU in CUDA's numbering for a trial's record: `cuda:0 (NVIDIA H200, 143771 MiB,
/// driver 580.65.06)`, or only the index if the driver gives no more. Queried once: it does not
/// change while a process holds the GPU.
pub fn describe(index: usize) -> String {
    static KNOWN: Mutex<BTreeMap<usize, String>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(text) = known.get(&index) {
        return text.clone();
    }
    match describe_again(index) {
        Ok(text) => known
            .entry(index)
            .or_insert(format!("cuda:{index} ({text})"))
            .clone(),
        Err(reason) => {
            tracing::warn!(reason, "cuda:{index} cannot be described");
            format!("cuda:{index}")
        }
    }
}

fn describe_again(index: usize) -> Result<String, String> {
    let place = place(index)?;
    let nvml = open().map_err(|error| error.to_string())?;
    let read = || {
        let device = nvml.device_by_pci_bus_id(place.as_str())?;
        let (name, memory) = (device.name()?, device.memory_info()?);
        Ok(format!(
            "{name}, {} MiB, driver {}",
            memory.total >> 20,
            nvml.sys_driver_version()?
        ))
    };
    read().map_err(|reason: Reason| {
        format!("the driver does not describe the GPU at {place}: {reason}")
    })
}

/// Load and energy of an attempt's GPUs. The load is a mean over samples, each over the driver's own
/// last period (up to a second); the energy is what the driver's counters rise by.
pub struct Meter {
    gauges: Vec<Gauge>,
    sum: f64,
    num_samples: u32,
}

/// One GPU.
struct Gauge {
    busy: Box<dyn FnMut() -> Option<f64>>,
    energy_j: Box<dyn Fn() -> Option<f64>>,
    /// The counter at the start.
    energy_before_j: Option<f64>,
}

impl Gauge {
    fn new(
        busy: impl FnMut() -> Option<f64> + 'static,
        energy_j: impl Fn() -> Option<f64> + 'static,
    ) -> Self {
        Self {
            busy: Box::new(busy),
            energy_before_j: energy_j(),
            energy_j: Box::new(energy_j),
        }
    }
}

impl Meter {
    /// Opens GPUs in CUDA's numbering; one that cannot be queried is left out.
    pub fn open(indices: &[usize]) -> Self {
        static NVML: OnceLock<Option<Nvml>> = OnceLock::new();
        let nvml = if indices.is_empty() {
            None
        } else {
            NVML.get_or_init(|| open().ok()).as_ref()
        };
        let gauge = |index: usize| {
            let place = place(index).ok()?;
            let nvml = nvml?;
            let device = nvml.device_by_pci_bus_id(place.as_str()).ok()?;
            let counter = nvml.device_by_pci_bus_id(place).ok()?;
            let busy = move || {
                let rates = device.utilization_rates().ok()?;
                Some(f64::from(rates.gpu) / 100.0)
            };
            // millijoules since the driver was loaded
            let energy_j = move || Some(counter.total_energy_consumption().ok()? as f64 / 1000.0);
            Some(Gauge::new(busy, energy_j))
        };
        Self::of(indices.iter().copied().filter_map(gauge).collect())
    }

    fn of(gauges: Vec<Gauge>) -> Self {
        Self {
            gauges,
            sum: 0.0,
            num_samples: 0,
        }
    }

    pub fn sample(&mut self) {
        for share in self.gauges.iter_mut().filter_map(|gauge| (gauge.busy)()) {
            self.sum += share;
            self.num_samples += 1;
        }
    }

    /// Returns the mean over all GPUs and samples, or none if there are no samples.
    pub fn mean(&self) -> Option<f64> {
        (self.num_samples > 0).then(|| self.sum / f64::from(self.num_samples))
    }

    /// Returns the joules since the start, or none unless every GPU counts them.
    pub fn energy_j(&self) -> Option<f64> {
        let taken = |gauge: &Gauge| Some((gauge.energy_j)()? - gauge.energy_before_j?);
        let taken: Option<Vec<f64>> = self.gauges.iter().map(taken).collect();
        taken
            .filter(|each| !each.is_empty())
            .map(|each| each.iter().sum())
    }
}

/// Returns why a GPU, in CUDA's numbering, can no longer be trusted; `None` if the driver knows of
/// no fault.
pub fn health_problem(index: usize) -> Option<String> {
    let place = match place(index) {
        Ok(place) => place,
        Err(reason) => return Some(format!("cuda:{index} does not answer ({reason})")),
    };
    let nvml = open().ok()?;
    match nvml
        .device_by_pci_bus_id(place.as_str())
        .and_then(|device| {
            device.memory_info()?;
            device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile)
        }) {
        Ok(0) | Err(Reason::NotSupported) => None,
        Ok(errors) => Some(format!(
            "cuda:{index} at {place} has {errors} uncorrectable memory errors since its start"
        )),
        Err(reason) => Some(format!(
            "cuda:{index} at {place} does not answer ({reason})"
        )),
    }
}

/// Returns a GPU's PCI address, by which the driver knows it. CUDA is queried once, before any
/// error: after one it returns that error from every call, and a program's fault would look like
/// one of the device.
fn place(index: usize) -> Result<String, String> {
    static KNOWN: Mutex<BTreeMap<usize, String>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(place) = known.get(&index) {
        return Ok(place.clone());
    }
    let place = pci_bus_id(index)?;
    Ok(known.entry(index).or_insert(place).clone())
}

fn open() -> Result<Nvml, NvmlError> {
    Nvml::builder()
        .lib_path(LIBRARY.as_ref())
        .init()
        .map_err(|source| match source {
            Reason::LibloadingError(_) | Reason::LibraryNotFound => NvmlError::Absent { source },
            source => refused("starting it")(source),
        })
}

fn refused(action: &str) -> impl FnOnce(Reason) -> NvmlError {
    let action = action.to_owned();
    move |source| NvmlError::Refused { action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_read_or_reported_absent() {
        match Inventory::read() {
            Err(error @ NvmlError::Absent { .. }) => {
                assert_eq!(
                    error.to_string(),
                    "no NVIDIA driver here: libnvidia-ml.so.1 cannot be opened"
                );
            }
            Err(error) => panic!("{error}"),
            Ok(inventory) => assert!(!inventory.driver.is_empty()),
        }
    }

    #[test]
    fn busy_is_the_mean_of_the_devices_that_report_it() {
        let rising = |first: f64| {
            let mut next = first;
            move || {
                next += 0.25;
                Some(next - 0.25)
            }
        };
        let gauge = |busy| Gauge::new(busy, || None);
        let mut meter = Meter::of(vec![
            gauge(rising(0.0)),
            gauge(rising(0.5)),
            Gauge::new(|| None, || None),
        ]);
        assert_eq!(meter.mean(), None, "nothing was sampled");
        meter.sample();
        assert_eq!(meter.mean(), Some(0.25));
        meter.sample();
        assert_eq!(meter.mean(), Some(0.375));
        let mut blind = Meter::open(&[]);
        blind.sample();
        assert_eq!(blind.mean(), None);
    }

    #[test]
    fn energy_is_the_rise_of_every_counter_or_nothing() {
        let counter = |first: f64| {
            let next = std::cell::Cell::new(first);
            move || {
                next.set(next.get() + 10.0);
                Some(next.get())
            }
        };
        let gauge = |first| Gauge::new(|| None, counter(first));
        assert_eq!(
            Meter::of(vec![gauge(0.0), gauge(500.0)]).energy_j(),
            Some(20.0)
        );
        let blind = Gauge::new(|| None, || None);
        assert_eq!(Meter::of(vec![gauge(0.0), blind]).energy_j(), None);
        assert_eq!(Meter::open(&[]).energy_j(), None, "there is no GPU");
    }
}
