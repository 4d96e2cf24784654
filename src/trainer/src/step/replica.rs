//! One device's copy of the model, and one training step on it.
//!
//! A step is: forward, loss, backward, sum of gradients over replicas, update. The host reads
//! nothing back within it; the loss is summed on the device and read once an epoch. Each loss is
//! divided by the size of the whole batch, so that the sum of the replicas' gradients is the whole
//! batch's, however uneven the shards. On a GPU what changes from step to step lies on the device,
//! so that steps can be recorded. Next: cuda_graph_steps.rs, train.rs.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use sweep::Settings;
use tch::{Device, Kind, Tensor};

use crate::device::collective::{Collective, CollectiveError};
use crate::device::cuda::{self, RunAhead};
use crate::device::shim::Event;
use crate::error::TrialError;
use crate::network::models;
use crate::network::nn::{
    Builder, FlatLayout, Format, Inventory, Mode, Network, Options, OwnOperations, Pass, Storage,
};
use crate::step::cuda_graph_steps::Steps;
use crate::step::head::Head;
use crate::step::loss::{Criterion, Outputs};
use crate::step::moving_statistics::MovingStatistics;
use crate::step::optimiser::{Group, Optimiser};

/// Busy part of a wait: longer than a step worth recording, because such waits time the steps
/// (cuda_graph_steps.rs).
const AWAKE: Duration = Duration::from_millis(5);

/// Everything that the replicas of a trial are built from.
pub struct Blueprint<'a> {
    pub settings: &'a Settings,
    pub seed: u64,
    pub channels: usize,
    pub num_classes: usize,
    /// Row-major [classes, classes], for hierarchies.
    pub embeddings: Option<&'a [f32]>,
    pub format: Format,
    /// Longest time that the device may take for its queued work before it counts as stuck.
    pub deadline: Duration,
}

/// One replica's part of a batch, on its device.
pub struct Shard {
    /// f32 [shard, channels, side, side].
    pub images: Tensor,
    /// int64 `[shard]`.
    pub labels: Tensor,
    /// CutMix: labels of the partners, and the weight of the sample's own label.
    pub mixed: Option<(Tensor, f64)>,
    /// Images of the whole batch.
    pub batch_len: usize,
}

/// A replica's outcome for some images: a value per image, `[batch]`.
pub struct Judged {
    pub losses: Tensor,
    /// True where the decision rule finds the label.
    pub hits: Tensor,
    /// True where the label is one of the five classes that fit best.
    pub top5_hits: Tensor,
    /// How well each class fits, `[batch, classes]`.
    pub scores: Tensor,
}

