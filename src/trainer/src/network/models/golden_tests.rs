//! Every network against PyTorch: logits in both modes, gradients, moving statistics, parameter
//! counts.
//!
//! The expected values are goldens/models.json, made by goldens/make_goldens.py in float64; weights
//! and inputs come from a formula of (name, index) that both sides compute. Networks run here in
//! float64 too, so that a tolerance can be tight enough to notice a wrong padding or epsilon, and
//! once in float32 as they train.

use std::collections::BTreeMap;

use serde::Deserialize;
use sweep::Settings;
use sweep::settings::{Init, Model};
use tch::{Device, Kind, Tensor};

use super::{build, classifier_name};
use crate::device::shim;
use crate::network::nn::{Builder, Inventory, Linear, Mode, Network, Options, OwnOperations, Pass};

#[derive(Deserialize)]
struct Goldens {
    /// Parameter count and hash of all names and shapes.
    networks: BTreeMap<Model, (u64, u32)>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    model: Model,
    input: [i64; 4],
    outputs: i64,
    batch_norm_eps: f64,
    batch_norm_momentum: f64,
    num_parameters: u64,
    eval_logits: Vec<f64>,
    train_logits: Vec<f64>,
    gradient_norm: f64,
    /// Name, norm, probe.
    gradients: Vec<(String, f64, f64)>,
    statistics: Vec<(String, f64, f64)>,
    updated_eval_logits: Vec<f64>,
}

fn goldens() -> Goldens {
    serde_json::from_str(include_str!("../../../goldens/models.json"))
        .expect("models.json is as make_goldens.py writes it")
}

fn fnv1a(name: &str) -> u32 {
    name.bytes().fold(2_166_136_261, |state, byte| {
        (state ^ u32::from(byte)).wrapping_mul(16_777_619)
    })
}

/// Returns numbers in [-1, 1), the same as `noise` of make_goldens.py.
fn noise(name: &str, count: usize) -> Vec<f64> {
    let start = fnv1a(name);
    (0..count as u32)
        .map(|index| {
            let mut x = index.wrapping_mul(0x9E37_79B9).wrapping_add(start);
            x = (x ^ (x >> 16)).wrapping_mul(0x7FEB_352D);
            x = (x ^ (x >> 15)).wrapping_mul(0x846C_A68B);
            x ^= x >> 16;
            f64::from(x >> 8) / f64::from(1 << 23) - 1.0
        })
        .collect()
}

fn filled(name: &str, shape: &[i64], kind: Kind) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let fan_in = shape[1..].iter().product::<i64>() as f64;
    let value = |v: f64| match name {
        "input" => v,
        _ if shape.len() >= 2 => v * (3.0 / fan_in).sqrt(),
        _ if name.ends_with("running_var") => 1.0 + 0.25 * v,
        _ if name.ends_with(".weight") => 1.0 + 0.1 * v,
        _ => 0.1 * v,
    };
    let values: Vec<f32> = noise(name, count)
        .into_iter()
        .map(|v| value(v) as f32)
        .collect();
    Tensor::from_slice(&values).view(shape).to_kind(kind)
}

fn probe(name: &str, tensor: &Tensor) -> f64 {
    let noise = Tensor::from_slice(&noise(&format!("{name}.probe"), tensor.numel()));
    (tensor.to_kind(Kind::Double).contiguous().view(-1) * noise)
        .sum(Kind::Double)
        .double_value(&[])
}

/// Memory format of images and kernels.
#[derive(Clone, Copy, Debug)]
enum Layout {
    ChannelsOutermost,
    ChannelsInnermost,
}

impl Layout {
    fn of(self, tensor: Tensor) -> Tensor {
        match self {
            Self::ChannelsInnermost if tensor.dim() == 4 => shim::channels_last(&tensor).unwrap(),
            _ => tensor,
        }
    }
}

/// A backbone with its classifier and formula weights.
struct Filled {
    backbone: Network,
    classifier: Linear,
    inventory: Inventory,
    parameters: Vec<Tensor>,
    buffers: Vec<Tensor>,
    own_operations: OwnOperations,
}

