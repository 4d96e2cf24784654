//! Draws a plot with characters, for a terminal: one letter per series, a dotted line between its
//! points.
//!
//! Precise to one line of text, so the table with the numbers is printed with it; `svg.rs` draws
//! the real figure. Published numbers and spreads are left out: there is no room for them.

use unicode_width::UnicodeWidthStr;

use crate::figure::{Line, Panel, Plot};

/// Height of a panel, in lines.
const HEIGHT: usize = 14;
/// Maximum width; a wider panel shows no more.
const MAX_WIDTH: usize = 72;
/// Room for the y axis and its numbers.
const MARGIN: usize = 6;
/// Mark where letters of several series coincide.
const SEVERAL: char = '&';
const BETWEEN: char = '·';

/// Draws every panel and the legend, lines ended with `\n`. Empty while no panel has results at two
/// positions of the x axis, since there is nothing to join with a line.
pub fn sketch(plot: &Plot, width: usize) -> String {
    let joins = |panel: &&Panel| panel.lines.iter().any(|line| line.points.len() > 1);
    let panels: Vec<&Panel> = plot.panels.iter().filter(joins).collect();
    let columns = width.saturating_sub(MARGIN).min(MAX_WIDTH);
    // If there is too little room for a picture, the table alone is clearer.
    if panels.is_empty() || columns < plot.ticks.len() * 2 {
        return String::new();
    }
    let mut out = String::new();
    for panel in panels {
        if !panel.title.is_empty() {
            push(&mut out, &format!("{:MARGIN$}{}", "", panel.title));
        }
        draw(&mut out, plot, panel, columns);
    }
    for (series, label) in plot.series.iter().enumerate() {
        push(
            &mut out,
            &format!("{:MARGIN$}{}  {label}", "", letter(series)),
        );
    }
    out
}

fn draw(out: &mut String, plot: &Plot, panel: &Panel, columns: usize) {
    let mut canvas = vec![vec![' '; columns]; HEIGHT];
    for line in &panel.lines {
        dots(&mut canvas, plot, line);
    }
    for line in &panel.lines {
        for point in &line.points {
            let (column, row) = (
                place(plot.x_fraction(point.x), columns),
                row(plot, point.mean),
            );
            let here = &mut canvas[row][column];
            *here = if here.is_ascii_alphabetic() || *here == SEVERAL {
                SEVERAL
            } else {
                letter(line.series)
            };
        }
    }
    let mut labels = vec![String::new(); HEIGHT];
    for tick in plot.y_ticks() {
        labels[row(plot, tick)] = format!("{tick}");
    }
    for (label, cells) in labels.iter().zip(&canvas) {
        let axis = if label.is_empty() { '│' } else { '┤' };
        push(
            out,
            &format!("{label:>4} {axis}{}", cells.iter().collect::<String>()),
        );
    }
    let mut axis = vec!['─'; columns];
    for tick in &plot.ticks {
        axis[place(plot.x_fraction(tick.x), columns)] = '┬';
    }
    push(out, &format!("   % └{}", axis.iter().collect::<String>()));
    push(
        out,
        &format!("{:MARGIN$}{}", "", tick_labels(plot, columns)),
    );
    push(out, &format!("{:MARGIN$}{:^columns$}", "", plot.x_label));
}

/// Draws straight lines from point to point, under everything else.
fn dots(canvas: &mut [Vec<char>], plot: &Plot, line: &Line) {
    let columns = canvas[0].len();
    for pair in line.points.windows(2) {
        let (from, to) = (
            place(plot.x_fraction(pair[0].x), columns),
            place(plot.x_fraction(pair[1].x), columns),
        );
        let steps = to.saturating_sub(from);
        for step in 0..steps {
            let value = pair[0].mean + step as f64 / steps as f64 * (pair[1].mean - pair[0].mean);
            canvas[row(plot, value)][from + step] = BETWEEN;
        }
    }
}

