//! A sweep's results folder on disk: every file is replaced in one step, unchanged files are not
//! written, and files of an earlier report that this one lacks are removed. Several processes may
//! write the same folder at once.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use report::FileSink;
use serde_json::Value;

use crate::exit::ExpectedError;

/// The list of files, sent and written last: every file that it lists exists.
const MANIFEST: &str = "manifest.json";
/// The suffix of a file that is still being written.
const PARTIAL: &str = ".partial";
/// The age of a partial file, compared with one written now, that shows that its process was
/// killed.
const ABANDONED: Duration = Duration::from_secs(3600);

pub struct ResultsFolder {
    path: PathBuf,
}

impl ResultsFolder {
    pub fn new(results: &Path, sweep: &str) -> Self {
        Self {
            path: results.join(sweep),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the folder and tests that files can be written into it, before anything depends on
    /// it.
    pub fn prepare(&self) -> Result<(), ExpectedError> {
        let refused = |source: io::Error| {
            ExpectedError::BadInput(format!(
                "results cannot be written into {} ({source}): nothing was started; name another folder with --results",
                self.path.display()
            ))
        };
        fs::create_dir_all(&self.path).map_err(refused)?;
        let mut probe = self.partial("probe").map_err(refused)?;
        probe
            .write_all(b"results can be written here\n")
            .map_err(refused)?;
        self.remove_abandoned(probe.as_file());
        probe.close().map_err(refused)
    }

    /// Begins to replace the report. Each file is replaced when it is complete. Creates a missing
    /// folder.
    pub fn update(&self) -> Result<Update<'_>, ExpectedError> {
        fs::create_dir_all(&self.path)
            .map_err(ExpectedError::file("make the folder", &self.path))?;
        Ok(Update {
            folder: self,
            before: self.listed(),
            names: BTreeSet::new(),
            open: None,
        })
    }

    /// Creates a file with a name that no other process uses, removed again unless it is persisted.
    fn partial(&self, name: &str) -> io::Result<tempfile::NamedTempFile> {
        let mut builder = tempfile::Builder::new();
        // permissions as for any other program: the umask removes those that the user does not want
        let prefix = format!(".{name}.");
        builder
            .permissions(Permissions::from_mode(0o666))
            .prefix(&prefix)
            .suffix(PARTIAL);
        builder.tempfile_in(&self.path)
    }

    /// Removes the files that killed processes left. Ages are relative to a file written now, since
    /// the file system has a clock of its own. Best effort: remaining files do no harm.
    fn remove_abandoned(&self, written_now: &fs::File) {
        let modified =
            |metadata: io::Result<fs::Metadata>| metadata.and_then(|metadata| metadata.modified());
        let (Ok(entries), Ok(now)) = (fs::read_dir(&self.path), modified(written_now.metadata()))
        else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let age = modified(entry.metadata())
                .ok()
                .and_then(|written| now.duration_since(written).ok());
            if name.starts_with('.')
                && name.ends_with(PARTIAL)
                && age.is_some_and(|age| age > ABANDONED)
            {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Returns the files that the previous report's manifest lists.
    fn listed(&self) -> BTreeSet<String> {
        let text = fs::read(self.path.join(MANIFEST)).unwrap_or_default();
        let manifest: Value = serde_json::from_slice(&text).unwrap_or_default();
        let files = manifest["files"].as_array().cloned().unwrap_or_default();
        files
            .iter()
            .filter_map(|file| file["name"].as_str().map(str::to_owned))
            .collect()
    }
}

/// A report on its way into its folder. If it is dropped before `finish`, completed files stay.
pub struct Update<'a> {
    folder: &'a ResultsFolder,
    /// The files of the previous report.
    before: BTreeSet<String>,
    names: BTreeSet<String>,
    open: Option<Open>,
}

/// The file that is being written: in memory while it is small, so that an unchanged file costs no
/// write.
struct Open {
    name: String,
    content: Vec<u8>,
    spilled: Option<tempfile::NamedTempFile>,
}

/// The size above which a file is written while it arrives.
const MAX_IN_MEMORY: usize = 1 << 20;

impl Update<'_> {
    /// Ends the report after its last file: removes files of the previous report that this one
    /// lacks.
    pub fn finish(mut self) -> Result<(), ExpectedError> {
        self.close()?;
        for stale in self
            .before
            .difference(&self.names)
            .filter(|name| is_plain(name))
        {
            let path = self.folder.path.join(stale);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(ExpectedError::file("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Starts a file. Names come from a coordinator and must be plain.
    fn start(&mut self, name: &str) -> Result<(), ExpectedError> {
        self.close()?;
        if !is_plain(name) {
            let reason = format!("the coordinator named a file `{}`", name.escape_debug());
            return Err(ExpectedError::Infrastructure {
                what: "the report was not written",
                reason,
            });
        }
        self.names.insert(name.to_owned());
        self.open = Some(Open {
            name: name.to_owned(),
            content: Vec::new(),
            spilled: None,
        });
        Ok(())
    }

    fn add(&mut self, piece: &[u8]) -> Result<(), ExpectedError> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        open.content.extend_from_slice(piece);
        if open.content.len() <= MAX_IN_MEMORY {
            return Ok(());
        }
        open.spill(self.folder).map_err(ExpectedError::file(
            "write",
            self.folder.path.join(&open.name),
        ))
    }

    fn close(&mut self) -> Result<(), ExpectedError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let path = self.folder.path.join(&open.name);
        open.replace(self.folder, &path)
            .map_err(ExpectedError::file("write", path))
    }
}

impl FileSink for Update<'_> {
    fn begin(&mut self, name: &str) -> io::Result<()> {
        self.start(name).map_err(io::Error::other)
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.add(piece).map_err(io::Error::other)
    }
}

impl Open {
    fn spill(&mut self, folder: &ResultsFolder) -> io::Result<()> {
        let file = match &mut self.spilled {
            Some(file) => file,
            spilled @ None => spilled.insert(folder.partial(&self.name)?),
        };
        file.write_all(&self.content)?;
        self.content.clear();
        Ok(())
    }

    fn replace(mut self, folder: &ResultsFolder, path: &Path) -> io::Result<()> {
        if self.spilled.is_none() && fs::read(path).is_ok_and(|there| there == self.content) {
            return Ok(());
        }
        self.spill(folder)?;
        if let Some(partial) = self.spilled {
            partial.as_file().sync_all()?;
            partial.persist(path)?;
        }
        Ok(())
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(names: &[&str]) -> Vec<u8> {
        let files: Vec<Value> = names
            .iter()
            .map(|name| serde_json::json!({ "name": name }))
            .collect();
        serde_json::to_vec(&serde_json::json!({ "files": files })).unwrap()
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn write(folder: &ResultsFolder, files: &[(&str, &[u8])]) -> Result<(), ExpectedError> {
        let mut update = folder.update()?;
        for (name, content) in files {
            update.start(name)?;
            content
                .chunks(700_000)
                .try_for_each(|piece| update.add(piece))?;
        }
        update.finish()
    }

    #[test]
    fn a_large_file_is_replaced_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let folder = ResultsFolder::new(dir.path(), "sweep");
        let large = vec![b'x'; 3 << 20];
        write(&folder, &[("a.txt", &large), ("b.txt", b"1")]).unwrap();
        assert_eq!(fs::read(folder.path().join("a.txt")).unwrap(), large);
        let mut update = folder.update().unwrap();
        update.start("a.txt").unwrap();
        update.add(&vec![b'y'; 2 << 20]).unwrap();
        drop(update);
        assert_eq!(
            fs::read(folder.path().join("a.txt")).unwrap(),
            large,
            "the report broke off"
        );
        assert_eq!(names(folder.path()), ["a.txt", "b.txt"]);
    }

    #[test]
    fn a_new_report_replaces_its_own_files_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let folder = ResultsFolder::new(dir.path(), "sweep");
        let first = manifest(&["a.txt", "b.txt"]);
        write(
            &folder,
            &[("a.txt", b"1"), ("b.txt", b"1"), ("manifest.json", &first)],
        )
        .unwrap();
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        let second = manifest(&["a.txt"]);
        write(&folder, &[("a.txt", b"2"), ("manifest.json", &second)]).unwrap();
        assert_eq!(
            names(folder.path()),
            ["a.txt", "manifest.json", "notes.txt"]
        );
        assert_eq!(fs::read(folder.path().join("a.txt")).unwrap(), b"2");
    }

    #[test]
    fn an_unchanged_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = ResultsFolder::new(dir.path(), "sweep");
        write(&folder, &[("a.txt", b"1")]).unwrap();
        let before = fs::metadata(folder.path().join("a.txt"))
            .unwrap()
            .modified()
            .unwrap();
        write(&folder, &[("a.txt", b"1")]).unwrap();
        assert_eq!(
            fs::metadata(folder.path().join("a.txt"))
                .unwrap()
                .modified()
                .unwrap(),
            before
        );
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = ResultsFolder::new(dir.path(), "sweep");
        for name in ["../a", "/a", ".hidden", "", "a/b"] {
            assert!(write(&folder, &[(name, b"1")]).is_err(), "{name}");
        }
        assert_eq!(names(dir.path()), ["sweep"]);
        assert!(names(folder.path()).is_empty());
    }

    /// Two runs of one sweep share a results folder.
    #[test]
    fn writers_of_one_folder_do_not_disturb_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..8).map(|number| format!("{number}.txt")).collect();
        let listed: Vec<&str> = names.iter().map(String::as_str).collect();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let (path, names, manifest) = (dir.path(), &names, manifest(&listed));
                scope.spawn(move || {
                    let folder = ResultsFolder::new(path, "sweep");
                    for round in 0..25 {
                        let content = format!("{writer} {round}\n").repeat(100);
                        let files = names.iter().map(|name| (name.as_str(), content.as_bytes()));
                        let files: Vec<_> =
                            files.chain([(MANIFEST, manifest.as_slice())]).collect();
                        write(&folder, &files).unwrap();
                    }
                });
            }
        });
        let folder = dir.path().join("sweep");
        let mut expected = names.clone();
        expected.push(MANIFEST.to_owned());
        assert_eq!(
            self::names(&folder),
            expected,
            "nothing is left, nothing is missing"
        );
        for name in names {
            let text = fs::read_to_string(folder.join(name)).unwrap();
            let first = text.lines().next().unwrap();
            assert_eq!(
                text,
                format!("{first}\n").repeat(100),
                "a file is one writer's alone"
            );
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_refused_before_the_start() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "mine").unwrap();
        let error = ResultsFolder::new(&dir.path().join("file"), "sweep")
            .prepare()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("file/sweep") && error.contains("--results"),
            "{error}"
        );
        let folder = ResultsFolder::new(dir.path(), "sweep");
        folder.prepare().unwrap();
        assert!(names(folder.path()).is_empty(), "the probe is gone");
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_later() {
        let dir = tempfile::tempdir().unwrap();
        let folder = ResultsFolder::new(dir.path(), "sweep");
        folder.prepare().unwrap();
        let left = |name: &str, age: Duration| {
            let file = fs::File::create(folder.path().join(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - age)
                .unwrap();
        };
        left(".a.txt.x1.partial", 2 * ABANDONED);
        left(".b.txt.x2.partial", Duration::ZERO);
        left("notes.partial", 2 * ABANDONED);
        folder.prepare().unwrap();
        assert_eq!(names(folder.path()), [".b.txt.x2.partial", "notes.partial"]);
    }
}
