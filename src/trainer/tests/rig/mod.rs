//! Sessions on one thread of the CPU, and requests with all their files in one folder.

// Each file of tests uses a part.
#![allow(dead_code)]

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sweep::handoff::RunRequest;
use sweep::record::TrialResult;
use sweep::{AttemptNo, TrialSpec};
use trainer::{AttemptEnd, DeviceSet, Policy, Runner, Session, SlotOptions};

/// Options of a slot that writes no checkpoint before the end.
pub fn options() -> SlotOptions {
    SlotOptions {
        devices: DeviceSet::Cpu { num_threads: 1 },
        fault: None,
        checkpoint_interval: Duration::from_secs(3600),
        report_interval: Duration::from_secs(3600),
        collective_deadline: Duration::from_secs(300),
        data_threads: 0,
        recording: Policy::Auto,
        memory_share: 1.0,
        weights_out: None,
    }
}

pub fn request(spec: &TrialSpec, attempt: u32, folder: &Path) -> RunRequest {
    RunRequest {
        keep: Default::default(),
        attempt: spec.id().attempt(AttemptNo(attempt)),
        since: AttemptNo::first(),
        num_epochs: spec.num_epochs(),
        spec: spec.clone(),
        data_dir: folder.join("data"),
        allowed_paths: None,
        cache_dir: folder.join("cache"),
        checkpoint_dir: checkpoints(spec, folder),
    }
}

/// Returns the folder that `request` names for a trial's checkpoints and kept files.
pub fn checkpoints(spec: &TrialSpec, folder: &Path) -> PathBuf {
    folder.join(spec.id().to_string())
}

/// Runs an attempt that must finish.
pub fn finish(session: &mut Session, request: &RunRequest) -> TrialResult {
    finished(session.run(request, &Arc::default(), &mut |_| ()))
}

pub fn finished<E: Debug>(end: Result<AttemptEnd, E>) -> TrialResult {
    match end.expect("the attempt finishes") {
        AttemptEnd::Finished(result) => *result,
        AttemptEnd::Stopped => panic!("no stop was requested"),
    }
}
