//! Every network makes a training step in both number formats, and every kind of block with and
//! without the shim's own operations; the gradient matches the one of libtorch's operations in f64.
//!
//! A step is the replica's own: forward, backward, update. Next: golden_tests.rs, which compares
//! with PyTorch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sweep::Settings;
use sweep::settings::{Loss, Model, MomentumForm, Softmax};
use tch::{Device, Kind, Reduction, Tensor};

use super::{build, classifier_name};
use crate::device::collective::Solo;
use crate::network::nn::{Builder, Format, Mode, Options, OwnOperations, Pass, Role};
use crate::step::head::Head;
use crate::step::replica::{Blueprint, Replica, Shard, StepOptions};

const CHANNELS: usize = 3;
const NUM_CLASSES: usize = 5;

/// Returns settings whose step leaves the weights unchanged and the gradient in the momentum.
fn settings(model: Model) -> Settings {
    let settings = sweep::recipe::settings("vipriors", "folder:images").expect("a recipe");
    Settings {
        model,
        loss: Loss::Xent,
        softmax: Softmax::LogSoftmax,
        momentum: 0.0,
        momentum_form: MomentumForm::Torch,
        weight_decay: 0.0,
        clip_norm: None,
        ..settings
    }
}

/// A network with the images of its step. Small images are fast, but a last stage of single pixels
/// leaves few values for its statistics.
struct Case {
    model: Model,
    images: i64,
    side: i64,
    /// True if libtorch's operations are compared too. A network that only repeats the blocks of
    /// another one leaves them to that.
    libtorchs: bool,
}

impl Case {
    /// Eight images.
    fn new(model: Model, side: i64, libtorchs: bool) -> Self {
        Self {
            model,
            images: 8,
            side,
            libtorchs,
        }
    }

    fn batch(&self) -> (Tensor, Tensor) {
        let shape = [self.images, CHANNELS as i64, self.side, self.side];
        let numbers = Tensor::arange(shape.iter().product::<i64>(), (Kind::Float, Device::Cpu));
        let images = (&numbers * 0.37).sin() + (&numbers * 0.011).cos();
        let labels = Tensor::arange(self.images, (Kind::Int64, Device::Cpu));
        (images.view(shape), labels.remainder(NUM_CLASSES as i64))
    }
}

fn replica(settings: &Settings, bf16: bool) -> Replica {
    let blueprint = Blueprint {
        settings,
        seed: 3,
        channels: CHANNELS,
        num_classes: NUM_CLASSES,
        embeddings: None,
        format: Format { bf16 },
        deadline: Duration::from_secs(60),
    };
    let mut replica = Replica::new(&blueprint, Arc::new(Solo::default()), Device::Cpu).unwrap();
    calm(&mut replica);
    replica
}

/// Makes the gradient less sensitive to rounding: kernels are bf16 numbers, and a residual block
/// adds little to its shortcut. With initial weights as drawn, the error of a ResNet-50's bf16
/// gradient is longer than the gradient.
fn calm(replica: &mut Replica) {
    let _guard = tch::no_grad_guard();
    let notes = &replica.inventory.parameters;
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, note) in notes.iter().enumerate() {
        let mut master = replica.storage.master(&replica.inventory, index);
        if note.role.is_convolution() {
            master.copy_(&master.to_kind(Kind::BFloat16));
        } else if note.role == Role::NormWeight
            && !note.name.contains("downsample")
            && let Some(block) = block_of(&note.name)
        {
            ends.insert(block, index);
        }
    }
    for index in ends.into_values() {
        let _ = replica.storage.master(&replica.inventory, index).fill_(0.1);
    }
    replica.storage.refresh_working_copy();
}

/// Returns the block of a parameter: `layer1.0` for `layer1.0.bn2.weight`.
fn block_of(name: &str) -> Option<&str> {
    let mut dots = name.match_indices('.').map(|(at, _)| at).skip(1);
    name.starts_with("layer")
        .then(|| dots.next())
        .flatten()
        .map(|end| &name[..end])
}

/// Makes a step and returns the gradient of each parameter in f64.
fn step(replica: &mut Replica, case: &Case, own: bool) -> Vec<Tensor> {
    replica.own_operations = OwnOperations {
        fused_norm: own,
        products: own,
    };
    let (images, labels) = case.batch();
    let shard = Shard {
        images,
        labels,
        mixed: None,
        batch_len: case.images as usize,
    };
    let before = replica.storage.weights.copy();
    replica
        .train_step(
            &shard,
            StepOptions {
                learning_rate: 0.0,
                steps_made: 0,
                new_layers_only: false,
            },
        )
        .unwrap();
    assert_eq!(replica.storage.weights, before);
    assert_eq!(replica.storage.momentum, replica.storage.gradients);
    let gradient = |index| {
        replica
            .storage
            .gradient(&replica.inventory, index)
            .to_kind(Kind::Double)
    };
    (0..replica.inventory.parameters.len())
        .map(gradient)
        .collect()
}

