//! An archive's contents: the events that a sweep's report follows from, the report, and what a
//! report made again from these events has otherwise.
//!
//! The archive as a file is the shell's matter; nothing here reads or writes one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use schedule::event::{Event, Recorded};
use schedule::state::State;
use serde_json::Value;
use sweep::TrialId;
use sweep::record::TrialResult;

use crate::{RESULTS_JSON, Reporter, StoredResults};

/// The files of a report: name and content.
pub type ReportFiles = Vec<(String, Vec<u8>)>;

/// The events of a journal that a sweep's report follows from.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalPart {
    pub events: Vec<Recorded>,
    /// True if these are all events of the journal, those of other sweeps included.
    pub is_whole: bool,
}

/// Returns the events that are about a sweep, about sweeps that share trials with it, or about
/// workers, and the report that follows from them. If they do not give the same report as the whole
/// journal, all events are returned. Secrets of workers are left out.
pub fn journal_part(
    mut events: Vec<Recorded>,
    sweep: &str,
) -> Result<(JournalPart, ReportFiles), String> {
    for recorded in &mut events {
        if let Event::WorkerJoined { secret, .. } = &mut recorded.event {
            *secret = None;
        }
    }
    let files = report_of(&events, sweep)?;
    let part = related(&events, sweep);
    let is_enough = report_of(&part, sweep).is_ok_and(|of_part| of_part == files);
    let (events, is_whole) = match is_enough {
        true => (part.clone(), part.len() == events.len()),
        false => (events, true),
    };
    Ok((JournalPart { events, is_whole }, files))
}

/// Makes the report of a sweep from events, without anything else.
pub fn report_of(events: &[Recorded], sweep: &str) -> Result<ReportFiles, String> {
    let mut state = State::default();
    for recorded in events {
        schedule::apply(&mut state, recorded).map_err(|error| error.to_string())?;
    }
    let reporter = Reporter::of(&state, sweep).map_err(|error| error.to_string())?;
    let mut files = Vec::new();
    reporter
        .write_files(&mut InEvents(events), &mut files)
        .map_err(|error| error.to_string())?;
    Ok(files)
}

/// Results in a list of events.
struct InEvents<'a>(&'a [Recorded]);

impl StoredResults for InEvents<'_> {
    fn result(&mut self, event: u64) -> io::Result<TrialResult> {
        let index = usize::try_from(event)
            .ok()
            .and_then(|event| event.checked_sub(1));
        match index
            .and_then(|index| self.0.get(index))
            .map(|recorded| &recorded.event)
        {
            Some(Event::AttemptSucceeded { result, .. }) => Ok((**result).clone()),
            _ => Err(io::Error::other(format!("event {event} holds no result"))),
        }
    }
}

fn related(events: &[Recorded], sweep: &str) -> Vec<Recorded> {
    let mut trials_of: BTreeMap<&str, BTreeSet<TrialId>> = BTreeMap::new();
    for recorded in events {
        let (name, trials) = match &recorded.event {
            Event::SweepSubmitted { sweep, trials } => (sweep.name.as_str(), trials.as_slice()),
            Event::CandidateChosen { sweep, trials, .. }
            | Event::RankingLookedAt { sweep, trials, .. } => (sweep.as_str(), trials.as_slice()),
            _ => continue,
        };
        let ids = trials.iter().map(|trial| trial.id);
        trials_of.entry(name).or_default().extend(ids);
    }
    let wanted = trials_of.get(sweep).cloned().unwrap_or_default();
    trials_of.retain(|name, trials| *name == sweep || !trials.is_disjoint(&wanted));
    let trials: BTreeSet<TrialId> = trials_of.values().flatten().copied().collect();
    let is_related = |event: &Event| match event {
        Event::SweepSubmitted { sweep, .. } => trials_of.contains_key(sweep.name.as_str()),
        Event::SweepCancelled { sweep, .. }
        | Event::SweepRemoved { sweep }
        | Event::FailedTrialsRetried { sweep, .. }
        | Event::TrialsRetried { sweep, .. }
        | Event::CandidateChosen { sweep, .. }
        | Event::RankingLookedAt { sweep, .. } => trials_of.contains_key(sweep.as_str()),
        Event::TrialDispatched { attempt, .. }
        | Event::AttemptSucceeded { attempt, .. }
        | Event::AttemptFailed { attempt, .. }
        | Event::AttemptStopped { attempt } => trials.contains(&attempt.trial),
        Event::Launch(_) | Event::TokenRevoked { .. } => false,
        Event::WorkerJoined { .. }
        | Event::WorkerDraining { .. }
        | Event::WorkerUndrained { .. }
        | Event::WorkerGone { .. }
        | Event::HostDrained { .. }
        | Event::HostUndrained { .. }
        | Event::SlotFreed { .. }
        | Event::SlotBroken { .. }
        | Event::SlotPaused { .. } => true,
    };
    let kept = events.iter().filter(|recorded| is_related(&recorded.event));
    kept.cloned().collect()
}

