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
use sweep::settings::{BatchNorm, Init};
use tch::{Device, Kind, Tensor};

use crate::device::collective::{Collective, CollectiveError, Solo};
use crate::device::cuda::{self, RunAhead};
use crate::device::hardware::Hardware;
use crate::device::shim::Event;
use crate::error::TrialError;
use crate::network::models;
use crate::network::nn::{
    Builder, Format, Inventory, Layout, Mode, Network, Options, OwnOperations, Pass,
    StatisticsReduction, Storage, has_products,
};
use crate::step::cuda_graph_steps::{Policy, StepRecorder, Steps};
use crate::step::head::Head;
use crate::step::loss::{Criterion, Outputs};
use crate::step::optimiser::{Group, Sgd};
use crate::step::synchronised_statistics::BatchStatistics;

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
    optimiser: Sgd,
    synchronised: Option<BatchStatistics>,
    batch_norm: MovingAverage,
    /// Weight of the batch in the moving statistics, if it is kept on the device.
    momentum_on_device: Option<(f64, Tensor)>,
    own_operations: OwnOperations,
    format: Format,
    /// Present if steps can be recorded.
    steps: Option<Steps>,
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
        let layout = Layout::new(&inventory, blueprint.format, |note| {
            Group::of(note, settings, classifier)
        });
        let storage = Storage::new(&inventory, layout, blueprint.seed, device)?;
        let shared = collective.size() > 1 && settings.batch_norm == BatchNorm::Synchronised;
        let replica = Self {
            synchronised: shared.then(|| BatchStatistics::new(collective.clone())),
            collective,
            device,
            inventory,
            storage,
            network,
            head,
            criterion,
            optimiser: Sgd::new(settings, device),
            batch_norm: MovingAverage::of(settings),
            momentum_on_device: None,
            own_operations: OwnOperations::default(),
            format: blueprint.format,
            steps: None,
            run_ahead: RunAhead::default(),
            deadline: blueprint.deadline,
            loss_sum: Tensor::zeros([], (Kind::Double, device)),
        };
        Ok(if device.is_cuda() {
            replica.with_momentum_on_device()
        } else {
            replica
        })
    }

    /// Updates moving statistics by a separate operation whose weight is a tensor. It rounds
    /// differently from libtorch's batch normalisation, so a trial must not switch between the two:
    /// a GPU always uses this one.
    fn with_momentum_on_device(mut self) -> Self {
        if self.synchronised.is_none() && self.momentum_on_device.is_none() {
            self.storage.set_batch_statistics_apart(&self.inventory);
            self.momentum_on_device = Some((0.0, Tensor::zeros([], (Kind::Float, self.device))));
        }
        self
    }

    /// Enables recording of steps for when it is faster.
    pub fn with_recorder(self, recorder: Box<StepRecorder>, policy: Policy) -> Self {
        // synchronised statistics are summed within the forward pass, which cannot be recorded
        if self.synchronised.is_some() {
            return self;
        }
        Self {
            steps: Some(Steps::new(recorder, policy)),
            ..self.with_momentum_on_device()
        }
    }

    /// Describes how steps were made, for the trial's record.
    pub fn execution(&self) -> String {
        self.steps
            .as_ref()
            .map_or_else(|| "queued".to_owned(), Steps::describe)
    }

    /// See `Timing::watched_step_ms`.
    pub fn watched_step_ms(&self) -> Option<(f64, f64)> {
        self.steps.as_ref().and_then(Steps::watched_step_ms)
    }

    /// Lists the operations that are not libtorch's, for the trial's record.
    pub fn kernels(&self) -> String {
        let fused_norm = self.own_operations.fused_norm
            && self.synchronised.is_none()
            && cuda::fused_norm_available(self.device);
        let products = self.own_operations.products
            && has_products(self.format.bf16, Hardware::of(self.device));
        let own = [(fused_norm, "fused-norm"), (products, "products")];
        let own: Vec<&str> = own
            .into_iter()
            .filter_map(|(is_used, name)| is_used.then_some(name))
            .collect();
        if own.is_empty() {
            "libtorch".to_owned()
        } else {
            own.join("+")
        }
    }

    /// Selects which operations use our own kernels instead of libtorch's: to measure their gain.
    pub fn use_own_operations(&mut self, own_operations: OwnOperations) {
        self.own_operations = own_operations;
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
        let momentum = self.batch_norm.momentum(options.steps_made);
        if let Some((known, tensor)) = self
            .momentum_on_device
            .as_mut()
            .filter(|(known, _)| *known != momentum)
        {
            *known = momentum;
            let _ = tensor.fill_(momentum);
        }
    }

    /// Runs forward and backward pass; afterwards `storage.gradients` holds this replica's part.
    pub fn passes(&mut self, shard: &Shard, options: StepOptions) -> Result<(), TrialError> {
        self.storage.forget_gradients()?;
        // An empty shard adds nothing, but with synchronised statistics the other replicas wait for
        // its zero sums.
        if !shard.is_empty() || self.synchronised.is_some() {
            if let Some(statistics) = &mut self.synchronised {
                statistics.set_batch_len(shard.batch_len);
            }
            let losses = self.losses(shard, options);
            let total = losses.sum(Kind::Float);
            let backward = (&total / shard.batch_len as f64).f_backward();
            self.check(backward)?;
            let _ = self.loss_sum.g_add_(&total.detach());
        }
        self.storage.collect_gradients()?;
        Ok(())
    }

    /// Leaves the failed group and drops recordings, which hold memory of their own. For
    /// `rehearse_passes`.
    pub fn retire(&mut self) {
        self.collective = Arc::new(Solo::default());
        if self.synchronised.is_some() {
            // keeps the same operations: those of per-replica statistics take different memory
            self.synchronised = Some(BatchStatistics::new(self.collective.clone()));
        }
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
        if self.collective.size() == 1 || self.synchronised.is_some() {
            return self.collective.all_reduce(&self.storage.gradients);
        }
        let share = shard.len() as f64 / shard.batch_len as f64;
        let _ = self.storage.statistics.g_mul_scalar_(share);
        self.collective.all_reduce(&self.storage.exchanged)
    }

    /// Returns the loss of each sample of the shard.
    fn losses(&self, shard: &Shard, options: StepOptions) -> Tensor {
        let momentum = self.batch_norm.momentum(options.steps_made);
        let outputs = if options.new_layers_only {
            // like layers frozen in Keras (2.2): normalised with batch statistics, which are not
            // stored
            let frozen = self.pass(Mode::Train {
                batch_norm_momentum: 0.0,
            });
            let features = tch::no_grad(|| self.network.forward(&shard.images, &frozen));
            self.head.forward(&features, &frozen)
        } else {
            match &self.momentum_on_device {
                // a single image may have no statistics to add
                Some((_, momentum)) if shard.len() > 1 => {
                    // the statistics of this batch alone, then their part in the moving ones
                    let pass = Pass {
                        buffers: &self.storage.batch_statistics.buffers,
                        ..self.pass(Mode::Train {
                            batch_norm_momentum: 1.0,
                        })
                    };
                    let outputs = self.outputs(&shard.images, &pass);
                    self.storage.take_in_batch_statistics(momentum);
                    outputs
                }
                _ => self.outputs(
                    &shard.images,
                    &self.pass(Mode::Train {
                        batch_norm_momentum: momentum,
                    }),
                ),
            }
        };
        let losses = self.criterion.per_sample(&outputs, &shard.labels);
        match &shard.mixed {
            None => losses,
            Some((partners, own)) => {
                losses * *own + self.criterion.per_sample(&outputs, partners) * (1.0 - own)
            }
        }
    }

    /// Returns losses and hits of some images, `[batch]` each, with the moving statistics.
    pub fn evaluate(&self, images: &Tensor, labels: &Tensor) -> (Tensor, Tensor) {
        let _guard = tch::no_grad_guard();
        let outputs = self.outputs(images, &self.pass(Mode::Evaluate));
        (
            self.criterion.per_sample(&outputs, labels),
            self.criterion.hits(&outputs, labels),
        )
    }

    fn outputs(&self, images: &Tensor, pass: &Pass) -> Outputs {
        self.head.forward(&self.network.forward(images, pass), pass)
    }

    fn pass(&self, mode: Mode) -> Pass<'_> {
        Pass {
            parameters: &self.storage.parameters,
            buffers: &self.storage.buffers,
            mode,
            synchronised: self
                .synchronised
                .as_ref()
                .map(|statistics| statistics as &dyn StatisticsReduction),
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

/// Weight of a new batch in the moving statistics of batch normalisation.
#[derive(Clone, Copy, Debug)]
struct MovingAverage {
    momentum: f64,
    /// Keras removes the bias of a moving average that starts at zero: after t batches the weight
    /// of the newest is m / (1 - (1 - m)^t), so that the first batch counts fully and the start
    /// value not at all, even from a file.
    debiased: bool,
}

impl MovingAverage {
    fn of(settings: &Settings) -> Self {
        Self {
            momentum: settings.batch_norm_momentum,
            debiased: settings.init == Init::Keras,
        }
    }

    fn momentum(self, steps_made: u64) -> f64 {
        if !self.debiased {
            return self.momentum;
        }
        let seen = (steps_made + 1) as f64;
        self.momentum / (1.0 - (1.0 - self.momentum).powf(seen))
    }
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

    #[test]
    fn the_debiased_average_is_the_mean_weighted_by_age() {
        let average = MovingAverage {
            momentum: 0.01,
            debiased: true,
        };
        let values = [3.0, -1.0, 4.0, 1.5];
        let mut moving = 99.0;
        let (mut weighted, mut weights) = (0.0, 0.0);
        for (step, value) in values.into_iter().enumerate() {
            moving += (value - moving) * average.momentum(step as u64);
            weighted = weighted * 0.99 + value * 0.01;
            weights = weights * 0.99 + 0.01;
        }
        assert!(
            (moving - weighted / weights).abs() < 1e-9,
            "{moving} {}",
            weighted / weights
        );
    }
}
