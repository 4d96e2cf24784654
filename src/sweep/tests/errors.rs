//! Every kind of problem in a sweep file: the place, the message and the help.

use std::io;

use sweep::{Errors, Style, Sweep};

fn no_files(_: &str) -> io::Result<String> {
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        "there are no files here",
    ))
}

fn parse(text: &str) -> Result<Sweep, Errors> {
    sweep::parse("test.yaml", text, &no_files)
}

const GOOD: &str = "\
recipe: quick
set: {dataset: digits}
axes:
  loss: [xent, cos]
  samples_per_class: [5, 10]
";

/// Checks the `line:column` of the first problem, and text that its message and help must contain.
fn check(text: &str, place: (usize, usize), message: &str, help: &str) {
    let errors = match parse(text) {
        Ok(sweep) => panic!("compiled to {} cells:\n{text}", sweep.cells.len()),
        Err(errors) => errors,
    };
    let found = errors
        .problems()
        .iter()
        .find(|problem| problem.message().contains(message));
    let problem = found.unwrap_or_else(|| panic!("no `{message}` in\n{errors}\nfor\n{text}"));
    assert_eq!(problem.position(), place, "{errors}\nfor\n{text}");
    let advice = problem.help_text().unwrap_or_default();
    assert!(advice.contains(help), "`{help}` is not in `{advice}`");
    let drawn = errors.render(Style::default());
    assert!(drawn.contains("test.yaml"), "{drawn}");
    assert!(!drawn.contains('\u{1b}'), "no colours asked for: {drawn:?}");
}

#[test]
fn the_file_that_these_tests_change_compiles() {
    assert_eq!(
        parse(GOOD)
            .map(|sweep| sweep.cells.len())
            .map_err(|errors| errors.to_string()),
        Ok(4)
    );
}

#[test]
fn not_a_sweep_at_all() {
    check("", (1, 1), "is empty", "quickstart");
    check("# nothing\n", (1, 1), "is empty", "quickstart");
    check("just text\n", (1, 1), "is text, not a mapping", "");
    check("- a\n- b\n", (1, 1), "is a list, not a mapping", "");
    check("a: [1, 2\n", (1, 4), "not readable as YAML", "");
    check("a: 1\n\tb: 2\n", (1, 4), "found a tab", "spaces");
    check(
        &format!("{GOOD}---\nname: two\n"),
        (7, 1),
        "several YAML documents",
        "one sweep per file",
    );
    let huge = format!("{GOOD}#{}\n", "x".repeat(5 << 20));
    check(&huge, (1, 1), "larger than 4 MiB", "");
}

#[test]
fn wrong_keys() {
    check(
        &format!("{GOOD}sedes: 3\n"),
        (6, 1),
        "no key `sedes`",
        "did you mean `seeds`?",
    );
    check(
        &format!("{GOOD}seeds: 3\nseeds: 4\n"),
        (7, 1),
        "key `seeds` twice",
        "keep one",
    );
    check(
        &format!("{GOOD}  model: [resnet-8]\n  model: [resnet-20]\n"),
        (7, 3),
        "key `model` twice",
        "",
    );
    check(
        "recipe: {base: quick, learning_rat: 1}\n",
        (1, 23),
        "no field is called `learning_rat`",
        "`learning_rate`",
    );
    check("set: {dataset: digits}\n", (1, 1), "no `recipe`", "quick");
    check(
        "recipe: qick\nset: {dataset: digits}\n",
        (1, 9),
        "no recipe is called",
        "did you mean `quick`?",
    );
    let several = "recipe: qick\nset: {dataset: digit, batch_size: 0}\nseedz: 3\n";
    assert_eq!(
        parse(several).unwrap_err().problems().len(),
        4,
        "an unknown recipe hides nothing"
    );
    check(
        "recipe: {learning_rate: 1}\n",
        (1, 9),
        "recipe it starts from",
        "base",
    );
    check("recipe: quick\n", (1, 1), "names no data set", "dataset");
}

