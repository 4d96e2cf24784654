//! The meaning of settings and the inputs of ids: the schedule's values, stable ids, the table of
//! fields, diffs.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use sweep::definition::Role;
use sweep::field::{FIELDS, Kind};
use sweep::keep::Kept;
use sweep::settings::{AdamW, Crop, EvaluateEvery, Optimizer, SamplesPerClass, Schedule, Settings};
use sweep::{Content, Holdout, Input, Inputs, Program, Sweep, Trainer, TrialSpec, recipe};

fn parse(text: &str) -> sweep::Sweep {
    let no_files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    sweep::parse("test.yaml", text, &no_files).unwrap_or_else(|errors| panic!("{errors}"))
}

fn paper(dataset: &str) -> Settings {
    recipe::settings("paper", dataset).unwrap()
}

#[test]
fn the_schedule_is_the_authors_to_the_last_digit() {
    let schedule = paper("cub").schedule;
    assert_eq!(schedule.num_epochs(), 372);
    let rate = |epoch| schedule.learning_rate(0.5, epoch);
    // Restarts run at the maximum, the last epoch of each cycle at the minimum exactly.
    for restart in [0, 12, 36, 84, 180] {
        assert_eq!(rate(restart), 0.5);
    }
    for last in [11, 35, 83, 179, 371] {
        assert_eq!(rate(last), 1e-6);
    }
    // From the specification of the schedule, six digits.
    let known = [
        0.466506, 0.426777, 0.375, 0.314705, 0.25, 0.185296, 0.125001, 0.073224, 0.033495, 0.00852,
    ];
    for (epoch, expected) in (1..).zip(known) {
        assert!(
            (rate(epoch) - expected).abs() < 1e-6,
            "epoch {epoch}: {}",
            rate(epoch)
        );
    }
}

#[test]
fn the_schedule_equals_the_oracles() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/paper/oracles.json");
    let text = std::fs::read_to_string(path).unwrap();
    let oracles: Value = serde_json::from_str(&text).unwrap();
    let oracle = &oracles["sgdr_max0.5"];
    let schedule = paper("cub").schedule;
    assert_eq!(oracle["epochs"], schedule.num_epochs());
    let close = |epoch: u32, expected: &Value| {
        let (is, should) = (
            schedule.learning_rate(0.5, epoch),
            expected.as_f64().unwrap(),
        );
        assert!(
            (is - should).abs() < 1e-12,
            "epoch {epoch}: {is}, not {should}"
        );
    };
    (0..)
        .zip(oracle["first14"].as_array().unwrap())
        .for_each(|(epoch, expected)| close(epoch, expected));
    for epoch in [36, 37, 100, 371] {
        close(epoch, &oracle[format!("idx_{epoch}")]);
    }
    let sum: f64 = (0..372)
        .map(|epoch| schedule.learning_rate(0.5, epoch))
        .sum();
    assert!((sum - oracle["sum"].as_f64().unwrap()).abs() < 1e-9);
}

#[test]
fn the_other_schedules_run_their_length() {
    let step = Schedule::Step {
        epochs: 90,
        every: 30,
        factor: 0.1,
    };
    let rates: Vec<f64> = [0, 29, 30, 59, 60, 89]
        .map(|epoch| step.learning_rate(1.0, epoch))
        .to_vec();
    for (rate, expected) in rates.iter().zip([1.0, 1.0, 0.1, 0.1, 0.01, 0.01]) {
        assert!((rate - expected).abs() < 1e-12, "{rates:?}");
    }
    let cosine = Schedule::Cosine { epochs: 10 };
    assert_eq!(cosine.learning_rate(1.0, 0), 1.0);
    assert!((cosine.learning_rate(1.0, 5) - 0.5).abs() < 1e-12);
    assert_eq!(Schedule::Constant { epochs: 3 }.learning_rate(0.3, 2), 0.3);
}

