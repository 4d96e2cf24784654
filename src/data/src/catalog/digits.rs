//! The 1,797 handwritten digits that are part of the program: 8x8 grey, 1,297 to train on and 500
//! (50 per class) to test. Their origin and split are described in ../../digits/ATTRIBUTION.md and
//! convert.py.

use super::found::{Arrays, Content, Found, Labelled, numbers};
use super::{Entry, Origin};
use crate::formats::idx;

pub(super) const ENTRY: Entry = Entry {
    name: "digits",
    licence: "CC BY 4.0",
    origin: Origin::BuiltIn,
    statistics: None,
    find: |_, _| Ok(find()),
    write_stand_ins: None,
};

fn find() -> Found {
    Found {
        root: None,
        channels: 1,
        class_names: numbers(10),
        class_ids: numbers(10),
        files: Vec::new(),
        content: Content::Arrays(Box::new(|| Ok(read()))),
        notes: Vec::new(),
    }
}

fn read() -> Arrays {
    Arrays {
        height: 8,
        width: 8,
        train: split(
            include_bytes!("../../digits/train-images.idx.gz"),
            include_bytes!("../../digits/train-labels.idx.gz"),
        ),
        test: split(
            include_bytes!("../../digits/test-images.idx.gz"),
            include_bytes!("../../digits/test-labels.idx.gz"),
        ),
    }
}

fn split(images: &[u8], labels: &[u8]) -> Labelled {
    // The source counts inked pixels of 4x4 blocks, 0..=16: scaled to the range of a byte.
    let pixels = idx::embedded(images, 3)
        .bytes
        .iter()
        .map(|&ink| ((u32::from(ink) * 255 + 8) / 16) as u8)
        .collect();
    Labelled {
        labels: idx::embedded(labels, 1)
            .bytes
            .iter()
            .map(|&label| u32::from(label))
            .collect(),
        pixels,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_the_promised_images() {
        let arrays = read();
        assert_eq!(arrays.train.pixels.len(), 1297 * 64);
        assert_eq!(arrays.test.pixels.len(), 500 * 64);
        for class in 0..10 {
            let count =
                |split: &Labelled| split.labels.iter().filter(|&&label| label == class).count();
            assert!(count(&arrays.train) >= 100);
            assert_eq!(count(&arrays.test), 50);
        }
        assert_eq!(arrays.train.pixels.iter().max(), Some(&255));
        // The source's first line begins 0,0,5,13,9,1 and is a zero.
        assert_eq!(
            (arrays.train.labels[0], &arrays.train.pixels[..6]),
            (0, &[0, 0, 80, 207, 143, 16][..])
        );
    }
}