#[test]
fn wrong_values() {
    let set = |field: &str| format!("recipe: quick\nset:\n  dataset: digits\n  {field}\n");
    check(
        &set("batch_size: many"),
        (4, 15),
        "wrong type",
        "whole number from 1",
    );
    check(&set("batch_size: 0"), (4, 15), "out of range", "");
    check(&set("batch_size: 1.5"), (4, 15), "wrong type", "");
    check(
        &set("learning_rate: -1"),
        (4, 18),
        "out of range",
        "above 0",
    );
    check(&set("momentum: 1"), (4, 13), "out of range", "below 1");
    check(&set("flip: yes"), (4, 9), "wrong type", "true or false");
    check(&set("loss: cosine"), (4, 9), "does not exist", "");
    check(
        &set("model: resnet50"),
        (4, 10),
        "does not exist",
        "`resnet-50`",
    );
    check(&set("learning_rate: null"), (4, 18), "has no value", "");
    check(
        &set("schedule: {sgdr: {base_cycle: 12}}"),
        (4, 20),
        "lacks `multiplier`",
        "cycles",
    );
    check(
        &set("schedule: {step: {epochs: 9, evry: 3, factor: 0.1}}"),
        (4, 32),
        "`evry`",
        "did you mean `every`?",
    );
    check(
        &set("schedule: {stepp: {epochs: 9}}"),
        (4, 14),
        "`stepp`",
        "`step`",
    );
    check(
        &set("cutmix: {alpha: 1, alpha: 2, probability: 1}"),
        (4, 22),
        "key `alpha` twice",
        "",
    );
    check(
        &set("rand_augment: {operations: 2, magnitude: 11, magnitude_std: 0, probability: 1}"),
        (4, 44),
        "range",
        "",
    );
    check(
        "recipe: quick\nset: {dataset: digit}\n",
        (2, 16),
        "does not exist",
        "did you mean `digits`?",
    );
    check(
        "recipe: quick\nset: {dataset: 'folder:'}\n",
        (2, 16),
        "names no folder",
        "one directory per class",
    );
    check(
        &set("crop_size: 9\n  resize: 8"),
        (4, 3),
        "larger than `resize`",
        "",
    );
    let semantic = set("loss: cos_xent_direct\n  embedding: {hierarchy: tree.txt}");
    check(&semantic, (4, 3), "needs `embedding: one_hot`", "");
    check(&set("replicas: 64"), (4, 3), "cannot share", "");
    check(&set("shift: 1.0"), (4, 10), "out of range", "below 1");
    check(
        &set("samples_per_class: some"),
        (4, 22),
        "wrong type",
        "all",
    );
}

/// Each of these was once accepted, and then refused by every trial.
#[test]
fn settings_that_no_trial_could_train_with_are_refused() {
    let set = |fields: &str| format!("recipe: quick\nset:\n  {}\n", fields.replace(", ", "\n  "));
    let crop = set("dataset: cub, crop: random_resized, shift: 0.1");
    check(&crop, (5, 3), "`shift` 0.1 cannot join it", "`shift: 0`");
    let crop = set("dataset: digits, crop: random");
    check(
        &crop,
        (4, 3),
        "`crop` needs a `crop_size`",
        "`crop: centre`",
    );
    check(
        &set("dataset: digits, resize: 12"),
        (4, 3),
        "used as they are: 8 x 8 pixels",
        "`resize: null`",
    );
    check(
        &set("crop_size: null, dataset: cub"),
        (3, 3),
        "photographs of `cub` differ in size",
        "`crop_size`",
    );
    check(
        &set("dataset: digits, normalise: ilsvrc"),
        (4, 3),
        "three colours",
        "`normalise: computed`",
    );
    check(
        &set("dataset: cub, samples_per_class: 30"),
        (4, 3),
        "has 29 training images",
        "at most 29",
    );
    check(
        &set("dataset: cub, holdout: 0.5, samples_per_class: 1"),
        (5, 3),
        "one training image",
        "raise",
    );
    let small = set("dataset: digits, model: resnet-110-wfc, crop_size: 3");
    check(&small, (4, 3), "a side of 3 is too small", "at least 4");
    let searched = "recipe: quick\nset: {dataset: digits, samples_per_class: 1}\n\
                    search: {field: learning_rate, candidates: [1, 2]}\n";
    check(searched, (2, 24), "one training image", "raise");
}

