//! Files that are replaced in one step.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::Error;

/// A file under a temporary name beside its final one.
pub struct Partial(tempfile::NamedTempFile);

impl Partial {
    /// Creates it, with the folder that it belongs to.
    pub fn beside(path: &Path) -> Result<Self, Error> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(Error::file(folder))?;
        // permissions as for any other program: the umask removes those that the user does not want
        let file = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o666))
            .prefix(".")
            .suffix(".partial")
            .tempfile_in(folder);
        file.map(Self).map_err(Error::file(path))
    }

    pub fn file(&mut self) -> &mut std::fs::File {
        self.0.as_file_mut()
    }

    /// Gives it its name.
    pub fn finish(self, path: &Path) -> Result<(), Error> {
        let persisted = self.0.persist(path).map_err(|error| error.error);
        persisted.map(drop).map_err(Error::file(path))
    }
}

pub fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let mut partial = Partial::beside(path)?;
    partial
        .file()
        .write_all(content)
        .map_err(Error::file(path))?;
    partial.finish(path)
}