/// The ids of the shipped sweeps are in `shipped.rs`.
#[test]
fn settings_seed_and_rehearsal_are_part_of_an_id() {
    let spec = TrialSpec::new(paper("cub"), 7);
    assert_eq!(spec.id().to_string().parse(), Ok(spec.id()));
    assert_ne!(
        TrialSpec {
            seed: 8,
            ..spec.clone()
        }
        .id(),
        spec.id()
    );
    assert_ne!(
        TrialSpec {
            smoke: true,
            ..spec.clone()
        }
        .id(),
        spec.id()
    );
    let other = Settings {
        learning_rate: 0.05,
        ..spec.settings.clone()
    };
    assert_ne!(
        TrialSpec {
            settings: other,
            ..spec.clone()
        }
        .id(),
        spec.id()
    );
}

fn content(hash: &str) -> Content {
    Content {
        hash: hash.to_owned(),
        files: 1,
        bytes: 1,
        ..Content::default()
    }
}

#[test]
fn the_content_of_what_settings_name_and_the_trainer_are_part_of_an_id() {
    let spec = TrialSpec::new(paper("cub"), 7);
    let on = |hash: &str| {
        let inputs = Inputs::from([(Input::Dataset("cub").to_string(), content(hash).into())]);
        TrialSpec {
            inputs,
            ..spec.clone()
        }
    };
    assert_ne!(on("aa").id(), spec.id());
    assert_ne!(on("aa").id(), on("bb").id());
    // the grouping of parts is not part of the content
    let mut grouped = on("aa");
    let parts = [("images".to_owned(), "cc".to_owned())].into();
    grouped.inputs.insert(
        "data set cub".to_owned(),
        Content {
            parts,
            ..content("aa")
        }
        .into(),
    );
    assert_eq!(grouped.id(), on("aa").id());
    let foreign = |name: &str, hash: &str| {
        let program = Program {
            name: name.to_owned(),
            hash: hash.to_owned(),
        };
        TrialSpec {
            trainer: Trainer::Foreign(program.into()),
            ..spec.clone()
        }
        .id()
    };
    let ids = [
        spec.id(),
        foreign("a", "11"),
        foreign("a", "22"),
        foreign("b", "11"),
    ];
    assert_eq!(
        ids.iter().collect::<std::collections::BTreeSet<_>>().len(),
        4
    );
}

#[test]
fn trials_know_the_inputs_that_their_settings_read() {
    let text = "name: t\nrecipe: quick\nset: {dataset: folder:t}\nseeds: 1\naxes:\n  start:\n    - {name: drawn, set: {weights: null}}\n    - {name: tuned, set: {weights: w.safetensors}}\n";
    let mut sweep = parse(text);
    for (name, hash) in [
        ("data set folder:t", "aa"),
        ("weights w.safetensors", "bb"),
        ("hierarchy h.txt", "cc"),
    ] {
        sweep.inputs.insert(name.to_owned(), content(hash).into());
    }
    assert_eq!(sweep.check(), Ok(()));
    let names = |cell: usize| -> Vec<String> {
        sweep.cell_trials(cell, None)[0]
            .spec
            .inputs
            .keys()
            .cloned()
            .collect()
    };
    assert_eq!(names(0), ["data set folder:t"]);
    assert_eq!(names(1), ["data set folder:t", "weights w.safetensors"]);
    let smoke = sweep.clone().into_smoke();
    assert!(
        smoke.cell_trials(1, None)[0].spec.inputs.is_empty(),
        "a rehearsal reads nothing"
    );
    assert!(
        Settings {
            dataset: "digits".to_owned(),
            ..paper("cub")
        }
        .inputs()
        .is_empty(),
        "digits are built in"
    );
}

#[test]
fn differences_of_content_are_named_by_part() {
    let of = |parts: &[(&str, &str)]| Content {
        parts: parts
            .iter()
            .map(|(part, hash)| ((*part).to_owned(), (*hash).to_owned()))
            .collect(),
        ..content("aa")
    };
    let (here, wanted) = (
        of(&[("a", "1"), ("b", "2"), ("d", "4")]),
        of(&[("a", "1"), ("b", "3"), ("c", "5")]),
    );
    assert_eq!(
        here.differences(&wanted),
        ["b differs", "c is missing", "d is additional"]
    );
    assert!(
        of(&[("x", "1")]).differences(&of(&[("y", "1")])).is_empty(),
        "grouped otherwise: nothing can be named"
    );
    let inputs = Inputs::from([("data set cub".to_owned(), wanted.clone().into())]);
    let spec = TrialSpec {
        inputs,
        ..TrialSpec::new(paper("cub"), 7)
    };
    let other = Content {
        hash: "bb".to_owned(),
        ..here
    };
    let refused = spec.accept("data set cub", &other).unwrap_err();
    assert!(
        refused
            .starts_with("data set cub is not what the sweep was submitted with: b differs, c is"),
        "{refused}"
    );
    assert_eq!(spec.accept("data set cub", &wanted), Ok(()));
    assert_eq!(
        spec.accept("weights w", &other),
        Ok(()),
        "unknown where it was submitted: nothing to compare with"
    );
}

