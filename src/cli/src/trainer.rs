//! Finds the trainer's executable, which is a separate program because only it needs libtorch.

use std::path::{Path, PathBuf};

use crate::exit::ExpectedError;
use crate::libtorch;

const NAME: &str = "orchestrator-trainer";

/// A trainer's executable, and the program that it is.
#[derive(Debug)]
pub struct Found {
    pub path: PathBuf,
    pub program: sweep::Trainer,
}

/// A trainer that can be started.
#[derive(Debug)]
pub struct Ready {
    pub path: PathBuf,
    pub program: sweep::Trainer,
    /// The libtorch of the built-in one.
    pub libtorch: Option<libtorch::Found>,
}

impl Ready {
    /// Returns where its libraries are, if it does not find them by itself.
    pub fn libraries(&self) -> Option<PathBuf> {
        self.libtorch.as_ref()?.path_to_set()
    }
}

/// Returns the trainer of `find`, with libtorch for the built-in one. Another program finds its
/// own libraries.
pub fn ready(named: Option<&Path>) -> Result<Ready, ExpectedError> {
    let Found { path, program } = find(named)?;
    let libtorch = match program.is_built_in() {
        true => Some(libtorch::find(&path)?),
        false => None,
    };
    Ok(Ready {
        path,
        program,
        libtorch,
    })
}

/// Does the same for a worker of one sweep: one with a program needs no trainer, and no libtorch.
pub fn ready_for(sweep: &sweep::Sweep, named: Option<&Path>) -> Result<Ready, ExpectedError> {
    match ready(named) {
        Err(_) if sweep.program.is_some() => Ok(none()),
        ready => ready,
    }
}

/// The trainer of a worker that only runs the programs of sweeps. No trial asks for it.
fn none() -> Ready {
    let program = sweep::Program {
        name: "none".to_owned(),
        hash: "0".to_owned(),
    };
    Ready {
        path: PathBuf::new(),
        program: sweep::Trainer::Foreign(program.into()),
        libtorch: None,
    }
}

/// Returns the named executable, or else the one beside this program.
pub fn find(named: Option<&Path>) -> Result<Found, ExpectedError> {
    let path = locate(named)?;
    let program = match named {
        Some(_) => {
            let own = std::env::current_exe()
                .ok()
                .map(|program| program.with_file_name(NAME));
            worker::executable::identify(&path, own.as_deref())
                .map_err(ExpectedError::file("read", &path))?
        }
        None => sweep::Trainer::BuiltIn,
    };
    Ok(Found { path, program })
}

fn locate(named: Option<&Path>) -> Result<PathBuf, ExpectedError> {
    match named {
        Some(path) => {
            let path = std::path::absolute(path).map_err(ExpectedError::file("find", path))?;
            check(&path).map_err(|reason| {
                let message = format!(
                    "`{}` {reason}; --trainer or ORCHESTRATOR_TRAINER named it",
                    path.display()
                );
                ExpectedError::NoTrainer(message)
            })?;
            Ok(path)
        }
        None => {
            let program =
                std::env::current_exe().map_err(ExpectedError::file("find", "this program"))?;
            let path = program.with_file_name(NAME);
            check(&path).map_err(|reason| {
                let message = format!(
                    "`{}` {reason}; `make build` builds it beside `orchestrator`, or name one with --trainer or ORCHESTRATOR_TRAINER",
                    path.display()
                );
                ExpectedError::NoTrainer(message)
            })?;
            Ok(path)
        }
    }
}

fn check(path: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        _ => format!("cannot be examined: {error}"),
    })?;
    if !metadata.is_file() {
        return Err("is not a file".to_owned());
    }
    nix::unistd::access(path, nix::unistd::AccessFlags::X_OK)
        .map_err(|_| "is not executable".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_named_trainer_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("trainer");
        let error = |path: &Path| find(Some(path)).unwrap_err().to_string();
        assert!(
            error(&file).contains("does not exist; --trainer"),
            "{}",
            error(&file)
        );
        assert!(error(dir.path()).contains("is not a file"));
        std::fs::write(&file, "").unwrap();
        assert!(error(&file).contains("is not executable"));
    }
}
