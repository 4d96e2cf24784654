//! `bench/gpu.py` from its command line to the document it writes, with stand-ins for everything
//! that needs a GPU.
//!
//! The measured numbers are not checked: only that each documented command finds its files and each
//! table its place.

use std::path::Path;
use std::process::{Command, Output};
use std::{env, fs};

use tempfile::TempDir;

/// Trainer, its tests, orchestrator, reference and nvidia-smi in one script: name and arguments
/// distinguish them.
const STAND_IN: &str = r##"#!/usr/bin/env python3
import json, pathlib, sys
name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
after = lambda flag: words[words.index(flag) + 1]
if name == "nvidia-smi":
    print("1980" if "clocks" in words[0] else "A GPU, 580.65.06")
elif name == "tests":
    print("1 passed")
elif name == "orchestrator":
    if not words[1].endswith("small.yaml"):
        assert (pathlib.Path(after("--data-dir")) / "fashion-mnist" / "images").exists(), words
    assert pathlib.Path(after("--trainer")).is_absolute(), words
    assert after("--devices") == "cuda:0", words
    timing = {"start_s": 0.5, "train_s": 1, "evaluate_s": 1, "checkpoint_s": 0, "images_per_s": 10, "execution": "recorded"}
    trials = [{"cell": "xent", "seed": seed, "timing": timing, "attempts": [{"started_at_ms": 9000 * seed}],
               "provenance": {"state_hash": str(seed)}, "result": {"last_accuracy": 0.5}} for seed in range(4)]
    results = pathlib.Path("results/x")
    results.mkdir(parents=True)
    (results / "results.json").write_text(json.dumps({"trials": trials}))
elif words[0] == "devices":
    print("cuda:0 (A GPU)")
elif "e2e" in words:
    print(json.dumps({"accuracy": 0.5}))
elif name == "python" and "gate" in words:
    step = {f"{own}{what}": 1e-3 for own in ("", "own_") for what in ("gradient", "error", "state", "loss")}
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        curves = {what: [1.0] * 30 for what in ("curve", "own_curve")}
        print(json.dumps(curves if line == "curve\n" else {**step, "loss": 1.0}), flush=True)
else:
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order, count, *file = [*line.split(maxsplit=2), "1"]
        if order == "profile":
            pathlib.Path(file[0].strip()).write_text(json.dumps({"traceEvents": [
                {"cat": "kernel", "name": "bn_fw", "dur": 3}, {"cat": "cuda_runtime", "name": "cudaLaunchKernel"}]}))
        count = int(count) if count.isdigit() else 1
        print(json.dumps({"images": 32 * count, "seconds": count / 10, "cpu_seconds": 0.1, "peak_mib": 1,
                          "execution": "queued", "loss": 1.0}), flush=True)
"##;

/// Runs the command, with relative paths, in a folder with the stand-ins. Returns that folder, with
/// the document in it.
fn bench(arguments: &[&str]) -> (Output, TempDir) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the repository");
    let folder = TempDir::with_prefix("orchestrator-bench-").expect("a folder for temporary files");
    for name in ["trainer", "tests", "orchestrator", "python", "nvidia-smi"] {
        let path = folder.path().join(name);
        tests::write_executable(&path, STAND_IN);
    }
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(folder.path().join("data/images"), "").unwrap();
    fs::copy(
        root.join("bench/results/gpu.md"),
        folder.path().join("gpu.md"),
    )
    .unwrap();
    let path = format!(
        "{}:{}",
        folder.path().display(),
        env::var("PATH").unwrap_or_default()
    );
    let mut command = Command::new("python3");
    command
        .arg("-B")
        .arg(root.join("bench/gpu.py"))
        .args(arguments)
        .current_dir(folder.path())
        .env("PATH", path);
    (command.output().expect("python3 runs"), folder)
}

#[test]
fn every_case_runs_from_relative_paths_and_has_its_place_in_the_document() {
    let files = [
        "--trainer",
        "./trainer",
        "--tests",
        "tests",
        "--orchestrator",
        "./orchestrator",
        "--data",
        "data",
    ];
    let more = ["--python", "./python", "--pairs", "2", "--write", "gpu.md"];
    let (output, folder) = bench(&[&files[..], &more].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let document = fs::read_to_string(folder.path().join("gpu.md")).unwrap();
    let cases: Vec<&str> = stderr
        .lines()
        .filter_map(|line| line.strip_prefix("== "))
        .collect();
    assert!(cases.len() >= 10, "{cases:?}");
    for case in cases {
        let (_, section) = document
            .split_once(&format!("<!-- bench gpu-{case}: "))
            .expect(case);
        let (section, _) = section.split_once("<!-- /bench").expect(case);
        assert!(
            section.contains(&format!("`bench/gpu.py {case} --pairs 2`")),
            "{case}: {section}"
        );
        assert!(
            !section.to_lowercase().contains("not measured") && !section.contains("FAIL"),
            "{case}: {section}"
        );
    }
    assert!(
        document.contains("Weights of the same bits both ways: 4 of 4 trials."),
        "{document}"
    );
    assert!(
        document.contains("of 2086 images/s (aim 75%)") && document.contains("data set resident"),
        "{document}"
    );
}

#[test]
fn a_file_that_is_not_there_is_named_before_anything_is_measured() {
    let (output, _folder) = bench(&["--trainer", "./no-trainer", "checks"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && stderr.contains("there is no `./no-trainer`"),
        "{stderr}"
    );
}
