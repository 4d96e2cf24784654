//! The launcher over ssh, with an sshd of the test's own and a stand-in for the worker.
//!
//! Needs sshd: `make test-cluster` runs these tests.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use launch::ssh::push::{Build, Copied};
use launch::ssh::{Ssh, hosts, remote::Settings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use schedule::allocation::{
    AllocationId, EndCause, GiveBack, JobState, LaunchAnswer, LaunchRequest, Launcher, ReasonClass,
    SubmitOutcome,
};
use tempfile::TempDir;
use tests::sshd::{Sshd, children, name};

const VERSION: &str = "orchestrator 0.1.0";

/// Connects to its coordinator, and works until TERM.
const WORKER: &str = "port=${3##*:}; exec 4<>/dev/tcp/127.0.0.1/$port; echo \"$*\" >&4
trap 'echo left >>left; exit 75' TERM
echo started >&2; while :; do sleep 0.05; done";

/// A coordinator's end of the tunnel, and a folder like the unpacked archive.
struct Rig {
    folder: TempDir,
    listener: TcpListener,
}

impl Rig {
    fn new() -> Self {
        let rig = Self {
            folder: TempDir::with_prefix("ssh-test-").expect("a folder for temporary files"),
            listener: TcpListener::bind("127.0.0.1:0").expect("a free port"),
        };
        fs::create_dir_all(rig.folder.path().join("home/bin")).expect("the test's folder");
        rig.program("orchestrator-trainer", "exit 0");
        rig.worker(WORKER);
        rig
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.folder.path().join("home/bin").join(name);
        tests::write_executable(&path, &format!("#!/bin/bash\n{text}\n"));
    }

    fn worker(&self, text: &str) {
        let version = format!("[ \"$1\" = --version ] && {{ echo {VERSION}; exit; }}");
        let check = "[ \"$1\" = setup ] && exec \"${0%/*}/orchestrator-trainer\"";
        self.program("orchestrator", &format!("{version}\n{check}\n{text}"));
    }

    fn settings(&self, ssh_options: Vec<String>) -> Settings {
        let shown = |name: &str| self.folder.path().join(name).display().to_string();
        Settings {
            folder: self.folder.path().join("allocations"),
            is_encrypted: false,
            port: self.listener.local_addr().expect("it listens").port(),
            worker_token: Arc::new(|| Ok("secret".to_owned())),
            version: VERSION.to_owned(),
            state: "7f3a9c1e".to_owned(),
            session: format!(
                "session-{}",
                self.listener.local_addr().expect("it listens")
            ),
            work: self.folder.path().join("work"),
            dir: shown("home"),
            push: None,
            ssh_options,
            worker_options: vec!["--idle-timeout".to_owned(), "5m".to_owned()],
        }
    }

    fn ssh(&self, ssh_options: Vec<String>, file: &str) -> Ssh {
        Ssh::new(
            self.settings(ssh_options),
            hosts::parse(file).expect("a hosts file"),
        )
    }

    /// Waits for a worker and returns its arguments.
    async fn connected(&self) -> String {
        let listener = self.listener.try_clone().expect("a second handle");
        let accepted = tokio::task::spawn_blocking(move || {
            let (mut stream, _) = listener.accept()?;
            let mut line = [0; 4096];
            let length = stream.read(&mut line)?;
            std::io::Result::Ok(String::from_utf8_lossy(&line[..length]).into_owned())
        });
        accepted
            .await
            .expect("no panic")
            .expect("a worker connects")
    }

    fn log(&self, allocation: &str) -> String {
        let path = self
            .folder
            .path()
            .join("allocations")
            .join(allocation)
            .join("log");
        fs::read_to_string(path).unwrap_or_default()
    }
}

async fn submit(ssh: &mut Ssh, name: &str) -> SubmitOutcome {
    let allocation = AllocationId::from(name);
    match ssh
        .perform(LaunchRequest::Submit {
            allocation,
            avoid: Vec::new(),
        })
        .await
    {
        LaunchAnswer::Submitted { outcome, .. } => outcome,
        other => panic!("{other:?}"),
    }
}

async fn until(ssh: &mut Ssh, name: &str, wanted: impl Fn(&JobState) -> bool) -> JobState {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let allocations = vec![AllocationId::from(name)];
        let answer = ssh.perform(LaunchRequest::Observe { allocations }).await;
        let LaunchAnswer::Observed(Ok(jobs)) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        if wanted(&jobs[0].state) {
            return jobs[0].state.clone();
        }
        assert!(Instant::now() < deadline, "it stays {jobs:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn leave(ssh: &mut Ssh, name: &str) {
    let allocations = vec![(AllocationId::from(name), None)];
    let how = GiveBack::Leave;
    ssh.perform(LaunchRequest::GiveBack { allocations, how })
        .await;
    let end = until(ssh, name, |state| matches!(state, JobState::Ended(_))).await;
    assert_eq!(end, JobState::Ended(EndCause::Completed));
}

fn is_waiting(state: &JobState) -> bool {
    matches!(state, JobState::Pending(reason) if &*reason.word == "unreachable")
}

/// The ssh of an allocation: its name is in the script that ssh carries.
fn client(allocation: &str) -> Option<Pid> {
    let mut ours = children(std::process::id())
        .into_iter()
        .filter(|pid| name(*pid) == "ssh");
    let found = ours.find(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&format!("--allocation {allocation} "))
    });
    found.map(|pid| Pid::from_raw(i32::try_from(pid).expect("a process id")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs sshd: make test-cluster"]
async fn a_worker_lasts_as_long_as_its_allocation_and_no_longer_than_its_connection() {
    let mut sshd = Sshd::start();
    let rig = Rig::new();
    let left = rig.folder.path().join("home/left");
    let times_left = || {
        fs::read_to_string(&left)
            .unwrap_or_default()
            .lines()
            .count()
    };
    let mut options = sshd.options();
    options
        .extend(["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=2"].map(str::to_owned));
    let mut ssh = rig.ssh(
        options,
        "127.0.1.1 slots=2\n127.0.1.2 work=other # the same machine\n",
    );
    // both hosts, and no third
    let job = submit(&mut ssh, "orch-a-1").await;
    assert!(
        matches!(&job, SubmitOutcome::Submitted(job) if &*job.0 == "127.0.1.1"),
        "{job:?}"
    );
    let arguments = rig.connected().await;
    assert!(
        arguments.contains("--allocation orch-a-1 --slots 2 --idle-timeout 5m"),
        "{arguments}"
    );
    assert!(!arguments.contains("secret"), "{arguments}");
    submit(&mut ssh, "orch-a-2").await;
    rig.connected().await;
    assert!(matches!(
        submit(&mut ssh, "orch-a-3").await,
        SubmitOutcome::Full { .. }
    ));
    leave(&mut ssh, "orch-a-2").await;
    assert_eq!(times_left(), 1);

    // the ssh client is killed: its worker leaves, and another one comes
    let ssh_client = client("orch-a-1").expect("ssh runs");
    kill(ssh_client, Signal::SIGKILL).expect("ssh runs");
    let JobState::Pending(reason) = until(&mut ssh, "orch-a-1", is_waiting).await else {
        unreachable!()
    };
    assert_eq!(reason.class, ReasonClass::Wait);
    rig.connected().await;
    assert_eq!(times_left(), 2, "the first has left before the second came");

    // the host is gone for a while
    sshd.kill();
    until(&mut ssh, "orch-a-1", is_waiting).await;
    sshd.start_again();
    rig.connected().await;
    assert_eq!(times_left(), 3);

    // it stops answering
    for pid in sshd.connections() {
        kill(pid, Signal::SIGSTOP).expect("a connection");
    }
    until(&mut ssh, "orch-a-1", is_waiting).await;
    rig.connected().await;
    assert_eq!(times_left(), 4, "the new worker ends the old one first");
    assert!(
        rig.log("orch-a-1").contains("127.0.1.1: started\n"),
        "{}",
        rig.log("orch-a-1")
    );
    leave(&mut ssh, "orch-a-1").await;
    assert_eq!(client("orch-a-1"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs sshd: make test-cluster"]
async fn a_host_that_cannot_be_used_is_left_out_with_one_line() {
    let sshd = Sshd::start();
    let rig = Rig::new();
    let mut stranger = rig.ssh(sshd.options_of_a_stranger(), "127.0.1.1");
    submit(&mut stranger, "orch-b-1").await;
    let JobState::Pending(reason) = until(&mut stranger, "orch-b-1", is_waiting).await else {
        unreachable!()
    };
    assert!(
        reason.sentence.contains("Permission denied"),
        "{}",
        reason.sentence
    );
    leave(&mut stranger, "orch-b-1").await;

    rig.program("orchestrator", "echo orchestrator 0.0.9");
    let without_trainer = Rig::new();
    without_trainer.program("orchestrator-trainer", "echo no libtorch here; exit 1");
    let home = without_trainer.folder.path().join("home");
    let file = format!(
        "127.0.1.1\n127.0.1.2 dir=/nowhere\n127.0.1.3 dir={}",
        home.display()
    );
    let mut ssh = rig.ssh(sshd.options(), &file);
    for (name, expected) in [
        (
            "orch-c-1",
            "has orchestrator 0.0.9, and the coordinator is orchestrator 0.1.0",
        ),
        ("orch-c-2", "there is no folder /nowhere here"),
        ("orch-c-3", "does not run: no libtorch here"),
    ] {
        assert!(matches!(
            submit(&mut ssh, name).await,
            SubmitOutcome::Submitted(_)
        ));
        let end = until(&mut ssh, name, |state| matches!(state, JobState::Ended(_))).await;
        let JobState::Ended(EndCause::Failed { detail }) = end else {
            panic!("{end:?}")
        };
        assert!(
            detail.starts_with("cannot be used: ") && detail.contains(expected),
            "{detail}"
        );
        assert_eq!(detail.lines().count(), 1, "{detail}");
    }
    let outcome = submit(&mut ssh, "orch-c-4").await;
    let SubmitOutcome::Refused { message } = outcome else {
        panic!("{outcome:?}")
    };
    assert!(
        ["127.0.1.1", "127.0.1.2", "127.0.1.3"]
            .iter()
            .all(|host| message.contains(&format!("{host} is left out: "))),
        "{message}"
    );
}

/// Two addresses of one machine: without this check each connection would end the other's worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs sshd: make test-cluster"]
async fn two_names_of_one_machine_with_one_work_directory_are_reported() {
    let sshd = Sshd::start();
    let rig = Rig::new();
    let mut ssh = rig.ssh(sshd.options(), "127.0.1.1\n127.0.1.2\n");
    submit(&mut ssh, "orch-e-1").await;
    rig.connected().await;
    submit(&mut ssh, "orch-e-2").await;
    let end = until(&mut ssh, "orch-e-2", |state| {
        matches!(state, JobState::Ended(_))
    });
    let JobState::Ended(EndCause::Failed { detail }) = end.await else {
        panic!("the second name has no worker")
    };
    assert!(
        detail.contains("cannot be used: 127.0.1.1 of the hosts file is this machine too"),
        "{detail}"
    );
    let running = until(&mut ssh, "orch-e-1", |_| true).await;
    assert_eq!(running, JobState::Running, "the first one works on");
    leave(&mut ssh, "orch-e-1").await;
}

/// The host has neither the build nor a libtorch; a second launcher finds both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs sshd: make test-cluster"]
async fn a_pushed_build_works_on_a_host_that_had_nothing() {
    let sshd = Sshd::start();
    let rig = Rig::new();
    let home = rig.folder.path().join("home/bin");
    let library = rig.folder.path().join("libtorch_cpu.so");
    fs::write(&library, "a library").expect("the test's folder");
    // it looks for libtorch where `orchestrator setup` puts it
    rig.program(
        "orchestrator-trainer",
        "[ -s \"${0%/*}/../../libtorch-9-cpu/torch/lib/libtorch_cpu.so\" ] || { echo no libtorch; exit 2; }",
    );
    let programs = ["orchestrator", "orchestrator-trainer"].map(|name| home.join(name));
    let libtorch = Copied {
        name: "libtorch-9-cpu".to_owned(),
        files: vec![("torch/lib/libtorch_cpu.so".into(), library)],
    };
    let build = Build::of(VERSION, [&programs[0], &programs[1]], Some(libtorch)).expect("a build");
    let cache = rig.folder.path().join("cache");
    let mut options = sshd.options();
    // what the host's own settings would name
    let variable = format!("SetEnv=XDG_CACHE_HOME={}", cache.display());
    options.extend(["-o".to_owned(), variable]);
    let there = |push| Settings {
        dir: "/nowhere".to_owned(),
        push,
        ..rig.settings(options.clone())
    };
    let hosts = || hosts::parse("127.0.1.1").expect("a hosts file");
    for (number, copies) in [(1, 2), (2, 2)] {
        let mut ssh = Ssh::new(there(Some(build.clone())), hosts());
        let name = format!("orch-f-{number}");
        submit(&mut ssh, &name).await;
        rig.connected().await;
        let entries = fs::read_dir(cache.join("orchestrator")).expect("the copies");
        let names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name())
            .filter(|name| name != "work")
            .collect();
        assert_eq!(names.len(), copies, "{names:?}");
        leave(&mut ssh, &name).await;
    }
    // a host without libtorch, and none here to copy
    fs::remove_dir_all(cache.join("orchestrator/libtorch-9-cpu")).expect("the copy");
    let build = Build::of(VERSION, [&programs[0], &programs[1]], None).expect("a build");
    let mut ssh = Ssh::new(there(Some(build)), hosts());
    submit(&mut ssh, "orch-f-3").await;
    let end = until(&mut ssh, "orch-f-3", |state| {
        matches!(state, JobState::Ended(_))
    });
    let JobState::Ended(EndCause::Failed { detail }) = end.await else {
        panic!("it has no libtorch")
    };
    assert!(
        detail.contains("this machine has no libtorch to copy there: no libtorch"),
        "{detail}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs sshd: make test-cluster"]
async fn a_worker_that_fails_three_times_in_a_row_is_not_started_again() {
    let sshd = Sshd::start();
    let rig = Rig::new();
    rig.worker("echo error: no libtorch >&2; exit 2");
    let mut ssh = rig.ssh(sshd.options(), "127.0.1.1");
    for number in 1..=3 {
        let name = format!("orch-d-{number}");
        assert!(
            matches!(submit(&mut ssh, &name).await, SubmitOutcome::Submitted(_)),
            "{name}"
        );
        let end = until(&mut ssh, &name, |state| matches!(state, JobState::Ended(_))).await;
        let JobState::Ended(EndCause::Failed { detail }) = end else {
            panic!("{end:?}")
        };
        assert!(
            detail.contains("exit code 2") && detail.contains("no libtorch"),
            "{detail}"
        );
    }
    assert!(matches!(
        submit(&mut ssh, "orch-d-4").await,
        SubmitOutcome::Refused { .. }
    ));
}
