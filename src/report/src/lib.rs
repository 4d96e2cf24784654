//! Results, tables and figures from the coordinator's state. Pure: no clock, no randomness, no IO,
//! so that replaying a journal gives the same report, byte for byte.
//!
//! `results.rs` folds the state into trials and cells; `grid.rs` and `figure.rs` lay them out
//! (`families.rs` compares the cells by the methods of `schedule::comparison`);
//! `text.rs`, `markdown.rs`, `latex.rs`, `sketch.rs` and `svg.rs` draw (`escape.rs` keeps text from being
//! markup); `files.rs` and `stored.rs` (with `csv.rs`) write files for programs, to a `sink.rs`;
//! `why.rs` traces a cell back to its trials.

pub mod archive;
mod claims;
mod csv;
mod escape;
mod families;
mod figure;
mod files;
mod grid;
mod latex;
mod markdown;
mod notes;
mod overall;
mod results;
mod sink;
mod sketch;
mod statistics;
mod stored;
mod svg;
mod text;
mod why;

use std::io;

use schedule::state::{State, UnknownSweep};
use sweep::definition::{Output, Table};
use sweep::keep::Kept;

use crate::figure::Plot;
use crate::grid::TableLayout;
use crate::sink::Files;

pub use claims::{Evidence, Judged, Verdict, judge as judge_claims};
pub use csv::{line as csv_line, text as csv_text};
pub use families::Sign;
pub use grid::{Column, Grid, GridCell, Note};
pub use results::{CellStatus, CellSummary, Results, TrialRow, TrialStatus};
pub use schedule::comparison::Summary;
pub use sink::{FileSink, MAX_PIECE};
pub use stored::StoredResults;
pub use svg::COLOURS;
pub use text::{best_cells, embolden};
pub use why::{Why, why};

/// The whole results folder of a sweep, in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// File name and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// The tables as text for a terminal, without colour (see [`embolden`]).
    pub text: String,
    /// True if every trial has ended, with or without a result.
    pub complete: bool,
    /// Trials that ended without a result and whose cell therefore lacks seeds.
    pub failed_trials: u64,
}

/// Name of the file with trials and cells for programs.
pub const RESULTS_JSON: &str = "results.json";
/// Name of the file for exporters, which is in no results folder.
pub const TRIALS_JSONL: &str = "trials.jsonl";
/// Width of `NAME.txt`, in columns.
const FILE_WIDTH: usize = 120;
/// Default width of `Report::text`, in columns.
pub const TERMINAL_WIDTH: usize = 100;

/// Returns the report of one sweep; `None` if no sweep has that name.
pub fn report(state: &State, stored: &mut dyn StoredResults, sweep: &str) -> Option<Report> {
    report_at(state, stored, sweep, TERMINAL_WIDTH)
}

/// Returns the same report with `Report::text` laid out for a terminal of that many columns.
pub fn report_at(
    state: &State,
    stored: &mut dyn StoredResults,
    sweep: &str,
    width: usize,
) -> Option<Report> {
    let reporter = Reporter::of(state, sweep).ok()?;
    let mut files = Vec::new();
    reporter
        .write_files(stored, &mut files)
        .expect("every result can be read, and memory takes every file");
    let (complete, failed_trials) = (reporter.complete(), reporter.failed_trials());
    Some(Report {
        files,
        text: reporter.text(width),
        complete,
        failed_trials,
    })
}

/// The report of one sweep in parts, each built on request.
pub struct Reporter<'a> {
    results: Results<'a>,
}

impl<'a> Reporter<'a> {
    pub fn of(state: &'a State, sweep: &str) -> Result<Self, UnknownSweep> {
        Ok(Self {
            results: Results::of(state, sweep)?,
        })
    }

    /// Returns true if every trial has ended, with or without a result.
    pub fn complete(&self) -> bool {
        self.results.complete()
    }

    /// Returns the number of trials that ended without a result and whose cell therefore lacks
    /// seeds.
    pub fn failed_trials(&self) -> u64 {
        self.results.failed_trials()
    }

    /// Returns the tables as text for a terminal of that many columns, without colour (see
    /// [`embolden`]).
    pub fn text(&self, width: usize) -> String {
        let tables: Vec<String> = self
            .results
            .sweep
            .outputs
            .iter()
            .map(|output| self.drawn(output).text(width))
            .collect();
        tables.join("\n")
    }

    /// Returns the tables without their notes, for a screen that shows them as they fill.
    pub fn tables(&self, width: usize) -> String {
        let outputs = self.results.sweep.outputs.iter();
        let tables: Vec<String> = outputs
            .map(|output| text::table(&self.drawn(output).grid, width))
            .collect();
        tables.join("\n")
    }

