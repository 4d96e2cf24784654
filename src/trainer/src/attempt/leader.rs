//! Rank 0's additional duties: progress, the record of each epoch, the hash chain, checkpoints and
//! the final result.
//!
//! Nothing here changes the training. Hashes chain the bits of weights, momentum and moving
//! statistics, so that equal chains mean bit-equal training (promise P6). Next: checkpoint.rs.

use std::time::{Duration, Instant};

use sweep::handoff::Progress;
use sweep::record::{EpochRecord, Provenance, Timing, TrialResult};
use sweep::trial::TRAINING_VERSION;
use tch::{Device, Tensor};

use crate::attempt::checkpoint::{Checkpoint, Header, Position};
use crate::attempt::checkpoint_writer::CheckpointWriter;
use crate::attempt::epoch_hashes::EpochHashes;
use crate::attempt::evaluate::Evaluation;
use crate::attempt::open::Attempt;
use crate::attempt::rate::Rate;
use crate::device::process;
use crate::error::TrialError;
use crate::step::precision;
use crate::step::replica::Replica;

pub struct Leader<'a> {
    attempt: &'a Attempt,
    requested_at: Instant,
    report: &'a mut dyn FnMut(Progress),
    writer: CheckpointWriter,
    earlier_hashes: EpochHashes,
    header: Header,
    progress: Progress,
    reported_at: Instant,
    saved_at: Instant,
    rate: Rate,
    /// Data wait of the previous attempts.
    waited_before: f64,
    has_begun: bool,
}

/// The flat state of a replica on the host.
struct Snapshot {
    weights: Vec<f32>,
    momentum: Vec<f32>,
    statistics: Vec<f32>,
    /// True on a GPU slot, where CPU cores are free while it waits; a slot of CPU threads has no
    /// spare ones.
    has_free_cores: bool,
}

impl Snapshot {
    fn of(replica: &Replica) -> Self {
        let storage = &replica.storage;
        Self {
            weights: values(&storage.weights),
            momentum: values(&storage.momentum),
            statistics: values(&storage.statistics),
            has_free_cores: storage.weights.device().is_cuda(),
        }
    }

    fn chain(&self, before: &str) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(before.as_bytes());
        for values in [&self.weights, &self.momentum, &self.statistics] {
            let bytes = process::bytes_of(values);
            if self.has_free_cores {
                hasher.update_rayon(bytes)
            } else {
                hasher.update(bytes)
            };
        }
        hasher.finalize().to_hex().to_string()
    }
}

fn fresh_header(attempt: &Attempt) -> Header {
    Header {
        trial: attempt.request.attempt.trial,
        training_version: TRAINING_VERSION,
        data_fingerprint: attempt.pipeline.fingerprint().to_owned(),
        position: Position::default(),
        num_replicas: attempt.num_replicas(),
        layout: String::new(),
        precision: precision::name(attempt.format).to_owned(),
        epochs: Vec::new(),
        chain: String::new(),
        last_balanced_accuracy: 0.0,
        eval_loss: 0.0,
        classes: None,
        images: 0,
        timing: Timing::default(),
    }
}

fn values(flat: &Tensor) -> Vec<f32> {
    Vec::try_from(&flat.to_device(Device::Cpu)).expect("a flat f32 tensor")
}

