//! Stanford Cars in both of its layouts: `car_ims/` with one merged `cars_annos.mat`, or
//! `cars_train/` and `cars_test/` with the development kit. File names of the two do not
//! correspond. If both exist, the merged one is read if all of its images exist, else the
//! development kit's.

use std::path::{Path, PathBuf};

use super::found::{Found, ImageFile, all_there, first_complete, found, locate, numbers_from_one};
use super::stand_in_files::{StandInImage, StandIns, put};
use super::{Entry, Origin};
use crate::error::Error;
use crate::formats::mat5::{self, Value, Variables};

pub(super) const ENTRY: Entry = Entry {
    name: "cars",
    licence: "non-commercial research",
    origin: Origin::ByHand(
        "its official pages are gone. With a copy of the merged layout, put cars_annos.mat and car_ims/ into \
         DATA_DIR/cars; with the development kit, put devkit/, cars_train/, cars_test/ and cars_test_annos_withlabels.mat \
         there (md5 of car_devkit.tgz c3b158d763b6e2245038c8ad08e45376, cars_train.tgz 065e5b463ae28d29e77c1b4b166cfe61, \
         cars_test.tgz 4ce7ebf6a94d07f1952d94dd34c4d501, cars_test_annos_withlabels.mat b0a2b23655a3edd16d84508592a98d10)",
    ),
    statistics: Some((
        [120.03730636, 117.33780928, 116.0130335],
        [75.40415763, 75.15394251, 77.28286728],
    )),
    find: |_, data_dir| find(data_dir),
    write_stand_ins: Some(write_stand_ins),
};

fn find(data_dir: &Path) -> Result<Found, Error> {
    first_complete(&[
        &|| {
            merged(locate(
                "cars",
                data_dir,
                "stanford_cars",
                "cars_annos.mat",
                &[],
            )?)
        },
        &|| {
            devkit(locate(
                "cars",
                data_dir,
                "stanford_cars",
                "devkit/cars_meta.mat",
                &[],
            )?)
        },
    ])
}

fn merged(root: PathBuf) -> Result<Found, Error> {
    let path = root.join("cars_annos.mat");
    let variables = mat5::read(&path)?;
    let names = class_names(&path, &variables)?;
    let annotations = variables.get(&path, "annotations")?;
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for record in
        annotations.records(&path, "annotations", &["relative_im_path", "class", "test"])?
    {
        let label = label(&path, record[1], names.len())?;
        let file = ImageFile {
            path: root.join(record[0].text(&path, "relative_im_path")?),
            label,
        };
        let is_test = record[2].number(&path, "test")? != 0.0;
        if is_test {
            test.push(file)
        } else {
            train.push(file)
        }
    }
    let ids = numbers_from_one(names.len());
    found("cars", root, names, ids, vec![path], train, test)
}

fn devkit(root: PathBuf) -> Result<Found, Error> {
    let meta = root.join("devkit/cars_meta.mat");
    // The test labels were a separate download, and people put it in either place.
    let inside = root.join("devkit/cars_test_annos_withlabels.mat");
    let beside = root.join("cars_test_annos_withlabels.mat");
    let test_path = if beside.exists() { beside } else { inside };
    let lists = vec![
        meta.clone(),
        root.join("devkit/cars_train_annos.mat"),
        test_path,
    ];
    all_there("cars", lists.iter())?;
    let names = class_names(&meta, &mat5::read(&meta)?)?;
    let split = |path: &Path, folder: &str| {
        let variables = mat5::read(path)?;
        let records = variables.get(path, "annotations")?.records(
            path,
            "annotations",
            &["fname", "class"],
        )?;
        let file = |record: &Vec<&Value>| {
            let name = record[0].text(path, "fname")?;
            Ok(ImageFile {
                path: root.join(folder).join(name),
                label: label(path, record[1], names.len())?,
            })
        };
        records.iter().map(file).collect::<Result<Vec<_>, Error>>()
    };
    let (train, test) = (
        split(&lists[1], "cars_train")?,
        split(&lists[2], "cars_test")?,
    );
    let ids = numbers_from_one(names.len());
    found("cars", root, names, ids, lists, train, test)
}

fn class_names(path: &Path, variables: &Variables) -> Result<Vec<String>, Error> {
    let Value::Cell(names) = variables.get(path, "class_names")? else {
        return Err(Error::malformed(path, "`class_names` is not a cell array"));
    };
    names
        .iter()
        .map(|name| name.text(path, "class_names"))
        .collect()
}

fn label(path: &Path, class: &Value, num_classes: usize) -> Result<u32, Error> {
    match class.ordinal(path, "class")? {
        class if class <= num_classes => Ok(class as u32 - 1),
        class => Err(Error::malformed(
            path,
            format!("an image has class {class}; there are {num_classes}"),
        )),
    }
}

/// Writes the merged layout.
fn write_stand_ins(stand_ins: &StandIns, root: &Path) -> Result<(), Error> {
    let path = |item: &StandInImage| format!("car_ims/{:06}.jpg", item.number);
    let element = |item: &StandInImage| {
        let number = |value: usize| Value::Numbers(vec![value as f64]);
        vec![
            Value::Text(path(item)),
            number(1),
            number(item.class + 1),
            number(usize::from(!item.is_train)),
        ]
    };
    let fields = ["relative_im_path", "bbox_x1", "class", "test"]
        .map(str::to_owned)
        .to_vec();
    let annotations = Value::Struct {
        fields,
        elements: stand_ins.items.iter().map(element).collect(),
    };
    let names = stand_in_names(stand_ins);
    let file = mat5::write::file(&[("annotations", &annotations), ("class_names", &names)]);
    put(&root.join("cars_annos.mat"), &file)?;
    stand_ins
        .items
        .iter()
        .try_for_each(|item| stand_ins.jpeg(&root.join(path(item)), item))
}

/// Writes the development kit's layout, whose test labels were a separate download.
#[cfg(test)]
pub(super) fn write_devkit(stand_ins: &StandIns, root: &Path) -> Result<(), Error> {
    let names = stand_in_names(stand_ins);
    put(
        &root.join("devkit/cars_meta.mat"),
        &mat5::write::file(&[("class_names", &names)]),
    )?;
    for (list, folder, is_train) in [
        ("devkit/cars_train_annos.mat", "cars_train", true),
        ("cars_test_annos_withlabels.mat", "cars_test", false),
    ] {
        let mut elements = Vec::new();
        for (number, item) in stand_ins.split(is_train).enumerate() {
            let name = format!("{:05}.jpg", number + 1);
            stand_ins.jpeg(&root.join(folder).join(&name), item)?;
            elements.push(vec![
                Value::Numbers(vec![item.class as f64 + 1.0]),
                Value::Text(name),
            ]);
        }
        let fields = vec!["class".to_owned(), "fname".to_owned()];
        let annotations = Value::Struct { fields, elements };
        put(
            &root.join(list),
            &mat5::write::file(&[("annotations", &annotations)]),
        )?;
    }
    Ok(())
}

fn stand_in_names(stand_ins: &StandIns) -> Value {
    let name = |class: usize| Value::Text(format!("Car {class} 2012"));
    Value::Cell((0..stand_ins.amount.num_classes).map(name).collect())
}
