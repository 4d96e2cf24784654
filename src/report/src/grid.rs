//! A table before it is drawn: headings, cells, marks and notes. `text.rs`, `markdown.rs` and `latex.rs` draw it.
//! `families.rs` decides which cells are best and how they compare.

use std::collections::{BTreeMap, BTreeSet};

use sweep::Share;
use sweep::definition::{Cell, Overall, PublishedValue, Spread, Table};

use crate::claims::{self, HIGHER_IS_BETTER, Verdict, judge_published};
use crate::families::{Sign, Standing, Standings, standings};
use crate::notes;
use crate::overall;
use crate::results::{CellStatus, CellSummary, Results};

pub struct Grid {
    pub name: String,
    /// The author's caption.
    pub caption: String,
    /// Description of the numbers: measure, spread, n, protocol.
    pub protocol: String,
    /// Warnings above the table that every reader must see.
    pub warnings: Vec<String>,
    /// One heading per row axis.
    pub row_headings: Vec<String>,
    pub column_headings: Vec<String>,
    /// One label per row axis.
    pub rows: Vec<Vec<String>>,
    pub columns: Vec<Column>,
    /// Cells, indexed by row, then column.
    pub cells: Vec<Vec<GridCell>>,
    pub notes: Vec<Note>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// One label per column axis.
    pub labels: Vec<String>,
    /// True for a column of published numbers, next to our column.
    pub published: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum GridCell {
    /// No such cell in the sweep.
    Absent,
    Value {
        mean: Share,
        /// The number after the ±, in per cent.
        spread: Option<f64>,
        /// Results so far and results wanted, if they differ.
        incomplete: Option<(usize, usize)>,
        best: bool,
        sign: Option<Sign>,
    },
    /// `failed`, `running`, `skipped: reason`, ...
    Status {
        text: String,
        note: Option<String>,
    },
    Published {
        value: Share,
        note: Option<String>,
    },
    /// No published number, in a column of them.
    Blank,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// A letter for footnotes of published numbers, a number for ours; absent for notes about the
    /// whole table.
    pub mark: Option<String>,
    pub text: String,
}

/// Maximum number of pairs of a claim that are listed below a table.
const MAX_PAIRS_SHOWN: usize = 8;
/// Longest reason shown inside a cell; longer ones become notes.
const SHORT_REASON: usize = 20;

/// Positions of the cells and the best ones among them: shared by the drawn table and its CSV.
pub struct TableLayout {
    rows: Vec<usize>,
    columns: Vec<usize>,
    row_keys: Vec<Vec<u32>>,
    column_keys: Vec<Vec<u32>>,
    /// Cell index by row, then column.
    positions: Vec<Vec<Option<usize>>>,
    /// Summaries, indexed by cell.
    pub summaries: Vec<CellSummary>,
    pub standings: Standings,
    /// Verdicts on published numbers by the table's tolerance, indexed by cell.
    pub verdicts: Vec<Option<Verdict>>,
}

impl TableLayout {
    pub fn of(results: &Results, table: &Table) -> Self {
        let cells = &results.sweep.cells;
        let rows = axis_positions(results, &table.rows);
        let columns = axis_positions(results, &table.columns);
        let row_keys = keys_in_order(cells, &rows);
        let column_keys = keys_in_order(cells, &columns);
        let place: BTreeMap<(Vec<u32>, Vec<u32>), usize> = (cells.iter().enumerate())
            .map(|(index, cell)| {
                (
                    (coordinates(cell, &rows), coordinates(cell, &columns)),
                    index,
                )
            })
            .collect();
        let at =
            |row: &Vec<u32>, column: &Vec<u32>| place.get(&(row.clone(), column.clone())).copied();
        let positions: Vec<Vec<Option<usize>>> = row_keys
            .iter()
            .map(|row| column_keys.iter().map(|column| at(row, column)).collect())
            .collect();
        let summaries: Vec<CellSummary> = (0..cells.len())
            .map(|cell| results.cell(cell, table.value))
            .collect();
        let standings = standings(results, table, &positions, &summaries);
        let verdicts = judge_published(results, table, &summaries);
        Self {
            verdicts,
            rows,
            columns,
            row_keys,
            column_keys,
            positions,
            summaries,
            standings,
        }
    }

