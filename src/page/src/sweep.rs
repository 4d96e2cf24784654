//! The page of one sweep: its tables and figures as they fill, then running and failed trials.

use maud::{Markup, html};
use protocol::v1::{Condition, RunningTrial, SweepStatus};
use report::Reporter;

use crate::frame::{Tab, action, page, prose, scrolled};
use crate::words::{duration, first_line, percent};
use crate::{Place, Scene, table};

/// Running trials on this page at most; `trials.rs` lists all.
const MAX_RUNNING: usize = 50;
const MAX_FAILURES: usize = 20;

/// Draws the tables and figures of a sweep. They stay the same until the sweep changes.
pub fn tables(place: Place, reporter: &Reporter<'_>) -> Markup {
    html! {
        @for layout in reporter.layouts() { (table::layout(place, reporter.results(), &layout)) }
    }
}

/// Draws the page of a sweep around its tables.
pub fn sweep(scene: Scene<'_>, sweep: &SweepStatus, tables: &Markup) -> String {
    let main = html! {
        h1 { (sweep.name) }
        (description(sweep))
        section #progress data-live { (summary(sweep)) }
        section #tables data-live { (tables) }
        section #running data-live { (running(scene.place, sweep)) }
        section #failures data-live { (failures(scene.place, sweep)) }
        @if scene.place.may_change() { section #actions data-live { (actions(scene.place, sweep)) } }
    };
    page(
        scene,
        &sweep.name,
        Some((&sweep.name, Tab::Overview)),
        &main,
    )
}

/// Draws the description in a sweep's file.
pub fn description(sweep: &SweepStatus) -> Markup {
    html! { @if !sweep.description.is_empty() { p.note { (prose(&sweep.description)) } } }
}

/// Draws the progress of a sweep, and the reason if it makes none.
pub fn summary(sweep: &SweepStatus) -> Markup {
    html! {
        div.summary {
            (progress(sweep))
            dl.facts {
                div { dt { "State" } dd { (state(sweep)) } }
                div { dt { "Cells" } dd { (sweep.complete_cells) " of " (sweep.cells) } }
                div { dt { "Trials" } dd { (sweep.succeeded) " of " (total(sweep)) } }
                @if sweep.running > 0 { div { dt { "Running" } dd { (sweep.running) } } }
                @if sweep.waiting > 0 { div { dt { "Waiting" } dd { (sweep.waiting) } } }
                @if sweep.failed > 0 { div { dt { "Failed" } dd.status.failed { (sweep.failed) } } }
                @if sweep.cancelled > 0 { div { dt { "Cancelled" } dd { (sweep.cancelled) } } }
                @if sweep.remaining_ms > 0 { div { dt { "Time left" } dd { (time_left(sweep)) } } }
                @if sweep.revision > 1 { div { dt { "Revision" } dd { (sweep.revision) } } }
            }
        }
        @if !sweep.waits_because.is_empty() { p.alert { strong { "Waits: " } (sweep.waits_because) } }
        @if !sweep.more_seeds.is_empty() { p.note { strong { "More seeds: " } (sweep.more_seeds) } }
    }
}

fn time_left(sweep: &SweepStatus) -> String {
    let least = if sweep.remaining_at_least {
        "at least "
    } else {
        ""
    };
    let about = format!("{least}{}", duration(sweep.remaining_ms));
    match sweep.remaining_high_ms {
        0 => about,
        high => format!(
            "{about} ({} to {})",
            duration(sweep.remaining_low_ms),
            duration(high)
        ),
    }
}

/// Returns the number of trials that a sweep wants so far.
pub fn total(sweep: &SweepStatus) -> u64 {
    sweep.waiting + sweep.running + sweep.succeeded + sweep.failed + sweep.cancelled
}

/// Returns the state of a sweep in words.
pub fn state(sweep: &SweepStatus) -> String {
    let lost = sweep.failed + sweep.cancelled;
    match (sweep.cancelled_reason.as_str(), sweep.complete) {
        ("", true) if lost == 0 => "complete".to_owned(),
        ("", true) => "finished, with trials that have no result".to_owned(),
        ("", false) if sweep.running > 0 => "running".to_owned(),
        ("", false) => "waiting".to_owned(),
        (reason, _) if reason.starts_with("cancelled") => reason.to_owned(),
        (reason, _) => format!("cancelled: {reason}"),
    }
}

/// Draws a bar of the trials that have ended.
pub fn progress(sweep: &SweepStatus) -> Markup {
    let done = sweep.succeeded + sweep.failed + sweep.cancelled;
    let total = total(sweep);
    let share = (done * 100).checked_div(total).unwrap_or(0);
    html! {
        span.bar {
            progress max=(total.max(1)) value=(done) aria-label=(format!("Trials of {} that have ended", sweep.name)) {}
            span { (share) " %" }
        }
    }
}

fn running(place: Place, sweep: &SweepStatus) -> Markup {
    let list = html! {
        table {
            thead { tr {
                th scope="col" { "Trial" } th scope="col" { "Cell" } th.number scope="col" { "Seed" }
                th scope="col" { "Progress" } th.number scope="col" { "Accuracy" }
                th.number scope="col" { "Loss" } th.number scope="col" { "Images/s" } th scope="col" { "Worker" }
            } }
            tbody {
                @for trial in sweep.running_trials.iter().take(MAX_RUNNING) {
                    tr {
                        th scope="row" { a href=(place.trial(&sweep.name, &trial.trial)) { (trial.trial) } }
                        td { (trial.cell) }
                        td.number { (::sweep::seed::name(trial.seed)) }
                        td { (epochs(trial)) }
                        td.number { @if let Some(accuracy) = trial.accuracy { (percent(accuracy)) @if trial.search { " held out" } } }
                        td.number { @if let Some(loss) = trial.train_loss { (format!("{loss:.3}")) } }
                        td.number { @if trial.images_per_s > 0.0 { (format!("{:.0}", trial.images_per_s)) } }
                        td { (trial.worker) " slot " (trial.slot) }
                    }
                }
            }
        }
    };
    let more = sweep.running.saturating_sub(MAX_RUNNING as u64);
    html! {
        @if !sweep.running_trials.is_empty() {
            h2 { "Running" }
            (scrolled("Running trials", &list))
            @if more > 0 { p { a href=(place.trials(&sweep.name, "?phase=running")) { "and " (more) " more" } } }
        }
    }
}

/// Draws the progress of a running trial.
pub fn epochs(trial: &RunningTrial) -> Markup {
    html! {
        @if trial.num_epochs == 0 { "starting" } @else {
            span.bar {
                progress max=(trial.num_epochs) value=(trial.epoch) aria-label=(format!("Epochs of trial {}", trial.trial)) {}
                span { "epoch " (trial.epoch) "/" (trial.num_epochs) }
            }
        }
        @if trial.condition() != Condition::Running {
            " " span.status.failed { (trial.condition().to_string().replace('_', " ")) }
        }
    }
}

fn failures(place: Place, sweep: &SweepStatus) -> Markup {
    let shown = sweep.failures.len().min(MAX_FAILURES);
    let more = sweep.failed.saturating_sub(shown as u64);
    let list = html! {
        table {
            thead { tr {
                th scope="col" { "Trial" } th scope="col" { "Cell" } th.number scope="col" { "Seed" }
                th.number scope="col" { "Attempts" } th scope="col" { "Reason" }
            } }
            tbody {
                @for failed in &sweep.failures[..shown] {
                    tr {
                        th scope="row" { a href=(place.trial(&sweep.name, &failed.trial)) { (failed.trial) } }
                        td { (failed.cell) }
                        td.number { (::sweep::seed::name(failed.seed)) }
                        td.number { (failed.attempts) }
                        td { (first_line(&failed.failure, 160)) }
                    }
                }
            }
        }
    };
    html! {
        @if shown > 0 {
            h2 { "Failed" }
            (scrolled("Failed trials", &list))
            @if more > 0 { p { a href=(place.trials(&sweep.name, "?phase=failed")) { "and " (more) " more" } } }
        }
    }
}

fn actions(place: Place, sweep: &SweepStatus) -> Markup {
    let path = |what: &str| format!("{}/{what}", place.sweep(&sweep.name));
    let is_cancelled = !sweep.cancelled_reason.is_empty();
    let is_open = !sweep.complete && !is_cancelled;
    html! {
        @if is_open || is_cancelled || sweep.failed > 0 {
            h2 { "Actions" }
            div.actions {
                @if is_cancelled {
                    (action(place, "continue", "Continue the sweep",
                        "It is cancelled no longer: trials without a result are trained, from their checkpoints if they have one.",
                        &path("retry"), &[]))
                } @else if sweep.failed > 0 {
                    (action(place, "retry", "Retry failed trials",
                        "Trials that failed are retried, from their checkpoints.", &path("retry"), &[]))
                }
                @if is_open {
                    (action(place, "cancel", "Cancel the sweep",
                        "Its trials are stopped. Finished ones keep their results.", &path("cancel"), &[]))
                }
            }
        }
    }
}
