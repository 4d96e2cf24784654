//! The trainer as a worker's child: frames of sweep::handoff on stdin and stdout, trial after
//! trial.
//!
//! One thread reads requests all the time, so that a stop is received within a trial and the end of
//! stdin ends the process at once: a trainer never outlives its worker. One trial runs at a time,
//! on the main thread. Next: session.rs for real trials, rehearsal.rs for rehearsed ones.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use sweep::handoff::{Progress, Ready, Reply, Request, RunRequest, read_frame, write_frame};

use crate::attempt::AttemptEnd;
use crate::device::process;
use crate::error::{TrialError, caught};

/// An executor of requests.
pub trait Runner {
    fn run(
        &mut self,
        request: &RunRequest,
        stop: &Arc<AtomicBool>,
        report: &mut dyn FnMut(Progress),
    ) -> Result<AttemptEnd, TrialError>;
}

/// Queue of requests. A stop belongs to the run before it; one that arrives after the end of its
/// run has no effect.
struct Inbox {
    runs: Receiver<RunRequest>,
    stop: Arc<Mutex<Arc<AtomicBool>>>,
}

/// Serves until the end of stdin, which ends the process.
pub fn serve(ready: Ready, runner: &mut dyn Runner, stdout: File) -> io::Result<()> {
    let inbox = listen();
    write_frame(&stdout, &Reply::Ready(ready))?;
    while let Ok(request) = inbox.runs.recv() {
        let stop = inbox
            .stop
            .lock()
            .expect("nothing panics while it holds the lock")
            .clone();
        tracing::info!(attempt = %request.attempt, "run");
        let mut lost = None;
        let mut report = |progress: Progress| {
            if let Err(error) = write_frame(&stdout, &Reply::Progress(progress)) {
                lost = Some(error);
            }
        };
        // errors outside of replicas are also failures with a reason
        let reply = match caught(|| runner.run(&request, &stop, &mut report)) {
            Ok(AttemptEnd::Finished(result)) => Reply::Finished(result),
            Ok(AttemptEnd::Stopped) => Reply::Stopped,
            Err(error) => Reply::Failed(error.failure()),
        };
        if let Some(error) = lost {
            return Err(error);
        }
        write_frame(&stdout, &reply)?;
    }
    Ok(())
}

/// Starts the thread that reads requests.
fn listen() -> Inbox {
    let (sender, runs) = channel();
    let stop = Arc::new(Mutex::new(Arc::new(AtomicBool::new(false))));
    let current = stop.clone();
    let read = move || {
        let mut stdin = io::stdin().lock();
        loop {
            match read_frame::<Request>(&mut stdin) {
                Ok(Some(Request::Run(request))) => {
                    // a new flag per run, set before the run can be seen
                    *current
                        .lock()
                        .expect("nothing panics while it holds the lock") = Arc::default();
                    if sender.send(*request).is_err() {
                        return;
                    }
                }
                Ok(Some(Request::Stop)) => {
                    current
                        .lock()
                        .expect("nothing panics while it holds the lock")
                        .store(true, Ordering::Relaxed);
                }
                Ok(None) => process::end_now(0),
                Err(error) => {
                    tracing::error!(%error, "the worker sent a frame that is not a request");
                    process::end_now(2);
                }
            }
        }
    };
    std::thread::Builder::new()
        .name("requests".to_owned())
        .spawn(read)
        .expect("the system can start a thread");
    Inbox { runs, stop }
}
