//! `orchestrator doctor`: what this machine gives to a worker, a coordinator and a command, what is in
//! the way, and what to do about it. It changes nothing. In a job, `srun orchestrator doctor` shows
//! what the job gets.
//!
//! `facts.rs` looks, `judge.rs` decides, `bundle.rs` writes an archive for a bug report.

mod bundle;
mod facts;
mod judge;
mod slurm;

use serde_json::{Value, json};
use sweep::counted;

use crate::args::DoctorArgs;
use crate::config::Configuration;
use crate::exit::{ExpectedError, Outcome};
use crate::output::{Output, SCHEMA};
use crate::preflight::Places;
use crate::stderr;

/// One line of the report.
#[derive(Clone, Debug)]
pub struct Finding {
    name: &'static str,
    level: Level,
    text: String,
    /// The thing to do about it.
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ok,
    Warning,
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

fn ok(name: &'static str, text: impl Into<String>) -> Finding {
    Finding {
        name,
        level: Level::Ok,
        text: text.into(),
        remedy: None,
    }
}

fn warning(name: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding {
        level: Level::Warning,
        remedy: Some(remedy.into()),
        ..ok(name, text)
    }
}

fn error(name: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding {
        level: Level::Error,
        remedy: Some(remedy.into()),
        ..ok(name, text)
    }
}

impl Finding {
    fn line(&self) -> String {
        let remedy = self.remedy.as_ref();
        let remedy = remedy.map_or_else(String::new, |remedy| format!("\n{:22}{remedy}", ""));
        format!(
            "{:<8}{:<12}  {}{remedy}\n",
            self.level.name(),
            self.name,
            self.text
        )
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "level": self.level.name(),
            "found": self.text,
            "remedy": self.remedy,
        })
    }
}

pub async fn doctor(
    arguments: &DoctorArgs,
    configuration: &Configuration,
    output: Output,
) -> Result<Outcome, ExpectedError> {
    arguments.launch.refuse_advertise_alone()?;
    let places = Places::of(&arguments.data)?;
    let facts = facts::gather(arguments, &places).await;
    let mut findings = judge::judge(&facts);
    slurm::slurm(&mut findings).await;
    let document = document(&findings);
    if let Some(file) = &arguments.bundle {
        bundle::write(file, &document, arguments, configuration)?;
        stderr::print(&format!(
            "{} holds the report for a bug report; read it before you send it",
            file.display()
        ));
    }
    output.print(|| findings.iter().map(Finding::line).collect(), || document)?;
    match count(&findings, Level::Error) {
        0 => Ok(Outcome::Complete),
        errors => Err(ExpectedError::Infrastructure {
            what: "this machine",
            reason: format!("{}: see above", counted(errors as u64, "error")),
        }),
    }
}

fn document(findings: &[Finding]) -> Value {
    json!({
        "schema": SCHEMA,
        "errors": count(findings, Level::Error),
        "warnings": count(findings, Level::Warning),
        "findings": findings.iter().map(Finding::json).collect::<Vec<_>>(),
    })
}

fn count(findings: &[Finding], level: Level) -> usize {
    findings
        .iter()
        .filter(|finding| finding.level == level)
        .count()
}
