//! Prints the numbers that the documents quote: time to submit, decide, append and replay, and
//! memory, for a large sweep.
//!
//! `cargo run --release -p journal --example measure -- TRIALS [DIRECTORY [keep]]`. The journal goes
//! to DIRECTORY (default: the system's temporary one) and is removed afterwards, unless it is to be
//! kept: then it is a state directory, `DIRECTORY/TRIALS`. Each trial ends in
//! ten events: four attempts lost with their workers, and one with a result of 12 epochs and a
//! subset of 100 images.

use std::collections::VecDeque;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use journal::Journal;
use schedule::event::{Effect, EndedAttempt, Input, Outcome, Recorded};
use schedule::state::{Slot, State, WorkerId, WorkerInfo};
use schedule::{Budget, CheckedSweep, Config, restart, turn};
use sweep::AttemptId;
use sweep::record::{EpochRecord, Failure, FailureClass, Provenance, Subset, TrialResult};

type Outcomes = Result<(), Box<dyn Error>>;

const WORKERS: u64 = 100;
const SLOTS: usize = 8;
const LOST_ATTEMPTS: u32 = 4;

fn main() -> Outcomes {
    let mut arguments = std::env::args().skip(1);
    let trials: u32 = arguments
        .next()
        .ok_or("give the number of trials")?
        .parse()?;
    let directory = arguments
        .next()
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let keep = arguments.next().is_some_and(|word| word == "keep");
    let name = match keep {
        true => trials.to_string(),
        false => format!("orchestrator-measure-{}", std::process::id()),
    };
    let directory = directory.join(name);
    let outcome = measure(trials, &directory);
    if directory.exists() && !keep {
        std::fs::remove_dir_all(&directory)?;
    }
    outcome
}

fn measure(trials: u32, directory: &Path) -> Outcomes {
    let mut config = Config::new("measure");
    // No step may wait for the clock.
    config.budgets.unreachable = Budget {
        retries: None,
        first_ms: 0,
        then_ms: 0,
        most_ms: 0,
    };
    let mut state = State::default();
    restart(&mut state, 1);
    let empty = resident_mib()?;
    let sweep = CheckedSweep::new(grid(trials)?)?;
    let started = Instant::now();
    let submitted = turn(&mut state, &config, &[Input::Submit { sweep }], 1).recorded;
    println!(
        "submit {} trials: {:.2} s",
        state.trials.len(),
        started.elapsed().as_secs_f64()
    );
    println!(
        "memory with every trial waiting: {:.0} MiB",
        resident_mib()? - empty
    );

    let mut journal = Journal::open(directory)?;
    let started = Instant::now();
    journal.append(&submitted)?;
    println!(
        "append the submission: {:.2} s",
        started.elapsed().as_secs_f64()
    );
    drop(submitted);
    run_all(&mut state, &config, &mut journal)?;
    println!(
        "memory with every trial ended: {:.0} MiB",
        resident_mib()? - empty
    );
    println!(
        "journal: {} events, {:.0} MiB",
        journal.last(),
        journal.bytes() as f64 / 1048576.0
    );
    drop(journal);
    replay(directory, &state)
}

/// Runs all trials: workers end attempts one at a time, and each end is one turn. The first are
/// journalled singly.
fn run_all(state: &mut State, config: &Config, journal: &mut Journal) -> Outcomes {
    const ONE_BY_ONE: usize = 2_000;
    let mut running: VecDeque<(WorkerId, AttemptId)> = VecDeque::new();
    let mut deciding = Vec::new();
    let mut appending = Vec::new();
    let mut pending: Vec<Recorded> = Vec::new();
    let mut now = 1;
    let mut joining = 0;
    loop {
        now += 1;
        let input = if joining < WORKERS {
            joining += 1;
            join(joining)
        } else {
            let Some((worker, attempt)) = running.pop_front() else {
                break;
            };
            Input::Ended {
                worker,
                ended: end(attempt),
            }
        };
        let started = Instant::now();
        let turn = turn(state, config, &[input], now);
        deciding.push(started.elapsed());
        running.extend(turn.effects.into_iter().filter_map(|effect| match effect {
            Effect::Start {
                worker, attempt, ..
            } => Some((worker, attempt)),
            _ => None,
        }));
        pending.extend(turn.recorded);
        if appending.len() < ONE_BY_ONE {
            let started = Instant::now();
            journal.append(&pending)?;
            appending.push(started.elapsed());
            pending.clear();
        } else if pending.len() >= 10_000 {
            journal.append(&pending)?;
            pending.clear();
        }
    }
    journal.append(&pending)?;
    let total: Duration = deciding.iter().sum();
    let (count, seconds) = (deciding.len(), total.as_secs_f64());
    println!(
        "{count} turns (decide, apply, plan, effects): {:.0} per second, {}",
        count as f64 / seconds,
        percentiles(deciding)
    );
    println!("append of one turn, synced: {}", percentiles(appending));
    Ok(())
}

