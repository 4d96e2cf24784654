//! The status as one JSON document, the same from `orchestrator status --output json` and from the
//! status page. Fields are added, never renamed; `SCHEMA` rises when one is removed.

use protocol::v1::{RunningTrial, StatusReply, SweepStatus, WorkerStatus};
use serde_json::{Value, json};

/// Version of the document.
pub const SCHEMA: u32 = 1;

/// Returns the whole document, as in `orchestrator status --output json` and on the status page.
pub fn status(reply: &StatusReply) -> Value {
    json!({
        "schema": SCHEMA,
        "build": reply.build,
        "journal_bytes": reply.journal_bytes,
        "checkpoint_bytes": reply.checkpoint_bytes,
        "storage_fault": reply.storage_fault,
        "sweeps": reply.sweeps.iter().map(sweep).collect::<Vec<_>>(),
        "workers": reply.workers.iter().map(worker).collect::<Vec<_>>(),
    })
}

fn sweep(sweep: &SweepStatus) -> Value {
    json!({
        "name": sweep.name,
        "revision": sweep.revision,
        "submitted_at_ms": sweep.submitted_at_ms,
        "waiting": sweep.waiting,
        "running": sweep.running,
        "succeeded": sweep.succeeded,
        "failed": sweep.failed,
        "cancelled": sweep.cancelled,
        "complete_cells": sweep.complete_cells,
        "cells": sweep.cells,
        "cancelled_reason": sweep.cancelled_reason,
        "remaining_ms": sweep.remaining_ms,
        "remaining_at_least": sweep.remaining_at_least,
        "complete": sweep.complete,
        "waits": sweep.waits,
        "waits_because": sweep.waits_because,
        "running_trials": sweep.running_trials.iter().map(running).collect::<Vec<_>>(),
    })
}

fn running(trial: &RunningTrial) -> Value {
    json!({
        "trial": trial.trial,
        "attempt": trial.attempt,
        "cell": trial.cell,
        "seed": trial.seed,
        "worker": trial.worker,
        "slot": trial.slot,
        "epoch": trial.epoch,
        "num_epochs": trial.num_epochs,
        "images_per_s": trial.images_per_s,
        "train_loss": trial.train_loss,
        "accuracy": trial.accuracy,
        "condition": trial.condition,
    })
}

fn worker(worker: &WorkerStatus) -> Value {
    json!({
        "worker": worker.worker,
        "host": worker.host,
        "presence": worker.presence,
        "reason": worker.reason,
        "slots": worker.slots,
        "busy_slots": worker.busy_slots,
        "slot_descriptions": worker.slot_descriptions,
        "silent_ms": worker.silent_ms,
        "work_dir_bytes": worker.work_dir_bytes,
    })
}
