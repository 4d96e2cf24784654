//! Residual networks for large images: a strided 7x7 stem, a pool, four stages of basic or
//! bottleneck blocks.
//!
//! `basic` and `Variant::Torchvision` are torchvision's resnet18/34/50. `Variant::Keras` is the
//! network of the cosine-loss authors: stride on the first 1x1 and biases in all convolutions.
//! `Variant::FullConvolution` pads every k x k convolution by k - 1, so that each weight sees each
//! place of the image (Kayhan & van Gemert, CVPR 2020); its shortcuts need a border of zeros too.
//! Facts: docs/paper.md, sections 4 and 8. Next: golden_tests.rs.

use tch::Tensor;

use crate::network::nn::{
    BatchNorm, Builder, Conv2d, ConvOptions, Family, Fill, Network, Padding, Pass,
};
use crate::network::nn::{global_avg_pool, max_pool, pad_zero};

const WIDTHS: [i64; 4] = [64, 128, 256, 512];
const BOTTLENECK_EXPANSION: i64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Torchvision,
    Keras,
    FullConvolution,
}

/// Builds torchvision's resnet18 or resnet34.
pub fn basic(blocks_per_stage: [usize; 4], channels: i64, builder: &Builder) -> Network {
    network(
        Variant::Torchvision,
        blocks_per_stage,
        channels,
        builder,
        BasicBlock::new,
    )
}

/// Builds a ResNet-50.
pub fn bottleneck(variant: Variant, channels: i64, builder: &Builder) -> Network {
    network(variant, [3, 4, 6, 3], channels, builder, Bottleneck::new)
}

/// The properties that differ from block to block.
#[derive(Clone, Copy)]
struct Shape {
    inputs: i64,
    width: i64,
    stride: i64,
    variant: Variant,
}

trait Block {
    fn num_outputs(&self) -> i64;
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor;
}

fn network<B: Block + 'static>(
    variant: Variant,
    blocks_per_stage: [usize; 4],
    channels: i64,
    builder: &Builder,
    make: impl Fn(&Builder, Shape) -> B,
) -> Network {
    let stem = conv(&(builder / "conv1"), variant, [channels, WIDTHS[0]], 7, 2);
    let stem_norm = BatchNorm::new(&(builder / "bn1"), WIDTHS[0]);
    let mut blocks = Vec::new();
    let mut inputs = WIDTHS[0];
    for (stage, (width, num_blocks)) in WIDTHS.into_iter().zip(blocks_per_stage).enumerate() {
        for index in 0..num_blocks {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let place = builder / format!("layer{}", stage + 1) / index;
            let block = make(
                &place,
                Shape {
                    inputs,
                    width,
                    stride,
                    variant,
                },
            );
            inputs = block.num_outputs();
            blocks.push(block);
        }
    }
    Network::new(inputs, move |images, pass| {
        let x = stem_norm.forward_relu(&stem.forward(images, pass), pass);
        let mut x = match variant {
            // after a ReLU, PyTorch's padding with -inf and Keras' padding with 0 give the same
            // result
            Variant::Torchvision | Variant::Keras => max_pool(&x, 3, 2, 1),
            Variant::FullConvolution => max_pool(&x, 2, 2, 0),
        };
        for block in &blocks {
            x = block.forward(&x, pass);
        }
        global_avg_pool(&x)
    })
}

fn conv(
    builder: &Builder,
    variant: Variant,
    [inputs, outputs]: [i64; 2],
    kernel: i64,
    stride: i64,
) -> Conv2d {
    let padding = match variant {
        Variant::Torchvision | Variant::Keras => kernel / 2,
        Variant::FullConvolution => kernel - 1,
    };
    let options = ConvOptions {
        stride,
        padding: Padding::Symmetric(padding),
        groups: 1,
        bias: variant == Variant::Keras,
        fill: Fill::conv(builder.options().init, Family::ImageNet),
    };
    Conv2d::new(builder, inputs, outputs, kernel, options)
}

