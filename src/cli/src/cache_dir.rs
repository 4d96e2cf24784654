//! The default directory of decoded data sets, without --cache-dir: private to this user. Without a
//! home it is in the folder for temporary files, where another user could have created a directory
//! of that name before.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use crate::exit::ExpectedError;
use crate::home_folders;

const NAME: &str = "orchestrator";

pub fn default() -> Result<PathBuf, ExpectedError> {
    if let Some(dir) = home_folders::cache() {
        return Ok(dir);
    }
    let uid = Uid::current();
    let dir = std::env::temp_dir().join(format!("{NAME}-{uid}"));
    private(&dir, uid.as_raw()).map_err(|reason| ExpectedError::Infrastructure {
        what: "no cache directory",
        reason: format!(
            "there is no home directory, and {} {reason}: choose one with --cache-dir",
            dir.display()
        ),
    })?;
    Ok(dir)
}

/// Creates the directory with mode 0700, or accepts one of this user that no other user can enter.
/// The error is a fragment.
fn private(dir: &Path, uid: u32) -> Result<(), String> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(format!("cannot be made ({error})"));
        }
        _ => {}
    }
    let found = dir
        .symlink_metadata()
        .map_err(|error| format!("cannot be looked at ({error})"))?;
    let mode = found.permissions().mode() & 0o7777;
    if !found.is_dir() {
        Err("is not a directory".to_owned())
    } else if found.uid() != uid {
        Err(format!("belongs to user {}", found.uid()))
    } else if mode & 0o077 != 0 {
        Err(format!("has mode {mode:04o}, so others can use it"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn a_directory_among_temporary_files_must_be_this_users_alone() {
        let place = tempfile::tempdir().unwrap();
        let (dir, uid) = (place.path().join("orchestrator-7"), Uid::current().as_raw());
        private(&dir, uid).unwrap();
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        private(&dir, uid).unwrap();
        assert!(
            private(&dir, uid + 1)
                .unwrap_err()
                .contains(&format!("belongs to user {uid}"))
        );
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        assert!(private(&dir, uid).unwrap_err().contains("0755"));
        let link = place.path().join("link");
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        assert_eq!(private(&link, uid).unwrap_err(), "is not a directory");
    }
}
