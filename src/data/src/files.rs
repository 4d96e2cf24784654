//! Access to every file that a sweep or a data set names: regular files only, a bounded number of
//! bytes, and none of their content in messages.
//!
//! Sweeps come from other people. A path may lead to a pipe without a writer, to an endless device,
//! or to a file that the sweep must not read: `Reach` decides where paths may lead.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use crate::error::Error;

/// Size limit for a list of images, annotation or hierarchy.
pub const MAX_LIST_BYTES: u64 = 256 << 20;
/// Size limit for an image file.
pub const MAX_IMAGE_BYTES: u64 = 256 << 20;
/// Size limit for a file of pixels in one piece.
pub const MAX_ARRAY_BYTES: u64 = 4 << 30;
/// Size limit for a file of weights.
pub const MAX_WEIGHTS_BYTES: u64 = 4 << 30;

/// Opens a regular file for reading. Rejects directories, pipes, sockets and devices without
/// waiting for them.
pub fn open(path: &Path) -> Result<File, Error> {
    let in_io = || Error::io("open", path);
    // Checked before opening, since opening alone can act on a device; and after, since it may have
    // been replaced.
    check_regular(path, &std::fs::metadata(path).map_err(in_io())?)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(in_io())?;
    check_regular(path, &file.metadata().map_err(in_io())?)?;
    Ok(file)
}

/// Reads a whole regular file of at most `limit` bytes, whatever size its metadata give.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let file = open(path)?;
    let announced = file.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = Vec::with_capacity(announced.min(limit) as usize);
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(Error::TooLarge {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(bytes)
}

/// Reads a whole list as text.
pub fn text(path: &Path) -> Result<String, Error> {
    String::from_utf8(read(path, MAX_LIST_BYTES)?)
        .map_err(|_| Error::malformed(path, "it is not UTF-8 text"))
}

fn check_regular(path: &Path, metadata: &Metadata) -> Result<(), Error> {
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(Error::NotAFile {
        path: path.to_owned(),
        what,
    })
}

/// Folders in which the files that a sweep names may lie.
#[derive(Clone, Copy, Debug)]
pub struct Reach<'a> {
    /// Base of relative paths.
    pub data_dir: &'a Path,
    /// Folders outside the data directory into which paths may lead; absent: anywhere.
    pub allowed: Option<&'a [PathBuf]>,
}

impl<'a> Reach<'a> {
    /// Allows every path that the file system lets this process read: for people who train their
    /// own sweeps.
    pub fn anywhere(data_dir: &'a Path) -> Self {
        Self {
            data_dir,
            allowed: None,
        }
    }

    /// Resolves a file or folder that `field` of a sweep names, following symbolic links. It need
    /// not exist.
    pub fn resolve(&self, field: &'static str, named: &str) -> Result<PathBuf, Error> {
        let path = self.data_dir.join(named);
        let Some(allowed) = self.allowed else {
            return Ok(path);
        };
        let refused = || Error::OutOfReach {
            field,
            named: named.to_owned(),
            data_dir: self.data_dir.to_owned(),
        };
        let roots = || std::iter::once(self.data_dir).chain(allowed.iter().map(PathBuf::as_path));
        let is_below_a_root = |path: &Path| {
            let mut real = roots().filter_map(|root| std::fs::canonicalize(root).ok());
            real.any(|root| path.starts_with(root))
        };
        // Checked by name first: the reply must not reveal what exists elsewhere.
        let plain = without_dots(&path);
        if !roots().any(|root| plain.starts_with(without_dots(root))) && !is_below_a_root(&plain) {
            return Err(refused());
        }
        match std::fs::canonicalize(&path) {
            Ok(real) if is_below_a_root(&real) => Ok(real),
            Ok(_) => Err(refused()),
            // The reader reports a missing file itself.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(path),
            Err(error) => Err(Error::io("find", &path)(error)),
        }
    }
}

/// Resolves `.` and `..` by name alone.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_read_and_nothing_waits() {
        let place = tempfile::tempdir().unwrap();
        let fifo = place.path().join("fifo");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        let socket = place.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let link = place.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for (path, what) in [
            (place.path(), "a directory"),
            (&fifo, "a pipe"),
            (&socket, "a socket"),
            (Path::new("/dev/zero"), "a device"),
            (&link, "a device"),
        ] {
            let error = read(path, 10).unwrap_err().to_string();
            assert!(
                error.contains(&format!("{} is {what}", path.display())),
                "{error}"
            );
        }
    }

    /// Files of /proc report a size of 0 and contain more.
    #[test]
    fn the_limit_applies_to_bytes_read_not_to_bytes_announced() {
        let announced = std::fs::metadata("/proc/self/status").unwrap().len();
        assert_eq!(announced, 0);
        assert!(matches!(
            read(Path::new("/proc/self/status"), 20),
            Err(Error::TooLarge { limit: 20, .. })
        ));
        let place = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(place.path(), "12345").unwrap();
        assert_eq!(read(place.path(), 5).unwrap(), b"12345");
        assert!(matches!(
            read(place.path(), 4),
            Err(Error::TooLarge { limit: 4, .. })
        ));
    }

    #[test]
    fn paths_lead_into_the_data_directory_or_where_the_operator_allows() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        let (data, outside, lent) = (root.join("data"), root.join("outside"), root.join("lent"));
        for folder in [&data, &outside, &lent] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("file"), "text").unwrap();
        }
        std::os::unix::fs::symlink(&outside, data.join("out")).unwrap();
        std::os::unix::fs::symlink(data.join("file"), data.join("in")).unwrap();
        std::os::unix::fs::symlink(&data, root.join("alias")).unwrap();
        let allowed = [lent.clone()];
        let resolve = |data_dir: &Path, named: &str| {
            Reach {
                data_dir,
                allowed: Some(&allowed),
            }
            .resolve("weights", named)
            .map_err(|error| error.to_string())
        };
        let lent_file = lent.join("file").display().to_string();
        for (named, leads_to) in [
            ("file", data.join("file")),
            ("in", data.join("file")),
            ("x/../file", data.join("x/../file")),
            (&lent_file, lent.join("file")),
            ("../lent/file", lent.join("file")),
            ("missing", data.join("missing")),
        ] {
            assert_eq!(resolve(&data, named), Ok(leads_to), "{named}");
        }
        assert_eq!(resolve(&root.join("alias"), "file"), Ok(data.join("file")));
        let outside_file = outside.join("file").display().to_string();
        for named in [
            "/etc/shadow",
            "../outside/file",
            "out/file",
            &outside_file,
            "../outside/missing",
            "/missing",
        ] {
            let error = resolve(&data, named).unwrap_err();
            for part in [
                "`weights`",
                named,
                "--allow-path",
                &data.display().to_string(),
            ] {
                assert!(error.contains(part), "{named}: {error}");
            }
        }
        let anywhere = Reach::anywhere(&data);
        assert_eq!(
            anywhere.resolve("weights", "/etc/shadow").unwrap(),
            Path::new("/etc/shadow")
        );
    }
}
