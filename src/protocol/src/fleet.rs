//! The conversation of `fleet.proto` in domain types: the messages that workers and coordinator may
//! send.

use schedule::Removable;
use schedule::event::{EndedAttempt, Outcome, RunningAttempt};
use schedule::state::{Slot, SlotIndex, WorkerId, WorkerInfo};
use sweep::keep::{Keep, Kept};
use sweep::record::{BadResult, Failure, FailureClass, TrialResult};
use sweep::text::{self, Line};
use sweep::{AttemptId, AttemptNo, Program, Trainer, TrialId, TrialSpec};

use crate::invalid::{Invalid, at_most, document, id, line, name, present};
use crate::limits::{
    MAX_CONNECTIONS, MAX_DEVICES, MAX_DEVICES_PER_SLOT, MAX_DOCUMENT_BYTES, MAX_ENDED, MAX_KEEP,
    MAX_NAME_BYTES, MAX_SEEN, MAX_SLOTS,
};
use crate::secret::WorkerSecret;
use crate::v1;
use v1::attempt_ended::Outcome as WireOutcome;
use v1::coordinator_message::Message as ToWorker;
use v1::worker_message::Message as ToCoordinator;

#[derive(Clone, Debug, PartialEq)]
pub enum FromWorker {
    Hello(Hello),
    Heartbeat {
        running: Vec<RunningAttempt>,
        disk: DiskUse,
    },
    Ended(EndedAttempt),
    Leaving {
        reason: Line,
    },
    Idle {
        reason: Line,
    },
}

/// Disk use of a worker's attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Checkpoints of the running attempts.
    pub checkpoint_bytes: u64,
    /// Everything in the work directory, which several workers may share.
    pub work_dir_bytes: u64,
    /// Trials that have files here but do not run here: the coordinator decides if the files may be
    /// removed.
    pub seen: Vec<TrialId>,
}

/// The first message on every stream: everything that the worker knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Hello {
    pub worker: WorkerId,
    /// Number of the stream; the worker counts from 1.
    pub connection: u64,
    pub secret: WorkerSecret,
    pub info: WorkerInfo,
    pub running: Vec<RunningAttempt>,
    pub ended: Vec<EndedAttempt>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FromCoordinator {
    Welcome {
        heartbeat_ms: u64,
        lease_ms: u64,
    },
    Refused {
        reason: String,
    },
    Start {
        attempt: AttemptId,
        slot: SlotIndex,
        /// The first attempt of the current training.
        since: AttemptNo,
        spec: Box<TrialSpec>,
        keep: Keep,
    },
    Stop {
        attempt: AttemptId,
        reason: String,
    },
    Acknowledged {
        attempt: AttemptId,
    },
    Drain {
        reason: String,
    },
    Remove(Removable),
}

impl TryFrom<v1::WorkerMessage> for FromWorker {
    type Error = Invalid;

    fn try_from(message: v1::WorkerMessage) -> Result<Self, Invalid> {
        Ok(match present("message", message.message)? {
            ToCoordinator::Hello(hello) => Self::Hello(hello.try_into()?),
            ToCoordinator::Heartbeat(heartbeat) => Self::Heartbeat {
                running: list("heartbeat.running", heartbeat.running, MAX_SLOTS, running)?,
                disk: DiskUse {
                    checkpoint_bytes: heartbeat.checkpoint_bytes,
                    work_dir_bytes: heartbeat.work_dir_bytes,
                    seen: list("heartbeat.seen", heartbeat.seen, MAX_SEEN, id)?,
                },
            },
            ToCoordinator::Ended(attempt) => Self::Ended(ended("ended", attempt)?),
            ToCoordinator::Leaving(leaving) => Self::Leaving {
                reason: line("leaving.reason", &leaving.reason)?,
            },
            ToCoordinator::Idle(idle) => Self::Idle {
                reason: line("idle.reason", &idle.reason)?,
            },
        })
    }
}

