//! The programs of sweeps on a worker: fetched from the coordinator once, checked, unpacked read-only
//! below the work directory, and started from there.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use protocol::v1;
use sweep::program::{Environment, MAX_ARCHIVE_BYTES, archive_hash};
use sweep::record::{Failure, FailureClass};
use sweep::{Submitted, Trainer};

use crate::connection::Coordinator;
use crate::environment;
use crate::launch::Launch;

/// Programs of sweeps, unpacked in the folder `programs` of the work directory.
pub struct Programs {
    pub coordinator: Coordinator,
    pub folder: PathBuf,
    /// Folders that a container sees, besides the program's own.
    pub shared_folders: Vec<PathBuf>,
    /// True if sweeps may run programs here.
    pub allowed: bool,
}

/// A program that is ready to start.
pub struct Prepared {
    pub launch: Launch,
    /// Hash of the list of its libraries; empty without an environment.
    pub libraries: String,
}

fn bad_input(message: String) -> Failure {
    Failure::new(FailureClass::BadInput, message)
}

fn node(message: String) -> Failure {
    Failure::new(FailureClass::Node, message)
}

impl Programs {
    /// Returns true if sweeps may run programs on a worker that lets them read these folders.
    pub fn are_allowed(allowed_paths: Option<&[PathBuf]>) -> bool {
        allowed_paths.is_none_or(|paths| paths.iter().any(|path| path == Path::new("/")))
    }

    /// Returns the programs of a coordinator that does not answer.
    #[cfg(test)]
    pub(crate) fn unreachable(folder: &Path) -> Self {
        Self {
            coordinator: Coordinator::at("http://127.0.0.1:1".to_owned(), None, None),
            folder: folder.join("programs"),
            shared_folders: Vec::new(),
            allowed: true,
        }
    }

    /// Returns the launch of a program in a slot. `slot` is the launch of the worker's own trainer
    /// there.
    pub async fn prepare(&self, program: &Submitted, slot: &Launch) -> Result<Prepared, Failure> {
        if !self.allowed {
            return Err(bad_input(format!(
                "this worker does not run the programs of sweeps, and the program `{}` is one: start the worker with \
                 `--allow-path /`, which lets sweeps read and run everything that its user can",
                program.name
            )));
        }
        let root = self.unpacked(program).await?;
        let directory = root.join(&program.folder);
        let (bin, variables) = bin_and_variables(program)?;
        let mut search = bin.into_iter().collect::<Vec<_>>();
        let path = std::env::var_os("PATH").unwrap_or_default();
        search.extend(std::env::split_paths(&path));
        let (first, rest) = program
            .command
            .split_first()
            .ok_or_else(|| bad_input(format!("the program `{}` has no command", program.name)))?;
        let mut launch = Launch {
            arguments: rest.iter().map(OsString::from).collect(),
            trainer: Trainer::Submitted(program.clone().into()),
            libraries: None,
            directory: Some(directory.clone()),
            variables,
            ..slot.clone()
        };
        if let Some(Environment::Container(image)) = &program.environment {
            launch.program = find("apptainer", &directory, &search).ok_or_else(|| {
                bad_input("the program runs in a container, and this worker has no `apptainer` in its PATH".to_owned())
            })?;
            let mut words: Vec<OsString> = vec!["exec".into()];
            if slot.has_gpus() {
                words.push("--nv".into());
            }
            for folder in std::iter::once(&root).chain(&self.shared_folders) {
                words.extend(["--bind".into(), folder.into()]);
            }
            words.extend(["--pwd".into(), directory.into(), image.into()]);
            words.extend(program.command.iter().map(OsString::from));
            launch.arguments = words;
        } else {
            launch.program = find(first, &directory, &search).ok_or_else(|| {
                bad_input(format!(
                    "the program `{}` is started by `{first}`, which this worker does not have (looked in {})",
                    program.name,
                    listed(&search)
                ))
            })?;
            launch
                .variables
                .push(("PATH".into(), joined(&search).map_err(bad_input)?));
        }
        let libraries = match &program.environment {
            Some(environment) => lock_hash(environment).map_err(|error| {
                bad_input(format!("cannot read `{}`: {error}", environment.path()))
            })?,
            None => String::new(),
        };
        Ok(Prepared { launch, libraries })
    }

