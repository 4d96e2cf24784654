//! Hosts over ssh as the source of allocations: one worker for each line of the hosts file.
//!
//! The coordinator stays on loopback; a reverse tunnel leads to it. An allocation lasts as long as
//! its host's worker, however often the connection breaks and comes back: it waits while there is
//! none. Read `remote.rs` for what runs on the host.

mod folders;
pub mod hosts;
mod log;
pub mod push;
pub mod remote;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use schedule::allocation::{
    AllocationId, Answering, EndCause, GiveBack, JobId, JobState, LaunchAnswer, LaunchRequest,
    Launcher, ObservedJob, PendingReason, ReasonClass, SubmitOutcome,
};
use sweep::text::{Line, Lines};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::folders::{Folders, folder_name};
use self::hosts::Host;
use self::log::Log;
use self::remote::{Settings, UNUSABLE, allocated_port, script, ssh_arguments};

/// ssh's own exit code: the connection failed or broke.
const CONNECTION: i32 = 255;
/// Timeout of a connection until its tunnel is there: ssh's own is 15 s.
const TUNNEL: Duration = Duration::from_secs(20);
/// Time for checkpoints after stdin has ended.
const LEAVE: Duration = Duration::from_secs(30);
/// A worker that lived this long was able to work.
const WORKED: Duration = Duration::from_secs(60);
/// A host is left out after this number of failures in a row.
const STRIKES: u32 = 3;
/// Lines of a failed worker that are reported with its end.
const LAST_LINES: usize = 12;

pub struct Ssh {
    settings: Arc<Settings>,
    folders: Arc<Mutex<Folders>>,
    lines: Vec<HostLine>,
    /// Ended allocations that have not been asked about since.
    ended: BTreeMap<AllocationId, ObservedJob>,
}

/// A line of the hosts file.
struct HostLine {
    host: Arc<Host>,
    /// Failures in a row.
    strikes: u32,
    /// The reason why no worker is started here any more.
    left_out: Option<Line>,
    connection: Option<Connection>,
}

