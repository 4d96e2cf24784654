//! `orchestrator run FILE --launch ssh:hosts.txt`, with an sshd of the test's own. The hosts are
//! addresses of this machine, and folders keep them apart.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use tests::binaries::binary;
use tests::sshd::Sshd;
use tests::{Process, System, wait_for, wait_for_command};

use crate::launching::{
    Checkpoints, assert_no_failure_but, assert_nothing_trained_twice, wait_until_training,
};
use crate::reference::{SWEEP, assert_same_table};

#[test]
#[ignore = "needs sshd: make test-cluster"]
fn hosts_of_a_file_give_the_table_of_a_local_run() {
    let sshd = Sshd::start();
    let system = folder("slow=100 epoch=0");
    hosts(&system, &[("127.0.1.1", "one"), ("127.0.1.2", "two")]);
    let mut run = run(&sshd, &system, "job.yaml", "state");
    run.expect_exit(0);
    assert_same_table(&system);
    assert_no_failure_but(&system, &[]);
    assert_nothing_left(&system);
    let stderr = run.stderr();
    assert_eq!(
        stderr.matches(" joined with 2 slots").count(),
        2,
        "{stderr}"
    );
}

/// The second Ctrl-C does not wait for checkpoints; the workers write them all the same, since
/// their connection has ended.
#[test]
#[ignore = "needs sshd: make test-cluster"]
fn a_run_interrupted_twice_ends_at_once_leaves_nothing_on_its_hosts_and_continues() {
    let sshd = Sshd::start();
    let mut system = folder("slow=6000 epoch=1");
    hosts(&system, &[("127.0.1.1", "shared")]);
    let mut first = run(&sshd, &system, "job.yaml", "state");
    wait_until_training(&first);
    let saved = Checkpoints::of(&system.path("shared"));
    first.signal(Signal::SIGINT);
    wait_for("it waits for its workers", || {
        first
            .stderr()
            .contains("workers write checkpoints and leave")
            .then_some(())
    });
    // one that follows too soon counts as the same key press
    let ended = wait_for_command("it ends", || {
        first.signal(Signal::SIGINT);
        first.has_ended()
    });
    assert_eq!(ended.code(), Some(130), "{}", first.stderr());
    let stderr = first.stderr();
    assert!(stderr.contains("stopping at once"), "{stderr}");
    assert_nothing_left(&system);
    install(&mut system, "slow=0 epoch=0");
    run(&sshd, &system, "job.yaml", "state").expect_exit(0);
    assert_same_table(&system);
    assert_no_failure_but(&system, &["preempted", "unreachable"]);
    assert_nothing_trained_twice(&system, &system.path("shared"), &saved);
    assert_nothing_left(&system);
}

#[test]
#[ignore = "needs sshd: make test-cluster"]
fn two_runs_share_a_host_and_the_end_of_one_does_not_end_the_other() {
    let sshd = Sshd::start();
    let system = folder("slow=100 epoch=0");
    hosts(&system, &[("127.0.1.1", "shared")]);
    let other = SWEEP.replace("name: job", "name: other");
    system.file("other.yaml", &other.replace("xent, cos", "mse"));
    let mut job = run(&sshd, &system, "job.yaml", "state");
    let mut other = run(&sshd, &system, "other.yaml", "state-of-other");
    for run in [&job, &other] {
        wait_until_training(run);
    }
    other.expect_exit(0);
    assert!(system.results("other").join("table.md").exists());
    job.expect_exit(0);
    assert_same_table(&system);
    assert_no_failure_but(&system, &[]);
    assert_nothing_left(&system);
}