    /// Returns the folder with the program's files, fetched if it is not there.
    async fn unpacked(&self, program: &Submitted) -> Result<PathBuf, Failure> {
        let folder = self.folder.join(&program.archive);
        if folder.is_dir() {
            return Ok(folder);
        }
        let archive = self.fetch(program).await.map_err(node)?;
        if archive_hash(&archive) != program.archive {
            let name = &program.name;
            return Err(node(format!(
                "the files of the program `{name}` arrived damaged: their hash is not that of the sweep"
            )));
        }
        let target = folder.clone();
        let unpack = move || unpack(&archive, &target);
        let unpacked = tokio::task::spawn_blocking(unpack).await;
        let unpacked = unpacked.map_err(|error| node(error.to_string()))?;
        unpacked.map_err(|error| {
            let place = folder.display();
            node(format!(
                "cannot unpack the program `{}` to {place}: {error}",
                program.name
            ))
        })?;
        Ok(folder)
    }

    async fn fetch(&self, program: &Submitted) -> Result<Vec<u8>, String> {
        let what = |reason: String| {
            format!(
                "cannot fetch the files of the program `{}` from the coordinator: {reason}",
                program.name
            )
        };
        let mut client = self.coordinator.connect().await.map_err(what)?;
        let request = v1::ProgramRequest {
            archive: program.archive.clone(),
        };
        let refused = |status: tonic::Status| what(status.message().to_owned());
        let mut pieces = client
            .get_program(request)
            .await
            .map_err(refused)?
            .into_inner();
        let mut archive = Vec::new();
        while let Some(piece) = pieces.message().await.map_err(refused)? {
            archive.extend(piece.content);
            if archive.len() as u64 > MAX_ARCHIVE_BYTES {
                return Err(what("it is larger than any program".to_owned()));
            }
        }
        Ok(archive)
    }
}

/// Unpacks an archive into a temporary folder, and renames that to the target. The files are
/// read-only.
fn unpack(archive: &[u8], target: &Path) -> io::Result<()> {
    let parent = target.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let temporary = tempfile::tempdir_in(parent)?;
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            return Err(io::Error::other(
                "the archive of a program may only hold files",
            ));
        }
        let executable = entry.header().mode()? & 0o111;
        // this refuses paths that lead out of the folder
        if !entry.unpack_in(temporary.path())? {
            return Err(io::Error::other("a path leads out of the archive"));
        }
        let path = temporary.path().join(entry.path()?);
        fs::set_permissions(path, Permissions::from_mode(0o444 | executable))?;
    }
    fs::set_permissions(temporary.path(), Permissions::from_mode(0o755))?;
    match fs::rename(temporary.path(), target) {
        // another slot, or a worker with the same work directory, was faster
        Err(_) if target.is_dir() => Ok(()),
        renamed => renamed,
    }
}

/// The folder of an environment's executables, and variables of a process.
type BinAndVariables = (Option<PathBuf>, Vec<(OsString, OsString)>);

/// Returns the executables of the program's environment, and the variables that the program receives.
fn bin_and_variables(program: &Submitted) -> Result<BinAndVariables, Failure> {
    let passed = program
        .pass
        .iter()
        .filter(|name| !environment::is_secret(name))
        .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
    let mut variables: Vec<(OsString, OsString)> = passed.collect();
    // the program's folder is read-only
    variables.push(("PYTHONDONTWRITEBYTECODE".into(), "1".into()));
    let Some(environment) = &program.environment else {
        return Ok((None, variables));
    };
    check(environment).map_err(bad_input)?;
    let path = PathBuf::from(environment.path());
    let variable = match environment {
        Environment::Container(_) => return Ok((None, variables)),
        Environment::Venv(_) => "VIRTUAL_ENV",
        Environment::Conda(_) => "CONDA_PREFIX",
    };
    let bin = path.join("bin");
    variables.push((variable.into(), path.into()));
    Ok((Some(bin), variables))
}

/// Refuses an environment that this machine does not have.
pub fn check(environment: &Environment) -> Result<(), String> {
    let path = Path::new(environment.path());
    let (mark, what) = match environment {
        Environment::Venv(_) => (path.join("pyvenv.cfg"), "no virtual environment"),
        Environment::Conda(_) => (path.join("conda-meta"), "no conda environment"),
        Environment::Container(_) => (path.to_path_buf(), "no container image"),
    };
    if mark.exists() {
        return Ok(());
    }
    Err(format!(
        "there is {what} at `{}` on this machine, and the sweep's program needs it (`{}` is missing)",
        path.display(),
        mark.display()
    ))
}

