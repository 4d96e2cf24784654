//! `orchestrator run` beside other runs, asked to end, and with a results folder that fails: none
//! of this may lose results. Trainers obey without training.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tests::binaries::binary;
use tests::{Process, System, wait_for};

const SWEEP: &str = "
name: idle
recipe: quick
set: {dataset: digits, model: resnet-8, samples_per_class: 5}
axes:
  loss: [xent, cos]
seeds: 4
outputs:
  - table: {rows: loss}
";

/// An interrupt this long after the first signal is a request of its own.
const SAME_REQUEST: Duration = Duration::from_millis(1_100);

fn trainer(system: &System, epoch_ms: u32) -> PathBuf {
    let trainer = binary("orchestrator-trainer");
    let commands = format!(
        "exec {} \"$@\" --rehearse --rehearse-epoch-ms {epoch_ms}",
        trainer.display()
    );
    system.script("trainer", &commands)
}

/// `orchestrator run` of the sweep, with its own coordinator and worker if it is the first.
fn command(system: &System, trainer: &PathBuf) -> Command {
    let mut command = system.orchestrator(&[
        "run",
        "idle.yaml",
        "--devices",
        "cpu",
        "--slots",
        "2",
        "--trainer",
    ]);
    command.arg(trainer);
    command
}

fn no_partial_files(system: &System) {
    let entries = std::fs::read_dir(system.results("idle")).expect("the results folder is there");
    let names = entries.map(|entry| {
        entry
            .expect("a readable folder")
            .file_name()
            .to_string_lossy()
            .into_owned()
    });
    let partial: Vec<String> = names.filter(|name| name.contains("partial")).collect();
    assert!(partial.is_empty(), "{partial:?}");
}

/// Later commands follow the first, and all of them write one results folder.
#[test]
fn runs_that_are_started_together_all_end_with_the_table() {
    for round in 0..4 {
        let system = System::new();
        system.file("idle.yaml", SWEEP);
        let trainer = trainer(&system, 3);
        let mut runs: Vec<Process> = (0..2 + round % 2)
            .map(|number| system.start(&format!("run{number}"), command(&system, &trainer)))
            .collect();
        for run in &mut runs {
            run.expect_exit(0);
            assert!(
                run.stdout().contains("xent"),
                "{}\n{}",
                run.stdout(),
                run.stderr()
            );
            assert!(run.stderr().contains("results are in"), "{}", run.stderr());
        }
        assert!(system.results("idle").join("results.csv").exists());
        no_partial_files(&system);
    }
}

/// Commands that were frozen while the sweep and its coordinator ended find the results in the
/// state directory.
#[test]
fn a_run_that_ends_leaves_its_results_to_those_that_follow_it() {
    let system = System::new();
    system.file("idle.yaml", SWEEP);
    let trainer = trainer(&system, 30);
    let mut first = system.start("first", command(&system, &trainer));
    wait_for("the sweep has begun", || {
        first.stderr().contains("idle: ").then_some(())
    });
    let attached = [
        system.start("second", command(&system, &trainer)),
        system.start("tail", system.orchestrator(&["tail", "idle"])),
    ];
    wait_for("both follow", || {
        let follow = |process: &Process| process.stderr().contains("idle: ");
        attached.iter().all(follow).then_some(())
    });
    for process in &attached {
        process.signal(Signal::SIGSTOP);
    }
    first.expect_exit(0);
    for mut process in attached {
        process.signal(Signal::SIGCONT);
        process.expect_exit(0);
        let table = process.stdout();
        assert!(table.contains("xent") && table.contains('*'), "{table}");
    }
    no_partial_files(&system);
}

