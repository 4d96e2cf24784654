//! Other files than sound images in users' class folders, and unusual image files: each is
//! read, reported or rejected, and nothing is skipped silently.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{ImageFormat, Rgb, RgbImage};
use sweep::settings::{Corrupt, SamplesPerClass};

use crate::catalog::stand_in_files::write_other_layout;
use crate::images::metadata::Head;
use crate::images::metadata::tests::{exif, turned};
use crate::images::resize::CropResizer;
use crate::tests::readers::{Place, written};
use crate::{Dataset, Error, OpenRequest, Pipeline, Preflight, open};

fn image(path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(5, 4, Rgb([9; 3]))
        .save_with_format(path, ImageFormat::Png)
        .unwrap();
}

fn file(path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, "no image").unwrap();
}

/// Two classes with three training and two test images each.
fn pets() -> (Place, PathBuf) {
    let place = Place::new();
    let root = place.data().join("pets");
    for class in ["cat", "dog"] {
        (0..3).for_each(|number| image(&root.join(format!("train/{class}/{number}.png"))));
        (0..2).for_each(|number| image(&root.join(format!("test/{class}/{number}.png"))));
    }
    (place, root)
}

fn found(place: &Place) -> Preflight {
    place.preflight("folder:pets").unwrap()
}

fn refused(place: &Place) -> String {
    place.preflight("folder:pets").unwrap_err().to_string()
}

#[test]
fn ignored_files_are_named_and_counted() {
    let (place, root) = pets();
    assert_eq!(found(&place).notes, Vec::<String>::new());
    image(&root.join("train/@eaDir/thumbnail.png"));
    image(&root.join("train/.cache/1.png"));
    std::fs::create_dir_all(root.join("train/lost+found")).unwrap();
    std::fs::create_dir_all(root.join("train/hamster")).unwrap();
    std::fs::create_dir_all(root.join("extra/cat")).unwrap();
    image(&root.join("train/loose.png"));
    (0..16).for_each(|number| image(&root.join(format!("train/cat/more/deep/{number}.png"))));
    (0..2).for_each(|number| file(&root.join(format!("test/dog/{number}.TIFF"))));
    file(&root.join("test/dog/.hidden.png"));
    file(&root.join("test/notes"));
    let found = found(&place);
    assert_eq!(found.class_names, ["cat", "dog"]);
    assert_eq!(
        (found.train_counts, found.test_counts),
        (vec![3, 3], vec![2, 2])
    );
    let (train, test) = (
        root.join("train").display().to_string(),
        root.join("test").display().to_string(),
    );
    let expected = [
        format!("{train}: not taken for classes: .cache, @eaDir, lost+found"),
        format!("{train}: empty folders are not classes: hamster"),
        format!("{train}: beside the class folders, so of no class: 1 image"),
        format!("{train}: in folders inside of classes, not read: 16 images (cat)"),
        format!(
            "{test}: files that are not read: 2 .tiff, 1 hidden, 1 without an extension (images are jpg, jpeg, png, \
             gif, bmp, webp)"
        ),
        format!(
            "{}: folders beside the splits are not read: extra",
            root.display()
        ),
    ];
    assert_eq!(found.notes, expected);
}

#[test]
fn a_class_whose_files_are_all_passed_over_is_refused() {
    let (place, root) = pets();
    file(&root.join("train/fish/1.tiff"));
    file(&root.join("train/fish/2.heic"));
    let error = refused(&place);
    assert!(
        error.contains("train/fish") && error.contains("1 .heic, 1 .tiff"),
        "{error}"
    );
    std::fs::remove_dir_all(root.join("train/fish")).unwrap();
    image(&root.join("train/fish/2019/1.png"));
    let error = refused(&place);
    assert!(
        error.contains("it has 1 image in folders inside of it and none itself"),
        "{error}"
    );
}

#[test]
fn every_class_has_training_images_and_those_without_test_images_are_named() {
    let (place, root) = pets();
    image(&root.join("train/fish/1.png"));
    let notes = found(&place).notes;
    assert_eq!(notes, ["1 of 3 classes have no test images: fish"]);
    image(&root.join("test/bird/1.png"));
    let error = refused(&place);
    assert!(
        error.contains("test/bird") && error.contains("no training images of that class"),
        "{error}"
    );
    std::fs::create_dir_all(root.join("train/bird")).unwrap();
    assert!(refused(&place).contains("no training images of that class"));
    let (place, root) = written("cub");
    let splits = root.join("CUB_200_2011/train_test_split.txt");
    let text = std::fs::read_to_string(&splits).unwrap();
    let first_class_tested: String =
        text.lines()
            .enumerate()
            .fold(String::new(), |text, (number, line)| {
                text + &if number < 6 {
                    line.replace(" 1", " 0")
                } else {
                    line.to_owned()
                } + "\n"
            });
    std::fs::write(&splits, first_class_tested).unwrap();
    let error = place.preflight("cub").unwrap_err();
    assert!(
        matches!(&error, Error::EmptyClass { count: 1, class, .. } if class.contains("Class 0")),
        "{error}"
    );
}

