//! The parts of the overview: table, running trials, failures, workers, news. Each is a title, a
//! heading, and rows, of which as many are drawn as fit.

use protocol::v1::{Condition, CurvePoint, RunningTrial};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use sweep::{Share, counted};
use unicode_width::UnicodeWidthStr;

use super::draw::{Theme, both_sides, put};
use super::model::{Model, Pane, TableLine};
use super::workers;
use crate::{fit, follow};

/// Columns before each row, for the mark of the selected one.
const MARK: usize = 3;
pub const GAP: usize = 2;
/// Columns of names for which columns of numbers are left out.
const MIN_NAME: usize = 26;
const MAX_NAME: usize = 48;

/// One part of the overview.
pub struct Part<'a> {
    pub pane: Pane,
    pub title: String,
    /// Text at the end of the title's row.
    pub right: Vec<Span<'a>>,
    pub heading: Vec<Line<'a>>,
    pub rows: Vec<Line<'a>>,
}

impl Part<'_> {
    /// The rows without which it is not worth drawing.
    pub fn min_rows(&self) -> u16 {
        let rows = match self.pane {
            Pane::Table => 6,
            Pane::Trials => 2,
            Pane::Failures | Pane::Workers | Pane::News => 1,
        };
        1 + self.heading.len() as u16 + (self.rows.len() as u16).clamp(1, rows)
    }

    /// The rows that it can fill.
    pub fn max_rows(&self) -> u16 {
        let rows = self.rows.len().max(1) + self.heading.len() + 1;
        rows.try_into().unwrap_or(u16::MAX)
    }
}

pub fn part<'a>(model: &'a Model, pane: Pane, theme: Theme, width: u16) -> Part<'a> {
    let width = usize::from(width).saturating_sub(MARK + 1);
    match pane {
        Pane::Table => table(model, theme),
        Pane::Trials => trials(model, theme, width),
        Pane::Failures => failures(model, theme, width),
        Pane::Workers => workers::part(model, theme, width),
        Pane::News => news(model, theme, width),
    }
}

/// Draws a part. If not all rows fit, it draws those around the cursor.
pub fn draw(model: &Model, part: &Part<'_>, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let is_focused = model.focus == part.pane;
    let room = usize::from(area.height).saturating_sub(1 + part.heading.len());
    let cursor = model.cursor(part.pane);
    let first = first_row(cursor, room, part.rows.len());
    let mut right = part.right.clone();
    if part.rows.len() > room {
        let last = (first + room).min(part.rows.len());
        let gap = if right.is_empty() { "" } else { "   " };
        let text = format!("{gap}{} to {last} of {}", first + 1, part.rows.len());
        right.push(Span::styled(text, theme.quiet()));
    }
    put(
        buffer,
        area,
        0,
        title(part, right, is_focused, theme, area.width),
    );
    for (row, line) in (1..).zip(&part.heading) {
        put(buffer, area, row, indented(" ".repeat(MARK).into(), line));
    }
    let begin = 1 + part.heading.len() as u16;
    if part.rows.is_empty() {
        let text = format!("{}{}", " ".repeat(MARK), empty_text(part.pane));
        put(buffer, area, begin, Line::styled(text, theme.quiet()));
    }
    let shown = part.rows.iter().enumerate().skip(first).take(room);
    for (row, (index, line)) in (begin..).zip(shown) {
        let is_selected = is_focused && index == cursor && part.pane != Pane::Table;
        let mark = match is_selected {
            true => Span::styled(" ▸ ", theme.accent()),
            false => " ".repeat(MARK).into(),
        };
        put(buffer, area, row, indented(mark, line));
    }
}

/// Returns the first row to draw, so that the cursor's row is drawn too.
fn first_row(cursor: usize, room: usize, rows: usize) -> usize {
    let last = rows.saturating_sub(room);
    cursor.saturating_sub(room / 2).min(last)
}

