//! One trainer process: started in its own process group, addressed in frames, and ended so that
//! nothing of it is left. It does not know attempts; `slot.rs` does.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc as blocking};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;
use serde::Serialize;
use sweep::handoff::{self, EXIT_DEVICE_ABSENT, Ready, Reply};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::gpu_release::{self, GpuDriver, NotReleased};
use crate::launch::Launch;
use crate::processes::{Family, MARK};
use crate::stderr::StderrLog;

/// Timeout for the driver to clean up after a process.
const DRIVER_PATIENCE: Duration = Duration::from_secs(20);

/// Timeout of a request: most fit into a pipe's buffer, so it expires only if the trainer does not
/// read.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);

/// Timeout for a process that writes the file of the program.
const WRITER_PATIENCE: Duration = Duration::from_secs(10);
const WRITER_INTERVAL: Duration = Duration::from_millis(50);

/// The signals that ask a process to end. Slurm, a shell or `timeout` may send them to every process
/// below the worker, but only the worker decides on its trainers: these end with their stdin.
const REQUESTS_TO_END: [Signal; 4] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
];

/// Starts every trainer from one thread that lives as long as the worker: trainers ask the kernel
/// to send SIGKILL when the *thread* that started them dies. The thread blocks the signals that ask
/// a process to end, and a trainer inherits that from before its exec.
#[derive(Clone)]
pub struct Spawner(Arc<blocking::Sender<SpawnRequest>>);

struct SpawnRequest {
    command: Command,
    reply: oneshot::Sender<io::Result<Child>>,
}

impl Spawner {
    pub fn start() -> io::Result<Self> {
        let (sender, requests) = blocking::channel::<SpawnRequest>();
        let serve = move || {
            let blocked: SigSet = REQUESTS_TO_END.into_iter().collect();
            blocked
                .thread_block()
                .expect("the set holds valid signals, and nothing else can fail");
            for SpawnRequest { mut command, reply } in requests {
                if let Err(Ok(mut unwanted)) = reply.send(spawn_when_written(&mut command)) {
                    let _ = unwanted.kill();
                    let _ = unwanted.wait();
                }
            }
        };
        std::thread::Builder::new()
            .name("trainer-spawner".into())
            .spawn(serve)?;
        Ok(Self(Arc::new(sender)))
    }

    async fn spawn(&self, command: Command) -> io::Result<Child> {
        let (reply, child) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts trainers is gone");
        self.0
            .send(SpawnRequest { command, reply })
            .map_err(|_| gone())?;
        child.await.map_err(|_| gone())?
    }
}

/// Starts the process, and retries while the file of its program is open for writing: a user copies
/// a new version to it, or a process forked while this worker wrote it.
fn spawn_when_written(command: &mut Command) -> io::Result<Child> {
    let end = Instant::now() + WRITER_PATIENCE;
    loop {
        match command.spawn() {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < end =>
            {
                std::thread::sleep(WRITER_INTERVAL);
            }
            started => return started,
        }
    }
}

pub struct Trainer {
    child: Option<Child>,
    group: Pid,
    family: Family,
    stdin: Option<ChildStdin>,
    replies: mpsc::Receiver<Result<Reply, TrainerError>>,
    pub stderr: StderrLog,
    /// The driver, asked at the trainer's end if it has GPUs.
    driver: Option<Arc<dyn GpuDriver>>,
}

/// The reason why the trainer cannot be used any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrainerError {
    #[error("the trainer closed its stdout")]
    Closed,
    #[error("the trainer broke the hand-off: {0}")]
    Violation(String),
    #[error("cannot send to the trainer: {0}")]
    Unreachable(String),
}

/// The end of the process.
#[derive(Clone, Debug)]
#[must_use = "a slot whose trainer still holds a GPU must not be used again"]
pub struct Exit {
    pub status: Option<ExitStatus>,
    /// The reason why its GPUs cannot be used again.
    pub not_released: Option<NotReleased>,
}

