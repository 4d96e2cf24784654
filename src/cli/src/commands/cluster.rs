//! `orchestrator cluster`: what the launch queue asked for, what it got, and why.

use std::time::Duration;

use schedule::allocation::{AllocationStatus, ClusterStatus, PauseCause, QueueStatus};
use serde_json::json;

use crate::args::{ClusterArgs, ClusterCommand};
use crate::client::Client;
use crate::exit::{ExpectedError, Outcome};
use crate::offline;
use crate::output::{Output, SCHEMA};

pub async fn cluster(command: &ClusterCommand, output: Output) -> Result<Outcome, ExpectedError> {
    match command {
        ClusterCommand::Status(arguments) => status(arguments, output).await,
        ClusterCommand::Resume(arguments) => {
            let mut client = connect(arguments).await?;
            client.resume_cluster().await?;
            print_change(
                output,
                "workers are launched again while there is work",
                "resumed",
            )
        }
        ClusterCommand::Stop(arguments) => {
            let mut client = connect(arguments).await?;
            client.stop_cluster("stopped by a user").await?;
            print_change(
                output,
                "no more workers are launched; those that run write checkpoints and leave",
                "stopped",
            )
        }
    }
}

fn print_change(output: Output, text: &str, done: &str) -> Result<Outcome, ExpectedError> {
    output.print(
        || format!("{text}\n"),
        || json!({ "schema": SCHEMA, "cluster": done }),
    )?;
    Ok(Outcome::Complete)
}

async fn status(arguments: &ClusterArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let mut client = connect(arguments).await?;
    let status = client.cluster_status().await?;
    output.print(
        || text(&status),
        || json!({ "schema": SCHEMA, "queue": status.queue, "allocations": status.allocations }),
    )?;
    Ok(Outcome::Complete)
}

/// Connects to the coordinator that launches: a cluster is asked only while one runs.
async fn connect(arguments: &ClusterArgs) -> Result<Client, ExpectedError> {
    let target = &arguments.target;
    offline::live(target)
        .await?
        .ok_or_else(|| ExpectedError::Infrastructure {
            what: "no coordinator runs",
            reason: format!(
                "nothing is launched for {}; its workers, if some are left, end by themselves",
                target.state_dir.display()
            ),
        })
}

fn text(status: &ClusterStatus) -> String {
    let Some(queue) = &status.queue else {
        return "this coordinator launches no workers: start it with --launch\n".to_owned();
    };
    let mut text = head(queue);
    if !status.allocations.is_empty() {
        text += &table(&status.allocations);
    }
    text
}

fn head(queue: &QueueStatus) -> String {
    let QueueStatus {
        name,
        launcher,
        request,
        wanted,
        max_allocations,
        ..
    } = queue;
    let mut text = format!(
        "queue {name} ({launcher} {request}): {wanted} wanted, at most {max_allocations}\n"
    );
    let reason = queue.reason.as_deref().unwrap_or_default();
    match queue.paused {
        Some(PauseCause::Stopped) => text += &format!("stopped: {reason}\n"),
        Some(_) => {
            text +=
                &format!("paused: {reason}\nafter fixing the cause: orchestrator cluster resume\n");
        }
        None if queue.delayed_until_ms.is_some() => {
            text += &format!("the next request waits: {reason}\n");
        }
        None => {}
    }
    if !queue.avoided.is_empty() {
        let nodes = queue.avoided.join(", ");
        text += &format!("avoided: {nodes} (drained, or an allocation failed there lately)\n");
    }
    if let Some(error) = &queue.error {
        text += &format!("the cluster does not answer: {error}\n");
    }
    text
}

fn table(allocations: &[AllocationStatus]) -> String {
    let titles = [
        "JOB",
        "STATE",
        "NODE",
        "WORKER",
        "TIME LEFT",
        "REASON",
        "LOG",
    ];
    let mut rows = vec![titles.map(str::to_owned)];
    rows.extend(allocations.iter().map(|entry| {
        let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let left = entry.time_left_ms.map(Duration::from_millis);
        [
            or_dash(&entry.job),
            entry.state.clone(),
            or_dash(&entry.node),
            or_dash(&entry.worker),
            or_dash(&left.map(time)),
            or_dash(&entry.reason),
            entry.log.clone(),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..titles.len()).filter_map(width).collect();
    let line = |row: &[String; 7]| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// `3:05:09`
fn time(left: Duration) -> String {
    let seconds = left.as_secs();
    format!(
        "{}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(paused: Option<PauseCause>) -> ClusterStatus {
        let queue = QueueStatus {
            name: "orch-table2-7f3a9c1e".into(),
            launcher: "slurm".into(),
            request: "--time=8:00:00".into(),
            max_allocations: 8,
            wanted: 3,
            paused,
            reason: paused.map(|_| "invalid partition specified: gpu9".into()),
            delayed_until_ms: None,
            error: None,
            avoided: vec!["node7".into()],
        };
        let allocation = AllocationStatus {
            allocation: "orch-table2-7f3a9c1e-1".into(),
            job: Some("4711".into()),
            state: "pending".into(),
            reason: Some("other jobs are ahead of it (Priority)".into()),
            node: None,
            worker: None,
            time_left_ms: Some(11_109_000),
            since_ms: 0,
            log: "/s/allocations/orch-table2-7f3a9c1e-1/log".into(),
        };
        ClusterStatus {
            queue: Some(queue),
            allocations: vec![allocation],
        }
    }

    #[test]
    fn every_column_has_its_value_and_none_is_empty() {
        assert_eq!(
            text(&status(None)),
            "queue orch-table2-7f3a9c1e (slurm --time=8:00:00): 3 wanted, at most 8\n\
             avoided: node7 (drained, or an allocation failed there lately)\n\
             JOB   STATE    NODE  WORKER  TIME LEFT  REASON                                 LOG\n\
             4711  pending  -     -       3:05:09    other jobs are ahead of it (Priority)  \
             /s/allocations/orch-table2-7f3a9c1e-1/log\n"
        );
    }

    #[test]
    fn a_paused_queue_reports_why_and_how_to_resume() {
        let text = text(&status(Some(PauseCause::Refused)));
        assert!(
            text.contains("paused: invalid partition specified: gpu9\n"),
            "{text}"
        );
        assert!(text.contains("orchestrator cluster resume"), "{text}");
    }
}
