//! Training steps recorded once and queued again as a whole, for networks whose kernels end sooner than the host can
//! queue them one by one.
//!
//! A step is two recordings with the sum over replicas between them, which is never recorded: forward and backward
//! pass, and the update. They read their batch from fixed tensors, into which every step copies its own. What the host
//! computes within a step is frozen in a recording, so everything that changes from step to step (learning rate, weight
//! of the moving statistics) lies on the device; steps that cannot be brought into this form are queued as ever.
//!
//! The rule: after `WARM_UP` steps, `WATCHED` steps are timed. Where the device is done at most a quarter later than the
//! host had queued everything, the host is the slower side, and the next step is recorded. A recording that fails
//! costs nothing but itself: its step, and all that follow, are queued. Both ways give the same bits. Next: cuda/graph.rs.

use std::ffi::c_void;
use std::time::{Duration, Instant};

use tch::Tensor;

use crate::error::TrialError;
use crate::replica::{Replica, Shard, StepOptions};

/// Steps before the first timed one: kernels are searched for, libraries load, the allocator sees every size.
const WARM_UP: u32 = 3;
const WATCHED: u32 = 3;

/// What can record the work that a thread queues on its device.
pub trait Recorder {
    /// Lets `body` queue its work, which is recorded and not done. The recording shares its memory with `with`, and is
    /// only replayed after that.
    fn record(
        &self,
        with: Option<&dyn Recording>,
        frozen: Frozen,
        body: Body,
    ) -> Result<Box<dyn Recording>, TrialError>;
}

pub trait Recording {
    /// Queues what was recorded. `body` is for recorders that only pretend: they call it with what was frozen.
    fn replay(&mut self, body: Body) -> Result<(), TrialError>;

    /// For recorders of the same kind.
    fn raw(&self) -> *mut c_void {
        std::ptr::null_mut()
    }
}

pub type Body<'a> = &'a mut dyn FnMut(Frozen) -> Result<(), TrialError>;

/// What the host knows of a step: in a recording, for ever that of the step that was recorded.
#[derive(Clone, Copy, Debug)]
pub struct Frozen {
    pub options: StepOptions,
    /// Images of the whole batch.
    pub batch_len: usize,
}

/// When steps are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// By the rule above.
    #[default]
    Auto,
    /// After the warm-up, without looking.
    Always,
    Never,
    /// Never: a recording would take in the work of other replicas on the same device.
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

/// What must be the same for a recording to stand for a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    shard_len: usize,
    batch_len: usize,
}

impl Shape {
    /// `None`: such steps are always queued. CutMix weighs labels by a number of the host, the first phase of
    /// fine-tuning is short, and a single image may have no statistics.
    fn of(shard: &Shard, options: StepOptions) -> Option<Self> {
        let shard_len = shard.len();
        let recordable = shard.mixed.is_none() && !options.new_layers_only && shard_len > 1;
        recordable.then_some(Self { shard_len, batch_len: shard.batch_len })
    }
}

/// What to do with the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Queue,
    /// And time it.
    Watch,
    /// And replay it at once.
    Record,
    Replay,
}

/// The rule, without a device.
#[derive(Debug)]
struct Decision {
    policy: Policy,
    /// Of the largest batches so far.
    shape: Option<Shape>,
    /// Steps of that shape.
    made: u32,
    queueing: Duration,
    total: Duration,
    verdict: Option<Verdict>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Recorded,
    /// With the reason.
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
        Self { policy, shape: None, made: 0, queueing: Duration::ZERO, total: Duration::ZERO, verdict }
    }

    fn next(&mut self, shape: Option<Shape>) -> Next {
        let Some(shape) = shape else { return Next::Queue };
        if self.verdict.is_none() && self.shape.is_none_or(|known| shape.shard_len > known.shard_len) {
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
        let watched = if self.policy == Policy::Auto { WATCHED } else { 0 };
        if self.made <= WARM_UP {
            Next::Queue
        } else if self.made <= WARM_UP + watched {
            Next::Watch
        } else if watched == 0 || self.is_host_slower() {
            Next::Record
        } else {
            // without the times, which differ from trial to trial: they are in the record's timing
            self.verdict = Some(Verdict::Queued("the device is the slower side".to_owned()));
            Next::Queue
        }
    }

    /// Of a step: how long the host took to queue it, and how long it was until the device was done.
    fn watched(&mut self, queueing: Duration, total: Duration) {
        self.queueing += queueing;
        self.total += total;
    }

    /// Milliseconds, per step, to queue it and until the device was done; none while it is not settled.
    fn watched_step_ms(&self) -> Option<(f64, f64)> {
        let ms = |time: Duration| time.as_secs_f64() * 1e3 / f64::from(WATCHED);
        let settled = self.verdict.is_some() && !self.total.is_zero();
        settled.then(|| (ms(self.queueing), ms(self.total)))
    }

    fn is_host_slower(&self) -> bool {
        self.total <= self.queueing + self.queueing / 4
    }
}

