//! A data set in memory or mapped from the cache: labels, class names and decoded images as bytes.
//!
//! Does not know the origin of images: readers and the cache create these, the pipeline reads them.
//! Read `open.rs` for the origins, `pipeline.rs` for the use.

use std::sync::Arc;

use sweep::settings::Normalise;

use crate::statistics::{self, Statistics};

/// Decoded images with labels, in two splits.
#[derive(Debug)]
pub struct Dataset {
    /// Name in the sweep file.
    pub name: String,
    /// Name of each class, in label order.
    pub class_names: Vec<String>,
    /// Ids of the classes in class hierarchies, in label order: the data set's own ids.
    pub class_ids: Vec<String>,
    pub channels: usize,
    pub train: Split,
    /// Number of images at the end of `train` that are the set's own validation split: used for
    /// evaluation if a trial holds out images, and never trained on.
    pub num_validation: usize,
    pub test: Split,
    /// Number of images missing from the splits because they cannot be decoded.
    pub skipped: usize,
    /// Hash of labels and decoded pixels: 32 hexadecimal digits.
    pub fingerprint: String,
    /// Content of the source files; absent if the data set is part of the program.
    pub content: Option<sweep::Content>,
}

/// The images of one split. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Split {
    labels: Arc<[u32]>,
    images: Arc<[Extent]>,
    /// Files of the images, relative to the data set's folder; empty if they are not known.
    paths: Arc<[String]>,
    /// Offset of the first byte of any image.
    start: u64,
    channels: usize,
    pixels: Pixels,
}

/// Position of an image in the pixels, and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) height: u32,
    pub(crate) width: u32,
}

impl Extent {
    fn end(&self, channels: usize) -> u64 {
        self.offset + u64::from(self.height) * u64::from(self.width) * channels as u64
    }
}

#[derive(Clone)]
pub(crate) enum Pixels {
    Owned(Arc<[u8]>),
    Mapped(Arc<memmap2::Mmap>),
}

impl std::fmt::Debug for Pixels {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} bytes", self.bytes().len())
    }
}

impl Pixels {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Mapped(map) => map,
        }
    }
}

/// One decoded image.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    /// `height * width * channels` bytes, rows first, channels last.
    pub pixels: &'a [u8],
}