/// The error points at the override that wins, not at one for other cells, and at every other field
/// concerned.
#[test]
fn contradictions_point_at_all_their_fields() {
    let text = "\
recipe: quick
axes: {dataset: [digits, cub]}
overrides:
  - {when: {dataset: digits}, set: {shift: 0.1}}
  - {when: {dataset: cub}, set: {shift: 0.2}}
  - {when: {dataset: cub}, set: {crop: random_resized}}
";
    let errors = parse(text).unwrap_err();
    assert_eq!(errors.problems().len(), 1, "{errors}");
    check(text, (5, 34), "`shift` 0.2 cannot join it (cell cub)", "");
    let drawn = errors.render(Style::default());
    assert!(
        drawn.contains("set: {crop: random_resized}") && drawn.contains("and this"),
        "{drawn}"
    );
    let two = "recipe: quick\nset: {dataset: digits, resize: 9, normalise: ilsvrc, crop: random}\n";
    assert_eq!(parse(two).unwrap_err().problems().len(), 3);
}

#[test]
fn wrong_names_seeds_and_limits() {
    check(
        &format!("name: a/b\n{GOOD}"),
        (1, 7),
        "the name `a/b`",
        "folder",
    );
    check(
        &format!("name: x-smoke\n{GOOD}"),
        (1, 7),
        "kept for rehearsals",
        "",
    );
    check(
        &format!("name: [x]\n{GOOD}"),
        (1, 7),
        "is a list, not text",
        "",
    );
    check(
        &format!("{GOOD}seeds: 0\n"),
        (6, 8),
        "whole number from 1",
        "",
    );
    check(&format!("{GOOD}seeds: []\n"), (6, 8), "is empty", "");
    check(
        &format!("{GOOD}seeds: [1, 2, 1]\n"),
        (6, 15),
        "seed 1 occurs twice",
        "",
    );
    check(
        &format!("{GOOD}on_failure: halt\n"),
        (6, 13),
        "`halt`",
        "continue, stop",
    );
    check(
        &format!("{GOOD}keep: [curves, weight]\n"),
        (6, 16),
        "`weight`",
        "did you mean `weights`?",
    );
    check(&format!("{GOOD}keep: all\n"), (6, 7), "not a list", "");
    check(
        &format!("{GOOD}resources: {{devices_per_trial: 0}}\n"),
        (6, 32),
        "from 1 to 64",
        "",
    );
    let many: Vec<String> = (1..=2000).map(|number| number.to_string()).collect();
    let wide = format!("{GOOD}  batch_size: [{}]\nseeds: 100\n", many.join(", "));
    check(
        &wide,
        (4, 3),
        "800000 trials, more than the limit of 100000",
        "limits: {trials: N}",
    );
    let raised = parse(&format!(
        "{}limits: {{trials: 800000}}\n",
        wide.replace("seeds: 100", "seeds: 10")
    ));
    assert_eq!(
        raised
            .map(|sweep| sweep.cells.len())
            .map_err(|errors| errors.to_string()),
        Ok(8000)
    );
    check(
        &format!("{GOOD}limits: {{trials: 100000000}}\n"),
        (6, 18),
        "from 1 to 1000000",
        "",
    );
}

