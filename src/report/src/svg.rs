//! Draws a plot as SVG 1.1: one file for browsers, vector editors and LaTeX tool chains, on a white
//! background, without scripts or external fonts.
//!
//! Means are solid lines with a band of one standard deviation (bars where a single point has no
//! line); published numbers are dashed in the same colour. The colours are Okabe and Ito's,
//! distinguishable with every common colour vision; the shapes of the points repeat the
//! distinction.

use unicode_width::UnicodeWidthStr;

use crate::escape::xml;
use crate::figure::{Line, Panel, Plot, Point};

pub const COLOURS: [&str; 8] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31",
];

const PANEL_WIDTH: f64 = 400.0;
const PANEL_HEIGHT: f64 = 290.0;
/// Room for tick labels and the axis title left of the first panel.
const LEFT: f64 = 58.0;
const GAP: f64 = 36.0;
const RIGHT: f64 = 20.0;
/// Space between a panel's frame and its outermost points, so that markers are not cut.
const INSET: f64 = 14.0;
/// Average advance of a character at 12 px, for wrapping; text itself is laid out by the viewer.
const ADVANCE: f64 = 6.4;

pub fn svg(plot: &Plot) -> String {
    let num_panels = plot.panels.len().max(1) as f64;
    let width = LEFT + num_panels * PANEL_WIDTH + (num_panels - 1.0) * GAP + RIGHT;
    let characters = ((width - LEFT - RIGHT) / ADVANCE) as usize;
    let mut body = String::new();
    let mut y = 26.0;
    let title = if plot.caption.is_empty() {
        &plot.name
    } else {
        &plot.caption
    };
    for line in wrapped(title, characters * 12 / 15) {
        body.push_str(&text(LEFT, y, "title", "start", &line));
        y += 20.0;
    }
    for line in plot
        .subtitle
        .iter()
        // A plot has one font, so code has no marks.
        .flat_map(|line| wrapped(&line.replace('`', ""), characters * 12 / 11))
    {
        body.push_str(&text(LEFT, y, "note", "start", &line));
        y += 15.0;
    }
    let titled = plot.panels.iter().any(|panel| !panel.title.is_empty());
    let top = y + if titled { 22.0 } else { 6.0 };
    for (index, panel) in plot.panels.iter().enumerate() {
        let left = LEFT + index as f64 * (PANEL_WIDTH + GAP);
        draw_panel(
            &mut body,
            plot,
            panel,
            &Frame { left, top, plot },
            index == 0,
        );
    }
    let axis_y = top + PANEL_HEIGHT;
    body.push_str(&text(
        LEFT + (width - LEFT - RIGHT) / 2.0,
        axis_y + 40.0,
        "axis",
        "middle",
        &plot.x_label,
    ));
    let middle = top + PANEL_HEIGHT / 2.0;
    body.push_str(&format!(
        "<text class=\"axis\" text-anchor=\"middle\" transform=\"translate(16 {middle:.1}) rotate(-90)\">accuracy (%)</text>\n"
    ));
    let bottom = legend(&mut body, plot, axis_y + 64.0, width);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{bottom:.0}\" viewBox=\"0 0 {width:.0} {bottom:.0}\" role=\"img\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n",
        xml(title)
    )
}

const STYLE: &str = "text{font-family:'Helvetica Neue',Helvetica,Arial,'Liberation Sans','DejaVu Sans',sans-serif;font-size:12px;fill:#222}\
.title{font-size:15px;font-weight:bold}.note{font-size:11px;fill:#555}.panel{font-size:13px;font-weight:bold}.axis{font-size:13px}";

/// Position of a panel, and the mapping from its numbers to positions.
struct Frame<'a> {
    left: f64,
    top: f64,
    plot: &'a Plot,
}

impl Frame<'_> {
    fn x(&self, value: f64) -> f64 {
        self.left + INSET + self.plot.x_fraction(value) * (PANEL_WIDTH - 2.0 * INSET)
    }

    fn y(&self, value: f64) -> f64 {
        self.top + PANEL_HEIGHT - self.plot.y_fraction(value) * PANEL_HEIGHT
    }
}

