//! The files that a sweep keeps of its trials, copied into `trials/` of its results folder: from a
//! coordinator, or from the state directory of one that does not run.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coordinator::KeptFiles;
use protocol::v1;
use sweep::AttemptId;
use sweep::keep::Kept;

use crate::client::Client;
use crate::exit::ExpectedError;
use crate::offline::Journal;
use crate::results_folder::ResultsFolder;

/// A file in the results folder, and the one that it is a copy of.
struct Copy {
    path: PathBuf,
    bytes: u64,
    stored_at: SystemTime,
}

impl Copy {
    fn new(
        folder: &ResultsFolder,
        (attempt, kept): (AttemptId, Kept),
        bytes: u64,
        stored_at_ms: u64,
    ) -> Option<Self> {
        let folder = folder.path().join("trials").join(attempt.trial.to_string());
        Some(Self {
            path: folder.join(kept.file()?),
            bytes,
            stored_at: UNIX_EPOCH + Duration::from_millis(stored_at_ms),
        })
    }

    /// Returns true if the copy is there. Like the original it was written in one step, and a later
    /// attempt's file has another time.
    fn is_there(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|found| {
            found.len() == self.bytes && found.modified().is_ok_and(|time| time == self.stored_at)
        })
    }

    fn begin(&self) -> io::Result<tempfile::NamedTempFile> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut builder = tempfile::Builder::new();
        builder
            .permissions(fs::Permissions::from_mode(0o666))
            .prefix(".")
            .suffix(".partial");
        builder.tempfile_in(folder)
    }

    fn finish(&self, file: tempfile::NamedTempFile) -> io::Result<()> {
        file.as_file().set_modified(self.stored_at)?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        Ok(())
    }

    fn error(&self) -> impl FnOnce(io::Error) -> ExpectedError + use<> {
        ExpectedError::file("write", self.path.clone())
    }
}

/// Copies what the folder lacks from a coordinator.
pub async fn fetch(
    client: &mut Client,
    sweep: &str,
    folder: &ResultsFolder,
) -> Result<(), ExpectedError> {
    for file in client.kept_files(sweep).await? {
        let v1::KeptFile {
            attempt,
            kept,
            bytes,
            stored_at_ms,
        } = &file;
        // names of a newer coordinator are left out
        let names = (attempt.parse().ok()).zip(Kept::of_word(kept));
        let copy = names.and_then(|names| Copy::new(folder, names, *bytes, *stored_at_ms));
        let Some(copy) = copy.filter(|copy| !copy.is_there()) else {
            continue;
        };
        let mut partial = copy.begin().map_err(copy.error())?;
        client
            .kept_file(&file, |piece| {
                partial.write_all(piece).map_err(copy.error())
            })
            .await?;
        copy.finish(partial).map_err(copy.error())?;
    }
    Ok(())
}

/// Copies what the folder lacks from a state directory.
pub fn copy(journal: &Journal, sweep: &str, folder: &ResultsFolder) -> Result<(), ExpectedError> {
    for file in KeptFiles::of(&journal.state_dir).of_sweep(&journal.state, sweep) {
        let names = (file.attempt, file.kept);
        let copy = Copy::new(folder, names, file.bytes, file.stored_at_ms);
        let Some(copy) = copy.filter(|copy| !copy.is_there()) else {
            continue;
        };
        let mut original =
            File::open(&file.path).map_err(ExpectedError::file("read", &file.path))?;
        let mut partial = copy.begin().map_err(copy.error())?;
        io::copy(&mut original, &mut partial).map_err(copy.error())?;
        copy.finish(partial).map_err(copy.error())?;
    }
    Ok(())
}