#[test]
fn wrong_axes() {
    let axis = |axis: &str| format!("recipe: quick\nset: {{dataset: digits}}\naxes:\n  {axis}\n");
    check(&axis("loss: []"), (4, 3), "has no values", "remove");
    check(&axis("loss: cos"), (4, 9), "is text, not a list", "");
    check(
        &axis("loss: [cos, coss]"),
        (4, 15),
        "does not exist",
        "did you mean `cos`?",
    );
    check(
        &axis("loss: [cos, xent, cos]"),
        (4, 21),
        "value `cos` twice",
        "",
    );
    check(&axis("learning_rate: [0.1, 1e-1]"), (4, 24), "twice", "");
    check(
        &axis("lloss: [cos]"),
        (4, 3),
        "no field is called `lloss`",
        "did you mean `loss`?",
    );
    check(
        &axis("method: [cos]"),
        (4, 3),
        "no field is called `method`",
        "{name: ...",
    );
    check(
        &axis("seeds: [1, 2]"),
        (4, 3),
        "seeds are no axis",
        "`seeds: 5`",
    );
    check(
        &axis("method: [{set: {loss: cos}}]"),
        (4, 13),
        "no `name`",
        "",
    );
    check(
        &axis("loss: [{name: ls, set: {label_smoothing: 0.1}}]"),
        (4, 17),
        "no value of `loss`",
        "add `loss: VALUE`",
    );
    check(
        &axis("dataset: ['folder:/a/b']"),
        (4, 13),
        "cannot be the name",
        "{name: SHORT",
    );
    check(&axis("samples_per_class: [0]"), (4, 23), "out of range", "");
    check(&axis("loss: [null]"), (4, 10), "is nothing", "");
    let label = |label: &str| axis(&format!("loss: [{{name: cos, label: {label}}}]"));
    check(
        &label(&"x".repeat(201)),
        (4, 29),
        "has 201 characters, at most 200",
        "caption",
    );
    check(&label("\"a\\nb\""), (4, 29), "a line break", "one line");
    check(&label("[a]"), (4, 29), "is a list, not text", "");
    assert!(parse(&label(&"x".repeat(200))).is_ok());
    let both = axis(
        "method: [{name: a, set: {loss: cos}}, {name: b, set: {loss: mse}}]\n  loss: [cos, mse]",
    );
    check(&both, (5, 15), "both set `loss`", "one axis");
    let twins = axis("method: [{name: a, set: {loss: cos}}, {name: b, set: {loss: cos}}]");
    check(&twins, (4, 48), "the same training", "exclude");
}

#[test]
fn wrong_overrides() {
    let over = |lines: &str| format!("{GOOD}overrides:\n{lines}\n");
    check(
        &over("  - {when: {loss: mse}, set: {flip: false}}"),
        (7, 19),
        "no value `mse`",
        "xent, cos",
    );
    check(
        &over("  - {when: {model: resnet-20}, set: {flip: false}}"),
        (7, 6),
        "matches no cell",
        "",
    );
    check(
        &over("  - {when: {los: cos}, set: {flip: false}}"),
        (7, 13),
        "no axis or field",
        "`loss`",
    );
    check(
        &over("  - {when: {}, set: {flip: false}}"),
        (7, 12),
        "names nothing",
        "`set`",
    );
    check(&over("  - {set: {flip: false}}"), (7, 6), "needs both", "");
    check(
        &over("  - {when: {loss: cos}, set: {loss: mse}}"),
        (7, 31),
        "which is an axis",
        "exclude",
    );
    check(
        &over("  - {when: {loss: cos}, set: {dataset: cub}}"),
        (7, 31),
        "cannot change the data set",
        "",
    );
    let two = "  - {when: {loss: cos}, set: {learning_rate: 0.5}}\n  - {when: {samples_per_class: 5}, set: {learning_rate: 0.1}}";
    check(
        &over(two),
        (8, 42),
        "two overrides set `learning_rate` of the cell cos/5",
        "priority",
    );
    let ordered = format!(
        "{}\n",
        over(two).trim_end().replace("0.1}}", "0.1}, priority: 1}")
    );
    let sweep = parse(&ordered).unwrap_or_else(|errors| panic!("{errors}"));
    let rates: Vec<f64> = sweep
        .cells
        .iter()
        .map(|cell| sweep.cell_settings(cell).learning_rate)
        .collect();
    assert_eq!(
        rates,
        [0.1, 0.1, 0.1, 0.5],
        "xent/5, xent/10, cos/5, cos/10"
    );
    let third = format!(
        "{}\n  - {{when: {{loss: cos}}, set: {{learning_rate: 0.3}}, priority: 2}}\n",
        over(two).trim_end()
    );
    let sweep = parse(&third).unwrap_or_else(|errors| panic!("a third one settles it: {errors}"));
    assert_eq!(sweep.cell_settings(&sweep.cells[2]).learning_rate, 0.3);
    let agreeing = over(&two.replace("0.1}", "0.5}"));
    assert!(
        parse(&agreeing).is_ok(),
        "two overrides with equal values do not contradict"
    );
    check(
        &format!("{GOOD}exclude:\n  - when: {{loss: [xent, cos]}}\n"),
        (7, 5),
        "leave no cell",
        "",
    );
    check(
        &format!("{GOOD}exclude:\n  - when: {{model: resnet-20}}\n"),
        (7, 5),
        "matches no cell",
        "",
    );
}