struct Connection {
    allocation: AllocationId,
    since: Instant,
    state: Arc<Mutex<JobState>>,
    order: watch::Sender<Order>,
    /// Ends ssh when it is dropped with the launcher.
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Serve,
    Leave,
    Stop,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ssh {
    pub fn new(settings: Settings, hosts: Vec<Host>) -> Self {
        let line = |host| HostLine {
            host: Arc::new(host),
            strikes: 0,
            left_out: None,
            connection: None,
        };
        let folders = Folders::with_that_of_this_machine(&settings.work);
        Self {
            settings: Arc::new(settings),
            folders: Arc::new(Mutex::new(folders)),
            lines: hosts.into_iter().map(line).collect(),
            ended: BTreeMap::new(),
        }
    }

    fn submit(&mut self, allocation: &AllocationId) -> SubmitOutcome {
        self.collect();
        let free = |line: &&mut HostLine| line.connection.is_none() && line.left_out.is_none();
        let Some(line) = self
            .lines
            .iter_mut()
            .filter(free)
            .min_by_key(|line| line.strikes)
        else {
            let message = self.why_none();
            return match self.lines.iter().all(|line| line.left_out.is_some()) {
                true => SubmitOutcome::Refused { message },
                false => SubmitOutcome::Full { message },
            };
        };
        let (order, orders) = watch::channel(Order::Serve);
        let state = Arc::new(Mutex::new(waits(
            "connecting",
            "its host is being connected",
        )));
        let serving = Serving {
            settings: self.settings.clone(),
            folders: self.folders.clone(),
            host: line.host.clone(),
            allocation: allocation.clone(),
            state: state.clone(),
            orders,
        };
        let job = JobId(line.host.address.as_str().into());
        line.connection = Some(Connection {
            allocation: allocation.clone(),
            since: Instant::now(),
            state,
            order,
            task: tokio::spawn(serving.run()),
        });
        SubmitOutcome::Submitted(job)
    }

    /// The reason why no host is free, with that of each host that is left out.
    fn why_none(&self) -> Line {
        let left_out = self.lines.iter().filter_map(|line| {
            let reason = line.left_out.as_ref()?;
            Some(format!("{} is left out: {reason}", line.host))
        });
        let mut reasons: Vec<_> = left_out.collect();
        if reasons.len() < self.lines.len() {
            reasons.insert(0, "every other host of the file has a worker".to_owned());
        }
        reasons.join("; ").into()
    }

    /// Takes note of the allocations that have ended.
    fn collect(&mut self) {
        for line in &mut self.lines {
            let Some(connection) = &line.connection else {
                continue;
            };
            let state = locked(&connection.state).clone();
            let JobState::Ended(cause) = &state else {
                continue;
            };
            match cause {
                EndCause::Failed { detail } => {
                    let lasted = connection.since.elapsed() >= WORKED;
                    line.strikes = if lasted { 1 } else { line.strikes + 1 };
                    if line.strikes >= STRIKES || detail.starts_with(CANNOT_BE_USED) {
                        line.left_out = Some(Line::from(&**detail));
                        tracing::warn!(host = %line.host, %detail, "the host is left out");
                    }
                }
                _ => line.strikes = 0,
            }
            let observed = seen(connection, &line.host, state);
            self.ended.insert(connection.allocation.clone(), observed);
            line.connection = None;
        }
    }

    fn observe(&mut self, allocations: &[AllocationId]) -> Vec<ObservedJob> {
        self.collect();
        self.ended.retain(|name, _| allocations.contains(name));
        let connected = self.lines.iter().filter_map(|line| {
            let connection = line.connection.as_ref()?;
            let state = locked(&connection.state).clone();
            let asked = allocations.contains(&connection.allocation);
            asked.then(|| seen(connection, &line.host, state))
        });
        connected.chain(self.ended.values().cloned()).collect()
    }

    fn give_back(&mut self, allocations: &[(AllocationId, Option<JobId>)], how: GiveBack) {
        for line in &self.lines {
            let Some(connection) = &line.connection else {
                continue;
            };
            let asked = allocations
                .iter()
                .any(|(name, _)| *name == connection.allocation);
            let waits = matches!(*locked(&connection.state), JobState::Pending(_));
            let order = match how {
                _ if !asked => continue,
                GiveBack::Waiting if !waits => continue,
                GiveBack::Waiting | GiveBack::Leave => Order::Leave,
                GiveBack::Now => Order::Stop,
            };
            connection
                .order
                .send_modify(|current| *current = (*current).max(order));
        }
    }
}

fn seen(connection: &Connection, host: &Host, state: JobState) -> ObservedJob {
    ObservedJob {
        allocation: connection.allocation.clone(),
        job: JobId(host.address.as_str().into()),
        state,
        node: Some(host.address.clone()),
        ends_at: None,
    }
}

fn locked<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn waits(word: &str, sentence: &str) -> JobState {
    JobState::Pending(PendingReason {
        word: word.into(),
        sentence: sentence.into(),
        class: ReasonClass::Wait,
    })
}

/// The task of one allocation: connects until it is asked to leave, or until its worker ends.
struct Serving {
    settings: Arc<Settings>,
    folders: Arc<Mutex<Folders>>,
    host: Arc<Host>,
    allocation: AllocationId,
    state: Arc<Mutex<JobState>>,
    orders: watch::Receiver<Order>,
}

/// The end of one connection.
enum Ended {
    /// It failed or broke. `served`: the worker had been started.
    Connection { reason: String, served: bool },
    Worker {
        code: Option<i32>,
        last_lines: String,
    },
}

/// The work directory of copies, beside them.
const COPIES_WORK: &str = "../work";
/// Beginning of the detail of a failure that no further attempt can change.
const CANNOT_BE_USED: &str = "cannot be used";

impl Serving {
    async fn run(mut self) {
        let folder = self.settings.folder.join(self.allocation.as_str());
        let log = std::fs::create_dir_all(&folder).and_then(|()| Log::open(&folder.join("log")));
        let mut log = match log {
            Ok(log) => log,
            Err(error) => {
                let detail = format!("cannot write {}: {error}", folder.join("log").display());
                return self.end(EndCause::Failed {
                    detail: detail.into(),
                });
            }
        };
        let mut delays = Delays::default();
        loop {
            let cause = match self.connection(&mut log).await {
                Ended::Worker {
                    code: Some(0 | 75), ..
                } => EndCause::Completed,
                Ended::Worker {
                    code: Some(UNUSABLE),
                    last_lines,
                } => EndCause::Failed {
                    // the script's own line comes last, after what ssh has printed
                    detail: format!(
                        "{CANNOT_BE_USED}: {}",
                        last_lines.lines().last().unwrap_or_default()
                    )
                    .into(),
                },
                Ended::Worker { code, last_lines } => {
                    let code =
                        code.map_or("a signal".to_owned(), |code| format!("exit code {code}"));
                    EndCause::Failed {
                        detail: Lines::from(format!(
                            "ended with {code}; its last lines:\n{last_lines}"
                        )),
                    }
                }
                Ended::Connection { .. } if *self.orders.borrow() != Order::Serve => {
                    EndCause::Completed
                }
                Ended::Connection { reason, served } => {
                    if served {
                        delays = Delays::default();
                    }
                    let delay = delays.next();
                    let seconds = delay.as_secs();
                    let host = &self.host;
                    tracing::warn!(%host, reason, seconds, "not connected; another attempt follows");
                    let sentence = format!(
                        "{host} cannot be reached ({reason}); another attempt follows after {seconds} s"
                    );
                    *locked(&self.state) = waits("unreachable", &sentence);
                    tokio::select! {
                        () = tokio::time::sleep(delay) => continue,
                        _ = self.orders.wait_for(|order| *order != Order::Serve) => EndCause::Completed,
                    }
                }
            };
            return self.end(cause);
        }
    }

