//! Which hosts share their work directory: each reads a random name in a file of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write as _};
use std::path::Path;

/// The file with the name, in a work directory. The script of a host makes the same one.
const FILE: &str = "folder-name";
/// Beginning of the line in which the script reports the name.
pub(super) const REPORTED: &str = "work folder ";
/// The name of this machine among the hosts.
const HERE: &str = "this machine";

/// Finds the name of a host's work directory in a line of the script.
pub fn folder_name(line: &str) -> Option<&str> {
    let name = line.strip_prefix(REPORTED)?.trim();
    let is_name = name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_name.then_some(name)
}

/// The work directories of hosts, by their names.
#[derive(Debug, Default)]
pub(super) struct Folders {
    hosts: BTreeMap<String, String>,
}

impl Folders {
    /// The work directory of this machine is one of them if it has checkpoints: those of runs
    /// without `--launch`.
    pub fn with_that_of_this_machine(work: &Path) -> Self {
        let mut folders = Self::default();
        if work.join("checkpoints").is_dir() {
            match name_of(work) {
                Ok(name) => {
                    folders.hosts.insert(HERE.to_owned(), name);
                }
                Err(error) => {
                    tracing::warn!(work = %work.display(), %error, "it is not known which hosts share it");
                }
            }
        }
        folders
    }

    /// Notes the directory of a host. Returns a machine with another one, the first time.
    pub fn note(&mut self, host: &str, name: &str) -> Option<&str> {
        let before = self.hosts.insert(host.to_owned(), name.to_owned());
        if before.as_deref() == Some(name) {
            return None;
        }
        let mut hosts = self.hosts.iter();
        let other = hosts.find(|(other, theirs)| *other != host && *theirs != name);
        other.map(|(other, _)| other.as_str())
    }
}

/// Returns the name in a work directory, which gets one if it has none. A host that shares the
/// directory may do the same at this moment: the first name stays.
fn name_of(work: &Path) -> io::Result<String> {
    let file = work.join(FILE);
    if !file.exists() {
        let mut bytes = [0; 16];
        fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let mut name = String::new();
        for byte in bytes {
            let _ = write!(name, "{byte:02x}");
        }
        let mut partial = tempfile::NamedTempFile::new_in(work)?;
        writeln!(partial, "{name}")?;
        match fs::hard_link(partial.path(), &file) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(fs::read_to_string(file)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_work_directory_that_is_not_shared_is_noticed_once() {
        let mut folders = Folders::default();
        assert_eq!(folders.note("node1", "a"), None);
        assert_eq!(folders.note("node2", "a"), None, "shared");
        assert_eq!(folders.note("node3", "b"), Some("node1"));
        assert_eq!(folders.note("node3", "b"), None, "known");
    }

    #[test]
    fn checkpoints_on_this_machine_count_as_those_of_a_host() {
        let work = tempfile::tempdir().unwrap();
        let mut folders = Folders::with_that_of_this_machine(work.path());
        assert_eq!(folders.note("node1", "a"), None, "nothing was trained here");
        fs::create_dir(work.path().join("checkpoints")).unwrap();
        let name = name_of(work.path()).unwrap();
        assert_eq!(folder_name(&format!("{REPORTED}{name}")), Some(&*name));
        let mut folders = Folders::with_that_of_this_machine(work.path());
        assert_eq!(
            folders.note("node1", &name),
            None,
            "it shares the directory"
        );
        assert_eq!(folders.note("node2", "b"), Some("node1"));
        let mut folders = Folders::with_that_of_this_machine(work.path());
        assert_eq!(folders.note("node2", "b"), Some(HERE));
        assert_eq!(
            fs::read_dir(work.path()).unwrap().count(),
            2,
            "no other file"
        );
    }
}
