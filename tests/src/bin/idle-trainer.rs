//! A trainer that does nothing: answers every trial at once, with a result that depends on the trial's settings alone.
//!
//! With it, what the control plane costs can be measured without training, and its faults be made at will:
//! IDLE_TRAINER_STUCK names a file; the first run that does not find it makes it and then stands still, heartbeats and
//! all, until it is ended. It is started like the real one, with `orchestrator worker --trainer`.

use std::io;
use std::path::Path;
use std::time::Duration;

use sweep::handoff::{Progress, Ready, Reply, Request, RunRequest, read_frame, write_frame};
use sweep::record::{EpochRecord, Provenance, Subset, Timing, TrialResult};

fn main() -> io::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let ready = Ready { build: sweep::build(), libtorch: "none".to_owned(), devices: vec!["idle".to_owned()] };
    write_frame(&mut output, &Reply::Ready(ready))?;
    while let Some(request) = read_frame::<Request>(&mut input)? {
        let Request::Run(run) = request else { continue };
        if first_time_stuck() {
            return stand_still(&mut output);
        }
        write_frame(&mut output, &Reply::Finished(Box::new(result(&run))))?;
    }
    Ok(())
}

fn first_time_stuck() -> bool {
    let Some(file) = std::env::var_os("IDLE_TRAINER_STUCK") else { return false };
    // `create_new` decides between trainers that start at the same time
    std::fs::File::create_new(Path::new(&file)).is_ok()
}

/// As a replica that sleeps inside an all-reduce: progress goes on being reported and does not grow.
fn stand_still(output: &mut impl io::Write) -> io::Result<()> {
    let progress = Progress { num_epochs: 1, steps_per_epoch: 10, step: 3, ..Progress::default() };
    loop {
        write_frame(&mut *output, &Reply::Progress(progress.clone()))?;
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn result(run: &RunRequest) -> TrialResult {
    let seed = run.spec.seed as f64;
    let accuracy = (seed + 1.0) / (seed + 2.0);
    TrialResult {
        last_accuracy: accuracy,
        best_accuracy: accuracy,
        best_epoch: 0,
        last_balanced_accuracy: accuracy,
        train_loss: 1.0 - accuracy,
        eval_loss: 1.0 - accuracy,
        epochs: vec![EpochRecord {
            train_loss: 1.0 - accuracy,
            accuracy: Some(accuracy),
            state_hash: run.trial.to_string(),
        }],
        provenance: Provenance { trainer: sweep::build(), subset: Subset::All, ..Provenance::default() },
        timing: Timing::default(),
    }
}
