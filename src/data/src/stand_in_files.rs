//! Stand-in images written in each data set's real layout on disk: for tests of the readers, and
//! for people who want to rehearse a data set's path before they have it. Photographs are JPEG
//! files, annotations have the real formats.

use std::path::{Path, PathBuf};

use crate::catalog;
use crate::error::Error;
use crate::mat5::{self, Value};
use crate::readers;
use crate::stand_in;

/// The number of images, and the size of photographs. Data sets of small images keep their own
/// size.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    pub num_classes: usize,
    pub train_per_class: usize,
    pub test_per_class: usize,
    pub height: usize,
    pub width: usize,
}

/// One image to write.
struct Item {
    class: usize,
    is_train: bool,
    /// Number over all images, from 1.
    number: usize,
}

/// Writes a data set below `data_dir/NAME` as `fetch`, or a person who follows its instructions,
/// would. Returns the folder.
pub fn write(name: &str, data_dir: &Path, amount: Amount) -> Result<PathBuf, Error> {
    let root = data_dir.join(name);
    let files = Files::new(amount);
    match name {
        "fashion-mnist" => files.fashion_mnist(&root)?,
        "cifar100" => files.cifar100(&root)?,
        "cub" => files.birds(&root.join("CUB_200_2011"), false)?,
        "nabirds" => files.birds(&root, true)?,
        "cars" => files.cars(&root)?,
        "flowers" => files.flowers(&root)?,
        "mit67" => files.mit67(&root)?,
        "vipriors" => files.class_folders(&root.join("imagenet_50"), "val")?,
        _ if name.starts_with(catalog::FOLDER_PREFIX) => {
            let root = data_dir.join(&name[catalog::FOLDER_PREFIX.len()..]);
            files.class_folders(&root, "test")?;
            return Ok(root);
        }
        _ => return Err(readers::unknown(name)),
    }
    Ok(root)
}

struct Files {
    amount: Amount,
    items: Vec<Item>,
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    std::fs::write(path, bytes).map_err(Error::io("write", path))
}

impl Files {
    fn new(amount: Amount) -> Self {
        let mut items = Vec::new();
        for class in 0..amount.num_classes {
            for index in 0..amount.train_per_class + amount.test_per_class {
                items.push(Item {
                    class,
                    is_train: index < amount.train_per_class,
                    number: items.len() + 1,
                });
            }
        }
        Self { amount, items }
    }

    fn jpeg(&self, path: &Path, item: &Item) -> Result<(), Error> {
        let Amount { height, width, .. } = self.amount;
        let pixels = stand_in::image(item.class as u32, item.number as u32, height, width, 3);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        let (colour, format) = (image::ExtendedColorType::Rgb8, image::ImageFormat::Jpeg);
        image::save_buffer_with_format(path, &pixels, width as u32, height as u32, colour, format)
            .map_err(|error| Error::io("write", path)(std::io::Error::other(error)))
    }

    fn split(&self, is_train: bool) -> impl Iterator<Item = &Item> {
        self.items
            .iter()
            .filter(move |item| item.is_train == is_train)
    }

    /// Returns one line per image.
    fn lines(&self, line: impl Fn(&Item) -> String) -> Vec<u8> {
        self.items
            .iter()
            .map(|item| line(item) + "\n")
            .collect::<String>()
            .into_bytes()
    }

    fn fashion_mnist(&self, root: &Path) -> Result<(), Error> {
        for (prefix, is_train) in [("train", true), ("t10k", false)] {
            let labels: Vec<u8> = self.split(is_train).map(|item| item.class as u8).collect();
            let images = self.split(is_train);
            let pixels: Vec<u8> = images
                .flat_map(|item| stand_in::image(item.class as u32, item.number as u32, 28, 28, 1))
                .collect();
            let count = labels.len() as u32;
            put(
                &root.join(format!("{prefix}-labels-idx1-ubyte.gz")),
                &crate::idx::encode(&[count], &labels),
            )?;
            put(
                &root.join(format!("{prefix}-images-idx3-ubyte.gz")),
                &crate::idx::encode(&[count, 28, 28], &pixels),
            )?;
        }
        Ok(())
    }

    /// Writes the binary form. The number of class names is fixed by the format.
    fn cifar100(&self, root: &Path) -> Result<(), Error> {
        let root = root.join("cifar-100-binary");
        for (file, is_train) in [("train.bin", true), ("test.bin", false)] {
            let mut records = Vec::new();
            for item in self.split(is_train) {
                records.extend([0, item.class as u8]);
                let pixels = stand_in::image(item.class as u32, item.number as u32, 32, 32, 3);
                (0..3).for_each(|channel| records.extend(pixels.iter().skip(channel).step_by(3)));
            }
            put(&root.join(file), &records)?;
        }
        let names: String = (0..100).map(|class| format!("class_{class}\n")).collect();
        put(&root.join("fine_label_names.txt"), names.as_bytes())
    }

