//! One flat buffer each for weights, momentum, and gradients with moving statistics; parameters are
//! views into them.
//!
//! All-reduce, clipping, the optimiser, hashing and checkpoints are then operations on one tensor
//! each. Convolutions come first, so that a bf16 run keeps one contiguous bf16 copy of that part
//! (`precision`); within a part, parameters that are treated alike are adjacent (`Segment`). The
//! caller decides which these are, by the order it gives.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::builder::{BufferNote, Inventory, ParameterNote};
use super::init::draw;
use crate::device::shim::ShimError;
use crate::network::gradients;

/// Alignment of every view, in elements: vector units and cuDNN need aligned pointers.
const ALIGNMENT: usize = 64;

/// The number format of convolutions. Their memory format is channels innermost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// True if kernels and biases of convolutions have bf16 working copies; weights, gradients and
    /// momentum stay f32.
    pub bf16: bool,
}

/// Adjacent parameters that are treated alike, as a range of the flat buffers.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment<G> {
    pub range: Range<usize>,
    pub group: G,
}

/// The place of each parameter: a pure function of inventory, format and grouping.
#[derive(Clone, Debug, PartialEq)]
pub struct FlatLayout<G> {
    pub format: Format,
    /// Start of each parameter, in the order of the inventory.
    offsets: Vec<usize>,
    strides: Vec<Vec<i64>>,
    pub segments: Vec<Segment<G>>,
    /// Length of the leading part that holds convolutions.
    convolutions: usize,
    length: usize,
}

impl<G: Ord + Copy> FlatLayout<G> {
    pub fn new(inventory: &Inventory, format: Format, group: impl Fn(&ParameterNote) -> G) -> Self {
        let notes = &inventory.parameters;
        let mut order: Vec<usize> = (0..notes.len()).collect();
        order.sort_by_key(|&index| {
            (
                !notes[index].role.is_convolution(),
                group(&notes[index]),
                index,
            )
        });
        let mut offsets = vec![0; notes.len()];
        let mut segments: Vec<Segment<G>> = Vec::new();
        let (mut length, mut convolutions) = (0, 0);
        for index in order {
            let (note, group) = (&notes[index], group(&notes[index]));
            offsets[index] = length;
            let start = length;
            length += (note.shape.iter().product::<i64>() as usize).next_multiple_of(ALIGNMENT);
            if note.role.is_convolution() {
                convolutions = length;
            }
            match segments.last_mut() {
                Some(last) if last.group == group => last.range.end = length,
                _ => segments.push(Segment {
                    range: start..length,
                    group,
                }),
            }
        }
        let strides = notes.iter().map(|note| strides(&note.shape)).collect();
        Self {
            format,
            offsets,
            strides,
            segments,
            convolutions,
            length,
        }
    }
}

impl<G> FlatLayout<G> {
    /// Returns a hash of names, shapes, places and number formats: flat buffers with equal digests
    /// can be exchanged.
    pub fn digest(&self, inventory: &Inventory) -> String {
        let notes = inventory
            .parameters
            .iter()
            .zip(&self.offsets)
            .zip(&self.strides);
        let parameters: Vec<_> = notes
            .map(|((note, offset), strides)| (&note.name, &note.shape, offset, strides))
            .collect();
        let buffers: Vec<_> = inventory
            .buffers
            .iter()
            .map(|note| (&note.name, &note.shape))
            .collect();
        let text = serde_json::to_vec(&(self.format.bf16, self.length, parameters, buffers))
            .expect("plain data");
        blake3::hash(&text).to_hex()[..32].to_owned()
    }
}

/// Strides with channels innermost for kernels of convolutions: own operations need that order, and
/// with them it is the fastest one everywhere.
fn strides(shape: &[i64]) -> Vec<i64> {
    match *shape {
        [_, inputs, height, width] => {
            vec![inputs * height * width, 1, width * inputs, inputs]
        }
        _ => (0..shape.len())
            .map(|axis| shape[axis + 1..].iter().product())
            .collect(),
    }
}

/// The state of one replica's network. `weights` and `gradients` are f32 of equal length, and so is
/// `momentum` unless the optimiser keeps more; the gaps between views always hold zeros.
pub struct Storage<G> {
    pub layout: FlatLayout<G>,
    pub weights: Tensor,
    pub gradients: Tensor,
    pub momentum: Tensor,
    /// Moving statistics, f32.
    pub statistics: Tensor,
    /// Gradients and moving statistics in one tensor: replicas exchange both at every step, in one
    /// operation.
    pub exchanged: Tensor,
    /// Leaves of the graph, in the order of the inventory.
    pub parameters: Vec<Tensor>,
    pub buffers: Vec<Tensor>,
    /// The statistics of one batch; empty until `set_batch_statistics_apart`.
    pub batch_statistics: BatchBuffers,
    /// bf16 copy of the convolutions' part.
    working: Option<Tensor>,
    /// Views of `gradients` that collect the tensors of a backward pass.
    places: Vec<Tensor>,
}

/// Statistics of one batch, laid out like the moving ones.
pub struct BatchBuffers {
    flat: Tensor,
    pub buffers: Vec<Tensor>,
}

