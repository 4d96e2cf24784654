//! `orchestrator run --coordinator-job` and Slurm's commands: each of these is a stand-in that keeps
//! jobs as lines of a folder, so that every answer can be chosen. The same with a real Slurm:
//! cluster/moving.rs.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::{Process, System, wait_for};

const SWEEP: &str = "
name: job
recipe: quick
set: {dataset: digits, model: resnet-8, samples_per_class: 5}
axes:
  loss: [xent, cos]
outputs:
  - table: {rows: loss}
";

/// Slurm's commands, with the jobs that they have.
struct Slurm {
    system: System,
}

impl Slurm {
    fn new() -> Self {
        let system = System::new();
        system.file("job.yaml", SWEEP);
        for folder in ["jobs", "commands"] {
            fs::create_dir(system.path(folder)).expect("the test's folder can be written");
        }
        let at = system.path("").display().to_string();
        system.script(
            "commands/sbatch",
            &format!(
                "cd {at}\n\
                 case \" $* \" in *--test-only*) exit ;; esac\n\
                 cp state/coordinator-job/record.json record-before\n\
                 if [ -e refusal ]; then cat refusal >&2; exit 1; fi\n\
                 for word; do case $word in --job-name=*) name=${{word#*=}} ;; esac; done\n\
                 number=$(($(ls jobs | wc -l) + 1))\n\
                 echo \"$number|$name|PENDING|N/A|n/a|Priority\" >jobs/$number\n\
                 if [ -e lost ]; then rm lost; echo 'sbatch: error: Socket timed out on send/recv operation' >&2; exit 1; fi\n\
                 echo $number"
            ),
        );
        system.script(
            "commands/squeue",
            &format!(
                "cd {at}\n\
                 if [ -e away ]; then echo 'squeue: error: Unable to contact slurm controller' >&2; exit 1; fi\n\
                 for word; do case $word in --name=*) name=${{word#*=}} ;; esac; done\n\
                 cat jobs/* 2>/dev/null | grep -F \"|$name|\"\n\
                 true"
            ),
        );
        system.script(
            "commands/scontrol",
            "echo \"JobId=$4 JobState=FAILED ExitCode=3:0\"",
        );
        system.script("commands/sacct", "exit 1");
        Self { system }
    }

    fn run(&self, flags: &[&str]) -> Process {
        let mut command = self
            .system
            .orchestrator(&["run", "job.yaml", "--state-dir", "state"]);
        command.args(["--launch", "slurm", "--time", "10", "--coordinator-job"]);
        command.args(flags);
        let path = std::env::var("PATH").unwrap_or_default();
        let commands = self.system.path("commands");
        command.env("PATH", format!("{}:{path}", commands.display()));
        self.system.start("run", command)
    }

    fn num_jobs(&self) -> usize {
        let jobs = fs::read_dir(self.system.path("jobs")).expect("a folder");
        jobs.count()
    }

    /// Changes a job's state and the reason for it.
    fn set(&self, job: u32, state: &str, reason: &str) {
        let path: PathBuf = self.system.path(&format!("jobs/{job}"));
        let line = fs::read_to_string(&path).expect("the job is there");
        let fields: Vec<&str> = line.trim().split('|').collect();
        let line = format!("{job}|{}|{state}|N/A|node1|{reason}\n", fields[1]);
        // in one step, since squeue may read it
        let fresh = self.system.file("fresh", &line);
        fs::rename(fresh, path).expect("the test's folder can be written");
    }
}

fn record(system: &System, name: &str) -> Value {
    let text = fs::read(system.path(name)).expect("the record is there");
    serde_json::from_slice(&text).expect("JSON")
}