/// Returns a hash of an environment: of the names and versions of its packages, or of the bytes of
/// an image.
pub fn lock_hash(environment: &Environment) -> io::Result<String> {
    let path = Path::new(environment.path());
    let mut hasher = blake3::Hasher::new();
    let names = match environment {
        Environment::Container(_) => {
            hasher.update_reader(fs::File::open(path)?)?;
            BTreeSet::new()
        }
        Environment::Conda(_) => names_in(&path.join("conda-meta"), ".json")?,
        Environment::Venv(_) => {
            let mut names = BTreeSet::new();
            for python in fs::read_dir(path.join("lib"))? {
                let packages = python?.path().join("site-packages");
                if packages.is_dir() {
                    names.extend(names_in(&packages, ".dist-info")?);
                }
            }
            names.insert(fs::read_to_string(path.join("pyvenv.cfg"))?);
            names
        }
    };
    for name in names {
        hasher.update(name.as_bytes()).update(b"\n");
    }
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}

fn names_in(folder: &Path, ending: &str) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(ending) {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Finds an executable: by its path from the working folder, or by its name.
fn find(command: &str, directory: &Path, search: &[PathBuf]) -> Option<PathBuf> {
    let is_executable = |path: &PathBuf| {
        path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
    };
    if command.contains('/') {
        return Some(directory.join(command)).filter(is_executable);
    }
    search
        .iter()
        .map(|folder| folder.join(command))
        .find(is_executable)
}

fn joined(search: &[PathBuf]) -> Result<OsString, String> {
    std::env::join_paths(search).map_err(|error| format!("cannot make a PATH: {error}"))
}

fn listed(search: &[PathBuf]) -> String {
    let paths = search.iter().map(|path| path.display().to_string());
    paths.collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &str, u32)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content, mode) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(*mode);
            // `set_path` refuses a path that leads out of the archive
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn an_archive_is_unpacked_without_the_right_to_write() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("programs/aa");
        let packed = archive(&[("train.py", "1", 0o755), ("library/one.py", "2", 0o644)]);
        unpack(&packed, &target).unwrap();
        unpack(&packed, &target).unwrap();
        let mode = |name: &str| {
            let metadata = fs::metadata(target.join(name)).unwrap();
            metadata.permissions().mode() & 0o777
        };
        assert_eq!((mode("train.py"), mode("library/one.py")), (0o555, 0o444));
        assert_eq!(
            fs::read_to_string(target.join("library/one.py")).unwrap(),
            "2"
        );
        assert_eq!(
            fs::read_dir(dir.path().join("programs")).unwrap().count(),
            1
        );
    }

    #[test]
    fn nothing_is_written_beside_the_folder_of_a_program() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("programs/aa");
        let hostile = archive(&[("../../outside", "1", 0o644)]);
        assert!(unpack(&hostile, &target).is_err());
        assert!(!dir.path().join("outside").exists());
        assert!(!target.exists());
    }

    #[test]
    fn the_lock_of_a_virtual_environment_is_that_of_its_packages() {
        let dir = tempfile::tempdir().unwrap();
        let venv = Environment::Venv(dir.path().to_string_lossy().into_owned());
        let missing = check(&venv).unwrap_err();
        assert!(missing.contains("pyvenv.cfg` is missing"), "{missing}");
        let packages = dir.path().join("lib/python3.11/site-packages");
        fs::create_dir_all(packages.join("numpy-1.0.dist-info")).unwrap();
        fs::write(dir.path().join("pyvenv.cfg"), "version = 3.11.2\n").unwrap();
        check(&venv).unwrap();
        let before = lock_hash(&venv).unwrap();
        fs::write(packages.join("module.py"), "").unwrap();
        assert_eq!(lock_hash(&venv).unwrap(), before);
        fs::create_dir(packages.join("torch-2.11.0.dist-info")).unwrap();
        assert_ne!(lock_hash(&venv).unwrap(), before);
    }

    #[test]
    fn a_worker_for_the_sweeps_of_others_runs_no_program() {
        let paths = |text: &str| vec![PathBuf::from(text)];
        assert!(Programs::are_allowed(None));
        assert!(Programs::are_allowed(Some(&paths("/"))));
        assert!(!Programs::are_allowed(Some(&paths("/data"))));
        assert!(!Programs::are_allowed(Some(&[])));
    }
}
