//! The place of a journal: its files, the lock that keeps a second coordinator out, and the file
//! system below.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::head_file::HeadRecord;

pub(crate) const FILE: &str = "journal.sqlite";
pub(crate) const LOCK: &str = "journal.lock";
/// Suffixes of SQLite's side files: its write-ahead log, the index of that log, and its rollback
/// journal.
pub(crate) const SIDE_SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// The way in which SQLite makes transactions durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A write-ahead log: one sync per transaction; readers do not wait.
    WriteAheadLog,
    /// For network file systems, which cannot share the log's memory map between hosts or
    /// processes.
    RollbackJournal,
}

/// Creates the directory if it is missing, for its owner alone.
pub(crate) fn create(directory: &Path) -> Result<(), Error> {
    let result = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .and_then(|()| {
            if fs::metadata(directory)?.is_dir() {
                Ok(())
            } else {
                Err(io::ErrorKind::NotADirectory.into())
            }
        });
    result.map_err(|source| Error::Directory {
        path: directory.to_path_buf(),
        source,
    })
}

/// Returns the path of one of SQLite's side files.
pub(crate) fn side_file(directory: &Path, end: &str) -> PathBuf {
    directory.join(format!("{FILE}{end}"))
}

/// Returns true if a journal may begin here: its file is missing or empty, and nothing shows that
/// it ever held an event.
pub(crate) fn is_fresh(directory: &Path, record: Option<HeadRecord>) -> Result<bool, Error> {
    let length = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
    let path = directory.join(FILE);
    if length(&path) > 0 {
        return Ok(false);
    }
    let state = if path.exists() {
        "is empty"
    } else {
        "is missing"
    };
    let evidence = match record {
        Some(record) if record.head.number > 0 => {
            Some(format!("{} events were stored in it", record.head.number))
        }
        // Nothing was ever acknowledged.
        Some(_) => None,
        None => SIDE_SUFFIXES
            .iter()
            .map(|end| side_file(directory, end))
            .find(|side| length(side) > 0)
            .map(|side| {
                format!(
                    "{} bytes of events or of a rollback are in {}",
                    length(&side),
                    side.display()
                )
            }),
    };
    match evidence {
        Some(evidence) => Err(Error::Gone {
            path,
            reason: format!("{state}, but {evidence}"),
        }),
        None => Ok(true),
    }
}

/// Creates the journal's file, for its owner alone; SQLite gives its side files the same mode.
pub(crate) fn create_journal(directory: &Path) -> Result<(), Error> {
    let made = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(FILE));
    made.map(drop).map_err(|source| Error::Directory {
        path: directory.to_path_buf(),
        source,
    })
}

/// A lock that keeps every other coordinator out until it is dropped. The system releases it
/// however the process ends.
pub(crate) struct Lock(File);

impl Drop for Lock {
    /// Unlocks explicitly: closing the file is not enough, because a child process shares it until
    /// its exec.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

pub(crate) fn lock(directory: &Path) -> Result<Lock, Error> {
    let path = directory.join(LOCK);
    let fail = |source| Error::Directory {
        path: directory.to_path_buf(),
        source,
    };
    let mut options = File::options();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let mut file = options.open(&path).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            return Err(Error::Locked {
                path: directory.to_path_buf(),
                holder: describe(&holder),
            });
        }
        Err(TryLockError::Error(source)) => return Err(fail(source)),
    }
    let host = gethostname::gethostname();
    let host = host.to_string_lossy();
    // The name is only for the message to other coordinators: on a full disk the lock holds without
    // it.
    let _ = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "process {} on host {host}", std::process::id()))
        .and_then(|()| file.flush());
    Ok(Lock(file))
}

fn describe(holder: &str) -> String {
    match holder.trim() {
        "" => "a process that did not leave its name".to_owned(),
        holder => holder.to_owned(),
    }
}

/// Syncs the directory, because the file's name has to survive a power loss, too.
pub(crate) fn sync(directory: &Path) -> Result<(), Error> {
    let result = File::open(directory).and_then(|file| file.sync_all());
    result.map_err(|source| Error::Directory {
        path: directory.to_path_buf(),
        source,
    })
}