/// A value that an archive has otherwise than the report made again from its events.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// `main.csv, cell cos/10`.
    pub place: String,
    /// The column, or the path of the value in a JSON document.
    pub field: String,
    /// Absent: the archive lacks the value.
    pub archived: Option<String>,
    /// Absent: the value does not follow from the events.
    pub recomputed: Option<String>,
}

/// Compares the files of an archive with those of the report made again.
pub fn differences(archived: &ReportFiles, recomputed: &ReportFiles) -> Vec<Difference> {
    let by_name =
        |files: &ReportFiles| -> BTreeMap<String, Vec<u8>> { files.iter().cloned().collect() };
    let (archived, recomputed) = (by_name(archived), by_name(recomputed));
    let names: BTreeSet<&String> = archived.keys().chain(recomputed.keys()).collect();
    let mut found = Vec::new();
    for name in names {
        // It lists the hashes of the other files, each of which is compared itself.
        if name == "manifest.json" {
            continue;
        }
        match (archived.get(name), recomputed.get(name)) {
            (Some(ours), Some(theirs)) if ours == theirs => {}
            (Some(ours), Some(theirs)) => found.extend(of_file(name, ours, theirs)),
            (ours, theirs) => {
                let shown =
                    |file: Option<&Vec<u8>>| file.map(|file| format!("{} bytes", file.len()));
                found.push(Difference {
                    place: name.clone(),
                    field: "the file".to_owned(),
                    archived: shown(ours),
                    recomputed: shown(theirs),
                });
            }
        }
    }
    found
}

fn of_file(name: &str, archived: &[u8], recomputed: &[u8]) -> Vec<Difference> {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (archived, recomputed) = (text(archived), text(recomputed));
    let mut found = Vec::new();
    if name == RESULTS_JSON {
        let values = [&archived, &recomputed].map(|text| json_values(text));
        if let [Some(archived), Some(recomputed)] = &values {
            compare(name, archived, recomputed, &mut found);
        }
    } else if name.ends_with(".csv") {
        let values = [&archived, &recomputed].map(|text| csv_values(text));
        compare(name, &values[0], &values[1], &mut found);
    }
    if found.is_empty() {
        let mut lines = archived.lines().zip(recomputed.lines()).enumerate();
        let other = lines.find(|(_, (ours, theirs))| ours != theirs);
        let (field, ours, theirs) = match other {
            Some((index, (ours, theirs))) => (format!("line {}", index + 1), ours, theirs),
            None => ("the end".to_owned(), "", ""),
        };
        found.push(Difference {
            place: name.to_owned(),
            field,
            archived: Some(ours.to_owned()),
            recomputed: Some(theirs.to_owned()),
        });
    }
    found
}

/// Values by place and field.
type Values = BTreeMap<(String, String), String>;

fn compare(name: &str, archived: &Values, recomputed: &Values, found: &mut Vec<Difference>) {
    let keys: BTreeSet<&(String, String)> = archived.keys().chain(recomputed.keys()).collect();
    for key in keys {
        let (ours, theirs) = (archived.get(key), recomputed.get(key));
        if ours != theirs {
            let (place, field) = key;
            found.push(Difference {
                place: format!("{name}, {place}"),
                field: field.clone(),
                archived: ours.cloned(),
                recomputed: theirs.cloned(),
            });
        }
    }
}

