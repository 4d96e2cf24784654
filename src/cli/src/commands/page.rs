//! `page`: the address of a coordinator's page, with a login; `report`: the same page as one file.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use coordinator::{JournalResults, KeptFiles};
use page::{Contents, FileTrial, Place, Scene, TrialCurve};
use report::{Reporter, StoredResults};
use schedule::curve;
use serde_json::json;
use sweep::with_causes;

use crate::args::Target;
use crate::exit::{ExpectedError, Outcome};
use crate::offline::{self, Journal};
use crate::output::{Output, SCHEMA};
use crate::page_args::{PageArgs, ReportArgs};
use crate::{rendezvous, stderr};

/// Trials whose curves a file has.
const MAX_CURVES: usize = 2_000;
/// Trials, and cells, that have a part of their own in a file.
const MAX_PARTS: usize = 300;

/// Prints the address of the page.
pub async fn page(arguments: &PageArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let target = &arguments.target;
    let Some(mut client) = offline::live(target).await? else {
        return Err(ExpectedError::BadInput(format!(
            "no coordinator runs on {}, and the page is a part of one: `orchestrator report SWEEP --html FILE` writes it \
             from the journal",
            target.state_dir.display()
        )));
    };
    let opened = client.open_page().await?;
    let elsewhere = elsewhere(target);
    let address: Option<SocketAddr> = opened.address.parse().ok();
    let is_local = address.is_some_and(|address| address.ip().is_loopback());
    let port = address.map_or(0, |address| address.port());
    let host = match (&elsewhere, address) {
        (Some(host), Some(address)) if !address.ip().is_loopback() => format!("{host}:{port}"),
        (None, Some(address)) if address.ip().is_unspecified() => format!("127.0.0.1:{port}"),
        _ => opened.address.clone(),
    };
    let url = format!("http://{host}/login?code={}", opened.code);
    if let Some(host) = elsewhere.filter(|_| is_local) {
        stderr::print(&format!(
            "the page listens on loopback of {host}: where your browser is, first run\n  ssh -N -L {port}:127.0.0.1:{port} {host}"
        ));
    }
    output.print(
        || format!("{url}\n"),
        || json!({ "schema": SCHEMA, "url": url }),
    )?;
    if arguments.open {
        open(&url)?;
    }
    Ok(Outcome::Complete)
}

/// Returns the host of the coordinator, if it is another machine.
fn elsewhere(target: &Target) -> Option<String> {
    match &target.coordinator {
        None => rendezvous::find(&target.state_dir)?.other_host(),
        Some(url) => {
            let host = url.split_once("://").map_or(url.as_str(), |(_, host)| host);
            let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
            let is_here = ["localhost", "127.0.0.1", "[::1]"].contains(&host);
            (!is_here).then(|| host.to_owned())
        }
    }
}

fn open(url: &str) -> Result<(), ExpectedError> {
    let program = match cfg!(target_os = "macos") {
        true => "open",
        false => "xdg-open",
    };
    let mut command = Command::new(program);
    command.arg(url).stdout(Stdio::null()).stderr(Stdio::null());
    let started = command.spawn().map(drop);
    started.map_err(|error| ExpectedError::Infrastructure {
        what: "no browser was opened",
        reason: format!("`{program}`: {error}"),
    })
}

/// Writes the page of a sweep to a file.
pub async fn report(arguments: &ReportArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let (target, sweep) = (&arguments.target, &arguments.sweep);
    let journal = Journal::read(target)?;
    // What runs, and how long it will take, is known to a coordinator alone.
    let status = match offline::live(target).await? {
        Some(mut client) => client.status(Some(sweep)).await?,
        None => journal.answers().status(sweep)?,
    };
    let html = file(&journal, &status, sweep)?;
    let path = &arguments.html;
    std::fs::write(path, html).map_err(ExpectedError::file("write", path))?;
    output.print(
        || format!("{}\n", path.display()),
        || json!({ "schema": SCHEMA, "sweep": sweep, "html": path }),
    )?;
    Ok(Outcome::Complete)
}

fn file(
    journal: &Journal,
    status: &protocol::v1::StatusReply,
    sweep: &str,
) -> Result<String, ExpectedError> {
    let unreadable = |reason| ExpectedError::Infrastructure {
        what: "the journal",
        reason,
    };
    let reporter = Reporter::of(&journal.state, sweep).map_err(coordinator::NoAnswer::from)?;
    let results = reporter.results();
    let mut stored = JournalResults::of(&journal.state_dir);
    let reader = journal::Reader::open(&journal.state_dir)
        .map_err(|error| unreadable(with_causes(&error)))?;
    let answers = journal.answers();
    let kept = KeptFiles::of(&journal.state_dir);
    let (mut curves, mut trials) = (Vec::new(), Vec::new());
    for (place, row) in results.trials.iter().enumerate().take(MAX_CURVES) {
        let result = match row.result() {
            Some(summary) => {
                let read = stored.result(summary.event);
                Some(read.map_err(|error| unreadable(error.to_string()))?)
            }
            None => None,
        };
        if let Some(result) = &result {
            curves.push(TrialCurve {
                trial: row.trial.id,
                points: curve::of_epochs(&result.epochs),
            });
        }
        if results.trials.len() <= MAX_PARTS {
            let event = |number| reader.event(number).ok().flatten();
            let (explanation, _) = answers.trial_parts(&row.trial.id.to_string(), event)?;
            trials.push(FileTrial {
                row: place,
                confusion: kept.confusion(&explanation),
                explanation,
                result,
            });
        }
    }
    let cells = results.sweep.cells.iter().enumerate();
    let trained = cells.filter(|(_, cell)| cell.skipped.is_none());
    let contents = Contents {
        curves,
        trials,
        cells: trained.map(|(index, _)| index).take(MAX_PARTS).collect(),
    };
    let scene = Scene {
        status,
        place: Place::File,
    };
    let of_sweep = status.sweeps.iter().find(|known| known.name == sweep);
    let of_sweep = of_sweep.ok_or_else(|| unreadable("it has no such sweep".to_owned()))?;
    Ok(page::file(scene, of_sweep, &reporter, &contents))
}
