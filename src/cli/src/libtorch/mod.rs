//! The libtorch that the trainer runs with.
//!
//! A trainer that was built from source, or that lies in a bundle, finds its libraries by itself.
//! That of a wheel is started with the path of libtorch: the torch of the same Python environment,
//! or what `orchestrator setup` fetched (install.rs, from the index of index.rs, what pins.rs lists).

pub mod index;
pub mod install;
pub mod pins;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use launch::ssh::push::Copied;
use pins::{Kind, version};

use crate::cache_dir;
use crate::exit::ExpectedError;

/// A folder with a libtorch for this program, in place of the cache.
pub const VARIABLE: &str = "ORCHESTRATOR_LIBTORCH";

/// Libraries that a trainer starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The folder of libtorch's libraries.
    pub libraries: PathBuf,
    pub origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The trainer finds it by itself.
    Own,
    /// The torch of the Python environment that this program was installed into.
    Environment,
    /// Fetched by `orchestrator setup`.
    Fetched,
}

impl Found {
    /// Returns the folder for the path of a trainer that does not find it by itself.
    pub fn path_to_set(&self) -> Option<PathBuf> {
        (self.origin != Origin::Own).then(|| self.libraries.clone())
    }

    pub fn kind(&self) -> Kind {
        match self.libraries.join("libtorch_cuda.so").exists() {
            true => Kind::Cuda,
            false => Kind::Cpu,
        }
    }
}

/// Finds the libtorch of the built-in trainer.
pub fn find(trainer: &Path) -> Result<Found, ExpectedError> {
    if let Loading::Complete(libraries) = loading(trainer, None)? {
        return Ok(Found {
            // a bundle's is `bin/../lib`
            libraries: libraries.canonicalize().unwrap_or(libraries),
            origin: Origin::Own,
        });
    }
    for (folder, origin) in candidates() {
        let libraries = folder.join("torch/lib");
        if libraries.is_dir()
            && let Loading::Complete(libraries) = loading(trainer, Some(&libraries))?
        {
            return Ok(Found { libraries, origin });
        }
    }
    Err(ExpectedError::NoLibtorch)
}

/// Folders that may hold a libtorch of the right version, the preferred ones first: what serves
/// GPUs serves CPUs too.
fn candidates() -> Vec<(PathBuf, Origin)> {
    if let Some(named) = named() {
        return vec![(named, Origin::Fetched)];
    }
    let environment = prefix()
        .map(|prefix| site_packages(&prefix))
        .unwrap_or_default();
    let mut candidates: Vec<_> = environment
        .into_iter()
        .filter(|site| is_right_torch(site))
        .map(|site| (site, Origin::Environment))
        .collect();
    for kind in [Kind::Cuda, Kind::Cpu] {
        candidates.extend(default_dir(kind).ok().map(|dir| (dir, Origin::Fetched)));
    }
    candidates.sort_by_key(|(folder, _)| !folder.join("torch/lib/libtorch_cuda.so").exists());
    candidates
}

/// Returns the folder that the user named for libtorch.
pub fn named() -> Option<PathBuf> {
    std::env::var_os(VARIABLE)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// Returns the folder in the user's cache where a kind of libtorch is kept.
pub fn default_dir(kind: Kind) -> Result<PathBuf, ExpectedError> {
    Ok(cache_dir::default()?.join(folder_name(kind)))
}

fn folder_name(kind: Kind) -> String {
    format!("libtorch-{}-{kind}", version())
}

/// Returns the files of the trainer's libtorch that another machine needs, for the folder where
/// `orchestrator setup` would put them; `None` if there is no libtorch here.
pub fn to_copy(trainer: &Path) -> Result<Option<Copied>, ExpectedError> {
    let found = match find(trainer) {
        Ok(found) => found,
        Err(ExpectedError::NoLibtorch) => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(root) = found.libraries.ancestors().nth(2) else {
        return Ok(None);
    };
    let kind = found.kind();
    // Other packages of a Python environment lie beside it.
    let licences = kind.pins().into_iter().map(|pin| {
        let name = pin.name.replace('-', "_");
        format!("{name}-{}.dist-info", pin.version)
    });
    let parts = ["torch/lib", "nvidia"].map(str::to_owned);
    let mut files = Vec::new();
    for part in parts.into_iter().chain(licences) {
        collect(root, Path::new(&part), kind, &mut files)
            .map_err(ExpectedError::file("read", root))?;
    }
    files.sort();
    let has_libtorch = files
        .iter()
        .any(|(name, _)| name.ends_with("libtorch_cpu.so"));
    Ok(has_libtorch.then(|| Copied {
        name: folder_name(kind),
        files,
    }))
}

/// Adds the files below `root/folder` that the trainer needs.
fn collect(
    root: &Path,
    folder: &Path,
    kind: Kind,
    files: &mut Vec<(PathBuf, PathBuf)>,
) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(root.join(folder)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = folder.join(entry.file_name());
        if entry.path().is_dir() {
            collect(root, &name, kind, files)?;
        } else if kind.needs(&name.to_string_lossy()) {
            files.push((name, entry.path()));
        }
    }
    Ok(())
}

/// Returns the folder above `bin`, where this program lies.
fn prefix() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    Some(program.parent()?.parent()?.to_owned())
}

/// Returns what was packed with this program besides its binaries.
pub fn share() -> Option<PathBuf> {
    Some(prefix()?.join("share/orchestrator"))
}

