//! Training steps recorded once and replayed as a whole, for networks whose kernels end sooner than
//! the host can queue them one by one.
//!
//! A step is two recordings: forward and backward pass, then the update. The sum over replicas
//! between them is never recorded. Recordings read their batch from fixed tensors, into which every
//! step copies its own. Values that the host computes within a step are frozen in a recording, so
//! whatever changes from step to step (learning rate, weight of the moving statistics) is kept on
//! the device; steps for which that is impossible are queued as usual.
//!
//! The rule: after `WARM_UP` steps, `WATCHED` steps are timed. If the device finishes at most a
//! quarter later than the host has queued everything, the host is the slower side, and the next
//! step is recorded. A failed recording loses nothing else: its step, and all later ones, are
//! queued. Both ways give the same bits. Next: cuda/graph.rs.

use std::time::{Duration, Instant};

use tch::{Device, Tensor};

use crate::device::cuda::CudaGraphs;
use crate::device::recorder::{Recorder, Recording};
use crate::error::{TrialError, caught};
use crate::step::replica::{Replica, Shard, StepOptions};

/// Steps before the first timed one, in which kernels are selected, libraries load and the
/// allocator sees every size.
const WARM_UP: u32 = 3;
const WATCHED: u32 = 3;

/// Values that the host knows in a step. A recording keeps those of the step that was recorded.
#[derive(Clone, Copy, Debug)]
pub struct HostValues {
    pub options: StepOptions,
    /// Images of the whole batch.
    pub batch_len: usize,
}

/// A recorder of steps.
pub type StepRecorder = dyn Recorder<HostValues, TrialError>;
type StepRecording = dyn Recording<HostValues, TrialError>;

/// Policy that decides when steps are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The rule above.
    #[default]
    Auto,
    /// After the warm-up, without timing.
    Always,
    Never,
    /// Never: a recording would capture the work of other replicas on the same device.
    Shared,
}

impl std::str::FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err("`auto`, `always` or `never` were expected".to_owned()),
        }
    }
}

/// Properties that a step must share with a recording to be replayed from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    shard_len: usize,
    batch_len: usize,
}

impl Shape {
    /// Returns a step's shape, or `None` for steps that are always queued: CutMix weights labels by
    /// a host's number, the first phase of fine-tuning is short, and a single image may have no
    /// statistics.
    fn of(shard: &Shard, options: StepOptions) -> Option<Self> {
        let shard_len = shard.len();
        let recordable = shard.mixed.is_none() && !options.new_layers_only && shard_len > 1;
        recordable.then_some(Self {
            shard_len,
            batch_len: shard.batch_len,
        })
    }
}

/// The way to make the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Queue,
    /// Queue it and time it.
    Watch,
    /// Record it and replay it at once.
    Record,
    Replay,
}

/// The rule, independent of a device.
#[derive(Debug)]
struct Decision {
    policy: Policy,
    /// Shape of the largest batches so far.
    shape: Option<Shape>,
    /// Number of steps of that shape.
    made: u32,
    queueing: Duration,
    total: Duration,
    verdict: Option<Verdict>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Recorded,
    /// Queued for the given reason.
    Queued(String),
}

impl Decision {
    fn new(policy: Policy) -> Self {
        let reason = match policy {
            Policy::Auto | Policy::Always => None,
            Policy::Never => Some("on request"),
            Policy::Shared => Some("replicas share a device"),
        };
        let verdict = reason.map(|reason| Verdict::Queued(reason.to_owned()));
        Self {
            policy,
            shape: None,
            made: 0,
            queueing: Duration::ZERO,
            total: Duration::ZERO,
            verdict,
        }
    }

    fn next(&mut self, shape: Option<Shape>) -> Next {
        let Some(shape) = shape else {
            return Next::Queue;
        };
        if self.verdict.is_none()
            && self
                .shape
                .is_none_or(|known| shape.shard_len > known.shard_len)
        {
            (self.shape, self.made) = (Some(shape), 0);
            (self.queueing, self.total) = (Duration::ZERO, Duration::ZERO);
        }
        if self.shape != Some(shape) {
            return Next::Queue;
        }
        match &self.verdict {
            Some(Verdict::Recorded) => return Next::Replay,
            Some(Verdict::Queued(_)) => return Next::Queue,
            None => {}
        }
        self.made += 1;
        let watched = if self.policy == Policy::Auto {
            WATCHED
        } else {
            0
        };
        if self.made <= WARM_UP {
            Next::Queue
        } else if self.made <= WARM_UP + watched {
            Next::Watch
        } else if watched == 0 || self.is_host_slower() {
            Next::Record
        } else {
            // without the times, which differ between trials: they are in the record's timing
            self.verdict = Some(Verdict::Queued("the device is the slower side".to_owned()));
            Next::Queue
        }
    }

