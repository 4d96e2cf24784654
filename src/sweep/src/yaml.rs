//! Parses YAML text into a tree of nodes with their places in the text. The only module that
//! depends on serde-saphyr.
//!
//! It decides which text is acceptable at all (one document, bounded depth, nodes and aliases);
//! keys have no meaning here. Duplicate keys stay in the tree: the walk over it reports both
//! places.

use std::fmt;
use std::ops::Range;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use serde_saphyr::{DuplicateKeyPolicy, Error, Location, Spanned};

/// Maximum nesting; the language needs seven levels.
const MAX_DEPTH: usize = 32;
const MAX_NODES: usize = 400_000;
const MAX_REPLAYED_BY_ALIASES: usize = 20_000;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub at: Range<usize>,
    pub data: Data,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Data {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub at: Range<usize>,
    pub text: String,
}

impl Node {
    /// Returns the kind of value, for messages: `a list`.
    pub(crate) fn kind(&self) -> &'static str {
        match self.data {
            Data::Null => "nothing",
            Data::Bool(_) => "true or false",
            Data::Number(_) => "a number",
            Data::Text(_) => "text",
            Data::List(_) => "a list",
            Data::Map(_) => "a mapping",
        }
    }

    /// Moves the node and everything in it to later places.
    fn shift(&mut self, by: usize) {
        if by == 0 {
            return;
        }
        self.at = shifted(&self.at, by);
        match &mut self.data {
            Data::List(items) => items.iter_mut().for_each(|item| item.shift(by)),
            Data::Map(entries) => {
                for (key, node) in entries {
                    key.at = shifted(&key.at, by);
                    node.shift(by);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(value) => Value::Bool(*value),
            Data::Number(number) => Value::Number(number.clone()),
            Data::Text(text) => Value::String(text.clone()),
            Data::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Data::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(key, node)| (key.text.clone(), node.to_json()))
                    .collect(),
            ),
        }
    }
}

/// The error that stopped the parser.
#[derive(Debug)]
pub(crate) struct ParseError {
    pub at: Range<usize>,
    pub message: String,
    pub help: &'static str,
}

/// Parses a file. `None` for a file without any content.
pub(crate) fn parse(text: &str) -> Result<Option<Node>, ParseError> {
    let without_mark = text.strip_prefix('\u{feff}').unwrap_or(text);
    let shift = text.len() - without_mark.len();
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_documents: 2,
        },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPLAYED_BY_ALIASES,
            max_replay_stack_depth: 16,
        },
        strict_booleans: true,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Node>(without_mark, options) {
        Ok(mut root) => {
            root.shift(shift);
            Ok((root.data != Data::Null).then_some(root))
        }
        Err(Error::Eof { .. }) => Ok(None),
        Err(error) => Err(explain(&error, without_mark, shift)),
    }
}

fn explain(error: &Error, text: &str, shift: usize) -> ParseError {
    let mut error = error.without_snippet();
    while let Error::AliasError { error: inner, .. } = error {
        error = inner.without_snippet();
    }
    let at = error.location().map_or(0..0, |location| {
        shifted(&place_of_error(location, text), shift)
    });
    // After an unclosed bracket or quote the parser points past the last line: show the last line
    // with content.
    let last = shift + text.trim_end().len();
    let at = at.start.min(last.saturating_sub(1).max(shift))..at.end.min(last);
    let (message, help) = match error {
        Error::MultipleDocuments { .. } => (
            "the file holds several YAML documents".to_owned(),
            "one sweep per file: put each document into a file of its own",
        ),
        Error::Budget { .. } => (
            format!("the file is nested deeper than {MAX_DEPTH} levels or holds too many values"),
            "no sweep needs that: is it the right file?",
        ),
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. } => (
            "the aliases (`*name`) of this file expand to too many values".to_owned(),
            "write the values out",
        ),
        other => (
            format!(
                "not readable as YAML: {}",
                without_position(&other.to_string())
            ),
            "indent with spaces only, write `key: value` with a space after the colon, and quote text that holds \
             `: `, ` #`, brackets or braces",
        ),
    };
    ParseError { at, message, help }
}

/// Returns the parser's message without the place, which the excerpt shows.
fn without_position(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let mut end = first.len();
    for marker in [" at line ", " (line ", " at byte "] {
        end = end.min(first.find(marker).unwrap_or(end));
    }
    let text =
        first[..end].trim_start_matches(|symbol: char| !symbol.is_alphanumeric() && symbol != '`');
    text.trim_end_matches([',', ':', ' ']).to_owned()
}