#[test]
fn splits_under_other_names_are_not_taken_for_classes() {
    let place = Place::new();
    let root = place.data().join("pets");
    for split in ["Train", "Test"] {
        (0..3).for_each(|number| image(&root.join(format!("{split}/cat/{number}.png"))));
    }
    let error = refused(&place);
    assert!(error.contains("it has Test/ but no train/"), "{error}");
}

/// If both layouts are in one folder, the merged one is read, unless only the other has all of its
/// images.
#[test]
fn stanford_cars_are_read_where_both_layouts_lie() {
    let (place, root) = written("cars");
    let amount = crate::catalog::stand_in_files::Amount {
        num_classes: 2,
        train_per_class: 3,
        test_per_class: 1,
        height: 4,
        width: 4,
    };
    write_other_layout("cars", &root, amount).unwrap();
    let counts = |place: &Place| place.preflight("cars").unwrap().train_counts;
    assert_eq!(counts(&place), [4, 4, 4]);
    std::fs::remove_dir_all(root.join("car_ims")).unwrap();
    assert_eq!(counts(&place), [3, 3]);
    std::fs::remove_dir_all(root.join("cars_train")).unwrap();
    let error = place.preflight("cars").unwrap_err();
    assert!(
        matches!(&error, Error::FilesMissing { first, .. } if first.to_string_lossy().contains("car_ims")),
        "{error}"
    );
}

/// With `train/`, `val/` and `test/`, trials that hold out are evaluated on the middle one: nothing
/// is taken from training, neither is trained on it, and the test images stay the same.
#[test]
fn a_validation_split_is_used_for_searches() {
    let (place, root) = pets();
    for class in ["cat", "dog"] {
        (0..5).for_each(|number| image(&root.join(format!("val/{class}/{number}.png"))));
    }
    let found = found(&place);
    assert_eq!(
        (found.train_counts.as_slice(), found.test_counts.as_slice()),
        (&[3, 3][..], &[2, 2][..])
    );
    assert_eq!(
        (
            found.num_validation,
            found.held_out(SamplesPerClass::All, &sweep::Holdout::Fraction(0.5))
        ),
        (10, 10)
    );
    let note = format!(
        "{}: 10 images for searches to be judged on",
        root.join("val").display()
    );
    assert_eq!(found.notes, [note]);
    let dataset = Arc::new(opened(&place, Corrupt::Refuse).unwrap());
    assert_eq!(
        (
            dataset.train.len(),
            dataset.num_validation,
            dataset.test.len()
        ),
        (16, 10, 4)
    );
    let settings = |holdout, samples_per_class| {
        let settings = sweep::recipe::settings("quick", "digits").unwrap();
        let dataset = "folder:pets".to_owned();
        sweep::Settings {
            dataset,
            holdout,
            samples_per_class,
            crop_size: Some(1),
            ..settings
        }
    };
    for samples in [SamplesPerClass::All, SamplesPerClass::Count(2)] {
        let pipeline = |holdout| {
            Pipeline::new(dataset.clone(), &settings(holdout, samples), 1, false).unwrap()
        };
        let (searching, final_one) = (
            pipeline(Some(sweep::Holdout::Fraction(0.5))),
            pipeline(None),
        );
        assert_eq!((searching.num_eval(), final_one.num_eval()), (10, 4));
        assert_eq!(searching.num_train(), final_one.num_train());
        assert_eq!(searching.subset(), final_one.subset());
        let trained: Vec<u32> = (0..searching.steps_per_epoch())
            .flat_map(|step| searching.train_step(0, step).samples)
            .map(|sample| sample.index)
            .collect();
        assert!(trained.iter().all(|index| *index < 6), "{trained:?}");
    }
    // without test/, val/ is the test split, as before
    std::fs::remove_dir_all(root.join("test")).unwrap();
    let without = self::found(&place);
    assert_eq!(
        (without.num_validation, without.test_counts),
        (0, vec![5, 5])
    );
}

#[test]
fn a_class_of_the_validation_split_must_be_trained_on() {
    let (place, root) = pets();
    image(&root.join("val/horse/0.png"));
    let error = refused(&place);
    assert!(
        error.contains("val/horse") && error.contains("no training images of that class"),
        "{error}"
    );
}

fn opened(place: &Place, corrupt: Corrupt) -> Result<Dataset, Error> {
    let paths = (place.data(), place.cache());
    let request = OpenRequest {
        corrupt,
        ..place.request("folder:pets", None, &paths)
    };
    open(&request, &|_, _| ())
}

