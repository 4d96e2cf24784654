//! Tests of every reader on stand-in files in the real formats, and on damaged ones; and of the
//! cache.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sweep::settings::Corrupt;

use crate::catalog::stand_in_files::{Amount, write, write_other_layout};
use crate::files::Reach;
use crate::random::{Purpose, Stream};
use crate::{Dataset, Error, OpenRequest, Preflight, open, preflight};

const AMOUNT: Amount = Amount {
    num_classes: 3,
    train_per_class: 4,
    test_per_class: 2,
    height: 20,
    width: 30,
};

pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    pub(crate) fn request<'a>(
        &self,
        dataset: &'a str,
        resize: Option<u32>,
        paths: &'a (PathBuf, PathBuf),
    ) -> OpenRequest<'a> {
        OpenRequest {
            dataset,
            resize,
            test_resize: None,
            reach: Reach::anywhere(&paths.0),
            cache_dir: &paths.1,
            corrupt: Corrupt::Refuse,
            smoke: false,
        }
    }

    pub(crate) fn preflight(&self, dataset: &str) -> Result<Preflight, Error> {
        preflight(&self.request(dataset, None, &(self.data(), self.cache())))
    }

    pub(crate) fn open(&self, dataset: &str, resize: Option<u32>) -> Result<Dataset, Error> {
        open(
            &self.request(dataset, resize, &(self.data(), self.cache())),
            &|_, _| (),
        )
    }
}

pub(crate) fn written(name: &str) -> (Place, PathBuf) {
    let place = Place::new();
    let root = write(name, &place.data(), AMOUNT).unwrap();
    (place, root)
}

fn check(place: &Place, name: &str, ids: [&str; 3]) -> Dataset {
    let found = place.preflight(name).unwrap();
    assert_eq!((found.num_train(), found.num_test()), (12, 6), "{name}");
    assert_eq!(found.train_counts[..3], [4, 4, 4]);
    assert_eq!(found.class_ids[..3], ids, "{name}");
    let dataset = place.open(name, None).unwrap();
    assert_eq!(
        (dataset.class_names.clone(), dataset.channels),
        (found.class_names, found.channels)
    );
    assert_eq!((dataset.train.len(), dataset.test.len()), (12, 6));
    assert_eq!(dataset.train_counts(), found.train_counts);
    dataset
}

#[test]
fn photographs_are_read_in_every_layout() {
    let folder = "folder:mine/here";
    let wnids = ["n00000000", "n00000001", "n00000002"];
    for (name, ids) in [
        ("cub", ["1", "2", "3"]),
        ("nabirds", ["95", "100", "105"]),
        ("cars", ["1", "2", "3"]),
        ("flowers", ["1", "2", "3"]),
        ("mit67", ["class_00", "class_01", "class_02"]),
        ("vipriors", wnids),
        (folder, wnids),
    ] {
        let (place, _) = written(name);
        let dataset = check(&place, name, ids);
        let image = dataset.train.image(0);
        assert_eq!(
            (image.height, image.width, image.channels),
            (20, 30, 3),
            "{name}"
        );
        // The red of each class differs from the others'; its images are about equal.
        let mut red: HashMap<u32, Vec<f64>> = HashMap::new();
        for index in 0..12 {
            let pixels = dataset.train.image(index).pixels;
            let mean = pixels
                .iter()
                .step_by(3)
                .map(|&value| f64::from(value))
                .sum::<f64>()
                / 600.0;
            red.entry(dataset.train.labels()[index])
                .or_default()
                .push(mean);
        }
        assert!(
            red.values()
                .all(|means| means.iter().all(|mean| (mean - means[0]).abs() < 3.0)),
            "{name}: {red:?}"
        );
        assert!((red[&0][0] - red[&1][0]).abs() > 3.0, "{name}: {red:?}");
    }
}

