//! Kill anything, lose nothing: coordinator, workers and trainers killed at seeded random moments during real training,
//! workers frozen for longer than their lease among them, until enough has been killed. The results must be those of
//! an undisturbed run, byte for byte.
//!
//! `make soak` runs it and prints the figures. ORCHESTRATOR_SOAK_SEED repeats a run's choices (what the scheduler of
//! the machine makes of them differs), ORCHESTRATOR_SOAK_KILLS changes how many kills are enough.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::results::{assert_same, attempts, undisturbed_files};
use tests::{Process, System};

const LEASE: Duration = Duration::from_millis(2_000);
const NUM_WORKERS: usize = 3;
/// Then the round is left alone until its sweep is complete: on a slow machine trainers that are killed faster than they
/// start would never get anywhere.
const KILLS_PER_ROUND: usize = 25;
/// Of those: a trial whose trainer is killed four times is given up, as its budget says.
const TRAINER_KILLS_PER_ROUND: usize = 10;

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
    let enough = number_from("ORCHESTRATOR_SOAK_KILLS").unwrap_or(100);
    println!("soak: seed {seed}, {NUM_WORKERS} workers of one slot, lease {} ms", LEASE.as_millis());
    let undisturbed = Instant::now();
    let expected = undisturbed_run();
    println!("soak: the undisturbed run took {:.0} s", undisturbed.elapsed().as_secs_f64());
    let mut chance = Chance(seed);
    let mut figures = Figures::default();
    let start = Instant::now();
    while figures.kills.len() < enough as usize {
        figures.rounds += 1;
        Round::start().until_complete(&mut chance, &mut figures, &expected);
        println!("soak: round {}, {} kills so far, results identical", figures.rounds, figures.kills.len());
    }
    figures.print(start.elapsed());
}

fn undisturbed_run() -> BTreeMap<String, Vec<u8>> {
    let system = System::new();
    system.file("soak.yaml", SWEEP);
    system.start("run", system.orchestrator(&["run", "soak.yaml"])).expect_exit(0);
    undisturbed_files(&system.results("soak"))
}

/// One sweep in a fresh state directory, disturbed until it is complete.
struct Round {
    system: System,
    coordinator: Option<Process>,
    workers: Vec<Option<Process>>,
    run: Process,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Coordinator,
    Worker,
    Trainer,
}

impl Round {
    fn start() -> Self {
        let mut system = System::new();
        let lease = LEASE.as_millis().to_string();
        system.coordinator_flags = vec!["--lease-ms".to_owned(), lease, "--heartbeat-ms".to_owned(), "400".to_owned()];
        system.file("soak.yaml", SWEEP);
        let coordinator = Some(system.coordinator());
        let workers = (0..NUM_WORKERS).map(|index| Some(system.worker(&format!("host-{index}"), 1))).collect();
        let url = system.url();
        let run = system.start("run", system.orchestrator(&["run", "soak.yaml", "--coordinator", &url]));
        Self { system, coordinator, workers, run }
    }

    fn until_complete(mut self, chance: &mut Chance, figures: &mut Figures, expected: &BTreeMap<String, Vec<u8>>) {
        let mut kills = Vec::new();
        loop {
            std::thread::sleep(Duration::from_millis(chance.between(100, 2_500)));
            if let Some(status) = self.run.has_ended() {
                // Chance may still have killed one trial's trainers too often. The soak asks for it again, as a user would.
                if status.code() != Some(3) {
                    break;
                }
                figures.given_up += 1;
                self.system.ask(&["retry", "soak", "--failed"]);
                self.run = self.follow();
            }
            if kills.len() < KILLS_PER_ROUND {
                self.disturb(chance, &mut kills, figures);
            }
        }
        self.run.expect_exit(0);
        let folder = self.system.results("soak");
        assert_same(expected, &undisturbed_files(&folder));
        figures.trials += attempts(&folder).len() as u64;
        figures.attempts += attempts(&folder).iter().map(|attempts| u64::from(*attempts)).sum::<u64>();
        figures.learn(&self.system, &kills);
        figures.kills.extend(kills);
    }

    fn follow(&self) -> Process {
        let url = self.system.url();
        self.system.start("run", self.system.orchestrator(&["run", "soak.yaml", "--coordinator", &url]))
    }

