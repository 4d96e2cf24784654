//! Tests of the pipeline as a whole: determinism, order of augmentations, batches, prefetching.

use std::path::Path;
use std::sync::Arc;

use sweep::Settings;
use sweep::record::Subset;
use sweep::settings::*;

use crate::dataset::{Dataset, Split};
use crate::files::Reach;
use crate::{Form, OpenRequest, Pipeline, Prefetch, PrefetchOptions};

pub(crate) fn settings(dataset: &str) -> Settings {
    Settings {
        dataset: dataset.to_owned(),
        samples_per_class: SamplesPerClass::Count(10),
        batch_size: 16,
        ..sweep::recipe::settings("paper", "digits").unwrap()
    }
}

fn digits() -> Arc<Dataset> {
    let nowhere = Path::new("/nonexistent");
    let request = OpenRequest {
        dataset: "digits",
        resize: None,
        test_resize: None,
        reach: Reach::anywhere(nowhere),
        cache_dir: nowhere,
        corrupt: Corrupt::Refuse,
        smoke: false,
    };
    Arc::new(crate::open(&request, &|_, _| ()).unwrap())
}

/// Returns one image per class, of any size and channels.
fn single(height: u32, width: u32, channels: usize) -> Arc<Dataset> {
    let count = height as usize * width as usize * channels;
    let pixels = (0..count).map(|index| (index * 37 % 251) as u8).collect();
    let split = Split::uniform(vec![0], pixels, height, width, channels);
    let names = vec!["only".to_owned()];
    Arc::new(Dataset {
        name: "folder:test".to_owned(),
        class_names: names.clone(),
        class_ids: names,
        channels,
        train: split.clone(),
        num_validation: 0,
        test: split,
        skipped: 0,
        fingerprint: String::new(),
        content: None,
    })
}

fn busy(dataset: &str) -> Settings {
    Settings {
        shift: 0.15,
        flip: true,
        erase: true,
        crop: Crop::Random,
        crop_size: Some(7),
        cutmix: Some(CutMix {
            alpha: 1.0,
            probability: 0.5,
        }),
        repeats: 2,
        ..settings(dataset)
    }
}

fn pipeline(dataset: Arc<Dataset>, settings: &Settings, seed: u64) -> Pipeline {
    Pipeline::new(dataset, settings, seed, false).unwrap()
}

fn fill(pipeline: &Pipeline, epoch: u32, step: u64) -> Vec<f32> {
    let plan = pipeline.train_step(epoch, step);
    let mut out = vec![f32::NAN; plan.len() * pipeline.image_len()];
    pipeline.fill_train(&plan, 0..plan.len(), &mut out);
    out
}

#[test]
fn an_epoch_sees_every_image_once_per_repeat_with_a_partial_last_batch() {
    let pipeline = pipeline(
        digits(),
        &Settings {
            repeats: 3,
            ..settings("digits")
        },
        1,
    );
    assert_eq!(
        (pipeline.num_train(), pipeline.steps_per_epoch()),
        (100, 3 * 7)
    );
    let Subset::Indices(chosen) = pipeline.subset().clone() else {
        panic!("ten per class are not all")
    };
    for repeat in 0..3 {
        let plans: Vec<_> = (0..7)
            .map(|step| pipeline.train_step(4, repeat * 7 + step))
            .collect();
        assert_eq!(plans[6].len(), 4);
        let mut seen: Vec<u32> = plans
            .iter()
            .flat_map(|plan| plan.samples.iter().map(|s| s.index))
            .collect();
        assert_ne!(seen, chosen);
        seen.sort_unstable();
        assert_eq!(seen, chosen);
    }
    let order = |epoch, step| {
        pipeline
            .train_step(epoch, step)
            .samples
            .iter()
            .map(|s| s.index)
            .collect::<Vec<_>>()
    };
    assert_ne!(order(0, 0), order(1, 0));
    assert_ne!(order(0, 0), order(0, 7));
}

/// `seeds: {subset: 3, init: 4}`: one number has the seed of the subset, plus one, in its upper half.
#[test]
fn trials_of_one_subset_differ_in_everything_else() {
    let [plain, first, second] =
        [2, (3 << 32) | 1, (3 << 32) | 2].map(|seed| pipeline(digits(), &busy("digits"), seed));
    assert_eq!(plain.subset(), first.subset());
    assert_eq!(first.subset(), second.subset());
    let order = |pipeline: &Pipeline| {
        let samples = pipeline.train_step(0, 0).samples;
        samples
            .iter()
            .map(|sample| sample.index)
            .collect::<Vec<_>>()
    };
    assert_ne!(order(&plain), order(&first));
    assert_ne!(order(&first), order(&second));
}