/// Returns every value of results.json by its cell, trial or claim, and its path there.
fn json_values(text: &str) -> Option<Values> {
    let document: Value = serde_json::from_str(text).ok()?;
    let mut values = Values::new();
    for (key, value) in document.as_object()? {
        let (noun, name) = match key.as_str() {
            "cells" => ("cell", "cell"),
            "trials" => ("trial", "trial"),
            "claims" => ("claim", "claim"),
            _ => {
                flatten("the sweep", key, value, &mut values);
                continue;
            }
        };
        for (index, item) in value.as_array()?.iter().enumerate() {
            let named = item[name].as_str().map_or(index.to_string(), str::to_owned);
            let cell = match noun {
                "trial" => format!(" of cell {}", item["cell"].as_str().unwrap_or_default()),
                _ => String::new(),
            };
            flatten(&format!("{noun} {named}{cell}"), "", item, &mut values);
        }
    }
    Some(values)
}

fn flatten(place: &str, path: &str, value: &Value, values: &mut Values) {
    let below = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                flatten(place, &below(name), value, values);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                flatten(place, &below(&index.to_string()), value, values);
            }
        }
        value => {
            values.insert((place.to_owned(), path.to_owned()), value.to_string());
        }
    }
}

/// Returns every field of a CSV file by the cell and trial of its row, and its column.
fn csv_values(text: &str) -> Values {
    let mut rows = csv_rows(text).into_iter();
    let head = rows.next().unwrap_or_default();
    let column = |name: &str| head.iter().position(|column| column == name);
    let (cell, trial, measure) = (column("cell"), column("trial"), column("measure"));
    let key: Vec<usize> = ["seed", "epoch", "name", "class"]
        .iter()
        .filter_map(|name| column(name))
        .collect();
    let mut values = Values::new();
    for (row, line) in rows.zip(2..) {
        let at = |index: usize| row.get(index).map_or("", String::as_str);
        let mut place = match (cell, measure) {
            (Some(cell), _) => format!("cell {}", at(cell)),
            // the file of a table begins with the names of the axis values
            (None, Some(measure)) => format!("cell {}", row[..measure.min(row.len())].join("/")),
            (None, None) => format!("line {line}"),
        };
        if let Some(trial) = trial {
            place.push_str(&format!(", trial {}", at(trial)));
            for &index in &key {
                place.push_str(&format!(", {} {}", head[index], at(index)));
            }
        }
        for (index, value) in row.iter().enumerate() {
            let column = head
                .get(index)
                .cloned()
                .unwrap_or_else(|| format!("field {}", index + 1));
            values.insert((place.clone(), column), value.clone());
        }
    }
    values
}

/// Splits CSV into rows of fields, with the quotes taken off.
fn csv_rows(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut field) = (Vec::new(), Vec::new(), String::new());
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, quoted) {
            ('"', true) if characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            ('"', _) => quoted = !quoted,
            (',', false) => row.push(std::mem::take(&mut field)),
            ('\n', false) => {
                row.push(std::mem::take(&mut field));
                rows.push(std::mem::take(&mut row));
            }
            (character, _) => field.push(character),
        }
    }
    if !field.is_empty() || !row.is_empty() {
        row.push(field);
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_is_read_as_it_is_written() {
        let text = "a,b\n\"x, \"\"y\"\"\nz\",2\n";
        assert_eq!(csv_rows(text), [["a", "b"], ["x, \"y\"\nz", "2"]]);
    }

    #[test]
    fn a_file_of_text_names_its_first_different_line() {
        let files = |text: &str| vec![("main.txt".to_owned(), text.as_bytes().to_vec())];
        let found = differences(&files("one\ntwo\n"), &files("one\n2\n"));
        assert_eq!(found.len(), 1);
        assert_eq!((&*found[0].place, &*found[0].field), ("main.txt", "line 2"));
        let shown = [&found[0].archived, &found[0].recomputed].map(|value| value.as_deref());
        assert_eq!(shown, [Some("two"), Some("2")]);
        // Text that ends early differs too.
        assert_eq!(differences(&files("one\ntwo\n"), &files("one\n")).len(), 1);
    }
}
