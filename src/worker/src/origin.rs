//! Who wrote the file that registers a worker, and where: what tells a dead worker's own file from a copy of it. A work
//! directory is copied, restored or moved with the files of its workers, while the processes that they name go on.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

/// Longer than any of this form.
const MAX_BYTES: u64 = 4096;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The kernel's id of this boot: processes do not outlive it.
    boot: String,
    /// Of the file itself.
    device: u64,
    inode: u64,
    pid: u32,
    /// When the process started, in the kernel's ticks: ids of processes are used again.
    started: u64,
}

impl Origin {
    pub fn of_this_process(file: &File) -> io::Result<Self> {
        let pid = std::process::id();
        let started = start_of(pid).ok_or_else(|| io::Error::other("/proc does not tell when this process started"))?;
        let metadata = file.metadata()?;
        Ok(Self { boot: boot_id()?, device: metadata.dev(), inode: metadata.ino(), pid, started })
    }

    /// `None`: written by another version, or only half.
    pub fn read(file: &mut File) -> Option<Self> {
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// The file is the one that was written, on a machine that has not been started anew since.
    pub fn is_of(&self, file: &File) -> bool {
        let is_same_file = file.metadata().is_ok_and(|now| (now.dev(), now.ino()) == (self.device, self.inode));
        is_same_file && self.is_of_this_boot()
    }

    pub fn is_running(&self) -> bool {
        self.is_of_this_boot() && start_of(self.pid) == Some(self.started)
    }

    fn is_of_this_boot(&self) -> bool {
        boot_id().is_ok_and(|boot| boot == self.boot)
    }

    #[cfg(test)]
    pub fn of_dead_process(file: &File) -> Self {
        Self { started: 0, ..Self::of_this_process(file).unwrap() }
    }
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Field 22 of /proc/PID/stat; the name before may hold anything, so counting starts at its last `)`.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    std::str::from_utf8(&stat[end + 1..]).ok()?.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_knows_its_writer_and_its_copy_does_not_pass_for_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("worker");
        let mut file = File::create(&path).unwrap();
        let origin = Origin::of_this_process(&file).unwrap();
        serde_json::to_writer(&mut file, &origin).unwrap();
        assert!(origin.is_of(&file) && origin.is_running());
        assert_eq!(Origin::read(&mut File::open(&path).unwrap()), Some(Origin::of_this_process(&file).unwrap()));
        let copy = place.path().join("copy");
        fs::copy(&path, &copy).unwrap();
        assert!(!origin.is_of(&File::open(&copy).unwrap()));
        // the id of the process is used again, or the machine was started anew
        assert!(!Origin { started: origin.started + 1, ..Origin::of_this_process(&file).unwrap() }.is_running());
        let elsewhere = Origin { boot: "another".to_owned(), ..origin };
        assert!(!elsewhere.is_of(&file) && !elsewhere.is_running());
    }
}
