//! Passes on made-up images, to measure the memory that a batch takes. Used by
//! attempt/batch_that_fits.rs after memory ran out.

use std::sync::Arc;

use tch::{Kind, Tensor};

use crate::device::collective::Solo;
use crate::error::TrialError;
use crate::step::replica::{Replica, Shard, StepOptions};

impl Replica {
    /// Leaves the failed group and drops recordings, which hold memory of their own. For
    /// `rehearse_passes`.
    pub fn retire(&mut self) {
        self.collective = Arc::new(Solo::default());
        // those of per-replica statistics would take different memory
        self.moving_statistics.change_group(&self.collective);
        self.steps = None;
    }

    /// Runs forward and backward pass on N zero images to measure their memory. Corrupts the
    /// replica's trained state.
    pub fn rehearse_passes(
        &mut self,
        images: usize,
        channels: usize,
        side: usize,
    ) -> Result<(), TrialError> {
        let size = [images as i64, side as i64, side as i64, channels as i64];
        let shard = Shard {
            images: Tensor::zeros(size, (Kind::Float, self.device)).permute([0, 3, 1, 2]),
            labels: Tensor::zeros([images as i64], (Kind::Int64, self.device)),
            mixed: None,
            batch_len: images,
        };
        self.passes(
            &shard,
            StepOptions {
                learning_rate: 0.0,
                steps_made: 0,
                new_layers_only: false,
            },
        )?;
        self.loss_sum().map(drop)
    }
}
