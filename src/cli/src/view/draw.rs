//! Draws a model into a buffer of the terminal's size: the overview, the help, and the last line of
//! all screens. Pure; `panes.rs` draws the parts of the overview, `trial.rs` the page of a trial.

use protocol::v1::SweepStatus;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr;

use super::keys::HELP;
use super::model::{Kind, Model, Pane, Prompt, Screen};
use super::{panes, trial};
use crate::{fit, follow};

/// The smallest terminal for the view; lines are printed on a smaller one.
pub const MIN_COLUMNS: u16 = 60;
pub const MIN_ROWS: u16 = 16;
/// Rows of the smallest terminal on which empty rows separate the parts.
const ROWS_FOR_GAPS: u16 = 30;

/// The styles of the view. Colour is never the only sign of anything.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    pub colour: bool,
}

impl Theme {
    fn coloured(self, colour: Color) -> Style {
        match self.colour {
            true => Style::new().fg(colour),
            false => Style::new(),
        }
    }

    pub fn plain(self) -> Style {
        Style::new()
    }

    pub fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub fn quiet(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub fn accent(self) -> Style {
        self.coloured(Color::Cyan)
    }

    pub fn good(self) -> Style {
        self.coloured(Color::Green)
    }

    pub fn bad(self) -> Style {
        self.coloured(Color::Red)
    }

    pub fn warning(self) -> Style {
        self.coloured(Color::Yellow)
    }

    pub fn loss(self) -> Style {
        self.coloured(Color::Magenta)
    }

    pub fn of(self, kind: Kind) -> Style {
        match kind {
            Kind::Result => self.plain(),
            Kind::Failure => self.bad(),
            Kind::Note => self.quiet(),
        }
    }
}

pub fn draw(model: &Model, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let area = area.intersection(buffer.area);
    if area.width < 4 || area.height < 4 {
        return;
    }
    let [body, last] = [
        Rect {
            height: area.height - 1,
            ..area
        },
        Rect {
            y: area.bottom() - 1,
            height: 1,
            ..area
        },
    ];
    match &model.screen {
        Screen::Overview => overview(model, theme, body, buffer),
        Screen::Help => help(theme, body, buffer),
        Screen::Trial(page) => trial::draw(model, page, theme, body, buffer),
    }
    put(buffer, last, 0, bottom_line(model, theme, last.width));
}

/// Writes a line into a row of the area, if it has that row.
pub fn put(buffer: &mut Buffer, area: Rect, row: u16, line: Line<'_>) {
    if row < area.height {
        buffer.set_line(area.x, area.y + row, &line, area.width);
    }
}

/// Fills a row with text on the left and on the right; on the left alone if both do not fit.
pub fn both_sides<'a>(mut left: Vec<Span<'a>>, right: Vec<Span<'a>>, width: u16) -> Line<'a> {
    let used: usize = left.iter().chain(&right).map(Span::width).sum();
    if let Some(gap) = usize::from(width).checked_sub(used) {
        left.push(Span::raw(" ".repeat(gap)));
        left.extend(right);
    }
    Line::from(left)
}

fn overview(model: &Model, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let header = header(model, theme, area.width);
    for (row, line) in (0..).zip(&header) {
        put(buffer, area, row, line.clone());
    }
    let gap = u16::from(area.height >= ROWS_FOR_GAPS);
    let used = header.len() as u16 + 1;
    let rest = Rect {
        y: area.y + used.min(area.height),
        height: area.height.saturating_sub(used),
        ..area
    };
    let parts: Vec<panes::Part> = model
        .panes()
        .into_iter()
        .map(|pane| panes::part(model, pane, theme, area.width))
        .collect();
    let heights = heights(&parts, model.focus, rest.height, gap);
    let mut y = rest.y;
    for (part, height) in parts.iter().zip(heights) {
        if height == 0 {
            continue;
        }
        let at = Rect { y, height, ..rest };
        panes::draw(model, part, theme, at, buffer);
        y += height + gap;
    }
}

/// Divides the rows among the parts: first the least that each needs, the focused part first, as far
/// as they last; then the rest to the parts that can fill more.
fn heights(parts: &[panes::Part], focus: Pane, rows: u16, gap: u16) -> Vec<u16> {
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|index| parts[*index].pane != focus);
    let mut heights = vec![0; parts.len()];
    let mut left = rows;
    for &index in &order {
        let least = parts[index].min_rows();
        if least + gap <= left {
            heights[index] = least;
            left -= least + gap;
        }
    }
    for &index in &order {
        if heights[index] > 0 {
            let more = parts[index]
                .max_rows()
                .saturating_sub(heights[index])
                .min(left);
            heights[index] += more;
            left -= more;
        }
    }
    heights
}

