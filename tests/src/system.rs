//! A coordinator and workers on loopback, in a folder of their own that is removed with them.
//!
//! Every process started here, and every process that those start, carries a mark in its
//! environment, so that a test can list the remaining ones, and none outlives the test.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::binaries::binary;
use crate::{Process, copy_executable, wait_for, write_executable};

const MARK: &str = "ORCHESTRATOR_SYSTEM_TEST";

pub struct System {
    folder: TempDir,
    mark: String,
    /// Chosen by the first coordinator, kept by its successors.
    address: Option<String>,
    num_started: AtomicU32,
    /// See `install_trainer`.
    installed: Option<PathBuf>,
    /// Flags of every coordinator, such as a short lease.
    pub coordinator_flags: Vec<String>,
}

impl System {
    pub fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let folder =
            TempDir::with_prefix("orchestrator-test-").expect("a folder for temporary files");
        let mark = format!(
            "{}-{}",
            std::process::id(),
            COUNTER.fetch_add(1, Ordering::Relaxed)
        );
        Self {
            folder,
            mark,
            address: None,
            num_started: AtomicU32::new(0),
            installed: None,
            coordinator_flags: Vec::new(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, usually a sweep, and returns its path.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("the test's folder can be written");
        path
    }

    /// Writes a file that only its owner can read.
    pub fn private_file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name, text);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600))
            .expect("the test owns its files");
        path
    }

    /// Writes an executable shell script and returns its path.
    pub fn script(&self, name: &str, commands: &str) -> PathBuf {
        let path = self.path(name);
        write_executable(&path, &format!("#!/bin/sh\n{commands}\n"));
        path
    }

    /// Installs a shell script as the built-in trainer of this system: a faulty or a fast one,
    /// whose trials have the ids of the real one. A trainer named by --trainer would be another
    /// program with trials of its own.
    pub fn install_trainer(&mut self, commands: &str) {
        let folder = self.path("installed");
        fs::create_dir_all(&folder).expect("the test's folder can be written");
        let program = folder.join("orchestrator");
        if !program.exists() {
            copy_executable(&binary("orchestrator"), &program);
        }
        self.script("installed/orchestrator-trainer", commands);
        self.installed = Some(program);
    }

    /// The command `orchestrator`, in this system's folder. A command for a coordinator has its
    /// token.
    pub fn orchestrator(&self, arguments: &[&str]) -> Command {
        let program = self
            .installed
            .clone()
            .unwrap_or_else(|| binary("orchestrator"));
        let mut command = self.marked(program);
        command.args(arguments);
        let given = |flag: &str| arguments.contains(&flag);
        if given("--coordinator") && !given("--token-file") && !given("--state-dir") {
            command.args(["--state-dir", "state"]);
        }
        command
    }

    /// Any program, in this system's folder and with its mark.
    pub fn marked(&self, program: impl AsRef<OsStr>) -> Command {
        // A test run in the background of a script ignores SIGINT, and its children would too.
        let mut command = Command::new("env");
        command.arg("--default-signal=INT").arg(program);
        command
            .current_dir(self.folder.path())
            .env(MARK, &self.mark)
            .env("NO_COLOR", "1");
        command
    }

    pub fn start(&self, name: &str, command: Command) -> Process {
        let number = self.num_started.fetch_add(1, Ordering::Relaxed);
        Process::start(&format!("{number:03}-{name}"), command, self.folder.path())
    }

    /// Starts a coordinator and waits until it listens: on a free port the first time, later on the
    /// same one.
    pub fn coordinator(&mut self) -> Process {
        let listen = self
            .address
            .clone()
            .unwrap_or_else(|| "127.0.0.1:0".to_owned());
        let mut command =
            self.orchestrator(&["coordinator", "--listen", &listen, "--state-dir", "state"]);
        command.args(&self.coordinator_flags);
        let mut process = self.start("coordinator", command);
        let address = wait_for("the coordinator listens", || {
            if let Some(status) = process.has_ended() {
                panic!("the coordinator ended with {status}: {}", process.stderr());
            }
            listening_address(&process.stderr()).or_else(|| listening_address(&process.stdout()))
        });
        self.address = Some(address);
        process
    }

    /// Changes the host in the file by which a coordinator has announced itself in its state
    /// directory.
    pub fn announced_by(&self, state_dir: &str, host: &str) {
        let path = self.path(state_dir).join("coordinator.json");
        let text = wait_for("the coordinator announces itself", || fs::read(&path).ok());
        let mut note: Value = serde_json::from_slice(&text).expect("a note in JSON");
        note["host"] = host.into();
        fs::write(&path, note.to_string()).expect("the test's folder can be written");
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!(
            "http://{}",
            self.address.as_ref().expect("a coordinator was started")
        )
    }

    /// Starts a worker with slots of one thread. All workers share the work directory, as on a
    /// cluster.
    pub fn worker(&self, name: &str, num_slots: u32) -> Process {
        self.start(name, self.worker_command(name, num_slots, 1))
    }

    /// The number of threads of a slot is always given, since results depend on it (the order of
    /// summation).
    pub fn worker_command(&self, name: &str, num_slots: u32, threads: u32) -> Command {
        let (url, slots, threads) = (self.url(), num_slots.to_string(), threads.to_string());
        let arguments = [
            "worker",
            "--coordinator",
            &url,
            "--devices",
            "cpu",
            "--slots",
            &slots,
            "--work-dir",
            "work",
        ];
        let mut command = self.orchestrator(&arguments);
        command.args([
            "--devices-per-slot",
            &threads,
            "--data-dir",
            "data",
            "--cache-dir",
            "cache",
            "--name",
            name,
        ]);
        command
    }

    /// All events so far, as `orchestrator journal export` prints it.
    pub fn journal(&self) -> Vec<Value> {
        let mut command = self.orchestrator(&["journal", "export", "--state-dir", "state"]);
        let output = command.output().expect("the command starts");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect()
    }

    /// Finds the command that begins like this in a message to the user. A shell runs it in this
    /// system's folder.
    pub fn as_printed(&self, printed: &str, beginning: &str) -> Command {
        let start = printed
            .find(beginning)
            .unwrap_or_else(|| panic!("no `{beginning}` in {printed}"));
        let end = printed[start..]
            .find(['`', ';', '\n'])
            .map_or(printed.len(), |length| start + length);
        let binaries = binary("orchestrator");
        let binaries = binaries.parent().expect("a file has a folder").display();
        let mut command = self.marked("sh");
        command
            .arg("-c")
            .arg(format!("exec {}", &printed[start..end]));
        command.env(
            "PATH",
            format!("{binaries}:{}", std::env::var("PATH").unwrap_or_default()),
        );
        command
    }

    /// Runs a client command to its end.
    pub fn client(&self, arguments: &[&str]) -> Output {
        let url = self.url();
        let arguments = [arguments, &["--coordinator", &url]].concat();
        let mut command = self.orchestrator(&arguments);
        command.output().expect("the client starts")
    }

    /// Runs a client command that must succeed, and returns its stdout.
    pub fn ask(&self, arguments: &[&str]) -> String {
        let output = self.client(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{arguments:?} ended with {}: {stderr}",
            output.status
        );
        String::from_utf8(output.stdout).expect("stdout is UTF-8")
    }

    /// The output of `orchestrator status`; `None` while the coordinator is away.
    pub fn status(&self) -> Option<Value> {
        let output = self.client(&["status", "--output", "json"]);
        output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).expect("status prints JSON"))
    }

    pub fn results(&self, sweep: &str) -> PathBuf {
        self.path("results").join(sweep)
    }

    /// The files `PREFIX` + `PID.log` of this system's folder, by process id.
    pub fn logs_of(&self, prefix: &str) -> Vec<(u32, String)> {
        let entries = fs::read_dir(self.folder.path()).expect("the test's folder can be read");
        let mut logs = Vec::new();
        for path in entries.map(|entry| entry.expect("a readable folder").path()) {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let pid = name
                .strip_prefix(prefix)
                .and_then(|rest| rest.strip_suffix(".log"));
            if let Some(pid) = pid.and_then(|pid| pid.parse().ok()) {
                logs.push((
                    pid,
                    String::from_utf8_lossy(&fs::read(&path).expect("a readable file"))
                        .into_owned(),
                ));
            }
        }
        logs
    }

    /// Process ids of this system's trainers.
    pub fn trainers(&self) -> Vec<u32> {
        self.processes()
            .into_iter()
            .filter(|pid| executable(*pid).ends_with("orchestrator-trainer"))
            .collect()
    }

    /// The processes that this system started, directly or not, and that still run.
    pub fn processes(&self) -> Vec<u32> {
        let mark = format!("{MARK}={}", self.mark);
        let entries = fs::read_dir("/proc").expect("Linux has /proc");
        let pids =
            entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let marked = |pid: &u32| {
            // a process may end during the check; a dead one has an empty environment
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == mark.as_bytes())
        };
        pids.filter(marked).collect()
    }
}

