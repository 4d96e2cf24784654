//! Facts of a sweep before anything runs, for `plan` and other commands: its work, its cells by name,
//! changes of the files that it reads.

use std::collections::BTreeSet;

use sweep::dataset::{self, Counts};
use sweep::settings::{EvaluateEvery, Loss, Model, SamplesPerClass, Schedule};
use sweep::{Content, Program, Settings, Sweep, Trainer, TrialSpec, recipe};

fn parse(text: &str) -> Sweep {
    let no_files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    sweep::parse("test.yaml", text, &no_files).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Ten epochs of two passes over 1,000 of the 5,000 images that a folder is assumed to have; four
/// evaluations. One image of 64 pixels costs 5e7 multiply-adds, and a step as much again.
fn settings() -> Settings {
    Settings {
        dataset: "folder:mine".to_owned(),
        model: Model::Resnet8,
        samples_per_class: SamplesPerClass::Count(20),
        schedule: Schedule::Constant { epochs: 10 },
        repeats: 2,
        evaluate_every: EvaluateEvery::Count(3),
        batch_size: 300,
        holdout: None,
        resize: None,
        crop_size: Some(64),
        ..recipe::settings("quick", "digits").expect("a recipe")
    }
}

fn cost(change: impl Fn(&mut TrialSpec)) -> f64 {
    let mut spec = TrialSpec::new(settings(), 1);
    change(&mut spec);
    // In passes of one image, rounded: the sum of such numbers is exact enough.
    (sweep::cost(&spec) * 1e12 / 5e7 * 1e6).round() / 1e6
}

#[test]
fn work_is_passes_over_images_and_steps() {
    let passes = 10 * 2 * 1_000 * 3 + 4 * 5_000;
    assert_eq!(cost(|_| {}), f64::from(passes + 10 * 2 * 4));
    let all = 10 * 2 * 5_000 * 3 + 4 * 5_000 + 10 * 2 * 17;
    for count in [SamplesPerClass::All, SamplesPerClass::Count(1_000)] {
        assert_eq!(
            cost(|spec| spec.settings.samples_per_class = count),
            f64::from(all)
        );
    }
    let held_out = 10 * 2 * 800 * 3 + 4 * 200 + 10 * 2 * 3;
    assert_eq!(
        cost(|spec| spec.settings.holdout = Some(sweep::Holdout::Fraction(0.2))),
        f64::from(held_out)
    );
    // Two epochs of one step each, on images of 32 pixels, which cost a quarter.
    assert_eq!(cost(|spec| spec.smoke = true), 2.0 * 2.0 * 3.0 / 4.0);
}

#[test]
fn the_side_of_an_image_is_what_the_network_receives() {
    let per_image = |dataset: &str, resize, crop_size| {
        let spec = TrialSpec::new(
            Settings {
                dataset: dataset.to_owned(),
                samples_per_class: SamplesPerClass::Count(1),
                resize,
                crop_size,
                ..settings()
            },
            1,
        );
        sweep::cost(&spec)
    };
    let known = per_image("cifar100", None, None);
    assert!((known * 4.0 / per_image("cifar100", None, Some(64)) - 1.0).abs() < 0.1);
    assert_eq!(
        per_image("cifar100", Some(64), None),
        per_image("cifar100", Some(90), Some(64))
    );
    let unknown = per_image("folder:mine", None, None);
    assert_eq!(unknown, per_image("folder:mine", Some(224), None));
}

const TEXT: &str = "recipe: quick\nset: {dataset: digits, schedule: {constant: {epochs: 3}}}\n\
                    axes: {loss: [cos, mse], samples_per_class: [5, 10]}\nseeds: 2\n";

#[test]
fn a_summary_counts_trainings_once_and_knows_inspected_sizes() {
    let search = "search: {field: learning_rate, candidates: [0.1, 0.2, 0.3], select: validation, seeds: 1}\n";
    let summary = parse(&format!("{TEXT}{search}")).summary();
    assert_eq!(
        (summary.cells, summary.result_trials, summary.search_trials),
        (4, 8, 12)
    );
    assert_eq!((summary.shared_trials, summary.epochs), (0, 60));
    let sweep = parse(TEXT);
    let summary = sweep.summary();
    let costs = |sweep: &Sweep| -> Vec<f64> {
        (0..sweep.cells.len())
            .flat_map(|cell| sweep.cell_trials(cell, None))
            .map(|trial| sweep::cost(&trial.spec))
            .collect()
    };
    assert_eq!(summary.cost, costs(&sweep).iter().sum::<f64>());
    assert_eq!(
        summary.longest,
        costs(&sweep).into_iter().fold(0.0, f64::max)
    );
    // Three cells of equal settings need the same two trainings.
    let mut equal = sweep.clone();
    for cell in 1..3 {
        equal.cells[cell].set = equal.cells[0].set.clone();
    }
    let shared = equal.summary();
    assert_eq!(
        (shared.result_trials, shared.shared_trials, shared.epochs),
        (4, 2, 12)
    );
    let all = parse(&TEXT.replace("[5, 10]", "[all]"));
    let counts = dataset::find("digits").expect("a data set").counts;
    let larger = Counts {
        num_train: 10 * counts.num_train,
        ..counts
    };
    let inspected = all.summary_with(&|name| (name == "digits").then_some(larger));
    assert!(inspected.cost > 5.0 * all.summary().cost);
}

#[test]
fn cells_are_found_by_name_or_by_parts_that_fit_one() {
    let sweep = parse(
        "recipe: quick\naxes: {dataset: [digits, \"folder:a\"], loss: [cos, mse]}\nset: {samples_per_class: 5}\n",
    );
    let find = |name: &str| sweep.find_cell(name);
    for (index, cell) in sweep.cells.iter().enumerate() {
        assert_eq!(find(&sweep.cell_name(cell)), Ok(index));
    }
    let expected = sweep
        .cells
        .iter()
        .position(|cell| sweep.cell_name(cell) == "digits/mse");
    for name in ["mse/digits", "digits/mse/", "/digits//mse"] {
        assert_eq!(find(name).ok(), expected, "{name}");
    }
    let several = find("mse").unwrap_err();
    let expected = "`mse` fits several cells of sweep `test`: digits/mse, ";
    assert!(
        several.starts_with(expected) && !several.contains("cos"),
        "{several}"
    );
    for none in ["", "/", "mse/mse", "xent", "digits/xent"] {
        let missing = find(none).unwrap_err();
        let expected = format!("sweep `test` has no cell `{none}`; it has: digits/cos, digits/mse");
        assert!(missing.starts_with(&expected), "{missing}");
    }
    let names = |count: usize| -> Vec<String> { (0..count).map(|name| name.to_string()).collect() };
    let listed = |count| sweep::cell_name::listed(&names(count));
    assert_eq!(listed(0), "none");
    assert_eq!(listed(12), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11");
    assert_eq!(
        listed(14),
        "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, and 2 more"
    );
}

#[test]
fn settings_in_force_name_the_axis_that_decides() {
    let many: Vec<String> = (1..=6).map(|count| (count * 5).to_string()).collect();
    let text = format!(
        "recipe: quick\nset: {{dataset: digits}}\naxes: {{loss: [cos, mse], samples_per_class: [{}]}}\n\
         overrides:\n- {{when: {{loss: cos}}, set: {{momentum: 0.5}}}}\n\
         - {{when: {{loss: cos, samples_per_class: 5}}, set: {{batch_size: 7}}}}\n",
        many.join(", ")
    );
    let entries = parse(&text).settings_in_force();
    let entry = |name: &str| {
        let found = entries.iter().find(|entry| entry.starts_with(name));
        found
            .unwrap_or_else(|| panic!("{name}: {entries:?}"))
            .as_str()
    };
    assert_eq!(entry("momentum"), "momentum 0.5 (cos), 0.9 (mse)");
    assert_eq!(entry("batch_size"), "batch_size 32, 7 by cell (--cells)");
    assert_eq!(entry("dataset"), "dataset digits");
    let off = entry("off: ");
    assert!(
        off.contains(" holdout") && !off.contains(" momentum"),
        "{off}"
    );
    assert!(
        !entries
            .iter()
            .any(|entry| entry.starts_with("loss") || entry.contains(" loss"))
    );
    let more: String = (1..=6)
        .map(|count| {
            let (kept, size) = (count * 5, count + 1);
            format!("- {{when: {{loss: cos, samples_per_class: {kept}}}, set: {{batch_size: {size}}}}}\n")
        })
        .collect();
    let start = text.split("overrides:").next().expect("it has a start");
    let entries = parse(&format!("{start}overrides:\n{more}")).settings_in_force();
    let found = "batch_size 2, 3, 32, 4, ... by cell (--cells)".to_owned();
    assert!(entries.contains(&found), "{entries:?}");
    let same: String = (1..=6)
        .map(|count| {
            let kept = count * 5;
            format!("- {{when: {{samples_per_class: {kept}}}, set: {{batch_size: 8}}}}\n")
        })
        .collect();
    let four = same.lines().take(4).collect::<Vec<_>>().join("\n");
    for (overrides, expected) in [
        (four, "batch_size 8 (5, 10, 15, 20), 32 (25, 30)"),
        (same, "batch_size 8 (cos, mse)"),
    ] {
        let entries = parse(&format!("{start}overrides:\n{overrides}\n")).settings_in_force();
        assert!(entries.contains(&expected.to_owned()), "{entries:?}");
    }
    let search = "search: {field: momentum, candidates: [0.1, 0.2], select: best_on_test}\n";
    let entries = parse(&format!("{start}{search}")).settings_in_force();
    assert!(
        entries.contains(&"momentum by search".to_owned()),
        "{entries:?}"
    );
}

fn content(hash: &str) -> Content {
    Content {
        hash: hash.to_owned(),
        files: 2,
        bytes: 3_000,
        ..Content::default()
    }
}

/// A sweep of two folders and one file of weights, with the content of these inputs known.
fn reading(known: &[(&str, &str)]) -> Sweep {
    let mut sweep = parse(
        "recipe: quick\nset: {weights: w.safetensors}\naxes: {dataset: [\"folder:a\", \"folder:b\", digits]}\n",
    );
    let known = known
        .iter()
        .map(|(name, hash)| ((*name).to_owned(), content(hash).into()));
    sweep.inputs = known.collect();
    sweep
}

#[test]
fn changes_of_what_a_sweep_reads_are_sentences() {
    let names = [
        "data set folder:a",
        "data set folder:b",
        "weights w.safetensors",
    ];
    let all = reading(&names.map(|name| (name, "aa")));
    let changes = |new: &Sweep, old: &Sweep| -> Vec<String> {
        new.changed_inputs(old).into_values().collect()
    };
    assert!(changes(&all, &all).is_empty());
    let other = reading(&[(names[0], "bb"), (names[1], "aa"), (names[2], "aa")]);
    assert_eq!(
        changes(&other, &all),
        ["the content of data set folder:a changed"]
    );
    let fewer = reading(&[(names[1], "aa"), (names[2], "aa")]);
    assert_eq!(
        changes(&all, &fewer),
        ["the content of data set folder:a was not known before"]
    );
    assert_eq!(
        changes(&fewer, &all),
        ["the content of data set folder:a is not known any more"]
    );
    // What the other revision does not read has not changed.
    let mut without = fewer.clone();
    without
        .cells
        .retain(|cell| without.axes[0].values[cell.coordinates[0] as usize].name != "folder:a");
    assert!(changes(&all, &without).is_empty());
    assert!(changes(&without, &all).is_empty());
}

#[test]
fn inputs_are_unknown_only_if_a_trial_reads_them() {
    let unknown = |sweep: &Sweep| -> Vec<String> { sweep.unknown_inputs().into_iter().collect() };
    let sweep = reading(&[("data set folder:a", "aa")]);
    assert_eq!(
        unknown(&sweep),
        ["data set folder:b", "weights w.safetensors"]
    );
    assert!(unknown(&sweep.clone().into_smoke()).is_empty());
    let mut skipped = sweep;
    skipped.skip_cells(|settings| (settings.dataset == "folder:b").then(|| "not there".to_owned()));
    assert_eq!(unknown(&skipped), ["weights w.safetensors"]);
}

#[test]
fn contents_and_trainers_are_described_in_a_line() {
    for (files, bytes, expected) in [
        (1, 0, "1 file, 0 bytes"),
        (2, 9_999, "2 files, 9999 bytes"),
        (2, 10_000, "2 files, 10.0 kB"),
        (2, 9_990_000, "2 files, 9990.0 kB"),
        (2, 10_000_000, "2 files, 10.0 MB"),
        (2, 25_500_000, "2 files, 25.5 MB"),
        (2, 10_000_000_000, "2 files, 10.0 GB"),
        (0, 25_500_000_000, "0 files, 25.5 GB"),
    ] {
        let content = Content {
            files,
            bytes,
            ..content("aa")
        };
        assert_eq!(content.to_string(), expected);
    }
    let program = Program {
        name: "mine.sh".to_owned(),
        hash: "0123456789abcdef".to_owned(),
    };
    let foreign = Trainer::Foreign(program.into());
    assert_eq!(foreign.to_string(), "the trainer `mine.sh` (0123456789ab)");
    assert_eq!(Trainer::BuiltIn.to_string(), "the built-in trainer");
    assert_eq!(
        (foreign.is_built_in(), Trainer::BuiltIn.is_built_in()),
        (false, true)
    );
}

#[test]
fn names_of_data_sets_in_tables_name_the_subset() {
    let label = |name: &str| dataset::label(name).unwrap_or_default();
    assert_eq!(label("fashion-mnist"), "Fashion-MNIST");
    assert_eq!(
        label("cub-sub5"),
        format!("{} (5 per class, the authors' list)", label("cub"))
    );
    assert_eq!(dataset::label("folder:mine"), None);
}

/// Every field has a loss for which it matters, and one for which a changed value is remarked on.
#[test]
fn remarks_depend_on_the_loss() {
    let remarked = |loss: Loss, set: &str| -> BTreeSet<String> {
        let loss = serde_json::to_value(loss).expect("plain data");
        let loss = loss.as_str().expect("a word");
        let text = format!("recipe: quick\nset: {{dataset: digits, loss: {loss}, {set}}}\n");
        let named = |remark: &String| remark.split('`').nth(1).map(str::to_owned);
        parse(&text).remarks().iter().filter_map(named).collect()
    };
    let losses = [
        Loss::Xent,
        Loss::Mse,
        Loss::Cos,
        Loss::CosXent,
        Loss::CosXentDirect,
    ];
    for (field, value, without_effect) in [
        ("label_smoothing", "0.1", [false, true, true, false, false]),
        ("softmax", "keras_clip", [false, true, true, false, false]),
        ("cls_weight", "0.7", [true, true, true, false, false]),
        ("cls_head", "plain_fc", [true, true, true, false, true]),
        ("cls_head_decay", "0.3", [true, true, true, false, true]),
    ] {
        let found = losses.map(|loss| remarked(loss, &format!("{field}: {value}")).contains(field));
        assert_eq!(found, without_effect, "{field}");
    }
}

#[test]
fn remarks_count_their_cells_and_know_the_phase_of_new_layers() {
    let text = "recipe: quick\nset: {dataset: digits, label_smoothing: 0.1}\n\
                axes: {loss: [xent, cos], samples_per_class: [5, 10]}\n";
    let remark = "`label_smoothing` has no effect: the loss has no cross-entropy (2 of 4 cells, cos/5 the first)";
    assert_eq!(parse(text).remarks(), [remark]);
    let tuned = |epochs: u32, weights: &str| {
        let text = format!(
            "recipe: quick\nset: {{dataset: digits, finetune_learning_rate: 0.2, finetune_epochs: {epochs}, weights: {weights}}}\n\
             axes: {{loss: [cos]}}\n"
        );
        let remarks = parse(&text).remarks();
        remarks
            .iter()
            .any(|remark| remark.contains("no phase that trains the new layers"))
    };
    assert!(!tuned(2, "w.safetensors"));
    assert!(tuned(0, "w.safetensors") && tuned(2, "null"));
}

#[test]
fn any_change_of_outputs_is_a_line_of_its_own() {
    let old = parse(TEXT);
    let line = ["outputs or published numbers changed: no training changes by that"];
    let mut footnotes = old.clone();
    footnotes.footnotes.push("a note".to_owned());
    let mut published = old.clone();
    published.published.push(sweep::definition::PublishedValue {
        cell: Default::default(),
        value: 50.0,
        footnote: None,
    });
    for new in [footnotes, published] {
        assert_eq!(sweep::summary::diff(&old, &new), line);
    }
}

#[test]
fn a_budget_of_seeds_begins_with_a_few_and_knows_the_most() {
    let text = |seeds: &str, more: &str| {
        format!(
            "recipe: quick\nset: {{dataset: digits}}\naxes: {{loss: [xent, cos], samples_per_class: [5, 10]}}\nseeds: {seeds}\n{more}"
        )
    };
    let sweep = parse(&text("{start: 3, until: decided, at_most: 20}", ""));
    assert_eq!(sweep.check(), Ok(()));
    let budget = sweep.seed_budget.as_ref().expect("there is one");
    assert_eq!(budget.looks, [3, 6, 12, 20]);
    assert_eq!(sweep.seeds, [0, 1, 2]);
    assert_eq!(
        (sweep.summary().result_trials, sweep.most_trials()),
        (12, Some(80))
    );
    assert_eq!(sweep.rankings(), [[0, 2], [1, 3]], "a column each");
    // The trials are those of plain seeds.
    let plain = parse(&text("20", ""));
    let ids = |sweep: &sweep::Sweep| -> Vec<_> {
        let known = sweep.cell_trials(0, None);
        let further = sweep.further_trials(0, None, sweep.seeds.len() as u32..20);
        known.iter().chain(&further).map(|trial| trial.id).collect()
    };
    assert_eq!(ids(&sweep), ids(&plain));
    assert_eq!(plain.most_trials(), None);
    assert_eq!(sweep.clone().into_smoke().seed_budget, None);
    let baseline = "outputs: [{table: {name: t, rows: [loss], columns: [samples_per_class], baseline: {loss: xent}}}]\n";
    let on_test = "search: {field: learning_rate, candidates: [0.1, 0.2], select: best_on_test}\n";
    for (seeds, more, message) in [
        ("{start: 3}", "", "has `start` and no `until`"),
        (
            "{start: 3, until: decided}",
            "",
            "has `start` and no `at_most`",
        ),
        ("{start: 3, until: decidde, at_most: 9}", "", "decidde"),
        (
            "{start: 1, until: decided, at_most: 9}",
            "",
            "`seeds.start` is 1",
        ),
        (
            "{start: 3, until: decided, at_most: 3}",
            "",
            "`seeds.at_most` is 3, and `start` is 3",
        ),
        (
            "{start: 3, until: decided, at_most: 9, init: 2}",
            "",
            "no key `init`",
        ),
        (
            "{start: 3, until: decided, at_most: 9}",
            baseline,
            "a table with its `baseline`",
        ),
        (
            "{start: 3, until: decided, at_most: 9}",
            on_test,
            "has no use with `select: best_on_test`",
        ),
    ] {
        let no_files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
        let errors = sweep::parse("test.yaml", &text(seeds, more), &no_files).expect_err(seeds);
        assert!(errors.to_string().contains(message), "{errors}");
    }
}
