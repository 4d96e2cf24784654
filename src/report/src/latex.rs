//! Draws a grid as a booktabs table and a plot with pgfplots, for LaTeX. Captions are the author's
//! words; what the numbers are is in notes below.

use sweep::definition::{Look, Style};

use crate::escape::{latex_literal, latex_prose};
use crate::families::Sign;
use crate::figure::{Line, Plot, Scale};
use crate::grid::{Grid, GridCell, Note};
use crate::svg::COLOURS;

/// Panels side by side.
const PANELS_PER_ROW: usize = 3;

/// Draws a table in the environment of its style.
pub fn table(grid: &Grid, look: &Look) -> String {
    let tabular = tabular(grid, look.siunitx);
    let packages = packages(look);
    let mut out = format!("% Needs {packages}; UTF-8 input.\n");
    let environment = match look.style {
        Style::Tabular => {
            for line in warnings(grid).chain([latex_prose(&grid.protocol)]) {
                out.push_str(&format!("% {line}\n"));
            }
            out.push_str(&tabular);
            for note in &grid.notes {
                out.push_str(&format!("% {}\n", note_text(note)));
            }
            return out;
        }
        Style::Table => "table",
        Style::Wide => "table*",
        Style::Sideways => "sidewaystable",
    };
    out.push_str(&format!("\\begin{{{environment}}}\n  \\centering\n"));
    out.push_str(&caption(&grid.caption, &grid.protocol, "tab", &grid.name));
    for warning in warnings(grid) {
        out.push_str(&format!("  {warning}\\par\n"));
    }
    for line in tabular.lines() {
        out.push_str(&format!("  {line}\n"));
    }
    let protocol = (!grid.caption.is_empty()).then(|| latex_prose(&grid.protocol));
    for line in protocol.into_iter().chain(grid.notes.iter().map(note_text)) {
        out.push_str(&format!("  \\par{{\\footnotesize {line}}}\n"));
    }
    out.push_str(&format!("\\end{{{environment}}}\n"));
    out
}