fn title<'a>(
    part: &Part<'a>,
    right: Vec<Span<'a>>,
    is_focused: bool,
    theme: Theme,
    width: u16,
) -> Line<'a> {
    let style = match is_focused {
        true => theme.accent().patch(theme.strong()),
        false => theme.strong(),
    };
    let mark = if is_focused { "▌" } else { " " };
    let titled = fit::beginning(&part.title, usize::from(width) / 2 + 10);
    let beside = if right.is_empty() { 0 } else { 1 };
    let used: usize = 3 + beside + titled.width() + right.iter().map(Span::width).sum::<usize>();
    let rule = "─".repeat(usize::from(width).saturating_sub(used));
    let mut end = vec![Span::styled(rule, theme.quiet())];
    end.push(Span::raw(" ".repeat(beside)));
    end.extend(right);
    end.push(Span::raw(" "));
    let begin = vec![
        Span::styled(mark, theme.accent()),
        Span::styled(titled, style),
        Span::raw(" "),
    ];
    both_sides(begin, end, width)
}

fn indented<'a>(mark: Span<'a>, line: &Line<'a>) -> Line<'a> {
    let mut spans = vec![mark];
    spans.extend(line.spans.iter().cloned());
    Line::from(spans).style(line.style)
}

fn empty_text(pane: Pane) -> &'static str {
    match pane {
        Pane::Table => "the table is being fetched",
        Pane::Trials => "nothing runs",
        Pane::Failures => "none passes the filter",
        Pane::Workers => "none is connected",
        Pane::News => "none passes the filter",
    }
}

/// Aligns a text to the left of a column.
pub fn left(text: &str, width: usize) -> String {
    let pad = width.saturating_sub(text.width());
    format!("{text}{}", " ".repeat(pad))
}

fn right(text: &str, width: usize) -> String {
    let pad = width.saturating_sub(text.width());
    format!("{}{text}", " ".repeat(pad))
}

fn table<'a>(model: &'a Model, theme: Theme) -> Part<'a> {
    Part {
        pane: Pane::Table,
        title: model.table_title().unwrap_or("Table").to_owned(),
        right: Vec::new(),
        heading: Vec::new(),
        rows: model
            .table
            .iter()
            .map(|line| table_line(line, theme))
            .collect(),
    }
}

/// Makes the best cells of a table's line bold.
fn table_line<'a>(line: &'a TableLine, theme: Theme) -> Line<'a> {
    let text = line.text.as_str();
    if line.is_heading {
        return Line::styled(text, theme.quiet());
    }
    let mut spans = Vec::new();
    let mut done = 0;
    for best in report::best_cells(text) {
        spans.push(Span::raw(&text[done..best.start]));
        spans.push(Span::styled(&text[best.clone()], theme.strong()));
        done = best.end;
    }
    spans.push(Span::raw(&text[done..]));
    Line::from(spans)
}

/// Widths of the columns of running trials that fit.
struct Columns {
    name: usize,
    epoch: usize,
    /// Columns of each sparkline; 0: none.
    spark: usize,
    /// `test` or `held out` stands beside each accuracy; otherwise `test` is the heading.
    shows_set: bool,
    /// Images per second, or the reason why there are none.
    rate: usize,
    worker: usize,
}

const LOSS: usize = 6;
const ACCURACY: usize = 7;
const SET: usize = 8;
const RATE: usize = 9;

impl Columns {
    /// Chooses the richest columns that leave enough room for names.
    fn of(trials: &[&RunningTrial], width: usize) -> Self {
        let longest = |widths: &mut dyn Iterator<Item = usize>| widths.max().unwrap_or(0);
        let names = longest(&mut trials.iter().map(|trial| name(trial, MAX_NAME).width()));
        let shows_set = trials.iter().any(|trial| trial.search);
        let epoch = longest(&mut trials.iter().map(|trial| epoch(trial).width())).max(5);
        let workers = longest(&mut trials.iter().map(|trial| place(trial).width()));
        let problems = longest(
            &mut trials
                .iter()
                .filter_map(|trial| Some(problem(trial)?.width())),
        );
        let levels = [
            (16, true, workers),
            (12, true, workers),
            (8, true, workers),
            (12, true, 0),
            (8, true, 0),
            (8, false, 0),
            (5, false, 0),
        ];
        let with = |(spark, rate, worker): (usize, bool, usize)| Self {
            name: 0,
            epoch,
            spark,
            shows_set,
            rate: if rate { RATE.max(problems) } else { problems },
            worker,
        };
        let room_for = |least: usize| {
            let columns = levels.into_iter().map(with);
            columns
                .into_iter()
                .find(|columns| columns.fixed() + least <= width)
        };
        let fitting = room_for(names).or_else(|| room_for(names.min(MIN_NAME)));
        let mut columns = fitting.unwrap_or(with((0, false, 0)));
        columns.name = width.saturating_sub(columns.fixed()).min(names);
        columns
    }

