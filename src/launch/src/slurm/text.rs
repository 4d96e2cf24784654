//! The output of Slurm's commands as values. Pure functions; the texts of 22.05 in
//! `tests/fixtures/slurm` were recorded from it.

use std::collections::BTreeMap;
use std::time::Duration;

use schedule::allocation::{AllocationId, EndCause, JobId, JobState, ObservedJob, SubmitOutcome};
use sweep::text::Line;

use super::state::job_state;

/// The fields of `squeue -o`, which are the same from 20.02 to 25.11. The reason comes last: it is
/// the only one that may hold any character.
pub const SQUEUE_FORMAT: &str = "%A|%j|%T|%e|%B|%r";
pub const SACCT_FORMAT: &str = "JobID,JobName,State,ExitCode";

/// Finds the job's number in what `sbatch --parsable` printed: the last line that is `ID` or
/// `ID;CLUSTER`. Sites print greetings before it.
pub fn submitted(stdout: &str) -> Option<JobId> {
    let id = |line: &str| {
        let id = line.trim().split(';').next().unwrap_or_default();
        let is_number = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| JobId(id.into()))
    };
    stdout.lines().rev().find_map(id)
}

/// Sorts what a failed `sbatch` printed on stderr.
pub fn refused(stderr: &str) -> SubmitOutcome {
    let message = Line::from(errors(stderr).as_str());
    let has = |texts: &[&str]| texts.iter().any(|text| stderr.contains(text));
    // The controller may have taken the job before its answer was lost.
    if has(&[
        "Socket timed out",
        "Zero Bytes were transmitted",
        "Message receive failure",
        "Connection reset",
        "Broken pipe",
    ]) {
        SubmitOutcome::Unknown { message }
    } else if has(&[
        "Unable to contact slurm controller",
        "connect failure",
        "standby mode",
        "temporarily unavailable",
        "Unable to establish a security session",
        "Munge encode failed",
        "munged",
    ]) {
        SubmitOutcome::Unreachable { message }
    } else if has(&[
        "MaxSubmitJob",
        "GrpSubmitJob",
        "temporarily unable to accept job",
        "Job violates accounting/QOS policy",
        "Pending job limit",
    ]) {
        SubmitOutcome::Full { message }
    } else {
        SubmitOutcome::Refused { message }
    }
}