impl<'a> Leader<'a> {
    pub fn new(
        attempt: &'a Attempt,
        requested_at: Instant,
        report: &'a mut dyn FnMut(Progress),
    ) -> Self {
        let mut header = match &attempt.resumed {
            Some(checkpoint) => checkpoint.header.clone(),
            None => fresh_header(attempt),
        };
        let request = &attempt.request;
        let earlier = request.since..request.attempt.number;
        let now = Instant::now();
        let last = header.epochs.last();
        let progress = Progress {
            epoch: header.position.epoch,
            num_epochs: attempt.spec().num_epochs(),
            steps_per_epoch: attempt.pipeline.steps_per_epoch(),
            train_loss: last.map(|record| record.train_loss),
            accuracy: header
                .epochs
                .iter()
                .rev()
                .find_map(|record| record.accuracy),
            ..Progress::default()
        };
        header.timing.resumed_from_epoch = header.position.epoch;
        header.timing.start_s = 0.0;
        let waited_before = header.timing.data_wait_s;
        Self {
            attempt,
            requested_at,
            report,
            writer: CheckpointWriter::start(attempt.checkpoint_folder()),
            earlier_hashes: EpochHashes::open(&request.checkpoint_dir, earlier),
            header,
            progress,
            reported_at: now,
            saved_at: now,
            rate: Rate::new(now),
            waited_before,
            has_begun: false,
        }
    }

    /// Reports that everything is ready for the first step; `layout` is that of the replicas' flat
    /// buffers.
    pub fn begin(&mut self, layout: String) {
        self.header.layout = layout;
        let now = Instant::now();
        self.header.timing.start_s = now.duration_since(self.requested_at).as_secs_f64();
        (self.rate, self.saved_at, self.has_begun) = (Rate::new(now), now, true);
        tracing::info!(trial = %self.header.trial, epoch = self.header.position.epoch, "training");
        self.report(now);
    }

    pub fn step_made(&mut self, position: Position, images: usize, collectives: u64) {
        debug_assert!(self.has_begun, "begin comes first");
        self.header.images += images as u64;
        self.progress.epoch = position.epoch;
        self.progress.step += 1;
        self.progress.collectives = collectives;
        let now = Instant::now();
        self.rate.step_made(images, now);
        if now.duration_since(self.reported_at) >= self.attempt.slot.report_interval {
            self.report(now);
        }
    }

    fn report(&mut self, now: Instant) {
        self.progress.images_per_s = self.rate.per_s();
        self.reported_at = now;
        (self.report)(self.progress.clone());
    }

    /// Records an epoch; `position` is where the next one begins.
    #[allow(clippy::too_many_arguments)] // One call site; a record for it would only repeat the names.
    pub fn epoch_done(
        &mut self,
        replica: &Replica,
        position: Position,
        train_loss: f64,
        evaluation: Option<Evaluation>,
        waited: Duration,
        trained: Duration,
        evaluated: Duration,
    ) -> Result<(), TrialError> {
        let began = Instant::now();
        self.rate
            .epoch_ended(began.checked_sub(evaluated).unwrap_or(began));
        let snapshot = Snapshot::of(replica);
        let header = &mut self.header;
        header.chain = snapshot.chain(&header.chain);
        let found = evaluation.as_ref();
        let accuracy = found.map(|evaluation| evaluation.accuracy);
        let state_hash = header.chain[..16].to_owned();
        let epoch = position.epoch - 1;
        if !self.earlier_hashes.record(epoch, &state_hash)
            && header.timing.departed_at_epoch.is_none()
        {
            tracing::warn!(trial = %header.trial, epoch, "differs from the attempt before: it was not resumed bit for bit");
            header.timing.departed_at_epoch = Some(epoch);
        }
        header.epochs.push(EpochRecord {
            train_loss,
            accuracy,
            balanced_accuracy: found.map(|evaluation| evaluation.balanced_accuracy),
            top5_accuracy: found.map(|evaluation| evaluation.top5_accuracy),
            eval_loss: found
                .map(|evaluation| evaluation.loss)
                .filter(|loss| loss.is_finite()),
            state_hash,
        });
        if let Some(evaluation) = evaluation {
            header.last_balanced_accuracy = evaluation.balanced_accuracy;
            header.eval_loss = evaluation.loss;
            header.classes = Some(evaluation.classes);
            self.progress.accuracy = accuracy;
        }
        header.position = position;
        header.timing.train_s += trained.as_secs_f64();
        header.timing.evaluate_s += evaluated.as_secs_f64();
        header.timing.data_wait_s = self.waited_before + waited.as_secs_f64();
        self.progress.epoch = position.epoch;
        self.progress.train_loss = Some(train_loss);
        self.progress.collectives = replica.collective.num_completed();
        let due = self.saved_at.elapsed() >= self.attempt.slot.checkpoint_interval;
        if due && !self.writer.is_busy() {
            self.saved_at = began;
            let loss_sums = vec![0.0; self.header.num_replicas];
            self.save(snapshot, loss_sums)?;
        }
        self.header.timing.checkpoint_s += began.elapsed().as_secs_f64();
        tracing::info!(trial = %self.header.trial, epoch = position.epoch, "epoch done");
        self.report(Instant::now());
        self.rate.epoch_began(Instant::now());
        Ok(())
    }

