//! The work directory: checkpoints per trial, stderr per attempt, and a lock per live worker.
//!
//! Several workers may share one. Nothing in here is the truth about anything: a result that was not acknowledged dies
//! with its worker, for the checkpoint of its last epoch gives the same result again in the time of one evaluation, and
//! a file of results would only be a second, weaker journal.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use sweep::{AttemptNo, TrialId};

use crate::processes::Family;

#[derive(Clone, Debug)]
pub struct WorkDir(PathBuf);

/// Held for the life of a worker; its file goes with it.
pub struct Registration {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl WorkDir {
    /// Makes it where it is missing.
    pub fn open(path: &Path) -> io::Result<Self> {
        // trainers are told about it and may have another working directory
        let path = std::path::absolute(path)?;
        for part in ["checkpoints", "logs", "workers"] {
            fs::create_dir_all(path.join(part))?;
        }
        Ok(Self(path))
    }

    pub fn checkpoint_dir(&self, trial: TrialId) -> PathBuf {
        self.0.join("checkpoints").join(trial.to_string())
    }

    pub fn log_file(&self, (trial, attempt): (TrialId, AttemptNo)) -> PathBuf {
        self.0.join("logs").join(trial.to_string()).join(format!("attempt-{attempt}.stderr"))
    }

    /// Says that this worker lives, so that a later one can tell that it does not any more.
    pub fn register(&self, worker: &str) -> io::Result<Registration> {
        let path = self.0.join("workers").join(worker);
        let file = File::create(&path)?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| io::Error::from(error))?;
        Ok(Registration { path, _lock: lock })
    }

    /// Ends what dead workers of this host have left running. A worker that dies takes its trainers with it, but one
    /// that was killed cannot prove it.
    pub async fn end_orphans(&self, host: &str) -> io::Result<()> {
        for entry in fs::read_dir(self.0.join("workers"))? {
            let entry = entry?;
            let Ok(worker) = entry.file_name().into_string() else { continue };
            if host_of(&worker) != Some(host) {
                continue;
            }
            let Ok(file) = File::open(entry.path()) else { continue };
            let Ok(_dead) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { continue };
            let family = Family::of_worker(&worker);
            let orphans = family.members()?;
            if !orphans.is_empty() {
                tracing::warn!(worker, ?orphans, "ending what a dead worker left running");
                family.end(Duration::from_secs(2)).await;
            }
            fs::remove_file(entry.path())?;
        }
        Ok(())
    }

    /// Removes the checkpoints of an attempt whose result is acknowledged, and of those before it. A later attempt,
    /// if there is one because this result came too late, keeps its own.
    pub fn remove_checkpoints(&self, trial: TrialId, attempt: AttemptNo) -> io::Result<()> {
        let dir = self.checkpoint_dir(trial);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let of_later = entry.file_name().to_str().and_then(attempt_of).is_some_and(|number| number > attempt.0);
            if !of_later {
                remove_if_there(&entry.path())?;
            }
        }
        match fs::remove_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
            _ => Ok(()),
        }
    }

    /// Disk that the checkpoints of these trials occupy.
    pub fn checkpoint_bytes(&self, trials: &[TrialId]) -> u64 {
        let size = |path: &Path| -> u64 {
            let Ok(entries) = fs::read_dir(path) else { return 0 };
            entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
        };
        trials.iter().map(|trial| size(&self.checkpoint_dir(*trial))).sum()
    }
}

/// `HOST` of `HOST-PID-RANDOM`.
fn host_of(worker: &str) -> Option<&str> {
    let (rest, _random) = worker.rsplit_once('-')?;
    Some(rest.rsplit_once('-')?.0)
}

/// The number in `epoch-00012.attempt-3.EXTENSION` (see the hand-off).
fn attempt_of(name: &str) -> Option<u32> {
    let (_, rest) = name.split_once(".attempt-")?;
    let digits = rest.split(|character: char| !character.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// A trainer of a later attempt may prune the same files.
fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_of_later_attempts_stay() {
        let dir = tempfile::tempdir().unwrap();
        let work_dir = WorkDir::open(dir.path()).unwrap();
        let trial: TrialId = "00000000000000aa".parse().unwrap();
        let checkpoints = work_dir.checkpoint_dir(trial);
        fs::create_dir(&checkpoints).unwrap();
        for name in ["epoch-00001.attempt-1.ckpt", "epoch-00002.attempt-2.ckpt", "epoch-00002.attempt-10.ckpt", "other"]
        {
            fs::write(checkpoints.join(name), "12345").unwrap();
        }
        assert_eq!(work_dir.checkpoint_bytes(&[trial]), 20);
        work_dir.remove_checkpoints(trial, AttemptNo(2)).unwrap();
        let left: Vec<_> = fs::read_dir(&checkpoints).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["epoch-00002.attempt-10.ckpt"]);
        work_dir.remove_checkpoints(trial, AttemptNo(10)).unwrap();
        assert!(!checkpoints.exists());
        work_dir.remove_checkpoints(trial, AttemptNo(10)).unwrap();
    }

    #[test]
    fn names_give_host_and_attempt() {
        assert_eq!(host_of("node-7-123-ab12"), Some("node-7"));
        assert_eq!(host_of("node"), None);
        assert_eq!(attempt_of("epoch-00012.attempt-3.safetensors.tmp"), Some(3));
        assert_eq!(attempt_of("epoch-00012"), None);
    }

    #[tokio::test]
    async fn only_the_trainers_of_dead_workers_are_ended() {
        use crate::processes::tests::Sleeper;
        let dir = tempfile::tempdir().unwrap();
        let work_dir = WorkDir::open(dir.path()).unwrap();
        let (dead, live) = ("orphan-host-1-dead", "orphan-host-2-live");
        drop(fs::File::create(dir.path().join("workers").join(dead)).unwrap());
        let registration = work_dir.register(live).unwrap();
        let mut orphan = Sleeper::start(&format!("{dead}/0/1"));
        let mut child = Sleeper::start(&format!("{live}/0/1"));
        // the environment shows a moment after exec
        for worker in [dead, live] {
            while Family::of_worker(worker).members().unwrap().is_empty() {
                std::thread::yield_now();
            }
        }
        work_dir.end_orphans("orphan-host").await.unwrap();
        assert!(orphan.0.wait().unwrap().code().is_none(), "it was ended by a signal");
        assert!(child.0.try_wait().unwrap().is_none(), "the live worker's trainer goes on");
        assert!(!dir.path().join("workers").join(dead).exists());
        drop(registration);
        assert!(!dir.path().join("workers").join(live).exists());
    }
}