#[test]
fn what_is_kept_changes_no_id_and_no_older_journal() {
    let kept = |keep: &str| parse(&format!("recipe: quick\nset: {{dataset: digits}}\n{keep}"));
    let ids = |sweep: &Sweep| sweep.cell_trials(0, None)[0].id;
    let (plain, more) = (kept(""), kept("keep: [predictions, weights]\n"));
    assert_eq!(ids(&plain), ids(&more));
    assert_eq!(plain.keep, [Kept::Curves].into());
    assert_eq!(more.keep, [Kept::Predictions, Kept::Weights].into());
    assert!(kept("keep: []\n").keep.is_empty());
    // a journal from before has no field, and means curves
    let written = |sweep: &Sweep| serde_json::to_value(sweep).unwrap();
    assert_eq!(written(&plain).get("keep"), None);
    assert_eq!(written(&more)["keep"], json!(["predictions", "weights"]));
    let read = |sweep: &Sweep| serde_json::from_value::<Sweep>(written(sweep)).unwrap();
    assert_eq!((read(&plain), read(&more)), (plain, more));
}

#[test]
fn recipes_hold_possible_values_that_go_together() {
    for (recipe, _) in recipe::RECIPES {
        for dataset in sweep::dataset::KNOWN
            .iter()
            .map(|known| known.name)
            .chain(["folder:/x"])
        {
            let settings = recipe::settings(recipe, dataset).unwrap();
            assert_eq!(settings.check(), Ok(()), "{recipe} on {dataset}");
            let fields = settings.fields();
            assert_eq!(Settings::from_fields(&fields).unwrap(), settings);
            assert_eq!(fields.len(), FIELDS.len());
            for field in FIELDS {
                let value = &fields[field.name];
                let checked = field.check(value);
                assert_eq!(checked.as_ref(), Ok(value), "{recipe}: {}", field.name);
            }
        }
    }
}

/// A trainer's settings come from a peer: `Settings::check` covers what a sweep file's reader
/// covers.
#[test]
fn impossible_values_are_refused_from_any_sender() {
    let refused = |settings: Settings| settings.check().unwrap_err().to_string();
    let paper = paper("cub");
    assert_eq!(
        refused(Settings {
            batch_size: 0,
            ..paper.clone()
        }),
        "`batch_size` is 0, which is out of range; write a whole number from 1 to 1000000"
    );
    assert_eq!(
        refused(Settings {
            momentum: f64::NAN,
            ..paper.clone()
        }),
        "`momentum` has no value; write a number from 0 below 1"
    );
    let schedule = Schedule::Step {
        epochs: 9,
        every: 0,
        factor: 0.1,
    };
    let schedule = refused(Settings { schedule, ..paper });
    assert!(
        schedule.starts_with("`schedule.step.every` is 0"),
        "{schedule}"
    );
}

/// The words of an embedding and of an optimiser are the only ones that are not declared together
/// with their variants.
#[test]
fn every_word_is_one_that_settings_know() {
    let paper = paper("cub");
    for field in FIELDS {
        let words: Vec<&str> = match field.kind {
            Kind::Choice(words) => words.to_vec(),
            Kind::Variant(variants) => variants.iter().map(|(name, _)| *name).collect(),
            _ => continue,
        };
        let unknown = BTreeMap::from([(field.name.to_owned(), json!("no such word"))]);
        let message = paper.with(&unknown).unwrap_err().to_string();
        let expected = message.split("expected").nth(1).unwrap_or_default();
        let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        assert_eq!(known, words, "{}: {message}", field.name);
    }
}