/// `--push`: the host has no build at all, and its worker runs from the copy.
#[test]
#[ignore = "needs sshd: make test-cluster"]
fn a_host_without_a_build_gets_this_one_and_gives_the_table() {
    let sshd = Sshd::start();
    let system = System::new();
    system.file("job.yaml", SWEEP);
    system.file("hosts.txt", "127.0.1.1 slots=2 dir=/nowhere\n");
    let run = |flags: &[&str]| {
        let mut command = system.orchestrator(&["run", "job.yaml", "--state-dir", "state"]);
        command.args(["--launch", "ssh:hosts.txt"]).args(flags);
        command.arg("--").args(sshd.options());
        // what the host's own settings would name
        let cache = system.path("cache");
        command.args(["-o", &format!("SetEnv=XDG_CACHE_HOME={}", cache.display())]);
        system.start("run", command)
    };
    let mut refused = run(&[]);
    refused.expect_exit(2);
    let stderr = refused.stderr();
    assert!(stderr.contains("there is no folder /nowhere"), "{stderr}");
    run(&["--push"]).expect_exit(0);
    assert_same_table(&system);
    assert_no_failure_but(&system, &[]);
    let copies = system.path("cache/orchestrator");
    assert!(copies.join("work/checkpoints").is_dir());
    wait_for("no process is left", || {
        let left = processes_in(&copies);
        (left.is_empty() && system.processes().is_empty()).then_some(())
    });
}

/// A minute after the start, and while the other host works.
#[test]
#[ignore = "needs sshd: make test-cluster"]
fn hosts_without_a_worker_are_listed_with_their_reasons() {
    let sshd = Sshd::start();
    let system = folder("slow=6000 epoch=0");
    hosts(&system, &[("127.0.1.1", "one"), ("127.0.1.9", "nine")]);
    let run = run(&sshd, &system, "job.yaml", "state");
    wait_for("the hosts are listed", || {
        run.stderr()
            .contains("127.0.1.1: connected\n")
            .then_some(())
    });
    let stderr = run.stderr();
    let listed = stderr.lines().find(|line| line.starts_with("127.0.1.9: "));
    let listed = listed.expect("each host has a line");
    assert!(
        listed.contains("cannot be reached") && listed.contains("refused"),
        "{listed}"
    );
    run.signal(Signal::SIGINT);
    assert_nothing_left(&system);
}

/// A folder like the unpacked tarball, with the sweep. First attempts on hosts have this fault.
fn folder(fault: &str) -> System {
    let mut system = System::new();
    system.file("job.yaml", SWEEP);
    install(&mut system, fault);
    fs::create_dir(system.path("home")).expect("the test's folder can be written");
    std::os::unix::fs::symlink(system.path("installed"), system.path("home/bin"))
        .expect("a link can be made");
    system
}

/// Installs the trainer with this fault: ssh hands no environment on.
fn install(system: &mut System, fault: &str) {
    system.install_trainer(&format!(
        "exec env RUST_LOG=warn,trainer=info ORCHESTRATOR_FAULT='{fault}' {} \"$@\"",
        binary("orchestrator-trainer").display()
    ));
}

/// Writes a hosts file with two slots on each host, and the name of its work directory.
fn hosts(system: &System, hosts: &[(&str, &str)]) {
    let line = |(host, work): &(&str, &str)| {
        format!(
            "{host} slots=2 dir={} work={}\n",
            system.path("home").display(),
            system.path(work).display()
        )
    };
    system.file("hosts.txt", &hosts.iter().map(line).collect::<String>());
}

fn run(sshd: &Sshd, system: &System, file: &str, state: &str) -> Process {
    let mut command = system.orchestrator(&["run", file, "--state-dir", state]);
    command.args(["--launch", "ssh:hosts.txt", "--"]);
    command.args(sshd.options());
    system.start("run", command)
}

/// Requires that every process of the system ends, those on its hosts included, which have no mark:
/// they work in its folder.
fn assert_nothing_left(system: &System) {
    let folder = system.path("home");
    wait_for("no process is left", || {
        let on_hosts = processes_in(&folder);
        (on_hosts.is_empty() && system.processes().is_empty()).then_some(())
    });
}

/// The processes whose working directory is this folder.
fn processes_in(folder: &Path) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("Linux has /proc");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_there = |pid: &u32| {
        fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|path| path.starts_with(folder))
    };
    pids.filter(is_there).collect()
}
