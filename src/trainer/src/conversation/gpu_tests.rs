//! Whole trials on a GPU, through the session that a worker uses; ignored by default, because they
//! need a GPU.
//!
//! bench/README.md explains how to run them. The data are the digits in the program. Next:
//! attempt/mod.rs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sweep::handoff::{Progress, RunRequest};
use sweep::record::{EpochRecord, TrialResult};
use sweep::settings::{Init, Model, SamplesPerClass, Schedule};
use sweep::{AttemptNo, Settings, TrialSpec};

use crate::attempt::AttemptEnd;
use crate::attempt::slot::SlotOptions;
use crate::conversation::serve::Runner;
use crate::conversation::session::Session;
use crate::device::DeviceSet;
use crate::device::shim;
use crate::error::TrialError;
use crate::step::cuda_graph_steps::Policy;

const NUM_EPOCHS: u32 = 4;

fn session(indices: &[usize], recording: Policy) -> Session {
    let devices = DeviceSet::Cuda {
        indices: indices.to_vec(),
    };
    devices.check_present().unwrap();
    crate::device::process::fix_cublas_workspace();
    Session::new(SlotOptions {
        devices,
        fault: None,
        checkpoint_interval: Duration::ZERO,
        report_interval: Duration::ZERO,
        collective_deadline: Duration::from_secs(60),
        data_threads: 1,
        recording,
        memory_share: 1.0,
        weights_out: None,
    })
}

fn spec(settings: Settings) -> TrialSpec {
    TrialSpec::new(settings, 3)
}

/// Settings with all image operations of a device, and kernels that give the same bits in every
/// run.
fn digits() -> Settings {
    let settings = sweep::recipe::settings("quick", "digits").expect("a recipe");
    Settings {
        samples_per_class: SamplesPerClass::Count(50),
        batch_size: 32,
        shift: 0.1,
        erase: true,
        schedule: Schedule::Cosine { epochs: NUM_EPOCHS },
        deterministic: true,
        ..settings
    }
}

fn request(spec: &TrialSpec, attempt: u32, folder: &Path) -> RunRequest {
    RunRequest {
        keep: Default::default(),
        attempt: spec.id().attempt(AttemptNo(attempt)),
        since: AttemptNo::first(),
        num_epochs: spec.num_epochs(),
        spec: spec.clone(),
        data_dir: folder.join("data"),
        allowed_paths: None,
        cache_dir: folder.join("cache"),
        checkpoint_dir: folder.join("checkpoints"),
    }
}

fn run(session: &mut Session, spec: &TrialSpec) -> Result<TrialResult, TrialError> {
    let folder = tempfile::tempdir().unwrap();
    match session.run(
        &request(spec, 1, folder.path()),
        &Arc::default(),
        &mut |_| (),
    )? {
        AttemptEnd::Finished(result) => Ok(*result),
        AttemptEnd::Stopped => panic!("no stop was requested"),
    }
}

fn chain(result: &TrialResult) -> Vec<&EpochRecord> {
    result.epochs.iter().collect()
}

/// Promise P6 on a GPU, with and without CUDA graphs.
#[test]
#[ignore = "needs a GPU"]
fn a_trial_gives_the_same_bits_recorded_queued_and_interrupted() {
    let spec = spec(digits());
    let queued = run(&mut session(&[0], Policy::Never), &spec).unwrap();
    let recorded = run(&mut session(&[0], Policy::Always), &spec).unwrap();
    println!(
        "on {:?}: accuracy {:.3}",
        recorded.provenance.devices, recorded.last_accuracy
    );
    assert_eq!(chain(&queued), chain(&recorded));
    assert_eq!(
        (
            queued.provenance.execution.as_str(),
            recorded.provenance.execution.as_str()
        ),
        ("queued: on request", "recorded")
    );
    assert!(
        recorded.provenance.devices[0].starts_with("cuda:0 ("),
        "{:?}",
        recorded.provenance.devices
    );
    assert!(recorded.last_accuracy > 0.5, "{}", recorded.last_accuracy);
    let folder = tempfile::tempdir().unwrap();
    let mut interrupted = session(&[0], Policy::Always);
    for attempt in 1.. {
        let stop = Arc::new(AtomicBool::new(false));
        let mut report = |progress: Progress| stop.store(progress.step >= 7, Ordering::Relaxed);
        if let AttemptEnd::Finished(result) = interrupted
            .run(&request(&spec, attempt, folder.path()), &stop, &mut report)
            .unwrap()
        {
            assert!(attempt > 2, "it was hardly interrupted");
            assert_eq!(chain(&result), chain(&queued));
            return;
        }
    }
}

/// Two replicas over NCCL and on one GPU: sums of two have the same bits in either order.
#[test]
#[ignore = "needs two GPUs"]
fn two_gpus_give_the_bits_of_two_replicas_on_one() {
    let spec = spec(Settings {
        replicas: 2,
        ..digits()
    });
    let apart = run(&mut session(&[0, 1], Policy::Always), &spec).unwrap();
    let together = run(&mut session(&[0], Policy::Always), &spec).unwrap();
    assert_eq!(chain(&apart), chain(&together));
    let executions = [&apart, &together].map(|result| result.provenance.execution.as_str());
    assert_eq!(executions, ["recorded", "queued: replicas share a device"]);
    assert_eq!(
        (
            apart.provenance.devices.len(),
            together.provenance.devices.len()
        ),
        (2, 1)
    );
}

/// A batch that needs nearly twice the GPU's memory, at some 180 MiB an image: the batch size in
/// the failure's message fits, and the session continues after the failure.
#[test]
#[ignore = "needs a GPU"]
fn running_out_of_memory_names_a_batch_that_fits() {
    let mut session = session(&[0], Policy::Auto);
    let memory = shim::cuda_memory(0).unwrap();
    let settings = Settings {
        samples_per_class: SamplesPerClass::All,
        model: Model::Resnet50,
        init: Init::Torchvision,
        crop_size: Some(448),
        batch_size: (memory.total >> 20) as u32 / 96,
        schedule: Schedule::Constant { epochs: 1 },
        ..digits()
    };
    let error = run(&mut session, &spec(settings.clone())).unwrap_err();
    println!("{error}");
    let TrialError::OutOfMemory {
        fits: Some(fits), ..
    } = error
    else {
        panic!("{error}")
    };
    let samples_per_class = SamplesPerClass::Count((fits as u32).div_ceil(10));
    let fitting = Settings {
        batch_size: fits as u32,
        samples_per_class,
        ..settings
    };
    let result = run(&mut session, &spec(fitting)).unwrap();
    let energy_j = result.timing.gpu_energy_j;
    assert!(energy_j.is_none_or(|joules| joules > 0.0), "{energy_j:?}");
    println!(
        "a batch of {fits} took {:.0} MiB",
        result.timing.peak_memory_mib
    );
}
