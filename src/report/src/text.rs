//! Draws a grid for a terminal or a text file: no colour, at most as wide as requested.
//!
//! A table that does not fit is cut into blocks of columns, each with the row labels; a column of
//! ours and its published numbers stay together. The best cell ends in ` *`, the result of a comparison
//! in its sign; `embolden` turns the best into bold type for a terminal.

use std::ops::Range;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::grid::{Grid, GridCell};

const GAP: usize = 2;
/// Heading of a table without column axes.
const ONLY_COLUMN: &str = "accuracy %";
/// Minimum width of a useful layout.
const MIN_WIDTH: usize = 40;

/// Draws the whole table with caption, warnings and notes, lines ended with `\n`.
pub fn text(grid: &Grid, width: usize) -> String {
    let width = width.max(MIN_WIDTH);
    let mut out = String::new();
    wrap(&mut out, &title(grid), width, "");
    for warning in &grid.warnings {
        wrap(&mut out, &format!("!! {warning}"), width, "   ");
    }
    wrap(&mut out, &grid.protocol, width, "");
    for block in blocks(grid, width) {
        out.push('\n');
        draw(&mut out, grid, &block);
    }
    if !grid.notes.is_empty() {
        out.push('\n');
    }
    for note in &grid.notes {
        match &note.mark {
            Some(mark) if ["*", "≈", "↑", "↓"].contains(&mark.as_str()) => {
                wrap(&mut out, &format!("{mark} {}", note.text), width, "  ")
            }
            Some(mark) => wrap(&mut out, &format!("[{mark}] {}", note.text), width, "    "),
            None => wrap(&mut out, &note.text, width, "    "),
        }
    }
    out
}

/// Draws title and table without the rest, lines ended with `\n`.
pub fn table(grid: &Grid, width: usize) -> String {
    let width = width.max(MIN_WIDTH);
    let mut out = String::new();
    wrap(&mut out, &title(grid), width, "");
    for warning in &grid.warnings {
        wrap(&mut out, &format!("!! {warning}"), width, "   ");
    }
    for block in blocks(grid, width) {
        draw(&mut out, grid, &block);
    }
    out
}

fn title(grid: &Grid) -> String {
    match grid.caption.as_str() {
        "" => grid.name.clone(),
        caption => format!("{}: {caption}", grid.name),
    }
}

/// Makes the best cells of a drawn table bold, for a terminal with colour.
pub fn embolden(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let mut done = 0;
        for best in best_cells(line) {
            out.push_str(&line[done..best.start]);
            out.push_str(&format!("\x1b[1m{}\x1b[0m", &line[best.clone()]));
            done = best.end;
        }
        out.push_str(&line[done..]);
        out.push('\n');
    }
    out
}

/// Returns where a line of a drawn table has best cells, with their stars.
pub fn best_cells(line: &str) -> Vec<Range<usize>> {
    let stars = line
        .match_indices(" *")
        .map(|(at, star)| (at, at + star.len()));
    let cell = |(star, end): (usize, usize)| {
        let start = line[..star].rfind("  ").map_or(0, |gap| gap + 2);
        let is_number = line[start..star].starts_with(|first: char| first.is_ascii_digit());
        is_number.then_some(start..end)
    };
    stars.filter_map(cell).collect()
}

/// Returns the columns to draw together, by index.
fn blocks(grid: &Grid, width: usize) -> Vec<Vec<usize>> {
    let head: usize = label_widths(grid).iter().map(|width| width + GAP).sum();
    let mut blocks: Vec<Vec<usize>> = vec![Vec::new()];
    let mut used = head;
    let mut column = 0;
    while column < grid.columns.len() {
        let with_reference = grid
            .columns
            .get(column + 1)
            .is_some_and(|next| next.published);
        let together: Vec<usize> = (column..=column + usize::from(with_reference)).collect();
        let needed: usize = together
            .iter()
            .map(|&column| column_width(grid, column) + GAP)
            .sum();
        let block = blocks.last_mut().expect("there is always a block");
        if used + needed > width + GAP && !block.is_empty() {
            blocks.push(together.clone());
            used = head + needed;
        } else {
            block.extend(&together);
            used += needed;
        }
        column += together.len();
    }
    blocks
}

