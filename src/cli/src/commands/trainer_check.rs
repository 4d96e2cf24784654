//! `orchestrator trainer check`: checks a user's trainer against the protocol.

use std::time::Duration;

use serde_json::{Value, json};
use sweep::settings::Settings;
use worker::conformance::{self, Case, Options};

use crate::exit::{ExpectedError, Outcome};
use crate::output::{Output, SCHEMA};
use crate::preflight::DATA_DIR;
use crate::trainer_args::TrainerCheckArgs;

/// Settings of the trials without a sweep of the user's.
const SWEEP: &str = "recipe: quick\nset: {dataset: digits}\naxes: {loss: [xent]}\nseeds: 1\n\
     outputs: [{table: {name: t, rows: loss, columns: []}}]\n";

pub async fn check(arguments: &TrainerCheckArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let [program, rest @ ..] = arguments.command.as_slice() else {
        return Err(ExpectedError::BadInput("no command is given".to_owned()));
    };
    let here = std::env::temp_dir();
    let folder = tempfile::tempdir().map_err(ExpectedError::file("write in", &here))?;
    let data_dir = arguments.data_dir.clone();
    let data_dir = data_dir.unwrap_or_else(|| DATA_DIR.into());
    let options = Options {
        program: program.into(),
        arguments: rest.to_vec(),
        settings: settings(arguments)?,
        data_dir: std::path::absolute(&data_dir).map_err(ExpectedError::file("find", &data_dir))?,
        folder: folder.path().to_owned(),
        patience: Duration::from_secs(arguments.patience),
    };
    let cases = conformance::check(options).await;
    let cases = cases.map_err(|error| ExpectedError::Infrastructure {
        what: "cannot start programs",
        reason: error.to_string(),
    })?;
    output.print(|| text(&cases), || document(&cases))?;
    let wrong = cases.iter().filter(|case| case.problem.is_some()).count();
    match wrong {
        0 => Ok(Outcome::Complete),
        _ => Err(ExpectedError::BadInput(format!(
            "the trainer fails {wrong} of {} cases; docs/trainer-protocol.md describes what it has to do",
            cases.len()
        ))),
    }
}

/// Returns the settings of the first cell of the user's sweep, or those of a small one.
fn settings(arguments: &TrainerCheckArgs) -> Result<Settings, ExpectedError> {
    let in_file = |errors: sweep::diagnostic::Errors| ExpectedError::InFile(errors.to_string());
    let sweep = match &arguments.sweep {
        Some(path) => sweep::load(path).map_err(in_file)?,
        None => sweep::parse("check.yaml", SWEEP, &|_| Err(std::io::Error::other("none")))
            .map_err(in_file)?,
    };
    let trials = (0..sweep.cells.len()).flat_map(|cell| sweep.cell_trials(cell, Some(0)));
    let first = trials.into_iter().next();
    first
        .map(|trial| trial.spec.settings)
        .ok_or_else(|| ExpectedError::BadInput("the sweep trains nothing".to_owned()))
}

fn text(cases: &[Case]) -> String {
    let mut text = String::new();
    for case in cases {
        let Some(problem) = &case.problem else {
            text.push_str(&format!("ok     {}\n", case.name));
            continue;
        };
        text.push_str(&format!("wrong  {}\n", case.name));
        for line in problem.what.lines() {
            text.push_str(&format!("         {line}\n"));
        }
        text.push_str(&format!("         To do: {}\n", problem.remedy));
    }
    text
}

fn document(cases: &[Case]) -> Value {
    let cases = cases.iter().map(|case| {
        let problem = case.problem.as_ref();
        json!({
            "case": case.name,
            "ok": problem.is_none(),
            "problem": problem.map(|problem| &problem.what),
            "remedy": problem.map(|problem| problem.remedy),
        })
    });
    json!({ "schema": SCHEMA, "cases": cases.collect::<Vec<_>>() })
}