/// Returns the folders of installed Python packages below the prefix of an environment.
fn site_packages(prefix: &Path) -> Vec<PathBuf> {
    let folders = ["lib", "lib64"].map(|lib| prefix.join(lib));
    let versions = folders
        .iter()
        .filter_map(|lib| std::fs::read_dir(lib).ok())
        .flat_map(|entries| entries.flatten())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"));
    let mut found: Vec<_> = versions
        .flat_map(|entry| ["site-packages", "dist-packages"].map(|name| entry.path().join(name)))
        .filter(|site| site.join("torch/version.py").is_file())
        .collect();
    found.sort();
    found
}

/// Returns true if the torch in a folder of Python packages is of the pinned version; `+cpu` and
/// the like do not matter.
fn is_right_torch(site: &Path) -> bool {
    let text = std::fs::read_to_string(site.join("torch/version.py")).unwrap_or_default();
    let found = text.lines().find_map(|line| {
        let value = line.strip_prefix("__version__")?.trim_start();
        Some(value.strip_prefix('=')?.trim().trim_matches(['\'', '"']))
    });
    found.is_some_and(|found| found.split('+').next() == Some(version()))
}

/// The answer of the dynamic loader.
#[derive(Debug, PartialEq, Eq)]
enum Loading {
    /// Every library is there; the folder is that of libtorch.
    Complete(PathBuf),
    Incomplete,
}

/// Asks the dynamic loader which libraries the trainer would be started with. Starts nothing.
fn loading(trainer: &Path, libraries: Option<&Path>) -> Result<Loading, ExpectedError> {
    let mut command = Command::new(trainer);
    command
        .env("LD_TRACE_LOADED_OBJECTS", "1")
        .stdin(Stdio::null());
    if let Some(libraries) = libraries {
        command.env("LD_LIBRARY_PATH", worker::library_path(libraries));
    }
    let answer = command.output().map_err(|error| {
        ExpectedError::NoTrainer(format!(
            "`{}` cannot be started: {error}",
            trainer.display()
        ))
    })?;
    let text =
        [answer.stdout, answer.stderr].map(|part| String::from_utf8_lossy(&part).into_owned());
    understand(&text.concat()).map_err(|reason| {
        ExpectedError::NoTrainer(format!(
            "`{}` cannot run on this machine: {reason}",
            trainer.display()
        ))
    })
}

fn understand(answer: &str) -> Result<Loading, String> {
    let mut libtorch = PathBuf::new();
    for line in answer.lines().map(str::trim) {
        if line.contains(": version `") && line.contains("not found") {
            // PROGRAM: LIBRARY: version `GLIBC_2.28' not found (required by PROGRAM)
            let reason = line.split_once(": ").map_or(line, |(_, rest)| rest);
            return Err(reason.to_owned());
        }
        let Some((name, place)) = line.split_once(" => ") else {
            continue;
        };
        if place == "not found" {
            return Ok(Loading::Incomplete);
        }
        if name == "libtorch_cpu.so" {
            let path = place.rsplit_once(" (").map_or(place, |(path, _)| path);
            libtorch = Path::new(path).parent().unwrap_or(Path::new("")).to_owned();
        }
    }
    Ok(Loading::Complete(libtorch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_answer_is_understood() {
        let complete = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibtorch_cpu.so => /a b/torch/lib/libtorch_cpu.so (0x0001)\n\
                        \tlibc.so.6 => /lib/libc.so.6 (0x0002)\n";
        assert_eq!(
            understand(complete),
            Ok(Loading::Complete("/a b/torch/lib".into()))
        );
        let missing = complete.replace("/lib/libc.so.6 (0x0002)", "not found");
        assert_eq!(understand(&missing), Ok(Loading::Incomplete));
        let old = "/x/bin/orchestrator-trainer: /lib/libc.so.6: version `GLIBC_2.28' not found (required by /x/bin/orchestrator-trainer)\n";
        assert_eq!(
            understand(&format!("{old}{complete}")).unwrap_err(),
            "/lib/libc.so.6: version `GLIBC_2.28' not found (required by /x/bin/orchestrator-trainer)"
        );
    }

    #[test]
    fn what_a_host_needs_is_copied_and_nothing_else_of_an_environment() {
        let place = tempfile::tempdir().unwrap();
        let licence = format!("torch-{}.dist-info/licenses/LICENSE", version());
        for name in [
            "torch/lib/libtorch_cpu.so",
            "torch/lib/libtorch_python.so",
            "torch/lib/libc10.so",
            "torch/nn/functional.py",
            &licence,
            "numpy-2.0.dist-info/METADATA",
        ] {
            let path = place.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let mut files = Vec::new();
        for part in ["torch/lib", "nvidia", licence.split('/').next().unwrap()] {
            collect(place.path(), Path::new(part), Kind::Cpu, &mut files).unwrap();
        }
        let mut names: Vec<_> = files
            .iter()
            .map(|(name, _)| name.to_str().unwrap())
            .collect();
        names.sort_unstable();
        let expected = [
            &*licence,
            "torch/lib/libc10.so",
            "torch/lib/libtorch_cpu.so",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_torch_of_another_version_is_not_used() {
        let place = tempfile::tempdir().unwrap();
        let site = place.path().join("lib/python3.12/site-packages");
        std::fs::create_dir_all(site.join("torch")).unwrap();
        assert_eq!(site_packages(place.path()), Vec::<PathBuf>::new());
        for (text, expected) in [
            (
                format!("__version__ = '{}+cpu'\ndebug = False\n", version()),
                true,
            ),
            (format!("__version__ = \"{}\"\n", version()), true),
            ("__version__ = '2.10.0'\n".to_owned(), false),
            ("from somewhere import *\n".to_owned(), false),
        ] {
            std::fs::write(site.join("torch/version.py"), &text).unwrap();
            assert_eq!(site_packages(place.path()), std::slice::from_ref(&site));
            assert_eq!(is_right_torch(&site), expected, "{text}");
        }
    }
}
