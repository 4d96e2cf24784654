//! The sweeps that come with the program: they compile, have the right cells, and share the right
//! trials.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sweep::definition::{Measure, Output, Role};
use sweep::settings::{Crop, Embedding, Loss, Model, SamplesPerClass, Schedule, Settings};
use sweep::{Sweep, TrialId};

fn sweeps() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sweeps")
}

fn load(name: &str) -> Sweep {
    sweep::load(&sweeps().join(format!("{name}.yaml"))).unwrap_or_else(|errors| panic!("{errors}"))
}

fn trials(sweep: &Sweep) -> BTreeSet<TrialId> {
    (0..sweep.cells.len())
        .flat_map(|cell| sweep.cell_trials(cell, None))
        .map(|trial| trial.id)
        .collect()
}

fn settings(sweep: &Sweep, name: &str) -> Settings {
    let cell = sweep
        .cells
        .iter()
        .find(|cell| sweep.cell_name(cell) == name);
    sweep.cell_settings(cell.unwrap_or_else(|| panic!("no cell {name}")))
}

#[test]
fn every_shipped_sweep_compiles_and_passes_its_own_check() {
    let mut count = 0;
    for entry in std::fs::read_dir(sweeps()).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let sweep = sweep::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
            assert_eq!(sweep.check(), Ok(()), "{}", path.display());
            assert_eq!(sweep.remarks(), Vec::<String>::new(), "{}", path.display());
            assert_eq!(
                Some(sweep.name.as_str()),
                path.file_stem().unwrap().to_str()
            );
            count += 1;
        }
    }
    assert!(count >= 6, "only {count} sweeps found");
}

/// Lists every id of every shipped sweep, with unknown inputs and the built-in trainer. A
/// difference means that users' results are trained again, so it must be intended.
#[test]
fn the_ids_of_all_shipped_sweeps_are_known() {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(sweeps())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    paths.sort();
    let mut found = String::new();
    for path in paths {
        let sweep = sweep::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
        let candidates = sweep
            .search
            .as_ref()
            .map_or(0, |search| search.candidates.len());
        let chosen = || [None].into_iter().chain((0..candidates).map(Some));
        let cells = 0..sweep.cells.len();
        let all = cells.flat_map(|cell| {
            chosen()
                .flat_map(|chosen| sweep.cell_trials(cell, chosen))
                .collect::<Vec<_>>()
        });
        let ids: BTreeSet<TrialId> = all.map(|trial| trial.id).collect();
        let mut hasher = blake3::Hasher::new();
        for id in &ids {
            hasher.update(id.to_string().as_bytes());
        }
        let (first, all) = (ids.first().unwrap(), &hasher.finalize().to_hex()[..16]);
        found.push_str(&format!(
            "{}: {} trials, the first {first}, all {all}\n",
            sweep.name,
            ids.len()
        ));
    }
    tests::golden::assert_file("tests/goldens/ids.txt", &found);
}

#[test]
fn cells_trials_and_published_numbers_are_as_many_as_planned() {
    for (name, cells, num_trials, published) in [
        ("quickstart", 5 * 3, 120, 0),
        // Ten methods on six data sets, without 2 x 3 semantic and 3 x 1 fine-tuned cells.
        ("table2", 51, 255, 51),
        ("table3", 8, 40, 8),
        // 17 points x 6 methods on CUB, 8 x 5 on CIFAR-100.
        ("figure2", 142, 710, 142),
        ("vipriors", 19, 19, 11),
        ("fashion-mnist", 20, 100, 0),
    ] {
        let sweep = load(name);
        assert_eq!(sweep.cells.len(), cells, "{name}");
        assert_eq!(
            trials(&sweep).len(),
            num_trials,
            "{name}: every trial is another training"
        );
        assert_eq!(sweep.published.len(), published, "{name}");
        let summary = sweep.summary();
        assert_eq!(
            (summary.cells, summary.result_trials, summary.shared_trials),
            (cells, num_trials, 0),
            "{name}"
        );
    }
}

#[test]
fn trials_of_whole_data_sets_are_shared_between_tables_and_figure() {
    let (table2, table3, figure2) = (load("table2"), load("table3"), load("figure2"));
    let shared = |one: &Sweep, other: &Sweep| trials(one).intersection(&trials(other)).count();
    // Six methods on CUB and five on CIFAR-100, five seeds each.
    assert_eq!(shared(&table2, &figure2), (6 + 5) * 5);
    // One-hot and deep, with either loss.
    assert_eq!(shared(&table2, &table3), 4 * 5);
    assert_eq!(
        settings(&table2, "cos/cub"),
        settings(&figure2, "cub/cos/30")
    );
    assert_eq!(
        settings(&table2, "cos_xent_semantic/cub"),
        settings(&table3, "deep/cos_xent")
    );
}

