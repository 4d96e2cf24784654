//! Numbers and times as a page shows them.

use sweep::Share;
use time::OffsetDateTime;

/// Formats a duration with its two largest units: `3 h 12 min`.
pub fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    }
}

/// Formats a time: `2026-11-28 06:10:04 UTC`.
pub fn timestamp(ms: u64) -> String {
    let Ok(time) = OffsetDateTime::from_unix_timestamp((ms / 1000) as i64) else {
        return String::new();
    };
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    let month = u8::from(month);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Formats a fraction as a percentage with one decimal, rounded as the tables round.
pub fn percent(fraction: f64) -> String {
    format!("{} %", Share::new(fraction, 0))
}

/// Formats the value of a setting.
pub fn value(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Formats bytes in MiB.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Returns the first line of a text, shortened to a number of characters.
pub fn first_line(text: &str, max_chars: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        for (ms, expected) in [
            (900, "0 s"),
            (59_999, "59 s"),
            (61_000, "1 min 1 s"),
            (3_600_000, "1 h 0 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(ms), expected);
        }
    }

    #[test]
    fn times_are_in_utc() {
        assert_eq!(timestamp(1_795_846_204_000), "2026-11-28 06:10:04 UTC");
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        assert_eq!(first_line("αβγδ\nmore", 3), "αβγ…");
        assert_eq!(first_line("αβγ", 3), "αβγ");
    }
}
