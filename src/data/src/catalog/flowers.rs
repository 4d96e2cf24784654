//! Oxford Flowers-102: `jpg/image_%05d.jpg`, labels and splits in .mat files. As in the paper, the
//! training and validation splits together are trained on (2,040 images), in this order. The files
//! contain no class names.

use std::path::Path;

use super::found::{Found, ImageFile, all_there, found, locate, numbers_from_one};
use super::stand_in_files::{StandInImage, StandIns, put};
use super::{Checksum, Entry, Origin, archive, file};
use crate::error::Error;
use crate::formats::mat5::{self, Value};

macro_rules! address {
    ($file:literal) => {
        concat!("https://www.robots.ox.ac.uk/~vgg/data/flowers/102/", $file)
    };
}

pub(super) const ENTRY: Entry = Entry {
    name: "flowers",
    licence: "none stated; cite Nilsback and Zisserman (2008)",
    origin: Origin::Download(&[
        archive(
            address!("102flowers.tgz"),
            Checksum::Md5("52808999861908f626f3c1f4e79d11fa"),
            4 << 30,
        ),
        file(
            address!("imagelabels.mat"),
            Checksum::Md5("e0620be6f572b9609742df49c70aed4d"),
        ),
        file(
            address!("setid.mat"),
            Checksum::Md5("a5357ecc9cb78c4bef273ce3793fc85c"),
        ),
    ]),
    statistics: Some((
        [110.7799141, 97.65648664, 75.32889973],
        [74.90387818, 62.70218863, 69.7656359],
    )),
    find: |_, data_dir| find(data_dir),
    write_stand_ins: Some(write_stand_ins),
};

fn find(data_dir: &Path) -> Result<Found, Error> {
    let root = locate("flowers", data_dir, "flowers-102", "setid.mat", &[])?;
    let (labels_path, splits_path) = (root.join("imagelabels.mat"), root.join("setid.mat"));
    let lists = vec![labels_path.clone(), splits_path.clone()];
    all_there("flowers", lists.iter())?;
    let labels = mat5::read(&labels_path)?.ordinals(&labels_path, "labels")?;
    let num_classes = labels.iter().copied().max().unwrap_or(0);
    // A forged label must not create a list of a billion class names.
    if num_classes > labels.len() {
        let reason = format!("it has class {num_classes} among {} labels", labels.len());
        return Err(Error::malformed(&labels_path, reason));
    }
    let splits = mat5::read(&splits_path)?;
    let split = |name: &str| {
        let file = |id: usize| match labels.get(id - 1) {
            Some(&label) => Ok(ImageFile {
                path: root.join(format!("jpg/image_{id:05}.jpg")),
                label: label as u32 - 1,
            }),
            None => Err(Error::malformed(
                &splits_path,
                format!("`{name}` names image {id}, which has no label"),
            )),
        };
        splits
            .ordinals(&splits_path, name)?
            .into_iter()
            .map(file)
            .collect::<Result<Vec<_>, Error>>()
    };
    let train = [split("trnid")?, split("valid")?].concat();
    let test = split("tstid")?;
    let ids = numbers_from_one(num_classes);
    found("flowers", root, ids.clone(), ids, lists, train, test)
}

/// Writes every second training image to the validation split, which has half of the real ones
/// too.
fn write_stand_ins(stand_ins: &StandIns, root: &Path) -> Result<(), Error> {
    let labels = Value::Numbers(
        stand_ins
            .items
            .iter()
            .map(|item| item.class as f64 + 1.0)
            .collect(),
    );
    put(
        &root.join("imagelabels.mat"),
        &mat5::write::file(&[("labels", &labels)]),
    )?;
    let ids = |is_train: bool, parity: Option<usize>| {
        let numbers = stand_ins.split(is_train).map(|item| item.number);
        Value::Numbers(
            numbers
                .filter(|number| parity.is_none_or(|p| number % 2 == p))
                .map(|n| n as f64)
                .collect(),
        )
    };
    let (train, valid, test) = (ids(true, Some(1)), ids(true, Some(0)), ids(false, None));
    let splits = mat5::write::file(&[("trnid", &train), ("valid", &valid), ("tstid", &test)]);
    put(&root.join("setid.mat"), &splits)?;
    let path = |item: &StandInImage| root.join(format!("jpg/image_{:05}.jpg", item.number));
    stand_ins
        .items
        .iter()
        .try_for_each(|item| stand_ins.jpeg(&path(item), item))
}
