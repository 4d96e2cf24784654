//! The footer: lines at the bottom of the terminal that show running trials, redrawn when they
//! change. All other output of the program scrolls above it.
//!
//! Pure: it returns the text to write for a terminal of a given size. `stderr.rs` owns the footer of
//! the process and writes it, `follow.rs` fills it.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The most trials that are listed; further ones are only counted.
const MAX_TRIALS: usize = 16;
/// Columns of a bar, if there is room.
const BAR: std::ops::RangeInclusive<usize> = 10..=24;
/// The fewest rows of a table that is worth its space.
const MIN_TABLE: usize = 4;

/// The size of the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub columns: usize,
    pub rows: usize,
}

/// The content of the footer, independent of the size of the terminal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Content {
    pub trials: Vec<Row>,
    pub sweep: Row,
    /// The current table, line by line.
    pub table: Vec<String>,
}

/// `NAME [====>   ] DETAIL  DETAIL`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// The name of the trial. A name that is too long loses its beginning, since its end
    /// distinguishes trials of one cell.
    pub name: String,
    /// The fraction that is done, from 0 to 1.
    pub share: f64,
    /// The most important first: a narrow terminal omits the last ones.
    pub details: Vec<String>,
}

#[derive(Debug, Default)]
pub struct Footer {
    content: Option<Content>,
    /// The lines that are on the screen.
    drawn: Vec<String>,
}

impl Footer {
    pub fn set(&mut self, content: Option<Content>) {
        self.content = content;
    }

    /// Returns true if the screen does not show the present content.
    pub fn is_stale(&self, size: Size) -> bool {
        self.lines(size) != self.drawn
    }

    /// Forgets what is on the screen: other programs have written to it.
    pub fn forget(&mut self) {
        self.drawn.clear();
    }

    /// Removes the footer from the screen. The cursor is in the line below it, however the terminal
    /// has broken lines since: a terminal that became narrower shows one line in several rows.
    pub fn erase(&mut self, size: Size) -> String {
        let columns = size.columns.max(1);
        let rows: usize = self
            .drawn
            .iter()
            .map(|line| line.width().div_ceil(columns).max(1))
            .sum();
        self.drawn.clear();
        if rows == 0 {
            String::new()
        } else {
            format!("\r\x1b[{rows}A\x1b[J")
        }
    }

    pub fn draw(&mut self, size: Size) -> String {
        self.drawn = self.lines(size);
        self.drawn.iter().map(|line| format!("{line}\n")).collect()
    }

    fn lines(&self, size: Size) -> Vec<String> {
        self.content
            .as_ref()
            .map_or_else(Vec::new, |content| content.lines(size))
    }
}

impl Content {
    /// Returns lines that fit: fewer than the terminal's rows, and each narrower than the terminal.
    fn lines(&self, size: Size) -> Vec<String> {
        let columns = size.columns.saturating_sub(1).max(1);
        let rows = size.rows.saturating_sub(2).max(1);
        let listed = self.trials.len().min(MAX_TRIALS).min(rows - 1);
        let mut sweep = self.sweep.clone();
        let hidden = self.trials.len() - listed;
        if hidden > 0 {
            sweep.details.push(format!("{hidden} not shown"));
        }
        let shown: Vec<&Row> = self.trials[..listed].iter().chain([&sweep]).collect();
        let mut lines = fit(&shown, columns);
        let room = rows - lines.len();
        if self.table.len() <= room {
            lines.extend(self.table.iter().map(|line| beginning(line, columns)));
        } else if room >= MIN_TABLE {
            lines.extend(
                self.table[..room - 1]
                    .iter()
                    .map(|line| beginning(line, columns)),
            );
            lines.push(beginning(
                &format!("... {} more lines", self.table.len() - room + 1),
                columns,
            ));
        }
        lines
    }
}