#[test]
fn table_2_has_the_published_learning_rates() {
    let sweep = load("table2");
    let datasets = ["cub", "nabirds", "cars", "flowers", "mit67", "cifar100"];
    for (method, rates) in [
        ("xent", [0.05, 0.05, 1.0, 1.0, 0.05, 0.1]),
        ("xent_ls", [0.05, 0.1, 1.0, 0.1, 1.0, 0.1]),
        ("cos", [0.5, 0.5, 1.0, 0.5, 2.5, 0.05]),
        ("cos_xent", [0.5, 0.5, 0.5, 0.5, 2.5, 0.1]),
    ] {
        for (dataset, rate) in datasets.iter().zip(rates) {
            assert_eq!(
                settings(&sweep, &format!("{method}/{dataset}")).learning_rate,
                rate,
                "{method}/{dataset}"
            );
        }
    }
}

#[test]
fn table_2_cells_follow_their_data_set() {
    let sweep = load("table2");
    let cub = settings(&sweep, "cos_xent_semantic/cub");
    assert_eq!(
        (cub.resize, cub.crop_size, cub.flip, cub.erase, cub.shift),
        (Some(512), Some(448), true, true, 0.0)
    );
    assert_eq!(
        (cub.model, cub.batch_size, cub.replicas, cub.weight_decay),
        (Model::Resnet50Keras, 96, 4, 0.0)
    );
    assert_eq!(
        (cub.loss, cub.cls_head_decay, cub.clip_norm),
        (Loss::CosXent, 1e-3, Some(10.0))
    );
    assert!(
        matches!(&cub.embedding, Embedding::Hierarchy(file) if file.path.ends_with("cub_balanced.parent-child.txt"))
    );
    let birds = settings(&sweep, "cos_semantic/nabirds");
    assert!(matches!(&birds.embedding, Embedding::Hierarchy(file) if file.child_parent));
    let indoor = settings(&sweep, "xent/mit67");
    assert_eq!((indoor.resize, indoor.crop_size), (Some(256), Some(224)));
    let cifar = settings(&sweep, "xent_ls/cifar100");
    assert_eq!(
        (cifar.resize, cifar.crop_size, cifar.shift, cifar.erase),
        (None, None, 0.15, false)
    );
    assert_eq!(
        (
            cifar.model,
            cifar.batch_size,
            cifar.replicas,
            cifar.weight_decay
        ),
        (Model::Resnet110Wfc, 100, 1, 4e-4)
    );
    assert_eq!(cifar.num_epochs(), 372);
    let tuned = settings(&sweep, "cos_finetuned/cars");
    assert_eq!(
        (tuned.model, tuned.num_epochs()),
        (Model::Resnet50, 372 + 8)
    );
}

#[test]
fn figure_2_repeats_small_subsets_of_cub_as_the_authors_do() {
    let sweep = load("figure2");
    for (samples, repeats) in [
        ("1", 30),
        ("2", 15),
        ("4", 7),
        ("7", 4),
        ("10", 3),
        ("12", 2),
        ("16", 1),
        ("25", 1),
    ] {
        let settings = settings(&sweep, &format!("cub/cos/{samples}"));
        assert_eq!(
            settings.samples_per_class,
            SamplesPerClass::Count(samples.parse().unwrap())
        );
        assert_eq!(settings.repeats, repeats, "{samples}");
    }
    assert_eq!(
        settings(&sweep, "cub/cos/30").samples_per_class,
        SamplesPerClass::All
    );
    assert_eq!(settings(&sweep, "cifar100/cos/10").repeats, 1);
}

/// The challenge's code crops originals and steps every 30 epochs; the other interpretation has its
/// own row.
#[test]
fn vipriors_follows_the_base_code_and_keeps_the_other_reading() {
    let sweep = load("vipriors");
    let of = |cell: &str| {
        let settings = settings(&sweep, cell);
        let Schedule::Step { epochs, every, .. } = settings.schedule else {
            panic!("steps")
        };
        (
            (
                settings.resize,
                settings.evaluated_resize(),
                settings.crop_size,
            ),
            (epochs, every),
            settings.crop,
        )
    };
    let originals = (None, Some(256), Some(224));
    for (cell, epochs) in [
        ("resnet-50/xent/90", 90),
        ("resnet-50/cutmix/180", 180),
        ("resnet-50/cutmix/270", 270),
    ] {
        assert_eq!(
            of(cell),
            (originals, (epochs, 30), Crop::RandomResized),
            "{cell}"
        );
    }
    let resized = (Some(256), Some(256), Some(224));
    assert_eq!(
        of("resnet-50-thirds/cutmix/270"),
        (resized, (270, 90), Crop::RandomResized)
    );
    assert_eq!(
        of("resnet-50-thirds/xent/90"),
        (resized, (90, 30), Crop::RandomResized)
    );
}

