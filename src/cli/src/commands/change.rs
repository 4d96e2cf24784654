//! Commands that change a coordinator's state: cancel, retry, rm, drain, undrain. If no coordinator
//! runs on the state directory, one is started briefly, so that the change is in the journal for
//! the next one.

use std::time::Duration;

use indicatif::HumanBytes;
use protocol::v1::{self, Presence, WorkerStatus};
use serde_json::json;
use sweep::counted;
use tokio::time::Instant;

use crate::args::{DrainArgs, RetryArgs, RmArgs, SweepArgs, Target, UndrainArgs};
use crate::client::Client;
use crate::commands::serve::Embedded;
use crate::exit::{ExpectedError, Outcome};
use crate::output::{Output, SCHEMA};
use crate::{offline, rendezvous};

/// Timeout for another command that has taken the state directory: its coordinator must answer, or
/// be gone.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

pub async fn cancel(arguments: &SweepArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let mut receiver = Receiver::of(&arguments.target).await?;
    let cancelled = cancel_by(&mut receiver.client, &arguments.sweep).await;
    receiver.end().await?;
    let (sweep, cancelled) = cancelled?;
    output.print(
        || {
            format!(
                "{sweep}: {} cancelled; finished ones keep their results\n",
                counted(cancelled, "trial")
            )
        },
        || json!({ "schema": SCHEMA, "sweep": sweep, "cancelled": cancelled }),
    )?;
    Ok(Outcome::Complete)
}

async fn cancel_by(client: &mut Client, text: &str) -> Result<(String, u64), ExpectedError> {
    let sweep = whole_sweep(client, text).await?;
    let cancelled = client.cancel(&sweep).await?;
    Ok((sweep, cancelled))
}

/// Returns the sweep that a user's word means. A trial or a cell of it is not enough for a change of
/// all its trials.
async fn whole_sweep(client: &mut Client, text: &str) -> Result<String, ExpectedError> {
    let found = client.find("", text).await?;
    if found.trial.is_empty() {
        return Ok(found.sweep);
    }
    Err(ExpectedError::BadInput(format!(
        "`{text}` is no sweep, but trial {} of sweep `{}`: name the sweep, all of which is meant",
        found.trial, found.sweep
    )))
}

pub async fn remove(arguments: &RmArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let mut receiver = Receiver::of(&arguments.target).await?;
    let removed = remove_by(&mut receiver.client, arguments).await;
    receiver.end().await?;
    let (sweep, reply) = removed?;
    let v1::RemoveReply {
        trials,
        files,
        bytes,
    } = reply;
    output.print(
        || removed_text(&sweep, &reply, arguments.dry_run),
        || {
            json!({
                "schema": SCHEMA,
                "sweep": Some(&sweep).filter(|sweep| !sweep.is_empty()),
                "dry_run": arguments.dry_run,
                "trials": trials,
                "files": files,
                "bytes": bytes,
            })
        },
    )?;
    Ok(Outcome::Complete)
}

async fn remove_by(
    client: &mut Client,
    arguments: &RmArgs,
) -> Result<(String, v1::RemoveReply), ExpectedError> {
    let sweep = match &arguments.sweep {
        Some(text) => whole_sweep(client, text).await?,
        None => String::new(),
    };
    let request = v1::RemoveRequest {
        sweep: sweep.clone(),
        cancel: arguments.cancel,
        dry_run: arguments.dry_run,
    };
    Ok((sweep, client.remove(request).await?))
}

fn removed_text(sweep: &str, reply: &v1::RemoveReply, is_dry_run: bool) -> String {
    let v1::RemoveReply {
        trials,
        files,
        bytes,
    } = *reply;
    let kept = match files {
        0 => "no kept files".to_owned(),
        _ => format!("{}, {}", counted(files, "kept file"), HumanBytes(bytes)),
    };
    let would = if is_dry_run { "would be " } else { "" };
    if sweep.is_empty() {
        return format!("files that no sweep uses, {would}removed: {kept}\n");
    }
    format!(
        "{sweep}: {would}removed with {} that no other sweep wants, and {kept}; workers remove logs and checkpoints of \
         these trials. Their results stay in the journal, and count again if a sweep asks for them\n",
        counted(trials, "trial")
    )
}

pub async fn retry(arguments: &RetryArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let mut receiver = Receiver::of(&arguments.target).await?;
    let retried = retry_by(&mut receiver.client, arguments).await;
    let running = receiver.temporary.is_none();
    receiver.end().await?;
    let (asked, retried) = retried?;
    let then = if running || retried == 0 {
        ""
    } else {
        "; `orchestrator run FILE` with the sweep's file trains them"
    };
    let v1::RetryRequest {
        sweep,
        all,
        cells,
        trials,
    } = asked;
    output.print(
        || {
            let again = counted(retried, "trial");
            match (all || !cells.is_empty(), trials.is_empty()) {
                (true, _) => {
                    format!("{sweep}: to be trained again from the start: {again}{then}\n")
                }
                (false, true) => {
                    format!("{sweep}: failed before and to be trained again: {again}{then}\n")
                }
                (false, false) => format!("{sweep}: to be trained again: {again}{then}\n"),
            }
        },
        || {
            json!({
                "schema": SCHEMA,
                "sweep": sweep,
                "all": all,
                "cells": cells,
                "trials": trials,
                "retried": retried,
            })
        },
    )?;
    Ok(Outcome::Complete)
}

