//! A trainer's life over many trials: what it keeps from one to the next.
//!
//! The last trial's decoded data set is kept, because the next one usually needs the same.
//! libtorch's allocator and compiled primitives, the OpenMP threads and this thread persist without
//! further work. Next: attempt/mod.rs.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use data::files::Reach;
use data::{Dataset, OpenRequest};
use sweep::Settings;
use sweep::handoff::{Progress, RunRequest};
use sweep::settings::{Corrupt, Model};

use crate::attempt::inputs;
use crate::attempt::slot::SlotOptions;
use crate::attempt::{self, AttemptEnd, Inputs};
use crate::conversation::serve::Runner;
use crate::device::process;
use crate::error::TrialError;
use crate::step::images::ResidentSets;

pub struct Session {
    slot: Arc<SlotOptions>,
    kept: Option<(DatasetKey, Arc<Dataset>)>,
    /// Size of the previous trial.
    size: Option<TrialSize>,
    resident: Arc<ResidentSets>,
}

/// Settings that determine how much memory a trial takes, apart from its data set.
#[derive(Clone, Debug, PartialEq)]
struct TrialSize {
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
    pub fn new(slot: SlotOptions) -> Self {
        let resident = Arc::new(ResidentSets::new(slot.memory_share));
        Self {
            slot: Arc::new(slot),
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
    ) -> Result<AttemptEnd, TrialError> {
        let requested_at = Instant::now();
        self.forget_memory_of_other_trials(&request.spec.settings);
        let dataset = self.dataset(request)?;
        let inputs = Inputs {
            hashes: inputs::check(request, &dataset)?,
            dataset,
            resident: self.resident.clone(),
        };
        attempt::run(&self.slot, request, inputs, requested_at, stop, report)
    }
}

impl Session {
    /// Frees memory kept by a previous trial of another size, because peak memory is reported per
    /// trial.
    fn forget_memory_of_other_trials(&mut self, settings: &Settings) {
        let size = TrialSize {
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
        self.slot.devices.reset_peak_memory();
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