#[test]
fn published_numbers_carry_their_footnotes() {
    let sweep = load("table2");
    let of = |method: &str, dataset: &str| {
        let found = sweep
            .published
            .iter()
            .find(|value| value.cell["method"] == method && value.cell["dataset"] == dataset);
        let value = found.unwrap();
        (
            value.value,
            value
                .footnote
                .map(|index| sweep.footnotes[index as usize].as_str()),
        )
    };
    assert_eq!(of("cos", "cub"), (67.6, None));
    assert_eq!(
        of("cos_semantic", "cub"),
        (59.6, Some("59.9 in the paper's Table 3"))
    );
    let measure = |output: &'_ Output| match output {
        Output::Table(table) => (table.name.clone(), table.value),
        Output::Figure(figure) => (figure.name.clone(), figure.value),
    };
    let measures: Vec<_> = sweep.outputs.iter().map(measure).collect();
    assert_eq!(
        measures,
        [
            ("table2".to_owned(), Measure::Last),
            ("table2-best".to_owned(), Measure::Best)
        ]
    );
}

#[test]
fn figure_2_numbers_are_those_that_were_read_off_the_picture() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/paper/oracles.json");
    let text = std::fs::read_to_string(path).unwrap();
    let oracles: serde_json::Value = serde_json::from_str(&text).unwrap();
    let sweep = load("figure2");
    let mut compared = 0;
    for (dataset, name) in [("cub", "CUB"), ("cifar100", "CIFAR-100")] {
        let curves = &oracles["fig2_digitised_pct"][name];
        for (method, curve) in [
            ("xent", "xent"),
            ("xent_finetuned", "xent_finetuned"),
            ("cos", "cos_onehot"),
            ("cos_semantic", "cos_semantic"),
            ("cos_xent", "cosxent_onehot"),
            ("cos_xent_semantic", "cosxent_semantic"),
        ] {
            let points = curves["n"]
                .as_array()
                .unwrap()
                .iter()
                .zip(curves[curve].as_array().into_iter().flatten());
            for (samples, accuracy) in points.filter(|(samples, _)| *samples != 30) {
                let samples = samples.to_string();
                let found = sweep.published.iter().find(|value| {
                    value.cell["dataset"] == dataset
                        && value.cell["method"] == method
                        && value.cell["samples_per_class"] == samples
                });
                assert_eq!(
                    found.map(|value| value.value),
                    accuracy.as_f64(),
                    "{dataset} {method} {samples}"
                );
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 16 * 6 + 7 * 5);
}

#[test]
fn a_rehearsal_never_meets_the_real_sweep() {
    let real = load("table2");
    let smoke = load("table2").into_smoke();
    assert_eq!(
        (smoke.name.as_str(), smoke.cells.len(), trials(&smoke).len()),
        ("table2-smoke", 51, 51)
    );
    assert!(trials(&real).is_disjoint(&trials(&smoke)));
    assert!(smoke.published.is_empty());
    assert_eq!(smoke.check(), Ok(()));
    assert_eq!(smoke.clone().into_smoke(), smoke);
    assert!(
        smoke
            .cell_trials(0, None)
            .iter()
            .all(|trial| trial.spec.num_epochs() == 2)
    );
}

#[test]
fn cells_without_data_are_skipped_with_the_reason() {
    let mut sweep = load("table2");
    let missing = |settings: &Settings| {
        (settings.dataset == "cars").then(|| "Stanford Cars is not there".to_owned())
    };
    assert_eq!(sweep.skip_cells(missing), 8);
    let summary = sweep.summary();
    assert_eq!(summary.skipped["Stanford Cars is not there"], 8);
    assert_eq!(summary.result_trials, 255 - 8 * 5);
    assert_eq!(sweep.check(), Ok(()));
}

#[test]
fn the_longest_trials_are_predicted_to_be_the_longest() {
    let sweep = load("table2");
    let cost = |name: &str| {
        let index = sweep
            .cells
            .iter()
            .position(|cell| sweep.cell_name(cell) == name)
            .unwrap();
        sweep::cost(&sweep.cell_trials(index, None)[0].spec)
    };
    assert!(cost("cos/nabirds") > 2.0 * cost("cos/cub"));
    assert!(
        cost("cos/cub") > 2.0 * cost("cos/mit67"),
        "a quarter of the pixels"
    );
    assert!(sweep.summary().longest >= cost("cos/nabirds"));
    let figure = load("figure2");
    assert!(figure.summary().cost.is_finite());
    assert!(
        (0..figure.cells.len())
            .flat_map(|cell| figure.cell_trials(cell, None))
            .all(|trial| trial.role == Role::Result)
    );
}
