//! Networks without a framework: declared parameters, layers that look them up, one flat buffer for
//! all of them.
//!
//! A model is built with a `Builder`, which only records declarations (names, shapes, roles,
//! initial fills). `Storage` then places every declared parameter in flat buffers, and a `Pass`
//! gives the layers their views while they run. Nothing here knows losses, optimisers or devices.
//! Read builder.rs, then layers.rs, then storage.rs.

mod builder;
mod convolution;
#[cfg(test)]
mod convolution_tests;
mod init;
mod layers;
mod norm;
#[cfg(test)]
mod norm_tests;
mod pass;
mod pool;
mod storage;

pub use builder::{Builder, Family, Fill, Inventory, Network, Options, ParameterNote, Role};
pub use convolution::has_products;
pub use layers::{BatchNorm, Conv2d, ConvOptions, Linear, Padding};
pub use pass::{Mode, OwnOperations, Pass, StatisticsReduction};
pub use pool::{global_avg_pool, max_pool, pad_zero};
pub use storage::{FlatLayout, Format, Storage};