impl Trainer {
    /// Starts the process, without waiting for its first message.
    pub async fn start(spawner: &Spawner, launch: &Launch, serial: u64) -> io::Result<Self> {
        let mark = format!("{}/{serial}", launch.mark);
        let mut command = launch.command();
        command.env(MARK, &mark).process_group(0);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = spawner.spawn(command).await?;
        let group = Pid::from_raw(child.id() as i32);
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (sender, replies) = mpsc::channel(16);
        // from here on, dropping it kills the process
        let mut trainer = Self {
            child: Some(child),
            group,
            family: Family::of_trainer(group, &mark),
            stdin: None,
            replies,
            stderr: StderrLog::start(stderr.ok_or_else(no_pipe)?)?,
            driver: launch.has_gpus().then(|| launch.driver.clone()),
        };
        trainer.stdin = Some(ChildStdin::from_std(stdin.ok_or_else(no_pipe)?)?);
        let stdout = ChildStdout::from_std(stdout.ok_or_else(no_pipe)?)?;
        tokio::spawn(read_replies(stdout, sender));
        Ok(trainer)
    }

    /// Waits for the greeting that every trainer sends first.
    pub async fn ready(&mut self) -> Result<Ready, TrainerError> {
        match self.reply().await? {
            Reply::Ready(ready) => Ok(ready),
            other => Err(TrainerError::Violation(format!("it began with {other:?}"))),
        }
    }

    /// Sends a `Request`, or JSON that is like one.
    pub async fn send<T: Serialize>(&mut self, request: &T) -> Result<(), TrainerError> {
        let frame = handoff::encode_frame(request);
        let stdin = self.stdin.as_mut().ok_or(TrainerError::Closed)?;
        let unreachable = |error: String| TrainerError::Unreachable(error);
        match timeout(REQUEST_PATIENCE, stdin.write_all(&frame)).await {
            Ok(written) => written.map_err(|error| unreachable(error.to_string())),
            Err(_) => Err(unreachable("it does not read its stdin".into())),
        }
    }

    /// Waits for the next reply. Safe to cancel.
    pub async fn reply(&mut self) -> Result<Reply, TrainerError> {
        self.replies
            .recv()
            .await
            .unwrap_or(Err(TrainerError::Closed))
    }

    /// Returns true if nothing was received since the last run and the trainer is still alive.
    pub fn is_quiet(&mut self) -> bool {
        matches!(
            self.replies.try_recv(),
            Err(mpsc::error::TryRecvError::Empty)
        ) && self.family.has_leader()
    }

    /// Ends the process and returns when none of its processes is left. The end of stdin asks it to
    /// exit; after `patience` it is killed. The exit status of a crash is its own.
    pub async fn end(mut self, patience: Duration) -> Exit {
        self.stdin = None;
        let _ = timeout(patience, self.gone_by_itself()).await;
        self.family.kill().await;
        let not_released = match &self.driver {
            Some(driver) => {
                gpu_release::wait_for(driver, self.group.as_raw() as u32, DRIVER_PATIENCE)
                    .await
                    .err()
            }
            None => None,
        };
        let status = self.child.take().and_then(|mut child| child.wait().ok());
        self.stderr.finished().await;
        Exit {
            status,
            not_released,
        }
    }

    async fn gone_by_itself(&self) {
        let mut pause = Duration::from_millis(1);
        while self
            .family
            .members()
            .is_ok_and(|members| !members.is_empty())
        {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

/// Last resort when the worker itself is dropped: KILL without waiting.
impl Drop for Trainer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = killpg(self.group, Signal::SIGKILL);
            let _ = child.try_wait();
        }
    }
}

fn no_pipe() -> io::Error {
    io::Error::other("the trainer has no pipe")
}

async fn read_replies(mut stdout: ChildStdout, replies: mpsc::Sender<Result<Reply, TrainerError>>) {
    loop {
        let reply = read_reply(&mut stdout).await;
        let error = reply.is_err();
        if replies.send(reply).await.is_err() || error {
            return;
        }
    }
}