impl From<FromWorker> for v1::WorkerMessage {
    fn from(message: FromWorker) -> Self {
        let message = match message {
            FromWorker::Hello(hello) => ToCoordinator::Hello(hello.into()),
            FromWorker::Heartbeat { running, disk } => ToCoordinator::Heartbeat(v1::Heartbeat {
                running: running.into_iter().map(to_running).collect(),
                checkpoint_bytes: disk.checkpoint_bytes,
                work_dir_bytes: disk.work_dir_bytes,
                seen: to_ids(&disk.seen),
            }),
            FromWorker::Ended(attempt) => ToCoordinator::Ended(to_ended(attempt)),
            FromWorker::Leaving { reason } => ToCoordinator::Leaving(v1::Leaving {
                reason: reason.into(),
            }),
            FromWorker::Idle { reason } => ToCoordinator::Idle(v1::Idle {
                reason: reason.into(),
            }),
        };
        Self {
            message: Some(message),
        }
    }
}

impl TryFrom<v1::Hello> for Hello {
    type Error = Invalid;

    fn try_from(hello: v1::Hello) -> Result<Self, Invalid> {
        let worker = WorkerId(name("hello.worker", hello.worker)?.into());
        let host = name("hello.host", hello.host)?;
        let build = name("hello.build", hello.build)?;
        if !(1..=MAX_CONNECTIONS).contains(&hello.connection) {
            let problem = format!(
                "is {}; streams are counted from 1 to {MAX_CONNECTIONS}",
                hello.connection
            );
            return Err(Invalid::new("hello.connection", problem));
        }
        let secret = WorkerSecret::try_from(hello.secret.as_slice()).map_err(|_| {
            Invalid::new(
                "hello.secret",
                format!("has {} bytes; 32 are needed", hello.secret.len()),
            )
        })?;
        if hello.slots.is_empty() {
            return Err(Invalid::new(
                "hello.slots",
                "is empty; a worker has at least one",
            ));
        }
        let slots = list("hello.slots", hello.slots, MAX_SLOTS, slot)?;
        let num_devices = slots.iter().map(|slot| slot.devices.len()).sum();
        at_most("hello.slots", "devices", num_devices, MAX_DEVICES)?;
        let running = list("hello.running", hello.running, MAX_SLOTS, running)?;
        let ended = list("hello.ended", hello.ended, MAX_ENDED, ended)?;
        let connection = hello.connection;
        let trainer = hello.trainer.map_or(Ok(Trainer::BuiltIn), |program| {
            foreign("hello.trainer", program)
        })?;
        let allocation = match hello.allocation.is_empty() {
            true => None,
            false => Some(name("hello.allocation", hello.allocation)?),
        };
        Ok(Self {
            worker,
            connection,
            secret,
            info: WorkerInfo {
                host,
                build,
                trainer,
                slots,
                allocation,
                leaves_at_ms: hello.leaves_at_ms,
            },
            running,
            ended,
        })
    }
}

impl From<Hello> for v1::Hello {
    fn from(hello: Hello) -> Self {
        let slot = |Slot {
                        devices,
                        uuids,
                        description,
                    }: Slot| v1::Slot {
            devices,
            uuids,
            description: to_line(description),
        };
        Self {
            worker: hello.worker.to_string(),
            connection: hello.connection,
            secret: hello.secret.as_bytes().to_vec(),
            build: hello.info.build,
            host: hello.info.host,
            trainer: match hello.info.trainer {
                // A worker's own trainer is none of a sweep.
                Trainer::BuiltIn | Trainer::Submitted(_) => None,
                Trainer::Foreign(program) => Some(v1::Program {
                    name: to_name(&program.name),
                    hash: program.hash.clone(),
                }),
            },
            slots: hello.info.slots.into_iter().map(slot).collect(),
            allocation: hello.info.allocation.unwrap_or_default(),
            leaves_at_ms: hello.info.leaves_at_ms,
            running: hello.running.into_iter().map(to_running).collect(),
            ended: hello.ended.into_iter().map(to_ended).collect(),
        }
    }
}

impl TryFrom<v1::CoordinatorMessage> for FromCoordinator {
    type Error = Invalid;

