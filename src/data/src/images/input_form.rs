//! An image file as a trained network sees it: decoded, resized, cropped at the centre and
//! standardised, as the evaluation images of its training were.

use std::path::Path;

use crate::dataset::Image;
use crate::error::Error;
use crate::images::augment::Renderer;
use crate::images::decode;
use crate::images::resize::CropResizer;
use crate::statistics::Statistics;

/// The form of a network's input.
#[derive(Clone, Debug)]
pub struct InputForm {
    /// Side of the square that the network sees.
    pub side: usize,
    /// Shorter side of images before they are cropped; absent: that of the square.
    pub resize: Option<u32>,
    /// Their number of channels is that of the network.
    pub statistics: Statistics,
}

impl InputForm {
    /// Reads a file as f32 values, rows first, channels innermost.
    pub fn read(&self, path: &Path) -> Result<Vec<f32>, Error> {
        let resize = self.resize.unwrap_or(self.side as u32);
        let decoded = decode::file(path, Some(resize), &mut CropResizer::default())?;
        let decoded = decoded.map_err(|reason| Error::malformed(path, reason))?;
        let channels = self.statistics.mean.len();
        let pixels = match channels {
            1 => decoded.pixels.chunks_exact(3).map(grey).collect(),
            _ => decoded.pixels,
        };
        let image = Image {
            height: decoded.height as usize,
            width: decoded.width as usize,
            channels,
            pixels: &pixels,
        };
        let renderer = Renderer::new(self.side, &self.statistics);
        let mut values = vec![0.0; renderer.image_len()];
        renderer.evaluate(image, &mut values);
        Ok(values)
    }
}

/// Returns the luma of a colour, as Pillow's `convert("L")` computes it.
fn grey(colour: &[u8]) -> u8 {
    let [red, green, blue] = [colour[0], colour[1], colour[2]].map(u32::from);
    ((19_595 * red + 38_470 * green + 7_471 * blue + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greys_stay_what_they_are() {
        for value in 0..=255 {
            assert_eq!(grey(&[value; 3]), value);
        }
    }
}