pub(crate) fn mode_for(directory: &Path) -> Mode {
    match nix::sys::statfs::statfs(directory) {
        Ok(found) => mode_of(found.filesystem_type().0 as u64),
        Err(_) => Mode::WriteAheadLog,
    }
}

/// Returns the mode by the magic number of statfs(2), from linux/magic.h and the file systems' own
/// sources.
fn mode_of(magic: u64) -> Mode {
    const NETWORK: &[u64] = &[
        0x6969,      // NFS
        0x517b,      // SMB
        0xff53_4d42, // CIFS
        0xfe53_4d42, // SMB2
        0x0bd0_0bd0, // Lustre
        0x4750_4653, // GPFS
        0x00c3_6400, // Ceph
        0x1983_0326, // BeeGFS
        0x5346_414f, // AFS
        0x7375_7245, // Coda
        0x0102_1997, // 9P
        0x0116_1970, // GFS2
        0x7461_636f, // OCFS2
        0xaad7_aaea, // PanFS
        0x2003_0528, // OrangeFS
        0x6573_5546, // FUSE: sshfs, GlusterFS and many others, of which none can be trusted with a shared map
    ];
    // The type is signed on some machines.
    if NETWORK.contains(&(magic & 0xffff_ffff)) {
        Mode::RollbackJournal
    } else {
        Mode::WriteAheadLog
    }
}

/// Returns the bytes on disk, including SQLite's side files.
pub(crate) fn bytes(directory: &Path) -> u64 {
    let files = [
        directory.join(FILE),
        side_file(directory, "-wal"),
        side_file(directory, "-journal"),
    ];
    files
        .iter()
        .filter_map(|file| fs::metadata(file).ok())
        .map(|found| found.len())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_ends_with_its_holder_though_a_child_being_started_still_shares_the_file() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let held = lock(directory.path()).expect("it is free");
        let shared = held.0.try_clone().expect("a descriptor is free");
        assert!(matches!(lock(directory.path()), Err(Error::Locked { .. })));
        drop(held);
        assert!(lock(directory.path()).is_ok());
        drop(shared);
    }

    #[test]
    fn network_file_systems_get_the_rollback_journal() {
        assert_eq!(mode_of(0x6969), Mode::RollbackJournal);
        assert_eq!(mode_of(0xff53_4d42), Mode::RollbackJournal);
        assert_eq!(mode_of(0xffff_ffff_ff53_4d42), Mode::RollbackJournal);
        // ext4, tmpfs, overlayfs
        for local in [0xef53, 0x0102_1994, 0x794c_7630] {
            assert_eq!(mode_of(local), Mode::WriteAheadLog);
        }
    }

    /// The process ended between the head file and the journal: nothing was stored yet.
    #[test]
    fn a_head_file_without_events_keeps_no_journal_from_beginning() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let none = HeadRecord::default();
        assert!(is_fresh(directory.path(), Some(none)).expect("nothing is missing"));
        assert!(is_fresh(directory.path(), None).expect("nothing is missing"));
        let mut one = none;
        one.head.number = 1;
        assert!(matches!(
            is_fresh(directory.path(), Some(one)),
            Err(Error::Gone { .. })
        ));
        std::fs::write(side_file(directory.path(), "-wal"), "x").expect("there is room");
        assert!(matches!(
            is_fresh(directory.path(), None),
            Err(Error::Gone { .. })
        ));
    }

    #[test]
    fn bytes_are_those_of_the_journal_and_its_logs() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(bytes(directory.path()), 0);
        for (name, content) in [
            (FILE, "12345"),
            ("journal.sqlite-wal", "123"),
            ("journal.sqlite-journal", "12"),
            ("journal.sqlite-shm", "1234567"),
        ] {
            std::fs::write(directory.path().join(name), content).expect("there is room");
        }
        assert_eq!(bytes(directory.path()), 10, "the index is no content");
    }
}
