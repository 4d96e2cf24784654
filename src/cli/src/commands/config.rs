//! `orchestrator config`: the settings in force, and the origin of each.

use std::ffi::OsString;

use serde_json::{Value, json};

use crate::cache_dir;
use crate::config::{Configuration, InForce, Layer};
use crate::exit::{ExpectedError, Outcome};
use crate::output::{Output, SCHEMA};
use crate::preflight::DATA_DIR;

pub fn config(configuration: &Configuration, output: Output) -> Result<Outcome, ExpectedError> {
    output.print(|| text(configuration), || document(configuration))?;
    Ok(Outcome::Complete)
}

fn with_values(configuration: &Configuration) -> Vec<(&InForce, Option<String>)> {
    let settings = configuration.settings.iter();
    settings.map(|found| (found, value(found))).collect()
}

/// Returns the value as people read it. Two directories have defaults that no flag declares.
fn value(found: &InForce) -> Option<String> {
    let shown = |value: &OsString| value.to_string_lossy().into_owned();
    match found.setting.key {
        _ if !found.values.is_empty() => {
            let values: Vec<String> = found.values.iter().map(shown).collect();
            Some(values.join(" "))
        }
        "data_dir" => Some(DATA_DIR.to_owned()),
        "cache_dir" => Some(cache_dir::default().ok()?.display().to_string()),
        _ => None,
    }
}

fn text(configuration: &Configuration) -> String {
    let settings = with_values(configuration);
    let mut text = String::new();
    for (layer, path) in &configuration.files {
        text.push_str(&format!("# {}: {}\n", layer.name(), path.display()));
    }
    if configuration.files.is_empty() {
        text.push_str("# no configuration file was found\n");
    }
    let names = settings.iter().map(|(found, _)| found.setting.name().len());
    let values = settings
        .iter()
        .map(|(_, value)| value.as_ref().map_or(1, |value| value.chars().count()));
    let (names, values) = (names.max().unwrap_or(0), values.max().unwrap_or(0));
    for (found, value) in &settings {
        let origin = match found.layer {
            Layer::Default => "default".to_owned(),
            _ => found.origin.clone(),
        };
        text.push_str(&format!(
            "{:<names$}  {:<values$}  {origin}\n",
            found.setting.name(),
            value.as_deref().unwrap_or("-"),
        ));
    }
    text
}

/// Returns the document of `--output json`.
pub fn document(configuration: &Configuration) -> Value {
    let files = configuration.files.iter();
    let files = files.map(|(layer, path)| json!({ "layer": layer.name(), "path": path }));
    let settings = with_values(configuration);
    let settings = settings.iter().map(|(found, value)| {
        json!({
            "name": found.setting.name(),
            "value": value,
            "from": found.layer.name(),
            "origin": found.origin,
        })
    });
    json!({
        "schema": SCHEMA,
        "files": files.collect::<Vec<_>>(),
        "settings": settings.collect::<Vec<_>>(),
    })
}
