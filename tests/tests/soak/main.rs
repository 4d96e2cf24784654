//! Kill anything, lose nothing: coordinator, workers and trainers are killed at seeded random
//! moments of real training, and workers are frozen for longer than their lease, until the number
//! of kills is reached. The results must be those of an undisturbed run, byte for byte, and no
//! process may be left.
//!
//! `make soak` runs it and prints the figures (figures.rs). ORCHESTRATOR_SOAK_SEED repeats a run's
//! choices (their effect depends on the machine's scheduler), ORCHESTRATOR_SOAK_KILLS changes the
//! number of kills.

mod figures;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::binaries::binary;
use tests::results::{any_departed, assert_same, undisturbed_files};
use tests::{Process, System, wait_for};

use figures::Figures;

const LEASE: Duration = Duration::from_millis(2_000);
const NUM_WORKERS: usize = 3;
/// After this number of kills the round is undisturbed until its sweep is complete: on a slow
/// machine, trainers that are killed faster than they start would never make progress.
const KILLS_PER_ROUND: usize = 25;
/// Limit for kills of trainers: a trial whose trainer is killed four times has used up its budget.
const TRAINER_KILLS_PER_ROUND: usize = 10;

/// 24 trials of 24 epochs, each epoch with a checkpoint.
const SWEEP: &str = "
name: soak
recipe: quick
set:
  dataset: digits
  model: resnet-8
  schedule: {sgdr: {base_cycle: 8, multiplier: 2, cycles: 2, learning_rate_min: 1e-6}}
axes:
  loss: [xent, mse, cos, cos_xent]
  samples_per_class: [10, 30]
seeds: 3
outputs:
  - table: {rows: loss, columns: samples_per_class}
";

#[test]
#[ignore = "minutes of killing: make soak"]
fn results_are_those_of_an_undisturbed_run() {
    let seed = number_from("ORCHESTRATOR_SOAK_SEED").unwrap_or_else(|| now_ms() % 1_000_000);
    let enough = number_from("ORCHESTRATOR_SOAK_KILLS").unwrap_or(100) as usize;
    println!(
        "soak: seed {seed}, {NUM_WORKERS} workers of one slot, lease {} ms",
        LEASE.as_millis()
    );
    let undisturbed = Instant::now();
    let expected = undisturbed_run();
    println!(
        "soak: the undisturbed run took {:.0} s",
        undisturbed.elapsed().as_secs_f64()
    );
    let mut chance = Chance(seed);
    let mut figures = Figures::default();
    let start = Instant::now();
    while figures.num_kills() < enough {
        let kills = (enough - figures.num_kills()).min(KILLS_PER_ROUND);
        Round::start(kills).until_complete(&mut chance, &mut figures, &expected);
        figures.print(start.elapsed());
    }
}

fn undisturbed_run() -> BTreeMap<String, Vec<u8>> {
    let system = System::new();
    system.file("soak.yaml", SWEEP);
    system
        .start("run", system.orchestrator(&["run", "soak.yaml"]))
        .expect_exit(0);
    undisturbed_files(&system.results("soak"))
}

/// One sweep in a fresh state directory, disturbed until it is complete.
struct Round {
    system: System,
    coordinator: Process,
    workers: Vec<Worker>,
    run: Process,
    kills_left: usize,
    kills: Vec<Kill>,
}

struct Worker {
    process: Process,
    /// The worker is stopped until then.
    frozen: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    Coordinator,
    Worker,
    Trainer,
}

pub struct Kill {
    pub victim: Victim,
    pub pid: u32,
    /// Milliseconds since the epoch.
    pub at: u64,
}

impl Round {
    fn start(kills: usize) -> Self {
        let mut system = System::new();
        let lease = LEASE.as_millis().to_string();
        system.coordinator_flags = vec![
            "--lease-ms".to_owned(),
            lease,
            "--heartbeat-ms".to_owned(),
            "400".to_owned(),
        ];
        system.file("soak.yaml", SWEEP);
        // The log of a trainer goes straight to a file: through a worker's pipe it would be lost
        // with the worker.
        let log = system.path("trainer");
        system.install_trainer(&format!(
            "exec {} \"$@\" --checkpoint-interval 0 2>>{}-$$.log",
            binary("orchestrator-trainer").display(),
            log.display()
        ));
        let coordinator = system.coordinator();
        let start = |index| Worker {
            process: worker(&system, index),
            frozen: None,
        };
        let workers = (0..NUM_WORKERS).map(start).collect();
        let run = follow(&system);
        Self {
            system,
            coordinator,
            workers,
            run,
            kills_left: kills,
            kills: Vec::new(),
        }
    }

