//! Pixels gathered by a device equal those that the host makes, bit for bit; the CPU plays the
//! device here.
//!
//! On a GPU the same operations round the same way (no sum has more than two terms), which
//! `on_a_gpu_pixels_are_the_same_bits` checks on a machine with a GPU.

use std::sync::Arc;

use data::{ByteSource, Dataset, Form, Pipeline, Prefetch, PrefetchOptions};
use sweep::Settings;
use sweep::settings::{Crop, CutMix, Normalise};
use tch::{Device, Kind, Tensor};

use crate::step::batches::ImageShape;
use crate::step::images::{Images, ResidentSets};

fn settings(dataset: &str, crop_size: u32) -> Settings {
    let settings = sweep::recipe::settings("quick", "digits").expect("a recipe");
    Settings {
        dataset: dataset.to_owned(),
        samples_per_class: sweep::settings::SamplesPerClass::All,
        crop_size: Some(crop_size),
        normalise: Normalise::Dataset,
        batch_size: 5,
        ..settings
    }
}

/// Photographs of three sizes; crops reach beyond the smallest.
fn photographs() -> Arc<Dataset> {
    Arc::new(data::stand_in::dataset("folder:photographs").unwrap())
}

fn digits() -> Arc<Dataset> {
    Arc::new(data::stand_in::dataset("digits").unwrap())
}

/// Every combination that a recipe could request, by name.
fn cases() -> Vec<(&'static str, Arc<Dataset>, Settings)> {
    let photo = settings("folder:photographs", 40);
    let busy = Settings {
        shift: 0.15,
        flip: true,
        erase: true,
        crop: Crop::Random,
        ..photo.clone()
    };
    let mixed = Settings {
        cutmix: Some(CutMix {
            alpha: 1.0,
            probability: 0.9,
        }),
        ..busy.clone()
    };
    vec![
        ("centre", photographs(), photo.clone()),
        (
            "crop and flip",
            photographs(),
            Settings {
                flip: true,
                crop: Crop::Random,
                ..photo.clone()
            },
        ),
        (
            "shift",
            photographs(),
            Settings {
                shift: 0.2,
                ..photo.clone()
            },
        ),
        (
            "erase and flip",
            photographs(),
            Settings {
                erase: true,
                flip: true,
                ..photo.clone()
            },
        ),
        ("everything", photographs(), busy.clone()),
        ("everything and CutMix", photographs(), mixed),
        (
            "one channel",
            digits(),
            Settings {
                crop_size: Some(7),
                ..busy_digits()
            },
        ),
        (
            "held out",
            photographs(),
            Settings {
                holdout: Some(sweep::Holdout::Fraction(0.5)),
                ..busy
            },
        ),
    ]
}

fn busy_digits() -> Settings {
    Settings {
        shift: 0.15,
        flip: true,
        erase: true,
        crop: Crop::Random,
        ..settings("digits", 8)
    }
}

fn options(form: Form) -> PrefetchOptions {
    PrefetchOptions {
        epoch: 1,
        step: 0,
        num_epochs: 2,
        form,
        num_threads: 0,
        depth: 1,
    }
}

/// Returns all training batches of an epoch in two shards each, and all evaluation images.
fn everything(
    pipeline: &Arc<Pipeline>,
    form: Form,
    shape: ImageShape,
    device: Device,
) -> Vec<Tensor> {
    let images = Images::new(form, &ResidentSets::new(1.0), pipeline, shape, device);
    let mut prefetch = Prefetch::start(pipeline.clone(), options(form));
    let mut found = Vec::new();
    while let Some(batch) = prefetch.next().unwrap() {
        let middle = batch.len() / 3;
        found.push(images.train(&batch, 0..middle));
        found.push(images.train(&batch, middle..batch.len()));
    }
    found.push(images.evaluate(pipeline, 0..pipeline.num_eval()));
    found
}

fn assert_same(device: Device) {
    for (name, dataset, settings) in cases() {
        let pipeline = Arc::new(Pipeline::new(dataset, &settings, 3, false).unwrap());
        assert!(pipeline.can_look_up(), "{name}");
        let shape = ImageShape {
            channels: pipeline.channels(),
            side: pipeline.side(),
        };
        let expected = everything(&pipeline, Form::Pixels, shape, Device::Cpu);
        for origin in [ByteSource::Split, ByteSource::Batch] {
            let found = everything(&pipeline, Form::Lookup(origin), shape, device);
            assert_eq!(found.len(), expected.len());
            for (number, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_eq!(found.size(), expected.size(), "{name}, {origin:?}");
                assert_eq!(found.stride(), expected.stride(), "{name}, {origin:?}");
                let found = found.to_device(Device::Cpu);
                let difference = (&found - expected).abs().max().double_value(&[]);
                assert!(
                    found.equal(expected),
                    "{name}, {origin:?}, tensor {number}: off by {difference}"
                );
                assert_eq!(found.isfinite().all().int64_value(&[]), 1, "{name}");
                assert_eq!(found.kind(), Kind::Float);
            }
        }
    }
}

#[test]
fn gathered_pixels_are_the_hosts_bit_for_bit() {
    assert_same(Device::Cpu);
}

/// Needs a GPU.
#[test]
#[ignore = "needs a GPU"]
fn on_a_gpu_pixels_are_the_same_bits() {
    assert!(crate::device::num_gpus() > 0, "this machine has no GPU");
    crate::device::prepare_thread(Device::Cuda(0), false, 1).unwrap();
    assert_same(Device::Cuda(0));
}

#[test]
fn what_makes_new_bytes_stays_on_the_host() {
    let resized = Settings {
        crop: Crop::RandomResized,
        ..settings("folder:photographs", 32)
    };
    let pipeline = Pipeline::new(photographs(), &resized, 3, false).unwrap();
    assert!(!pipeline.can_look_up());
    assert_eq!(ResidentSets::new(1.0).form(&[0], &pipeline), Form::Pixels);
}

#[test]
fn a_set_is_kept_until_another_one_comes() {
    let sets = ResidentSets::new(1.0);
    let (first, second) = (photographs(), digits());
    let address = |dataset: &Dataset| sets.get(Device::Cpu, dataset).0.data_ptr();
    let before = address(&first);
    let _hold = sets.get(Device::Cpu, &first);
    assert_eq!(address(&first), before);
    address(&second);
    assert_ne!(
        address(&first),
        before,
        "the first one was given up for the second"
    );
}
