//! The default directory of decoded data sets, without --cache-dir: private to this user. Without a
//! home it is in the folder for temporary files, where another user could have created a directory
//! of that name before.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

use crate::exit::ExpectedError;

const NAME: &str = "orchestrator";

pub fn default() -> Result<PathBuf, ExpectedError> {
    let uid = Uid::current();
    let from_passwd = || User::from_uid(uid).ok().flatten().map(|user| user.dir);
    if let Some(dir) = in_home(|variable| std::env::var_os(variable), from_passwd) {
        return Ok(dir);
    }
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

/// `$XDG_CACHE_HOME/orchestrator`, else `.cache/orchestrator` in the home directory from the
/// environment or else from the password file. A missing home directory and `/`, which services
/// have, do not count.
fn in_home(
    variable: impl Fn(&str) -> Option<OsString>,
    from_passwd: impl FnOnce() -> Option<PathBuf>,
) -> Option<PathBuf> {
    let absolute = |name: &str| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    if let Some(caches) = absolute("XDG_CACHE_HOME") {
        return Some(caches.join(NAME));
    }
    let is_home = |home: &PathBuf| home.is_dir() && home.parent().is_some();
    let home = absolute("HOME")
        .filter(is_home)
        .or_else(|| from_passwd().filter(is_home))?;
    Some(home.join(".cache").join(NAME))
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
    fn a_home_is_looked_for_in_the_environment_and_then_among_the_users() {
        let place = tempfile::tempdir().unwrap();
        let home = place.path();
        let found = |xdg: &str, variable: &str, passwd: Option<&Path>| {
            let value = |name: &str| {
                let value = if name == "XDG_CACHE_HOME" {
                    xdg
                } else {
                    variable
                };
                (!value.is_empty()).then(|| OsString::from(value))
            };
            in_home(value, || passwd.map(Path::to_owned))
        };
        let expected = Some(home.join(".cache/orchestrator"));
        assert_eq!(
            found("/caches", "/nonexistent", None),
            Some("/caches/orchestrator".into())
        );
        assert_eq!(found("relative", home.to_str().unwrap(), None), expected);
        assert_eq!(found("", "", Some(home)), expected);
        assert_eq!(found("", "/nonexistent", Some(home)), expected);
        assert_eq!(found("", "/", Some(Path::new("/nonexistent"))), None);
    }

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
