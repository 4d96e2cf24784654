//! Learning curves: a drawing that needs no script, its numbers as a table, and the same numbers for
//! the script, which puts a chart with a cursor in its place.

use maud::{Markup, html};
use serde_json::json;

use crate::frame::scrolled;

/// Points of one line at most; longer lines are thinned out and keep their lows and highs.
const MAX_POINTS: usize = 400;
/// Rows of the table of numbers at most.
const MAX_ROWS: usize = 60;
/// Size of a drawing, in units that a browser scales.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;

/// A line of a chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub label: String,
    /// Colour and dash: 0 to 7.
    pub colour: usize,
    /// True for a thin line: one of several that another line summarises.
    pub is_faint: bool,
    /// Epoch and value.
    pub points: Vec<(f64, f64)>,
    /// Lowest and highest value at each point, for a band.
    pub band: Vec<(f64, f64)>,
}

/// A chart of lines over epochs.
pub struct Chart {
    pub title: String,
    pub unit: &'static str,
    pub series: Vec<Series>,
}

impl Chart {
    /// Draws the chart; nothing if there are no points.
    pub fn draw(&self, id: &str) -> Markup {
        let series: Vec<Series> = self.series.iter().map(thinned).collect();
        let Some(range) = Range::of(&series) else {
            return html! {};
        };
        let labelled: Vec<&Series> = series.iter().filter(|line| !line.is_faint).collect();
        html! {
            figure.chart id=(id) data-chart=(self.data(&series)) {
                figcaption {
                    strong { (self.title) } @if !self.unit.is_empty() { " (" (self.unit) ")" }
                    @if labelled.len() > 1 {
                        @for line in &labelled {
                            " " span class=(format!("key colour{}", line.colour % 8)) { (line.label) }
                        }
                    }
                }
                (drawing(&self.title, &series, &range))
                details id=(format!("{id}-numbers")) {
                    summary { "Numbers" }
                    (scrolled(&format!("Numbers of {}", self.title), &self.numbers(&labelled)))
                }
            }
        }
    }

    fn data(&self, series: &[Series]) -> String {
        let lines = series.iter().map(|line| {
            json!({ "label": line.label, "colour": line.colour % 8, "faint": line.is_faint,
                    "points": line.points, "band": line.band })
        });
        json!({ "title": self.title, "unit": self.unit, "series": lines.collect::<Vec<_>>() })
            .to_string()
    }