/// Draws name, progress and remaining time of the sweep, and the reason if it waits.
fn header<'a>(model: &'a Model, theme: Theme, width: u16) -> Vec<Line<'a>> {
    let Some(sweep) = model.sweep() else {
        let name = match model.shown.as_str() {
            "" => "no sweeps yet".to_owned(),
            name => format!("{name}: waiting for its status"),
        };
        return vec![Line::styled(format!(" {name}"), theme.strong())];
    };
    let mut title = vec![Span::styled(format!(" {}", sweep.name), theme.strong())];
    if model.sweeps.len() > 1 {
        let at = model
            .sweeps
            .iter()
            .position(|known| known.name == sweep.name);
        let text = format!("  sweep {} of {}", at.unwrap_or(0) + 1, model.sweeps.len());
        title.push(Span::styled(text, theme.quiet()));
    }
    let cells = format!("{} of {} cells ", sweep.complete_cells, sweep.cells);
    let mut lines = vec![
        both_sides(title, remaining(sweep, theme), width),
        bar(sweep, theme, width),
        both_sides(counts(sweep, theme), vec![Span::raw(cells)], width),
    ];
    let mut notes = Vec::new();
    if !model.storage_fault.is_empty() {
        let text = format!("the journal cannot be written: {}", model.storage_fault);
        notes.push((text, theme.bad()));
    }
    if !sweep.cancelled_reason.is_empty() {
        notes.push((sweep.cancelled_reason.clone(), theme.warning()));
    }
    if !sweep.waits_because.is_empty() {
        notes.push((format!("waits: {}", sweep.waits_because), theme.warning()));
    }
    if !sweep.more_seeds.is_empty() {
        notes.push((format!("more seeds: {}", sweep.more_seeds), theme.quiet()));
    }
    for (text, style) in notes {
        let text = fit::beginning(&text, usize::from(width).saturating_sub(2));
        lines.push(Line::styled(format!(" {text}"), style));
    }
    lines
}

fn counts(sweep: &SweepStatus, theme: Theme) -> Vec<Span<'static>> {
    let (done, total) = (follow::done(sweep), follow::total(sweep));
    let mut spans = vec![
        Span::raw(format!(" {done} of {total} trials")),
        Span::raw(format!("   {} running", sweep.running)),
    ];
    if sweep.failed > 0 {
        spans.push(Span::styled(
            format!("   {} failed", sweep.failed),
            theme.bad(),
        ));
    }
    if sweep.waiting > 0 {
        spans.push(Span::raw(format!("   {} waiting", sweep.waiting)));
    }
    if sweep.cancelled > 0 {
        let text = format!("   {} cancelled", sweep.cancelled);
        spans.push(Span::styled(text, theme.warning()));
    }
    spans
}

fn remaining(sweep: &SweepStatus, theme: Theme) -> Vec<Span<'static>> {
    match (sweep.complete, follow::remaining(sweep)) {
        (true, _) => vec![Span::styled("complete ", theme.good())],
        (false, Some(text)) => vec![Span::raw(text + " ")],
        (false, None) => Vec::new(),
    }
}