    /// Returns the cell at each place, row by row, without columns of published numbers.
    pub fn positions(&self) -> impl Iterator<Item = &[Option<usize>]> {
        self.positions.iter().map(Vec::as_slice)
    }
}

/// Lays out one table.
pub fn grid(results: &Results, table: &Table, layout: &TableLayout) -> Grid {
    let mut footnotes = Footnotes::default();
    let published: Vec<Option<&PublishedValue>> = results
        .sweep
        .cells
        .iter()
        .map(|cell| published_value(results, cell))
        .collect();
    let has_published = |column: usize| {
        layout
            .positions
            .iter()
            .any(|row| row[column].is_some_and(|cell| published[cell].is_some()))
    };
    let with_reference: Vec<bool> = (0..layout.column_keys.len()).map(has_published).collect();
    let mut cells = Vec::with_capacity(layout.positions.len());
    for row in &layout.positions {
        let mut line = Vec::new();
        for (column, &cell) in row.iter().enumerate() {
            line.push(match cell {
                None => GridCell::Absent,
                Some(cell) => {
                    let standing = match table.look.unmarked {
                        true => &Standing::default(),
                        false => &layout.standings.cells[cell],
                    };
                    measured_cell(
                        &layout.summaries[cell],
                        standing,
                        table.look.spread,
                        &mut footnotes,
                    )
                }
            });
            if with_reference[column] {
                line.push(match cell.and_then(|cell| published[cell]) {
                    None => GridCell::Blank,
                    Some(value) => {
                        let verdict = cell.and_then(|cell| layout.verdicts[cell]);
                        let marks = [
                            verdict.map(|verdict| verdict.on_published().to_owned()),
                            footnotes.published(results, value),
                        ];
                        let marks: Vec<String> = marks.into_iter().flatten().collect();
                        let note = (!marks.is_empty()).then(|| marks.join(", "));
                        GridCell::Published {
                            value: Share::of_percent(value.value),
                            note,
                        }
                    }
                });
            }
        }
        cells.push(line);
    }
    let mut columns = Vec::new();
    for (key, &reference) in layout.column_keys.iter().zip(&with_reference) {
        let labels = labels(results, &layout.columns, key);
        columns.push(Column {
            labels: labels.clone(),
            published: false,
        });
        if reference {
            columns.push(Column {
                labels,
                published: true,
            });
        }
    }
    Grid {
        name: table.name.clone(),
        caption: table.caption.clone(),
        protocol: notes::protocol(results, table.value, table.look.spread),
        warnings: notes::warnings(results),
        row_headings: table.rows.iter().map(|name| heading(name)).collect(),
        column_headings: table.columns.iter().map(|name| heading(name)).collect(),
        rows: layout
            .row_keys
            .iter()
            .map(|key| labels(results, &layout.rows, key))
            .collect(),
        columns,
        notes: all_notes(results, table, layout, &cells, footnotes),
        cells,
    }
}

/// Returns the published number of a cell: the entry that names the most axes wins.
pub fn published_value<'a>(results: &Results<'a>, cell: &Cell) -> Option<&'a PublishedValue> {
    let sweep = results.sweep;
    if sweep.published.is_empty() {
        return None;
    }
    let names: BTreeMap<&str, &str> = sweep
        .axes
        .iter()
        .map(|axis| axis.name.as_str())
        .zip(sweep.value_names(cell))
        .collect();
    let matches = |value: &&PublishedValue| {
        value
            .cell
            .iter()
            .all(|(axis, name)| names.get(axis.as_str()).is_some_and(|value| value == name))
    };
    let mut best: Option<&PublishedValue> = None;
    for value in sweep.published.iter().filter(matches) {
        if best.is_none_or(|best| value.cell.len() > best.cell.len()) {
            best = Some(value);
        }
    }
    best
}

