//! Freezes the files of a sweep's program when it is submitted, as an archive whose hash is part of
//! every trial's id. The same files give the same archive on every machine and at any time.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sweep::program::{
    Environment, MAX_ARCHIVE_BYTES, MAX_PROGRAM_FILES, ProgramBlock, archive_hash,
};
use sweep::{Submitted, Sweep, Trainer};

use crate::exit::ExpectedError;
use crate::trainer;

/// Folders that are by-products of the program, not parts of it.
const LEFT_OUT: [&str; 5] = [
    ".git",
    ".venv",
    "__pycache__",
    ".ipynb_checkpoints",
    "node_modules",
];
const MAX_DEPTH: usize = 64;

/// Records in the sweep which program trains it. Returns the archive of the sweep's own program, if
/// it has one.
pub fn identify(
    sweep: &mut Sweep,
    file: &Path,
    trainer: Option<&Path>,
) -> Result<Option<Vec<u8>>, ExpectedError> {
    match trainer {
        Some(_) if sweep.program.is_some() => Err(ExpectedError::BadInput(format!(
            "the sweep `{}` has a `program`, and --trainer (or ORCHESTRATOR_TRAINER) names another: leave it out",
            sweep.name
        ))),
        Some(_) => {
            sweep.trainer = trainer::find(trainer)?.program;
            Ok(None)
        }
        None => freeze(sweep, file),
    }
}

/// Freezes the program of a sweep, which names it by its hash from then on. Returns the archive;
/// `None` if the sweep has no program.
fn freeze(sweep: &mut Sweep, file: &Path) -> Result<Option<Vec<u8>>, ExpectedError> {
    let Some(block) = &sweep.program else {
        return Ok(None);
    };
    let file = std::path::absolute(file).map_err(ExpectedError::file("find", file))?;
    let folder = file.parent().unwrap_or(Path::new("/")).to_path_buf();
    let files = collect(block, &folder)?;
    let mut hashes = BTreeMap::new();
    let mut builder = tar::Builder::new(Vec::new());
    for (path, (content, is_executable)) in &files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(if *is_executable { 0o755 } else { 0o644 });
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        builder
            .append_data(&mut header, path, content.as_slice())
            .map_err(ExpectedError::file("pack", Path::new(path)))?;
        hashes.insert(path.clone(), archive_hash(content));
    }
    let archive = builder
        .into_inner()
        .map_err(ExpectedError::file("pack", &folder))?;
    if archive.len() as u64 > MAX_ARCHIVE_BYTES {
        return Err(too_large(&files));
    }
    let working = block.folder.trim_start_matches("./").trim_end_matches('/');
    let working = if working == "." { "" } else { working };
    let is_there = |path: &String| path.starts_with(&format!("{working}/"));
    if !working.is_empty() && !files.keys().any(is_there) {
        return Err(ExpectedError::BadInput(format!(
            "`program.folder` is `{working}`, and none of `program.files` is in it"
        )));
    }
    let own_file = block.command.first().filter(|word| word.contains('/'));
    if let Some(word) = own_file {
        check_start(word, working, &files)?;
    }
    let environment = block.environment.as_ref().map(|environment| {
        let absolute = |path: &str| folder.join(path).to_string_lossy().into_owned();
        match environment {
            Environment::Venv(path) => Environment::Venv(absolute(path)),
            Environment::Conda(path) => Environment::Conda(absolute(path)),
            Environment::Container(path) => Environment::Container(absolute(path)),
        }
    });
    let submitted = Submitted {
        name: block.name(),
        archive: archive_hash(&archive),
        bytes: archive.len() as u64,
        files: hashes,
        command: block.command.clone(),
        folder: working.to_owned(),
        pass: block.pass.clone(),
        environment,
    };
    sweep.trainer = Trainer::Submitted(submitted.into());
    Ok(Some(archive))
}

/// Content of each file, by its path in the archive, and whether it is executable.
type Files = BTreeMap<String, (Vec<u8>, bool)>;

fn collect(block: &ProgramBlock, folder: &Path) -> Result<Files, ExpectedError> {
    let mut files = Files::new();
    let mut bytes = 0;
    for named in &block.files {
        let mut open: Vec<(PathBuf, usize)> = vec![(folder.join(named), 0)];
        while let Some((path, depth)) = open.pop() {
            let metadata = fs::metadata(&path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => ExpectedError::BadInput(format!(
                    "`program.files` has `{named}`, and {} does not exist",
                    path.display()
                )),
                _ => ExpectedError::file("read", &path)(error),
            })?;
            if metadata.is_dir() {
                if depth == MAX_DEPTH {
                    return Err(ExpectedError::BadInput(format!(
                        "{} is more than {MAX_DEPTH} folders deep: a link may lead back to a folder above it",
                        path.display()
                    )));
                }
                let entries = fs::read_dir(&path).map_err(ExpectedError::file("read", &path))?;
                for entry in entries {
                    let entry = entry.map_err(ExpectedError::file("read", &path))?;
                    let name = entry.file_name();
                    if !LEFT_OUT.iter().any(|left_out| name == *left_out) {
                        open.push((entry.path(), depth + 1));
                    }
                }
                continue;
            }
            bytes += metadata.len();
            let relative = path.strip_prefix(folder).unwrap_or(&path);
            let parts = relative.components().filter_map(|part| match part {
                std::path::Component::Normal(name) => name.to_str(),
                _ => None,
            });
            let relative = parts.collect::<Vec<_>>().join("/");
            // files are read only as long as they can be sent
            if bytes > MAX_ARCHIVE_BYTES || files.len() >= MAX_PROGRAM_FILES {
                return Err(too_large(&files));
            }
            let content = fs::read(&path).map_err(ExpectedError::file("read", &path))?;
            let is_executable = metadata.permissions().mode() & 0o111 != 0;
            files.insert(relative, (content, is_executable));
        }
    }
    Ok(files)
}

/// Refuses a command that starts a file of the sweep's folder which is not sent or not executable.
fn check_start(word: &str, working: &str, files: &Files) -> Result<(), ExpectedError> {
    if word.starts_with('/') {
        return Ok(());
    }
    let plain = word.trim_start_matches("./");
    let path = match working {
        "" => plain.to_owned(),
        working => format!("{working}/{plain}"),
    };
    let problem = match files.get(&path) {
        None => "is not one of `program.files`, so the workers would not have it",
        Some((_, false)) => "is not executable: chmod +x, or start it by its interpreter",
        Some((_, true)) => return Ok(()),
    };
    Err(ExpectedError::BadInput(format!(
        "`program.command` starts `{word}`, which {problem}"
    )))
}

fn too_large(files: &Files) -> ExpectedError {
    let largest = files.iter().max_by_key(|(_, (content, _))| content.len());
    let largest = largest.map_or_else(String::new, |(path, (content, _))| {
        format!("; the largest is {path} with {} bytes", content.len())
    });
    ExpectedError::BadInput(format!(
        "the program has more than {} MiB of files, or more than {MAX_PROGRAM_FILES} files{largest}: data and weights \
         belong in the data directory of the workers",
        MAX_ARCHIVE_BYTES >> 20
    ))
}