    fn try_from(message: v1::CoordinatorMessage) -> Result<Self, Invalid> {
        Ok(match present("message", message.message)? {
            ToWorker::Welcome(welcome) => {
                for (field, value) in [
                    ("heartbeat_ms", welcome.heartbeat_ms),
                    ("lease_ms", welcome.lease_ms),
                ] {
                    if value == 0 {
                        return Err(Invalid::new(format!("welcome.{field}"), "is 0"));
                    }
                }
                Self::Welcome {
                    heartbeat_ms: welcome.heartbeat_ms,
                    lease_ms: welcome.lease_ms,
                }
            }
            ToWorker::Refused(refused) => Self::Refused {
                reason: line("refused.reason", &refused.reason)?.into(),
            },
            ToWorker::Start(start) => {
                let attempt: AttemptId = id("start.attempt", start.attempt)?;
                let spec = document("start.spec_json", &start.spec_json)?;
                if start.since == 0 || start.since > attempt.number.0 {
                    let problem = format!(
                        "is {}; an attempt in 1..={} was expected",
                        start.since, attempt.number
                    );
                    return Err(Invalid::new("start.since", problem));
                }
                let keep = list("start.keep", start.keep, MAX_KEEP, |field, word: String| {
                    Kept::of_word(&word)
                        .ok_or_else(|| Invalid::new(field, "is nothing that a sweep keeps"))
                })?;
                Self::Start {
                    attempt,
                    slot: start.slot,
                    since: AttemptNo(start.since),
                    spec,
                    keep: keep.into_iter().collect(),
                }
            }
            ToWorker::Stop(stop) => Self::Stop {
                attempt: id("stop.attempt", stop.attempt)?,
                reason: line("stop.reason", &stop.reason)?.into(),
            },
            ToWorker::Acknowledged(acknowledged) => Self::Acknowledged {
                attempt: id("acknowledged.attempt", acknowledged.attempt)?,
            },
            ToWorker::Drain(drain) => Self::Drain {
                reason: line("drain.reason", &drain.reason)?.into(),
            },
            ToWorker::Remove(remove) => Self::Remove(Removable {
                checkpoints: list("remove.checkpoints", remove.checkpoints, MAX_SEEN, id)?,
                logs: list("remove.logs", remove.logs, MAX_SEEN, id)?,
                unknown: list("remove.unknown", remove.unknown, MAX_SEEN, id)?,
                now: remove.now_ms,
            }),
        })
    }
}

impl From<FromCoordinator> for v1::CoordinatorMessage {
    fn from(message: FromCoordinator) -> Self {
        let message = match message {
            FromCoordinator::Welcome {
                heartbeat_ms,
                lease_ms,
            } => ToWorker::Welcome(v1::Welcome {
                heartbeat_ms,
                lease_ms,
            }),
            FromCoordinator::Refused { reason } => ToWorker::Refused(v1::Refused {
                reason: to_line(reason),
            }),
            FromCoordinator::Start {
                attempt,
                slot,
                since,
                spec,
                keep,
            } => {
                let spec_json = serde_json::to_vec(&spec).expect("settings are plain data");
                ToWorker::Start(v1::Start {
                    attempt: attempt.to_string(),
                    slot,
                    spec_json,
                    since: since.0,
                    keep: keep.iter().map(|kept| kept.word().to_owned()).collect(),
                })
            }
            FromCoordinator::Stop { attempt, reason } => ToWorker::Stop(v1::Stop {
                attempt: attempt.to_string(),
                reason: to_line(reason),
            }),
            FromCoordinator::Acknowledged { attempt } => ToWorker::Acknowledged(v1::Acknowledged {
                attempt: attempt.to_string(),
            }),
            FromCoordinator::Drain { reason } => ToWorker::Drain(v1::Drain {
                reason: to_line(reason),
            }),
            FromCoordinator::Remove(removable) => ToWorker::Remove(v1::Remove {
                checkpoints: to_ids(&removable.checkpoints),
                logs: to_ids(&removable.logs),
                unknown: to_ids(&removable.unknown),
                now_ms: removable.now,
            }),
        };
        Self {
            message: Some(message),
        }
    }
}

fn to_ids(ids: &[impl ToString]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

fn list<Wire, Domain>(
    field: &str,
    values: Vec<Wire>,
    limit: usize,
    convert: impl Fn(&str, Wire) -> Result<Domain, Invalid>,
) -> Result<Vec<Domain>, Invalid> {
    at_most(field, "entries", values.len(), limit)?;
    values
        .into_iter()
        .enumerate()
        .map(|(index, value)| convert(&format!("{field}[{index}]"), value))
        .collect()
}

fn foreign(field: &str, program: v1::Program) -> Result<Trainer, Invalid> {
    let hash = name(&format!("{field}.hash"), program.hash)?;
    if !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Invalid::new(
            format!("{field}.hash"),
            "holds something that is no hexadecimal digit",
        ));
    }
    Ok(Trainer::Foreign(
        Program {
            name: name(&format!("{field}.name"), program.name)?,
            hash,
        }
        .into(),
    ))
}

