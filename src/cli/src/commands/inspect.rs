//! Commands that only read: list, status, tail, table, why.

use std::time::Duration;

use protocol::v1::{
    ExplainReply, Presence, ReportFiles, RunningTrial, StatusReply, SweepStatus, TrialEnded,
    WorkerStatus, trial_ended,
};
use report::FileSink;
use serde_json::{Value, json};
use sweep::{counted, seed};
use tokio::time::Instant;

use crate::args::{ListArgs, StatusArgs, TableArgs, TailArgs, Target, WhyArgs};
use crate::client::Client;
use crate::commands::follow_sweep::{Follower, Step};
use crate::exit::{ExpectedError, Outcome};
use crate::follow::{self, View, duration};
use crate::offline::{self, Source};
use crate::output::{self, Output, Reader, SCHEMA};
use crate::reports::{self, Discard, Report, ToStdout};
use crate::results_folder::ResultsFolder;
use crate::signals::Signals;
use crate::view::{self, Leaving};
use crate::{advice, kept_files, stderr};

/// Interval of printed tables.
const TABLE_EVERY: Duration = Duration::from_secs(60);
/// Interval of `status --watch` without a view.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// The shortest pause after a table, as a multiple of the time it took: tables of a large sweep are
/// slow.
const TABLE_SHARE: u32 = 10;
/// The number of running trials that `status` lists; the JSON has up to 1,000.
const MAX_RUNNING: usize = 20;
/// The number of failed trials that `status` lists; the JSON has up to 100.
const MAX_FAILURES: usize = 5;
/// The number of workers listed by `status` after they are gone.
const MAX_GONE: usize = 3;

pub async fn status(arguments: &StatusArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let mut source = offline::source(&arguments.target).await?;
    let sweep = match &arguments.sweep {
        Some(text) => Some(source.find_sweep(text).await?),
        None => None,
    };
    match source {
        Source::Live(client) if arguments.watch => watch(arguments, sweep, *client, output).await,
        Source::Live(mut client) => {
            let reply = live_status(&mut client, arguments, sweep.as_deref()).await?;
            print_status(&reply, output)
        }
        Source::Journal(journal) => {
            if arguments.watch {
                stderr::print(
                    "no coordinator runs: this is the last state, and nothing will change",
                );
            }
            let mut reply = journal.answers().status(&sweep.unwrap_or_default())?;
            complete_advice(&mut reply, &arguments.target, None);
            print_status(&reply, output)
        }
    }
}

async fn live_status(
    client: &mut Client,
    arguments: &StatusArgs,
    sweep: Option<&str>,
) -> Result<StatusReply, ExpectedError> {
    let mut reply = client.status(sweep).await?;
    complete_advice(&mut reply, &arguments.target, Some(&client.flags()));
    Ok(reply)
}

fn complete_advice(reply: &mut StatusReply, target: &Target, reach: Option<&str>) {
    for sweep in &mut reply.sweeps {
        sweep.waits_because = advice::complete(&sweep.waits_because, target, reach);
    }
}

fn print_status(reply: &StatusReply, output: Output) -> Result<Outcome, ExpectedError> {
    print_storage_fault(reply);
    output.print(
        || status_text(reply),
        || coordinator::status_document(reply),
    )?;
    Ok(Outcome::Complete)
}

fn print_storage_fault(reply: &StatusReply) {
    if !reply.storage_fault.is_empty() {
        stderr::print(&format!(
            "the coordinator cannot write its journal, nothing new is accepted: {}",
            reply.storage_fault
        ));
    }
}

/// Shows the status repeatedly until a signal ends it: the view, or one text or JSON line after
/// another.
async fn watch(
    arguments: &StatusArgs,
    sweep: Option<String>,
    mut client: Client,
    output: Output,
) -> Result<Outcome, ExpectedError> {
    let mut signals = Signals::listen()?;
    let first = live_status(&mut client, arguments, sweep.as_deref()).await?;
    let source = view::Source {
        client: client.clone(),
        sweep: sweep.clone(),
        leaving: Leaving::Detaches,
        starts_workers: false,
        target: arguments.target.clone(),
    };
    let mut view = View::new(arguments.view, output, source);
    if view.is_full_screen() {
        signals.next().await;
        view.finish();
        let last = live_status(&mut client, arguments, sweep.as_deref()).await;
        return print_status(&last.unwrap_or(first), output);
    }
    let mut reply = first;
    loop {
        print_storage_fault(&reply);
        let reader = output.print_line(
            || status_text(&reply) + "\n",
            || coordinator::status_document(&reply),
        )?;
        if reader == Reader::Gone {
            return Ok(Outcome::Complete);
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH_EVERY) => {}
            _ = signals.next() => return Ok(Outcome::Complete),
        }
        reply = live_status(&mut client, arguments, sweep.as_deref()).await?;
    }
}

