//! Values that a setting cannot have, and settings that cannot go together.

use sweep::Style;

use super::{GOOD, check, parse};

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
