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
use crate::rendezvous;

/// Pause between two looks at a log that grows.
const FOLLOW_EVERY: Duration = Duration::from_millis(300);

/// The last attempt at a trial.
struct Last {
    attempt: String,
    host: String,
    worker: String,
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
    ExpectedError::BadInput(not_found_text(last, folders, &rendezvous::host_name()))
}

fn not_found_text(last: &Last, folders: &[PathBuf], here: &str) -> String {
    let Last {
        attempt,
        host,
        worker,
        ..
    } = last;
    let (trial, log) = (
        attempt.split('#').next().unwrap_or_default(),
        last.log.display(),
    );
    let looked: Vec<String> = folders
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
    let looked = looked.join(" or ");
    let place = if host == here {
        format!(
            "there is no log of attempt {attempt} in {looked}: its trainer wrote nothing, or worker {worker} has another \
             work directory (name it with --work-dir)"
        )
    } else {
        format!(
            "attempt {attempt} ran on {host}, and its log is in no directory of this machine ({looked}): if its trainer \
             wrote anything, that is in {log} below the work directory of worker {worker}. `ssh {host} cat \
             WORK_DIR/{log}` prints it; if this machine sees the directory too, name it with --work-dir"
        )
    };
    format!(
        "{place}. The log of a trial with a result is removed; `orchestrator why {trial}` shows the end of one that failed"
    )
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
        worker: text("worker"),
        log: text("log").into(),
        runs: last["outcome"] == "running",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_another_machine_is_named_with_the_command_that_prints_it() {
        let last = Last {
            attempt: "t0123456789abcdef#2".to_owned(),
            host: "gpu04".to_owned(),
            worker: "gpu04-1".to_owned(),
            log: "logs/t0123456789abcdef/attempt-2.stderr".into(),
            runs: false,
        };
        let folders = ["state/work".into(), "orchestrator-work".into()];
        let elsewhere = not_found_text(&last, &folders, "login1");
        for part in [
            "ran on gpu04",
            "`ssh gpu04 cat WORK_DIR/logs/t0123456789abcdef/attempt-2.stderr`",
            "worker gpu04-1",
            "--work-dir",
            "`orchestrator why t0123456789abcdef`",
        ] {
            assert!(elsewhere.contains(part), "{part} is not in {elsewhere}");
        }
        let here = not_found_text(&last, &folders, "gpu04");
        assert!(
            here.contains("in state/work or orchestrator-work") && !here.contains("ssh"),
            "{here}"
        );
    }
}
