//! `orchestrator doctor`: its lines, its exit code, and an archive without secrets.

mod place;

use std::io::Read;
use std::path::Path;
use std::process::Command;

use place::Place;
use tests::copy_executable;

/// With stand-ins for Slurm's commands in a PATH of its own.
#[test]
fn doctor_shows_what_a_worker_gets_here_and_whether_slurm_can_be_used() {
    let place = Place::new();
    let tools = place.path().join("tools");
    std::fs::create_dir(&tools).expect("the folder can be written");
    let doctor = |variables: &[(&str, &str)]| {
        let mut command = place.command(&["doctor"]);
        for variable in ["CUDA_VISIBLE_DEVICES", "SLURM_GPUS_ON_NODE", "SLURM_JOB_ID"] {
            command.env_remove(variable);
        }
        command.env("PATH", &tools).env("SLURM_CPUS_ON_NODE", "1");
        command.envs(variables.iter().copied());
        let output = command.output().expect("the command starts");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), printed)
    };
    let (code, printed) = doctor(&[]);
    assert_eq!(code, Some(0), "no Slurm is no problem: {printed}");
    assert!(
        printed.contains("ok      CPU           1 thread of "),
        "{printed}"
    );
    assert!(printed.contains(" GiB\n"), "the memory: {printed}");
    assert!(
        printed.contains("its commands are not in PATH"),
        "{printed}"
    );
    let (code, printed) = doctor(&[("CUDA_VISIBLE_DEVICES", "0,1")]);
    assert_eq!(code, Some(2));
    assert!(
        printed.contains("error   GPUs          CUDA_VISIBLE_DEVICES=0,1 promises 2 GPUs"),
        "{printed}"
    );
    for (name, answer) in [
        ("sbatch", "slurm 22.05.8"),
        ("scontrol", "Slurmctld(primary) at login1 is UP"),
        ("scancel", ""),
        ("squeue", "1:00:00"),
    ] {
        let path = tools.join(name);
        tests::write_executable(&path, &format!("#!/bin/sh\necho '{answer}'\n"));
    }
    let job = [("SLURM_JOB_ID", "17"), ("SLURMD_NODENAME", "n1")];
    let (code, printed) = doctor(&job);
    assert_eq!(code, Some(0), "{printed}");
    for part in [
        "no sacct, which is not needed",
        "version       slurm 22.05.8",
        "controller    Slurmctld(primary) at login1 is UP",
        "job           17 on n1",
        "time left     1h00m",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    std::fs::remove_file(tools.join("squeue")).expect("it is ours");
    let (code, printed) = doctor(&job);
    assert_eq!(code, Some(2));
    assert!(
        printed.contains("error   Slurm         not in PATH: squeue"),
        "{printed}"
    );
    assert!(
        printed.contains("error   time left     squeue does not report it"),
        "{printed}"
    );
}

fn document(output: &std::process::Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).expect("one document of JSON")
}