    fn end(&self, cause: EndCause) {
        *locked(&self.state) = JobState::Ended(cause);
    }

    /// One ssh, from its start to its end.
    async fn connection(&mut self, log: &mut Log) -> Ended {
        let failed = |reason: String| Ended::Connection {
            reason,
            served: false,
        };
        let host = match self.host_with_build().await {
            Ok(host) => host,
            Err(ended) => return ended,
        };
        let script = script(&self.settings, &host, &self.allocation);
        let mut ssh = Command::new("ssh");
        ssh.args(ssh_arguments(&self.settings, &host, &script));
        ssh.stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // Ctrl-C is for this process, which then gives its workers time.
        ssh.process_group(0).kill_on_drop(true);
        let mut child = match ssh.spawn() {
            Ok(child) => child,
            Err(error) => return failed(format!("ssh cannot be started: {error}")),
        };
        let (Some(stdin), Some(stderr)) = (child.stdin.take(), child.stderr.take()) else {
            return failed("ssh has no streams".to_owned());
        };
        let mut output = Output {
            lines: BufReader::new(stderr),
            host: self.host.address.clone(),
            folders: self.folders.clone(),
            last: Vec::new(),
        };
        let Ok(port) = tokio::time::timeout(TUNNEL, output.port(log)).await else {
            return failed(format!("no tunnel after {} s", TUNNEL.as_secs()));
        };
        let Some(port) = port else {
            let _ = child.wait().await;
            return failed(output.last_lines("; "));
        };
        let stdin = match self.introduce(stdin, port).await {
            Ok(stdin) => stdin,
            Err(reason) => return failed(reason),
        };
        *locked(&self.state) = JobState::Running;
        let code = self.until_end(child, stdin, &mut output, log).await;
        match code {
            // ssh itself may have been killed
            Some(CONNECTION) | None => Ended::Connection {
                reason: output.last_lines("; "),
                served: true,
            },
            code => Ended::Worker {
                code,
                last_lines: output.last_lines("\n"),
            },
        }
    }

    /// Returns the host, with the folder of a copy of this build if it lacked it.
    async fn host_with_build(&mut self) -> Result<Host, Ended> {
        let mut host = Host::clone(&self.host);
        let Some(build) = &self.settings.push else {
            return Ok(host);
        };
        let dir = tokio::select! {
            dir = push::folder(build, &self.settings, &self.host) => dir?,
            _ = self.orders.wait_for(|order| *order != Order::Serve) => {
                return Err(Ended::Connection {
                    reason: "it was asked to leave".to_owned(),
                    served: false,
                });
            }
        };
        if host.dir.as_ref().unwrap_or(&self.settings.dir) != &dir {
            // the same one for every later copy
            host.work.get_or_insert_with(|| COPIES_WORK.to_owned());
        }
        host.dir = Some(dir);
        Ok(host)
    }

    /// Writes the tunnel's address and the token. The stream stays open: its end ends the worker.
    async fn introduce(&self, mut stdin: ChildStdin, port: u16) -> Result<ChildStdin, String> {
        let token = (self.settings.worker_token)()?;
        let scheme = match self.settings.is_encrypted {
            true => "https",
            false => "http",
        };
        let lines = format!("{scheme}://127.0.0.1:{port}\n{}\n", token.trim());
        let written = stdin.write_all(lines.as_bytes()).await;
        written.map_err(|error| format!("ssh takes no input: {error}"))?;
        Ok(stdin)
    }

