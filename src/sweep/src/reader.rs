//! Reads a YAML tree and keeps every complaint: mappings with known keys, texts, numbers,
//! assignments to fields.
//!
//! The meaning of a sweep's keys is in `draft.rs`.

use std::ops::Range;

use serde_json::Value;

use crate::diagnostic::{Problem, Source};
use crate::field::{self, Complaint, did_you_mean};
use crate::foreign_names;
use crate::program::{FieldRef, Namespace};
use crate::yaml::{Data, Key, Node};

/// One file being read, and its problems so far.
pub(crate) struct Reader {
    pub source: Source,
    pub problems: Vec<Problem>,
    /// The fields that the file can set.
    pub fields: Namespace,
}

/// The entries of a mapping, each key once.
pub(crate) struct Mapping<'n>(pub Vec<(&'n Key, &'n Node)>);

impl<'n> Mapping<'n> {
    pub(crate) fn get(&self, name: &str) -> Option<&'n Node> {
        self.0
            .iter()
            .find(|(key, _)| key.text == name)
            .map(|(_, node)| *node)
    }

    /// Returns the place of its first key; that of its node if it is empty.
    pub(crate) fn start(&self, node: &Node) -> Range<usize> {
        let first = self.0.first();
        first.map_or(node.at.clone(), |(key, _)| key.at.clone())
    }
}

/// `field: value` as written in a recipe, a `set`, an axis value or an override.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    pub field: FieldRef,
    /// The value in the form that `Settings` writes.
    pub value: Value,
    pub at: Range<usize>,
}

impl Reader {
    pub(crate) fn new(source: Source) -> Self {
        Self {
            source,
            problems: Vec::new(),
            fields: Namespace::BuiltIn,
        }
    }

    /// Returns a problem of this file, for `report`.
    pub(crate) fn problem(&self, at: &Range<usize>, message: impl Into<String>) -> Problem {
        Problem::new(&self.source, at.clone(), message)
    }

    /// Reports a problem at one place, with its fix.
    pub(crate) fn refuse(
        &mut self,
        at: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.report(self.problem(at, message).help(help));
    }

    pub(crate) fn report(&mut self, problem: Problem) {
        // Enough to work through; the file may be something else entirely.
        const MAX_PROBLEMS: usize = 50;
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }

    /// Reports something that is there a second time.
    pub(crate) fn refuse_again(
        &mut self,
        at: &Range<usize>,
        first: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let problem = self.problem(at, message).label("again").help(help);
        self.report(problem.also(first.clone(), "first here"));
    }

