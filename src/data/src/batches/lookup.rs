//! A batch as tables of each pixel's source, for a device that has the images' bytes and gathers
//! pixels itself.
//!
//! The choices and the arithmetic are those of augment.rs, so that both give the same numbers; only
//! the place of the work differs. Operations that make new bytes (resized crops, held-out images of
//! another size, RandAugment) cannot be expressed as tables: `Pipeline::can_look_up` is false for
//! them. The device does CutMix, with the partners' tables.

use std::ops::Range;

use crate::batches::choices::{Erase, SamplePlan, Window};
use crate::dataset::{Image, Split};
use crate::images::augment::{Renderer, taps};
use crate::random::{Purpose, Stream};

/// Location of the bytes for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteSource {
    /// The device has the whole split.
    Split,
    /// The device gets the images of the batch with the tables.
    Batch,
}

/// Tables of some samples, one after the other. A pixel is one number per channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lookup {
    /// For each sample and row of the output, the pixel that begins its source row.
    pub rows: Vec<i64>,
    /// For each sample and column of the output, its source column.
    pub columns: Vec<i64>,
    /// Present if images are shifted: outputs lie between four pixels.
    pub between: Option<Interpolation>,
    /// Positions of the output that noise covers: (sample, row, column), row-major.
    pub erased: Vec<i64>,
    /// Standardised noise, one value per channel of each of `erased`.
    pub noise: Vec<f32>,
    /// The images, for `ByteSource::Batch`.
    pub bytes: Vec<u8>,
    /// Start of each sample's part of `erased` and of `bytes`.
    starts: Vec<(usize, usize)>,
    side: usize,
    channels: usize,
}

/// The second row and column of an interpolated output, and the weights of these, one of each per
/// sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interpolation {
    pub rows: Vec<i64>,
    pub columns: Vec<i64>,
    pub down: Vec<f32>,
    pub right: Vec<f32>,
}

/// Settings that are the same for all samples of a batch.
pub(crate) struct Tables<'a> {
    pub(crate) renderer: &'a Renderer,
    pub(crate) split: &'a Split,
    pub(crate) origin: ByteSource,
    rows: Vec<usize>,
    columns: Vec<usize>,
}

impl<'a> Tables<'a> {
    pub(crate) fn new(renderer: &'a Renderer, split: &'a Split, origin: ByteSource) -> Self {
        Self {
            renderer,
            split,
            origin,
            rows: Vec::new(),
            columns: Vec::new(),
        }
    }

    pub(crate) fn empty(&self, shifted: bool) -> Lookup {
        let (side, channels) = (self.renderer.side, self.renderer.channels);
        Lookup {
            side,
            channels,
            between: shifted.then(Interpolation::default),
            ..Lookup::default()
        }
    }

    /// Adds a training image with all of its choices.
    pub(crate) fn push(&mut self, lookup: &mut Lookup, plan: &SamplePlan, seed: u64, epoch: u32) {
        let image = self.split.image(plan.index as usize);
        let sample = self.push_window(
            lookup,
            plan.index as usize,
            plan.window,
            plan.flip,
            plan.shift,
        );
        if let Some(erase) = plan.erase {
            let noise = Stream::new(seed, Purpose::EraseNoise, epoch, plan.repeat, plan.index);
            self.push_noise(lookup, sample, erase, &noise, (image.width, plan.flip));
        }
    }

    /// Adds the centre of an image.
    pub(crate) fn push_centre(&mut self, lookup: &mut Lookup, index: usize) {
        let image = self.split.image(index);
        let window = crate::batches::choices::centre(
            self.renderer.side as u32,
            image.height as u32,
            image.width as u32,
        );
        self.push_window(lookup, index, window, false, None);
    }