#[test]
fn the_jobs_name_is_recorded_before_sbatch_and_a_second_command_submits_none() {
    let slurm = Slurm::new();
    let mut first = slurm.run(&["--detach"]);
    first.expect_exit(0);
    assert!(
        first.stderr().contains("job 1 will be the coordinator"),
        "{}",
        first.stderr()
    );
    let before = record(&slurm.system, "record-before");
    let after = record(&slurm.system, "state/coordinator-job/record.json");
    assert_eq!(before["name"], after["name"]);
    assert_eq!(before["job"], Value::Null);
    assert_eq!(after["job"], "1");

    let mut second = slurm.run(&["--partition", "gpu"]);
    wait_for("it prints what the job waits for", || {
        second
            .stderr()
            .contains("job 1, the coordinator, waits: ")
            .then_some(())
    });
    let stderr = second.stderr();
    assert!(
        stderr.contains("the coordinator's job 1 was submitted with other flags"),
        "{stderr}"
    );
    second.signal(Signal::SIGINT);
    second.expect_exit(130);
    assert_eq!(slurm.num_jobs(), 1);

    // Slurm is away for a while, and nothing is concluded from that
    let mut third = slurm.run(&[]);
    wait_for("it waits", || {
        third.stderr().contains("waits: ").then_some(())
    });
    slurm.system.file("away", "");
    wait_for("it tells that Slurm does not answer", || {
        third
            .stderr()
            .contains("Slurm does not answer")
            .then_some(())
    });
    fs::remove_file(slurm.system.path("away")).expect("the test's file");
    slurm.set(1, "PENDING", "PartitionTimeLimit");
    third.expect_exit(2);
    let stderr = third.stderr();
    assert!(
        stderr.contains("job 1 can never start") && stderr.contains("`scancel 1` removes it"),
        "{stderr}"
    );
    assert_eq!(slurm.num_jobs(), 1);
}

#[test]
fn a_submission_that_is_refused_ends_the_command_and_one_without_an_answer_is_found() {
    let slurm = Slurm::new();
    let refusal = "sbatch: error: Batch job submission failed: Invalid account";
    slurm.system.file("refusal", refusal);
    let mut refused = slurm.run(&["--detach"]);
    refused.expect_exit(2);
    let stderr = refused.stderr();
    assert!(
        stderr.contains("the coordinator's job was not submitted")
            && stderr.contains("Invalid account"),
        "{stderr}"
    );
    fs::remove_file(slurm.system.path("refusal")).expect("the test's file");
    slurm.system.file("lost", "");
    for _ in 0..2 {
        slurm.run(&["--detach"]).expect_exit(0);
        assert_eq!(slurm.num_jobs(), 1, "it is found by its name");
    }
}

#[test]
fn a_job_that_ends_ends_the_command_with_its_log_and_the_next_command_submits_another() {
    let slurm = Slurm::new();
    let mut first = slurm.run(&[]);
    wait_for("it waits", || {
        first.stderr().contains("waits: ").then_some(())
    });
    let log = slurm.system.path("state/coordinator-job/log");
    fs::write(log, "error: the disk is full\n").expect("the test's folder can be written");
    slurm.set(1, "FAILED", "NonZeroExitCode");
    first.expect_exit(2);
    let stderr = first.stderr();
    for words in [
        "job 1 ended: it failed: exit code 3",
        "the disk is full",
        "the same command submits another",
    ] {
        assert!(stderr.contains(words), "{words} in {stderr}");
    }
    let mut second = slurm.run(&["--detach"]);
    second.expect_exit(0);
    assert!(
        second.stderr().contains("job 2 will be the coordinator"),
        "{}",
        second.stderr()
    );
    assert_eq!(slurm.num_jobs(), 2);
}

/// The coordinator is killed after it has announced itself and before it answers the submission.
#[test]
fn a_job_killed_before_its_first_answer_ends_the_command_like_any_other() {
    let mut slurm = Slurm::new();
    let mut first = slurm.run(&[]);
    wait_for("it waits", || {
        first.stderr().contains("waits: ").then_some(())
    });
    let job = slurm.system.coordinator();
    job.signal(Signal::SIGSTOP);
    slurm.set(1, "RUNNING", "None");
    let port = slurm.system.url();
    let port: u16 = port
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok())
        .expect("a port");
    wait_for("the command connects", || {
        is_connected_to(port).then_some(())
    });
    slurm.set(1, "FAILED", "NonZeroExitCode");
    job.kill();
    first.expect_exit(2);
    let stderr = first.stderr();
    assert!(
        stderr.contains("the same command submits another"),
        "{stderr}"
    );
    assert_eq!(slurm.num_jobs(), 1, "it does not submit another by itself");
}

/// Returns true if a process of this machine has a connection to this port.
fn is_connected_to(port: u16) -> bool {
    let connections = fs::read_to_string("/proc/net/tcp").expect("Linux lists its connections");
    let established = |line: &str| {
        let mut fields = line.split_whitespace().skip(2);
        let peer = fields.next().unwrap_or_default();
        peer.ends_with(&format!(":{port:04X}")) && fields.next() == Some("01")
    };
    connections.lines().any(established)
}
