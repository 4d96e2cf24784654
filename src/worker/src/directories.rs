//! Checks the directories of a worker before anything starts: a user sees at the command line what
//! cannot be written, and no trial fails for it.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Size of the test file: a trainer cannot work with less free space than this.
const PROBE_BYTES: usize = 1 << 20;

const WORK: (&str, &str) = (
    "work directory",
    "--work-dir (`run` keeps it in --state-dir)",
);
const CACHE: (&str, &str) = ("cache directory", "--cache-dir");
const DATA: (&str, &str) = ("data directory", "--data-dir");

pub fn check(work_dir: &Path, cache_dir: &Path, data_dir: &Path) -> Result<(), Error> {
    // settings and logs of trials are for the owner alone
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(work_dir);
    made.and_then(|()| probe(work_dir))
        .map_err(unusable(WORK, work_dir))?;
    match probe(cache_dir) {
        // decoded data sets can still be used; for others, an error is reported when they are
        // requested
        Err(error) if holds_caches(cache_dir) => {
            let path = cache_dir.display();
            tracing::warn!(%path, %error, "the cache directory cannot be written: only data sets decoded there are usable");
        }
        probed => probed.map_err(unusable(CACHE, cache_dir))?,
    }
    match fs::read_dir(data_dir) {
        // some data sets are built in
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(unusable(DATA, data_dir)(error))
        }
        _ => Ok(()),
    }
}

fn unusable(
    (name, flag): (&'static str, &'static str),
    path: &Path,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Directory {
        name,
        flag,
        path,
        source,
    }
}

/// Makes the directory where it is missing, and writes a file there.
fn probe(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let (path, mut file) = create_temporary(dir)?;
    let written = write(&mut file);
    fs::remove_file(&path)?;
    written
}

/// Creates a file with a name that no other process on any host has chosen. Never follows a link
/// that another user has put there.
pub fn create_temporary(dir: &Path) -> io::Result<(PathBuf, File)> {
    let path = dir.join(format!(
        ".probe-{:016x}",
        RandomState::new().build_hasher().finish()
    ));
    let file = File::create_new(&path)?;
    Ok((path, file))
}

fn write(file: &mut File) -> io::Result<()> {
    file.write_all(&vec![0; PROBE_BYTES])?;
    // quotas and network file systems may report an error only now
    file.sync_all()
}

fn holds_caches(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        path.extension()
            .is_some_and(|extension| extension == "images")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_named_with_the_flag_that_chooses_another() {
        let place = tempfile::tempdir().unwrap();
        let (good, file) = (place.path().join("good"), place.path().join("file"));
        fs::write(&file, "in the way").unwrap();
        assert!(check(&good, &good, &place.path().join("no data")).is_ok());
        assert_eq!(
            fs::read_dir(&good).unwrap().count(),
            0,
            "nothing is left of the look"
        );
        let below = file.join("below");
        for (work, cache, data, flag) in [
            (&below, &good, &good, "--work-dir"),
            (&good, &below, &good, "--cache-dir"),
            (&good, &good, &file, "--data-dir"),
        ] {
            let error = check(work, cache, data).unwrap_err().to_string();
            assert!(error.contains(flag) && error.contains("file"), "{error}");
        }
    }
}
