//! RandAugment (Cubuk et al., 2020) with timm's list of fifteen operations and its scale of
//! magnitudes.
//!
//! Each of n operations is drawn from the list with replacement and applied with a probability; its
//! magnitude is drawn from a normal distribution and clamped to 0..=10. Pixel arithmetic is
//! Pillow's. See `affine.rs` for geometry. Unlike timm, which draws bilinear or bicubic sampling
//! per image, sampling is always bilinear.

use crate::images::affine::{self, PixelBuffer};
use crate::random::Stream;

#[derive(Clone, Debug)]
pub(crate) struct RandAugment {
    pub(crate) settings: sweep::settings::RandAugment,
    /// Colour that fills areas uncovered by geometric operations: the mean colour.
    pub(crate) fill: Vec<u8>,
}

/// An operation with the parameter that its magnitude gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Operation {
    AutoContrast,
    Equalize,
    Invert,
    /// Angle in degrees, counter-clockwise.
    Rotate(f64),
    /// Number of bits that are kept.
    Posterize(u32),
    /// First value that is inverted.
    Solarize(u32),
    /// Amount added to values below 128.
    SolarizeAdd(u32),
    /// Blend factor: 0 removes all of it, 1 changes nothing.
    Color(f64),
    Contrast(f64),
    Brightness(f64),
    Sharpness(f64),
    ShearX(f64),
    ShearY(f64),
    /// Shift as a fraction of the width or height.
    TranslateX(f64),
    TranslateY(f64),
}

const NUM_OPERATIONS: u32 = 15;

/// Returns the n-th of timm's list at a magnitude in 0..=10; `sign` gives the direction of those
/// that have one.
fn operation(number: u32, magnitude: f64, sign: f64) -> Operation {
    let level = magnitude / 10.0;
    let factor = level * 1.8 + 0.1;
    match number {
        0 => Operation::AutoContrast,
        1 => Operation::Equalize,
        2 => Operation::Invert,
        3 => Operation::Rotate(sign * level * 30.0),
        4 => Operation::Posterize((level * 4.0) as u32),
        5 => Operation::Solarize((level * 256.0) as u32),
        6 => Operation::SolarizeAdd((level * 110.0) as u32),
        7 => Operation::Color(factor),
        8 => Operation::Contrast(factor),
        9 => Operation::Brightness(factor),
        10 => Operation::Sharpness(factor),
        11 => Operation::ShearX(sign * level * 0.3),
        12 => Operation::ShearY(sign * level * 0.3),
        13 => Operation::TranslateX(sign * level * 0.45),
        _ => Operation::TranslateY(sign * level * 0.45),
    }
}

impl RandAugment {
    pub(crate) fn apply(&self, picture: &mut PixelBuffer, mut stream: Stream) {
        for _ in 0..self.settings.operations {
            let number = stream.below(NUM_OPERATIONS);
            let applied = stream.unit() < self.settings.probability;
            let magnitude = self.settings.magnitude + self.settings.magnitude_std * stream.normal();
            let sign = if stream.coin() { -1.0 } else { 1.0 };
            if applied {
                run(
                    operation(number, magnitude.clamp(0.0, 10.0), sign),
                    picture,
                    &self.fill,
                );
            }
        }
    }
}