/// Returns the footnotes that no number refers to: they apply to all published numbers.
pub fn general_footnotes<'a>(results: &Results<'a>) -> Vec<&'a str> {
    let sweep = results.sweep;
    let used: BTreeSet<u32> = sweep
        .published
        .iter()
        .filter_map(|value| value.footnote)
        .collect();
    let general = (0..)
        .zip(&sweep.footnotes)
        .filter(|(index, _)| !used.contains(index));
    general.map(|(_, text)| text.as_str()).collect()
}

/// Returns the footnotes of one published number: its own first.
pub fn footnotes_of<'a>(results: &Results<'a>, value: &PublishedValue) -> Vec<&'a str> {
    let own = value
        .footnote
        .and_then(|index| results.sweep.footnotes.get(index as usize));
    own.map(String::as_str)
        .into_iter()
        .chain(general_footnotes(results))
        .collect()
}

/// Returns the heading of an axis: `samples per class` for `samples_per_class`.
pub fn heading(axis: &str) -> String {
    axis.replace('_', " ")
}

impl Grid {
    /// Formats a cell without emphasis: `71.2 ± 0.4 (2/3)`, `—`, `failed`.
    pub fn plain(cell: &GridCell) -> String {
        match cell {
            GridCell::Absent => "—".to_owned(),
            GridCell::Blank => String::new(),
            GridCell::Status { text, note } => with_note(text.clone(), note),
            GridCell::Published { value, note } => with_note(value.to_string(), note),
            GridCell::Value {
                mean,
                spread,
                incomplete,
                ..
            } => {
                let mut text = number(*mean, *spread);
                if let Some((done, total)) = incomplete {
                    text.push_str(&format!(" ({done}/{total})"));
                }
                text
            }
        }
    }

    /// Returns true if a row starts a new group of its outermost row axis.
    pub fn starts_group(&self, row: usize) -> bool {
        self.row_headings.len() > 1 && row > 0 && self.rows[row][0] != self.rows[row - 1][0]
    }

    /// Returns the labels of a row; outer labels that repeat those of the row above are blank.
    pub fn row_labels(&self, row: usize) -> Vec<&str> {
        let labels = &self.rows[row];
        let repeated = match row {
            0 => 0,
            _ => labels
                .iter()
                .zip(&self.rows[row - 1])
                .take_while(|(here, above)| here == above)
                .count(),
        };
        labels
            .iter()
            .enumerate()
            .map(|(level, label)| if level < repeated { "" } else { label.as_str() })
            .collect()
    }
}

/// Formats `71.2 ± 0.4`, or `71.2` if there is one seed and therefore no spread.
pub fn number(mean: Share, spread: Option<f64>) -> String {
    match spread {
        Some(spread) => format!("{mean} ± {spread:.1}"),
        None => mean.to_string(),
    }
}

fn with_note(text: String, note: &Option<String>) -> String {
    match note {
        Some(note) => format!("{text} [{note}]"),
        None => text,
    }
}

fn axis_positions(results: &Results, names: &[String]) -> Vec<usize> {
    let position = |name: &String| {
        results
            .sweep
            .axes
            .iter()
            .position(|axis| axis.name == *name)
    };
    names.iter().filter_map(position).collect()
}

fn coordinates(cell: &Cell, axes: &[usize]) -> Vec<u32> {
    axes.iter().map(|&axis| cell.coordinates[axis]).collect()
}

/// Returns the combinations that occur, in the order of the axis values.
fn keys_in_order(cells: &[Cell], axes: &[usize]) -> Vec<Vec<u32>> {
    let mut keys: Vec<Vec<u32>> = cells.iter().map(|cell| coordinates(cell, axes)).collect();
    keys.sort();
    keys.dedup();
    keys
}

fn labels(results: &Results, axes: &[usize], key: &[u32]) -> Vec<String> {
    let label = |(&axis, &value): (&usize, &u32)| {
        results.sweep.axes[axis].values[value as usize]
            .label
            .clone()
    };
    axes.iter().zip(key).map(label).collect()
}

