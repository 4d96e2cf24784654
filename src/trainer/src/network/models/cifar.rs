//! Residual networks for small images: three stages of 3x3 blocks, no pooling before the end.
//!
//! `original` is He et al. (CVPR 2016) section 4.2 with 16/32/64 channels and its option A:
//! shortcuts have no parameters; where a stage begins they take every second row and column and pad
//! channels with zeros, half before and half after (the paper leaves the side open). `wide` is the
//! cosine-loss authors' resnet-110-wfc (docs/paper.md, section 4): 32/64/128 channels, biases,
//! TensorFlow's 'same' padding, and 2x2 average pooling in the shortcut.

use tch::Tensor;

use crate::network::nn::{
    BatchNorm, Builder, Conv2d, ConvOptions, Family, Fill, Network, Padding, Pass, global_avg_pool,
};

#[derive(Clone, Copy, PartialEq)]
enum Variant {
    Original,
    Wide,
}

pub fn original(blocks_per_stage: usize, channels: i64, builder: &Builder) -> Network {
    network(
        Variant::Original,
        [16, 32, 64],
        blocks_per_stage,
        channels,
        builder,
    )
}

pub fn wide(channels: i64, builder: &Builder) -> Network {
    network(Variant::Wide, [32, 64, 128], 18, channels, builder)
}

fn network(
    variant: Variant,
    widths: [i64; 3],
    blocks_per_stage: usize,
    channels: i64,
    builder: &Builder,
) -> Network {
    let stem = conv3x3(&(builder / "conv1"), variant, channels, widths[0], 1);
    let stem_norm = BatchNorm::new(&(builder / "bn1"), widths[0]);
    let mut blocks = Vec::new();
    let mut inputs = widths[0];
    for (stage, width) in widths.into_iter().enumerate() {
        for index in 0..blocks_per_stage {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let place = builder / format!("layer{}", stage + 1) / index;
            blocks.push(Block::new(&place, variant, inputs, width, stride));
            inputs = width;
        }
    }
    Network::new(inputs, move |images, pass| {
        let mut x = stem_norm.forward_relu(&stem.forward(images, pass), pass);
        for block in &blocks {
            x = block.forward(&x, pass);
        }
        global_avg_pool(&x)
    })
}

fn conv3x3(builder: &Builder, variant: Variant, inputs: i64, outputs: i64, stride: i64) -> Conv2d {
    let fill = Fill::conv(builder.options().init, Family::Cifar);
    let (padding, bias) = match variant {
        Variant::Original => (Padding::Symmetric(1), false),
        Variant::Wide => (Padding::Same, true),
    };
    Conv2d::new(
        builder,
        inputs,
        outputs,
        3,
        ConvOptions {
            stride,
            padding,
            groups: 1,
            bias,
            fill,
        },
    )
}

struct Block {
    conv1: Conv2d,
    norm1: BatchNorm,
    conv2: Conv2d,
    norm2: BatchNorm,
    variant: Variant,
    stride: i64,
    /// Zero channels that the shortcut adds on each side.
    extra: i64,
}

impl Block {
    fn new(builder: &Builder, variant: Variant, inputs: i64, outputs: i64, stride: i64) -> Self {
        Self {
            conv1: conv3x3(&(builder / "conv1"), variant, inputs, outputs, stride),
            norm1: BatchNorm::new(&(builder / "bn1"), outputs),
            conv2: conv3x3(&(builder / "conv2"), variant, outputs, outputs, 1),
            norm2: BatchNorm::new(&(builder / "bn2"), outputs),
            variant,
            stride,
            extra: (outputs - inputs) / 2,
        }
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let out = self.norm1.forward_relu(&self.conv1.forward(x, pass), pass);
        let out = self.conv2.forward(&out, pass);
        if self.stride == 1 {
            return self.norm2.forward_add_relu(&out, x, pass);
        }
        let reduced = match self.variant {
            Variant::Original => {
                x.slice(2, None, None, self.stride)
                    .slice(3, None, None, self.stride)
            }
            // equal to the authors' pooling on even sides; on odd ones theirs would not fit the
            // convolution's size
            Variant::Wide => x.avg_pool2d([2, 2], [2, 2], [0, 0], true, false, None::<i64>),
        };
        let shortcut = reduced.constant_pad_nd([0, 0, 0, 0, self.extra, self.extra]);
        self.norm2.forward_add_relu(&out, &shortcut, pass)
    }
}

#[cfg(test)]
mod tests {
    use sweep::settings::Init;

    use super::*;
    use crate::network::nn::{Linear, Options};

    /// The authors' narrower networks, with parameter counts for 100 classes from docs/paper.md,
    /// section 4.
    #[test]
    fn wide_variant_with_narrow_channels_has_the_published_counts() {
        for (blocks_per_stage, expected) in [(18, 1_737_860), (5, 471_140)] {
            let options = Options {
                init: Init::Keras,
                batch_norm_eps: 1e-3,
            };
            let builder = Builder::new(options);
            let backbone = network(Variant::Wide, [16, 32, 64], blocks_per_stage, 3, &builder);
            Linear::new(&(&builder / "fc"), backbone.num_features, 100, true);
            assert_eq!(builder.inventory().num_parameters(), expected);
        }
    }
}