    fn birds(&self, root: &Path, with_gaps: bool) -> Result<(), Error> {
        // NABirds' class ids have gaps and do not begin at 1; its image ids are not numbers.
        let class_id = |class: usize| if with_gaps { 95 + 5 * class } else { class + 1 };
        let image_id = |item: &Item| match with_gaps {
            true => format!("{:08x}-21dc-4d0c-bfe1-4cae3c85c829", item.number),
            false => item.number.to_string(),
        };
        let path = |item: &Item| {
            format!(
                "{:04}.Class_{}/image_{}.jpg",
                class_id(item.class),
                item.class,
                item.number
            )
        };
        put(
            &root.join("images.txt"),
            &self.lines(|item| format!("{} {}", image_id(item), path(item))),
        )?;
        let labels = self.lines(|item| format!("{} {}", image_id(item), class_id(item.class)));
        put(&root.join("image_class_labels.txt"), &labels)?;
        let splits = self.lines(|item| format!("{} {}", image_id(item), u8::from(item.is_train)));
        put(&root.join("train_test_split.txt"), &splits)?;
        let mut classes: String = (0..self.amount.num_classes)
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
            let edges: String = (0..self.amount.num_classes)
                .map(|class| format!("{} 0\n", class_id(class)))
                .collect();
            put(&root.join("hierarchy.txt"), edges.as_bytes())?;
        }
        put(&root.join("classes.txt"), classes.as_bytes())?;
        self.items
            .iter()
            .try_for_each(|item| self.jpeg(&root.join("images").join(path(item)), item))
    }

    /// Writes the merged layout.
    fn cars(&self, root: &Path) -> Result<(), Error> {
        let path = |item: &Item| format!("car_ims/{:06}.jpg", item.number);
        let element = |item: &Item| {
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
            elements: self.items.iter().map(element).collect(),
        };
        let names = class_names(self.amount.num_classes);
        let file = mat5::write::file(&[("annotations", &annotations), ("class_names", &names)]);
        put(&root.join("cars_annos.mat"), &file)?;
        self.items
            .iter()
            .try_for_each(|item| self.jpeg(&root.join(path(item)), item))
    }

    /// Writes the development kit's layout, whose test labels were a separate download.
    #[cfg(test)]
    fn cars_devkit(&self, root: &Path) -> Result<(), Error> {
        let names = class_names(self.amount.num_classes);
        put(
            &root.join("devkit/cars_meta.mat"),
            &mat5::write::file(&[("class_names", &names)]),
        )?;
        for (list, folder, is_train) in [
            ("devkit/cars_train_annos.mat", "cars_train", true),
            ("cars_test_annos_withlabels.mat", "cars_test", false),
        ] {
            let mut elements = Vec::new();
            for (number, item) in self.split(is_train).enumerate() {
                let name = format!("{:05}.jpg", number + 1);
                self.jpeg(&root.join(folder).join(&name), item)?;
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

    /// Writes every second training image to the validation split, which has half of the real ones
    /// too.
    fn flowers(&self, root: &Path) -> Result<(), Error> {
        let labels = Value::Numbers(
            self.items
                .iter()
                .map(|item| item.class as f64 + 1.0)
                .collect(),
        );
        put(
            &root.join("imagelabels.mat"),
            &mat5::write::file(&[("labels", &labels)]),
        )?;
        let ids = |is_train: bool, parity: Option<usize>| {
            let numbers = self.split(is_train).map(|item| item.number);
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
        let path = |item: &Item| root.join(format!("jpg/image_{:05}.jpg", item.number));
        self.items
            .iter()
            .try_for_each(|item| self.jpeg(&path(item), item))
    }

    fn mit67(&self, root: &Path) -> Result<(), Error> {
        let path = |item: &Item| format!("class_{:02}/image_{}.jpg", item.class, item.number);
        for (list, is_train) in [("TrainImages.txt", true), ("TestImages.txt", false)] {
            let lines: Vec<String> = self.split(is_train).map(path).collect();
            put(&root.join(list), lines.join("\n").as_bytes())?;
        }
        self.items
            .iter()
            .try_for_each(|item| self.jpeg(&root.join("Images").join(path(item)), item))
    }

    fn class_folders(&self, root: &Path, test: &str) -> Result<(), Error> {
        let path = |item: &Item| {
            let split = if item.is_train { "train" } else { test };
            root.join(split).join(format!(
                "n{:08}/n{:08}_{}.JPEG",
                item.class, item.class, item.number
            ))
        };
        self.items
            .iter()
            .try_for_each(|item| self.jpeg(&path(item), item))
    }

    /// Writes the challenge's lists beside a folder of images.
    #[cfg(test)]
    fn vipriors_lists(&self, root: &Path) -> Result<(), Error> {
        let class = |item: &Item| format!("n{:08}", item.class);
        let file = |item: &Item| format!("n{:08}_{}.JPEG", item.class, item.number);
        for (list, is_train) in [("train.pickle", true), ("val.pickle", false)] {
            let pairs: Vec<[String; 2]> = self
                .split(is_train)
                .map(|item| [class(item), file(item)])
                .collect();
            let bytes = serde_pickle::to_vec(&pairs, serde_pickle::SerOptions::new()).unwrap();
            put(&root.join(list), &bytes)?;
        }
        let path = |item: &Item| root.join("images").join(class(item)).join(file(item));
        self.items
            .iter()
            .try_for_each(|item| self.jpeg(&path(item), item))
    }
}

fn class_names(count: usize) -> Value {
    Value::Cell(
        (0..count)
            .map(|class| Value::Text(format!("Car {class} 2012")))
            .collect(),
    )
}

/// Writes the second layouts of Stanford Cars and VIPriors.
#[cfg(test)]
pub(crate) fn write_other_layout(name: &str, root: &Path, amount: Amount) -> Result<(), Error> {
    let files = Files::new(amount);
    if name == "cars" {
        files.cars_devkit(root)
    } else {
        files.vipriors_lists(root)
    }
}
