//! The page of one cell, its seeds as a band, and the comparison of two.

use std::collections::BTreeMap;

use maud::{Markup, html};
use protocol::v1::SweepStatus;
use report::{Results, TrialRow};
use schedule::curve::Point;
use serde_json::Value;
use sweep::TrialId;
use sweep::definition::Role;

use crate::chart::{Chart, Series};
use crate::frame::{Tab, action, page, scrolled};
use crate::words::value;
use crate::{Place, Scene, trials};

/// Seeds that have lines of their own beside their mean, at most.
const MAX_SEEDS: usize = 12;
/// Cells that the form lists at most; others can be typed.
const MAX_OFFERED: usize = 500;

/// The learning curve of one trial.
pub struct TrialCurve {
    pub trial: TrialId,
    pub points: Vec<Point>,
}

/// A cell, by its index in the sweep, with the curves of its trials.
pub struct CellView<'a> {
    pub results: &'a Results<'a>,
    pub cell: usize,
    pub curves: &'a [TrialCurve],
}

impl CellView<'_> {
    fn name(&self) -> String {
        let sweep = self.results.sweep;
        sweep.cell_name(&sweep.cells[self.cell])
    }

    /// Returns the trials that count: those of the candidate that was chosen, if there is a search.
    fn counted(&self) -> Vec<&TrialRow<'_>> {
        let candidate = self
            .results
            .cell(self.cell, self.results.first_measure())
            .candidate;
        let counts = |row: &&TrialRow<'_>| {
            row.trial.role == Role::Result && (candidate.is_none() || row.candidate() == candidate)
        };
        self.results
            .cell_trials(self.cell)
            .iter()
            .filter(counts)
            .collect()
    }

    /// Returns a number over the epochs, for each trial that counts.
    fn lines(&self, number: fn(&Point) -> Option<f64>) -> Vec<(u64, Vec<(f64, f64)>)> {
        let line = |row: &TrialRow<'_>| {
            let curve = self
                .curves
                .iter()
                .find(|curve| curve.trial == row.trial.id)?;
            let points = curve.points.iter();
            let points: Vec<_> = points
                .filter_map(|point| Some((f64::from(point.epoch), number(point)?)))
                .collect();
            (!points.is_empty()).then_some((row.trial.seed, points))
        };
        self.counted().into_iter().filter_map(line).collect()
    }

    /// Returns the mean over the seeds with a band of one standard deviation.
    fn mean(&self, colour: usize, number: fn(&Point) -> Option<f64>) -> Series {
        let mut by_epoch: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for (_, points) in self.lines(number) {
            for (epoch, y) in points {
                by_epoch.entry(epoch as u64).or_default().push(y);
            }
        }
        let (mut points, mut band) = (Vec::new(), Vec::new());
        for (epoch, values) in by_epoch {
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            let deviation = if values.len() > 1 {
                (squares / (n - 1.0)).sqrt()
            } else {
                0.0
            };
            points.push((epoch as f64, mean));
            band.push((mean - deviation, mean + deviation));
        }
        Series {
            label: self.name(),
            colour,
            is_faint: false,
            points,
            band,
        }
    }

    fn seeds(&self, colour: usize, number: fn(&Point) -> Option<f64>) -> Vec<Series> {
        let line = |(seed, points)| Series {
            label: format!("seed {seed}"),
            colour,
            is_faint: true,
            points,
            band: Vec::new(),
        };
        self.lines(number)
            .into_iter()
            .take(MAX_SEEDS)
            .map(line)
            .collect()
    }
}

/// A number that each epoch has: its title, unit and value.
type Number = (&'static str, &'static str, fn(&Point) -> Option<f64>);

const NUMBERS: [Number; 2] = [
    ("accuracy", "%", |point| Some(100.0 * point.accuracy?)),
    ("training loss", "", |point| point.train_loss),
];

/// Draws the page of a cell.
pub fn cell(scene: Scene<'_>, status: &SweepStatus, view: &CellView<'_>) -> String {
    let sweep = &*view.results.sweep.name;
    let name = view.name();
    let main = html! {
        h1 { (name) }
        (body(scene.place, status, view))
        @if scene.place.is_served() {
            h2 { "Compare with" }
            (compare_fields(scene.place, view.results, &name, ""))
        }
    };
    page(
        scene,
        &format!("{name} of {sweep}"),
        Some((sweep, Tab::Other)),
        &main,
    )
}

