//! The stderr of a trainer, without colours: one file per attempt for users, and its tail in memory
//! for failure messages. A thread of its own reads it, because a file system that hangs must not
//! delay heartbeats.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ChildStderr;
use std::sync::{Arc, Mutex, PoisonError};

use anstream::adapter::StripBytes;
use tokio::sync::oneshot;

/// The part of stderr that a failure's message includes.
const TAIL_BYTES: usize = 8 << 10;
/// The file limit: a trainer that prints without end must not fill the disk.
const MAX_FILE_BYTES: u64 = 16 << 20;

pub struct StderrLog {
    log: Arc<Mutex<Log>>,
    ended: oneshot::Receiver<()>,
}

/// The end of the trainer's stderr, read when the trainer is gone.
pub struct Tail(Arc<Mutex<Log>>);

#[derive(Default)]
struct Log {
    tail: VecDeque<u8>,
    /// The file of the attempt, created when there is something to write.
    path: Option<PathBuf>,
    file: Option<File>,
    written: u64,
    /// Removes escape sequences, including those split between two reads.
    colours: StripBytes,
}

impl StderrLog {
    pub fn start(mut stderr: ChildStderr) -> std::io::Result<Self> {
        let log = Arc::new(Mutex::new(Log::default()));
        let (end, ended) = oneshot::channel();
        let writer = log.clone();
        let pump = move || {
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = stderr.read(&mut buffer) {
                writer
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take(&buffer[..count]);
            }
            let _ = end.send(());
        };
        std::thread::Builder::new()
            .name("trainer-stderr".into())
            .spawn(pump)?;
        Ok(Self { log, ended })
    }

    /// Begins a new attempt, with a file and a tail of its own.
    pub fn attempt(&self, path: PathBuf) {
        let mut log = self.lock();
        log.path = Some(path);
        log.file = None;
        log.written = 0;
        log.tail.clear();
        log.colours = StripBytes::new();
    }

    /// Waits until the last writer has closed stderr. Call it when no process of the trainer is
    /// left.
    pub async fn finished(&mut self) {
        let _ = (&mut self.ended).await;
    }

    pub fn tail(&self) -> Tail {
        Tail(self.log.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tail {
    pub fn text(&self) -> String {
        let bytes: Vec<u8> = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .tail
            .iter()
            .copied()
            .collect();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

impl Log {
    fn take(&mut self, bytes: &[u8]) {
        let plain: Vec<u8> = self.colours.strip_next(bytes).flatten().copied().collect();
        self.tail.extend(&plain);
        let excess = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
        if let Err(error) = self.write(&plain) {
            tracing::warn!(%error, path = ?self.path, "cannot keep a trainer's stderr");
            self.path = None;
            self.file = None;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        if self.written >= MAX_FILE_BYTES {
            return Ok(());
        }
        if self.file.is_none() {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            let mut private = File::options();
            self.file = Some(
                private
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(path)?,
            );
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        if self.written >= MAX_FILE_BYTES {
            file.write_all(b"\n(cut here: the limit of a log file is reached)\n")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_removed_from_log_and_tail() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/attempt-1.stderr");
        let mut log = Log {
            path: Some(path.clone()),
            ..Log::default()
        };
        let text = "\x1b[2m12:00\x1b[0m \x1b[33m WARN\x1b[0m größer\n\ttwo\n";
        // byte by byte: a read may end anywhere
        for byte in text.bytes() {
            log.take(&[byte]);
        }
        let plain = "12:00  WARN größer\n\ttwo\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), plain);
        let tail: Vec<u8> = log.tail.iter().copied().collect();
        assert_eq!(String::from_utf8(tail).unwrap(), plain);
    }
}
