//! The work directory: checkpoints per trial, stderr per attempt, and a lock per live worker.
//!
//! Several workers may share one. No file in it is authoritative: a result that was not
//! acknowledged dies with its worker. The checkpoint of its last epoch gives the same result again
//! in the time of one evaluation, and a file of results would only be a second, weaker journal.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::{Flock, FlockArg, OFlag};
use protocol::DiskUse;
use protocol::limits::MAX_SEEN;
use schedule::state::Millis;
use sweep::{AttemptId, AttemptNo, TrialId};

use crate::directories::create_temporary;
use crate::origin::Origin;
use crate::processes::Family;

#[derive(Clone, Debug)]
pub struct WorkDir(PathBuf);

/// The lock file of a worker, held for the life of the worker and removed with it.
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
    /// Opens the directory, and creates it if it is missing.
    pub fn open(path: &Path) -> io::Result<Self> {
        // trainers receive this path and may have another working directory
        let path = std::path::absolute(path)?;
        // settings and logs of trials are private to the owner
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        for part in ["checkpoints", "logs", "workers"] {
            private.create(path.join(part))?;
        }
        Ok(Self(path))
    }

    pub fn checkpoint_dir(&self, trial: TrialId) -> PathBuf {
        self.0.join("checkpoints").join(trial.to_string())
    }

    pub fn log_file(&self, attempt: AttemptId) -> PathBuf {
        self.log_dir(attempt.trial)
            .join(format!("attempt-{}.stderr", attempt.number))
    }

    fn log_dir(&self, trial: TrialId) -> PathBuf {
        self.0.join("logs").join(trial.to_string())
    }

    /// Registers this worker as alive, so that a later worker can detect its death. The file is
    /// locked before it gets its name: no other process finds it unlocked.
    pub fn register(&self, worker: &str) -> io::Result<Registration> {
        let (path, unnamed) = (
            self.0.join("workers").join(worker),
            self.0.join("workers").join(format!(".{worker}")),
        );
        let file = File::create_new(&unnamed)?;
        serde_json::to_writer(&file, &Origin::of_this_process(&file)?)?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, error)| io::Error::from(error))?;
        fs::rename(&unnamed, &path)?;
        Ok(Registration { path, _lock: lock })
    }

    /// Kills processes that dead workers of this host have left. A worker that dies takes its
    /// trainers with it, but one that was killed cannot prove it. If the file is a copy from
    /// another work directory, or older than the last boot, it proves nothing about processes, and
    /// only the file is removed.
    pub async fn end_orphans(&self, host: &str) -> io::Result<()> {
        for entry in fs::read_dir(self.0.join("workers"))? {
            let entry = entry?;
            let Ok(worker) = entry.file_name().into_string() else {
                continue;
            };
            if host_of(&worker) != Some(host) {
                continue;
            }
            let opened = OpenOptions::new()
                .read(true)
                .custom_flags(OFlag::O_NOFOLLOW.bits())
                .open(entry.path());
            let Ok(file) = opened else { continue };
            let Ok(mut dead) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
                continue;
            };
            let is_its_own = match Origin::read(&mut dead) {
                Some(origin) if origin.is_running() => continue,
                origin => origin.is_some_and(|origin| origin.is_of(&dead)),
            };
            let family = Family::of_worker(&worker);
            let orphans = if is_its_own {
                family.members()?
            } else {
                Vec::new()
            };
            if !orphans.is_empty() {
                tracing::warn!(
                    worker,
                    ?orphans,
                    "ending processes that a dead worker left running"
                );
                family.kill().await;
            }
            fs::remove_file(entry.path())?;
        }
        Ok(())
    }

    /// Removes the checkpoints of an attempt and of those before it. A later attempt, if this
    /// request arrived too late, keeps its own.
    pub fn remove_checkpoints(&self, attempt: AttemptId) -> io::Result<()> {
        remove_up_to(&self.checkpoint_dir(attempt.trial), attempt.number)
    }

    /// Removes the stderr files of the same attempts.
    pub fn remove_logs(&self, attempt: AttemptId) -> io::Result<()> {
        remove_up_to(&self.log_dir(attempt.trial), attempt.number)
    }

    /// Measures the disk use of all trials and of those that run here, and lists other trials with
    /// files: a different part of a long list each round. Removes nothing.
    pub fn survey(&self, held: &BTreeSet<TrialId>, round: u64) -> DiskUse {
        let mut disk = DiskUse::default();
        let mut seen = BTreeSet::new();
        for part in ["checkpoints", "logs"] {
            let Ok(entries) = fs::read_dir(self.0.join(part)) else {
                continue;
            };
            for entry in entries.flatten() {
                let Some(trial) = entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse::<TrialId>().ok())
                else {
                    continue;
                };
                let (bytes, _) = size_and_time(&entry.path());
                disk.work_dir_bytes += bytes;
                if !held.contains(&trial) {
                    seen.insert(trial);
                } else if part == "checkpoints" {
                    disk.checkpoint_bytes += bytes;
                }
            }
        }
        let parts = seen.len().div_ceil(MAX_SEEN).max(1);
        disk.seen = seen
            .into_iter()
            .skip(round as usize % parts * MAX_SEEN)
            .take(MAX_SEEN)
            .collect();
        disk
    }

    /// Removes the files of trials that the coordinator does not know, if they have not changed for
    /// long: their own coordinator may not exist any more. Their age is measured by the file
    /// system's clock, which also set their times. If that clock differs from the coordinator's,
    /// one of the two is wrong and nothing is removed.
    pub fn remove_abandoned(&self, unknown: &[TrialId], coordinator_ms: Millis) {
        if unknown.is_empty() {
            return;
        }
        let now = match self.file_system_time() {
            Ok(now) => now,
            Err(error) => {
                return tracing::warn!(%error, "the age of files is not known; nothing is removed");
            }
        };
        let coordinator = UNIX_EPOCH + Duration::from_millis(coordinator_ms);
        let apart = now
            .duration_since(coordinator)
            .unwrap_or_else(|error| error.duration());
        if apart > CLOCKS_AGREE {
            let hours = apart.as_secs() / 3600;
            tracing::warn!(
                hours,
                "the work directory's clock differs from the coordinator's; nothing is removed"
            );
            return;
        }
        for (trial, part) in unknown
            .iter()
            .flat_map(|trial| ["checkpoints", "logs"].map(|part| (trial, part)))
        {
            let folder = self.0.join(part).join(trial.to_string());
            let age = size_and_time(&folder)
                .1
                .and_then(|changed| now.duration_since(changed).ok());
            if age.is_some_and(|age| age > ABANDONED) {
                tracing::info!(%trial, part, "removing files that have not changed for 30 days");
                let _ = fs::remove_dir_all(folder);
            }
        }
    }

    /// The present time of the file system: on a network that is the server's.
    fn file_system_time(&self) -> io::Result<SystemTime> {
        let (path, mut file) = create_temporary(&self.0)?;
        let time = file
            .write_all(b"now")
            .and_then(|()| file.sync_all())
            .and_then(|()| file.metadata()?.modified());
        fs::remove_file(&path)?;
        time
    }
}