/// `timeout`, `make` and `srun` signal a process and its group, some of them with two signals.
#[test]
fn signals_of_one_request_to_end_count_once() {
    let system = System::new();
    system.file("idle.yaml", SWEEP);
    // long enough that the stop is noticed during an epoch
    let trainer = trainer(&system, 1_500);
    let mut command = command(&system, &trainer);
    command.process_group(0);
    let mut run = system.start("run", command);
    wait_for("a trial runs", || {
        (!system.trainers().is_empty()).then_some(())
    });
    let group = Pid::from_raw(run.pid().try_into().expect("a process id"));
    run.signal(Signal::SIGTERM);
    killpg(group, Signal::SIGTERM).expect("the group is there");
    run.signal(Signal::SIGINT);
    run.expect_exit(130);
    let printed = run.stderr();
    assert!(printed.contains("writing checkpoints"), "{printed}");
    assert!(!printed.contains("stopping at once"), "{printed}");
    assert!(printed.contains("the same command continues"), "{printed}");
}

/// A second SIGINT insists even before the first request is carried out: a trainer checks for it
/// between two epochs. What Slurm repeats does not insist.
#[test]
fn a_second_interrupt_stops_at_once_and_a_repeated_sigterm_does_not() {
    let mut system = System::new();
    let _coordinator = system.coordinator();
    let trainer = binary("orchestrator-trainer");
    system.install_trainer(&format!(
        "exec {} \"$@\" --rehearse --rehearse-epoch-ms 600000",
        trainer.display()
    ));
    let mut command = system.worker_command("deaf", 1, 1);
    command.env("SLURM_JOB_ID", "1");
    let mut worker = system.start("deaf", command);
    system.file("idle.yaml", SWEEP);
    let url = system.url();
    system
        .start(
            "run",
            system.orchestrator(&["run", "idle.yaml", "--coordinator", &url, "--detach"]),
        )
        .expect_exit(0);
    wait_for("a trial runs", || {
        let status = system.status()?;
        status["sweeps"][0]["running"]
            .as_u64()
            .filter(|running| *running > 0)
    });
    worker.signal(Signal::SIGTERM);
    wait_for("the first is received", || {
        worker
            .stderr()
            .contains("SIGTERM: writing checkpoints")
            .then_some(())
    });
    std::thread::sleep(SAME_REQUEST);
    worker.signal(Signal::SIGTERM);
    worker.signal(Signal::SIGUSR1);
    std::thread::sleep(SAME_REQUEST);
    assert!(
        !worker.stderr().contains("stopping at once"),
        "Slurm repeats itself: {}",
        worker.stderr()
    );
    worker.signal(Signal::SIGINT);
    worker.expect_exit(130);
    assert!(
        worker.stderr().contains("stopping at once"),
        "{}",
        worker.stderr()
    );
}

/// The disk of the results is full for a while, or its folder is gone: training continues, and no
/// result is lost.
#[test]
fn results_that_cannot_be_written_do_not_end_the_run() {
    let system = System::new();
    system.file("idle.yaml", SWEEP);
    let trainer = trainer(&system, 40);
    let mut run = system.start("run", command(&system, &trainer));
    // as with a quota: the folder exists, but no file can be created in it
    let folder = system.results("idle");
    wait_for("the run has begun", || {
        run.stderr().contains("idle: ").then_some(())
    });
    wait_for(
        "the folder is out of the way of a writer that may be making it",
        || {
            // both fail if the run is faster
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::write(&folder, "a file in its place").ok()
        },
    );
    run.expect_exit(2);
    let printed = run.stderr();
    assert_eq!(
        printed.matches("results are not written for now").count(),
        1,
        "{printed}"
    );
    assert!(printed.contains("training continues"), "{printed}");
    assert!(
        run.stdout().contains("xent"),
        "the table is printed all the same: {}",
        run.stdout()
    );
    assert!(
        printed.contains("results were not written: results/idle"),
        "{printed}"
    );
    let mut write = system.as_printed(&printed, "orchestrator table idle --results");
    std::fs::remove_file(&folder).expect("it is ours");
    let output = write.output().expect("the command starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let rows = std::fs::read_to_string(folder.join("results.csv")).expect("it is written now");
    assert_eq!(
        rows.lines().count(),
        1 + 8,
        "every trial has a result: {rows}"
    );
}
