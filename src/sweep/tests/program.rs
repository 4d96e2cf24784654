//! `program:` in a sweep file: what compiles, the ids of its trials, and what is refused where.

use std::io;

use serde_json::json;
use sweep::definition::Role;
use sweep::{Errors, Settings, Submitted, Sweep, Trainer, TrialId};

const GOOD: &str = "\
program:
  command: [python, train.py]
  files: [train.py, library/]
  pass: [WANDB_MODE]
  environment: {venv: .venv}
  fields:
    rate: {default: 0.1, from: 0, to: 10}
    loss: {default: xent, type: text, one_of: [xent, mse]}
    width: 32
    mirrored: {default: false, axis: false}
set: {epochs: 3, width: 64}
axes:
  rate: [0.1, 1]
  samples_per_class: [5, all]
seeds: 2
";

fn parse(text: &str) -> Result<Sweep, Errors> {
    let no_files = |_: &str| Err(io::Error::other("there are no files here"));
    sweep::parse("test.yaml", text, &no_files)
}

fn frozen(archive: &str, command: &[&str]) -> Trainer {
    let submitted = Submitted {
        name: "train.py".to_owned(),
        archive: archive.to_owned(),
        bytes: 10_240,
        files: [("train.py".to_owned(), archive.to_owned())].into(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        folder: String::new(),
        pass: Vec::new(),
        environment: None,
    };
    Trainer::Submitted(submitted.into())
}

fn compiled() -> Sweep {
    let mut sweep = parse(GOOD).unwrap_or_else(|errors| panic!("{errors}"));
    sweep.trainer = frozen("aa", &["python", "train.py"]);
    sweep
}

fn id(sweep: &Sweep) -> TrialId {
    sweep.trial_spec(0, None, Role::Result, 0).id()
}

/// Checks the first problem that a changed file has, and its help.
fn check(from: &str, to: &str, message: &str, help: &str) {
    let text = GOOD.replacen(from, to, 1);
    assert_ne!(text, GOOD, "`{from}` is not in the file");
    let errors = match parse(&text) {
        Ok(_) => panic!("compiled:\n{text}"),
        Err(errors) => errors,
    };
    let found = errors
        .problems()
        .iter()
        .find(|problem| problem.message().contains(message));
    let problem = found.unwrap_or_else(|| panic!("no `{message}` in\n{errors}"));
    let advice = problem.help_text().unwrap_or_default();
    assert!(advice.contains(help), "`{help}` is not in `{advice}`");
}

#[test]
fn a_cell_has_the_fields_of_its_program_and_the_common_ones() {
    let sweep = compiled();
    sweep.check().unwrap();
    let fields = sweep.cell_settings(&sweep.cells[2]).fields();
    let expected = json!({
        "samples_per_class": 5, "holdout": null, "evaluate_every": "auto", "epochs": 3,
        "rate": 1.0, "loss": "xent", "width": 64, "mirrored": false,
    });
    assert_eq!(json!(fields), expected);
    assert_eq!(sweep.trial_spec(0, None, Role::Result, 0).num_epochs(), 3);
    let origins = sweep.origins(&sweep.cells[2], false);
    let origin = |name: &str| origins[name].to_string();
    assert_eq!(
        ["rate", "width", "loss", "epochs"].map(origin),
        ["axis rate", "set", "default", "set"]
    );
}

#[test]
fn the_journalled_form_is_read_back() {
    let sweep = compiled();
    let json = serde_json::to_vec(&sweep).unwrap();
    assert_eq!(serde_json::from_slice::<Sweep>(&json).unwrap(), sweep);
}

#[test]
fn files_command_and_own_fields_are_part_of_an_id_and_the_place_of_libraries_is_not() {
    let sweep = compiled();
    let with = |trainer| {
        let mut sweep = compiled();
        sweep.trainer = trainer;
        id(&sweep)
    };
    assert_eq!(with(frozen("aa", &["python", "train.py"])), id(&sweep));
    assert_ne!(with(frozen("ab", &["python", "train.py"])), id(&sweep));
    assert_ne!(with(frozen("aa", &["python3", "train.py"])), id(&sweep));
    assert_ne!(with(Trainer::BuiltIn), id(&sweep));
    let mut elsewhere = (**sweep.trainer.submitted().unwrap()).clone();
    elsewhere.environment = Some(sweep::program::Environment::Venv("/venv".to_owned()));
    elsewhere.pass.push("LANG".to_owned());
    assert_eq!(with(Trainer::Submitted(elsewhere.into())), id(&sweep));
    let mut wider = compiled();
    let own = wider.base.program.as_mut().unwrap();
    own.insert("width".to_owned(), json!(65));
    assert_ne!(id(&wider), id(&sweep));
    // the built-in trainer's choices are none of a program's business
    let mut other = compiled();
    other.base.momentum = 0.5;
    assert_eq!(id(&other), id(&sweep));
}

#[test]
fn changes_of_a_program_are_listed_by_file() {
    let before = frozen("aa", &["python", "train.py"]);
    let after = frozen("ab", &["python3", "train.py"]);
    let changes = |after: &Trainer| {
        let after = after.submitted().unwrap();
        after.changes_since(before.submitted().unwrap())
    };
    assert_eq!(changes(&before), Vec::<String>::new());
    assert_eq!(changes(&after), ["train.py changed", "the command changed"]);
}

#[test]
fn problems_of_a_block_have_a_place_and_help() {
    check(
        "  command: [python, train.py]\n",
        "",
        "has no `command`",
        "command:",
    );
    check(
        "command: [",
        "comand: [",
        "has no key `comand`",
        "did you mean `command`",
    );
    check(
        "train.py, library/",
        "../train.py",
        "not in the sweep's own folder",
        "link",
    );
    check(
        "WANDB_MODE",
        "WANDB_TOKEN",
        "looks like a secret",
        "read it from a file",
    );
    check("venv:", "vnv:", "has no key `vnv`", "did you mean `venv`");
    check(
        "default: 0.1, ",
        "",
        "the field `rate` has no default",
        "default: VALUE",
    );
    check(
        "default: xent",
        "default: xnt",
        "is `xnt`",
        "did you mean `xent`",
    );
    check(
        "width: 32",
        "Width: 32",
        "is not a name: lower-case letters",
        "learning_rate",
    );
    check("width: 32", "epochs: 32", "is a field of every program", "");
    check(
        "width: 32",
        "width: [1]",
        "is a list",
        "a field is a number",
    );
    check(
        "to: 10",
        "one_of: [a]",
        "for which `one_of` is not possible",
        "for text",
    );
    check("default: 0.1", "default: 11", "is 11", "from 0 to 10");
    check(
        "program:",
        "recipe: quick\nprogram:",
        "a `recipe` and a `program`",
        "remove one",
    );
}

#[test]
fn values_of_declared_fields_are_checked_wherever_they_stand() {
    check(
        "width: 64",
        "widht: 64",
        "no field is called `widht`",
        "did you mean `width`",
    );
    check("width: 64", "width: 6.5", "wrong type", "a whole number");
    check(
        "width: 64",
        "momentum: 0.9",
        "no field is called `momentum`",
        "declare it",
    );
    check(
        "rate: [0.1, 1]",
        "rate: [0.1, 11]",
        "out of range",
        "from 0 to 10",
    );
    check(
        "rate: [0.1, 1]",
        "mirrored: [true]",
        "cannot be an axis",
        "axis: false",
    );
    check(
        "rate: [0.1, 1]",
        "raet: [1]",
        "no field is called `raet`",
        "did you mean `rate`",
    );
    check("epochs: 3", "epochs: 0", "out of range", "from 1 to 100000");
}

#[test]
fn a_sweep_from_a_peer_is_checked() {
    let refused = |change: &dyn Fn(&mut Sweep), expected: &str| {
        let mut sweep = compiled();
        change(&mut sweep);
        let error = sweep.check().expect_err("it is wrong").to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(
        &|sweep| sweep.trainer = Trainer::BuiltIn,
        "without its files",
    );
    refused(&|sweep| sweep.program = None, "recipe does not exist");
    refused(
        &|sweep| {
            let own = sweep.base.program.as_mut().unwrap();
            own.insert("other".to_owned(), json!(1));
        },
        "is no field",
    );
    refused(
        &|sweep| {
            sweep.cells[0].set.insert("rate".to_owned(), json!(1));
        },
        "not written as settings write it",
    );
    refused(
        &|sweep| {
            let mut program = (**sweep.trainer.submitted().unwrap()).clone();
            program.files.insert("../../x".to_owned(), "aa".to_owned());
            sweep.trainer = Trainer::Submitted(program.into());
        },
        "too many files",
    );
}

#[test]
fn the_built_in_trainer_refuses_the_settings_of_a_program() {
    let refused = Settings::of_program("digits", Default::default()).check();
    assert!(refused.unwrap_err().to_string().contains("own program"));
}
