//! A thread that writes checkpoints: the step waits for a copy in memory, not for the disk.
//!
//! The newest waiting state wins; an older one that is not being written yet is dropped. `finish`
//! waits until the last one is on disk. Does not decide when a checkpoint is due: see train.rs.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use crate::attempt::checkpoint::{Checkpoint, Folder};
use crate::error::TrialError;

pub struct CheckpointWriter {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    waiting: Option<Checkpoint>,
    writing: bool,
    failure: Option<TrialError>,
    end: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state
            .lock()
            .expect("nothing panics while it holds the lock")
    }

    fn wait<'a>(&self, state: MutexGuard<'a, QueueState>) -> MutexGuard<'a, QueueState> {
        self.changed
            .wait(state)
            .expect("nothing panics while it holds the lock")
    }

    fn work(&self, folder: &Folder) {
        let mut state = self.lock();
        loop {
            if let Some(checkpoint) = state.waiting.take() {
                state.writing = true;
                drop(state);
                let written = folder.write(&checkpoint);
                state = self.lock();
                state.writing = false;
                state.failure = written.err();
                self.changed.notify_all();
            } else if state.end {
                return;
            } else {
                state = self.wait(state);
            }
        }
    }
}

impl CheckpointWriter {
    pub fn start(folder: Folder) -> Self {
        let queue = Arc::new(Queue::default());
        let worker = queue.clone();
        let thread = std::thread::Builder::new().name("checkpoint-writer".to_owned());
        let thread = thread
            .spawn(move || worker.work(&folder))
            .expect("the system can start a thread");
        Self {
            queue,
            thread: Some(thread),
        }
    }

    /// Returns true while the previous checkpoint is being written: another would only replace the
    /// waiting one.
    pub fn is_busy(&self) -> bool {
        let state = self.queue.lock();
        state.writing || state.waiting.is_some()
    }

    /// Queues a state. The error is that of the previous checkpoint.
    pub fn write(&self, checkpoint: Checkpoint) -> Result<(), TrialError> {
        let mut state = self.queue.lock();
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        state.waiting = Some(checkpoint);
        self.queue.changed.notify_all();
        Ok(())
    }

    /// Waits until all queued states are on disk.
    pub fn finish(&self) -> Result<(), TrialError> {
        let mut state = self.queue.lock();
        while state.writing || state.waiting.is_some() {
            state = self.queue.wait(state);
        }
        state.failure.take().map_or(Ok(()), Err)
    }
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        self.queue.lock().end = true;
        self.queue.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // a panic there was reported on stderr; the previous checkpoint remains
            let _ = thread.join();
        }
    }
}
