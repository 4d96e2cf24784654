//! The first page: the tables of the newest sweep, then every sweep with its progress.

use maud::{Markup, html};
use protocol::v1::{StatusReply, SweepStatus};

use crate::Scene;
use crate::frame::{page, scrolled};
use crate::sweep::{description, progress, state, summary};

/// Returns the newest sweep.
pub fn newest(status: &StatusReply) -> Option<&SweepStatus> {
    status
        .sweeps
        .iter()
        .max_by_key(|sweep| sweep.submitted_at_ms)
}

/// Draws the tables of the newest sweep, then all sweeps, the newest first.
pub fn sweeps(scene: Scene<'_>, tables: Option<&Markup>) -> String {
    let mut sweeps: Vec<&SweepStatus> = scene.status.sweeps.iter().collect();
    sweeps.sort_by_key(|sweep| std::cmp::Reverse(sweep.submitted_at_ms));
    let list = html! {
        table {
            thead { tr {
                th scope="col" { "Sweep" }
                th.number scope="col" { "Cells" }
                th.number scope="col" { "Trials" }
                th.number scope="col" { "Failed" }
                th scope="col" { "Progress" }
                th scope="col" { "State" }
            } }
            tbody { @for sweep in &sweeps { (row(scene, sweep)) } }
        }
    };
    let main = html! {
        section #newest data-live {
            @if let Some((sweep, tables)) = newest(scene.status).zip(tables) {
                h1 { a href=(scene.place.sweep(&sweep.name)) { (sweep.name) } }
                (description(sweep))
                (summary(sweep))
                (tables)
            }
        }
        @if sweeps.is_empty() { h1 { "Sweeps" } } @else { h2 { "Sweeps" } }
        section #sweeps data-live {
            @if sweeps.is_empty() {
                p { "No sweep was submitted yet: " code { "orchestrator run FILE" } " submits one." }
            } @else { (scrolled("Sweeps", &list)) }
        }
    };
    page(scene, "Sweeps", None, &main)
}

fn row(scene: Scene<'_>, sweep: &SweepStatus) -> Markup {
    let total = crate::sweep::total(sweep);
    html! {
        tr {
            th scope="row" { a href=(scene.place.sweep(&sweep.name)) { (sweep.name) } }
            td.number { (sweep.complete_cells) " of " (sweep.cells) }
            td.number { (sweep.succeeded) " of " (total) }
            td.number { (sweep.failed) }
            td { (progress(sweep)) }
            td { (state(sweep)) }
        }
    }
}
