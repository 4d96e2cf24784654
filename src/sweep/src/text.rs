//! Texts from peers, made safe to store, log and print: bounded, and without the escape sequences
//! and control characters that a terminal would act on.
//!
//! [`Line`] and [`Lines`] are the types. Records with plain strings read them by the same rules
//! (`#[serde(deserialize_with = "text::line")]`), so that a document from the network and one from
//! an old journal are cleaned alike. Text that is too long is refused if the peer can receive an
//! error (`checked`), and cut everywhere else.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize};

/// Limit for reasons, descriptions, names of programs and devices.
pub const MAX_LINE_BYTES: usize = 1 << 10;
/// Limit for messages of failures, descriptions of sweeps, captions.
pub const MAX_LINES_BYTES: usize = 16 << 10;
/// Maximum number of lines in a list in a result or a failure: devices, libraries.
pub const MAX_LIST: usize = 1024;

/// One line: no line breaks, at most [`MAX_LINE_BYTES`], cut at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Line(String);

/// Several lines: line breaks and tabs stay, at most [`MAX_LINES_BYTES`], cut in the middle.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Lines(String);

/// The error for a text above its limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("has {bytes} bytes, at most {limit} are allowed")]
pub struct TooLong {
    pub bytes: usize,
    pub limit: usize,
}

impl Line {
    /// Refuses text that would be cut.
    pub fn checked(text: &str) -> Result<Self, TooLong> {
        at_most(text, MAX_LINE_BYTES)?;
        Ok(Self::from(text))
    }
}

impl Lines {
    /// Refuses text that would be cut.
    pub fn checked(text: &str) -> Result<Self, TooLong> {
        at_most(text, MAX_LINES_BYTES)?;
        Ok(Self::from(text))
    }
}

fn at_most(text: &str, limit: usize) -> Result<(), TooLong> {
    if text.len() > limit {
        Err(TooLong {
            bytes: text.len(),
            limit,
        })
    } else {
        Ok(())
    }
}

impl From<&str> for Line {
    fn from(text: &str) -> Self {
        Self(cut(&clean(text, ' ', ' '), MAX_LINE_BYTES))
    }
}

impl From<&str> for Lines {
    fn from(text: &str) -> Self {
        Self(shortened(&clean(text, '\n', '\t'), MAX_LINES_BYTES))
    }
}

macro_rules! text {
    ($name:ident) => {
        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self::from(text.as_str())
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.0 == *other
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer).map(Self::from)
            }
        }
    };
}

text!(Line);
text!(Lines);

/// Reads a string as a [`Line`].
pub fn line<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Line::deserialize(deserializer).map(String::from)
}

/// Reads a string as [`Lines`].
pub fn lines<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Lines::deserialize(deserializer).map(String::from)
}

/// Reads an optional string as a [`Line`].
pub fn optional_line<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    Ok(Option::<Line>::deserialize(deserializer)?.map(String::from))
}

/// Reads a list of strings as [`Line`]s, the first [`MAX_LIST`] of them.
pub fn line_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let lines = Vec::<Line>::deserialize(deserializer)?;
    Ok(lines.into_iter().take(MAX_LIST).map(String::from).collect())
}

/// Reads a map of strings as [`Line`]s, the first [`MAX_LIST`] of them.
pub fn line_map<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let lines = BTreeMap::<Line, Line>::deserialize(deserializer)?;
    Ok(lines
        .into_iter()
        .take(MAX_LIST)
        .map(|(name, value)| (name.into(), value.into()))
        .collect())
}

/// Reads a list of strings as [`Lines`].
pub fn lines_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Vec::<Lines>::deserialize(deserializer)?
        .into_iter()
        .map(String::from)
        .collect())
}

/// Returns the longest beginning of at most `limit` bytes, with an ellipsis if something is
/// missing.
pub fn cut(text: &str, limit: usize) -> String {
    const ELLIPSIS: &str = "...";
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(limit.saturating_sub(ELLIPSIS.len()));
    format!("{}{ELLIPSIS}", &text[..end])
}