pub(crate) fn run(operation: Operation, picture: &mut PixelBuffer, fill: &[u8]) {
    match operation {
        Operation::AutoContrast => auto_contrast(picture),
        Operation::Equalize => equalize(picture),
        Operation::Invert => map(picture, |value| 255 - value),
        Operation::Posterize(bits) => {
            let mask = (0xff00u32 >> bits) as u8;
            map(picture, |value| value & mask);
        }
        Operation::Solarize(threshold) => {
            map(picture, |value| {
                if u32::from(value) < threshold {
                    value
                } else {
                    255 - value
                }
            });
        }
        Operation::SolarizeAdd(amount) => {
            map(picture, |value| {
                if value < 128 {
                    (u32::from(value) + amount).min(255) as u8
                } else {
                    value
                }
            });
        }
        Operation::Color(factor) => color(picture, factor),
        Operation::Contrast(factor) => contrast(picture, factor),
        Operation::Brightness(factor) => map(picture, |value| blend(0, value, factor)),
        Operation::Sharpness(factor) => sharpness(picture, factor),
        Operation::Rotate(degrees) => affine::rotate(picture, degrees, fill),
        Operation::ShearX(amount) => {
            affine::transform(picture, [1.0, amount, 0.0, 0.0, 1.0, 0.0], fill)
        }
        Operation::ShearY(amount) => {
            affine::transform(picture, [1.0, 0.0, 0.0, amount, 1.0, 0.0], fill)
        }
        Operation::TranslateX(share) => {
            let pixels = share * picture.width as f64;
            affine::transform(picture, [1.0, 0.0, pixels, 0.0, 1.0, 0.0], fill);
        }
        Operation::TranslateY(share) => {
            let pixels = share * picture.height as f64;
            affine::transform(picture, [1.0, 0.0, 0.0, 0.0, 1.0, pixels], fill);
        }
    }
}

/// Maps every value through a table.
fn map(picture: &mut PixelBuffer, change: impl Fn(u8) -> u8) {
    let table: Vec<u8> = (0..=255).map(change).collect();
    picture
        .pixels
        .iter_mut()
        .for_each(|value| *value = table[usize::from(*value)]);
}

/// Blends two values like Pillow: truncated between them, clipped beyond them.
fn blend(from: u8, to: u8, factor: f64) -> u8 {
    let value = f32::from(from) + factor as f32 * (f32::from(to) - f32::from(from));
    value.clamp(0.0, 255.0) as u8
}

/// Returns Pillow's grey of a colour: ITU-R 601-2 in fixed point.
fn luma(pixel: &[u8]) -> u8 {
    match *pixel {
        [red, green, blue] => {
            ((u32::from(red) * 19595 + u32::from(green) * 38470 + u32::from(blue) * 7471 + 0x8000)
                >> 16) as u8
        }
        _ => pixel[0],
    }
}

fn color(picture: &mut PixelBuffer, factor: f64) {
    for pixel in picture.pixels.chunks_exact_mut(picture.channels) {
        let grey = luma(pixel);
        pixel
            .iter_mut()
            .for_each(|value| *value = blend(grey, *value, factor));
    }
}

fn contrast(picture: &mut PixelBuffer, factor: f64) {
    let sum: u64 = picture
        .pixels
        .chunks_exact(picture.channels)
        .map(|pixel| u64::from(luma(pixel)))
        .sum();
    let mean = (sum as f64 / (picture.height * picture.width) as f64 + 0.5) as u8;
    map(picture, |value| blend(mean, value, factor));
}

/// Blends the image with its smoothed copy (3x3, 5 in the middle, divided by 13); the border is not
/// smoothed.
fn sharpness(picture: &mut PixelBuffer, factor: f64) {
    let PixelBuffer {
        height,
        width,
        channels,
        ..
    } = *picture;
    let source = picture.pixels.clone();
    for y in 1..height.saturating_sub(1) {
        for x in 1..width.saturating_sub(1) {
            for channel in 0..channels {
                let at =
                    |y: usize, x: usize| u32::from(source[(y * width + x) * channels + channel]);
                let around: u32 = (y - 1..=y + 1)
                    .flat_map(|y| (x - 1..=x + 1).map(move |x| at(y, x)))
                    .sum();
                let smooth = ((around + 4 * at(y, x)) as f32 / 13.0 + 0.5) as u8;
                let position = (y * width + x) * channels + channel;
                picture.pixels[position] = blend(smooth, source[position], factor);
            }
        }
    }
}

fn histogram(picture: &PixelBuffer, channel: usize) -> [u64; 256] {
    let mut histogram = [0; 256];
    picture
        .pixels
        .iter()
        .skip(channel)
        .step_by(picture.channels)
        .for_each(|&value| histogram[usize::from(value)] += 1);
    histogram
}

fn map_channel(picture: &mut PixelBuffer, channel: usize, table: &[u8; 256]) {
    let values = picture
        .pixels
        .iter_mut()
        .skip(channel)
        .step_by(picture.channels);
    values.for_each(|value| *value = table[usize::from(*value)]);
}

