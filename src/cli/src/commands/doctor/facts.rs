//! The facts that `orchestrator doctor` finds out about a machine: IO alone, without an opinion.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sweep::with_causes;
use tokio::process::Command;
use tokio::time::timeout;
use worker::devices::{self, DeviceChoice, Inventory};
use worker::memory;

use crate::args::{DoctorArgs, Target};
use crate::client::{Access, Client};
use crate::disk::{free_bytes, free_files};
use crate::preflight::Places;
use crate::{rendezvous, trainer};

/// Timeout of one question to another program or machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes that are written and synced.
const PROBE_BYTES: usize = 1 << 20;

#[derive(Clone, Debug)]
pub struct Facts {
    pub cpu: Cpu,
    /// Bytes.
    pub memory: Option<u64>,
    pub gpus: Gpus,
    pub trainer: Trainer,
    pub folders: Vec<Folder>,
    /// Milliseconds since 1970.
    pub now_ms: u64,
    pub ports: Vec<Port>,
    /// Names of variables that are set.
    pub proxies: Vec<String>,
    pub data_sets: DataSets,
    pub journal: Journal,
    pub coordinator: Coordinator,
    /// The name of this build.
    pub build: String,
}

#[derive(Clone, Debug)]
pub struct Cpu {
    pub name: String,
    /// Threads that trainers get.
    pub threads: usize,
    /// CPUs of the machine.
    pub online: usize,
    /// CPUs to which this process is bound, such as `0-3`.
    pub affinity: Option<String>,
    /// CPUs that the cgroup allows on average.
    pub quota: Option<f64>,
}

#[derive(Clone, Debug)]
pub enum Gpus {
    Found(Vec<String>),
    None(String),
    /// They are promised, or the driver does not answer.
    Wrong(String),
}

#[derive(Clone, Debug)]
pub enum Trainer {
    /// The lines that the trainer prints about libtorch, NCCL and the devices that it sees; that of
    /// libtorch also has its folder.
    Starts(Vec<String>),
    Broken {
        path: PathBuf,
        reason: String,
    },
    Absent(String),
}

/// A directory that commands use, or the nearest one above it that exists.
#[derive(Clone, Debug)]
pub struct Folder {
    pub name: &'static str,
    pub path: PathBuf,
    pub exists: bool,
    /// Type of its file system, such as `ext4`.
    pub kind: String,
    pub free_bytes: Option<u64>,
    /// Files that can still be made; absent where the file system does not count them.
    pub free_files: Option<u64>,
    /// Absent where nothing is written.
    pub written: Option<Result<Written, String>>,
}

/// The outcome of a file that was written, synced and locked.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    pub sync: Duration,
    /// A second lock of the same file was refused, as it must be.
    pub locks: bool,
}

#[derive(Clone, Debug)]
pub struct Port {
    pub name: &'static str,
    /// The reason why it cannot be listened on.
    pub error: Option<String>,
}

