//! The page of one trial: its state, curves, attempts, settings and log.

use maud::{Markup, html};
use protocol::v1::{RunningTrial, SweepStatus};
use report::{Results, TrialRow};
use schedule::curve::Point;
use schedule::{Explanation, Tried};
use sweep::record::TrialResult;

use crate::chart::{Chart, Series};
use crate::confusion::confusion;
use crate::frame::{Tab, action, page, scrolled};
use crate::sweep::epochs;
use crate::trials::name;
use crate::words::{duration, percent, timestamp, value};
use crate::{Place, Scene};

/// Classes on this page at most; classes.csv of the results has all.
const MAX_CLASSES: usize = 400;

/// The data of a trial's page.
pub struct TrialView<'a> {
    pub results: &'a Results<'a>,
    pub row: &'a TrialRow<'a>,
    pub explanation: &'a Explanation,
    pub curve: &'a [Point],
    /// The whole result, if it has one.
    pub result: Option<&'a TrialResult>,
    /// The file of its confusion matrix, if that is kept.
    pub confusion: Option<&'a str>,
    /// The end of its last trainer's stderr, if that is on this machine.
    pub log: Option<&'a str>,
}

/// Draws the page of a trial.
pub fn trial(scene: Scene<'_>, status: &SweepStatus, view: &TrialView<'_>) -> String {
    let sweep = &*view.results.sweep.name;
    let id = view.row.trial.id.to_string();
    let running = status.running_trials.iter().find(|trial| trial.trial == id);
    let main = html! {
        h1 { (name(view.results, view.row)) ", seed " (::sweep::seed::name(view.row.trial.seed)) }
        (body(scene.place, view, running))
    };
    page(
        scene,
        &format!("Trial {id}"),
        Some((sweep, Tab::Other)),
        &main,
    )
}

/// Draws a trial without the frame of a page.
pub fn body(place: Place, view: &TrialView<'_>, running: Option<&RunningTrial>) -> Markup {
    let id = view.row.trial.id.to_string();
    html! {
        section id=(format!("state-{id}")) data-live { (state(place, view, running)) }
        section id=(format!("curve-{id}")) data-live {
            div.charts {
                @for chart in charts(view) { (chart.draw(&format!("{}-{id}", chart.title.replace(' ', "-")))) }
            }
        }
        section id=(format!("attempts-{id}")) data-live { (attempts(&view.explanation.attempts)) }
        section id=(format!("log-{id}")) data-live { (log(place, view)) }
        (settings(view))
        @if let Some(result) = view.result { (provenance(result)) (classes(result)) }
        @if let Some(text) = view.confusion { (confusion(text)) }
    }
}

fn state(place: Place, view: &TrialView<'_>, running: Option<&RunningTrial>) -> Markup {
    let (results, row) = (view.results, view.row);
    let sweep = &*results.sweep.name;
    let cell = results.sweep.cell_name(&results.sweep.cells[row.cell()]);
    let phase = view.explanation.phase;
    html! {
        dl.facts {
            div { dt { "Trial" } dd { code { (row.trial.id.to_string()) } } }
            div { dt { "Phase" } dd class=(format!("status {phase}")) { (phase) } }
            div { dt { "Cell" } dd { a href=(place.cell(sweep, &cell, row.cell())) { (name(results, row)) } } }
            div { dt { "Seed" } dd { (::sweep::seed::name(row.trial.seed)) } }
            @if let Some(result) = row.result() {
                div { dt { "Accuracy" } dd { (percent(result.last_accuracy)) } }
                div { dt { "Best epoch" } dd { (percent(result.best_accuracy)) " in epoch " (result.best_epoch + 1) } }
            }
            @if let Some(trial) = running { div { dt { "Progress" } dd { (epochs(trial)) } } }
            @if let Some(trial) = running.filter(|trial| trial.images_per_s > 0.0) {
                div { dt { "Images/s" } dd { (format!("{:.0}", trial.images_per_s)) } }
            }
        }
        @match &view.explanation.because[..] {
            [] => {},
            [because] => p.because { (because) },
            several => ul.because { @for because in several { li { (because) } } },
        }
        (actions(place, sweep, phase, &row.trial.id.to_string()))
    }
}

fn actions(place: Place, sweep: &str, phase: &str, id: &str) -> Markup {
    let path = |what: &str| format!("{}/{what}", place.sweep(sweep));
    html! {
        div.actions {
            @match phase {
                "failed" => (action(place, "retry", "Retry this trial",
                    "It is retried, from its checkpoint if it has one.",
                    &path("retry"), &[("trial", id)])),
                "succeeded" => (action(place, "again", "Train this trial again",
                    "It starts from scratch, and its earlier result does not count any more.",
                    &path("retry"), &[("trial", id)])),
                "waiting" | "running" => (action(place, "cancel", "Cancel its sweep",
                    "Every trial of the sweep that waits or runs is stopped. Finished ones keep their results.",
                    &path("cancel"), &[])),
                _ => {}
            }
        }
    }
}

/// Draws the end of the log, or the command that prints it on its worker.
fn log(place: Place, view: &TrialView<'_>) -> Markup {
    let has_run = !view.explanation.attempts.is_empty();
    html! {
        @match view.log.filter(|log| !log.is_empty()) {
            Some(log) => {
                h2 { "End of the log" }
                pre.log tabindex="0" { (log) }
            },
            None if has_run && place.is_served() => {
                h2 { "Log" }
                p.note {
                    "Its trainer wrote nothing, or the log is in the work directory of its worker, where "
                    code { "orchestrator logs " (view.row.trial.id.to_string()) " --work-dir DIR" } " prints it."
                }
            },
            None => {}
        }
    }
}

