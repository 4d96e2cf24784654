//! VIPriors ImageNet-50: 50 training and 50 validation images of each of 1,000 classes, both from
//! ILSVRC2012's training set. Read as folders (`imagenet_50/{train,val}/WNID/`), as the challenge's
//! script creates them, or from the challenge's pickled lists beside a folder of ILSVRC2012's
//! training images. Evaluation uses the validation split: the challenge's test images come without
//! labels.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde_pickle::{DeOptions, Value};

use super::found::{Found, ImageFile, all_there, first_complete, found, locate};
#[cfg(test)]
use super::stand_in_files::{StandInImage, StandIns, put};
use super::{Entry, Origin, folder};
use crate::error::Error;
use crate::formats::pickle;
use crate::{files, statistics};

pub(super) const ENTRY: Entry = Entry {
    name: "vipriors",
    licence: "ImageNet's: non-commercial research and education",
    origin: Origin::ByHand(
        "the organisers may not redistribute ImageNet's images. With ILSVRC2012 at hand, run the \
         generate_images.py of github.com/VIPriors/vipriors-challenges-toolkit (image-classification/, in its history) and \
         put imagenet_50/ into DATA_DIR/vipriors; or put train.pickle and val.pickle from there into DATA_DIR/vipriors with \
         a link `images` to ILSVRC2012's folder of training images",
    ),
    statistics: Some(statistics::TORCHVISION),
    find: |_, data_dir| find(data_dir),
    write_stand_ins: Some(|stand_ins, root| {
        stand_ins.class_folders(&root.join("imagenet_50"), "val")
    }),
};

/// Possible folders of ILSVRC2012's training images, relative to the lists.
const IMAGE_FOLDERS: [&str; 4] = [
    "images",
    "ILSVRC2012/train",
    "ILSVRC/Data/CLS-LOC/train",
    "ILSVRC2012_img_train",
];

fn find(data_dir: &Path) -> Result<Found, Error> {
    first_complete(&[
        &|| folders(locate("vipriors", data_dir, "imagenet_50", "train/", &[])?),
        &|| {
            lists(locate(
                "vipriors",
                data_dir,
                "imagenet_50",
                "train.pickle",
                &[],
            )?)
        },
    ])
}

fn folders(root: PathBuf) -> Result<Found, Error> {
    let (train, val) = (root.join("train"), root.join("val"));
    if !val.is_dir() {
        return Err(Error::malformed(&root, "it has train/ but no val/"));
    }
    folder::splits("vipriors", root, &train, &val)
}

fn lists(root: PathBuf) -> Result<Found, Error> {
    let lists = vec![root.join("train.pickle"), root.join("val.pickle")];
    all_there("vipriors", lists.iter())?;
    let images = IMAGE_FOLDERS
        .iter()
        .map(|folder| root.join(folder))
        .find(|folder| folder.is_dir());
    let images = images.ok_or_else(|| {
        let reason = format!(
            "ILSVRC2012's training images were looked for beside it in {}",
            IMAGE_FOLDERS.join(", ")
        );
        Error::malformed(&lists[0], reason)
    })?;
    let (train, val) = (entries(&lists[0])?, entries(&lists[1])?);
    let names: BTreeSet<&str> = train.iter().map(|(class, _)| class.as_str()).collect();
    let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    let labels: HashMap<&str, u32> = names
        .iter()
        .enumerate()
        .map(|(label, name)| (&**name, label as u32))
        .collect();
    let split = |path: &Path, entries: &[(String, String)]| {
        let file = |(class, file): &(String, String)| match labels.get(class.as_str()) {
            Some(&label) => Ok(ImageFile {
                path: images.join(class).join(file),
                label,
            }),
            None => Err(Error::malformed(
                path,
                format!("class `{class}` has no training images"),
            )),
        };
        entries.iter().map(file).collect::<Result<Vec<_>, Error>>()
    };
    let (train, val) = (split(&lists[0], &train)?, split(&lists[1], &val)?);
    found("vipriors", root, names.clone(), names, lists, train, val)
}

/// Reads a pickled list of [class, file] pairs.
fn entries(path: &Path) -> Result<Vec<(String, String)>, Error> {
    let bytes = files::read(path, files::MAX_LIST_BYTES)?;
    let value = pickle::value(path, &bytes, DeOptions::new())?;
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bytes(bytes) => String::from_utf8(bytes.clone()).ok(),
        _ => None,
    };
    let pair = |value: &Value| match value {
        Value::List(pair) | Value::Tuple(pair) if pair.len() == 2 => {
            Some((text(&pair[0])?, text(&pair[1])?))
        }
        _ => None,
    };
    let pairs = match &value {
        Value::List(entries) => entries.iter().map(pair).collect::<Option<Vec<_>>>(),
        _ => None,
    };
    pairs
        .filter(|pairs| !pairs.is_empty())
        .ok_or_else(|| Error::malformed(path, "it is not a list of [class, file]"))
}

/// Writes the challenge's lists beside a folder of images.
#[cfg(test)]
pub(super) fn write_lists(stand_ins: &StandIns, root: &Path) -> Result<(), Error> {
    let class = |item: &StandInImage| format!("n{:08}", item.class);
    let file = |item: &StandInImage| format!("n{:08}_{}.JPEG", item.class, item.number);
    for (list, is_train) in [("train.pickle", true), ("val.pickle", false)] {
        let pairs: Vec<[String; 2]> = stand_ins
            .split(is_train)
            .map(|item| [class(item), file(item)])
            .collect();
        let bytes = serde_pickle::to_vec(&pairs, serde_pickle::SerOptions::new()).unwrap();
        put(&root.join(list), &bytes)?;
    }
    let path = |item: &StandInImage| root.join("images").join(class(item)).join(file(item));
    stand_ins
        .items
        .iter()
        .try_for_each(|item| stand_ins.jpeg(&path(item), item))
}