fn slot(field: &str, slot: v1::Slot) -> Result<Slot, Invalid> {
    let devices_field = format!("{field}.devices");
    if slot.devices.is_empty() {
        return Err(Invalid::new(
            devices_field,
            "is empty; a slot has at least one device",
        ));
    }
    let devices = list(&devices_field, slot.devices, MAX_DEVICES_PER_SLOT, name)?;
    let uuids_field = format!("{field}.uuids");
    let uuids = list(&uuids_field, slot.uuids, MAX_DEVICES_PER_SLOT, name)?;
    if !uuids.is_empty() && uuids.len() != devices.len() {
        return Err(Invalid::new(
            uuids_field,
            format!("has {} entries for {} devices", uuids.len(), devices.len()),
        ));
    }
    Ok(Slot {
        devices,
        uuids,
        description: line(&format!("{field}.description"), &slot.description)?.into(),
    })
}

fn running(field: &str, running: v1::Running) -> Result<RunningAttempt, Invalid> {
    Ok(RunningAttempt {
        id: id(&format!("{field}.attempt"), running.attempt)?,
        slot: running.slot,
        progress: document(&format!("{field}.progress_json"), &running.progress_json)?,
    })
}

fn to_running(running: RunningAttempt) -> v1::Running {
    v1::Running {
        attempt: running.id.to_string(),
        slot: running.slot,
        progress_json: serde_json::to_vec(&running.progress).expect("progress is plain data"),
    }
}

fn ended(field: &str, ended: v1::AttemptEnded) -> Result<EndedAttempt, Invalid> {
    let id = id(&format!("{field}.attempt"), ended.attempt)?;
    let outcome = match present(&format!("{field}.outcome"), ended.outcome)? {
        // whether it is a result of this trial is checked where the trial is known
        WireOutcome::ResultJson(json) => {
            Outcome::Finished(document(&format!("{field}.result_json"), &json)?)
        }
        WireOutcome::FailureJson(json) => {
            Outcome::Failed(document(&format!("{field}.failure_json"), &json)?)
        }
        WireOutcome::Stopped(v1::Stopped {}) => Outcome::Stopped,
    };
    Ok(EndedAttempt { id, outcome })
}

fn to_ended(ended: EndedAttempt) -> v1::AttemptEnded {
    let outcome = match ended.outcome {
        Outcome::Finished(result) => result_or_failure(&result),
        Outcome::Failed(failure) => to_failure(failure),
        Outcome::Stopped => WireOutcome::Stopped(v1::Stopped {}),
    };
    v1::AttemptEnded {
        attempt: ended.id.to_string(),
        outcome: Some(outcome),
    }
}

/// Replaces a result that the receiver would refuse with a failure that gives the reason.
fn result_or_failure(result: &TrialResult) -> WireOutcome {
    let json = serde_json::to_vec(result).expect("results are plain data");
    let too_large = |Invalid { field, problem }| BadResult {
        field,
        problem,
        class: FailureClass::Crashed,
    };
    let fits = at_most("result", "bytes", json.len(), MAX_DOCUMENT_BYTES).map_err(too_large);
    match result.check().and(fits) {
        Ok(()) => WireOutcome::ResultJson(json),
        Err(bad) => to_failure(bad.into()),
    }
}

fn to_failure(failure: Failure) -> WireOutcome {
    let failure = Failure {
        message: text::Lines::from(failure.message).into(),
        ..failure
    };
    WireOutcome::FailureJson(serde_json::to_vec(&failure).expect("failures are plain data"))
}

/// Cuts text to the length that the receiver accepts.
fn to_line(value: String) -> String {
    Line::from(value).into()
}

/// Converts a name of this machine to the form that `Hello` accepts.
pub fn to_name(value: &str) -> String {
    let clean: String = Line::from(value).replace(char::REPLACEMENT_CHARACTER, "");
    let clean = text::cut(clean.trim(), MAX_NAME_BYTES);
    if clean.is_empty() {
        "unnamed".to_owned()
    } else {
        clean
    }
}
