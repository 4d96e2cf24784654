//! Convolution by libtorch, or on the CPU as a product of matrices in the shim, whichever is faster
//! for its shape.
//!
//! oneDNN reorders kernels in each pass, in f32 and bf16, which costs more than the arithmetic if
//! images are small and channels many. Its bf16 gradient of kernels is slower than its forward
//! pass, with and without matrix tiles: a little for large images, several times for small ones
//! (bench/results/epyc.md, avx2.md beside it). The choice depends only on shapes, number format and
//! instruction set, so a trial repeated on the same kind of machine gives the same bits. Changing
//! the choice changes the bits: raise `sweep::trial::TRAINING_VERSION`. The arithmetic is in
//! shim/convolution.cpp, shim/kernel_gradient.cpp and shim/kernel_gradient_tiles.cpp. Next:
//! layers.rs, the user.

use std::ffi::{c_char, c_void};
use std::mem::offset_of;

use tch::{Kind, Tensor};

use crate::device::hardware::Hardware;
use crate::device::shim;

/// The passes that are products of matrices. Same layout as in shim/convolution.cpp.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ProductPasses {
    pub forward: bool,
    /// The gradient of the images.
    pub images: bool,
    /// The gradient of the kernels.
    pub kernels: bool,
}

// shim/convolution.cpp asserts the same
const _: () = assert!(
    size_of::<ProductPasses>() == 3
        && offset_of!(ProductPasses, images) == 1
        && offset_of!(ProductPasses, kernels) == 2
);

unsafe extern "C" {
    fn shim_convolution(
        x: *mut c_void,
        weight: *mut c_void,
        bias: *mut c_void,
        stride: i64,
        padding: i64,
        passes: ProductPasses,
        result: *mut *mut c_void,
    ) -> *mut c_char;
}

/// A square kernel, with the same padding by zeros on all sides of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub kernel: i64,
    pub stride: i64,
    pub padding: i64,
    pub groups: i64,
}

/// Convolves x [batch, inputs, height, width] with weight [outputs, inputs / groups, kernel,
/// kernel] of the same dtype. Panics where libtorch's own operation fails. `products`: use products
/// where they are faster.
pub fn convolve(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    window: Window,
    products: bool,
) -> Tensor {
    let passes = if products {
        faster_products(x, weight, window)
    } else {
        ProductPasses::default()
    };
    if passes == ProductPasses::default() {
        let Window {
            stride,
            padding,
            groups,
            ..
        } = window;
        return x.conv2d(weight, bias, [stride; 2], [padding; 2], [1, 1], groups);
    }
    convolve_by_products(x, weight, bias, window, passes)
}

/// Convolves with products in the given passes, whether or not they are faster. Both tensors have
/// channels innermost and are f32 or bf16 on the CPU.
pub(super) fn convolve_by_products(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    window: Window,
    passes: ProductPasses,
) -> Tensor {
    let raw = |tensor: &Tensor| tensor.as_ptr() as *mut c_void;
    let bias = bias.map_or(std::ptr::null_mut(), raw);
    let mut result = std::ptr::null_mut();
    // SAFETY: the tensors live through the call and are as the C++ side expects (`faster_products`
    // has checked layouts, kinds and device); `result` is written on success only.
    let message = unsafe {
        shim_convolution(
            raw(x),
            raw(weight),
            bias,
            window.stride,
            window.padding,
            passes,
            &mut result,
        )
    };
    shim::check(message).unwrap_or_else(|error| panic!("convolution: {error}"));
    shim::owned(result)
}

fn faster_products(x: &Tensor, weight: &Tensor, window: Window) -> ProductPasses {
    let ours = !x.device().is_cuda()
        && x.kind() == weight.kind()
        && window.groups == 1
        && shim::has_channels_innermost(x)
        && shim::has_channels_innermost(weight);
    let (Ok((batch, inputs, height, width)), true) = (x.size4(), ours) else {
        return ProductPasses::default();
    };
    let length = |side: i64| (side + 2 * window.padding - window.kernel) / window.stride + 1;
    let places = batch * length(height) * length(width);
    let size = ConvolutionSize {
        places,
        pixels: height * width,
        inputs,
        outputs: weight.size()[0],
    };
    faster_passes(size, window, x.kind(), Hardware::of_cpu())
}

