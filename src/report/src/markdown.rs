//! Draws a grid as Markdown. Best cells are bold; the sign of a
//! comparison follows the number.

use crate::escape::{markdown_literal, markdown_prose};
use crate::grid::{Grid, GridCell, Note};

/// Draws a Markdown table with caption and notes.
pub fn markdown(grid: &Grid) -> String {
    let mut out = String::new();
    let title = if grid.caption.is_empty() {
        String::new()
    } else {
        format!(" {}", markdown_prose(&grid.caption))
    };
    out.push_str(&format!("**{}.**{title}\n\n", markdown_literal(&grid.name)));
    for warning in &grid.warnings {
        out.push_str(&format!("> **{}**\n\n", markdown_prose(warning)));
    }
    out.push_str(&format!("{}\n\n", markdown_prose(&grid.protocol)));
    let mut head: Vec<String> = grid
        .row_headings
        .iter()
        .map(|heading| markdown_literal(heading))
        .collect();
    if let (Some(last), false) = (head.last_mut(), grid.column_headings.is_empty()) {
        last.push_str(&format!(
            " ↓ {} →",
            markdown_literal(&grid.column_headings.join(" / "))
        ));
    }
    head.extend(grid.columns.iter().map(|column| {
        let label = column
            .labels
            .iter()
            .map(|label| markdown_literal(label))
            .collect::<Vec<_>>()
            .join("<br>");
        match (column.published, label.is_empty()) {
            (true, true) => "published".to_owned(),
            (true, false) => format!("{label}<br>published"),
            (false, true) => "accuracy %".to_owned(),
            (false, false) => label,
        }
    }));
    out.push_str(&format!("| {} |\n", head.join(" | ")));
    let rule: Vec<&str> = (0..head.len())
        .map(|column| {
            if column < grid.row_headings.len() {
                "---"
            } else {
                "---:"
            }
        })
        .collect();
    out.push_str(&format!("| {} |\n", rule.join(" | ")));
    for (row, cells) in grid.cells.iter().enumerate() {
        let mut fields: Vec<String> = grid.rows[row]
            .iter()
            .map(|label| markdown_literal(label))
            .collect();
        fields.extend(cells.iter().map(markdown_cell));
        out.push_str(&format!("| {} |\n", fields.join(" | ")));
    }
    if !grid.notes.is_empty() {
        out.push('\n');
    }
    for note in &grid.notes {
        out.push_str(&match shown_mark(note) {
            None => format!("- {}\n", markdown_prose(&note.text)),
            Some("*") => format!("- **bold**: {}\n", markdown_prose(&note.text)),
            Some(sign @ ("≈" | "↑" | "↓")) => {
                format!("- {sign}: {}\n", markdown_prose(&note.text))
            }
            Some(mark) => format!("- <sup>{mark}</sup> {}\n", markdown_prose(&note.text)),
        });
    }
    out
}

fn markdown_cell(cell: &GridCell) -> String {
    match cell {
        GridCell::Value { best, sign, .. } => {
            let number = Grid::plain(cell);
            let number = if *best {
                format!("**{number}**")
            } else {
                number
            };
            match sign {
                Some(sign) => format!("{number} {}", sign.symbol()),
                None => number,
            }
        }
        GridCell::Absent | GridCell::Blank => Grid::plain(cell),
        GridCell::Status { text, note } => raised(&format!("*{}*", markdown_literal(text)), note),
        GridCell::Published { value, note } => raised(&value.to_string(), note),
    }
}

fn raised(text: &str, note: &Option<String>) -> String {
    note.as_ref().map_or_else(
        || text.to_owned(),
        |note| format!("{text}<sup>{note}</sup>"),
    )
}

fn shown_mark(note: &Note) -> Option<&str> {
    note.mark.as_deref()
}
