//! One pass through a network: the tensors of the declared parameters, and the mode, training or
//! evaluation.
//!
//! A pass borrows everything, so the same layers can run on f32 masters, bf16 working copies, or
//! another replica's parameters. It holds no state of its own between calls. Next: layers.rs.

use tch::Tensor;

use super::builder::{Buffer, Parameter};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Uses batch statistics; each batch updates the moving statistics with the given weight.
    Train { batch_norm_momentum: f64 },
    /// Uses moving statistics.
    Evaluate,
}

/// Sums a small tensor over all replicas inside the forward pass, differentiably: the backward pass
/// sums the gradient over all replicas too. Synchronised batch normalisation is made from it.
pub trait StatisticsReduction {
    fn sum(&self, tensor: &Tensor) -> Tensor;
    /// Returns the number of images in the whole batch.
    fn batch_len(&self) -> usize;
}

/// Operations that the shim has and libtorch lacks. Both ways give the same values up to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnOperations {
    /// True if norm.rs uses its fused operation.
    pub fused_norm: bool,
    /// True if convolution.rs uses its products.
    pub products: bool,
}

impl Default for OwnOperations {
    fn default() -> Self {
        Self {
            fused_norm: true,
            products: true,
        }
    }
}

pub struct Pass<'a> {
    pub parameters: &'a [Tensor],
    pub buffers: &'a [Tensor],
    pub mode: Mode,
    /// Sums for the statistics of the whole batch; without them batch normalisation uses the
    /// replica's own.
    pub synchronised: Option<&'a dyn StatisticsReduction>,
    pub own_operations: OwnOperations,
}

impl Pass<'_> {
    pub fn parameter(&self, parameter: Parameter) -> &Tensor {
        &self.parameters[parameter.0]
    }

    pub fn buffer(&self, buffer: Buffer) -> &Tensor {
        &self.buffers[buffer.0]
    }
}
