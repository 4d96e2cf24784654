//! The status in the text format of Prometheus.

use std::fmt::Write;

use protocol::v1;

/// Formats the status in the text format of Prometheus.
pub fn as_metrics(status: &v1::StatusReply) -> String {
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, values: &[(String, u64)]| {
        let _ = writeln!(
            text,
            "# HELP orchestrator_{name} {help}\n# TYPE orchestrator_{name} gauge"
        );
        for (labels, value) in values {
            let _ = writeln!(text, "orchestrator_{name}{labels} {value}");
        }
    };
    let single = |value: u64| vec![(String::new(), value)];
    gauge(
        "journal_bytes",
        "Disk that the journal occupies.",
        &single(status.journal_bytes),
    );
    gauge(
        "checkpoint_bytes",
        "Disk that checkpoints of running trials occupy.",
        &single(status.checkpoint_bytes),
    );
    let fault = u64::from(!status.storage_fault.is_empty());
    gauge(
        "storage_fault",
        "1 while the journal cannot be written.",
        &single(fault),
    );
    let mut trials = Vec::new();
    let mut cells = Vec::new();
    for sweep in &status.sweeps {
        let name = escaped(&sweep.name);
        let phases = [
            ("waiting", sweep.waiting),
            ("running", sweep.running),
            ("succeeded", sweep.succeeded),
            ("failed", sweep.failed),
            ("cancelled", sweep.cancelled),
        ];
        trials.extend(
            phases.map(|(phase, count)| (format!("{{sweep=\"{name}\",phase=\"{phase}\"}}"), count)),
        );
        cells.push((
            format!("{{sweep=\"{name}\",complete=\"yes\"}}"),
            sweep.complete_cells,
        ));
        let open = sweep.cells.saturating_sub(sweep.complete_cells);
        cells.push((format!("{{sweep=\"{name}\",complete=\"no\"}}"), open));
    }
    gauge("trials", "Trials of a sweep by phase.", &trials);
    gauge("cells", "Cells of a sweep.", &cells);
    let mut slots = Vec::new();
    for worker in status
        .workers
        .iter()
        .filter(|worker| worker.presence() != v1::Presence::Gone)
    {
        let labels = |use_: &str| {
            let (name, presence) = (escaped(&worker.worker), worker.presence());
            format!("{{worker=\"{name}\",presence=\"{presence}\",use=\"{use_}\"}}")
        };
        slots.push((labels("busy"), u64::from(worker.busy_slots)));
        slots.push((
            labels("free"),
            u64::from(worker.slots.saturating_sub(worker.busy_slots)),
        ));
    }
    gauge("slots", "Slots of a worker.", &slots);
    let present = status
        .workers
        .iter()
        .filter(|worker| worker.presence() != v1::Presence::Gone);
    let work_dirs: Vec<_> = present
        .map(|worker| {
            (
                format!("{{worker=\"{}\"}}", escaped(&worker.worker)),
                worker.work_dir_bytes,
            )
        })
        .collect();
    gauge(
        "work_dir_bytes",
        "Disk that checkpoints and logs in a worker's work directory occupy.",
        &work_dirs,
    );
    text
}

/// Escapes the value of a label.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_in_the_text_format() {
        let sweep = v1::SweepStatus {
            name: "a \"b\" <c>".into(),
            succeeded: 3,
            ..Default::default()
        };
        let worker = v1::WorkerStatus {
            worker: "node-1-2".into(),
            presence: v1::Presence::Present.into(),
            slots: 2,
            busy_slots: 1,
            ..Default::default()
        };
        let text = as_metrics(&v1::StatusReply {
            sweeps: vec![sweep],
            workers: vec![worker],
            journal_bytes: 5,
            ..Default::default()
        });
        assert!(
            text.contains(
                "\norchestrator_trials{sweep=\"a \\\"b\\\" <c>\",phase=\"succeeded\"} 3\n"
            ),
            "{text}"
        );
        assert!(text.contains(
            "\norchestrator_slots{worker=\"node-1-2\",presence=\"present\",use=\"free\"} 1\n"
        ));
        assert!(text.contains("\norchestrator_journal_bytes 5\n"));
    }
}
