//! Whole sweeps on emulated GPUs (stand_in_gpu/README.md): placement, graphs, NCCL, broken and
//! hanging devices, with the real libtorch and real processes. `make stand-in-gpu` runs them; they
//! do not test the speed and numbers of a real GPU.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tests::results::{assert_same, attempts, undisturbed_files};
use tests::{Process, System};

/// A deterministic sweep with every operation that a GPU applies to images.
fn sweep(replicas: u32) -> String {
    format!(
        "
name: pretended
recipe: quick
set:
  dataset: digits
  model: resnet-8
  samples_per_class: 20
  shift: 0.1
  erase: true
  deterministic: true
  replicas: {replicas}
  schedule: {{cosine: {{epochs: 6}}}}
axes:
  loss: [xent, cos]
seeds: 2
outputs:
  - table: {{rows: loss}}
"
    )
}

fn on_gpus(mut command: Command, count: u32) -> Command {
    let folder = std::env::var_os("ORCHESTRATOR_STAND_IN_GPU")
        .expect("`make stand-in-gpu` says where it is");
    let folder = PathBuf::from(folder);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", folder.join("bin").display()));
    command.env("LD_LIBRARY_PATH", folder.join("site/torch/lib"));
    command.env("STAND_IN_GPUS", count.to_string());
    command
}

type Files = BTreeMap<String, Vec<u8>>;

/// Runs the sweep to success in a folder of its own. Returns its results, and the description of
/// its trials.
fn run(
    replicas: u32,
    gpus: u32,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> (Files, Vec<Value>) {
    let system = System::new();
    system.file("pretended.yaml", &sweep(replicas));
    let mut command = on_gpus(system.orchestrator(&["run", "pretended.yaml"]), gpus);
    command.args(arguments).envs(environment.iter().copied());
    system.start("run", command).expect_exit(0);
    let folder = system.path("results/pretended");
    let report = std::fs::read_to_string(folder.join("results.json")).expect("the report is there");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    (
        undisturbed_files(&folder),
        report["trials"].as_array().expect("trials").clone(),
    )
}

fn texts(trials: &[Value], field: &str) -> Vec<String> {
    trials
        .iter()
        .map(|trial| trial["timing"][field].to_string())
        .collect()
}

#[test]
#[ignore = "needs the stand-in: make stand-in-gpu"]
fn where_a_trial_runs_changes_no_bit() {
    let (expected, trials) = run(1, 1, &["--devices", "cuda:0"], &[]);
    for (field, output) in [
        ("execution", "\"recorded\""),
        ("images", "\"resident\""),
        ("kernels", "\"fused-norm\""),
    ] {
        assert_eq!(texts(&trials, field), [output; 4], "{field}");
    }
    let (two, trials) = run(1, 2, &["--devices", "cuda"], &[]);
    assert_same(&expected, &two);
    assert!(
        ["cuda:0 (", "cuda:1 ("]
            .iter()
            .all(|gpu| texts(&trials, "devices").join(" ").contains(gpu))
    );
    let (packed, _) = run(1, 1, &["--devices", "cuda:0", "--slots", "3"], &[]);
    assert_same(&expected, &packed);
    let (group_of_one, trials) = run(
        1,
        1,
        &["--devices", "cuda:0"],
        &[("ORCHESTRATOR_NCCL_ALONE", "1")],
    );
    assert_same(&expected, &group_of_one);
    assert!(
        texts(&trials, "libraries")
            .iter()
            .all(|libraries| libraries.contains("NCCL"))
    );
}

#[test]
#[ignore = "needs the stand-in: make stand-in-gpu"]
fn replicas_over_nccl_give_the_bits_of_replicas_that_share_a_gpu() {
    let (apart, trials) = run(2, 2, &["--devices", "cuda", "--devices-per-slot", "2"], &[]);
    assert_eq!(texts(&trials, "execution"), ["\"recorded\""; 4]);
    let (together, _) = run(2, 1, &["--devices", "cuda"], &[]);
    assert_same(&apart, &together);
}

/// The other GPU takes the trial and resumes from the checkpoint.
#[test]
#[ignore = "needs the stand-in: make stand-in-gpu"]
fn a_gpu_that_breaks_is_given_up_and_changes_no_result() {
    let (expected, _) = run(1, 2, &["--devices", "cuda"], &[]);
    let (found, trials) = run(
        1,
        2,
        &["--devices", "cuda"],
        &[("STAND_IN_GPU_FAULT", "ecc@1500:1")],
    );
    assert_same(&expected, &found);
    let failed: Vec<&Value> = trials
        .iter()
        .flat_map(|trial| trial["attempts"].as_array().expect("attempts"))
        .collect();
    let failed = failed
        .iter()
        .filter(|attempt| attempt.to_string().contains("bad_device"))
        .count();
    assert_eq!(failed, 1, "{trials:?}");
}

/// The host continues, the broken queue does not. Each trainer process meets the fault again, but
/// gets further.
#[test]
#[ignore = "needs the stand-in: make stand-in-gpu"]
fn a_gpu_that_hangs_costs_attempts_and_no_result() {
    hanging(1, ("STAND_IN_GPU_FAULT", "hang@1500:1"));
}

#[test]
#[ignore = "needs the stand-in: make stand-in-gpu"]
fn a_replica_that_is_lost_in_nccl_costs_attempts_and_no_result() {
    hanging(2, ("STAND_IN_NCCL_FAULT", "stuck@100"));
}

fn hanging(replicas: u32, fault: (&str, &str)) {
    let share = replicas.to_string();
    let arguments = ["--devices", "cuda", "--devices-per-slot", &share];
    let (expected, _) = run(replicas, 2, &arguments, &[]);
    let mut system = System::new();
    // longer than a trainer takes to start on a busy machine
    system.coordinator_flags = ["--heartbeat-ms", "200", "--stall-ms", "15000"]
        .map(str::to_owned)
        .to_vec();
    let _coordinator = system.coordinator();
    let url = system.url();
    let worker = [
        "worker",
        "--coordinator",
        &url,
        "--name",
        "gpus",
        "--work-dir",
        "work",
    ];
    let mut worker = on_gpus(system.orchestrator(&worker), 2);
    worker.args(arguments).env(fault.0, fault.1);
    let _worker: Process = system.start("worker", worker);
    system.file("pretended.yaml", &sweep(replicas));
    let run = ["run", "pretended.yaml", "--coordinator", &url];
    system
        .start("run", system.orchestrator(&run))
        .expect_exit(0);
    let folder = system.results("pretended");
    assert_same(&expected, &undisturbed_files(&folder));
    assert!(
        attempts(&folder).iter().sum::<u32>() > 4,
        "nothing was disturbed"
    );
}
