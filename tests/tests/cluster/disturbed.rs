//! Everything that a cluster does to a run: nodes, controllers and coordinators die, the time is
//! over, the disk is full. The table is that of a local run all the same, nothing is trained twice
//! beyond the last checkpoint, and no job is left behind.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::cluster::Cluster;
use tests::{Process, System, wait_for, wait_for_command};

use crate::launching::{
    Checkpoints, assert_no_failure_but, assert_nothing_left, assert_nothing_trained_twice,
    assert_one_job_for_each_name, cluster_status, folder, jobs, jobs_in, run, run_as_asked,
    run_command, site, start_at_site, wait_for_status, wait_until_training,
};
use crate::reference::{assert_same_table, running, slowed};

/// Complaint 9. Every first attempt sleeps for longer than the three minutes of its job.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_job_whose_time_is_over_loses_no_work_and_its_successor_is_there_already() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let system = folder();
    let flags = ["--nodes", "1", "--cpus-per-node", "2", "--time", "3"];
    let mut command = run_as_asked(&cluster, &system, &flags);
    slowed(&mut command, 3_000);
    let mut run = system.start("run", command);
    let first = wait_for_command("the first job runs", || jobs_in(&cluster, "running").pop());
    wait_for_command("a second job runs before the first has ended", || {
        let running = jobs_in(&cluster, "running");
        assert!(running.contains(&first), "{running:?}");
        (running.len() == 2).then_some(())
    });
    run.expect_exit(0);
    assert_same_table(&system);
    assert_eq!(cluster.exit_code(&first), "75:0", "work was left");
    let classes = crate::launching::failure_classes(&system);
    assert_eq!(
        classes.len(),
        4,
        "each trial was interrupted once: {classes:?}"
    );
    assert_no_failure_but(&system, &["preempted"]);
    assert_nothing_trained_twice(&system, &work(&system), &Checkpoints::none());
    assert_nothing_left(&cluster, &system);
}

/// A killed run is begun again while the answer to its submission was lost: Slurm has the job, and
/// no second one is submitted for the same intent.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_coordinator_killed_between_intent_and_answer_submits_no_job_twice() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let system = folder();
    cluster.signal("slurmctld", Signal::SIGSTOP);
    let first = run(&cluster, &system, &[]);
    wait_for("sbatch waits for its answer", || {
        let sbatch = |pid: &u32| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // not the --test-only before it
            command.starts_with(b"sbatch\0--parsable\0")
        };
        system.processes().into_iter().find(sbatch)
    });
    first.kill();
    cluster.signal("slurmctld", Signal::SIGCONT);
    run(&cluster, &system, &[]).expect_exit(0);
    assert_same_table(&system);
    assert_one_job_for_each_name(&cluster);
    assert_nothing_left(&cluster, &system);
}