#[test]
fn corrupt_images_are_refused_or_skipped_as_configured() {
    let (place, root) = pets();
    file(&root.join("train/cat/1.png"));
    file(&root.join("test/dog/0.png"));
    let error = opened(&place, Corrupt::Refuse).unwrap_err().to_string();
    for part in [
        "2 of 10 images",
        "cat/1.png: it is no image",
        "dog/0.png",
        "corrupt: skip",
    ] {
        assert!(error.contains(part), "no `{part}` in {error}");
    }
    let dataset = opened(&place, Corrupt::Skip).unwrap();
    assert_eq!(
        (dataset.train.len(), dataset.test.len(), dataset.skipped),
        (5, 3, 2)
    );
    let paths = |split: &crate::Split| {
        let paths = (0..split.len()).map(|index| split.path(index).unwrap_or("none").to_owned());
        paths.collect::<Vec<_>>().join(" ")
    };
    let test = "test/cat/0.png test/cat/1.png test/dog/1.png";
    assert_eq!(paths(&dataset.test), test);
    // from the cache as well
    let dataset = opened(&place, Corrupt::Skip).unwrap();
    assert_eq!(paths(&dataset.test), test);
    // The policy is not part of the cache: it also applies to an existing one.
    assert!(matches!(
        opened(&place, Corrupt::Refuse),
        Err(Error::Corrupt {
            count: 2,
            total: 10,
            ..
        })
    ));
    (0..3).for_each(|number| file(&root.join(format!("train/cat/{number}.png"))));
    let error = opened(&place, Corrupt::Skip).unwrap_err();
    assert!(
        matches!(&error, Error::EmptyClass { class, count: 1, .. } if class == "cat"),
        "{error}"
    );
    image(&root.join("train/cat/0.png"));
    image(&root.join("test/dog/0.png"));
    assert_eq!(opened(&place, Corrupt::Skip).unwrap().skipped, 2);
}

/// A disk failure is not an image that cannot be decoded, under any policy.
#[test]
fn a_file_that_cannot_be_read_is_no_corrupt_image() {
    let missing = crate::images::decode::file(
        Path::new("/nonexistent/1.png"),
        None,
        &mut CropResizer::default(),
    );
    assert!(matches!(missing, Err(Error::Io { .. })), "{missing:?}");
}

fn decoded(bytes: &[u8]) -> crate::images::decode::Decoded {
    let place = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(place.path(), bytes).unwrap();
    crate::images::decode::file(place.path(), None, &mut CropResizer::default())
        .unwrap()
        .unwrap()
}

