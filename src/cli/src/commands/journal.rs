//! `orchestrator journal`: export and verify, which only read and may run while a coordinator runs,
//! and repair.

use std::io::{self, BufWriter};

use journal::{Lost, Repaired};
use serde_json::json;
use sweep::{counted, with_causes};

use crate::args::{JournalArgs, RepairArgs};
use crate::exit::{ExpectedError, Outcome};
use crate::output::{Output, SCHEMA};
use crate::stderr;

pub fn export(arguments: &JournalArgs) -> Result<Outcome, ExpectedError> {
    match journal::export(&arguments.state_dir, BufWriter::new(io::stdout().lock())) {
        Ok(_) => Ok(Outcome::Complete),
        // no error: the reader is gone, as in `orchestrator journal export | head`
        Err(journal::Error::Export { source }) if source.kind() == io::ErrorKind::BrokenPipe => {
            Ok(Outcome::Complete)
        }
        Err(journal::Error::Export { source }) => Err(ExpectedError::Stdout(source)),
        Err(error) => Err(failure(error)),
    }
}

pub fn verify(arguments: &JournalArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let found = journal::verify(&arguments.state_dir).map_err(failure)?;
    let journal::Verified {
        events,
        bytes,
        sweeps,
        trials,
        hash,
        remarks,
    } = &found;
    remarks
        .iter()
        .for_each(|remark| stderr::print(&format!("note: {remark}")));
    output.print(
        || format!("sound: {events} events, {bytes} bytes, {sweeps} sweeps, {trials} trials, hash {hash}\n"),
        || {
            json!({
                "schema": SCHEMA,
                "events": events,
                "bytes": bytes,
                "sweeps": sweeps,
                "trials": trials,
                "hash": hash,
                "remarks": remarks,
            })
        },
    )?;
    Ok(Outcome::Complete)
}

pub fn repair(arguments: &RepairArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let directory = &arguments.journal.state_dir;
    match journal::repair(directory, arguments.accept_loss).map_err(failure)? {
        Repaired::Sound { events } => output.print(
            || format!("sound: {}; nothing was changed\n", counted(events, "event")),
            || json!({ "schema": SCHEMA, "outcome": "sound", "events": events, "lost": 0 }),
        )?,
        Repaired::Done { kept, lost, aside } => {
            let number = lost.as_ref().map_or(Some(0), |lost| lost.events);
            let without = lost.as_ref().map_or_else(String::new, |lost| {
                format!(", without {}", lost_events(lost))
            });
            output.print(
                || {
                    let (kept, aside) = (counted(kept, "event"), aside.display());
                    format!("repaired: {kept}{without}; the damaged files are kept in {aside}\n")
                },
                || json!({ "schema": SCHEMA, "outcome": "repaired", "events": kept, "lost": number, "aside": aside }),
            )?;
        }
        Repaired::WouldLose { kept, lost } => {
            return Err(ExpectedError::Infrastructure {
                what: "the journal cannot be recovered as a whole",
                reason: format!(
                    "{} can be kept, and {} cannot ({}); nothing was changed. Put a copy of the state directory back, or \
                     continue without them: orchestrator journal repair --accept-loss --state-dir {}",
                    counted(kept, "event"),
                    lost_events(&lost),
                    lost.reason,
                    directory.display()
                ),
            });
        }
    }
    Ok(Outcome::Complete)
}

fn lost_events(lost: &Lost) -> String {
    match lost.events {
        Some(number) => counted(number, "event"),
        None => "an unknown number of events".to_owned(),
    }
}

fn failure(error: journal::Error) -> ExpectedError {
    match error {
        journal::Error::Missing { .. } => ExpectedError::BadInput(with_causes(&error)),
        error => ExpectedError::Infrastructure {
            what: "the journal",
            reason: with_causes(&error),
        },
    }
}
