//! Draws the page of one trial: its curves, then settings, history or log.

use protocol::v1::CurvePoint;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Chart, Dataset, GraphType, Widget};
use sweep::Share;

use super::draw::{Theme, both_sides, put};
use super::model::Model;
use super::page::{Page, Tab};
use super::panes::number;
use crate::{fit, follow};

/// Fewest and most rows of the curves, with their headings.
const CURVES: std::ops::RangeInclusive<u16> = 6..=14;
/// Columns of the numbers beside a curve.
const DIGITS: usize = 4;

pub fn draw(model: &Model, page: &Page, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let running = model.sweep().and_then(|sweep| {
        sweep
            .running_trials
            .iter()
            .find(|trial| trial.trial == page.trial)
    });
    let room = usize::from(area.width).saturating_sub(page.trial.len() + 4);
    let title = Span::styled(
        format!(" {}", fit::middle(&page.title, room)),
        theme.strong(),
    );
    let id = Span::styled(format!("{} ", page.trial), theme.quiet());
    put(
        buffer,
        area,
        0,
        both_sides(vec![title], vec![id], area.width),
    );
    let state = match (&page.error, running, &page.reply) {
        (Some(reason), _, _) => Line::styled(format!(" {reason}"), theme.bad()),
        (None, Some(trial), _) => Line::raw(format!(
            " {}  on {} slot {}",
            follow::trial_text(trial),
            trial.worker,
            trial.slot
        )),
        (None, None, Some(reply)) => {
            let line = reply.explanation.lines().next().unwrap_or_default();
            Line::raw(format!(
                " {}",
                fit::beginning(line, usize::from(area.width) - 2)
            ))
        }
        (None, None, None) => Line::styled(" asking about it", theme.quiet()),
    };
    put(buffer, area, 1, state);
    let curve = page.reply.as_ref().map_or(&[][..], |reply| &reply.curve);
    let curve = match model.curves.get(&page.trial) {
        Some(seen) if seen.len() > curve.len() => seen,
        _ => curve,
    };
    let height = (area.height / 2).clamp(*CURVES.start(), *CURVES.end());
    let curves = Rect {
        y: area.y + 3,
        height,
        ..area
    }
    .intersection(area);
    let set = running.map(|trial| follow::evaluated_on(trial.search));
    draw_curves(curve, set, theme, curves, buffer);
    let rest = Rect {
        y: curves.bottom() + 1,
        height: area.bottom().saturating_sub(curves.bottom() + 1),
        ..area
    };
    draw_tab(page, theme, rest, buffer);
}

fn draw_curves(
    curve: &[CurvePoint],
    set: Option<&str>,
    theme: Theme,
    area: Rect,
    buffer: &mut Buffer,
) {
    let width = area.width / 2;
    let left = Rect { width, ..area };
    let right = Rect {
        x: area.x + width,
        width: area.width - width,
        ..area
    };
    let points = |value: fn(&CurvePoint) -> Option<f64>| -> Vec<(f64, f64)> {
        let point = |point: &CurvePoint| Some((f64::from(point.epoch), value(point)?));
        let finite = |(_, value): &(f64, f64)| value.is_finite();
        curve.iter().filter_map(point).filter(finite).collect()
    };
    let losses = points(|point| point.train_loss);
    let accuracies = points(|point| point.accuracy.map(|accuracy| 100.0 * accuracy));
    let last = |points: &[(f64, f64)]| points.last().map(|(_, value)| *value);
    let loss = last(&losses).map_or_else(String::new, |loss| number(loss, 8));
    let accuracy = last(&accuracies)
        .map(|percent| format!("{} % {}", Share::of_percent(percent), set.unwrap_or("")));
    draw_curve(
        ("training loss", loss),
        &losses,
        theme.loss(),
        theme,
        left,
        buffer,
    );
    draw_curve(
        ("accuracy", accuracy.unwrap_or_default()),
        &accuracies,
        theme.good(),
        theme,
        right,
        buffer,
    );
}

fn draw_curve(
    (name, value): (&str, String),
    points: &[(f64, f64)],
    style: Style,
    theme: Theme,
    area: Rect,
    buffer: &mut Buffer,
) {
    let heading = Line::from(vec![
        Span::styled(format!(" {name}  "), theme.quiet()),
        Span::styled(value, theme.strong()),
    ]);
    put(buffer, area, 0, heading);
    let plot = Rect {
        x: area.x + 1,
        y: area.y + 1,
        width: area.width.saturating_sub(2),
        height: area.height.saturating_sub(1),
    };
    let [(first, _), .., (last, _)] = points else {
        let text = Line::styled("  after two epochs, a curve", theme.quiet());
        put(buffer, plot, 1, text);
        return;
    };
    let (low, high) = points.iter().fold(
        (f64::INFINITY, f64::NEG_INFINITY),
        |(low, high), (_, value)| (low.min(*value), high.max(*value)),
    );
    let high = if high > low { high } else { low + 1.0 };
    let label =
        |value: f64| Span::styled(format!("{:>DIGITS$}", number(value, DIGITS)), theme.quiet());
    let epoch = |value: f64| Span::styled(format!("{value:.0}"), theme.quiet());
    let data = Dataset::default()
        .marker(Marker::Braille)
        .graph_type(GraphType::Line)
        .style(style)
        .data(points);
    Chart::new(vec![data])
        .x_axis(
            Axis::default()
                .style(theme.quiet())
                .bounds([*first, *last])
                .labels([epoch(*first), epoch(*last)]),
        )
        .y_axis(
            Axis::default()
                .style(theme.quiet())
                .bounds([low, high])
                .labels([label(low), label(high)]),
        )
        .legend_position(None)
        .render(plot, buffer);
}

fn draw_tab(page: &Page, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let mut spans = vec![Span::raw(" ")];
    for (tab, name) in [
        (Tab::Settings, "Settings"),
        (Tab::History, "History"),
        (Tab::Log, "Log"),
    ] {
        let style = match tab == page.tab {
            true => theme.accent().patch(theme.strong()),
            false => theme.quiet(),
        };
        spans.push(Span::styled(name, style));
        spans.push(Span::raw("   "));
    }
    let used: usize = spans.iter().map(Span::width).sum();
    let rule = "─".repeat(usize::from(area.width).saturating_sub(used + 1));
    spans.push(Span::styled(rule, theme.quiet()));
    put(buffer, area, 0, Line::from(spans));
    let lines = page.lines();
    let room = usize::from(area.height).saturating_sub(1);
    let first = page.scroll.min(lines.len().saturating_sub(room));
    for (row, line) in (1..).zip(lines.iter().skip(first).take(room)) {
        let text = fit::beginning(line, usize::from(area.width).saturating_sub(4));
        put(buffer, area, row, Line::raw(format!("   {text}")));
    }
}
