//! Finds the processes that belong to a trainer, and ensures that none is left (promise P5).
//!
//! A process belongs to a trainer if it is in the trainer's process group, or if its environment
//! carries the trainer's mark: a grandchild that left the group or the session still inherited it.
//! Zombies do not count, since they hold no memory and no device. Process ids are not reused here:
//! the group's leader is reaped only after all other members are gone.

use std::fs;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

/// The variable in the environment of every trainer; its value is `WORKER/SLOT/SERIAL`.
pub const MARK: &str = "ORCHESTRATOR_TRAINER_MARK";

#[derive(Clone, Debug)]
pub struct Family {
    group: Option<Pid>,
    /// `ORCHESTRATOR_TRAINER_MARK=...`: the whole variable, or a prefix of it.
    mark: Vec<u8>,
    whole: bool,
}

impl Family {
    /// One trainer and every process that it started.
    pub fn of_trainer(group: Pid, mark: &str) -> Self {
        Self {
            group: Some(group),
            mark: format!("{MARK}={mark}").into_bytes(),
            whole: true,
        }
    }

    /// All trainers of a worker and every process that they started.
    pub fn of_worker(worker: &str) -> Self {
        Self {
            group: None,
            mark: format!("{MARK}={worker}/").into_bytes(),
            whole: false,
        }
    }

    /// The ids of the live processes.
    pub fn members(&self) -> io::Result<Vec<Pid>> {
        let own = std::process::id() as i32;
        let mut members = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            if pid != own && self.contains(pid) {
                members.push(Pid::from_raw(pid));
            }
        }
        Ok(members)
    }

    /// Returns true if the group's leader has not ended.
    pub fn has_leader(&self) -> bool {
        self.group
            .is_some_and(|group| self.contains(group.as_raw()))
    }

    /// Returns true if the process belongs to this family. A process that ends during the check
    /// does not.
    fn contains(&self, pid: i32) -> bool {
        let Some((state, group)) = fs::read(format!("/proc/{pid}/stat"))
            .ok()
            .and_then(|stat| state_and_group(&stat))
        else {
            return false;
        };
        if matches!(state, b'Z' | b'X') && !has_other_threads(pid) {
            return false;
        }
        if self.group.is_some_and(|own| own.as_raw() == group) {
            return true;
        }
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| {
            if self.whole {
                variable == self.mark
            } else {
                variable.starts_with(&self.mark)
            }
        })
    }

    /// Kills the group at once, and each member that left it.
    fn kill_once(&self, members: &[Pid]) {
        if let Some(group) = self.group {
            log_failure(killpg(group, Signal::SIGKILL));
        }
        for &member in members
            .iter()
            .filter(|member| self.contains(member.as_raw()))
        {
            log_failure(kill(member, Signal::SIGKILL));
        }
    }

    /// Sends KILL until no process is left.
    pub async fn kill(&self) {
        let mut pause = Duration::from_millis(2);
        let mut empty_before = false;
        let mut complaint = Instant::now() + Duration::from_secs(10);
        loop {
            let members = self.members_elsewhere().await;
            if members.is_empty() {
                // during an exec a process briefly shows no environment
                if empty_before {
                    return;
                }
                empty_before = true;
                sleep(Duration::from_millis(1)).await;
                continue;
            }
            empty_before = false;
            // each time, since there may be new members
            self.kill_once(&members);
            if Instant::now() > complaint {
                tracing::warn!(
                    ?members,
                    "processes of a trainer do not end; their slot stays occupied until they do"
                );
                complaint += Duration::from_secs(60);
            }
            sleep(pause.min(Duration::from_millis(100))).await;
            pause *= 2;
        }
    }

    /// Lists the members on another thread: /proc of a busy machine is long, and reading it must
    /// not delay heartbeats.
    async fn members_elsewhere(&self) -> Vec<Pid> {
        let family = self.clone();
        loop {
            let members = tokio::task::spawn_blocking({
                let family = family.clone();
                move || family.members()
            });
            match members.await {
                Ok(Ok(members)) => return members,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "cannot read /proc, so no trainer can be proved gone")
                }
                Err(error) => tracing::warn!(%error, "cannot look for processes"),
            }
            sleep(Duration::from_secs(1)).await;
        }
    }
}

fn log_failure(result: nix::Result<()>) {
    match result {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => tracing::warn!(%error, "cannot kill a trainer"),
    }
}

/// Fields 3 and 5 of /proc/PID/stat. The name before them may hold any character, so counting
/// starts at the last `)`.
fn state_and_group(stat: &[u8]) -> Option<(u8, i32)> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let _parent = fields.next()?;
    Some((state, fields.next()?.parse().ok()?))
}

/// Returns true if other threads still run: a process whose first thread has ended looks like a
/// zombie.
fn has_other_threads(pid: i32) -> bool {
    fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| tasks.count() > 1)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn odd_process_names_do_not_confuse() {
        assert_eq!(state_and_group(b"12 (a b) c) S 1 77 5 0"), Some((b'S', 77)));
        assert_eq!(state_and_group(b"12 (()) Z 1 -1 5 0"), Some((b'Z', -1)));
        for damaged in [&b""[..], b"12", b"12 (x)", b"12 (x) S 1", b"12 (x) S 1 y"] {
            assert_eq!(state_and_group(damaged), None);
        }
    }

    #[test]
    fn a_process_is_found_by_its_mark_until_it_has_ended() {
        let mark = format!("test-{}/0/1", std::process::id());
        let mut child = Sleeper::start(&mark);
        let pid = Pid::from_raw(child.0.id() as i32);
        let no_process = Pid::from_raw(i32::MAX);
        let family = Family::of_trainer(no_process, &mark);
        // the environment is visible a moment after exec
        while family.members().unwrap().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(family.members().unwrap(), [pid]);
        assert_eq!(
            Family::of_worker(&format!("test-{}", std::process::id()))
                .members()
                .unwrap(),
            [pid]
        );
        assert!(
            Family::of_trainer(no_process, &mark[..mark.len() - 1])
                .members()
                .unwrap()
                .is_empty()
        );
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        assert!(family.members().unwrap().is_empty());
    }

    /// A child process for tests, killed with them.
    pub(crate) struct Sleeper(pub std::process::Child);

    impl Sleeper {
        pub(crate) fn start(mark: &str) -> Self {
            use std::process::{Command, Stdio};
            let mut command = Command::new("sleep");
            command
                .arg("600")
                .env(MARK, mark)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            Self(command.spawn().unwrap())
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