fn replay(directory: &Path, live: &State) -> Outcomes {
    let mut journal = Journal::open(directory)?;
    let total = journal.last();
    let mut state = State::default();
    let started = Instant::now();
    let mut hundred_thousand = None;
    let mut fault = None;
    journal.read(|recorded| {
        if let Err(impossible) = schedule::apply(&mut state, &recorded) {
            fault.get_or_insert(impossible);
        }
        if state.applied == 100_000 {
            hundred_thousand = Some(started.elapsed());
        }
        Ok(())
    })?;
    if let Some(impossible) = fault {
        return Err(impossible.into());
    }
    if let Some(elapsed) = hundred_thousand {
        println!(
            "replay of the first 100000 events: {:.2} s",
            elapsed.as_secs_f64()
        );
    }
    println!(
        "replay of all {total} events: {:.2} s",
        started.elapsed().as_secs_f64()
    );
    if !state.same_history(live) {
        return Err("replay differs from live".into());
    }
    Ok(())
}

fn grid(trials: u32) -> Result<sweep::Sweep, Box<dyn Error>> {
    let seeds = 10.min(trials);
    let cells = trials / seeds;
    let rates: Vec<String> = (1..=100.min(cells))
        .map(|value| format!("{}", f64::from(value) / 1000.0))
        .collect();
    let kept: Vec<String> = (1..=(cells / rates.len() as u32).max(1))
        .map(|count| count.to_string())
        .collect();
    let text = format!(
        "name: large\nrecipe: quick\nset: {{dataset: digits, schedule: {{constant: {{epochs: 12}}}}}}\nseeds: {seeds}\nlimits: {{trials: {trials}}}\naxes:\n  \
         learning_rate: [{}]\n  samples_per_class: [{}]\n",
        rates.join(", "),
        kept.join(", ")
    );
    let no_file = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    sweep::parse("large.yaml", &text, &no_file).map_err(|errors| format!("{errors:?}").into())
}

fn join(number: u64) -> Input {
    let slot = Slot {
        devices: vec!["cpu".to_owned()],
        uuids: Vec::new(),
        description: "1 thread".to_owned(),
    };
    let info = WorkerInfo {
        host: format!("host-{number}"),
        build: "measure".to_owned(),
        trainer: Default::default(),
        slots: vec![slot; SLOTS],
        allocation: None,
        leaves_at_ms: None,
    };
    let worker = WorkerId(format!("host-{number}-1-abcdef").into());
    let secret = schedule::state::SecretHash::new([0; 32]);
    Input::Connected {
        worker,
        connection: 1,
        secret,
        info,
        running: Vec::new(),
        ended: Vec::new(),
    }
}

fn end(id: AttemptId) -> EndedAttempt {
    if id.number.0 <= LOST_ATTEMPTS {
        let message =
            "worker `host-1-1-abcdef` was silent for 10 s, longer than its lease".to_owned();
        let outcome = Outcome::Failed(Failure::new(FailureClass::Unreachable, message));
        return EndedAttempt { id, outcome };
    }
    let epoch = EpochRecord {
        train_loss: 0.123456789,
        accuracy: Some(0.987654321),
        state_hash: id.trial.to_string(),
        ..EpochRecord::default()
    };
    let provenance = Provenance {
        trainer: "0.1.0 (0123456)".to_owned(),
        libtorch: "2.11.0".to_owned(),
        devices: vec!["cpu (1 thread)".to_owned()],
        host: "host-1".to_owned(),
        precision: "f32".to_owned(),
        execution: "queued".to_owned(),
        kernels: "fused-norm".to_owned(),
        images: "host".to_owned(),
        libraries: Vec::new(),
        environment: String::new(),
        data_fingerprint: "0123456789abcdef".to_owned(),
        skipped_images: 0,
        inputs: Default::default(),
        subset: Subset::Indices((0..100).map(|index| index * 17).collect()),
        num_eval_images: 10_000,
        num_parameters: 78_042,
    };
    let result = TrialResult {
        classes: None,
        last_accuracy: 0.987654321,
        best_accuracy: 0.987654321,
        best_epoch: 11,
        last_balanced_accuracy: 0.987654321,
        train_loss: 0.123456789,
        eval_loss: 0.123456789,
        epochs: vec![epoch; 12],
        provenance,
        timing: Default::default(),
    };
    EndedAttempt {
        id,
        outcome: Outcome::Finished(Box::new(result)),
    }
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    format!("p50 {:.0} us, p99 {:.0} us", at(0.5), at(0.99))
}

fn resident_mib() -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .ok_or("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}
