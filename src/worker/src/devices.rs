//! The devices of this machine, and slots made of them: `--devices auto|cpu|cuda|cuda:0-3`,
//! `--slots`, `--devices-per-slot`. It asks `nvidia-smi`, which comes with the driver; nothing here
//! loads CUDA.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use schedule::state::Slot;

/// The value of `--devices`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// Every GPU, or the CPU if there is none.
    Auto,
    Cpu,
    AllGpus,
    Gpus(Vec<u32>),
}

/// The form that `--devices` takes.
impl fmt::Display for DeviceChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Cpu => formatter.write_str("cpu"),
            Self::AllGpus => formatter.write_str("cuda"),
            Self::Gpus(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
                write!(formatter, "cuda:{}", numbers.join(","))
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error(
        "`{0}` names no devices: `auto`, `cpu`, `cuda`, `cuda:0`, `cuda:0-3` or `cuda:0,2` were expected"
    )]
    BadChoice(String),
    #[error("`cuda:{0}` is named twice")]
    Repeated(u32),
    #[error("there is no `cuda:{index}`: this machine has {present}")]
    NoSuchGpu { index: u32, present: String },
    #[error("no GPU was found: {0}")]
    NoGpus(DriverError),
    #[error(
        "`auto` cannot find out if there are GPUs: {0}; fix the driver, or pass `--devices cpu`"
    )]
    SilentDriver(DriverError),
    #[error("{promise}, and {found}: see that nvidia-smi works here, or choose `--devices cpu`")]
    Promised { promise: Promise, found: String },
    #[error("{devices} devices cannot be divided into {what}")]
    Indivisible { devices: usize, what: String },
    #[error("`{option}` must be at least 1")]
    Zero { option: &'static str },
}

/// The reason why the driver's tool, nvidia-smi, gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    #[error("{0}")]
    NoTool(String),
    /// The tool reports that there is no GPU, or no driver.
    #[error("{0}")]
    NoGpu(String),
    /// The driver does not work properly.
    #[error("{0}")]
    Silent(String),
}

/// GPUs that a variable of the environment promises to this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    variable: &'static str,
    value: String,
    count: usize,
}

impl fmt::Display for Promise {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            variable,
            value,
            count,
        } = self;
        let plural = if *count == 1 { "" } else { "s" };
        write!(formatter, "{variable}={value} promises {count} GPU{plural}")
    }
}

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

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let bad = || DeviceError::BadChoice(text.to_owned());
        let list = match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => return Ok(Self::AllGpus),
            _ => text.strip_prefix("cuda:").ok_or_else(bad)?,
        };
        let number = |digits: &str| {
            digits
                .parse::<u32>()
                .ok()
                .filter(|&index| index < 1024)
                .ok_or_else(bad)
        };
        let mut gpus = Vec::new();
        for part in list.split(',') {
            match part.split_once('-') {
                None => gpus.push(number(part)?),
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last {
                        return Err(bad());
                    }
                    gpus.extend(first..=last);
                }
            }
        }
        let mut seen = BTreeSet::new();
        match gpus.iter().find(|&&index| !seen.insert(index)) {
            Some(&index) => Err(DeviceError::Repeated(index)),
            None => Ok(Self::Gpus(gpus)),
        }
    }
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
    fn keeps_its_promise(&self) -> Result<(), DeviceError> {
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

const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";
/// Set by Slurm: the number of GPUs of the job on this node.
const ON_NODE: &str = "SLURM_GPUS_ON_NODE";
/// The value of CUDA_VISIBLE_DEVICES that launchers set where they found no GPU.
const NO_DEVICES: &str = "NoDevFiles";

/// Returns the GPUs that the environment promises. CUDA_VISIBLE_DEVICES comes first, where it is
/// set: an empty list and `-1` hide every GPU on purpose.
fn promise(visible: Option<&str>, on_node: Option<&str>) -> Option<Promise> {
    let (variable, value, count) = match visible.map(str::trim) {
        Some(value) if value != NO_DEVICES => {
            let entries = value.split(',').map(str::trim);
            let named = entries.take_while(|entry| !entry.is_empty() && *entry != "-1");
            (VISIBLE, value, named.count())
        }
        Some(_) | None => {
            let value = on_node?.trim();
            (ON_NODE, value, value.parse().ok()?)
        }
    };
    (count > 0).then(|| Promise {
        variable,
        value: value.to_owned(),
        count,
    })
}

/// Returns the number of threads that this process may use.
fn cpu_threads() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    bounded_by_slurm(allowed, std::env::var("SLURM_CPUS_ON_NODE").ok().as_deref())
}