/// Returns at most `limit` bytes: the first line and the end of a long message, with a mark for the
/// missing part.
pub fn shortened(text: &str, limit: usize) -> String {
    const MARK: &str = "\n[...]\n";
    if text.len() <= limit {
        return text.to_owned();
    }
    let room = limit.saturating_sub(MARK.len());
    let first = text.lines().next().unwrap_or_default();
    let first = &first[..first.floor_char_boundary(room / 2)];
    let tail = &text[text.ceil_char_boundary(text.len() - (room - first.len()))..];
    format!("{first}{MARK}{tail}")
}

/// Removes escape sequences and characters that control a terminal, and replaces line breaks and
/// tabs as given.
fn clean(text: &str, line_break: char, tab: char) -> String {
    if !text.contains(|character: char| character.is_control() || is_steering(character)) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        match character {
            '\n' => out.push(line_break),
            // progress bars return to the start of their line; a pair of both is one break
            '\r' if rest.starts_with('\n') => {}
            '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => out.push(line_break),
            '\t' => out.push(tab),
            '\u{1b}' => rest = after_escape(rest),
            '\u{9b}' => rest = after_control_sequence(rest),
            '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => rest = after_string(rest),
            character if character.is_control() => out.push(char::REPLACEMENT_CHARACTER),
            character if is_steering(character) => {}
            character => out.push(character),
        }
    }
    out
}