/// The authors' lists name the chosen training images and all test images; all others are unused.
#[test]
fn the_authors_subsets_of_cub_are_read() {
    let place = Place::new();
    let amount = Amount {
        num_classes: 2,
        train_per_class: 600,
        test_per_class: 2,
        height: 3,
        width: 4,
    };
    let root = write("cub", &place.data(), amount)
        .unwrap()
        .join("CUB_200_2011");
    let error = place.preflight("cub-sub3").unwrap_err().to_string();
    assert!(
        error.contains("train_test_split_3.txt") && error.contains("cub-subsampled-splits.zip"),
        "{error}"
    );
    let whole = std::fs::read_to_string(root.join("train_test_split.txt")).unwrap();
    let (train, test): (Vec<&str>, Vec<&str>) =
        whole.lines().partition(|line| line.ends_with(" 1"));
    // the last three of each class
    let chosen: Vec<&str> = [train[597..600].to_vec(), train[1197..1200].to_vec()].concat();
    let list: String = [chosen, test]
        .concat()
        .iter()
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(root.join("train_test_split_3.txt"), list).unwrap();
    // an image that cannot be decoded moves later ones in the cache
    let paths = std::fs::read_to_string(root.join("images.txt")).unwrap();
    let path = |line: &str| {
        let id = line.split(' ').next().unwrap();
        let found = paths
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{id} ")))
            .unwrap();
        root.join("images").join(found)
    };
    std::fs::write(path(train[5]), "no image").unwrap();
    let found = place.preflight("cub-sub3").unwrap();
    assert_eq!(
        (found.train_counts, found.test_counts),
        (vec![3, 3], vec![2, 2])
    );
    // one that the list does not name has no effect
    let subset = place.open("cub-sub3", None).unwrap();
    let paths = (place.data(), place.cache());
    let request = OpenRequest {
        corrupt: Corrupt::Skip,
        ..place.request("cub", None, &paths)
    };
    let all = open(&request, &|_, _| ()).unwrap();
    assert_eq!(
        (subset.name.as_str(), subset.train.len(), subset.test.len()),
        ("cub-sub3", 6, 4)
    );
    assert_eq!((all.train.len(), all.test.len()), (1199, 4));
    for (index, of_all) in [(0, 596), (2, 598), (3, 1196), (5, 1198)] {
        assert_eq!(
            subset.train.image(index).pixels,
            all.train.image(of_all).pixels,
            "{index}"
        );
    }
    assert_ne!(subset.fingerprint, all.fingerprint);
    assert_eq!((subset.skipped, all.skipped), (0, 1));
    assert_eq!(
        std::fs::read_dir(place.cache())
            .unwrap()
            .filter(|entry| is_cache(entry.as_ref().unwrap()))
            .count(),
        1
    );
    // an image in the subset's list but not in the whole's means a damaged list
    std::fs::write(root.join("train_test_split.txt"), "1 1\n").unwrap();
    assert!(
        place
            .preflight("cub")
            .unwrap_err()
            .to_string()
            .contains("is not in it")
    );
}

fn is_cache(entry: &std::fs::DirEntry) -> bool {
    entry
        .path()
        .extension()
        .is_some_and(|extension| extension == "images")
}

#[test]
fn training_and_test_images_may_have_sizes_of_their_own() {
    let (place, _) = written("folder:mine");
    let paths = (place.data(), place.cache());
    let open = |resize, test_resize| {
        let request = OpenRequest {
            test_resize,
            ..place.request("folder:mine", resize, &paths)
        };
        crate::open(&request, &|_, _| ()).unwrap()
    };
    let size = |split: &crate::dataset::Split| split.uniform_size().unwrap();
    let (originals, resized) = (open(None, Some(10)), open(Some(10), None));
    assert_eq!(
        (size(&originals.train), size(&originals.test)),
        ((20, 30), (10, 15))
    );
    assert_eq!(
        (size(&resized.train), size(&resized.test)),
        ((10, 15), (10, 15))
    );
    assert_eq!(originals.test.image(3).pixels, resized.test.image(3).pixels);
    assert_eq!(open(Some(10), Some(10)).fingerprint, resized.fingerprint);
    let mut names: Vec<String> = std::fs::read_dir(place.cache())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(is_cache)
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names.len(), 2, "equal sizes are one cache: {names:?}");
    assert!(
        names[0].ends_with("-10.images") && names[1].ends_with("-native-test-10.images"),
        "{names:?}"
    );
}

#[test]
fn the_second_layouts_are_read_too() {
    for (name, ids) in [
        ("cars", ["1", "2", "3"]),
        ("vipriors", ["n00000000", "n00000001", "n00000002"]),
    ] {
        let place = Place::new();
        write_other_layout(name, &place.data().join(name), AMOUNT).unwrap();
        check(&place, name, ids);
    }
}

#[test]
fn arrays_are_read_and_cached() {
    for name in ["fashion-mnist", "cifar100"] {
        let (place, _) = written(name);
        let dataset = check(&place, name, ["0", "1", "2"]);
        let expected = match name {
            "cifar100" => crate::stand_in::image(0, 1, 32, 32, 3),
            _ => crate::stand_in::image(0, 1, 28, 28, 1),
        };
        assert_eq!(dataset.train.image(0).pixels, expected);
        assert!(place.cache().join(format!("{name}-native.images")).exists());
        let error = place.open(name, Some(64)).unwrap_err();
        assert!(error.to_string().contains("`resize` = 64"), "{error}");
    }
}

