//! Decodes one image file: format by content, not by name; RGB, upright, with its shorter side
//! resized.
//!
//! Alpha is dropped and CMYK converted, as Pillow's `convert("RGB")` does; Exif orientation is
//! applied, as Pillow's `exif_transpose` does. Only the first picture of an animation is used.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::dataset::Image;
use crate::error::Error;
use crate::files;
use crate::images::metadata;
use crate::images::resize::{CropResizer, shorter_side};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decoded {
    pub(crate) height: u32,
    pub(crate) width: u32,
    /// Height and width before resizing.
    pub(crate) original: (u32, u32),
    pub(crate) pixels: Vec<u8>,
}

const MAX_SIDE: u32 = 30_000;

/// Decodes a file. The inner error is a fault of the file: a reason without its name. The outer one
/// may be the disk's, and is not about the image.
pub(crate) fn file(
    path: &Path,
    resize: Option<u32>,
    resizer: &mut CropResizer,
) -> Result<Result<Decoded, String>, Error> {
    match files::read(path, files::MAX_IMAGE_BYTES) {
        Ok(bytes) => Ok(upright_rgb(&bytes).and_then(|rgb| resized(rgb, resize, resizer))),
        Err(Error::TooLarge { limit, .. }) => Ok(Err(format!("it is larger than {limit} bytes"))),
        Err(error) => Err(error),
    }
}

fn resized(
    rgb: image::RgbImage,
    resize: Option<u32>,
    resizer: &mut CropResizer,
) -> Result<Decoded, String> {
    let (width, height) = rgb.dimensions();
    let pixels = rgb.into_raw();
    let original = (height, width);
    let Some(shorter) = resize else {
        return Ok(Decoded {
            height,
            width,
            original,
            pixels,
        });
    };
    let (new_height, new_width) = shorter_side(height, width, shorter);
    if new_height.max(new_width) > MAX_SIDE {
        return Err(format!(
            "{height} x {width} pixels become {new_height} x {new_width}"
        ));
    }
    let image = Image {
        height: height as usize,
        width: width as usize,
        channels: 3,
        pixels: &pixels,
    };
    let mut resized = Vec::new();
    resizer.whole(
        &image,
        (new_height as usize, new_width as usize),
        &mut resized,
    );
    Ok(Decoded {
        height: new_height,
        width: new_width,
        original,
        pixels: resized,
    })
}

fn upright_rgb(bytes: &[u8]) -> Result<image::RgbImage, String> {
    let format =
        image::guess_format(bytes).map_err(|_| "it is no image of a known format".to_owned())?;
    let frame = metadata::frame(bytes, format).ok_or("it is a truncated JPEG")?;
    // This is the one non-generic call: it keeps five decoders from being compiled into this crate.
    // The library bounds its own allocations (512 MiB). If a decoder panics on a damaged file, only
    // that file must fail.
    match catch_unwind(AssertUnwindSafe(|| {
        image::load_from_memory_with_format(frame.image, format)
    })) {
        Ok(Ok(image)) if image.width() == 0 || image.height() == 0 => {
            Err("it has no pixels".to_owned())
        }
        Ok(Ok(image)) if image.width().max(image.height()) > MAX_SIDE => Err(format!(
            "it has {} x {} pixels, a side above {MAX_SIDE}",
            image.height(),
            image.width()
        )),
        Ok(Ok(mut image)) => {
            image.apply_orientation(frame.orientation);
            Ok(image.into_rgb8())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("its decoder panicked".to_owned()),
    }
}