#[test]
fn recipes_follow_the_data_set() {
    let quick = recipe::settings("quick", "digits").unwrap();
    assert_eq!(
        (quick.num_epochs(), quick.flip, quick.resize),
        (84, false, None)
    );
    for (recipe, _) in recipe::RECIPES {
        assert!(
            !recipe::settings(recipe, "digits").unwrap().flip,
            "{recipe} mirrors digits"
        );
    }
    assert_eq!(
        paper("cub"),
        recipe::settings("paper-finegrained", "cub").unwrap()
    );
    assert_eq!(
        paper("cifar100"),
        recipe::settings("paper-cifar", "cifar100").unwrap()
    );
    let vipriors = recipe::settings("vipriors", "vipriors").unwrap();
    assert_eq!(
        (vipriors.num_epochs(), vipriors.crop, vipriors.clip_norm),
        (90, Crop::RandomResized, None)
    );
    let sweep = parse("recipe: paper\nset: {batch_size: 50}\naxes: {dataset: [cub, cifar100]}\n");
    let of: Vec<Settings> = sweep
        .cells
        .iter()
        .map(|cell| sweep.cell_settings(cell))
        .collect();
    assert_eq!((of[0].crop_size, of[1].crop_size), (Some(448), None));
    assert_eq!(
        (of[0].batch_size, of[1].batch_size),
        (50, 50),
        "`set` is stronger than the recipe"
    );
}

#[test]
fn fields_have_one_spelling_so_that_ids_are_equal() {
    let ids = |text: &str| {
        let sweep = parse(text);
        (0..sweep.cells.len())
            .flat_map(|cell| sweep.cell_trials(cell, None))
            .map(|trial| trial.id)
            .collect::<Vec<_>>()
    };
    let on_axis =
        ids("recipe: quick\naxes: {dataset: [digits], learning_rate: [1, 0.5], loss: [cos]}\n");
    let in_set =
        ids("recipe: {base: quick, loss: cos}\nset: {dataset: digits, learning_rate: 1.0}\n");
    assert_eq!(on_axis[0], in_set[0]);
    let written_out = ids(
        "recipe: quick\nset: {dataset: cub, embedding: {hierarchy: {path: a, child_parent: false}}}\n",
    );
    assert_eq!(
        written_out,
        ids("recipe: quick\nset: {dataset: cub, embedding: {hierarchy: a}}\n")
    );
}

#[test]
fn overrides_can_ask_for_fields_that_bundles_set() {
    let sweep = parse(
        "recipe: quick\nset: {dataset: digits}\naxes:\n  method:\n    - {name: a, set: {loss: cos}}\n    - {name: b, set: {loss: cos, \
         batch_size: 8}}\n    - {name: c, set: {loss: mse}}\noverrides:\n  - {when: {loss: cos, batch_size: [8, 9]}, set: {flip: true}}\n",
    );
    let flips: Vec<bool> = sweep
        .cells
        .iter()
        .map(|cell| sweep.cell_settings(cell).flip)
        .collect();
    assert_eq!(flips, [false, true, false]);
}

#[test]
fn an_axis_can_switch_a_field_off() {
    let sweep = parse(
        "recipe: quick\nset: {dataset: digits}\naxes:\n  clip_norm: [null, 10]\n\
         overrides:\n  - {when: {clip_norm: null}, set: {momentum: 0.5}}\n",
    );
    let cells = sweep
        .cells
        .iter()
        .map(|cell| (sweep.cell_name(cell), sweep.cell_settings(cell)));
    let found: Vec<_> = cells
        .map(|(name, settings)| (name, settings.clip_norm, settings.momentum))
        .collect();
    assert_eq!(
        found,
        [
            ("null".to_owned(), None, 0.5),
            ("10".to_owned(), Some(10.0), 0.9)
        ]
    );
}

