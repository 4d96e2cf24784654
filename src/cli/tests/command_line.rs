//! The command as users and scripts see it: its output, and its exit codes. Nothing here trains.
//!
//! `UPDATE_GOLDENS=1 cargo test --release -p cli` rewrites the golden files; read the difference as
//! prose.

mod place;

use std::process::Stdio;

use place::{Place, golden};

const SWEEP: &str = "
name: tiny
description: Two losses on digits
recipe: quick
set: {dataset: digits, model: resnet-8}
axes:
  loss: [xent, cos]
  samples_per_class: [5, 10]
seeds: 3
outputs:
  - table: {rows: loss, columns: samples_per_class}
";

#[test]
fn help_names_every_command_and_exit_code() {
    let place = Place::new();
    golden("help.txt", &place.printed(&["--help"]));
    golden("help-run.txt", &place.printed(&["run", "--help"]));
    golden(
        "help-coordinator.txt",
        &place.printed(&["coordinator", "--help"]),
    );
    golden("help-worker.txt", &place.printed(&["worker", "--help"]));
}

/// `man` shows the usage of `--help`, not a list of all flags.
#[test]
fn each_command_has_a_manual_page_with_its_usage() {
    let place = Place::new();
    place.printed(&["man", "pages"]);
    let page = |command: &[&str]| {
        let name = [&["orchestrator"], command].concat().join("-");
        let path = place.path().join(format!("pages/{name}.1"));
        std::fs::read_to_string(path).unwrap().replace('\\', "")
    };
    for command in [
        &[][..],
        &["run"],
        &["doctor"],
        &["completions"],
        &["data", "fetch"],
        &["journal", "repair"],
    ] {
        let help = place.printed(&[command, &["--help"]].concat());
        let usage = help
            .lines()
            .find_map(|line| line.strip_prefix("Usage: orchestrator"));
        let usage = usage.expect("help shows the usage");
        let page = page(command);
        let (_, rest) = page.split_once(".SH SYNOPSIS\n").expect("a synopsis");
        let synopsis = rest.lines().next().expect("a line");
        let synopsis = synopsis.replace("fB", "").replace("fR", "");
        assert_eq!(synopsis, format!("orchestrator{usage}"));
        assert!(page.contains(".SH OPTIONS\n"), "{page}");
    }
}

#[test]
fn a_dry_run_prints_the_script_of_a_job_and_starts_nothing() {
    let place = Place::new();
    place.file("tiny.yaml", SWEEP);
    place.file("modules", "module load cuda\n");
    let words = "run tiny.yaml --launch slurm --gpus-per-node 4 --time 8:00:00 --partition gpu --advertise login1 \
                 --prologue modules --dry-run -- --qos=long";
    let words: Vec<&str> = words.split_whitespace().collect();
    let script = place.printed(&words);
    for line in [
        "#!/bin/bash\n",
        "#SBATCH --job-name=orch-tiny-",
        "#SBATCH --gpus-per-node=4\n",
        "#SBATCH --time=8:00:00\n",
        "#SBATCH --partition=gpu\n",
        "#SBATCH --qos=long\n",
        "\nmodule load cuda\nexec ",
        " worker --state-dir ",
        " --idle-timeout 300s ",
    ] {
        assert!(script.contains(line), "{line:?} in {script}");
    }
    let secret = place.path().join("orchestrator-state");
    assert!(!secret.exists(), "nothing was started");
}

#[test]
fn launch_flags_that_cannot_be_meant_are_refused() {
    let place = Place::new();
    place.file("tiny.yaml", SWEEP);
    let refused = |words: &str| {
        let words: Vec<&str> = words.split_whitespace().collect();
        place.refused(1, &words)
    };
    let text = refused("run tiny.yaml --launch pbs");
    assert!(text.contains("`pbs` is no kind of cluster"), "{text}");
    let text = refused("run tiny.yaml --partition gpu");
    assert!(text.contains("--launch"), "{text}");
    let text = refused("run tiny.yaml --launch slurm --time soon");
    assert!(text.contains("`soon` is no time limit"), "{text}");
    let text = refused("coordinator --launch slurm");
    assert!(text.contains("nodes do not reach 127.0.0.1"), "{text}");
}