fn packages(look: &Look) -> String {
    let mut names = vec!["booktabs"];
    if look.siunitx {
        names.push("siunitx");
    }
    if look.style == Style::Sideways {
        names.push("rotating");
    }
    let one = |name: &&str| format!("\\usepackage{{{name}}}");
    names.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn warnings(grid: &Grid) -> impl Iterator<Item = String> {
    let bold = |warning: &String| format!("\\textbf{{{}}}", latex_prose(warning));
    grid.warnings.iter().map(bold)
}

/// Writes `\caption` and `\label`. The caption is what the author wrote; if there is nothing, it is
/// the description of the numbers.
fn caption(written: &str, description: &str, kind: &str, name: &str) -> String {
    let text = if written.is_empty() {
        description
    } else {
        written
    };
    format!(
        "  \\caption{{{}}}\n  \\label{{{kind}:{}}}\n",
        latex_prose(text),
        label(name)
    )
}

fn tabular(grid: &Grid, siunitx: bool) -> String {
    let columns = (0..grid.columns.len()).map(|column| match siunitx {
        true => number_column(grid, column),
        false => "c".to_owned(),
    });
    let columns: String = columns.collect();
    let labels = "l".repeat(grid.row_headings.len());
    let mut out = format!("\\begin{{tabular}}{{{labels}{columns}}}\n  \\toprule\n");
    heading(&mut out, grid, siunitx);
    out.push_str("  \\midrule\n");
    for (row, cells) in grid.cells.iter().enumerate() {
        if grid.starts_group(row) {
            out.push_str("  \\addlinespace\n");
        }
        let labels = grid.row_labels(row).into_iter().map(latex_literal);
        let cells = cells.iter().map(|cell| latex_cell(cell, siunitx));
        let fields: Vec<String> = labels.chain(cells).collect();
        out.push_str(&format!("  {} \\\\\n", fields.join(" & ")));
    }
    out.push_str("  \\bottomrule\n\\end{tabular}\n");
    out
}

/// Returns siunitx's specification of a column: as many digits as its longest mean and spread.
fn number_column(grid: &Grid, column: usize) -> String {
    let (mut whole, mut uncertain, mut sign) = (1, 0, None);
    for row in &grid.cells {
        match &row[column] {
            GridCell::Value {
                mean,
                spread,
                incomplete: None,
                sign: shown,
                ..
            } => {
                whole = whole.max(mean.to_string().len().saturating_sub(2));
                let digits = |spread: f64| format!("{spread:.1}").replace('.', "");
                let digits = spread.map(|spread| digits(spread).trim_start_matches('0').len());
                uncertain = uncertain.max(digits.unwrap_or(0).max(usize::from(spread.is_some())));
                sign = sign.or(*shown);
            }
            GridCell::Published { value, .. } => {
                whole = whole.max(value.to_string().len().saturating_sub(2));
            }
            _ => {}
        }
    }
    let uncertain = match uncertain {
        0 => String::new(),
        digits => format!("({digits})"),
    };
    let room = sign.map_or_else(String::new, |sign| {
        format!(", table-space-text-post={{$^{{{}}}$}}", symbol(sign))
    });
    // Aligned spreads have no space before the sign and too much behind it, in siunitx 3.
    let evenly = "separate-uncertainty=true, table-align-uncertainty=false, detect-weight=true";
    format!("S[table-format={whole}.1{uncertain}, {evenly}{room}]")
}

/// Writes one line per column axis, with a rule under labels of several columns, and one line that
/// separates our numbers from published ones.
fn heading(out: &mut String, grid: &Grid, siunitx: bool) {
    let blank = vec![String::new(); grid.row_headings.len()];
    let single = |text: String| match siunitx {
        true => format!("{{{text}}}"),
        false => text,
    };
    struct HeadingLine {
        fields: Vec<String>,
        /// First and last column, from 1, of each label that has a rule below it.
        rules: Vec<(usize, usize)>,
    }
    let mut lines: Vec<HeadingLine> = Vec::new();
    let mut level_line = |texts: Vec<(String, usize)>| {
        let mut fields = blank.clone();
        let mut rules = Vec::new();
        let mut column = blank.len() + 1;
        for (text, span) in texts {
            if span > 1 {
                fields.push(format!("\\multicolumn{{{span}}}{{c}}{{{text}}}"));
                rules.push((column, column + span - 1));
            } else {
                fields.push(single(text));
            }
            column += span;
        }
        lines.push(HeadingLine { fields, rules });
    };
    if !grid.column_headings.is_empty() {
        let names = latex_literal(&grid.column_headings.join(" / "));
        level_line(vec![(names, grid.columns.len())]);
    }
    for level in 0..grid.column_headings.len() {
        let mut texts = Vec::new();
        let mut column = 0;
        while column < grid.columns.len() {
            let here = &grid.columns[column];
            let same =
                |other: &&crate::grid::Column| other.labels[..=level] == here.labels[..=level];
            let span = grid.columns[column..].iter().take_while(same).count();
            texts.push((latex_literal(&here.labels[level]), span));
            column += span;
        }
        level_line(texts);
    }
    let both = grid.columns.iter().any(|column| column.published);
    if both || grid.column_headings.is_empty() {
        let ours = if both { "ours" } else { "accuracy \\%" };
        let kind = |published: bool| if published { "published" } else { ours };
        let kinds = grid
            .columns
            .iter()
            .map(|column| (kind(column.published).to_owned(), 1));
        level_line(kinds.collect());
    }
    if let Some(bottom) = lines.last_mut() {
        for (field, heading) in bottom.fields.iter_mut().zip(&grid.row_headings) {
            *field = latex_literal(heading);
        }
    }
    let last = lines.len().saturating_sub(1);
    for (index, HeadingLine { fields, rules }) in lines.into_iter().enumerate() {
        out.push_str(&format!("  {} \\\\\n", fields.join(" & ")));
        if index < last && !rules.is_empty() {
            let rules = rules
                .iter()
                .map(|(first, end)| format!("\\cmidrule(lr){{{first}-{end}}}"));
            out.push_str(&format!("  {}\n", rules.collect::<Vec<_>>().join(" ")));
        }
    }
}

fn latex_cell(cell: &GridCell, siunitx: bool) -> String {
    let raised = |text: String, note: &Option<String>| match note {
        Some(note) => format!("{text}$^{{\\mathrm{{{note}}}}}$"),
        None => text,
    };
    // siunitx reads a field as a number unless it is in braces.
    let words = |text: String| match siunitx && !text.is_empty() {
        true => format!("{{{text}}}"),
        false => text,
    };
    match cell {
        GridCell::Absent => words("---".to_owned()),
        GridCell::Blank => String::new(),
        GridCell::Status { text, note } => {
            words(raised(format!("\\emph{{{}}}", latex_literal(text)), note))
        }
        GridCell::Published { value, note } => match (siunitx, note) {
            (true, Some(_)) => words(raised(value.to_string(), note)),
            _ => raised(value.to_string(), note),
        },
        GridCell::Value {
            best,
            sign,
            incomplete,
            ..
        } => {
            let number = siunitx && incomplete.is_none();
            let plain = Grid::plain(cell);
            let sign = sign.map_or_else(String::new, |sign| format!("$^{{{}}}$", symbol(sign)));
            if number {
                let weight = if *best { "\\bfseries " } else { "" };
                return format!("{weight}{}{sign}", plain.replace('±', "\\pm"));
            }
            let text = plain.replace('±', "$\\pm$");
            let text = match *best {
                true => format!("\\textbf{{{text}}}"),
                false => text,
            };
            words(text + &sign)
        }
    }
}

fn symbol(sign: Sign) -> &'static str {
    match sign {
        Sign::Same => "\\approx",
        Sign::Higher => "\\uparrow",
        Sign::Lower => "\\downarrow",
    }
}