#[test]
fn a_search_makes_its_trials() {
    let text = "recipe: quick\nset: {dataset: digits}\naxes: {loss: [cos, mse]}\nseeds: 3\n";
    let validated = parse(&format!(
        "{text}search: {{field: learning_rate, candidates: [1, 0.1], holdout: 0.25, seeds: 2}}\n"
    ));
    assert_eq!(validated.cell_trials(0, None).len(), 2 * 2);
    assert!(
        validated
            .cell_trials(0, None)
            .iter()
            .all(|trial| trial.spec.settings.holdout == Some(Holdout::Fraction(0.25)))
    );
    assert_eq!(validated.cell_trials(0, Some(1)).len(), 2 * 2 + 3);
    let summary = validated.summary();
    assert_eq!((summary.result_trials, summary.search_trials), (6, 8));
    let on_test = parse(&format!(
        "{text}search: {{field: learning_rate, candidates: [1, 0.1], select: best_on_test}}\n"
    ));
    assert_eq!(on_test.cell_trials(1, None).len(), 2 * 3);
    assert_eq!((validated.check(), on_test.check()), (Ok(()), Ok(())));
}

/// Without `search.seeds` each cell takes as many as 100 held-out images per candidate require, and
/// at most ten.
#[test]
fn a_search_takes_as_many_seeds_as_its_images_need() {
    let text = |set: &str, counts: &str, seeds: &str| {
        format!(
            "recipe: quick\nset: {{{set}}}\naxes: {{samples_per_class: {counts}}}\n\
             search: {{field: learning_rate, candidates: [1, 0.1]{seeds}}}\n"
        )
    };
    let searches = |sweep: &Sweep| -> Vec<usize> {
        let role = |trial: &sweep::definition::PlannedTrial| trial.role == Role::Search;
        (0..sweep.cells.len())
            .map(|cell| {
                sweep
                    .cell_trials(cell, Some(0))
                    .into_iter()
                    .filter(role)
                    .count()
            })
            .collect()
    };
    // of 10 classes: 10, 20, 40, 100 and 259 images
    let digits = parse(&text("dataset: digits", "[5, 10, 20, 50, all]", ""));
    assert_eq!(searches(&digits), [2 * 10, 2 * 5, 2 * 3, 2, 2]);
    assert_eq!((digits.check(), digits.remarks()), (Ok(()), Vec::new()));
    assert_eq!(digits.search_images(&digits.cells[0]), Some(100));
    let written = parse(&text("dataset: digits", "[5, 50]", ", seeds: 2"));
    assert_eq!(searches(&written), [4, 4]);
    assert_eq!(
        written.remarks(),
        [
            "the search compares candidates on 20 held-out images: differences below 16 points are noise (cell 5)"
        ]
    );
    // two classes on disk have two or four held-out images; a folder that was not inspected has an
    // unknown number
    let mut folder = parse(&text("dataset: \"folder:t\"", "[5, 10]", ""));
    assert_eq!(
        (searches(&folder), folder.search_images(&folder.cells[0])),
        (vec![10, 10], None)
    );
    folder.count_held_out(|settings, holdout| match settings.samples_per_class {
        SamplesPerClass::Count(count) => Some(2 * holdout.evaluated(count)),
        SamplesPerClass::All => None,
    });
    assert_eq!(searches(&folder), [20, 20]);
    let remark = "the search compares candidates on 20 held-out images: differences below 16 points are noise (cell 5)";
    assert!(
        folder.remarks().contains(&remark.to_owned()),
        "{:?}",
        folder.remarks()
    );
    assert_eq!(folder.check(), Ok(()));
}

#[test]
fn published_values_below_one_per_cent_carry_the_sign() {
    let text = "recipe: quick\nset: {dataset: digits}\naxes: {loss: [cos, mse]}\n\
                published: {axes: loss, values: {cos: 0.5 %, mse: 67.25}}\n";
    let values: Vec<f64> = parse(text)
        .published
        .iter()
        .map(|value| value.value)
        .collect();
    assert_eq!(values, [0.5, 67.25]);
}