    /// Adds a window and returns the sample's number in the lookup.
    fn push_window(
        &mut self,
        lookup: &mut Lookup,
        index: usize,
        window: Window,
        flip: bool,
        shift: Option<(f32, f32)>,
    ) -> usize {
        let image = self.split.image(index);
        let Image {
            height,
            width,
            channels,
            pixels,
        } = image;
        lookup
            .starts
            .push((lookup.erased.len(), lookup.bytes.len()));
        let first = match self.origin {
            ByteSource::Split => self.split.offset_in_pixels(index) / channels,
            ByteSource::Batch => lookup.bytes.len() / channels,
        };
        if self.origin == ByteSource::Batch {
            lookup.bytes.extend_from_slice(pixels);
        }
        self.renderer.look_up(
            window,
            (height, width),
            flip,
            &mut self.rows,
            &mut self.columns,
        );
        let begin = |row: usize| (first + row * width) as i64;
        match (shift, &mut lookup.between) {
            (Some((rows, columns)), Some(between)) => {
                let (row_taps, column_taps) = (taps(rows, height), taps(columns, width));
                lookup
                    .rows
                    .extend(self.rows.iter().map(|&row| begin(row_taps[row].0)));
                lookup.columns.extend(
                    self.columns
                        .iter()
                        .map(|&column| column_taps[column].0 as i64),
                );
                between
                    .rows
                    .extend(self.rows.iter().map(|&row| begin(row_taps[row].1)));
                between.columns.extend(
                    self.columns
                        .iter()
                        .map(|&column| column_taps[column].1 as i64),
                );
                between.down.push(rows - rows.floor());
                between.right.push(columns - columns.floor());
            }
            _ => {
                lookup.rows.extend(self.rows.iter().map(|&row| begin(row)));
                lookup
                    .columns
                    .extend(self.columns.iter().map(|&column| column as i64));
            }
        }
        lookup.starts.len() - 1
    }

    fn push_noise(
        &mut self,
        lookup: &mut Lookup,
        sample: usize,
        erase: Erase,
        noise: &Stream,
        (width, flip): (usize, bool),
    ) {
        if flip {
            // the box is in the flipped image
            self.columns
                .iter_mut()
                .for_each(|column| *column = width - 1 - *column);
        }
        let side = self.renderer.side;
        let (erased, values) = (&mut lookup.erased, &mut lookup.noise);
        self.renderer.erase(
            erase,
            noise,
            &self.rows,
            &self.columns,
            |y, x, channel, value| {
                if channel == 0 {
                    erased.push(((sample * side + y) * side + x) as i64);
                }
                values.push(value);
            },
        );
    }
}

impl Lookup {
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Returns the tables of some of the samples, e.g. one replica's shard.
    pub fn slice(&self, samples: Range<usize>) -> Self {
        let (side, channels) = (self.side, self.channels);
        let lines = samples.start * side..samples.end * side;
        let start = |sample: usize| {
            self.starts
                .get(sample)
                .copied()
                .unwrap_or((self.erased.len(), self.bytes.len()))
        };
        let (first, last) = (start(samples.start), start(samples.end));
        let moved =
            |values: &[i64], by: usize| values.iter().map(|value| value - by as i64).collect();
        let first_pixel = first.1 / channels.max(1);
        Self {
            rows: moved(&self.rows[lines.clone()], first_pixel),
            columns: self.columns[lines.clone()].to_vec(),
            between: self.between.as_ref().map(|between| Interpolation {
                rows: moved(&between.rows[lines.clone()], first_pixel),
                columns: between.columns[lines.clone()].to_vec(),
                down: between.down[samples.clone()].to_vec(),
                right: between.right[samples.clone()].to_vec(),
            }),
            erased: moved(&self.erased[first.0..last.0], samples.start * side * side),
            noise: self.noise[first.0 * channels..last.0 * channels].to_vec(),
            bytes: self.bytes[first.1..last.1].to_vec(),
            starts: self.starts[samples]
                .iter()
                .map(|place| (place.0 - first.0, place.1 - first.1))
                .collect(),
            side,
            channels,
        }
    }
}
