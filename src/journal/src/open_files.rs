//! Finds files that are removed, moved or replaced under a running journal. SQLite would continue
//! to write to the open files, and everything would be lost when the process ends.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::Connection;

use crate::error::Error;
use crate::head_file::{self, HeadFile, HeadRecord};
use crate::state_dir::{self, Mode};

/// The files that a running journal has open, as they were in its directory.
pub(crate) struct OpenFiles(Vec<OpenFile>);

struct OpenFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// True for a file that SQLite removes when it closes the journal.
    goes_with_connection: bool,
}

impl OpenFiles {
    pub(crate) fn of(directory: &Path, mode: Mode) -> Result<Self, Error> {
        let kept = [state_dir::FILE, head_file::FILE, state_dir::LOCK]
            .map(|name| (directory.join(name), false));
        let log =
            (mode == Mode::WriteAheadLog).then(|| (state_dir::side_file(directory, "-wal"), true));
        let files = kept
            .into_iter()
            .chain(log)
            .map(|(path, goes_with_connection)| {
                let found = fs::metadata(&path)?;
                Ok(OpenFile {
                    path,
                    device: found.dev(),
                    inode: found.ino(),
                    goes_with_connection,
                })
            });
        let files: io::Result<Vec<_>> = files.collect();
        files.map(Self).map_err(|source| Error::Directory {
            path: directory.to_path_buf(),
            source,
        })
    }

    /// Returns the first file that is no longer where it was opened, and what happened to it.
    pub(crate) fn lost(&self, is_connected: bool) -> Option<String> {
        let expected = self
            .0
            .iter()
            .filter(|file| is_connected || !file.goes_with_connection);
        expected
            .into_iter()
            .find_map(|file| match fs::metadata(&file.path) {
                Ok(found) if (found.dev(), found.ino()) == (file.device, file.inode) => None,
                Ok(_) => Some(format!(
                    "{} was replaced by another file",
                    file.path.display()
                )),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    Some(format!("{} was removed or moved", file.path.display()))
                }
                // The cause is unknown; if the files cannot be used, the append will fail.
                Err(_) => None,
            })
    }
}

/// Writes a state directory with everything that the connection still holds, beside the lost one or
/// among the temporary files. Returns a message with its path.
pub(crate) fn save(
    directory: &Path,
    connection: Option<&Connection>,
    record: HeadRecord,
) -> String {
    let Some(connection) = connection else {
        return "no copy could be saved, because the file was not open any more".to_owned();
    };
    let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_path_buf());
    let name = directory
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    let name = format!("{name}-saved-{now}-{}", std::process::id());
    let beside = directory.parent().map(|parent| parent.join(&name));
    let mut reasons = Vec::new();
    for target in beside.into_iter().chain([std::env::temp_dir().join(&name)]) {
        match save_in(&target, connection, record) {
            Ok(()) => {
                return format!(
                    "a copy of the journal was saved: start the coordinator again with --state-dir {}",
                    target.display()
                );
            }
            Err(reason) => reasons.push(reason),
        }
    }
    format!("no copy could be saved: {}", reasons.join("; "))
}

fn save_in(target: &Path, connection: &Connection, record: HeadRecord) -> Result<(), String> {
    let fail = |error: &dyn std::error::Error| format!("{}: {error}", target.display());
    DirBuilder::new()
        .mode(0o700)
        .create(target)
        .map_err(|error| fail(&error))?;
    state_dir::create_journal(target).map_err(|error| fail(&error))?;
    let file = target.join(state_dir::FILE);
    connection
        .execute("VACUUM INTO ?1", [file.to_string_lossy()])
        .map_err(|error| fail(&error))?;
    File::open(&file)
        .and_then(|file| file.sync_all())
        .map_err(|error| fail(&error))?;
    HeadFile::replace(target, record).map_err(|error| fail(&error))?;
    Ok(())
}
