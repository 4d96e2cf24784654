//! `--launch`: what the user asked for, as the state machine and the launcher take it.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::CommandFactory;
use launch::script::{self, Template};
use launch::slurm::Slurm;
use launch::slurm::probe::Probe;
use launch::ssh::Ssh;
use launch::ssh::hosts::{self, Host};
use launch::ssh::push::Build;
use launch::ssh::remote::{self, Settings, WorkerToken};
use protocol::{Grant, GrantId, Role, Token};
use schedule::allocation::{Launcher, QueueSpec};
use sweep::with_causes;

use crate::args::{Cli, DataArgs, DeviceArgs, DoctorArgs, LaunchArgs, quoted};
use crate::exit::ExpectedError;
use crate::launch_args::How;
use crate::preflight::Places;
use crate::{libtorch, trainer};

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
    pub is_encrypted: bool,
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
        if arguments.push {
            let problem = "--push copies this build to hosts over ssh; Slurm's nodes use the folder that it is in";
            return Err(ExpectedError::BadInput(problem.to_owned()));
        }
        let limit = arguments.time.as_ref().map(|time| time.limit);
        let template = template(
            arguments,
            reach.state_dir,
            worker(arguments, devices, data, reach)?,
        )?;
        let request = template.options.iter().chain(&template.user_options);
        let request: Vec<String> = request.map(|option| quoted(option)).collect();
        let spec = QueueSpec {
            launcher: "slurm".to_owned(),
            request: request.join(" ").as_str().into(),
            folder: text(&template.folder),
            max_allocations: arguments.nodes,
            time_limit_ms: limit.map(|limit| limit.as_millis() as u64),
            notice_ms: template.notice.as_millis() as u64,
        };
        spec.check().map_err(ExpectedError::BadInput)?;
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
        let version = Cli::command().render_version().trim().to_owned();
        let home = home.unwrap_or(Path::new("/"));
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
            is_encrypted: reach.is_encrypted,
            worker_token: worker_token(absolute(reach.token_file)?),
            push: match arguments.push {
                true => Some(build(&program, &version)?),
                false => None,
            },
            version,
            state: short_name(&state_dir),
            session: format!("{:016x}", RandomState::new().hash_one(std::process::id())),
            work: state_dir.join(WORK),
            dir: text(home),
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

    /// Returns the same for a coordinator that listens at this port.
    pub fn listening_at(mut self, port: u16) -> Self {
        if let Means::Ssh { settings, .. } = &mut self.means {
            settings.port = port;
        }
        self
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

    /// The hosts over ssh, each once.
    pub fn hosts(&self) -> Vec<String> {
        let Means::Ssh { hosts, .. } = &self.means else {
            return Vec::new();
        };
        let mut names: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut known = BTreeSet::new();
        names.retain(|name| known.insert(name.clone()));
        names
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

/// Returns this build, for `--push`.
fn build(program: &Path, version: &str) -> Result<Build, ExpectedError> {
    let trainer = trainer::find(None)?.path;
    let libtorch = libtorch::to_copy(&trainer)?;
    Build::of(version, [program, &trainer], libtorch)
        .map_err(|(path, source)| ExpectedError::file("copy, for --push,", path)(source))
}

/// Returns what all jobs of these arguments have in common.
fn template(
    arguments: &LaunchArgs,
    state_dir: &Path,
    worker: Vec<String>,
) -> Result<Template, ExpectedError> {
    let prologue = arguments
        .prologue
        .as_deref()
        .map(|file| std::fs::read_to_string(file).map_err(ExpectedError::file("read", file)));
    Ok(Template {
        folder: absolute(&state_dir.join(ALLOCATIONS))?,
        options: arguments.slurm_options(),
        user_options: arguments.options.clone(),
        notice: script::notice(arguments.time.as_ref().map(|time| time.limit)),
        prologue: prologue.transpose()?,
        wrap: arguments.wrap.clone(),
        worker,
    })
}

/// Returns the job that runs `orchestrator doctor` as a worker would be run.
pub fn probe(arguments: &DoctorArgs, port: u16) -> Result<Probe, ExpectedError> {
    let state_dir = &arguments.target.state_dir;
    let places = Places::of(&arguments.data)?;
    let arguments = &arguments.launch;
    let host = match &arguments.advertise {
        Some(host) => host.clone(),
        None => own_address()?.to_string(),
    };
    let mut doctor = vec![text(&program()?), "doctor".to_owned()];
    for (flag, folder) in [
        ("--state-dir", state_dir),
        ("--work-dir", &state_dir.join(WORK)),
        ("--data-dir", &places.data_dir),
        ("--cache-dir", &places.cache_dir),
    ] {
        doctor.extend([flag.to_owned(), text(&absolute(folder)?)]);
    }
    let random = RandomState::new().hash_one(std::process::id()) as u32;
    Ok(Probe {
        template: template(arguments, state_dir, doctor)?,
        name: format!("orch-doctor-{random:08x}").as_str().into(),
        address: (host, port),
    })
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

/// Grants each worker on a host a token of its own, from the coordinator's: the host does not get
/// that one.
fn worker_token(file: PathBuf) -> WorkerToken {
    Arc::new(move || {
        let owner = Token::from_file(&file).map_err(|error| with_causes(&error))?;
        let id = GrantId::random().map_err(|error| error.to_string())?;
        let token = Grant::by(&owner, Role::Worker, id, None).token(&owner);
        Ok(token.reveal().to_owned())
    })
}
