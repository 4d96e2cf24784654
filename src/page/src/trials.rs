//! The list of a sweep's trials: filtered, sorted, 200 a page. Filter, order and page are in the
//! address, so that a view can be sent to another person.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use maud::{Markup, html};
use protocol::v1::{RunningTrial, SweepStatus};
use report::{Results, TrialRow, TrialStatus};
use sweep::definition::Role;

use crate::frame::{Tab, page, scrolled};
use crate::links::encoded;
use crate::sweep::epochs;
use crate::words::{duration, first_line};
use crate::{Place, Scene};

pub const PER_PAGE: usize = 200;

const PHASES: [&str; 5] = ["waiting", "running", "succeeded", "failed", "cancelled"];

/// The query of an address. Unknown values are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Only trials in this phase.
    pub phase: String,
    /// Only trials whose id, cell or worker contains this.
    pub text: String,
    pub sort: Sort,
    pub is_descending: bool,
    /// Counted from 1.
    pub page: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    #[default]
    Cell,
    Seed,
    Phase,
    Accuracy,
    Attempts,
    Time,
}

const COLUMNS: [(Sort, &str, &str, bool); 6] = [
    (Sort::Cell, "cell", "Cell", false),
    (Sort::Seed, "seed", "Seed", true),
    (Sort::Phase, "phase", "Phase", false),
    (Sort::Accuracy, "accuracy", "Accuracy", true),
    (Sort::Attempts, "attempts", "Attempts", true),
    (Sort::Time, "time", "Time", true),
];

impl Query {
    /// Reads the query from its names and values.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut query = Self {
            page: 1,
            ..Self::default()
        };
        for (name, value) in pairs {
            match name {
                "phase" if PHASES.contains(&value) => query.phase = value.to_owned(),
                "q" => query.text = value.trim().to_owned(),
                "sort" => {
                    let column = COLUMNS.iter().find(|(_, word, ..)| *word == value);
                    query.sort = column.map_or(Sort::Cell, |(sort, ..)| *sort);
                }
                "dir" => query.is_descending = value == "desc",
                "page" => query.page = value.parse().unwrap_or(1).max(1),
                _ => {}
            }
        }
        query
    }

    /// Formats the query as the end of an address, without defaults.
    fn address(&self) -> String {
        let mut parts = Vec::new();
        if !self.phase.is_empty() {
            parts.push(format!("phase={}", self.phase));
        }
        if !self.text.is_empty() {
            parts.push(format!("q={}", encoded(&self.text)));
        }
        let column = COLUMNS.iter().find(|(sort, ..)| *sort == self.sort);
        if let Some((_, word, ..)) = column.filter(|_| self.sort != Sort::Cell) {
            parts.push(format!("sort={word}"));
        }
        if self.is_descending {
            parts.push("dir=desc".to_owned());
        }
        if self.page > 1 {
            parts.push(format!("page={}", self.page));
        }
        match parts.is_empty() {
            true => String::new(),
            false => format!("?{}", parts.join("&")),
        }
    }

    fn matches(&self, results: &Results<'_>, row: &TrialRow<'_>) -> bool {
        let in_phase = self.phase.is_empty() || row.status.name() == self.phase;
        in_phase && (self.text.is_empty() || self.matches_text(results, row))
    }

    fn matches_text(&self, results: &Results<'_>, row: &TrialRow<'_>) -> bool {
        let wanted = self.text.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&wanted);
        row.trial.id.to_string().contains(&wanted)
            || has(&name(results, row))
            || row.attempts.last().is_some_and(|last| has(&last.worker.0))
    }

    fn order(&self, a: &TrialRow<'_>, b: &TrialRow<'_>) -> Ordering {
        let number = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            (a, b) => a.is_some().cmp(&b.is_some()),
        };
        match self.sort {
            Sort::Cell => Ordering::Equal,
            Sort::Seed => a.trial.seed.cmp(&b.trial.seed),
            Sort::Phase => a.status.name().cmp(b.status.name()),
            Sort::Accuracy => number(accuracy(a), accuracy(b)),
            Sort::Attempts => a.attempts.len().cmp(&b.attempts.len()),
            Sort::Time => training_ms(a).cmp(&training_ms(b)),
        }
    }
}