/// Returns the curves of a trial: accuracy in per cent, and losses.
fn charts(view: &TrialView<'_>) -> [Chart; 2] {
    let series = |label: &str, colour, points: Vec<(f64, f64)>| Series {
        label: label.to_owned(),
        colour,
        is_faint: false,
        points,
        band: Vec::new(),
    };
    let of = |number: fn(&Point) -> Option<f64>| -> Vec<(f64, f64)> {
        let points = view.curve.iter();
        points
            .filter_map(|point| Some((f64::from(point.epoch), number(point)?)))
            .collect()
    };
    let evaluated: Vec<(f64, f64)> = view.result.map_or_else(Vec::new, |result| {
        let epochs = (1..).zip(&result.epochs);
        epochs
            .filter_map(|(epoch, record)| Some((f64::from(epoch), record.eval_loss?)))
            .collect()
    });
    let mut losses = vec![series("training", 1, of(|point| point.train_loss))];
    if !evaluated.is_empty() {
        losses.push(series("evaluation", 2, evaluated));
    }
    let accuracy = of(|point| Some(100.0 * point.accuracy?));
    [
        Chart {
            title: "accuracy".into(),
            unit: "%",
            series: vec![series("accuracy", 0, accuracy)],
        },
        Chart {
            title: "loss".into(),
            unit: "",
            series: losses,
        },
    ]
}

fn attempts(attempts: &[Tried]) -> Markup {
    let list = html! {
        table {
            thead { tr {
                th.number scope="col" { "Attempt" } th scope="col" { "Started" } th.number scope="col" { "Lasted" }
                th scope="col" { "Outcome" } th scope="col" { "Worker" }
            } }
            tbody {
                @for tried in attempts {
                    tr {
                        th.number scope="row" { (tried.attempt) }
                        td { (timestamp(tried.started_at_ms)) }
                        td.number { (duration(tried.lasted_ms)) }
                        td { span class=(format!("status {}", tried.outcome)) { (tried.outcome) } }
                        td { (tried.worker) " slot " (tried.slot) }
                    }
                }
            }
        }
    };
    html! {
        @if !attempts.is_empty() {
            h2 { "Attempts" }
            (scrolled("Attempts", &list))
            @for tried in attempts.iter().filter(|tried| !tried.message.is_empty()) {
                details id=(format!("message-{}-{}", tried.event.unwrap_or_default(), tried.attempt)) open[attempts.last() == Some(tried)] {
                    summary { "Attempt " (tried.attempt) ": " (tried.outcome) }
                    pre.log tabindex="0" { (tried.message) }
                }
            }
        }
    }
}

fn settings(view: &TrialView<'_>) -> Markup {
    let fields = view.results.settings(view.row).fields();
    let base = view.results.sweep.base.fields();
    let list = html! {
        table.settings {
            thead { tr { th scope="col" { "Setting" } th scope="col" { "Value" } } }
            tbody {
                @for (field, shown) in &fields {
                    tr.differs[base.get(field) != Some(shown)] { th scope="row" { (field) } td { (value(shown)) } }
                }
            }
        }
    };
    html! {
        section {
            h2 { "Settings" }
            p.note { "In bold: what its cell, its search or the sweep's axes set." }
            (scrolled("Settings", &list))
        }
    }
}

fn provenance(result: &TrialResult) -> Markup {
    let of = &result.provenance;
    let timing = &result.timing;
    let seconds = |s: f64| duration((1000.0 * s) as u64);
    let facts: Vec<(&str, String)> = vec![
        ("Host", of.host.clone()),
        ("Devices", of.devices.join(", ")),
        ("Trainer", of.trainer.clone()),
        ("libtorch", of.libtorch.clone()),
        ("Libraries", of.libraries.join(", ")),
        ("Precision", of.precision.clone()),
        ("Execution", of.execution.clone()),
        ("Kernels", of.kernels.clone()),
        ("Images", of.images.clone()),
        ("Data", of.data_fingerprint.clone()),
        ("Parameters", of.num_parameters.to_string()),
        ("Evaluated on", format!("{} images", of.num_eval_images)),
        ("Training", seconds(timing.train_s)),
        ("Evaluation", seconds(timing.evaluate_s)),
        ("Throughput", format!("{:.0} images/s", timing.images_per_s)),
        ("Peak memory", format!("{:.0} MiB", timing.peak_memory_mib)),
    ];
    html! {
        section {
            h2 { "Where it comes from" }
            dl.facts {
                @for (label, text) in facts.iter().filter(|(_, text)| !text.is_empty()) {
                    div { dt { (label) } dd { (text) } }
                }
            }
        }
    }
}

fn classes(result: &TrialResult) -> Markup {
    let Some(counts) = result.classes.as_ref() else {
        return html! {};
    };
    let total = counts.images.len();
    let list = html! {
        table {
            thead { tr {
                th.number scope="col" { "Class" } th.number scope="col" { "Images" }
                th.number scope="col" { "Correct" } th scope="col" { "Recall" }
            } }
            tbody {
                @for (class, (images, correct)) in counts.classes().enumerate().take(MAX_CLASSES) {
                    tr {
                        th.number scope="row" { (class) }
                        td.number { (images) }
                        td.number { (correct) }
                        td { @if images > 0 {
                            span.bar {
                                meter min="0" max=(images) value=(correct) aria-label=(format!("Recall of class {class}")) {}
                                span { (percent(f64::from(correct) / f64::from(images))) }
                            }
                        } }
                    }
                }
            }
        }
    };
    html! {
        section {
            h2 { "Recall by class" }
            @if total > MAX_CLASSES { p.note { "The first " (MAX_CLASSES) " of " (total) " classes." } }
            (scrolled("Recall by class", &list))
        }
    }
}
