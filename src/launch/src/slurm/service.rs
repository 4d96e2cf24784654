//! A job of one CPU that serves for as long as it is needed: the coordinator itself, where login
//! nodes end long processes.
//!
//! Slurm starts it again after a failure of its node or a preemption. Before its time limit it puts
//! itself back into the queue.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use schedule::allocation::{AllocationId, ObservedJob, SubmitOutcome};
use sweep::text::Line;

use super::{newest_job, submitted_by, write_script};
use crate::script::{directives, quoted};

/// Time between the signal and the end of the job: the coordinator waits for what its workers give
/// back.
const NOTICE: Duration = Duration::from_secs(120);

/// The job, before it is submitted.
#[derive(Clone, Debug)]
pub struct Service {
    /// The name by which it is found again.
    pub name: AllocationId,
    /// The folder of its script and its log.
    pub folder: PathBuf,
    /// Options of sbatch, one word each.
    pub options: Vec<String>,
    pub command: Vec<String>,
}

impl Service {
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    pub fn script(&self) -> PathBuf {
        self.folder.join("script")
    }

    fn all_options(&self) -> Vec<String> {
        let folder = self.folder.to_string_lossy();
        let own = [
            format!("--job-name={}", self.name),
            "--nodes=1".to_owned(),
            "--ntasks=1".to_owned(),
            "--cpus-per-task=1".to_owned(),
            "--requeue".to_owned(),
            format!("--signal=B:USR1@{}", NOTICE.as_secs()),
            "--open-mode=append".to_owned(),
            format!("--output={}/log", folder.replace('%', "%%")),
            format!("--chdir={folder}"),
        ];
        own.into_iter()
            .chain(self.options.iter().cloned())
            .collect()
    }

    pub fn text(&self) -> String {
        let command: Vec<String> = self.command.iter().map(|word| quoted(word)).collect();
        SCRIPT
            .replace("@DIRECTIVES@", &directives(&self.all_options()))
            .replace("@COMMAND@", &command.join(" "))
    }

    /// Returns true if the script of an earlier submission differs from that of these options.
    pub fn was_submitted_otherwise(&self) -> bool {
        fs::read_to_string(self.script()).is_ok_and(|script| script != self.text())
    }

    pub async fn submit(&self) -> SubmitOutcome {
        match write_script(&self.script(), &self.text()) {
            Ok(script) => submitted_by(&self.all_options(), &script).await,
            Err(outcome) => outcome,
        }
    }

    /// Returns the newest job of this name, ended ones included. An error proves nothing.
    pub async fn job(&self) -> Result<Option<ObservedJob>, Line> {
        newest_job(&self.name, &self.log()).await
    }

    /// Removes what an earlier job printed.
    pub fn forget_log(&self) {
        // there may be none
        let _ = fs::remove_file(self.log());
    }
}

const SCRIPT: &str = r#"#!/bin/bash
@DIRECTIVES@# Before the time limit the command ends in order, and the job puts itself back into the queue.
limit="" leaves="" ended="" service=""
leave() {
  leaves=yes
  [ -z "$service" ] || kill -TERM "$service" 2>/dev/null
}
trap 'limit=yes; leave' USR1
trap leave TERM INT
@COMMAND@ &
service=$!
# A signal may have come before the process was known.
[ -z "$leaves" ] || leave
# A trap ends `wait` early: then it waits again.
until [ -n "$ended" ]; do
  wait "$service"
  code=$?
  kill -0 "$service" 2>/dev/null || ended=yes
done
[ -z "$limit" ] || exec scontrol requeue "$SLURM_JOB_ID"
exit "$code"
"#;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn service(folder: &std::path::Path, command: &str) -> Service {
        Service {
            name: "orch-coordinator-7f3a9c1e".into(),
            folder: folder.to_owned(),
            options: vec!["--partition=cpu".to_owned()],
            command: ["sh", "-c", command].map(str::to_owned).to_vec(),
        }
    }

    #[test]
    fn its_exit_code_is_that_of_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let text = service(dir.path(), "exit 7").text();
        for line in [
            "#SBATCH --job-name=orch-coordinator-7f3a9c1e\n",
            "#SBATCH --requeue\n",
            "#SBATCH --partition=cpu\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let ended = Command::new("bash").arg("-c").arg(&text).status().unwrap();
        assert_eq!(ended.code(), Some(7));
    }

    /// USR1 is Slurm's notice of the end.
    #[test]
    fn at_the_notice_the_command_ends_in_order_and_the_job_is_requeued() {
        let dir = tempfile::tempdir().unwrap();
        let scontrol = dir.path().join("scontrol");
        let asked = dir.path().join("asked");
        let commands = format!("#!/bin/sh\necho \"$@\" >{}\n", asked.display());
        ::tests::write_executable(&scontrol, &commands);
        let left = dir.path().join("left");
        let text = service(
            dir.path(),
            &format!(
                "trap 'echo left >{}; exit 0' TERM; kill -USR1 $PPID; while :; do sleep 0.05; done",
                left.display()
            ),
        )
        .text();
        let path = std::env::var("PATH").unwrap();
        let ended = Command::new("bash")
            .arg("-c")
            .arg(&text)
            .env("PATH", format!("{}:{path}", dir.path().display()))
            .env("SLURM_JOB_ID", "17")
            .status()
            .unwrap();
        assert!(ended.success());
        assert_eq!(std::fs::read_to_string(left).unwrap(), "left\n");
        assert_eq!(std::fs::read_to_string(asked).unwrap(), "requeue 17\n");
    }
}
