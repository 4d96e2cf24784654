//! From a data set and settings to batches: which images each step sees, and their standardised
//! pixels.
//!
//! Everything is a function of (settings, seed, epoch, step): threads may request any step in any
//! order and get the same bits (promise P7). Read `choices.rs` for the choices, `augment.rs` for
//! the pixels, `prefetch.rs` for the thread that works ahead.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use sweep::record::Subset;
use sweep::settings::{Crop, SamplesPerClass};
use sweep::{Holdout, Settings};

use crate::batches::choices::{self, Chooser, Mix, SamplePlan, StepPlan};
use crate::batches::lookup::{ByteSource, Lookup, Tables};
use crate::batches::subset;
use crate::dataset::{Dataset, Split};
use crate::error::Error;
use crate::images::augment::Renderer;
use crate::random::{Purpose, Stream};
use crate::stand_in;
use crate::statistics::Statistics;

/// The source of batches. Immutable except for a memo of the last permutations; share it by `Arc`.
#[derive(Debug)]
pub struct Pipeline {
    dataset: Arc<Dataset>,
    chooser: Chooser,
    cutmix: Option<sweep::settings::CutMix>,
    renderer: Renderer,
    statistics: Statistics,
    subset: Subset,
    /// Training images by index into the training split.
    indices: Vec<u32>,
    /// Held-out images, or the data set's own validation images, by index into the training split;
    /// absent: evaluation uses the test split.
    held_out: Option<Vec<u32>>,
    eval_labels: Vec<u32>,
    batch_size: usize,
    repeats: u32,
    steps_per_epoch: u64,
    permutations: Mutex<Vec<Permutation>>,
}

/// The tables of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepLookup {
    pub own: Lookup,
    /// Tables of each sample's partner, with CutMix.
    pub partners: Option<Lookup>,
}

/// The images of one pass, in the order of that pass.
#[derive(Debug)]
struct Permutation {
    epoch: u32,
    repeat: u32,
    images: Arc<[u32]>,
}

/// Number of permutations kept. A few threads prefetch steps in order: only the current repeat and
/// the next are needed.
const REMEMBERED_PERMUTATIONS: usize = 4;

impl Pipeline {
    /// Chooses the subset. Settings have no contradiction (`Settings::check`); here they must fit
    /// the data on disk. `smoke` makes tiny batches of small crops, two steps per epoch, and takes
    /// as many samples per class as the stand-ins have.
    pub fn new(
        dataset: Arc<Dataset>,
        settings: &Settings,
        seed: u64,
        smoke: bool,
    ) -> Result<Self, Error> {
        let side = side(&dataset, settings, smoke)?;
        let statistics = dataset.statistics(settings.normalise);
        let mut renderer = Renderer::new(side, &statistics);
        renderer.rand_augment = settings.rand_augment.clone().map(|settings| {
            crate::images::rand_augment::RandAugment {
                settings,
                fill: statistics
                    .mean
                    .iter()
                    .map(|mean| mean.round() as u8)
                    .collect(),
            }
        });
        let wanted = if smoke {
            SamplesPerClass::All
        } else {
            settings.samples_per_class
        };
        let of_subset = sweep::seed::of_subset(seed);
        let labels = dataset.train.labels();
        let choosable = dataset.train_labels();
        let mut subset = subset::choose(
            &dataset.name,
            choosable,
            &dataset.class_names,
            wanted,
            of_subset,
        )?;
        let mut indices = match &subset {
            Subset::All => (0..choosable.len() as u32).collect(),
            Subset::Indices(indices) => indices.clone(),
        };
        // Stand-ins have two images of each class.
        let rehearsed = Holdout::Fraction(0.5);
        let holdout = match &settings.holdout {
            Some(holdout) if smoke && holdout.fewest() > 2 => Some(&rehearsed),
            holdout => holdout.as_ref(),
        };
        let mut held_out = None;
        if holdout.is_some() && dataset.num_validation > 0 {
            held_out = Some((choosable.len() as u32..labels.len() as u32).collect());
        } else if let Some(holdout) = holdout {
            let (names, fold) = (&dataset.class_names, sweep::seed::of_init(seed));
            let (kept, out) = subset::hold_out(&indices, labels, names, holdout, of_subset, fold)?;
            subset = Subset::Indices(kept.clone());
            (indices, held_out) = (kept, Some(out));
        }
        if held_out.is_some() && !smoke {
            let evaluated = settings.evaluated_resize();
            renderer.resize_evaluated = evaluated.filter(|_| evaluated != settings.resize);
        }
        let mut eval_labels: Vec<u32> = match &held_out {
            Some(held_out) => held_out
                .iter()
                .map(|&index| labels[index as usize])
                .collect(),
            None => dataset.test.labels().to_vec(),
        };
        let mut batch_size = settings.batch_size as usize;
        if smoke {
            batch_size = batch_size.min(stand_in::BATCH_SIZE);
            eval_labels.truncate(stand_in::NUM_EVAL);
        }
        let steps_per_repeat = indices.len().div_ceil(batch_size) as u64;
        let mut steps_per_epoch = steps_per_repeat * u64::from(settings.repeats);
        if smoke {
            steps_per_epoch = steps_per_epoch.min(stand_in::STEPS_PER_EPOCH);
        }
        let chooser = Chooser {
            seed,
            side: side as u32,
            shift: settings.shift,
            flip: settings.flip,
            erase: settings.erase,
            crop: settings.crop,
        };
        Ok(Self {
            chooser,
            cutmix: settings.cutmix.clone(),
            renderer,
            statistics,
            subset,
            indices,
            held_out,
            eval_labels,
            batch_size,
            repeats: settings.repeats,
            steps_per_epoch,
            permutations: Mutex::default(),
            dataset,
        })
    }

