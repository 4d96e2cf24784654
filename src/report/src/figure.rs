//! A figure before it is drawn: panels, series, points, scales. `svg.rs` draws it as SVG,
//! `sketch.rs` for a terminal.
//!
//! The x axis is numeric if every value of its axis is a number (logarithmic if they span a factor
//! of 20 or more). Otherwise it is a row of names.

use std::collections::BTreeMap;

use sweep::definition::{Figure, Look, Spread, Table};

use crate::grid::{TableLayout, heading, published_value};
use crate::notes;
use crate::results::{CellStatus, Results};

pub struct Plot {
    pub name: String,
    pub caption: String,
    /// Description of the numbers, and warnings.
    pub subtitle: Vec<String>,
    pub x_label: String,
    pub scale: Scale,
    pub ticks: Vec<Tick>,
    pub panels: Vec<Panel>,
    /// Labels of the series, in order; panels refer to them by index.
    pub series: Vec<String>,
    /// Smallest and largest percentage shown.
    pub y_range: (f64, f64),
}

impl Plot {
    /// Returns the position of a value from the first tick (0) to the last (1); the middle if there
    /// is only one tick.
    pub fn x_fraction(&self, value: f64) -> f64 {
        let place = |x: f64| {
            if self.scale == Scale::Logarithmic {
                x.ln()
            } else {
                x
            }
        };
        let ticks = || self.ticks.iter().map(|tick| place(tick.x));
        let (low, high) = (
            ticks().fold(f64::INFINITY, f64::min),
            ticks().fold(f64::NEG_INFINITY, f64::max),
        );
        if high > low {
            (place(value) - low) / (high - low)
        } else {
            0.5
        }
    }

    /// Returns the position of a percentage from the lower edge (0) to the upper edge (1).
    pub fn y_fraction(&self, value: f64) -> f64 {
        let (low, high) = self.y_range;
        ((value - low) / (high - low)).clamp(0.0, 1.0)
    }

