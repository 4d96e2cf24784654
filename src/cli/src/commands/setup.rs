//! `orchestrator setup`: makes libtorch available to the trainer. Does nothing where the trainer has
//! it already: in a build from source, in a bundle, and beside the right torch of a Python
//! environment.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use worker::devices::Inventory;

use super::data::Progress;
use crate::args::SetupArgs;
use crate::exit::{ExpectedError, Outcome};
use crate::libtorch::install::{Source, install};
use crate::libtorch::pins::{Kind, version};
use crate::libtorch::{self, Origin, index};
use crate::output::{Output, SCHEMA};
use crate::stderr;
use crate::trainer;

pub fn setup(arguments: &SetupArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let trainer = trainer::find(None)?.path;
    let kind = wanted(arguments);
    let serves = |found: &libtorch::Found| found.kind() == Kind::Cuda || kind == Kind::Cpu;
    let is_elsewhere = |found: &libtorch::Found| {
        let dir = arguments.dir.as_ref();
        found.origin == Origin::Fetched && dir.is_some_and(|dir| !found.libraries.starts_with(dir))
    };
    let found = match libtorch::find(&trainer) {
        // Another one would not be used: the dynamic loader asks the trainer first.
        Ok(found) if found.origin == Origin::Own && !serves(&found) && arguments.cuda => {
            return Err(ExpectedError::BadInput(format!(
                "{} belongs to the trainer and is the kind without CUDA: take the archive for CUDA, or build with \
                 ORCHESTRATOR_CUDA=1",
                found.libraries.display()
            )));
        }
        Ok(found) if found.origin == Origin::Own => found,
        Ok(found) if serves(&found) && !is_elsewhere(&found) => found,
        Ok(_) | Err(ExpectedError::NoLibtorch) if arguments.check => {
            return Err(ExpectedError::NoLibtorch);
        }
        Ok(_) | Err(ExpectedError::NoLibtorch) => {
            let target = target(arguments, kind)?;
            let mut progress = Progress::default();
            let installed = install(kind, &target, || source(arguments), &mut |step| {
                progress.at(step)
            });
            progress.finish();
            installed?;
            libtorch::Found {
                libraries: target.join("torch/lib"),
                origin: Origin::Fetched,
            }
        }
        Err(error) => return Err(error),
    };
    check(&trainer, &found)?;
    let kind = found.kind();
    let place = found.libraries.display().to_string();
    output.print(
        || {
            let origin = match found.origin {
                Origin::Own => "the trainer's own",
                Origin::Environment => "that of this Python environment",
                Origin::Fetched => "fetched",
            };
            format!("libtorch {} ({kind}) is ready in {place}: {origin}\n", version())
        },
        || json!({ "schema": SCHEMA, "libtorch": version(), "kind": kind.to_string(), "libraries": place }),
    )?;
    if found.origin == Origin::Fetched && libtorch::named().is_none() && arguments.dir.is_some() {
        stderr::print(&format!(
            "note: commands look there only with {}={}",
            libtorch::VARIABLE,
            target(arguments, kind)?.display()
        ));
    }
    Ok(Outcome::Complete)
}

fn wanted(arguments: &SetupArgs) -> Kind {
    let has_driver = || {
        Path::new("/proc/driver/nvidia/version").exists() || !Inventory::detect().gpus.is_empty()
    };
    if arguments.cuda || (!arguments.cpu && has_driver()) {
        Kind::Cuda
    } else {
        Kind::Cpu
    }
}

fn target(arguments: &SetupArgs, kind: Kind) -> Result<PathBuf, ExpectedError> {
    match arguments.dir.clone() {
        Some(dir) => std::path::absolute(&dir).map_err(ExpectedError::file("find", &dir)),
        None => libtorch::default_dir(kind),
    }
}

fn source(arguments: &SetupArgs) -> Result<Source, ExpectedError> {
    match &arguments.from {
        Some(folder) => Ok(Source::Folder(folder.clone())),
        None => index::choose(arguments.index.as_deref()).map(Source::Index),
    }
}

/// Starts the trainer once. All its symbols are resolved at the start, so that a libtorch with
/// another ABI is found now.
fn check(trainer: &Path, found: &libtorch::Found) -> Result<(), ExpectedError> {
    let mut command = Command::new(trainer);
    command.arg("--version").stdin(Stdio::null());
    if let Some(libraries) = found.path_to_set() {
        command.env("LD_LIBRARY_PATH", worker::library_path(&libraries));
    }
    let answer = command
        .output()
        .map_err(ExpectedError::file("start", trainer))?;
    if answer.status.success() {
        return Ok(());
    }
    Err(ExpectedError::NoTrainer(format!(
        "`{}` does not start with the libtorch in {}: {}",
        trainer.display(),
        found.libraries.display(),
        String::from_utf8_lossy(&answer.stderr).trim()
    )))
}