impl Filled {
    fn new(case: &Case, kind: Kind, layout: Layout) -> Self {
        let (builder, backbone, classifier) =
            declared(case.model, case.input[1], case.outputs, case.batch_norm_eps);
        let inventory = builder.inventory();
        let parameters = inventory
            .parameters
            .iter()
            .map(|note| layout.of(filled(&note.name, &note.shape, kind)));
        let parameters = parameters
            .map(|tensor| tensor.set_requires_grad(true))
            .collect();
        let buffers = inventory
            .buffers
            .iter()
            .map(|note| filled(&note.name, &note.shape, kind))
            .collect();
        Self {
            backbone,
            classifier,
            inventory,
            parameters,
            buffers,
            own_operations: OwnOperations::default(),
        }
    }

    fn logits(&self, images: &Tensor, mode: Mode) -> Tensor {
        let pass = Pass {
            parameters: &self.parameters,
            buffers: &self.buffers,
            mode,
            synchronised: None,
            own_operations: self.own_operations,
        };
        self.classifier
            .forward(&self.backbone.forward(images, &pass), &pass)
    }
}

fn declared(
    model: Model,
    channels: i64,
    outputs: i64,
    batch_norm_eps: f64,
) -> (Builder, Network, Linear) {
    let builder = Builder::new(Options {
        init: Init::Torchvision,
        batch_norm_eps,
    });
    let backbone = build(model, &builder, channels);
    let classifier = Linear::new(
        &(&builder / classifier_name(model)),
        backbone.num_features,
        outputs,
        true,
    );
    (builder, backbone, classifier)
}

/// Returns the largest difference, relative to the largest expected magnitude.
fn difference(found: &Tensor, expected: &[f64]) -> f64 {
    let found = Vec::<f64>::try_from(found.to_kind(Kind::Double).contiguous().view(-1))
        .expect("a flat tensor");
    assert_eq!(found.len(), expected.len());
    let scale = expected
        .iter()
        .fold(0f64, |scale, value| scale.max(value.abs()));
    found
        .iter()
        .zip(expected)
        .fold(0f64, |worst, (a, b)| worst.max((a - b).abs()))
        / scale
}

/// Compares the norm and probe of each row, relative to the norm (a probe may be near zero by
/// chance) or the least scale: a convolution's bias before a batch normalisation has only rounding
/// as its gradient.
fn row_difference(
    rows: &[(String, f64, f64)],
    least_scale: f64,
    find: impl Fn(&str) -> Tensor,
) -> f64 {
    rows.iter()
        .fold(0f64, |worst, (name, norm, expected_probe)| {
            let tensor = find(name);
            let found_norm = tensor.to_kind(Kind::Double).norm().double_value(&[]);
            let scale = norm.abs().max(least_scale);
            worst
                .max((found_norm - norm).abs() / scale)
                .max((probe(name, &tensor) - expected_probe).abs() / scale)
        })
}

struct Differences {
    eval: f64,
    train: f64,
    gradients: f64,
    statistics: f64,
    updated_eval: f64,
}

