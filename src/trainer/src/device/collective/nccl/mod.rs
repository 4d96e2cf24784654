//! Replicas on several GPUs over NCCL: one thread per GPU, in one process or in several.
//!
//! Never run on hardware so far: developed on machines without a GPU. The logic is tested against a
//! fake library (nccl/fake.rs), the bindings against the real one as far as possible without a
//! device. The doc of `Nccl` lists the ways in which NCCL hangs. The crate `cudarc` was requested
//! but is not used: its safe layer lacks non-blocking communicators, asynchronous errors and abort,
//! and its loader does not look for libtorch's name, `libnccl.so.2`. Read nccl/backend.rs, then
//! nccl/library.rs.

mod backend;
mod cuda;
#[cfg(test)]
mod drills;
#[cfg(test)]
pub(super) mod fake;
mod gpus;
mod library;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tch::Tensor;

use super::barrier::GroupBarrier;
use super::{Collective, CollectiveError};
use backend::{Backend, CommunicatorState, GroupPart, Operation};
use gpus::Gpus;

#[cfg(test)]
use backend::GroupId;
pub use cuda::{cuda_version, pci_bus_id};

/// Limit on the collectives that a replica may have queued on its device before it waits for the
/// oldest: a replica running further ahead would fill the launch queue, which all devices of a
/// process share.
const MAX_IN_FLIGHT: usize = 2;
/// First and longest pause between polls; the pause doubles from one to the other.
const PAUSES: [Duration; 2] = [Duration::from_micros(10), Duration::from_millis(1)];

/// Returns the ends of a group on these GPUs, in rank order. Communicators are made once per set of
/// devices and reused by later trials, unless a group on them failed.
pub fn nccl(
    devices: &[usize],
    deadline: Duration,
) -> Result<Vec<Box<dyn Collective>>, CollectiveError> {
    pool()?.group(devices, deadline)
}

/// Returns one replica's end of a group with one replica per process; all processes receive the
/// same `id`. Used by drills: trials have one process.
#[cfg(test)]
fn nccl_among_processes(
    id: GroupId,
    (rank, size): (usize, usize),
    device: usize,
    deadline: Duration,
) -> Result<Box<dyn Collective>, CollectiveError> {
    let part = GroupPart {
        devices: vec![device],
        first_rank: rank,
        size,
        id: Some(id),
    };
    let communicators = Communicators::make(pool()?.backend.clone(), part, deadline)?;
    Ok(ends(&Arc::new(communicators), deadline).remove(0))
}

/// Returns a new id for a group of several processes.
#[cfg(test)]
fn nccl_group_id() -> Result<GroupId, CollectiveError> {
    pool()?
        .backend
        .group_id()
        .map_err(|reason| CollectiveError::Failed {
            operation: "naming a group",
            reason,
        })
}

/// Returns the version of the library that groups on GPUs use; the first call opens it.
pub fn nccl_version() -> Result<String, CollectiveError> {
    pool().map(|pool| pool.backend.version())
}

fn pool() -> Result<&'static Pool<Gpus>, CollectiveError> {
    static POOL: OnceLock<Result<Pool<Gpus>, String>> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        Gpus::open()
            .map(Pool::new)
            .map_err(|error| error.to_string())
    });
    pool.as_ref().map_err(|reason| CollectiveError::Failed {
        operation: "opening NCCL",
        reason: reason.clone(),
    })
}

/// The communicators of each set of devices.
struct Pool<B: Backend> {
    backend: Arc<B>,
    idle: Mutex<Vec<Arc<Communicators<B>>>>,
}

impl<B: Backend> Pool<B> {
    fn new(backend: B) -> Self {
        Self {
            backend: Arc::new(backend),
            idle: Mutex::default(),
        }
    }

    fn group(
        &self,
        devices: &[usize],
        deadline: Duration,
    ) -> Result<Vec<Box<dyn Collective>>, CollectiveError> {
        let communicators = {
            let mut idle = lock(&self.idle);
            idle.retain(|communicators| communicators.is_whole());
            let found = idle.iter().find(|communicators| {
                communicators.part.devices == devices && Arc::strong_count(communicators) == 1
            });
            match found {
                Some(communicators) => communicators.clone(),
                None => {
                    let made = Arc::new(Communicators::make(
                        self.backend.clone(),
                        GroupPart::whole(devices),
                        deadline,
                    )?);
                    idle.push(made.clone());
                    made
                }
            }
        };
        Ok(ends(&communicators, deadline))
    }
}

/// Returns one end for each replica of this process.
fn ends<B: Backend>(
    communicators: &Arc<Communicators<B>>,
    deadline: Duration,
) -> Vec<Box<dyn Collective>> {
    let count = communicators.part.devices.len();
    let barrier = Arc::new(GroupBarrier::new(count, deadline, ()));
    let end = |place| Nccl {
        communicators: communicators.clone(),
        barrier: barrier.clone(),
        place,
        in_flight: Mutex::default(),
        num_completed: AtomicU64::new(0),
    };
    (0..count)
        .map(|place| Box::new(end(place)) as Box<dyn Collective>)
        .collect()
}

