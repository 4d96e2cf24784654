//! Lock files shared by the users of a folder. A lock is never written to, so one user's files do
//! not lock the others out, and a planted symbolic link has no effect.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Opens a lock file, creating it if missing; it is not locked yet.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    loop {
        match existing(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        match OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
        {
            Ok(file) => {
                // any user with write access to the folder may lock; some network file systems
                // require that for a lock
                let folder = path.parent().map_or(Ok(0), |folder| {
                    Ok::<_, io::Error>(folder.metadata()?.permissions().mode())
                })?;
                file.set_permissions(Permissions::from_mode(0o600 | folder & 0o666))?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

fn existing(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let writable = options.clone().write(true).open(path);
    let file = match writable {
        Err(error)
            if [
                io::ErrorKind::PermissionDenied,
                io::ErrorKind::ReadOnlyFilesystem,
            ]
            .contains(&error.kind()) =>
        {
            options.open(path)?
        }
        opened => opened?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_planted_link_is_refused_and_its_target_untouched() {
        let place = tempfile::tempdir().unwrap();
        let (target, lock) = (place.path().join("target"), place.path().join("x.lock"));
        fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &lock).unwrap();
        assert!(open(&lock).is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
        fs::remove_file(&lock).unwrap();
        std::os::unix::fs::symlink(place.path().join("missing"), &lock).unwrap();
        assert!(open(&lock).is_err() && !place.path().join("missing").exists());
    }

    #[test]
    fn the_lock_of_another_user_can_be_locked_without_the_right_to_write() {
        let place = tempfile::tempdir().unwrap();
        let lock = place.path().join("x.lock");
        fs::write(&lock, "").unwrap();
        fs::set_permissions(&lock, Permissions::from_mode(0o444)).unwrap();
        let mut read_only = OpenOptions::new();
        let file = read_only.read(true).open(&lock).unwrap();
        assert!(file.try_lock().is_ok(), "a lock needs no right to write");
        assert!(open(&lock).unwrap().try_lock().is_err(), "it is held");
        drop(file);
        assert!(open(&lock).unwrap().try_lock().is_ok());
    }

    #[test]
    fn a_new_lock_is_open_to_those_who_may_write_in_the_folder() {
        let place = tempfile::tempdir().unwrap();
        for (folder, file) in [(0o770, 0o660), (0o755, 0o644), (0o700, 0o600)] {
            fs::set_permissions(place.path(), Permissions::from_mode(folder)).unwrap();
            let lock = place.path().join(format!("{folder:o}.lock"));
            drop(open(&lock).unwrap());
            assert_eq!(lock.metadata().unwrap().permissions().mode() & 0o777, file);
        }
    }
}
