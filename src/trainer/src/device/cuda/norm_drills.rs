//! Fused batch normalisation on a real GPU: compared with libtorch's operations, and the same bits
//! from a recording.
//!
//! bench/README.md explains how to run it. The comparison also runs on the CPU, so that it is known
//! to be right before a GPU is available. Next: norm_tests.rs, which needs none.

use sweep::settings::Init;
use tch::{Device, Kind, Tensor};

use super::CudaGraphs;
use crate::device::recorder::Recorder;
use crate::device::shim::{self, ShimError};
use crate::network::nn::{BatchNorm, Builder, Mode, Options, OwnOperations, Pass};

/// A layer with its inputs.
struct Layer {
    norm: BatchNorm,
    parameters: [Tensor; 2],
    moving: [Tensor; 2],
    images: Tensor,
    shortcut: Tensor,
    cotangent: Tensor,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Epilogue {
    Nothing,
    Relu,
    AddRelu,
}

/// Returns noise-like numbers between -1 and 1, from a sine at large arguments.
fn noise(shape: &[i64], seed: f64, device: Device) -> Tensor {
    let count: i64 = shape.iter().product();
    let angles = Tensor::arange(count, (Kind::Double, Device::Cpu)) * 12.9898 + seed * 78.233;
    let values = (angles.sin() * 43_758.545_3).frac() * 2.0 - angles.sin().sign();
    values.to_kind(Kind::Float).view(shape).to_device(device)
}

impl Layer {
    /// Makes a layer whose images are rounded to `kind` and then converted to `working`.
    fn new(shape: [i64; 4], kind: Kind, working: Kind, device: Device) -> Self {
        let builder = Builder::new(Options {
            init: Init::Torchvision,
            batch_norm_eps: 1e-5,
        });
        let rounded = |seed: f64, offset: f64| {
            let values = (noise(&shape, seed, device) + offset)
                .to_kind(kind)
                .to_kind(working);
            shim::channels_last(&values).unwrap()
        };
        let vector = |seed: f64, offset: f64| noise(&shape[1..2], seed, device) * 0.3 + offset;
        Self {
            norm: BatchNorm::new(&builder, shape[1]),
            parameters: [vector(4.0, 1.0), vector(5.0, 0.1)]
                .map(|tensor| tensor.set_requires_grad(true)),
            moving: [vector(6.0, 0.0), vector(7.0, 2.0)],
            images: rounded(1.0, 0.5).set_requires_grad(true),
            shortcut: rounded(2.0, 0.0).set_requires_grad(true),
            cotangent: rounded(3.0, 0.0),
        }
    }

    fn forward(&self, epilogue: Epilogue, mode: Mode, fused_norm: bool) -> Tensor {
        let own_operations = OwnOperations {
            fused_norm,
            ..OwnOperations::default()
        };
        let pass = Pass {
            parameters: &self.parameters,
            buffers: &self.moving,
            mode,
            synchronised: None,
            own_operations,
        };
        match epilogue {
            Epilogue::Nothing => self.norm.forward(&self.images, &pass),
            Epilogue::Relu => self.norm.forward_relu(&self.images, &pass),
            Epilogue::AddRelu => self
                .norm
                .forward_add_relu(&self.images, &self.shortcut, &pass),
        }
    }

    /// Returns 0 where ReLU's input is so near zero that rounding decides whether a gradient
    /// passes, else 1.
    fn far_from_zero(&self, epilogue: Epilogue) -> Tensor {
        let _guard = tch::no_grad_guard();
        let input = self.forward(
            Epilogue::Nothing,
            Mode::Train {
                batch_norm_momentum: 0.0,
            },
            false,
        );
        let input = if epilogue == Epilogue::AddRelu {
            input + &self.shortcut
        } else {
            input
        };
        input.abs().gt(0.02).to_kind(input.kind())
    }

