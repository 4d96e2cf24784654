//! The outcome of every simulated training, by its id alone: duration, accuracy, and whether it can
//! succeed. An undisturbed run and a disturbed one must both arrive at this.

use sweep::TrialId;
use sweep::record::{EpochRecord, FailureClass, Provenance, TrialResult};

use crate::random::mix;

fn hash(trial: TrialId) -> u64 {
    mix(trial.bits())
}

/// Returns the seconds of training.
pub fn work(trial: TrialId) -> u64 {
    3 + hash(trial) % 20
}

pub fn accuracy(trial: TrialId) -> f64 {
    (hash(trial) / 64 % 1000) as f64 / 1000.0
}

/// Returns the failure of trials that fail half-way on every worker.
pub fn doom(trial: TrialId) -> Option<FailureClass> {
    match hash(trial) / 7 % 24 {
        0 => Some(FailureClass::BadInput),
        1 => Some(FailureClass::NonFinite),
        _ => None,
    }
}

/// Returns a result signed by its attempt, so that a result accepted under another attempt would
/// show.
pub fn result(trial: TrialId, signature: String) -> TrialResult {
    let accuracy = accuracy(trial);
    let epoch = EpochRecord {
        train_loss: 0.1,
        accuracy: Some(accuracy),
        state_hash: trial.to_string(),
        ..EpochRecord::default()
    };
    TrialResult {
        classes: None,
        last_accuracy: accuracy,
        best_accuracy: accuracy,
        best_epoch: 0,
        last_balanced_accuracy: accuracy,
        train_loss: 0.1,
        eval_loss: 0.2,
        epochs: vec![epoch],
        provenance: Provenance {
            trainer: signature,
            ..Provenance::default()
        },
        timing: Default::default(),
    }
}