/// Returns a pickle of protocol 2 as Python 2 wrote them: short strings, and a numpy array.
fn cifar_pickle(labels: &[u8], planes: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x80\x02}(U\x0bfine_labels](".to_vec();
    labels.iter().for_each(|label| bytes.extend([b'K', *label]));
    bytes.extend(b"eU\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01");
    bytes.extend([b'K', labels.len() as u8]);
    bytes.extend(b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T");
    bytes.extend((planes.len() as u32).to_le_bytes());
    bytes.extend(planes);
    bytes.extend(b"tbu.");
    bytes
}

fn python_cifar(root: &Path) -> Vec<u8> {
    std::fs::create_dir_all(root).unwrap();
    let planes: Vec<u8> = (0..3 * 3072).map(|index| (index % 241) as u8).collect();
    std::fs::write(root.join("train"), cifar_pickle(&[7, 0, 99], &planes)).unwrap();
    std::fs::write(root.join("test"), cifar_pickle(&[1, 2, 3], &planes)).unwrap();
    let mut meta = b"\x80\x02}(U\x10fine_label_names](".to_vec();
    for class in 0..100 {
        let name = format!("class_{class}");
        meta.extend([b'U', name.len() as u8]);
        meta.extend(name.as_bytes());
    }
    meta.extend(b"eu.");
    std::fs::write(root.join("meta"), meta).unwrap();
    planes
}

#[test]
fn cifar_pickles_are_read_like_the_binary_form() {
    let place = Place::new();
    let planes = python_cifar(&place.data().join("cifar-100-python"));
    let dataset = place.open("cifar100", None).unwrap();
    assert_eq!(dataset.train.labels(), [7, 0, 99]);
    assert_eq!(dataset.class_names[99], "class_99");
    let pixels = dataset.train.image(1).pixels;
    assert_eq!(
        pixels[..4],
        [
            planes[3072],
            planes[3072 + 1024],
            planes[3072 + 2048],
            planes[3072 + 1]
        ]
    );
}

#[test]
fn errors_of_missing_data_sets_name_the_places_searched() {
    let place = Place::new();
    for entry in crate::catalog::ENTRIES
        .iter()
        .filter(|entry| entry.name != "digits")
    {
        if entry.name == "fashion-mnist" && Path::new("/usr/share/datasets/fashion-mnist").exists()
        {
            continue;
        }
        let error = place.preflight(entry.name).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
        // The remedy offers a fetch only if one is possible.
        let can_be_fetched = matches!(entry.origin, crate::catalog::Origin::Download(_));
        let command = format!("`orchestrator data fetch {}`", entry.name);
        assert_eq!(
            error.to_string().contains(&command),
            can_be_fetched,
            "{error}"
        );
        assert_eq!(
            error.to_string().contains("`orchestrator data list`"),
            !can_be_fetched,
            "{error}"
        );
    }
    assert!(matches!(
        place.preflight("folder:nowhere"),
        Err(Error::NotFound { .. })
    ));
    assert!(matches!(
        place.preflight("cubs"),
        Err(Error::UnknownDataset { .. })
    ));
}

#[test]
fn a_missing_image_is_an_error_at_preflight() {
    let (place, root) = written("cub");
    let victim = root.join("CUB_200_2011/images/0001.Class_0/image_3.jpg");
    std::fs::remove_file(&victim).unwrap();
    let error = place.preflight("cub").unwrap_err();
    assert!(
        matches!(&error, Error::FilesMissing { count: 1, first, .. } if *first == victim),
        "{error}"
    );
}

/// Collects annotation files and small images below a folder.
fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.extension().and_then(|extension| extension.to_str()) {
            _ if path.is_dir() => files_below(&path, found),
            // Not read here; the hierarchy crate reads it, with errors of its own.
            _ if path.ends_with("hierarchy.txt") => {}
            Some("jpg" | "JPEG") => {}
            _ => found.push(path),
        }
    }
}

/// Returns the number of rounds. `FUZZ_ROUNDS=20000 cargo test --release -p data damaged` runs
/// more.
fn fuzz_rounds() -> u32 {
    std::env::var("FUZZ_ROUNDS").map_or(60, |rounds| rounds.parse().expect("a number"))
}