    /// Returns the outputs in training and evaluation, all gradients, and the moving statistics.
    fn results(&self, epilogue: Epilogue, fused: bool) -> Vec<(&'static str, Tensor)> {
        let output = self.forward(
            epilogue,
            Mode::Train {
                batch_norm_momentum: 0.2,
            },
            fused,
        );
        let evaluated = tch::no_grad(|| self.forward(epilogue, Mode::Evaluate, fused));
        let mut leaves = vec![&self.images, &self.parameters[0], &self.parameters[1]];
        if epilogue == Epilogue::AddRelu {
            leaves.push(&self.shortcut);
        }
        let sum = (&output * &self.cotangent).sum(Kind::Float);
        let gradients = Tensor::run_backward(&[sum], &leaves, false, false);
        let names = [
            "gradient of the images",
            "of the weight",
            "of the bias",
            "of the shortcut",
        ];
        let [mean, var] = self.moving.each_ref().map(Tensor::copy);
        let others = [
            ("output", output),
            ("evaluation", evaluated),
            ("moving mean", mean),
            ("moving variance", var),
        ];
        names.into_iter().zip(gradients).chain(others).collect()
    }
}

/// Channel counts that are multiples of 16 bytes and others that are not, a tall matrix, a wide
/// one.
const SHAPES: [[i64; 4]; 5] = [
    [16, 64, 28, 28],
    [3, 37, 5, 5],
    [8, 512, 7, 7],
    [2, 1, 6, 6],
    [32, 24, 16, 16],
];

/// Returns the largest difference, relative to the largest value.
fn check_against_libtorch(device: Device) -> f64 {
    let mut worst: f64 = 0.0;
    for shape in SHAPES {
        for epilogue in [Epilogue::Nothing, Epilogue::Relu, Epilogue::AddRelu] {
            for (kind, tolerance) in [(Kind::Float, 1e-4), (Kind::BFloat16, 1e-2)] {
                // libtorch's operations work in f32, on the same rounded values
                let mut ours = Layer::new(shape, kind, kind, device);
                let mut theirs = Layer::new(shape, kind, Kind::Float, device);
                let decided = theirs.far_from_zero(epilogue);
                for layer in [&mut ours, &mut theirs] {
                    layer.cotangent = &layer.cotangent * decided.to_kind(layer.cotangent.kind());
                }
                let expected = theirs.results(epilogue, false);
                for ((name, found), (_, expected)) in
                    ours.results(epilogue, true).into_iter().zip(expected)
                {
                    let apart = (found.to_kind(Kind::Float) - &expected)
                        .abs()
                        .max()
                        .double_value(&[]);
                    let scale = expected.abs().max().double_value(&[]).max(1.0);
                    assert!(
                        apart < tolerance * scale,
                        "{shape:?} {kind:?} {epilogue:?}: {name}: {apart:e} of {scale:e}"
                    );
                    worst = worst.max(apart / scale / tolerance);
                }
            }
        }
    }
    worst
}

#[test]
fn the_comparison_holds_on_the_cpu() {
    tch::set_num_threads(1);
    check_against_libtorch(Device::Cpu);
}

fn gpu() -> Device {
    assert!(crate::device::num_gpus() > 0, "this machine has no GPU");
    crate::device::prepare_thread(Device::Cuda(0), true, 1).unwrap();
    let start = std::time::Instant::now();
    assert!(
        super::fused_norm_available(Device::Cuda(0)),
        "the warning above has the reason"
    );
    println!(
        "the kernels were compiled and loaded in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    Device::Cuda(0)
}

#[test]
#[ignore = "needs a GPU"]
fn on_a_gpu_the_fused_operation_is_libtorchs_three() {
    let worst = check_against_libtorch(gpu());
    println!(
        "the kernels took {:.0} % of what is allowed at most",
        worst * 100.0
    );
}

#[test]
#[ignore = "needs a GPU"]
fn on_a_gpu_a_recording_gives_the_same_bits() {
    let device = gpu();
    for kind in [Kind::Float, Kind::BFloat16] {
        let queued =
            Layer::new([16, 64, 28, 28], kind, kind, device).results(Epilogue::AddRelu, true);
        let layer = Layer::new([16, 64, 28, 28], kind, kind, device);
        let mut outputs = Vec::new();
        let graphs = CudaGraphs::open(0).unwrap();
        let mut record = |()| -> Result<(), ShimError> {
            outputs = layer.results(Epilogue::AddRelu, true);
            Ok(())
        };
        let mut recording = graphs.record(None, (), &mut record).unwrap();
        recording.replay(&mut |()| Ok(())).unwrap();
        for ((name, recorded), (_, queued)) in outputs.into_iter().zip(queued) {
            assert!(
                recorded.equal(&queued),
                "{kind:?}: {name} differs from the queued one"
            );
        }
    }
}
