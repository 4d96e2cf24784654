//! A sweep's table or figure as HTML, laid out as in a paper. Its cells link to their trials.

use maud::{Markup, html};
use report::{Grid, GridCell, Layout, Results};

use crate::Place;
use crate::frame::{prose, scrolled};

/// Cells of one drawn table at most; the files of the report have all rows.
const MAX_CELLS: usize = 4_000;

/// Draws a table with caption, numbers and notes, then its figure if it has one.
pub fn layout(place: Place, results: &Results<'_>, layout: &Layout) -> Markup {
    let Layout { grid, cells, svg } = layout;
    let sweep = &*results.sweep.name;
    let shown = (MAX_CELLS / grid.columns.len().max(1)).max(1);
    let left_out = grid.cells.len().saturating_sub(shown);
    let numbers = html! {
        table.paper {
            caption { strong { (grid.name) @if !grid.caption.is_empty() { "." } } " " (prose(&grid.caption)) }
            (head(grid))
            tbody {
                @for (row, line) in grid.cells.iter().enumerate().take(shown) {
                    tr.group[grid.starts_group(row)] {
                        @for label in grid.row_labels(row) {
                            @if label.is_empty() { td {} } @else { th scope="row" { (label) } }
                        }
                        @for (column, value) in line.iter().enumerate() {
                            (cell(place, results, value, cells[row][column]))
                        }
                    }
                }
            }
        }
    };
    html! {
        section.output {
            @for warning in &grid.warnings { p.alert { (prose(warning)) } }
            (scrolled(&format!("Table {}", grid.name), &numbers))
            @if left_out > 0 {
                p.note {
                    (left_out) " further rows are not shown here: " code { "orchestrator table " (sweep) }
                    " prints them, and the trials list has their trials."
                }
            }
            p.note { (prose(&grid.protocol)) }
            @if !grid.notes.is_empty() {
                ul.notes {
                    @for note in &grid.notes {
                        li {
                            @if let Some(mark) = &note.mark {
                                @if mark == "*" { strong { "bold" } } @else { sup { (mark) } } " "
                            }
                            (prose(&note.text))
                        }
                    }
                }
            }
            @if let Some(svg) = svg {
                figure {
                    img src=(place.figure(sweep, &grid.name, svg))
                        alt=(alternative(grid));
                }
            }
        }
    }
}

/// Describes a figure in text.
fn alternative(grid: &Grid) -> String {
    let caption = grid.caption.trim_end_matches('.');
    let separator = if caption.is_empty() { "" } else { ": " };
    format!(
        "Figure {}{separator}{caption}. The table above has its numbers.",
        grid.name
    )
}

/// Draws two lines of headings for each column axis, its name over its values, and one that
/// separates our numbers from published ones if there are both.
fn head(grid: &Grid) -> Markup {
    let both = grid.columns.iter().any(|column| column.published);
    let mut rows: Vec<Markup> = Vec::new();
    for (level, axis) in grid.column_headings.iter().enumerate() {
        let above = match level {
            0 => vec![grid.columns.len()],
            level => spans(grid, level - 1)
                .iter()
                .map(|(_, span)| *span)
                .collect(),
        };
        rows.push(html! {
            @for span in above { th.axis scope="colgroup" colspan=(span) { span { (axis) } } }
        });
        rows.push(html! {
            @for (label, span) in spans(grid, level) {
                th.number scope=(if span > 1 { "colgroup" } else { "col" }) colspan=(span) { (label) }
            }
        });
    }
    if both || rows.is_empty() {
        rows.push(html! {
            @for column in &grid.columns {
                th.number scope="col" {
                    @if column.published { "published" } @else if both { "ours" } @else { "accuracy %" }
                }
            }
        });
    }
    html! {
        thead {
            @for (index, row) in rows.iter().enumerate() {
                tr {
                    @if index == 0 {
                        @for heading in &grid.row_headings { th scope="col" rowspan=(rows.len()) { (heading) } }
                    }
                    (row)
                }
            }
        }
    }
}

/// Returns the labels of one level of headings, with the number of columns that each covers.
fn spans(grid: &Grid, level: usize) -> Vec<(&str, usize)> {
    let mut spans: Vec<(&str, usize)> = Vec::new();
    for (index, column) in grid.columns.iter().enumerate() {
        let continues =
            index > 0 && grid.columns[index - 1].labels[..=level] == column.labels[..=level];
        match spans.last_mut().filter(|_| continues) {
            Some((_, span)) => *span += 1,
            None => spans.push((&column.labels[level], 1)),
        }
    }
    spans
}

fn cell(place: Place, results: &Results<'_>, value: &GridCell, index: Option<usize>) -> Markup {
    let text = match value {
        GridCell::Value { .. } | GridCell::Absent | GridCell::Blank => Grid::plain(value),
        GridCell::Status { text, .. } => text.clone(),
        GridCell::Published { value, .. } => value.to_string(),
    };
    let (note, class) = match value {
        GridCell::Status { note, text } => (
            note.as_deref(),
            format!("number status {}", status_class(text)),
        ),
        GridCell::Published { note, .. } => (note.as_deref(), "number published".to_owned()),
        GridCell::Value { .. } | GridCell::Absent | GridCell::Blank => (None, "number".to_owned()),
    };
    let (best, sign) = match value {
        GridCell::Value { best, sign, .. } => (*best, *sign),
        _ => (false, None),
    };
    let shown = html! { @if best { strong { (text) } } @else { (text) } };
    html! {
        td class=(class) {
            @match index {
                Some(index) => {
                    a href=(place.cell(&results.sweep.name, &results.sweep.cell_name(&results.sweep.cells[index]), index)) {
                        (shown)
                    }
                },
                None => (shown),
            }
            @if let Some(sign) = sign { " " span.sign { (sign.symbol()) } }
            @if let Some(note) = note { sup { (note) } }
        }
    }
}

/// Returns the style class of a word such as `running` or `skipped: reason`.
pub fn status_class(word: &str) -> &str {
    word.split([':', ' ']).next().unwrap_or_default()
}
