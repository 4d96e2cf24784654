//! The training loop: load, step, report; after each epoch check that the loss is finite, evaluate,
//! checkpoint.
//!
//! Every replica runs it in step with the others; the one with a leader also keeps the record. The
//! host waits for the device at epoch borders only. Data, steps and records are in batches.rs,
//! replica.rs and leader.rs.

use std::time::{Duration, Instant};

use sweep::settings::Settings;
use tch::{Kind, Tensor};

use crate::attempt::checkpoint::Position;
use crate::attempt::evaluate::Evaluator;
use crate::attempt::leader::Leader;
use crate::attempt::open::Attempt;
use crate::device::collective::AbortOnDrop;
use crate::error::TrialError;
use crate::step::batches::NextBatch;
use crate::step::images::Images;
use crate::step::replica::{Replica, StepOptions};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainingEnd {
    Finished,
    /// Stopped on request; the leader has written a checkpoint.
    Stopped,
}

/// Trains from the attempt's start until the end or a stop. `leader` is present on rank 0.
pub fn train(
    attempt: &Attempt,
    replica: &mut Replica,
    images: &Images,
    evaluator: &mut Evaluator,
    mut leader: Option<&mut Leader>,
) -> Result<TrainingEnd, TrialError> {
    let mut position = attempt.start();
    let collective = replica.collective.clone();
    let guard = AbortOnDrop::new(&*collective);
    while position.epoch < attempt.spec().num_epochs() {
        let began = Instant::now();
        while position.step < attempt.pipeline.steps_per_epoch() {
            let NextBatch::Batch(batch) = attempt.batches.take(attempt.number(position))? else {
                stop(attempt, replica, position, began.elapsed(), leader)?;
                guard.finished();
                return Ok(TrainingEnd::Stopped);
            };
            attempt.strike(position, replica);
            if attempt.begins_second_phase(position) {
                replica.forget_momentum();
            }
            let shard = attempt
                .batches
                .shard(&batch, replica.shard(batch.len()), images);
            replica.train_step(&shard, attempt.step_options(position))?;
            position.step += 1;
            if let Some(leader) = &mut leader {
                leader.step_made(position, batch.len(), collective.num_completed());
            }
        }
        let epoch = position.epoch;
        let loss = loss_sums(replica)?.iter().sum::<f64>() / attempt.images_per_epoch as f64;
        if !loss.is_finite() {
            return Err(TrialError::NonFinite {
                loss: "training",
                epoch,
                value: loss,
            });
        }
        let trained = began.elapsed();
        let evaluates = attempt.spec().evaluates_after(epoch);
        let evaluation = if evaluates {
            Some(evaluator.evaluate(replica)?)
        } else {
            None
        };
        let evaluated = began.elapsed() - trained;
        replica.set_loss_sum(0.0);
        position = Position {
            epoch: epoch + 1,
            step: 0,
        };
        if let Some(leader) = &mut leader {
            leader.epoch_done(
                replica,
                position,
                loss,
                evaluation,
                attempt.batches.waited(),
                trained,
                evaluated,
            )?;
        }
    }
    guard.finished();
    Ok(TrainingEnd::Finished)
}

/// Stops at a step border: the state is written to disk, including the epoch's losses so far.
fn stop(
    attempt: &Attempt,
    replica: &Replica,
    position: Position,
    trained: Duration,
    leader: Option<&mut Leader>,
) -> Result<(), TrialError> {
    let loss_sums = loss_sums(replica)?;
    match leader {
        Some(leader) => leader.stopped(
            replica,
            position,
            loss_sums,
            attempt.batches.waited(),
            trained,
        ),
        None => Ok(()),
    }
}

/// Returns every replica's loss sum, on every replica. The sums stay separate, because adding them
/// in another order after a resume could change the last bit.
fn loss_sums(replica: &Replica) -> Result<Vec<f64>, TrialError> {
    let size = replica.collective.size();
    let mut sums = vec![0.0; size];
    sums[replica.collective.rank()] = replica.loss_sum()?;
    if size > 1 {
        let tensor = Tensor::from_slice(&sums)
            .to_kind(Kind::Double)
            .to_device(replica.device);
        replica.collective.all_reduce(&tensor)?;
        replica.wait()?;
        sums = Vec::try_from(&tensor.to_device(tch::Device::Cpu)).expect("a vector of f64");
    }
    Ok(sums)
}

impl Attempt {
    /// Returns the number of steps before this position, over all epochs.
    fn number(&self, position: Position) -> u64 {
        u64::from(position.epoch) * self.pipeline.steps_per_epoch() + position.step
    }

    fn step_options(&self, position: Position) -> StepOptions {
        let (learning_rate, new_layers_only) = learning_rate(self.settings(), position.epoch);
        let first_phase =
            u64::from(self.settings().first_phase()) * self.pipeline.steps_per_epoch();
        let steps_made = self.number(position).saturating_sub(first_phase);
        StepOptions {
            learning_rate,
            steps_made,
            new_layers_only,
        }
    }

    /// Returns true if the schedule starts here, after a first phase: the authors' code recompiles
    /// its optimiser there.
    fn begins_second_phase(&self, position: Position) -> bool {
        let first_phase = self.settings().first_phase();
        first_phase > 0
            && position
                == Position {
                    epoch: first_phase,
                    step: 0,
                }
    }

    fn strike(&self, position: Position, replica: &Replica) {
        if let Some(fault) = &self.slot.fault {
            let rank = replica.collective.rank();
            fault.strike(
                self.request.attempt.number,
                rank,
                position.epoch,
                position.step,
                Some(&replica.storage.weights),
            );
        }
    }
}

/// Returns an epoch's learning rate, and whether only the new layers are trained: fine-tuning
/// trains those first.
pub fn learning_rate(settings: &Settings, epoch: u32) -> (f64, bool) {
    let first_phase = settings.first_phase();
    if epoch < first_phase {
        return (settings.finetune_learning_rate, true);
    }
    (
        settings
            .schedule
            .learning_rate(settings.learning_rate, epoch - first_phase),
        false,
    )
}
