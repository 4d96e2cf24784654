//! The identity of a trial: changed data, other data on a worker, and another trainer make other
//! trials. This is known before anything is dispatched, and reported to the user.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::binaries::binary;
use tests::{System, wait_for};

const SWEEP: &str = "
name: mine
recipe: quick
set: {dataset: 'folder:t', resize: null, crop_size: null, crop: centre, flip: false, erase: false, shift: 0,
      model: resnet-8, batch_size: 4, schedule: {constant: {epochs: 1}}}
axes: {loss: [xent, cos]}
seeds: 2
";

/// Writes two classes of three small images in each split. `shade` distinguishes the classes.
fn images(folder: &Path) {
    for split in ["train", "test"] {
        for (class, shade) in [("dark", 20), ("light", 200)] {
            let folder = folder.join(split).join(class);
            fs::create_dir_all(&folder).expect("the test's folder can be written");
            for number in 0..3 {
                fs::write(folder.join(format!("{number}.bmp")), bmp(8, shade + number))
                    .expect("it can be written");
            }
        }
    }
}

/// Returns a square image of one shade: a header of 54 bytes, then blue, green and red of each
/// pixel.
fn bmp(side: u32, shade: u8) -> Vec<u8> {
    let size = 3 * side * side;
    let mut bytes = b"BM".to_vec();
    for number in [
        54 + size,
        0,
        54,
        40,
        side,
        side,
        1 | 24 << 16,
        0,
        size,
        2835,
        2835,
        0,
        0,
    ] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(vec![shade; size as usize]);
    bytes
}

/// Swaps two images of the same name and size.
fn shuffle(folder: &Path) {
    let (dark, light) = (
        folder.join("train/dark/0.bmp"),
        folder.join("train/light/0.bmp"),
    );
    fs::rename(&dark, folder.join("kept")).expect("the test owns its files");
    fs::rename(&light, &dark).expect("the test owns its files");
    fs::rename(folder.join("kept"), &light).expect("the test owns its files");
}

fn run(system: &System) -> (String, Vec<Value>) {
    let arguments = [
        "run",
        "mine.yaml",
        "--devices",
        "cpu",
        "--slots",
        "1",
        "--devices-per-slot",
        "1",
    ];
    let mut command = system.orchestrator(&arguments);
    command.args([
        "--state-dir",
        "state",
        "--data-dir",
        "data",
        "--cache-dir",
        "cache",
    ]);
    let mut run = system.start("run", command);
    run.expect_exit(0);
    let results =
        fs::read(system.results("mine").join("results.json")).expect("the report is there");
    let results: Value = serde_json::from_slice(&results).expect("it is JSON");
    (
        run.stderr(),
        results["trials"]
            .as_array()
            .expect("it lists trials")
            .clone(),
    )
}

fn ids(trials: &[Value]) -> Vec<&str> {
    trials
        .iter()
        .map(|trial| trial["trial"].as_str().expect("an id"))
        .collect()
}