#[test]
fn shards_and_call_order_do_not_change_a_bit() {
    let data = digits();
    let first = pipeline(data.clone(), &busy("digits"), 9);
    let second = pipeline(data, &busy("digits"), 9);
    let expected: Vec<Vec<f32>> = (0..14).map(|step| fill(&first, 2, step)).collect();
    let mut mixed = 0;
    for step in (0..14).rev() {
        let plan = second.train_step(2, step);
        mixed += usize::from(plan.mix.is_some());
        let middle = plan.len() / 3;
        let mut out = vec![0.0; plan.len() * second.image_len()];
        let (left, right) = out.split_at_mut(middle * second.image_len());
        second.fill_train(&plan, middle..plan.len(), right);
        second.fill_train(&plan, 0..middle, left);
        assert_eq!(out, expected[step as usize]);
    }
    assert!((1..14).contains(&mixed), "{mixed} of 14 batches were mixed");
}

#[test]
fn a_samples_augmentation_does_not_depend_on_its_batch() {
    let data = digits();
    let small = pipeline(
        data.clone(),
        &Settings {
            batch_size: 3,
            cutmix: None,
            ..busy("digits")
        },
        5,
    );
    let large = pipeline(
        data,
        &Settings {
            batch_size: 64,
            cutmix: None,
            ..busy("digits")
        },
        5,
    );
    let plans = |p: &Pipeline| -> Vec<_> {
        (0..p.steps_per_epoch())
            .flat_map(|s| p.train_step(1, s).samples)
            .collect()
    };
    assert_eq!(plans(&small), plans(&large));
}

#[test]
fn without_augmentation_pixels_are_standardised_and_cropped_at_the_centre() {
    let data = single(5, 8, 3);
    let settings = Settings {
        crop_size: Some(4),
        samples_per_class: SamplesPerClass::All,
        ..settings("x")
    };
    let pipeline = pipeline(data.clone(), &settings, 0);
    let statistics = data.statistics(Normalise::Dataset);
    let mut eval = vec![0.0; pipeline.image_len()];
    pipeline.fill_eval(0..1, &mut eval);
    assert_eq!(eval, fill(&pipeline, 0, 0));
    for (position, value) in eval.iter().enumerate() {
        let (row, column, channel) = (position / 12, position / 3 % 4 + 2, position % 3);
        let pixel = f32::from(data.train.image(0).pixels[(row * 8 + column) * 3 + channel]);
        let expected = (pixel - statistics.mean[channel]) / statistics.std[channel];
        assert!((value - expected).abs() < 1e-5);
    }
}

/// Renders one image slowly by the text of docs/paper.md, section 3.1: shift, flip, erase, then
/// crop with reflected borders.
fn reference(pipeline: &Pipeline, data: &Dataset, epoch: u32) -> (Vec<f32>, Vec<bool>) {
    let plan = &pipeline.train_step(epoch, 0).samples[0];
    let image = data.train.image(0);
    let statistics = data.statistics(Normalise::Dataset);
    let (height, width, side) = (
        image.height as isize,
        image.width as isize,
        pipeline.side() as isize,
    );
    let at = |y: isize, x: isize| {
        f32::from(image.pixels[(y.clamp(0, height - 1) * width + x.clamp(0, width - 1)) as usize])
    };
    let (down, right) = plan.shift.unwrap_or((0.0, 0.0));
    let mut shifted = vec![0.0; (height * width) as usize];
    for y in 0..height {
        for x in 0..width {
            let (sy, sx) = (y as f32 + down, x as f32 + right);
            let (y0, x0) = (sy.floor(), sx.floor());
            let (wy, wx) = (sy - y0, sx - x0);
            let (y0, x0) = (y0 as isize, x0 as isize);
            shifted[(y * width + x) as usize] = (1.0 - wy)
                * ((1.0 - wx) * at(y0, x0) + wx * at(y0, x0 + 1))
                + wy * ((1.0 - wx) * at(y0 + 1, x0) + wx * at(y0 + 1, x0 + 1));
        }
    }
    let mirror = |mut position: isize, length: isize| {
        while !(0..length).contains(&position) {
            position = if position < 0 {
                -position
            } else {
                2 * (length - 1) - position
            };
        }
        position
    };
    let crate::Window::At { top, left } = plan.window else {
        panic!("no resized crop here")
    };
    let (mut out, mut erased) = (Vec::new(), Vec::new());
    for y in 0..side {
        for x in 0..side {
            let (row, column) = (
                mirror(top as isize + y, height),
                mirror(left as isize + x, width),
            );
            erased.push(plan.erase.is_some_and(|erase| {
                (erase.top..erase.top + erase.height).contains(&(row as u32))
                    && (erase.left..erase.left + erase.width).contains(&(column as u32))
            }));
            let source = if plan.flip {
                width - 1 - column
            } else {
                column
            };
            out.push(
                (shifted[(row * width + source) as usize] - statistics.mean[0]) / statistics.std[0],
            );
        }
    }
    (out, erased)
}