    async fn until_end(
        &mut self,
        mut child: Child,
        stdin: ChildStdin,
        output: &mut Output,
        log: &mut Log,
    ) -> Option<i32> {
        let mut stdin = Some(stdin);
        let mut deadline = None;
        loop {
            let order = *self.orders.borrow_and_update();
            if order == Order::Leave && stdin.take().is_some() {
                deadline = Some(tokio::time::Instant::now() + LEAVE);
            }
            if order == Order::Stop {
                stdin = None;
                let _ = child.start_kill();
            }
            let late = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                more = output.line(log) => if !more { break },
                changed = self.orders.changed() => if changed.is_err() { break },
                () = late => {
                    let _ = child.start_kill();
                    deadline = None;
                }
            }
        }
        child.wait().await.ok().and_then(|status| status.code())
    }
}

/// The stderr of an ssh: its own lines and those of the worker.
struct Output {
    lines: BufReader<ChildStderr>,
    host: String,
    folders: Arc<Mutex<Folders>>,
    last: Vec<String>,
}

impl Output {
    /// Reads until the tunnel is there, and returns its port; `None` if ssh ends before that.
    async fn port(&mut self, log: &mut Log) -> Option<u16> {
        while self.line(log).await {
            if let Some(port) = self.last.last().and_then(|line| allocated_port(line)) {
                return Some(port);
            }
        }
        None
    }

    /// Reads a line and keeps it; false at the end. Nothing is lost if it is cancelled.
    async fn line(&mut self, log: &mut Log) -> bool {
        let bytes = match self.lines.fill_buf().await {
            Ok([]) | Err(_) => return false,
            Ok(bytes) => bytes,
        };
        // what is there is taken without another wait, line by line
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (text, used) = match end {
            Some(end) => (&bytes[..end], end + 1),
            None => (bytes, bytes.len()),
        };
        let whole = end.is_some();
        let text = String::from_utf8_lossy(text)
            .trim_end_matches('\r')
            .to_owned();
        self.lines.consume(used);
        log.write(&self.host, &text, whole);
        if let Some(name) = folder_name(&text) {
            if let Some(other) = locked(&self.folders).note(&self.host, name) {
                tracing::warn!(
                    host = self.host,
                    "its work directory is not that of {other}: a trial that moves between them begins again, unless \
                     `work=` names a folder that they share"
                );
            }
            return true;
        }
        if text.starts_with("error: ") {
            tracing::warn!(host = self.host, "{text}");
        } else {
            tracing::info!(host = self.host, "{text}");
        }
        self.last.push(text);
        if self.last.len() > LAST_LINES {
            self.last.remove(0);
        }
        true
    }

    fn last_lines(&self, separator: &str) -> String {
        let lines = self.last.iter().map(|line| line.trim());
        let lines: Vec<_> = lines
            .filter(|line| !line.is_empty() && allocated_port(line).is_none())
            .map(|line| line.strip_prefix("error: ").unwrap_or(line))
            .collect();
        match lines.is_empty() {
            true => "without a word".to_owned(),
            false => lines.join(separator),
        }
    }
}

/// The delays between attempts to connect: 1, 5, 15 and then always 60 s.
#[derive(Default)]
struct Delays {
    attempts: usize,
}

impl Delays {
    fn next(&mut self) -> Duration {
        let seconds = [1, 5, 15, 60];
        let delay = seconds[self.attempts.min(seconds.len() - 1)];
        self.attempts += 1;
        Duration::from_secs(delay)
    }
}

impl Launcher for Ssh {
    fn perform(&mut self, request: LaunchRequest) -> Answering<'_> {
        Box::pin(async move {
            match request {
                LaunchRequest::Submit { allocation, .. } => LaunchAnswer::Submitted {
                    outcome: self.submit(&allocation),
                    allocation,
                },
                LaunchRequest::Observe { allocations } => {
                    LaunchAnswer::Observed(Ok(self.observe(&allocations)))
                }
                LaunchRequest::GiveBack { allocations, how } => {
                    self.give_back(&allocations, how);
                    LaunchAnswer::GaveBack(Ok(()))
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_to_connect_become_rare() {
        let mut delays = Delays::default();
        let seconds: Vec<_> = (0..6).map(|_| delays.next().as_secs()).collect();
        assert_eq!(seconds, [1, 5, 15, 60, 60, 60]);
    }
}
