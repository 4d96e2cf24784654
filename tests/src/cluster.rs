//! A real Slurm on this machine for one test: `tests/slurm/cluster.sh` starts it in a folder of its
//! own, and it ends with the test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{System, wait_for_command};

pub struct Cluster {
    folder: TempDir,
}

/// The states of a job that has ended.
const ENDED: [&str; 7] = [
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "PREEMPTED",
    "OUT_OF_MEMORY",
];

impl Cluster {
    /// Starts the daemons and waits until every node is idle. `flags` are those of `cluster.sh
    /// start`, such as `--nodes 3`; nodes are named 127.0.1.1, 127.0.1.2, ...
    pub fn start(flags: &[&str]) -> Self {
        // short, since Slurm makes UNIX sockets below it
        let folder = TempDir::with_prefix("slurm-").expect("a folder for temporary files");
        let cluster = Self { folder };
        cluster.script("start", flags);
        cluster
    }

    /// A command that talks to this cluster, in the system's folder and with its mark: jobs inherit
    /// both.
    pub fn command(&self, system: &System, program: &str) -> Command {
        let mut command = system.marked(program);
        command.env("SLURM_CONF", self.config());
        command
    }

    /// The file that names this cluster to Slurm's commands, in `SLURM_CONF`.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("slurm.conf")
    }

    /// Runs one of Slurm's commands, which must succeed, and returns its stdout.
    pub fn ask(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.output(program, arguments);
        assert!(
            output.status.success(),
            "{program} {arguments:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout)
            .expect("Slurm prints UTF-8")
            .trim()
            .to_owned()
    }

    pub fn output(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.env("SLURM_CONF", self.config());
        command
            .args(arguments)
            .output()
            .unwrap_or_else(|error| panic!("{program} does not start: {error}"))
    }

    /// The state of a job, also after its end.
    pub fn state(&self, job: &str) -> String {
        self.ask("squeue", &["-h", "-t", "all", "-j", job, "-o", "%T"])
    }

    /// Waits until the job is over, for good or ill, and returns the state that it ended in.
    pub fn ended(&self, job: &str) -> String {
        wait_for_command(&format!("job {job} ends"), || {
            let state = self.state(job);
            ENDED.contains(&state.as_str()).then_some(state)
        })
    }

    /// The exit code of a job that has ended.
    pub fn exit_code(&self, job: &str) -> String {
        let text = self.ask("scontrol", &["show", "job", "-o", job]);
        let code = text
            .split_whitespace()
            .find_map(|word| word.strip_prefix("ExitCode="));
        code.unwrap_or_else(|| panic!("no exit code in {text}"))
            .to_owned()
    }

    /// The names of the jobs that have not ended.
    pub fn queue(&self) -> Vec<String> {
        let text = self.ask("squeue", &["-h", "-o", "%j"]);
        text.lines().map(str::to_owned).collect()
    }

    /// Kills a node's slurmd as a power failure would, stops it, or starts it: `verb` is `kill`,
    /// `stop` or `start`.
    pub fn node(&self, verb: &str, name: &str) {
        self.script("node", &[verb, name]);
    }

    /// Sends a signal to slurmctld, or to the slurmd of a node by its name.
    pub fn signal(&self, daemon: &str, signal: Signal) {
        let path = self.folder.path().join(format!("run/{daemon}.pid"));
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let pid = text.trim().parse().expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("the daemon runs");
    }

    /// Starts slurmctld again after it was killed.
    pub fn start_controller(&self) {
        let config = self.config();
        let config = config.to_str().expect("a path in UTF-8");
        self.ask("/usr/sbin/slurmctld", &["-f", config]);
    }

    fn script(&self, verb: &str, arguments: &[&str]) {
        let output = Command::new(script())
            .arg(verb)
            .arg(self.folder.path())
            .args(arguments)
            .output()
            .expect("bash runs");
        assert!(
            output.status.success(),
            "cluster.sh {verb} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A controller that the test has stopped could not be stopped in order.
        let _ = Command::new("bash")
            .args(["-c", "kill -CONT $(cat \"$0\"/run/*.pid)"])
            .arg(self.folder.path())
            .output();
        let _ = Command::new(script())
            .arg("stop")
            .arg(self.folder.path())
            .output();
        if std::thread::panicking() {
            let kept = std::mem::replace(
                &mut self.folder,
                TempDir::new().expect("a folder for temporary files"),
            )
            .keep();
            eprintln!(
                "the logs of the failed test's Slurm are kept in {}",
                kept.display()
            );
        }
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("slurm/cluster.sh")
}
