//! Kinds of training whose steps take the same time, each with a short trial to time it by: what
//! `plan --time` measures.

use std::collections::BTreeMap;

use crate::cost::work;
use crate::dataset::{self, Counts};
use crate::definition::Sweep;
use crate::held_out::Holdout;
use crate::settings::{SamplesPerClass, Schedule, Settings};
use crate::trial::{TrialId, TrialSpec};

/// Steps of a short trial, at least.
const STEPS: u32 = 60;
/// Steps of one epoch of it, at most: large data sets are cut to this.
const STEPS_PER_EPOCH: u32 = 30;
const MAX_EPOCHS: u32 = 200;
/// Part of the images on which a short trial is evaluated, in place of the whole test set.
const HOLDOUT: f64 = 0.2;

/// A kind of training, and its share of a sweep.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Network, data set and batch.
    pub name: String,
    /// A short trial of this kind.
    pub sample: TrialSpec,
    /// Work of its training without evaluation, in the unit of `cost`.
    pub sample_work: f64,
    pub trials: usize,
    /// Work of all trials of the sweep that are of this kind, in the same unit.
    pub work: f64,
    /// The same, times the number of devices that each trial occupies.
    pub device_work: f64,
}

impl Sweep {
    /// Returns the kinds of training of a sweep, the one with the most work first. `size` knows the
    /// data sets that were inspected.
    pub fn paces(&self, size: &dyn Fn(&str) -> Option<Counts>) -> Vec<Pace> {
        let mut paces: BTreeMap<String, Pace> = BTreeMap::new();
        let trials = (0..self.cells.len()).flat_map(|cell| self.foreseen_trials(cell));
        let trials: BTreeMap<TrialId, TrialSpec> =
            trials.map(|trial| (trial.id, trial.spec)).collect();
        for spec in trials.into_values() {
            let counts = size(&spec.settings.dataset);
            let work_of_trial = work(&spec, counts).total();
            let name = name(&spec.settings);
            let pace = paces.entry(name.clone()).or_insert_with(|| {
                let sample = sample(&spec, counts);
                Pace {
                    name,
                    sample_work: work(&sample, counts).training,
                    sample,
                    trials: 0,
                    work: 0.0,
                    device_work: 0.0,
                }
            });
            pace.trials += 1;
            pace.work += work_of_trial;
            pace.device_work += work_of_trial * f64::from(spec.settings.replicas);
        }
        let mut paces: Vec<Pace> = paces.into_values().collect();
        paces.sort_by(|a, b| b.work.total_cmp(&a.work));
        paces
    }
}

fn name(settings: &Settings) -> String {
    let side = match (settings.crop_size, settings.resize) {
        (Some(side), _) | (None, Some(side)) => format!(" at {side} px"),
        (None, None) => String::new(),
    };
    let replicas = match settings.replicas {
        1 => String::new(),
        replicas => format!(" on {replicas} devices"),
    };
    let fields = settings.fields();
    let model = fields["model"].as_str().unwrap_or_default();
    let (dataset, batch) = (&settings.dataset, settings.batch_size);
    format!("{model} on {dataset}{side}, batches of {batch}{replicas}")
}

/// Shortens a trial, so that it makes enough steps to be timed and few more.
fn sample(spec: &TrialSpec, counts: Option<Counts>) -> TrialSpec {
    let mut settings = spec.settings.clone();
    let known = dataset::find(&settings.dataset).map(|known| known.counts);
    let batch = settings.batch_size;
    let (mut per_class, mut classes) = match settings.samples_per_class {
        SamplesPerClass::Count(count) => (count, 1),
        SamplesPerClass::All => (u32::MAX, 1),
    };
    if let Some(counts) = counts.or(known) {
        classes = counts.num_classes.max(1);
        let enough = (STEPS_PER_EPOCH * batch).div_ceil(classes).max(2);
        let fewest = counts.per_class.fewest.max(2);
        per_class = per_class.min(enough).min(fewest);
        settings.samples_per_class = SamplesPerClass::Count(per_class);
    }
    if per_class > 1 {
        settings.holdout = Some(Holdout::Fraction(HOLDOUT));
    }
    settings.repeats = 1;
    let images = f64::from(per_class) * f64::from(classes) * (1.0 - HOLDOUT);
    let steps = (images / f64::from(batch))
        .ceil()
        .clamp(1.0, f64::from(STEPS));
    let epochs = (f64::from(STEPS) / steps).ceil() as u32;
    settings.schedule = Schedule::Constant {
        epochs: epochs.clamp(2, MAX_EPOCHS),
    };
    TrialSpec {
        settings,
        ..spec.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paces(text: &str) -> Vec<Pace> {
        let sweep = crate::parse("paces.yaml", text, &|_| Err(std::io::Error::other("none")));
        sweep.unwrap().paces(&|_| None)
    }

    #[test]
    fn trainings_of_one_speed_are_timed_once_by_a_short_trial() {
        let paces = paces(
            "name: p\nrecipe: quick\nset: {dataset: digits}\naxes: {loss: [xent, cos], model: [resnet-8, resnet-20], \
             samples_per_class: [5, 20]}\nseeds: 3\noutputs: [{table: {name: t, rows: [loss, model], columns: samples_per_class}}]\n",
        );
        let kinds: Vec<_> = paces
            .iter()
            .map(|pace| (&*pace.name, pace.trials))
            .collect();
        let (deep, shallow) = (
            "resnet-20 on digits, batches of 32",
            "resnet-8 on digits, batches of 32",
        );
        assert_eq!(kinds, [(deep, 12), (shallow, 12)]);
        for pace in &paces {
            let whole = crate::cost(&pace.sample);
            assert!(pace.sample_work > 0.0 && pace.sample_work < whole && whole < pace.work);
            let epochs = pace.sample.num_epochs();
            assert!((2..=MAX_EPOCHS).contains(&epochs), "{epochs}");
            assert!(pace.sample.settings.holdout.is_some());
        }
    }

    #[test]
    fn a_large_data_set_is_cut_to_a_few_steps() {
        let paces = paces(
            "name: p\nrecipe: paper\nset: {dataset: cifar100}\naxes: {loss: [xent]}\nseeds: 1\n\
             outputs: [{table: {name: t, rows: loss}}]\n",
        );
        let settings = &paces[0].sample.settings;
        // 30 steps of 100 images, of 100 classes
        assert_eq!(settings.samples_per_class, SamplesPerClass::Count(30));
        assert_eq!(settings.schedule, Schedule::Constant { epochs: 3 });
    }
}