pub async fn table(arguments: &TableArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let mut source = offline::source(&arguments.target).await?;
    let sweep = &source.find_sweep(&arguments.sweep).await?;
    let report = match &arguments.results {
        Some(results) => {
            let folder = ResultsFolder::new(results, sweep);
            let mut update = folder.update()?;
            let report = report(&mut source, sweep, ReportFiles::All, &mut update).await?;
            update.finish()?;
            match &mut source {
                Source::Live(client) => kept_files::fetch(client, sweep, &folder).await?,
                Source::Journal(journal) => kept_files::copy(journal, sweep, &folder)?,
            }
            stderr::print(&format!("results are in {}", folder.path().display()));
            if output.is_json() {
                output::copy_file(&folder.path().join(report::RESULTS_JSON))?;
            }
            report
        }
        None if output.is_json() => {
            report(&mut source, sweep, ReportFiles::Json, &mut ToStdout).await?
        }
        None => report(&mut source, sweep, ReportFiles::None, &mut Discard).await?,
    };
    if !output.is_json() {
        output.print(|| output::table(&report.text), || Value::Null)?;
    }
    Ok(if report.complete && report.failed_trials > 0 {
        Outcome::FailedCells
    } else {
        Outcome::Complete
    })
}

pub async fn list(arguments: &ListArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let mut reply = match offline::source(&arguments.target).await? {
        Source::Live(mut client) => client.status(None).await?,
        Source::Journal(journal) => journal.answers().status("")?,
    };
    reply
        .sweeps
        .sort_by_key(|sweep| std::cmp::Reverse(sweep.submitted_at_ms));
    let json = || {
        let sweeps = coordinator::status_document(&reply)["sweeps"].take();
        json!({ "schema": SCHEMA, "sweeps": sweeps })
    };
    output.print(|| list_text(&reply.sweeps), json)?;
    Ok(Outcome::Complete)
}

fn list_text(sweeps: &[SweepStatus]) -> String {
    if sweeps.is_empty() {
        return "no sweeps\n".to_owned();
    }
    let widest = sweeps.iter().map(|sweep| sweep.name.len()).max();
    let line = |sweep: &SweepStatus| {
        format!(
            "{:width$}  {} of {} trials  {}\n",
            sweep.name,
            sweep.succeeded,
            follow::total(sweep),
            state_text(sweep),
            width = widest.unwrap_or_default()
        )
    };
    sweeps.iter().map(line).collect()
}

/// Explains a cell of a sweep, or a trial.
pub async fn why(arguments: &WhyArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let mut source = offline::source(&arguments.target).await?;
    let [sweep, text] = arguments.names.as_slice() else {
        return why_trial(&mut source, &arguments.target, &arguments.names[0], output).await;
    };
    let sweep = source.find_sweep(sweep).await?;
    if coordinator::is_selector(text) {
        let trial = source.find_trial(&sweep, text).await?;
        return why_trial(&mut source, &arguments.target, &trial, output).await;
    }
    let unknown = match why_cell(&mut source, &sweep, text, output).await {
        Err(unknown) if is_refusal(&unknown) => unknown,
        outcome => return outcome,
    };
    match source.find_trial(&sweep, text).await {
        Ok(trial) => why_trial(&mut source, &arguments.target, &trial, output).await,
        Err(error) if is_refusal(&error) => Err(unknown),
        Err(error) => Err(error),
    }
}

/// Returns true if the question was understood, and has no answer.
fn is_refusal(error: &ExpectedError) -> bool {
    matches!(
        error,
        ExpectedError::BadInput(_) | ExpectedError::Rejected { .. }
    )
}

