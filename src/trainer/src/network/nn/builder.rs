//! Builder of networks: it records a network's parameters and buffers, the role of each and its
//! initial values.
//!
//! It allocates nothing and draws nothing, so that parameters can be counted, frozen, sharded or
//! laid out in one buffer before the first byte exists. Names are torchvision's
//! (`layer1.0.conv1.weight`), because weight files are exchanged under them. Two parameters with
//! the same name are a programming error and panic. Next: layers.rs.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::Div;
use std::rc::Rc;

use sweep::settings::Init;
use tch::Tensor;

use super::pass::Pass;

/// The role of a parameter, which decides its weight decay and working precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Kernel of a convolution, with shape [out, in / groups, height, width].
    ConvKernel,
    /// Bias of a convolution, in the convolution's working precision.
    ConvBias,
    /// Kernel of a fully connected layer, with shape [out, in].
    LinearKernel,
    LinearBias,
    NormWeight,
    NormBias,
}

impl Role {
    /// Returns true for kernels, the parameters that `weight_decay_on: kernels` decays.
    pub fn is_kernel(self) -> bool {
        matches!(self, Self::ConvKernel | Self::LinearKernel)
    }

    /// Returns true if a bf16 run works on a bf16 copy of the parameter. Normalisation and the
    /// heads stay in f32.
    pub fn is_convolution(self) -> bool {
        matches!(self, Self::ConvKernel | Self::ConvBias)
    }
}

/// Initial values of a parameter or buffer. Fans are those of the shape that is filled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    Zeros,
    Ones,
    /// Normal with variance 2 / fan_in, cut at two standard deviations (Keras `he_normal`).
    HeNormalTruncated,
    /// Uniform within +-sqrt(6 / (fan_in + fan_out)) (Keras `glorot_uniform`).
    GlorotUniform,
    /// Normal with variance 2 / fan_out (torchvision's convolutions).
    KaimingNormalFanOut,
    /// Uniform within +-bound.
    Uniform {
        bound: f64,
    },
    /// Normal around 0.
    Normal {
        std: f64,
    },
}

/// Families of recipes whose initial weights differ (docs/paper.md, section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Cifar,
    ImageNet,
}

impl Fill {
    pub fn conv(init: Init, family: Family) -> Self {
        match (init, family) {
            (Init::Keras, Family::ImageNet) => Self::HeNormalTruncated,
            (Init::Keras, Family::Cifar) => Self::GlorotUniform,
            (Init::Torchvision, _) => Self::KaimingNormalFanOut,
        }
    }

    /// Returns the fills of kernel and bias of a fully connected layer.
    pub fn linear(init: Init, num_inputs: i64) -> (Self, Self) {
        match init {
            Init::Keras => (Self::GlorotUniform, Self::Zeros),
            // PyTorch's kaiming_uniform_(a = sqrt(5)) is the same bound for kernel and bias
            Init::Torchvision => {
                let uniform = Self::Uniform {
                    bound: 1.0 / (num_inputs as f64).sqrt(),
                };
                (uniform, uniform)
            }
        }
    }
}

/// A declared parameter: index into `Inventory::parameters`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parameter(pub usize);

/// A declared buffer (state that is not trained): index into `Inventory::buffers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Buffer(pub usize);

#[derive(Clone, Debug, PartialEq)]
pub struct ParameterNote {
    pub name: String,
    pub shape: Vec<i64>,
    pub role: Role,
    pub fill: Fill,
}

#[derive(Clone, Debug, PartialEq)]
pub struct BufferNote {
    pub name: String,
    pub shape: Vec<i64>,
    pub fill: Fill,
}

/// Everything a network has, in the order in which it was declared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inventory {
    pub parameters: Vec<ParameterNote>,
    pub buffers: Vec<BufferNote>,
}

impl Inventory {
    /// Returns the number of trainable numbers, the parameter count in papers.
    pub fn num_parameters(&self) -> u64 {
        self.parameters
            .iter()
            .map(|note| note.shape.iter().product::<i64>() as u64)
            .sum()
    }
}

/// Options that all layers of a network share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    pub init: Init,
    pub batch_norm_eps: f64,
}

/// A place in the tree of names; `&builder / "layer1"` is the place below it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Builder {
    prefix: String,
    options: Options,
    inventory: Rc<RefCell<Inventory>>,
}

impl Builder {
    pub fn new(options: Options) -> Self {
        Self {
            prefix: String::new(),
            options,
            inventory: Rc::default(),
        }
    }

    pub fn options(&self) -> Options {
        self.options
    }

    pub fn parameter(&self, name: &str, shape: &[i64], role: Role, fill: Fill) -> Parameter {
        let name = self.full_name(name);
        let mut inventory = self.inventory.borrow_mut();
        assert!(
            inventory.parameters.iter().all(|note| note.name != name),
            "parameter {name} is declared twice"
        );
        inventory.parameters.push(ParameterNote {
            name,
            shape: shape.to_vec(),
            role,
            fill,
        });
        Parameter(inventory.parameters.len() - 1)
    }

    pub fn buffer(&self, name: &str, shape: &[i64], fill: Fill) -> Buffer {
        let name = self.full_name(name);
        let mut inventory = self.inventory.borrow_mut();
        assert!(
            inventory.buffers.iter().all(|note| note.name != name),
            "buffer {name} is declared twice"
        );
        inventory.buffers.push(BufferNote {
            name,
            shape: shape.to_vec(),
            fill,
        });
        Buffer(inventory.buffers.len() - 1)
    }

    /// Returns the declarations so far.
    pub fn inventory(&self) -> Inventory {
        self.inventory.borrow().clone()
    }

    fn full_name(&self, name: &str) -> String {
        if self.prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.prefix)
        }
    }
}

impl<N: Display> Div<N> for &Builder {
    type Output = Builder;

    fn div(self, name: N) -> Builder {
        Builder {
            prefix: self.full_name(&name.to_string()),
            ..self.clone()
        }
    }
}

impl<N: Display> Div<N> for Builder {
    type Output = Builder;

    fn div(self, name: N) -> Builder {
        &self / name
    }
}

type Forward = dyn Fn(&Tensor, &Pass) -> Tensor;

/// A backbone: images [batch, channels, height, width] to features [batch, num_features] after
/// global average pooling.
pub struct Network {
    pub num_features: i64,
    forward: Box<Forward>,
}

impl Network {
    pub fn new(num_features: i64, forward: impl Fn(&Tensor, &Pass) -> Tensor + 'static) -> Self {
        Self {
            num_features,
            forward: Box::new(forward),
        }
    }

    pub fn forward(&self, images: &Tensor, pass: &Pass) -> Tensor {
        (self.forward)(images, pass)
    }
}