    /// Adds a timed step: how long the host took to queue it, and when the device finished it.
    fn watched(&mut self, queueing: Duration, total: Duration) {
        self.queueing += queueing;
        self.total += total;
    }

    /// Returns the milliseconds per step until it was queued and until the device finished; none
    /// before the verdict.
    fn watched_step_ms(&self) -> Option<(f64, f64)> {
        let ms = |time: Duration| time.as_secs_f64() * 1e3 / f64::from(WATCHED);
        let settled = self.verdict.is_some() && !self.total.is_zero();
        settled.then(|| (ms(self.queueing), ms(self.total)))
    }

    fn is_host_slower(&self) -> bool {
        self.total <= self.queueing + self.queueing / 4
    }
}

impl Replica {
    /// Enables recording of steps on a GPU for when it is faster.
    pub fn with_cuda_graphs(self, policy: Policy) -> Self {
        let Device::Cuda(index) = self.device else {
            return self;
        };
        match CudaGraphs::open(index) {
            Ok(graphs) => self.with_recorder(Box::new(graphs), policy),
            Err(error) => {
                tracing::warn!(%error, "steps cannot be recorded");
                self
            }
        }
    }

    pub fn with_recorder(mut self, recorder: Box<StepRecorder>, policy: Policy) -> Self {
        // synchronised statistics are summed within the forward pass, which cannot be recorded
        if !self.moving_statistics.is_synchronised() {
            self.keep_statistics_weight_on_device();
            self.steps = Some(Steps::new(recorder, policy));
        }
        self
    }
}

/// The steps of one replica.
pub struct Steps {
    recorder: Box<StepRecorder>,
    decision: Decision,
    recorded: Option<Recorded>,
}

struct Recorded {
    /// Inputs of the forward and backward pass.
    images: Tensor,
    labels: Tensor,
    passes: Box<StepRecording>,
    update: Box<StepRecording>,
}

impl Steps {
    pub fn new(recorder: Box<StepRecorder>, policy: Policy) -> Self {
        Self {
            recorder,
            decision: Decision::new(policy),
            recorded: None,
        }
    }

    /// Describes how steps were made, for the trial's record.
    pub fn describe(&self) -> String {
        match &self.decision.verdict {
            Some(Verdict::Recorded) => "recorded".to_owned(),
            Some(Verdict::Queued(reason)) => format!("queued: {reason}"),
            None => "queued: too few steps to decide".to_owned(),
        }
    }

    /// See `Timing::watched_step_ms`.
    pub fn watched_step_ms(&self) -> Option<(f64, f64)> {
        self.decision.watched_step_ms()
    }

    pub fn step(
        &mut self,
        replica: &mut Replica,
        shard: &Shard,
        options: StepOptions,
    ) -> Result<(), TrialError> {
        match self.decision.next(Shape::of(shard, options)) {
            Next::Queue => return replica.queue_step(shard, options),
            Next::Watch => return self.watch(replica, shard, options),
            Next::Replay => {}
            Next::Record => match self.record(replica, shard, options) {
                Ok(recorded) => {
                    self.recorded = Some(recorded);
                    self.decision.verdict = Some(Verdict::Recorded);
                }
                Err(error) => {
                    let reason = format!("a recording failed: {error}");
                    tracing::warn!(reason, "steps are queued one kernel at a time");
                    self.decision.verdict = Some(Verdict::Queued(reason));
                    return replica.queue_step(shard, options);
                }
            },
        }
        self.replay(replica, shard, options)
    }

    fn watch(
        &mut self,
        replica: &mut Replica,
        shard: &Shard,
        options: StepOptions,
    ) -> Result<(), TrialError> {
        // reading a value waits for the device
        replica.loss_sum()?;
        let began = Instant::now();
        replica.queue_step(shard, options)?;
        let queueing = began.elapsed();
        replica.loss_sum()?;
        self.decision.watched(queueing, began.elapsed());
        Ok(())
    }

