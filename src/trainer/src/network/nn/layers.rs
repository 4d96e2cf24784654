//! Layers with parameters: convolution, fully connected, batch normalisation.
//!
//! A layer declares its parameters (see builder.rs) and finds its tensors through the `Pass`.
//! Inputs are converted to the dtype of the layer's kernel, so a network runs in bf16 or f32
//! without knowing it; batch normalisation keeps f32 parameters and statistics in both. Next:
//! storage.rs, which owns the tensors.

use tch::{Kind, Tensor};

use super::builder::{Buffer, Builder, Fill, Parameter, Role};
use super::convolution::{Window, convolve};
use super::norm::{Epilogue, Norm, Statistics};
use super::pass::{Mode, Pass};
use super::pool::{pad_zero, same_padding};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// The same number of zeros on all sides (PyTorch).
    Symmetric(i64),
    /// TensorFlow's 'same': ceil(size / stride) outputs; an odd zero goes to the right and the
    /// bottom.
    Same,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConvOptions {
    pub stride: i64,
    pub padding: Padding,
    pub groups: i64,
    pub bias: bool,
    pub fill: Fill,
}

#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Parameter,
    bias: Option<Parameter>,
    kernel: i64,
    options: ConvOptions,
}

impl Conv2d {
    /// Declares a convolution with a square kernel. Biases start at zero.
    pub fn new(
        builder: &Builder,
        in_channels: i64,
        out_channels: i64,
        kernel: i64,
        options: ConvOptions,
    ) -> Self {
        let shape = [out_channels, in_channels / options.groups, kernel, kernel];
        let weight = builder.parameter("weight", &shape, Role::ConvKernel, options.fill);
        let bias = options
            .bias
            .then(|| builder.parameter("bias", &[out_channels], Role::ConvBias, Fill::Zeros));
        Self {
            weight,
            bias,
            kernel,
            options,
        }
    }

    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let weight = pass.parameter(self.weight);
        let bias = self.bias.map(|bias| pass.parameter(bias));
        let x = if x.kind() == weight.kind() {
            x.shallow_clone()
        } else {
            x.to_kind(weight.kind())
        };
        let (x, padding) = self.pad(x);
        let ConvOptions { stride, groups, .. } = self.options;
        let window = Window {
            kernel: self.kernel,
            stride,
            padding,
            groups,
        };
        convolve(&x, weight, bias, window, pass.own_operations.products)
    }

    /// Pads the input if padding is asymmetric; symmetric padding is left to the convolution, where
    /// it costs nothing.
    fn pad(&self, x: Tensor) -> (Tensor, i64) {
        match self.options.padding {
            Padding::Symmetric(padding) => (x, padding),
            Padding::Same => {
                let (_, _, height, width) = x.size4().expect("images have four axes");
                let (top, bottom) = same_padding(height, self.kernel, self.options.stride);
                let (left, right) = same_padding(width, self.kernel, self.options.stride);
                if [bottom, left, right] == [top; 3] {
                    (x, top)
                } else {
                    (pad_zero(&x, [left, right, top, bottom]), 0)
                }
            }
        }
    }
}

/// A fully connected layer: y = x W^T + b over the last axis.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Parameter,
    bias: Option<Parameter>,
}

impl Linear {
    /// Declares a layer whose initial values follow `Options::init`.
    pub fn new(builder: &Builder, num_inputs: i64, num_outputs: i64, bias: bool) -> Self {
        let (weight_fill, bias_fill) = Fill::linear(builder.options().init, num_inputs);
        let weight = builder.parameter(
            "weight",
            &[num_outputs, num_inputs],
            Role::LinearKernel,
            weight_fill,
        );
        let bias =
            bias.then(|| builder.parameter("bias", &[num_outputs], Role::LinearBias, bias_fill));
        Self { weight, bias }
    }

    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let weight = pass.parameter(self.weight);
        x.to_kind(weight.kind())
            .linear(weight, self.bias.map(|bias| pass.parameter(bias)))
    }
}

