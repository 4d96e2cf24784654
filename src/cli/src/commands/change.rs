//! Commands that change a coordinator's state: cancel, retry, drain, undrain. If no coordinator
//! runs on the state directory, one is started briefly, so that the change is in the journal for
//! the next one.

use std::time::Duration;

use protocol::v1::{Presence, WorkerStatus};
use serde_json::json;
use sweep::counted;
use tokio::time::Instant;

use crate::args::{DrainArgs, RetryArgs, SweepArgs, Target, UndrainArgs};
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
    let sweep = &arguments.sweep;
    let mut receiver = Receiver::of(&arguments.target).await?;
    let cancelled = receiver.client.cancel(sweep).await;
    receiver.end().await?;
    let cancelled = cancelled?;
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

pub async fn retry(arguments: &RetryArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let sweep = &arguments.sweep;
    let mut receiver = Receiver::of(&arguments.target).await?;
    let (all, cells) = (arguments.all, &arguments.cells);
    let retried = receiver.client.retry(sweep, all, cells).await;
    let running = receiver.temporary.is_none();
    receiver.end().await?;
    let retried = retried?;
    let then = if running || retried == 0 {
        ""
    } else {
        "; `orchestrator run FILE` with the sweep's file trains them"
    };
    output.print(
        || {
            let trials = counted(retried, "trial");
            match all || !cells.is_empty() {
                true => format!("{sweep}: to be trained again from the start: {trials}{then}\n"),
                false => format!("{sweep}: failed before and to be trained again: {trials}{then}\n"),
            }
        },
        || json!({ "schema": SCHEMA, "sweep": sweep, "all": all, "cells": cells, "retried": retried }),
    )?;
    Ok(Outcome::Complete)
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
        Presence::Draining => format!(
            "{}: leaves all the same ({})\n",
            worker.worker, worker.reason
        ),
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
struct Receiver {
    client: Client,
    temporary: Option<Embedded>,
}

impl Receiver {
    async fn of(target: &Target) -> Result<Self, ExpectedError> {
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

    async fn end(self) -> Result<(), ExpectedError> {
        match self.temporary {
            Some(embedded) => embedded.shutdown().await,
            None => Ok(()),
        }
    }
}