async fn why_cell(
    source: &mut Source,
    sweep: &str,
    cell: &str,
    output: Output,
) -> Result<Outcome, ExpectedError> {
    let reply = match source {
        Source::Live(client) => client.why(sweep, cell).await?,
        Source::Journal(journal) => coordinator::why(&journal.state, sweep, cell)?,
    };
    let json = || serde_json::from_slice(&reply.json).unwrap_or_default();
    output.print(|| reply.text.clone(), json)?;
    Ok(Outcome::Complete)
}

async fn why_trial(
    source: &mut Source,
    target: &Target,
    trial: &str,
    output: Output,
) -> Result<Outcome, ExpectedError> {
    let (reply, reach) = explanation(source, trial).await?;
    // the journal of an older version may hold a trainer's coloured output
    let text = anstream::adapter::strip_str(&reply.text).to_string();
    let text = advice::complete(&text, target, reach.as_deref());
    let json = || serde_json::from_slice(&reply.json).unwrap_or_default();
    output.print(|| with_newline(text), json)?;
    Ok(Outcome::Complete)
}

/// Returns what is known about a trial, and the flags that reach the coordinator if one answered.
pub async fn explanation(
    source: &mut Source,
    trial: &str,
) -> Result<(ExplainReply, Option<String>), ExpectedError> {
    match source {
        Source::Live(client) => Ok((client.explain(trial).await?, Some(client.flags()))),
        Source::Journal(journal) => {
            let event = |number| {
                let reader = journal::Reader::open(&journal.state_dir).ok()?;
                reader.event(number).ok().flatten()
            };
            Ok((journal.answers().explain(trial, event)?, None))
        }
    }
}

pub async fn tail(arguments: &TailArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let Some(mut client) = offline::live(&arguments.target).await? else {
        stderr::print("no coordinator runs: this is the last state, and nothing will change");
        let report = left_by(&arguments.target, &arguments.sweep).await?;
        return conclude(&report, output);
    };
    let reconnects = arguments.target.coordinator.is_some();
    let sweep = match client.find("", &arguments.sweep).await {
        Err(error) if !reconnects && error.coordinator_is_gone() => {
            let report = left_by(&arguments.target, &arguments.sweep).await?;
            return conclude(&report, output);
        }
        found => found?.sweep,
    };
    let mut signals = Signals::listen()?;
    let source = view::Source {
        client: client.clone(),
        sweep: Some(sweep.clone()),
        leaving: Leaving::Detaches,
        starts_workers: false,
        target: arguments.target.clone(),
    };
    let mut follower = Follower::new(client, &sweep, reconnects);
    let mut view = View::new(arguments.view, output, source);
    let mut next_table = Instant::now() + TABLE_EVERY;
    loop {
        let step = tokio::select! {
            step = follower.next() => step,
            _ = signals.next() => {
                if view.is_full_screen() {
                    view.finish();
                    print_tables(&mut follower.client, &sweep).await?;
                }
                return Ok(Outcome::Interrupted);
            }
        };
        let step = match step {
            Err(error) if !reconnects && error.coordinator_is_gone() => {
                view.finish();
                // an `orchestrator run` ends with its sweep, perhaps before its last message arrives
                return match left_by(&arguments.target, &sweep).await {
                    Ok(report) if report.complete => conclude(&report, output),
                    _ => Err(error),
                };
            }
            step => step?,
        };
        match step {
            Step::Status(mut status) => {
                let reach = follower.client.flags();
                status.waits_because =
                    advice::complete(&status.waits_because, &arguments.target, Some(&reach));
                view.status(&status);
            }
            Step::Note(note) => view.note(&note),
            Step::Ended(ended) if view.is_full_screen() => view.ended(&ended, &arguments.target),
            Step::Ended(ended) => {
                let reader = output.print_line(
                    || format!("{}\n", follow::ended_line(&ended, &arguments.target)),
                    || ended_json(&ended),
                )?;
                if reader == Reader::Gone {
                    return Ok(Outcome::Complete);
                }
                if Instant::now() >= next_table && !output.is_json() {
                    let asked = Instant::now();
                    match follower.report().await {
                        Ok(report) => {
                            output.print(|| format!("\n{}\n", report.text), || Value::Null)?
                        }
                        // results continue to arrive, and the next table may succeed
                        Err(error) => {
                            stderr::print(&format!(
                                "no table for now: {}",
                                error.render().trim_end()
                            ));
                        }
                    }
                    next_table = Instant::now() + TABLE_EVERY.max(asked.elapsed() * TABLE_SHARE);
                }
            }
            Step::Complete(status) => {
                view.status(&status);
                view.finish();
                let report = match follower.report().await {
                    Err(error) if !reconnects && error.coordinator_is_gone() => {
                        left_by(&arguments.target, &sweep).await?
                    }
                    report => report?,
                };
                return conclude(&report, output);
            }
        }
    }
}

