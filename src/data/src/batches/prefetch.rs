//! Background threads that fill training batches ahead of the step, into recycled buffers.
//!
//! Batches are returned in order and with the same bits for any number of threads. With no threads
//! a batch is filled on request: on a machine whose cores all train, another thread would only
//! compete with them.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::batches::choices::StepPlan;
use crate::batches::lookup::ByteSource;
use crate::batches::pipeline::{Pipeline, StepLookup};

/// Starting position, and use of threads.
#[derive(Clone, Copy, Debug)]
pub struct PrefetchOptions {
    /// Epoch of the first batch.
    pub epoch: u32,
    pub step: u64,
    /// Number of epochs; the last batch is the last one of epoch `num_epochs - 1`.
    pub num_epochs: u32,
    pub form: Form,
    /// Number of threads; with 0, batches are filled in `next`.
    pub num_threads: usize,
    /// Most batches that are ready or being filled; at least 1.
    pub depth: usize,
}

/// Content of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Standardised values.
    Pixels,
    /// For a device that gathers pixels itself.
    Lookup(ByteSource),
}

/// The threads that prepare batches, and the batches that are ready.
pub struct Prefetch {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    waited: Duration,
}

/// One filled batch. Its buffer returns to the pool when it is dropped.
pub struct Batch {
    pub plan: StepPlan,
    pixels: Vec<f32>,
    lookup: Option<StepLookup>,
    shared: Arc<Shared>,
}

/// A batch without the pool that its buffer returns to.
struct Filled {
    plan: StepPlan,
    pixels: Vec<f32>,
    lookup: Option<StepLookup>,
}

/// A background thread panicked: a defect of this program; stderr has its message.
#[derive(Debug, thiserror::Error)]
#[error("a thread that prepares batches panicked at epoch {epoch}, step {step}")]
pub struct Broken {
    pub epoch: u32,
    pub step: u64,
}

struct Shared {
    pipeline: Arc<Pipeline>,
    form: Form,
    depth: u64,
    /// End of the batch numbers, which count over all epochs; `queue.taken..end` remain.
    end: u64,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Number of the next batch that a thread will begin.
    begun: u64,
    /// Number of the next batch that `next` will return.
    taken: u64,
    ready: BTreeMap<u64, Filled>,
    free: Vec<Vec<f32>>,
    broken: Option<u64>,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue
            .lock()
            .expect("nothing panics while it holds the lock")
    }

    fn position(&self, number: u64) -> (u32, u64) {
        let steps = self.pipeline.steps_per_epoch();
        ((number / steps) as u32, number % steps)
    }

    fn fill(&self, number: u64, mut pixels: Vec<f32>) -> Filled {
        let (epoch, step) = self.position(number);
        let plan = self.pipeline.train_step(epoch, step);
        let lookup = match self.form {
            Form::Lookup(origin) => Some(self.pipeline.look_up_train(&plan, origin)),
            Form::Pixels => {
                pixels.resize(plan.len() * self.pipeline.image_len(), 0.0);
                self.pipeline.fill_train(&plan, 0..plan.len(), &mut pixels);
                None
            }
        };
        Filled {
            plan,
            pixels,
            lookup,
        }
    }

    fn work(&self) {
        let mut queue = self.lock();
        loop {
            if queue.stop || queue.broken.is_some() || queue.begun >= self.end {
                return;
            }
            if queue.begun >= queue.taken + self.depth {
                queue = self
                    .changed
                    .wait(queue)
                    .expect("nothing panics while it holds the lock");
                continue;
            }
            let number = queue.begun;
            queue.begun += 1;
            let buffer = queue.free.pop().unwrap_or_default();
            drop(queue);
            let filled = catch_unwind(AssertUnwindSafe(|| self.fill(number, buffer)));
            queue = self.lock();
            match filled {
                Ok(batch) => drop(queue.ready.insert(number, batch)),
                Err(_) => queue.broken = Some(number),
            }
            self.changed.notify_all();
        }
    }
}

impl Prefetch {
    pub fn start(pipeline: Arc<Pipeline>, options: PrefetchOptions) -> Self {
        let steps = pipeline.steps_per_epoch();
        let first = u64::from(options.epoch) * steps + options.step;
        let shared = Arc::new(Shared {
            end: u64::from(options.num_epochs) * steps,
            form: options.form,
            depth: options.depth.max(1) as u64,
            queue: Mutex::new(Queue {
                begun: first,
                taken: first,
                ..Queue::default()
            }),
            changed: Condvar::new(),
            pipeline,
        });
        let spawn = |number: usize| {
            let shared = shared.clone();
            let builder = std::thread::Builder::new().name(format!("prefetch-{number}"));
            builder
                .spawn(move || shared.work())
                .expect("the system can start a thread")
        };
        let threads = (0..options.num_threads).map(spawn).collect();
        Self {
            shared,
            threads,
            waited: Duration::ZERO,
        }
    }

    /// Returns the next batch, or `None` after the last.
    #[allow(clippy::should_implement_trait)] // It can fail, and an iterator of results is awkward in the training loop.
    pub fn next(&mut self) -> Result<Option<Batch>, Broken> {
        let began = Instant::now();
        let shared = &self.shared;
        let mut queue = shared.lock();
        let number = queue.taken;
        if number >= shared.end {
            return Ok(None);
        }
        let Filled {
            plan,
            pixels,
            lookup,
        } = if self.threads.is_empty() {
            queue.taken += 1;
            let buffer = queue.free.pop().unwrap_or_default();
            drop(queue);
            shared.fill(number, buffer)
        } else {
            loop {
                if let Some(batch) = queue.ready.remove(&number) {
                    queue.taken += 1;
                    shared.changed.notify_all();
                    break batch;
                }
                if let Some(broken) = queue.broken {
                    let (epoch, step) = shared.position(broken);
                    return Err(Broken { epoch, step });
                }
                queue = shared
                    .changed
                    .wait(queue)
                    .expect("nothing panics while it holds the lock");
            }
        };
        self.waited += began.elapsed();
        Ok(Some(Batch {
            plan,
            pixels,
            lookup,
            shared: self.shared.clone(),
        }))
    }

    /// Returns the time spent in `next` so far: how long the step waited for data.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A panic was reported through `broken`, or no receiver is left.
            let _ = thread.join();
        }
    }
}

impl Batch {
    /// Returns the pixels of `Form::Pixels`: `plan.len() * image_len` values; shards are ranges of
    /// whole images.
    pub fn pixels(&self) -> &[f32] {
        &self.pixels
    }

    /// Returns the tables of `Form::Lookup`.
    pub fn lookup(&self) -> Option<&StepLookup> {
        self.lookup.as_ref()
    }
}

impl Deref for Batch {
    type Target = StepPlan;

    fn deref(&self) -> &StepPlan {
        &self.plan
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let pixels = std::mem::take(&mut self.pixels);
        self.shared.lock().free.push(pixels);
    }
}
