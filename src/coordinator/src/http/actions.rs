//! The changes that a page can make: the same inputs as those of the commands `cancel`, `retry`,
//! `drain` and `undrain`. The answer redirects to the page.

use axum::extract::{Form, Path, State};
use axum::response::Redirect;
use page::Place;
use protocol::invalid::{line, name};
use schedule::event::{Input, Retry};
use serde::Deserialize;
use sweep::TrialId;
use tonic::Status;

use super::Shared;
use super::pages::Problem;
use crate::requests::{self, OwnerRequest};

const BY_PAGE: &str = "by a user of the page";
const LINKS: Place = Place::Served { may_change: true };

type Changed = Result<Redirect, Problem>;

impl Shared {
    /// Sends a command, and waits until the change is durable.
    async fn command(&self, input: Input) -> Result<(), Status> {
        let command = |reply| OwnerRequest::Command { input, reply };
        requests::ask(&self.sources.owner, command).await.map(drop)
    }
}

pub async fn cancel(State(shared): State<Shared>, Path(sweep): Path<String>) -> Changed {
    let place = LINKS.sweep(&sweep);
    let sweep = name("sweep", sweep)?;
    let reason = line("reason", &format!("cancelled {BY_PAGE}"))?;
    shared.command(Input::Cancel { sweep, reason }).await?;
    Ok(Redirect::to(&place))
}

/// A request to retry. Without a cell or a trial, the failed trials of the sweep are retried.
#[derive(Deserialize)]
pub struct RetryForm {
    cell: Option<String>,
    trial: Option<String>,
}

pub async fn retry(
    State(shared): State<Shared>,
    Path(sweep): Path<String>,
    Form(form): Form<RetryForm>,
) -> Changed {
    let (which, place) = match (form.cell, form.trial) {
        (_, Some(trial)) => {
            let parsed = trial.parse::<TrialId>();
            let id = parsed.map_err(|error| Status::invalid_argument(error.to_string()))?;
            let place = LINKS.trial(&sweep, &trial);
            (Retry::Trials(vec![id]), place)
        }
        (Some(cell), None) => {
            let which = Retry::Cells(vec![String::from(line("cell", &cell)?)]);
            (which, LINKS.sweep(&sweep))
        }
        (None, None) => (Retry::Failed, LINKS.sweep(&sweep)),
    };
    let sweep = name("sweep", sweep)?;
    shared.command(Input::Retry { sweep, which }).await?;
    Ok(Redirect::to(&place))
}

#[derive(Deserialize)]
pub struct NameForm {
    /// A worker or a host.
    name: String,
}

pub async fn drain(State(shared): State<Shared>, Form(form): Form<NameForm>) -> Changed {
    let name = name("worker", form.name)?;
    let reason = line("reason", &format!("drained {BY_PAGE}"))?;
    shared.command(Input::Drain { name, reason }).await?;
    Ok(Redirect::to("/workers"))
}

pub async fn undrain(State(shared): State<Shared>, Form(form): Form<NameForm>) -> Changed {
    let name = name("worker", form.name)?;
    shared.command(Input::Undrain { name }).await?;
    Ok(Redirect::to("/workers"))
}