#[test]
fn pixels_follow_the_stated_order_of_augmentations() {
    // Crops inside, and crops larger than the image in one and in both directions.
    for (height, width, side, shift) in [
        (9, 12, 6, 0.15),
        (9, 12, 10, 0.15),
        (5, 4, 11, 0.0),
        (9, 12, 9, 0.0),
    ] {
        let data = single(height, width, 1);
        let settings = Settings {
            crop_size: Some(side),
            shift,
            samples_per_class: SamplesPerClass::All,
            cutmix: None,
            ..busy("x")
        };
        let pipeline = pipeline(data.clone(), &settings, 11);
        let (mut num_erased, mut num_flipped) = (0, 0);
        for epoch in 0..60 {
            let (expected, erased) = reference(&pipeline, &data, epoch);
            let actual = fill(&pipeline, epoch, 0);
            num_erased += usize::from(erased.contains(&true));
            num_flipped += usize::from(pipeline.train_step(epoch, 0).samples[0].flip);
            for ((actual, expected), erased) in actual.iter().zip(&expected).zip(&erased) {
                assert!(
                    *erased || (actual - expected).abs() < 1e-3,
                    "epoch {epoch}: {actual} and {expected}"
                );
            }
            let different = actual
                .iter()
                .zip(&expected)
                .zip(&erased)
                .filter(|((a, e), erased)| **erased && a != e);
            assert_eq!(
                different.count(),
                erased.iter().filter(|erased| **erased).count()
            );
        }
        assert!(
            (15..45).contains(&num_erased) && (15..45).contains(&num_flipped),
            "{num_erased} {num_flipped}"
        );
    }
}

#[test]
fn prefetched_batches_are_those_of_the_pipeline() {
    let pipeline = Arc::new(pipeline(digits(), &busy("digits"), 2));
    for num_threads in [0, 1, 3] {
        let options = PrefetchOptions {
            epoch: 1,
            step: 5,
            num_epochs: 3,
            form: Form::Pixels,
            num_threads,
            depth: 2,
        };
        let mut prefetch = Prefetch::start(pipeline.clone(), options);
        let mut position = (1, 5);
        while let Some(batch) = prefetch.next().unwrap() {
            assert_eq!((batch.epoch, batch.step), position);
            assert_eq!(batch.plan, pipeline.train_step(position.0, position.1));
            assert_eq!(batch.pixels(), fill(&pipeline, position.0, position.1));
            position = if position.1 + 1 == pipeline.steps_per_epoch() {
                (position.0 + 1, 0)
            } else {
                (position.0, position.1 + 1)
            };
        }
        assert_eq!(position, (3, 0));
    }
}

#[test]
fn dropping_a_prefetch_in_the_middle_ends_its_threads() {
    let pipeline = Arc::new(pipeline(digits(), &busy("digits"), 2));
    let options = PrefetchOptions {
        epoch: 0,
        step: 0,
        num_epochs: 1000,
        form: Form::Pixels,
        num_threads: 2,
        depth: 3,
    };
    let mut prefetch = Prefetch::start(pipeline.clone(), options);
    let batch = prefetch.next().unwrap();
    drop(prefetch);
    drop(batch);
    assert_eq!(
        Arc::strong_count(&pipeline),
        1,
        "a thread still holds the pipeline"
    );
}

#[test]
fn held_out_images_are_evaluated_on_and_not_trained_on() {
    let data = digits();
    let settings = Settings {
        holdout: Some(sweep::Holdout::Fraction(0.2)),
        ..settings("digits")
    };
    let pipeline = pipeline(data.clone(), &settings, 4);
    assert_eq!((pipeline.num_train(), pipeline.num_eval()), (80, 20));
    assert_eq!(pipeline.subset().num_images(), Some(80));
    let mut eval = vec![0.0; 20 * 64];
    pipeline.fill_eval(0..20, &mut eval);
    let whole = self::pipeline(data, &self::settings("digits"), 4);
    assert_eq!((whole.num_eval(), whole.num_train()), (500, 100));
}