async fn read_reply(stdout: &mut (impl AsyncRead + Unpin)) -> Result<Reply, TrainerError> {
    let mut header = [0; 4];
    stdout
        .read_exact(&mut header)
        .await
        .map_err(|_| TrainerError::Closed)?;
    let violation = |error: io::Error| TrainerError::Violation(error.to_string());
    let length = handoff::frame_length(header).map_err(violation)?;
    // grown as bytes arrive: the announced length need not be true
    let mut frame = Vec::new();
    stdout
        .take(length as u64)
        .read_to_end(&mut frame)
        .await
        .map_err(|_| TrainerError::Closed)?;
    if frame.len() < length {
        return Err(TrainerError::Closed);
    }
    handoff::decode_frame(&frame).map_err(violation)
}

impl Exit {
    /// `exit code 3`, `signal SIGSEGV`
    pub fn describe(&self) -> String {
        let Some(status) = self.status else {
            return "unknown exit status".to_owned();
        };
        match (status.code(), self.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => status.to_string(),
        }
    }

    /// Returns true if the exit code reports that a device of the slot is missing.
    pub fn lacks_a_device(&self) -> bool {
        self.status.and_then(|status| status.code()) == Some(i32::from(EXIT_DEVICE_ABSENT))
    }

    pub fn was_killed(&self) -> bool {
        self.signal() == Some(Signal::SIGKILL)
    }

    /// Returns true if a signal ended it that others send, and no fault of its own raises.
    pub fn was_sent_a_signal(&self) -> bool {
        self.signal()
            .is_some_and(|signal| signal == Signal::SIGKILL || REQUESTS_TO_END.contains(&signal))
    }

    fn signal(&self) -> Option<Signal> {
        use std::os::unix::process::ExitStatusExt;
        self.status?.signal()?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sweep::handoff::Progress;

    use super::*;

    fn read(mut bytes: &[u8]) -> (Result<Reply, TrainerError>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let reply = runtime.block_on(read_reply(&mut bytes));
        (reply, bytes.len())
    }

    #[test]
    fn frames_are_read_one_after_the_other_and_a_cut_one_is_no_frame() {
        let mut bytes = handoff::encode_frame(&Reply::Stopped);
        let length = bytes.len();
        bytes.extend(handoff::encode_frame(&Reply::Progress(Progress::default())));
        let (reply, left) = read(&bytes);
        assert_eq!((reply, left), (Ok(Reply::Stopped), bytes.len() - length));
        for cut in 0..length {
            assert_eq!(read(&bytes[..cut]).0, Err(TrainerError::Closed));
        }
    }

    #[tokio::test]
    async fn a_program_that_is_being_written_starts_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::copy("/bin/true", &path).unwrap();
        let writer = std::fs::File::options().append(true).open(&path).unwrap();
        // Linux 6.11 and 6.12 start it at once
        if let Err(busy) = Command::new(&path).status() {
            assert_eq!(busy.kind(), io::ErrorKind::ExecutableFileBusy);
        }
        let spawner = Spawner::start().unwrap();
        let start = tokio::spawn(async move { spawner.spawn(Command::new(path)).await });
        tokio::time::sleep(WRITER_INTERVAL).await;
        drop(writer);
        let mut child = start.await.unwrap().unwrap();
        assert!(child.wait().unwrap().success());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_a_reply_or_a_reason(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&bytes);
        }

        #[test]
        fn arbitrary_documents_are_a_reply_or_a_reason(document in "[\\[\\]{}\":,a-zA-Z0-9 .e+-]{0,60}") {
            let mut frame = (document.len() as u32).to_le_bytes().to_vec();
            frame.extend(document.as_bytes());
            let (reply, left) = read(&frame);
            prop_assert_eq!(left, 0);
            if let Err(error) = reply {
                prop_assert!(matches!(error, TrainerError::Violation(_)));
            }
        }
    }
}
