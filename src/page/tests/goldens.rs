//! Pages that show every status, as the server sends them, compared with files in `tests/goldens`.

// The states of the report's own tests, which use more of it.
#[allow(dead_code)]
#[path = "../../report/tests/fixture/mod.rs"]
mod fixture;

use page::{Place, Query, Scene};
use protocol::v1::{
    Condition, FailedTrial, Presence, RunningTrial, StatusReply, SweepStatus, WorkerStatus,
};
use report::{Reporter, Results};
use serde_json::json;

/// 2026-11-28 06:10:04 UTC
const NOW_MS: u64 = 1_795_846_204_000;

fn check(name: &str, found: &str) {
    // A line for each element that begins, so that differences can be read.
    let lines = found.replace("><", ">\n<");
    tests::golden::assert_file(format!("tests/goldens/{name}.html"), &lines);
}

fn running(condition: Condition, epoch: u32) -> RunningTrial {
    RunningTrial {
        trial: format!("t000000000{epoch}"),
        cell: "cub/cos".to_owned(),
        seed: u64::from(epoch),
        epoch,
        num_epochs: if epoch == 0 { 0 } else { 12 },
        accuracy: (epoch > 1).then_some(0.5),
        train_loss: (epoch > 0).then_some(1.25),
        images_per_s: 640.0,
        worker: "node-1".to_owned(),
        search: epoch > 2,
        condition: condition.into(),
        ..RunningTrial::default()
    }
}

fn sweep(name: &str) -> SweepStatus {
    SweepStatus {
        name: name.to_owned(),
        cells: 6,
        complete_cells: 2,
        succeeded: 5,
        revision: 1,
        ..SweepStatus::default()
    }
}

/// A moment with a sweep in each state, a worker in each presence, and what runs in each condition.
fn moment() -> StatusReply {
    let worker = |presence: Presence| WorkerStatus {
        worker: format!("worker-{presence}"),
        host: "node-1".to_owned(),
        presence: presence.into(),
        reason: match presence {
            Presence::Present => String::new(),
            _ => format!("the reason for {presence}"),
        },
        slots: 2,
        busy_slots: 1,
        slot_descriptions: vec!["cuda:0 H200".to_owned(), "cuda:1 H200".to_owned()],
        silent_ms: 90_000,
        ..WorkerStatus::default()
    };
    let conditions = [
        Condition::Running,
        Condition::Running,
        Condition::Unreachable,
        Condition::Stalled,
        Condition::NoCoordinator,
    ];
    let running = (0..)
        .zip(conditions)
        .map(|(epoch, condition)| running(condition, epoch));
    StatusReply {
        now_ms: NOW_MS,
        build: "0.1.0+golden".to_owned(),
        storage_fault: "No space left on device".to_owned(),
        journal_bytes: 3 << 20,
        sweeps: vec![
            SweepStatus {
                running: 5,
                waiting: 3,
                failed: 1,
                cancelled: 1,
                revision: 2,
                remaining_ms: 5_400_000,
                remaining_low_ms: 4_000_000,
                remaining_high_ms: 7_300_000,
                remaining_at_least: true,
                more_seeds: "2 of 3 cells not distinguishable from the best, and trained with up to 6 seeds".to_owned(),
                submitted_at_ms: NOW_MS,
                description: "A sweep in every state, on `two` data sets".to_owned(),
                running_trials: running.collect(),
                failures: vec![FailedTrial {
                    trial: "t0000000009".to_owned(),
                    cell: "nab/cos".to_owned(),
                    seed: 3,
                    attempts: 2,
                    failure: "CUDA error: an illegal memory access\nsecond line".to_owned(),
                    ..FailedTrial::default()
                }],
                ..sweep("statuses")
            },
            SweepStatus {
                waiting: 7,
                waits_because: "no worker is connected".to_owned(),
                ..sweep("waiting")
            },
            SweepStatus {
                complete: true,
                complete_cells: 6,
                ..sweep("complete")
            },
            SweepStatus {
                complete: true,
                failed: 2,
                ..sweep("with failures")
            },
            SweepStatus {
                cancelled: 7,
                cancelled_reason: "cancelled by somebody".to_owned(),
                ..sweep("cancelled")
            },
        ],
        workers: [
            Presence::Present,
            Presence::Unreachable,
            Presence::Draining,
            Presence::Gone,
        ]
        .map(worker)
        .into(),
        cluster_json: json!({
            "queue": {"name": "q", "launcher": "slurm", "request": "1 node with 4 GPUs", "max_allocations": 8,
                      "wanted": 3, "reason": "the last request failed", "error": "sbatch: error", "avoided": ["node-7"]},
            "allocations": [
                {"allocation": "a1", "job": "4711", "state": "pending", "reason": "Priority", "since_ms": NOW_MS, "log": ""},
                {"allocation": "a2", "job": "4712", "state": "running", "node": "node-1", "time_left_ms": 3_600_000,
                 "since_ms": NOW_MS, "log": ""},
            ],
        })
        .to_string()
        .into_bytes(),
        ..StatusReply::default()
    }
}

#[test]
fn every_status_of_a_sweep_its_trials_and_workers() {
    let state = fixture::every_status();
    let status = moment();
    let scene = Scene {
        status: &status,
        place: Place::Served { may_change: true },
    };
    let reporter = Reporter::of(&state, "statuses").unwrap();
    let tables = page::tables(Place::Served { may_change: true }, &reporter);
    check("sweep", &page::sweep(scene, &status.sweeps[0], &tables));
    let results = Results::of(&state, "statuses").unwrap();
    let trials = page::trials(scene, &status.sweeps[0], &results, &Query::from_pairs([]));
    for phase in ["waiting", "running", "succeeded", "failed", "cancelled"] {
        assert!(
            trials.contains(&format!("<span class=\"status {phase}\">")),
            "{phase}"
        );
    }
    check("trials", &trials);
    check("sweeps", &page::sweeps(scene, Some(&tables)));
    check("workers", &page::workers(scene));
}

/// A figure or a table without a caption is named, and no full stop follows its name.
#[test]
fn a_table_without_a_caption_has_its_name_alone() {
    let state = fixture::every_status_in(|table| table.caption.clear());
    let reporter = Reporter::of(&state, "statuses").unwrap();
    let drawn = page::tables(Place::Served { may_change: true }, &reporter).into_string();
    assert!(
        drawn.contains("<caption><strong>main</strong> </caption>"),
        "{drawn}"
    );
}