fn note_text(note: &Note) -> String {
    let text = latex_prose(&note.text);
    let sign = |symbol: &str| format!("${{}}^{{{symbol}}}$ {text}");
    match note.mark.as_deref() {
        None => text,
        Some("*") => format!("\\textbf{{bold}}: {text}"),
        Some("≈") => sign(symbol(Sign::Same)),
        Some("↑") => sign(symbol(Sign::Higher)),
        Some("↓") => sign(symbol(Sign::Lower)),
        Some(mark) => sign(&format!("\\mathrm{{{mark}}}")),
    }
}

/// Draws a figure with pgfplots, in the fonts of the document.
pub fn figure(plot: &Plot) -> String {
    let mut out = String::from(
        "% Needs \\usepackage{pgfplots}, \\usepgfplotslibrary{groupplots}; UTF-8 input.\n\
         \\begin{figure}\n  \\centering\n",
    );
    for (index, colour) in COLOURS.iter().enumerate() {
        let colour = colour.trim_start_matches('#').to_uppercase();
        out.push_str(&format!(
            "  \\definecolor{{series{index}}}{{HTML}}{{{colour}}}\n"
        ));
    }
    let columns = plot.panels.len().clamp(1, PANELS_PER_ROW);
    let rows = plot.panels.len().div_ceil(columns).max(1);
    let name = format!("legend-{}", label(&plot.name));
    let ticks = |value: &dyn Fn(&crate::figure::Tick) -> String| {
        let ticks: Vec<String> = plot.ticks.iter().map(value).collect();
        ticks.join(",")
    };
    let mode = match plot.scale {
        Scale::Logarithmic => "xmode=log, ",
        Scale::Linear | Scale::Names => "",
    };
    let (low, high) = plot.y_range;
    let (first, last) = plot
        .ticks
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(first, last), tick| {
            (first.min(tick.x), last.max(tick.x))
        });
    let one_place = if first == last {
        format!("xmin={}, xmax={}, ", first - 1.0, first + 1.0)
    } else {
        String::new()
    };
    out.push_str(&format!(
        "  \\begin{{tikzpicture}}\n    \\begin{{groupplot}}[\n      \
         group style={{group size={columns} by {rows}, horizontal sep=1.2em, vertical sep=4em, \
         xlabels at=edge bottom, ylabels at=edge left, yticklabels at=edge left}},\n      \
         width={:.3}\\textwidth, height={:.2}\\textwidth, {mode}{one_place}ymin={low}, ymax={high},\n      \
         xlabel={{{}}}, ylabel={{accuracy (\\%)}},\n      \
         xtick={{{}}}, xticklabels={{{}}}, minor x tick num=0,\n      \
         legend to name={name}, legend columns=3, legend style={{draw=none}},\n      \
         grid=major, grid style={{gray!20}}]\n",
        if columns == 1 { 0.7 } else { 1.06 / columns as f64 },
        if columns == 1 { 0.5 } else { 0.4 },
        latex_literal(&plot.x_label),
        ticks(&|tick| tick.x.to_string()),
        ticks(&|tick| format!("{{{}}}", latex_literal(&tick.label))),
    ));
    for (index, panel) in plot.panels.iter().enumerate() {
        let title = match panel.title.is_empty() {
            true => String::new(),
            false => format!("[title={{{}}}]", latex_literal(&panel.title)),
        };
        out.push_str(&format!("    \\nextgroupplot{title}\n"));
        for line in &panel.lines {
            draw_line(&mut out, line);
        }
        if index == 0 {
            legend(&mut out, plot);
        }
    }
    out.push_str(&format!(
        "    \\end{{groupplot}}\n  \\end{{tikzpicture}}\n  \\par\\ref{{{name}}}\n"
    ));
    out.push_str(&caption(
        &plot.caption,
        plot.subtitle.last().map_or("", String::as_str),
        "fig",
        &plot.name,
    ));
    for line in &plot.subtitle {
        out.push_str(&format!(
            "  \\par{{\\footnotesize {}}}\n",
            latex_prose(line)
        ));
    }
    out.push_str("\\end{figure}\n");
    out
}