fn measured_cell(
    summary: &CellSummary,
    standing: &Standing,
    spread: Spread,
    footnotes: &mut Footnotes,
) -> GridCell {
    if let Some(accuracy) = summary.summary {
        let incomplete =
            (summary.status != CellStatus::Complete).then_some((summary.done, summary.total));
        return GridCell::Value {
            mean: accuracy.mean,
            spread: accuracy.spread(spread).map(|spread| 100.0 * spread),
            incomplete,
            best: standing.best,
            sign: standing.sign,
        };
    }
    match &summary.status {
        CellStatus::Skipped(reason) if reason.chars().count() <= SHORT_REASON => GridCell::Status {
            text: format!("skipped: {reason}"),
            note: None,
        },
        CellStatus::Skipped(reason) => GridCell::Status {
            text: "skipped".to_owned(),
            note: Some(footnotes.numbered(reason)),
        },
        status => GridCell::Status {
            text: status.name().to_owned(),
            note: None,
        },
    }
}

#[derive(Default)]
struct Footnotes {
    /// Index into `Sweep::footnotes`, in order of first use.
    lettered: Vec<u32>,
    numbered: Vec<String>,
}

impl Footnotes {
    fn published(&mut self, results: &Results, value: &PublishedValue) -> Option<String> {
        let footnote = value
            .footnote
            .filter(|&index| (index as usize) < results.sweep.footnotes.len())?;
        let position = self
            .lettered
            .iter()
            .position(|&known| known == footnote)
            .unwrap_or_else(|| {
                self.lettered.push(footnote);
                self.lettered.len() - 1
            });
        Some(letters(position))
    }

    fn numbered(&mut self, text: &str) -> String {
        let position = self
            .numbered
            .iter()
            .position(|known| known == text)
            .unwrap_or_else(|| {
                self.numbered.push(text.to_owned());
                self.numbered.len() - 1
            });
        (position + 1).to_string()
    }
}

/// Returns a, b, ..., z, aa, ab, ...
fn letters(position: usize) -> String {
    let last = char::from(b'a' + (position % 26) as u8);
    match position / 26 {
        0 => last.to_string(),
        more => format!("{}{last}", letters(more - 1)),
    }
}

fn all_notes(
    results: &Results,
    table: &Table,
    layout: &TableLayout,
    cells: &[Vec<GridCell>],
    footnotes: Footnotes,
) -> Vec<Note> {
    let mut all = Vec::new();
    let shows = |wanted: &dyn Fn(bool, Option<Sign>) -> bool| {
        cells
            .iter()
            .flatten()
            .any(|cell| matches!(cell, GridCell::Value { best, sign, .. } if wanted(*best, *sign)))
    };
    if shows(&|best, _| best) {
        all.push(Note {
            mark: Some("*".to_owned()),
            text: notes::best(results),
        });
    }
    for sign in [Sign::Higher, Sign::Lower, Sign::Same] {
        if shows(&|_, shown| shown == Some(sign)) {
            all.push(Note {
                mark: Some(sign.symbol().to_string()),
                text: notes::sign(results, table, sign),
            });
        }
    }
    for (index, text) in footnotes.numbered.iter().enumerate() {
        all.push(Note {
            mark: Some((index + 1).to_string()),
            text: text.clone(),
        });
    }
    for (position, &index) in footnotes.lettered.iter().enumerate() {
        let text = results.sweep.footnotes[index as usize].clone();
        all.push(Note {
            mark: Some(letters(position)),
            text,
        });
    }
    let about_all = |text: String| Note { mark: None, text };
    let headings: Vec<String> = layout
        .column_keys
        .iter()
        .map(|key| labels(results, &layout.columns, key).join(" / "))
        .collect();
    all.extend(overall_note(results, table, layout).map(about_all));
    all.extend(notes::variance_parts(results, &layout.summaries, table.value).map(about_all));
    all.extend(notes::seed_budget(results).into_iter().map(about_all));
    if !table.look.unmarked {
        let families = &layout.standings.families;
        all.extend(notes::comparisons(results, table, families, &headings).map(about_all));
    }
    if cells
        .iter()
        .flatten()
        .any(|cell| matches!(cell, GridCell::Published { .. }))
    {
        all.extend(notes::published(results).into_iter().map(about_all));
        all.extend(notes::tolerance(table, &layout.verdicts).map(about_all));
    }
    if is_first_of_its_measure(results, table) {
        let judged = claims::judge(results);
        let own = judged.iter().filter(|one| one.claim.value == table.value);
        let lines: Vec<String> = own
            .map(|one| claims::line(results, one, MAX_PAIRS_SHOWN))
            .collect();
        let method = (!lines.is_empty())
            .then(|| claims::method(results))
            .flatten();
        all.extend(lines.into_iter().chain(method).map(about_all));
    }
    all.extend(
        notes::searches(results, &layout.summaries)
            .into_iter()
            .map(about_all),
    );
    all.extend(notes::below(results).into_iter().map(about_all));
    all
}

