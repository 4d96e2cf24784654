//! Convolutions as products compared with libtorch's: values, all gradients, and the choice for
//! each shape.

use tch::{Kind, Tensor};

use super::builder::Fill;
use super::convolution::{
    ConvolutionSize, ProductPasses, Window, convolve_by_products, faster_passes,
};
use super::init;
use crate::device::hardware::Hardware;
use crate::device::process;
use crate::device::shim;

const ALL: ProductPasses = ProductPasses {
    forward: true,
    images: true,
    kernels: true,
};

/// Returns noise of unit variance, without libtorch's generator, which tests that run in parallel
/// share.
fn noise(name: &str, shape: &[i64]) -> Tensor {
    Tensor::from_slice(&init::draw(0, name, shape, Fill::Normal { std: 1.0 })).view(shape)
}

/// Returns the output and the gradients of images, kernels and bias.
fn run(
    shape: [i64; 4],
    outputs: i64,
    window: Window,
    kind: Kind,
    passes: Option<ProductPasses>,
) -> Vec<(&'static str, Tensor)> {
    let innermost = |name: &str, shape: &[i64]| {
        let values = noise(name, shape).to_kind(kind);
        shim::channels_last(&values)
            .unwrap()
            .set_requires_grad(true)
    };
    let x = innermost("x", &shape);
    let weight = innermost("weight", &[outputs, shape[1], window.kernel, window.kernel]);
    let bias = noise("bias", &[outputs])
        .to_kind(kind)
        .set_requires_grad(true);
    let output = match passes {
        Some(passes) => convolve_by_products(&x, &weight, Some(&bias), window, passes),
        None => {
            let Window {
                stride,
                padding,
                groups,
                ..
            } = window;
            x.conv2d(
                &weight,
                Some(&bias),
                [stride; 2],
                [padding; 2],
                [1, 1],
                groups,
            )
        }
    };
    let cotangent = noise("cotangent", &output.size());
    (output.to_kind(Kind::Float) * cotangent)
        .sum(Kind::Float)
        .backward();
    vec![
        ("output", output.detach()),
        ("images", x.grad()),
        ("kernels", weight.grad()),
        ("bias", bias.grad()),
    ]
}

#[test]
fn products_are_convolutions() {
    tch::set_num_threads(1);
    let window = |kernel, stride, padding| Window {
        kernel,
        stride,
        padding,
        groups: 1,
    };
    let cases = [
        ([2, 20, 5, 7], 6, window(3, 1, 1)),
        ([3, 16, 8, 8], 33, window(3, 2, 1)),
        ([2, 17, 7, 7], 8, window(1, 2, 0)),
        ([4, 32, 4, 4], 48, window(1, 1, 0)),
        ([2, 64, 1, 1], 16, window(3, 1, 1)),
        ([2, 3, 9, 6], 5, window(7, 2, 3)),
        // as in full convolution: more zeros than half a kernel, also around a single pixel
        ([2, 18, 1, 2], 4, window(3, 1, 2)),
        ([1, 5, 6, 6], 7, window(1, 1, 1)),
        // channels in blocks: one chunk of rows, many chunks, rows of odd length, strides that skip
        // rows, zeros on all sides, rows so long that each is one chunk
        ([2, 64, 5, 7], 32, window(3, 1, 1)),
        ([3, 32, 29, 31], 96, window(3, 1, 1)),
        ([2, 96, 23, 30], 64, window(3, 2, 1)),
        ([5, 32, 17, 19], 32, window(1, 2, 0)),
        ([2, 32, 20, 13], 32, window(1, 4, 0)),
        ([2, 32, 20, 40], 32, window(3, 5, 2)),
        ([3, 64, 1, 1], 64, window(3, 1, 1)),
        ([1, 32, 2, 520], 32, window(3, 1, 1)),
        ([4, 32, 12, 12], 32, window(5, 1, 2)),
    ];
    for (shape, outputs, window) in cases {
        for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2)] {
            let expected = run(shape, outputs, window, kind, None);
            let some = [
                ProductPasses {
                    forward: false,
                    ..ALL
                },
                ProductPasses {
                    images: false,
                    ..ALL
                },
                ProductPasses {
                    kernels: false,
                    ..ALL
                },
            ];
            for passes in some.into_iter().chain([ALL]) {
                let found = run(shape, outputs, window, kind, Some(passes));
                for ((name, found), (_, expected)) in found.iter().zip(&expected) {
                    assert_eq!(found.size(), expected.size(), "{shape:?} {window:?} {name}");
                    let scale = expected.abs().max().double_value(&[]);
                    let apart = (found - expected).abs().max().double_value(&[]);
                    assert!(
                        apart <= tolerance * scale,
                        "{shape:?} {window:?} {kind:?} {passes:?} {name}: {apart:e} of {scale:e}"
                    );
                }
            }
        }
    }
}

