//! Kernels of shim/norm_kernels.cu, run on the CPU thread by thread (tests/norm_emulation.cpp),
//! against sums in f64.
//!
//! Checked are the kernels' arithmetic, indexes and barriers, with the grids of a GPU. Not checked
//! are their speed and NVRTC's code; a drill in norm_drills.rs does that.

use std::ffi::{CStr, c_char, c_void};
use std::fmt::Display;
use std::mem::offset_of;
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use half::bf16;
use libloading::Library;

use crate::device::shared_library::{Opened, functions};

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Shape {
    rows: i64,
    channels: i64,
    bf16: bool,
    /// True if arrays start at a multiple of 16 bytes, so that channels are processed 16 bytes at a
    /// time if possible.
    aligned: bool,
    /// True if the last thread of a block runs first.
    reversed: bool,
}

// tests/norm_emulation.cpp asserts the same
const _: () = assert!(
    size_of::<Shape>() == 24
        && offset_of!(Shape, channels) == 8
        && offset_of!(Shape, bf16) == 16
        && offset_of!(Shape, aligned) == 17
        && offset_of!(Shape, reversed) == 18
);

type Fault = *const c_char;

functions! {
    struct Emulation {
        statistics = "emulate_statistics": fn(Shape, *const c_void, *const f32, *const f32, *mut f32, *mut f32, f32, f32, *mut f32) -> Fault;
        apply = "emulate_apply": fn(Shape, *const c_void, *mut f32, *const c_void, bool, *mut c_void) -> Fault;
        backward = "emulate_backward": fn(Shape, *const c_void, *const c_void, *const c_void, *mut f32, bool, *mut c_void, *mut c_void, *mut f32, *mut f32) -> Fault;
    }
}

/// Returns the emulation. One user at a time: a block's shared memory is a static variable.
fn emulation() -> &'static Mutex<Emulation> {
    static OPENED: OnceLock<Mutex<Emulation>> = OnceLock::new();
    OPENED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("norm_emulation.so");
        let mut compiler = Command::new(std::env::var_os("CXX").unwrap_or("g++".into()));
        compiler.args([
            "-std=c++17",
            "-O1",
            "-ffp-contract=off",
            "-U_FORTIFY_SOURCE",
            "-fPIC",
            "-shared",
            "-o",
        ]);
        compiler.arg(&library).arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/norm_emulation.cpp"
        ));
        assert!(
            compiler.status().expect("g++ runs").success(),
            "tests/norm_emulation.cpp does not compile (see above)"
        );
        // SAFETY: our own object, without initialisers.
        let opened = Box::leak(Box::new(unsafe { Library::new(&library) }.unwrap()));
        let emulation = Emulation::load(&Opened {
            library: opened,
            path: library.display().to_string(),
        });
        // keep the file: the emulation finds its kernels by the file's name
        std::mem::forget(folder);
        Mutex::new(emulation.unwrap_or_else(|error| panic!("{error}")))
    })
}

/// A matrix as the kernels see it, with a margin that they must not touch.
enum Matrix {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

const MARGIN: usize = 64;
/// Value of the margin, exact in f32 and bf16.
const UNTOUCHED: f32 = -1232.0;

impl Matrix {
    fn new(values: &[f32], shape: Shape) -> Self {
        let padded = values.iter().copied().chain([UNTOUCHED; MARGIN]);
        match shape.bf16 {
            true => Self::Bf16(padded.map(bf16::from_f32).collect()),
            false => Self::F32(padded.collect()),
        }
    }

    fn empty(shape: Shape) -> Self {
        Self::new(
            &vec![f32::NAN; (shape.rows * shape.channels) as usize],
            shape,
        )
    }

    fn raw(&self) -> *const c_void {
        match self {
            Self::F32(values) => values.as_ptr().cast(),
            Self::Bf16(values) => values.as_ptr().cast(),
        }
    }

    fn raw_mut(&mut self) -> *mut c_void {
        match self {
            Self::F32(values) => values.as_mut_ptr().cast(),
            Self::Bf16(values) => values.as_mut_ptr().cast(),
        }
    }