#[test]
fn a_line_for_each_thing_and_the_exit_code_of_the_worst() {
    let place = Place::new();
    let doctor = |arguments: &[&str]| {
        let mut command = place.command(&[&["doctor", "--output", "json"], arguments].concat());
        command
            .env("PATH", place.path())
            .env_remove("CUDA_VISIBLE_DEVICES");
        command
            .env_remove("SLURM_GPUS_ON_NODE")
            .env_remove("SLURM_JOB_ID");
        command.env("XDG_CACHE_HOME", place.path());
        command.output().expect("the command starts")
    };
    let sound = doctor(&["--trainer", "/bin/true"]);
    let found = document(&sound);
    assert_eq!(sound.status.code(), Some(0), "{found:#}");
    assert_eq!(found["errors"], 0);
    let names: Vec<&str> = found["findings"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|finding| finding["name"].as_str().expect("a name"))
        .collect();
    for name in [
        "CPU",
        "memory",
        "GPUs",
        "trainer",
        "state",
        "work",
        "cache",
        "results",
        "data",
        "clock",
        "ports",
        "journal",
        "coordinator",
    ] {
        assert!(names.contains(&name), "{name}: {found:#}");
    }
    assert_eq!(
        std::fs::read_dir(place.path()).unwrap().count(),
        0,
        "it changes nothing"
    );
    place.file("file", "");
    for (arguments, name, part) in [
        (["--state-dir", "file/state"], "state", "--state-dir"),
        (
            ["--coordinator", "http://127.0.0.1:1"],
            "coordinator",
            "reaches its port",
        ),
        (
            ["--trainer", "/bin/false"],
            "trainer",
            "libtorch of its build",
        ),
    ] {
        let output = doctor(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let found = document(&output);
        let findings = found["findings"].as_array().expect("a list");
        let finding = findings.iter().find(|finding| finding["name"] == name);
        let finding = finding.expect("its line");
        assert_eq!(finding["level"], "error", "{finding:#}");
        assert!(
            finding["remedy"].as_str().expect("a remedy").contains(part),
            "{finding:#}"
        );
    }
}

/// Beside a copy of `orchestrator`, a program that needs a library of libtorch's name and answers as
/// the trainer does.
#[test]
fn doctor_names_the_folder_of_the_libtorch_that_the_trainer_gets() {
    let place = Place::new();
    let site = "lib/python3.12/site-packages/torch";
    for folder in ["bin", "fetched/torch/lib", &format!("{site}/lib")] {
        std::fs::create_dir_all(place.path().join(folder)).expect("the folder can be made");
    }
    let compile = |arguments: &[&str]| {
        let mut command = Command::new("cc");
        command.args(arguments).current_dir(place.path());
        let output = command.output().expect("cc starts");
        assert!(output.status.success(), "{output:?}");
    };
    place.file("library.c", "");
    place.file(
        "trainer.c",
        r#"#include <stdio.h>
        int main(void) { puts("libtorch 2.11.0\ncpu: a CPU, 2 threads"); return 0; }"#,
    );
    let libraries = ["fetched/torch/lib", &format!("{site}/lib")];
    let libraries = libraries.map(|folder| format!("{folder}/libtorch_cpu.so"));
    for library in &libraries {
        let soname = "-Wl,-soname,libtorch_cpu.so";
        compile(&["-shared", soname, "-o", library, "library.c"]);
    }
    let linked = ["trainer.c", "-Wl,--no-as-needed", &libraries[0]];
    compile(&[&["-o", "bin/orchestrator-trainer"], &linked[..]].concat());
    let program = place.path().join("bin/orchestrator");
    copy_executable(Path::new(env!("CARGO_BIN_EXE_orchestrator")), &program);
    let line = |libtorch: Option<&str>| {
        let mut command = place.command_of(&program, &["doctor"]);
        command.env("XDG_CACHE_HOME", place.path().join("cache"));
        command.envs(libtorch.map(|folder| ("ORCHESTRATOR_LIBTORCH", place.path().join(folder))));
        let output = command.output().expect("the command starts");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = printed.lines().find(|line| line.contains(" trainer "));
        line.unwrap_or_else(|| panic!("no line of the trainer: {printed}"))
            .to_owned()
    };
    let found = |folder: &str| {
        let folder = place.path().join(folder);
        format!(
            "ok      trainer       libtorch 2.11.0 in {}",
            folder.display()
        )
    };
    assert_eq!(line(Some("fetched")), found("fetched/torch/lib"));
    let missing = "warning trainer       the trainer needs libtorch 2.11.0, which is not here yet: \
                   run `orchestrator setup` once";
    assert_eq!(line(None), missing);
    let version = format!("{site}/version.py");
    place.file(&version, "__version__ = '2.10.0'\n");
    assert_eq!(line(None), missing, "a torch of another version");
    place.file(&version, "__version__ = '2.11.0+cpu'\n");
    assert_eq!(line(None), found(&format!("{site}/lib")));
}

/// A token in a file, in the environment, in an address and in a trainer's log is in no part of the
/// archive.
#[test]
fn a_bundle_holds_what_a_bug_report_needs_and_no_secret() {
    const PLANTED: &str = "planted-4f81c2";
    let place = Place::new();
    std::fs::create_dir_all(place.path().join("orchestrator-work/logs/t1")).unwrap();
    std::fs::create_dir_all(place.path().join("home")).unwrap();
    place.file("token", &format!("{PLANTED}-in-file\n"));
    place.file(
        "orchestrator-work/logs/t1/attempt-1.stderr",
        &format!("the reason of the crash; {PLANTED}-in-file and {PLANTED}-in-variable\n"),
    );
    place.file(
        "orchestrator.toml",
        &format!("coordinator = 'http://me:{PLANTED}-in-address@127.0.0.1:1'\n"),
    );
    let mut command = place.command(&[
        "doctor",
        "--bundle",
        "report.tar.gz",
        "--token-file",
        "token",
    ]);
    command
        .env("NCCL_SECRET_ID", format!("{PLANTED}-in-variable"))
        .env("SLURM_JOB_COMMENT", format!("{PLANTED}-in-variable"))
        .env("OMP_NUM_THREADS", "3")
        .env("HOME", place.path().join("home"));
    let output = command.output().expect("the command starts");
    let file = place.path().join("report.tar.gz");
    let compressed =
        std::fs::File::open(&file).expect("the archive is written although there are errors");
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(compressed)
        .read_to_end(&mut unpacked)
        .expect("it is whole");
    let text = String::from_utf8_lossy(&unpacked).into_owned();
    assert!(!text.contains(PLANTED), "{text}");
    for part in [
        "doctor/doctor.json",
        "doctor/versions.json",
        "doctor/config.json",
        "doctor/environment.json",
        "doctor/logs/t1/attempt-1.stderr",
        "the reason of the crash; [hidden] and [hidden]",
        "\"OMP_NUM_THREADS\": \"3\"",
        "training_version",
        "http://[hidden]@127.0.0.1:1",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(shown.contains("report.tar.gz holds the report"), "{shown}");
    let refused = place.run(&[
        "doctor",
        "--bundle",
        "report.tar.gz",
        "--token-file",
        "token",
    ]);
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.contains("report.tar.gz exists already"),
        "{refused}"
    );
}
