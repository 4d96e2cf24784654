//! `orchestrator export`: the results so far, for other tools or as one archive.

use std::path::Path;

use report::archive;
use schedule::event::Recorded;
use serde_json::json;
use sweep::{counted, with_causes};

use crate::args::{ExportArgs, Target, quoted};
use crate::exit::{ExpectedError, Outcome};
use crate::exports::{Exported, Exports};
use crate::offline;
use crate::output::{Output, SCHEMA};
use crate::stderr;

pub async fn export(arguments: &ExportArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let mut source = offline::source(&arguments.target).await?;
    let sweep = &source.find_sweep(&arguments.sweep).await?;
    if let Some(path) = &arguments.archive {
        archive_to(path, sweep, &arguments.target)?;
    }
    if arguments.destinations.is_empty() {
        return Ok(Outcome::Complete);
    }
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

/// Writes the archive of a sweep from the journal of the state directory.
fn archive_to(path: &Path, sweep: &str, target: &Target) -> Result<(), ExpectedError> {
    let mut lines = Vec::new();
    let unreadable = |reason: String| ExpectedError::Infrastructure {
        what: "the journal",
        reason,
    };
    match journal::export(&target.state_dir, &mut lines) {
        Ok(_) => {}
        Err(journal::Error::Missing { .. }) => return Err(offline::no_journal(target)),
        Err(error) => return Err(unreadable(with_causes(&error))),
    }
    let events: Result<Vec<Recorded>, _> = lines
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(serde_json::from_slice)
        .collect();
    let events = events.map_err(|error| unreadable(error.to_string()))?;
    drop(lines);
    let (part, report) = archive::journal_part(events, sweep).map_err(unreadable)?;
    crate::archive::write(path, sweep, &part, &report)?;
    if part.is_whole {
        stderr::print("the archive has the whole journal, with all of its sweeps");
    }
    let size = counted(part.events.len() as u64, "event");
    stderr::print(&format!(
        "{}: {size}, {}; checked by: orchestrator check {}",
        path.display(),
        counted(report.len() as u64, "file"),
        quoted(&path.to_string_lossy())
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use schedule::event::Event;
    use schedule::state::SweepTrial;

    use super::*;
    use crate::args::CheckArgs;
    use crate::commands::check;

    const SWEEP: &str = "\
recipe: quick
set: {dataset: digits}
axes: {loss: [xent, cos]}
claims: [{cells: {loss: cos}, beats: {loss: xent}}]
";

    /// Writes a journal with one sweep that nothing was trained for.
    fn journal_in(folder: &Path) {
        let no_files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
        let sweep = sweep::parse("kept.yaml", SWEEP, &no_files).expect("it compiles");
        let planned = (0..sweep.cells.len()).flat_map(|cell| sweep.cell_trials(cell, None));
        let trials = planned.map(|planned| SweepTrial {
            id: planned.id,
            cell: planned.cell as u32,
            candidate: None,
            role: planned.role,
            seed: planned.spec.seed,
            cost: 1.0,
        });
        let trials = Arc::new(trials.collect());
        let event = Event::SweepSubmitted {
            sweep: Arc::new(sweep),
            trials,
        };
        let mut journal = journal::Journal::open(folder).expect("a journal");
        journal
            .append(&[Recorded { at: 1, event }])
            .expect("it is appended");
    }

    #[test]
    fn an_archive_of_a_journal_is_sound_without_that_journal() {
        let folder = tempfile::tempdir().expect("a folder");
        let state_dir = folder.path().join("state");
        std::fs::create_dir(&state_dir).expect("a folder");
        journal_in(&state_dir);
        let target = Target {
            state_dir: state_dir.clone(),
            coordinator: None,
            token_file: None,
        };
        let path = folder.path().join("kept.zip");
        let archived = archive_to(&path, "kept", &target);
        archived.unwrap_or_else(|error| panic!("{}", error.render()));
        let missing = archive_to(&folder.path().join("b.zip"), "other", &target);
        assert!(
            missing
                .expect_err("no such sweep")
                .render()
                .contains("other")
        );
        std::fs::remove_dir_all(&state_dir).expect("it is removed");
        let output = Output::new(crate::args::OutputFormat::Text);
        let checked = check::check(&CheckArgs { archive: path }, output);
        assert_eq!(checked.ok(), Some(Outcome::Complete));
        let again = archive_to(&folder.path().join("c.zip"), "kept", &target);
        assert!(again.is_err(), "the journal is gone");
    }
}