    /// Reports a problem unless the node is a mapping, its keys are known and each occurs once.
    /// `what` is the name of the mapping in messages; `known` is empty if any key is allowed.
    pub(crate) fn mapping<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        known: &[&str],
    ) -> Option<Mapping<'n>> {
        let Data::Map(entries) = &node.data else {
            let example = known.first().unwrap_or(&"key");
            self.refuse(
                &node.at,
                format!("{what} is {}, not a mapping", node.kind()),
                format!("write `{example}: ...`, one key per line"),
            );
            return None;
        };
        let mut seen: Vec<(&Key, &Node)> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            if let Some((first, _)) = seen.iter().find(|(other, _)| other.text == key.text) {
                let message = format!("{what} has the key `{}` twice", key.text);
                self.refuse_again(&key.at, &first.at, message, "keep one of the two");
            } else if known.is_empty() || known.contains(&key.text.as_str()) {
                seen.push((key, value));
            } else {
                let problem = self.problem(&key.at, format!("{what} has no key `{}`", key.text));
                let help = unknown_key_help(&self.fields, &key.text, known)
                    .unwrap_or_else(|| format!("possible: {}", known.join(", ")));
                self.report(problem.label("unknown key").help(help));
            }
        }
        Some(Mapping(seen))
    }

    pub(crate) fn list<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        match &node.data {
            Data::List(items) => Some(items),
            _ => {
                self.refuse(
                    &node.at,
                    format!("{what} is {}, not a list", node.kind()),
                    "write [one, two], or one `- item` per line",
                );
                None
            }
        }
    }

    /// Returns a list; a single item is a list of one.
    pub(crate) fn one_or_many<'n>(&mut self, node: &'n Node) -> &'n [Node] {
        match &node.data {
            Data::List(items) => items,
            _ => std::slice::from_ref(node),
        }
    }

    pub(crate) fn text(&mut self, node: &Node, what: &str) -> Option<String> {
        match &node.data {
            Data::Text(text) => Some(text.clone()),
            _ => {
                self.refuse(
                    &node.at,
                    format!("{what} is {}, not text", node.kind()),
                    "put it into quotes if text is meant",
                );
                None
            }
        }
    }

    pub(crate) fn count(
        &mut self,
        node: &Node,
        what: &str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        let value = match &node.data {
            Data::Number(number) => number.as_u64().filter(|value| range.contains(value)),
            _ => None,
        };
        if value.is_none() {
            let shown = field::show(&node.to_json());
            let message = format!(
                "{what} is {shown}, not a whole number from {} to {}",
                range.start(),
                range.end()
            );
            self.report(self.problem(&node.at, message));
        }
        value
    }

    pub(crate) fn number(&mut self, node: &Node, what: &str) -> Option<f64> {
        match &node.data {
            Data::Number(number) => number.as_f64(),
            _ => {
                self.report(
                    self.problem(&node.at, format!("{what} is {}, not a number", node.kind())),
                );
                None
            }
        }
    }

    pub(crate) fn flag(&mut self, node: &Node, what: &str) -> Option<bool> {
        let Data::Bool(flag) = node.data else {
            let message = format!("{what} is {}", node.kind());
            self.refuse(&node.at, message, "write true or false");
            return None;
        };
        Some(flag)
    }

    /// Reads one of several words.
    pub(crate) fn word<T: Copy>(
        &mut self,
        node: &Node,
        what: &str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let names = || words.iter().map(|(name, _)| *name);
        let all = || format!("write one of {}", names().collect::<Vec<_>>().join(", "));
        let Data::Text(text) = &node.data else {
            self.refuse(&node.at, format!("{what} is {}", node.kind()), all());
            return None;
        };
        let found = words
            .iter()
            .find(|(name, _)| name == text)
            .map(|(_, meaning)| *meaning);
        if found.is_none() {
            self.refuse(
                &node.at,
                format!("{what} is `{text}`, which does not exist"),
                did_you_mean(text, names()).unwrap_or_else(all),
            );
        }
        found
    }

    /// Returns the name of a scalar as written in the file, so that `1e-3` stays `1e-3`.
    pub(crate) fn scalar_name(&self, node: &Node) -> Option<String> {
        match &node.data {
            Data::Text(text) => Some(text.clone()),
            Data::Bool(value) => Some(value.to_string()),
            Data::Number(number) => {
                let written = self
                    .source
                    .inner()
                    .get(node.at.clone())
                    .unwrap_or_default()
                    .trim();
                let same = written
                    .parse::<f64>()
                    .is_ok_and(|value| Some(value) == number.as_f64());
                Some(if same {
                    written.to_owned()
                } else {
                    number.to_string()
                })
            }
            Data::Null | Data::List(_) | Data::Map(_) => None,
        }
    }

    /// Reads `field: value` pairs; every wrong one is a separate problem.
    pub(crate) fn assignments(&mut self, node: &Node, what: &str) -> Vec<Assignment> {
        let Some(mapping) = self.mapping(node, what, &[]) else {
            return Vec::new();
        };
        mapping
            .0
            .into_iter()
            .filter_map(|(key, value)| self.assignment(key, value))
            .collect()
    }

    pub(crate) fn assignment(&mut self, key: &Key, node: &Node) -> Option<Assignment> {
        let Some(field) = self.fields.find(&key.text) else {
            let problem = self.problem(&key.at, format!("no field is called `{}`", key.text));
            let help = self
                .fields
                .help_for(&key.text)
                .unwrap_or_else(|| "docs/sweep-file.md lists every field".to_owned());
            self.report(problem.label("unknown field").help(help));
            return None;
        };
        self.value(&field, node).map(|value| Assignment {
            field,
            value,
            at: key.at.start..node.at.end.max(key.at.end),
        })
    }

    /// Reads a value of a field, in the form that `Settings` writes.
    pub(crate) fn value(&mut self, field: &FieldRef, node: &Node) -> Option<Value> {
        if let Some((first, again)) = repeated_key(node) {
            let message = format!("`{}` has the key `{}` twice", field.name(), again.text);
            self.refuse_again(&again.at, &first.at, message, "keep one of the two");
            return None;
        }
        match field.check(&node.to_json()) {
            Ok(value) => Some(value),
            Err(complaint) => {
                let problem = self.complaint(field.name(), node, &complaint);
                self.report(problem);
                None
            }
        }
    }

    fn complaint(&self, name: &str, node: &Node, complaint: &Complaint) -> Problem {
        let mut at = &node.at;
        let mut node = node;
        for (depth, step) in complaint.path.iter().enumerate() {
            let Data::Map(entries) = &node.data else {
                break;
            };
            let Some((key, value)) = entries.iter().find(|(key, _)| key.text == *step) else {
                break;
            };
            let last = depth + 1 == complaint.path.len();
            at = if last && complaint.key {
                &key.at
            } else {
                &value.at
            };
            node = value;
        }
        let mut path = complaint
            .path
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>();
        if complaint.key {
            path.pop();
        }
        path.insert(0, name);
        let message = if complaint.key {
            format!("a key of `{}` {}", path.join("."), complaint.message)
        } else {
            format!("`{}` {}", path.join("."), complaint.message)
        };
        self.problem(at, message).maybe_help(complaint.help.clone())
    }
}

/// Suggests what to write instead of a key that a mapping does not have.
fn unknown_key_help(fields: &Namespace, key: &str, known: &[&str]) -> Option<String> {
    if let Some(field) = fields.find(key) {
        return Some(format!(
            "`{}` is a field: write it into `set`",
            field.name()
        ));
    }
    // `seed` instead of `seeds` is a typing error, not another tool's word
    let is_slip = known
        .iter()
        .any(|name| name.starts_with(key) || key.starts_with(name));
    let foreign = foreign_names::meant(key)
        .filter(|_| !is_slip)
        .map(str::to_owned);
    foreign.or_else(|| did_you_mean(key, known.iter().copied()))
}

fn repeated_key(node: &Node) -> Option<(&Key, &Key)> {
    match &node.data {
        Data::Map(entries) => {
            let twice = entries.iter().enumerate().find_map(|(index, (key, _))| {
                let first = entries[..index]
                    .iter()
                    .find(|(other, _)| other.text == key.text);
                first.map(|(first, _)| (first, key))
            });
            twice.or_else(|| entries.iter().find_map(|(_, value)| repeated_key(value)))
        }
        Data::List(items) => items.iter().find_map(repeated_key),
        _ => None,
    }
}