impl Shard {
    pub fn len(&self) -> usize {
        self.labels.size()[0] as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Inputs of the step before the update, besides the images.
#[derive(Clone, Copy, Debug)]
pub struct StepOptions {
    pub learning_rate: f64,
    /// Batches already in the moving statistics, over all epochs and attempts.
    pub steps_made: u64,
    /// The first phase of fine-tuning: new fully connected layers learn, everything else stays as
    /// it is.
    pub new_layers_only: bool,
}

pub struct Replica {
    pub collective: Arc<dyn Collective>,
    pub device: Device,
    pub inventory: Inventory,
    pub storage: Storage<Group>,
    network: Network,
    head: Head,
    criterion: Criterion,
    optimiser: Optimiser,
    pub(super) moving_statistics: MovingStatistics,
    /// Operations that use the shim's kernels instead of libtorch's.
    pub own_operations: OwnOperations,
    pub(super) format: Format,
    /// Present if steps can be recorded.
    pub(super) steps: Option<Steps>,
    run_ahead: RunAhead<Event>,
    /// See `Blueprint`.
    deadline: Duration,
    /// Sum of this replica's losses over the samples of the epoch so far, f64, on the device.
    loss_sum: Tensor,
}

impl Replica {
    pub fn new(
        blueprint: &Blueprint,
        collective: Arc<dyn Collective>,
        device: Device,
    ) -> Result<Self, TrialError> {
        let settings = blueprint.settings;
        let builder = Builder::new(Options {
            init: settings.init,
            batch_norm_eps: settings.batch_norm_eps,
        });
        let network = models::build(settings.model, &builder, blueprint.channels as i64);
        let classifier = models::classifier_name(settings.model);
        let num_classes = blueprint.num_classes as i64;
        let head = Head::new(
            settings,
            &builder,
            classifier,
            network.num_features,
            num_classes,
        );
        let criterion = Criterion::new(settings, blueprint.embeddings, num_classes, device);
        let inventory = builder.inventory();
        let layout = FlatLayout::new(&inventory, blueprint.format, |note| {
            Group::of(note, settings, classifier)
        });
        let mut storage = Storage::new(&inventory, layout, blueprint.seed, device)?;
        let optimiser = Optimiser::new(settings, device);
        optimiser.prepare(&mut storage);
        let mut replica = Self {
            moving_statistics: MovingStatistics::new(settings, &collective),
            collective,
            device,
            inventory,
            storage,
            network,
            head,
            criterion,
            optimiser,
            own_operations: OwnOperations::default(),
            format: blueprint.format,
            steps: None,
            run_ahead: RunAhead::default(),
            deadline: blueprint.deadline,
            loss_sum: Tensor::zeros([], (Kind::Double, device)),
        };
        if device.is_cuda() {
            replica.keep_statistics_weight_on_device();
        }
        Ok(replica)
    }

    pub(super) fn keep_statistics_weight_on_device(&mut self) {
        self.moving_statistics.keep_weight_on_device(
            &mut self.storage,
            &self.inventory,
            self.device,
        );
    }

    /// Returns this replica's images of a batch: `batch / size` each, the last rank also takes the
    /// remainder (Keras).
    pub fn shard(&self, batch_len: usize) -> Range<usize> {
        shard(batch_len, self.collective.rank(), self.collective.size())
    }

    /// Makes one step on this replica's part of the batch.
    pub fn train_step(&mut self, shard: &Shard, options: StepOptions) -> Result<(), TrialError> {
        let made = match self.steps.take() {
            None => self.queue_step(shard, options),
            Some(mut steps) => {
                let made = steps.step(self, shard, options);
                self.steps = Some(steps);
                made
            }
        };
        made?;
        let mut run_ahead = std::mem::take(&mut self.run_ahead);
        let kept_close = self.keep_close(&mut run_ahead);
        self.run_ahead = run_ahead;
        kept_close
    }

    /// Waits, after work was queued, until the device is not far behind.
    pub fn keep_close(&self, run_ahead: &mut RunAhead<Event>) -> Result<(), TrialError> {
        let Device::Cuda(index) = self.device else {
            return Ok(());
        };
        let mark = Event::record(index)?;
        Ok(run_ahead.queued(mark, &*self.collective, self.deadline)?)
    }

    /// Queues a step, one operation after the other.
    pub fn queue_step(&mut self, shard: &Shard, options: StepOptions) -> Result<(), TrialError> {
        self.prepare(options);
        self.passes(shard, options)?;
        if options.new_layers_only {
            // moving statistics do not change by a single bit
            self.collective.all_reduce(&self.storage.gradients)?;
        } else {
            self.sum_over_replicas(shard)?;
        }
        self.optimiser
            .step(&mut self.storage, options.new_layers_only);
        Ok(())
    }

    /// Copies to the device what changes from step to step.
    pub fn prepare(&mut self, options: StepOptions) {
        self.optimiser.set_learning_rate(options.learning_rate);
        self.moving_statistics.prepare(options.steps_made);
    }

    /// Runs forward and backward pass; afterwards `storage.gradients` holds this replica's part.
    pub fn passes(&mut self, shard: &Shard, options: StepOptions) -> Result<(), TrialError> {
        self.storage.forget_gradients()?;
        // An empty shard adds nothing, but with synchronised statistics the other replicas wait for
        // its zero sums.
        if !shard.is_empty() || self.moving_statistics.is_synchronised() {
            self.moving_statistics.set_batch_len(shard.batch_len);
            let losses = self.losses(shard, options);
            let total = losses.sum(Kind::Float);
            let backward = (&total / shard.batch_len as f64).f_backward();
            self.check(backward)?;
            let _ = self.loss_sum.g_add_(&total.detach());
        }
        self.storage.collect_gradients()?;
        Ok(())
    }

    /// Makes the next update the first one for its momentum.
    pub fn forget_momentum(&mut self) {
        let _ = self.storage.momentum.zero_();
    }

    /// Makes the update of a step whose gradients are summed.
    pub fn update(&mut self) {
        self.optimiser.step(&mut self.storage, false);
    }

    /// Sums the shards' gradients and moving statistics to those of the whole batch.
    pub fn sum_over_replicas(&mut self, shard: &Shard) -> Result<(), CollectiveError> {
        if self.collective.size() == 1 || self.moving_statistics.is_synchronised() {
            return self.collective.all_reduce(&self.storage.gradients);
        }
        let share = shard.len() as f64 / shard.batch_len as f64;
        let _ = self.storage.statistics.g_mul_scalar_(share);
        self.collective.all_reduce(&self.storage.exchanged)
    }

    /// Returns the loss of each sample of the shard.
    fn losses(&self, shard: &Shard, options: StepOptions) -> Tensor {
        let outputs = if options.new_layers_only {
            self.outputs_of_frozen_network(&shard.images)
        } else {
            self.training_outputs(shard, options.steps_made)
        };
        let losses = self.criterion.per_sample(&outputs, &shard.labels);
        match &shard.mixed {
            None => losses,
            Some((partners, own)) => {
                losses * *own + self.criterion.per_sample(&outputs, partners) * (1.0 - own)
            }
        }
    }

    fn training_outputs(&self, shard: &Shard, steps_made: u64) -> Outputs {
        let pass = |batch_norm_momentum| {
            self.pass(Mode::Train {
                batch_norm_momentum,
            })
        };
        match self.moving_statistics.weight_on_device() {
            // a single image may have no statistics to add
            Some(weight) if shard.len() > 1 => {
                // the statistics of this batch alone, then their part in the moving ones
                let of_batch = Pass {
                    buffers: &self.storage.batch_statistics.buffers,
                    ..pass(1.0)
                };
                let outputs = self.outputs(&shard.images, &of_batch);
                self.storage.take_in_batch_statistics(weight);
                outputs
            }
            _ => {
                let weight = self.moving_statistics.weight(steps_made);
                self.outputs(&shard.images, &pass(weight))
            }
        }
    }

    /// Returns outputs that only the head learns from, like layers frozen in Keras (2.2): they are
    /// normalised with batch statistics, which are not stored.
    fn outputs_of_frozen_network(&self, images: &Tensor) -> Outputs {
        let frozen = self.pass(Mode::Train {
            batch_norm_momentum: 0.0,
        });
        let features = tch::no_grad(|| self.network.forward(images, &frozen));
        self.head.forward(&features, &frozen)
    }

    /// Evaluates some images with the moving statistics.
    pub fn evaluate(&self, images: &Tensor, labels: &Tensor) -> Judged {
        let _guard = tch::no_grad_guard();
        let outputs = self.outputs(images, &self.pass(Mode::Evaluate));
        let scores = self.criterion.scores(&outputs);
        Judged {
            losses: self.criterion.per_sample(&outputs, labels),
            hits: self.criterion.hits(&scores, labels),
            top5_hits: self.criterion.top5_hits(&scores, labels),
            scores,
        }
    }

    fn outputs(&self, images: &Tensor, pass: &Pass) -> Outputs {
        self.head.forward(&self.network.forward(images, pass), pass)
    }

    fn pass(&self, mode: Mode) -> Pass<'_> {
        Pass {
            parameters: &self.storage.parameters,
            buffers: &self.storage.buffers,
            mode,
            synchronised: self.moving_statistics.reduction(),
            own_operations: self.own_operations,
        }
    }

    /// Returns a failed pass as the group's failure if the group has one, else as libtorch's. Does
    /// not wait for the device, which a step that is being recorded must not do.
    fn check<T>(&self, result: Result<T, tch::TchError>) -> Result<T, TrialError> {
        result.or_else(|error| {
            self.collective.check()?;
            Err(TrialError::from_panic(&error.to_string()))
        })
    }

    /// Blocks until the device has finished its queued work, its deadline passes or the group
    /// fails. Call it before the host reads a value: the read itself would wait for ever.
    pub fn wait(&self) -> Result<(), TrialError> {
        self.collective.wait()?;
        let Device::Cuda(index) = self.device else {
            return Ok(());
        };
        let mark = Event::record(index)?;
        Ok(cuda::wait_for(
            &mark,
            "the end of what was queued",
            &*self.collective,
            self.deadline,
            AWAKE,
        )?)
    }

    /// Returns this replica's loss sum of the epoch so far. Waits for the device.
    pub fn loss_sum(&self) -> Result<f64, TrialError> {
        self.wait()?;
        Ok(self.loss_sum.double_value(&[]))
    }

    pub fn set_loss_sum(&mut self, value: f64) {
        let _ = self.loss_sum.fill_(value);
    }
}

/// See `Replica::shard`.
pub fn shard(batch_len: usize, rank: usize, size: usize) -> Range<usize> {
    let step = batch_len / size;
    let end = if rank + 1 == size {
        batch_len
    } else {
        (rank + 1) * step
    };
    rank * step..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_follow_keras_and_cover_the_batch() {
        assert_eq!(
            (0..4).map(|rank| shard(10, rank, 4)).collect::<Vec<_>>(),
            [0..2, 2..4, 4..6, 6..10]
        );
        assert_eq!(
            (0..4).map(|rank| shard(3, rank, 4)).collect::<Vec<_>>(),
            [0..0, 0..0, 0..0, 0..3]
        );
        assert_eq!(shard(7, 0, 1), 0..7);
    }
}