/// Draws means with bars of one standard deviation, hollow while seeds are missing, and published
/// numbers dashed.
fn draw_line(out: &mut String, line: &Line) {
    let style = series_style(line.series);
    if !line.points.is_empty() {
        let at =
            |x: f64, mean: f64, deviation: f64| format!("({x},{mean:.2}) +- (0,{deviation:.2})");
        let points = line
            .points
            .iter()
            .map(|point| at(point.x, point.mean, point.deviation.unwrap_or(0.0)));
        let points: Vec<String> = points.collect();
        out.push_str(&format!(
            "      \\addplot[{style}, thick, forget plot, error bars/.cd, y dir=both, y explicit]\n        \
             coordinates {{{}}};\n",
            points.join(" ")
        ));
        let incomplete = line.points.iter().filter(|point| !point.complete);
        let incomplete: Vec<String> = incomplete
            .map(|point| format!("({},{:.2})", point.x, point.mean))
            .collect();
        if !incomplete.is_empty() {
            out.push_str(&format!(
                "      \\addplot[{style}, only marks, mark options={{fill=white}}, forget plot] coordinates {{{}}};\n",
                incomplete.join(" ")
            ));
        }
    }
    if !line.published.is_empty() {
        let points = line.published.iter().map(|(x, y)| format!("({x},{y:.2})"));
        let points: Vec<String> = points.collect();
        out.push_str(&format!(
            "      \\addplot[series{}, dashed, mark=o, mark options={{solid}}, forget plot] coordinates {{{}}};\n",
            line.series % COLOURS.len(),
            points.join(" ")
        ));
    }
}

fn legend(out: &mut String, plot: &Plot) {
    for (index, name) in plot.series.iter().enumerate() {
        out.push_str(&format!(
            "      \\addlegendimage{{{}, thick}}\\addlegendentry{{{}}}\n",
            series_style(index),
            latex_literal(name)
        ));
    }
    let lines = || plot.panels.iter().flat_map(|panel| &panel.lines);
    if lines().any(|line| !line.published.is_empty()) {
        out.push_str("      \\addlegendimage{gray, dashed, mark=o, mark options={solid}}\\addlegendentry{published}\n");
    }
    if lines()
        .flat_map(|line| &line.points)
        .any(|point| !point.complete)
    {
        out.push_str("      \\addlegendimage{gray, only marks, mark=*, mark options={fill=white}}\\addlegendentry{seeds missing}\n");
    }
}

fn series_style(series: usize) -> String {
    let mark = ["*", "square*", "triangle*", "diamond*"][series % 4];
    format!("series{}, mark={mark}", series % COLOURS.len())
}

/// Returns the part of a name that is allowed in a `\label`.
fn label(name: &str) -> String {
    let allowed = |character: char| match character.is_ascii_alphanumeric() {
        true => character,
        false => '-',
    };
    name.chars().map(allowed).collect()
}
