//! CUB-200-2011 and NABirds: four text files keyed by image id, and one folder of images.
//!
//! Classes are those that images refer to, in ascending order; CUB's are 1..=200, NABirds' the
//! leaves among 1,011 nodes of a hierarchy, with gaps.
//!
//! The authors' subsets of CUB (`cub-sub5`) have their own list instead of `train_test_split.txt`.
//! It names the images in use: the chosen training images, and all test images.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::{Found, ImageFile, found, locate, table};
use crate::error::Error;

pub(super) fn find(name: &str, data_dir: &Path) -> Result<Found, Error> {
    let (base, subset) = (sweep::dataset::base(name), sweep::dataset::cub_subset(name));
    let folder = if base == "cub" {
        "CUB_200_2011"
    } else {
        "nabirds"
    };
    let root = locate(base, data_dir, folder, "image_class_labels.txt", &[])?;
    let split_list = subset.map_or("train_test_split.txt".to_owned(), |count| {
        format!("train_test_split_{count}.txt")
    });
    let list = |file: &str| root.join(file);
    let lists = [
        "images.txt",
        "image_class_labels.txt",
        "classes.txt",
        &split_list,
    ]
    .map(list);
    super::all_there(base, lists[..3].iter())?;
    super::all_there(name, lists[3..].iter())?;
    let [images, labels, classes, splits] = &lists;
    let class_of = table::by_id(labels)?;
    let is_train = table::by_id(splits)?;
    let names: HashMap<String, String> = table::by_id(classes)?;

    let ids: BTreeSet<&str> = class_of.values().map(String::as_str).collect();
    let mut ids: Vec<&str> = ids.into_iter().collect();
    ids.sort_by_key(|id| (id.parse::<u64>().unwrap_or(u64::MAX), *id));
    let label_of: HashMap<&str, u32> = ids
        .iter()
        .enumerate()
        .map(|(label, &id)| (id, label as u32))
        .collect();
    let class_name = |id: &&str| {
        let name = names.get(*id).cloned();
        name.ok_or_else(|| Error::malformed(classes, format!("class `{id}` has no name in it")))
    };
    let class_names = ids.iter().map(class_name).collect::<Result<_, _>>()?;

    let (mut train, mut test) = (Vec::new(), Vec::new());
    for (id, relative) in table::pairs(images)? {
        let class = class_of.get(&id);
        let class = class
            .ok_or_else(|| Error::malformed(labels, format!("image `{id}` has no class in it")))?;
        let file = ImageFile {
            path: root.join("images").join(relative),
            label: label_of[class.as_str()],
        };
        match is_train.get(&id).map(String::as_str) {
            Some("1") => train.push(file),
            Some("0") => test.push(file),
            Some(other) => {
                return Err(Error::malformed(
                    splits,
                    format!("image `{id}` has `{other}`, neither 0 nor 1"),
                ));
            }
            None if subset.is_some() => {}
            None => {
                return Err(Error::malformed(
                    splits,
                    format!("image `{id}` is not in it"),
                ));
            }
        }
    }
    let class_ids = ids.into_iter().map(str::to_owned).collect();
    found(
        name,
        root,
        class_names,
        class_ids,
        lists.into(),
        train,
        test,
    )
}
