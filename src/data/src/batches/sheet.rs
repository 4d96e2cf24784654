//! A contact sheet: the network's input, as a picture for people.

use std::path::Path;

use crate::batches::pipeline::Pipeline;
use crate::error::Error;

/// Gap between images in pixels.
const GAP: usize = 2;

/// Writes a PNG with the first `count` training images of an epoch, augmented (CutMix included) and
/// converted back from standardised values, `columns` in a row. Returns their number: at most the
/// epoch's.
pub fn contact_sheet(
    pipeline: &Pipeline,
    epoch: u32,
    count: usize,
    columns: usize,
    path: &Path,
) -> Result<usize, Error> {
    let images = images(pipeline, epoch, count);
    let (side, channels) = (pipeline.side(), pipeline.channels());
    let columns = columns.clamp(1, images.len().max(1));
    let rows = images.len().div_ceil(columns);
    let cell = side + GAP;
    let (width, height) = (columns * cell + GAP, rows * cell + GAP);
    let mut sheet = vec![255; 3 * width * height];
    for (number, image) in images.iter().enumerate() {
        let (top, left) = (GAP + number / columns * cell, GAP + number % columns * cell);
        for (position, pixel) in image.chunks_exact(channels).enumerate() {
            let (y, x) = (position / side, position % side);
            let colour = if channels == 1 {
                [pixel[0]; 3]
            } else {
                [pixel[0], pixel[1], pixel[2]]
            };
            sheet[3 * ((top + y) * width + left + x)..][..3].copy_from_slice(&colour);
        }
    }
    let io = |error: image::ImageError| Error::io("write", path)(std::io::Error::other(error));
    let (colour, format) = (image::ExtendedColorType::Rgb8, image::ImageFormat::Png);
    image::save_buffer_with_format(path, &sheet, width as u32, height as u32, colour, format)
        .map_err(io)?;
    Ok(images.len())
}

/// Returns the first images of an epoch as bytes, channels last.
fn images(pipeline: &Pipeline, epoch: u32, count: usize) -> Vec<Vec<u8>> {
    let statistics = pipeline.statistics();
    let mut images = Vec::new();
    for step in 0..pipeline.steps_per_epoch() {
        if images.len() >= count {
            break;
        }
        let plan = pipeline.train_step(epoch, step);
        let mut values = vec![0.0; plan.len() * pipeline.image_len()];
        pipeline.fill_train(&plan, 0..plan.len(), &mut values);
        let byte = |(position, value): (usize, &f32)| {
            let channel = position % pipeline.channels();
            (value * statistics.std[channel] + statistics.mean[channel])
                .round()
                .clamp(0.0, 255.0) as u8
        };
        let batch = values.chunks_exact(pipeline.image_len());
        images.extend(batch.map(|image| image.iter().enumerate().map(byte).collect()));
    }
    images.truncate(count);
    images
}
