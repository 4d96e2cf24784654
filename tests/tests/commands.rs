//! Commands that name sweeps, trials and cells, with trainers that obey without training: selectors
//! everywhere, `rm`, and `retry` of one trial.

use std::fs;

use serde_json::Value;
use tests::binaries::binary;
use tests::{Process, System};

const SWEEP: &str = "
name: first
recipe: quick
set: {dataset: digits, model: resnet-8, samples_per_class: 5}
axes:
  loss: [xent, cos]
seeds: 2
keep: [weights]
outputs:
  - table: {rows: loss}
";

/// A coordinator and a worker that have run `first`, and `second`, which shares the trials of one
/// of its cells.
struct Place {
    system: System,
    processes: [Process; 2],
}

impl Place {
    fn new() -> Self {
        let mut system = System::new();
        let coordinator = system.coordinator();
        let trainer = binary("orchestrator-trainer");
        system.install_trainer(&format!("exec {} \"$@\" --rehearse", trainer.display()));
        let worker = system.worker("rehearsing", 2);
        let place = Self {
            system,
            processes: [coordinator, worker],
        };
        place.submit("first", SWEEP);
        let second = SWEEP
            .replace("name: first", "name: second")
            .replace("[xent, cos]", "[cos]")
            .replace("keep: [weights]\n", "");
        place.submit("second", &second);
        place
    }

    fn submit(&self, name: &str, sweep: &str) {
        let file = format!("{name}.yaml");
        self.system.file(&file, sweep);
        let url = self.system.url();
        let command = self
            .system
            .orchestrator(&["run", &file, "--coordinator", &url]);
        self.system.start("run", command).expect_exit(0);
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["--output", "json"]].concat();
        let printed = self.system.ask(&arguments);
        serde_json::from_str(&printed).expect("it prints JSON")
    }

    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.system.client(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).expect("stderr is UTF-8")
    }

    /// Returns a trial of this cell, by the selector of trials.
    fn trial_of(&self, cell: &str) -> String {
        let explained = self.json(&["why", cell]);
        explained["trial"].as_str().expect("a trial").to_owned()
    }

    fn sweeps(&self) -> Vec<String> {
        let listed = self.json(&["list"]);
        let sweeps = listed["sweeps"].as_array().expect("a list of sweeps");
        let name = |sweep: &Value| sweep["name"].as_str().expect("a name").to_owned();
        sweeps.iter().map(name).collect()
    }
}

fn sweep_of(status: &Value) -> &str {
    status["sweeps"][0]["name"].as_str().expect("a sweep")
}

/// Each word finds the same thing in every command, at a coordinator and in its journal alone.
#[test]
fn sweeps_and_trials_are_found_by_their_selectors() {
    let place = Place::new();
    let xent = place.trial_of("xent");
    let prefix = &xent[..9];
    for (word, sweep) in [
        ("last", "second"),
        ("first", "first"),
        ("xent", "first"),
        (prefix, "first"),
        ("cos", "second"),
    ] {
        assert_eq!(sweep_of(&place.json(&["status", word])), sweep, "{word}");
        let table = place.json(&["table", word]);
        assert_eq!(table["sweep"], sweep, "{word}");
        place.system.ask(&["tail", word]);
    }
    for names in [["first", prefix], ["first", "last"], ["last", "last"]] {
        let explained = place.json(&[&["why"], &names[..]].concat());
        assert!(explained["trial"].is_string(), "{names:?}: {explained}");
    }
    let shown = place.json(&["show", "first", prefix]);
    assert_eq!(
        (&shown["trial"], &shown["cell"]),
        (&xent.as_str().into(), &"xent".into())
    );
    let settings = shown["settings"].as_array().expect("a list").iter();
    let loss = settings.clone().find(|setting| setting["name"] == "loss");
    assert_eq!(loss.expect("it is there")["from"]["kind"], "axis");
    let cell = place.json(&["why", "last", "cos"]);
    assert_eq!(cell["sweep"], "second", "{cell}");
    for (command, reason) in [
        (&["status", "failed"][..], "no sweep has failed trials"),
        (&["why", "failed"], "no trial has failed"),
        (
            &["why", "first", "failed"],
            "no trial of sweep `first` has failed",
        ),
        (
            &["why", "second", "xent"],
            "sweep `second` has no cell `xent`",
        ),
        (&["logs", "second", prefix], "no trial's id begins with"),
        (&["cancel", "xent"], "name the sweep"),
        (&["rm", prefix], "name the sweep"),
        (
            &["retry", "first", "nothing"],
            "sweep `first` has no cell `nothing`",
        ),
    ] {
        let printed = place.refused(command);
        assert!(printed.contains(reason), "{command:?}: {printed}");
    }
    let Place { system, processes } = place;
    drop(processes);
    let offline = |arguments: &[&str]| {
        let command = system.orchestrator(&[arguments, &["--output", "json"]].concat());
        let output = { command }.output().expect("the client starts");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let value: Value = serde_json::from_slice(&output.stdout).expect(&stderr);
        value
    };
    let state = system.path("state");
    let state = state.to_str().expect("a path in UTF-8");
    let status = offline(&["status", "last", "--state-dir", state]);
    assert_eq!(sweep_of(&status), "second");
    let explained = offline(&["why", "first", prefix, "--state-dir", state]);
    assert_eq!(explained["trial"], xent.as_str());
}