#[test]
fn the_diff_of_an_edited_sweep_names_its_changes() {
    let text = "recipe: quick\nset: {dataset: digits}\naxes: {loss: [cos, mse], samples_per_class: [5, 10]}\nseeds: 3\n";
    let old = parse(text);
    let diff = |edited: String| sweep::summary::diff(&old, &parse(&edited));
    assert!(diff(text.to_owned()).is_empty());
    assert_eq!(
        diff(text.replace("seeds: 3", "seeds: 5")),
        ["seeds: 3, 4 added"]
    );
    assert_eq!(
        diff(text.replace("quick", "{base: quick, batch_size: 16}")),
        ["batch_size: 32 -> 16 (all cells)"]
    );
    assert_eq!(
        diff(text.replace("[5, 10]", "[5, 20]")),
        [
            "2 new cells of 4: loss=cos samples_per_class=20; loss=mse samples_per_class=20",
            "2 gone cells of 4: loss=cos samples_per_class=10; loss=mse samples_per_class=10",
        ]
    );
    let over = diff(format!(
        "{text}overrides: [{{when: {{loss: cos}}, set: {{momentum: 0.5}}}}]\n"
    ));
    assert_eq!(
        over,
        [
            "momentum: 0.9 -> 0.5 (2 changed cells of 4: loss=cos samples_per_class=10; loss=cos samples_per_class=5)"
        ]
    );
    let outputs = diff(format!(
        "{text}outputs: [{{table: {{rows: loss, columns: samples_per_class}}}}]\n"
    ));
    assert_eq!(
        outputs,
        ["outputs or published numbers changed: no training changes by that"]
    );
    assert!(
        diff(text.replace("loss: [cos, mse], ", "loss: [mse, cos], ")).is_empty(),
        "order is no change"
    );
}

#[test]
fn evaluations_come_as_often_as_asked_and_at_the_end() {
    let settings = Settings {
        evaluate_every: EvaluateEvery::Count(5),
        schedule: Schedule::Constant { epochs: 12 },
        ..paper("digits")
    };
    let spec = TrialSpec::new(settings, 0);
    let evaluated: Vec<u32> = (0..12)
        .filter(|&epoch| spec.evaluates_after(epoch))
        .collect();
    assert_eq!(evaluated, [4, 9, 11]);
}

/// The number is part of the id: what `auto` is follows from the file alone.
#[test]
fn automatic_evaluations_are_twenty_unless_an_output_needs_every_epoch() {
    let sweep = |schedule: &str, rest: &str| {
        parse(&format!(
            "name: a\nrecipe: quick\nset: {{dataset: digits, schedule: {schedule}}}\n\
             axes: {{loss: [xent, cos]}}\nseeds: 1\n{rest}"
        ))
    };
    let interval = |sweep: &Sweep| sweep.cell_trials(0, None)[0].spec.settings.evaluate_every;
    for (epochs, expected) in [(1, 1), (20, 1), (21, 2), (84, 5), (100, 5), (372, 19)] {
        let plain = sweep(&format!("{{constant: {{epochs: {epochs}}}}}"), "");
        assert_eq!(interval(&plain), EvaluateEvery::Count(expected), "{epochs}");
    }
    let long = "{constant: {epochs: 372}}";
    for value in ["best", "both"] {
        let outputs = format!("outputs: [{{table: {{rows: loss, value: {value}}}}}]\n");
        assert_eq!(interval(&sweep(long, &outputs)), EvaluateEvery::Count(1));
    }
    let last = sweep(long, "outputs: [{table: {rows: loss, value: last}}]\n");
    assert_eq!(interval(&last), EvaluateEvery::Count(19));
    let written = sweep(
        long,
        "overrides: [{when: {loss: cos}, set: {evaluate_every: 7}}]\n",
    );
    let intervals: Vec<_> = (0..2)
        .map(|cell| {
            written.cell_trials(cell, None)[0]
                .spec
                .settings
                .evaluate_every
        })
        .collect();
    assert_eq!(intervals, [19, 7].map(EvaluateEvery::Count));
}

