//! The Slurm script with real binaries: `srun` and `scontrol` are stand-ins that run their command
//! on this machine.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::Signal;
use tests::binaries::binary;
use tests::results::resumed_from;
use tests::{Process, System, wait_for};

const SWEEP: &str = "
name: job
recipe: quick
set: {dataset: digits, model: resnet-8, samples_per_class: 20, schedule: {constant: {epochs: 15}}}
axes:
  loss: [xent, cos]
seeds: 2
outputs:
  - table: {rows: loss}
";

#[test]
fn a_job_trains_a_sweep_and_prints_its_table() {
    let system = job();
    let mut job = submit(&system);
    job.expect_exit(0);
    assert!(
        job.stdout().contains("cos"),
        "no table in the job's output: {}",
        job.stdout()
    );
    assert_eq!(
        system.processes(),
        Vec::<u32>::new(),
        "the job leaves no process"
    );
    assert!(!system.path("requeued").exists());
}

#[test]
fn a_job_near_its_time_limit_requeues_itself_and_continues() {
    let system = job();
    let mut first = submit(&system);
    wait_for("an epoch has been trained", || {
        first.stderr().contains("epoch ").then_some(())
    });
    first.signal(Signal::SIGUSR1);
    first.wait();
    assert!(system.path("requeued").exists(), "{}", first.stderr());
    assert_eq!(
        system.processes(),
        Vec::<u32>::new(),
        "the job leaves no process"
    );
    assert!(
        !first.stderr().contains("stopping at once"),
        "no time to checkpoint: {}",
        first.stderr()
    );
    let mut second = submit(&system);
    second.expect_exit(0);
    let resumed = resumed_from(&system.results("job"));
    assert!(
        resumed.iter().any(|epoch| *epoch > 0),
        "no trial went on from its checkpoint: {resumed:?}"
    );
}

/// Makes a folder like the unpacked archive, with stand-ins for Slurm's commands.
fn job() -> System {
    let system = System::new();
    system.file("job.yaml", SWEEP);
    fs::create_dir(system.path("stand-ins")).expect("the test's folder can be written");
    let binaries = binary("orchestrator");
    symlink(
        binaries.parent().expect("a file has a folder"),
        system.path("bin"),
    )
    .expect("a link can be made");
    // srun's own options end where the program's path begins; it forwards signals to its task, as a
    // child of `exec` would
    system.script(
        "stand-ins/srun",
        "while [ \"${1#-}\" != \"$1\" ]; do shift; done; exec \"$@\"",
    );
    let requeue =
        "case $1 in show) echo 127.0.0.1 ;; requeue) touch \"$SLURM_SUBMIT_DIR/requeued\" ;; esac";
    system.script("stand-ins/scontrol", requeue);
    system
}

fn submit(system: &System) -> Process {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/slurm.sbatch");
    let mut command: Command = system.marked("bash");
    let path = format!(
        "{}:{}",
        system.path("stand-ins").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    // the script derives the port from it, and no two jobs of a test run may share one
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let job = (std::process::id() * 8 + SERIAL.fetch_add(1, Ordering::Relaxed)).to_string();
    command.arg(script).arg("job.yaml").env("PATH", path);
    command.envs([
        ("SLURM_JOB_ID", job.as_str()),
        ("SLURM_JOB_NODELIST", "here"),
    ]);
    command.env("SLURM_SUBMIT_DIR", system.path(""));
    system.start("job", command)
}
