//! Draws a grid as Markdown and as LaTeX (booktabs). Best cells are bold; the sign of a
//! comparison follows the number.

use crate::escape::{latex_literal, latex_prose, markdown_literal, markdown_prose};
use crate::families::Sign;
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

/// Draws a `table` environment; needs the package booktabs.
pub fn latex(grid: &Grid) -> String {
    let mut out = String::from(
        "% Needs \\usepackage{booktabs} and UTF-8 input.\n\\begin{table}\n  \\centering\n",
    );
    let mut caption = latex_prose(&grid.caption);
    if !caption.is_empty() && !caption.ends_with('.') {
        caption.push('.');
    }
    let warnings: Vec<String> = grid
        .warnings
        .iter()
        .map(|warning| format!("\\textbf{{{}}}", latex_prose(warning)))
        .collect();
    let sentences: Vec<String> = warnings
        .into_iter()
        .chain([caption, latex_prose(&grid.protocol)])
        .filter(|text| !text.is_empty())
        .collect();
    out.push_str(&format!("  \\caption{{{}}}\n", sentences.join(" ")));
    out.push_str(&format!("  \\label{{tab:{}}}\n", label(&grid.name)));
    let columns = "l".repeat(grid.row_headings.len()) + &"c".repeat(grid.columns.len());
    out.push_str(&format!(
        "  \\begin{{tabular}}{{{columns}}}\n    \\toprule\n"
    ));
    latex_heading(&mut out, grid);
    out.push_str("    \\midrule\n");
    for (row, cells) in grid.cells.iter().enumerate() {
        if grid.starts_group(row) {
            out.push_str("    \\addlinespace\n");
        }
        let labels = grid.row_labels(row).into_iter().map(latex_literal);
        let fields: Vec<String> = labels.chain(cells.iter().map(latex_cell)).collect();
        out.push_str(&format!("    {} \\\\\n", fields.join(" & ")));
    }
    out.push_str("    \\bottomrule\n  \\end{tabular}\n");
    for note in &grid.notes {
        let text = latex_prose(&note.text);
        let line = match shown_mark(note) {
            None => text,
            Some("*") => format!("\\textbf{{bold}}: {text}"),
            Some("≈") => format!("${{}}^{{{}}}$ {text}", latex_sign(Sign::Same)),
            Some("↑") => format!("${{}}^{{{}}}$ {text}", latex_sign(Sign::Higher)),
            Some("↓") => format!("${{}}^{{{}}}$ {text}", latex_sign(Sign::Lower)),
            Some(mark) => format!("${{}}^{{\\mathrm{{{mark}}}}}$ {text}"),
        };
        out.push_str(&format!("  \\par{{\\footnotesize {line}}}\n"));
    }
    out.push_str("\\end{table}\n");
    out
}

/// Writes one line per column axis, with `\multicolumn` over equal labels, and one that separates
/// our numbers from published ones.
fn latex_heading(out: &mut String, grid: &Grid) {
    let blank = vec![String::new(); grid.row_headings.len()];
    let mut lines: Vec<Vec<String>> = Vec::new();
    if !grid.column_headings.is_empty() {
        let (count, names) = (
            grid.columns.len(),
            latex_literal(&grid.column_headings.join(" / ")),
        );
        lines.push(
            blank
                .iter()
                .cloned()
                .chain([format!("\\multicolumn{{{count}}}{{c}}{{{names}}}")])
                .collect(),
        );
    }
    for level in 0..grid.column_headings.len() {
        let mut fields = blank.clone();
        let mut column = 0;
        while column < grid.columns.len() {
            let here = &grid.columns[column];
            let same =
                |other: &&crate::grid::Column| other.labels[..=level] == here.labels[..=level];
            let span = grid.columns[column..].iter().take_while(same).count();
            let text = latex_literal(&here.labels[level]);
            fields.push(if span == 1 {
                text
            } else {
                format!("\\multicolumn{{{span}}}{{c}}{{{text}}}")
            });
            column += span;
        }
        lines.push(fields);
    }
    let both = grid.columns.iter().any(|column| column.published);
    if both || grid.column_headings.is_empty() {
        let ours = if both { "ours" } else { "accuracy \\%" };
        let kinds = grid
            .columns
            .iter()
            .map(|column| if column.published { "published" } else { ours }.to_owned());
        lines.push(blank.iter().cloned().chain(kinds).collect());
    }
    if let Some(bottom) = lines.last_mut() {
        for (field, heading) in bottom.iter_mut().zip(&grid.row_headings) {
            *field = latex_literal(heading);
        }
    }
    for fields in lines {
        out.push_str(&format!("    {} \\\\\n", fields.join(" & ")));
    }
}

fn latex_cell(cell: &GridCell) -> String {
    let raised = |text: String, note: &Option<String>| match note {
        Some(note) => format!("{text}$^{{\\mathrm{{{note}}}}}$"),
        None => text,
    };
    match cell {
        GridCell::Absent => "---".to_owned(),
        GridCell::Blank => String::new(),
        GridCell::Status { text, note } => {
            raised(format!("\\emph{{{}}}", latex_literal(text)), note)
        }
        GridCell::Published { value, note } => raised(value.to_string(), note),
        GridCell::Value { best, sign, .. } => {
            let text = Grid::plain(cell).replace('±', "$\\pm$");
            let text = if *best {
                format!("\\textbf{{{text}}}")
            } else {
                text
            };
            match sign {
                Some(sign) => format!("{text}$^{{{}}}$", latex_sign(*sign)),
                None => text,
            }
        }
    }
}

fn latex_sign(sign: Sign) -> &'static str {
    match sign {
        Sign::Same => "\\approx",
        Sign::Higher => "\\uparrow",
        Sign::Lower => "\\downarrow",
    }
}

fn shown_mark(note: &Note) -> Option<&str> {
    note.mark.as_deref()
}

/// Returns the part of a name that is allowed in a `\label`.
fn label(name: &str) -> String {
    name.chars()
        .map(|character| {
            if character.is_ascii_alphanumeric() {
                character
            } else {
                '-'
            }
        })
        .collect()
}