/// The communicators of one set of devices, in rank order; a place is `None` after an abort.
struct Communicators<B: Backend> {
    backend: Arc<B>,
    part: GroupPart,
    ends: Vec<Mutex<Option<B::Communicator>>>,
}

impl<B: Backend> Communicators<B> {
    fn make(backend: Arc<B>, part: GroupPart, deadline: Duration) -> Result<Self, CollectiveError> {
        const OPERATION: &str = "making communicators";
        let failed = |reason| CollectiveError::Failed {
            operation: OPERATION,
            reason,
        };
        let ends = backend
            .start(&part)
            .map_err(failed)?
            .into_iter()
            .map(|end| Mutex::new(Some(end)))
            .collect();
        // dropping an unfinished set aborts it
        let made = Self {
            backend,
            part,
            ends,
        };
        let until = Instant::now() + deadline;
        let mut pause = PAUSES[0];
        loop {
            let mut missing = Vec::new();
            for place in 0..made.ends.len() {
                match made.state(place) {
                    CommunicatorState::Ready => {}
                    CommunicatorState::InProgress => missing.push(made.part.first_rank + place),
                    CommunicatorState::Failed(reason) => {
                        made.abort_all();
                        return Err(failed(reason));
                    }
                }
            }
            if missing.is_empty() {
                return Ok(made);
            }
            if Instant::now() >= until {
                made.abort_all();
                let seconds = deadline.as_secs();
                let rank = made.part.first_rank;
                return Err(CollectiveError::TimedOut {
                    rank,
                    operation: OPERATION,
                    seconds,
                    missing,
                });
            }
            pause = rest(pause);
        }
    }

    fn state(&self, place: usize) -> CommunicatorState {
        match &*lock(&self.ends[place]) {
            Some(end) => self.backend.state(end),
            None => CommunicatorState::Failed("its communicator was aborted".to_owned()),
        }
    }

    /// Frees a replica's communicator and stops its kernels; does nothing if it was freed before.
    fn abort(&self, place: usize) {
        if let Some(end) = lock(&self.ends[place]).take() {
            self.backend.abort(end);
        }
    }

    fn abort_all(&self) {
        (0..self.ends.len()).for_each(|place| self.abort(place));
    }

    fn is_whole(&self) -> bool {
        self.ends.iter().all(|end| lock(end).is_some())
    }
}

impl<B: Backend> Drop for Communicators<B> {
    fn drop(&mut self) {
        let ends: Vec<B::Communicator> = self
            .ends
            .iter()
            .filter_map(|end| lock(end).take())
            .collect();
        if ends.len() == self.part.devices.len() {
            self.backend.close(ends);
        } else {
            // the rest of a broken set would wait for the communicator that is gone
            ends.into_iter().for_each(|end| self.backend.abort(end));
        }
    }
}

/// One replica's end.
///
/// Known causes of a hang in a process with one thread per GPU (docs/trainer.md), and the measures
/// against them:
/// - A replica is dead, panicked or stuck: no replica launches before all have arrived, within the
///   deadline.
/// - A call holds a lock of the driver until its device is idle (memory allocation, the first
///   launch of a lazily loaded kernel), while the device waits for a kernel that another thread
///   cannot launch without that lock: no replica continues before all have launched.
/// - NCCL waits inside a call: communicators are non-blocking, and every wait polls NCCL, the
///   device and the group.
/// - Queued kernels never end: on any failure every replica aborts its own communicator, which
///   stops them.
struct Nccl<B: Backend> {
    communicators: Arc<Communicators<B>>,
    /// Barrier of this process's replicas.
    barrier: Arc<GroupBarrier<()>>,
    /// Index among the replicas of this process.
    place: usize,
    in_flight: Mutex<VecDeque<InFlight<B::Event>>>,
    num_completed: AtomicU64,
}

/// A collective that its device may still be executing.
struct InFlight<E> {
    done: E,
    /// Kept alive because NCCL holds the address only.
    _tensor: Tensor,
}

impl<B: Backend> Nccl<B> {
    fn device(&self) -> usize {
        self.communicators.part.devices[self.place]
    }

    fn run(&self, operation: Operation, tensor: &Tensor) -> Result<(), CollectiveError> {
        let _guard = tch::no_grad_guard();
        let tensor = tensor.detach();
        self.ending_all(self.launch(operation, &tensor))
    }