#[test]
fn settings_without_effect_are_remarked_on_with_the_cells() {
    let sweep = |rest: &str| format!("name: a\nrecipe: quick\naxes: {{loss: [xent, cos]}}\n{rest}");
    let remarks = |rest: &str| parse(&sweep(rest)).remarks();
    assert_eq!(
        remarks("set: {dataset: digits, label_smoothing: 0}"),
        Vec::<String>::new()
    );
    let smoothing = "`label_smoothing` has no effect: the loss has no cross-entropy (cell cos)";
    assert_eq!(
        remarks("set: {dataset: digits, label_smoothing: 0.1}"),
        [smoothing]
    );
    let head = remarks("set: {dataset: digits, cls_head: plain_fc}");
    assert_eq!(
        head,
        ["`cls_head` has no effect: the loss is not `cos_xent` (every cell)"]
    );
    for (set, expected) in [
        ("finetune_epochs: 3", "no `weights`"),
        ("finetune_learning_rate: 0.2", "no phase"),
        ("weight_decay_on: all", "`weight_decay` is 0"),
        ("batch_norm: synchronised", "one replica"),
        ("nesterov: true, momentum: 0", "`momentum` is 0"),
        (
            "optimizer: adamw, learning_rate: 0.001, momentum: 0.8",
            "`momentum` has no effect: `optimizer: adamw` has `beta1`",
        ),
        (
            "optimizer: adamw, learning_rate: 0.001, nesterov: true",
            "`nesterov` has no effect: `optimizer` is `adamw`",
        ),
        (
            "optimizer: adamw",
            "`learning_rate` 0.1 is the recipe's for SGD",
        ),
        ("embedding: {hierarchy: tree.txt}", "(cell xent)"),
        ("cls_weight: 0.5", "one part only (every cell)"),
    ] {
        let found = remarks(&format!("set: {{dataset: digits, {set}}}"));
        assert!(
            found.len() == 1 && found[0].contains(expected),
            "{set}: {found:?}"
        );
    }
    let devices = |devices, replicas| {
        remarks(&format!(
            "set: {{dataset: digits}}\nresources: {{devices_per_trial: {devices}, replicas: {replicas}}}"
        ))
    };
    assert_eq!(devices(1, 4), Vec::<String>::new());
    assert_eq!(devices(4, 4), Vec::<String>::new());
    assert!(devices(2, 4)[0].starts_with("4 `replicas` on 2 `devices_per_trial` do not fit"));
    assert!(devices(4, 1)[0].starts_with("3 of 4 `devices_per_trial` stand idle"));
}

/// SGD trials keep the ids that they had before there was another rule.
#[test]
fn an_optimizer_is_part_of_an_id_unless_it_is_sgd() {
    let settings = |optimizer: &str| {
        let text = format!("recipe: quick\nset: {{dataset: digits{optimizer}}}\n");
        let sweep = parse(&text);
        sweep.cell_settings(&sweep.cells[0])
    };
    let short = settings(", optimizer: adamw, learning_rate: 0.01");
    let constants = AdamW {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
    };
    assert_eq!(short.optimizer, Optimizer::Adamw(constants));
    let other = settings(", optimizer: {adamw: {beta2: 0.95}}, learning_rate: 0.01");
    let Optimizer::Adamw(constants) = &other.optimizer else {
        panic!("{:?}", other.optimizer);
    };
    assert_eq!((constants.beta1, constants.beta2), (0.9, 0.95));
    let sgd = settings(", learning_rate: 0.01");
    assert_eq!(sgd, settings(", optimizer: sgd, learning_rate: 0.01"));
    let mut before = serde_json::to_value(&sgd).unwrap();
    before.as_object_mut().unwrap().remove("optimizer");
    let before: Settings = serde_json::from_value(before).expect("settings of an older version");
    let ids = [before, sgd, short, other].map(|settings| TrialSpec::new(settings, 0).id());
    assert_eq!(ids[0], ids[1]);
    assert!(ids[1] != ids[2] && ids[2] != ids[3]);
    let text = "recipe: quick\nset: {dataset: digits, optimizer: {adamw: {epsilon: 0}}}\n";
    let no_files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    let refused = sweep::parse("test.yaml", text, &no_files).unwrap_err();
    assert!(refused.to_string().contains("adamw.epsilon"), "{refused}");
}