/// The lines of stderr in one, without the program's name before each. Slurm prints the exact
/// reason first and a general one after it.
pub fn errors(stderr: &str) -> String {
    let prefixes = [
        "sbatch: ",
        "squeue: ",
        "scancel: ",
        "sacct: ",
        "scontrol: ",
        "error: ",
    ];
    let mut lines: Vec<&str> = Vec::new();
    for mut line in stderr.lines().map(str::trim) {
        while let Some(rest) = prefixes.iter().find_map(|prefix| line.strip_prefix(prefix)) {
            line = rest;
        }
        if !line.is_empty() && !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.join("; ")
}

/// Understands what `squeue -h -o SQUEUE_FORMAT` printed. Lines that are none of it are left out:
/// sites print greetings here too.
pub fn queue(stdout: &str) -> Vec<ObservedJob> {
    stdout.lines().filter_map(queue_line).collect()
}

fn queue_line(line: &str) -> Option<ObservedJob> {
    let fields: Vec<&str> = line.trim().splitn(6, '|').collect();
    let [id, name, state, end, host, reason] = fields[..] else {
        return None;
    };
    let job = submitted(id)?;
    let state = job_state(state, reason);
    let seconds: Option<u64> = end.parse().ok();
    Some(ObservedJob {
        allocation: AllocationId::from(name),
        job,
        // of a job that waits it is a guess, and of one that has ended it is over
        ends_at: seconds
            .filter(|_| matches!(state, JobState::Running))
            .map(|seconds| seconds.saturating_mul(1000)),
        state,
        node: (!["", "n/a", "(null)", "None"].contains(&host)).then(|| host.to_owned()),
    })
}

/// Understands what `sacct -n -P -X -D -o SACCT_FORMAT` printed: the jobs that have ended. The last
/// line of a job counts, since one that was requeued has several.
pub fn accounts(stdout: &str) -> Vec<ObservedJob> {
    let mut jobs: BTreeMap<String, ObservedJob> = BTreeMap::new();
    for line in stdout.lines() {
        let fields: Vec<&str> = line.trim().split('|').collect();
        let [id, name, state, exit] = fields[..] else {
            continue;
        };
        let (Some(job), state) = (submitted(id), job_state(state, "")) else {
            continue;
        };
        let JobState::Ended(cause) = state else {
            jobs.remove(name);
            continue;
        };
        let seen = ObservedJob {
            allocation: AllocationId::from(name),
            job,
            state: JobState::Ended(with_exit(cause, exit)),
            node: None,
            ends_at: None,
        };
        jobs.insert(name.to_owned(), seen);
    }
    jobs.into_values().collect()
}

/// The exit code of a worker that left in order while work was outstanding.
pub const LEFT_WITH_WORK: &str = "75:0";

/// Refines the end of a failed job by its `ExitCode`, as scontrol and sacct print it: `CODE:SIGNAL`.
pub fn with_exit(cause: EndCause, exit: &str) -> EndCause {
    match cause {
        EndCause::Failed { .. } if exit == LEFT_WITH_WORK => EndCause::Completed,
        EndCause::Failed { .. } => EndCause::Failed {
            detail: match exit.split_once(':') {
                Some((code, "0")) => format!("exit code {code}").into(),
                Some((_, signal)) => format!("ended by signal {signal}").into(),
                None => exit.into(),
            },
        },
        other => other,
    }
}

/// Understands `scontrol show job -o ID`: one line of `Name=Value`. Values may hold blanks; a name
/// begins with a capital and holds letters, `/`, `:` and `_`.
pub fn details(line: &str) -> BTreeMap<String, String> {
    let mut starts: Vec<(usize, usize)> = Vec::new();
    let bytes = line.as_bytes();
    for (equals, _) in line.match_indices('=') {
        let name = |byte: &u8| byte.is_ascii_alphabetic() || b"/:_".contains(byte);
        let start = equals
            - bytes[..equals]
                .iter()
                .rev()
                .take_while(|byte| name(byte))
                .count();
        let begins = start == 0 || bytes[start - 1] == b' ';
        let previous_ends = starts.last().is_none_or(|(_, value)| *value <= start);
        if start < equals && begins && previous_ends && bytes[start].is_ascii_uppercase() {
            starts.push((start, equals + 1));
        }
    }
    let ends = starts
        .iter()
        .skip(1)
        .map(|(start, _)| start - 1)
        .chain([line.len()]);
    let fields = starts.iter().zip(ends);
    fields
        .map(|((start, value), end)| {
            let name = line[*start..*value - 1].to_owned();
            (name, line[*value..end.max(*value)].trim().to_owned())
        })
        .collect()
}

/// Understands a duration as Slurm's options and commands write it: `MINUTES`, `MINUTES:SECONDS`,
/// `HOURS:MINUTES:SECONDS`, `DAYS-HOURS`, `DAYS-HOURS:MINUTES` or `DAYS-HOURS:MINUTES:SECONDS`.
/// `None` for everything else, `UNLIMITED` included.
pub fn duration(text: &str) -> Option<Duration> {
    let number = |text: &str| text.parse::<u32>().ok().map(u64::from);
    let (days, rest) = match text.split_once('-') {
        Some((days, rest)) => (Some(number(days)?), rest),
        None => (None, text),
    };
    let parts = rest.split(':').map(number).collect::<Option<Vec<u64>>>()?;
    let (hours, minutes, seconds) = match (days, &parts[..]) {
        (Some(_), [hours]) => (*hours, 0, 0),
        (Some(_), [hours, minutes]) => (*hours, *minutes, 0),
        (None, [minutes]) => (0, *minutes, 0),
        (None, [minutes, seconds]) => (0, *minutes, *seconds),
        (_, [hours, minutes, seconds]) => (*hours, *minutes, *seconds),
        _ => return None,
    };
    let hours = days.unwrap_or(0) * 24 + hours;
    Some(Duration::from_secs((hours * 60 + minutes) * 60 + seconds))
}