    /// Returns about six round numbers within the range.
    pub fn y_ticks(&self) -> Vec<f64> {
        let (low, high) = self.y_range;
        let step = [1.0, 2.0, 5.0, 10.0, 20.0]
            .into_iter()
            .find(|step| (high - low) / step <= 7.0)
            .unwrap_or(20.0);
        let first = (low / step).ceil() as i64;
        let last = (high / step).floor() as i64;
        (first..=last).map(|tick| tick as f64 * step).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Linear,
    Logarithmic,
    /// One position per value, in order.
    Names,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    pub x: f64,
    pub label: String,
}

pub struct Panel {
    pub title: String,
    pub lines: Vec<Line>,
}

pub struct Line {
    /// Index into `Plot::series`.
    pub series: usize,
    pub points: Vec<Point>,
    /// Published numbers: x and percentage.
    pub published: Vec<(f64, f64)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub x: f64,
    /// Mean in per cent.
    pub mean: f64,
    pub deviation: Option<f64>,
    pub complete: bool,
}

/// Axes whose values span this factor are logarithmic.
const LOGARITHMIC_FROM: f64 = 20.0;

/// Returns the table with the same numbers; its text and data are published with the figure.
pub fn as_table(figure: &Figure) -> Table {
    Table {
        name: figure.name.clone(),
        caption: figure.caption.clone(),
        rows: figure
            .panels
            .iter()
            .chain(&figure.series)
            .cloned()
            .collect(),
        columns: vec![figure.x.clone()],
        value: figure.value,
        baseline: BTreeMap::new(),
        tolerance: None,
        overall: None,
        look: Look::default(),
    }
}

pub fn plot(results: &Results, figure: &Figure, layout: &TableLayout) -> Plot {
    let sweep = results.sweep;
    let axis = |name: &String| sweep.axes.iter().position(|axis| axis.name == *name);
    let x_axis = axis(&figure.x);
    let series_axes: Vec<usize> = figure.series.iter().filter_map(axis).collect();
    let panel_axis = figure.panels.as_ref().and_then(axis);
    let (scale, positions) = scale(results, x_axis);
    let mut panels: BTreeMap<u32, BTreeMap<Vec<u32>, Line>> = BTreeMap::new();
    let mut keys: Vec<Vec<u32>> = sweep
        .cells
        .iter()
        .map(|cell| {
            series_axes
                .iter()
                .map(|&axis| cell.coordinates[axis])
                .collect()
        })
        .collect();
    keys.sort();
    keys.dedup();
    let mut used = vec![false; positions.len()];
    for (index, cell) in sweep.cells.iter().enumerate() {
        let key: Vec<u32> = series_axes
            .iter()
            .map(|&axis| cell.coordinates[axis])
            .collect();
        let panel = panel_axis.map_or(0, |axis| cell.coordinates[axis]);
        let place = x_axis.map_or(0, |axis| cell.coordinates[axis] as usize);
        let x = positions[place];
        used[place] = true;
        let series = keys.binary_search(&key).expect("every key was collected");
        let lines = panels.entry(panel).or_default();
        let line = lines.entry(key).or_insert_with(|| Line {
            series,
            points: Vec::new(),
            published: Vec::new(),
        });
        let summary = &layout.summaries[index];
        if let Some(numbers) = summary.summary {
            let deviation = numbers.deviation.map(|deviation| 100.0 * deviation);
            let complete = summary.status == CellStatus::Complete;
            line.points.push(Point {
                x,
                mean: numbers.mean.percent(),
                deviation,
                complete,
            });
        }
        if let Some(value) = published_value(results, cell) {
            line.published.push((x, value.value));
        }
    }
    let label = |axis: usize, value: u32| sweep.axes[axis].values[value as usize].label.clone();
    let panels: Vec<Panel> = panels
        .into_iter()
        .map(|(value, lines)| {
            let title = panel_axis.map_or_else(String::new, |axis| label(axis, value));
            Panel {
                title,
                lines: lines.into_values().map(sorted).collect(),
            }
        })
        .collect();
    let series = keys.iter().map(|key| {
        let labels: Vec<String> = series_axes
            .iter()
            .zip(key)
            .map(|(&axis, &value)| label(axis, value))
            .collect();
        labels.join(", ")
    });
    let ticks = positions
        .iter()
        .zip(&used)
        .enumerate()
        .filter(|(_, (_, used))| **used);
    let ticks = ticks.map(|(value, (&x, _))| Tick {
        x,
        label: x_axis.map_or_else(String::new, |axis| label(axis, value as u32)),
    });
    let mut subtitle = notes::warnings(results);
    subtitle.push(notes::protocol(results, figure.value, Spread::Std));
    if panels
        .iter()
        .flat_map(|panel| &panel.lines)
        .any(|line| !line.published.is_empty())
    {
        subtitle.extend(notes::published(results));
    }
    subtitle.extend(notes::searches(results, &layout.summaries));
    Plot {
        name: figure.name.clone(),
        caption: figure.caption.clone(),
        subtitle,
        x_label: heading(&figure.x),
        scale,
        ticks: ticks.collect(),
        y_range: y_range(&panels),
        panels,
        series: series.collect(),
    }
}

fn sorted(mut line: Line) -> Line {
    line.points.sort_by(|a, b| a.x.total_cmp(&b.x));
    line.published.sort_by(|a, b| a.0.total_cmp(&b.0));
    line
}

/// Returns the scale, and the position of each axis value.
fn scale(results: &Results, axis: Option<usize>) -> (Scale, Vec<f64>) {
    let Some(axis) = axis else {
        return (Scale::Names, vec![0.0]);
    };
    let values = &results.sweep.axes[axis].values;
    let numbers: Option<Vec<f64>> = values
        .iter()
        .map(|value| {
            value
                .name
                .parse()
                .ok()
                .filter(|number: &f64| number.is_finite())
        })
        .collect();
    let Some(numbers) = numbers else {
        return (
            Scale::Names,
            (0..values.len()).map(|index| index as f64).collect(),
        );
    };
    let low = numbers.iter().copied().fold(f64::INFINITY, f64::min);
    let high = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let logarithmic = low > 0.0 && high / low >= LOGARITHMIC_FROM;
    (
        if logarithmic {
            Scale::Logarithmic
        } else {
            Scale::Linear
        },
        numbers,
    )
}

/// Returns the range, in multiples of ten per cent, that contains everything drawn.
fn y_range(panels: &[Panel]) -> (f64, f64) {
    let lines = || panels.iter().flat_map(|panel| &panel.lines);
    let bands = lines().flat_map(|line| &line.points).flat_map(|point| {
        let deviation = point.deviation.unwrap_or(0.0);
        [point.mean - deviation, point.mean + deviation]
    });
    let published = lines()
        .flat_map(|line| &line.published)
        .map(|(_, value)| *value);
    let (low, high) = bands
        .chain(published)
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
    if low > high {
        return (0.0, 100.0);
    }
    let step = if high - low > 25.0 { 10.0 } else { 2.0 };
    let (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
    let (low, high) = (low.max(0.0), high.min(100.0));
    if high > low {
        (low, high)
    } else {
        ((high - step).max(0.0), (low + step).min(100.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(points: &[(f64, f64)], published: &[f64]) -> (f64, f64) {
        let points = points.iter().map(|(mean, deviation)| Point {
            x: 0.0,
            mean: *mean,
            deviation: Some(*deviation),
            complete: true,
        });
        let line = Line {
            series: 0,
            points: points.collect(),
            published: published.iter().map(|value| (0.0, *value)).collect(),
        };
        y_range(&[Panel {
            title: String::new(),
            lines: vec![line],
        }])
    }

    #[test]
    fn the_range_contains_means_spreads_and_published_numbers() {
        assert_eq!(range(&[], &[]), (0.0, 100.0));
        assert_eq!(range(&[(51.0, 0.5), (55.0, 2.0)], &[]), (50.0, 58.0));
        assert_eq!(range(&[(51.0, 0.0)], &[61.5]), (50.0, 62.0));
        assert_eq!(range(&[(11.0, 0.0), (55.0, 0.0)], &[]), (10.0, 60.0));
        assert_eq!(range(&[(99.0, 3.0)], &[]), (96.0, 100.0));
        assert_eq!(range(&[(1.0, 3.0)], &[]), (0.0, 4.0));
        assert_eq!(range(&[(50.0, 0.0)], &[]), (48.0, 52.0));
        assert_eq!(range(&[(20.0, 0.0), (45.0, 0.0)], &[]), (20.0, 46.0));
    }
}
