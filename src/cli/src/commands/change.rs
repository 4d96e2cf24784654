//! Commands that change what a coordinator does: cancel, retry, drain, undrain. Where no coordinator runs on the state
//! directory, one is started for the moment, so that the change is in the journal for the next.

use serde_json::json;

use crate::args::{DrainArgs, RetryArgs, SweepArgs, Target, UndrainArgs};
use crate::client::Client;
use crate::commands::serve::Embedded;
use crate::exit::{ExpectedError, Outcome};
use crate::offline;
use crate::output::{Output, SCHEMA, counted};

pub async fn cancel(arguments: &SweepArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let sweep = &arguments.sweep;
    let mut asked = Asked::of(&arguments.target).await?;
    let cancelled = asked.client.cancel(sweep).await;
    asked.end().await?;
    let cancelled = cancelled?;
    output.print(
        || format!("{sweep}: {} cancelled; finished ones keep their results\n", counted(cancelled, "trial")),
        || json!({ "schema": SCHEMA, "sweep": sweep, "cancelled": cancelled }),
    )?;
    Ok(Outcome::Complete)
}

pub async fn retry(arguments: &RetryArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let sweep = &arguments.sweep;
    let mut asked = Asked::of(&arguments.target).await?;
    let (all, cells) = (arguments.all, &arguments.cells);
    let retried = asked.client.retry(sweep, all, cells).await;
    let running = asked.momentary.is_none();
    asked.end().await?;
    let retried = retried?;
    let then = if running || retried == 0 { "" } else { "; `orchestrator run FILE` with the sweep's file trains them" };
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
    let worker = &arguments.worker;
    let mut asked = Asked::of(&arguments.target).await?;
    let drained = asked.client.drain(worker, &arguments.reason).await;
    asked.end().await?;
    drained?;
    output.print(
        || format!("{worker} gets no new work\n"),
        || json!({ "schema": SCHEMA, "worker": worker, "reason": arguments.reason }),
    )?;
    Ok(Outcome::Complete)
}

pub async fn undrain(arguments: &UndrainArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let host = &arguments.host;
    let mut asked = Asked::of(&arguments.target).await?;
    let undrained = asked.client.undrain(host).await;
    asked.end().await?;
    undrained?;
    output.print(|| format!("{host} is trusted again\n"), || json!({ "schema": SCHEMA, "host": host }))?;
    Ok(Outcome::Complete)
}

/// Whoever takes the command.
struct Asked {
    client: Client,
    momentary: Option<Embedded>,
}

impl Asked {
    async fn of(target: &Target) -> Result<Self, ExpectedError> {
        if let Some(client) = offline::live(target).await? {
            return Ok(Self { client, momentary: None });
        }
        if let Err(journal::Error::Missing { .. }) = journal::read(&target.state_dir) {
            return Err(offline::nothing_there(target));
        }
        let embedded = Embedded::without_worker(&target.state_dir).await?;
        let client = Client::connect(&embedded.address, Some(embedded.token.clone())).await?;
        Ok(Self { client, momentary: Some(embedded) })
    }

    async fn end(self) -> Result<(), ExpectedError> {
        match self.momentary {
            Some(embedded) => embedded.shutdown().await,
            None => Ok(()),
        }
    }
}
