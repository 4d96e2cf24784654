//! `show`: the settings in force for a trial or a cell, each with the part of the sweep file that
//! decided it.

use std::collections::BTreeMap;
use std::path::Path;

use protocol::v1::TrialReply;
use serde_json::{Value, json};
use sweep::definition::Cell;
use sweep::settings::Fields;
use sweep::{Sweep, cell_name, field, plain_value};

use crate::args::ShowArgs;
use crate::commands::run::load;
use crate::exit::{ExpectedError, Outcome};
use crate::offline::{self, Source};
use crate::output::{Output, SCHEMA};
use crate::preflight::Places;

/// Columns of a value; few are longer.
const WIDEST: usize = 24;

/// A cell or a trial with its settings.
struct Shown {
    sweep: String,
    cell: String,
    trial: Option<(String, u64)>,
    settings: Fields,
    /// Origins by field; empty if the text of the sweep cannot be read any more.
    origins: BTreeMap<String, Origin>,
}

impl Shown {
    /// Returns the settings in the order in which they are declared.
    fn declared(&self) -> impl Iterator<Item = (&str, &Value)> {
        let known = field::names().filter_map(|name| Some((name, self.settings.get(name)?)));
        // the fields that a program declares come after those of every sweep
        let own = self
            .settings
            .iter()
            .map(|(name, value)| (name.as_str(), value));
        known.chain(own.filter(|(name, _)| field::find(name).is_none()))
    }
}

struct Origin {
    text: String,
    json: Value,
}

pub async fn show(arguments: &ShowArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let shown = match arguments.names.as_slice() {
        [file, cell @ ..] if is_file(file) => {
            let places = Places::of(&arguments.data)?;
            let sweep = load(Path::new(file), Some(&places))?;
            of_file(&sweep, cell.first().map(String::as_str))?
        }
        names => of_trial(arguments, names).await?,
    };
    output.print(|| text(&shown), || document(&shown))?;
    Ok(Outcome::Complete)
}

/// Returns true if the word is a sweep file, and no name of a sweep.
fn is_file(word: &str) -> bool {
    let path = Path::new(word);
    let is_yaml = path
        .extension()
        .is_some_and(|ending| ending == "yaml" || ending == "yml");
    is_yaml || path.is_file()
}

/// Returns the cell of this name, or the only one.
pub fn chosen_cell<'a>(sweep: &'a Sweep, name: Option<&str>) -> Result<&'a Cell, ExpectedError> {
    match (name, sweep.cells.as_slice()) {
        (Some(name), cells) => {
            let index = sweep.find_cell(name).map_err(ExpectedError::BadInput)?;
            Ok(&cells[index])
        }
        (None, [only]) => Ok(only),
        (None, cells) => {
            let names = cells.iter().map(|cell| sweep.cell_name(cell));
            Err(ExpectedError::BadInput(format!(
                "sweep `{}` has several cells, name one of them: {}",
                sweep.name,
                cell_name::listed(&names.collect::<Vec<_>>())
            )))
        }
    }
}

fn of_file(sweep: &Sweep, cell: Option<&str>) -> Result<Shown, ExpectedError> {
    let cell = chosen_cell(sweep, cell)?;
    let origins = sweep.origins(cell, sweep.search.is_some());
    let origin = |(name, origin): (String, sweep::Origin)| {
        let json = serde_json::to_value(&origin).unwrap_or_default();
        let text = origin.to_string();
        (name, Origin { text, json })
    };
    let mut settings = sweep.cell_settings(cell).fields();
    if let Some(search) = &sweep.search {
        for field in search.fields() {
            let mut values: Vec<&Value> = Vec::new();
            for candidate in &search.candidates {
                let value = &candidate.0[field];
                if !values.contains(&value) {
                    values.push(value);
                }
            }
            settings.insert(field.to_owned(), json!({ "one_of": values }));
        }
    }
    Ok(Shown {
        sweep: sweep.name.clone(),
        cell: sweep.cell_name(cell),
        trial: None,
        settings,
        origins: origins.into_iter().map(origin).collect(),
    })
}

async fn of_trial(arguments: &ShowArgs, names: &[String]) -> Result<Shown, ExpectedError> {
    let mut source = offline::source(&arguments.target).await?;
    let trial = match names {
        [sweep, text] => {
            let sweep = source.find_sweep(sweep).await?;
            source.find_trial(&sweep, text).await?
        }
        names => names[0].clone(),
    };
    let TrialReply {
        trial,
        sweep,
        cell,
        seed,
        settings_json,
        origins_json,
        ..
    } = match &mut source {
        Source::Live(client) => client.trial(&trial, true).await?,
        Source::Journal(journal) => journal.answers().trial(&trial, true, |_| None)?,
    };
    let unreadable = |error: serde_json::Error| ExpectedError::Coordinator {
        action: "asking about the trial",
        message: format!("its settings cannot be read: {error}"),
    };
    let origins: BTreeMap<String, Value> =
        serde_json::from_slice(&origins_json).map_err(unreadable)?;
    let origin = |(name, json): (String, Value)| {
        let known = serde_json::from_value::<sweep::Origin>(json.clone());
        let text = known.map(|known| known.to_string()).unwrap_or_default();
        (name, Origin { text, json })
    };
    Ok(Shown {
        sweep,
        cell,
        trial: Some((trial, seed)),
        settings: serde_json::from_slice(&settings_json).map_err(unreadable)?,
        origins: origins.into_iter().map(origin).collect(),
    })
}

fn text(shown: &Shown) -> String {
    let mut text = format!("{} {}", shown.sweep, shown.cell);
    if let Some((trial, seed)) = &shown.trial {
        text.push_str(&format!("  trial {trial}, seed {seed}"));
    }
    text.push('\n');
    let value = |value: &Value| match value.get("one_of").and_then(Value::as_array) {
        Some(candidates) => {
            let candidates: Vec<String> = candidates.iter().map(plain_value).collect();
            format!("one of {}", candidates.join(", "))
        }
        None => plain_value(value),
    };
    let rows: Vec<(&str, String)> = shown
        .declared()
        .map(|(name, found)| (name, value(found)))
        .collect();
    let widest = |widths: &mut dyn Iterator<Item = usize>| widths.max().unwrap_or(0);
    let names = widest(&mut rows.iter().map(|(name, _)| name.len()));
    let values = widest(&mut rows.iter().map(|(_, value)| value.chars().count())).min(WIDEST);
    for (name, value) in &rows {
        let origin = shown
            .origins
            .get(*name)
            .map_or("", |origin| origin.text.as_str());
        let line = format!("  {name:names$}  {value:values$}  {origin}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn document(shown: &Shown) -> Value {
    let settings = shown.declared().map(|(name, value)| {
        let origin = shown.origins.get(name).map(|origin| &origin.json);
        json!({ "name": name, "value": value, "from": origin })
    });
    let trial = shown.trial.as_ref();
    json!({
        "schema": SCHEMA,
        "sweep": shown.sweep,
        "cell": shown.cell,
        "trial": trial.map(|(trial, _)| trial),
        "seed": trial.map(|(_, seed)| seed),
        "settings": settings.collect::<Vec<Value>>(),
    })
}