/// Stretches each channel to 0..=255.
fn auto_contrast(picture: &mut PixelBuffer) {
    for channel in 0..picture.channels {
        let histogram = histogram(picture, channel);
        let low = histogram.iter().position(|&count| count > 0).unwrap_or(0);
        let high = histogram.iter().rposition(|&count| count > 0).unwrap_or(0);
        if high <= low {
            continue;
        }
        let scale = 255.0 / (high - low) as f64;
        let offset = -(low as f64) * scale;
        let table =
            std::array::from_fn(|value| (value as f64 * scale + offset).clamp(0.0, 255.0) as u8);
        map_channel(picture, channel, &table);
    }
}

/// Flattens each channel's histogram by Pillow's integer rule.
fn equalize(picture: &mut PixelBuffer) {
    for channel in 0..picture.channels {
        let histogram = histogram(picture, channel);
        let last = histogram
            .iter()
            .rev()
            .find(|&&count| count > 0)
            .copied()
            .unwrap_or(0);
        let total: u64 = histogram.iter().sum();
        let step = (total - last) / 255;
        if histogram.iter().filter(|&&count| count > 0).count() <= 1 || step == 0 {
            continue;
        }
        let mut sum = step / 2;
        let mut table = [0; 256];
        for (entry, count) in table.iter_mut().zip(histogram) {
            *entry = (sum / step).min(255) as u8;
            sum += count;
        }
        map_channel(picture, channel, &table);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    fn picture(height: usize, width: usize, channels: usize) -> PixelBuffer {
        let pixels = (0..height * width * channels)
            .map(|index| (index * 53 % 256) as u8)
            .collect();
        PixelBuffer {
            height,
            width,
            channels,
            pixels,
        }
    }

    fn ran(operation: Operation, pixels: &[u8]) -> Vec<u8> {
        let mut picture = PixelBuffer {
            height: 1,
            width: pixels.len(),
            channels: 1,
            pixels: pixels.to_vec(),
        };
        run(operation, &mut picture, &[9]);
        picture.pixels
    }

    #[test]
    fn value_operations_are_those_of_the_definitions() {
        assert_eq!(ran(Operation::Invert, &[0, 200]), [255, 55]);
        assert_eq!(
            ran(Operation::Posterize(2), &[255, 130, 70]),
            [192, 128, 64]
        );
        assert_eq!(ran(Operation::Posterize(0), &[255, 1]), [0, 0]);
        assert_eq!(
            ran(Operation::Solarize(128), &[127, 128, 255]),
            [127, 127, 0]
        );
        assert_eq!(
            ran(Operation::SolarizeAdd(100), &[27, 127, 128]),
            [127, 227, 128]
        );
        assert_eq!(ran(Operation::Brightness(0.5), &[101, 200]), [50, 100]);
        assert_eq!(ran(Operation::Brightness(1.9), &[10, 200]), [19, 255]);
        assert_eq!(ran(Operation::AutoContrast, &[50, 100, 150]), [0, 127, 255]);
        assert_eq!(ran(Operation::AutoContrast, &[7, 7]), [7, 7]);
        // The mean is 150 (rounded): half the distance to it.
        assert_eq!(ran(Operation::Contrast(0.5), &[100, 200]), [125, 175]);
        assert_eq!(ran(Operation::Contrast(1.0), &[3, 200]), [3, 200]);
    }

    #[test]
    fn pixels_are_those_of_pillow() {
        // Results of Pillow 13.0's ImageOps, ImageEnhance, rotate and transform on a picture made
        // by a formula: the sum of the bytes, and their sum weighted by position.
        let golden = [
            (Operation::AutoContrast, 747120, 2200433963),
            (Operation::Equalize, 811490, 2390021280),
            (Operation::Color(0.46), 749976, 2209103837),
            (Operation::Color(1.72), 751850, 2214225356),
            (Operation::Contrast(0.46), 750052, 2207755702),
            (Operation::Contrast(1.72), 750006, 2209941902),
            (Operation::Brightness(1.72), 1064078, 3132892511),
            (Operation::Sharpness(0.46), 751674, 2214590369),
            (Operation::Sharpness(1.72), 748737, 2204131368),
            (Operation::Rotate(17.0), 672672, 1983890358),
            (Operation::Rotate(-23.5), 654823, 1927025358),
            (Operation::ShearX(0.21), 703695, 2027138750),
            (Operation::ShearY(-0.27), 626040, 2104292717),
            (Operation::TranslateX(0.33), 547559, 1601658058),
            (Operation::TranslateY(-0.4), 493692, 1902010057),
        ];
        let value = |index: usize| ((index * index * 31 + index * 17 + 5) % 256) as u8;
        let original = PixelBuffer {
            height: 37,
            width: 53,
            channels: 3,
            pixels: (0..37 * 53 * 3).map(value).collect(),
        };
        for (operation, sum, weighted) in golden {
            let mut picture = original.clone();
            run(operation, &mut picture, &[10, 20, 30]);
            let values = picture.pixels.iter().map(|&value| u32::from(value));
            let found = values
                .clone()
                .zip(1..)
                .fold(0u32, |sum, (value, position)| {
                    sum.wrapping_add(value.wrapping_mul(position))
                });
            assert_eq!(
                (values.sum::<u32>(), found),
                (sum, weighted),
                "{operation:?}"
            );
        }
    }

    #[test]
    fn equalizing_spreads_values() {
        let many: Vec<u8> = (0..1020).map(|index| 100 + (index / 255) as u8).collect();
        let equal = ran(Operation::Equalize, &many);
        let mut values = equal.clone();
        values.dedup();
        // Steps of (1020 - 255) / 255 = 3: 0 + 1/3, then 255 pixels per value.
        assert_eq!(values, [0, 85, 170, 255]);
        assert_eq!(ran(Operation::Equalize, &[5; 300]), [5; 300]);
    }

    #[test]
    fn colour_zero_is_grey_and_one_changes_nothing() {
        let mut grey = picture(4, 5, 3);
        run(Operation::Color(0.0), &mut grey, &[0; 3]);
        assert!(
            grey.pixels
                .chunks_exact(3)
                .all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2])
        );
        for operation in [
            Operation::Color(1.0),
            Operation::Sharpness(1.0),
            Operation::Brightness(1.0),
        ] {
            let mut same = picture(4, 5, 3);
            run(operation, &mut same, &[0; 3]);
            assert_eq!(same, picture(4, 5, 3));
        }
    }

    #[test]
    fn sharpness_zero_smooths_the_inside_only() {
        let mut spot = PixelBuffer {
            height: 3,
            width: 3,
            channels: 1,
            pixels: vec![0, 0, 0, 0, 130, 0, 0, 0, 130],
        };
        run(Operation::Sharpness(0.0), &mut spot, &[0]);
        assert_eq!(spot.pixels, [0, 0, 0, 0, 60, 0, 0, 0, 130]);
    }

    #[test]
    fn every_operation_is_drawn_and_the_draw_depends_on_the_stream_only() {
        let settings = sweep::settings::RandAugment {
            operations: 2,
            magnitude: 9.0,
            magnitude_std: 0.5,
            probability: 0.5,
        };
        let augment = RandAugment {
            settings,
            fill: vec![128; 3],
        };
        let ran = |sample: u32| {
            let mut picture = picture(12, 10, 3);
            augment.apply(
                &mut picture,
                Stream::new(1, Purpose::RandAugment, 0, 0, sample),
            );
            picture
        };
        let unchanged = (0..200)
            .filter(|&sample| ran(sample) == picture(12, 10, 3))
            .count();
        // Both are skipped with probability one quarter; a few operations sometimes change nothing.
        assert!((30..90).contains(&unchanged), "{unchanged}");
        assert_eq!(ran(3), ran(3));
        let drawn: std::collections::HashSet<_> = (0..NUM_OPERATIONS)
            .map(|number| std::mem::discriminant(&operation(number, 5.0, 1.0)))
            .collect();
        assert_eq!(drawn.len(), 15);
    }
}