fn compare(case: &Case, kind: Kind, layout: Layout) -> Differences {
    // the other tests run in parallel
    tch::set_num_threads(1);
    let net = Filled::new(case, kind, layout);
    assert_eq!(
        net.inventory.num_parameters(),
        case.num_parameters,
        "{:?}",
        case.model
    );
    let images = layout.of(filled("input", &case.input, kind));
    let eval = tch::no_grad(|| net.logits(&images, Mode::Evaluate));
    let train = net.logits(
        &images,
        Mode::Train {
            batch_norm_momentum: case.batch_norm_momentum,
        },
    );
    let cotangent = Tensor::from_slice(&noise("cotangent", train.numel()))
        .to_kind(kind)
        .view_as(&train);
    (&train * cotangent).sum(kind).backward();
    let updated_eval = tch::no_grad(|| net.logits(&images, Mode::Evaluate));
    let position = |names: Vec<&String>, name: &str| {
        names
            .iter()
            .position(|found| *found == name)
            .unwrap_or_else(|| panic!("{:?} has no {name}", case.model))
    };
    let gradients = row_difference(&case.gradients, 1e-3 * case.gradient_norm, |name| {
        net.parameters[position(
            net.inventory
                .parameters
                .iter()
                .map(|note| &note.name)
                .collect(),
            name,
        )]
        .grad()
    });
    let statistics = row_difference(&case.statistics, 0.0, |name| {
        net.buffers[position(
            net.inventory
                .buffers
                .iter()
                .map(|note| &note.name)
                .collect(),
            name,
        )]
        .shallow_clone()
    });
    Differences {
        eval: difference(&eval, &case.eval_logits),
        train: difference(&train.detach(), &case.train_logits),
        gradients,
        statistics,
        updated_eval: difference(&updated_eval, &case.updated_eval_logits),
    }
}

/// In float64 the two sides differ only by the rounding of the features to float32 in the pool.
#[test]
fn networks_agree_with_pytorch_in_float64() {
    for case in goldens().cases {
        let found = compare(&case, Kind::Double, Layout::ChannelsOutermost);
        let Differences {
            eval,
            train,
            gradients,
            statistics,
            updated_eval,
        } = found;
        assert!(
            eval < 1e-6,
            "{:?} {:?}: evaluation logits differ by {eval:e}",
            case.model,
            case.input
        );
        assert!(
            train < 1e-6,
            "{:?} {:?}: training logits differ by {train:e}",
            case.model,
            case.input
        );
        assert!(
            gradients < 1e-6,
            "{:?} {:?}: gradients differ by {gradients:e}",
            case.model,
            case.input
        );
        assert!(
            statistics < 1e-9,
            "{:?} {:?}: moving statistics differ by {statistics:e}",
            case.model,
            case.input
        );
        assert!(
            updated_eval < 1e-6,
            "{:?} {:?}: later logits differ by {updated_eval:e}",
            case.model,
            case.input
        );
    }
}

/// With channels innermost the shim's own operations run. Deep networks are tested in float64 only:
/// a ReLU input that rounds across zero changes single gradients, by up to 6e-3 here with
/// libtorch's operations in that layout.
#[test]
fn small_networks_agree_with_pytorch_in_float32() {
    let small = [Model::Resnet8, Model::Resnet20, Model::Resnet18];
    for case in goldens()
        .cases
        .into_iter()
        .filter(|case| small.contains(&case.model))
    {
        for (layout, bound) in [
            (Layout::ChannelsOutermost, 1e-3),
            (Layout::ChannelsInnermost, 1e-2),
        ] {
            let Differences {
                eval,
                train,
                gradients,
                statistics,
                updated_eval,
            } = compare(&case, Kind::Float, layout);
            let worst = [eval, train, statistics, updated_eval]
                .into_iter()
                .fold(0.0, f64::max);
            assert!(
                worst < 1e-4,
                "{:?} {:?} {layout:?}: values differ by {worst:e}",
                case.model,
                case.input
            );
            assert!(
                gradients < bound,
                "{:?} {:?} {layout:?}: gradients differ by {gradients:e}",
                case.model,
                case.input
            );
        }
    }
}

