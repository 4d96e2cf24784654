//! The state hashes of every epoch trained by any attempt at a trial, to detect an attempt that
//! deviates from an earlier one: an epoch after the last checkpoint is trained again and must have
//! the same result (promise P6).
//!
//! One file per attempt beside the checkpoints, `chain.attempt-3`, one line per epoch. It is
//! evidence, not state: nothing is synced, and a file that cannot be written or read only goes
//! without comparison. Next: leader.rs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use sweep::AttemptNo;

const STEM: &str = "chain.attempt-";
/// Number of hexadecimal digits of a state hash; a shorter last line was cut off by a crash.
const DIGITS: usize = 16;

pub struct EpochHashes {
    earlier: BTreeMap<u32, String>,
    file: Option<File>,
}

impl EpochHashes {
    /// Opens the hashes in the folder of a trial's checkpoints. `attempts` starts with the first
    /// attempt at the same training and ends before the current one.
    pub fn open(folder: &Path, attempts: Range<AttemptNo>) -> Self {
        let own = folder.join(format!("{STEM}{}", attempts.end));
        let opened = fs::create_dir_all(folder)
            .and_then(|()| Ok((read_earlier(folder, attempts)?, File::create(own)?)));
        match opened {
            Ok((earlier, file)) => Self {
                earlier,
                file: Some(file),
            },
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "epochs are not compared with earlier attempts");
                Self {
                    earlier: BTreeMap::new(),
                    file: None,
                }
            }
        }
    }

    /// Records an epoch (from 0). Returns false if an earlier attempt had a different state after
    /// it.
    pub fn record(&mut self, epoch: u32, state_hash: &str) -> bool {
        let written = self.file.as_mut().map_or(Ok(()), |file| {
            file.write_all(format!("{epoch} {state_hash}\n").as_bytes())
        });
        if let Err(error) = written {
            tracing::warn!(%error, "state hashes are no longer recorded");
            self.file = None;
        }
        self.earlier
            .get(&epoch)
            .is_none_or(|earlier| earlier == state_hash)
    }
}

/// Reads the earlier attempts' hashes. If attempts disagree, the newest counts: training resumed
/// from it.
fn read_earlier(folder: &Path, earlier: Range<AttemptNo>) -> io::Result<BTreeMap<u32, String>> {
    let mut attempts = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if let Some(number) = name
            .strip_prefix(STEM)
            .and_then(|number| number.parse::<u32>().ok())
            && earlier.contains(&AttemptNo(number))
        {
            attempts.push((number, path));
        }
    }
    attempts.sort();
    let mut earlier = BTreeMap::new();
    for (_, path) in attempts {
        let bytes = fs::read(path)?;
        for line in String::from_utf8_lossy(&bytes).lines() {
            if let Some((epoch, hash)) = line.split_once(' ')
                && let Ok(epoch) = epoch.parse()
                && hash.len() == DIGITS
            {
                earlier.insert(epoch, hash.to_owned());
            }
        }
    }
    Ok(earlier)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbb";

    #[test]
    fn an_epoch_that_comes_out_otherwise_is_noticed() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("trial");
        let mut first = EpochHashes::open(&folder, AttemptNo(1)..AttemptNo(1));
        assert!(
            [(0, A), (1, B), (2, A)]
                .iter()
                .all(|(epoch, hash)| first.record(*epoch, hash))
        );
        let mut second = EpochHashes::open(&folder, AttemptNo(1)..AttemptNo(2));
        assert!(second.record(1, B));
        assert!(!second.record(2, B));
        assert!(second.record(3, A));
        // the second attempt's epoch 2 counts; the files of this and later attempts do not
        let mut third = EpochHashes::open(&folder, AttemptNo(1)..AttemptNo(3));
        assert!(third.record(2, B) && third.record(0, A));
        assert!(EpochHashes::open(&folder, AttemptNo(1)..AttemptNo(1)).record(0, B));
    }

    #[test]
    fn damaged_lines_and_foreign_files_are_passed_over() {
        let place = tempfile::tempdir().unwrap();
        fs::write(
            place.path().join("chain.attempt-1"),
            format!("0 {A}\n\u{fffd} x\n9999999999 {A}\n1 bbbb"),
        )
        .unwrap();
        fs::write(place.path().join("chain.attempt-x"), "0 cccccccccccccccc\n").unwrap();
        let mut hashes = EpochHashes::open(place.path(), AttemptNo(1)..AttemptNo(2));
        assert!(hashes.record(0, A) && hashes.record(1, B));
        fs::write(place.path().join("file"), "").unwrap();
        assert!(
            EpochHashes::open(&place.path().join("file"), AttemptNo(1)..AttemptNo(1)).record(0, A)
        );
    }
}
