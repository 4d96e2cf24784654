//! `--launch`: what the user asked for, as the state machine and the launcher take it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use launch::script::{self, Template};
use launch::slurm::Slurm;
use launch::ssh::Ssh;
use launch::ssh::hosts::{self, Host};
use launch::ssh::remote::{self, Settings};
use schedule::allocation::{Launcher, QueueSpec};

use crate::args::{Cli, DataArgs, DeviceArgs, LaunchArgs, quoted};
use crate::exit::ExpectedError;
use crate::launch_args::How;
use crate::preflight::Places;

/// Folder of the allocations, below the state directory.
const ALLOCATIONS: &str = "allocations";
/// Folder of checkpoints, below the state directory: the next allocation takes over the
/// checkpoints of the last.
const WORK: &str = "work";
/// An address that no machine has: connecting to it, without sending anything, shows which of our
/// own addresses other machines see.
const ELSEWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// How workers reach the coordinator of a state directory.
pub struct Reach<'a> {
    /// Jobs find its address and its token there when they start.
    pub state_dir: &'a Path,
    /// Hosts over ssh get these through their connection.
    pub port: u16,
    pub token_file: &'a Path,
}

pub struct Launching {
    pub spec: QueueSpec,
    means: Means,
}

enum Means {
    Slurm(Template),
    Ssh {
        settings: Settings,
        hosts: Vec<Host>,
    },
}

impl Launching {
    pub fn new(
        arguments: &LaunchArgs,
        devices: &DeviceArgs,
        data: &DataArgs,
        reach: &Reach<'_>,
    ) -> Result<Self, ExpectedError> {
        match &arguments.launch {
            Some(How::Ssh(file)) => Self::over_ssh(arguments, file, reach),
            Some(How::Slurm) | None => Self::with_slurm(arguments, devices, data, reach),
        }
    }

    fn with_slurm(
        arguments: &LaunchArgs,
        devices: &DeviceArgs,
        data: &DataArgs,
        reach: &Reach<'_>,
    ) -> Result<Self, ExpectedError> {
        let folder = absolute(&reach.state_dir.join(ALLOCATIONS))?;
        let limit = arguments.time.as_ref().map(|time| time.limit);
        let notice = script::notice(limit);
        let options = arguments.slurm_options();
        let request = options.iter().chain(&arguments.options);
        let request: Vec<String> = request.map(|option| quoted(option)).collect();
        let prologue = arguments
            .prologue
            .as_deref()
            .map(|file| std::fs::read_to_string(file).map_err(ExpectedError::file("read", file)));
        let spec = QueueSpec {
            launcher: "slurm".to_owned(),
            request: request.join(" ").as_str().into(),
            folder: folder.to_string_lossy().into_owned(),
            max_allocations: arguments.nodes,
            time_limit_ms: limit.map(|limit| limit.as_millis() as u64),
            notice_ms: notice.as_millis() as u64,
        };
        let template = Template {
            folder,
            options,
            user_options: arguments.options.clone(),
            notice,
            prologue: prologue.transpose()?,
            wrap: arguments.wrap.clone(),
            worker: worker(arguments, devices, data, reach)?,
        };
        Ok(Self {
            spec,
            means: Means::Slurm(template),
        })
    }

    fn over_ssh(
        arguments: &LaunchArgs,
        file: &Path,
        reach: &Reach<'_>,
    ) -> Result<Self, ExpectedError> {
        let list = std::fs::read_to_string(file).map_err(ExpectedError::file("read", file))?;
        let hosts = hosts::parse(&list).map_err(|errors| {
            let lines = errors
                .iter()
                .map(|error| format!("{}: {error}", file.display()));
            ExpectedError::BadInput(lines.collect::<Vec<_>>().join("\n"))
        })?;
        let folder = absolute(&reach.state_dir.join(ALLOCATIONS))?;
        let program = program()?;
        let home = program.parent().and_then(Path::parent);
        let state_dir = absolute(reach.state_dir)?;
        let spec = QueueSpec {
            launcher: "ssh".to_owned(),
            request: text(file).as_str().into(),
            folder: text(&folder),
            max_allocations: hosts.len() as u32,
            time_limit_ms: None,
            notice_ms: 0,
        };
        let settings = Settings {
            folder,
            port: reach.port,
            token_file: absolute(reach.token_file)?,
            version: Cli::command().render_version().trim().to_owned(),
            state: short_name(&state_dir),
            dir: text(home.unwrap_or(Path::new("/"))),
            ssh_options: arguments.options.clone(),
            worker_options: [
                "--idle-timeout".to_owned(),
                format!("{}s", arguments.idle_timeout),
                // Its sweeps belong to the user who launches it.
                "--allow-path".to_owned(),
                "/".to_owned(),
            ]
            .into(),
        };
        Ok(Self {
            spec,
            means: Means::Ssh { settings, hosts },
        })
    }