/// The steps of one replica.
pub struct Steps {
    recorder: Box<dyn Recorder>,
    decision: Decision,
    recorded: Option<Recorded>,
}

struct Recorded {
    /// What forward and backward pass read.
    images: Tensor,
    labels: Tensor,
    passes: Box<dyn Recording>,
    update: Box<dyn Recording>,
}

impl Steps {
    pub fn new(recorder: Box<dyn Recorder>, policy: Policy) -> Self {
        Self { recorder, decision: Decision::new(policy), recorded: None }
    }

    /// For the trial's record.
    pub fn describe(&self) -> String {
        match &self.decision.verdict {
            Some(Verdict::Recorded) => "recorded".to_owned(),
            Some(Verdict::Queued(reason)) => format!("queued: {reason}"),
            None => "queued: too few steps to tell".to_owned(),
        }
    }

    /// See `Timing::watched_step_ms`.
    pub fn watched_step_ms(&self) -> Option<(f64, f64)> {
        self.decision.watched_step_ms()
    }

    pub fn step(&mut self, replica: &mut Replica, shard: &Shard, options: StepOptions) -> Result<(), TrialError> {
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

    fn watch(&mut self, replica: &mut Replica, shard: &Shard, options: StepOptions) -> Result<(), TrialError> {
        // reading a value waits for the device
        replica.loss_sum()?;
        let began = Instant::now();
        replica.queue_step(shard, options)?;
        let queueing = began.elapsed();
        replica.loss_sum()?;
        self.decision.watched(queueing, began.elapsed());
        Ok(())
    }

    fn record(&self, replica: &mut Replica, shard: &Shard, options: StepOptions) -> Result<Recorded, TrialError> {
        let frozen = Frozen { options, batch_len: shard.batch_len };
        let (images, labels) = (shard.images.empty_like(), shard.labels.empty_like());
        let passes = self.recorder.record(None, frozen, &mut |frozen| passes(replica, &images, &labels, frozen))?;
        let update = self.recorder.record(Some(&*passes), frozen, &mut |_| {
            replica.update();
            Ok(())
        })?;
        Ok(Recorded { images, labels, passes, update })
    }

    fn replay(&mut self, replica: &mut Replica, shard: &Shard, options: StepOptions) -> Result<(), TrialError> {
        let Recorded { images, labels, passes: recording, update } = self.recorded.as_mut().expect("recorded before");
        tch::no_grad(|| {
            images.copy_(&shard.images);
            labels.copy_(&shard.labels);
        });
        replica.prepare(options);
        recording.replay(&mut |frozen| passes(replica, images, labels, frozen))?;
        replica.sum_over_replicas(shard)?;
        update.replay(&mut |_| {
            replica.update();
            Ok(())
        })
    }
}

fn passes(replica: &mut Replica, images: &Tensor, labels: &Tensor, frozen: Frozen) -> Result<(), TrialError> {
    let (images, labels) = (images.shallow_clone(), labels.shallow_clone());
    replica.passes(&Shard { images, labels, mixed: None, batch_len: frozen.batch_len }, frozen.options)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Option<Shape> = Some(Shape { shard_len: 8, batch_len: 8 });
    const PARTIAL: Option<Shape> = Some(Shape { shard_len: 3, batch_len: 3 });

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    /// Makes steps of a shape until something else than queueing or watching is to be done, at most twenty.
    fn decide(decision: &mut Decision, shape: Option<Shape>, queueing: Duration, total: Duration) -> (u32, Next) {
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
        let verdict = |queueing, total| decide(&mut Decision::new(Policy::Auto), FULL, ms(queueing), ms(total));
        assert_eq!(verdict(4, 4), (7, Next::Record));
        assert_eq!(verdict(4, 5), (7, Next::Record));
        assert_eq!(verdict(4, 6), (7, Next::Queue));
        let mut slow_device = Decision::new(Policy::Auto);
        decide(&mut slow_device, FULL, ms(3), ms(38));
        // trials of a kind share one provenance, so it has no times
        let expected = Verdict::Queued("the device is the slower side".to_owned());
        assert_eq!(slow_device.verdict, Some(expected));
        assert_eq!(slow_device.watched_step_ms(), Some((3.0, 38.0)));
        assert_eq!(Decision::new(Policy::Never).watched_step_ms(), None);
    }

    #[test]
    fn policies_do_not_look() {
        assert_eq!(decide(&mut Decision::new(Policy::Always), FULL, ms(1), ms(99)), (4, Next::Record));
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
        // a larger one afterwards has no recording
        assert_eq!(decision.next(Some(Shape { shard_len: 9, batch_len: 9 })), Next::Queue);
    }
}
