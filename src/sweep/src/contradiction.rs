//! Combinations of fields that are valid by themselves but not together, whatever the data. They
//! are found when a sweep is compiled, each with the fields concerned and a fix.
//!
//! The trainer calls `Settings::check` once; it and the data crate trust the settings from there
//! on. Problems that depend on the data (a folder's image sizes, classes with too few images) are
//! found by reading it, before the start.

use crate::dataset;
use crate::held_out::Holdout;
use crate::settings::{
    Crop, Embedding, FIELDS, Loss, Model, Normalise, SamplesPerClass, Schedule, Settings,
};

/// A reason why no trial with these settings could train.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {help}")]
pub struct Contradiction {
    /// The fields that contradict each other.
    pub fields: Vec<&'static str>,
    pub message: String,
    /// How to fix it.
    pub help: String,
}

/// Longest schedule; longer ones are assumed to be typing errors.
const MAX_EPOCHS: u32 = 100_000;

/// The smallest side that the CIFAR form of the authors' wide network can halve twice.
const SMALLEST_SIDE_OF_WFC: u32 = 4;

/// Contradictions found so far.
#[derive(Default)]
struct Found(Vec<Contradiction>);

impl Found {
    fn push(
        &mut self,
        fields: &[&'static str],
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.0.push(Contradiction {
            fields: fields.to_vec(),
            message: message.into(),
            help: help.into(),
        });
    }
}

impl Settings {
    /// Returns the first reason why no trial could train with these settings: a value that its
    /// field cannot have, or a contradiction.
    pub fn check(&self) -> Result<(), Contradiction> {
        if self.program.is_some() {
            return Err(Contradiction {
                fields: Vec::new(),
                message: "these are the settings of a sweep's own program".to_owned(),
                help: "the program trains them".to_owned(),
            });
        }
        let fields = self.fields();
        for field in FIELDS {
            field.check(&fields[field.name]).map_err(|complaint| {
                let mut path = vec![field.name.to_owned()];
                path.extend(complaint.path);
                Contradiction {
                    fields: vec![field.name],
                    message: format!("`{}` {}", path.join("."), complaint.message),
                    help: complaint
                        .help
                        .unwrap_or_else(|| format!("write {}", field.kind.expected())),
                }
            })?;
        }
        self.contradictions().into_iter().next().map_or(Ok(()), Err)
    }

    /// Returns all contradictions.
    pub fn contradictions(&self) -> Vec<Contradiction> {
        let mut found = Found::default();
        if self.program.is_some() {
            // What else its settings mean is the program's business.
            self.check_subset(&mut found);
            return found.0;
        }
        self.check_sizes(&mut found);
        self.check_augmentation(&mut found);
        self.check_subset(&mut found);
        self.check_course(&mut found);
        found.0
    }

    fn check_sizes(&self, found: &mut Found) {
        let resizes = [("resize", self.resize), ("test_resize", self.test_resize)];
        let resizes: Vec<(&str, u32)> = resizes
            .into_iter()
            .filter_map(|(field, resize)| Some((field, resize?)))
            .collect();
        for &(field, resize) in &resizes {
            if let Some(crop) = self.crop_size.filter(|&crop| crop > resize) {
                let message = format!("`crop_size` {crop} is larger than `{field}` {resize}");
                found.push(
                    &["crop_size", field],
                    message,
                    format!("raise `{field}`, or lower `crop_size`"),
                );
            }
        }
        let known = dataset::find(&self.dataset);
        let known_side = known.and_then(|known| known.side);
        if let Some(side) = known_side {
            for (field, resize) in resizes {
                let message = format!(
                    "`{field}` {resize}, but the images of `{name}` are used as they are: {side} x {side} pixels",
                    name = self.dataset
                );
                found.push(
                    &[field, "dataset"],
                    message,
                    format!("write `{field}: null`"),
                );
            }
        }
        if known.is_some_and(|known| known.side.is_none()) && self.crop_size.is_none() {
            let message = format!(
                "the photographs of `{}` differ in size, and there is no `crop_size`",
                self.dataset
            );
            found.push(
                &["crop_size", "dataset"],
                message,
                "set `crop_size` to the side that the network shall see",
            );
        }
        let side = self.crop_size.or(known_side);
        if let Some(side) =
            side.filter(|&side| self.model == Model::Resnet110Wfc && side < SMALLEST_SIDE_OF_WFC)
        {
            let message = format!(
                "`model: resnet-110-wfc` halves its images twice: a side of {side} is too small"
            );
            found.push(
                &["model", "crop_size"],
                message,
                format!("use another model, or a `crop_size` of at least {SMALLEST_SIDE_OF_WFC}"),
            );
        }
    }

