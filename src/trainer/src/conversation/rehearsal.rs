//! A trainer that replies without training: to measure the cost of dispatch, and for injected
//! faults without libtorch.
//!
//! `serve --rehearse` replies to every run with a made-up result that depends on the trial's id
//! alone, epoch by epoch, taking a given time for each. It leaves no checkpoint: a stopped
//! rehearsal starts over. Next: serve.rs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sweep::handoff::{Progress, RunRequest};
use sweep::record::{EpochRecord, Provenance, Timing, TrialResult};

use crate::attempt::AttemptEnd;
use crate::attempt::fault::Fault;
use crate::conversation::serve::Runner;
use crate::device::process;
use crate::error::TrialError;

pub struct Rehearsal {
    pub epoch: Duration,
    pub fault: Option<Fault>,
}

impl Runner for Rehearsal {
    fn run(
        &mut self,
        request: &RunRequest,
        stop: &Arc<AtomicBool>,
        report: &mut dyn FnMut(Progress),
    ) -> Result<AttemptEnd, TrialError> {
        let spec = &request.spec;
        let num_epochs = spec.num_epochs();
        let mut epochs = Vec::new();
        for epoch in 0..num_epochs {
            if stop.load(Ordering::Relaxed) {
                return Ok(AttemptEnd::Stopped);
            }
            if let Some(fault) = &self.fault {
                fault.strike(request.attempt.number, 0, epoch, 0, None);
            }
            std::thread::sleep(self.epoch);
            let hash = blake3::hash(format!("{} {epoch}", request.attempt.trial).as_bytes());
            let accuracy = f64::from(hash.as_bytes()[0]) / 255.0;
            epochs.push(EpochRecord {
                train_loss: 1.0 / f64::from(epoch + 1),
                accuracy: spec.evaluates_after(epoch).then_some(accuracy),
                state_hash: hash.to_hex()[..16].to_owned(),
                ..EpochRecord::default()
            });
            // without a pause there is nothing to watch
            if !self.epoch.is_zero() {
                let progress = Progress {
                    epoch: epoch + 1,
                    num_epochs,
                    ..Progress::default()
                };
                report(Progress {
                    step: u64::from(epoch) + 1,
                    steps_per_epoch: 1,
                    ..progress
                });
            }
        }
        Ok(AttemptEnd::Finished(Box::new(result(epochs))))
    }
}

fn result(epochs: Vec<EpochRecord>) -> TrialResult {
    let accuracy = |record: &EpochRecord| record.accuracy.unwrap_or(0.0);
    let best_epoch = (0..epochs.len())
        .rev()
        .max_by(|&a, &b| accuracy(&epochs[a]).total_cmp(&accuracy(&epochs[b])));
    let best_epoch = best_epoch.unwrap_or(0);
    let last_accuracy = epochs.last().map_or(0.0, accuracy);
    TrialResult {
        classes: None,
        last_accuracy,
        best_accuracy: epochs.get(best_epoch).map_or(0.0, accuracy),
        best_epoch: best_epoch as u32,
        last_balanced_accuracy: last_accuracy,
        train_loss: epochs.last().map_or(0.0, |record| record.train_loss),
        eval_loss: 0.0,
        epochs,
        provenance: Provenance {
            trainer: format!("{} (rehearsal)", sweep::build()),
            host: process::host_name(),
            ..Provenance::default()
        },
        timing: Timing::default(),
    }
}