/// The trials of one subset's folds train on its other images, whatever the initial weights.
#[test]
fn folds_of_a_pair_of_seeds_are_parts_of_one_subset() {
    use sweep::held_out::Folds;
    let data = digits();
    let settings = Settings {
        holdout: Some(sweep::Holdout::Folds(Folds { folds: 5 })),
        ..settings("digits")
    };
    let mut trained = std::collections::BTreeMap::new();
    for fold in 0..5 {
        let seed = 3 << 32 | fold;
        let pipeline = Pipeline::new(data.clone(), &settings, seed, false).unwrap();
        assert_eq!((pipeline.num_train(), pipeline.num_eval()), (80, 20));
        let Subset::Indices(indices) = pipeline.subset() else {
            panic!("images are held out");
        };
        for &index in indices {
            *trained.entry(index).or_insert(0) += 1;
        }
    }
    assert_eq!(trained.len(), 100);
    assert!(trained.values().all(|times| *times == 4));
    // A rehearsal has too few images for five parts.
    assert!(Pipeline::new(data, &settings, 3 << 32, true).is_ok());
}

/// Held-out images come from the training split, but are evaluated at the size of test images.
#[test]
fn held_out_images_have_the_size_of_test_images() {
    let (height, width, per_class) = (24u32, 36u32, 4usize);
    let count = height as usize * width as usize * 3;
    let pixels: Vec<u8> = (0..2 * per_class * count)
        .map(|index| (index / 7 * 31 % 251) as u8)
        .collect();
    let labels: Vec<u32> = (0..2)
        .flat_map(|class| std::iter::repeat_n(class, per_class))
        .collect();
    let train = Split::uniform(labels, pixels, height, width, 3);
    let names: Vec<String> = ["one", "two"].map(str::to_owned).to_vec();
    let data = |train: &Split| {
        Arc::new(Dataset {
            name: "folder:test".to_owned(),
            class_names: names.clone(),
            class_ids: names.clone(),
            channels: 3,
            train: train.clone(),
            test: train.clone(),
            num_validation: 0,
            skipped: 0,
            fingerprint: String::new(),
            content: None,
        })
    };
    // the same images resized in advance, like test images
    let mut resizer = crate::images::resize::CropResizer::default();
    let mut bytes = Vec::new();
    let smaller: Vec<u8> = (0..train.len())
        .flat_map(|index| {
            resizer.whole(&train.image(index), (12, 18), &mut bytes);
            bytes.clone()
        })
        .collect();
    let smaller = Split::uniform(train.labels().to_vec(), smaller, 12, 18, 3);
    let of_originals = Settings {
        samples_per_class: SamplesPerClass::All,
        holdout: Some(sweep::Holdout::Fraction(0.5)),
        test_resize: Some(12),
        crop_size: Some(8),
        crop: Crop::RandomResized,
        normalise: Normalise::Torchvision,
        ..settings("folder:test")
    };
    let of_smaller = Settings {
        resize: Some(12),
        test_resize: None,
        crop: Crop::Centre,
        ..of_originals.clone()
    };
    let (originals, smaller) = (
        pipeline(data(&train), &of_originals, 4),
        pipeline(data(&smaller), &of_smaller, 4),
    );
    let evaluated = |pipeline: &Pipeline| {
        let mut out = vec![f32::NAN; 4 * pipeline.image_len()];
        pipeline.fill_eval(0..4, &mut out);
        out
    };
    assert_eq!(evaluated(&originals), evaluated(&smaller));
    let flat = pipeline(
        data(&train),
        &Settings {
            crop: Crop::Random,
            ..of_originals
        },
        4,
    );
    assert!(!flat.can_look_up(), "no table resizes an image");
}

#[test]
fn a_rehearsal_is_tiny_and_needs_no_files() {
    let nowhere = Path::new("/nonexistent");
    for entry in crate::catalog::ENTRIES {
        let request = OpenRequest {
            dataset: entry.name,
            resize: Some(512),
            test_resize: None,
            reach: Reach::anywhere(nowhere),
            cache_dir: nowhere,
            corrupt: Corrupt::Refuse,
            smoke: true,
        };
        let data = Arc::new(crate::open(&request, &|_, _| ()).unwrap());
        let known = entry.known();
        assert_eq!(data.num_classes() as u32, known.counts.num_classes);
        let settings = Settings {
            samples_per_class: SamplesPerClass::Count(30),
            crop_size: known.side.is_none().then_some(448),
            crop: Crop::Random,
            holdout: Some(sweep::Holdout::Fraction(0.2)),
            ..settings(entry.name)
        };
        let pipeline = Pipeline::new(data, &settings, 0, true).unwrap();
        assert!(pipeline.side() <= 32 && pipeline.batch_size() <= 8 && pipeline.num_eval() <= 64);
        assert_eq!(pipeline.steps_per_epoch(), 2);
        assert!(fill(&pipeline, 0, 1).iter().all(|value| value.is_finite()));
    }
}

