//! The data sets that have a reader: their rows in Table 1 of the paper, and their origins.
//!
//! Checksums and their certainty are those of docs/paper.md, section 6. Read `fetch.rs` for the
//! download itself and `check.rs` for the comparison with what is on disk.

use std::path::Path;

/// A named data set.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Name in the sweep file.
    pub name: &'static str,
    pub title: &'static str,
    pub channels: usize,
    /// Size in pixels of images of one fixed size; absent: photographs of any size.
    pub side: Option<u32>,
    pub published: Row,
    pub licence: &'static str,
    pub origin: Origin,
}

/// A row of Table 1; the sizes of data sets that are not in the paper are those of their own
/// publications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub num_classes: usize,
    pub num_train: usize,
    pub num_test: usize,
    /// Fewest, most and median number of training images per class.
    pub per_class: (usize, usize, usize),
}

/// The origin of a data set.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// Part of the program.
    BuiltIn,
    Download(&'static [Download]),
    /// Behind a form, not redistributable, or gone from its official place: instructions for the
    /// user.
    ByHand(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub struct Download {
    pub url: &'static str,
    pub checksum: Checksum,
    pub is_archive: bool,
    /// Most bytes that the download, and its unpacked content, may have.
    pub max_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    Md5(&'static str),
    Sha256(&'static str),
    /// No checksum was ever published.
    Unknown,
}

/// Class hierarchies of the paper, fetched like a data set under the name `hierarchies`.
pub const HIERARCHIES: &str = "hierarchies";

const fn row(
    num_classes: usize,
    num_train: usize,
    num_test: usize,
    per_class: (usize, usize, usize),
) -> Row {
    Row {
        num_classes,
        num_train,
        num_test,
        per_class,
    }
}

const fn file(url: &'static str, checksum: Checksum) -> Download {
    Download {
        url,
        checksum,
        is_archive: false,
        max_bytes: 64 << 20,
    }
}

const fn archive(url: &'static str, checksum: Checksum, max_bytes: u64) -> Download {
    Download {
        url,
        checksum,
        is_archive: true,
        max_bytes,
    }
}

macro_rules! fashion_mnist {
    ($file:literal) => {
        concat!(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            $file
        )
    };
}

macro_rules! flowers {
    ($file:literal) => {
        concat!("https://www.robots.ox.ac.uk/~vgg/data/flowers/102/", $file)
    };
}

macro_rules! semantic_embeddings {
    ($file:literal) => {
        concat!(
            "https://raw.githubusercontent.com/cvjena/semantic-embeddings/master/",
            $file
        )
    };
}

const FASHION_MNIST: [Download; 4] = [
    file(
        fashion_mnist!("train-images-idx3-ubyte.gz"),
        Checksum::Sha256("b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7"),
    ),
    file(
        fashion_mnist!("train-labels-idx1-ubyte.gz"),
        Checksum::Sha256("0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056"),
    ),
    file(
        fashion_mnist!("t10k-images-idx3-ubyte.gz"),
        Checksum::Sha256("cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa"),
    ),
    file(
        fashion_mnist!("t10k-labels-idx1-ubyte.gz"),
        Checksum::Sha256("8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"),
    ),
];

const CIFAR100: [Download; 1] = [archive(
    "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    Checksum::Md5("03b5dce01913d631647c71ecec9e9cb8"),
    1 << 30,
)];

const CUB: [Download; 1] = [archive(
    "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
    Checksum::Sha256("0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081"),
    8 << 30,
)];

const FLOWERS: [Download; 3] = [
    archive(
        flowers!("102flowers.tgz"),
        Checksum::Md5("52808999861908f626f3c1f4e79d11fa"),
        4 << 30,
    ),
    file(
        flowers!("imagelabels.mat"),
        Checksum::Md5("e0620be6f572b9609742df49c70aed4d"),
    ),
    file(
        flowers!("setid.mat"),
        Checksum::Md5("a5357ecc9cb78c4bef273ce3793fc85c"),
    ),
];

const MIT67: [Download; 3] = [
    archive(
        "http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar",
        Checksum::Unknown,
        16 << 30,
    ),
    file(
        "http://web.mit.edu/torralba/www/TrainImages.txt",
        Checksum::Unknown,
    ),
    file(
        "http://web.mit.edu/torralba/www/TestImages.txt",
        Checksum::Unknown,
    ),
];

pub(crate) const HIERARCHY_FILES: [Download; 4] = [
    file(
        semantic_embeddings!("CUB-Hierarchy/cub_flat.parent-child.txt"),
        Checksum::Sha256("6420979cdd24075ff86297342599ce2f8770ab5fb64845f886a6406670e6d3c5"),
    ),
    file(
        semantic_embeddings!("CUB-Hierarchy/cub_wikispecies.parent-child.txt"),
        Checksum::Sha256("b7f69521687b57d804352708ffabd7a973d8b31b3d5b4121db1e444bd678f085"),
    ),
    file(
        semantic_embeddings!("CUB-Hierarchy/cub_balanced.parent-child.txt"),
        Checksum::Sha256("cfd823168bc3e73e6ac510008ae89182f1faaafadae1fc3a2c520cd9fd6796ef"),
    ),
    file(
        semantic_embeddings!("Cifar-Hierarchy/cifar.parent-child.txt"),
        Checksum::Sha256("72bf4a9ee95ec9ad40ee22b007ca16b0ac232f4c2849aaef8e5d478fc50e28c6"),
    ),
];

const NABIRDS: &str = "accept the terms at https://dl.allaboutbirds.org/nabirds, download nabirds.tar.gz (md5 \
    df21a9e4db349a14e2b08adfd45873bd) and unpack it in the data directory, so that DATA_DIR/nabirds/images.txt exists";

const CARS: &str = "its official pages are gone. With a copy of the merged layout, put cars_annos.mat and car_ims/ into \
    DATA_DIR/cars; with the development kit, put devkit/, cars_train/, cars_test/ and cars_test_annos_withlabels.mat \
    there (md5 of car_devkit.tgz c3b158d763b6e2245038c8ad08e45376, cars_train.tgz 065e5b463ae28d29e77c1b4b166cfe61, \
    cars_test.tgz 4ce7ebf6a94d07f1952d94dd34c4d501, cars_test_annos_withlabels.mat b0a2b23655a3edd16d84508592a98d10)";

const VIPRIORS: &str = "the organisers may not redistribute ImageNet's images. With ILSVRC2012 at hand, run the \
    generate_images.py of github.com/VIPriors/vipriors-challenges-toolkit (image-classification/, in its history) and \
    put imagenet_50/ into DATA_DIR/vipriors; or put train.pickle and val.pickle from there into DATA_DIR/vipriors with \
    a link `images` to ILSVRC2012's folder of training images";

pub const ENTRIES: [Entry; 9] = [
    Entry {
        name: "digits",
        title: "UCI handwritten digits",
        channels: 1,
        side: Some(8),
        published: row(10, 1_297, 500, (124, 133, 131)),
        licence: "CC BY 4.0",
        origin: Origin::BuiltIn,
    },
    Entry {
        name: "fashion-mnist",
        title: "Fashion-MNIST",
        channels: 1,
        side: Some(28),
        published: row(10, 60_000, 10_000, (6_000, 6_000, 6_000)),
        licence: "MIT",
        origin: Origin::Download(&FASHION_MNIST),
    },
    Entry {
        name: "cifar100",
        title: "CIFAR-100",
        channels: 3,
        side: Some(32),
        published: row(100, 50_000, 10_000, (500, 500, 500)),
        licence: "none stated; cite Krizhevsky (2009)",
        origin: Origin::Download(&CIFAR100),
    },
    Entry {
        name: "cub",
        title: "CUB-200-2011",
        channels: 3,
        side: None,
        published: row(200, 5_994, 5_794, (29, 30, 30)),
        licence: "non-commercial research and education",
        origin: Origin::Download(&CUB),
    },
    Entry {
        name: "nabirds",
        title: "NABirds",
        channels: 3,
        side: None,
        published: row(555, 23_929, 24_633, (4, 60, 44)),
        licence: "non-commercial, terms to be accepted",
        origin: Origin::ByHand(NABIRDS),
    },
    Entry {
        name: "cars",
        title: "Stanford Cars",
        channels: 3,
        side: None,
        published: row(196, 8_144, 8_041, (24, 68, 42)),
        licence: "non-commercial research",
        origin: Origin::ByHand(CARS),
    },
    Entry {
        name: "flowers",
        title: "Oxford Flowers-102",
        channels: 3,
        side: None,
        published: row(102, 2_040, 6_149, (20, 20, 20)),
        licence: "none stated; cite Nilsback and Zisserman (2008)",
        origin: Origin::Download(&FLOWERS),
    },
    Entry {
        name: "mit67",
        title: "MIT Indoor 67",
        channels: 3,
        side: None,
        published: row(67, 5_360, 1_340, (77, 83, 80)),
        licence: "research only",
        origin: Origin::Download(&MIT67),
    },
    Entry {
        name: "vipriors",
        title: "VIPriors ImageNet-50",
        channels: 3,
        side: None,
        published: row(1_000, 50_000, 50_000, (50, 50, 50)),
        licence: "ImageNet's: non-commercial research and education",
        origin: Origin::ByHand(VIPRIORS),
    },
];

/// Prefix of the path of a user's own data: one directory per class.
pub const FOLDER_PREFIX: &str = sweep::dataset::FOLDER_PREFIX;

/// Returns a data set's entry; for a subset of CUB, the entry of the whole.
pub fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES
        .iter()
        .find(|entry| entry.name == sweep::dataset::base(name))
}

/// Returns what `data fetch` must fetch for the file at this path below the data directory:
/// `hierarchies`, or nothing.
pub fn fetched_with(path: &Path) -> Option<&'static str> {
    let name = path.strip_prefix(HIERARCHIES).ok()?;
    HIERARCHY_FILES
        .iter()
        .any(|file| Path::new(file.file_name()) == name)
        .then_some(HIERARCHIES)
}

impl Download {
    /// Returns the last part of the address.
    pub fn file_name(&self) -> &'static str {
        self.url.rsplit('/').next().unwrap_or(self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sweep_language_knows_the_same_data_sets() {
        let known = sweep::dataset::KNOWN.iter().map(|known| {
            let sizes = [
                known.num_classes,
                known.num_train,
                known.num_test,
                known.smallest_class,
            ];
            (
                known.name,
                sizes.map(|size| size as usize),
                known.side,
                known.channels as usize,
            )
        });
        let here = ENTRIES.iter().map(|entry| {
            let Row {
                num_classes,
                num_train,
                num_test,
                per_class,
            } = entry.published;
            (
                entry.name,
                [num_classes, num_train, num_test, per_class.0],
                entry.side.unwrap_or(0),
                entry.channels,
            )
        });
        assert_eq!(known.collect::<Vec<_>>(), here.collect::<Vec<_>>());
    }

    #[test]
    fn file_names_are_the_ends_of_addresses() {
        assert_eq!(CUB[0].file_name(), "CUB_200_2011.tgz");
        assert_eq!(
            HIERARCHY_FILES[2].file_name(),
            "cub_balanced.parent-child.txt"
        );
    }

    #[test]
    fn only_files_that_a_download_brings_are_promised() {
        assert_eq!(
            fetched_with(Path::new("hierarchies/cifar.parent-child.txt")),
            Some(HIERARCHIES)
        );
        for other in [
            "hierarchies/mine.txt",
            "cifar.parent-child.txt",
            "nabirds/hierarchy.txt",
        ] {
            assert_eq!(fetched_with(Path::new(other)), None, "{other}");
        }
    }
}