/// The differences that a search can resolve with its held-out images, for known data sets and a
/// user's own folder.
#[test]
fn a_plan_shows_what_a_search_can_distinguish() {
    let place = Place::new();
    let search = "search: {field: learning_rate, candidates: [1, 0.1]}\n";
    place.file(
        "known.yaml",
        &format!("recipe: quick\nset: {{dataset: digits}}\naxes: {{samples_per_class: [5, 50]}}\n{search}"),
    );
    let plan = place.printed(&["plan", "known.yaml"]);
    let line = "held-out images per candidate: 100 (seeds: 1 to 10); differences below 7.1 points are noise";
    assert!(plan.contains(line), "{plan}");
    assert!(!plan.contains("note"), "{plan}");
    for class in ["a", "b"] {
        for split in ["train", "test"] {
            std::fs::create_dir_all(place.path().join(format!("t/{split}/{class}"))).unwrap();
            for image in 0..10 {
                place.file(&format!("t/{split}/{class}/{image}.png"), "not looked into");
            }
        }
    }
    place.file(
        "own.yaml",
        &format!("recipe: quick\nset: {{dataset: \"folder:t\"}}\naxes: {{loss: [cos]}}\n{search}"),
    );
    let plan = place.printed(&["plan", "own.yaml", "--data-dir", "."]);
    let line =
        "held-out images per candidate: 40 (seeds: 10); differences below 11.2 points are noise";
    assert!(plan.contains(line), "{plan}");
    assert!(
        plan.contains("note        the search compares candidates on 40 held-out images"),
        "{plan}"
    );
}

#[test]
fn a_plan_lists_what_would_be_trained() {
    let place = Place::new();
    place.file("tiny.yaml", SWEEP);
    golden(
        "plan.txt",
        &place.printed(&["plan", "tiny.yaml", "--cells"]),
    );
    let plan: serde_json::Value =
        serde_json::from_str(&place.printed(&["plan", "tiny.yaml", "--output", "json"])).unwrap();
    assert_eq!(
        (&plan["schema"], &plan["sweep"]),
        (&1.into(), &"tiny".into())
    );
    assert_eq!(plan["summary"]["result_trials"], 12);
    assert_eq!(plan["cells"].as_array().unwrap().len(), 4);
    let id = plan["cells"][3]["trials"][0].as_str().unwrap();
    for format in ["text", "json"] {
        let printed = place.printed(&[
            "plan",
            "tiny.yaml",
            "--trial",
            &id[..10],
            "--output",
            format,
        ]);
        let spec: sweep::TrialSpec = serde_json::from_str(&printed).unwrap();
        assert_eq!(spec.id().to_string(), id, "{format}");
    }
    let absent = place.refused(1, &["plan", "tiny.yaml", "--trial", "xyz"]);
    assert!(absent.contains("`xyz` is no trial id"), "{absent}");
    assert_eq!(
        std::fs::read_dir(place.path()).unwrap().count(),
        1,
        "a plan leaves nothing behind"
    );
}

#[test]
fn usage_errors_are_bad_input() {
    let place = Place::new();
    assert!(
        place
            .refused(1, &["frobnicate"])
            .contains("unrecognized subcommand 'frobnicate'")
    );
    assert!(place.refused(1, &["run"]).contains("<FILE>"));
    assert!(
        place
            .refused(1, &["run", "x.yaml", "--detach"])
            .contains("--coordinator")
    );
    assert!(
        place
            .refused(1, &["run", "x.yaml", "--devices", "gpu"])
            .contains("`gpu` names no devices")
    );
    assert!(
        place
            .refused(1, &["run", "x.yaml", "--slots", "0"])
            .contains("0 is not in 1..=")
    );
    assert!(
        place
            .refused(1, &["retry", "tiny", "cos", "--all"])
            .contains("cannot be used with")
    );
}

#[test]
fn a_sweep_file_is_refused_with_its_place_and_nothing_starts() {
    let place = Place::new();
    place.file(
        "bad.yaml",
        &SWEEP
            .replace("seeds: 3", "seedz: 3")
            .replace("cos]", "coz]"),
    );
    let message = place.refused(1, &["run", "bad.yaml"]);
    for part in ["bad.yaml", "seedz", "seeds", "coz", "2 problems"] {
        assert!(message.contains(part), "no `{part}` in {message}");
    }
    assert!(
        place
            .refused(1, &["run", "absent.yaml"])
            .contains("absent.yaml")
    );
    assert_eq!(
        std::fs::read_dir(place.path()).unwrap().count(),
        1,
        "something was started"
    );
}

