//! Stanford Cars in both of its layouts: `car_ims/` with one merged `cars_annos.mat`, or
//! `cars_train/` and `cars_test/` with the development kit. File names of the two do not
//! correspond. If both exist, the merged one is read if all of its images exist, else the
//! development kit's.

use std::path::{Path, PathBuf};

use super::{Found, ImageFile, all_there, first_complete, found, locate};
use crate::error::Error;
use crate::mat5::{self, Value, Variables};

pub(super) fn find(data_dir: &Path) -> Result<Found, Error> {
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

pub(super) fn numbers_from_one(count: usize) -> Vec<String> {
    (1..=count).map(|class| class.to_string()).collect()
}