#[test]
fn wrong_searches() {
    let search = |body: &str| format!("{GOOD}search: {{{body}}}\n");
    check(
        &search("field: learning_rate"),
        (6, 10),
        "needs `field` and `candidates`",
        "",
    );
    check(
        &search("field: learning_rat, candidates: [1, 2]"),
        (6, 17),
        "no field",
        "`learning_rate`",
    );
    check(
        &search("field: loss, candidates: [cos, mse]"),
        (6, 17),
        "cannot be searched",
        "",
    );
    check(
        &search("field: learning_rate, candidates: [0.1]"),
        (6, 44),
        "1 candidates",
        "",
    );
    check(
        &search("field: learning_rate, candidates: [0.1, 0.1]"),
        (6, 50),
        "twice",
        "",
    );
    check(
        &search("field: learning_rate, candidates: [0.1, -1]"),
        (6, 50),
        "out of range",
        "",
    );
    check(
        &search("field: learning_rate, candidates: [1, 2], holdout: 1"),
        (6, 61),
        "between 0 and 1",
        "",
    );
    check(
        &search("field: learning_rate, candidates: [1, 2], select: tset"),
        (6, 60),
        "`tset`",
        "",
    );
    let held = search("field: learning_rate, candidates: [1, 2]")
        .replace("{dataset: digits}", "{dataset: digits, holdout: 0.5}");
    check(&held, (6, 10), "a search that holds out", "search.holdout");
    let single = search("field: learning_rate, candidates: [1, 2]").replace("[5, 10]", "[1, 10]");
    check(
        &single,
        (5, 23),
        "one training image per class (cell xent/1)",
        "best_on_test",
    );
    let useless = "field: learning_rate, candidates: [1, 2], select: best_on_test, holdout: 0.1";
    check(&search(useless), (6, 74), "no use", "");
    let set = format!(
        "{}overrides: [{{when: {{loss: cos}}, set: {{learning_rate: 1}}}}]\n",
        search("field: learning_rate, candidates: [1, 2]")
    );
    check(&set, (7, 39), "which the search chooses", "");
}

#[test]
fn wrong_outputs() {
    let out = |body: &str| format!("{GOOD}outputs:\n  - {body}\n");
    let table = "table: {rows: loss, columns: samples_per_class";
    for (body, column, message, help) in [
        (
            "table: {rows: loss}",
            13,
            "no place for axis `samples_per_class`",
            "columns",
        ),
        (
            "table: {rows: loss, columns: [samples_per_class, loss]}",
            54,
            "used twice",
            "",
        ),
        (
            "table: {rows: los, columns: samples_per_class}",
            19,
            "no axis is called `los`",
            "`loss`",
        ),
        ("TABLE, value: mean}", 60, "`mean`", "last"),
        (
            "TABLE, baseline: {los: xent}}",
            64,
            "no axis is called `los`",
            "`loss`",
        ),
        (
            "TABLE, baseline: {loss: xnt}}",
            70,
            "has no value `xnt`",
            "`xent`",
        ),
        ("TABLE, baseline: xent}", 63, "`baseline` is", ""),
        ("TABLE, spread: sem}", 61, "`spread` is `sem`", "`se`"),
        (
            "TABLE, style: tables}",
            60,
            "`style` is `tables`",
            "`table`",
        ),
        (
            "TABLE, marks: none}",
            60,
            "`marks` is text",
            "true or false",
        ),
        ("TABLE, name: results}", 5, "cannot be called `results`", ""),
        ("tabel: {rows: loss}", 5, "no key `tabel`", "`table`"),
        (
            "figure: {series: [loss, samples_per_class]}",
            14,
            "`x` of a figure is one axis",
            "",
        ),
        (
            "figure: {x: [samples_per_class, loss]}",
            17,
            "`x` of a figure is one axis",
            "",
        ),
    ] {
        check(
            &out(&body.replace("TABLE", table)),
            (7, column),
            message,
            help,
        );
    }
    let twice = "table: {rows: loss, columns: samples_per_class}\n  - table: {rows: samples_per_class, columns: loss}";
    check(&out(twice), (8, 5), "two outputs are called `table`", "");
}