/// Draws a cell without the frame of a page.
pub fn body(place: Place, status: &SweepStatus, view: &CellView<'_>) -> Markup {
    let results = view.results;
    let (index, sweep) = (view.cell, results.sweep);
    let summary = results.cell(index, results.first_measure());
    let rows: Vec<&TrialRow<'_>> = results.cell_trials(index).iter().collect();
    let fields = &sweep.cells[index].set;
    let chosen = summary.candidate.zip(sweep.search.as_ref());
    let chosen = chosen
        .and_then(|(candidate, search)| Some((search.label(), search.candidates.get(candidate)?)));
    let has_results = rows.iter().any(|row| row.result().is_some());
    html! {
        section id=(format!("summary-{index}")) data-live {
            dl.facts {
                div { dt { "State" } dd class=(format!("status {}", summary.status.name())) { (summary.status.name()) } }
                @if let Some(numbers) = summary.summary {
                    div { dt { "Accuracy" } dd {
                        (numbers.mean)
                        @if let Some(deviation) = numbers.deviation { (format!(" ± {:.1}", 100.0 * deviation)) }
                        " %"
                    } }
                    div { dt { "Seeds" } dd { (summary.done) " of " (summary.total) } }
                }
                @if let Some((field, value_chosen)) = chosen {
                    div { dt { "Chosen " (field) } dd { (value_chosen) } }
                }
                @for (field, set) in fields { div { dt { (field) } dd { (value(set)) } } }
            }
        }
        section id=(format!("curves-{index}")) data-live {
            div.charts { @for (title, unit, number) in NUMBERS {
                @let mut series = view.seeds(7, number);
                @let () = series.push(view.mean(0, number));
                (Chart { title: format!("{title}, mean and deviation of seeds"), unit, series }
                    .draw(&format!("{}-cell-{index}", title.replace(' ', "-"))))
            } }
        }
        section id=(format!("trials-{index}")) data-live {
            (scrolled(&format!("Trials of {}", view.name()), &trials::list(place, status, results, &rows, None)))
        }
        @if has_results {
            div.actions {
                (action(place, "again", "Train this cell again",
                    "Every trial of the cell that has ended starts from scratch, and its earlier result does not count any more.",
                    &format!("{}/retry", place.sweep(&sweep.name)), &[("cell", &view.name())]))
            }
        }
    }
}

/// Draws the form that chooses two cells.
pub fn compare_form(scene: Scene<'_>, results: &Results<'_>, problem: Option<&str>) -> String {
    let sweep = &*results.sweep.name;
    let main = html! {
        h1 { "Compare two cells" }
        @if let Some(problem) = problem { p.alert role="alert" { (problem) } }
        (compare_fields(scene.place, results, "", ""))
    };
    page(
        scene,
        &format!("Compare cells of {sweep}"),
        Some((sweep, Tab::Compare)),
        &main,
    )
}

fn compare_fields(place: Place, results: &Results<'_>, a: &str, b: &str) -> Markup {
    let sweep = results.sweep;
    html! {
        form.filter method="get" action=(format!("{}/compare", place.sweep(&sweep.name))) {
            label { span { "A cell" } input name="a" value=(a) list="cells" required autocomplete="off"; }
            label { span { "Another cell" } input name="b" value=(b) list="cells" required autocomplete="off"; }
            datalist #cells {
                @for cell in sweep.cells.iter().take(MAX_OFFERED) { option value=(sweep.cell_name(cell)) {} }
            }
            button type="submit" { "Compare" }
        }
    }
}

/// Draws two cells beside each other.
pub fn compare(scene: Scene<'_>, a: &CellView<'_>, b: &CellView<'_>) -> String {
    let results = a.results;
    let sweep = results.sweep;
    let (name_a, name_b) = (a.name(), b.name());
    let settings = |view: &CellView<'_>| {
        view.counted().first().map_or_else(
            || sweep.cell_settings(&sweep.cells[view.cell]).fields(),
            |row| results.settings(row).fields(),
        )
    };
    let (set_a, set_b) = (settings(a), settings(b));
    let missing = Value::Null;
    let pairs = set_a
        .iter()
        .map(|(field, of_a)| (field, of_a, set_b.get(field).unwrap_or(&missing)));
    let differing: Vec<_> = pairs.filter(|(_, a, b)| a != b).collect();
    let head = |view: &CellView<'_>, name: &str| {
        html! { a href=(scene.place.cell(&sweep.name, name, view.cell)) { (name) } }
    };
    let list = html! {
        table.settings {
            thead { tr {
                th scope="col" { "Setting" }
                th scope="col" { (head(a, &name_a)) }
                th scope="col" { (head(b, &name_b)) }
            } }
            tbody {
                @for (field, a, b) in &differing {
                    tr { th scope="row" { (field) } td { (value(a)) } td { (value(b)) } }
                }
                tr {
                    th scope="row" { "accuracy" }
                    td { (accuracy(a)) }
                    td { (accuracy(b)) }
                }
            }
        }
    };
    let main = html! {
        h1 { (name_a) " and " (name_b) }
        (compare_fields(scene.place, results, &name_a, &name_b))
        section #differences data-live {
            h2 { "What differs" }
            (scrolled("What differs", &list))
        }
        section #curves .charts data-live {
            @for (title, unit, number) in NUMBERS {
                (Chart {
                    title: format!("{title}, mean and deviation of seeds"),
                    unit,
                    series: vec![a.mean(0, number), b.mean(1, number)],
                }.draw(&format!("compare-{}", title.replace(' ', "-"))))
            }
        }
    };
    page(
        scene,
        &format!("{name_a} and {name_b}"),
        Some((&sweep.name, Tab::Compare)),
        &main,
    )
}

fn accuracy(view: &CellView<'_>) -> String {
    let summary = view.results.cell(view.cell, view.results.first_measure());
    let Some(numbers) = summary.summary else {
        return summary.status.name().to_owned();
    };
    let deviation = numbers
        .deviation
        .map(|deviation| format!(" ± {:.1}", 100.0 * deviation));
    let seeds = format!(" ({} of {})", summary.done, summary.total);
    format!("{}{} %{seeds}", numbers.mean, deviation.unwrap_or_default())
}