/// Returns the report of a sweep whose coordinator has ended, from its state directory.
async fn left_by(target: &Target, sweep: &str) -> Result<Report, ExpectedError> {
    let mut source = offline::source(target).await?;
    let sweep = source.find_sweep(sweep).await?;
    report(&mut source, &sweep, ReportFiles::None, &mut Discard).await
}

/// Prints the tables as they are, for a view that its user has left. A coordinator that is away is
/// no reason to wait for it.
async fn print_tables(client: &mut Client, sweep: &str) -> Result<(), ExpectedError> {
    match client.report(sweep, ReportFiles::None, &mut Discard).await {
        Ok(report) => output::write(output::table(&report.text).as_bytes()).map(|_| ()),
        Err(error) => {
            stderr::print(&format!("no table: {}", error.render().trim_end()));
            Ok(())
        }
    }
}

/// Prints the final table and the outcome of the sweep.
fn conclude(report: &Report, output: Output) -> Result<Outcome, ExpectedError> {
    let end = || json!({ "schema": SCHEMA, "end": { "complete": report.complete, "failed_trials": report.failed_trials } });
    // the outcome is that of the sweep, with or without a reader of stdout
    let _ = output.print_line(|| format!("\n{}", output::table(&report.text)), end)?;
    Ok(if report.complete && report.failed_trials > 0 {
        Outcome::FailedCells
    } else {
        Outcome::Complete
    })
}

/// Builds the report of a sweep: at the coordinator, or from a journal.
pub async fn report(
    source: &mut Source,
    sweep: &str,
    files: ReportFiles,
    sink: &mut dyn FileSink,
) -> Result<Report, ExpectedError> {
    match source {
        Source::Live(client) => client.report(sweep, files, sink).await,
        Source::Journal(journal) => reports::from_journal(journal, sweep, files, sink),
    }
}

fn with_newline(text: String) -> String {
    if text.ends_with('\n') {
        text
    } else {
        text + "\n"
    }
}

fn status_text(reply: &StatusReply) -> String {
    let mut text = String::new();
    if reply.sweeps.is_empty() {
        text.push_str("no sweeps\n");
    }
    for sweep in &reply.sweeps {
        text.push_str(&sweep_text(sweep));
    }
    if !reply.workers.is_empty() {
        text.push_str("\nworkers\n");
    }
    let (gone, here): (Vec<_>, Vec<_>) = reply
        .workers
        .iter()
        .partition(|worker| worker.presence() == Presence::Gone);
    here.into_iter()
        .for_each(|worker| text.push_str(&worker_text(worker)));
    for worker in gone.iter().take(MAX_GONE) {
        let WorkerStatus {
            worker: id,
            reason,
            silent_ms,
            ..
        } = worker;
        text.push_str(&format!(
            "  {id}  gone {} ago: {reason}\n",
            duration(*silent_ms)
        ));
    }
    let more = gone.len().saturating_sub(MAX_GONE);
    if more > 0 {
        text.push_str(&format!("  and {more} more that are gone\n"));
    }
    if reply.journal_bytes > 0 {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let (journal, checkpoints) = (mib(reply.journal_bytes), mib(reply.checkpoint_bytes));
        text.push_str(&format!(
            "\njournal {journal:.1} MiB, checkpoints of running trials {checkpoints:.1} MiB, build {}\n",
            reply.build
        ));
    }
    text
}

fn state_text(sweep: &SweepStatus) -> String {
    match (
        sweep.complete,
        sweep.cancelled_reason.is_empty(),
        sweep.failed + sweep.cancelled,
    ) {
        (_, false, _) if sweep.cancelled_reason.starts_with("cancelled") => {
            sweep.cancelled_reason.clone()
        }
        (_, false, _) => format!("cancelled: {}", sweep.cancelled_reason),
        (true, true, 0) => "complete".to_owned(),
        (true, true, _) => "finished, with trials that have no result".to_owned(),
        (false, true, _) => format!("{} waiting, {}", sweep.waiting, follow::counts(sweep)),
    }
}