impl Default for System {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for System {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = kill(
                Pid::from_raw(pid.try_into().expect("a process id")),
                Signal::SIGKILL,
            );
        }
        if std::thread::panicking() {
            let kept = std::mem::replace(
                &mut self.folder,
                TempDir::new().expect("a folder for temporary files"),
            )
            .keep();
            eprintln!(
                "the files of the failed test are kept in {}",
                kept.display()
            );
            print_last_lines(&kept);
        }
    }
}

/// Prints the last lines of every process's stderr, for a log that is all that is left of a machine.
fn print_last_lines(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "stderr")
    });
    files.sort();
    for path in files {
        let bytes = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(12)..];
        eprintln!("-- {}\n{}", path.display(), last.join("\n"));
    }
}

fn executable(pid: u32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default()
}

/// Finds `127.0.0.1:PORT` in the output of a coordinator that began to listen.
fn listening_address(output: &str) -> Option<String> {
    let line = output.lines().find(|line| line.contains("listening"))?;
    let (_, rest) = line.split_once("127.0.0.1:")?;
    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
    (!port.is_empty()).then(|| format!("127.0.0.1:{port}"))
}

/// Returns true if the folder contains, at any depth, a non-empty folder of that name.
pub fn contains_folder(folder: &Path, name: &str) -> bool {
    let Ok(entries) = fs::read_dir(folder) else {
        return false;
    };
    entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .any(|entry| {
            let filled = entry.file_name() == name
                && fs::read_dir(entry.path()).is_ok_and(|mut inside| inside.next().is_some());
            filled || contains_folder(&entry.path(), name)
        })
}