#[test]
fn wrong_published_numbers() {
    let published = |body: &str| format!("{GOOD}published: {{{body}}}\n");
    for (body, column, message, help) in [
        ("file: gone.yaml", 19, "cannot read gone.yaml", "relative"),
        ("axes: [loss, model], values: {}", 26, "no axis", ""),
        ("axes: loss, values: {mse: 1}", 34, "no value `mse`", ""),
        ("axes: loss, values: {cos: 101}", 39, "101 per cent", ""),
        (
            "axes: loss, values: {cos: {value: 2, footnote: a}}",
            60,
            "no footnote",
            "",
        ),
        (
            "axes: loss, values: {cos: 0.91}",
            39,
            "0.91: in per cent?",
            "write 91.0",
        ),
        (
            "axes: loss, values: {xent: 51.9, cos: {value: 1}}",
            59,
            "1: in per cent?",
            "`1 %`",
        ),
        ("axes: loss, values: {cos: 101 %}", 39, "101 per cent", ""),
        ("axes: loss, values: {cos: high %}", 39, "not a number", ""),
        ("axes: loss, values: {cos: high}", 39, "not a number", ""),
    ] {
        check(&published(body), (6, column), message, help);
    }
    let excluded = format!(
        "{}exclude: [{{when: {{loss: cos}}}}]\n",
        published("axes: loss, values: {cos: 50}")
    );
    check(&excluded, (6, 39), "does not have", "exclusion");
    let in_file = sweep::parse("test.yaml", &published("file: other.yaml"), &|_| {
        Ok("axes: loss\nvalues:\n  mse: 2\n".into())
    });
    let errors = in_file.unwrap_err();
    assert_eq!(
        (errors.problems()[0].file(), errors.problems()[0].position()),
        ("other.yaml", (3, 3))
    );
}

#[test]
fn every_problem_of_a_file_is_reported_in_order() {
    let text = "\
recipe: quick
sedes: 3
set: {dataset: digits, flip: 3, lerning_rate: 1}
axes:
  loss: [cos, coss]
overrides:
  - {when: {loss: [cos, mse], model: resnet-9}, set: {momentum: 2}}
outputs:
  - table: {rows: los}
";
    let errors = parse(text).unwrap_err();
    let places: Vec<_> = errors
        .problems()
        .iter()
        .map(|problem| problem.position())
        .collect();
    assert_eq!(
        places,
        [(2, 1), (3, 30), (3, 33), (5, 15), (7, 38), (7, 65), (9, 19)],
        "{errors}"
    );
    assert!(errors.render(Style::default()).contains("7 problems"));
}

#[test]
fn overrides_that_conflict_are_reported_beside_other_problems() {
    let text = "\
recipe: quick
sedes: 3
set: {dataset: digits, lr: 0.1}
axes:
  loss: [xent, cos]
overrides:
  - {when: {loss: cos}, set: {learning_rate: 0.5}}
  - {when: {loss: [cos, xent]}, set: {learning_rate: 0.1}}
  - {when: {loss: mse}, set: {learning_rate: 0.2}}
  - {when: {model: resnet-20}, set: {momentum: 0.5}}
";
    let errors = parse(text).unwrap_err();
    let places: Vec<_> = errors
        .problems()
        .iter()
        .map(|problem| problem.position())
        .collect();
    // nothing about possible matches once the rest is right
    assert_eq!(places, [(2, 1), (3, 24), (8, 39), (9, 19)], "{errors}");
    assert!(
        errors.problems()[2]
            .message()
            .contains("two overrides set `learning_rate` of the cell cos"),
        "{errors}"
    );
    let axes = "\
recipe: quick
sedes: 3
set: {dataset: digits}
axes:
  loss: [xent, cos]
  method: [{name: a, set: {loss: mse}}]
";
    assert!(
        parse(axes)
            .unwrap_err()
            .to_string()
            .contains("axes `loss` and `method` both set `loss`")
    );
}