fn sweep_text(sweep: &SweepStatus) -> String {
    let state = state_text(sweep);
    let mut text = format!(
        "{}  revision {}  {} of {} trials, {} of {} cells  {state}\n",
        sweep.name,
        sweep.revision,
        sweep.succeeded,
        follow::total(sweep),
        sweep.complete_cells,
        sweep.cells
    );
    for line in sweep.description.lines() {
        text.push_str(&format!("  {line}\n"));
    }
    if !sweep.cancelled_reason.is_empty() {
        // trials that are not wanted any more: their progress does not matter
        if sweep.running > 0 {
            text.push_str(&format!(
                "  {} being stopped\n",
                counted(sweep.running, "attempt")
            ));
        }
        return text;
    }
    if !sweep.more_seeds.is_empty() {
        text.push_str(&format!("  more seeds: {}\n", sweep.more_seeds));
    }
    for trial in sweep.running_trials.iter().take(MAX_RUNNING) {
        let RunningTrial {
            trial: id,
            cell,
            seed,
            worker,
            slot,
            ..
        } = trial;
        let progress = follow::trial_text(trial);
        text.push_str(&format!(
            "  {id}  {cell} seed {}  {progress}  on {worker} slot {slot}\n",
            seed::name(*seed)
        ));
    }
    let more = sweep.running.saturating_sub(MAX_RUNNING as u64);
    if more > 0 {
        text.push_str(&format!("  and {more} more\n"));
    }
    let shown = sweep.failures.len().min(MAX_FAILURES);
    for trial in &sweep.failures[..shown] {
        text.push_str(&format!(
            "  {}  {} seed {}  failed: {}\n",
            trial.trial,
            trial.cell,
            seed::name(trial.seed),
            follow::shortened(&trial.failure)
        ));
    }
    let more = sweep.failed.saturating_sub(shown as u64);
    if shown > 0 && more > 0 {
        text.push_str(&format!("  and {more} more that failed\n"));
    }
    if !sweep.waits_because.is_empty() {
        text.push_str(&format!("  waits: {}\n", sweep.waits_because));
    }
    text
}

fn worker_text(worker: &WorkerStatus) -> String {
    let WorkerStatus {
        worker: id,
        slots,
        busy_slots,
        ..
    } = worker;
    let reason = if worker.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", worker.reason)
    };
    let presence = worker.presence();
    let silent = match presence {
        Presence::Unreachable => format!(", silent for {}", duration(worker.silent_ms)),
        Presence::Present | Presence::Draining | Presence::Gone => String::new(),
    };
    let left = match worker.leaves_in_ms {
        Some(ms) => format!(", leaves in {}", duration(ms)),
        None => String::new(),
    };
    let disk = match worker.work_dir_bytes {
        0 => String::new(),
        bytes => format!(
            ", {:.1} MiB in its work directory",
            bytes as f64 / f64::from(1 << 20)
        ),
    };
    let mut text = format!(
        "  {id}  {presence}{reason}{silent}  {busy_slots} of {slots} slots busy{left}{disk}\n"
    );
    let mut counted: Vec<(&str, usize)> = Vec::new();
    for description in &worker.slot_descriptions {
        match counted.last_mut() {
            Some((last, count)) if last == description => *count += 1,
            _ => counted.push((description, 1)),
        }
    }
    for (description, count) in counted {
        let times = if count > 1 {
            format!("{count} x ")
        } else {
            String::new()
        };
        text.push_str(&format!("    {times}{description}\n"));
    }
    text
}

fn ended_json(ended: &TrialEnded) -> Value {
    let (accuracy, failure) = match &ended.outcome {
        Some(trial_ended::Outcome::Accuracy(accuracy)) => (Some(*accuracy), None),
        Some(trial_ended::Outcome::Failure(failure)) => (None, Some(failure)),
        None => (None, None),
    };
    json!({
        "schema": SCHEMA,
        "ended": {
            "trial": ended.trial,
            "cell": ended.cell,
            "seed": ended.seed,
            "attempts": ended.attempts,
            "search": ended.search,
            "accuracy": accuracy,
            "best_accuracy": accuracy.map(|_| ended.best_accuracy),
            "seconds": ended.seconds,
            "failure": failure,
        },
    })
}
