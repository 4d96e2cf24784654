//! Distribution of batches: each replica asks for the same step and gets the same batch, or the
//! same order to stop.
//!
//! The first replica to ask takes the batch from the prefetch or decides to stop; the others get
//! its decision. So all replicas leave a trial at the same step without exchanging messages. Next:
//! images.rs, train.rs.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use data::{Batch, Prefetch};
use tch::{Device, Tensor};

use crate::device::shim;
use crate::error::TrialError;
use crate::step::images::Images;
use crate::step::replica::Shard;

/// The answer to a replica that asks for its next batch.
pub enum NextBatch {
    Batch(Arc<Batch>),
    /// A stop was requested before this step began.
    Stop,
}

/// The batches of one attempt, shared by its replicas.
pub struct Batches {
    state: Mutex<Distribution>,
    num_replicas: usize,
    stop: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug)]
pub struct ImageShape {
    pub channels: usize,
    pub side: usize,
}

struct Distribution {
    prefetch: Prefetch,
    /// Batches that some replicas have yet to take, with the number of replicas that have taken
    /// them.
    open: VecDeque<(u64, Arc<Batch>, usize)>,
    /// Number of the step at which all stop.
    stopped_at: Option<u64>,
    /// Number of the next step that no replica has asked for yet.
    next: u64,
}

impl Batches {
    /// Makes the batches of an attempt; `prefetch` begins at step `first`, counted over all epochs.
    pub fn new(prefetch: Prefetch, first: u64, num_replicas: usize, stop: Arc<AtomicBool>) -> Self {
        let state = Distribution {
            prefetch,
            open: VecDeque::new(),
            stopped_at: None,
            next: first,
        };
        Self {
            state: Mutex::new(state),
            num_replicas,
            stop,
        }
    }

    /// Returns the batch of a step, counted over all epochs. Every replica asks for every step, in
    /// order.
    pub fn take(&self, number: u64) -> Result<NextBatch, TrialError> {
        let mut state = self
            .state
            .lock()
            .map_err(|_| TrialError::Crashed("a replica panicked".to_owned()))?;
        if state
            .stopped_at
            .is_some_and(|stopped_at| number >= stopped_at)
        {
            return Ok(NextBatch::Stop);
        }
        if number == state.next {
            if self.stop.load(Ordering::Relaxed) {
                state.stopped_at = Some(number);
                return Ok(NextBatch::Stop);
            }
            let batch = state
                .prefetch
                .next()
                .map_err(|error| TrialError::Crashed(error.to_string()))?;
            let batch = batch.expect("the prefetch lasts as long as the trial");
            state.open.push_back((number, Arc::new(batch), 0));
            state.next += 1;
        }
        let open = state
            .open
            .iter_mut()
            .find(|(open, ..)| *open == number)
            .expect("every replica asks once");
        open.2 += 1;
        let batch = open.1.clone();
        let num_replicas = self.num_replicas;
        state.open.retain(|&(_, _, taken)| taken < num_replicas);
        Ok(NextBatch::Batch(batch))
    }

    /// Returns one replica's part of a batch as tensors.
    pub fn shard(&self, batch: &Batch, shard: Range<usize>, images: &Images) -> Shard {
        let device = images.device;
        let mixed = batch.mix.as_ref().map(|mix| {
            (
                labels_tensor(&mix.labels[shard.clone()], device),
                f64::from(mix.lambda),
            )
        });
        Shard {
            images: images.train(batch, shard.clone()),
            labels: labels_tensor(&batch.labels[shard], device),
            mixed,
            batch_len: batch.len(),
        }
    }

    /// Returns the time that steps waited for data.
    pub fn waited(&self) -> Duration {
        self.state
            .lock()
            .map_or(Duration::ZERO, |state| state.prefetch.waited())
    }
}

impl ImageShape {
    /// Returns f32 [batch, channels, side, side] with channels innermost, from pixels in that
    /// order.
    pub fn tensor(self, pixels: &[f32], device: Device) -> Tensor {
        let (channels, side) = (self.channels as i64, self.side as i64);
        let count = pixels.len() as i64 / (channels * side * side);
        let pixels = upload(Tensor::from_slice(pixels), device);
        let pixels = pixels.view([count, side, side, channels]);
        self.arrange(&pixels.permute([0, 3, 1, 2]))
    }

    /// Gives images the strides that the network expects: with one channel both orders of memory
    /// are the same and libtorch chooses the strides of the other.
    pub fn arrange(self, images: &Tensor) -> Tensor {
        if self.channels > 1 {
            return images.shallow_clone();
        }
        shim::channels_last(images).unwrap_or_else(|_| images.shallow_clone())
    }
}

/// Copies values to a device without waiting. Panics where libtorch's own operations fail.
pub fn upload(values: Tensor, device: Device) -> Tensor {
    let Device::Cuda(index) = device else {
        return values;
    };
    shim::upload(&values, index).unwrap_or_else(|error| panic!("to {device:?}: {error}"))
}

pub fn labels_tensor(labels: &[u32], device: Device) -> Tensor {
    let labels: Vec<i64> = labels.iter().map(|&label| i64::from(label)).collect();
    upload(Tensor::from_slice(&labels), device)
}
