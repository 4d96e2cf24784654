//! Generated stand-in images for rehearsals (`--smoke`): the real number of channels and classes, a
//! few tiny images per class, made from the class and a counter, without any file.
//!
//! Results on them are meaningless and marked as such. Read `stand_in_files.rs` for the same images
//! on disk.

use crate::catalog::{self, Entry};
use crate::dataset::{self, Dataset, Extent, Pixels, Split};
use crate::error::Error;
use crate::random::{Purpose, Stream};

/// Largest side of the network's square input in a rehearsal.
pub const SIDE: usize = 32;
/// Most images per batch in a rehearsal.
pub const BATCH_SIZE: usize = 8;
/// Most evaluation images in a rehearsal.
pub const NUM_EVAL: usize = 64;
pub const STEPS_PER_EPOCH: u64 = 2;

/// Training images of every class: holding out needs two.
const TRAIN_PER_CLASS: usize = 2;
const TEST_PER_CLASS: usize = 1;
/// Number of classes of a user's own folder, whose real number is unknown without reading it.
const FOLDER_CLASSES: u32 = 10;

/// Returns the stand-in for a data set of the catalogue or any `folder:`.
pub fn dataset(name: &str) -> Result<Dataset, Error> {
    let (num_classes, side, channels) = match catalog::find(name).map(Entry::known) {
        Some(known) => (
            known.counts.num_classes,
            known.side,
            known.channels as usize,
        ),
        None if name.starts_with(catalog::FOLDER_PREFIX) => (FOLDER_CLASSES, None, 3),
        None => return Err(catalog::unknown(name)),
    };
    // Photographs differ in size and are larger than the crop, so that cropping is rehearsed too.
    let size = |number: usize| match side {
        None => [(36, 44), (44, 36), (36, 36)][number % 3],
        Some(side) => (side as usize, side as usize),
    };
    let split = |per_class: usize, first: usize| {
        let (mut labels, mut images, mut pixels) = (Vec::new(), Vec::new(), Vec::new());
        for class in 0..num_classes {
            for number in first..first + per_class {
                let (height, width) = size(number);
                labels.push(class);
                images.push(Extent {
                    offset: pixels.len() as u64,
                    height: height as u32,
                    width: width as u32,
                });
                pixels.extend(image(class, number as u32, height, width, channels));
            }
        }
        Split::new(labels, images, channels, Pixels::Owned(pixels.into()))
            .expect("sizes were added up")
    };
    let (train, test) = (
        split(TRAIN_PER_CLASS, 0),
        split(TEST_PER_CLASS, TRAIN_PER_CLASS),
    );
    let class_ids: Vec<String> = (0..num_classes).map(|class| class.to_string()).collect();
    Ok(Dataset {
        name: name.to_owned(),
        class_names: (0..num_classes)
            .map(|class| format!("stand-in {class}"))
            .collect(),
        fingerprint: dataset::fingerprint(&class_ids, [&train, &test]),
        class_ids,
        channels,
        train,
        num_validation: 0,
        test,
        skipped: 0,
        content: None,
    })
}

/// Returns square colour images of one size in memory, for timing training steps without any data
/// set.
pub fn uniform(num_classes: u32, train_per_class: usize, side: usize) -> Dataset {
    const CHANNELS: usize = 3;
    let split = |per_class: usize| {
        let labels: Vec<u32> = (0..num_classes)
            .flat_map(|class| std::iter::repeat_n(class, per_class))
            .collect();
        let numbers = (0..num_classes)
            .flat_map(|class| (0..per_class).map(move |number| (class, number as u32)));
        let pixels = numbers
            .flat_map(|(class, number)| image(class, number, side, side, CHANNELS))
            .collect();
        Split::uniform(labels, pixels, side as u32, side as u32, CHANNELS)
    };
    let (train, test) = (split(train_per_class), split(TEST_PER_CLASS));
    let class_ids: Vec<String> = (0..num_classes).map(|class| class.to_string()).collect();
    Dataset {
        name: "stand-in".to_owned(),
        class_names: (0..num_classes)
            .map(|class| format!("stand-in {class}"))
            .collect(),
        fingerprint: dataset::fingerprint(&class_ids, [&train, &test]),
        class_ids,
        channels: CHANNELS,
        train,
        num_validation: 0,
        test,
        skipped: 0,
        content: None,
    }
}

/// Returns a gradient whose direction and colour depend on the class, with noise that depends on
/// the number.
pub(crate) fn image(
    class: u32,
    number: u32,
    height: usize,
    width: usize,
    channels: usize,
) -> Vec<u8> {
    let mut look = Stream::new(0, Purpose::StandIn, class, 0, 0);
    let mut noise = Stream::new(0, Purpose::StandIn, class, 1, number);
    let slopes: Vec<(f64, f64, f64)> = (0..channels)
        .map(|_| {
            (
                look.uniform(40.0, 200.0),
                look.uniform(-80.0, 80.0),
                look.uniform(-80.0, 80.0),
            )
        })
        .collect();
    let mut pixels = Vec::with_capacity(height * width * channels);
    // Four draws per word: stand-in photographs of the real size are a few million values.
    let mut word = 0;
    for y in 0..height {
        for x in 0..width {
            let (down, right) = (
                y as f64 / height as f64 - 0.5,
                x as f64 / width as f64 - 0.5,
            );
            for &(level, by_row, by_column) in &slopes {
                word = if pixels.len() % 4 == 0 {
                    noise.next_u32()
                } else {
                    word >> 8
                };
                let value =
                    level + by_row * down + by_column * right + f64::from(word & 0xff) / 12.75
                        - 10.0;
                pixels.push(value.clamp(0.0, 255.0) as u8);
            }
        }
    }
    pixels
}
