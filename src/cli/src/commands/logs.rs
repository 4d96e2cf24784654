//! `logs`: what the trainer of a trial's last attempt wrote to stderr, from the work directory of its
//! worker, if that is on this machine or on a disk that it shares.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::args::LogsArgs;
use crate::commands::inspect;
use crate::exit::{ExpectedError, Outcome};
use crate::offline::{self, Source};
use crate::output::{self, Reader};

/// Pause between two looks at a log that grows.
const FOLLOW_EVERY: Duration = Duration::from_millis(300);

/// The last attempt at a trial.
struct Last {
    attempt: String,
    host: String,
    log: PathBuf,
    runs: bool,
}

pub async fn logs(arguments: &LogsArgs) -> Result<Outcome, ExpectedError> {
    let mut source = offline::source(&arguments.target).await?;
    let trial = match arguments.names.as_slice() {
        [sweep, text] => {
            let sweep = source.find_sweep(sweep).await?;
            source.find_trial(&sweep, text).await?
        }
        names => names[0].clone(),
    };
    let last = last_attempt(&mut source, &trial).await?;
    let folders = match &arguments.work_dir {
        Some(work_dir) => vec![work_dir.clone()],
        None => vec![
            arguments.target.state_dir.join("work"),
            "orchestrator-work".into(),
        ],
    };
    let find = || {
        let paths = folders.iter().map(|folder| folder.join(&last.log));
        paths.into_iter().find(|path| path.is_file())
    };
    let path = loop {
        // Before the look for the log, so that nothing is missed.
        let runs = arguments.follow && last_attempt_runs(&mut source, &last).await?;
        match find() {
            Some(path) => break path,
            None if runs => tokio::time::sleep(FOLLOW_EVERY).await,
            None => return Err(not_found(&last, &folders)),
        }
    };
    let mut file = File::open(&path).map_err(ExpectedError::file("read", &path))?;
    loop {
        // Before the last look at the log, so that nothing is missed.
        let runs = arguments.follow && last_attempt_runs(&mut source, &last).await?;
        let mut written = Vec::new();
        file.read_to_end(&mut written)
            .map_err(ExpectedError::file("read", &path))?;
        let text = String::from_utf8_lossy(&written);
        let text = anstream::adapter::strip_str(&text).to_string();
        if output::write(text.as_bytes())? == Reader::Gone || !runs {
            return Ok(Outcome::Complete);
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

fn not_found(last: &Last, folders: &[PathBuf]) -> ExpectedError {
    let looked: Vec<String> = folders
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
    ExpectedError::BadInput(format!(
        "there is no log of attempt {}, which ran on {}, in {}: its trainer wrote nothing, or it ran with another work \
         directory (name it with --work-dir), or its trial has a result since; `orchestrator why {}` shows the end of \
         a log if the attempt failed",
        last.attempt,
        last.host,
        looked.join(" or "),
        last.attempt.split('#').next().unwrap_or_default(),
    ))
}

async fn last_attempt_runs(source: &mut Source, last: &Last) -> Result<bool, ExpectedError> {
    let (trial, _) = last.attempt.split_once('#').unwrap_or_default();
    let now = last_attempt(source, trial).await?;
    Ok(now.attempt == last.attempt && now.runs)
}

async fn last_attempt(source: &mut Source, trial: &str) -> Result<Last, ExpectedError> {
    let (reply, _) = inspect::explanation(source, trial).await?;
    let explained: Value = serde_json::from_slice(&reply.json).unwrap_or_default();
    let trial = explained["trial"].as_str().unwrap_or_default();
    let attempts = explained["attempts"].as_array();
    let Some(last) = attempts.and_then(|attempts| attempts.last()) else {
        return Err(ExpectedError::BadInput(format!(
            "trial {trial} has not started: `orchestrator why {trial}` explains why"
        )));
    };
    let text = |name: &str| last[name].as_str().unwrap_or_default().to_owned();
    Ok(Last {
        attempt: format!("{trial}#{}", last["attempt"]),
        host: text("host"),
        log: text("log").into(),
        runs: last["outcome"] == "running",
    })
}