    /// Writes the state at a step border to disk and waits for it.
    pub fn stopped(
        &mut self,
        replica: &Replica,
        position: Position,
        loss_sums: Vec<f64>,
        waited: Duration,
        trained: Duration,
    ) -> Result<(), TrialError> {
        self.header.position = position;
        self.header.timing.train_s += trained.as_secs_f64();
        self.header.timing.data_wait_s = self.waited_before + waited.as_secs_f64();
        self.save(Snapshot::of(replica), loss_sums)?;
        self.writer.finish()
    }

    fn save(&mut self, snapshot: Snapshot, loss_sums: Vec<f64>) -> Result<(), TrialError> {
        let Snapshot {
            weights,
            momentum,
            statistics,
            has_free_cores: _,
        } = snapshot;
        let checkpoint = Checkpoint {
            header: self.header.clone(),
            weights,
            momentum,
            statistics,
            loss_sums,
        };
        self.writer.write(checkpoint)
    }

    /// Returns the result of a finished trial. Waits for the last checkpoint, so that nothing is
    /// written after it.
    pub fn result(
        self,
        provenance: Provenance,
        peak_memory_mib: f64,
    ) -> Result<TrialResult, TrialError> {
        self.writer.finish()?;
        let Header {
            epochs,
            mut timing,
            images,
            last_balanced_accuracy,
            eval_loss,
            classes,
            ..
        } = self.header;
        timing.images_per_s = if timing.train_s > 0.0 {
            images as f64 / timing.train_s
        } else {
            0.0
        };
        timing.peak_memory_mib = peak_memory_mib;
        let evaluated = || {
            epochs
                .iter()
                .enumerate()
                .filter_map(|(epoch, record)| Some((epoch, record.accuracy?)))
        };
        let (_, last_accuracy) = evaluated()
            .next_back()
            .expect("the last epoch is evaluated");
        // training may recover from a non-finite loss, but a result must not contain one
        if !eval_loss.is_finite() {
            let epoch = epochs.len() as u32 - 1;
            return Err(TrialError::NonFinite {
                loss: "evaluation",
                epoch,
                value: eval_loss,
            });
        }
        // the first of equals
        let best = evaluated().reduce(|best, other| if other.1 > best.1 { other } else { best });
        let (best_epoch, best_accuracy) = best.expect("the last epoch is evaluated");
        Ok(TrialResult {
            classes,
            last_accuracy,
            best_accuracy,
            best_epoch: best_epoch as u32,
            last_balanced_accuracy,
            train_loss: epochs.last().expect("a trial has epochs").train_loss,
            eval_loss,
            epochs,
            provenance,
            timing,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Snapshot;

    /// Moving a trial between a GPU and a CPU does not by itself change its hashes.
    #[test]
    fn free_cores_do_not_change_the_hash() {
        let numbers = |len: usize| (0..len).map(|number| number as f32).collect::<Vec<_>>();
        let chain = |has_free_cores| {
            let (weights, momentum, statistics) = (numbers(300_000), numbers(300_000), numbers(10));
            Snapshot {
                weights,
                momentum,
                statistics,
                has_free_cores,
            }
            .chain("before")
        };
        assert_eq!(chain(true), chain(false));
    }
}
