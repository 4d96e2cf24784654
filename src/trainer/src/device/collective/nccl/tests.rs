//! Groups in which NCCL, a device or a replica misbehaves: all replicas return the same first error
//! in time, every communicator is freed, and the next group gets new ones.

use std::thread;
use std::time::Duration;

use tch::{Device, Kind, Tensor};

use super::fake::{Fake, Fault, group_of, pool};
use super::{Collective, CollectiveError, Pool};
use crate::device::collective::AbortOnDrop;

/// Deadline of groups whose collectives all end.
const PATIENT: Duration = Duration::from_secs(60);
/// Deadline of groups that something keeps from ending.
const SHORT: Duration = Duration::from_millis(200);

/// Runs four collectives and a wait on every replica; returns the errors in rank order.
fn run(group: Vec<Box<dyn Collective>>) -> Vec<Result<(), CollectiveError>> {
    thread::scope(|scope| {
        let body = |end: Box<dyn Collective>| {
            (0..4)
                .try_for_each(|_| end.all_reduce(&Tensor::ones([8], (Kind::Float, Device::Cpu))))?;
            end.wait()
        };
        let threads: Vec<_> = group
            .into_iter()
            .map(|end| scope.spawn(move || body(end)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no replica panics"))
            .collect()
    })
}

fn failures(pool: &Pool<Fake>, size: usize, deadline: Duration) -> Vec<CollectiveError> {
    run(group_of(pool, size, deadline).unwrap())
        .into_iter()
        .map(Result::unwrap_err)
        .collect()
}

#[test]
fn communicators_are_used_again_and_closed_once() {
    let pool = pool(Fault::None);
    for _ in 0..3 {
        run(group_of(&pool, 2, PATIENT).unwrap())
            .into_iter()
            .for_each(Result::unwrap);
    }
    let backend = pool.backend.clone();
    assert_eq!(backend.history(), (1, vec![], 0));
    drop(pool);
    assert_eq!(backend.history(), (1, vec![], 1));
}

#[test]
fn communicators_in_use_are_not_shared() {
    let pool = pool(Fault::None);
    let first = group_of(&pool, 1, PATIENT).unwrap();
    let second = group_of(&pool, 1, PATIENT).unwrap();
    assert_eq!(pool.backend.history().0, 2);
    drop((first, second));
    group_of(&pool, 1, PATIENT).unwrap();
    assert_eq!(pool.backend.history().0, 2);
}

#[test]
fn a_device_that_hangs_ends_the_group_at_the_deadline() {
    let pool = pool(Fault::DeviceHangs { rank: 1, nth: 2 });
    for failure in failures(&pool, 3, SHORT) {
        assert!(
            matches!(failure, CollectiveError::TimedOut { .. }),
            "{failure}"
        );
    }
    assert_eq!(
        pool.backend.history().1,
        [0, 1, 2],
        "every replica gives its communicator up"
    );
}

#[test]
fn a_launch_that_hangs_ends_the_group_at_the_deadline() {
    let pool = pool(Fault::LaunchHangs { rank: 0, nth: 3 });
    for failure in failures(&pool, 2, SHORT) {
        assert!(
            matches!(
                failure,
                CollectiveError::TimedOut {
                    operation: "all-reduce",
                    ..
                }
            ),
            "{failure}"
        );
    }
    assert_eq!(pool.backend.history().1, [0, 1]);
}

#[test]
fn an_asynchronous_error_reaches_every_replica() {
    let pool = pool(Fault::AsyncError { rank: 2, nth: 1 });
    for failure in failures(&pool, 3, PATIENT) {
        let reason = "NCCL: remote process exited or there was a network error".to_owned();
        assert_eq!(
            failure,
            CollectiveError::Failed {
                operation: "all-reduce",
                reason
            }
        );
    }
    assert_eq!(pool.backend.history().1, [0, 1, 2]);
}

#[test]
fn a_replica_that_dies_is_named_to_the_others() {
    let pool = pool(Fault::None);
    let group = group_of(&pool, 3, PATIENT).unwrap();
    let results: Vec<_> = thread::scope(|scope| {
        let body = |end: Box<dyn Collective>| {
            let guard = AbortOnDrop::new(&*end);
            let tensor = Tensor::ones([8], (Kind::Float, Device::Cpu));
            end.all_reduce(&tensor).unwrap();
            assert!(end.rank() != 1, "this replica dies here");
            let result = end.all_reduce(&tensor).and_then(|()| end.wait());
            guard.finished();
            result
        };
        let threads: Vec<_> = group
            .into_iter()
            .map(|end| scope.spawn(move || body(end)))
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    assert!(results[1].is_err());
    for rank in [0, 2] {
        let failure = results[rank].as_ref().unwrap().clone().unwrap_err();
        assert_eq!(
            failure,
            CollectiveError::Aborted {
                rank: 1,
                reason: "it panicked".to_owned()
            }
        );
    }
    assert_eq!(pool.backend.history(), (1, vec![0, 1, 2], 0));
    // the slot is usable again, with new communicators
    run(group_of(&pool, 3, PATIENT).unwrap())
        .into_iter()
        .for_each(Result::unwrap);
    assert_eq!(pool.backend.history().0, 2);
}

#[test]
fn a_replica_that_never_comes_is_named() {
    let pool = pool(Fault::None);
    let mut group = group_of(&pool, 2, SHORT).unwrap();
    let absent = group.pop().unwrap();
    let failure = group[0]
        .all_reduce(&Tensor::ones([8], (Kind::Float, Device::Cpu)))
        .unwrap_err();
    assert!(
        matches!(&failure, CollectiveError::TimedOut { missing, .. } if *missing == [1]),
        "{failure}"
    );
    drop((group, absent));
    assert_eq!(pool.backend.history().1, [0, 1]);
}

#[test]
fn communicators_that_cannot_be_made_are_given_up() {
    let hanging = pool(Fault::StartHangs);
    let failure = group_of(&hanging, 2, SHORT).err().unwrap();
    assert!(
        matches!(&failure, CollectiveError::TimedOut { missing, .. } if *missing == [0, 1]),
        "{failure}"
    );
    assert_eq!(hanging.backend.history(), (1, vec![0, 1], 0));
    let failing = pool(Fault::StartFails);
    let failure = group_of(&failing, 2, SHORT).err().unwrap();
    assert_eq!(
        failure.to_string(),
        "making communicators failed: NCCL: unhandled cuda error"
    );
}

#[test]
fn a_tensor_that_is_not_contiguous_is_refused() {
    let group = group_of(&pool(Fault::None), 1, PATIENT).unwrap();
    let failure = group[0]
        .all_reduce(&Tensor::ones([4, 4], (Kind::Float, Device::Cpu)).tr())
        .unwrap_err();
    assert_eq!(
        failure.to_string(),
        "all-reduce failed: the tensor is not contiguous"
    );
}

/// Runs on any machine, on two GPUs more than it has.
#[test]
fn a_group_on_absent_gpus_names_the_cause() {
    let absent = crate::device::num_gpus();
    let failure = super::nccl(&[absent, absent + 1], Duration::from_secs(20))
        .err()
        .unwrap()
        .to_string();
    assert!(
        failure.contains("libnccl.so.2")
            || failure.contains("libcudart")
            || failure.contains("CUDA"),
        "{failure}"
    );
}