/// Returns true for characters that change the order of adjacent text or break lines.
fn is_steering(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Returns the text after an escape sequence, given the text after its `ESC`.
fn after_escape(rest: &str) -> &str {
    match rest.chars().next() {
        Some('[') => after_control_sequence(&rest[1..]),
        Some(']' | 'P' | 'X' | '^' | '_') => after_string(&rest[1..]),
        // intermediate characters, one final one
        _ => after_final(
            rest.trim_start_matches(|character| matches!(character, ' '..='/')),
            '0'..='~',
        ),
    }
}

/// Skips colours and cursor movements: parameters, one final letter.
fn after_control_sequence(rest: &str) -> &str {
    after_final(
        rest.trim_start_matches(|character| matches!(character, ' '..='?')),
        '@'..='~',
    )
}

fn after_final(rest: &str, finals: std::ops::RangeInclusive<char>) -> &str {
    rest.strip_prefix(|character| finals.contains(&character))
        .unwrap_or(rest)
}

/// Skips titles and links: to the end of their string, or of the line if that is missing.
fn after_string(rest: &str) -> &str {
    let Some(end) = rest.find(['\n', '\r', '\u{7}', '\u{9c}', '\u{1b}']) else {
        return "";
    };
    let (_, rest) = rest.split_at(end);
    let ended = rest
        .strip_prefix(['\u{7}', '\u{9c}'])
        .or_else(|| rest.strip_prefix("\u{1b}\\"));
    ended.unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escape_sequences_are_removed_and_their_text_stays() {
        for (raw, line, lines) in [
            ("plain ü 猫", "plain ü 猫", "plain ü 猫"),
            ("\u{1b}[1;31merror\u{1b}[0m: no", "error: no", "error: no"),
            ("\u{9b}31mred\u{9b}m", "red", "red"),
            ("\u{1b}]0;a title\u{7}text", "text", "text"),
            (
                "\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\",
                "link",
                "link",
            ),
            ("\u{1b}]52;c;never ended\nnext", " next", "\nnext"),
            ("\u{1b}(Bascii\u{1b}7", "ascii", "ascii"),
            (
                "one\ntwo\tthree\r\nfour\rfive",
                "one two three four five",
                "one\ntwo\tthree\nfour\nfive",
            ),
            (
                "bell\u{7} nul\u{0}",
                "bell\u{fffd} nul\u{fffd}",
                "bell\u{fffd} nul\u{fffd}",
            ),
            ("user\u{202e}txt.exe\u{2066}", "usertxt.exe", "usertxt.exe"),
            ("\u{1b}", "", ""),
            ("\u{1b}[", "", ""),
            ("\u{1b}[12", "", ""),
        ] {
            assert_eq!(Line::from(raw), line, "{raw:?}");
            assert_eq!(Lines::from(raw), lines, "{raw:?}");
        }
    }

    #[test]
    fn long_texts_are_refused_or_cut() {
        let long = "é".repeat(MAX_LINE_BYTES);
        assert_eq!(
            Line::checked(&long),
            Err(TooLong {
                bytes: 2 * MAX_LINE_BYTES,
                limit: MAX_LINE_BYTES
            })
        );
        let line = Line::from(long);
        assert!(
            line.len() <= MAX_LINE_BYTES && line.ends_with("é..."),
            "{line}"
        );
        let message = format!("the cause\n{}\nthe end", "x\n".repeat(MAX_LINES_BYTES));
        assert!(Lines::checked(&message).is_err());
        let lines = Lines::from(message);
        assert!(
            lines.len() <= MAX_LINES_BYTES
                && lines.starts_with("the cause\n[...]\n")
                && lines.ends_with("the end")
        );
    }

    #[test]
    fn a_long_message_keeps_its_first_line_and_its_end_and_fills_the_limit() {
        let text = format!("one\n{}", "x".repeat(100));
        let tail = "x".repeat(50 - "one\n[...]\n".len());
        assert_eq!(shortened(&text, 50), format!("one\n[...]\n{tail}"));
        assert_eq!(shortened(&text, 104), text);
        let first = "y".repeat(100);
        let (kept, tail) = ("y".repeat(21), "y".repeat(22));
        assert_eq!(shortened(&first, 50), format!("{kept}\n[...]\n{tail}"));
    }

    #[test]
    fn records_read_their_strings_by_the_same_rules() {
        #[derive(Deserialize)]
        struct Record {
            #[serde(deserialize_with = "line")]
            one: String,
            #[serde(deserialize_with = "lines")]
            several: String,
            #[serde(deserialize_with = "line_list")]
            list: Vec<String>,
            #[serde(deserialize_with = "line_map")]
            map: BTreeMap<String, String>,
        }
        let many = |number| format!("\u{1b}[1m{number:04}");
        let numbers = || 0..MAX_LIST + 1;
        let map: BTreeMap<String, String> = numbers().map(|key| (many(key), many(key))).collect();
        let json = serde_json::json!({
            "one": "a\u{1b}[2Jb\nc",
            "several": "a\u{1b}[2Jb\nc",
            "list": numbers().map(many).collect::<Vec<_>>(),
            "map": map,
        })
        .to_string();
        let record: Record = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (record.one.as_str(), record.several.as_str()),
            ("ab c", "ab\nc")
        );
        let kept: Vec<String> = (0..MAX_LIST).map(|number| format!("{number:04}")).collect();
        assert_eq!(record.list, kept);
        assert!(record.map.keys().eq(&kept) && record.map.values().eq(&kept));
    }

    proptest! {
        #[test]
        fn terminal_control_sequences_are_removed(raw in any::<String>(), noise in "[\u{1b}\u{9b}\\[\\]0-9;m\r\n\tx]{0,40}") {
            let raw = format!("{raw}{noise}");
            let (line, lines) = (Line::from(raw.as_str()), Lines::from(raw.as_str()));
            prop_assert!(!line.contains(|c: char| c.is_control() || is_steering(c)));
            prop_assert!(!lines.contains(|c: char| (c.is_control() && !matches!(c, '\n' | '\t')) || is_steering(c)));
            // cleaning again changes nothing: journalled text reads back unchanged
            prop_assert_eq!(&Line::from(&*line), &line);
            prop_assert_eq!(&Lines::from(&*lines), &lines);
        }
    }
}