    fn numbers(&self, series: &[&Series]) -> Markup {
        let mut epochs: Vec<f64> = series
            .iter()
            .flat_map(|line| line.points.iter().map(|(x, _)| *x))
            .collect();
        epochs.sort_by(f64::total_cmp);
        epochs.dedup();
        let last = epochs.len().saturating_sub(1);
        let step = epochs.len().div_ceil(MAX_ROWS).max(1);
        let shown = epochs
            .iter()
            .enumerate()
            .filter(|(place, _)| place % step == 0 || *place == last);
        html! {
            table {
                thead { tr {
                    th scope="col" { "epoch" }
                    @for line in series { th.number scope="col" { (line.label) } }
                } }
                tbody {
                    @for (_, epoch) in shown {
                        tr {
                            th scope="row" { (epoch) }
                            @for line in series {
                                td.number {
                                    @if let Some((_, y)) = line.points.iter().find(|(x, _)| x == epoch) {
                                        (number(*y))
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Keeps the lowest and the highest point of each part of a long line.
fn thinned(line: &Series) -> Series {
    if line.points.len() <= MAX_POINTS {
        return line.clone();
    }
    let step = line.points.len().div_ceil(MAX_POINTS / 2);
    let mut kept = Vec::with_capacity(MAX_POINTS);
    for start in (0..line.points.len()).step_by(step) {
        let part = start..(start + step).min(line.points.len());
        let by_height = |a: &usize, b: &usize| line.points[*a].1.total_cmp(&line.points[*b].1);
        let low = part.clone().min_by(by_height).unwrap_or(start);
        let high = part.max_by(by_height).unwrap_or(start);
        kept.push(low.min(high));
        if low != high {
            kept.push(low.max(high));
        }
    }
    let pick = |values: &[(f64, f64)]| {
        kept.iter()
            .filter_map(|&place| values.get(place).copied())
            .collect()
    };
    Series {
        points: pick(&line.points),
        band: pick(&line.band),
        ..line.clone()
    }
}

/// The numbers that a drawing spans.
struct Range {
    x: (f64, f64),
    y: (f64, f64),
}

impl Range {
    fn of(series: &[Series]) -> Option<Self> {
        let points = series.iter().flat_map(|line| &line.points);
        let x = span(points.clone().map(|(x, _)| *x))?;
        let bands = series.iter().flat_map(|line| &line.band);
        let y = span(
            points
                .map(|(_, y)| *y)
                .chain(bands.flat_map(|(low, high)| [*low, *high])),
        )?;
        let margin = if y.1 > y.0 {
            (y.1 - y.0) * 0.06
        } else {
            y.0.abs().max(1.0) * 0.1
        };
        Some(Self {
            x: if x.1 > x.0 { x } else { (x.0 - 1.0, x.1 + 1.0) },
            y: (y.0 - margin, y.1 + margin),
        })
    }

    fn place(&self, (x, y): (f64, f64)) -> String {
        format!("{:.1} {:.1}", self.place_x(x), self.place_y(y))
    }

    fn place_x(&self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn place_y(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - (y - self.y.0) / (self.y.1 - self.y.0) * (HEIGHT - TOP - BOTTOM)
    }
}

fn span(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values
        .filter(|value| value.is_finite())
        .fold(None, |span, value| match span {
            None => Some((value, value)),
            Some((low, high)) => Some((value.min(low), value.max(high))),
        })
}

/// Returns round numbers inside a range, about this many.
fn ticks((low, high): (f64, f64), about: f64) -> Vec<f64> {
    let raw = (high - low) / about;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let step = step
        .into_iter()
        .find(|step| *step >= raw)
        .unwrap_or(10.0 * power);
    let first = (low / step).ceil();
    let count = ((high / step).floor() - first).max(0.0) as usize;
    (0..=count)
        .map(|index| (first + index as f64) * step)
        .collect()
}

fn number(value: f64) -> String {
    let text = match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    };
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn drawing(title: &str, series: &[Series], range: &Range) -> Markup {
    let bottom = HEIGHT - BOTTOM;
    let path = |points: &[(f64, f64)]| {
        let places: Vec<String> = points.iter().map(|point| range.place(*point)).collect();
        format!("M{}", places.join("L"))
    };
    let outline = |line: &Series| {
        let edge = |which: fn(&(f64, f64)) -> f64| {
            line.points
                .iter()
                .zip(&line.band)
                .map(move |((x, _), band)| (*x, which(band)))
        };
        let upper: Vec<(f64, f64)> = edge(|band| band.1).collect();
        let mut all = upper;
        all.extend(edge(|band| band.0).collect::<Vec<_>>().into_iter().rev());
        format!("{}Z", path(&all))
    };
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(format!("{title} by epoch; its numbers follow")) {
            @for tick in ticks(range.y, 5.0) {
                path.grid d=(format!("M{LEFT} {:.1}H{:.1}", range.place_y(tick), WIDTH - RIGHT)) {}
                text.tick x=(LEFT - 6.0) y=(format!("{:.1}", range.place_y(tick) + 4.0)) text-anchor="end" { (number(tick)) }
            }
            @for tick in ticks(range.x, 8.0).into_iter().filter(|tick| tick.fract() == 0.0) {
                text.tick x=(format!("{:.1}", range.place_x(tick))) y=(bottom + 16.0) text-anchor="middle" { (number(tick)) }
            }
            path.frame d=(format!("M{LEFT} {TOP}V{bottom}H{:.1}", WIDTH - RIGHT)) {}
            text.tick x=(LEFT + (WIDTH - LEFT - RIGHT) / 2.0) y=(HEIGHT - 3.0) text-anchor="middle" { "epoch" }
            @for line in series.iter().filter(|line| !line.band.is_empty()) {
                path class=(format!("band colour{}", line.colour % 8)) d=(outline(line)) {}
            }
            @for line in series {
                @if line.points.len() == 1 {
                    circle class=(format!("dot colour{}", line.colour % 8)) r="3"
                        cx=(format!("{:.1}", range.place_x(line.points[0].0)))
                        cy=(format!("{:.1}", range.place_y(line.points[0].1))) {}
                } @else {
                    path class=(format!("line colour{}{}", line.colour % 8, if line.is_faint { " faint" } else { "" }))
                        d=(path(&line.points)) {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(points: Vec<(f64, f64)>) -> Series {
        Series {
            label: "a".into(),
            colour: 0,
            is_faint: false,
            points,
            band: Vec::new(),
        }
    }

    #[test]
    fn a_long_line_is_thinned_and_keeps_its_extremes() {
        let mut points: Vec<(f64, f64)> = (0..10_000).map(|x| (f64::from(x), 1.0)).collect();
        points[4_321].1 = -7.0;
        points[8_765].1 = 9.0;
        let kept = thinned(&line(points)).points;
        assert!(kept.len() <= MAX_POINTS, "{}", kept.len());
        assert!(kept.contains(&(4_321.0, -7.0)) && kept.contains(&(8_765.0, 9.0)));
        assert!(kept.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(
            ticks((0.0, 100.0), 5.0),
            [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
        );
        assert_eq!(ticks((0.7, 4.2), 5.0), [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn a_chart_without_points_is_nothing_and_one_point_is_a_dot() {
        let chart = |points| {
            let chart = Chart {
                title: "loss".into(),
                unit: "",
                series: vec![line(points)],
            };
            chart.draw("c").into_string()
        };
        assert_eq!(chart(Vec::new()), "");
        assert!(chart(vec![(1.0, 0.5)]).contains("<circle"));
        assert!(!chart(vec![(1.0, 0.5)]).contains("NaN"));
    }
}
