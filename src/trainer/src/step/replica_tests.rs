//! Data-parallel training gives the numbers of the whole batch for any number of replicas.
//!
//! Replicas are threads over shared memory; tolerances are relative to the largest value and stated
//! with each check. Next: replica.rs.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use sweep::Settings;
use sweep::settings::{BatchNorm, Loss, Model};
use tch::{Device, Kind, Tensor};

use crate::device::collective::{Collective, Solo, fake_nccl, shared_memory};
use crate::device::hardware::Hardware;
use crate::network::nn::{Format, OwnOperations, has_products};
use crate::step::replica::{Blueprint, Replica, Shard, StepOptions};

const NUM_CLASSES: usize = 4;
const SIDE: i64 = 8;
const DEADLINE: Duration = Duration::from_secs(60);
const F32: Format = Format { bf16: false };

fn settings(batch_norm: BatchNorm) -> Settings {
    let settings = sweep::recipe::settings("quick", "digits").expect("a recipe");
    Settings {
        batch_norm,
        model: Model::Resnet8,
        loss: Loss::CosXent,
        clip_norm: Some(10.0),
        ..settings
    }
}

fn blueprint(settings: &Settings, format: Format) -> Blueprint<'_> {
    Blueprint {
        settings,
        seed: 5,
        channels: 3,
        num_classes: NUM_CLASSES,
        embeddings: None,
        format,
        deadline: DEADLINE,
    }
}

/// A deterministic batch; shards are slices of it.
fn batch(len: i64, step: i64) -> (Tensor, Tensor) {
    let count = len * 3 * SIDE * SIDE;
    let numbers = Tensor::arange(count, (Kind::Float, Device::Cpu)) + (step * count) as f64;
    let images = (&numbers * 0.37).sin() + (&numbers * 0.011).cos();
    let labels =
        (Tensor::arange(len, (Kind::Int64, Device::Cpu)) + step).remainder(NUM_CLASSES as i64);
    (images.view([len, 3, SIDE, SIDE]), labels)
}

/// The state of a replica after some steps.
#[derive(Debug)]
struct Trained {
    weights: Vec<f32>,
    gradient_of_first_step: Vec<f32>,
    statistics: Vec<f32>,
    loss_sum: f64,
}

fn values(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor).unwrap()
}

fn train(
    settings: &Settings,
    format: Format,
    collective: Arc<dyn Collective>,
    batch_lens: &[i64],
) -> Trained {
    tch::set_num_threads(1);
    let mut replica = Replica::new(&blueprint(settings, format), collective, Device::Cpu).unwrap();
    let mut gradient_of_first_step = Vec::new();
    for (step, &len) in batch_lens.iter().enumerate() {
        let (images, labels) = batch(len, step as i64);
        let range = replica.shard(len as usize);
        let (start, length) = (range.start as i64, range.len() as i64);
        let shard = Shard {
            images: images.narrow(0, start, length),
            labels: labels.narrow(0, start, length),
            mixed: None,
            batch_len: len as usize,
        };
        let options = StepOptions {
            learning_rate: 0.05,
            steps_made: step as u64,
            new_layers_only: false,
        };
        replica.train_step(&shard, options).unwrap();
        if step == 0 {
            // Keras-form momentum after one step is -lr * gradient
            gradient_of_first_step = values(&(&replica.storage.momentum / -0.05));
        }
    }
    let loss_sum = replica.loss_sum().unwrap();
    Trained {
        weights: values(&replica.storage.weights),
        gradient_of_first_step,
        statistics: values(&replica.storage.statistics),
        loss_sum,
    }
}

fn train_group(settings: &Settings, size: usize, batch_lens: &[i64]) -> Vec<Trained> {
    train_over(shared_memory(size, DEADLINE), settings, batch_lens)
}

fn train_over(
    ends: Vec<Box<dyn Collective>>,
    settings: &Settings,
    batch_lens: &[i64],
) -> Vec<Trained> {
    train_in(F32, ends, settings, batch_lens)
}

