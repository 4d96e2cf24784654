//! Remarks on settings that are allowed but most likely unintended: settings without effect, idle
//! devices, searches that choose by chance.
//!
//! They are not errors: an axis of losses crossed with one of label smoothing is easily written,
//! and trains the same network under two names for the losses without a softmax. Only differences
//! from the recipe are remarked on.

use std::collections::BTreeMap;

use crate::definition::{Cell, Sweep};
use crate::held_out;
use crate::recipe;
use crate::settings::{BatchNorm, Embedding, Loss, Optimizer, Settings};

impl Sweep {
    /// Returns one line per remark, with the number of cells concerned.
    pub fn remarks(&self) -> Vec<String> {
        let mut cells: BTreeMap<String, Vec<&Cell>> = BTreeMap::new();
        for cell in self.cells.iter().filter(|cell| cell.skipped.is_none()) {
            let settings = self.cell_settings(cell);
            let Some(recipe) = recipe::settings(&self.recipe, &settings.dataset) else {
                continue;
            };
            let idle = without_effect(&settings, &recipe);
            let idle = idle
                .into_iter()
                .map(|(field, why)| format!("`{field}` has no effect: {why}"));
            for remark in idle
                .chain(self.devices(&settings))
                .chain(self.rate_of_sgd(&settings, &recipe))
                .chain(self.few_images(cell))
            {
                cells.entry(remark).or_default().push(cell);
            }
        }
        let line = |(remark, cells): (String, Vec<&Cell>)| {
            let first = self.cell_name(cells[0]);
            match cells.len() {
                1 => format!("{remark} (cell {first})"),
                count if count == self.cells.len() => format!("{remark} (every cell)"),
                count => format!(
                    "{remark} ({count} of {} cells, {first} the first)",
                    self.cells.len()
                ),
            }
        };
        cells.into_iter().map(line).collect()
    }

    fn few_images(&self, cell: &Cell) -> Option<String> {
        let images = self.few_search_images(cell)?;
        let points = held_out::distinguishable(images);
        Some(format!(
            "the search compares candidates on {images} held-out images: differences below {points:.0} points are noise"
        ))
    }

    fn rate_of_sgd(&self, settings: &Settings, recipe: &Settings) -> Option<String> {
        let is_searched = self
            .search
            .as_ref()
            .is_some_and(|search| search.chooses("learning_rate"));
        let is_the_recipes = settings.learning_rate == recipe.learning_rate
            && settings.optimizer != recipe.optimizer;
        (is_the_recipes && !is_searched).then(|| {
            let rate = settings.learning_rate;
            format!("`learning_rate` {rate} is the recipe's for SGD: rates of AdamW are near 0.001")
        })
    }

    fn devices(&self, settings: &Settings) -> Option<String> {
        let (devices, replicas) = (self.resources.devices_per_trial, settings.replicas);
        if devices > 1 && replicas > devices {
            let remark = "do not fit: on GPUs each has one for itself, or all share one";
            return Some(format!(
                "{replicas} `replicas` on {devices} `devices_per_trial` {remark}"
            ));
        }
        let idle = devices.saturating_sub(replicas);
        (idle > 0).then(|| {
            format!("{idle} of {devices} `devices_per_trial` stand idle: `replicas` is {replicas}")
        })
    }
}

/// Returns the fields that differ from the recipe's but have no effect with the other ones, with
/// the reason.
fn without_effect(settings: &Settings, recipe: &Settings) -> Vec<(&'static str, &'static str)> {
    let (softmax, two_losses, classifier) = match settings.loss {
        Loss::Xent => (true, false, false),
        Loss::Mse | Loss::Cos => (false, false, false),
        Loss::CosXent => (true, true, true),
        Loss::CosXentDirect => (true, true, false),
    };
    let is_sgd = settings.optimizer == Optimizer::Sgd;
    let cases = [
        (
            "label_smoothing",
            settings.label_smoothing != recipe.label_smoothing && !softmax,
            "the loss has no cross-entropy",
        ),
        (
            "softmax",
            settings.softmax != recipe.softmax && !softmax,
            "the loss has no cross-entropy",
        ),
        (
            "cls_weight",
            settings.cls_weight != recipe.cls_weight && !two_losses,
            "the loss has one part only",
        ),
        (
            "cls_head",
            settings.cls_head != recipe.cls_head && !classifier,
            "the loss is not `cos_xent`",
        ),
        (
            "cls_head_decay",
            settings.cls_head_decay != recipe.cls_head_decay && !classifier,
            "the loss is not `cos_xent`",
        ),
        (
            "embedding",
            settings.embedding != Embedding::OneHot && settings.loss == Loss::Xent,
            "the cross-entropy has no targets in an embedding",
        ),
        (
            "finetune_epochs",
            settings.finetune_epochs != recipe.finetune_epochs && settings.weights.is_none(),
            "there are no `weights` to fine-tune",
        ),
        (
            "finetune_learning_rate",
            settings.finetune_learning_rate != recipe.finetune_learning_rate
                && (settings.weights.is_none() || settings.finetune_epochs == 0),
            "there is no phase that trains the new layers alone",
        ),
        (
            "weight_decay_on",
            settings.weight_decay_on != recipe.weight_decay_on && settings.weight_decay == 0.0,
            "`weight_decay` is 0",
        ),
        (
            "momentum",
            settings.momentum != recipe.momentum && !is_sgd,
            "`optimizer: adamw` has `beta1`",
        ),
        (
            "momentum_form",
            settings.momentum_form != recipe.momentum_form && !is_sgd,
            "`optimizer` is `adamw`",
        ),
        (
            "nesterov",
            settings.nesterov != recipe.nesterov && !is_sgd,
            "`optimizer` is `adamw`",
        ),
        (
            "nesterov",
            settings.nesterov && settings.momentum == 0.0 && is_sgd,
            "`momentum` is 0",
        ),
        (
            "batch_norm",
            settings.batch_norm == BatchNorm::Synchronised && settings.replicas == 1,
            "there is one replica only",
        ),
    ];
    cases
        .into_iter()
        .filter(|(_, idle, _)| *idle)
        .map(|(field, _, why)| (field, why))
        .collect()
}
