//! EfficientNet-B0 as torchvision builds it: inverted bottlenecks with depthwise convolutions and
//! channel gates.
//!
//! Two random parts of torchvision's network are left out on purpose: dropout (0.2) before the
//! classifier and stochastic depth (up to 0.2). Their draws would have to depend on (seed, epoch,
//! sample) alone, and no published setting of this project's sweeps needs them. The classifier
//! starts like every other (torchvision: uniform within 1 / sqrt(classes)). Next: golden_tests.rs,
//! which compares with torchvision.

use tch::Tensor;

use crate::network::nn::{
    BatchNorm, Builder, Conv2d, ConvOptions, Family, Fill, Network, Padding, Pass, global_avg_pool,
};

struct Stage {
    expansion: i64,
    kernel: i64,
    stride: i64,
    outputs: i64,
    num_blocks: usize,
}

/// The stages of Tan & Le, ICML 2019, table 1, rows 2 to 8.
const STAGES: [Stage; 7] = [
    Stage {
        expansion: 1,
        kernel: 3,
        stride: 1,
        outputs: 16,
        num_blocks: 1,
    },
    Stage {
        expansion: 6,
        kernel: 3,
        stride: 2,
        outputs: 24,
        num_blocks: 2,
    },
    Stage {
        expansion: 6,
        kernel: 5,
        stride: 2,
        outputs: 40,
        num_blocks: 2,
    },
    Stage {
        expansion: 6,
        kernel: 3,
        stride: 2,
        outputs: 80,
        num_blocks: 3,
    },
    Stage {
        expansion: 6,
        kernel: 5,
        stride: 1,
        outputs: 112,
        num_blocks: 3,
    },
    Stage {
        expansion: 6,
        kernel: 5,
        stride: 2,
        outputs: 192,
        num_blocks: 4,
    },
    Stage {
        expansion: 6,
        kernel: 3,
        stride: 1,
        outputs: 320,
        num_blocks: 1,
    },
];
const STEM_CHANNELS: i64 = 32;
const LAST_CHANNELS: i64 = 1280;

pub fn b0(channels: i64, builder: &Builder) -> Network {
    let features = builder / "features";
    let stem = ConvNorm::new(&(&features / 0), [channels, STEM_CHANNELS], 3, 2, 1);
    let mut blocks = Vec::new();
    let mut inputs = STEM_CHANNELS;
    for (number, stage) in STAGES.iter().enumerate() {
        for index in 0..stage.num_blocks {
            let stride = if index == 0 { stage.stride } else { 1 };
            let place = &features / (number + 1) / index / "block";
            blocks.push(InvertedBottleneck::new(&place, stage, inputs, stride));
            inputs = stage.outputs;
        }
    }
    let last = ConvNorm::new(
        &(&features / (STAGES.len() + 1)),
        [inputs, LAST_CHANNELS],
        1,
        1,
        1,
    );
    Network::new(LAST_CHANNELS, move |images, pass| {
        let mut x = stem.forward(images, pass).silu();
        for block in &blocks {
            x = block.forward(x, pass);
        }
        global_avg_pool(&last.forward(&x, pass).silu())
    })
}

/// Convolution without bias, then batch normalisation.
struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm,
}

impl ConvNorm {
    fn new(
        builder: &Builder,
        [inputs, outputs]: [i64; 2],
        kernel: i64,
        stride: i64,
        groups: i64,
    ) -> Self {
        let fill = Fill::conv(builder.options().init, Family::ImageNet);
        let options = ConvOptions {
            stride,
            padding: Padding::Symmetric(kernel / 2),
            groups,
            bias: false,
            fill,
        };
        Self {
            conv: Conv2d::new(&(builder / 0), inputs, outputs, kernel, options),
            norm: BatchNorm::new(&(builder / 1), outputs),
        }
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        self.norm.forward(&self.conv.forward(x, pass), pass)
    }
}

/// Squeeze and excitation: each channel is scaled by a gate in 0..1 computed from all channels'
/// means.
struct Gate {
    squeeze: Conv2d,
    excite: Conv2d,
}

impl Gate {
    fn new(builder: &Builder, channels: i64, squeezed: i64) -> Self {
        let fill = Fill::conv(builder.options().init, Family::ImageNet);
        let options = ConvOptions {
            stride: 1,
            padding: Padding::Symmetric(0),
            groups: 1,
            bias: true,
            fill,
        };
        Self {
            squeeze: Conv2d::new(&(builder / "fc1"), channels, squeezed, 1, options),
            excite: Conv2d::new(&(builder / "fc2"), squeezed, channels, 1, options),
        }
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let means = x.mean_dim([2i64, 3].as_slice(), true, x.kind());
        let gate = self
            .excite
            .forward(&self.squeeze.forward(&means, pass).silu(), pass)
            .sigmoid();
        x * gate
    }
}

struct InvertedBottleneck {
    expand: Option<ConvNorm>,
    depthwise: ConvNorm,
    gate: Gate,
    project: ConvNorm,
    /// True if input and output have the same shape, so that the input is added.
    residual: bool,
}

impl InvertedBottleneck {
    fn new(builder: &Builder, stage: &Stage, inputs: i64, stride: i64) -> Self {
        let width = inputs * stage.expansion;
        // torchvision numbers only the parts that exist
        let mut places = (0..).map(|number| builder / number);
        let mut place = || places.next().expect("an endless supply");
        Self {
            expand: (width != inputs).then(|| ConvNorm::new(&place(), [inputs, width], 1, 1, 1)),
            depthwise: ConvNorm::new(&place(), [width, width], stage.kernel, stride, width),
            gate: Gate::new(&place(), width, (inputs / 4).max(1)),
            project: ConvNorm::new(&place(), [width, stage.outputs], 1, 1, 1),
            residual: stride == 1 && inputs == stage.outputs,
        }
    }

    fn forward(&self, x: Tensor, pass: &Pass) -> Tensor {
        let expanded = self
            .expand
            .as_ref()
            .map(|expand| expand.forward(&x, pass).silu());
        let out = self
            .depthwise
            .forward(expanded.as_ref().unwrap_or(&x), pass)
            .silu();
        let mut out = self.project.forward(&self.gate.forward(&out, pass), pass);
        if self.residual { out.g_add_(&x) } else { out }
    }
}
