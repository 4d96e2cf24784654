//! One image file to bytes: by content, not by name, as RGB, its shorter side resized.
//!
//! Alpha is dropped and CMYK converted, as Pillow's `convert("RGB")` does; EXIF orientation is ignored, as it was by the
//! authors' loader. An error is a reason without the file's name.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::ImageFormat;

use crate::dataset::Image;
use crate::files;
use crate::resize::{CropResizer, shorter_side};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decoded {
    pub(crate) height: u32,
    pub(crate) width: u32,
    pub(crate) pixels: Vec<u8>,
}

const MAX_SIDE: u32 = 30_000;

pub(crate) fn file(path: &Path, resize: Option<u32>, resizer: &mut CropResizer) -> Result<Decoded, String> {
    let bytes = files::read(path, files::MAX_IMAGE_BYTES).map_err(|error| error.to_string())?;
    let rgb = rgb(&bytes)?;
    let (width, height) = rgb.dimensions();
    let pixels = rgb.into_raw();
    let Some(shorter) = resize else { return Ok(Decoded { height, width, pixels }) };
    let (new_height, new_width) = shorter_side(height, width, shorter);
    if new_height.max(new_width) > MAX_SIDE {
        return Err(format!("{height} x {width} pixels become {new_height} x {new_width}"));
    }
    let image = Image { height: height as usize, width: width as usize, channels: 3, pixels: &pixels };
    let mut resized = Vec::new();
    resizer.whole(&image, (new_height as usize, new_width as usize), &mut resized);
    Ok(Decoded { height: new_height, width: new_width, pixels: resized })
}

fn rgb(bytes: &[u8]) -> Result<image::RgbImage, String> {
    let format = image::guess_format(bytes).map_err(|_| "it is no image of a known format".to_owned())?;
    if format == ImageFormat::Jpeg && jpeg_is_truncated(bytes) {
        return Err("it is a truncated JPEG".to_owned());
    }
    // This call alone is not generic: it keeps five decoders from being compiled into this crate. The library bounds
    // its own allocations (512 MiB). A decoder that panics on a damaged file must cost this file only.
    match catch_unwind(AssertUnwindSafe(|| image::load_from_memory_with_format(bytes, format))) {
        Ok(Ok(image)) if image.width() == 0 || image.height() == 0 => Err("it has no pixels".to_owned()),
        Ok(Ok(image)) if image.width().max(image.height()) > MAX_SIDE => {
            Err(format!("it has {} x {} pixels, a side above {MAX_SIDE}", image.height(), image.width()))
        }
        Ok(Ok(image)) => Ok(image.into_rgb8()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("its decoder panicked".to_owned()),
    }
}

/// The decoder fills what is missing with grey, which no training should see: after the last scan begins there must be
/// an end-of-image marker (inside of a scan the two bytes cannot occur).
fn jpeg_is_truncated(bytes: &[u8]) -> bool {
    let last = |marker: u8| bytes.windows(2).rposition(|pair| pair == [0xff, marker]);
    match (last(0xda), last(0xd9)) {
        (Some(scan), Some(end)) => end < scan,
        _ => true,
    }
}
