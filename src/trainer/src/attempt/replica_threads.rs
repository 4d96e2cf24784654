//! The threads of an attempt, one per replica: how they end, and which of their failures becomes
//! the attempt's.
//!
//! A replica that hangs cannot be joined: it is abandoned after a while, and the worker ends the
//! process. Knows nothing of what replicas do. Next: replicas.rs, which starts them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::TrialError;

/// Time to wait for replicas after one has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time to wait for one that measures which batch would have fitted, and selects kernels again in
/// each of its steps.
const MEASURING_PATIENCE: Duration = Duration::from_secs(60);

/// Returns the failure that best shows the cause, the first of equals; without a failure, the
/// result of rank 0.
pub fn clearest<T>(mut results: Vec<Result<T, TrialError>>) -> Result<T, TrialError> {
    let failures = results
        .iter()
        .enumerate()
        .filter_map(|(rank, result)| Some((rank, result.as_ref().err()?)));
    let clearest = failures
        .min_by_key(|(_, error)| error.cause_rank())
        .map_or(0, |(rank, _)| rank);
    results.swap_remove(clearest)
}

/// Joins a replica's thread; `None` if it still runs and the wait after another replica's failure
/// is over.
pub fn join<T>(
    thread: JoinHandle<Result<T, TrialError>>,
    failed_at: Option<Instant>,
    claim: &MeasurementClaim,
) -> Option<Result<T, TrialError>> {
    if let Some(failed_at) = failed_at {
        while !thread.is_finished() && claim.is_worth_waiting(failed_at.elapsed()) {
            thread::sleep(Duration::from_millis(10));
        }
        if !thread.is_finished() {
            return None;
        }
    }
    Some(
        thread
            .join()
            .unwrap_or_else(|payload| Err(TrialError::from_panic(&*payload))),
    )
}

/// The claim to measure which batch would have fitted, taken by the first replica of a group that
/// runs out of memory.
#[derive(Default)]
pub struct MeasurementClaim {
    is_taken: AtomicBool,
    is_done: AtomicBool,
}

impl MeasurementClaim {
    /// Returns true if the caller takes the claim.
    pub fn take(&self) -> bool {
        !self.is_taken.swap(true, Ordering::Relaxed)
    }

    pub fn done(&self) {
        self.is_done.store(true, Ordering::Relaxed);
    }

    /// Returns true if a replica should still be awaited at this time after the group's failure.
    fn is_worth_waiting(&self, waited: Duration) -> bool {
        let is_measuring =
            self.is_taken.load(Ordering::Relaxed) && !self.is_done.load(Ordering::Relaxed);
        waited
            < if is_measuring {
                MEASURING_PATIENCE
            } else {
                PATIENCE
            }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::device::collective::CollectiveError;

    fn out_of_memory(fits: Option<usize>) -> TrialError {
        TrialError::OutOfMemory {
            what: "CUDA out of memory".to_owned(),
            fits,
        }
    }

    fn reported(results: Vec<Result<(), TrialError>>) -> String {
        clearest(results).unwrap_err().to_string()
    }

    #[test]
    fn the_failure_nearest_to_the_cause_is_the_attempts() {
        let aborted = || {
            TrialError::from(CollectiveError::Aborted {
                rank: 1,
                reason: "it ended early".to_owned(),
            })
        };
        let reason = "NCCL: unhandled cuda error".to_owned();
        let nccl = || {
            TrialError::from(CollectiveError::Failed {
                operation: "all-reduce",
                reason: reason.clone(),
            })
        };
        let device = || TrialError::BadDevice {
            what: "ECC".to_owned(),
            devices: vec!["cuda:1".to_owned()],
        };
        let after_its_device = reported(vec![Err(nccl()), Err(device()), Err(aborted())]);
        assert_eq!(after_its_device, device().to_string());
        assert_eq!(
            reported(vec![Ok(()), Err(aborted()), Err(nccl())]),
            nccl().to_string()
        );
        assert_eq!(
            reported(vec![Err(aborted()), Err(out_of_memory(None))]),
            out_of_memory(None).to_string()
        );
        let measured = reported(vec![Err(out_of_memory(None)), Err(out_of_memory(Some(96)))]);
        assert_eq!(measured, out_of_memory(Some(96)).to_string());
        assert_eq!(clearest(vec![Ok(0), Ok(1)]).unwrap(), 0);
    }

    #[test]
    fn the_replica_that_measures_is_waited_for_longer() {
        let claim = MeasurementClaim::default();
        let is_worth_waiting = |seconds| claim.is_worth_waiting(Duration::from_secs(seconds));
        assert!(is_worth_waiting(1) && !is_worth_waiting(6));
        assert!(claim.take() && !claim.take(), "one replica measures");
        assert!(is_worth_waiting(6) && !is_worth_waiting(61));
        claim.done();
        assert!(!is_worth_waiting(6));
    }

    #[test]
    fn a_replica_that_hangs_is_left_behind() {
        let long_ago = Instant::now().checked_sub(2 * PATIENCE);
        let (_hung, order) = channel::<()>();
        let thread = thread::spawn(move || {
            order
                .recv()
                .map_err(|_| TrialError::Crashed("let go".to_owned()))
        });
        assert!(join(thread, long_ago, &MeasurementClaim::default()).is_none());
        let panicking = thread::spawn(|| panic!("CUDA out of memory"));
        let failure = join::<()>(panicking, None, &MeasurementClaim::default())
            .expect("it ends")
            .unwrap_err();
        assert!(
            matches!(failure, TrialError::OutOfMemory { .. }),
            "{failure}"
        );
    }
}