/// Complaint 7. The same command is given again after each kill: before and after sbatch, while it
/// trains, and while it gives its nodes back.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_coordinator_killed_on_the_login_node_loses_and_doubles_nothing() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let system = folder();
    let kill_at = system.path("kill-at");
    site(
        &system,
        "sbatch",
        &format!(
            "case \" $* \" in *--parsable*) ;; *) exec /usr/bin/sbatch \"$@\" ;; esac\n\
             case $(cat {point} 2>/dev/null) in\n\
             before) rm {point}; kill -KILL $PPID; exit 1 ;;\n\
             after) rm {point}; /usr/bin/sbatch \"$@\"; kill -KILL $PPID; exit 1 ;;\n\
             esac\nexec /usr/bin/sbatch \"$@\"",
            point = kill_at.display()
        ),
    );
    let start = || start_at_site(&system, run_command(&cluster, &system, &[]));
    for (point, jobs_then) in [("before", 0), ("after", 1)] {
        fs::write(&kill_at, point).expect("the test's folder can be written");
        let status = start().wait();
        assert_eq!(status.code(), None, "it is killed: {status}");
        assert_eq!(jobs(&cluster).len(), jobs_then, "killed {point} sbatch");
    }
    let third = start();
    wait_until_training(&third);
    third.kill();
    let fourth = start();
    wait_for("it gives its node back", || {
        fourth.stderr().contains("giving back").then_some(())
    });
    fourth.kill();
    start().expect_exit(0);
    assert_same_table(&system);
    assert_eq!(jobs(&cluster).len(), 1, "{:#?}", jobs(&cluster));
    assert_no_failure_but(&system, &["preempted"]);
    assert_nothing_trained_twice(&system, &work(&system), &Checkpoints::none());
    assert_nothing_left(&cluster, &system);
}

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_submission_without_an_answer_is_one_job_and_a_controller_that_was_away_costs_nothing() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let system = folder();
    cluster.signal("slurmctld", Signal::SIGSTOP);
    let mut run = run(&cluster, &system, &[]);
    wait_for_status(&cluster, &system, "timed out");
    cluster.signal("slurmctld", Signal::SIGCONT);
    wait_until_training(&run);
    cluster.signal("slurmctld", Signal::SIGKILL);
    wait_for("a trial has ended without a controller", || {
        run.stderr().contains("(best").then_some(())
    });
    cluster.start_controller();
    run.expect_exit(0);
    assert_same_table(&system);
    assert_one_job_for_each_name(&cluster);
    assert_nothing_left(&cluster, &system);
}

/// The controller is away until the sweep is complete and the cluster was asked in vain.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn jobs_are_given_back_when_the_controller_returns_after_the_sweep_has_ended() {
    let cluster = Cluster::start(&["--nodes", "1"]);
    let system = folder();
    let mut run = run(&cluster, &system, &[]);
    wait_until_training(&run);
    cluster.signal("slurmctld", Signal::SIGKILL);
    wait_for("the run gives its node back", || {
        run.stderr().contains("giving back").then_some(())
    });
    wait_for_status(&cluster, &system, "the cluster does not answer");
    cluster.start_controller();
    run.expect_exit(0);
    assert_same_table(&system);
    assert_no_failure_but(&system, &[]);
    assert_nothing_left(&cluster, &system);
}

/// In two minutes without slurmctld two questions fail if it is asked every 30 s, since the pauses
/// grow. With one each second a shorter outage has three. A job runs meanwhile, and one waits.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_controller_that_misses_several_questions_in_a_row_costs_nothing() {
    let cluster = Cluster::start(&["--nodes", "1", "--cpus", "2"]);
    let system = folder();
    let asked = system.path("asked");
    let script = format!(
        "case \" $* \" in *--name=*) echo asked >>{} ;; esac\nexec /usr/bin/squeue \"$@\"",
        asked.display()
    );
    site(&system, "squeue", &script);
    let questions = || {
        let text = fs::read_to_string(&asked).unwrap_or_default();
        text.lines().count()
    };
    let flags = ["--nodes", "2", "--observe-every", "1"];
    let mut command = run_command(&cluster, &system, &flags);
    // no trial ends before the controller is back
    slowed(&mut command, 6_000);
    let mut first = start_at_site(&system, command);
    wait_until_training(&first);
    wait_for_status(&cluster, &system, "pending");
    cluster.signal("slurmctld", Signal::SIGKILL);
    let before = questions();
    // one may have been answered before the kill, and the last has only begun
    wait_for("three questions have failed", || {
        (questions() >= before + 4).then_some(())
    });
    let status = wait_for_status(&cluster, &system, "the cluster does not answer");
    assert!(
        status.contains("running") && status.contains("pending"),
        "nothing is concluded: {status}"
    );
    assert_no_failure_but(&system, &[]);
    cluster.start_controller();
    wait_for_command("Slurm answers again", || {
        let status = cluster_status(&cluster, &system)?;
        (!status.contains("does not answer")).then_some(())
    });
    first.signal(Signal::SIGINT);
    first.expect_exit(130);
    assert_one_job_for_each_name(&cluster);
    run(&cluster, &system, &["--nodes", "2"]).expect_exit(0);
    assert_same_table(&system);
    assert_no_failure_but(&system, &["preempted"]);
    assert_nothing_trained_twice(&system, &work(&system), &Checkpoints::none());
    assert_nothing_left(&cluster, &system);
}

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_node_that_fails_is_replaced() {
    let cluster = Cluster::start(&["--nodes", "3"]);
    let system = folder();
    let mut run = run(&cluster, &system, &["--nodes", "2"]);
    let (_, node) = a_training_job(&cluster, &run);
    let saved = Checkpoints::of(&work(&system));
    let update = format!("nodename={node}");
    cluster.ask(
        "scontrol",
        &["update", &update, "state=down", "reason=test"],
    );
    run.expect_exit(0);
    assert_same_table(&system);
    let jobs = jobs(&cluster);
    assert!(
        jobs.iter().any(|(_, state)| state == "NODE_FAIL"),
        "{jobs:#?}"
    );
    assert_no_failure_but(&system, &["preempted", "unreachable"]);
    assert_nothing_trained_twice(&system, &work(&system), &saved);
    assert_nothing_left(&cluster, &system);
}