/// Autograd forbids changing in place a view that an operation of the shim returned.
#[test]
fn a_product_may_be_changed_in_place() {
    for (kernel, stride) in [(1, 1), (3, 2)] {
        let window = Window {
            kernel,
            stride,
            padding: kernel / 2,
            groups: 1,
        };
        for kind in [Kind::Float, Kind::BFloat16] {
            let leaf = |name: &str, shape: &[i64]| {
                let values = noise(name, shape).to_kind(kind);
                shim::channels_last(&values)
                    .unwrap()
                    .set_requires_grad(true)
            };
            let (x, weight) = (
                leaf("x", &[2, 32, 5, 5]),
                leaf("weight", &[32, 32, kernel, kernel]),
            );
            let gradients = |output: Tensor| {
                let gradients =
                    Tensor::run_backward(&[output.sum(Kind::Float)], &[&x, &weight], false, false);
                gradients
                    .into_iter()
                    .map(|gradient| gradient.to_kind(Kind::Float))
                    .collect::<Vec<_>>()
            };
            let in_place =
                gradients(convolve_by_products(&x, &weight, None, window, ALL).sigmoid_());
            let apart = gradients(convolve_by_products(&x, &weight, None, window, ALL).sigmoid());
            assert_eq!(in_place, apart, "{kernel} x {kernel} in {kind:?}");
        }
    }
}

/// Splitting the shim's own arithmetic changes nothing. Processors without its instructions use
/// libtorch's products.
#[test]
fn kernel_gradients_have_the_same_bits_with_any_number_of_threads() {
    if !process::cpu_flags()
        .iter()
        .any(|flag| flag == "avx512_bf16")
    {
        return eprintln!("nothing to compare: no avx512_bf16 here");
    }
    let window = Window {
        kernel: 3,
        stride: 1,
        padding: 1,
        groups: 1,
    };
    let kernels_alone = Some(ProductPasses {
        kernels: true,
        ..ProductPasses::default()
    });
    let of_threads = |threads| {
        tch::set_num_threads(threads);
        let outcome = run([3, 96, 20, 17], 64, window, Kind::BFloat16, kernels_alone);
        tch::set_num_threads(1);
        outcome
            .into_iter()
            .find(|(name, _)| *name == "kernels")
            .unwrap()
            .1
    };
    let expected = of_threads(1);
    for threads in [2, 3, 5, 8] {
        assert_eq!(of_threads(threads), expected, "{threads} threads");
    }
}

/// An image that needs no gradient gets none, as in a network's first layer.
#[test]
fn the_first_layer_has_a_gradient_of_its_kernels_alone() {
    let window = Window {
        kernel: 3,
        stride: 1,
        padding: 1,
        groups: 1,
    };
    let innermost =
        |name: &str, shape: [i64; 4]| shim::channels_last(&noise(name, &shape)).unwrap();
    let (x, weight) = (
        innermost("x", [2, 3, 4, 4]),
        innermost("weight", [5, 3, 3, 3]).set_requires_grad(true),
    );
    for passes in [
        ALL,
        ProductPasses {
            images: false,
            ..ALL
        },
        ProductPasses {
            kernels: false,
            ..ALL
        },
    ] {
        convolve_by_products(&x, &weight, None, window, passes)
            .sum(Kind::Float)
            .backward();
    }
    assert!(!x.grad().defined() && weight.grad().defined());
}