/// Returns a 16 x 8 picture with a dark left half and a bright right half.
fn two_halves(format: ImageFormat) -> Vec<u8> {
    let image = RgbImage::from_fn(16, 8, |x, _| Rgb(if x < 8 { [0; 3] } else { [255; 3] }));
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

#[test]
fn photographs_with_bytes_behind_their_end_are_sound() {
    let jpeg = two_halves(ImageFormat::Jpeg);
    let film = [
        b"\0\0\0\x18ftypmp42".to_vec(),
        vec![0xff, 0xda, 0x12],
        jpeg[..jpeg.len() / 2].to_vec(),
    ]
    .concat();
    for trailer in [
        &b"\xff\xda"[..],
        b"\xff\xd8\xff\xe1\x00\x10",
        &film,
        &[0; 100],
        b"notes of a program",
        &jpeg,
    ] {
        assert_eq!(decoded(&[&jpeg, trailer].concat()), decoded(&jpeg));
    }
    let png = two_halves(ImageFormat::Png);
    assert_eq!(
        decoded(&[&png[..], b"notes of a program"].concat()),
        decoded(&png)
    );
}

#[test]
fn photographs_are_turned_by_their_exif() {
    let jpeg = two_halves(ImageFormat::Jpeg);
    let png_chunk = |orientation: u8| {
        let body = [b"eXIf", &exif(orientation)[..]].concat();
        let mut crc = flate2::Crc::new();
        crc.update(&body);
        [
            &(body.len() as u32 - 4).to_be_bytes()[..],
            &body,
            &crc.sum().to_be_bytes(),
        ]
        .concat()
    };
    let png = two_halves(ImageFormat::Png);
    // Inserted after the signature and the header.
    let turned_png = |orientation: u8| [&png[..33], &png_chunk(orientation), &png[33..]].concat();
    // By orientation: height, width, and whether the first and last pixel of the first column are
    // bright.
    for (orientation, size, first, last) in [
        (1, (8, 16), false, false),
        (2, (8, 16), true, true),
        (3, (8, 16), true, true),
        (4, (8, 16), false, false),
        (5, (16, 8), false, true),
        (6, (16, 8), false, true),
        (7, (16, 8), true, false),
        (8, (16, 8), true, false),
        (9, (8, 16), false, false),
    ] {
        for bytes in [turned(&jpeg, orientation), turned_png(orientation)] {
            let image = decoded(&bytes);
            assert_eq!((image.height, image.width), size, "{orientation}");
            let bright = |row: u32| image.pixels[(row * image.width * 3) as usize] > 128;
            assert_eq!(
                (bright(0), bright(image.height - 1)),
                (first, last),
                "{orientation}"
            );
        }
    }
}

#[test]
fn alpha_is_dropped() {
    let image = image::RgbaImage::from_pixel(3, 2, image::Rgba([10, 20, 30, 0]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    assert_eq!(decoded(&bytes.into_inner()).pixels, [10, 20, 30].repeat(6));
}

#[test]
fn the_typical_side_is_the_median_over_heads_of_files() {
    let (place, root) = pets();
    let side = |place: &Place| {
        let paths = (place.data(), place.cache());
        crate::typical_side(&place.request("folder:pets", None, &paths)).unwrap()
    };
    assert_eq!(side(&place), Some(4));
    // Every format, with width above height and vice versa, and a file whose head contains no size.
    let formats = [
        ImageFormat::Jpeg,
        ImageFormat::Png,
        ImageFormat::Gif,
        ImageFormat::Bmp,
        ImageFormat::WebP,
    ];
    for (number, format) in formats.into_iter().enumerate() {
        for (class, (width, height)) in [("cat", (70, 48)), ("dog", (48, 70))] {
            let path = root.join(format!("train/{class}/{}.png", 10 + number));
            let mut bytes = std::io::Cursor::new(Vec::new());
            RgbImage::from_pixel(width, height, Rgb([7; 3]))
                .write_to(&mut bytes, format)
                .unwrap();
            assert_eq!(
                crate::images::metadata::head(bytes.get_ref()).map(Head::shorter_side),
                Some(48),
                "{format:?} {width} x {height}"
            );
            std::fs::write(path, bytes.into_inner()).unwrap();
        }
    }
    file(&root.join("train/cat/nothing.png"));
    assert_eq!(side(&place), Some(48));
}

#[test]
fn cmyk_is_converted_as_pillow_does() {
    let mut resizer = CropResizer::default();
    let image = crate::images::decode::file(
        &Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures")).join("cmyk.jpg"),
        None,
        &mut resizer,
    )
    .unwrap()
    .unwrap();
    assert_eq!((image.height, image.width), (8, 16));
    // Pillow's conversion gives (53, 216, 187) everywhere; decoders may differ by rounding.
    let close = |(value, expected): (&u8, u8)| value.abs_diff(expected) <= 3;
    assert!(
        image
            .pixels
            .iter()
            .zip([53, 216, 187].into_iter().cycle())
            .all(close),
        "{:?}",
        &image.pixels[..3]
    );
}

/// Grey and colour, a size of its own for each format, and files that are no images.
#[test]
fn heads_show_sizes_colours_and_what_is_no_image() {
    let (place, root) = pets();
    file(&root.join("train/cat/broken.png"));
    let train = root.join("train/dog");
    for (name, format) in [
        ("grey.png", ImageFormat::Png),
        ("grey.jpg", ImageFormat::Jpeg),
    ] {
        image::GrayImage::new(30, 20)
            .save_with_format(train.join(name), format)
            .unwrap();
    }
    RgbImage::new(60, 50)
        .save(train.join("colour.jpg"))
        .unwrap();
    // a name of one format, the content of another
    RgbImage::new(7, 9)
        .save_with_format(train.join("bmp.png"), ImageFormat::Bmp)
        .unwrap();
    let whole = std::fs::read(train.join("colour.jpg")).unwrap();
    std::fs::write(train.join("cut.jpg"), &whole[..16]).unwrap();
    let paths = (place.data(), place.cache());
    let heads = crate::heads(&place.request("folder:pets", None, &paths));
    let heads = heads.unwrap().unwrap();
    assert_eq!(heads.sides, [vec![4; 10], vec![7, 20, 20, 50]].concat());
    assert_eq!(heads.grey, 2);
    assert_eq!(heads.train_counts, [3, 7]);
    assert_eq!(
        heads.unreadable,
        ["train/cat/broken.png", "train/dog/cut.jpg"]
    );
    let digits = place.request("digits", None, &paths);
    assert_eq!(crate::heads(&digits).unwrap(), None);
}

#[test]
fn a_published_data_set_is_recognised_by_its_folder() {
    for name in ["flowers", "cifar100", "fashion-mnist"] {
        let (place, _) = written(name);
        let folder = place.data().join(name);
        assert_eq!(crate::catalog::published_in(&folder), Some(name));
    }
    let (place, root) = pets();
    assert_eq!(crate::catalog::published_in(&root), None);
    assert_eq!(crate::catalog::published_in(&place.data()), None);
}
