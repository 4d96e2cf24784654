//! CUB-200-2011 and NABirds: four text files keyed by image id, and one folder of images.
//!
//! Classes are those that images refer to, in ascending order; CUB's are 1..=200, NABirds' the
//! leaves among 1,011 nodes of a hierarchy, with gaps.
//!
//! The authors' subsets of CUB (`cub-sub5`) have their own list instead of `train_test_split.txt`.
//! It names the images in use: the chosen training images, and all test images.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::found::{Found, ImageFile, all_there, found, locate};
use super::stand_in_files::{StandInImage, StandIns, put};
use super::{Checksum, Entry, Origin, archive};
use crate::error::Error;
use crate::formats::table;

pub(super) const CUB: Entry = Entry {
    name: "cub",
    licence: "non-commercial research and education",
    origin: Origin::Download(&[archive(
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        Checksum::Sha256("0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081"),
        8 << 30,
    )]),
    statistics: Some((
        [123.82988033, 127.35116805, 110.25606303],
        [59.2230949, 58.0736071, 67.80251684],
    )),
    find,
    write_stand_ins: Some(|stand_ins, root| {
        write_stand_ins(stand_ins, &root.join("CUB_200_2011"), false)
    }),
};

pub(super) const NABIRDS: Entry = Entry {
    name: "nabirds",
    licence: "non-commercial, terms to be accepted",
    origin: Origin::ByHand(
        "accept the terms at https://dl.allaboutbirds.org/nabirds, download nabirds.tar.gz (md5 \
         df21a9e4db349a14e2b08adfd45873bd) and unpack it in the data directory, so that DATA_DIR/nabirds/images.txt exists",
    ),
    statistics: Some((
        [125.30513277, 129.66606421, 118.45121113],
        [57.0045467, 56.70059436, 68.44430446],
    )),
    find,
    write_stand_ins: Some(|stand_ins, root| write_stand_ins(stand_ins, root, true)),
};

fn find(name: &str, data_dir: &Path) -> Result<Found, Error> {
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
    all_there(base, lists[..3].iter())?;
    all_there(name, lists[3..].iter())?;
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

fn write_stand_ins(stand_ins: &StandIns, root: &Path, with_gaps: bool) -> Result<(), Error> {
    // NABirds' class ids have gaps and do not begin at 1; its image ids are not numbers.
    let class_id = |class: usize| if with_gaps { 95 + 5 * class } else { class + 1 };
    let image_id = |item: &StandInImage| match with_gaps {
        true => format!("{:08x}-21dc-4d0c-bfe1-4cae3c85c829", item.number),
        false => item.number.to_string(),
    };
    let path = |item: &StandInImage| {
        format!(
            "{:04}.Class_{}/image_{}.jpg",
            class_id(item.class),
            item.class,
            item.number
        )
    };
    put(
        &root.join("images.txt"),
        &stand_ins.lines(|item| format!("{} {}", image_id(item), path(item))),
    )?;
    let labels = stand_ins.lines(|item| format!("{} {}", image_id(item), class_id(item.class)));
    put(&root.join("image_class_labels.txt"), &labels)?;
    let splits = stand_ins.lines(|item| format!("{} {}", image_id(item), u8::from(item.is_train)));
    put(&root.join("train_test_split.txt"), &splits)?;
    let mut classes: String = (0..stand_ins.amount.num_classes)
        .map(|class| {
            format!(
                "{} {:03}.Class {class} (adult)\n",
                class_id(class),
                class_id(class)
            )
        })
        .collect();
    if with_gaps {
        classes.push_str("0 Birds\n");
        let edges: String = (0..stand_ins.amount.num_classes)
            .map(|class| format!("{} 0\n", class_id(class)))
            .collect();
        put(&root.join("hierarchy.txt"), edges.as_bytes())?;
    }
    put(&root.join("classes.txt"), classes.as_bytes())?;
    stand_ins
        .items
        .iter()
        .try_for_each(|item| stand_ins.jpeg(&root.join("images").join(path(item)), item))
}