    /// Returns the number of training images per pass: the subset without held-out images.
    pub fn num_train(&self) -> usize {
        self.indices.len()
    }

    pub fn num_eval(&self) -> usize {
        self.eval_labels.len()
    }

    pub fn num_classes(&self) -> usize {
        self.dataset.num_classes()
    }

    pub fn channels(&self) -> usize {
        self.dataset.channels
    }

    /// Returns the side of the network's square input, in pixels.
    pub fn side(&self) -> usize {
        self.renderer.side
    }

    /// Returns the number of f32 values per image: channels x side x side.
    pub fn image_len(&self) -> usize {
        self.renderer.image_len()
    }

    /// Returns the size of every batch but the last of a repeat. Smaller than in the settings in a
    /// rehearsal.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Returns the steps of all repeats, each with its own partial last batch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.steps_per_epoch
    }

    /// Returns the chosen training images, without held-out ones: part of a trial's record.
    pub fn subset(&self) -> &Subset {
        &self.subset
    }

    pub fn fingerprint(&self) -> &str {
        &self.dataset.fingerprint
    }

    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// Returns the labels of the evaluation images.
    pub fn eval_labels(&self) -> &[u32] {
        &self.eval_labels
    }

    /// Returns the plan of a step. `step` counts within the epoch and is below `steps_per_epoch`.
    pub fn train_step(&self, epoch: u32, step: u64) -> StepPlan {
        assert!(
            step < self.steps_per_epoch,
            "step {step} of an epoch of {}",
            self.steps_per_epoch
        );
        let steps_per_repeat = self.indices.len().div_ceil(self.batch_size) as u64;
        let repeat = (step / steps_per_repeat) as u32;
        let order = self.order(epoch, repeat);
        let first = (step % steps_per_repeat) as usize * self.batch_size;
        let chosen = &order[first..(first + self.batch_size).min(order.len())];
        let labels: Vec<u32> = chosen
            .iter()
            .map(|&index| self.dataset.train.labels()[index as usize])
            .collect();
        let sample = |&index: &u32| {
            let image = self.dataset.train.image(index as usize);
            self.chooser.sample(
                epoch,
                repeat,
                index,
                image.height as u32,
                image.width as u32,
            )
        };
        let samples: Vec<SamplePlan> = chosen.iter().map(sample).collect();
        let side = self.side() as u32;
        let mix = self
            .cutmix
            .as_ref()
            .and_then(|mix| choices::mix(mix, self.chooser.seed, epoch, step, side, &labels));
        StepPlan {
            epoch,
            step,
            samples,
            labels,
            mix,
        }
    }

    /// Returns the images of one pass in the order of that pass: a full shuffle per (epoch,
    /// repeat).
    fn order(&self, epoch: u32, repeat: u32) -> Arc<[u32]> {
        let mut permutations = self.permutations.lock().expect("shuffling does not panic");
        if let Some(order) = permutations
            .iter()
            .find(|order| (order.epoch, order.repeat) == (epoch, repeat))
        {
            return order.images.clone();
        }
        let mut images = self.indices.clone();
        Stream::new(self.chooser.seed, Purpose::Shuffle, epoch, repeat, 0).shuffle(&mut images);
        let images: Arc<[u32]> = images.into();
        if permutations.len() == REMEMBERED_PERMUTATIONS {
            permutations.remove(0);
        }
        permutations.push(Permutation {
            epoch,
            repeat,
            images: images.clone(),
        });
        images
    }

    /// Fills standardised pixels of some samples of a batch, e.g. one replica's shard; `out` holds
    /// exactly `shard.len() * image_len()` values, channels innermost. The bits do not depend on
    /// the shard.
    pub fn fill_train(&self, plan: &StepPlan, shard: Range<usize>, out: &mut [f32]) {
        let image_len = self.image_len();
        assert_eq!(
            out.len(),
            shard.len() * image_len,
            "the buffer does not fit the shard"
        );
        let first = shard.start;
        for (position, out) in shard.clone().zip(out.chunks_exact_mut(image_len)) {
            self.render(plan, position, out);
        }
        let Some(mix) = plan.mix.as_ref().filter(|mix| mix.lambda < 1.0) else {
            return;
        };
        // Boxes are copied from unmixed images, so all of them are saved before any is pasted.
        let mut other = vec![0.0; image_len];
        let boxes: Vec<Vec<f32>> = shard
            .clone()
            .map(|position| {
                let partner = mix.partners[position] as usize;
                if shard.contains(&partner) {
                    return self.copy_box(mix, &out[(partner - first) * image_len..][..image_len]);
                }
                self.render(plan, partner, &mut other);
                self.copy_box(mix, &other)
            })
            .collect();
        for (boxed, out) in boxes.iter().zip(out.chunks_exact_mut(image_len)) {
            let mut values = boxed.iter();
            for range in self.box_ranges(mix) {
                out[range]
                    .iter_mut()
                    .zip(&mut values)
                    .for_each(|(out, value)| *out = *value);
            }
        }
    }

    fn render(&self, plan: &StepPlan, position: usize, out: &mut [f32]) {
        let sample = &plan.samples[position];
        let image = self.dataset.train.image(sample.index as usize);
        self.renderer
            .train(image, sample, self.chooser.seed, plan.epoch, out);
    }

    fn copy_box(&self, mix: &Mix, image: &[f32]) -> Vec<f32> {
        self.box_ranges(mix)
            .flat_map(|range| &image[range])
            .copied()
            .collect()
    }

    /// Returns the box as ranges of one image's values.
    fn box_ranges(&self, mix: &Mix) -> impl Iterator<Item = Range<usize>> {
        let (side, channels) = (self.side(), self.channels());
        let (rows, columns) = (mix.rows, mix.columns);
        (rows.0 as usize..rows.1 as usize).map(move |row| {
            let line = row * side * channels;
            line + columns.0 as usize * channels..line + columns.1 as usize * channels
        })
    }

    /// Fills standardised centre crops of some evaluation images; `out` holds exactly `range.len()
    /// * image_len()`.
    pub fn fill_eval(&self, range: Range<usize>, out: &mut [f32]) {
        assert_eq!(
            out.len(),
            range.len() * self.image_len(),
            "the buffer does not fit the range"
        );
        let (split, held_out) = self.eval_split();
        for (position, out) in range.zip(out.chunks_exact_mut(self.image_len())) {
            let index = held_out.map_or(position, |held_out| held_out[position] as usize);
            self.renderer.evaluate(split.image(index), out);
        }
    }

    /// Returns true if the operations on training images can be expressed as tables, see lookup.rs.
    pub fn can_look_up(&self) -> bool {
        let makes_bytes = self.renderer.rand_augment.is_some()
            || self.renderer.resize_evaluated.is_some()
            || self.chooser.crop == Crop::RandomResized;
        let train = &self.dataset.train;
        !makes_bytes
            && (0..train.len()).all(|index| {
                train
                    .offset_in_pixels(index)
                    .is_multiple_of(self.channels())
            })
    }

    /// Returns the tables of a step: of its samples and, with CutMix, of their partners. Only if
    /// `can_look_up`.
    pub fn look_up_train(&self, plan: &StepPlan, origin: ByteSource) -> StepLookup {
        let mut tables = Tables::new(&self.renderer, &self.dataset.train, origin);
        let mut of = |positions: &mut dyn Iterator<Item = usize>| {
            let mut lookup = tables.empty(self.chooser.shift > 0.0);
            positions.for_each(|position| {
                tables.push(
                    &mut lookup,
                    &plan.samples[position],
                    self.chooser.seed,
                    plan.epoch,
                );
            });
            lookup
        };
        let own = of(&mut (0..plan.len()));
        let mix = plan.mix.as_ref().filter(|mix| mix.lambda < 1.0);
        let partners = mix.map(|mix| of(&mut mix.partners.iter().map(|&partner| partner as usize)));
        StepLookup { own, partners }
    }

    /// Returns the tables of the centre crops of some evaluation images.
    pub fn look_up_eval(&self, range: Range<usize>, origin: ByteSource) -> Lookup {
        let (split, held_out) = self.eval_split();
        let mut tables = Tables::new(&self.renderer, split, origin);
        let mut lookup = tables.empty(false);
        for position in range {
            tables.push_centre(
                &mut lookup,
                held_out.map_or(position, |held_out| held_out[position] as usize),
            );
        }
        lookup
    }

    /// Returns true if evaluation images come from the training split.
    pub fn evaluates_on_train(&self) -> bool {
        self.held_out.is_some()
    }

    /// Returns an evaluation image's place in its split: among the test images, or among the training
    /// images if some are held out.
    pub fn eval_index(&self, position: usize) -> usize {
        let (_, held_out) = self.eval_split();
        held_out.map_or(position, |held_out| held_out[position] as usize)
    }

    /// Returns the file of an evaluation image, relative to the data set's folder, if it has one that
    /// is known.
    pub fn eval_path(&self, position: usize) -> Option<&str> {
        self.eval_split().0.path(self.eval_index(position))
    }

    fn eval_split(&self) -> (&Split, Option<&Vec<u32>>) {
        match &self.held_out {
            Some(held_out) => (&self.dataset.train, Some(held_out)),
            None => (&self.dataset.test, None),
        }
    }

    /// Returns the values that standardise pixels: subtracted, and multiplied by, per channel.
    pub fn standardisation(&self) -> (&[f32], &[f32]) {
        (&self.renderer.mean, &self.renderer.inverse_std)
    }

    /// Returns the statistics that standardise pixels.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Returns the number of passes over the subset in one epoch.
    pub fn repeats(&self) -> u32 {
        self.repeats
    }
}

/// Returns the side of the network's square input.
fn side(dataset: &Dataset, settings: &Settings, smoke: bool) -> Result<usize, Error> {
    let refuse = |reason: String| Error::Setting {
        field: "crop_size",
        value: "absent".to_owned(),
        reason,
    };
    if dataset.train.is_empty() || dataset.test.is_empty() {
        let reason = "it has no training or no test images".to_owned();
        return Err(Error::Setting {
            field: "dataset",
            value: dataset.name.clone(),
            reason,
        });
    }
    match settings.crop_size {
        Some(side) if smoke => Ok((side as usize).min(stand_in::SIDE)),
        Some(side) => Ok(side as usize),
        None => match (dataset.train.uniform_size(), dataset.test.uniform_size()) {
            (Some((height, width)), Some(test)) if height == width && test == (height, width) => {
                Ok(height)
            }
            _ if smoke => Ok(stand_in::SIDE),
            (Some((height, width)), Some(test)) if test == (height, width) => Err(refuse(format!(
                "the images of `{}` are {height} x {width}, not square; set it",
                dataset.name
            ))),
            _ => Err(refuse(format!(
                "the images of `{}` differ in size; set it",
                dataset.name
            ))),
        },
    }
}