    /// Returns the script of an allocation of this name.
    pub fn script(&self, allocation: &str) -> String {
        match &self.means {
            Means::Slurm(template) => template.text(&allocation.into(), &[]),
            Means::Ssh { settings, hosts } => {
                let scripts = hosts.iter().map(|host| {
                    let script = remote::script(settings, host, &allocation.into());
                    format!("# on {host}\n{script}")
                });
                scripts.collect()
            }
        }
    }

    /// Asks the cluster whether it would refuse what the queue asks for, before anything is started.
    pub async fn test(&self) -> Result<(), ExpectedError> {
        let Means::Slurm(template) = &self.means else {
            return Ok(());
        };
        let slurm = Slurm::new(template.clone());
        let tested = slurm.test(&"orch-test".into()).await;
        tested.map_err(|words| ExpectedError::Infrastructure {
            what: "Slurm refuses such jobs",
            reason: words.to_string(),
        })
    }

    pub fn into_launcher(self) -> Box<dyn Launcher> {
        match self.means {
            Means::Slurm(template) => Box::new(Slurm::new(template)),
            Means::Ssh { settings, hosts } => Box::new(Ssh::new(settings, hosts)),
        }
    }
}

fn program() -> Result<PathBuf, ExpectedError> {
    std::env::current_exe().map_err(|error| ExpectedError::Infrastructure {
        what: "the path of this program is not known",
        reason: error.to_string(),
    })
}

/// Returns the worker's command line, with absolute paths: a job starts in a folder of its own.
fn worker(
    arguments: &LaunchArgs,
    devices: &DeviceArgs,
    data: &DataArgs,
    reach: &Reach<'_>,
) -> Result<Vec<String>, ExpectedError> {
    let mut words = vec![text(&program()?), "worker".to_owned()];
    words.extend(places_and_devices(devices, data, reach.state_dir)?);
    let mut flag = |name: &str, value: String| words.extend([name.to_owned(), value]);
    flag("--work-dir", text(&absolute(&reach.state_dir.join(WORK))?));
    flag("--idle-timeout", format!("{}s", arguments.idle_timeout));
    // Its sweeps belong to the user who launches it.
    flag("--allow-path", "/".to_owned());
    Ok(words)
}

/// Returns the command line of a coordinator that launches by these arguments, but for the further
/// options of sbatch.
pub fn coordinator(
    arguments: &LaunchArgs,
    devices: &DeviceArgs,
    data: &DataArgs,
    state_dir: &Path,
) -> Result<Vec<String>, ExpectedError> {
    let mut words = vec![text(&program()?), "coordinator".to_owned()];
    words.extend(["--listen".to_owned(), "0.0.0.0:0".to_owned()]);
    words.extend(places_and_devices(devices, data, state_dir)?);
    words.extend(arguments.words());
    Ok(words)
}

fn places_and_devices(
    devices: &DeviceArgs,
    data: &DataArgs,
    state_dir: &Path,
) -> Result<Vec<String>, ExpectedError> {
    let places = Places::of(data)?;
    let mut words = Vec::new();
    let mut flag = |name: &str, value: String| words.extend([name.to_owned(), value]);
    flag("--state-dir", text(&absolute(state_dir)?));
    flag("--data-dir", text(&absolute(&places.data_dir)?));
    flag("--cache-dir", text(&absolute(&places.cache_dir)?));
    flag("--devices", devices.devices.to_string());
    if let Some(slots) = devices.slots {
        flag("--slots", slots.to_string());
    }
    if let Some(count) = devices.devices_per_slot {
        flag("--devices-per-slot", count.to_string());
    }
    if let Some(trainer) = &devices.trainer {
        flag("--trainer", text(&absolute(trainer)?));
    }
    Ok(words)
}

/// A short name for a state directory on this machine.
fn short_name(state_dir: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    (gethostname::gethostname(), state_dir).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

pub fn absolute(path: &Path) -> Result<PathBuf, ExpectedError> {
    std::path::absolute(path).map_err(ExpectedError::file("find", path))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Returns the address of this machine that others reach.
pub fn own_address() -> Result<IpAddr, ExpectedError> {
    let found = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect(ELSEWHERE)?;
        socket.local_addr()
    });
    found
        .map(|address| address.ip())
        .map_err(|error| ExpectedError::Infrastructure {
            what: "the address of this machine is not known",
            reason: format!("{error}; give it with --advertise HOST"),
        })
}
