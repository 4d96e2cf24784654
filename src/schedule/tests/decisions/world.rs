//! A coordinator without a shell: state, clock and the messages sent to workers.

use std::sync::Arc;

use schedule::event::{Effect, EndedAttempt, Input, Outcome, Recorded, Rejected, RunningAttempt};
use schedule::state::{Phase, SecretHash, Slot, State, TrialState, WorkerId, WorkerInfo};
use schedule::{Answer, CheckedSweep, Config, Submission, apply, check, replay, restart, turn};
use sweep::handoff::Progress;
use sweep::record::{EpochRecord, Failure, FailureClass, TrialResult};
use sweep::{AttemptId, Sweep, TrialId};

pub struct World {
    pub state: State,
    pub config: Config,
    pub now: u64,
    pub journal: Vec<Recorded>,
    /// Effects of the last step.
    pub effects: Vec<Effect>,
    connections: u64,
    num_inputs: usize,
}

/// The most inputs that a test may give: one whose loop does not end fails.
const MAX_INPUTS: usize = 50_000;

/// An attempt that a worker was ordered to start.
#[derive(Clone, Debug, PartialEq)]
pub struct Started {
    pub worker: WorkerId,
    pub slot: u32,
    pub id: AttemptId,
}

impl World {
    pub fn new() -> Self {
        let mut state = State::default();
        restart(&mut state, 1_000);
        let config = Config::new("build 1");
        Self {
            state,
            config,
            now: 1_000,
            journal: Vec::new(),
            effects: Vec::new(),
            connections: 0,
            num_inputs: 0,
        }
    }

    pub fn give(&mut self, input: Input) -> Result<Answer, Rejected> {
        self.num_inputs += 1;
        assert!(self.num_inputs <= MAX_INPUTS, "the test does not end");
        let mut turn = turn(
            &mut self.state,
            &self.config,
            std::slice::from_ref(&input),
            self.now,
        );
        self.journal.append(&mut turn.recorded);
        self.effects = turn.effects;
        assert_eq!(check(&self.state), [], "after {input:?}");
        turn.answers.remove(0)
    }

    /// Replays the journal into a fresh coordinator.
    pub fn restart(&mut self) {
        let replayed = replay(&self.journal).expect("what was journalled can be replayed");
        assert!(
            replayed.same_history(&self.state),
            "replay differs from live"
        );
        self.state = replayed;
        restart(&mut self.state, self.now);
    }

    pub fn submit(&mut self, sweep: Sweep) -> Submission {
        let sweep = CheckedSweep::new(sweep).expect("a compiled sweep");
        let answer = self.give(Input::Submit { sweep });
        answer.expect("any sweep may be submitted").submission
    }

    /// Connects a worker on a host of its own name, with slots of one CPU thread each.
    pub fn join(&mut self, name: &str, slots: u32) -> WorkerId {
        let worker = WorkerId(name.into());
        self.connect(&worker, info(name, slots, 1), &[], &[])
            .expect("it may join");
        worker
    }

    pub fn connect(
        &mut self,
        worker: &WorkerId,
        info: WorkerInfo,
        running: &[Started],
        ended: &[EndedAttempt],
    ) -> Result<Answer, Rejected> {
        self.connections += 1;
        let connection = self.connections;
        let running = running
            .iter()
            .map(|started| report_of(started, 0))
            .collect();
        let (worker, secret) = (worker.clone(), secret(1));
        self.give(Input::Connected {
            worker,
            connection,
            secret,
            info,
            running,
            ended: ended.to_vec(),
        })
    }

    pub fn started(&self) -> Vec<Started> {
        let starts = self.effects.iter().filter_map(|effect| match effect {
            Effect::Start {
                worker,
                slot,
                attempt,
            } => Some(Started {
                worker: worker.clone(),
                slot: *slot,
                id: *attempt,
            }),
            _ => None,
        });
        starts.collect()
    }

    pub fn finish(&mut self, started: &Started) -> Result<Answer, Rejected> {
        self.end(started, Outcome::Finished(Box::new(result(0.5))))
    }

    pub fn fail(&mut self, started: &Started, class: FailureClass) -> Result<Answer, Rejected> {
        self.end(
            started,
            Outcome::Failed(Failure::new(class, format!("{class:?} for a test"))),
        )
    }

