//! A fake library that sums CPU tensors at once and can be set to hang, report an error late, or
//! fail at the start.
//!
//! It records what was started, aborted and closed, so that tests can check that nothing is left
//! behind.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use tch::Tensor;

use super::backend::{Backend, CommunicatorState, GroupPart, Operation};
use super::{Collective, CollectiveError, Pool};

/// A failure of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Communicators never become ready.
    StartHangs,
    StartFails,
    /// The n-th collective of this rank never completes on its device.
    DeviceHangs {
        rank: usize,
        nth: usize,
    },
    /// NCCL reports an asynchronous error during the n-th collective of this rank.
    AsyncError {
        rank: usize,
        nth: usize,
    },
    /// NCCL never accepts the n-th collective of this rank.
    LaunchHangs {
        rank: usize,
        nth: usize,
    },
}

#[derive(Default)]
struct Shared {
    /// Tensors of the running collective, by rank.
    deposited: Vec<Option<Tensor>>,
    round: usize,
    /// Number of collectives started by each rank.
    begun: Vec<usize>,
    started: usize,
    aborted: Vec<usize>,
    closed: usize,
}

pub struct Fake {
    fault: Fault,
    shared: Mutex<Shared>,
    changed: Condvar,
}

pub struct FakeCommunicator {
    rank: usize,
}

impl Fake {
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            shared: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Returns the number of sets started, the ranks aborted in rank order, and the number of sets
    /// closed.
    pub fn history(&self) -> (usize, Vec<usize>, usize) {
        let shared = self.shared.lock().unwrap();
        let mut aborted = shared.aborted.clone();
        aborted.sort_unstable();
        (shared.started, aborted, shared.closed)
    }

    fn begun(&self, rank: usize) -> usize {
        self.shared.lock().unwrap().begun[rank]
    }
}

/// Returns the ends of a group whose library works.
pub fn group(size: usize, deadline: Duration) -> Vec<Box<dyn Collective>> {
    let devices: Vec<usize> = (0..size).collect();
    Pool::new(Fake::new(Fault::None))
        .group(&devices, deadline)
        .expect("no fault was asked for")
}

/// Returns a pool over a library with a fault.
pub(super) fn pool(fault: Fault) -> Pool<Fake> {
    Pool::new(Fake::new(fault))
}

pub(super) fn group_of(
    pool: &Pool<Fake>,
    size: usize,
    deadline: Duration,
) -> Result<Vec<Box<dyn Collective>>, CollectiveError> {
    let devices: Vec<usize> = (0..size).collect();
    pool.group(&devices, deadline)
}

impl Backend for Fake {
    type Communicator = FakeCommunicator;
    /// Rank, and the number of collectives it had started.
    type Event = (usize, usize);

    fn start(&self, part: &GroupPart) -> Result<Vec<FakeCommunicator>, String> {
        let devices = &part.devices;
        if self.fault == Fault::StartFails {
            return Err("NCCL: unhandled cuda error".to_owned());
        }
        let mut shared = self.shared.lock().unwrap();
        shared.started += 1;
        shared.deposited = devices.iter().map(|_| None).collect();
        shared.begun = vec![0; devices.len()];
        Ok((0..devices.len())
            .map(|rank| FakeCommunicator { rank })
            .collect())
    }

    fn state(&self, communicator: &FakeCommunicator) -> CommunicatorState {
        let begun = self.begun(communicator.rank);
        match self.fault {
            Fault::StartHangs => CommunicatorState::InProgress,
            Fault::LaunchHangs { rank, nth } if rank == communicator.rank && begun >= nth => {
                CommunicatorState::InProgress
            }
            Fault::AsyncError { rank, nth } if rank == communicator.rank && begun >= nth => {
                CommunicatorState::Failed(
                    "NCCL: remote process exited or there was a network error".to_owned(),
                )
            }
            _ => CommunicatorState::Ready,
        }
    }

    /// All ranks arrive together, because `Nccl` lets no rank launch alone; the last one does the
    /// work of all.
    fn enqueue(
        &self,
        communicator: &FakeCommunicator,
        device: usize,
        operation: Operation,
        tensor: &Tensor,
    ) -> Result<(), String> {
        assert_eq!(
            device, communicator.rank,
            "each replica uses its own device"
        );
        let mut shared = self.shared.lock().unwrap();
        shared.begun[communicator.rank] += 1;
        shared.deposited[communicator.rank] = Some(tensor.shallow_clone());
        if shared.deposited.iter().all(Option::is_some) {
            let tensors: Vec<Tensor> = shared
                .deposited
                .iter_mut()
                .filter_map(Option::take)
                .collect();
            let result = tensors[0].copy();
            if operation == Operation::AllReduce {
                tensors[1..]
                    .iter()
                    .for_each(|other| drop(result.shallow_clone().g_add_(other)));
            }
            tensors
                .iter()
                .for_each(|place| place.shallow_clone().copy_(&result));
            shared.round += 1;
            self.changed.notify_all();
            return Ok(());
        }
        let round = shared.round;
        drop(
            self.changed
                .wait_while(shared, |shared| shared.round == round)
                .unwrap(),
        );
        Ok(())
    }

    fn mark(&self, device: usize) -> Result<(usize, usize), String> {
        Ok((device, self.begun(device)))
    }

    fn is_done(&self, _device: usize, &(rank, begun): &(usize, usize)) -> Result<bool, String> {
        Ok(
            !matches!(self.fault, Fault::DeviceHangs { rank: hung, nth } if hung == rank && begun >= nth),
        )
    }

    fn abort(&self, communicator: FakeCommunicator) {
        self.shared.lock().unwrap().aborted.push(communicator.rank);
    }

    fn close(&self, _communicators: Vec<FakeCommunicator>) {
        self.shared.lock().unwrap().closed += 1;
    }
}
