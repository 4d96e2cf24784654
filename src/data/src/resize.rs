//! Bilinear resizing with antialiasing, as Pillow does it: the filter widens when an image shrinks.

use fast_image_resize::images::{Image as Target, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use crate::dataset::Image;

/// Keeps its coefficient buffers between images.
#[derive(Default)]
pub(crate) struct CropResizer {
    resizer: Resizer,
}

impl CropResizer {
    /// Resizes a rectangle (top, left, height, width) that lies inside the image to a square, replacing `out`.
    pub(crate) fn run(&mut self, image: &Image, window: (u32, u32, u32, u32), side: usize, out: &mut Vec<u8>) {
        self.resize(image, window, (side, side), out);
    }

    /// Resizes the whole image to (height, width), replacing `out`.
    pub(crate) fn whole(&mut self, image: &Image, size: (usize, usize), out: &mut Vec<u8>) {
        self.resize(image, (0, 0, image.height as u32, image.width as u32), size, out);
    }

    fn resize(&mut self, image: &Image, window: (u32, u32, u32, u32), size: (usize, usize), out: &mut Vec<u8>) {
        let pixel_type = if image.channels == 1 { PixelType::U8 } else { PixelType::U8x3 };
        let (top, left, height, width) = window;
        out.clear();
        out.resize(size.0 * size.1 * image.channels, 0);
        let source = ImageRef::new(image.width as u32, image.height as u32, image.pixels, pixel_type)
            .expect("an image has as many bytes as its size says");
        let mut target = Target::from_slice_u8(size.1 as u32, size.0 as u32, out, pixel_type)
            .expect("the buffer was made for this size");
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).crop(
            f64::from(left),
            f64::from(top),
            f64::from(width),
            f64::from(height),
        );
        self.resizer.resize(&source, &mut target, &options).expect("the window lies inside the image");
    }
}

/// Height and width after the shorter side became `shorter`; the other one is rounded half to even, as Python does.
pub(crate) fn shorter_side(height: u32, width: u32, shorter: u32) -> (u32, u32) {
    let scale = |longer: u32, short: u32| {
        let exact = f64::from(longer) * f64::from(shorter) / f64::from(short);
        (exact.round_ties_even() as u32).max(1)
    };
    if height <= width { (shorter, scale(width, height)) } else { (scale(height, width), shorter) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_side_is_rounded_half_to_even() {
        assert_eq!(shorter_side(4, 5, 2), (2, 2));
        assert_eq!(shorter_side(4, 7, 2), (2, 4));
        assert_eq!(shorter_side(333, 500, 512), (512, 769));
        assert_eq!(shorter_side(500, 333, 512), (769, 512));
    }

    #[test]
    fn shrinking_averages_and_keeps_constants() {
        let pixels: Vec<u8> = (0..64).map(|index| if index % 2 == 0 { 0 } else { 200 }).collect();
        let image = Image { height: 8, width: 8, channels: 1, pixels: &pixels };
        let mut out = Vec::new();
        CropResizer::default().whole(&image, (2, 2), &mut out);
        assert!(out.iter().all(|value| (90..=110).contains(value)), "{out:?}");
        let flat = Image { height: 8, width: 8, channels: 1, pixels: &[77; 64] };
        CropResizer::default().run(&flat, (1, 2, 5, 4), 3, &mut out);
        assert_eq!(out, [77; 9]);
    }
}