/// Slurm takes the node for dead while its worker trains on, and ends the job when the node is
/// back.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_killed_slurmd_costs_no_work_and_no_job_stays() {
    let cluster = Cluster::start(&["--nodes", "3"]);
    let system = folder();
    let mut command = run_command(&cluster, &system, &["--nodes", "2"]);
    slowed(&mut command, 600);
    let mut run = system.start("run", command);
    let (job, node) = a_training_job(&cluster, &run);
    cluster.node("kill", &node);
    assert_eq!(cluster.ended(&job), "NODE_FAIL");
    let saved = Checkpoints::of(&work(&system));
    cluster.node("start", &node);
    run.expect_exit(0);
    assert_same_table(&system);
    assert_no_failure_but(&system, &["preempted", "unreachable"]);
    assert_nothing_trained_twice(&system, &work(&system), &saved);
    assert_nothing_left(&cluster, &system);
}

/// MinJobAge=2: Slurm forgets ended jobs after two seconds.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_killed_worker_is_replaced_also_where_slurm_forgets_jobs_at_once_and_sacct_is_absent() {
    let cluster = Cluster::start(&["--nodes", "2", "--set", "MinJobAge=2"]);
    let system = folder();
    let commands = system.path("commands");
    fs::create_dir(&commands).expect("the test's folder can be written");
    for entry in fs::read_dir("/usr/bin").expect("a readable folder") {
        let path = entry.expect("a readable folder").path();
        let name = path.file_name().expect("a name");
        if name != "sacct" {
            symlink(&path, commands.join(name)).expect("the test's folder can be written");
        }
    }
    let mut command = run_command(&cluster, &system, &["--nodes", "2"]);
    command.env("PATH", &commands);
    let mut run = system.start("run", command);
    wait_until_training(&run);
    let worker = wait_for("a worker runs", || running(&system, "worker").pop());
    let saved = Checkpoints::of(&work(&system));
    kill(Pid::from_raw(worker), Signal::SIGKILL).expect("it runs");
    run.expect_exit(0);
    assert_same_table(&system);
    assert_no_failure_but(&system, &["unreachable"]);
    assert_nothing_trained_twice(&system, &work(&system), &saved);
    assert_nothing_left(&cluster, &system);
}

