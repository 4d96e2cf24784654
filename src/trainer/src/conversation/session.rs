//! A trainer's life over many trials: what it keeps from one to the next.
//!
//! The last trial's decoded data set is kept, because the next one usually needs the same.
//! libtorch's allocator and compiled primitives, the OpenMP threads and this thread persist without
//! further work. Next: attempt/mod.rs.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use data::files::Reach;
use data::{Dataset, OpenRequest};
use sweep::Settings;
use sweep::handoff::{Progress, RunRequest};
use sweep::settings::{Corrupt, Model};

use crate::attempt::fault::Fault;
use crate::attempt::inputs;
use crate::attempt::{self, Outcome, Surroundings};
use crate::conversation::serve::Runner;
use crate::device::DeviceSet;
use crate::device::process;
use crate::error::TrialError;
use crate::step::cuda_graph_steps::Policy;
use crate::step::images::ResidentSets;

/// Settings that do not change from trial to trial.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    pub devices: DeviceSet,
    pub fault: Option<Fault>,
    pub checkpoint_interval: Duration,
    /// See `leader::Duties`.
    pub report_interval: Duration,
    pub collective_deadline: Duration,
    pub data_threads: usize,
    /// Policy for recording steps on a GPU.
    pub recording: Policy,
    /// Largest share of a GPU's memory to take.
    pub memory_share: f64,
    /// Path for the weights of a finished trial.
    pub weights_out: Option<PathBuf>,
}

pub struct Session {
    options: SessionOptions,
    kept: Option<(DatasetKey, Arc<Dataset>)>,
    /// Size of the previous trial.
    size: Option<Size>,
    resident: Arc<ResidentSets>,
}

/// Settings that determine how much memory a trial takes, apart from its data set.
#[derive(Clone, Debug, PartialEq)]
struct Size {
    model: Model,
    batch_size: u32,
    crop_size: Option<u32>,
}

/// Settings that determine a data set's pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DatasetKey {
    dataset: String,
    resize: Option<u32>,
    test_resize: Option<u32>,
    data_dir: PathBuf,
    allowed_paths: Option<Vec<PathBuf>>,
    cache_dir: PathBuf,
    corrupt: Corrupt,
    smoke: bool,
}

impl Session {
    pub fn new(options: SessionOptions) -> Self {
        let resident = Arc::new(ResidentSets::new(options.memory_share));
        Self {
            options,
            kept: None,
            size: None,
            resident,
        }
    }
}

impl Runner for Session {
    /// Runs one attempt until it ends or is stopped.
    fn run(
        &mut self,
        request: &RunRequest,
        stop: &Arc<AtomicBool>,
        report: &mut dyn FnMut(Progress),
    ) -> Result<Outcome, TrialError> {
        let requested_at = Instant::now();
        self.forget_memory_of_other_trials(&request.spec.settings);
        let dataset = self.dataset(request)?;
        let inputs = inputs::check(request, &dataset)?;
        let around = Surroundings {
            devices: &self.options.devices,
            dataset,
            inputs,
            resident: &self.resident,
            requested_at,
            stop,
            fault: self.options.fault,
            checkpoint_interval: self.options.checkpoint_interval,
            report_interval: self.options.report_interval,
            collective_deadline: self.options.collective_deadline,
            data_threads: self.options.data_threads,
            recording: self.options.recording,
            memory_share: self.options.memory_share,
            weights_out: self.options.weights_out.clone(),
        };
        attempt::run(request, &around, report)
    }
}

impl Session {
    /// Frees memory kept by a previous trial of another size, because peak memory is reported per
    /// trial.
    fn forget_memory_of_other_trials(&mut self, settings: &Settings) {
        let size = Size {
            model: settings.model,
            batch_size: settings.batch_size,
            crop_size: settings.crop_size,
        };
        if self
            .size
            .replace(size.clone())
            .is_some_and(|before| before != size)
        {
            process::give_back_freed_memory();
        }
        self.options.devices.reset_peak_memory();
    }

    fn dataset(&mut self, request: &RunRequest) -> Result<Arc<Dataset>, TrialError> {
        let settings = &request.spec.settings;
        let key = DatasetKey {
            dataset: settings.dataset.clone(),
            resize: settings.resize,
            test_resize: settings.test_resize,
            data_dir: request.data_dir.clone(),
            allowed_paths: request.allowed_paths.clone(),
            cache_dir: request.cache_dir.clone(),
            corrupt: settings.corrupt,
            smoke: request.spec.smoke,
        };
        if let Some((known, dataset)) = &self.kept
            && *known == key
            && inputs::is_wanted(request, dataset)
        {
            return Ok(dataset.clone());
        }
        // two data sets are never needed in memory at once
        self.kept = None;
        let open = OpenRequest {
            dataset: &key.dataset,
            resize: key.resize,
            test_resize: key.test_resize,
            reach: Reach {
                data_dir: &key.data_dir,
                allowed: key.allowed_paths.as_deref(),
            },
            cache_dir: &key.cache_dir,
            corrupt: key.corrupt,
            smoke: key.smoke,
        };
        let dataset = Arc::new(data::open(&open, &|_, _| ())?);
        self.kept = Some((key, dataset.clone()));
        Ok(dataset)
    }
}