/// Draws the share of ended trials, and, lighter, the progress of running ones.
fn bar(sweep: &SweepStatus, theme: Theme, width: u16) -> Line<'static> {
    let columns = f64::from(width.saturating_sub(2));
    let total = follow::total(sweep).max(1) as f64;
    let under_way: f64 = sweep
        .running_trials
        .iter()
        .map(|trial| f64::from(trial.epoch) / f64::from(trial.num_epochs.max(1)))
        .sum();
    let ended = (follow::done(sweep) as f64 / total * columns) as usize;
    let reached = ((follow::done(sweep) as f64 + under_way) / total * columns) as usize;
    let (columns, reached) = (columns as usize, reached.max(ended));
    let reached = reached.min(columns);
    Line::from(vec![
        Span::raw(" "),
        Span::styled("━".repeat(ended.min(columns)), theme.good()),
        Span::styled("╍".repeat(reached - ended.min(reached)), theme.good()),
        Span::styled("─".repeat(columns - reached), theme.quiet()),
    ])
}

/// Draws the last line: a prompt, the outcome of a key, or the keys.
fn bottom_line(model: &Model, theme: Theme, width: u16) -> Line<'static> {
    let room = usize::from(width).saturating_sub(2);
    let asked =
        |text: String| Line::styled(format!(" {}", fit::middle(&text, room)), theme.warning());
    match model.prompt {
        Some(Prompt::Filter) => {
            return Line::from(vec![
                Span::styled(" show trials named: ", theme.accent()),
                Span::styled(format!("{}▏", model.filter), theme.strong()),
            ]);
        }
        Some(Prompt::Cancel) => {
            return asked(format!(
                "cancel {}? {} end without a result   y / n",
                model.shown,
                model.to_be_cancelled()
            ));
        }
        Some(Prompt::Retry) => {
            return asked(
                "retry it? after a failure it resumes, after a result it starts again   y / n"
                    .to_owned(),
            );
        }
        Some(Prompt::Leave) => {
            return asked(
                "leave? training stops with checkpoints; the same command continues it   y / n"
                    .to_owned(),
            );
        }
        None => {}
    }
    if let Some(text) = model.notice() {
        return Line::styled(format!(" {}", fit::beginning(text, room)), theme.accent());
    }
    let keys: &[(&str, &str)] = match &model.screen {
        Screen::Overview => &[
            ("?", "help"),
            ("/", "filter"),
            ("enter", "open"),
            ("c", "cancel"),
            ("r", "retry"),
            ("q", "leave"),
        ],
        Screen::Help => &[("any key", "back")],
        Screen::Trial(_) => &[
            ("tab", "settings, history, log"),
            ("j k", "scroll"),
            ("r", "retry"),
            ("esc", "back"),
        ],
    };
    let mut spans = vec![Span::raw(" ")];
    for (key, does) in keys {
        let used: usize = spans.iter().map(Span::width).sum();
        if used + key.width() + does.width() + 2 > room {
            break;
        }
        spans.push(Span::styled((*key).to_owned(), theme.strong()));
        spans.push(Span::styled(format!(" {does}   "), theme.quiet()));
    }
    let filter = match model.filter.as_str() {
        "" => Vec::new(),
        text => vec![Span::styled(format!("shown: {text} "), theme.accent())],
    };
    both_sides(spans, filter, width)
}

fn help(theme: Theme, area: Rect, buffer: &mut Buffer) {
    put(buffer, area, 0, Line::styled(" Keys", theme.strong()));
    let width = HELP.iter().map(|(key, _)| key.width()).max().unwrap_or(0);
    for (row, (key, does)) in (2..).zip(HELP) {
        let pad = " ".repeat(width - key.width());
        let line = Line::from(vec![
            Span::styled(format!("   {key}{pad}   "), theme.accent()),
            Span::raw(does),
        ]);
        put(buffer, area, row, line);
    }
    let legend = [
        "━ trials that ended   ╍ epochs of running ones   ─ what is left",
        "An accuracy is of the test set, or of images that a search holds out.",
        "The range of the remaining time holds with 95 % probability.",
    ];
    for (row, text) in (HELP.len() as u16 + 3..).zip(legend) {
        put(
            buffer,
            area,
            row,
            Line::styled(format!("   {text}"), theme.quiet()),
        );
    }
}