    fn until_complete(
        mut self,
        chance: &mut Chance,
        figures: &mut Figures,
        expected: &BTreeMap<String, Vec<u8>>,
    ) {
        loop {
            std::thread::sleep(Duration::from_millis(chance.between(50, 2_000)));
            self.thaw();
            if let Some(status) = self.run.has_ended() {
                // Random kills may still have hit one trial's trainers too often. The soak retries
                // it, as a user would.
                if status.code() != Some(3) {
                    break;
                }
                figures.given_up += 1;
                self.system.ask(&["retry", "soak", "--failed"]);
                self.run = follow(&self.system);
            }
            if self.kills_left > 0 {
                self.disturb(chance, figures);
            }
        }
        self.run.expect_exit(0);
        assert_same(expected, &undisturbed_files(&self.system.results("soak")));
        assert!(
            !any_departed(&self.system.results("soak")),
            "an epoch trained again came out with other bits"
        );
        let mut verify = self
            .system
            .orchestrator(&["journal", "verify", "--state-dir", "state"]);
        assert!(
            verify.status().expect("the command starts").success(),
            "the journal is not sound"
        );
        self.end_workers();
        figures.learn(&self.system, self.kills);
    }

    fn disturb(&mut self, chance: &mut Chance, figures: &mut Figures) {
        match chance.between(0, 100) {
            0..25 => self.kill_coordinator(),
            25..55 => self.kill_worker(chance.between(0, NUM_WORKERS as u64) as usize),
            55..90 => {
                let trainers = self.system.trainers();
                let killed = self
                    .kills
                    .iter()
                    .filter(|kill| kill.victim == Victim::Trainer)
                    .count();
                if !trainers.is_empty() && killed < TRAINER_KILLS_PER_ROUND {
                    self.kill_trainer(trainers[chance.between(0, trainers.len() as u64) as usize]);
                }
            }
            _ => {
                let worker = &mut self.workers[chance.between(0, NUM_WORKERS as u64) as usize];
                if worker.frozen.is_none() {
                    worker.process.signal(Signal::SIGSTOP);
                    worker.frozen = Some(
                        Instant::now() + LEASE + Duration::from_millis(chance.between(200, 3_000)),
                    );
                    figures.freezes += 1;
                }
            }
        }
    }

    fn note(&mut self, victim: Victim, pid: u32) {
        self.kills.push(Kill {
            victim,
            pid,
            at: now_ms(),
        });
        self.kills_left -= 1;
    }

    fn kill_coordinator(&mut self) {
        self.note(Victim::Coordinator, self.coordinator.pid());
        self.coordinator.kill_now();
        self.coordinator = self.system.coordinator();
    }

    /// Kills a worker, frozen or not: SIGKILL also ends a stopped process.
    fn kill_worker(&mut self, index: usize) {
        self.note(Victim::Worker, self.workers[index].process.pid());
        self.workers[index].process.kill_now();
        self.workers[index] = Worker {
            process: worker(&self.system, index),
            frozen: None,
        };
    }

    fn kill_trainer(&mut self, pid: u32) {
        // It may have ended by itself since it was listed.
        if kill(
            Pid::from_raw(pid.try_into().expect("a process id")),
            Signal::SIGKILL,
        )
        .is_ok()
        {
            self.note(Victim::Trainer, pid);
        }
    }

    fn thaw(&mut self) {
        for worker in &mut self.workers {
            if worker.frozen.is_some_and(|until| until <= Instant::now()) {
                worker.process.signal(Signal::SIGCONT);
                worker.frozen = None;
            }
        }
    }

    /// P5: a worker that was asked to end leaves nothing behind, whatever was killed before.
    fn end_workers(&mut self) {
        for worker in &mut self.workers {
            worker.process.signal(Signal::SIGCONT);
            worker.process.signal(Signal::SIGTERM);
        }
        for worker in &mut self.workers {
            worker.process.wait();
        }
        wait_for("no trainer is left", || {
            self.system.trainers().is_empty().then_some(())
        });
    }
}

fn worker(system: &System, index: usize) -> Process {
    let mut command = system.worker_command(&format!("host-{index}"), 1, 1);
    command.env("RUST_LOG", "warn,trainer=info");
    system.start("worker", command)
}

fn follow(system: &System) -> Process {
    let url = system.url();
    system.start(
        "run",
        system.orchestrator(&["run", "soak.yaml", "--coordinator", &url]),
    )
}

/// Seeded choices (SplitMix64).
struct Chance(u64);

impl Chance {
    /// A nearly uniform choice in `from..below`.
    fn between(&mut self, from: u64, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        from + (mixed ^ (mixed >> 31)) % (below - from)
    }
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|error| panic!("{variable}={text}: {error}")),
    )
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970");
    since.as_millis().try_into().expect("milliseconds fit")
}