/// Summarises the rows over the columns in which every row is complete; nothing unless the table asks
/// for it.
fn overall_note(results: &Results, table: &Table, layout: &TableLayout) -> Option<String> {
    let overall = table.overall?;
    let complete = |cell: Option<usize>| {
        cell.filter(|&cell| layout.summaries[cell].status == CellStatus::Complete)
    };
    let columns: Vec<usize> = (0..layout.column_keys.len())
        .filter(|&column| {
            let mut down = layout.positions.iter();
            down.all(|row| complete(row[column]).is_some())
        })
        .collect();
    let values = |cell: usize| -> Vec<f64> {
        let candidate = layout.summaries[cell].candidate;
        let by_subset = results.values_by_subset(cell, candidate, table.value);
        let means = by_subset.iter().filter_map(|values| Share::mean(values));
        means.map(|mean| mean.fraction()).collect()
    };
    let cells: Vec<Vec<Vec<f64>>> = layout
        .positions
        .iter()
        .map(|row| {
            columns
                .iter()
                .filter_map(|&column| row[column])
                .map(values)
                .collect()
        })
        .collect();
    let rows = overall::summarise(&cells, overall, HIGHER_IS_BETTER)?;
    let names = layout.row_keys.iter();
    let names = names.map(|key| labels(results, &layout.rows, key).join(" / "));
    let number = |value: f64| match overall {
        Overall::Rank => format!("{value:.2}"),
        Overall::Iqm => format!("{:.1}", 100.0 * value),
    };
    let shown = |(name, row): (String, overall::OfRow)| {
        let (low, high) = row.interval;
        let value = number(row.value);
        format!("{name} {value} [{}, {}]", number(low), number(high))
    };
    let shown: Vec<String> = names.zip(rows).map(shown).collect();
    let what = match overall {
        Overall::Rank => "Mean rank, 1 is the best,",
        Overall::Iqm => "Interquartile mean",
    };
    let count = sweep::counted(columns.len() as u64, "column");
    Some(format!(
        "{what} over {count} of {}, with the 95 % interval of {} stratified bootstrap samples: {}.",
        layout.column_keys.len(),
        overall::SAMPLES,
        shown.join("; ")
    ))
}

/// Returns true for the output that has the claims about its measure below it.
fn is_first_of_its_measure(results: &Results, table: &Table) -> bool {
    let mut outputs = results.sweep.outputs.iter();
    let first = outputs.find(|output| output.value() == table.value);
    first.is_some_and(|output| output.name() == table.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn footnotes_are_lettered_like_the_columns_of_a_spreadsheet() {
        for (position, expected) in [
            (0, "a"),
            (1, "b"),
            (25, "z"),
            (26, "aa"),
            (51, "az"),
            (52, "ba"),
            (701, "zz"),
            (702, "aaa"),
        ] {
            assert_eq!(letters(position), expected);
        }
    }

    #[test]
    fn equal_reasons_share_a_numbered_footnote() {
        let mut footnotes = Footnotes::default();
        let numbers = ["no data", "too large", "no data", "too large", "another"]
            .map(|text| footnotes.numbered(text));
        assert_eq!(numbers, ["1", "2", "1", "2", "3"]);
    }
}