    /// Writes the whole results folder, manifest.json last.
    pub fn write_files(
        &self,
        stored: &mut dyn StoredResults,
        sink: &mut dyn FileSink,
    ) -> io::Result<()> {
        let results = &self.results;
        let mut files = Files::to(sink);
        files.write("results.csv".to_owned(), |out| {
            files::results_csv(results, out)
        })?;
        files.write("timing.csv".to_owned(), |out| {
            files::timing_csv(results, out)
        })?;
        for (name, fill) in [
            ("curves", stored::curves_csv as stored::Fill),
            ("classes", stored::classes_csv),
        ] {
            // Sweeps of earlier versions may have an output of this name.
            let is_taken = |output: &Output| output.name() == name;
            let keeps = results.sweep.keep.contains(&Kept::Curves);
            if keeps && !results.sweep.outputs.iter().any(is_taken) {
                files.write(format!("{name}.csv"), |out| fill(results, stored, out))?;
            }
        }
        files.write(RESULTS_JSON.to_owned(), |out| {
            files::results_json(results, out)
        })?;
        files.add("sweep.yaml".to_owned(), &results.sweep.source)?;
        for output in &results.sweep.outputs {
            self.drawn(output).write(results, &mut files)?;
        }
        let manifest = files::manifest(results, &files.written);
        files.add("manifest.json".to_owned(), &manifest)
    }

    /// Writes results.json alone, for programs.
    pub fn write_json(&self, sink: &mut dyn FileSink) -> io::Result<()> {
        Files::to(sink).write(RESULTS_JSON.to_owned(), |out| {
            files::results_json(&self.results, out)
        })
    }

    /// Writes trials.jsonl alone, for exporters.
    pub fn write_trials(
        &self,
        stored: &mut dyn StoredResults,
        sink: &mut dyn FileSink,
    ) -> io::Result<()> {
        Files::to(sink).write(TRIALS_JSONL.to_owned(), |out| {
            stored::trials_jsonl(&self.results, stored, out)
        })
    }

    /// Returns trials and cells, the source of every table.
    pub fn results(&self) -> &Results<'a> {
        &self.results
    }

    /// Returns every table and figure laid out, for the page.
    pub fn layouts(&self) -> Vec<Layout> {
        let outputs = self.results.sweep.outputs.iter();
        outputs.map(|output| self.drawn(output).layout()).collect()
    }

    fn drawn(&self, output: &Output) -> Drawn {
        let table = match output {
            Output::Table(table) => table.clone(),
            Output::Figure(figure) => figure::as_table(figure),
        };
        let layout = TableLayout::of(&self.results, &table);
        let plot = match output {
            Output::Table(_) => None,
            Output::Figure(figure) => Some(figure::plot(&self.results, figure, &layout)),
        };
        Drawn {
            grid: grid::grid(&self.results, &table, &layout),
            table,
            layout,
            plot,
        }
    }
}

/// A table, or a figure with the table of its numbers, ready to be drawn.
pub struct Layout {
    pub grid: Grid,
    /// The cell of the sweep at each place of the grid, by row, then column; none in columns of
    /// published numbers.
    pub cells: Vec<Vec<Option<usize>>>,
    /// The figure.
    pub svg: Option<String>,
}

/// A table, or a figure with the table of its numbers.
struct Drawn {
    table: Table,
    layout: TableLayout,
    grid: Grid,
    plot: Option<Plot>,
}

impl Drawn {
    fn layout(self) -> Layout {
        let cells = self.layout.positions().map(|row| {
            let mut ours = row.iter();
            let columns = self.grid.columns.iter();
            let cell = |column: &Column| match column.published {
                true => None,
                false => ours.next().copied().flatten(),
            };
            columns.map(cell).collect()
        });
        Layout {
            cells: cells.collect(),
            svg: self.plot.as_ref().map(svg::svg),
            grid: self.grid,
        }
    }

    fn text(&self, width: usize) -> String {
        let text = text::text(&self.grid, width);
        match self.plot.as_ref().map(|plot| sketch::sketch(plot, width)) {
            Some(drawing) if !drawing.is_empty() => format!("{text}\n{drawing}"),
            _ => text,
        }
    }

    fn write(&self, results: &Results, files: &mut Files<'_>) -> io::Result<()> {
        let name = |suffix: &str| format!("{}.{suffix}", self.table.name);
        files.add(name("txt"), &self.text(FILE_WIDTH))?;
        files.add(name("md"), &markdown::markdown(&self.grid))?;
        let tex = match &self.plot {
            Some(plot) => latex::figure(plot),
            None => latex::table(&self.grid, &self.table.look),
        };
        files.add(name("tex"), &tex)?;
        files.write(name("csv"), |out| {
            files::cells_csv(results, &self.table, &self.layout, out)
        })?;
        match &self.plot {
            Some(plot) => files.add(name("svg"), &svg::svg(plot)),
            None => Ok(()),
        }
    }
}