fn train_in(
    format: Format,
    ends: Vec<Box<dyn Collective>>,
    settings: &Settings,
    batch_lens: &[i64],
) -> Vec<Trained> {
    thread::scope(|scope| {
        let run = |end| scope.spawn(move || train(settings, format, Arc::from(end), batch_lens));
        let threads: Vec<_> = ends.into_iter().map(run).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// Returns the largest difference relative to the largest value.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let largest = a
        .iter()
        .fold(0f32, |largest, value| largest.max(value.abs()));
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0f32, f32::max)
        / largest
}

#[test]
fn synchronised_replicas_train_as_one_on_the_whole_batch() {
    let settings = settings(BatchNorm::Synchronised);
    // uneven shards, and a last batch smaller than the number of replicas
    let batch_lens = [10, 7, 3];
    let alone = train(&settings, F32, Arc::new(Solo::default()), &batch_lens);
    for size in [2, 4] {
        let group = train_group(&settings, size, &batch_lens);
        let loss: f64 = group.iter().map(|replica| replica.loss_sum).sum();
        assert!(
            (loss - alone.loss_sum).abs() < 1e-4 * alone.loss_sum,
            "{loss} {}",
            alone.loss_sum
        );
        for replica in &group {
            assert!(
                distance(
                    &alone.gradient_of_first_step,
                    &replica.gradient_of_first_step
                ) < 2e-5
            );
            assert!(distance(&alone.weights, &replica.weights) < 1e-4);
            assert!(distance(&alone.statistics, &replica.statistics) < 1e-4);
            assert_eq!(
                replica.weights, group[0].weights,
                "replicas stay equal to the bit"
            );
            assert_eq!(replica.statistics, group[0].statistics);
        }
    }
}

/// Empty last shards: the shim's own operations and libtorch's accept them in bf16 too.
#[test]
fn synchronised_replicas_take_empty_shards_in_bf16() {
    let settings = settings(BatchNorm::Synchronised);
    let format = Format { bf16: true };
    let ends = shared_memory(4, DEADLINE);
    let group = train_in(format, ends, &settings, &[10, 2, 3]);
    let alone = train(&settings, format, Arc::new(Solo::default()), &[10, 2, 3]);
    let loss: f64 = group.iter().map(|replica| replica.loss_sum).sum();
    assert!(
        (loss - alone.loss_sum).abs() < 2e-2 * alone.loss_sum,
        "{loss} {}",
        alone.loss_sum
    );
    for replica in &group {
        assert_eq!(
            replica.weights, group[0].weights,
            "replicas stay equal to the bit"
        );
    }
}

/// Keras' multi_gpu_model: each replica normalises its own shard; losses and gradients are those of
/// the whole batch.
#[test]
fn per_replica_normalisation_averages_the_gradients_of_its_shards() {
    let settings = Settings {
        clip_norm: None,
        ..settings(BatchNorm::PerReplica)
    };
    let group = train_group(&settings, 2, &[10]);
    // the same by hand: the gradient of each half, weighted by its share
    let mut expected = vec![0f32; group[0].weights.len()];
    for start in [0, 5] {
        let (images, labels) = batch(10, 0);
        let collective = Arc::new(Solo::default());
        let mut replica =
            Replica::new(&blueprint(&settings, F32), collective, Device::Cpu).unwrap();
        let shard = Shard {
            images: images.narrow(0, start, 5),
            labels: labels.narrow(0, start, 5),
            mixed: None,
            batch_len: 10,
        };
        replica
            .train_step(
                &shard,
                StepOptions {
                    learning_rate: 1.0,
                    steps_made: 0,
                    new_layers_only: false,
                },
            )
            .unwrap();
        let gradient = values(&replica.storage.momentum);
        expected
            .iter_mut()
            .zip(gradient)
            .for_each(|(sum, value)| *sum -= value);
    }
    assert!(distance(&expected, &group[0].gradient_of_first_step) < 2e-5);
    assert_eq!(group[0].weights, group[1].weights);
    assert_eq!(group[0].statistics, group[1].statistics);
}

/// Frozen weights must be exact: replicas sum weights, and three times a third of a number is not
/// that number.
#[test]
fn the_first_phase_of_fine_tuning_leaves_everything_else_to_the_bit() {
    let settings = settings(BatchNorm::PerReplica);
    for size in [1, 3] {
        let train = |end: Box<dyn Collective>| {
            tch::set_num_threads(1);
            let mut replica =
                Replica::new(&blueprint(&settings, F32), Arc::from(end), Device::Cpu).unwrap();
            let masters = |replica: &Replica| {
                let master = |index| {
                    values(
                        &replica
                            .storage
                            .master(&replica.inventory, index)
                            .contiguous()
                            .view([-1]),
                    )
                };
                (0..replica.inventory.parameters.len())
                    .map(master)
                    .collect::<Vec<_>>()
            };
            let (before, statistics) = (masters(&replica), values(&replica.storage.statistics));
            let (images, labels) = batch(10, 0);
            let range = replica.shard(10);
            let (start, length) = (range.start as i64, range.len() as i64);
            let (images, labels) = (
                images.narrow(0, start, length),
                labels.narrow(0, start, length),
            );
            let shard = Shard {
                images,
                labels,
                mixed: None,
                batch_len: 10,
            };
            let options = StepOptions {
                learning_rate: 0.1,
                steps_made: 0,
                new_layers_only: true,
            };
            replica.train_step(&shard, options).unwrap();
            assert_eq!(
                values(&replica.storage.statistics),
                statistics,
                "{size} replicas"
            );
            let after = masters(&replica);
            let notes = replica.inventory.parameters.iter();
            let changed = notes
                .zip(before.iter().zip(&after))
                .filter(|(_, (before, after))| before != after);
            changed
                .map(|(note, _)| note.name.clone())
                .collect::<Vec<_>>()
        };
        let ends: Vec<Box<dyn Collective>> = if size == 1 {
            vec![Box::new(Solo::default())]
        } else {
            shared_memory(size, DEADLINE)
        };
        let changed: Vec<Vec<String>> = thread::scope(|scope| {
            let threads: Vec<_> = ends
                .into_iter()
                .map(|end| scope.spawn(|| train(end)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        for names in changed {
            assert_eq!(
                names,
                [
                    "cls_head.fc.weight",
                    "cls_head.fc.bias",
                    "fc.weight",
                    "fc.bias"
                ]
            );
        }
    }
}

/// bf16 keeps eight bits: the loss curve must follow that of f32 closely, not exactly. (libtorch's
/// operations alone deviate by 0.7 and 0.9 per cent.)
#[test]
fn bf16_follows_the_loss_curve_of_f32() {
    let settings = settings(BatchNorm::PerReplica);
    let run = |format| train(&settings, format, Arc::new(Solo::default()), &[16; 6]).loss_sum;
    let reference = run(F32);
    let half = run(Format { bf16: true });
    assert!((half / reference - 1.0).abs() < 2e-2, "{half} {reference}");
}

/// The last batch of an epoch may hold a single image, whose normalisation in the head has no
/// unbiased variance.
#[test]
fn a_batch_of_one_image_leaves_finite_statistics() {
    for batch_norm in [BatchNorm::PerReplica, BatchNorm::Synchronised] {
        let trained = train(
            &settings(batch_norm),
            F32,
            Arc::new(Solo::default()),
            &[4, 1, 4],
        );
        assert!(
            trained
                .weights
                .iter()
                .chain(&trained.statistics)
                .all(|value| value.is_finite())
        );
        for replica in train_group(&settings(batch_norm), 2, &[4, 1, 4]) {
            assert!(
                replica
                    .weights
                    .iter()
                    .chain(&replica.statistics)
                    .all(|value| value.is_finite())
            );
        }
    }
}

/// The measurement that finds the batch that would have fitted runs after the failure has ended the
/// group.
#[test]
fn passes_are_rehearsed_after_the_group_has_failed() {
    for batch_norm in [BatchNorm::PerReplica, BatchNorm::Synchronised] {
        let settings = settings(batch_norm);
        let group = shared_memory(2, Duration::from_millis(200))
            .into_iter()
            .take(1);
        for end in group.chain([Box::new(Solo::default()) as Box<dyn Collective>]) {
            let mut replica =
                Replica::new(&blueprint(&settings, F32), Arc::from(end), Device::Cpu).unwrap();
            replica.collective.abort("it ended early");
            assert!(replica.loss_sum().is_err());
            replica.retire();
            for images in [6, 3, 1] {
                replica.rehearse_passes(images, 3, SIDE as usize).unwrap();
            }
        }
    }
}

/// The library is a fake that sums in rank order, as shared memory does; the code around it is
/// real.
#[test]
fn nccl_and_shared_memory_agree() {
    for batch_norm in [BatchNorm::PerReplica, BatchNorm::Synchronised] {
        let settings = settings(batch_norm);
        for size in [2, 3] {
            let shared = train_group(&settings, size, &[10, 7]);
            let nccl = train_over(fake_nccl(size, DEADLINE), &settings, &[10, 7]);
            for (nccl, shared) in nccl.iter().zip(&shared) {
                assert_eq!(
                    nccl.weights, shared.weights,
                    "{size} replicas, {batch_norm:?}"
                );
                assert_eq!(
                    (&nccl.statistics, nccl.loss_sum),
                    (&shared.statistics, shared.loss_sum)
                );
            }
        }
    }
}

/// Our own operations round differently from libtorch's, so the record names them.
#[test]
fn the_record_names_the_operations_that_are_not_libtorchs() {
    let kernels = |batch_norm, format, replicas: usize, fused_norm| {
        let settings = settings(batch_norm);
        let end = match replicas {
            1 => Box::new(Solo::default()) as Box<dyn Collective>,
            _ => shared_memory(replicas, DEADLINE).remove(0),
        };
        let mut replica =
            Replica::new(&blueprint(&settings, format), Arc::from(end), Device::Cpu).unwrap();
        replica.own_operations = OwnOperations {
            fused_norm,
            ..OwnOperations::default()
        };
        replica.kernels()
    };
    assert_eq!(
        kernels(BatchNorm::PerReplica, F32, 1, true),
        "fused-norm+products"
    );
    assert_eq!(
        kernels(BatchNorm::PerReplica, F32, 2, true),
        "fused-norm+products"
    );
    assert_eq!(kernels(BatchNorm::PerReplica, F32, 1, false), "products");
    assert_eq!(kernels(BatchNorm::Synchronised, F32, 2, true), "products");
    let expected = if has_products(true, Hardware::of_cpu()) {
        "fused-norm+products"
    } else {
        "fused-norm"
    };
    assert_eq!(
        kernels(BatchNorm::PerReplica, Format { bf16: true }, 1, true),
        expected
    );
}