#[test]
fn everything_missing_is_listed_at_once() {
    let place = Place::new();
    let sweep = SWEEP
        .replace(
            "set: {dataset: digits, model: resnet-8}",
            "set: {weights: none.pth}",
        )
        .replace(
            "  loss: [xent, cos]\n  samples_per_class: [5, 10]",
            "  dataset: [cub, flowers]\n  loss: [xent]",
        )
        .replace(
            "rows: loss, columns: samples_per_class",
            "rows: loss, columns: dataset",
        )
        .replace("recipe: quick", "recipe: paper-finegrained");
    place.file("missing.yaml", &sweep);
    let message = place.refused(1, &["run", "missing.yaml", "--data-dir", "data"]);
    for part in ["3 things are missing", "`cub`", "`flowers`", "none.pth"] {
        assert!(message.contains(part), "no `{part}` in {message}");
    }
    for (path, how) in [
        (
            "hierarchies/cub_balanced.parent-child.txt",
            "orchestrator data fetch hierarchies",
        ),
        (
            "hierarchies/mine.txt",
            "put a file of lines \"parent child\" there",
        ),
        ("cub/classes.txt", "it comes with the data set `cub`"),
    ] {
        let hierarchy = format!("set: {{embedding: {{hierarchy: {path}}}}}");
        place.file(
            "missing.yaml",
            &sweep
                .replace("set: {weights: none.pth}", &hierarchy)
                .replace("xent", "cos"),
        );
        let message = place.refused(1, &["run", "missing.yaml", "--data-dir", "data"]);
        assert!(
            message.contains(path) && message.contains(how),
            "no `{how}` in {message}"
        );
    }
    assert_eq!(
        std::fs::read_dir(place.path()).unwrap().count(),
        1,
        "something was started"
    );
}

#[test]
fn too_few_images_are_refused_with_the_class() {
    let place = Place::new();
    place.file("many.yaml", &SWEEP.replace("[5, 10]", "[5, 500]"));
    let message = place.refused(1, &["run", "many.yaml"]);
    assert!(
        message.contains("the smallest class of `digits` has 124 training images"),
        "{message}"
    );
}

#[test]
fn a_trainer_that_is_not_there_is_infrastructure() {
    let place = Place::new();
    place.file("tiny.yaml", SWEEP);
    let message = place.refused(
        2,
        &[
            "run",
            "tiny.yaml",
            "--devices",
            "cpu",
            "--trainer",
            "nowhere",
        ],
    );
    assert!(
        message.contains("nowhere` does not exist") && message.contains("ORCHESTRATOR_TRAINER"),
        "{message}"
    );
    assert_eq!(
        std::fs::read_dir(place.path()).unwrap().count(),
        1,
        "something was started"
    );
}

#[test]
fn without_a_coordinator_or_a_journal_there_is_nothing_to_ask() {
    let place = Place::new();
    for arguments in [
        &["status"][..],
        &["table", "x"],
        &["why", "x", "y"],
        &["tail", "x"],
        &["cancel", "x"],
    ] {
        let message = place.refused(1, arguments);
        assert!(
            message.contains("orchestrator-state") && message.contains("--coordinator"),
            "{message}"
        );
    }
    let message = place.refused(2, &["status", "--coordinator", "http://127.0.0.1:1"]);
    assert!(
        message.contains("http://127.0.0.1:1 cannot be reached"),
        "{message}"
    );
    let message = place.refused(1, &["status", "--coordinator", "https://127.0.0.1:1"]);
    assert!(message.contains("give --token-file"), "{message}");
    let message = place.refused(1, &["status", "--coordinator", "ftp://127.0.0.1:1"]);
    assert!(
        message.contains("only https and http are supported"),
        "{message}"
    );
    assert!(
        place
            .refused(1, &["journal", "verify"])
            .contains("there is no journal at")
    );
}

