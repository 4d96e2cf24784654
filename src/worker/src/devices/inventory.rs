//! The devices that are there: GPUs as nvidia-smi lists them, and CPU threads.

use std::fmt;

use super::DeviceError;
use super::driver::{DriverError, ask_nvidia_smi};
use super::granted::{ON_NODE, Promise, VISIBLE, cpu_threads, promise};

/// The devices of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// Threads that this process may use. Respects the cgroup quota, the CPU affinity, and the CPUs
    /// that Slurm gave to its job.
    pub cpu_threads: usize,
    pub cpu_name: String,
    /// GPUs in bus order, as nvidia-smi counts them, or in the order of CUDA_VISIBLE_DEVICES if
    /// that is set.
    pub gpus: Vec<Gpu>,
    /// The reason why `gpus` is empty, if it is.
    pub no_gpus: DriverError,
    pub promise: Option<Promise>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    pub uuid: String,
    pub name: String,
    pub memory_mib: u64,
    pub driver: String,
}

impl fmt::Display for Gpu {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            memory_mib,
            driver,
            ..
        } = self;
        write!(
            formatter,
            "{name}, {} GiB, driver {driver}",
            memory_mib.div_ceil(1024)
        )
    }
}

impl Inventory {
    /// Detects the devices. Takes up to 20 seconds if a driver does not respond.
    pub fn detect() -> Self {
        let visible = std::env::var(VISIBLE).ok();
        let on_node = std::env::var(ON_NODE).ok();
        let answer = ask_nvidia_smi(GPU_FIELDS);
        let hidden = "nvidia-smi lists none that CUDA_VISIBLE_DEVICES shows".to_owned();
        let (gpus, no_gpus) =
            match answer.map(|answer| visible_gpus(parse_gpus(&answer), visible.as_deref())) {
                Ok(gpus) => (gpus, DriverError::NoGpu(hidden)),
                Err(unknown) => (Vec::new(), unknown),
            };
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            cpu_threads: cpu_threads(),
            cpu_name: cpu_name(&cpu),
            gpus,
            no_gpus,
            promise: promise(visible.as_deref(), on_node.as_deref()),
        }
    }

    /// Returns an error if GPUs were promised that are not there.
    pub(super) fn keeps_its_promise(&self) -> Result<(), DeviceError> {
        let Some(promise) = &self.promise else {
            return Ok(());
        };
        let found = match self.gpus.len() {
            count if count >= promise.count => return Ok(()),
            0 => self.no_gpus.to_string(),
            count => format!("nvidia-smi shows {count} of them"),
        };
        Err(DeviceError::Promised {
            promise: promise.clone(),
            found,
        })
    }
}

const GPU_FIELDS: &str = "--query-gpu=index,uuid,memory.total,driver_version,name";

/// Parses index and description of each GPU. Skips other lines.
fn parse_gpus(answer: &str) -> Vec<(u32, Gpu)> {
    let parse = |line: &str| {
        let mut fields = line.splitn(5, ',').map(str::trim);
        let index = fields.next()?.parse().ok()?;
        let uuid = fields.next()?.to_owned();
        let memory_mib = fields.next()?.parse().ok()?;
        let driver = fields.next()?.to_owned();
        Some((
            index,
            Gpu {
                uuid,
                memory_mib,
                driver,
                name: fields.next()?.to_owned(),
            },
        ))
    };
    answer.lines().filter_map(parse).collect()
}

/// Returns the GPUs that CUDA counts: those in CUDA_VISIBLE_DEVICES, in that order, up to the first
/// entry that does not exist.
fn visible_gpus(gpus: Vec<(u32, Gpu)>, visible: Option<&str>) -> Vec<Gpu> {
    let Some(visible) = visible else {
        return gpus.into_iter().map(|(_, gpu)| gpu).collect();
    };
    let find = |entry: &str| {
        let matches = |(index, gpu): &&(u32, Gpu)| match entry.parse::<u32>() {
            Ok(number) => number == *index,
            Err(_) => entry.starts_with("GPU-") && gpu.uuid.starts_with(entry),
        };
        gpus.iter().find(matches).map(|(_, gpu)| gpu.clone())
    };
    visible.split(',').map(str::trim).map_while(find).collect()
}

fn cpu_name(cpuinfo: &str) -> String {
    let line = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    line.and_then(|line| line.split_once(':'))
        .map_or_else(|| "CPU".to_owned(), |(_, name)| name.trim().to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const ANSWER: &str = "0, GPU-aaaa, 143771, 580.65.06, NVIDIA H200\n1, GPU-bbbb, 143771, 580.65.06, NVIDIA H200\n\
                          2, GPU-cccc, 81559, 580.65.06, NVIDIA H100, PCIe\nno GPU here\n";

    /// A machine with eight threads and up to three GPUs.
    pub(in crate::devices) fn machine(num_gpus: usize) -> Inventory {
        let gpus = visible_gpus(parse_gpus(ANSWER), None)
            .into_iter()
            .take(num_gpus)
            .collect();
        Inventory {
            cpu_threads: 8,
            cpu_name: "Some CPU".to_owned(),
            gpus,
            no_gpus: DriverError::NoTool("none".to_owned()),
            promise: None,
        }
    }

    #[test]
    fn cuda_counts_what_is_visible() {
        let names = |visible| -> Vec<String> {
            visible_gpus(parse_gpus(ANSWER), visible)
                .into_iter()
                .map(|gpu| gpu.uuid)
                .collect()
        };
        assert_eq!(names(None), ["GPU-aaaa", "GPU-bbbb", "GPU-cccc"]);
        assert_eq!(names(Some("2, 0")), ["GPU-cccc", "GPU-aaaa"]);
        assert_eq!(names(Some("GPU-bb,9,0")), ["GPU-bbbb"]);
        assert!(names(Some("")).is_empty() && names(Some("-1")).is_empty());
        assert_eq!(
            machine(3).gpus[2].to_string(),
            "NVIDIA H100, PCIe, 80 GiB, driver 580.65.06"
        );
    }
}