/// Draws one page of the list.
pub fn trials(
    scene: Scene<'_>,
    status: &SweepStatus,
    results: &Results<'_>,
    query: &Query,
) -> String {
    let name = &*results.sweep.name;
    let mut rows: Vec<&TrialRow<'_>> = results
        .trials
        .iter()
        .filter(|row| query.matches(results, row))
        .collect();
    rows.sort_by(|a, b| query.order(a, b));
    if query.is_descending {
        rows.reverse();
    }
    let pages = rows.len().div_ceil(PER_PAGE).max(1);
    let query = &Query {
        page: query.page.min(pages),
        ..query.clone()
    };
    let from = (query.page - 1) * PER_PAGE;
    let shown = &rows[from..rows.len().min(from + PER_PAGE)];
    let main = html! {
        h1 { "Trials" }
        (filter(scene.place, name, query))
        section #trials data-live {
            p {
                (rows.len()) " of " (results.trials.len()) " trials"
                @if pages > 1 { ", page " (query.page) " of " (pages) }
            }
            (scrolled("Trials", &list(scene.place, status, results, shown, Some(query))))
            (pager(scene.place, name, query, pages))
        }
    };
    page(
        scene,
        &format!("Trials of {name}"),
        Some((name, Tab::Trials)),
        &main,
    )
}

fn filter(place: Place, sweep: &str, query: &Query) -> Markup {
    html! {
        form.filter method="get" action=(place.trials(sweep, "")) role="search" {
            label { span { "Phase" }
                select name="phase" {
                    option value="" { "all" }
                    @for phase in PHASES { option value=(phase) selected[query.phase == phase] { (phase) } }
                }
            }
            label { span { "Trial, cell or worker" }
                input #filter type="search" name="q" value=(query.text) autocomplete="off";
            }
            @if query.sort != Sort::Cell {
                @for (_, word, ..) in COLUMNS.iter().filter(|(sort, ..)| *sort == query.sort) {
                    input type="hidden" name="sort" value=(word);
                }
            }
            @if query.is_descending { input type="hidden" name="dir" value="desc"; }
            button type="submit" { "Filter" }
            @if !query.phase.is_empty() || !query.text.is_empty() {
                a href=(place.trials(sweep, &Query { page: 1, phase: String::new(), text: String::new(), ..query.clone() }.address())) { "Clear" }
            }
        }
    }
}