#[derive(Clone, Debug)]
pub struct DataSets {
    pub folder: PathBuf,
    pub ready: Vec<&'static str>,
    /// Data sets that are there and cannot be used, with the reasons.
    pub broken: Vec<(&'static str, String)>,
}

#[derive(Clone, Debug)]
pub enum Journal {
    Absent,
    Sound {
        events: u64,
        bytes: u64,
        sweeps: usize,
        trials: usize,
    },
    Damaged(String),
}

#[derive(Clone, Debug)]
pub enum Coordinator {
    /// None was named, and none runs on the state directory.
    None,
    Unreachable {
        address: String,
        reason: String,
    },
    Answers {
        address: String,
        build: String,
        now_ms: u64,
        storage_fault: String,
    },
}

pub async fn gather(arguments: &DoctorArgs, places: &Places) -> Facts {
    let inventory = Inventory::detect();
    let folders = [
        ("state", &arguments.target.state_dir, true),
        ("work", &arguments.work_dir, true),
        ("cache", &places.cache_dir, true),
        ("results", &arguments.results, true),
        ("data", &places.data_dir, false),
    ];
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    Facts {
        cpu: cpu(&inventory),
        memory: memory::limit(),
        gpus: gpus(&inventory),
        trainer: trainer(arguments).await,
        folders: folders
            .map(|(name, path, is_written)| folder(name, path, is_written, &mounts))
            .into(),
        now_ms: now_ms(),
        ports: ports(),
        proxies: proxies(),
        data_sets: data_sets(&places.data_dir),
        journal: journal(&arguments.target.state_dir),
        coordinator: coordinator(&arguments.target).await,
        build: sweep::build(),
    }
}

pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

fn cpu(inventory: &Inventory) -> Cpu {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let status = read("/proc/self/status");
    let affinity = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let online = read("/proc/cpuinfo")
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    Cpu {
        name: inventory.cpu_name.clone(),
        threads: inventory.cpu_threads,
        online: online.max(1),
        affinity: affinity.map(|list| list.trim().to_owned()),
        quota: quota(&read("/proc/self/cgroup"), &|path| {
            fs::read_to_string(path).ok()
        }),
    }
}

/// Returns the CPUs that the cgroups of a process allow it on average: the lowest of those on the
/// path to the root. `cgroups` is `/proc/self/cgroup`.
fn quota(cgroups: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<f64> {
    let mut quotas = Vec::new();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let root = match controllers {
            "" => Path::new("/sys/fs/cgroup"),
            _ if controllers.split(',').any(|name| name == "cpu") => {
                Path::new("/sys/fs/cgroup/cpu")
            }
            _ => continue,
        };
        // In a container the path may be the host's, and the root is the cgroup.
        for folder in Path::new(path.trim_start_matches('/')).ancestors() {
            let folder = root.join(folder);
            let both = match controllers {
                "" => read(&folder.join("cpu.max")),
                _ => read(&folder.join("cpu.cfs_quota_us")).and_then(|quota| {
                    let period = read(&folder.join("cpu.cfs_period_us"))?;
                    Some(format!("{} {}", quota.trim(), period.trim()))
                }),
            };
            let both = both.unwrap_or_default();
            let mut numbers = both.split_whitespace().map(str::parse::<f64>);
            // `max`, or -1, is no limit
            if let (Some(Ok(quota)), Some(Ok(period))) = (numbers.next(), numbers.next())
                && quota > 0.0
                && period > 0.0
            {
                quotas.push(quota / period);
            }
        }
    }
    quotas.into_iter().min_by(f64::total_cmp)
}

fn gpus(inventory: &Inventory) -> Gpus {
    match devices::slots(&DeviceChoice::Auto, None, None, inventory) {
        Err(error) => Gpus::Wrong(error.to_string()),
        Ok(_) if inventory.gpus.is_empty() => Gpus::None(inventory.no_gpus.to_string()),
        Ok(_) => Gpus::Found(inventory.gpus.iter().map(ToString::to_string).collect()),
    }
}

async fn trainer(arguments: &DoctorArgs) -> Trainer {
    let ready = match trainer::ready(arguments.trainer.as_deref()) {
        Ok(ready) => ready,
        Err(error) => return Trainer::Absent(with_causes(&error)),
    };
    let mut command = Command::new(&ready.path);
    if let Some(libraries) = ready.libraries() {
        command.env("LD_LIBRARY_PATH", worker::library_path(&libraries));
    }
    command
        .arg("devices")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let reason = match timeout(PATIENCE, command.output()).await {
        Err(_) => format!("it did not answer within {PATIENCE:?}"),
        Ok(Err(error)) => error.to_string(),
        Ok(Ok(output)) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            let place = ready.libtorch.map(|found| found.libraries);
            let with_place = |line: &str| match &place {
                Some(place) if line.starts_with("libtorch ") => {
                    format!("{line} in {}", place.display())
                }
                _ => line.to_owned(),
            };
            return Trainer::Starts(text.lines().map(with_place).collect());
        }
        Ok(Ok(output)) => {
            let text = String::from_utf8_lossy(&output.stderr);
            text.trim().lines().last().unwrap_or_default().to_owned()
        }
    };
    Trainer::Broken {
        path: ready.path,
        reason,
    }
}