/// Slurm does not confine a job to its CPUs everywhere (`TaskPlugin=task/none`).
fn bounded_by_slurm(allowed: usize, on_node: Option<&str>) -> usize {
    let granted = on_node.and_then(|text| text.trim().parse::<usize>().ok());
    granted
        .filter(|granted| *granted > 0)
        .map_or(allowed, |granted| allowed.min(granted))
}

/// Divides the chosen devices into slots.
///
/// `per_slot` devices go into each slot, one by default. On the CPU a device is a thread, and
/// `count` slots share the threads; by default each thread is a slot, since two trials of one
/// thread beat one trial of two. If there are more slots than GPUs, slots share GPUs: several small
/// trials run on one GPU.
pub fn slots(
    choice: &DeviceChoice,
    count: Option<u32>,
    per_slot: Option<u32>,
    inventory: &Inventory,
) -> Result<Vec<Slot>, DeviceError> {
    for (option, value) in [("--slots", count), ("--devices-per-slot", per_slot)] {
        if value == Some(0) {
            return Err(DeviceError::Zero { option });
        }
    }
    let (count, per_slot) = (
        count.map(|count| count as usize),
        per_slot.map(|per_slot| per_slot as usize),
    );
    // a node with GPUs must not silently train on the CPU, nor on fewer GPUs
    if matches!(choice, DeviceChoice::Auto | DeviceChoice::AllGpus) {
        inventory.keeps_its_promise()?;
    }
    match choice {
        DeviceChoice::Cpu => cpu_slots(count, per_slot, inventory),
        DeviceChoice::Auto if inventory.gpus.is_empty() => match &inventory.no_gpus {
            DriverError::Silent(_) => Err(DeviceError::SilentDriver(inventory.no_gpus.clone())),
            DriverError::NoTool(_) | DriverError::NoGpu(_) => cpu_slots(count, per_slot, inventory),
        },
        DeviceChoice::Auto | DeviceChoice::AllGpus => {
            if inventory.gpus.is_empty() {
                return Err(DeviceError::NoGpus(inventory.no_gpus.clone()));
            }
            gpu_slots(
                &(0..inventory.gpus.len() as u32).collect::<Vec<_>>(),
                count,
                per_slot,
                inventory,
            )
        }
        DeviceChoice::Gpus(gpus) => gpu_slots(gpus, count, per_slot, inventory),
    }
}

/// CPU threads that the trainer of a slot may use.
pub fn threads(slot: &Slot, num_slots: usize) -> usize {
    let on_cpu = slot
        .devices
        .iter()
        .filter(|device| *device == "cpu")
        .count();
    if on_cpu > 0 {
        return on_cpu;
    }
    (cpu_threads() / num_slots.max(1)).max(1)
}

/// The fraction of a GPU's memory that each trainer may use: all of it if no other slot shares the
/// GPU.
pub fn memory_share(slot: &Slot, slots: &[Slot]) -> f64 {
    // memory of a CUDA context is outside of libtorch's limit
    const CONTEXTS: f64 = 0.03;
    let sharing = |device: &String| {
        slots
            .iter()
            .filter(|other| other.devices.contains(device))
            .count()
    };
    let gpus = slot.devices.iter().filter(|device| *device != "cpu");
    match gpus.map(sharing).max() {
        Some(count) if count > 1 => (1.0 - CONTEXTS * count as f64).max(0.5) / count as f64,
        _ => 1.0,
    }
}