    fn check_augmentation(&self, found: &mut Found) {
        if self.crop != Crop::Centre && self.crop_size.is_none() {
            let help = "set `crop_size`, or write `crop: centre`";
            found.push(&["crop", "crop_size"], "`crop` needs a `crop_size`", help);
        }
        if self.crop == Crop::RandomResized && self.shift > 0.0 {
            let message = format!(
                "`crop: random_resized` places its crops at random itself: `shift` {} cannot join it",
                self.shift
            );
            found.push(
                &["shift", "crop"],
                message,
                "write `shift: 0`, or `crop: random`",
            );
        }
        let of_colours = matches!(self.normalise, Normalise::Ilsvrc | Normalise::Torchvision);
        if of_colours && dataset::find(&self.dataset).is_some_and(|known| known.channels != 3) {
            let message = format!(
                "`normalise` has statistics of three colours, and the images of `{}` are grey",
                self.dataset
            );
            found.push(
                &["normalise", "dataset"],
                message,
                "write `normalise: dataset` or `normalise: computed`",
            );
        }
    }

    fn check_subset(&self, found: &mut Found) {
        let SamplesPerClass::Count(samples) = self.samples_per_class else {
            return;
        };
        let known = dataset::find(&self.dataset);
        if let Some(smallest) = known
            .map(|known| known.counts.per_class.fewest)
            .filter(|&smallest| samples > smallest)
        {
            let message = format!(
                "`samples_per_class` {samples}, but the smallest class of `{}` has {smallest} training images",
                self.dataset
            );
            found.push(
                &["samples_per_class", "dataset"],
                message,
                format!("write at most {smallest}, or `all`"),
            );
        }
        let fewest = self.holdout.as_ref().map_or(0, Holdout::fewest);
        if samples < fewest {
            let message = match samples {
                1 => "nothing can be held out of one training image per class".to_owned(),
                _ => format!(
                    "`holdout` needs {fewest} training images of every class, and `samples_per_class` is {samples}"
                ),
            };
            let help = "raise `samples_per_class`, or hold less out; a search can use `select: best_on_test`";
            found.push(&["samples_per_class", "holdout"], message, help);
        }
    }

    fn check_course(&self, found: &mut Found) {
        if self.replicas > self.batch_size {
            let message = format!(
                "{} `replicas` cannot share a `batch_size` of {}",
                self.replicas, self.batch_size
            );
            found.push(
                &["replicas", "batch_size"],
                message,
                "lower `replicas`, or raise `batch_size`",
            );
        }
        if let Schedule::Sgdr {
            learning_rate_min, ..
        } = self.schedule
            && learning_rate_min > self.learning_rate
        {
            let rate = self.learning_rate;
            let message = format!(
                "`learning_rate` {rate} is below the schedule's minimum, {learning_rate_min}"
            );
            found.push(
                &["learning_rate", "schedule"],
                message,
                "raise `learning_rate`, or lower `learning_rate_min`",
            );
        }
        if self.loss == Loss::CosXentDirect && self.embedding != Embedding::OneHot {
            let message = "`loss: cos_xent_direct` takes the embedding as logits and needs `embedding: one_hot`";
            found.push(
                &["loss", "embedding"],
                message,
                "write `embedding: one_hot`, or `loss: cos_xent`",
            );
        }
        let epochs = self
            .schedule
            .num_epochs()
            .saturating_add(self.finetune_epochs);
        if epochs > MAX_EPOCHS {
            let message = format!("`schedule` has {epochs} epochs, more than {MAX_EPOCHS}");
            found.push(
                &["schedule", "finetune_epochs"],
                message,
                format!("make it at most {MAX_EPOCHS} epochs long"),
            );
        }
    }
}