#[test]
fn products_are_for_few_places_and_in_bf16_for_channels_in_blocks() {
    let window = |kernel, stride| Window {
        kernel,
        stride,
        padding: kernel / 2,
        groups: 1,
    };
    let few = |places| ConvolutionSize {
        places,
        pixels: 16,
        inputs: 48,
        outputs: 48,
    };
    let chosen =
        |places, window, hardware| faster_passes(few(places), window, Kind::BFloat16, hardware);
    let kernels_alone = ProductPasses {
        kernels: true,
        ..ProductPasses::default()
    };
    assert_eq!(chosen(128, window(3, 1), Hardware::VectorBf16), ALL);
    assert_eq!(
        chosen(512, window(3, 1), Hardware::VectorBf16),
        kernels_alone
    );
    assert_eq!(chosen(6272, window(1, 2), Hardware::VectorBf16), ALL);
    assert_eq!(
        chosen(6272, window(1, 1), Hardware::VectorBf16),
        kernels_alone
    );
    assert_eq!(
        chosen(100_000, window(1, 1), Hardware::VectorBf16),
        ProductPasses::default()
    );
    assert_eq!(chosen(128, window(3, 1), Hardware::TileBf16), ALL);
    assert_eq!(
        chosen(1024, window(3, 2), Hardware::TileBf16),
        ProductPasses {
            forward: false,
            ..ALL
        }
    );
    assert_eq!(
        chosen(1024, window(3, 1), Hardware::TileBf16),
        kernels_alone
    );
    assert_eq!(
        chosen(100_000, window(1, 1), Hardware::TileBf16),
        ProductPasses::default()
    );
    for hardware in [Hardware::Plain, Hardware::Gpu] {
        assert_eq!(
            chosen(128, window(3, 1), hardware),
            ProductPasses::default()
        );
    }
    let in_blocks = |inputs, outputs| ConvolutionSize {
        places: 100_000,
        pixels: 3136,
        inputs,
        outputs,
    };
    let of_many = |size| faster_passes(size, window(3, 1), Kind::BFloat16, Hardware::VectorBf16);
    assert_eq!(of_many(in_blocks(64, 96)), kernels_alone);
    assert_eq!(
        faster_passes(
            in_blocks(64, 96),
            window(3, 1),
            Kind::BFloat16,
            Hardware::TileBf16
        ),
        kernels_alone
    );
    assert_eq!(of_many(in_blocks(64, 48)), ProductPasses::default());
    assert_eq!(
        of_many(ConvolutionSize {
            places: 0,
            pixels: 16,
            inputs: 64,
            outputs: 64
        }),
        ProductPasses::default()
    );
    assert_eq!(of_many(in_blocks(3, 64)), ProductPasses::default());
    assert_eq!(
        faster_passes(few(128), window(3, 1), Kind::Double, Hardware::Plain),
        ProductPasses::default()
    );
    let in_f32 = |size, window, hardware| faster_passes(size, window, Kind::Float, hardware);
    for hardware in [Hardware::Plain, Hardware::VectorBf16, Hardware::TileBf16] {
        assert_eq!(in_f32(few(128), window(3, 1), hardware), ALL);
        assert_eq!(
            in_f32(few(1024), window(3, 2), hardware),
            ProductPasses {
                forward: false,
                ..ALL
            }
        );
        assert_eq!(in_f32(few(1024), window(3, 1), hardware), kernels_alone);
        assert_eq!(
            in_f32(in_blocks(64, 96), window(3, 1), hardware),
            ProductPasses::default()
        );
        assert_eq!(
            in_f32(
                ConvolutionSize {
                    pixels: 1,
                    ..few(64)
                },
                window(3, 1),
                hardware
            ),
            kernels_alone
        );
        assert_eq!(
            in_f32(
                ConvolutionSize {
                    pixels: 1,
                    ..few(64)
                },
                window(1, 1),
                hardware
            ),
            ALL
        );
    }
    assert_eq!(
        in_f32(few(128), window(3, 1), Hardware::Gpu),
        ProductPasses::default()
    );
}
