//! The process and machine that wrote a worker's registration file. This distinguishes a dead
//! worker's own file from a copy of it: a work directory may be copied, restored or moved with the
//! files of its workers while those processes keep running.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

/// More bytes than any valid file has.
const MAX_BYTES: u64 = 4096;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The kernel's id of this boot: processes do not survive a reboot.
    boot: String,
    /// The device number of the file itself.
    device: u64,
    inode: u64,
    pid: u32,
    /// The start time of the process in kernel ticks: process ids are reused.
    started: u64,
}

impl Origin {
    pub fn of_this_process(file: &File) -> io::Result<Self> {
        let pid = std::process::id();
        let started = start_of(pid)
            .ok_or_else(|| io::Error::other("/proc does not show when this process started"))?;
        let metadata = file.metadata()?;
        Ok(Self {
            boot: boot_id()?,
            device: metadata.dev(),
            inode: metadata.ino(),
            pid,
            started,
        })
    }

    /// Reads the file. Returns `None` if another version wrote it, or if it is incomplete.
    pub fn read(file: &mut File) -> Option<Self> {
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Returns true if this is the file that was written, not a copy, and the machine has not
    /// rebooted since.
    pub fn is_of(&self, file: &File) -> bool {
        let is_same_file = file
            .metadata()
            .is_ok_and(|now| (now.dev(), now.ino()) == (self.device, self.inode));
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
        Self {
            started: 0,
            ..Self::of_this_process(file).unwrap()
        }
    }
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// Field 22 of /proc/PID/stat. The name before it may hold any character, so counting starts at the
/// last `)`.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    std::str::from_utf8(&stat[end + 1..])
        .ok()?
        .split_ascii_whitespace()
        .nth(19)?
        .parse()
        .ok()
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
        assert_eq!(
            Origin::read(&mut File::open(&path).unwrap()),
            Some(Origin::of_this_process(&file).unwrap())
        );
        let copy = place.path().join("copy");
        fs::copy(&path, &copy).unwrap();
        assert!(!origin.is_of(&File::open(&copy).unwrap()));
        // the process id was reused, or the machine has rebooted
        assert!(
            !Origin {
                started: origin.started + 1,
                ..Origin::of_this_process(&file).unwrap()
            }
            .is_running()
        );
        let elsewhere = Origin {
            boot: "another".to_owned(),
            ..origin
        };
        assert!(!elsewhere.is_of(&file) && !elsewhere.is_running());
    }
}
