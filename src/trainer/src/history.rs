//! The state hash of every epoch that any attempt at a trial has trained, so that an attempt that departs from the one
//! before it is noticed: an epoch after the last checkpoint is trained again and must come out the same (promise P6).
//!
//! A file per attempt beside the checkpoints, `chain.attempt-3`, a line per epoch. It is evidence, not state: nothing is
//! synced, and what cannot be written or read is only not compared. Next: leader.rs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use sweep::AttemptNo;

const STEM: &str = "chain.attempt-";
/// Hexadecimal digits of a state hash; a shorter last line was cut off by a crash.
const DIGITS: usize = 16;

pub struct History {
    earlier: BTreeMap<u32, String>,
    file: Option<File>,
}

impl History {
    /// What earlier attempts at the same training noted in the folder of a trial's checkpoints. `attempts` begins with the
    /// first of them and ends before the present one.
    pub fn open(folder: &Path, attempts: Range<AttemptNo>) -> Self {
        let own = folder.join(format!("{STEM}{}", attempts.end));
        let opened =
            fs::create_dir_all(folder).and_then(|()| Ok((read_earlier(folder, attempts)?, File::create(own)?)));
        match opened {
            Ok((earlier, file)) => Self { earlier, file: Some(file) },
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "epochs are not compared with earlier attempts");
                Self { earlier: BTreeMap::new(), file: None }
            }
        }
    }

    /// Notes an epoch (from 0). False: an earlier attempt had another state after it.
    pub fn note(&mut self, epoch: u32, state_hash: &str) -> bool {
        let written =
            self.file.as_mut().map_or(Ok(()), |file| file.write_all(format!("{epoch} {state_hash}\n").as_bytes()));
        if let Err(error) = written {
            tracing::warn!(%error, "epochs are not noted any more");
            self.file = None;
        }
        self.earlier.get(&epoch).is_none_or(|earlier| earlier == state_hash)
    }
}

/// Of attempts that differ among themselves the newest one counts: it is the one that is gone on from.
fn read_earlier(folder: &Path, earlier: Range<AttemptNo>) -> io::Result<BTreeMap<u32, String>> {
    let mut attempts = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(number) = name.strip_prefix(STEM).and_then(|number| number.parse::<u32>().ok())
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
        let mut first = History::open(&folder, AttemptNo(1)..AttemptNo(1));
        assert!([(0, A), (1, B), (2, A)].iter().all(|(epoch, hash)| first.note(*epoch, hash)));
        let mut second = History::open(&folder, AttemptNo(1)..AttemptNo(2));
        assert!(second.note(1, B));
        assert!(!second.note(2, B));
        assert!(second.note(3, A));
        // what the second attempt made of epoch 2 counts now; its own and later attempts' files do not
        let mut third = History::open(&folder, AttemptNo(1)..AttemptNo(3));
        assert!(third.note(2, B) && third.note(0, A));
        assert!(History::open(&folder, AttemptNo(1)..AttemptNo(1)).note(0, B));
    }

    #[test]
    fn damaged_lines_and_foreign_files_are_passed_over() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("chain.attempt-1"), format!("0 {A}\n\u{fffd} x\n9999999999 {A}\n1 bbbb")).unwrap();
        fs::write(place.path().join("chain.attempt-x"), "0 cccccccccccccccc\n").unwrap();
        let mut history = History::open(place.path(), AttemptNo(1)..AttemptNo(2));
        assert!(history.note(0, A) && history.note(1, B));
        fs::write(place.path().join("file"), "").unwrap();
        assert!(History::open(&place.path().join("file"), AttemptNo(1)..AttemptNo(1)).note(0, A));
    }
}