impl Split {
    /// Creates a split after checking that every extent lies inside the pixels, so that `image`
    /// cannot fail.
    pub(crate) fn new(
        labels: Vec<u32>,
        images: Vec<Extent>,
        channels: usize,
        pixels: Pixels,
    ) -> Result<Self, &'static str> {
        if labels.len() != images.len() {
            return Err("it has not as many labels as images");
        }
        let available = pixels.bytes().len() as u64;
        for image in &images {
            let size = u64::from(image.height) * u64::from(image.width) * channels as u64;
            if image.height == 0
                || image.width == 0
                || image
                    .offset
                    .checked_add(size)
                    .is_none_or(|end| end > available)
            {
                return Err("an image lies outside of the pixels");
            }
        }
        let start = images.iter().map(|image| image.offset).min().unwrap_or(0);
        Ok(Self {
            labels: labels.into(),
            images: images.into(),
            paths: Arc::default(),
            start,
            channels,
            pixels,
        })
    }

    /// Creates a split from images of one size, one after the other.
    pub(crate) fn uniform(
        labels: Vec<u32>,
        pixels: Vec<u8>,
        height: u32,
        width: u32,
        channels: usize,
    ) -> Self {
        let size = u64::from(height) * u64::from(width) * channels as u64;
        let images = (0..labels.len() as u64)
            .map(|index| Extent {
                offset: index * size,
                height,
                width,
            })
            .collect();
        Self::new(labels, images, channels, Pixels::Owned(pixels.into()))
            .expect("as many images as labels")
    }

    /// Returns some of the images, by index; indices must be in range.
    pub(crate) fn select(&self, indices: &[usize]) -> Self {
        let labels: Vec<u32> = indices.iter().map(|&index| self.labels[index]).collect();
        let images: Vec<Extent> = indices.iter().map(|&index| self.images[index]).collect();
        let selected = Self::new(labels, images, self.channels, self.pixels.clone())
            .expect("extents that were checked before");
        let paths = indices.iter().filter_map(|&index| self.path(index));
        selected.with_paths(paths.map(str::to_owned).collect())
    }

    /// Adds the file of each image; a list of another length is ignored.
    pub(crate) fn with_paths(mut self, paths: Vec<String>) -> Self {
        if paths.len() == self.len() {
            self.paths = paths.into();
        }
        self
    }

    /// Returns an image's file, relative to the data set's folder, if it has one that is known.
    pub fn path(&self, index: usize) -> Option<&str> {
        self.paths.get(index).map(String::as_str)
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    pub fn image(&self, index: usize) -> Image<'_> {
        let Extent {
            offset,
            height,
            width,
        } = self.images[index];
        let (height, width) = (height as usize, width as usize);
        let pixels = &self.pixels.bytes()[offset as usize..][..height * width * self.channels];
        Image {
            height,
            width,
            channels: self.channels,
            pixels,
        }
    }

    /// Returns the bytes of all images in one piece, for a device that takes the whole split.
    pub fn pixels(&self) -> &[u8] {
        let ends = self.images.iter().map(|image| image.end(self.channels));
        &self.pixels.bytes()[self.start as usize..ends.max().unwrap_or(0) as usize]
    }

    /// Returns an image's offset in `pixels`.
    pub(crate) fn offset_in_pixels(&self, index: usize) -> usize {
        (self.images[index].offset - self.start) as usize
    }

    /// Returns the common height and width if all images have the same.
    pub fn uniform_size(&self) -> Option<(usize, usize)> {
        let first = self.images.first()?;
        let same = self
            .images
            .iter()
            .all(|image| (image.height, image.width) == (first.height, first.width));
        same.then_some((first.height as usize, first.width as usize))
    }

    /// Returns the number of images per class.
    pub fn class_counts(&self, num_classes: usize) -> Vec<usize> {
        let mut counts = vec![0; num_classes];
        self.labels
            .iter()
            .for_each(|&label| counts[label as usize] += 1);
        counts
    }
}

impl Dataset {
    pub fn num_classes(&self) -> usize {
        self.class_names.len()
    }

    /// Returns the labels of the images that can be trained on.
    pub fn train_labels(&self) -> &[u32] {
        let labels = self.train.labels();
        &labels[..labels.len() - self.num_validation]
    }

    /// Returns the number of training images per class.
    pub fn train_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.num_classes()];
        self.train_labels()
            .iter()
            .for_each(|&label| counts[label as usize] += 1);
        counts
    }

    /// Returns statistics per channel, in units of 0..=255. `Dataset` uses the published ones if
    /// there are any, else those of the training images by the definition in `statistics.rs`.
    ///
    /// # Panics
    /// Panics for statistics of three colours and grey images, which `Settings::check` rejects.
    pub fn statistics(&self, normalise: Normalise) -> Statistics {
        statistics::of(self, normalise)
    }
}

/// Hash of all that a training can see of a data set, updated image by image.
#[derive(Default)]
pub(crate) struct Fingerprint {
    hasher: blake3::Hasher,
    num_images: u64,
}

impl Fingerprint {
    pub(crate) fn image(&mut self, label: u32, height: u32, width: u32, pixels: &[u8]) {
        for number in [label, height, width] {
            self.hasher.update(&number.to_le_bytes());
        }
        self.hasher.update(pixels);
        self.num_images += 1;
    }

    pub(crate) fn end_of_split(&mut self) {
        self.hasher.update(&self.num_images.to_le_bytes());
    }

    pub(crate) fn finish(&mut self, class_names: &[String]) -> String {
        for name in class_names {
            self.hasher.update(name.as_bytes()).update(&[0]);
        }
        self.hasher.finalize().to_hex()[..32].to_owned()
    }
}

pub(crate) fn fingerprint(class_names: &[String], splits: [&Split; 2]) -> String {
    let mut fingerprint = Fingerprint::default();
    for split in splits {
        for (index, &label) in split.labels().iter().enumerate() {
            let image = split.image(index);
            fingerprint.image(label, image.height as u32, image.width as u32, image.pixels);
        }
        fingerprint.end_of_split();
    }
    fingerprint.finish(class_names)
}