/// The messages name commands that work exactly as printed.
#[test]
fn a_damaged_journal_is_refused_shown_and_repaired() {
    let place = Place::new();
    let state = place.path().join("state");
    drop(::journal::Journal::open(&state).unwrap());
    let sound = place.printed(&["journal", "verify", "--state-dir", "state"]);
    assert!(sound.starts_with("sound: 0 events"), "{sound}");
    let note = std::fs::read_to_string(state.join("journal.head")).unwrap();
    assert_eq!(
        place.printed(&["journal", "repair", "--state-dir", "state"]),
        "sound: 0 events; nothing was changed\n"
    );
    std::fs::write(
        state.join("journal.head"),
        note.replace("journal head", "journal HEAD"),
    )
    .unwrap();
    let message = place.refused(2, &["journal", "verify", "--state-dir", "state"]);
    assert!(
        message.contains("orchestrator journal repair --state-dir state"),
        "{message}"
    );
    let message = place.refused(2, &["journal", "repair", "--state-dir", "state"]);
    assert!(
        message.contains("orchestrator journal repair --accept-loss --state-dir state"),
        "{message}"
    );
    let message = place.refused(
        2,
        &[
            "coordinator",
            "--listen",
            "127.0.0.1:0",
            "--state-dir",
            "state",
        ],
    );
    assert!(
        message.contains("state/journal.head is damaged"),
        "{message}"
    );
    let repaired = place.printed(&["journal", "repair", "--accept-loss", "--state-dir", "state"]);
    assert!(
        repaired.starts_with("repaired: 0 events, without an unknown number of events; "),
        "{repaired}"
    );
    assert!(
        place
            .printed(&["journal", "verify", "--state-dir", "state"])
            .starts_with("sound: 0 events")
    );
}

#[test]
fn a_coordinator_refuses_what_cannot_work() {
    let place = Place::new();
    let message = place.refused(1, &["coordinator", "--token-file", "nowhere"]);
    assert!(message.contains("nowhere"), "{message}");
    let trainer = place.file("trainer", "#!/bin/sh\n");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&trainer, executable).expect("the test owns its files");
    let message = place.refused(1, &["worker", "--trainer", "./trainer"]);
    assert!(
        message.contains("orchestrator-state") && message.contains("--coordinator"),
        "{message}"
    );
    for (listen, reason) in [
        ("localhost", "names no port"),
        ("7400", "names no port"),
        ("a/b:1", "a host's name"),
    ] {
        let message = place.refused(1, &["coordinator", "--listen", listen]);
        assert!(
            message.contains(reason) && message.contains("localhost:7400"),
            "{message}"
        );
    }
    let message = place.refused(1, &["coordinator", "--listen", "no-such-host.invalid:7400"]);
    assert!(message.contains("cannot be looked up"), "{message}");
    let message = place.refused(1, &["status", "--coordinator", "http://127.0.0.1"]);
    assert!(message.contains("names no port"), "{message}");
    let message = place.refused(
        1,
        &["coordinator", "--lease-ms", "100", "--heartbeat-ms", "100"],
    );
    assert!(
        message.contains("at least twice --heartbeat-ms"),
        "{message}"
    );
}

#[test]
fn embeddings_are_written_in_the_order_of_the_leaves() {
    let place = Place::new();
    place.file("tree.txt", "9 8\n9 3\n8 1\n8 2\n");
    let text = place.printed(&[
        "embed",
        "tree.txt",
        "--out",
        "e.safetensors",
        "--similarity",
        "--output",
        "json",
    ]);
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["classes"], serde_json::json!(["1", "2", "3"]));
    let bytes = std::fs::read(place.path().join("e.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |name: &str| -> Vec<f32> {
        let tensor = tensors.tensor(name).unwrap();
        assert_eq!(tensor.shape(), [3, 3]);
        tensor
            .data()
            .chunks(4)
            .map(|value| f32::from_le_bytes(value.try_into().unwrap()))
            .collect()
    };
    assert_eq!(
        values("similarity"),
        [1.0, 0.5, 0.0, 0.5, 1.0, 0.0, 0.0, 0.0, 1.0]
    );
    let embeddings = values("embeddings");
    assert!(
        (embeddings[3] - 0.5).abs() < 1e-6 && (embeddings[4] - 0.75_f32.sqrt()).abs() < 1e-6,
        "{embeddings:?}"
    );
    let message = place.refused(1, &["embed", "absent.txt", "--out", "x"]);
    assert!(message.contains("absent.txt"), "{message}");
}