fn draw_panel(out: &mut String, plot: &Plot, panel: &Panel, frame: &Frame, first: bool) {
    let (left, top) = (frame.left, frame.top);
    let (right, bottom) = (left + PANEL_WIDTH, top + PANEL_HEIGHT);
    if !panel.title.is_empty() {
        out.push_str(&text(
            left + PANEL_WIDTH / 2.0,
            top - 8.0,
            "panel",
            "middle",
            &panel.title,
        ));
    }
    for value in plot.y_ticks() {
        let y = frame.y(value);
        out.push_str(&format!(
            "<path d=\"M{left:.1} {y:.1}H{right:.1}\" stroke=\"#e3e3e3\"/>\n"
        ));
        if first {
            out.push_str(&text(
                left - 8.0,
                y + 4.0,
                "tick",
                "end",
                &format!("{value}"),
            ));
        }
    }
    let mut free_from = f64::NEG_INFINITY;
    for tick in &plot.ticks {
        let x = frame.x(tick.x);
        out.push_str(&format!(
            "<path d=\"M{x:.1} {bottom:.1}v5\" stroke=\"#555\"/>\n"
        ));
        // Labels that would touch the previous one are left out; the tick stays.
        let half = tick.label.width() as f64 * ADVANCE / 2.0;
        if x - half >= free_from {
            out.push_str(&text(x, bottom + 19.0, "tick", "middle", &tick.label));
            free_from = x + half + 5.0;
        }
    }
    out.push_str(&format!(
        "<path d=\"M{left:.1} {top:.1}V{bottom:.1}H{right:.1}\" fill=\"none\" stroke=\"#555\"/>\n"
    ));
    for line in &panel.lines {
        draw_band(out, frame, line);
    }
    for line in &panel.lines {
        draw_line(out, frame, line);
    }
}

fn draw_band(out: &mut String, frame: &Frame, line: &Line) {
    let colour = colour(line.series);
    let edge = |point: &Point, sign: f64| {
        let deviation = point.deviation.unwrap_or(0.0);
        format!(
            "{:.1} {:.1}",
            frame.x(point.x),
            frame.y(point.mean + sign * deviation)
        )
    };
    if let [only] = line.points.as_slice() {
        if let Some(deviation) = only.deviation {
            let (x, high, low) = (
                frame.x(only.x),
                frame.y(only.mean + deviation),
                frame.y(only.mean - deviation),
            );
            out.push_str(&format!(
                "<path d=\"M{x:.1} {high:.1}V{low:.1}\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n"
            ));
        }
        return;
    }
    if line.points.iter().all(|point| point.deviation.is_none()) {
        return;
    }
    let upper = line.points.iter().map(|point| edge(point, 1.0));
    let lower = line.points.iter().rev().map(|point| edge(point, -1.0));
    let outline: Vec<String> = upper.chain(lower).collect();
    out.push_str(&format!(
        "<path d=\"M{}Z\" fill=\"{colour}\" fill-opacity=\"0.16\"/>\n",
        outline.join("L")
    ));
}

fn draw_line(out: &mut String, frame: &Frame, line: &Line) {
    let colour = colour(line.series);
    let path = |points: &mut dyn Iterator<Item = (f64, f64)>| {
        let places: Vec<String> = points
            .map(|(x, y)| format!("{:.1} {:.1}", frame.x(x), frame.y(y)))
            .collect();
        places.join("L")
    };
    if line.published.len() > 1 {
        let places = path(&mut line.published.iter().copied());
        out.push_str(&format!(
            "<path d=\"M{places}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.4\" stroke-dasharray=\"5 4\" stroke-opacity=\"0.8\"/>\n"
        ));
    }
    for &(x, y) in &line.published {
        out.push_str(&format!(
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.6\" fill=\"#ffffff\" stroke=\"{colour}\" stroke-width=\"1.2\"/>\n",
            frame.x(x),
            frame.y(y)
        ));
    }
    if line.points.len() > 1 {
        let places = path(&mut line.points.iter().map(|point| (point.x, point.mean)));
        out.push_str(&format!(
            "<path d=\"M{places}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-linejoin=\"round\"/>\n"
        ));
    }
    for point in &line.points {
        out.push_str(&marker(
            line.series,
            frame.x(point.x),
            frame.y(point.mean),
            point.complete,
        ));
    }
}

