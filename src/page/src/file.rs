//! The pages of one sweep in one file, without script or server, to be mailed or kept.

use ::sweep::record::TrialResult;
use maud::html;
use protocol::v1::SweepStatus;
use report::{Reporter, TrialRow};
use schedule::Explanation;
use schedule::curve::Point;

use crate::frame::{Tab, page, scrolled};
use crate::{CellView, Scene, TrialCurve, TrialView, cell, sweep, trial, trials};

/// Trials in the file at most; results.csv has all.
const MAX_LISTED: usize = 20_000;

/// The content of the file besides the tables.
pub struct Contents {
    /// Curves of the trials with a result.
    pub curves: Vec<TrialCurve>,
    /// Trials that have a part of their own.
    pub trials: Vec<FileTrial>,
    /// Cells that have a part of their own.
    pub cells: Vec<usize>,
}

/// A trial with a part of its own.
pub struct FileTrial {
    /// Its place in `Results::trials`.
    pub row: usize,
    pub explanation: Explanation,
    pub result: Option<TrialResult>,
    /// The file of its confusion matrix.
    pub confusion: Option<String>,
}

/// Draws the file.
pub fn file(
    scene: Scene<'_>,
    status: &SweepStatus,
    reporter: &Reporter<'_>,
    contents: &Contents,
) -> String {
    let results = reporter.results();
    let place = scene.place;
    let rows: Vec<&TrialRow<'_>> = results.trials.iter().take(MAX_LISTED).collect();
    let curve = |row: &TrialRow<'_>| -> &[Point] {
        let found = contents
            .curves
            .iter()
            .find(|curve| curve.trial == row.trial.id);
        found.map_or(&[], |curve| &curve.points)
    };
    let main = html! {
        h1 { (status.name) }
        (sweep::description(status))
        (sweep::summary(status))
        (sweep::tables(place, reporter))
        @if !contents.cells.is_empty() {
            h2 { "Cells" }
            @for &index in &contents.cells {
                details.part id=(format!("cell-{index}")) {
                    summary { (results.sweep.cell_name(&results.sweep.cells[index])) }
                    (cell::body(place, status, &CellView { results, cell: index, curves: &contents.curves }))
                }
            }
        }
        h2 #trials { "Trials" }
        @if rows.len() < results.trials.len() {
            p.note { "The first " (rows.len()) " of " (results.trials.len()) "; results.csv has all." }
        }
        (scrolled("Trials", &trials::list(place, status, results, &rows, None)))
        @for part in &contents.trials {
            @let row = &results.trials[part.row];
            details.part id=(row.trial.id.to_string()) {
                summary { (row.trial.id.to_string()) " " (trials::name(results, row)) " seed " (::sweep::seed::name(row.trial.seed)) }
                (trial::body(place, &TrialView {
                    results,
                    row,
                    explanation: &part.explanation,
                    curve: curve(row),
                    result: part.result.as_ref(),
                    confusion: part.confusion.as_deref(),
                    log: None,
                }, None))
            }
        }
    };
    page(
        scene,
        &status.name,
        Some((&status.name, Tab::Overview)),
        &main,
    )
}