/// Formats rows one below another, in columns of equal width.
fn fit(rows: &[&Row], columns: usize) -> Vec<String> {
    let longest = |widths: &mut dyn Iterator<Item = usize>| widths.max().unwrap_or(0);
    let first = longest(&mut rows.iter().map(|row| row.detail(1).width()));
    let second = longest(&mut rows.iter().map(|row| row.detail(2).width()));
    let names = longest(&mut rows.iter().map(|row| row.name.width()));
    let names = names.min(columns.saturating_sub(first + 1)).max(1);
    // a bar is worth more than the third detail, but a longer bar is not
    let mut room = columns.saturating_sub(names + 1);
    let has_bar = room >= second + BAR.start() + 3;
    if has_bar {
        room -= BAR.start() + 3;
    }
    let details: Vec<String> = rows.iter().map(|row| row.details_within(room)).collect();
    let widest = longest(&mut details.iter().map(|text| text.width()));
    let bar = (BAR.start() + room.saturating_sub(widest)).min(*BAR.end());
    let line = |(row, details): (&&Row, String)| {
        let name = end(&row.name, names);
        let pad = " ".repeat(names - name.width());
        let bar = if has_bar {
            format!("{} ", row.bar(bar))
        } else {
            String::new()
        };
        beginning(format!("{name}{pad} {bar}{details}").trim_end(), columns)
    };
    rows.iter().zip(details).map(line).collect()
}

impl Row {
    fn detail(&self, count: usize) -> String {
        self.details
            .iter()
            .take(count)
            .cloned()
            .collect::<Vec<_>>()
            .join("  ")
    }

    /// Returns as many details as fit, at least one.
    fn details_within(&self, columns: usize) -> String {
        let counts = (1..=self.details.len()).rev();
        counts
            .map(|count| self.detail(count))
            .find(|text| text.width() <= columns)
            .unwrap_or_else(|| self.detail(1))
    }

    fn bar(&self, columns: usize) -> String {
        let done = (self.share.clamp(0.0, 1.0) * columns as f64) as usize;
        let head = if done > 0 && done < columns { ">" } else { "" };
        let body = "=".repeat(done.saturating_sub(head.len()));
        format!("[{:columns$}]", body + head)
    }
}

/// Returns the beginning of a text that is too wide.
fn beginning(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut kept = String::new();
    for symbol in text.chars() {
        if kept.width() + symbol.width().unwrap_or(0) > columns.saturating_sub(1) {
            break;
        }
        kept.push(symbol);
    }
    kept + "…"
}