/// Draws a circle, square, triangle or diamond in turn; hollow while seeds are missing.
fn marker(series: usize, x: f64, y: f64, complete: bool) -> String {
    let colour = colour(series);
    let fill = if complete { colour } else { "#ffffff" };
    let paint = format!("fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"1.4\"");
    match series % 4 {
        0 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.6\" {paint}/>\n"),
        1 => format!(
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"6.6\" height=\"6.6\" {paint}/>\n",
            x - 3.3,
            y - 3.3
        ),
        2 => format!(
            "<path d=\"M{x:.1} {:.1}l4.2 7.2h-8.4z\" {paint}/>\n",
            y - 4.4
        ),
        _ => format!(
            "<path d=\"M{x:.1} {:.1}l4.4 4.4l-4.4 4.4l-4.4 -4.4z\" {paint}/>\n",
            y - 4.4
        ),
    }
}

/// Draws the legend below the panels, as many entries per line as fit. Returns the height of the
/// whole picture.
fn legend(out: &mut String, plot: &Plot, top: f64, width: f64) -> f64 {
    let (mut x, mut y) = (LEFT, top);
    let published = plot
        .panels
        .iter()
        .flat_map(|panel| &panel.lines)
        .any(|line| !line.published.is_empty());
    let incomplete = plot
        .panels
        .iter()
        .flat_map(|panel| &panel.lines)
        .flat_map(|line| &line.points);
    let incomplete = incomplete.into_iter().any(|point| !point.complete);
    let mut place =
        |label: &str, line: &str, mark: &dyn Fn(f64, f64) -> String, out: &mut String| {
            let needed = 34.0 + label.width() as f64 * ADVANCE * 1.05 + 18.0;
            if x > LEFT && x + needed > width {
                x = LEFT;
                y += 20.0;
            }
            out.push_str(&format!("<path d=\"M{x:.1} {:.1}h26\" {line}/>\n", y - 4.0));
            out.push_str(&mark(x + 13.0, y - 4.0));
            out.push_str(&text(x + 32.0, y, "tick", "start", label));
            x += needed;
            y
        };
    let mut last = top;
    for (series, label) in plot.series.iter().enumerate() {
        let line = format!("stroke=\"{}\" stroke-width=\"2\"", colour(series));
        last = place(label, &line, &|x, y| marker(series, x, y, true), out);
    }
    if published {
        let line = "stroke=\"#555\" stroke-width=\"1.4\" stroke-dasharray=\"5 4\"";
        let dot = |x: f64, y: f64| {
            format!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\" fill=\"#ffffff\" stroke=\"#555\"/>\n"
            )
        };
        last = place("published", line, &dot, out);
    }
    if incomplete {
        let dot = |x: f64, y: f64| {
            format!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.6\" fill=\"#ffffff\" stroke=\"#555\" stroke-width=\"1.4\"/>\n"
            )
        };
        last = place("hollow: seeds missing", "stroke=\"none\"", &dot, out);
    }
    last + 18.0
}

fn colour(series: usize) -> &'static str {
    COLOURS[series % COLOURS.len()]
}

fn text(x: f64, y: f64, class: &str, anchor: &str, content: &str) -> String {
    format!(
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>\n",
        xml(content)
    )
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut out = String::new();
    crate::text::wrap(&mut out, text, width, "");
    out.lines().map(str::to_owned).collect()
}