    pub fn end(&mut self, started: &Started, outcome: Outcome) -> Result<Answer, Rejected> {
        self.give(Input::Ended {
            worker: started.worker.clone(),
            ended: ended(started, outcome),
        })
    }

    /// Sends a heartbeat with this step for every attempt.
    pub fn beat(
        &mut self,
        worker: &WorkerId,
        running: &[Started],
        step: u64,
    ) -> Result<Answer, Rejected> {
        let running = running
            .iter()
            .map(|started| report_of(started, step))
            .collect();
        self.give(Input::Heartbeat {
            worker: worker.clone(),
            running,
        })
    }

    pub fn wait(&mut self, ms: u64) {
        self.now += ms;
        self.give(Input::Tick).expect("time always passes");
    }

    pub fn trial(&self, id: TrialId) -> &TrialState {
        &self.state.trials[&id]
    }

    pub fn is_waiting(&self, id: TrialId) -> bool {
        matches!(self.trial(id).phase, Phase::Waiting { .. })
    }

    pub fn is_failed(&self, id: TrialId) -> bool {
        matches!(self.trial(id).phase, Phase::Failed { .. })
    }

    /// Returns the reason of each waiting trial, from its explanation.
    pub fn waits(&self) -> Vec<schedule::WaitReason> {
        let explained = |id| {
            schedule::explain(&self.state, &self.config, id, self.now)
                .expect("it exists")
                .waits
        };
        self.state
            .trials
            .keys()
            .filter_map(|id| explained(*id))
            .collect()
    }

    /// Returns the trials that the workers were ordered to stop in the last step.
    pub fn stopped(&self) -> Vec<TrialId> {
        let stops = self.effects.iter().filter_map(|effect| match effect {
            Effect::Stop { attempt, .. } => Some(attempt.trial),
            _ => None,
        });
        stops.collect()
    }

    pub fn acknowledged(&self, started: &Started) -> bool {
        self.effects.contains(&Effect::Acknowledge {
            worker: started.worker.clone(),
            attempt: started.id,
        })
    }

    /// Applies an event without a decision, as a damaged journal would.
    pub fn force(&mut self, recorded: &Recorded) -> Result<(), schedule::Impossible> {
        apply(&mut self.state, recorded)
    }
}

/// Returns the secret of the process with this number.
pub fn secret(process: u8) -> SecretHash {
    SecretHash::new([process; 32])
}

pub fn info(host: &str, slots: u32, devices: usize) -> WorkerInfo {
    let slot = Slot {
        devices: vec!["cpu".to_owned(); devices],
        uuids: Vec::new(),
        description: "1 thread".to_owned(),
    };
    WorkerInfo {
        host: host.to_owned(),
        build: "build 1".to_owned(),
        trainer: Default::default(),
        slots: vec![slot; slots as usize],
        allocation: None,
        leaves_at_ms: None,
    }
}

pub fn report_of(started: &Started, step: u64) -> RunningAttempt {
    RunningAttempt {
        id: started.id,
        slot: started.slot,
        progress: Progress {
            step,
            ..Progress::default()
        },
    }
}

pub fn result(accuracy: f64) -> TrialResult {
    let epoch = EpochRecord {
        train_loss: 0.1,
        accuracy: Some(accuracy),
        state_hash: "0123456789abcdef".to_owned(),
        ..EpochRecord::default()
    };
    TrialResult {
        classes: None,
        last_accuracy: accuracy,
        best_accuracy: accuracy,
        best_epoch: 0,
        last_balanced_accuracy: accuracy,
        train_loss: 0.1,
        eval_loss: 0.2,
        epochs: vec![epoch],
        provenance: Default::default(),
        timing: Default::default(),
    }
}

pub fn finished(started: &Started) -> EndedAttempt {
    ended(started, Outcome::Finished(Box::new(result(0.5))))
}

pub fn ended(started: &Started, outcome: Outcome) -> EndedAttempt {
    EndedAttempt {
        id: started.id,
        outcome,
    }
}

pub fn named(name: &str) -> Arc<str> {
    name.into()
}