/// Returns true if the convolutions of some shapes are products.
pub fn has_products(bf16: bool, hardware: Hardware) -> bool {
    match hardware {
        Hardware::VectorBf16 | Hardware::TileBf16 => true,
        Hardware::Plain => !bf16,
        Hardware::Gpu => false,
    }
}

pub(super) struct ConvolutionSize {
    /// Number of outputs per channel.
    pub places: i64,
    /// Number of pixels of an image, per channel.
    pub pixels: i64,
    pub inputs: i64,
    pub outputs: i64,
}

/// Number of channels that shim/kernel_gradient.cpp and shim/kernel_gradient_tiles.cpp process at a
/// time.
const BLOCK: i64 = 32;

/// The largest numbers of places for which a product is faster than libtorch's pass.
struct ProductLimits {
    forward: i64,
    images: i64,
    /// Limit for the gradient of kernels if channels do not fill whole blocks.
    kernels: i64,
}

/// Returns limits measured with 2 threads: bf16 on an AMD EPYC with `avx512_bf16` alone and on an
/// Intel Xeon with `amx_bf16`, f32 on that Xeon, limited to AVX-512 and to AVX2. Reordering kernels
/// costs oneDNN the same for few places as for many; a strided 1x1 kernel skips three of four
/// pixels, which a product does not visit.
fn product_limits(window: Window, bf16: bool, hardware: Hardware) -> ProductLimits {
    let (forward, images, kernels) = match (bf16, hardware, window.kernel, window.stride) {
        (false, _, 1, 1) => (1024, 1024, 4096),
        (false, _, 1, _) => (1024, 4096, 1600),
        (false, _, _, 1) => (400, 400, 1024),
        (false, _, _, _) => (400, 1024, 2048),
        (true, Hardware::VectorBf16, 1, 1) => (400, 400, 8192),
        (true, Hardware::VectorBf16, 1, _) => (8192, 8192, 8192),
        (true, Hardware::VectorBf16, _, 1) => (400, 400, 1024),
        (true, Hardware::VectorBf16, _, _) => (400, 400, 2048),
        (true, Hardware::TileBf16, 1, 1) => (512, 512, 2048),
        (true, Hardware::TileBf16, 1, _) => (512, 8192, 2048),
        (true, Hardware::TileBf16, _, 1) => (512, 512, 2048),
        (true, Hardware::TileBf16, _, _) => (512, 2048, 2048),
        (true, Hardware::Plain | Hardware::Gpu, _, _) => (0, 0, 0),
    };
    ProductLimits {
        forward,
        images,
        kernels,
    }
}

pub(super) fn faster_passes(
    size: ConvolutionSize,
    window: Window,
    kind: Kind,
    hardware: Hardware,
) -> ProductPasses {
    let ConvolutionSize {
        places,
        pixels,
        inputs,
        outputs,
    } = size;
    let bf16 = match kind {
        Kind::BFloat16 => true,
        Kind::Float => false,
        _ => return ProductPasses::default(),
    };
    // a replica without images has nothing to multiply but joins its group's sums: libtorch handles
    // empty batches
    if places == 0 || !has_products(bf16, hardware) {
        return ProductPasses::default();
    }
    let limits = product_limits(window, bf16, hardware);
    let in_blocks = bf16 && inputs % BLOCK == 0 && outputs % BLOCK == 0;
    // oneDNN skips the part of a kernel beyond a single pixel; a product multiplies those zeros
    let sees_zeros = !bf16 && pixels == 1 && window.kernel > 1;
    ProductPasses {
        forward: places <= limits.forward && !sees_zeros,
        images: places <= limits.images && !sees_zeros,
        kernels: in_blocks || places <= limits.kernels,
    }
}
