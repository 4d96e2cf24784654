//! The disk that a sweep will take, from its settings: checkpoints, and the files that it keeps.

use serde_json::{Value, json};
use sweep::Sweep;
use sweep::dataset::{self, Counts};
use sweep::keep::Kept;
use sweep::settings::{Model, Optimizer};

/// Bytes of a row of predictions besides its scores, and of a score, before compression.
const ROW: u64 = 100;
const SCORE: u64 = 12;
const FLOAT: u64 = 4;

/// Predicted bytes; those of kept files are of all trials together, and 0 if the sweep keeps none.
#[derive(Debug, PartialEq, Eq)]
pub struct PlannedDisk {
    /// The largest checkpoint.
    checkpoint: u64,
    weights: u64,
    /// An upper bound: the files are compressed.
    predictions: u64,
}

impl PlannedDisk {
    /// Predicts for the built-in trainer, whose networks are known. `None` while nothing is known of
    /// a data set, and for training code of the sweep's own.
    pub fn of(sweep: &Sweep, size: &dyn Fn(&str) -> Option<Counts>) -> Option<Self> {
        if !sweep.trainer.is_built_in() || sweep.program.is_some() || sweep.smoke {
            return None;
        }
        let keeps = |kept| u64::from(sweep.keep.contains(&kept));
        let mut planned = Self {
            checkpoint: 0,
            weights: 0,
            predictions: 0,
        };
        for pace in sweep.paces(size) {
            let settings = &pace.sample.settings;
            let known = dataset::find(&settings.dataset).map(|known| known.counts);
            let counts = size(&settings.dataset).or(known)?;
            let (trials, classes) = (pace.trials as u64, u64::from(counts.num_classes));
            let weights = FLOAT * parameters(settings.model, classes);
            let moments = match settings.optimizer {
                Optimizer::Sgd => 1,
                Optimizer::Adamw(_) => 2,
            };
            planned.checkpoint = planned.checkpoint.max(weights * (1 + moments));
            planned.weights += keeps(Kept::Weights) * trials * weights;
            let predictions = u64::from(counts.num_test) * (ROW + SCORE * classes);
            planned.predictions += keeps(Kept::Predictions) * trials * predictions;
        }
        Some(planned)
    }

    /// Returns the lines of a plan.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "checkpoints: about {} for each trial that runs",
            mib(self.checkpoint)
        )];
        for (kept, about, bytes) in [
            ("weights", "about", self.weights),
            ("predictions", "at most", self.predictions),
        ] {
            if bytes > 0 {
                lines.push(format!(
                    "{kept} that are kept: {about} {} in all",
                    mib(bytes)
                ));
            }
        }
        lines
    }

    pub fn document(&self) -> Value {
        json!({
            "checkpoint_bytes": self.checkpoint,
            "kept_weight_bytes": self.weights,
            "kept_prediction_bytes": self.predictions,
        })
    }
}

/// Returns the number of parameters of a network with one output per class, on colour images.
fn parameters(model: Model, classes: u64) -> u64 {
    let (without_head, features) = match model {
        Model::Resnet8 => (74_640, 64),
        Model::Resnet20 => (269_072, 64),
        Model::Resnet32 => (463_504, 64),
        Model::Resnet56 => (852_368, 64),
        Model::Resnet110 => (1_727_312, 64),
        Model::Resnet110Wfc => (6_900_288, 128),
        Model::Resnet18 => (11_176_512, 512),
        Model::Resnet34 => (21_284_672, 512),
        Model::Resnet50 | Model::Resnet50Fconv => (23_508_032, 2048),
        Model::Resnet50Keras => (23_534_592, 2048),
        Model::EfficientnetB0 => (4_007_548, 1280),
        Model::WideResnet16x2 => (690_384, 128),
        Model::WideResnet16x8 => (10_956_240, 512),
    };
    without_head + classes * (features + 1)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published numbers: torchvision's, and those of the paper's networks.
    #[test]
    fn parameters_are_the_published_ones() {
        for (model, classes, published) in [
            (Model::Resnet110Wfc, 100, 6_913_188),
            (Model::Resnet18, 1000, 11_689_512),
            (Model::Resnet34, 1000, 21_797_672),
            (Model::Resnet50, 1000, 25_557_032),
            (Model::Resnet50Keras, 200, 23_944_392),
            (Model::EfficientnetB0, 1000, 5_288_548),
            (Model::WideResnet16x8, 10, 10_961_370),
        ] {
            assert_eq!(parameters(model, classes), published, "{model:?}");
        }
    }

    #[test]
    fn a_plan_names_what_is_kept() {
        let sweep = |keep: &str| {
            let text = format!(
                "name: s\nrecipe: quick\nset: {{dataset: digits, model: resnet-8}}\naxes: {{loss: [xent, cos]}}\nseeds: 2\n{keep}"
            );
            sweep::parse("s.yaml", &text, &|_| panic!("no file is named")).unwrap()
        };
        let weights = 4 * (74_640 + 10 * 65);
        let planned = |keep| PlannedDisk::of(&sweep(keep), &|_| None).unwrap();
        let nothing = planned("");
        assert_eq!(
            nothing.lines(),
            ["checkpoints: about 0.6 MiB for each trial that runs"]
        );
        let all = planned("keep: [weights, predictions]\n");
        assert_eq!(all.weights, 4 * weights);
        assert_eq!(all.checkpoint, 2 * weights);
        assert!(
            all.lines()[2].starts_with("predictions that are kept: at most"),
            "{:?}",
            all.lines()
        );
    }
}