/// Truncates and flips bytes of every annotation file: the result is an error or other data, never
/// a panic.
fn damage(place: &Place, name: &str) {
    let mut files = Vec::new();
    files_below(&place.data(), &mut files);
    assert!(name.starts_with("folder:") || !files.is_empty());
    let mut stream = Stream::new(1, Purpose::StandIn, 0, 0, 0);
    for path in files {
        let whole = std::fs::read(&path).unwrap();
        let mut refused = 0;
        for round in 0..fuzz_rounds() {
            let mut bytes = whole.clone();
            if round % 3 == 0 {
                bytes.truncate(stream.below(whole.len() as u32) as usize);
            } else {
                // Most of the bytes of array files are pixels; the structure is at the beginning.
                let reach = if round % 3 == 1 {
                    whole.len().min(200)
                } else {
                    whole.len()
                };
                for _ in 0..=stream.below(3) {
                    bytes[stream.below(reach as u32) as usize] ^= 1 << stream.below(8);
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            refused += usize::from(place.preflight(name).is_err());
        }
        assert!(
            refused > 0,
            "{name}: no damage to {} was noticed",
            path.display()
        );
        std::fs::write(&path, &whole).unwrap();
    }
    place.preflight(name).unwrap();
}

#[test]
fn damaged_annotations_are_errors() {
    for name in ["cub", "nabirds", "cars", "flowers", "mit67"] {
        damage(&written(name).0, name);
    }
    for name in ["cars", "vipriors"] {
        let place = Place::new();
        write_other_layout(name, &place.data().join(name), AMOUNT).unwrap();
        damage(&place, name);
    }
}

#[test]
fn damaged_arrays_are_errors() {
    for name in ["fashion-mnist", "cifar100"] {
        damage(&written(name).0, name);
    }
    let place = Place::new();
    python_cifar(&place.data().join("cifar-100-python"));
    damage(&place, "cifar100");
}

#[test]
fn damaged_images_are_refused_and_never_panic() {
    let (place, root) = written("cub");
    let victim = root.join("CUB_200_2011/images/0001.Class_0/image_1.jpg");
    let whole = std::fs::read(&victim).unwrap();
    for length in (1..whole.len()).step_by(7) {
        std::fs::write(&victim, &whole[..length]).unwrap();
        let error = place.open("cub", None).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Corrupt {
                    count: 1,
                    total: 18,
                    ..
                }
            ),
            "{length} bytes: {error}"
        );
        assert!(error.to_string().contains("image_1.jpg"), "{error}");
    }
    let mut stream = Stream::new(2, Purpose::StandIn, 0, 0, 0);
    for _ in 0..fuzz_rounds().max(100) {
        let mut bytes = whole.clone();
        bytes[stream.below(whole.len() as u32) as usize] = stream.next_u32() as u8;
        std::fs::write(&victim, &bytes).unwrap();
        let mut resizer = crate::images::resize::CropResizer::default();
        if let Ok(image) = crate::images::decode::file(&victim, Some(16), &mut resizer).unwrap() {
            assert_eq!(
                image.pixels.len(),
                (image.height * image.width * 3) as usize
            );
        }
    }
    assert!(!place.cache().join("cub-native.partial").exists());
}

#[test]
fn content_decides_the_format_and_grey_becomes_colour() {
    let (place, root) = written("folder:x");
    let victim = root.join("train/n00000000/n00000000_1.JPEG");
    let grey = image::GrayImage::from_fn(30, 20, |x, _| image::Luma([x as u8 * 8]));
    for format in [
        image::ImageFormat::Png,
        image::ImageFormat::Gif,
        image::ImageFormat::Bmp,
        image::ImageFormat::WebP,
    ] {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let picture = image::DynamicImage::ImageLuma8(grey.clone());
        match format {
            image::ImageFormat::Gif | image::ImageFormat::WebP => {
                picture.to_rgba8().write_to(&mut bytes, format).unwrap()
            }
            _ => picture.write_to(&mut bytes, format).unwrap(),
        }
        std::fs::write(&victim, bytes.into_inner()).unwrap();
        let dataset = place.open("folder:x", None).unwrap();
        let pixels = dataset.train.image(0).pixels;
        assert_eq!(pixels[..9], [0, 0, 0, 8, 8, 8, 16, 16, 16], "{format:?}");
    }
}

#[test]
fn resizing_keeps_the_aspect_ratio() {
    let (place, _) = written("cub");
    let dataset = place.open("cub", Some(13)).unwrap();
    let image = dataset.train.image(5);
    // 30 * 13 / 20 = 19.5, rounded half to even.
    assert_eq!((image.height, image.width), (13, 20));
}

