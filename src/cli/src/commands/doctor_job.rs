//! `orchestrator doctor --launch slurm`: the same checks in a job of a minute, so that they show what
//! a worker would really get, and whether nodes reach this machine.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use launch::slurm::probe::Probe;
use schedule::allocation::{EndCause, JobId, JobState, SubmitOutcome};
use serde_json::json;
use tokio::time::sleep;

use crate::args::DoctorArgs;
use crate::exit::{ExpectedError, Outcome};
use crate::launch_args::How;
use crate::output::{self, Output, SCHEMA};
use crate::signals::Signals;
use crate::{launching, stderr};

/// Interval between two looks at the job.
const LOOK: Duration = Duration::from_secs(2);

pub async fn doctor_job(arguments: &DoctorArgs, output: Output) -> Result<Outcome, ExpectedError> {
    if !matches!(arguments.launch.launch, Some(How::Slurm)) {
        return Err(ExpectedError::BadInput(
            "hosts over ssh are checked when they are connected: doctor needs --launch slurm"
                .to_owned(),
        ));
    }
    // Nodes try to reach it, as workers would reach a coordinator of this machine.
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0));
    let listener = listener.and_then(|listener| Ok((listener.local_addr()?.port(), listener)));
    let (port, _listener) = listener.map_err(|error| ExpectedError::Infrastructure {
        what: "cannot listen",
        reason: error.to_string(),
    })?;
    let probe = launching::probe(arguments, port)?;
    if arguments.launch.dry_run {
        return output::write(probe.text().as_bytes()).map(|_| Outcome::Complete);
    }
    let mut signals = Signals::listen()?;
    let job = match probe.submit().await {
        SubmitOutcome::Submitted(job) => job,
        SubmitOutcome::Refused { message }
        | SubmitOutcome::Full { message }
        | SubmitOutcome::Unreachable { message }
        | SubmitOutcome::Unknown { message } => {
            return Err(ExpectedError::Infrastructure {
                what: "the job was not submitted",
                reason: message.to_string(),
            });
        }
    };
    stderr::print(&format!("job {job} was submitted: Ctrl-C cancels it"));
    let cause = tokio::select! {
        cause = end_of(&probe, &job) => cause,
        signal = signals.next() => {
            let cancelled = probe.cancel(&job).await;
            stderr::print(&match cancelled {
                Ok(()) => format!("{signal}: job {job} was cancelled"),
                Err(reason) => format!("{signal}: job {job} was not cancelled ({reason})"),
            });
            return Ok(Outcome::Interrupted);
        }
    };
    let printed = probe.output();
    output.print(
        || printed.clone(),
        || {
            json!({
                "schema": SCHEMA,
                "job": job.to_string(),
                "ended_in_order": cause == EndCause::Completed,
                "printed": printed.lines().collect::<Vec<_>>(),
            })
        },
    )?;
    match cause {
        EndCause::Completed => Ok(Outcome::Complete),
        EndCause::Failed { .. } => Err(ExpectedError::Infrastructure {
            what: "the node",
            reason: "some checks failed: see above".to_owned(),
        }),
        cause => Err(ExpectedError::Infrastructure {
            what: "the job",
            reason: cause.sentence(),
        }),
    }
}

/// Waits for the end of the job, and prints what it waits for.
async fn end_of(probe: &Probe, job: &JobId) -> EndCause {
    let mut printed = String::new();
    loop {
        sleep(LOOK).await;
        let text = match probe.job().await {
            Ok(Some(seen)) => match seen.state {
                JobState::Ended(cause) => return cause,
                JobState::Pending(reason) => {
                    format!("job {job} waits: {} ({})", reason.sentence, reason.word)
                }
                JobState::Running | JobState::Ending | JobState::Unknown(_) => continue,
            },
            Ok(None) => continue,
            Err(reason) => format!("Slurm does not answer ({reason}); retrying"),
        };
        if printed != text {
            stderr::print(&text);
            printed = text;
        }
    }
}
