//! The operations of one training step on its images, chosen before any pixel is touched.
//!
//! Every choice comes from counters (promise P7): per image from (seed, epoch, repeat, index), per
//! batch from (seed, epoch, step). Nothing here depends on threads, shards or earlier calls.
//! `augment.rs` executes the choices.

use crate::random::{Purpose, Stream};

/// One training step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepPlan {
    pub epoch: u32,
    /// Number within the epoch, from 0.
    pub step: u64,
    pub samples: Vec<SamplePlan>,
    /// Label of each sample.
    pub labels: Vec<u32>,
    pub mix: Option<Mix>,
}

impl StepPlan {
    /// Returns the number of images in this batch; the last one of an epoch may be smaller.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
}

/// One image and its operations.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplePlan {
    /// Index into the data set's training split.
    pub index: u32,
    /// Number of the pass over the subset within the epoch.
    pub repeat: u32,
    /// Rows and columns by which sampling positions move, in pixels.
    pub shift: Option<(f32, f32)>,
    pub flip: bool,
    pub erase: Option<Erase>,
    pub window: Window,
}

/// A rectangle of the flipped image, filled with noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Erase {
    pub top: u32,
    pub left: u32,
    pub height: u32,
    pub width: u32,
}

/// The part of the image that becomes the network's input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Window {
    /// Top and left of a square of the network's side; outside of the image its reflection is used.
    At { top: i32, left: i32 },
    /// A rectangle inside of the image, resized to the network's side.
    Resized {
        top: u32,
        left: u32,
        height: u32,
        width: u32,
    },
}

/// CutMix (Yun et al., ICCV 2019): a box in every image is replaced by its partner's in the batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix {
    /// For each sample, the position of its partner in the batch.
    pub partners: Vec<u32>,
    /// Labels of the partners.
    pub labels: Vec<u32>,
    /// Weight of a sample's own label: the share of the image that remains its own.
    pub lambda: f32,
    /// The box, in pixels of the network's input: rows and columns.
    pub rows: (u32, u32),
    pub columns: (u32, u32),
}

/// The choices that settings leave open, and the sizes that they depend on.
#[derive(Clone, Debug)]
pub(crate) struct Chooser {
    pub(crate) seed: u64,
    pub(crate) side: u32,
    /// Largest shift as a fraction of height and width.
    pub(crate) shift: f64,
    pub(crate) flip: bool,
    pub(crate) erase: bool,
    pub(crate) crop: sweep::settings::Crop,
}

impl Chooser {
    pub(crate) fn sample(
        &self,
        epoch: u32,
        repeat: u32,
        index: u32,
        height: u32,
        width: u32,
    ) -> SamplePlan {
        use sweep::settings::Crop;
        let mut stream = Stream::new(self.seed, Purpose::Augment, epoch, repeat, index);
        let shift = (self.shift > 0.0).then(|| {
            let mut draw =
                |length: u32| stream.uniform(-self.shift, self.shift) * f64::from(length);
            let rows = draw(height);
            (rows as f32, draw(width) as f32)
        });
        let flip = self.flip && stream.coin();
        // After a resized crop the image has the network's size, and erasing happens at that size.
        let erased_size = if self.crop == Crop::RandomResized {
            (self.side, self.side)
        } else {
            (height, width)
        };
        let erase = (self.erase && stream.coin())
            .then(|| erase(&mut stream, erased_size))
            .flatten();
        let window = match self.crop {
            Crop::Centre => centre(self.side, height, width),
            Crop::Random => Window::At {
                top: offset(&mut stream, self.side, height),
                left: offset(&mut stream, self.side, width),
            },
            Crop::RandomResized => resized(&mut stream, height, width),
        };
        SamplePlan {
            index,
            repeat,
            shift,
            flip,
            erase,
            window,
        }
    }
}

/// Returns the centre, rounded down, as the authors crop test images; negative if the image is
/// smaller.
pub(crate) fn centre(side: u32, height: u32, width: u32) -> Window {
    let middle = |length: u32| (length as i32 - side as i32).div_euclid(2);
    Window::At {
        top: middle(height),
        left: middle(width),
    }
}