#[test]
fn names_of_other_tools_get_the_name_in_this_language() {
    let set = |field: &str| format!("recipe: quick\nset: {{dataset: digits, {field}: 1}}\n");
    for (name, advice) in [
        ("lr", "`learning_rate`"),
        ("epochs", "`schedule: {cosine: {epochs: 60}}`"),
        ("optimiser", "`optimizer: adamw`"),
        ("bs", "`batch_size`"),
        ("wd", "`weight_decay`"),
        ("arch", "`model`"),
        ("num-workers", "--slots"),
    ] {
        check(
            &set(name),
            (2, 24),
            &format!("no field is called `{name}`"),
            advice,
        );
        check(
            &format!("{GOOD}{name}: 1\n"),
            (6, 1),
            &format!("no key `{name}`"),
            advice,
        );
        let axis = format!("recipe: quick\nset: {{dataset: digits}}\naxes: {{{name}: [1]}}\n");
        check(
            &axis,
            (3, 8),
            &format!("no field is called `{name}`"),
            advice,
        );
    }
    check(
        &format!("{GOOD}learning_rate: 1\n"),
        (6, 1),
        "no key `learning_rate`",
        "write it into `set`",
    );
    check(
        &format!("{GOOD}search: {{field: lr, candidates: [1, 2]}}\n"),
        (6, 17),
        "no field",
        "`learning_rate`",
    );
}

#[test]
fn a_message_shows_the_line_and_what_to_do() {
    let errors = parse("recipe: quick\nset: {dataset: digits, los: cos}\n").unwrap_err();
    assert_eq!(
        errors.to_string(),
        "test.yaml:2:24: no field is called `los` (did you mean `loss`?)"
    );
    let drawn = errors.render(Style {
        colour: false,
        width: 80,
    });
    let expected = "  x no field is called `los`
   ,-[test.yaml:2:24]
 1 | recipe: quick
 2 | set: {dataset: digits, los: cos}
   :                        ^|^
   :                         `-- unknown field
   `----
  help: did you mean `loss`?

";
    assert_eq!(drawn, expected);
    assert!(
        errors
            .render(Style {
                colour: true,
                width: 80
            })
            .contains('\u{1b}')
    );
}

#[test]
fn unreadable_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let errors = |name: &str| {
        sweep::load(&folder.path().join(name))
            .unwrap_err()
            .to_string()
    };
    assert!(errors("gone.yaml").contains("cannot read"));
    assert!(errors("").contains("it is a folder"));
    std::fs::write(
        folder.path().join("latin.yaml"),
        b"name: x\ndescription: caf\xe9\n",
    )
    .unwrap();
    assert!(errors("latin.yaml").contains("line 2 is not UTF-8"));
    std::fs::write(folder.path().join("huge.yaml"), vec![b'#'; (4 << 20) + 1]).unwrap();
    assert!(errors("huge.yaml").contains("larger than 4 MiB"));
    let outside = format!("{GOOD}published: {{file: ../secret.yaml}}\n");
    std::fs::write(folder.path().join("outside.yaml"), outside).unwrap();
    assert!(errors("outside.yaml").contains("own folder"));
    std::fs::write(folder.path().join("mark.yaml"), format!("\u{feff}{GOOD}")).unwrap();
    assert_eq!(
        sweep::load(&folder.path().join("mark.yaml"))
            .map(|sweep| sweep.name)
            .map_err(|e| e.to_string()),
        Ok("mark".to_owned())
    );
}