    /// Sum of all columns except the name.
    fn fixed(&self) -> usize {
        let spark = if self.spark > 0 { self.spark + 1 } else { 0 };
        let mut sum = GAP + self.epoch + 2 * (GAP + spark) + LOSS + ACCURACY;
        if self.shows_set {
            sum += 1 + SET;
        }
        if self.rate > 0 {
            sum += GAP + self.rate;
        }
        if self.worker > 0 {
            sum += GAP + self.worker;
        }
        sum
    }

    fn heading(&self) -> String {
        let gap = " ".repeat(GAP);
        let spark = if self.spark > 0 { self.spark + 1 } else { 0 };
        let accuracy = if self.shows_set { "accuracy" } else { "test" };
        let accuracy_width = spark + ACCURACY + if self.shows_set { 1 + SET } else { 0 };
        let mut text = format!(
            "{}{gap}{}{gap}{}{gap}{}",
            left("", self.name),
            right("epoch", self.epoch),
            left("training loss", spark + LOSS),
            left(accuracy, accuracy_width),
        );
        if spark + LOSS < "training loss".len() {
            text = text.replacen("training loss", "loss", 1);
        }
        if self.rate >= RATE {
            text += &gap;
            text += &right("images/s", self.rate);
        }
        if self.worker > 0 {
            text += &gap;
            text += "worker";
        }
        text.trim_end().to_owned()
    }
}

fn trials<'a>(model: &'a Model, theme: Theme, width: usize) -> Part<'a> {
    let trials = model.running();
    let columns = Columns::of(&trials, width);
    let total = model.sweep().map_or(0, |sweep| sweep.running);
    let rows = trials.iter().map(|trial| {
        let curve = model.curves.get(&trial.trial);
        trial_row(trial, curve.map_or(&[], Vec::as_slice), &columns, theme)
    });
    let rate = model.images_per_s();
    let mut right = Vec::new();
    if rate > 0.0 {
        right.push(Span::raw(format!("{rate:.0} images/s")));
    }
    Part {
        pane: Pane::Trials,
        title: format!("Running  {total}"),
        right,
        heading: match trials.is_empty() {
            true => Vec::new(),
            false => vec![Line::styled(columns.heading(), theme.quiet())],
        },
        rows: rows.collect(),
    }
}

fn trial_row<'a>(
    trial: &RunningTrial,
    curve: &[CurvePoint],
    columns: &Columns,
    theme: Theme,
) -> Line<'a> {
    let gap = Span::raw(" ".repeat(GAP));
    let state = match problem(trial) {
        None => theme.plain(),
        Some(_) => theme.warning(),
    };
    let mut spans = vec![
        Span::styled(left(&name(trial, columns.name), columns.name), state),
        gap.clone(),
        Span::styled(right(&epoch(trial), columns.epoch), theme.plain()),
        gap.clone(),
    ];
    let losses: Vec<f64> = curve.iter().filter_map(|point| point.train_loss).collect();
    let accuracies: Vec<f64> = curve.iter().filter_map(|point| point.accuracy).collect();
    if columns.spark > 0 {
        spans.push(Span::styled(
            left(&sparkline(&losses, columns.spark), columns.spark + 1),
            theme.loss(),
        ));
    }
    let loss = trial
        .train_loss
        .map_or_else(String::new, |loss| number(loss, LOSS));
    spans.push(Span::raw(right(&loss, LOSS)));
    spans.push(gap.clone());
    if columns.spark > 0 {
        spans.push(Span::styled(
            left(&sparkline(&accuracies, columns.spark), columns.spark + 1),
            theme.good(),
        ));
    }
    let accuracy = trial
        .accuracy
        .map(|accuracy| format!("{} %", Share::new(accuracy, 0)));
    spans.push(Span::styled(
        right(accuracy.as_deref().unwrap_or(""), ACCURACY),
        theme.strong(),
    ));
    if columns.shows_set {
        let set = accuracy.map_or("", |_| follow::evaluated_on(trial.search));
        spans.push(Span::styled(format!(" {}", left(set, SET)), theme.quiet()));
    }
    let rate = problem(trial).unwrap_or_else(|| match trial.images_per_s {
        rate if rate > 0.0 && columns.rate >= RATE => format!("{rate:.0}"),
        _ => String::new(),
    });
    if columns.rate > 0 {
        spans.push(gap.clone());
        spans.push(Span::styled(right(&rate, columns.rate), state));
    }
    if columns.worker > 0 {
        spans.push(gap);
        spans.push(Span::styled(place(trial), theme.quiet()));
    }
    Line::from(spans)
}

