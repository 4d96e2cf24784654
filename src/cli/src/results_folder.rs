//! A sweep's results folder on disk: every file is replaced in one step, unchanged ones are left alone, and files that
//! an earlier report made and this one does not are removed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::exit::ExpectedError;

/// Written last: what it lists is there.
const MANIFEST: &str = "manifest.json";

pub struct ResultsFolder {
    path: PathBuf,
}

impl ResultsFolder {
    pub fn new(results: &Path, sweep: &str) -> Self {
        Self { path: results.join(sweep) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Files by name; the names come from a coordinator and must be plain.
    pub fn write<'a>(&self, files: impl Iterator<Item = (&'a str, &'a [u8])>) -> Result<(), ExpectedError> {
        fs::create_dir_all(&self.path).map_err(ExpectedError::file("make the folder", &self.path))?;
        let before = self.listed();
        let mut names = BTreeSet::new();
        let mut manifest = None;
        for (name, content) in files {
            if !is_plain(name) {
                let reason = format!("the coordinator named a file `{name}`");
                return Err(ExpectedError::Infrastructure { what: "the report was not written", reason });
            }
            names.insert(name.to_owned());
            if name == MANIFEST {
                manifest = Some(content);
            } else {
                self.replace(name, content)?;
            }
        }
        if let Some(content) = manifest {
            self.replace(MANIFEST, content)?;
        }
        for stale in before.difference(&names).filter(|name| is_plain(name)) {
            let path = self.path.join(stale);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(ExpectedError::file("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<(), ExpectedError> {
        let path = self.path.join(name);
        if fs::read(&path).is_ok_and(|there| there == content) {
            return Ok(());
        }
        let partial = self.path.join(format!(".{name}.partial"));
        let written = || -> io::Result<()> {
            fs::write(&partial, content)?;
            fs::File::open(&partial)?.sync_all()?;
            fs::rename(&partial, &path)
        };
        written().map_err(|error| {
            let _ = fs::remove_file(&partial);
            ExpectedError::file("write", path)(error)
        })
    }

    /// What the manifest of the report before lists.
    fn listed(&self) -> BTreeSet<String> {
        let text = fs::read(self.path.join(MANIFEST)).unwrap_or_default();
        let manifest: Value = serde_json::from_slice(&text).unwrap_or_default();
        let files = manifest["files"].as_array().cloned().unwrap_or_default();
        files.iter().filter_map(|file| file["name"].as_str().map(str::to_owned)).collect()
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(names: &[&str]) -> Vec<u8> {
        let files: Vec<Value> = names.iter().map(|name| serde_json::json!({ "name": name })).collect();
        serde_json::to_vec(&serde_json::json!({ "files": files })).unwrap()
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_report_replaces_its_own_files_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let folder = ResultsFolder::new(dir.path(), "sweep");
        let first = manifest(&["a.txt", "b.txt"]);
        folder.write([("manifest.json", first.as_slice()), ("a.txt", b"1"), ("b.txt", b"1")].into_iter()).unwrap();
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        let second = manifest(&["a.txt"]);
        folder.write([("a.txt", b"2".as_slice()), ("manifest.json", &second)].into_iter()).unwrap();
        assert_eq!(names(folder.path()), ["a.txt", "manifest.json", "notes.txt"]);
        assert_eq!(fs::read(folder.path().join("a.txt")).unwrap(), b"2");
    }

    #[test]
    fn an_unchanged_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = ResultsFolder::new(dir.path(), "sweep");
        folder.write([("a.txt", b"1".as_slice())].into_iter()).unwrap();
        let before = fs::metadata(folder.path().join("a.txt")).unwrap().modified().unwrap();
        folder.write([("a.txt", b"1".as_slice())].into_iter()).unwrap();
        assert_eq!(fs::metadata(folder.path().join("a.txt")).unwrap().modified().unwrap(), before);
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = ResultsFolder::new(dir.path(), "sweep");
        for name in ["../a", "/a", ".hidden", "", "a/b"] {
            assert!(folder.write([(name, b"1".as_slice())].into_iter()).is_err(), "{name}");
        }
        assert_eq!(names(dir.path()), ["sweep"]);
        assert!(names(folder.path()).is_empty());
    }
}