/// Returns the same gradients from libtorch's operations in f64, with channels outermost.
fn reference(replica: &Replica, settings: &Settings, case: &Case) -> Vec<Tensor> {
    let builder = Builder::new(Options {
        init: settings.init,
        batch_norm_eps: settings.batch_norm_eps,
    });
    let network = build(settings.model, &builder, CHANNELS as i64);
    let classifier = classifier_name(settings.model);
    let head = Head::new(
        settings,
        &builder,
        classifier,
        network.num_features,
        NUM_CLASSES as i64,
    );
    let own = |tensor: Tensor| tensor.to_kind(Kind::Double).contiguous().detach();
    let parameter =
        |index| own(replica.storage.master(&replica.inventory, index)).set_requires_grad(true);
    let parameters: Vec<Tensor> = (0..replica.inventory.parameters.len())
        .map(parameter)
        .collect();
    let buffers: Vec<Tensor> = replica
        .storage
        .buffers
        .iter()
        .map(|buffer| own(buffer.copy()))
        .collect();
    let pass = Pass {
        parameters: &parameters,
        buffers: &buffers,
        mode: Mode::Train {
            batch_norm_momentum: 0.0,
        },
        synchronised: None,
        own_operations: OwnOperations {
            fused_norm: false,
            products: false,
        },
    };
    let (images, labels) = case.batch();
    let outputs = head.forward(
        &network.forward(&images.to_kind(Kind::Double), &pass),
        &pass,
    );
    let logits = outputs.logits.expect("the cross-entropy has logits");
    logits
        .log_softmax(1, Kind::Double)
        .g_nll_loss(&labels, None::<Tensor>, Reduction::Mean, -100)
        .backward();
    parameters.iter().map(Tensor::grad).collect()
}

/// Returns the distance of two gradients, relative to the length of the second.
fn distance(found: &[Tensor], expected: &[Tensor]) -> f64 {
    let squares = |tensor: &Tensor| tensor.square().sum(Kind::Double).double_value(&[]);
    let apart: f64 = found
        .iter()
        .zip(expected)
        .map(|(found, expected)| squares(&(found - expected)))
        .sum();
    (apart / expected.iter().map(squares).sum::<f64>()).sqrt()
}

/// Returns the largest distance allowed: distances found are at most 1e-3, and 0.3 where numbers
/// have eight bits.
fn bound(bf16: bool) -> f64 {
    if bf16 { 0.4 } else { 5e-3 }
}

fn steps_of(cases: &[Case]) {
    tch::set_num_threads(1);
    for case in cases {
        let settings = settings(case.model);
        let mut expected = None;
        for bf16 in [false, true] {
            let mut replica = replica(&settings, bf16);
            let expected = expected.get_or_insert_with(|| reference(&replica, &settings, case));
            let both: &[bool] = if case.libtorchs {
                &[true, false]
            } else {
                &[true]
            };
            for &own in both {
                let apart = distance(&step(&mut replica, case, own), expected);
                assert!(
                    apart < bound(bf16),
                    "{:?}, bf16: {bf16}, own operations: {own}: the gradient is {apart:.2e} off",
                    case.model
                );
            }
        }
    }
}

#[test]
fn every_small_image_network_makes_a_step() {
    use Model::{Resnet8, Resnet20, Resnet32, Resnet56, Resnet110, Resnet110Wfc};
    let same_blocks = [Resnet20, Resnet32, Resnet56, Resnet110];
    let mut cases: Vec<Case> = same_blocks.map(|model| Case::new(model, 16, false)).into();
    cases.extend([Resnet8, Resnet110Wfc].map(|model| Case::new(model, 16, true)));
    steps_of(&cases);
}

#[test]
fn every_wide_network_makes_a_step() {
    steps_of(&[
        Case::new(Model::WideResnet16x2, 16, true),
        Case::new(Model::WideResnet16x8, 8, false),
    ]);
}

// Networks for large images in several tests, so that threads share their time.
#[test]
fn every_network_of_basic_blocks_makes_a_step() {
    steps_of(&[
        Case::new(Model::Resnet18, 32, true),
        Case::new(Model::Resnet34, 32, false),
    ]);
}

#[test]
fn a_network_of_bottlenecks_makes_a_step() {
    steps_of(&[Case::new(Model::Resnet50, 32, true)]);
}

#[test]
fn a_network_of_bottlenecks_in_keras_form_makes_a_step() {
    steps_of(&[Case::new(Model::Resnet50Keras, 32, false)]);
}

/// Full convolutions enlarge images, so that two have many values for the statistics.
#[test]
fn a_fully_convolutional_network_makes_a_step() {
    steps_of(&[Case {
        images: 2,
        ..Case::new(Model::Resnet50Fconv, 4, true)
    }]);
}

#[test]
fn a_network_of_inverted_bottlenecks_makes_a_step() {
    steps_of(&[Case::new(Model::EfficientnetB0, 40, true)]);
}
