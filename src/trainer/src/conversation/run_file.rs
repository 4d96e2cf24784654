//! One trial from a file, for debugging: no coordinator, no worker, progress as text, the result as
//! JSON.
//!
//! The file holds a `TrialSpec` in JSON. stdout gets only the result; stderr shows progress. Next:
//! session.rs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use sweep::handoff::{Progress, RunRequest};
use sweep::{AttemptNo, TrialSpec};

use crate::attempt::AttemptEnd;
use crate::attempt::slot::SlotOptions;
use crate::conversation::serve::Runner;
use crate::conversation::session::Session;
use crate::device::process;

pub struct RunOptions {
    pub file: PathBuf,
    pub data_dir: PathBuf,
    pub cache_dir: PathBuf,
    /// Folder of checkpoints; absent: a temporary one, removed at the end.
    pub checkpoint_dir: Option<PathBuf>,
}

/// Exit code when the trial failed, as opposed to the command.
const TRIAL_FAILED: u8 = 3;

pub fn run_file(options: &RunOptions, session: SlotOptions) -> anyhow::Result<ExitCode> {
    let file = options.file.display();
    let text =
        std::fs::read_to_string(&options.file).with_context(|| format!("cannot read {file}"))?;
    let spec: TrialSpec = serde_json::from_str(&text)
        .with_context(|| format!("{file} is not a trial specification"))?;
    let temporary = tempfile::tempdir().context("cannot make a temporary folder")?;
    let request = RunRequest {
        keep: Default::default(),
        attempt: spec.id().attempt(AttemptNo(1)),
        since: AttemptNo::first(),
        num_epochs: spec.num_epochs(),
        spec,
        data_dir: options.data_dir.clone(),
        allowed_paths: None,
        cache_dir: options.cache_dir.clone(),
        checkpoint_dir: options
            .checkpoint_dir
            .clone()
            .unwrap_or_else(|| temporary.path().join("checkpoints")),
    };
    let devices = session
        .devices
        .describe(request.spec.settings.replicas as usize)
        .join(", ");
    eprintln!(
        "trial {}: {} epochs on {devices}",
        request.attempt.trial,
        request.spec.num_epochs()
    );
    let mut printed = u32::MAX;
    let mut report = |progress: Progress| {
        if progress.epoch != printed {
            printed = progress.epoch;
            eprintln!("{}", line(&progress));
        }
    };
    match Session::new(session).run(&request, &Arc::new(AtomicBool::new(false)), &mut report) {
        Ok(AttemptEnd::Finished(result)) => {
            process::print(&serde_json::to_string_pretty(&result)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(AttemptEnd::Stopped) => unreachable!("a stop is never requested"),
        Err(error) => {
            let failure = error.failure();
            eprintln!("error: {}: {}", failure.class, failure.message);
            Ok(ExitCode::from(TRIAL_FAILED))
        }
    }
}

fn line(progress: &Progress) -> String {
    let mut line = format!("epoch {:>4}/{}", progress.epoch, progress.num_epochs);
    if let Some(loss) = progress.train_loss {
        line += &format!("  loss {loss:.4}");
    }
    if let Some(accuracy) = progress.accuracy {
        line += &format!("  accuracy {:.2} %", 100.0 * accuracy);
    }
    format!("{line}  {:.0} images/s", progress.images_per_s)
}