impl<G> Storage<G> {
    /// Draws the initial weights from (seed, name).
    pub fn new(
        inventory: &Inventory,
        layout: FlatLayout<G>,
        seed: u64,
        device: Device,
    ) -> Result<Self, ShimError> {
        let _guard = tch::no_grad_guard();
        let flat = |length: usize, kind: Kind| Tensor::zeros([length as i64], (kind, device));
        let weights = flat(layout.length, Kind::Float);
        let exchanged = flat(layout.length + statistics_length(inventory), Kind::Float);
        let gradients = exchanged.narrow(0, 0, layout.length as i64);
        let statistics =
            exchanged.narrow(0, layout.length as i64, statistics_length(inventory) as i64);
        let working = layout
            .format
            .bf16
            .then(|| flat(layout.convolutions, Kind::BFloat16));
        let mut places = Vec::with_capacity(inventory.parameters.len());
        let mut parameters = Vec::with_capacity(inventory.parameters.len());
        for (index, note) in inventory.parameters.iter().enumerate() {
            let values = Tensor::from_slice(&draw(seed, &note.name, &note.shape, note.fill));
            view(&weights, note, &layout, index).copy_(&values.view(note.shape.as_slice()));
            let values = working
                .as_ref()
                .filter(|_| note.role.is_convolution())
                .unwrap_or(&weights);
            parameters.push(
                view(values, note, &layout, index)
                    .detach()
                    .set_requires_grad(true),
            );
            places.push(view(&gradients, note, &layout, index));
        }
        let buffers = buffers(inventory, seed, &statistics);
        let momentum = weights.zeros_like();
        let batch_statistics = BatchBuffers {
            flat: statistics.narrow(0, 0, 0),
            buffers: Vec::new(),
        };
        let mut storage = Self {
            layout,
            weights,
            gradients,
            momentum,
            statistics,
            exchanged,
            parameters,
            buffers,
            batch_statistics,
            working,
            places,
        };
        storage.refresh_working_copy();
        Ok(storage)
    }

    /// Rounds the working copy again; must be called after `weights` changed.
    pub fn refresh_working_copy(&mut self) {
        if let Some(copy) = &mut self.working {
            let masters = self.weights.narrow(0, 0, copy.size()[0]);
            tch::no_grad(|| copy.copy_(&masters));
        }
    }

    /// Allocates buffers for the statistics of one batch, separate from the moving ones.
    pub fn set_batch_statistics_apart(&mut self, inventory: &Inventory) {
        let _guard = tch::no_grad_guard();
        let flat = self.statistics.zeros_like();
        // the seed is for buffers that are drawn, and statistics are not
        let buffers = buffers(inventory, 0, &flat);
        self.batch_statistics = BatchBuffers { flat, buffers };
    }

    /// Computes moving += momentum * (batch - moving); `momentum` is on the device.
    pub fn take_in_batch_statistics(&self, momentum: &Tensor) {
        if self.statistics.numel() > 0 {
            let _guard = tch::no_grad_guard();
            let _ = self
                .statistics
                .shallow_clone()
                .lerp_tensor_(&self.batch_statistics.flat, momentum);
        }
    }

    /// Drops the gradients of a failed backward pass, so that nothing is added to them; call before
    /// each pass.
    pub fn forget_gradients(&self) -> Result<(), ShimError> {
        gradients::forget(&self.parameters)
    }

    /// Collects the gradients in f32 in `gradients`; must be called after a backward pass.
    pub fn collect_gradients(&self) -> Result<(), ShimError> {
        gradients::collect(&self.parameters, &self.places)
    }

    /// Returns the f32 view of a parameter in its declared shape, by index into the inventory.
    pub fn master(&self, inventory: &Inventory, index: usize) -> Tensor {
        let _guard = tch::no_grad_guard();
        view(
            &self.weights,
            &inventory.parameters[index],
            &self.layout,
            index,
        )
    }

    /// Returns the f32 gradient of a parameter in its declared shape; valid after
    /// `collect_gradients`.
    pub fn gradient(&self, inventory: &Inventory, index: usize) -> Tensor {
        let _guard = tch::no_grad_guard();
        view(
            &self.gradients,
            &inventory.parameters[index],
            &self.layout,
            index,
        )
    }
}

fn view<G>(flat: &Tensor, note: &ParameterNote, layout: &FlatLayout<G>, index: usize) -> Tensor {
    flat.as_strided(
        note.shape.as_slice(),
        layout.strides[index].as_slice(),
        layout.offsets[index] as i64,
    )
}

fn padded_length(note: &BufferNote) -> usize {
    (note.shape.iter().product::<i64>() as usize).next_multiple_of(ALIGNMENT)
}

fn statistics_length(inventory: &Inventory) -> usize {
    inventory.buffers.iter().map(padded_length).sum()
}

/// Fills a flat tensor with the initial values of all buffers and returns the view of each.
fn buffers(inventory: &Inventory, seed: u64, flat: &Tensor) -> Vec<Tensor> {
    let mut offset = 0;
    let view = |note: &BufferNote| {
        let length = note.shape.iter().product::<i64>();
        let mut view = flat.narrow(0, offset, length).view(note.shape.as_slice());
        view.copy_(
            &Tensor::from_slice(&draw(seed, &note.name, &note.shape, note.fill))
                .view(note.shape.as_slice()),
        );
        offset += padded_length(note) as i64;
        view
    };
    inventory.buffers.iter().map(view).collect()
}
