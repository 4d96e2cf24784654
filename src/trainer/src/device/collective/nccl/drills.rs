//! NCCL itself on a GPU, as far as one GPU allows: a group of one through the whole path, and two
//! processes that NCCL takes for two machines (NCCL_HOSTID), which share the GPU and communicate
//! over the loopback interface.
//!
//! All need a GPU and are ignored by default; bench/README.md explains how to run them. Times are
//! printed, not checked.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use super::super::contract::contract;
use super::super::{Collective, CollectiveError};
use super::{GroupId, nccl, nccl_among_processes, nccl_group_id};
use crate::device;

/// Environment variable that orders the child: `RANK SIZE FOLDER KILL_AFTER`.
const ORDER: &str = "ORCHESTRATOR_NCCL_DRILL";
const DEADLINE: Duration = Duration::from_secs(20);
const GPU: Device = Device::Cuda(0);

fn prepare() {
    assert!(device::num_gpus() > 0, "this machine has no GPU");
    device::prepare_thread(GPU, true, 1).unwrap();
}

fn sums(tensor: &Tensor, expected: f64) {
    let found = tensor.to_device(Device::Cpu).to_kind(Kind::Double);
    assert_eq!(
        (found.min().double_value(&[]), found.max().double_value(&[])),
        (expected, expected)
    );
}

#[test]
#[ignore = "needs a GPU"]
fn a_group_of_one_goes_through_the_whole_path() {
    prepare();
    let began = Instant::now();
    let end = nccl(&[0], DEADLINE).unwrap().remove(0);
    println!(
        "communicator of one: {:.2} s",
        began.elapsed().as_secs_f64()
    );
    for kind in [Kind::Float, Kind::BFloat16, Kind::Double] {
        let tensor = Tensor::ones([1 << 20], (kind, GPU)) * 3.0;
        end.all_reduce(&tensor).unwrap();
        end.broadcast(&tensor).unwrap();
        end.wait().unwrap();
        sums(&tensor, 3.0);
    }
    assert_eq!(end.num_completed(), 6);
    // the next trial gets the same communicator
    drop(end);
    let began = Instant::now();
    let again = nccl(&[0], DEADLINE).unwrap().remove(0);
    println!("and again: {:.6} s", began.elapsed().as_secs_f64());
    again
        .all_reduce(&Tensor::ones([8], (Kind::Float, GPU)))
        .unwrap();
    again.wait().unwrap();
}

/// The suite of every `Collective`, as far as a group of one allows.
#[test]
#[ignore = "needs a GPU"]
fn a_group_of_one_keeps_the_contract() {
    prepare();
    contract(|deadline| nccl(&[0], deadline).unwrap(), &[GPU]);
}

/// Two processes, because NCCL chooses its own order of addition for more than two.
#[test]
#[ignore = "needs two GPUs"]
fn a_group_of_two_gpus_keeps_the_contract() {
    assert!(device::num_gpus() > 1, "this machine has not two GPUs");
    contract(
        |deadline| nccl(&[0, 1], deadline).unwrap(),
        &[Device::Cuda(0), Device::Cuda(1)],
    );
}

#[test]
#[ignore = "needs a GPU"]
fn two_processes_sum_over_the_wire() {
    assert!(device::num_gpus() > 0, "this machine has no GPU");
    let folder = tempfile::tempdir().unwrap();
    for mut member in [0, 1].map(|rank| start(rank, folder.path(), None)) {
        assert!(member.wait().unwrap().success());
    }
}

#[test]
#[ignore = "needs a GPU"]
fn a_killed_process_ends_the_other_within_its_deadline() {
    assert!(device::num_gpus() > 0, "this machine has no GPU");
    let folder = tempfile::tempdir().unwrap();
    let [mut survivor, mut killed] = [0, 1].map(|rank| start(rank, folder.path(), Some(5)));
    assert!(!killed.wait().unwrap().success());
    let began = Instant::now();
    assert!(survivor.wait().unwrap().success());
    let waited = began.elapsed();
    println!(
        "the other process was gone {:.1} s after the first was killed",
        waited.as_secs_f64()
    );
    assert!(waited < 2 * DEADLINE, "{waited:?}");
}

fn start(rank: usize, folder: &Path, kill_after: Option<u32>) -> Child {
    let order = format!("{rank} 2 {} {}", folder.display(), kill_after.unwrap_or(0));
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "collective::nccl::drills::member",
        ])
        .env(ORDER, order)
        .env("NCCL_HOSTID", format!("rank{rank}"))
        .env("NCCL_SOCKET_IFNAME", "lo")
        .env("NCCL_IB_DISABLE", "1")
        .env("NCCL_DEBUG", "WARN")
        .spawn()
        .unwrap()
}

/// One process of a group; the drills above start it.
#[test]
#[ignore = "is started by the other drills"]
fn member() {
    let order = std::env::var(ORDER).expect("only the other drills start this one");
    let words: Vec<&str> = order.split(' ').collect();
    let [rank, size, kill_after] =
        [words[0], words[1], words[3]].map(|word| word.parse::<usize>().unwrap());
    prepare();
    let end = nccl_among_processes(
        id(rank, &PathBuf::from(words[2])),
        (rank, size),
        0,
        DEADLINE,
    )
    .unwrap();
    let began = Instant::now();
    let outcome = (1..=20).try_for_each(|number| sum(&*end, number, kill_after));
    if kill_after == 0 {
        outcome.unwrap();
        println!(
            "rank {rank}: 20 sums of 4 MB in {:.3} s",
            began.elapsed().as_secs_f64()
        );
        return;
    }
    let failure = outcome.expect_err("the other process was killed");
    println!("rank {rank}: {failure}");
    end.abort("the drill is over");
}

fn sum(end: &dyn Collective, number: usize, kill_after: usize) -> Result<(), CollectiveError> {
    if kill_after == number && end.rank() == 1 {
        // SAFETY: kills this process at once, as the kernel would.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
    let tensor = Tensor::ones([1 << 20], (Kind::Float, GPU)) * (end.rank() + 1) as f64;
    end.all_reduce(&tensor)?;
    end.wait()?;
    sums(&tensor, 3.0);
    Ok(())
}

/// Returns the group's id: rank 0 writes it to a file, the others read it.
fn id(rank: usize, folder: &Path) -> GroupId {
    let path = folder.join("id");
    if rank == 0 {
        let id = nccl_group_id().unwrap();
        std::fs::write(folder.join("partial"), id.0).unwrap();
        std::fs::rename(folder.join("partial"), &path).unwrap();
        return id;
    }
    let until = Instant::now() + DEADLINE;
    while !path.exists() {
        assert!(Instant::now() < until, "rank 0 does not name the group");
        std::thread::sleep(Duration::from_millis(10));
    }
    GroupId(std::fs::read(&path).unwrap().try_into().unwrap())
}
