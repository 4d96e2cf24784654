//! Executes the random choices of `choices.rs`: one image from bytes to standardised f32, in one
//! pass if nothing is resampled.
//!
//! The order is that of docs/paper.md, section 3: shift, flip, erase, crop. The crop comes last but
//! is free: output pixels look up their source, so only what the network sees is ever computed.
//! With RandomResizedCrop the order is timm's: resized crop, flip, RandAugment, erase. Draws
//! nothing but the noise of erasing, whose stream is a function of the position.

use std::cell::RefCell;

use crate::batches::choices::{Erase, SamplePlan, Window};
use crate::dataset::Image;
use crate::images::resize::{CropResizer, shorter_side};
use crate::random::{Purpose, Stream};
use crate::statistics::Statistics;

/// Settings that are the same for every image.
#[derive(Clone, Debug)]
pub(crate) struct Renderer {
    pub(crate) side: usize,
    pub(crate) channels: usize,
    pub(crate) mean: Vec<f32>,
    pub(crate) inverse_std: Vec<f32>,
    pub(crate) rand_augment: Option<crate::images::rand_augment::RandAugment>,
    /// Shorter side to which evaluated images are first resized: held-out ones have the size of
    /// training images.
    pub(crate) resize_evaluated: Option<u32>,
}

/// Buffers that live as long as their thread.
#[derive(Default)]
struct Scratch {
    resizer: CropResizer,
    bytes: Vec<u8>,
    floats: Vec<f32>,
    rows: Vec<usize>,
    columns: Vec<usize>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Renderer {
    pub(crate) fn new(side: usize, statistics: &Statistics) -> Self {
        Self {
            side,
            channels: statistics.mean.len(),
            mean: statistics.mean.clone(),
            inverse_std: statistics.std.iter().map(|std| 1.0 / std).collect(),
            rand_augment: None,
            resize_evaluated: None,
        }
    }

    /// Returns the number of f32 values per image.
    pub(crate) fn image_len(&self) -> usize {
        self.side * self.side * self.channels
    }

    /// Fills `out`, which has `image_len` values, channels innermost. The sample's draws come from
    /// (seed, epoch, its own index and repeat).
    pub(crate) fn train(
        &self,
        image: Image,
        plan: &SamplePlan,
        seed: u64,
        epoch: u32,
        out: &mut [f32],
    ) {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut bytes = std::mem::take(&mut scratch.bytes);
            let (image, window) =
                self.prepare(image, plan, seed, epoch, &mut scratch.resizer, &mut bytes);
            self.look_up(
                window,
                (image.height, image.width),
                plan.flip,
                &mut scratch.rows,
                &mut scratch.columns,
            );
            match plan.shift {
                Some(shift) => {
                    shift_into(&image, shift, &mut scratch.floats);
                    self.gather(
                        &scratch.floats,
                        image.width,
                        &scratch.rows,
                        &scratch.columns,
                        out,
                    );
                }
                None => self.gather(
                    image.pixels,
                    image.width,
                    &scratch.rows,
                    &scratch.columns,
                    out,
                ),
            }
            if let Some(erase) = plan.erase {
                let noise = Stream::new(seed, Purpose::EraseNoise, epoch, plan.repeat, plan.index);
                let width = image.width;
                if plan.flip {
                    // The box is in the flipped image; the look-up table holds positions before the
                    // flip.
                    scratch
                        .columns
                        .iter_mut()
                        .for_each(|column| *column = width - 1 - *column);
                }
                let put = |y, x, channel, value| {
                    out[(y * self.side + x) * self.channels + channel] = value;
                };
                self.erase(erase, &noise, &scratch.rows, &scratch.columns, put);
            }
            scratch.bytes = bytes;
        });
    }

    /// Fills `out` with the centre crop, standardised.
    pub(crate) fn evaluate(&self, image: Image, out: &mut [f32]) {
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch {
                resizer,
                bytes,
                rows,
                columns,
                ..
            } = scratch;
            let image = match self.resize_evaluated {
                None => image,
                Some(shorter) => {
                    let (height, width) =
                        shorter_side(image.height as u32, image.width as u32, shorter);
                    let (height, width) = (height as usize, width as usize);
                    resizer.whole(&image, (height, width), bytes);
                    Image {
                        height,
                        width,
                        channels: image.channels,
                        pixels: bytes,
                    }
                }
            };
            let window = crate::batches::choices::centre(
                self.side as u32,
                image.height as u32,
                image.width as u32,
            );
            self.look_up(window, (image.height, image.width), false, rows, columns);
            self.gather(image.pixels, image.width, rows, columns, out);
        });
    }

    /// Applies resized crop and RandAugment, the two that make new bytes.
    fn prepare<'a>(
        &self,
        image: Image<'a>,
        plan: &SamplePlan,
        seed: u64,
        epoch: u32,
        resizer: &mut CropResizer,
        bytes: &'a mut Vec<u8>,
    ) -> (Image<'a>, Window) {
        let (mut image, mut window) = (image, plan.window);
        let mut owned = None;
        if let Window::Resized {
            top,
            left,
            height,
            width,
        } = window
        {
            let mut resized = std::mem::take(bytes);
            resizer.run(&image, (top, left, height, width), self.side, &mut resized);
            owned = Some((resized, self.side, self.side));
            window = Window::At { top: 0, left: 0 };
        }
        if let Some(rand_augment) = &self.rand_augment {
            let (pixels, height, width) = owned.take().unwrap_or_else(|| {
                let mut copy = std::mem::take(bytes);
                copy.clear();
                copy.extend_from_slice(image.pixels);
                (copy, image.height, image.width)
            });
            let stream = Stream::new(seed, Purpose::RandAugment, epoch, plan.repeat, plan.index);
            let mut picture = crate::images::affine::PixelBuffer {
                height,
                width,
                channels: self.channels,
                pixels,
            };
            rand_augment.apply(&mut picture, stream);
            owned = Some((picture.pixels, height, width));
        }
        if let Some((pixels, height, width)) = owned {
            *bytes = pixels;
            image = Image {
                height,
                width,
                channels: self.channels,
                pixels: bytes,
            };
        }
        (image, window)
    }

    /// Fills, for each row and column of the output, the source row and column in the image.
    pub(crate) fn look_up(
        &self,
        window: Window,
        (height, width): (usize, usize),
        flip: bool,
        rows: &mut Vec<usize>,
        columns: &mut Vec<usize>,
    ) {
        let (top, left) = match window {
            Window::At { top, left } => (top as isize, left as isize),
            Window::Resized { .. } => (0, 0),
        };
        rows.clear();
        rows.extend((0..self.side as isize).map(|y| reflect(top + y, height)));
        columns.clear();
        let column = |x| reflect(left + x, width);
        columns.extend((0..self.side as isize).map(|x| {
            if flip {
                width - 1 - column(x)
            } else {
                column(x)
            }
        }));
    }

    /// Standardises the pixels that the rows and columns name.
    fn gather<T: Copy + Into<f32>>(
        &self,
        source: &[T],
        width: usize,
        rows: &[usize],
        columns: &[usize],
        out: &mut [f32],
    ) {
        match self.channels {
            1 => self.gather_grey(source, width, rows, columns, out),
            3 => self.gather_colours(source, width, rows, columns, out),
            other => unreachable!("images have 1 or 3 channels, not {other}"),
        }
    }

    fn gather_grey<T: Copy + Into<f32>>(
        &self,
        source: &[T],
        width: usize,
        rows: &[usize],
        columns: &[usize],
        out: &mut [f32],
    ) {
        let (mean, scale) = (self.mean[0], self.inverse_std[0]);
        for (out, &row) in out.chunks_exact_mut(self.side).zip(rows) {
            let line = &source[row * width..][..width];
            for (out, &column) in out.iter_mut().zip(columns) {
                *out = (line[column].into() - mean) * scale;
            }
        }
    }

    fn gather_colours<T: Copy + Into<f32>>(
        &self,
        source: &[T],
        width: usize,
        rows: &[usize],
        columns: &[usize],
        out: &mut [f32],
    ) {
        let (mean, scale) = (&self.mean[..3], &self.inverse_std[..3]);
        for (out, &row) in out.chunks_exact_mut(3 * self.side).zip(rows) {
            let line = &source[3 * row * width..][..3 * width];
            for (out, &column) in out.chunks_exact_mut(3).zip(columns) {
                let pixel = &line[3 * column..3 * column + 3];
                out[0] = (pixel[0].into() - mean[0]) * scale[0];
                out[1] = (pixel[1].into() - mean[1]) * scale[1];
                out[2] = (pixel[2].into() - mean[2]) * scale[2];
            }
        }
    }

    /// Fills the box in the output with uniform noise in 0..255, standardised like the image.
    /// `columns` are those of the flipped image, in which the box lies. `put` gets row, column and
    /// channel of the output, all channels of a pixel one after the other.
    pub(crate) fn erase(
        &self,
        erase: Erase,
        noise: &Stream,
        rows: &[usize],
        columns: &[usize],
        mut put: impl FnMut(usize, usize, usize, f32),
    ) {
        let (top, left) = (erase.top as usize, erase.left as usize);
        let (height, width) = (erase.height as usize, erase.width as usize);
        let mut block = (u32::MAX, [0; 4]);
        for (y, &row) in rows
            .iter()
            .enumerate()
            .filter(|(_, row)| (top..top + height).contains(row))
        {
            for (x, &column) in columns
                .iter()
                .enumerate()
                .filter(|(_, column)| (left..left + width).contains(column))
            {
                for channel in 0..self.channels {
                    let number =
                        (((row - top) * width + column - left) * self.channels + channel) as u32;
                    if block.0 != number / 4 {
                        block = (number / 4, noise.block_at(number / 4));
                    }
                    let word = block.1[number as usize % 4];
                    let value = (f64::from(word) / (1u64 << 32) as f64 * 255.0) as f32;
                    put(
                        y,
                        x,
                        channel,
                        (value - self.mean[channel]) * self.inverse_std[channel],
                    );
                }
            }
        }
    }
}