fn draw(out: &mut String, grid: &Grid, block: &[usize]) {
    let labels = label_widths(grid);
    let widths: Vec<usize> = block
        .iter()
        .map(|&column| column_width(grid, column))
        .collect();
    let total = labels
        .iter()
        .chain(&widths)
        .map(|width| width + GAP)
        .sum::<usize>()
        - GAP;
    let rule = "─".repeat(total);
    line(out, &[(rule.as_str(), total)]);
    heading_lines(out, grid, block, &labels, &widths);
    line(out, &[(rule.as_str(), total)]);
    for (row, cells) in grid.cells.iter().enumerate() {
        if grid.starts_group(row) {
            line(out, &[("╌".repeat(total).as_str(), total)]);
        }
        let texts: Vec<String> = block.iter().map(|&column| marked(&cells[column])).collect();
        let labelled = grid.row_labels(row).into_iter().zip(labels.iter().copied());
        let fields: Vec<(&str, usize)> = labelled
            .chain(texts.iter().map(String::as_str).zip(widths.iter().copied()))
            .collect();
        line(out, &fields);
    }
    line(out, &[(rule.as_str(), total)]);
}

/// Writes a line that names the column axes, one with labels per column axis, and one that
/// separates our numbers from published ones if there are both. The names of the row axes are on
/// the last line.
fn heading_lines(
    out: &mut String,
    grid: &Grid,
    block: &[usize],
    labels: &[usize],
    widths: &[usize],
) {
    let levels = grid.column_headings.len();
    let span_width = |widths: &[usize]| widths.iter().map(|width| width + GAP).sum::<usize>() - GAP;
    let blank = || labels.iter().map(|&width| (String::new(), width));
    let mut lines: Vec<Vec<(String, usize)>> = Vec::new();
    if levels > 0 {
        lines.push(
            blank()
                .chain([(grid.column_headings.join(" / "), span_width(widths))])
                .collect(),
        );
    }
    for level in 0..levels {
        let mut fields: Vec<(String, usize)> = blank().collect();
        let mut column = 0;
        while column < block.len() {
            let here = &grid.columns[block[column]];
            let same =
                |&&other: &&usize| grid.columns[other].labels[..=level] == here.labels[..=level];
            let span = block[column..].iter().take_while(same).count();
            fields.push((
                here.labels[level].clone(),
                span_width(&widths[column..column + span]),
            ));
            column += span;
        }
        lines.push(fields);
    }
    let both = block.iter().any(|&column| grid.columns[column].published);
    if both || levels == 0 {
        let kinds = block
            .iter()
            .map(|&column| match (grid.columns[column].published, both) {
                (true, _) => "published".to_owned(),
                (false, true) => "ours".to_owned(),
                (false, false) => ONLY_COLUMN.to_owned(),
            });
        lines.push(blank().chain(kinds.zip(widths.iter().copied())).collect());
    }
    if let Some(bottom) = lines.last_mut() {
        for (field, heading) in bottom.iter_mut().zip(&grid.row_headings) {
            field.0 = heading.clone();
        }
    }
    for fields in &lines {
        // The last field has no field after it to run into.
        let last = fields.len() - 1;
        let cut = |(place, (text, width)): (usize, &(String, usize))| {
            if place == last {
                text.clone()
            } else {
                shortened(text, *width)
            }
        };
        let cut: Vec<String> = fields.iter().enumerate().map(cut).collect();
        let borrowed: Vec<(&str, usize)> = cut
            .iter()
            .zip(fields)
            .map(|(text, (_, width))| (text.as_str(), *width))
            .collect();
        line(out, &borrowed);
    }
}

/// Shortens, with an ellipsis, a heading over fewer columns than it needs (its block was cut).
fn shortened(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    for character in text.chars() {
        if cut.width() + character.width().unwrap_or(0) + 1 > width {
            break;
        }
        cut.push(character);
    }
    cut + "…"
}

fn marked(cell: &GridCell) -> String {
    let mut text = Grid::plain(cell);
    if let GridCell::Value { best, sign, .. } = cell {
        if *best {
            text.push_str(" *");
        }
        if let Some(sign) = sign {
            text.push(' ');
            text.push(sign.symbol());
        }
    }
    text
}

fn label_widths(grid: &Grid) -> Vec<usize> {
    let width = |(level, heading): (usize, &String)| {
        let labels = grid.rows.iter().map(|labels| labels[level].width());
        labels.fold(heading.width(), usize::max)
    };
    grid.row_headings.iter().enumerate().map(width).collect()
}