fn folder(name: &'static str, path: &Path, is_written: bool, mounts: &str) -> Folder {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let exists = absolute.is_dir();
    // What is missing is made there when it is needed.
    let nearest = absolute.ancestors().find(|path| path.exists());
    let nearest = nearest.unwrap_or(Path::new("/"));
    let real = nearest
        .canonicalize()
        .unwrap_or_else(|_| nearest.to_owned());
    Folder {
        name,
        exists,
        kind: file_system(mounts, &real).unwrap_or_else(|| "unknown file system".to_owned()),
        free_bytes: free_bytes(&real),
        free_files: free_files(&real),
        written: is_written.then(|| written(nearest).map_err(|error| error.to_string())),
        path: absolute,
    }
}

/// Writes, syncs and locks a file, and removes it.
fn written(folder: &Path) -> io::Result<Written> {
    let mut file = tempfile::Builder::new()
        .prefix(".probe-")
        .tempfile_in(folder)?;
    file.write_all(&vec![1; PROBE_BYTES])?;
    let start = Instant::now();
    file.as_file().sync_all()?;
    let sync = start.elapsed();
    let other = File::open(file.path())?;
    let locks = file.as_file().try_lock().is_ok()
        && matches!(other.try_lock(), Err(TryLockError::WouldBlock));
    Ok(Written { sync, locks })
}

/// Returns the type of the file system that holds a path, from the text of `/proc/self/mountinfo`.
fn file_system(mounts: &str, path: &Path) -> Option<String> {
    let mount = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        // spaces in names are written as octal escapes
        let point = before.split(' ').nth(4)?.replace("\\040", " ");
        let kind = after.split(' ').next()?;
        path.starts_with(&point)
            .then(|| (point.len(), kind.to_owned()))
    };
    // of several mounts on one point the last one is seen
    let found = mounts
        .lines()
        .filter_map(mount)
        .max_by_key(|(length, _)| *length);
    found.map(|(_, kind)| kind)
}

fn ports() -> Vec<Port> {
    let addresses = [
        ("loopback", Ipv4Addr::LOCALHOST),
        ("any network", Ipv4Addr::UNSPECIFIED),
    ];
    addresses
        .map(|(name, ip)| Port {
            name,
            error: TcpListener::bind((IpAddr::V4(ip), 0))
                .err()
                .map(|error| error.to_string()),
        })
        .into()
}

fn proxies() -> Vec<String> {
    let names = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];
    let names = names
        .iter()
        .flat_map(|name| [(*name).to_owned(), name.to_uppercase()]);
    let is_set = |name: &String| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    names.filter(is_set).collect()
}

fn data_sets(data_dir: &Path) -> DataSets {
    let (mut ready, mut broken) = (Vec::new(), Vec::new());
    for listing in data::list(data_dir) {
        match listing.state {
            data::Presence::Ready(_) => ready.push(listing.entry.name),
            data::Presence::Absent => {}
            data::Presence::Broken(error) => broken.push((listing.entry.name, with_causes(&error))),
        }
    }
    DataSets {
        folder: data_dir.to_owned(),
        ready,
        broken,
    }
}

fn journal(state_dir: &Path) -> Journal {
    match journal::verify(state_dir) {
        Ok(found) => Journal::Sound {
            events: found.events,
            bytes: found.bytes,
            sweeps: found.sweeps,
            trials: found.trials,
        },
        Err(journal::Error::Missing { .. }) => Journal::Absent,
        Err(error) => Journal::Damaged(with_causes(&error)),
    }
}

