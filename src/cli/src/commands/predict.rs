//! `predict`: the trainer's program reads the network and the images; this one prints what it found.

use std::process::Command;

use serde_json::{Value, json};

use crate::args::PredictArgs;
use crate::exit::{ExpectedError, Outcome};
use crate::output::{Output, SCHEMA};
use crate::trainer;

pub fn predict(arguments: &PredictArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let trainer = trainer::find(arguments.trainer.as_deref())?.path;
    let ran = Command::new(&trainer)
        .args(["predict", "--threads", &arguments.threads.to_string(), "--"])
        .arg(&arguments.model)
        .args(&arguments.images)
        .output()
        .map_err(ExpectedError::file("run", &trainer))?;
    if !ran.status.success() {
        let stderr = String::from_utf8_lossy(&ran.stderr);
        let reason = stderr.trim().trim_start_matches("error: ").to_owned();
        return Err(ExpectedError::BadInput(reason));
    }
    let predictions: Result<Vec<Value>, _> = String::from_utf8_lossy(&ran.stdout)
        .lines()
        .map(serde_json::from_str)
        .collect();
    let predictions = predictions.map_err(|error| ExpectedError::Infrastructure {
        what: "the trainer's answer cannot be read",
        reason: error.to_string(),
    })?;
    output.print(
        || csv(&predictions),
        || json!({ "schema": SCHEMA, "predictions": predictions }),
    )?;
    Ok(Outcome::Complete)
}

fn csv(predictions: &[Value]) -> String {
    let field = |value: &Value| match value {
        Value::String(text) => report::csv_text(text),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let mut text = report::csv_line(["image", "class", "probability"].map(str::to_owned));
    for prediction in predictions {
        let fields = ["image", "class", "probability"].map(|name| field(&prediction[name]));
        text.push_str(&report::csv_line(fields));
    }
    text
}