/// Formats the name of a trial: `cos/10 seed 3`, with `#2` from the second attempt on.
fn name(trial: &RunningTrial, columns: usize) -> String {
    let attempt = match trial.attempt {
        0 | 1 => String::new(),
        number => format!(" #{number}"),
    };
    let columns = columns.saturating_sub(attempt.width());
    fit::trial(&trial.cell, trial.seed, columns) + &attempt
}

fn epoch(trial: &RunningTrial) -> String {
    match trial.num_epochs {
        // not known while a trial opens its data set
        0 => "starts".to_owned(),
        epochs => format!("{}/{epochs}", trial.epoch),
    }
}

/// The reason why a trial makes no progress.
fn problem(trial: &RunningTrial) -> Option<String> {
    let condition = trial.condition();
    (condition != Condition::Running).then(|| condition.to_string().replace('_', " "))
}

fn place(trial: &RunningTrial) -> String {
    format!("{} slot {}", trial.worker, trial.slot)
}

/// Formats a number with as many digits as fit.
pub fn number(value: f64, columns: usize) -> String {
    (0..=3)
        .rev()
        .map(|digits| format!("{value:.digits$}"))
        .find(|text| text.len() <= columns)
        .unwrap_or_else(|| format!("{value:.0e}"))
}

/// Draws values as bars of one line: a column for each value, or for the mean of several if they do
/// not fit.
pub fn sparkline(values: &[f64], columns: usize) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values: Vec<f64> = values
        .iter()
        .copied()
        .filter(|value| value.is_finite())
        .collect();
    if values.len() < 2 || columns == 0 {
        return String::new();
    }
    let columns = columns.min(values.len());
    let mean = |column: usize| {
        let part = &values[column * values.len() / columns..(column + 1) * values.len() / columns];
        part.iter().sum::<f64>() / part.len() as f64
    };
    let means: Vec<f64> = (0..columns).map(mean).collect();
    let (low, high) = means
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(*value), high.max(*value))
        });
    let level = |value: &f64| match high > low {
        true => ((value - low) / (high - low) * (LEVELS.len() - 1) as f64).round() as usize,
        false => LEVELS.len() / 2 - 1,
    };
    means.iter().map(|value| LEVELS[level(value)]).collect()
}

fn failures<'a>(model: &'a Model, theme: Theme, width: usize) -> Part<'a> {
    let failures = model.failures();
    let longest = failures
        .iter()
        .map(|trial| fit::trial(&trial.cell, trial.seed, MAX_NAME).width());
    let names = longest.max().unwrap_or(0).min(width / 2);
    let rows = failures.iter().map(|trial| {
        let tries = match trial.attempts {
            0 | 1 => String::new(),
            number => format!("after {}: ", counted(u64::from(number), "attempt")),
        };
        let reason = tries + &follow::shortened(&trial.failure);
        Line::from(vec![
            Span::raw(left(&fit::trial(&trial.cell, trial.seed, names), names)),
            Span::raw(" ".repeat(GAP)),
            Span::styled(
                fit::beginning(&reason, width.saturating_sub(names + GAP)),
                theme.bad(),
            ),
        ])
    });
    let total = model.sweep().map_or(0, |sweep| sweep.failed);
    Part {
        pane: Pane::Failures,
        title: format!("Failed  {total}"),
        right: Vec::new(),
        heading: Vec::new(),
        rows: rows.collect(),
    }
}

fn news<'a>(model: &'a Model, theme: Theme, width: usize) -> Part<'a> {
    const AGE: usize = 6;
    let rows = model.filtered_news().into_iter().map(|news| {
        let age = follow::duration(model.now.saturating_sub(news.at));
        let text = fit::beginning(&news.text, width.saturating_sub(AGE + GAP));
        Line::from(vec![
            Span::styled(right(&age, AGE), theme.quiet()),
            Span::raw(" ".repeat(GAP)),
            Span::styled(text, theme.of(news.kind)),
        ])
    });
    Part {
        pane: Pane::News,
        title: "News".to_owned(),
        right: Vec::new(),
        heading: Vec::new(),
        rows: rows.collect(),
    }
}