/// Maps a position outside of 0..length to its reflection at the first or last pixel (numpy's
/// `reflect`).
fn reflect(position: isize, length: usize) -> usize {
    if (0..length as isize).contains(&position) {
        return position as usize;
    }
    if length == 1 {
        return 0;
    }
    let period = 2 * (length as isize - 1);
    let folded = position.rem_euclid(period);
    folded.min(period - folded) as usize
}

/// Computes `shifted[y, x] = image[y + rows, x + columns]`, bilinear, with the edge replicated.
fn shift_into(image: &Image, (rows, columns): (f32, f32), shifted: &mut Vec<f32>) {
    let Image {
        height,
        width,
        channels,
        pixels,
    } = *image;
    let (row_taps, column_taps) = (taps(rows, height), taps(columns, width));
    shifted.clear();
    shifted.reserve(pixels.len());
    for &(row_0, row_1, down) in &row_taps {
        let line_0 = &pixels[row_0 * width * channels..][..width * channels];
        let line_1 = &pixels[row_1 * width * channels..][..width * channels];
        for &(column_0, column_1, right) in &column_taps {
            for channel in 0..channels {
                let at = |line: &[u8], column: usize| f32::from(line[column * channels + channel]);
                let upper =
                    at(line_0, column_0) + (at(line_0, column_1) - at(line_0, column_0)) * right;
                let lower =
                    at(line_1, column_0) + (at(line_1, column_1) - at(line_1, column_0)) * right;
                shifted.push(upper + (lower - upper) * down);
            }
        }
    }
}

/// Returns, for each position, the two that it lies between after the shift, and the weight of the
/// second.
pub(crate) fn taps(shift: f32, length: usize) -> Vec<(usize, usize, f32)> {
    let whole = shift.floor();
    let weight = shift - whole;
    let clamp = |position: isize| position.clamp(0, length as isize - 1) as usize;
    let first = |position: usize| position as isize + whole as isize;
    (0..length)
        .map(|position| (clamp(first(position)), clamp(first(position) + 1), weight))
        .collect()
}