/// Batch normalisation over axis 1 of [batch, channels] or [batch, channels, height, width]. The
/// moving variance is the unbiased one.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    weight: Parameter,
    bias: Parameter,
    running_mean: Buffer,
    running_var: Buffer,
    eps: f64,
}

impl BatchNorm {
    pub fn new(builder: &Builder, channels: i64) -> Self {
        Self {
            weight: builder.parameter("weight", &[channels], Role::NormWeight, Fill::Ones),
            bias: builder.parameter("bias", &[channels], Role::NormBias, Fill::Zeros),
            running_mean: builder.buffer("running_mean", &[channels], Fill::Zeros),
            running_var: builder.buffer("running_var", &[channels], Fill::Ones),
            eps: builder.options().batch_norm_eps,
        }
    }

    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        self.forward_then(x, Epilogue::Nothing, pass)
    }

    pub fn forward_relu(&self, x: &Tensor, pass: &Pass) -> Tensor {
        self.forward_then(x, Epilogue::Relu, pass)
    }

    /// Returns the end of a residual block: ReLU of the sum with its shortcut.
    pub fn forward_add_relu(&self, x: &Tensor, shortcut: &Tensor, pass: &Pass) -> Tensor {
        self.forward_then(x, Epilogue::AddRelu(shortcut), pass)
    }

    fn forward_then(&self, x: &Tensor, epilogue: Epilogue, pass: &Pass) -> Tensor {
        let norm = Norm {
            weight: pass.parameter(self.weight),
            bias: pass.parameter(self.bias),
            moving_mean: pass.buffer(self.running_mean),
            moving_var: pass.buffer(self.running_var),
            eps: self.eps,
            fused: pass.own_operations.fused_norm,
        };
        match (pass.mode, pass.synchronised) {
            (
                Mode::Train {
                    batch_norm_momentum,
                },
                Some(_),
            ) => epilogue.apply(&mut self.forward_synchronised(x, pass, batch_norm_momentum)),
            (
                Mode::Train {
                    batch_norm_momentum,
                },
                None,
            ) => norm.forward(
                x,
                Statistics::Batch {
                    momentum: batch_norm_momentum,
                },
                epilogue,
            ),
            (Mode::Evaluate, _) => norm.forward(x, Statistics::Moving, epilogue),
        }
    }

    /// Normalises with the statistics of the whole batch: two sums over all replicas, the mean
    /// first, because the variance as a difference of squares would lose digits. Autograd carries
    /// the gradient through both sums.
    fn forward_synchronised(&self, x: &Tensor, pass: &Pass, momentum: f64) -> Tensor {
        let reduction = pass.synchronised.expect("called with a reduction");
        let axes: Vec<i64> = (0..x.dim() as i64).filter(|&axis| axis != 1).collect();
        let shape: Vec<i64> = (0..x.dim())
            .map(|axis| if axis == 1 { -1 } else { 1 })
            .collect();
        let wide = x.to_kind(Kind::Float);
        let per_image: i64 = wide.size()[2..].iter().product();
        let count = (reduction.batch_len() as i64 * per_image) as f64;
        let mean =
            reduction.sum(&wide.sum_dim_intlist(axes.as_slice(), false, Kind::Float)) / count;
        let centred = &wide - mean.view(shape.as_slice());
        let squares = (&centred * &centred).sum_dim_intlist(axes.as_slice(), false, Kind::Float);
        let var = reduction.sum(&squares) / count;
        let scale = pass.parameter(self.weight) * (&var + self.eps).rsqrt();
        let normalised = centred * scale.view(shape.as_slice())
            + pass.parameter(self.bias).view(shape.as_slice());
        tch::no_grad(|| {
            if count <= 1.0 {
                return;
            }
            let unbiased = var.detach() * (count / (count - 1.0));
            let _ = pass
                .buffer(self.running_mean)
                .shallow_clone()
                .lerp_(&mean.detach(), momentum);
            let _ = pass
                .buffer(self.running_var)
                .shallow_clone()
                .lerp_(&unbiased, momentum);
        });
        normalised.to_kind(x.kind())
    }
}
