//! `orchestrator data`: what data sets there are, and whether they are what they should be.

use data::catalog::{ENTRIES, Row};
use data::{OpenRequest, Preflight};
use serde_json::{Value, json};

use crate::args::{DataListArgs, DataNameArgs};
use crate::exit::{ExpectedError, Outcome, chain};
use crate::output::{Output, SCHEMA};
use crate::preflight::Places;

pub fn list(arguments: &DataListArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let places = Places::of(&arguments.data)?;
    let found: Vec<(&data::catalog::Entry, Result<Preflight, data::Error>)> =
        ENTRIES.iter().map(|entry| (entry, data::preflight(&places.request(entry.name, None)))).collect();
    let text = || {
        let lines = found.iter().map(|(entry, found)| {
            let state = match found {
                Ok(found) => {
                    found.root.as_ref().map_or_else(|| "built in".to_owned(), |root| root.display().to_string())
                }
                Err(error) => chain(error),
            };
            format!("{:14}  {:24}  {state}\n", entry.name, entry.title)
        });
        lines.collect::<String>()
    };
    let document = || {
        let entries = found.iter().map(|(entry, found)| {
            json!({
                "name": entry.name,
                "title": entry.title,
                "there": found.is_ok(),
                "root": found.as_ref().ok().and_then(|found| found.root.clone()),
                "reason": found.as_ref().err().map(|error| chain(error)),
                "published": row_json(&entry.published),
            })
        });
        json!({ "schema": SCHEMA, "data_dir": places.data_dir, "datasets": entries.collect::<Vec<Value>>() })
    };
    output.print(text, document)?;
    Ok(Outcome::Complete)
}

pub fn check(arguments: &DataNameArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let places = Places::of(&arguments.data)?;
    let request: OpenRequest = places.request(&arguments.name, None);
    let found = data::preflight(&request).map_err(|error| ExpectedError::BadInput(chain(&error)))?;
    let row = found_row(&found);
    let published = data::catalog::find(&arguments.name).map(|entry| entry.published);
    let equal = published.is_none_or(|published| published == row);
    let text = || {
        let line = |name: &str, row: &Row| {
            let (low, high, median) = row.per_class;
            format!(
                "{name:10}  {:>7}  {:>8}  {:>7}  {low}-{high} (median {median})\n",
                row.num_classes, row.num_train, row.num_test
            )
        };
        let mut text = format!("{:10}  {:>7}  {:>8}  {:>7}  per class\n", arguments.name, "classes", "train", "test");
        text.push_str(&line("found", &row));
        if let Some(published) = &published {
            text.push_str(&line("published", published));
            text.push_str(if equal { "equal\n" } else { "NOT EQUAL\n" });
        }
        text
    };
    let document = || {
        json!({
            "schema": SCHEMA,
            "name": arguments.name,
            "root": found.root,
            "found": row_json(&row),
            "published": published.as_ref().map(row_json),
            "equal": equal,
        })
    };
    output.print(text, document)?;
    match equal {
        true => Ok(Outcome::Complete),
        false => Err(ExpectedError::BadInput(format!("data set `{}` is not the published one", arguments.name))),
    }
}

fn found_row(found: &Preflight) -> Row {
    let mut counts = found.train_counts.clone();
    counts.sort_unstable();
    let median = counts.get(counts.len() / 2).copied().unwrap_or(0);
    Row {
        num_classes: found.class_names.len(),
        num_train: found.num_train(),
        num_test: found.num_test(),
        per_class: (counts.first().copied().unwrap_or(0), counts.last().copied().unwrap_or(0), median),
    }
}

fn row_json(row: &Row) -> Value {
    let (low, high, median) = row.per_class;
    json!({
        "classes": row.num_classes,
        "train": row.num_train,
        "test": row.num_test,
        "per_class_min": low,
        "per_class_max": high,
        "per_class_median": median,
    })
}