/// One finished trial is trained again, and no other; a cell, by its name alone.
#[test]
fn a_trial_or_a_cell_alone_is_retried() {
    let place = Place::new();
    let xent = place.trial_of("xent");
    let retried = place.json(&["retry", &xent]);
    assert_eq!(
        (
            &retried["sweep"],
            &retried["retried"],
            &retried["trials"][0]
        ),
        (&"first".into(), &1.into(), &xent.as_str().into())
    );
    place.system.ask(&["tail", "first"]);
    let again = place.json(&["why", &xent]);
    assert_eq!(again["attempts"].as_array().map(Vec::len), Some(2));
    let cell = place.json(&["retry", "first", "cos"]);
    assert_eq!(
        (&cell["retried"], &cell["cells"][0]),
        (&2.into(), &"cos".into())
    );
}

/// Checks that `rm` removes what it lists, and nothing else.
#[test]
fn a_removed_sweep_leaves_no_unused_files() {
    let place = Place::new();
    let kept = place.system.path("state").join("kept");
    let file_of = |trial: &str| kept.join(trial).join("weights.attempt-1.safetensors");
    let (xent, foreign) = (place.trial_of("xent"), "t00000000000000ff".to_owned());
    for trial in [&xent, &foreign] {
        let file = file_of(trial);
        fs::create_dir_all(file.parent().expect("a folder")).expect("it can be made");
        fs::write(file, [0; 1000]).expect("it can be written");
    }
    let dry = place.json(&["rm", "--unused", "--dry-run"]);
    assert_eq!((&dry["files"], &dry["bytes"]), (&1.into(), &1000.into()));
    assert!(file_of(&foreign).exists());
    let printed = place.system.ask(&["rm", "--unused"]);
    assert_eq!(
        printed,
        "files that no sweep uses, removed: 1 kept file, 1000 B\n"
    );
    assert!(!kept.join(&foreign).exists());
    let dry = place.json(&["rm", "first", "--dry-run"]);
    assert_eq!(
        dry["trials"], 2,
        "those of `cos` are of `second` too: {dry}"
    );
    assert_eq!(place.sweeps(), ["second", "first"]);
    let printed = place.system.ask(&["rm", "first"]);
    assert!(
        printed.starts_with(
            "first: removed with 2 trials that no other sweep wants, and 1 kept file, 1000 B;"
        ),
        "{printed}"
    );
    assert!(!kept.join(&xent).exists());
    assert_eq!(place.sweeps(), ["second"]);
    let unknown = place.refused(&["rm", "first"]);
    assert!(unknown.contains("`first`"), "{unknown}");
    // Results count again where they are asked for.
    place.submit("first", SWEEP);
    let again = place.json(&["why", &xent]);
    assert_eq!(again["attempts"].as_array().map(Vec::len), Some(1));
}

/// A shell gets the sweeps and the cells that there are.
#[test]
fn names_of_sweeps_and_cells_are_completed() {
    let place = Place::new();
    let answer = |words: &[&str]| {
        let words = [&["--", "orchestrator"], words].concat();
        let mut command = place.system.marked(binary("orchestrator"));
        let output = command.args(&words).env("COMPLETE", "fish").output();
        let output = output.expect("the program starts");
        String::from_utf8(output.stdout).expect("names are UTF-8")
    };
    let state = ["--state-dir", "state"];
    let of = |command: &str, more: &[&str]| answer(&[&[command], &state[..], more].concat());
    let all = of("tail", &[""]);
    let names: Vec<&str> = all.lines().filter(|line| !line.starts_with('-')).collect();
    assert_eq!(names, ["second", "first"], "the newest is first: {all}");
    assert_eq!(of("rm", &["fi"]), "first\n");
    assert_eq!(of("retry", &["first", "c"]), "cos\n");
    assert_eq!(of("why", &["first", "x"]), "xent\n");
}