async fn retry_by(
    client: &mut Client,
    arguments: &RetryArgs,
) -> Result<(v1::RetryRequest, u64), ExpectedError> {
    let found = client.find("", &arguments.sweep).await?;
    let mut request = v1::RetryRequest {
        sweep: found.sweep,
        all: arguments.all,
        ..v1::RetryRequest::default()
    };
    if !found.cell.is_empty() {
        request.cells.push(found.cell);
    } else if !found.trial.is_empty() {
        request.trials.push(found.trial);
    }
    for name in &arguments.names {
        let found = client.find(&request.sweep, name).await?;
        match found.cell.is_empty() {
            true => request.trials.push(found.trial),
            false => request.cells.push(found.cell),
        }
    }
    if !request.trials.is_empty() && (request.all || !request.cells.is_empty()) {
        return Err(ExpectedError::BadInput(
            "trials are named beside cells or --all: retry them with a command of their own"
                .to_owned(),
        ));
    }
    let retried = client.retry(request.clone()).await?;
    Ok((request, retried))
}

pub async fn drain(arguments: &DrainArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let name = &arguments.name;
    let mut receiver = Receiver::of(&arguments.target).await?;
    let drained = receiver.client.drain(name, &arguments.reason).await;
    let workers = receiver.workers(name).await;
    receiver.end().await?;
    drained?;
    let leaves = |worker: &WorkerStatus| match worker.busy_slots {
        0 => format!("{}: leaves now\n", worker.worker),
        busy => format!("{}: leaves when {} finished\n", worker.worker, have(busy)),
    };
    output.print(
        || format!("{name} gets no new work\n") + &workers.iter().map(leaves).collect::<String>(),
        || json!({ "schema": SCHEMA, "name": name, "reason": arguments.reason, "workers": names(&workers) }),
    )?;
    Ok(Outcome::Complete)
}

pub async fn undrain(arguments: &UndrainArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let name = &arguments.name;
    let mut receiver = Receiver::of(&arguments.target).await?;
    let undrained = receiver.client.undrain(name).await;
    let workers = receiver.workers(name).await;
    receiver.end().await?;
    undrained?;
    let works = |worker: &WorkerStatus| match worker.presence() {
        Presence::Draining => format!("{}: still leaves ({})\n", worker.worker, worker.reason),
        Presence::Present | Presence::Unreachable | Presence::Gone => {
            format!("{}: gets work again\n", worker.worker)
        }
    };
    output.print(
        || format!("{name} is trusted again\n") + &workers.iter().map(works).collect::<String>(),
        || json!({ "schema": SCHEMA, "name": name, "workers": names(&workers) }),
    )?;
    Ok(Outcome::Complete)
}

/// `1 trial has`, `2 trials have`
fn have(count: u32) -> String {
    format!(
        "{} {}",
        counted(u64::from(count), "trial"),
        if count == 1 { "has" } else { "have" }
    )
}

fn names(workers: &[WorkerStatus]) -> Vec<&str> {
    workers
        .iter()
        .map(|worker| worker.worker.as_str())
        .collect()
}

/// The coordinator that receives the command.
pub struct Receiver {
    pub client: Client,
    temporary: Option<Embedded>,
}

impl Receiver {
    pub async fn of(target: &Target) -> Result<Self, ExpectedError> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(client) = offline::live(target).await? {
                return Ok(Self {
                    client,
                    temporary: None,
                });
            }
            if let Err(journal::Error::Missing { .. }) = journal::read(&target.state_dir) {
                return Err(offline::no_journal(target));
            }
            match Embedded::without_worker(&target.state_dir).await {
                // another command starts or ends there: soon its coordinator answers or is gone
                Err(ExpectedError::Taken(_))
                    if Instant::now() < deadline
                        && rendezvous::left_elsewhere(&target.state_dir).is_none() =>
                {
                    tokio::time::sleep(CHECK_INTERVAL).await;
                }
                Err(error) => return Err(error),
                Ok(embedded) => {
                    let client = Client::connect(embedded.access.clone()).await?;
                    return Ok(Self {
                        client,
                        temporary: Some(embedded),
                    });
                }
            }
        }
    }

    /// Returns the present workers of this name or host. Only for display: a missing answer is no
    /// error.
    async fn workers(&mut self, name: &str) -> Vec<WorkerStatus> {
        let workers = self
            .client
            .status(None)
            .await
            .map(|reply| reply.workers)
            .unwrap_or_default();
        let meant = |worker: &WorkerStatus| {
            worker.presence() != Presence::Gone && (worker.worker == name || worker.host == name)
        };
        workers.into_iter().filter(meant).collect()
    }

    pub async fn end(self) -> Result<(), ExpectedError> {
        match self.temporary {
            Some(embedded) => embedded.shutdown().await,
            None => Ok(()),
        }
    }
}
