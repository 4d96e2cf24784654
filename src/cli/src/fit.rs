//! Texts that are cut to a number of columns, for terminals and lines that must not wrap.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Fewest columns of a cell's name beside its candidate and seed.
const MIN_CELL: usize = 3;

/// Returns the beginning of a text that is too wide.
pub fn beginning(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    head(text, columns.saturating_sub(1)) + "…"
}

/// Returns beginning and end of a text that is too wide.
pub fn middle(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let room = columns.saturating_sub(1);
    let first = room / 2;
    format!("{}…{}", head(text, first), tail(text, room - first))
}

/// Formats the name of a trial: `cos/10 learning_rate=0.1 seed 3`. The cell loses its middle if the
/// name is too wide; the candidate of a search and the seed distinguish trials of one cell and stay.
pub fn trial(cell: &str, seed: u64, columns: usize) -> String {
    let seed = sweep::seed::name(seed);
    let candidate = cell
        .rsplit_once(' ')
        .filter(|(_, candidate)| candidate.contains('='));
    let (cell, end) = match candidate {
        Some((cell, candidate)) => (cell, format!(" {candidate} seed {seed}")),
        None => (cell, format!(" seed {seed}")),
    };
    let room = columns.saturating_sub(end.width());
    if cell.width() <= room {
        return format!("{cell}{end}");
    }
    if room >= MIN_CELL {
        return format!("{}{end}", middle(cell, room));
    }
    format!("…{}", tail(&end, columns.saturating_sub(1)))
}

fn head(text: &str, columns: usize) -> String {
    let mut used = 0;
    text.chars()
        .take_while(|symbol| {
            used += symbol.width().unwrap_or(0);
            used <= columns
        })
        .collect()
}

fn tail(text: &str, columns: usize) -> String {
    let mut used = 0;
    let kept: Vec<char> = text
        .chars()
        .rev()
        .take_while(|symbol| {
            used += symbol.width().unwrap_or(0);
            used <= columns
        })
        .collect();
    kept.into_iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidate_and_seed_stay_visible() {
        let cell = "cos/a-value-whose-name-is-long learning_rate=0.05";
        assert_eq!(trial(cell, 12, 80), format!("{cell} seed 12"));
        assert_eq!(
            trial(cell, 12, 46),
            "cos/a-val…e-is-long learning_rate=0.05 seed 12"
        );
        assert_eq!(trial(cell, 12, 32), "co…ng learning_rate=0.05 seed 12");
        assert_eq!(trial(cell, 12, 20), "…g_rate=0.05 seed 12");
        assert_eq!(trial("xent/10", 3, 80), "xent/10 seed 3");
    }

    #[test]
    fn no_text_is_wider_than_its_room() {
        for columns in 1..60 {
            for text in [
                "cos/数据数据数据数据/10 learning_rate=0.1",
                "x",
                "a long one of ASCII alone",
            ] {
                for cut in [
                    beginning(text, columns),
                    middle(text, columns),
                    trial(text, 7, columns),
                ] {
                    assert!(cut.width() <= columns.max(1), "{columns}: {cut}");
                }
            }
        }
    }
}