#[test]
fn digits_reproduce_table_1() {
    let place = Place::new();
    assert!(
        place
            .printed(&["data", "check", "digits"])
            .ends_with("\nas published\n")
    );
    let list: serde_json::Value =
        serde_json::from_str(&place.printed(&["data", "list", "--output", "json"])).unwrap();
    let digits = list["datasets"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["name"] == "digits")
        .unwrap();
    assert_eq!(digits["state"], "ready");
    place.printed(&[
        "data",
        "sheet",
        "digits",
        "--recipe",
        "quick",
        "--out",
        "sheet.png",
        "--images",
        "9",
    ]);
    assert!(
        std::fs::read(place.path().join("sheet.png"))
            .unwrap()
            .starts_with(b"\x89PNG")
    );
    assert!(
        place
            .refused(1, &["data", "fetch", "cub2"])
            .contains("no data set `cub2`")
    );
    assert!(
        place
            .refused(1, &["data", "check", "imagenet"])
            .contains("no data set `imagenet`")
    );
}

/// The reader is gone before the first byte, as in `| head -1`.
#[test]
fn a_reader_that_leaves_is_no_error() {
    let place = Place::new();
    place.file("tiny.yaml", SWEEP);
    for arguments in [
        &["completions", "bash"][..],
        &["--help"],
        &["plan", "tiny.yaml", "--cells"],
        &["data", "list"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = place.command(arguments);
        let output = command
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let output = output.wait_with_output().expect("it ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.code(), stderr.as_ref()),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
    // stderr may have no reader either
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = place
        .command(&["plan", "absent.yaml", "-vvv"])
        .stderr(writer)
        .status()
        .expect("the command starts");
    assert_eq!(status.code(), Some(1));
}

#[test]
fn results_that_cannot_be_written_are_refused_before_the_start() {
    let place = Place::new();
    place.file("tiny.yaml", SWEEP);
    place.file("taken", "a file where the folder should be");
    let program = env!("CARGO_BIN_EXE_orchestrator");
    let arguments = [
        "run",
        "tiny.yaml",
        "--devices",
        "cpu",
        "--trainer",
        program,
        "--results",
        "taken",
    ];
    let message = place.refused(1, &arguments);
    assert!(
        message.contains("taken/tiny") && message.contains("nothing was started"),
        "{message}"
    );
    assert_eq!(
        std::fs::read_dir(place.path()).unwrap().count(),
        2,
        "something was started"
    );
}

/// The script makes the shell ask the program, which knows its commands, flags and values.
#[test]
fn completions_are_there_for_every_shell() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.printed(&["completions", shell]);
        assert!(script.contains("COMPLETE"), "{shell}: {script}");
    }
    let answer = |words: &[&str]| {
        let words = [&["--", "orchestrator"], words].concat();
        let mut command = place.command(&words);
        let output = command.env("COMPLETE", "fish").output();
        let output = output.expect("the command starts");
        assert!(output.status.success(), "{words:?}");
        String::from_utf8(output.stdout).expect("names are UTF-8")
    };
    assert!(answer(&["coord"]).starts_with("coordinator"));
    assert!(answer(&["run", "--view", ""]).contains("plain"));
    assert_eq!(answer(&["tail", "qu"]), "", "there is no sweep");
}

/// Each setting has the part of the file that decided it; a file with several cells needs one.
#[test]
fn the_settings_of_a_cell_are_shown_with_their_origins() {
    let place = Place::new();
    place.file("tiny.yaml", SWEEP);
    let shown = place.printed(&["show", "tiny.yaml", "cos/10"]);
    let line = |name: &str| {
        let line = shown
            .lines()
            .find(|line| line.trim_start().starts_with(name));
        let words = line.unwrap_or_default().split_whitespace();
        words.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(shown.lines().next(), Some("tiny cos/10"));
    assert_eq!(line("loss "), "loss cos axis loss");
    assert_eq!(
        line("samples_per_class "),
        "samples_per_class 10 axis samples_per_class"
    );
    assert_eq!(line("model "), "model resnet-8 set");
    assert_eq!(line("momentum "), "momentum 0.9 default");
    assert_eq!(
        line("schedule "),
        "schedule {sgdr: {base_cycle: 12, cycles: 3, learning_rate_min: 1e-6, multiplier: 2}} recipe quick"
    );
    let json = place.printed(&["show", "tiny.yaml", "cos/10", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    let settings = json["settings"].as_array().expect("a list");
    let loss = settings.iter().find(|setting| setting["name"] == "loss");
    assert_eq!(
        loss.expect("it is a setting")["from"],
        serde_json::json!({ "kind": "axis", "axis": "loss" })
    );
    let refused = place.refused(1, &["show", "tiny.yaml"]);
    assert!(refused.contains("name one of them"), "{refused}");
    assert!(refused.contains("cos/10"), "{refused}");
    place.file(
        "search.yaml",
        "recipe: quick\nset: {dataset: digits}\nsearch: {field: learning_rate, candidates: [1, 0.1]}\n",
    );
    let shown = place.printed(&["show", "search.yaml"]);
    assert!(shown.contains("  one of 1"), "{shown}");
    assert!(shown.contains("  search\n"), "{shown}");
}

/// The sheet of a cell is that of its own settings.
#[test]
fn a_sheet_shows_the_augmentation_of_a_cell() {
    let place = Place::new();
    place.file("plain.yaml", "recipe: quick\nset: {dataset: digits}\n");
    place.file(
        "flipped.yaml",
        "recipe: quick\nset: {dataset: digits, flip: true}\n",
    );
    let sheet = |file: &str| {
        let printed = place.printed(&[
            "data",
            "sheet",
            "--sweep",
            file,
            "--out",
            "sheet.png",
            "--images",
            "9",
        ]);
        assert!(
            printed.starts_with("9 images of epoch 0 and seed 0, "),
            "{printed}"
        );
        std::fs::read(place.path().join("sheet.png")).expect("it was written")
    };
    let plain = sheet("plain.yaml");
    assert_eq!(plain, sheet("plain.yaml"));
    assert_ne!(plain, sheet("flipped.yaml"));
    place.file("tiny.yaml", SWEEP);
    let refused = place.refused(
        1,
        &[
            "data",
            "sheet",
            "--sweep",
            "tiny.yaml",
            "--out",
            "sheet.png",
        ],
    );
    assert!(refused.contains("name one of them"), "{refused}");
    let refused = place.refused(1, &["data", "sheet", "--out", "sheet.png"]);
    assert!(refused.contains("NAME"), "{refused}");
}

/// The output calls nothing "readable" that was not decoded.
#[test]
fn data_check_decodes_every_image_and_lists_every_fault() {
    let place = Place::new();
    let amount = data::stand_in_files::Amount {
        num_classes: 2,
        train_per_class: 3,
        test_per_class: 2,
        height: 20,
        width: 30,
    };
    let root = data::stand_in_files::write("folder:pets", &place.path().join("data"), amount)
        .expect("it is written");
    let sound = place.printed(&["data", "check", "folder:pets"]);
    for part in [
        "every image can be decoded",
        "class n00000001        3 train        2 test",
        "height 20 to 20",
    ] {
        assert!(sound.contains(part), "no `{part}` in {sound}");
    }
    std::fs::create_dir(root.join("train/@eaDir")).expect("the test's folder can be written");
    for image in [
        "train/n00000000/n00000000_1.JPEG",
        "test/n00000001/n00000001_9.JPEG",
    ] {
        std::fs::write(root.join(image), "<html>404</html>")
            .expect("the test's folder can be written");
    }
    for more in [&[][..], &["--resize", "16"]] {
        let output = place.run(&[&["data", "check", "folder:pets"], more].concat());
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert_eq!(output.status.code(), Some(1), "{stdout}{stderr}");
        assert!(
            stderr.contains("2 of 10 images of `folder:pets` cannot be decoded"),
            "{stderr}"
        );
        assert_eq!(
            stdout
                .lines()
                .filter(|line| line.starts_with("corrupt: "))
                .count(),
            2,
            "{stdout}"
        );
        assert!(
            stdout.contains("not taken for classes: @eaDir") && !stdout.contains("readable\n"),
            "{stdout}"
        );
    }
    let document = place.run(&["data", "check", "folder:pets", "--output", "json"]);
    let document: serde_json::Value = serde_json::from_slice(&document.stdout).expect("JSON");
    assert_eq!(
        document["classes"][1],
        serde_json::json!({"name": "n00000001", "train": 3, "test": 2})
    );
    assert_eq!(document["pixels"]["shorter_side"]["median"], 20);
    assert_eq!(document["corrupt"].as_array().map(Vec::len), Some(2));
    place.file(
        "pets.yaml",
        "recipe: quick\nset: {dataset: \"folder:pets\"}\n",
    );
    let plan = place.printed(&["plan", "pets.yaml"]);
    assert!(plan.contains("not taken for classes: @eaDir"), "{plan}");
    let fetched = place.refused(1, &["data", "fetch", "digits"]);
    assert!(fetched.contains("there is nothing to fetch"), "{fetched}");
}