/// The age of abandoned files. The coordinator of a known trial has its files removed long before.
const ABANDONED: Duration = Duration::from_secs(30 * 24 * 3600);
/// The largest difference of two clocks that are believed.
const CLOCKS_AGREE: Duration = Duration::from_secs(24 * 3600);

/// The bytes in a folder, and the time of the last change in it.
fn size_and_time(folder: &Path) -> (u64, Option<SystemTime>) {
    let of_folder = fs::metadata(folder).ok();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let files: Vec<_> = entries.filter_map(|entry| entry.metadata().ok()).collect();
    let bytes = files.iter().map(fs::Metadata::len).sum();
    let changed = files
        .iter()
        .chain(&of_folder)
        .filter_map(|metadata| metadata.modified().ok())
        .max();
    (bytes, changed)
}

fn remove_up_to(dir: &Path, attempt: AttemptNo) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let of_later = entry
            .file_name()
            .to_str()
            .and_then(attempt_of)
            .is_some_and(|number| number > attempt.0);
        if !of_later {
            remove_if_there(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        // another worker that shares the directory was faster, or a later attempt has started
        Err(error)
            if ![io::ErrorKind::DirectoryNotEmpty, io::ErrorKind::NotFound]
                .contains(&error.kind()) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// `HOST` of `HOST-PID-RANDOM`.
fn host_of(worker: &str) -> Option<&str> {
    let (rest, _random) = worker.rsplit_once('-')?;
    Some(rest.rsplit_once('-')?.0)
}

/// The number in `epoch-00012.attempt-3.EXTENSION` (see the hand-off) and in `attempt-3.stderr`.
fn attempt_of(name: &str) -> Option<u32> {
    let (_, rest) = name.split_once("attempt-")?;
    let digits = rest
        .split(|character: char| !character.is_ascii_digit())
        .next()?;
    digits.parse().ok()
}

/// Removes a file if it exists: a trainer of a later attempt may prune the same files.
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
        for name in [
            "epoch-00001.attempt-1.ckpt",
            "epoch-00002.attempt-2.ckpt",
            "epoch-00002.attempt-10.ckpt",
            "other",
        ] {
            fs::write(checkpoints.join(name), "12345").unwrap();
        }
        work_dir
            .remove_checkpoints(trial.attempt(AttemptNo(2)))
            .unwrap();
        let left: Vec<_> = fs::read_dir(&checkpoints)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["epoch-00002.attempt-10.ckpt"]);
        work_dir
            .remove_checkpoints(trial.attempt(AttemptNo(10)))
            .unwrap();
        assert!(!checkpoints.exists());
        work_dir
            .remove_checkpoints(trial.attempt(AttemptNo(10)))
            .unwrap();
    }

    #[test]
    fn a_survey_counts_everything_and_asks_about_what_does_not_run_here() {
        let dir = tempfile::tempdir().unwrap();
        let work_dir = WorkDir::open(dir.path()).unwrap();
        let id = |number: u64| -> TrialId { format!("{number:016x}").parse().unwrap() };
        let write = |path: PathBuf, bytes: usize| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![0; bytes]).unwrap();
        };
        for number in 1..=3 {
            write(
                work_dir
                    .checkpoint_dir(id(number))
                    .join("epoch-00001.attempt-1.safetensors"),
                100,
            );
        }
        for attempt in 1..=2 {
            write(work_dir.log_file(id(4).attempt(AttemptNo(attempt))), 10);
        }
        let disk = work_dir.survey(&BTreeSet::from([id(1)]), 0);
        assert_eq!(
            disk,
            DiskUse {
                checkpoint_bytes: 100,
                work_dir_bytes: 320,
                seen: vec![id(2), id(3), id(4)]
            }
        );
        work_dir.remove_logs(id(4).attempt(AttemptNo(1))).unwrap();
        assert!(
            work_dir.log_file(id(4).attempt(AttemptNo(2))).exists(),
            "a later attempt keeps its log"
        );
        work_dir.remove_logs(id(4).attempt(AttemptNo(2))).unwrap();
        assert_eq!(
            work_dir.survey(&BTreeSet::new(), 0).seen,
            [id(1), id(2), id(3)]
        );
    }

    fn millis(time: SystemTime) -> Millis {
        time.duration_since(UNIX_EPOCH).unwrap().as_millis() as Millis
    }

    #[test]
    fn only_old_files_of_unknown_trials_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let work_dir = WorkDir::open(dir.path()).unwrap();
        let ids: Vec<TrialId> = (1..=3)
            .map(|number| format!("{number:016x}").parse().unwrap())
            .collect();
        let long_ago = SystemTime::now() - ABANDONED - Duration::from_secs(60);
        for (index, trial) in ids.iter().enumerate() {
            let folder = work_dir.checkpoint_dir(*trial);
            fs::create_dir(&folder).unwrap();
            let file = File::create(folder.join("epoch-00001.attempt-1.safetensors")).unwrap();
            // the last trial has an old file in a new folder: something was removed from it lately
            file.set_modified(long_ago).unwrap();
            if index < 2 {
                File::open(&folder).unwrap().set_modified(long_ago).unwrap();
            }
        }
        let exist = || {
            ids.iter()
                .map(|id| work_dir.checkpoint_dir(*id).exists())
                .collect::<Vec<_>>()
        };
        assert_eq!(work_dir.survey(&BTreeSet::new(), 0).seen, ids);
        // the machine's clock is 30 days ahead, so every file looks old
        work_dir.remove_abandoned(&ids, millis(long_ago));
        assert_eq!(exist(), [true, true, true]);
        // the first trial belongs to another worker, and the coordinator knows it
        work_dir.remove_abandoned(&ids[1..], millis(SystemTime::now()));
        assert_eq!(exist(), [true, false, true]);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            3,
            "nothing is left of the look at the clock"
        );
    }

    #[test]
    fn a_long_list_is_asked_about_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let work_dir = WorkDir::open(dir.path()).unwrap();
        for number in 0..MAX_SEEN + 1 {
            fs::create_dir(dir.path().join("logs").join(format!("{number:016x}"))).unwrap();
        }
        let asked = |round| work_dir.survey(&BTreeSet::new(), round).seen.len();
        assert_eq!([asked(0), asked(1), asked(2)], [MAX_SEEN, 1, MAX_SEEN]);
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
        // the whole machine is searched for processes, so no other run of this test may use these
        // names
        let host = format!("orphans-of-{}", std::process::id());
        let (dead, live) = (&format!("{host}-1-dead"), &format!("{host}-2-live"));
        let file = fs::File::create(dir.path().join("workers").join(dead)).unwrap();
        serde_json::to_writer(&file, &Origin::of_dead_process(&file)).unwrap();
        drop(file);
        let registration = work_dir.register(live).unwrap();
        let mut orphan = Sleeper::start(&format!("{dead}/0/1"));
        let mut child = Sleeper::start(&format!("{live}/0/1"));
        // the environment is visible a moment after exec
        for worker in [dead, live] {
            while Family::of_worker(worker).members().unwrap().is_empty() {
                std::thread::yield_now();
            }
        }
        work_dir.end_orphans(&host).await.unwrap();
        assert!(
            orphan.0.wait().unwrap().code().is_none(),
            "it was ended by a signal"
        );
        assert!(
            child.0.try_wait().unwrap().is_none(),
            "the live worker's trainer keeps running"
        );
        assert!(!dir.path().join("workers").join(dead).exists());
        drop(registration);
        assert!(!dir.path().join("workers").join(live).exists());
    }

    /// A directory that was copied while its workers run: the copied files exist, and no process
    /// locks them.
    #[tokio::test]
    async fn a_copied_work_directory_does_not_end_the_trainers_of_the_original() {
        use crate::processes::tests::Sleeper;
        let (original, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let host = format!("copied-from-{}", std::process::id());
        let (live, dead) = (&format!("{host}-1-live"), &format!("{host}-2-dead"));
        let registration = WorkDir::open(original.path())
            .unwrap()
            .register(live)
            .unwrap();
        let of_dead = original.path().join("workers").join(dead);
        let file = fs::File::create(&of_dead).unwrap();
        serde_json::to_writer(&file, &Origin::of_dead_process(&file)).unwrap();
        let copied = WorkDir::open(copy.path()).unwrap();
        let place = |worker: &str| copy.path().join("workers").join(worker);
        fs::copy(original.path().join("workers").join(live), place(live)).unwrap();
        fs::copy(&of_dead, place(dead)).unwrap();
        // as written by versions without registered workers
        let older = &format!("{host}-3-older");
        fs::write(place(older), "").unwrap();
        let mut trainers =
            [live, dead, older].map(|worker| Sleeper::start(&format!("{worker}/0/1")));
        for worker in [live, dead, older] {
            while Family::of_worker(worker).members().unwrap().is_empty() {
                std::thread::yield_now();
            }
        }
        copied.end_orphans(&host).await.unwrap();
        for trainer in &mut trainers {
            assert!(
                trainer.0.try_wait().unwrap().is_none(),
                "it is not the copy's to end"
            );
        }
        assert!(!place(dead).exists() && !place(older).exists());
        drop(registration);
    }
}
