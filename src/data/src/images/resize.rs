//! Bilinear resizing with antialiasing, bit for bit as Pillow does it for 8-bit images: the
//! triangle filter widens when an image shrinks, weights are rounded to 22 bits, rows are resized
//! first, and each pass rounds to bytes.
//!
//! Written here because the authors' pixels were made by Pillow, and because the fastest library
//! for this adds half a megabyte of variants to its user's binary.

use crate::dataset::Image;

/// A resizer that keeps its buffers between images.
#[derive(Default)]
pub(crate) struct CropResizer {
    narrowed: Vec<u8>,
}

/// Number of fractional bits in the integer weights.
const PRECISION: u32 = 32 - 8 - 2;

/// For each position of the output, the first input position that it uses, and the weights from
/// there.
struct Taps {
    firsts: Vec<usize>,
    /// `stride` weights per position, zero at the end if fewer are needed.
    weights: Vec<i32>,
    stride: usize,
}

impl Taps {
    /// Computes the taps by which `start..start + length` of the input become `out` positions.
    fn new(start: usize, length: usize, out: usize) -> Self {
        let scale = length as f64 / out as f64;
        let support = scale.max(1.0);
        let stride = support.ceil() as usize * 2 + 1;
        let mut taps = Self {
            firsts: Vec::with_capacity(out),
            weights: vec![0; stride * out],
            stride,
        };
        for (position, weights) in taps.weights.chunks_exact_mut(stride).enumerate() {
            let centre = (position as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let last = ((centre + support + 0.5) as usize).min(length);
            let triangle = |tap: usize| {
                let distance = ((tap + first) as f64 - centre + 0.5) / support;
                (1.0 - distance.abs()).max(0.0)
            };
            let sum: f64 = (0..last - first).map(triangle).sum();
            for (tap, weight) in weights.iter_mut().enumerate().take(last - first) {
                *weight = (0.5 + triangle(tap) / sum * f64::from(1 << PRECISION)) as i32;
            }
            taps.firsts.push(start + first);
        }
        taps
    }

    /// Returns one output position's first input and its weights, clipped to the `end` of the
    /// input.
    fn at(&self, position: usize, end: usize) -> (usize, &[i32]) {
        let first = self.firsts[position];
        let weights = &self.weights[position * self.stride..][..self.stride];
        (first, &weights[..self.stride.min(end - first)])
    }
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

impl CropResizer {
    /// Resizes a rectangle (top, left, height, width) that lies inside the image to a square,
    /// replacing `out`.
    pub(crate) fn run(
        &mut self,
        image: &Image,
        window: (u32, u32, u32, u32),
        side: usize,
        out: &mut Vec<u8>,
    ) {
        let (top, left, height, width) = window;
        let window = (top as usize, left as usize, height as usize, width as usize);
        match image.channels {
            1 => self.resize::<1>(image, window, (side, side), out),
            _ => self.resize::<3>(image, window, (side, side), out),
        }
    }

    /// Resizes the whole image to (height, width), replacing `out`.
    pub(crate) fn whole(&mut self, image: &Image, size: (usize, usize), out: &mut Vec<u8>) {
        let window = (0, 0, image.height, image.width);
        match image.channels {
            1 => self.resize::<1>(image, window, size, out),
            _ => self.resize::<3>(image, window, size, out),
        }
    }

    fn resize<const CHANNELS: usize>(
        &mut self,
        image: &Image,
        (top, left, height, width): (usize, usize, usize, usize),
        (new_height, new_width): (usize, usize),
        out: &mut Vec<u8>,
    ) {
        let columns = Taps::new(left, width, new_width);
        let narrowed = &mut self.narrowed;
        narrowed.clear();
        narrowed.reserve(height * new_width * CHANNELS);
        for line in image
            .pixels
            .chunks_exact(image.width * CHANNELS)
            .skip(top)
            .take(height)
        {
            for column in 0..new_width {
                let (first, weights) = columns.at(column, left + width);
                let mut sums = [1 << (PRECISION - 1); CHANNELS];
                let pixels = line[first * CHANNELS..].chunks_exact(CHANNELS);
                for (pixel, &weight) in pixels.zip(weights) {
                    sums.iter_mut()
                        .zip(pixel)
                        .for_each(|(sum, &value)| *sum += i32::from(value) * weight);
                }
                narrowed.extend(sums.map(to_byte));
            }
        }
        let rows = Taps::new(0, height, new_height);
        let stride = new_width * CHANNELS;
        let mut sums = vec![0; stride];
        out.clear();
        out.reserve(new_height * stride);
        for row in 0..new_height {
            let (first, weights) = rows.at(row, height);
            sums.fill(1 << (PRECISION - 1));
            for (line, &weight) in narrowed.chunks_exact(stride).skip(first).zip(weights) {
                sums.iter_mut()
                    .zip(line)
                    .for_each(|(sum, &value)| *sum += i32::from(value) * weight);
            }
            out.extend(sums.iter().map(|&sum| to_byte(sum)));
        }
    }
}

/// Returns height and width for a shorter side of `shorter`; the other is rounded half to even, as
/// in Python.
pub(crate) fn shorter_side(height: u32, width: u32, shorter: u32) -> (u32, u32) {
    let scale = |longer: u32, short: u32| {
        let exact = f64::from(longer) * f64::from(shorter) / f64::from(short);
        (exact.round_ties_even() as u32).max(1)
    };
    if height <= width {
        (shorter, scale(width, height))
    } else {
        (scale(height, width), shorter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the image from which the golden values were made, by this formula.
    fn picture(height: usize, width: usize) -> Vec<u8> {
        let value = |index: usize| (index * index * 31 + index * 17 + 5) % 256;
        (0..height * width * 3)
            .map(|index| value(index) as u8)
            .collect()
    }

    /// The sum, the sum weighted by position (modulo 2^32), and the first bytes.
    type Digest = (u32, u32, [u8; 6]);

    fn digest(pixels: &[u8]) -> Digest {
        let sum = pixels.iter().map(|&value| u32::from(value)).sum();
        let weighted = pixels
            .iter()
            .enumerate()
            .fold(0u32, |sum, (index, &value)| {
                sum.wrapping_add((index as u32 + 1).wrapping_mul(u32::from(value)))
            });
        (sum, weighted, pixels[..6].try_into().unwrap())
    }

    #[test]
    fn pixels_are_those_of_pillow() {
        let pixels = picture(37, 53);
        let image = Image {
            height: 37,
            width: 53,
            channels: 3,
            pixels: &pixels,
        };
        let mut out = Vec::new();
        for (size, expected) in PILLOW {
            CropResizer::default().whole(&image, size, &mut out);
            assert_eq!(digest(&out), expected, "{size:?}");
        }
        CropResizer::default().run(&image, (5, 7, 20, 31), 16, &mut out);
        assert_eq!(digest(&out), PILLOW_CROP);
    }

    // Pillow 13.0's `Image.resize((width, height), Image.Resampling.BILINEAR)` of the picture
    // above, and of its crop.
    const PILLOW: [((usize, usize), Digest); 4] = [
        ((20, 29), (222568, 193869647, [137, 98, 139, 168, 153, 112])),
        ((74, 100), (2843811, 1534749748, [5, 53, 163, 27, 54, 144])),
        ((16, 16), (98229, 37795985, [156, 130, 119, 115, 134, 139])),
        ((37, 11), (156227, 95589392, [100, 103, 112, 116, 117, 144])),
    ];
    const PILLOW_CROP: Digest = (97925, 37549812, [86, 137, 108, 107, 171, 135]);

    #[test]
    fn the_longer_side_is_rounded_half_to_even() {
        assert_eq!(shorter_side(4, 5, 2), (2, 2));
        assert_eq!(shorter_side(4, 7, 2), (2, 4));
        assert_eq!(shorter_side(333, 500, 512), (512, 769));
        assert_eq!(shorter_side(500, 333, 512), (769, 512));
    }

    #[test]
    fn one_channel_is_resized_like_three() {
        let flat = Image {
            height: 8,
            width: 8,
            channels: 1,
            pixels: &[77; 64],
        };
        let mut out = Vec::new();
        CropResizer::default().run(&flat, (1, 2, 5, 4), 3, &mut out);
        assert_eq!(out, [77; 9]);
        let stripes: Vec<u8> = (0..64)
            .map(|index| if index % 2 == 0 { 0 } else { 200 })
            .collect();
        let image = Image {
            height: 8,
            width: 8,
            channels: 1,
            pixels: &stripes,
        };
        CropResizer::default().whole(&image, (2, 2), &mut out);
        assert!(
            out.iter().all(|value| (90..=110).contains(value)),
            "{out:?}"
        );
    }
}
