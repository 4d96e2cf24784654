//! One child process: its output in files, killed when the test drops it, and never awaited without
//! a deadline.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait_for;

pub struct Process {
    pub name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts the process with stdout and stderr in `NAME.stdout` and `NAME.stderr` under `logs`.
    /// It stays in the test's process group, so that Ctrl-C on a terminal ends it too.
    pub fn start(name: &str, mut command: Command, logs: &std::path::Path) -> Self {
        let file = |kind: &str| logs.join(format!("{name}.{kind}"));
        let (stdout, stderr) = (file("stdout"), file("stderr"));
        let open = |path: &PathBuf| {
            File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        command
            .stdin(Stdio::null())
            .stdout(open(&stdout))
            .stderr(open(&stderr));
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self {
            name: name.to_owned(),
            child,
            stdout,
            stderr,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        lossy(&self.stdout)
    }

    pub fn stderr(&self) -> String {
        lossy(&self.stderr)
    }

    /// Sends a signal to this process alone, not to its children.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a process id"));
        kill(pid, signal).unwrap_or_else(|error| {
            panic!("{signal} to {}: {error}\n{}", self.name, self.stderr())
        });
    }

    /// Sends SIGKILL and waits until the process is gone.
    pub fn kill(mut self) {
        self.kill_now();
    }

    /// Does the same without consuming the process.
    pub fn kill_now(&mut self) {
        // both fail only if it has ended already
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    /// Waits until the process ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let what = format!("{} ends; its stderr: {}", self.name, self.stderr.display());
        let child = &mut self.child;
        wait_for(&what, || child.try_wait().expect("a child can be asked"))
    }

    /// Waits and requires this exit code.
    pub fn expect_exit(&mut self, code: i32) {
        let status = self.wait();
        assert_eq!(
            status.code(),
            Some(code),
            "{} ended with {status}\n-- stdout\n{}\n-- stderr\n{}",
            self.name,
            self.stdout(),
            self.stderr()
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_now();
    }
}

fn lossy(path: &PathBuf) -> String {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    String::from_utf8_lossy(&bytes).into_owned()
}
