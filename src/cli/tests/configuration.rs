//! Settings in files, as users and scripts see them: which one is in force, from where, and what is
//! reported about a wrong file.

mod place;

use place::{Place, golden};
use serde_json::Value;

const SWEEP: &str = "recipe: quick\nset: {dataset: digits}\naxes: {loss: [xent, cos]}\n";

/// Returns value and origin of a setting, from `orchestrator config` with these flags.
fn in_force(
    place: &Place,
    name: &str,
    flags: &[&str],
    variables: &[(&str, &str)],
) -> (String, String) {
    let mut command = place.command(&["config", "--output", "json"]);
    command.args(flags).envs(variables.iter().copied());
    let output = command.output().expect("the command starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let settings = document["settings"].as_array().expect("a list");
    let setting = settings.iter().find(|setting| setting["name"] == name);
    let setting = setting.expect("every setting is listed");
    let text = |key: &str| setting[key].as_str().unwrap_or("-").to_owned();
    (text("value"), text("from"))
}

#[test]
fn flags_win_over_the_environment_over_the_project_over_the_user() {
    let place = Place::new();
    let below = place.path().display().to_string();
    let value = |flags: &[&str], variables: &[(&str, &str)]| {
        let (value, from) = in_force(&place, "data_dir", flags, variables);
        (value.replace(&below, ""), from)
    };
    let expected = |value: &str, from: &str| (value.to_owned(), from.to_owned());
    assert_eq!(value(&[], &[]), expected("data", "default"));
    std::fs::create_dir_all(place.path().join(".config/orchestrator")).unwrap();
    place.file(
        ".config/orchestrator/orchestrator.toml",
        "data_dir = '/sets'\nresults = 'mine'\n",
    );
    assert_eq!(value(&[], &[]), expected("/sets", "user"));
    place.file("orchestrator.toml", "data_dir = 'images'\n");
    assert_eq!(value(&[], &[]), expected("/images", "project"));
    let variable = [("ORCHESTRATOR_DATA_DIR", "named")];
    assert_eq!(value(&[], &variable), expected("named", "environment"));
    assert_eq!(
        value(&["--data-dir", "typed"], &variable),
        expected("typed", "flag")
    );
    // the user's file still decides what the project's does not
    let (results, from) = in_force(&place, "results", &[], &[]);
    assert_eq!(from, "user");
    assert!(results.ends_with(".config/orchestrator/mine"), "{results}");
    let other = place.file("other.toml", "data_dir = 'o'\n");
    let other = other.display().to_string();
    assert_eq!(value(&["--config", &other], &[]), expected("/o", "project"));
    assert_eq!(
        value(&[], &[("ORCHESTRATOR_CONFIG", &other)]),
        expected("/o", "project")
    );
}

#[test]
fn a_project_is_found_from_its_folders_and_its_paths_are_its_own() {
    let place = Place::new();
    place.file(
        "orchestrator.toml",
        "state_dir = 'state'\n[launch]\nnodes = 4\n",
    );
    place.file("tiny.yaml", SWEEP);
    std::fs::create_dir_all(place.path().join("a/b")).unwrap();
    let mut command = place.command(&["status"]);
    command.current_dir(place.path().join("a/b"));
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let state = place.path().join("state").display().to_string();
    assert!(stderr.contains(&state), "{stderr}");
    place.printed(&["plan", "tiny.yaml"]);
}

#[test]
fn the_flags_of_slurm_are_those_of_the_file_unless_they_are_typed() {
    let place = Place::new();
    place.file("tiny.yaml", SWEEP);
    place.file("modules.sh", "module load cuda\n");
    place.file(
        "orchestrator.toml",
        "coordinator = 'http://elsewhere:7400'\n[launch]\ngpus_per_node = 4\ntime = '8:00:00'\n\
         partition = 'gpu'\nadvertise = 'login1'\nprologue = 'modules.sh'\noptions = ['--qos=long']\n",
    );
    let script = |words: &str| {
        let words: Vec<&str> = words.split_whitespace().collect();
        place.printed(&words)
    };
    let run = "run tiny.yaml --launch slurm --dry-run";
    let found = script(run);
    for line in [
        "#SBATCH --gpus-per-node=4\n",
        "#SBATCH --time=8:00:00\n",
        "#SBATCH --partition=gpu\n",
        "#SBATCH --qos=long\n",
        "\nmodule load cuda\n",
    ] {
        assert!(found.contains(line), "{line:?} in {found}");
    }
    let found = script(&format!(
        "{run} --partition cpu --cpus-per-node 8 -- --exclusive"
    ));
    assert!(
        found.contains("--partition=cpu") && !found.contains("--partition=gpu"),
        "{found}"
    );
    assert!(
        found.contains("--cpus-per-task=8") && !found.contains("gpus-per-node"),
        "{found}"
    );
    assert!(
        found.contains("#SBATCH --exclusive") && !found.contains("qos"),
        "{found}"
    );
    // they concern no other command, and no other run
    place.printed(&["plan", "tiny.yaml"]);
}

/// Each key of `[launch]` has an effect with the kind of cluster that it is for.
#[test]
fn a_file_asks_for_the_coordinators_job_and_for_copies_over_ssh() {
    let place = Place::new();
    place.file("tiny.yaml", SWEEP);
    place.file("hosts.txt", "node1\n");
    let keys = |job: &str, push: bool| {
        let text = format!("[launch]\ntime = '8:00:00'\ncoordinator_job = {job}\npush = {push}\n");
        place.file("orchestrator.toml", &text);
    };
    let slurm = ["run", "tiny.yaml", "--launch", "slurm", "--dry-run"];
    let ssh = ["run", "tiny.yaml", "--launch", "ssh:hosts.txt", "--dry-run"];
    keys("'--partition=cpu'", true);
    let script = place.printed(&slurm);
    assert!(
        script.contains("--job-name=orch-coordinator-RANDOM\n")
            && script.contains("#SBATCH --partition=cpu\n"),
        "{script}"
    );
    let refused = place.refused(1, &[&slurm[..], &["--push"]].concat());
    assert!(refused.contains("--push copies"), "{refused}");
    keys("true", false);
    assert!(place.printed(&slurm).contains("orch-coordinator-RANDOM"));
    assert!(place.printed(&ssh).contains("bin/orchestrator worker"));
    keys("false", false);
    assert!(!place.printed(&slurm).contains("orch-coordinator-RANDOM"));
}

#[test]
fn a_coordinator_of_a_file_is_asked_unless_a_state_directory_is_named() {
    let place = Place::new();
    place.file("orchestrator.toml", "coordinator = 'http://127.0.0.1:1'\n");
    let asked = place.refused(2, &["status"]);
    assert!(asked.contains("127.0.0.1:1"), "{asked}");
    let local = place.run(&["status", "--state-dir", "here"]);
    let local = String::from_utf8(local.stderr).unwrap();
    assert!(
        local.contains("here") && !local.contains("127.0.0.1:1"),
        "{local}"
    );
    // a required flag may come from a file: the refusal is about another one
    let worker = place.refused(2, &["worker", "--trainer", "none"]);
    assert!(!worker.contains("--coordinator"), "{worker}");
}

#[test]
fn every_problem_of_a_file_is_shown_with_its_place() {
    let place = Place::new();
    let file = place.file(
        "orchestrator.toml",
        "data-dir = '/sets'\npartition = 'gpu'\nslots = 'four'\ndevices = 'gpu'\n\
         [launch]\nnodes = 0\ntime = 'soon'\noptions = 'x'\nhow = 'slurm'\n",
    );
    let message = place.refused(1, &["status"]);
    let message = message.replace(&file.display().to_string(), "orchestrator.toml");
    golden("bad-configuration.txt", &message);
    place.file("orchestrator.toml", "data_dir = \n");
    let message = place.refused(1, &["plan", "x.yaml"]);
    assert!(message.contains("orchestrator.toml:1:"), "{message}");
    // commands without settings work
    place.printed(&["completions", "bash"]);
    let absent = place.refused(2, &["status", "--config", "absent.toml"]);
    assert!(absent.contains("absent.toml"), "{absent}");
}

#[test]
fn config_shows_every_setting_and_its_origin() {
    let place = Place::new();
    place.file(
        "orchestrator.toml",
        "# a project\ndata_dir = 'sets'\n\n[launch]\nnodes = 8\ntime = '8:00:00'\noptions = ['--qos=long', '--exclusive']\n",
    );
    let mut command = place.command(&["config", "--devices", "cpu"]);
    command.env("ORCHESTRATOR_CACHE_DIR", "/fast");
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<String> = text
        .replace(&place.path().display().to_string(), "PROJECT")
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n")
        .collect();
    golden("config.txt", &lines.concat());
}