fn printed(system: &System, arguments: &[&str]) -> String {
    let output = system
        .orchestrator(arguments)
        .output()
        .expect("the command starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).expect("stdout is UTF-8")
}

fn dispatched(system: &System) -> usize {
    system
        .journal()
        .iter()
        .filter(|entry| entry["event"].get("trial_dispatched").is_some())
        .count()
}

#[test]
fn shuffled_images_are_trained_again_and_every_command_reports_why() {
    let system = System::new();
    let folder = system.path("data/t");
    images(&folder);
    system.file("mine.yaml", SWEEP);
    let (_, before) = run(&system);
    assert_eq!((before.len(), dispatched(&system)), (4, 4));
    let (again, same) = run(&system);
    assert!(
        again.contains("is the same file: nothing is done twice"),
        "{again}"
    );
    assert_eq!((ids(&same), dispatched(&system)), (ids(&before), 4));

    shuffle(&folder);
    let reason = "4 trials are trained again: the content of data set folder:t changed";
    let place = [
        "--state-dir",
        "state",
        "--data-dir",
        "data",
        "--cache-dir",
        "cache",
    ];
    let plan = printed(&system, &[&["plan", "mine.yaml"][..], &place].concat());
    assert!(
        plan.contains(reason) && plan.contains("train/dark/0.bmp differs"),
        "{plan}"
    );
    let (message, after) = run(&system);
    assert!(
        message.contains(reason) && message.contains("train/light/0.bmp differs"),
        "{message}"
    );
    assert_eq!(dispatched(&system), 8);
    assert!(ids(&after).iter().all(|id| !ids(&before).contains(id)));
    let why = printed(&system, &["why", "mine", "xent", "--state-dir", "state"]);
    assert!(
        why.contains("with revision 2 the content of data set folder:t changed"),
        "{why}"
    );
    // old and new results never share a cell
    let table = printed(&system, &["table", "mine", "--state-dir", "state"]);
    assert!(!table.contains("MIXED"), "{table}");

    shuffle(&folder);
    let (back, restored) = run(&system);
    assert_eq!(
        (ids(&restored), dispatched(&system)),
        (ids(&before), 8),
        "{back}"
    );
}

#[test]
fn a_worker_that_sees_other_data_refuses_the_trial_and_names_the_file() {
    let mut system = System::new();
    images(&system.path("data/t"));
    images(&system.path("elsewhere/t"));
    shuffle(&system.path("data/t"));
    system.file(
        "mine.yaml",
        &SWEEP
            .replace("seeds: 2", "seeds: 1")
            .replace("[xent, cos]", "[xent]"),
    );
    let _coordinator = system.coordinator();
    // its data are in `data`
    let _worker = system.worker("other", 1);
    let output = system.client(&[
        "run",
        "mine.yaml",
        "--data-dir",
        "elsewhere",
        "--cache-dir",
        "cache",
    ]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    let results = fs::read_to_string(system.results("mine").join("results.csv"))
        .expect("the report is there");
    assert!(results.contains("bad_input"), "{results}");
    for part in [
        "data set folder:t is not what the sweep was submitted with",
        "train/dark/0.bmp differs",
    ] {
        assert!(stderr.contains(part), "it lacks `{part}`: {stderr}");
    }
    // with equal data, it continues
    shuffle(&system.path("data/t"));
    system.ask(&["retry", "mine", "--failed"]);
    let output = system.client(&[
        "run",
        "mine.yaml",
        "--data-dir",
        "elsewhere",
        "--cache-dir",
        "cache",
    ]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn content_that_is_unknown_at_submission_is_noted_and_reported_by_the_workers() {
    let mut system = System::new();
    images(&system.path("data/t"));
    system.file("mine.yaml", SWEEP);
    let _coordinator = system.coordinator();
    let _worker = system.worker("knows", 1);
    let output = system.client(&["run", "mine.yaml"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(
        stderr.contains("note: the content of data set folder:t is not known here"),
        "{stderr}"
    );
    let why = system.ask(&["why", "mine", "xent"]);
    assert!(
        why.contains("content not known where the sweep was submitted"),
        "{why}"
    );
    let reported: PathBuf = system.results("mine").join("results.json");
    let reported: Value =
        serde_json::from_slice(&fs::read(reported).expect("it is there")).expect("it is JSON");
    let inputs = &reported["trials"][0]["provenance"]["inputs"];
    assert_eq!(
        inputs["data set folder:t"].as_str().map(str::len),
        Some(32),
        "{reported:#}"
    );
}

/// A wrapper that speaks the hand-off protocol and reports our build string is recognised by its
/// file.
#[test]
fn another_trainer_never_shares_a_cell_with_the_built_in_one() {
    let system = System::new();
    images(&system.path("data/t"));
    system.file("mine.yaml", SWEEP);
    let (_, own) = run(&system);
    let wrapper = |comment: &str| {
        let trainer = binary("orchestrator-trainer");
        system.script(
            "mine.sh",
            &format!("exec {} \"$@\"  # {comment}", trainer.display()),
        )
    };
    let foreign = |path: &Path| {
        let arguments = [
            "run",
            "mine.yaml",
            "--devices",
            "cpu",
            "--slots",
            "1",
            "--devices-per-slot",
            "1",
        ];
        let mut command = system.orchestrator(&arguments);
        command
            .args([
                "--state-dir",
                "state",
                "--data-dir",
                "data",
                "--cache-dir",
                "cache",
                "--trainer",
            ])
            .arg(path);
        let mut run = system.start("foreign", command);
        run.expect_exit(0);
        run.stderr()
    };
    let message = foreign(&wrapper("first"));
    for part in [
        "note: the trainer `mine.sh` (",
        "its results are kept apart",
        "4 trials are trained again: the trainer",
    ] {
        assert!(message.contains(part), "it lacks `{part}`: {message}");
    }
    assert_eq!(dispatched(&system), 8);
    let table = printed(&system, &["table", "mine", "--state-dir", "state"]);
    assert!(
        table.contains("Trained by the trainer `mine.sh` ("),
        "{table}"
    );
    // an edited wrapper is another program
    assert!(foreign(&wrapper("second")).contains("4 trials are trained again"));
    assert_eq!(dispatched(&system), 12);
    let (_, again) = run(&system);
    assert_eq!((ids(&again), dispatched(&system)), (ids(&own), 12));
    // the built-in trainer is recognised under another path
    let message = foreign(&binary("orchestrator-trainer"));
    assert!(
        message.contains("nothing is done twice") && !message.contains("kept apart"),
        "{message}"
    );
}

#[test]
fn a_worker_with_another_trainer_gets_no_trials_of_the_built_in_one() {
    let mut system = System::new();
    images(&system.path("data/t"));
    system.file("mine.yaml", SWEEP);
    let _coordinator = system.coordinator();
    let wrapper = system.script(
        "mine.sh",
        &format!("exec {} \"$@\"", binary("orchestrator-trainer").display()),
    );
    let mut command = system.worker_command("foreign", 1, 1);
    command.arg("--trainer").arg(wrapper);
    let _foreign = system.start("worker", command);
    let url = system.url();
    let mut run = system.start(
        "run",
        system.orchestrator(&["run", "mine.yaml", "--coordinator", &url]),
    );
    let reason = "no connected worker has the built-in trainer: start one without --trainer";
    wait_for("the run says what it waits for", || {
        run.stderr().contains(reason).then_some(())
    });
    let _own = system.worker("own", 1);
    run.expect_exit(0);
    let journal = system.journal();
    let dispatched = journal
        .iter()
        .filter_map(|entry| entry["event"].get("trial_dispatched"));
    let workers: Vec<&str> = dispatched
        .map(|event| event["worker"].as_str().expect("a worker's id"))
        .collect();
    assert!(
        workers.len() == 4 && workers.iter().all(|worker| worker.starts_with("own-")),
        "{workers:?}"
    );
}

/// Training again on purpose: a cell, the whole sweep, and with a run.
#[test]
fn finished_trials_are_trained_again_when_a_person_asks() {
    let system = System::new();
    images(&system.path("data/t"));
    system.file("mine.yaml", SWEEP);
    let (_, before) = run(&system);
    let retried = printed(&system, &["retry", "mine", "cos", "--state-dir", "state"]);
    assert!(
        retried.contains("to be trained again from the start: 2 trials"),
        "{retried}"
    );
    let table = printed(&system, &["table", "mine", "--state-dir", "state"]);
    assert!(
        table.contains("waiting") || table.contains("(0/2)"),
        "an old number is no result any more: {table}"
    );
    let (_, after) = run(&system);
    assert_eq!((ids(&after), dispatched(&system)), (ids(&before), 6));
    // the same bits, from a second attempt that started from scratch
    for (one, other) in before.iter().zip(&after) {
        assert_eq!(one["result"], other["result"]);
        assert_eq!(other["timing"]["resumed_from_epoch"], 0);
    }
    let arguments = [
        "run",
        "mine.yaml",
        "--fresh",
        "--devices",
        "cpu",
        "--slots",
        "1",
        "--devices-per-slot",
        "1",
    ];
    let mut command = system.orchestrator(&arguments);
    command.args([
        "--state-dir",
        "state",
        "--data-dir",
        "data",
        "--cache-dir",
        "cache",
    ]);
    let mut fresh = system.start("fresh", command);
    fresh.expect_exit(0);
    assert!(
        fresh.stderr().contains("as --fresh asks for: 4 trials"),
        "{}",
        fresh.stderr()
    );
    assert_eq!(dispatched(&system), 10);
    let verified = printed(&system, &["journal", "verify", "--state-dir", "state"]);
    assert!(verified.contains("sound"), "{verified}");
}
