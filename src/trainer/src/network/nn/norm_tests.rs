//! The fused operation compared with libtorch's: values, all gradients and moving statistics, for
//! every kind of shape.

use tch::{Device, Kind, Tensor};

use super::builder::Fill;
use super::init;
use super::norm::{Epilogue, Norm, Statistics};
use crate::device::shim;

#[derive(Clone, Copy, Debug, PartialEq)]
enum After {
    Nothing,
    Relu,
    AddRelu,
}

/// Results of a forward and a backward pass.
struct Found {
    output: Tensor,
    /// Gradients of the images, shortcut, weight and bias, and the moving statistics, by name.
    others: Vec<(&'static str, Tensor)>,
}

/// Returns noise of unit variance, without libtorch's generator, which tests that run in parallel
/// share.
fn noise(name: &str, shape: &[i64]) -> Tensor {
    Tensor::from_slice(&init::draw(0, name, shape, Fill::Normal { std: 1.0 })).view(shape)
}

fn spread(found: &Tensor, expected: &Tensor) -> f64 {
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    let scale = expected.abs().max().double_value(&[]).max(1e-30);
    (found - expected).abs().max().double_value(&[]) / scale
}

/// Returns 0 where ReLU's input is so near zero that rounding may decide whether the gradient
/// passes, else 1.
fn far_from_zero(norm: &Norm, x: &Tensor, epilogue: Epilogue) -> Tensor {
    let _guard = tch::no_grad_guard();
    let norm = Norm {
        fused: false,
        ..*norm
    };
    let mut input = norm.forward(
        &x.to_kind(Kind::Float),
        Statistics::Batch { momentum: 0.0 },
        Epilogue::Nothing,
    );
    if let Epilogue::AddRelu(shortcut) = epilogue {
        input += shortcut;
    }
    input.abs().gt(1e-5).to_kind(Kind::Float)
}

/// Noise of one shape, which takes longer to draw than the operation runs.
struct Inputs {
    x: Tensor,
    shortcut: Tensor,
    cotangent: Tensor,
}

impl Inputs {
    fn new(shape: [i64; 4]) -> Self {
        Self {
            x: noise("x", &shape),
            shortcut: noise("shortcut", &shape),
            cotangent: noise("cotangent", &shape),
        }
    }
}

/// Runs one operation. Images, shortcut and cotangent are rounded to `kind`, which the fused
/// operation works on; libtorch's works on f32.
fn run(inputs: &Inputs, kind: Kind, after: After, mean: f64, fused: bool) -> Found {
    let channels = inputs.x.size()[1];
    let images = |values: &Tensor, offset: f64| {
        let rounded =
            (values + offset)
                .to_kind(kind)
                .to_kind(if fused { kind } else { Kind::Float });
        shim::channels_last(&rounded)
            .unwrap()
            .set_requires_grad(true)
    };
    let (x, shortcut) = (images(&inputs.x, mean), images(&inputs.shortcut, 0.0));
    let vector = |name: &str, offset: f64| noise(name, &[channels]) * 0.3 + offset;
    let (weight, bias) = (
        vector("weight", 1.0).set_requires_grad(true),
        vector("bias", 0.0).set_requires_grad(true),
    );
    let (moving_mean, moving_var) = (vector("mean", 0.0), vector("var", 2.0));
    let norm = Norm {
        weight: &weight,
        bias: &bias,
        moving_mean: &moving_mean,
        moving_var: &moving_var,
        eps: 1e-3,
        fused,
    };
    let epilogue = match after {
        After::Nothing => Epilogue::Nothing,
        After::Relu => Epilogue::Relu,
        After::AddRelu => Epilogue::AddRelu(&shortcut),
    };
    let output = norm.forward(&x, Statistics::Batch { momentum: 0.2 }, epilogue);
    let cotangent =
        inputs.cotangent.to_kind(kind).to_kind(Kind::Float) * far_from_zero(&norm, &x, epilogue);
    (output.to_kind(Kind::Float) * cotangent)
        .sum(Kind::Float)
        .backward();
    let mut others = vec![
        ("gradient of the images", x.grad()),
        ("gradient of the weight", weight.grad()),
        ("gradient of the bias", bias.grad()),
        ("moving mean", moving_mean),
        ("moving variance", moving_var),
    ];
    if after == After::AddRelu {
        others.push(("gradient of the shortcut", shortcut.grad()));
    }
    Found {
        output: output.detach(),
        others,
    }
}

/// Whole lanes and a remainder, fewer channels than lanes, one image of one pixel, more rows than
/// one part takes.
const SHAPES: [[i64; 4]; 7] = [
    [4, 16, 5, 7],
    [3, 37, 4, 4],
    [2, 5, 3, 3],
    [1, 8, 1, 1],
    [2, 1, 6, 6],
    [16, 64, 24, 24],
    [2, 600, 9, 9],
];

#[test]
fn the_fused_operation_is_libtorchs_three() {
    tch::set_num_threads(1);
    for shape in SHAPES {
        let inputs = Inputs::new(shape);
        for after in [After::Nothing, After::Relu, After::AddRelu] {
            for (kind, tolerance) in [(Kind::Float, 2e-5), (Kind::BFloat16, 4e-3)] {
                let (found, expected) = (
                    run(&inputs, kind, after, 0.5, true),
                    run(&inputs, kind, after, 0.5, false),
                );
                assert_eq!(
                    found.output.kind(),
                    kind,
                    "the fused operation keeps the format"
                );
                let apart = spread(&found.output, &expected.output);
                assert!(
                    apart < tolerance,
                    "{shape:?} {kind:?} {after:?}: outputs differ by {apart:e}"
                );
                for ((name, value), (_, other)) in found.others.iter().zip(&expected.others) {
                    let apart = (value - other).abs().max().double_value(&[]);
                    let scale = other.abs().max().double_value(&[]).max(1.0);
                    assert!(
                        apart < tolerance * scale,
                        "{shape:?} {kind:?} {after:?}: {name}: {apart:e} of {scale:e}"
                    );
                }
            }
        }
    }
}

/// A mean of 300 standard deviations: the variance is the difference of numbers a hundred thousand
/// times as large.
#[test]
fn the_variance_keeps_its_digits_far_from_zero() {
    tch::set_num_threads(1);
    let inputs = Inputs::new([8, 24, 16, 16]);
    let found = run(&inputs, Kind::Float, After::Nothing, 300.0, true);
    let output = found.output.to_kind(Kind::Double);
    let var = output.var_dim([0i64, 2, 3].as_slice(), false, false);
    let weight = noise("weight", &[24]) * 0.3 + 1.0;
    let apart = spread(&var, &(&weight * &weight));
    assert!(
        apart < 5e-3,
        "the variance of normalised values is off by {apart:e}"
    );
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let inputs = Inputs::new([16, 64, 24, 24]);
    let found = [1, 2].map(|threads| {
        tch::set_num_threads(threads);
        run(&inputs, Kind::BFloat16, After::AddRelu, 0.5, true)
    });
    assert!(found[0].output.equal(&found[1].output));
    for ((name, one), (_, two)) in found[0].others.iter().zip(&found[1].others) {
        assert!(one.equal(two), "{name}");
    }
}

/// Divergence must stay visible: NaN is not replaced.
#[test]
fn what_is_not_a_number_passes_through() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let x = Tensor::ones([2, 18, 3, 3], (Kind::Float, Device::Cpu));
        let _ = x
            .get(0)
            .get(3)
            .get(1)
            .get(1)
            .shallow_clone()
            .fill_(f64::NAN);
        let _ = x
            .get(1)
            .get(17)
            .get(2)
            .get(1)
            .shallow_clone()
            .fill_(f64::NAN);
        let x = shim::channels_last(&x.to_kind(kind)).unwrap();
        let vector = |value: f64| Tensor::full([18], value, (Kind::Float, Device::Cpu));
        let (weight, bias, mean, var) = (vector(1.0), vector(0.5), vector(0.0), vector(1.0));
        let norm = Norm {
            weight: &weight,
            bias: &bias,
            moving_mean: &mean,
            moving_var: &var,
            eps: 1e-3,
            fused: true,
        };
        let output = norm.forward(&x, Statistics::Batch { momentum: 0.1 }, Epilogue::Relu);
        for channel in 0..18 {
            let is_nan = output.select(1, channel).isnan().any().int64_value(&[]) == 1;
            assert_eq!(
                is_nan,
                [3, 17].contains(&channel),
                "{kind:?}, channel {channel}"
            );
        }
        assert!(mean.double_value(&[17]).is_nan() && mean.double_value(&[16]).is_finite());
    }
}

