//! Fashion-MNIST: 60,000 + 10,000 grey images of 28x28 in four IDX files, gzipped or unpacked.

use std::path::{Path, PathBuf};

use super::{Arrays, Content, Found, Labelled, locate, numbers, strings, widen};
use crate::error::Error;
use crate::idx;

const CLASSES: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// Folder of Debian's package dataset-fashion-mnist.
const DEBIAN: &str = "/usr/share/datasets/fashion-mnist";

pub(super) fn find(data_dir: &Path) -> Result<Found, Error> {
    let marker = "train-images-idx3-ubyte.gz";
    let root = locate(
        "fashion-mnist",
        data_dir,
        "FashionMNIST/raw",
        marker,
        &[DEBIAN],
    )?;
    let file = |name: &str| root.join(format!("{name}-ubyte.gz"));
    let train = (file("train-images-idx3"), file("train-labels-idx1"));
    let test = (file("t10k-images-idx3"), file("t10k-labels-idx1"));
    let files: Vec<PathBuf> = [&train.0, &train.1, &test.0, &test.1]
        .into_iter()
        .cloned()
        .collect();
    super::all_there("fashion-mnist", files.iter())?;
    let read = move || {
        Ok(Arrays {
            height: 28,
            width: 28,
            train: split(&train)?,
            test: split(&test)?,
        })
    };
    Ok(Found {
        root: Some(root),
        channels: 1,
        class_names: strings(&CLASSES),
        class_ids: numbers(CLASSES.len()),
        files,
        content: Content::Arrays(Box::new(read)),
        notes: Vec::new(),
    })
}

fn split((images, labels): &(PathBuf, PathBuf)) -> Result<Labelled, Error> {
    let read = idx::read(images, 3)?;
    if read.shape[1..] != [28, 28] {
        let reason = format!(
            "its images are {} x {}, not 28 x 28",
            read.shape[1], read.shape[2]
        );
        return Err(Error::malformed(images, reason));
    }
    let read_labels = idx::read(labels, 1)?;
    if read_labels.shape[0] != read.shape[0] {
        let reason = format!(
            "it has {} labels for {} images",
            read_labels.shape[0], read.shape[0]
        );
        return Err(Error::malformed(labels, reason));
    }
    Ok(Labelled {
        labels: widen(labels, &read_labels.bytes, CLASSES.len())?,
        pixels: read.bytes,
    })
}