async fn coordinator(target: &Target) -> Coordinator {
    let (address, access) = match &target.coordinator {
        Some(address) => (
            address.clone(),
            Access::at(address, target.token_file_of(address)),
        ),
        None => match rendezvous::find(&target.state_dir) {
            Some(found) => {
                let given = target.token_file.as_deref();
                let access = Access::announced(&target.state_dir, &found, given);
                (found.address, access)
            }
            None => return Coordinator::None,
        },
    };
    let answer = async { Client::connect(access?).await?.status(None).await };
    let reason = match timeout(PATIENCE, answer).await {
        Ok(Ok(status)) => {
            return Coordinator::Answers {
                address,
                build: status.build,
                now_ms: status.now_ms,
                storage_fault: status.storage_fault,
            };
        }
        Ok(Err(error)) => with_causes(&error),
        Err(_) => format!("no answer within {PATIENCE:?}"),
    };
    Coordinator::Unreachable { address, reason }
}

/// The variables of the environment that explain how this program behaves.
pub fn environment() -> BTreeMap<String, String> {
    const PREFIXES: [&str; 9] = [
        "CUDA_",
        "LD_LIBRARY_PATH",
        "MKL_",
        "NCCL_",
        "NVIDIA_",
        "OMP_",
        "ORCHESTRATOR_",
        "RUST_",
        "SLURM",
    ];
    std::env::vars_os()
        .filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            let is_shown = PREFIXES.iter().any(|prefix| name.starts_with(prefix));
            is_shown.then(|| (name, value.to_string_lossy().into_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_quota_on_the_path_counts_in_both_versions_of_cgroups() {
        let files: BTreeMap<&str, &str> = [
            ("/sys/fs/cgroup/job/cpu.max", "200000 100000\n"),
            ("/sys/fs/cgroup/job/step/cpu.max", "max 100000\n"),
            ("/sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "150000\n"),
            ("/sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/cpu/free/cpu.cfs_quota_us", "-1\n"),
            ("/sys/fs/cgroup/cpu/free/cpu.cfs_period_us", "100000\n"),
        ]
        .into();
        let read = |path: &Path| files.get(path.to_str()?).map(ToString::to_string);
        for (cgroups, expected) in [
            ("0::/job/step\n", Some(2.0)),
            ("4:cpu,cpuacct:/box\n3:memory:/box\n", Some(1.5)),
            ("4:cpu,cpuacct:/free\n", None),
            ("0::/elsewhere\n", None),
            ("", None),
        ] {
            assert_eq!(quota(cgroups, &read), expected, "{cgroups}");
        }
    }

    #[test]
    fn the_file_system_is_that_of_the_innermost_mount() {
        let mounts = "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      22 21 0:3 / /net rw - nfs4 server:/net rw\n\
                      23 22 0:4 / /net/my\\040data rw shared:1 - lustre a@tcp:/l rw\n\
                      24 21 0:5 / /dev/shm rw - tmpfs tmpfs rw\n";
        for (path, kind) in [
            ("/var/lib", "ext4"),
            ("/net/someone/state", "nfs4"),
            ("/nets", "ext4"),
            ("/net/my data/sets", "lustre"),
            ("/dev/shm", "tmpfs"),
        ] {
            assert_eq!(
                file_system(mounts, Path::new(path)).as_deref(),
                Some(kind),
                "{path}"
            );
        }
        assert_eq!(file_system("", Path::new("/")), None);
    }

    #[test]
    fn a_look_leaves_nothing_behind_and_makes_nothing() {
        let place = tempfile::tempdir().unwrap();
        let absent = place.path().join("not/yet");
        let found = folder("state", &absent, true, "");
        assert!(!found.exists && found.written.unwrap().unwrap().locks);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        let file = place.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [&file, &file.join("below")] {
            let found = folder("state", path, true, "");
            assert!(found.written.unwrap().is_err(), "a file is in the way");
        }
    }
}