/// Journal, scripts, logs and checkpoints are all on it.
#[test]
#[ignore = "needs slurmctld, and root for a small file system: make test-cluster"]
fn a_full_disk_under_the_state_folder_is_waited_for() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let system = folder();
    let disk = SmallDisk::mount(system.path("state"));
    let mut run = run(&cluster, &system, &["--nodes", "2"]);
    wait_until_training(&run);
    let saved = Checkpoints::of(&work(&system));
    disk.fill();
    wait_for_command("the status explains", || {
        let mut status = system.orchestrator(&["status", "--state-dir", "state"]);
        let output = status.output().expect("the client starts");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        text.contains("cannot write its journal").then_some(())
    });
    disk.make_room();
    run.expect_exit(0);
    assert_same_table(&system);
    assert_no_failure_but(&system, &["node", "preempted"]);
    assert_nothing_trained_twice(&system, &work(&system), &saved);
    assert_nothing_left(&cluster, &system);
}

/// The disk is full before the first job's script is written.
#[test]
#[ignore = "needs slurmctld, and root for a small file system: make test-cluster"]
fn a_full_disk_at_a_submission_is_no_refusal() {
    let cluster = Cluster::start(&["--nodes", "1"]);
    let system = folder();
    fs::create_dir(system.path("state")).expect("the test's folder can be written");
    let disk = SmallDisk::mount(system.path("state/allocations"));
    disk.fill();
    let mut run = run(&cluster, &system, &[]);
    wait_for_status(&cluster, &system, "No space left on device");
    disk.make_room();
    run.expect_exit(0);
    assert_same_table(&system);
    assert_eq!(jobs(&cluster).len(), 1);
    assert_nothing_left(&cluster, &system);
}

/// Cgroups confine jobs to their cores and their memory, as in production.
#[test]
#[ignore = "needs slurmctld, and root for cgroups: make test-cluster"]
fn a_confined_job_has_slots_for_its_cores_and_reports_too_little_memory() {
    let cluster = Cluster::start(&["--nodes", "1", "--cpus", "2", "--confine"]);
    let system = folder();
    let one_core = ["--cpus-per-node", "1", "--time", "10", "--"];
    let enough: Vec<&str> = one_core.into_iter().chain(["--mem=2000"]).collect();
    let mut command = run_as_asked(&cluster, &system, &enough);
    slowed(&mut command, 0);
    let mut run = system.start("run", command);
    run.expect_exit(0);
    let stderr = run.stderr();
    assert!(stderr.contains("joined with 1 slot"), "{stderr}");
    assert_same_table(&system);
    assert_no_failure_but(&system, &[]);
    assert_nothing_left(&cluster, &system);

    // less than a trainer needs to start
    let system = folder();
    let little: Vec<&str> = one_core.into_iter().chain(["--mem=50"]).collect();
    let run = system.start("run", run_as_asked(&cluster, &system, &little));
    wait_for("the reason is given", || {
        let reason = "it used more memory than it had asked for";
        run.stderr().contains(reason).then_some(())
    });
    let jobs = jobs(&cluster);
    assert!(
        jobs.iter().any(|(_, state)| state == "OUT_OF_MEMORY"),
        "{jobs:#?}"
    );
    run.signal(Signal::SIGINT);
    assert_nothing_left(&cluster, &system);
}

/// A file system of its own, which ends with this value.
struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    fn mount(at: PathBuf) -> Self {
        fs::create_dir_all(&at).expect("the test's folder can be written");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=32m", "none"])
            .arg(&at);
        let status = mount.status().expect("mount is installed");
        assert!(
            status.success(),
            "only root can mount a small file system for this test"
        );
        Self { at }
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.ballast()).expect("there is room for a file");
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // lazily: processes of the test may still be there
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// The number of a running job, and its node, once an epoch has been trained.
fn a_training_job(cluster: &Cluster, run: &Process) -> (String, String) {
    wait_until_training(run);
    let jobs = cluster.ask("squeue", &["-h", "-t", "running", "-o", "%A %N"]);
    let (job, node) = jobs
        .lines()
        .next()
        .and_then(|line| line.split_once(' '))
        .expect("a job runs");
    (job.to_owned(), node.to_owned())
}

/// The work directory of launched workers.
fn work(system: &System) -> PathBuf {
    system.path("state/work")
}
