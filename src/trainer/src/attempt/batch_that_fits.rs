//! Finds the largest batch that would have fitted after one that did not, from the measured peaks
//! of two smaller ones.
//!
//! A step's memory is a fixed part (weights, momentum, workspaces) plus a part per image, so two
//! peaks give both. The answer is added to the failure's message; it is not used for a retry,
//! because another batch size is another trial.

use tch::Device;

use crate::attempt::open::Attempt;
use crate::device::shim::{self, CudaMemory};
use crate::error::{TrialError, caught};
use crate::step::batches::ImageShape;
use crate::step::replica::Replica;

/// Share of memory left free: an allocator that has been in use for a while cannot fill its last
/// gaps.
const MARGIN: f64 = 0.05;

/// Adds the largest batch that would have fitted to an out-of-memory error on a GPU. Corrupts the
/// state of the replica.
pub fn add_to(error: TrialError, replica: &mut Replica, attempt: &Attempt) -> TrialError {
    let (TrialError::OutOfMemory { what, .. }, Device::Cuda(index)) = (&error, replica.device)
    else {
        return error;
    };
    // if replicas share a device, none of them can measure the memory of all
    if attempt.shares_devices() || !attempt.measurement_claim.take() {
        return error;
    }
    let ImageShape { channels, side } = attempt.image;
    let too_many = replica.shard(attempt.pipeline.batch_size()).len();
    replica.retire();
    let peak_of = |images: usize| {
        shim::free_cached_cuda_memory()
            .and_then(|()| shim::reset_peak_cuda_memory(index))
            .ok()?;
        caught(|| replica.rehearse_passes(images, channels, side)).ok()?;
        shim::peak_cuda_memory(index).ok()
    };
    let memory = shim::free_cached_cuda_memory()
        .and_then(|()| shim::cuda_memory(index))
        .ok();
    let fits = memory.and_then(|memory| {
        let limit = limit(memory, attempt.slot.memory_share);
        largest_fitting(too_many, limit, peak_of)
    });
    attempt.measurement_claim.done();
    TrialError::OutOfMemory {
        what: what.clone(),
        fits: fits.map(|images| images * attempt.num_replicas()),
    }
}

/// Returns the bytes of a GPU that this process may take; `share` is its share of the whole GPU.
fn limit(memory: CudaMemory, share: f64) -> u64 {
    (memory.free + memory.allocated).min((memory.total as f64 * share) as u64)
}

/// Returns the largest number of images, below `too_many`, that fits in `limit` bytes, or `None` if
/// not even one does. `peak_of` runs a step with N images and returns its peak in bytes, or `None`
/// if memory ran out.
fn largest_fitting(
    too_many: usize,
    limit: u64,
    mut peak_of: impl FnMut(usize) -> Option<u64>,
) -> Option<usize> {
    let mut images = too_many / 2;
    let large = loop {
        if images == 0 {
            return None;
        }
        if let Some(peak) = peak_of(images) {
            break (images, peak);
        }
        images /= 2;
    };
    // a size measured to fit does fit, whatever the line through two points predicts
    let small = large.0.div_ceil(2);
    let peak = if small < large.0 {
        peak_of(small)
    } else {
        None
    };
    let Some(peak) = peak else {
        return Some(large.0);
    };
    let per_image = large.1.saturating_sub(peak) as f64 / (large.0 - small) as f64;
    if per_image <= 0.0 {
        return Some(large.0);
    }
    let room = limit as f64 * (1.0 - MARGIN) - large.1 as f64;
    let fitting = large.0 + (room / per_image).max(0.0) as usize;
    Some(fitting.min(too_many - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device on which `fixed + images * each` bytes are needed; also returns the sizes that were
    /// tried.
    fn measure(too_many: usize, limit: u64, fixed: u64, each: u64) -> (Option<usize>, Vec<usize>) {
        let mut asked = Vec::new();
        let fits = largest_fitting(too_many, limit, |images| {
            asked.push(images);
            let peak = fixed + images as u64 * each;
            (peak <= limit).then_some(peak)
        });
        (fits, asked)
    }

    #[test]
    fn neighbours_and_the_share_limit_what_may_be_taken() {
        let memory = CudaMemory {
            free: 60,
            total: 140,
            allocated: 20,
        };
        assert_eq!(limit(memory, 1.0), 80, "60 are another process's");
        assert_eq!(limit(memory, 0.25), 35);
    }

    #[test]
    fn two_peaks_give_the_batch_that_fits() {
        // 95 % of 1000, less 100 for the weights, at 10 per image
        assert_eq!(measure(128, 1000, 100, 10), (Some(85), vec![64, 32]));
        // halved until it fits
        assert_eq!(
            measure(1024, 1000, 100, 10),
            (Some(85), vec![512, 256, 128, 64, 32])
        );
    }

    #[test]
    fn it_is_never_the_batch_that_did_not_fit() {
        assert_eq!(measure(88, 1000, 100, 10).0, Some(85));
        // the margin gives 85; something other than images took the rest
        assert_eq!(measure(80, 1000, 100, 10).0, Some(79));
        assert_eq!(measure(2, 1000, 995, 4).0, Some(1));
        assert_eq!(
            measure(128, 1000, 1001, 4),
            (None, vec![64, 32, 16, 8, 4, 2, 1])
        );
    }

    #[test]
    fn what_was_measured_to_fit_is_enough() {
        // 94 fit, although the margin gives 85
        assert_eq!(measure(180, 1000, 100, 10).0, Some(90));
        assert_eq!(
            measure(64, 1000, 500, 0).0,
            Some(32),
            "memory that does not grow gives no estimate"
        );
    }
}