#[test]
fn evaluation_uses_the_moving_statistics_and_leaves_them() {
    let shape = [2, 20, 4, 4];
    let x = shim::channels_last(&noise("x", &shape)).unwrap();
    let shortcut = shim::channels_last(&noise("shortcut", &shape)).unwrap();
    let vector = |name: &str| noise(name, &[20]).abs() + 0.5;
    let (weight, bias, mean, var) = (
        vector("weight"),
        vector("bias"),
        vector("mean"),
        vector("var"),
    );
    let (mean_before, var_before) = (mean.copy(), var.copy());
    let forward = |fused: bool, epilogue: Epilogue| {
        let norm = Norm {
            weight: &weight,
            bias: &bias,
            moving_mean: &mean,
            moving_var: &var,
            eps: 1e-3,
            fused,
        };
        tch::no_grad(|| norm.forward(&x, Statistics::Moving, epilogue))
    };
    for epilogue in [
        Epilogue::Nothing,
        Epilogue::Relu,
        Epilogue::AddRelu(&shortcut),
    ] {
        assert!(spread(&forward(true, epilogue), &forward(false, epilogue)) < 1e-5);
    }
    assert!(mean.equal(&mean_before) && var.equal(&var_before));
}

/// Residual networks change a block's end without ReLU in place. (`AddRelu` keeps its output for
/// the backward pass.)
#[test]
fn a_fused_output_may_be_changed_in_place() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let x = shim::channels_last(&noise("x", &[4, 8, 3, 3]).to_kind(kind))
            .unwrap()
            .set_requires_grad(true);
        let (ones, zeros) = (
            Tensor::ones([8], (Kind::Float, Device::Cpu)),
            Tensor::zeros([8], (Kind::Float, Device::Cpu)),
        );
        let norm = Norm {
            weight: &ones,
            bias: &zeros,
            moving_mean: &zeros.copy(),
            moving_var: &ones.copy(),
            eps: 1e-3,
            fused: true,
        };
        for epilogue in [Epilogue::Nothing, Epilogue::Relu] {
            let mut output = norm.forward(&x, Statistics::Batch { momentum: 0.1 }, epilogue);
            let gradient = |output: &Tensor| {
                Tensor::run_backward(
                    &[(output * noise("cotangent", &[4, 8, 3, 3])).sum(Kind::Float)],
                    &[&x],
                    true,
                    false,
                )
            };
            let before = gradient(&output);
            let _ = output.g_add_scalar_(1.0);
            assert_eq!(gradient(&output), before, "{kind:?}");
        }
    }
}
