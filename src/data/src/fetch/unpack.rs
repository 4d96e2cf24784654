//! Unpacking of tar archives from the internet.
//!
//! Only regular files and directories are unpacked; links, devices, pipes, absolute paths and `..`
//! are rejected, not skipped, because no data set needs them. Bytes and entries are bounded,
//! whatever the archive declares. Permissions and owners are ignored.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use tar::EntryType;

use crate::error::Error;

const MAX_ENTRIES: usize = 2_000_000;

/// Unpacks a .tar, .tar.gz or .tgz below `into`, which exists and is empty. Writes at most
/// `max_bytes`.
pub(crate) fn tar(archive: &Path, into: &Path, max_bytes: u64) -> Result<(), Error> {
    let file = BufReader::new(File::open(archive).map_err(Error::io("open", archive))?);
    let is_packed = archive
        .extension()
        .is_some_and(|extension| extension == "gz" || extension == "tgz");
    let reader: Box<dyn Read> = if is_packed {
        Box::new(GzDecoder::new(file))
    } else {
        Box::new(file)
    };
    // Headers and padding count too: the stream itself must end. Half as much again leaves room for
    // tiny files.
    let mut entries = tar::Archive::new(
        reader.take(
            max_bytes
                .saturating_add(max_bytes / 2)
                .saturating_add(1 << 20),
        ),
    );
    let damaged = |error: std::io::Error| {
        Error::malformed(archive, format!("it is no tar archive, or cut: {error}"))
    };
    let mut left = max_bytes;
    let mut num_entries = 0;
    for entry in entries.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let path = entry.path().map_err(damaged)?.into_owned();
        let refuse = |reason: String| {
            let entry = path.display().to_string();
            Err(Error::HostileArchive {
                archive: archive.to_owned(),
                entry,
                reason,
            })
        };
        num_entries += 1;
        if num_entries > MAX_ENTRIES {
            return refuse(format!("the archive has more than {MAX_ENTRIES} entries"));
        }
        let Some(relative) = inside(&path) else {
            return refuse("its path leads out of the folder".to_owned());
        };
        let target = into.join(&relative);
        match entry.header().entry_type() {
            EntryType::XGlobalHeader => {}
            EntryType::Directory => {
                std::fs::create_dir_all(&target).map_err(Error::io("create", &target))?
            }
            EntryType::Regular | EntryType::Continuous if relative.as_os_str().is_empty() => {
                return refuse("it has no name".to_owned());
            }
            EntryType::Regular | EntryType::Continuous => {
                if entry.size() > left {
                    return refuse(format!(
                        "the archive unpacks to more than {max_bytes} bytes"
                    ));
                }
                let parent = target.parent().unwrap_or(into);
                std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
                let mut file = File::create(&target).map_err(Error::io("create", &target))?;
                let written = std::io::copy(&mut entry, &mut file).map_err(damaged)?;
                if written != entry.size() {
                    return Err(Error::malformed(
                        archive,
                        format!("it ends inside of {}", path.display()),
                    ));
                }
                left -= written;
            }
            other => return refuse(format!("it is neither a file nor a directory ({other:?})")),
        }
    }
    if num_entries == 0 {
        return Err(Error::malformed(archive, "it is empty"));
    }
    Ok(())
}

/// Returns the path without `.`, or `None` if it is absolute or goes up.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut relative = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => relative.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(relative)
}
