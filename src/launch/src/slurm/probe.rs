//! A job of a minute that shows what a worker would get: it runs the program's own checks as a job of
//! `--launch slurm` runs the worker, and tries to reach an address.

use schedule::allocation::{AllocationId, JobId, ObservedJob, SubmitOutcome};
use sweep::text::Line;

use super::{ASK_LIMIT, newest_job, submitted_by, succeeded, write_script};
use crate::command::{self, slurm};
use crate::script::{Template, directives, quoted};

pub struct Probe {
    /// `worker` is the command whose output counts.
    pub template: Template,
    pub name: AllocationId,
    /// The address that the node should reach: host and port.
    pub address: (String, u16),
}

impl Probe {
    fn all_options(&self) -> Vec<String> {
        let given = [&self.template.options[..], &self.template.user_options];
        let mut options = self.template.own_options(&self.name);
        options.extend(given.concat());
        // the last one counts
        options.push("--time=1".to_owned());
        options
    }

    pub fn text(&self) -> String {
        let template = &self.template;
        let command: Vec<String> = template.worker.iter().map(|word| quoted(word)).collect();
        let wrap = template.wrap.as_ref();
        let wrap = wrap.map_or_else(String::new, |wrap| format!("{wrap} "));
        let (host, port) = &self.address;
        SCRIPT
            .replace("@DIRECTIVES@", &directives(&self.all_options()))
            .replace(
                "@PROLOGUE@",
                template.prologue.as_deref().unwrap_or_default(),
            )
            .replace("@COMMAND@", &format!("{wrap}{}", command.join(" ")))
            .replace("@FILE@", &quoted(&format!("/dev/tcp/{host}/{port}")))
            .replace("@ADDRESS@", &format!("{host}:{port}"))
    }

    pub async fn submit(&self) -> SubmitOutcome {
        // what an earlier job of the name printed
        let _ = std::fs::remove_file(self.template.log_of(&self.name));
        match write_script(&self.template.script_of(&self.name), &self.text()) {
            Ok(script) => submitted_by(&self.all_options(), &script).await,
            Err(outcome) => outcome,
        }
    }

    /// Returns the job, also after its end. An error proves nothing.
    pub async fn job(&self) -> Result<Option<ObservedJob>, Line> {
        newest_job(&self.name, &self.template.log_of(&self.name)).await
    }

    pub async fn cancel(&self, job: &JobId) -> Result<(), Line> {
        let ended = command::run(slurm("scancel", [&*job.0]), ASK_LIMIT).await;
        succeeded(ended).map(drop)
    }

    /// Returns what the job printed so far.
    pub fn output(&self) -> String {
        let log = std::fs::read(self.template.log_of(&self.name));
        log.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

const SCRIPT: &str = r#"#!/bin/bash
@DIRECTIVES@ulimit -c 0
@PROLOGUE@
@COMMAND@
code=$?
if timeout 10 bash -c ': <>"$0"' @FILE@ 2>/dev/null; then
  echo "coordinator reached at @ADDRESS@"
else
  echo "error: this node does not reach @ADDRESS@: --advertise names another address, --coordinator-job puts the coordinator on a node"
  code=2
fi
exit "$code"
"#;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    /// The script runs to its end, and its exit code is 2 if a check fails.
    #[test]
    fn what_a_node_prints_and_reaches_is_reported() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let run = |command: &str, port: u16| {
            let template = Template {
                folder: "/shared/state/allocations".into(),
                options: vec!["--partition=gpu".to_owned(), "--time=8:00:00".to_owned()],
                user_options: Vec::new(),
                notice: Duration::from_secs(120),
                prologue: Some("echo prologue".to_owned()),
                wrap: None,
                worker: ["sh", "-c", command].map(str::to_owned).to_vec(),
            };
            let probe = Probe {
                template,
                name: "orch-doctor-7f3a9c1e-1".into(),
                address: ("127.0.0.1".to_owned(), port),
            };
            let text = probe.text();
            assert!(text.contains("#SBATCH --partition=gpu\n"), "{text}");
            assert!(!text.contains("--signal"), "it would come at the start");
            let time = text.rfind("#SBATCH --time=").unwrap();
            assert!(text[time..].starts_with("#SBATCH --time=1\n"), "{text}");
            let output = Command::new("bash").arg("-c").arg(&text).output().unwrap();
            let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.code(), stdout)
        };
        let (code, text) = run("echo 4 GPUs", open.port());
        let reached = format!("coordinator reached at {open}\n");
        assert_eq!(
            (code, text),
            (Some(0), format!("prologue\n4 GPUs\n{reached}"))
        );
        assert_eq!(
            run("exit 2", open.port()),
            (Some(2), format!("prologue\n{reached}"))
        );
        drop(listener);
        let (code, text) = run("true", open.port());
        assert_eq!(code, Some(2));
        assert!(
            text.contains("does not reach") && text.contains("--coordinator-job"),
            "{text}"
        );
    }
}