    fn record(
        &self,
        replica: &mut Replica,
        shard: &Shard,
        options: StepOptions,
    ) -> Result<Recorded, TrialError> {
        let values = HostValues {
            options,
            batch_len: shard.batch_len,
        };
        let (images, labels) = (shard.images.empty_like(), shard.labels.empty_like());
        let passes = caught(|| {
            self.recorder.record(None, values, &mut |values| {
                passes(replica, &images, &labels, values)
            })
        })?;
        let update = caught(|| {
            self.recorder.record(Some(&*passes), values, &mut |_| {
                replica.update();
                Ok(())
            })
        })?;
        Ok(Recorded {
            images,
            labels,
            passes,
            update,
        })
    }

    fn replay(
        &mut self,
        replica: &mut Replica,
        shard: &Shard,
        options: StepOptions,
    ) -> Result<(), TrialError> {
        let Recorded {
            images,
            labels,
            passes: recording,
            update,
        } = self.recorded.as_mut().expect("recorded before");
        tch::no_grad(|| {
            images.copy_(&shard.images);
            labels.copy_(&shard.labels);
        });
        replica.prepare(options);
        recording.replay(&mut |values| passes(replica, images, labels, values))?;
        replica.sum_over_replicas(shard)?;
        update.replay(&mut |_| {
            replica.update();
            Ok(())
        })
    }
}

fn passes(
    replica: &mut Replica,
    images: &Tensor,
    labels: &Tensor,
    values: HostValues,
) -> Result<(), TrialError> {
    let (images, labels) = (images.shallow_clone(), labels.shallow_clone());
    replica.passes(
        &Shard {
            images,
            labels,
            mixed: None,
            batch_len: values.batch_len,
        },
        values.options,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Option<Shape> = Some(Shape {
        shard_len: 8,
        batch_len: 8,
    });
    const PARTIAL: Option<Shape> = Some(Shape {
        shard_len: 3,
        batch_len: 3,
    });

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    /// Makes steps of a shape until the decision is neither to queue nor to watch, at most twenty.
    fn decide(
        decision: &mut Decision,
        shape: Option<Shape>,
        queueing: Duration,
        total: Duration,
    ) -> (u32, Next) {
        for step in 1..=20 {
            match decision.next(shape) {
                Next::Watch => decision.watched(queueing, total),
                Next::Queue if decision.verdict.is_none() => {}
                other => return (step, other),
            }
        }
        (20, Next::Queue)
    }

    #[test]
    fn the_slower_side_decides() {
        let verdict = |queueing, total| {
            decide(
                &mut Decision::new(Policy::Auto),
                FULL,
                ms(queueing),
                ms(total),
            )
        };
        assert_eq!(verdict(4, 4), (7, Next::Record));
        assert_eq!(verdict(4, 5), (7, Next::Record));
        assert_eq!(verdict(4, 6), (7, Next::Queue));
        let mut slow_device = Decision::new(Policy::Auto);
        decide(&mut slow_device, FULL, ms(3), ms(38));
        // trials of a kind share one provenance, so it contains no times
        let expected = Verdict::Queued("the device is the slower side".to_owned());
        assert_eq!(slow_device.verdict, Some(expected));
        assert_eq!(slow_device.watched_step_ms(), Some((3.0, 38.0)));
        assert_eq!(Decision::new(Policy::Never).watched_step_ms(), None);
    }

    #[test]
    fn policies_do_not_look() {
        assert_eq!(
            decide(&mut Decision::new(Policy::Always), FULL, ms(1), ms(99)),
            (4, Next::Record)
        );
        assert_eq!(Decision::new(Policy::Never).next(FULL), Next::Queue);
    }

    #[test]
    fn the_largest_batch_is_the_one_that_is_recorded() {
        let mut decision = Decision::new(Policy::Always);
        // resumed at the last batch of an epoch
        assert_eq!(decision.next(PARTIAL), Next::Queue);
        assert_eq!(decide(&mut decision, FULL, ms(1), ms(1)), (4, Next::Record));
        decision.verdict = Some(Verdict::Recorded);
        assert_eq!(decision.next(FULL), Next::Replay);
        assert_eq!(decision.next(PARTIAL), Next::Queue);
        assert_eq!(decision.next(None), Next::Queue);
        // a larger one afterwards is not recorded
        assert_eq!(
            decision.next(Some(Shape {
                shard_len: 9,
                batch_len: 9
            })),
            Next::Queue
        );
    }
}
