//! Wide residual networks for small images (Zagoruyko & Komodakis, BMVC 2016), without dropout. Blocks
//! begin with batch normalisation and ReLU; a shortcut is the identity, or where channels change a 1x1
//! convolution of the normalised input.

use tch::Tensor;

use crate::network::nn::{
    BatchNorm, Builder, Conv2d, ConvOptions, Family, Fill, Network, Padding, Pass, global_avg_pool,
};

/// 16 layers: two blocks per stage, with `factor` times the channels of the original residual
/// network.
pub fn sixteen_layers(factor: i64, channels: i64, builder: &Builder) -> Network {
    const STEM: i64 = 16;
    const BLOCKS_PER_STAGE: usize = 2;
    let stem = conv(&(builder / "conv1"), (channels, STEM), 3, 1);
    let mut blocks = Vec::new();
    let mut inputs = STEM;
    for (stage, width) in [16, 32, 64].into_iter().enumerate() {
        let outputs = factor * width;
        for index in 0..BLOCKS_PER_STAGE {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let place = builder / format!("layer{}", stage + 1) / index;
            blocks.push(Block::new(&place, inputs, outputs, stride));
            inputs = outputs;
        }
    }
    let norm = BatchNorm::new(&(builder / "bn1"), inputs);
    Network::new(inputs, move |images, pass| {
        let mut x = stem.forward(images, pass);
        for block in &blocks {
            x = block.forward(&x, pass);
        }
        global_avg_pool(&norm.forward_relu(&x, pass))
    })
}

fn conv(builder: &Builder, (inputs, outputs): (i64, i64), kernel: i64, stride: i64) -> Conv2d {
    let options = ConvOptions {
        stride,
        padding: Padding::Symmetric(kernel / 2),
        groups: 1,
        bias: false,
        fill: Fill::conv(builder.options().init, Family::Cifar),
    };
    Conv2d::new(builder, inputs, outputs, kernel, options)
}

struct Block {
    norm1: BatchNorm,
    conv1: Conv2d,
    norm2: BatchNorm,
    conv2: Conv2d,
    /// 1x1 convolution of the normalised input, where the number of channels changes.
    shortcut: Option<Conv2d>,
}

impl Block {
    fn new(builder: &Builder, inputs: i64, outputs: i64, stride: i64) -> Self {
        Self {
            norm1: BatchNorm::new(&(builder / "bn1"), inputs),
            conv1: conv(&(builder / "conv1"), (inputs, outputs), 3, stride),
            norm2: BatchNorm::new(&(builder / "bn2"), outputs),
            conv2: conv(&(builder / "conv2"), (outputs, outputs), 3, 1),
            shortcut: (inputs != outputs)
                .then(|| conv(&(builder / "downsample"), (inputs, outputs), 1, stride)),
        }
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let normalised = self.norm1.forward_relu(x, pass);
        let out = self.conv1.forward(&normalised, pass);
        let out = self.norm2.forward_relu(&out, pass);
        let out = self.conv2.forward(&out, pass);
        match &self.shortcut {
            Some(shortcut) => out + shortcut.forward(&normalised, pass),
            None => out + x,
        }
    }
}