/// Returns the end of a text that is too wide.
fn end(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut kept: Vec<char> = Vec::new();
    let mut width = 1;
    for symbol in text.chars().rev() {
        width += symbol.width().unwrap_or(0);
        if width > columns {
            break;
        }
        kept.push(symbol);
    }
    std::iter::once('…').chain(kept.into_iter().rev()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size {
        columns: 80,
        rows: 24,
    };

    fn row(name: &str, share: f64, details: &[&str]) -> Row {
        Row {
            name: name.to_owned(),
            share,
            details: details.iter().map(|detail| (*detail).to_owned()).collect(),
        }
    }

    fn content() -> Content {
        let trials = vec![
            row(
                "cos/10 learning_rate=0.1 seed 0",
                0.25,
                &["epoch 3/12", "93.1 %", "2100 images/s"],
            ),
            row("xent/10 learning_rate=0.05 seed 12", 0.0, &["starting"]),
        ];
        let sweep = row(
            "quickstart",
            0.5,
            &["12/24 trials", "about 12m30s left, at least", "2 running"],
        );
        Content {
            trials,
            sweep,
            table: Vec::new(),
        }
    }

    fn drawn(content: Content, size: Size) -> Vec<String> {
        content.lines(size)
    }

    #[test]
    fn eighty_columns_hold_name_bar_and_details() {
        let mut content = content();
        assert_eq!(
            drawn(content.clone(), SIZE),
            [
                "cos/10 learning_rate=0.1 seed 0    epoch 3/12  93.1 %  2100 images/s",
                "xent/10 learning_rate=0.05 seed 12 starting",
                "quickstart                         12/24 trials  about 12m30s left, at least",
            ]
        );
        content.trials[0].name = "cos/10 seed 0".to_owned();
        content.trials[1].name = "xent/10 seed 12".to_owned();
        assert_eq!(
            drawn(content, SIZE),
            [
                "cos/10 seed 0   [===>               ] epoch 3/12  93.1 %  2100 images/s",
                "xent/10 seed 12 [                   ] starting",
                "quickstart      [========>          ] 12/24 trials  about 12m30s left, at least",
            ]
        );
    }

    #[test]
    fn no_line_is_as_wide_as_the_terminal_and_no_name_loses_its_end() {
        for columns in 1..200 {
            let size = Size { columns, rows: 24 };
            for line in drawn(content(), size) {
                assert!(line.width() < columns.max(2), "{columns}: {line}");
            }
            if columns > 40 {
                let lines = drawn(content(), size);
                assert!(
                    lines[0].contains("learning_rate=0.1 seed 0"),
                    "{columns}: {lines:#?}"
                );
                assert!(
                    lines[1].contains("learning_rate=0.05 seed 12"),
                    "{columns}: {lines:#?}"
                );
                assert!(lines[2].contains("12/24 trials"), "{columns}: {lines:#?}");
            }
        }
    }

    #[test]
    fn a_low_terminal_lists_what_fits_and_counts_the_rest() {
        let mut content = content();
        content.trials = (0..40)
            .map(|seed| row(&format!("cos seed {seed}"), 0.1, &["epoch 1/9"]))
            .collect();
        content.table = (0..30).map(|line| format!("line {line}")).collect();
        for rows in 3..60 {
            let lines = drawn(content.clone(), Size { columns: 100, rows });
            assert!(lines.len() < rows, "{rows}: {lines:#?}");
        }
        let lines = drawn(
            content.clone(),
            Size {
                columns: 120,
                rows: 8,
            },
        );
        assert!(lines[5].contains("35 not shown"), "{lines:#?}");
        let lines = drawn(
            content,
            Size {
                columns: 120,
                rows: 30,
            },
        );
        assert_eq!(lines.last().unwrap(), "... 20 more lines", "{lines:#?}");
    }

    #[test]
    fn a_footer_is_erased_whole_when_the_terminal_has_become_narrower() {
        let mut footer = Footer::default();
        assert_eq!(footer.erase(SIZE), "", "nothing was drawn");
        footer.set(Some(Content {
            sweep: row("s", 0.0, &[&"x".repeat(60)]),
            ..Content::default()
        }));
        let text = footer.draw(SIZE);
        assert!(
            text.ends_with('\n') && text.lines().count() == 1,
            "{text:?}"
        );
        assert!(
            !footer.is_stale(SIZE)
                && footer.is_stale(Size {
                    columns: 40,
                    rows: 24
                })
        );
        assert_eq!(
            footer.erase(Size {
                columns: 40,
                rows: 24
            }),
            "\r\x1b[2A\x1b[J"
        );
        footer.draw(SIZE);
        footer.forget();
        assert_eq!(
            footer.erase(SIZE),
            "",
            "another program has written below it"
        );
        footer.draw(SIZE);
        footer.set(None);
        assert_eq!(
            (footer.erase(SIZE).as_str(), footer.draw(SIZE).as_str()),
            ("\r\x1b[1A\x1b[J", "")
        );
    }

    #[test]
    fn bars_are_empty_at_first_and_full_at_the_end() {
        let bar = |share| row("x", share, &[]).bar(10);
        assert_eq!(
            [bar(0.0), bar(0.55), bar(1.0)],
            ["[          ]", "[====>     ]", "[==========]"]
        );
        assert_eq!(
            [bar(-1.0), bar(f64::NAN), bar(7.0)],
            ["[          ]", "[          ]", "[==========]"]
        );
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(
            (end("数据 seed 1", 9), beginning("数据 seed 1", 4)),
            ("… seed 1".to_owned(), "数…".to_owned())
        );
    }
}
