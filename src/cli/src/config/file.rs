//! The text of a configuration file: from TOML to settings with their places. Reports every problem
//! with its line, as a sweep file's are.

use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue};
use sweep::diagnostic::{Problem, Source};
use sweep::field::did_you_mean;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::settings::{self, Kind, LAUNCH, SETTINGS, Setting};
use crate::args::Cli;

/// A setting of a file.
#[derive(Debug)]
pub struct Entry {
    pub setting: &'static Setting,
    /// The words of the command line: one, unless the setting is a list; `true` or `false` for a
    /// switch.
    pub values: Vec<OsString>,
    pub line: usize,
}

/// Reads the text of a file. `folder` is the absolute path of the file's folder, `home` that of `~`.
pub fn parse(source: &Source, folder: &Path, home: Option<&Path>) -> (Vec<Entry>, Vec<Problem>) {
    let text = source.inner();
    let (document, errors) = DeTable::parse_recoverable(text);
    let problems = errors
        .iter()
        .map(|error| Problem::new(source, error.span().unwrap_or(0..0), error.message()));
    let mut reader = Reader {
        source,
        folder,
        home,
        entries: Vec::new(),
        problems: problems.collect(),
    };
    // The rest of a text that is no TOML means something else.
    if reader.problems.is_empty() {
        reader.table(None, document.get_ref());
    }
    (reader.entries, reader.problems)
}

struct Reader<'a> {
    source: &'a Source,
    folder: &'a Path,
    home: Option<&'a Path>,
    entries: Vec<Entry>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn table(&mut self, table: Option<&'static str>, content: &DeTable<'_>) {
        for (key, value) in content {
            match (table, key.get_ref().as_ref(), value.get_ref()) {
                (None, LAUNCH, DeValue::Table(inner)) => self.table(Some(LAUNCH), inner),
                (None, LAUNCH, _) => {
                    let problem = Problem::new(self.source, value.span(), "`launch` is a table")
                        .help("`[launch]` holds the flags of `--launch slurm`, which is given on the command line");
                    self.problems.push(problem);
                }
                (_, name, _) => match settings::find(table, name) {
                    Some(setting) => self.setting(setting, key.span(), value),
                    None => self.unknown(table, name, key.span()),
                },
            }
        }
    }

    fn unknown(&mut self, table: Option<&'static str>, name: &str, at: Range<usize>) {
        let elsewhere = SETTINGS
            .iter()
            .find(|setting| setting.key == name.replace('-', "_"))
            .filter(|setting| setting.table != table)
            .map(|setting| match setting.table {
                Some(table) => format!("`{}` belongs below `[{table}]`", setting.key),
                None => format!("`{}` belongs above the first `[...]`", setting.key),
            });
        let known = SETTINGS.iter().filter(|setting| setting.table == table);
        let known = known.map(|setting| setting.key);
        let names = known.clone().chain(table.is_none().then_some(LAUNCH));
        let help = elsewhere
            .or_else(|| did_you_mean(name, names))
            .unwrap_or_else(|| {
                format!(
                    "the settings here are {}",
                    known.collect::<Vec<_>>().join(", ")
                )
            });
        let shown = table.map_or(name.to_owned(), |table| format!("{table}.{name}"));
        let problem = Problem::new(self.source, at, format!("`{shown}` is no setting"));
        self.problems.push(problem.help(help));
    }

    fn setting(
        &mut self,
        setting: &'static Setting,
        at: Range<usize>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let wrong = |expected: &str| {
            let found = value.get_ref().type_str();
            let message = format!(
                "`{}` is {expected}, not a value of type {found}",
                setting.name()
            );
            Problem::new(self.source, value.span(), message)
        };
        let values = match (setting.kind, value.get_ref()) {
            (Kind::Text, DeValue::String(text)) => Ok(vec![OsString::from(text.as_ref())]),
            (Kind::Path, DeValue::String(text)) if text.is_empty() => Err(Problem::new(
                self.source,
                value.span(),
                format!("`{}` names no path", setting.name()),
            )),
            (Kind::Path, DeValue::String(text)) => Ok(vec![self.path(text)]),
            (Kind::Number, DeValue::Integer(number)) => Ok(vec![number.to_string().into()]),
            (Kind::Repeated | Kind::Texts, DeValue::Array(list)) => list
                .iter()
                .map(|item| item.get_ref().as_str().map(OsString::from))
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| wrong("a list of texts")),
            (Kind::Switch | Kind::SwitchOrText, DeValue::Boolean(on)) => {
                Ok(vec![on.to_string().into()])
            }
            (Kind::SwitchOrText, DeValue::String(text)) => Ok(vec![text.as_ref().into()]),
            (Kind::Text | Kind::Path, _) => Err(wrong("a text").help("write it in double quotes")),
            (Kind::Number, _) => Err(wrong("a whole number")),
            (Kind::Texts, _) => Err(wrong("a list of texts").help("such as [\"--qos=long\"]")),
            (Kind::Switch, _) => Err(wrong("`true` or `false`")),
            (Kind::SwitchOrText, _) => Err(wrong("`true`, `false` or a text")),
            (Kind::Repeated, _) => Err(wrong("a list of texts")),
        };
        let values = values.and_then(|values| match refusal(setting, &values) {
            Some(reason) => {
                let message = format!("`{}`: {reason}", setting.name());
                Err(Problem::new(self.source, value.span(), message))
            }
            None => Ok(values),
        });
        match values {
            Ok(values) => {
                let (line, _) = Problem::new(self.source, at, "").position();
                self.entries.push(Entry {
                    setting,
                    values,
                    line,
                });
            }
            Err(problem) => self.problems.push(problem),
        }
    }

    fn path(&self, text: &str) -> OsString {
        match (text.strip_prefix("~/"), self.home) {
            (Some(below), Some(home)) => home.join(below).into(),
            _ => self.folder.join(text).into(),
        }
    }
}

/// Returns the reason why the command line would not take the value.
fn refusal(setting: &Setting, values: &[OsString]) -> Option<String> {
    let mut words: Vec<OsString> = ["orchestrator", "config", "--launch=slurm"]
        .map(OsString::from)
        .into();
    words.extend(command_line_words(setting, values));
    let error = Cli::command().try_get_matches_from(words).err()?;
    // The environment may hold a wrong value of another flag.
    let concerns_it = matches!(
        error.get(ContextKind::InvalidArg),
        Some(ContextValue::String(argument)) if argument.split(' ').next() == Some(&setting.flag())
    );
    let reason = || match std::error::Error::source(&error) {
        Some(source) => source.to_string(),
        None => format!("`{}` is not accepted", values[0].to_string_lossy()),
    };
    concerns_it.then(reason)
}

/// Returns the words of a command line that have the effect of a setting.
pub fn command_line_words(setting: &Setting, values: &[OsString]) -> Vec<OsString> {
    let word = OsString::from(setting.flag());
    let is_switch = matches!(setting.kind, Kind::Switch | Kind::SwitchOrText);
    match values.first().and_then(|value| value.to_str()) {
        _ if setting.kind == Kind::Texts => {
            return [word].into_iter().chain(values.iter().cloned()).collect();
        }
        Some("true" | "") if is_switch => return vec![word],
        Some("false") if is_switch => return Vec::new(),
        _ => {}
    }
    let with_value = |value: &OsString| {
        let mut word = word.clone();
        word.push("=");
        word.push(value);
        word
    };
    values.iter().map(with_value).collect()
}