/// Draws trials as a table. With a query, its headings are links that sort.
pub fn list(
    place: Place,
    status: &SweepStatus,
    results: &Results<'_>,
    rows: &[&TrialRow<'_>],
    query: Option<&Query>,
) -> Markup {
    let sweep = &*results.sweep.name;
    let running = status
        .running_trials
        .iter()
        .map(|trial| (trial.trial.as_str(), trial));
    let running: BTreeMap<&str, &RunningTrial> = running.collect();
    html! {
        table.trials {
            thead { tr {
                th scope="col" { "Trial" }
                @for (sort, _, label, is_number) in COLUMNS { (heading(place, sweep, query, sort, label, is_number)) }
                th scope="col" { "Worker, or reason" }
            } }
            tbody {
                @for row in rows {
                    @let id = row.trial.id.to_string();
                    tr {
                        th scope="row" { a href=(place.trial(sweep, &id)) { (id) } }
                        td { a href=(place.cell(sweep, &results.sweep.cell_name(&results.sweep.cells[row.cell()]), row.cell())) { (name(results, row)) } }
                        td.number { (::sweep::seed::name(row.trial.seed)) }
                        td {
                            span class=(format!("status {}", row.status.name())) { (row.status.name()) }
                            @if let Some(trial) = running.get(id.as_str()) { " " (epochs(trial)) }
                        }
                        td.number { @if let Some(share) = row.accuracy(results.first_measure()) { (share) " %" } }
                        td.number { (row.attempts.len()) }
                        td.number { @if training_ms(row) > 0 { (duration(training_ms(row))) } }
                        td { (worker_or_reason(row)) }
                    }
                }
            }
        }
    }
}

fn heading(
    place: Place,
    sweep: &str,
    query: Option<&Query>,
    sort: Sort,
    label: &str,
    is_number: bool,
) -> Markup {
    let current = query.filter(|query| query.sort == sort);
    let direction = current.map(|query| {
        if query.is_descending {
            "descending"
        } else {
            "ascending"
        }
    });
    html! {
        th scope="col" class=[is_number.then_some("number")] aria-sort=[direction] {
            @match query {
                None => (label),
                Some(query) => {
                    @let next = Query {
                        sort,
                        is_descending: current.is_some_and(|query| !query.is_descending),
                        page: 1,
                        ..query.clone()
                    };
                    a href=(place.trials(sweep, &next.address())) {
                        (label)
                        @if let Some(direction) = direction {
                            span aria-hidden="true" { @if direction == "ascending" { " ↑" } @else { " ↓" } }
                        }
                    }
                }
            }
        }
    }
}

fn pager(place: Place, sweep: &str, query: &Query, pages: usize) -> Markup {
    let to = |page: usize| {
        place.trials(
            sweep,
            &Query {
                page,
                ..query.clone()
            }
            .address(),
        )
    };
    html! {
        @if pages > 1 {
            nav.pager aria-label="Pages of trials" {
                @if query.page > 1 { a href=(to(1)) { "First" } a href=(to(query.page - 1)) rel="prev" { "Previous" } }
                span { (query.page) " / " (pages) }
                @if query.page < pages { a href=(to(query.page + 1)) rel="next" { "Next" } a href=(to(pages)) { "Last" } }
            }
        }
    }
}

/// Returns the name of a trial's cell, with the candidate of a search that it tries.
pub fn name(results: &Results<'_>, row: &TrialRow<'_>) -> String {
    let cell = results.sweep.cell_name(&results.sweep.cells[row.cell()]);
    let search = results.sweep.search.as_ref().zip(row.candidate());
    let tried = search.and_then(|(search, index)| search.assignment(index));
    let tried = tried.map(|tried| format!(" {tried}"));
    let role = match row.trial.role {
        Role::Search => " (search)",
        Role::Result => "",
    };
    format!("{cell}{}{role}", tried.unwrap_or_default())
}

fn accuracy(row: &TrialRow<'_>) -> Option<f64> {
    row.result().map(|result| result.last_accuracy)
}

/// Returns the time that the ended attempts took.
fn training_ms(row: &TrialRow<'_>) -> u64 {
    let ended = row.attempts.iter().filter_map(|attempt| {
        let end = attempt.ended.as_ref()?;
        Some(end.at.saturating_sub(attempt.started_at))
    });
    ended.sum()
}

fn worker_or_reason(row: &TrialRow<'_>) -> String {
    match row.status {
        TrialStatus::Failed(failure) => first_line(&failure.message, 120),
        _ => row
            .attempts
            .last()
            .map_or_else(String::new, |last| last.worker.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_holds_what_is_shown_and_reads_back() {
        for address in [
            "",
            "?phase=failed",
            "?q=cub%2Fcos%20%26",
            "?phase=running&q=x&sort=accuracy&dir=desc&page=3",
        ] {
            let decoded = |text: &str| {
                percent_encoding::percent_decode_str(text)
                    .decode_utf8_lossy()
                    .into_owned()
            };
            let pairs: Vec<(String, String)> = address
                .trim_start_matches('?')
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (name.to_owned(), decoded(value)))
                .collect();
            let query = Query::from_pairs(pairs.iter().map(|(name, value)| (&**name, &**value)));
            assert_eq!(query.address(), address);
        }
        let odd = Query::from_pairs([
            ("phase", "<script>"),
            ("sort", "x"),
            ("page", "0"),
            ("dir", "up"),
        ]);
        assert_eq!(
            odd,
            Query {
                page: 1,
                ..Query::default()
            }
        );
    }
}