#[test]
fn the_cache_is_reused_and_rebuilt_when_a_source_changes() {
    let (place, root) = written("cub");
    let decoded = AtomicU64::new(0);
    let paths = (place.data(), place.cache());
    let open_counting = || {
        let count = |done: u64, _: u64| decoded.store(done, Ordering::Relaxed);
        decoded.store(0, Ordering::Relaxed);
        let dataset = open(&place.request("cub", Some(16), &paths), &count).unwrap();
        (dataset.fingerprint, decoded.load(Ordering::Relaxed))
    };
    let (first, built) = open_counting();
    assert_eq!(built, 18);
    assert_eq!(open_counting(), (first.clone(), 0));
    let image = |number: usize| {
        root.join(format!(
            "CUB_200_2011/images/0001.Class_0/image_{number}.jpg"
        ))
    };
    std::fs::copy(image(2), image(1)).unwrap();
    let (second, built) = open_counting();
    assert_eq!(built, 18);
    assert_ne!(first, second);
    // A damaged cache is also rebuilt.
    let cache = place.cache().join("cub-16.images");
    let mut bytes = std::fs::read(&cache).unwrap();
    let end = bytes.len() - 100;
    bytes[end] ^= 1;
    std::fs::write(&cache, &bytes).unwrap();
    assert_eq!(open_counting(), (second.clone(), 18));
    std::fs::write(&cache, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(open_counting(), (second, 18));
}

#[test]
fn damaged_caches_never_panic() {
    let (place, _) = written("cub");
    let fingerprint = place.open("cub", None).unwrap().fingerprint;
    let cache = place.cache().join("cub-native.images");
    let whole = std::fs::read(&cache).unwrap();
    let mut stream = Stream::new(3, Purpose::StandIn, 0, 0, 0);
    for _ in 0..fuzz_rounds() / 2 {
        let mut bytes = whole.clone();
        let last = whole.len() - 1 - stream.below(1200) as usize;
        bytes[last] ^= 1 << stream.below(8);
        std::fs::write(&cache, &bytes).unwrap();
        assert_eq!(place.open("cub", None).unwrap().fingerprint, fingerprint);
    }
}

#[test]
fn two_builders_at_once_make_one_cache() {
    let (place, _) = written("cub");
    let paths = (place.data(), place.cache());
    let decoded = Mutex::new(Vec::new());
    let fingerprints: Vec<String> = std::thread::scope(|scope| {
        let build = || {
            let count = |done: u64, total: u64| {
                if done == total {
                    decoded.lock().unwrap().push(total);
                }
            };
            open(&place.request("cub", None, &paths), &count)
                .unwrap()
                .fingerprint
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(build)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(
        fingerprints
            .iter()
            .all(|fingerprint| *fingerprint == fingerprints[0])
    );
    assert_eq!(*decoded.lock().unwrap(), [18], "only one of them decodes");
}

#[test]
fn a_folder_without_splits_is_split_by_name() {
    let place = Place::new();
    let root = place.data().join("flat");
    for class in ["b", "a"] {
        for number in 0..10 {
            let path = root.join(class).join(format!("{number}.png"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            image::RgbImage::from_pixel(4, 4, image::Rgb([number * 20; 3]))
                .save(&path)
                .unwrap();
        }
        std::fs::write(root.join(class).join("notes.txt"), "no image").unwrap();
    }
    let found = place.preflight("folder:flat").unwrap();
    assert_eq!(
        (found.class_names, found.train_counts, found.test_counts),
        (vec!["a".into(), "b".into()], vec![8, 8], vec![2, 2])
    );
    let absolute = format!("folder:{}", root.display());
    assert_eq!(place.preflight(&absolute).unwrap().num_train(), 16);
    std::fs::create_dir_all(root.join("train")).unwrap();
    assert!(
        place
            .preflight("folder:flat")
            .unwrap_err()
            .to_string()
            .contains("neither test/ nor val/")
    );
}

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");

#[test]
fn compressed_mat_files_of_other_programs_are_read() {
    let place = Place::new();
    let root = place.data().join("cars");
    std::fs::create_dir_all(root.join("car_ims")).unwrap();
    std::fs::copy(
        Path::new(FIXTURES).join("cars_annos.mat"),
        root.join("cars_annos.mat"),
    )
    .unwrap();
    (1..=4).for_each(|number| {
        std::fs::write(root.join(format!("car_ims/{number:06}.jpg")), "an image").unwrap()
    });
    let found = place.preflight("cars").unwrap();
    assert_eq!(
        found.class_names,
        ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    );
    assert_eq!(
        (found.train_counts, found.test_counts),
        (vec![1, 1], vec![1, 1])
    );
}