fn shifted(at: &Range<usize>, by: usize) -> Range<usize> {
    at.start.saturating_add(by)..at.end.saturating_add(by)
}

fn place(location: Location) -> Range<usize> {
    let span = location.span();
    let index = |value: Option<u64>| {
        value
            .and_then(|value| usize::try_from(value).ok())
            .unwrap_or(0)
    };
    let start = index(span.byte_offset());
    start..start.saturating_add(index(span.byte_len()))
}

/// Finds the place of an error. Errors of the scanner have line and column, but no bytes.
fn place_of_error(location: Location, text: &str) -> Range<usize> {
    if location.span().byte_offset().is_some() {
        return place(location);
    }
    let index = |value: u64| {
        usize::try_from(value)
            .unwrap_or(usize::MAX)
            .saturating_sub(1)
    };
    let line_start: usize = text
        .split_inclusive('\n')
        .take(index(location.line()))
        .map(str::len)
        .sum();
    let column = text[line_start..]
        .char_indices()
        .nth(index(location.column()))
        .map_or(0, |(byte, _)| byte);
    let start = line_start + column;
    start..start + 1
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::deserialize(deserializer)?;
        Ok(Self {
            at: place(spanned.referenced),
            data: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::deserialize(deserializer)?;
        Ok(Self {
            at: place(spanned.referenced),
            text: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DataVisitor)
    }
}

struct DataVisitor;

impl<'de> Visitor<'de> for DataVisitor {
    type Value = Data;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Data, E> {
        Ok(Data::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Data, E> {
        Ok(Data::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Data, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Data, E> {
        Ok(Data::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Data, E> {
        Ok(Data::Number(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Data, E> {
        Ok(Data::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Data, E> {
        let number = Number::from_f64(value);
        number
            .map(Data::Number)
            .ok_or_else(|| E::custom("infinite numbers and `.nan` have no use here"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Data, E> {
        Ok(Data::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Data, E> {
        Ok(Data::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Data, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Data::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Data, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key()? {
            map.push((key, entries.next_value()?));
        }
        Ok(Data::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_at<'a>(text: &'a str, at: &Range<usize>) -> &'a str {
        &text[at.clone()]
    }

    #[test]
    fn nodes_know_their_place() {
        let text = "\u{feff}# é\na: [1, 0.50, cos]\n'b c': {d: true, d: ~}\n";
        let root = parse(text).unwrap().unwrap();
        let Data::Map(entries) = &root.data else {
            panic!("{root:?}")
        };
        assert_eq!(text_at(text, &entries[0].0.at), "a");
        assert_eq!(entries[1].0.text, "b c");
        let Data::List(items) = &entries[0].1.data else {
            panic!("{root:?}")
        };
        let written: Vec<&str> = items.iter().map(|item| text_at(text, &item.at)).collect();
        assert_eq!(written, ["1", "0.50", "cos"]);
        assert_eq!(items[1].data, Data::Number(Number::from_f64(0.5).unwrap()));
        let Data::Map(inner) = &entries[1].1.data else {
            panic!("{root:?}")
        };
        let keys: Vec<&str> = inner.iter().map(|(key, _)| key.text.as_str()).collect();
        assert_eq!(keys, ["d", "d"], "a repeated key stays in the tree");
    }

    #[test]
    fn a_file_without_content_has_no_tree() {
        for text in ["", "\n\n", "# only a comment\n", "---\n", "\u{feff}"] {
            assert!(parse(text).unwrap().is_none(), "{text:?}");
        }
    }

    #[test]
    fn several_unbounded_or_broken_documents_are_refused() {
        let deep = "[".repeat(2000);
        let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (name, before) in "bcdefghi".chars().zip("abcdefgh".chars()) {
            bomb.push_str(&format!(
                "{name}: &{name} [{}]\n",
                vec![format!("*{before}"); 9].join(", ")
            ));
        }
        let cases = [
            ("a: 1\n---\nb: 2\n", "several YAML documents"),
            ("a: [1, 2\n", "unclosed bracket"),
            ("a: \"open\n", "not readable as YAML"),
            ("a: b: c\n", "not readable as YAML"),
            ("a: *nowhere\n", "not readable as YAML"),
            ("a: &a [*a]\n", ""),
            ("a: .inf\n", ""),
            (&deep, ""),
            (&bomb, "too many values"),
        ];
        for (text, expected) in cases {
            let error = parse(text).expect_err(text);
            assert!(
                error.message.contains(expected),
                "{text:.40}: {}",
                error.message
            );
        }
    }
}