fn column_width(grid: &Grid, column: usize) -> usize {
    let here = &grid.columns[column];
    let kind = match (here.published, grid.column_headings.is_empty()) {
        (true, _) => "published".len(),
        (false, true) => ONLY_COLUMN.len(),
        (false, false) => "ours".len(),
    };
    let cells = grid.cells.iter().map(|row| marked(&row[column]).width());
    let mut width = cells.fold(kind, usize::max);
    for level in 0..here.labels.len() {
        // The columns under one label share the space that it needs.
        let same = |other: &&crate::grid::Column| other.labels[..=level] == here.labels[..=level];
        let span = grid.columns.iter().filter(same).count();
        let room = here.labels[level].width().saturating_sub((span - 1) * GAP);
        width = width.max(room.div_ceil(span));
    }
    width
}

fn line(out: &mut String, fields: &[(&str, usize)]) {
    let start = out.len();
    for (text, width) in fields {
        out.push_str(text);
        let padding = width.saturating_sub(text.width()) + GAP;
        out.extend(std::iter::repeat_n(' ', padding));
    }
    out.truncate(start + out[start..].trim_end().len());
    out.push('\n');
}

/// Breaks at spaces; a word longer than the line has a line of its own.
pub fn wrap(out: &mut String, text: &str, width: usize, indent: &str) {
    for paragraph in text.lines() {
        let mut used = 0;
        for word in paragraph.split(' ') {
            if used > 0 && used + 1 + word.width() > width {
                out.push('\n');
                out.push_str(indent);
                used = indent.len();
            } else if used > 0 {
                out.push(' ');
                used += 1;
            }
            out.push_str(word);
            used += word.width();
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::Column;

    #[test]
    fn a_heading_is_cut_to_its_columns_with_an_ellipsis() {
        for (text, width, expected) in [
            ("abcdef", 6, "abcdef"),
            ("abcdef", 5, "abcd…"),
            ("abcdef", 1, "…"),
            ("猫猫猫", 6, "猫猫猫"),
            ("猫猫猫", 5, "猫猫…"),
            ("猫猫猫", 4, "猫…"),
        ] {
            assert_eq!(shortened(text, width), expected);
        }
    }

    /// A table of one row, whose columns have these labels from the outermost on.
    fn grid(columns: &[&[&str]]) -> Grid {
        let cell = || GridCell::Status {
            text: "x".to_owned(),
            note: None,
        };
        let owned = |labels: &&[&str]| Column {
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            published: false,
        };
        let levels = columns.first().map_or(0, |labels| labels.len());
        Grid {
            name: "t".to_owned(),
            caption: String::new(),
            protocol: "numbers".to_owned(),
            warnings: Vec::new(),
            row_headings: vec!["row".to_owned()],
            column_headings: (0..levels).map(|level| format!("level {level}")).collect(),
            rows: vec![vec!["one".to_owned()]],
            columns: columns.iter().map(owned).collect(),
            cells: vec![columns.iter().map(|_| cell()).collect()],
            notes: Vec::new(),
        }
    }

    #[test]
    fn columns_share_the_room_that_their_label_needs() {
        let wide = "a label of twenty-six marks";
        let shared = grid(&[&[wide, "a"], &[wide, "b"], &[wide, "c"], &["other", "a"]]);
        let widths: Vec<usize> = (0..4).map(|column| column_width(&shared, column)).collect();
        // 27 marks less two gaps of two, over three columns; `other` is wider than `ours`.
        assert_eq!(widths, [8, 8, 8, 5]);
        assert_eq!(column_width(&grid(&[&[]]), 0), ONLY_COLUMN.len());
        assert_eq!(column_width(&grid(&[&["a"]]), 0), "ours".len());
    }

    #[test]
    fn a_block_holds_the_columns_that_fit_exactly() {
        let grid = grid(&[
            &["12345a"],
            &["12345b"],
            &["12345c"],
            &["12345d"],
            &["12345e"],
        ]);
        // The row's label and five columns of six, with gaps of two between them.
        let fitting = 3 + 5 * (2 + 6);
        assert_eq!(blocks(&grid, fitting), [vec![0, 1, 2, 3, 4]]);
        assert_eq!(blocks(&grid, fitting - 1), [vec![0, 1, 2, 3], vec![4]]);
        assert_eq!(blocks(&grid, 1).len(), 5, "a block holds at least one");
    }

    #[test]
    fn words_fill_a_line_exactly() {
        let wrapped = |text: &str, width| {
            let mut out = String::new();
            wrap(&mut out, text, width, "> ");
            out
        };
        assert_eq!(wrapped("one two three", 7), "one two\n> three\n");
        assert_eq!(wrapped("one two three", 6), "one\n> two\n> three\n");
        assert_eq!(wrapped("one to of a", 6), "one to\n> of a\n");
        assert_eq!(wrapped("longer than\nit", 3), "longer\n> than\nit\n");
    }
}