    fn launch(&self, operation: Operation, tensor: &Tensor) -> Result<(), CollectiveError> {
        let name = operation.name();
        let failed = |reason| CollectiveError::Failed {
            operation: name,
            reason,
        };
        if !tensor.is_contiguous() {
            return Err(failed("the tensor is not contiguous".to_owned()));
        }
        self.wait_until_in_flight(MAX_IN_FLIGHT - 1, name)?;
        self.barrier.wait(self.place, name, |()| (), |()| ())?;
        let backend = &self.communicators.backend;
        match &*lock(&self.communicators.ends[self.place]) {
            Some(end) => backend
                .enqueue(end, self.device(), operation, tensor)
                .map_err(failed)?,
            None => return Err(failed("its communicator was aborted".to_owned())),
        }
        self.poll(name, || match self.communicators.state(self.place) {
            CommunicatorState::Ready => Ok(true),
            CommunicatorState::InProgress => Ok(false),
            CommunicatorState::Failed(reason) => Err(reason),
        })?;
        let done = backend.mark(self.device()).map_err(failed)?;
        lock(&self.in_flight).push_back(InFlight {
            done,
            _tensor: tensor.shallow_clone(),
        });
        self.barrier.wait(self.place, name, |()| (), |()| ())
    }

    /// Waits until at most `count` collectives are left on the device.
    fn wait_until_in_flight(
        &self,
        count: usize,
        operation: &'static str,
    ) -> Result<(), CollectiveError> {
        let mut in_flight = lock(&self.in_flight);
        while in_flight.len() > count {
            let oldest = in_flight.front().expect("longer than count");
            self.poll(operation, || {
                if let CommunicatorState::Failed(reason) = self.communicators.state(self.place) {
                    return Err(reason);
                }
                self.communicators
                    .backend
                    .is_done(self.device(), &oldest.done)
            })?;
            in_flight.pop_front();
            self.num_completed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Polls until the answer is yes or an error, the group fails, or the deadline passes.
    fn poll(
        &self,
        operation: &'static str,
        mut is_done: impl FnMut() -> Result<bool, String>,
    ) -> Result<(), CollectiveError> {
        let until = Instant::now() + self.barrier.deadline;
        let mut pause = PAUSES[0];
        loop {
            if let Some(failure) = self.barrier.failure() {
                return Err(failure);
            }
            if is_done().map_err(|reason| CollectiveError::Failed { operation, reason })? {
                return Ok(());
            }
            if Instant::now() >= until {
                let seconds = self.barrier.deadline.as_secs();
                return Err(CollectiveError::TimedOut {
                    rank: self.rank(),
                    operation,
                    seconds,
                    missing: Vec::new(),
                });
            }
            pause = rest(pause);
        }
    }

    /// Passes a result on; an error fails the whole group and aborts this replica's communicator.
    fn ending_all(&self, result: Result<(), CollectiveError>) -> Result<(), CollectiveError> {
        result.map_err(|failure| {
            let first = self.barrier.fail(failure);
            self.communicators.abort(self.place);
            first
        })
    }
}

impl<B: Backend> Collective for Nccl<B> {
    fn rank(&self) -> usize {
        self.communicators.part.first_rank + self.place
    }

    fn size(&self) -> usize {
        self.communicators.part.size
    }

    fn all_reduce(&self, tensor: &Tensor) -> Result<(), CollectiveError> {
        self.run(Operation::AllReduce, tensor)
    }

    fn broadcast(&self, tensor: &Tensor) -> Result<(), CollectiveError> {
        self.run(Operation::Broadcast, tensor)
    }

    fn wait(&self) -> Result<(), CollectiveError> {
        const OPERATION: &str = "waiting for the device";
        let backend = &self.communicators.backend;
        let all = self.wait_until_in_flight(0, OPERATION).and_then(|()| {
            let failed = |reason| CollectiveError::Failed {
                operation: OPERATION,
                reason,
            };
            let queued = backend.mark(self.device()).map_err(failed)?;
            self.poll(OPERATION, || backend.is_done(self.device(), &queued))
        });
        self.ending_all(all)
    }

    fn check(&self) -> Result<(), CollectiveError> {
        let failure = match (self.barrier.failure(), self.communicators.state(self.place)) {
            (Some(failure), _) => Err(failure),
            (None, CommunicatorState::Failed(reason)) => Err(CollectiveError::Failed {
                operation: "asking NCCL",
                reason,
            }),
            (None, CommunicatorState::Ready | CommunicatorState::InProgress) => Ok(()),
        };
        self.ending_all(failure)
    }

    fn num_completed(&self) -> u64 {
        self.num_completed.load(Ordering::Relaxed)
    }

    fn abort(&self, reason: &str) {
        self.barrier.fail(CollectiveError::Aborted {
            rank: self.rank(),
            reason: reason.to_owned(),
        });
        self.communicators.abort(self.place);
    }
}

impl<B: Backend> Drop for Nccl<B> {
    fn drop(&mut self) {
        if self.barrier.failure().is_some() {
            self.communicators.abort(self.place);
        }
    }
}

/// Sleeps for `pause` and returns the next pause.
fn rest(pause: Duration) -> Duration {
    thread::sleep(pause);
    (pause * 2).min(PAUSES[1])
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .expect("nothing panics while it holds the lock")
}