/// Draws an offset uniformly over all positions; for a smaller image, over all ways to split the
/// padding.
fn offset(stream: &mut Stream, side: u32, length: u32) -> i32 {
    if length >= side {
        stream.below(length - side + 1) as i32
    } else {
        -(stream.below(side - length + 1) as i32)
    }
}

/// Draws area fraction in 0.02..0.3, aspect ratio uniform (not log-uniform) in 0.3..1/0.3, until
/// the box fits.
fn erase(stream: &mut Stream, (height, width): (u32, u32)) -> Option<Erase> {
    let area = f64::from(height) * f64::from(width);
    // Each draw fits an ordinary image with a probability above one half; the bound stops the loop
    // for a strip of an image, which may never fit.
    for _ in 0..256 {
        let erased = stream.uniform(0.02, 0.3) * area;
        let ratio = stream.uniform(0.3, 1.0 / 0.3);
        let rows = (erased * ratio).sqrt() as u32;
        let columns = (erased / ratio).sqrt() as u32;
        if rows < height && columns < width {
            let top = stream.below(height - rows + 1);
            let left = stream.below(width - columns + 1);
            return Some(Erase {
                top,
                left,
                height: rows,
                width: columns,
            });
        }
    }
    None
}

/// torchvision's RandomResizedCrop: area 8..100 %, log-uniform aspect ratio in 3/4..4/3, ten tries,
/// then the centre.
fn resized(stream: &mut Stream, height: u32, width: u32) -> Window {
    const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
    let area = f64::from(height) * f64::from(width);
    for _ in 0..10 {
        let target = area * stream.uniform(0.08, 1.0);
        let ratio = stream.uniform(RATIO.0.ln(), RATIO.1.ln()).exp();
        let columns = (target * ratio).sqrt().round() as u32;
        let rows = (target / ratio).sqrt().round() as u32;
        if (1..=height).contains(&rows) && (1..=width).contains(&columns) {
            let top = stream.below(height - rows + 1);
            let left = stream.below(width - columns + 1);
            return Window::Resized {
                top,
                left,
                height: rows,
                width: columns,
            };
        }
    }
    let ratio = f64::from(width) / f64::from(height);
    let (rows, columns) = if ratio < RATIO.0 {
        ((f64::from(width) / RATIO.0).round() as u32, width)
    } else if ratio > RATIO.1 {
        (height, (f64::from(height) * RATIO.1).round() as u32)
    } else {
        (height, width)
    };
    Window::Resized {
        top: (height - rows) / 2,
        left: (width - columns) / 2,
        height: rows,
        width: columns,
    }
}

/// Draws box and partners of one batch, with the given probability. The ratio is recomputed from
/// the clipped box.
pub(crate) fn mix(
    settings: &sweep::settings::CutMix,
    seed: u64,
    epoch: u32,
    step: u64,
    side: u32,
    labels: &[u32],
) -> Option<Mix> {
    let mut stream = Stream::new(seed, Purpose::CutMix, epoch, 0, step as u32);
    if stream.unit() >= settings.probability {
        return None;
    }
    let lambda = stream.beta(settings.alpha);
    let cut = (f64::from(side) * (1.0 - lambda).sqrt()) as i32;
    let mut span = || {
        let middle = stream.below(side) as i32;
        let clip = |position: i32| position.clamp(0, side as i32) as u32;
        (clip(middle - cut / 2), clip(middle + cut / 2))
    };
    let (rows, columns) = (span(), span());
    let boxed = f64::from(rows.1 - rows.0) * f64::from(columns.1 - columns.0);
    let mut partners: Vec<u32> = (0..labels.len() as u32).collect();
    stream.shuffle(&mut partners);
    let partner_labels = partners
        .iter()
        .map(|&partner| labels[partner as usize])
        .collect();
    let lambda = 1.0 - boxed / (f64::from(side) * f64::from(side));
    Some(Mix {
        partners,
        labels: partner_labels,
        lambda: lambda as f32,
        rows,
        columns,
    })
}