/// The path around a block: its input, or a strided 1x1 convolution of it where sizes change.
struct Shortcut {
    projection: Option<(Conv2d, BatchNorm)>,
    /// Width of the border of zeros added first.
    border: i64,
}

impl Shortcut {
    fn new(builder: &Builder, shape: Shape, outputs: i64) -> Self {
        let Shape {
            inputs,
            stride,
            variant,
            ..
        } = shape;
        let place = builder / "downsample";
        let projection = (stride != 1 || inputs != outputs).then(|| {
            (
                conv(&(&place / 0), variant, [inputs, outputs], 1, stride),
                BatchNorm::new(&(&place / 1), outputs),
            )
        });
        Self {
            projection,
            border: i64::from(variant == Variant::FullConvolution),
        }
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let x = pad_zero(x, [self.border; 4]);
        match &self.projection {
            Some((conv, norm)) => norm.forward(&conv.forward(&x, pass), pass),
            None => x,
        }
    }
}

struct BasicBlock {
    conv1: Conv2d,
    norm1: BatchNorm,
    conv2: Conv2d,
    norm2: BatchNorm,
    shortcut: Shortcut,
    num_outputs: i64,
}

impl BasicBlock {
    fn new(builder: &Builder, shape: Shape) -> Self {
        let Shape {
            inputs,
            width,
            stride,
            variant,
        } = shape;
        Self {
            conv1: conv(&(builder / "conv1"), variant, [inputs, width], 3, stride),
            norm1: BatchNorm::new(&(builder / "bn1"), width),
            conv2: conv(&(builder / "conv2"), variant, [width, width], 3, 1),
            norm2: BatchNorm::new(&(builder / "bn2"), width),
            shortcut: Shortcut::new(builder, shape, width),
            num_outputs: width,
        }
    }
}

impl Block for BasicBlock {
    fn num_outputs(&self) -> i64 {
        self.num_outputs
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let out = self.norm1.forward_relu(&self.conv1.forward(x, pass), pass);
        let out = self.conv2.forward(&out, pass);
        self.norm2
            .forward_add_relu(&out, &self.shortcut.forward(x, pass), pass)
    }
}

struct Bottleneck {
    conv1: Conv2d,
    norm1: BatchNorm,
    conv2: Conv2d,
    norm2: BatchNorm,
    conv3: Conv2d,
    norm3: BatchNorm,
    shortcut: Shortcut,
    num_outputs: i64,
}

impl Bottleneck {
    fn new(builder: &Builder, shape: Shape) -> Self {
        let Shape {
            inputs,
            width,
            stride,
            variant,
        } = shape;
        let outputs = width * BOTTLENECK_EXPANSION;
        let (first_stride, middle_stride) = match variant {
            Variant::Keras => (stride, 1),
            Variant::Torchvision | Variant::FullConvolution => (1, stride),
        };
        Self {
            conv1: conv(
                &(builder / "conv1"),
                variant,
                [inputs, width],
                1,
                first_stride,
            ),
            norm1: BatchNorm::new(&(builder / "bn1"), width),
            conv2: conv(
                &(builder / "conv2"),
                variant,
                [width, width],
                3,
                middle_stride,
            ),
            norm2: BatchNorm::new(&(builder / "bn2"), width),
            conv3: conv(&(builder / "conv3"), variant, [width, outputs], 1, 1),
            norm3: BatchNorm::new(&(builder / "bn3"), outputs),
            shortcut: Shortcut::new(builder, shape, outputs),
            num_outputs: outputs,
        }
    }
}

impl Block for Bottleneck {
    fn num_outputs(&self) -> i64 {
        self.num_outputs
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let out = self.norm1.forward_relu(&self.conv1.forward(x, pass), pass);
        let out = self
            .norm2
            .forward_relu(&self.conv2.forward(&out, pass), pass);
        let out = self.conv3.forward(&out, pass);
        self.norm3
            .forward_add_relu(&out, &self.shortcut.forward(x, pass), pass)
    }
}
