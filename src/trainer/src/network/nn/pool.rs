//! Parameter-free layers: pooling and padding, with TensorFlow's asymmetric 'same' rule beside
//! PyTorch's symmetric one.
//!
//! All work on [batch, channels, height, width] and keep the memory format. Next: layers.rs.

use tch::{Kind, Tensor};

/// Applies TensorFlow's 'same' rule to one axis: returns the zeros before and after for ceil(size /
/// stride) outputs. With stride 2 on an even size the single zero goes after.
pub fn same_padding(size: i64, kernel: i64, stride: i64) -> (i64, i64) {
    let outputs = (size + stride - 1) / stride;
    let total = ((outputs - 1) * stride + kernel - size).max(0);
    (total / 2, total - total / 2)
}

/// Pads the last two axes with zeros: (left, right, top, bottom).
pub fn pad_zero(x: &Tensor, [left, right, top, bottom]: [i64; 4]) -> Tensor {
    if [left, right, top, bottom] == [0; 4] {
        return x.shallow_clone();
    }
    x.constant_pad_nd([left, right, top, bottom])
}

pub fn max_pool(x: &Tensor, kernel: i64, stride: i64, padding: i64) -> Tensor {
    x.max_pool2d([kernel; 2], [stride; 2], [padding; 2], [1, 1], false)
}

/// Averages [batch, channels, height, width] to f32 [batch, channels], in any working precision.
pub fn global_avg_pool(x: &Tensor) -> Tensor {
    x.mean_dim([2i64, 3].as_slice(), false, Kind::Float)
}