/// Centres labels under their ticks; a label that would touch the previous one is left out.
fn tick_labels(plot: &Plot, columns: usize) -> String {
    let mut text = String::new();
    for tick in &plot.ticks {
        let start = place(plot.x_fraction(tick.x), columns).saturating_sub(tick.label.width() / 2);
        let used = text.width();
        if used == 0 || start > used {
            text.extend(std::iter::repeat_n(' ', start - used.min(start)));
            text.push_str(&tick.label);
        }
    }
    text
}

fn place(fraction: f64, places: usize) -> usize {
    (fraction * (places - 1) as f64).round() as usize
}

fn row(plot: &Plot, value: f64) -> usize {
    HEIGHT - 1 - place(plot.y_fraction(value), HEIGHT)
}

/// Returns A, B, C, ..., starting again at A after Z.
fn letter(series: usize) -> char {
    char::from(b'A' + (series % 26) as u8)
}

fn push(out: &mut String, line: &str) {
    out.push_str(line.trim_end());
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Point, Scale, Tick};

    fn plot(num_ticks: usize, lines: &[&[(f64, f64)]]) -> Plot {
        let point = |&(x, mean): &(f64, f64)| Point {
            x,
            mean,
            deviation: None,
            complete: true,
        };
        let lines = lines.iter().enumerate().map(|(series, points)| Line {
            series,
            points: points.iter().map(point).collect(),
            published: Vec::new(),
        });
        let tick = |x: usize| Tick {
            x: x as f64,
            label: format!("<{x}>"),
        };
        Plot {
            name: String::new(),
            caption: String::new(),
            subtitle: Vec::new(),
            x_label: "x".to_owned(),
            scale: Scale::Linear,
            ticks: (0..num_ticks).map(tick).collect(),
            series: (0..lines.len())
                .map(|line| format!("line {line}"))
                .collect(),
            panels: vec![Panel {
                title: String::new(),
                lines: lines.collect(),
            }],
            y_range: (0.0, 100.0),
        }
    }

    #[test]
    fn nothing_is_drawn_without_a_line_or_without_room() {
        let line: &[_] = &[(0.0, 10.0), (4.0, 90.0)];
        assert!(sketch(&plot(5, &[&line[..1], &line[1..]]), 80).is_empty());
        assert!(!sketch(&plot(5, &[&line[..1], line]), 80).is_empty());
        assert!(sketch(&plot(5, &[line]), MARGIN + 9).is_empty());
        assert!(!sketch(&plot(5, &[line]), MARGIN + 10).is_empty());
        assert!(sketch(&plot(5, &[line]), 3).is_empty());
        let longest = sketch(&plot(5, &[line]), 500);
        let axis = longest
            .lines()
            .find(|line| line.contains('└'))
            .expect("an axis");
        assert_eq!(axis.chars().count(), MARGIN + MAX_WIDTH);
    }

    #[test]
    fn letters_meet_lines_pass_below_and_labels_keep_apart() {
        let drawing = sketch(
            &plot(
                5,
                &[
                    &[(0.0, 0.0), (2.0, 50.0), (4.0, 100.0)],
                    &[(0.0, 100.0), (2.0, 50.0)],
                ],
            ),
            MARGIN + 21,
        );
        let first = drawing.lines().next();
        assert_eq!(first, Some(" 100 ┤B                   A"));
        let middle: Vec<&str> = drawing
            .lines()
            .filter(|line| line.contains(SEVERAL))
            .collect();
        assert_eq!(middle, ["     │         ·&·"]);
        let labels = drawing.lines().rev().nth(3).expect("labels of ticks");
        assert_eq!(labels, "      <0> <1>  <2>  <3>  <4>");
        assert_eq!(drawing.matches(BETWEEN).count(), 27, "{drawing}");
        assert!(
            drawing.ends_with("      A  line 0\n      B  line 1\n"),
            "{drawing}"
        );
        let narrow = sketch(&plot(5, &[&[(0.0, 0.0), (4.0, 100.0)]]), MARGIN + 12);
        let labels = narrow.lines().rev().nth(2).expect("labels of ticks");
        assert_eq!(labels, "      <0>  <2>  <4>");
        assert_eq!((letter(0), letter(25), letter(26)), ('A', 'Z', 'A'));
    }
}