/// Every name and shape: weights files of torchvision fit our networks, and ours fit torchvision's.
#[test]
fn state_dicts_are_those_of_pytorch() {
    let expected = goldens().networks;
    assert_eq!(expected.len(), 14, "every model is described");
    for (model, (num_parameters, hash)) in expected {
        let cifar = matches!(
            model,
            Model::Resnet8
                | Model::Resnet20
                | Model::Resnet32
                | Model::Resnet56
                | Model::Resnet110
                | Model::Resnet110Wfc
                | Model::WideResnet16x2
                | Model::WideResnet16x8
        );
        let inventory = declared(model, 3, if cifar { 100 } else { 1000 }, 1e-5)
            .0
            .inventory();
        assert_eq!(inventory.num_parameters(), num_parameters, "{model:?}");
        let parameters = inventory
            .parameters
            .iter()
            .map(|note| (&note.name, &note.shape));
        let mut entries: Vec<_> = parameters
            .chain(
                inventory
                    .buffers
                    .iter()
                    .map(|note| (&note.name, &note.shape)),
            )
            .collect();
        entries.sort();
        let lines: String = entries
            .into_iter()
            .map(|(name, shape)| format!("{name} {shape:?}\n"))
            .collect();
        assert_eq!(fnv1a(&lines), hash, "{model:?}");
    }
}

/// Published figures, so that the script and the networks cannot be wrong in the same way.
#[test]
fn parameter_counts_are_the_published_ones() {
    let count = |model, outputs| {
        declared(model, 3, outputs, 1e-5)
            .0
            .inventory()
            .num_parameters()
    };
    assert_eq!(count(Model::Resnet110Wfc, 100), 6_913_188);
    // 11.0 million in the publication's tables, for CIFAR of ten or a hundred classes
    assert_eq!(count(Model::WideResnet16x8, 10), 10_961_370);
    assert_eq!(count(Model::WideResnet16x8, 100), 11_007_540);
    assert_eq!(count(Model::Resnet50, 1000), 25_557_032);
    assert_eq!(count(Model::Resnet50Fconv, 1000), 25_557_032);
    assert_eq!(count(Model::EfficientnetB0, 1000), 5_288_548);
    // the authors' ResNet-50 with the classes of CUB, NABirds, Cars, Flowers and MIT Indoor
    let keras = [
        (200, 23_944_392),
        (555, 24_671_787),
        (196, 23_936_196),
        (102, 23_743_590),
        (67, 23_671_875),
    ];
    for (classes, expected) in keras {
        assert_eq!(count(Model::Resnet50Keras, classes), expected);
    }
    let (builder, backbone, _) = declared(Model::Resnet50Keras, 3, 1, 1e-3);
    assert_eq!(backbone.num_features, 2048);
    assert_eq!(builder.inventory().num_parameters() - 2049, 23_534_592);
    let moving: i64 = builder
        .inventory()
        .buffers
        .iter()
        .map(|note| note.shape.iter().product::<i64>())
        .sum();
    assert_eq!(moving, 53_120);
}

/// Sizes that no golden has: an odd one, and the smallest that `Settings::check` accepts; with one
/// channel.
#[test]
fn any_image_size_is_accepted() {
    tch::set_num_threads(1);
    for model in goldens().networks.into_keys() {
        let (builder, backbone, _) = declared(model, 1, 2, 1e-5);
        let inventory = builder.inventory();
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        let parameters: Vec<Tensor> = inventory
            .parameters
            .iter()
            .map(|note| zeros(&note.shape))
            .collect();
        let buffers: Vec<Tensor> = inventory
            .buffers
            .iter()
            .map(|note| zeros(&note.shape))
            .collect();
        let pass = Pass {
            parameters: &parameters,
            buffers: &buffers,
            mode: Mode::Evaluate,
            synchronised: None,
            own_operations: OwnOperations::default(),
        };
        let digits = sweep::recipe::settings("quick", "digits").expect("a recipe");
        let accepted = |side| {
            Settings {
                model,
                crop_size: Some(side),
                ..digits.clone()
            }
            .check()
            .is_ok()
        };
        let smallest = (1..9)
            .find(|&side| accepted(side))
            .expect("small images are accepted");
        for side in [smallest.into(), 9] {
            let features = tch::no_grad(|| backbone.forward(&zeros(&[2, 1, side, side]), &pass));
            assert_eq!(
                features.size(),
                [2, backbone.num_features],
                "{model:?} with a side of {side}"
            );
            assert!(
                features.isfinite().all().double_value(&[]) == 1.0,
                "{model:?} with a side of {side}"
            );
        }
    }
}