fn cpu_slots(
    count: Option<usize>,
    per_slot: Option<usize>,
    inventory: &Inventory,
) -> Result<Vec<Slot>, DeviceError> {
    let threads = inventory.cpu_threads.max(1);
    let (count, per_slot) = match (count, per_slot) {
        (None, None) => (threads, 1),
        (Some(count), None) => (count, (threads / count).max(1)),
        (None, Some(per_slot)) if per_slot > threads => {
            return Err(DeviceError::Indivisible {
                devices: threads,
                what: format!("slots of {per_slot} threads"),
            });
        }
        (None, Some(per_slot)) => (threads / per_slot, per_slot),
        (Some(count), Some(per_slot)) => (count, per_slot),
    };
    if count * per_slot > threads {
        tracing::warn!(
            slots = count,
            threads_per_slot = per_slot,
            threads,
            "more threads in slots than this process may use"
        );
    }
    let description = format!(
        "{}, {per_slot} thread{}",
        inventory.cpu_name,
        if per_slot == 1 { "" } else { "s" }
    );
    Ok(vec![
        Slot {
            devices: vec!["cpu".to_owned(); per_slot],
            uuids: Vec::new(),
            description
        };
        count
    ])
}

fn gpu_slots(
    gpus: &[u32],
    count: Option<usize>,
    per_slot: Option<usize>,
    inventory: &Inventory,
) -> Result<Vec<Slot>, DeviceError> {
    for &index in gpus {
        if index as usize >= inventory.gpus.len() {
            let present = match inventory.gpus.len() {
                0 => inventory.no_gpus.to_string(),
                1 => "cuda:0 alone".to_owned(),
                count => format!("cuda:0-{}", count - 1),
            };
            return Err(DeviceError::NoSuchGpu { index, present });
        }
    }
    let per_slot = per_slot.unwrap_or(1);
    if !gpus.len().is_multiple_of(per_slot) {
        let what = format!("slots of {per_slot}");
        return Err(DeviceError::Indivisible {
            devices: gpus.len(),
            what,
        });
    }
    let groups: Vec<&[u32]> = gpus.chunks(per_slot).collect();
    let count = count.unwrap_or(groups.len());
    if count > groups.len() && !count.is_multiple_of(groups.len()) {
        let what = format!("{count} slots that share them evenly");
        return Err(DeviceError::Indivisible {
            devices: gpus.len(),
            what,
        });
    }
    let slot = |group: &[u32]| {
        let devices = group.iter().map(|index| format!("cuda:{index}")).collect();
        let first = &inventory.gpus[group[0] as usize];
        let times = if group.len() > 1 {
            format!("{} x ", group.len())
        } else {
            String::new()
        };
        let uuids = group
            .iter()
            .map(|index| inventory.gpus[*index as usize].uuid.clone())
            .collect();
        Slot {
            devices,
            uuids,
            description: format!("{times}{first}"),
        }
    };
    Ok(groups.into_iter().cycle().take(count).map(slot).collect())
}

const GPU_FIELDS: &str = "--query-gpu=index,uuid,memory.total,driver_version,name";

