//! `orchestrator journal`: export and verify. Both only read, and may run beside a coordinator.

use std::io::{self, BufWriter};

use serde_json::json;

use crate::args::JournalArgs;
use crate::exit::{ExpectedError, Outcome, chain};
use crate::output::{Output, SCHEMA};

pub fn export(arguments: &JournalArgs) -> Result<Outcome, ExpectedError> {
    match journal::export(&arguments.state_dir, BufWriter::new(io::stdout().lock())) {
        Ok(_) => Ok(Outcome::Complete),
        // `orchestrator journal export | head`
        Err(journal::Error::Export { source }) if source.kind() == io::ErrorKind::BrokenPipe => Ok(Outcome::Complete),
        Err(journal::Error::Export { source }) => Err(ExpectedError::Stdout(source)),
        Err(error) => Err(failure(error)),
    }
}

pub fn verify(arguments: &JournalArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let found = journal::verify(&arguments.state_dir).map_err(failure)?;
    let journal::Verified { events, bytes, sweeps, trials, hash } = &found;
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
            })
        },
    )?;
    Ok(Outcome::Complete)
}

fn failure(error: journal::Error) -> ExpectedError {
    match error {
        journal::Error::Missing { .. } => ExpectedError::BadInput(chain(&error)),
        error => ExpectedError::Infrastructure { what: "the journal", reason: chain(&error) },
    }
}