    fn disturb(&mut self, chance: &mut Chance, kills: &mut Vec<(Victim, u64)>, figures: &mut Figures) {
        match chance.between(0, 100) {
            0..25 => {
                kills.push((Victim::Coordinator, now_ms()));
                self.coordinator.take().expect("one is always running").kill();
                self.coordinator = Some(self.system.coordinator());
            }
            25..55 => {
                let index = chance.between(0, NUM_WORKERS as u64) as usize;
                kills.push((Victim::Worker, now_ms()));
                self.workers[index].take().expect("all are running").kill();
                self.workers[index] = Some(self.system.worker(&format!("host-{index}"), 1));
            }
            55..90 => {
                let trainers = self.system.trainers();
                let killed = kills.iter().filter(|(victim, _)| *victim == Victim::Trainer).count();
                if trainers.is_empty() || killed == TRAINER_KILLS_PER_ROUND {
                    return;
                }
                let pid = trainers[chance.between(0, trainers.len() as u64) as usize];
                // It may have ended by itself since it was listed.
                if kill(Pid::from_raw(pid.try_into().expect("a process id")), Signal::SIGKILL).is_ok() {
                    kills.push((Victim::Trainer, now_ms()));
                }
            }
            _ => {
                let index = chance.between(0, NUM_WORKERS as u64) as usize;
                let worker = self.workers[index].as_ref().expect("all are running");
                worker.signal(Signal::SIGSTOP);
                std::thread::sleep(LEASE + Duration::from_millis(chance.between(200, 1_500)));
                worker.signal(Signal::SIGCONT);
                figures.freezes += 1;
            }
        }
    }
}

#[derive(Default)]
struct Figures {
    rounds: u32,
    /// What and when, in milliseconds since the epoch.
    kills: Vec<(Victim, u64)>,
    freezes: u32,
    trials: u64,
    attempts: u64,
    given_up: u32,
    /// From each kill to the coordinator's next dispatch, in milliseconds.
    to_next_dispatch: BTreeMap<Victim, Vec<u64>>,
    /// Training that was thrown away: from an attempt's last checkpoint to its end is not known, so this is the time
    /// of all attempts that did not succeed.
    lost_ms: u64,
    useful_ms: u64,
}

impl Figures {
    /// Reads the journal of a finished round.
    fn learn(&mut self, system: &System, kills: &[(Victim, u64)]) {
        let events = system.journal();
        let dispatches: Vec<u64> = events
            .iter()
            .filter_map(|event| event["event"].get("trial_dispatched").map(|_| event["at"].as_u64().expect("a time")))
            .collect();
        for (victim, at) in kills {
            if let Some(next) = dispatches.iter().find(|dispatch| *dispatch >= at) {
                self.to_next_dispatch.entry(*victim).or_default().push(next - at);
            }
        }
        let results = std::fs::read(system.results("soak").join("results.json")).expect("the report is there");
        let results: Value = serde_json::from_slice(&results).expect("results.json is JSON");
        for trial in results["trials"].as_array().expect("a list of trials") {
            for attempt in trial["attempts"].as_array().expect("a list of attempts") {
                let (Some(start), Some(end)) = (attempt["started_at_ms"].as_u64(), attempt["ended_at_ms"].as_u64())
                else {
                    continue;
                };
                let lasted = end.saturating_sub(start);
                if attempt["failure"].is_null() { self.useful_ms += lasted } else { self.lost_ms += lasted }
            }
        }
    }

    fn print(&mut self, took: Duration) {
        let count = |victim| self.kills.iter().filter(|(killed, _)| *killed == victim).count();
        println!("soak: {} rounds in {:.0} s, every one with identical results", self.rounds, took.as_secs_f64());
        println!(
            "soak: {} kills: {} of the coordinator, {} of workers, {} of trainers; {} workers frozen beyond their lease",
            self.kills.len(),
            count(Victim::Coordinator),
            count(Victim::Worker),
            count(Victim::Trainer),
            self.freezes
        );
        println!(
            "soak: {} trials took {} attempts; {} times a trial was given up and asked for again",
            self.trials, self.attempts, self.given_up
        );
        println!(
            "soak: attempts that were cut short lasted {:.0} s in all, those that succeeded {:.0} s (a cut attempt's \
             checkpoints are not lost)",
            self.lost_ms as f64 / 1e3,
            self.useful_ms as f64 / 1e3
        );
        for (victim, times) in &mut self.to_next_dispatch {
            times.sort_unstable();
            println!(
                "soak: from a kill of {victim:?} to the next dispatch: median {} ms, most {} ms, n = {}",
                times[times.len() / 2],
                times[times.len() - 1],
                times.len()
            );
        }
    }
}

/// Seeded choices (SplitMix64).
struct Chance(u64);

impl Chance {
    /// Uniform in `from..below`, near enough.
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
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    since.as_millis().try_into().expect("milliseconds fit")
}
