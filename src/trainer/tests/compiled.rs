//! Compiled settings are accepted by everything that a trial builds from them before its first
//! step, and by its images.
//!
//! Sweeps are generated from the table of fields, with values at the ends of their ranges.
//! Contradictory ones do not compile, and no other may be rejected later. The data are the digits,
//! and stand-ins for the other kinds.

use std::path::Path;
use std::sync::Arc;

use data::files::Reach;
use data::{Dataset, OpenRequest, Pipeline};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use sweep::Settings;
use sweep::field::{FIELDS, Field, Kind, Part};
use sweep::settings::{Corrupt, Embedding};
use tch::Device;
use trainer::Criterion;

/// Small images of one and of three colours, photographs of a known and of an unknown data set.
const DATASETS: [&str; 4] = ["digits", "cifar100", "flowers", "folder:images"];
/// Image sides; larger ones are left out only to save time.
const SIDES: [u64; 8] = [1, 2, 3, 4, 8, 9, 33, 48];

/// Random numbers that determine the choices.
struct Choices(std::vec::IntoIter<u32>);

impl Choices {
    fn below(&mut self, count: usize) -> usize {
        self.0.next().unwrap_or(0) as usize % count
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    fn value(&mut self, field: &Field) -> Value {
        match (field.name, &field.kind) {
            _ if field.optional && self.below(3) == 0 => Value::Null,
            ("crop_size" | "resize" | "test_resize", _) => json!(self.of(&SIDES)),
            // The stand-ins have two images of each class.
            ("samples_per_class", _) => json!([json!("all"), json!(2), json!(1)][self.below(3)]),
            ("holdout", _) => {
                let floor = json!({"fraction": 0.9, "at_least_per_class": 1});
                [json!(0.2), json!({"folds": 2}), floor][self.below(3)].clone()
            }
            (_, kind) => self.kind(kind),
        }
    }

    fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Choice(names) => json!(self.of(names)),
            Kind::Count(low, high) => {
                json!(self.of(&[*low, (*low + 1).min(*high), (*low + 30).min(*high), *high]))
            }
            Kind::Real(range) => {
                let step = (range.high - range.low) / 8.0;
                json!(self.of(&[
                    range.low,
                    range.low + 1e-3_f64.min(step),
                    range.low + 4.0 * step,
                    range.high
                ]))
            }
            Kind::Flag => json!(self.below(2) == 0),
            Kind::Path => json!("a/path"),
            Kind::Dataset => unreachable!("chosen apart"),
            Kind::CountOr(word, low, high) => match self.below(2) {
                0 => json!(word),
                _ => self.kind(&Kind::Count(*low, *high)),
            },
            Kind::RealOr(range, records) => match self.below(records.len() + 1) {
                0 => self.kind(&Kind::Real(*range)),
                number => self.parts(records[number - 1]),
            },
            Kind::Record(parts) => self.parts(parts),
            Kind::Variant(variants) => {
                let (name, parts) = variants[self.below(variants.len())];
                if parts.is_empty() {
                    json!(name)
                } else {
                    json!({ name: self.parts(parts) })
                }
            }
        }
    }

    fn parts(&mut self, parts: &[Part]) -> Value {
        Value::Object(
            parts
                .iter()
                .map(|part| (part.name.to_owned(), self.kind(&part.kind)))
                .collect(),
        )
    }

    /// Returns a sweep of one cell: a recipe with a quarter of its fields changed.
    fn sweep(&mut self, dataset: &str) -> Value {
        let mut set = Map::from_iter([("dataset".to_owned(), json!(dataset))]);
        for field in FIELDS.iter().filter(|field| field.name != "dataset") {
            if self.below(4) == 0 {
                let value = self.value(field);
                set.insert(field.name.to_owned(), value);
            }
        }
        let recipes: Vec<&str> = sweep::recipe::names().collect();
        json!({ "recipe": self.of(&recipes), "set": set })
    }
}

fn compiled(sweep: &Value) -> Result<Settings, sweep::Errors> {
    let no_files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    let sweep = sweep::parse("generated.yaml", &sweep.to_string(), &no_files)?;
    Ok(sweep.cell_settings(&sweep.cells[0]))
}

fn dataset(name: &str) -> Arc<Dataset> {
    let nowhere = Path::new("/nonexistent");
    let request = OpenRequest {
        dataset: name,
        resize: None,
        test_resize: None,
        reach: Reach::anywhere(nowhere),
        cache_dir: nowhere,
        corrupt: Corrupt::Refuse,
        smoke: name != "digits",
    };
    Arc::new(data::open(&request, &|_, _| ()).unwrap())
}

/// Runs everything before the first step, and makes the images of a first and a last sample.
fn accept(settings: &Settings) {
    let dataset = dataset(&settings.dataset);
    let num_classes = dataset.num_classes();
    let pipeline = Pipeline::new(dataset, settings, 1, false)
        .unwrap_or_else(|error| panic!("{error}: {settings:?}"));
    let plan = pipeline.train_step(0, pipeline.steps_per_epoch() - 1);
    let mut pixels = vec![f32::NAN; pipeline.image_len()];
    for position in [0, plan.len() - 1] {
        pipeline.fill_train(&plan, position..position + 1, &mut pixels);
        assert!(pixels.iter().all(|value| value.is_finite()), "{settings:?}");
    }
    pipeline.fill_eval(0..1, &mut pixels);
    let semantic = settings.embedding != Embedding::OneHot;
    let embeddings = semantic.then(|| data::hierarchy::stand_in_embeddings(num_classes));
    Criterion::new(
        settings,
        embeddings.as_deref(),
        num_classes as i64,
        Device::Cpu,
    );
    let rates =
        (0..settings.num_epochs().min(50)).map(|epoch| trainer::learning_rate(settings, epoch).0);
    assert!(rates.into_iter().all(f64::is_finite), "{settings:?}");
}

/// Returns true for errors that only the images of a user's folder can reveal.
fn needs_a_look(settings: &Settings) -> bool {
    settings.dataset.starts_with("folder:") && settings.crop_size.is_none()
}

/// Returns the number of cases. `PROPTEST_CASES=20000 cargo test --release -p trainer --test
/// compiled` runs more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").map_or(600, |cases| cases.parse().expect("a number"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn settings_that_compile_are_accepted(which in 0..DATASETS.len(), numbers in prop::collection::vec(any::<u32>(), 250)) {
        let sweep = Choices(numbers.into_iter()).sweep(DATASETS[which]);
        if let Ok(settings) = compiled(&sweep) && !needs_a_look(&settings) {
            accept(&settings);
        }
    }
}

/// The property above would hold trivially if nothing compiled.
#[test]
fn every_recipe_compiles_and_is_accepted() {
    for recipe in sweep::recipe::names() {
        for dataset in DATASETS {
            let sweep =
                json!({ "recipe": recipe, "set": { "dataset": dataset, "samples_per_class": 2 } });
            let settings =
                compiled(&sweep).unwrap_or_else(|errors| panic!("{recipe} on {dataset}: {errors}"));
            if !needs_a_look(&settings) {
                accept(&settings);
            }
        }
    }
}