#[test]
fn errors_name_data_that_do_not_fit_the_settings() {
    let refuse = |settings: Settings, word: &str| {
        let error = Pipeline::new(single(5, 8, 1), &settings, 0, false)
            .unwrap_err()
            .to_string();
        assert!(error.contains(word), "{error}");
    };
    let base = Settings {
        samples_per_class: SamplesPerClass::All,
        ..settings("folder:x")
    };
    refuse(base.clone(), "crop_size");
    refuse(
        Settings {
            crop_size: Some(4),
            samples_per_class: SamplesPerClass::Count(2),
            ..base
        },
        "`only`",
    );
}

#[test]
fn random_resized_crops_and_rand_augment_fill_the_side() {
    let settings = Settings {
        samples_per_class: SamplesPerClass::All,
        crop: Crop::RandomResized,
        crop_size: Some(16),
        flip: true,
        erase: true,
        rand_augment: Some(RandAugment {
            operations: 2,
            magnitude: 9.0,
            magnitude_std: 0.5,
            probability: 0.5,
        }),
        ..settings("x")
    };
    let pipeline = pipeline(single(40, 50, 3), &settings, 1);
    let epochs: Vec<Vec<f32>> = (0..20).map(|epoch| fill(&pipeline, epoch, 0)).collect();
    assert!(epochs.iter().flatten().all(|value| value.is_finite()));
    assert!(
        epochs
            .iter()
            .enumerate()
            .all(|(index, pixels)| !epochs[..index].contains(pixels))
    );
    let windows: Vec<_> = (0..20)
        .map(|epoch| pipeline.train_step(epoch, 0).samples[0].window)
        .collect();
    for window in windows {
        let crate::Window::Resized {
            top,
            left,
            height,
            width,
        } = window
        else {
            panic!("{window:?}")
        };
        assert!(top + height <= 40 && left + width <= 50 && height > 0 && width > 0);
    }
}

#[test]
fn cutmix_pastes_the_box_of_the_partner_and_counts_its_area() {
    let mixed = Settings {
        cutmix: Some(CutMix {
            alpha: 1.0,
            probability: 1.0,
        }),
        ..settings("digits")
    };
    let (plain, mixed) = (
        pipeline(digits(), &settings("digits"), 6),
        pipeline(digits(), &mixed, 6),
    );
    for step in 0..7 {
        let plan = mixed.train_step(0, step);
        let mix = plan.mix.clone().unwrap();
        assert_eq!(plan.samples, plain.train_step(0, step).samples);
        let (before, after) = (fill(&plain, 0, step), fill(&mixed, 0, step));
        for (position, &partner) in mix.partners.iter().enumerate() {
            assert_eq!(mix.labels[position], plan.labels[partner as usize]);
            let mut own = 0;
            for pixel in 0..64u32 {
                let (row, column) = (pixel / 8, pixel % 8);
                let boxed = (mix.rows.0..mix.rows.1).contains(&row)
                    && (mix.columns.0..mix.columns.1).contains(&column);
                let source = if boxed { partner as usize } else { position };
                own += u32::from(!boxed);
                assert_eq!(
                    after[position * 64 + pixel as usize],
                    before[source * 64 + pixel as usize]
                );
            }
            assert!((mix.lambda - own as f32 / 64.0).abs() < 1e-6);
        }
    }
}

#[test]
fn a_contact_sheet_is_a_picture_of_the_batches() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("sheet.png");
    let pipeline = pipeline(digits(), &settings("digits"), 6);
    assert_eq!(
        crate::contact_sheet(&pipeline, 0, 10, 4, &path).unwrap(),
        10
    );
    let sheet = image::open(&path).unwrap().into_rgb8();
    assert_eq!(sheet.dimensions(), (4 * 10 + 2, 3 * 10 + 2));
    let first = pipeline.train_step(0, 0).samples[0].index as usize;
    let pixels = pipeline.dataset().train.image(first).pixels;
    assert!((0..64).all(
        |index| sheet.get_pixel(2 + index % 8, 2 + index / 8).0 == [pixels[index as usize]; 3]
    ));
    assert!(crate::contact_sheet(&pipeline, 0, 1, 1, &place.path().join("no/sheet.png")).is_err());
}
