//! Names that other tools use for the fields of this language, so that a name typed out of habit
//! gets a useful answer.

/// Names as other tools spell them, in lower case with underscores, and what to write here.
const NAMES: &[(&[&str], &str)] = &[
    (
        &[
            "lr",
            "base_lr",
            "initial_lr",
            "init_lr",
            "lr0",
            "step_size",
            "learningrate",
        ],
        "write `learning_rate`",
    ),
    (
        &[
            "epoch",
            "epochs",
            "num_epochs",
            "n_epochs",
            "max_epochs",
            "train_epochs",
            "num_train_epochs",
        ],
        "the schedule sets the number of epochs: `schedule: {cosine: {epochs: 60}}`",
    ),
    (
        &[
            "steps",
            "max_steps",
            "num_steps",
            "iterations",
            "iters",
            "max_iter",
        ],
        "trainings are measured in epochs: `schedule: {cosine: {epochs: 60}}`",
    ),
    (
        &["optimiser", "optim", "opt", "adam", "adamw", "sgd"],
        "write `optimizer: sgd` or `optimizer: adamw`",
    ),
    (
        &[
            "scheduler",
            "lr_scheduler",
            "lr_schedule",
            "sched",
            "lr_policy",
        ],
        "write `schedule`",
    ),
    (
        &["warmup", "warmup_epochs", "warmup_steps"],
        "no schedule here warms up: see `schedule` in docs/sweep-file.md",
    ),
    (
        &[
            "batch",
            "bs",
            "batchsize",
            "train_batch_size",
            "per_device_train_batch_size",
        ],
        "write `batch_size`",
    ),
    (
        &["wd", "l2", "decay", "weightdecay", "weight_decay_rate"],
        "write `weight_decay`",
    ),
    (
        &[
            "arch",
            "architecture",
            "network",
            "net",
            "backbone",
            "model_name",
            "encoder",
        ],
        "write `model`",
    ),
    (
        &["data", "dataset_name", "data_set", "datasets", "task"],
        "write `dataset`",
    ),
    (
        &["criterion", "loss_fn", "loss_function", "objective"],
        "write `loss`",
    ),
    (&["smoothing", "ls"], "write `label_smoothing`"),
    (
        &["amp", "fp16", "bf16", "dtype", "mixed_precision"],
        "write `precision`: auto, f32 or bf16",
    ),
    (
        &[
            "clip",
            "grad_clip",
            "clip_grad",
            "clip_grad_norm",
            "max_grad_norm",
            "gradient_clip_val",
            "clipnorm",
        ],
        "write `clip_norm`",
    ),
    (
        &[
            "image_size",
            "img_size",
            "imgsz",
            "input_size",
            "resolution",
        ],
        "write `resize` and `crop_size`",
    ),
    (
        &[
            "augment",
            "augmentation",
            "augmentations",
            "aug",
            "transform",
            "transforms",
        ],
        "augmentation has fields of its own: `crop`, `shift`, `flip`, `erase`, `rand_augment`, `cutmix`",
    ),
    (
        &["randaugment", "randaug", "auto_augment"],
        "write `rand_augment`",
    ),
    (
        &[
            "pretrained",
            "checkpoint",
            "ckpt",
            "init_weights",
            "weights_path",
        ],
        "write `weights: FILE`",
    ),
    (
        &["val_split", "validation_split", "val_fraction", "valid_pct"],
        "write `holdout`",
    ),
    (
        &[
            "shots",
            "k_shot",
            "n_shots",
            "images_per_class",
            "num_samples",
            "n_per_class",
        ],
        "write `samples_per_class`",
    ),
    (
        &[
            "seed",
            "seeds",
            "random_seed",
            "random_state",
            "num_seeds",
            "n_seeds",
            "runs",
            "repetitions",
        ],
        "seeds are no field: write `seeds: 5` at the top of the file, beside `axes`",
    ),
    (
        &["gpus", "devices", "num_gpus", "n_gpus", "ngpus", "gpu"],
        "devices are no field: write `resources: {devices_per_trial: 2}` at the top of the file",
    ),
    (
        &["workers", "num_workers", "jobs", "n_jobs"],
        "how much runs at a time is not part of a sweep: see --slots in `orchestrator run --help`",
    ),
    (
        &["num_classes", "n_classes", "classes"],
        "the data set has its classes: leave it out",
    ),
];

/// Suggests what to write instead of a name that this language does not know.
pub(crate) fn meant(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase().replace([' ', '-', '.'], "_");
    NAMES
        .iter()
        .find(|(names, _)| names.contains(&name.as_str()))
        .map(|(_, help)| *help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field;

    /// The first word of every text in backquotes is the name of something that exists.
    #[test]
    fn advice_names_existing_fields() {
        for (names, help) in NAMES {
            let named = help
                .split('`')
                .skip(1)
                .step_by(2)
                .map(|code| code.split([':', ' ']).next().unwrap_or_default());
            for word in named {
                let known = field::find(word).is_some()
                    || ["seeds", "axes", "resources", "orchestrator"].contains(&word);
                assert!(known, "{names:?}: `{word}`");
            }
            for name in *names {
                assert!(field::find(name).is_none(), "`{name}` is a field");
                assert_eq!(meant(&name.to_uppercase()), Some(*help));
            }
        }
        assert_eq!(meant("learning_rat"), None);
    }
}