/// Runs nvidia-smi with a query. Returns its answer, one line per item, or the reason why there is
/// none.
pub(crate) fn ask_nvidia_smi(query: &str) -> Result<String, DriverError> {
    let silent = |error: std::io::Error| DriverError::Silent(error.to_string());
    let mut child = Command::new("nvidia-smi")
        .args([query, "--format=csv,noheader,nounits"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| DriverError::NoTool(format!("nvidia-smi does not run: {error}")))?;
    let deadline = Instant::now() + Duration::from_secs(20);
    // the answer is far smaller than a pipe's buffer, so the process can exit before it is read
    while child.try_wait().map_err(silent)?.is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(DriverError::Silent(
                "nvidia-smi did not answer within 20 s".to_owned(),
            ));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().map_err(silent)?;
    if !output.status.success() {
        let loaded = Path::new("/proc/driver/nvidia/version").exists();
        return Err(refusal(output.status, loaded));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The reason for a failure of nvidia-smi. Its manual: 6 means that a query found nothing, 9 that
/// the driver is not loaded, 12 that a library of the driver is missing.
fn refusal(status: ExitStatus, driver_is_loaded: bool) -> DriverError {
    let reason = format!("nvidia-smi failed with {status}");
    match status.code() {
        Some(6 | 9 | 12) if !driver_is_loaded => DriverError::NoGpu(reason),
        _ => DriverError::Silent(reason),
    }
}

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
mod tests {
    use super::*;

    const ANSWER: &str = "0, GPU-aaaa, 143771, 580.65.06, NVIDIA H200\n1, GPU-bbbb, 143771, 580.65.06, NVIDIA H200\n\
                          2, GPU-cccc, 81559, 580.65.06, NVIDIA H100, PCIe\nno GPU here\n";

    fn machine(num_gpus: usize) -> Inventory {
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

    fn devices(
        text: &str,
        count: Option<u32>,
        per_slot: Option<u32>,
    ) -> Result<Vec<String>, DeviceError> {
        let slots = slots(&text.parse()?, count, per_slot, &machine(3))?;
        Ok(slots.iter().map(|slot| slot.devices.join("+")).collect())
    }

    #[test]
    fn cpu_slots_fill_the_machine() {
        assert_eq!(devices("cpu", None, None).unwrap(), vec!["cpu"; 8]);
        assert_eq!(devices("cpu", Some(3), None).unwrap(), vec!["cpu+cpu"; 3]);
        assert_eq!(
            devices("cpu", None, Some(4)).unwrap(),
            vec!["cpu+cpu+cpu+cpu"; 2]
        );
        assert_eq!(devices("cpu", Some(20), None).unwrap(), vec!["cpu"; 20]);
        assert!(matches!(
            devices("cpu", None, Some(9)),
            Err(DeviceError::Indivisible { devices: 8, .. })
        ));
        assert_eq!(
            slots(&DeviceChoice::Auto, None, None, &machine(0))
                .unwrap()
                .len(),
            8
        );
    }

    #[test]
    fn gpu_slots_are_made_of_the_named_devices() {
        assert_eq!(
            devices("auto", None, None).unwrap(),
            ["cuda:0", "cuda:1", "cuda:2"]
        );
        assert_eq!(
            devices("cuda:2,0", None, Some(2)).unwrap(),
            ["cuda:2+cuda:0"]
        );
        assert_eq!(
            devices("cuda:0-1", Some(4), None).unwrap(),
            ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
        );
        assert_eq!(
            devices("cuda", Some(2), None).unwrap(),
            ["cuda:0", "cuda:1"]
        );
    }

    #[test]
    fn slots_that_share_a_gpu_share_its_memory() {
        let share = |choice: &str, count| {
            let slots = slots(&choice.parse().unwrap(), count, None, &machine(3)).unwrap();
            memory_share(&slots[0], &slots)
        };
        assert_eq!(share("cuda", None), 1.0);
        assert_eq!(share("cpu", Some(4)), 1.0);
        assert!((share("cuda:0", Some(2)) - 0.47).abs() < 1e-9);
        assert!((share("cuda:0-1", Some(8)) - 0.22).abs() < 1e-9);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        let refusals = [
            ("gpu", None, None, "names no devices"),
            ("cuda:", None, None, "names no devices"),
            ("cuda:3-1", None, None, "names no devices"),
            ("cuda:0-4000000000", None, None, "names no devices"),
            ("cuda:1,0-1", None, None, "`cuda:1` is named twice"),
            (
                "cuda:3",
                None,
                None,
                "no `cuda:3`: this machine has cuda:0-2",
            ),
            (
                "cuda",
                None,
                Some(2),
                "3 devices cannot be divided into slots of 2",
            ),
            (
                "cuda:0-1",
                Some(3),
                None,
                "2 devices cannot be divided into 3 slots",
            ),
            ("cpu", Some(0), None, "`--slots` must be at least 1"),
        ];
        for (text, count, per_slot, expected) in refusals {
            let error = devices(text, count, per_slot).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let error = slots(&DeviceChoice::AllGpus, None, None, &machine(0)).unwrap_err();
        assert_eq!(error.to_string(), "no GPU was found: none");
    }

    #[test]
    fn a_driver_in_trouble_does_not_make_a_machine_one_without_gpus() {
        use std::os::unix::process::ExitStatusExt;
        let auto = |no_gpus| {
            slots(
                &DeviceChoice::Auto,
                None,
                None,
                &Inventory {
                    no_gpus,
                    ..machine(0)
                },
            )
        };
        let failed = |code: i32, loaded| refusal(ExitStatus::from_raw(code << 8), loaded);
        let error = auto(failed(15, true)).unwrap_err().to_string();
        assert!(
            error.contains("failed with exit status: 15; fix the driver, or pass `--devices cpu`"),
            "{error}"
        );
        assert!(auto(failed(9, true)).is_err() && auto(failed(255, false)).is_err());
        assert_eq!(auto(failed(9, false)).unwrap().len(), 8);
    }

    #[test]
    fn gpus_that_the_environment_promises_are_never_replaced_by_the_cpu() {
        let choose = |num_gpus, choice: &str, visible, on_node| {
            let inventory = Inventory {
                promise: promise(visible, on_node),
                ..machine(num_gpus)
            };
            slots(&choice.parse().unwrap(), None, None, &inventory)
        };
        let broken = [
            (
                0,
                Some("0,1"),
                None,
                "CUDA_VISIBLE_DEVICES=0,1 promises 2 GPUs, and none: see",
            ),
            (
                0,
                None,
                Some("1"),
                "SLURM_GPUS_ON_NODE=1 promises 1 GPU, and none: see",
            ),
            (
                0,
                Some("NoDevFiles"),
                Some("2"),
                "SLURM_GPUS_ON_NODE=2 promises 2 GPUs",
            ),
            (
                0,
                Some("MIG-aaaa"),
                Some("1"),
                "CUDA_VISIBLE_DEVICES=MIG-aaaa promises 1 GPU",
            ),
            (
                1,
                Some("GPU-aaaa,GPU-zzzz"),
                None,
                "nvidia-smi shows 1 of them",
            ),
        ];
        for (num_gpus, visible, on_node, expected) in broken {
            for choice in ["auto", "cuda"] {
                let error = choose(num_gpus, choice, visible, on_node).unwrap_err();
                assert!(error.to_string().contains(expected), "{choice}: {error}");
                assert!(error.to_string().contains("`--devices cpu`"), "{error}");
            }
            assert!(
                choose(num_gpus, "cpu", visible, on_node).is_ok(),
                "the user's own choice"
            );
        }
        for (visible, on_node) in [
            (None, None),
            (Some(""), Some("2")),
            (Some("-1"), Some("2")),
            (Some("NoDevFiles"), None),
            (Some("NoDevFiles"), Some("0")),
            (None, Some("")),
        ] {
            assert_eq!(choose(0, "auto", visible, on_node).unwrap().len(), 8);
        }
        assert_eq!(
            choose(2, "auto", Some("1,GPU-aaaa"), Some("4"))
                .unwrap()
                .len(),
            2
        );
    }

    #[test]
    fn a_slurm_job_has_no_more_slots_than_cpus() {
        for (on_node, expected) in [
            (None, 8),
            (Some("2"), 2),
            (Some("64"), 8),
            (Some("0"), 8),
            (Some("many"), 8),
        ] {
            assert_eq!(bounded_by_slurm(8, on_node), expected, "{on_node:?}");
        }
    }

    #[test]
    fn slots_have_the_uuids_of_their_gpus() {
        let slots = slots(&"cuda:2,0".parse().unwrap(), None, Some(2), &machine(3)).unwrap();
        assert_eq!(slots[0].uuids, ["GPU-cccc", "GPU-aaaa"]);
        assert!(
            cpu_slots(None, None, &machine(0)).unwrap()[0]
                .uuids
                .is_empty()
        );
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
