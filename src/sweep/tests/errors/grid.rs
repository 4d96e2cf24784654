//! Problems with axes, overrides and searches.

use super::{GOOD, check, parse};

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
        "out of range",
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