    fn values(&self) -> Vec<f32> {
        let mut values: Vec<f32> = match self {
            Self::F32(values) => values.clone(),
            Self::Bf16(values) => values.iter().map(|value| value.to_f32()).collect(),
        };
        let margin = values.split_off(values.len() - MARGIN);
        assert!(
            margin.iter().all(|&value| value == UNTOUCHED),
            "written beyond the end"
        );
        values
    }
}

/// Returns noise-like values between -1 and 1.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let hash = |index: u64| {
        let mut x = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ seed.wrapping_mul(0xd134_2543_de82_ef95);
        x = (x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^ (x >> 29)
    };
    (0..len as u64)
        .map(|index| (hash(index) >> 40) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

struct Case {
    shape: Shape,
    relu: bool,
    adds: bool,
    x: Matrix,
    residual: Matrix,
    gradient: Matrix,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

const MOMENTUM: f32 = 0.1;
const EPS: f32 = 1e-5;

impl Case {
    /// Makes a case whose images have standard deviation 1 about `mean`.
    fn new(shape: Shape, mean: f32, relu: bool, adds: bool) -> Self {
        let (len, channels) = (
            (shape.rows * shape.channels) as usize,
            shape.channels as usize,
        );
        let x: Vec<f32> = noise(len, 1)
            .iter()
            .map(|value| value * 1.7 + mean)
            .collect();
        Self {
            shape,
            relu,
            adds,
            x: Matrix::new(&x, shape),
            residual: Matrix::new(&noise(len, 2), shape),
            gradient: Matrix::new(&noise(len, 3), shape),
            weight: noise(channels, 4).iter().map(|value| value + 1.3).collect(),
            bias: noise(channels, 5),
        }
    }

    fn name(&self) -> String {
        format!("{:?}, relu {}, adds {}", self.shape, self.relu, self.adds)
    }
}

/// Results of the kernels for one case.
struct Made {
    saved: Vec<f32>,
    moving_mean: Vec<f32>,
    moving_var: Vec<f32>,
    y: Matrix,
    grad_x: Matrix,
    grad_residual: Matrix,
    grad_weight: Vec<f32>,
    grad_bias: Vec<f32>,
}

impl Made {
    fn bits(&self) -> Vec<u32> {
        let matrices = [&self.y, &self.grad_x, &self.grad_residual].map(Matrix::values);
        let arrays = [
            &self.saved,
            &self.moving_mean,
            &self.moving_var,
            &self.grad_weight,
            &self.grad_bias,
        ];
        matrices
            .iter()
            .chain(arrays)
            .flatten()
            .map(|value| value.to_bits())
            .collect()
    }
}

fn run(case: &Case, reversed: bool) -> Made {
    let shape = Shape {
        reversed,
        ..case.shape
    };
    let channels = shape.channels as usize;
    let per_channel =
        |value: f32, rows: usize| [vec![value; rows * channels], vec![UNTOUCHED; MARGIN]].concat();
    let mut made = Made {
        saved: per_channel(f32::NAN, 4),
        moving_mean: per_channel(0.5, 1),
        moving_var: per_channel(2.0, 1),
        y: Matrix::empty(shape),
        grad_x: Matrix::empty(shape),
        grad_residual: Matrix::empty(shape),
        grad_weight: per_channel(f32::NAN, 1),
        grad_bias: per_channel(f32::NAN, 1),
    };
    let (x, saved, relu) = (case.x.raw(), made.saved.as_mut_ptr(), case.relu);
    let added = if case.adds {
        case.residual.raw()
    } else {
        std::ptr::null()
    };
    let kept = if case.adds {
        made.y.raw()
    } else {
        std::ptr::null()
    };
    let grad_residual = if case.adds {
        made.grad_residual.raw_mut()
    } else {
        std::ptr::null_mut()
    };
    let (moving_mean, moving_var) = (made.moving_mean.as_mut_ptr(), made.moving_var.as_mut_ptr());
    let (weight, bias) = (case.weight.as_ptr(), case.bias.as_ptr());
    let gradient = case.gradient.raw();
    let (grad_weight, grad_bias) = (made.grad_weight.as_mut_ptr(), made.grad_bias.as_mut_ptr());
    let emulation = emulation().lock().unwrap();
    // SAFETY: arrays of the shape's length (with a margin behind them) and of the kinds passed,
    // live throughout.
    let faults = unsafe {
        [
            (emulation.statistics)(
                shape,
                x,
                weight,
                bias,
                moving_mean,
                moving_var,
                MOMENTUM,
                EPS,
                saved,
            ),
            (emulation.apply)(shape, x, saved, added, relu, made.y.raw_mut()),
            (emulation.backward)(
                shape,
                gradient,
                x,
                kept,
                saved,
                relu,
                made.grad_x.raw_mut(),
                grad_residual,
                grad_weight,
                grad_bias,
            ),
        ]
    };
    if let Some(fault) = faults.into_iter().find(|fault| !fault.is_null()) {
        // SAFETY: a string literal of the emulation, which stays open.
        let kernel = unsafe { CStr::from_ptr(fault) }
            .to_string_lossy()
            .into_owned();
        panic!(
            "{}: {kernel} is missing, or its threads do not come to the same barriers",
            case.name()
        );
    }
    for array in [
        &mut made.saved,
        &mut made.moving_mean,
        &mut made.moving_var,
        &mut made.grad_weight,
        &mut made.grad_bias,
    ] {
        let margin = array.split_off(array.len() - MARGIN);
        assert!(
            margin.iter().all(|&value| value == UNTOUCHED),
            "{}: written beyond the end",
            case.name()
        );
    }
    made
}

/// Returns the values of one channel.
fn column(values: &[f32], channel: usize, channels: usize) -> Vec<f64> {
    values
        .iter()
        .skip(channel)
        .step_by(channels)
        .map(|&value| f64::from(value))
        .collect()
}

#[track_caller]
fn assert_near(what: impl Display, found: f32, expected: f64, allowed: f64) {
    let apart = (f64::from(found) - expected).abs();
    assert!(
        apart <= allowed,
        "{what}: {found} instead of {expected}, {apart:e} apart, {allowed:e} allowed"
    );
}

/// Checks that outputs follow exactly from `saved`, and that gradients and statistics are near
/// those computed in f64.
fn check(case: &Case) {
    let made = run(case, false);
    let same = made.bits() == run(case, true).bits();
    let name = case.name();
    assert!(
        same,
        "{name}: the order of threads changes a bit: a barrier is missing"
    );
    let (shape, channels) = (case.shape, case.shape.channels as usize);
    let (x, residual, gradient) = (
        case.x.values(),
        case.residual.values(),
        case.gradient.values(),
    );
    let (y, grad_x, grad_residual) = (
        made.y.values(),
        made.grad_x.values(),
        made.grad_residual.values(),
    );
    let round = |value: f32| {
        if shape.bf16 {
            bf16::from_f32(value).to_f32()
        } else {
            value
        }
    };
    let masked: Vec<f32> = (0..y.len())
        .map(|i| {
            if case.relu && y[i] <= 0.0 {
                0.0
            } else {
                gradient[i]
            }
        })
        .collect();
    for i in 0..y.len() {
        let channel = i % channels;
        let (scale, shift) = (
            made.saved[2 * channels + channel],
            made.saved[3 * channels + channel],
        );
        let sum = x[i].mul_add(scale, shift) + if case.adds { residual[i] } else { 0.0 };
        let expected = round(if case.relu { sum.max(0.0) } else { sum });
        assert_eq!(y[i], expected, "{name}: y[{i}]");
        if case.adds {
            assert_eq!(grad_residual[i], masked[i], "{name}: grad_residual[{i}]");
        }
    }
    for channel in 0..channels {
        let of = |values: &[f32]| column(values, channel, channels);
        check_channel(case, &made, channel, &of(&x), &of(&masked), &of(&grad_x));
    }
}

fn check_channel(case: &Case, made: &Made, channel: usize, x: &[f64], g: &[f64], grad_x: &[f64]) {
    let (n, channels) = (x.len() as f64, case.shape.channels as usize);
    let mean = x.iter().sum::<f64>() / n;
    let squares: f64 = x.iter().map(|x| (x - mean).powi(2)).sum();
    let inverse_std = 1.0 / (squares / n + f64::from(EPS)).sqrt();
    let (weight, bias) = (
        f64::from(case.weight[channel]),
        f64::from(case.bias[channel]),
    );
    let scale = weight * inverse_std;
    let saved = |row: usize| made.saved[row * channels + channel];
    let name = case.name();
    let near = |what: &str, found: f32, expected: f64, allowed: f64| {
        assert_near(
            format_args!("{name}: {what} of channel {channel}"),
            found,
            expected,
            allowed,
        );
    };
    // a mean is as exact as an f32 of its size can be, and the shift is a multiple of it
    let of_mean = 4e-7 * (mean.abs() + 1.0);
    near("mean", saved(0), mean, of_mean);
    near("inverse_std", saved(1), inverse_std, 1e-5 * inverse_std);
    near("scale", saved(2), scale, 1e-5 * scale.abs());
    near(
        "shift",
        saved(3),
        bias - mean * scale,
        1e-5 + 2e-5 * (mean * scale).abs(),
    );
    if x.len() > 1 {
        let moved = |old: f64, new: f64| old + f64::from(MOMENTUM) * (new - old);
        near(
            "moving mean",
            made.moving_mean[channel],
            moved(0.5, mean),
            of_mean,
        );
        let variance = squares / (n - 1.0);
        near(
            "moving variance",
            made.moving_var[channel],
            moved(2.0, variance),
            1e-5 * (variance + 2.0),
        );
    }
    let xhat = |x: f64| (x - mean) * inverse_std;
    let grad_bias: f64 = g.iter().sum();
    let grad_weight: f64 = x.iter().zip(g).map(|(&x, g)| xhat(x) * g).sum();
    // the error of the mean, in units of the standard deviation
    let offset = of_mean * inverse_std;
    let total: f64 = g.iter().map(|g| g.abs()).sum();
    near(
        "grad_bias",
        made.grad_bias[channel],
        grad_bias,
        1e-6 * total + 1e-6,
    );
    near(
        "grad_weight",
        made.grad_weight[channel],
        grad_weight,
        (1e-5 + offset) * total + 1e-6,
    );
    for (row, (&x, g)) in x.iter().zip(g).enumerate() {
        let expected = scale * (g - grad_bias / n - xhat(x) * grad_weight / n);
        let rounding = if case.shape.bf16 {
            expected.abs() / 256.0
        } else {
            0.0
        };
        let allowed = scale.abs() * (1e-5 + 2.0 * offset) + rounding;
        assert_near(
            format_args!("{name}: grad_x of {row}, {channel}"),
            grad_x[row] as f32,
            expected,
            allowed,
        );
    }
}

fn shapes() -> Vec<Shape> {
    let sizes = [
        (1, 8),
        (2, 1),
        (5, 3),
        (7, 20),
        (392, 512),
        (33, 264),
        (1000, 7),
        (4096, 64),
        (130, 1032),
        (7001, 16),
    ];
    let forms = [(false, false), (false, true), (true, false), (true, true)];
    let of_size = |(rows, channels)| {
        forms.map(|(bf16, aligned)| Shape {
            rows,
            channels,
            bf16,
            aligned,
            reversed: false,
        })
    };
    sizes.into_iter().flat_map(of_size).collect()
}

#[test]
fn every_shape_and_form_agrees_with_sums_in_f64() {
    for (number, shape) in shapes().into_iter().enumerate() {
        // all combinations at the smaller shapes, each once at the others
        let combinations = [(true, true), (true, false), (false, false), (false, true)];
        let small = shape.rows * shape.channels < 10_000;
        for (relu, adds) in combinations
            .into_iter()
            .cycle()
            .skip(number)
            .take(if small { 4 } else { 1 })
        {
            check(&Case::new(shape, 0.3, relu, adds));
        }
    }
}

/// More rows than the largest grid has threads, so that each thread loops several times.
#[test]
fn tall_images_agree_with_sums_in_f64() {
    for (rows, channels, bf16) in [(160_000, 8, true), (150_001, 2, false), (300_003, 1, false)] {
        let shape = Shape {
            rows,
            channels,
            bf16,
            aligned: true,
            reversed: false,
        };
        check(&Case::new(shape, -0.7, true, bf16));
    }
}

/// A mean of 2,500 standard deviations: an f32 sum of squares has no digit of the variance left.
#[test]
fn a_large_mean_does_not_cost_the_variance_its_digits() {
    for (rows, channels) in [(500, 12), (70_000, 4)] {
        let shape = Shape {
            rows,
            channels,
            bf16: false,
            aligned: true,
            reversed: false,
        };
        check(&Case::new(shape, 2500.0, false, false));
    }
}

/// A channel without variance has gradients, of the size that eps permits.
#[test]
fn equal_values_have_no_variance() {
    let shape = Shape {
        rows: 700,
        channels: 4,
        bf16: false,
        aligned: true,
        reversed: false,
    };
    let case = Case {
        x: Matrix::new(&[3.25; 2800], shape),
        ..Case::new(shape, 0.0, true, false)
    };
    let made = run(&case, false);
    for channel in 0..4 {
        assert_eq!(made.saved[channel], 3.25);
        assert_near(
            "inverse_std",
            made.saved[4 + channel],
            f64::from(EPS).powf(-0.5),
            1e-3,
        );
    }
    assert!(made.grad_x.values().iter().all(|value| value.is_finite()));
}

#[test]
fn what_is_not_a_number_stays_so_and_keeps_to_its_channel() {
    for bf16 in [false, true] {
        let shape = Shape {
            rows: 300,
            channels: 16,
            bf16,
            aligned: true,
            reversed: false,
        };
        let case = Case::new(shape, 0.0, true, true);
        let (mut x, mut residual) = (case.x.values(), case.residual.values());
        x[16 * 123 + 5] = f32::NAN;
        residual[16 * 7 + 9] = f32::NAN;
        let case = Case {
            x: Matrix::new(&x, shape),
            residual: Matrix::new(&residual, shape),
            ..case
        };
        let made = run(&case, false);
        for (i, y) in made.y.values().iter().enumerate() {
            let expected = i % 16 == 5 || i == 16 * 7 + 9;
            assert_eq!(y.is_nan(), expected, "y[{i}] is {y}, bf16 {bf16}");
        }
        for (i, value) in made.grad_x.values().iter().enumerate() {
            assert_eq!(
                value.is_nan(),
                i % 16 == 5,
                "grad_x[{i}] is {value}, bf16 {bf16}"
            );
        }
        let nan: Vec<_> = (0..16)
            .filter(|&channel| made.moving_var[channel].is_nan())
            .collect();
        assert_eq!(nan, [5]);
    }
}