/// A user's small images are not enlarged to the size of photographs, and large ones are treated as
/// before.
#[test]
fn sizes_follow_the_images_of_a_folder() {
    use sweep::settings::Model;
    let sized = |recipe: &str, side: Option<u32>| {
        let settings = recipe::fitted(recipe, "folder:mine", side).unwrap();
        assert!(settings.contradictions().is_empty(), "{recipe} {side:?}");
        (
            settings.resize.unwrap(),
            settings.crop_size.unwrap(),
            settings.model,
        )
    };
    for (recipe, side, expected) in [
        ("quick", None, (144, 128, Model::Resnet18)),
        ("quick", Some(500), (144, 128, Model::Resnet18)),
        ("quick", Some(100), (96, 85, Model::Resnet18)),
        ("quick", Some(48), (48, 48, Model::Resnet20)),
        ("quick", Some(2), (2, 2, Model::Resnet20)),
        ("paper", Some(1000), (512, 448, Model::Resnet50Keras)),
        ("paper", Some(333), (320, 280, Model::Resnet50Keras)),
        ("paper", Some(64), (64, 64, Model::Resnet110Wfc)),
        ("paper-cifar", Some(500), (32, 32, Model::Resnet110Wfc)),
        ("paper-cifar", Some(40), (40, 40, Model::Resnet110Wfc)),
        (
            "paper-finegrained",
            Some(64),
            (64, 56, Model::Resnet50Keras),
        ),
        ("paper-finegrained", Some(1), (1, 1, Model::Resnet50Keras)),
    ] {
        assert_eq!(sized(recipe, side), expected, "{recipe} {side:?}");
    }
    let small = recipe::fitted("quick", "folder:mine", Some(48)).unwrap();
    assert_eq!(small.dataset, "folder:mine");
    assert_eq!((small.shift, small.flip, small.erase), (0.15, true, false));
}

#[test]
fn a_sweep_asks_for_the_sides_of_folders_only_and_what_the_file_sets_wins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sides.yaml");
    let text = "recipe: quick\nset: {crop_size: 30}\naxes: {dataset: [cub, \"folder:small\", \"folder:large\"]}\n";
    std::fs::write(&path, text).unwrap();
    let asked = std::cell::RefCell::new(Vec::new());
    let side = |dataset: &str| {
        asked.borrow_mut().push(dataset.to_owned());
        (dataset == "folder:small").then_some(40)
    };
    let sweep = sweep::load_with(&path, &side).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(asked.into_inner(), ["folder:small", "folder:large"]);
    let sizes: Vec<_> = sweep
        .cells
        .iter()
        .map(|cell| sweep.cell_settings(cell))
        .collect();
    let sizes: Vec<_> = sizes
        .iter()
        .map(|settings| (settings.resize, settings.crop_size))
        .collect();
    assert_eq!(
        sizes,
        [
            (Some(144), Some(30)),
            (Some(40), Some(30)),
            (Some(144), Some(30))
        ]
    );
    let in_force = sweep.settings_in_force().join("; ");
    for part in [
        "resize 144 (cub, folder:large), 40 (folder:small)",
        "crop_size 30",
        "precision auto",
        "off: ",
    ] {
        assert!(in_force.contains(part), "no `{part}` in {in_force}");
    }
    assert!(
        !in_force.starts_with("dataset"),
        "an axis lists it: {in_force}"
    );
}

/// Subsets are those of plain seeds, and every trial has a seed of its own.
#[test]
fn seeds_of_subsets_and_of_initial_weights_make_pairs() {
    let text = |seeds: &str| {
        format!("recipe: quick\nset: {{dataset: digits}}\naxes: {{loss: [xent]}}\nseeds: {seeds}\n")
    };
    let sweep = parse(&text("{subset: 3, init: 2}"));
    assert_eq!(sweep.check(), Ok(()));
    let names: Vec<String> = sweep
        .seeds
        .iter()
        .map(|&seed| sweep::seed::name(seed))
        .collect();
    assert_eq!(names, ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1"]);
    let ids: std::collections::BTreeSet<_> = sweep
        .cell_trials(0, None)
        .iter()
        .map(|trial| trial.id)
        .collect();
    assert_eq!(ids.len(), 6);
    for (seeds, message) in [
        ("{subset: 3}", "`seeds` has no `init`"),
        ("{subset: 0, init: 2}", "`seeds.subset` is 0"),
        ("{subset: 3, inti: 2}", "no key `inti`"),
        ("{subset: 200, init: 200}", "more than 10000"),
    ] {
        let no_files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
        let errors = sweep::parse("test.yaml", &text(seeds), &no_files).expect_err(seeds);
        assert!(errors.to_string().contains(message), "{errors}");
    }
}
