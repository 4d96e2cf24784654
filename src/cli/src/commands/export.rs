//! `orchestrator export`: the results so far, for other tools.

use serde_json::json;
use sweep::counted;

use crate::args::ExportArgs;
use crate::exit::{ExpectedError, Outcome};
use crate::exports::{Exported, Exports};
use crate::offline;
use crate::output::{Output, SCHEMA};

pub async fn export(arguments: &ExportArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let mut source = offline::source(&arguments.target).await?;
    let sweep = &source.find_sweep(&arguments.sweep).await?;
    let results = arguments.results.join(sweep);
    let mut exports = Exports::open(&arguments.destinations, sweep, &results)?;
    let exported = exports.pass(&mut source).await?;
    output.print(
        || exported.iter().map(line).collect(),
        || {
            let of = |Exported { destination, trials }: &Exported| {
                let (trials, problem) = (trials.as_ref().ok(), trials.as_ref().err());
                json!({ "destination": destination.to_string(), "trials": trials, "problem": problem })
            };
            let exported: Vec<_> = exported.iter().map(of).collect();
            json!({ "schema": SCHEMA, "sweep": sweep, "exported": exported })
        },
    )?;
    let problems = exported.iter().filter_map(|exported| {
        let problem = exported.trials.as_ref().err()?;
        Some(format!("{}: {problem}", exported.destination))
    });
    let problems: Vec<String> = problems.collect();
    match problems.is_empty() {
        true => Ok(Outcome::Complete),
        false => Err(ExpectedError::Infrastructure {
            what: "results were not exported",
            reason: problems.join("; "),
        }),
    }
}

fn line(exported: &Exported) -> String {
    match &exported.trials {
        Ok(trials) => format!(
            "{}: {}\n",
            exported.destination,
            counted(*trials as u64, "trial")
        ),
        Err(_) => String::new(),
    }
}
