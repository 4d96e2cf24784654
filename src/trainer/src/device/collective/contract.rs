//! The contract of `Collective` as one suite, which every implementation runs on the CPU or on a
//! GPU (nccl/drills.rs).
//!
//! The fakes that hang, panic or die are replicas of a real group that misbehave: the group must
//! fail for the others.

use std::thread;
use std::time::Duration;

use tch::{Device, Kind, Tensor};

use super::{AbortOnDrop, Collective, CollectiveError, Solo, shared_memory};
use crate::device::prepare_thread;

type Group = Vec<Box<dyn Collective>>;

/// Deadline that no test here reaches.
const PATIENT: Duration = Duration::from_secs(60);

/// Runs one closure per replica, each on its own thread, and returns their results in rank order.
fn on_all<T: Send>(
    group: &Group,
    devices: &[Device],
    body: impl Fn(&dyn Collective, Device) -> T + Sync,
) -> Vec<thread::Result<T>> {
    thread::scope(|scope| {
        let body = &body;
        let run = |end: &dyn Collective| {
            let device = devices[end.rank() % devices.len()];
            prepare_thread(device, true, 1).unwrap();
            body(end, device)
        };
        let threads: Vec<_> = group
            .iter()
            .map(|end| scope.spawn(move || run(&**end)))
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    })
}

fn values(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(&tensor.to_kind(Kind::Float).view(-1).to_device(Device::Cpu))
        .expect("a small tensor")
}

/// The input of one replica. Its values have no exact representation, so the order of additions
/// shows in the bits.
fn input(rank: usize, length: i64) -> Tensor {
    (Tensor::arange(length, (Kind::Float, Device::Cpu)) + 1.0)
        * (0.1 + 1e-3 * rank as f64).powi(1 + rank as i32)
}

fn zeros(device: Device) -> Tensor {
    Tensor::zeros([8], (Kind::Float, device))
}

fn sums_and_broadcasts(group: &Group, devices: &[Device]) {
    for length in [1, 3, 1000] {
        let reduced = on_all(group, devices, |end, device| {
            let tensor = input(end.rank(), length).to_device(device);
            end.all_reduce(&tensor).unwrap();
            end.wait().unwrap();
            values(&tensor)
        });
        let mut expected = input(0, length);
        (1..group.len()).for_each(|rank| drop(expected.g_add_(&input(rank, length))));
        for result in reduced {
            assert_eq!(
                result.unwrap(),
                values(&expected),
                "length {length}: every replica has the sum in rank order"
            );
        }
        for result in on_all(group, devices, |end, device| {
            let tensor = input(end.rank(), length).to_device(device);
            end.broadcast(&tensor).unwrap();
            end.wait().unwrap();
            values(&tensor)
        }) {
            assert_eq!(result.unwrap(), values(&input(0, length)));
        }
    }
    for end in group {
        assert_eq!(end.num_completed(), 6);
        assert_eq!(end.size(), group.len());
        assert_eq!(end.check(), Ok(()));
    }
}

/// Many rounds of changing size back to back: no replica may overtake another.
fn survives_many_rounds(group: &Group, devices: &[Device]) {
    for result in on_all(group, devices, |end, device| {
        (0..200i64).for_each(|round| {
            let tensor = Tensor::full([1 + round % 7], round as f64, (Kind::Double, device));
            end.all_reduce(&tensor).unwrap();
            assert_eq!(
                tensor.double_value(&[0]),
                (round * end.size() as i64) as f64
            );
        });
    }) {
        result.unwrap();
    }
}

fn fails_for_all_when_one_panics(group: &Group, devices: &[Device]) {
    let last = group.len() - 1;
    let results = on_all(group, devices, |end, device| {
        let guard = AbortOnDrop::new(end);
        let tensor = zeros(device);
        end.all_reduce(&tensor).unwrap();
        assert!(end.rank() != last, "this replica dies here");
        let error = end.all_reduce(&tensor).unwrap_err();
        guard.finished();
        error
    });
    for (rank, result) in results.into_iter().enumerate() {
        match result {
            Err(_) => assert_eq!(rank, last),
            Ok(error) => {
                assert_eq!(
                    error,
                    CollectiveError::Aborted {
                        rank: last,
                        reason: "it panicked".to_owned()
                    }
                );
            }
        }
    }
    for end in group {
        assert!(
            end.check().is_err() && end.wait().is_err(),
            "a group that failed once stays failed"
        );
    }
}

/// A stuck replica never arrives: the group's deadline ends the wait, not the test.
fn ends_at_the_deadline_when_one_is_stuck(group: &Group, devices: &[Device]) {
    let stuck = group.len() / 2;
    let results = on_all(group, devices, |end, device| match end.rank() {
        rank if rank == stuck => Ok(()),
        _ => end.all_reduce(&zeros(device)),
    });
    for (rank, result) in results
        .into_iter()
        .enumerate()
        .filter(|(rank, _)| *rank != stuck)
    {
        let failure = result.unwrap().unwrap_err();
        assert!(
            matches!(&failure, CollectiveError::TimedOut { missing, .. } if *missing == [stuck]),
            "replica {rank}: {failure}"
        );
    }
    assert!(
        group[stuck].check().is_err(),
        "the one that was stuck gets an error too"
    );
}

/// Runs the suite. `make` returns a new group on the given devices, with the given deadline for its
/// waits.
pub(super) fn contract(make: impl Fn(Duration) -> Group, devices: &[Device]) {
    let group = make(PATIENT);
    sums_and_broadcasts(&group, devices);
    survives_many_rounds(&make(PATIENT), devices);
    fails_for_all_when_one_panics(&make(PATIENT), devices);
    // a group of one waits for no one
    if group.len() > 1 {
        ends_at_the_deadline_when_one_is_stuck(&make(Duration::from_millis(50)), devices);
    }
}

#[test]
fn solo_keeps_the_contract() {
    contract(|_| vec![Box::new(Solo::default())], &[Device::Cpu]);
}

#[test]
fn shared_memory_keeps_the_contract() {
    for size in [1, 2, 4] {
        contract(|deadline| shared_memory(size, deadline), &[Device::Cpu]);
    }
}

/// Uses a fake library: the real one needs GPUs.
#[test]
fn nccl_keeps_the_contract() {
    for size in [1, 2, 4] {
        contract(
            |deadline| super::nccl::fake::group(size, deadline),
            &[Device::Cpu],
        );
    }
}
