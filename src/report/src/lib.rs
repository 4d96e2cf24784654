//! From the coordinator's state to results, tables and figures. Pure: no clock, no randomness, no IO, so that
//! replaying a journal gives the same report, byte for byte.
//!
//! `results.rs` folds the state into trials and cells; `grid.rs` and `figure.rs` lay them out; `text.rs`, `markup.rs`,
//! `sketch.rs` and `svg.rs` draw (`escape.rs` keeps text from being markup); `files.rs` (with `csv.rs`) writes what programs read; `why.rs` tells where a cell came from.

mod csv;
mod escape;
mod figure;
mod files;
mod grid;
mod markup;
mod notes;
mod results;
mod sketch;
mod statistics;
mod svg;
mod text;
mod why;

use schedule::state::State;
use sweep::definition::{Output, Table};

pub use statistics::{SIGNIFICANCE, Summary, indistinguishable, welch_p};
pub use text::embolden;
pub use why::{Why, why};

/// Everything a sweep's results folder holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// File name and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// The tables as text for a terminal, without colour (see [`embolden`]).
    pub text: String,
    /// Every trial has ended, one way or the other.
    pub complete: bool,
    /// Trials that ended without a result and leave a cell short of its seeds.
    pub failed_trials: u64,
}

/// Columns of `NAME.txt`.
const FILE_WIDTH: usize = 120;
/// Columns of `Report::text` for those who do not say.
pub const TERMINAL_WIDTH: usize = 100;

/// The report of one sweep; `None` when no sweep has that name.
pub fn report(state: &State, sweep: &str) -> Option<Report> {
    report_at(state, sweep, TERMINAL_WIDTH)
}

/// The same with `Report::text` laid out for a terminal of that many columns.
pub fn report_at(state: &State, sweep: &str, width: usize) -> Option<Report> {
    let results = results::Results::of(state, sweep)?;
    let mut files: Vec<(String, Vec<u8>)> = vec![
        ("results.csv".to_owned(), files::results_csv(&results).into_bytes()),
        ("timing.csv".to_owned(), files::timing_csv(&results).into_bytes()),
        ("results.json".to_owned(), files::results_json(&results).into_bytes()),
        ("sweep.yaml".to_owned(), results.sweep.source.clone().into_bytes()),
    ];
    let mut text = String::new();
    for output in &results.sweep.outputs {
        if !text.is_empty() {
            text.push('\n');
        }
        match output {
            Output::Table(table) => text.push_str(&table_files(&results, table, width, &mut files, |_| String::new())),
            Output::Figure(figure) => {
                let table = figure::as_table(figure);
                let layout = grid::Layout::of(&results, &table);
                let plot = figure::plot(&results, figure, &layout);
                let drawn = |width| sketch::sketch(&plot, width);
                text.push_str(&table_files(&results, &table, width, &mut files, drawn));
                files.push((format!("{}.svg", figure.name), svg::svg(&plot).into_bytes()));
            }
        }
    }
    let manifest = files::manifest(&results, &files).into_bytes();
    files.push(("manifest.json".to_owned(), manifest));
    Some(Report { files, text, complete: results.complete(), failed_trials: results.failed_trials() })
}

/// Adds the table's files and returns its text for a terminal, with what is drawn below it at that width.
fn table_files(
    results: &results::Results,
    table: &Table,
    width: usize,
    files: &mut Vec<(String, Vec<u8>)>,
    drawn: impl Fn(usize) -> String,
) -> String {
    let layout = grid::Layout::of(results, table);
    let grid = grid::grid(results, table, &layout);
    let mut add =
        |suffix: &str, content: String| files.push((format!("{}.{suffix}", table.name), content.into_bytes()));
    let text = |width| match (text::text(&grid, width), drawn(width)) {
        (text, drawing) if drawing.is_empty() => text,
        (text, drawing) => format!("{text}\n{drawing}"),
    };
    add("txt", text(FILE_WIDTH));
    add("md", markup::markdown(&grid));
    add("tex", markup::latex(&grid));
    add("csv", files::cells_csv(results, table, &layout));
    text(width)
}
