//! Golden values of docs/paper.md, section 1, decision rules, and gradients against finite
//! differences.
//!
//! Expected numbers come from the paper or are derived by hand in a comment; nothing here trains.
//! Next: loss.rs.

use sweep::Settings;
use sweep::settings::{ClsHead, Embedding, HierarchyFile, Loss, Softmax};
use tch::{Device, Kind, Tensor};

use crate::network::nn::{
    Builder, FlatLayout, Format, Mode, Options, OwnOperations, Pass, Storage,
};
use crate::step::head::{Head, normalise};
use crate::step::loss::{Criterion, Outputs};

fn settings(loss: Loss) -> Settings {
    let mut settings = sweep::recipe::settings("quick", "digits").expect("a recipe");
    (settings.loss, settings.softmax, settings.label_smoothing) = (loss, Softmax::LogSoftmax, 0.0);
    settings
}

fn criterion(settings: &Settings, num_classes: i64) -> Criterion {
    Criterion::new(settings, None, num_classes, Device::Cpu)
}

/// Returns the losses of z for every label, through the outputs that this loss's head makes from
/// it.
fn losses(settings: &Settings, z: &[f32]) -> Vec<f64> {
    let num_classes = z.len() as i64;
    let rows = Tensor::from_slice(z).repeat([num_classes, 1]);
    let psi = normalise(&rows);
    let outputs = match settings.loss {
        Loss::Xent => Outputs {
            embedding: None,
            logits: Some(rows),
        },
        Loss::Mse => Outputs {
            embedding: Some(rows),
            logits: None,
        },
        Loss::Cos | Loss::CosXent | Loss::CosXentDirect => Outputs {
            logits: Some(psi.shallow_clone()),
            embedding: Some(psi),
        },
    };
    let labels = Tensor::arange(num_classes, (Kind::Int64, Device::Cpu));
    let losses = criterion(settings, num_classes).per_sample(&outputs, &labels);
    Vec::try_from(losses.to_kind(Kind::Double)).unwrap()
}

fn assert_close(found: &[f64], expected: &[f64]) {
    let close = found
        .iter()
        .zip(expected)
        .all(|(found, expected)| (found - expected).abs() < 2e-6);
    assert!(
        found.len() == expected.len() && close,
        "{found:?} instead of {expected:?}"
    );
}

#[test]
fn losses_have_the_papers_values() {
    let z = [3.0, -4.0, 0.0];
    assert_close(&losses(&settings(Loss::Cos), &z), &[0.4, 1.8, 1.0]);
    assert_close(&losses(&settings(Loss::Mse), &z)[..1], &[20.0]);
    assert_close(&losses(&settings(Loss::Xent), &z)[..1], &[0.049_455_6]);
    let smoothed = Settings {
        label_smoothing: 0.1,
        ..settings(Loss::Xent)
    };
    // eps / (C - 1) for the others: 0.9 * 0.0494556 + 0.05 * (7.0494556 + 3.0494556)
    assert_close(&losses(&smoothed, &z)[..1], &[0.549_455_6]);
    // 1 - .6 + 0.1 * (ln(e^.6 + e^-.8 + 1) - .6)
    let direct = 0.4 + 0.1 * ((0.6f64.exp() + (-0.8f64).exp() + 1.0).ln() - 0.6);
    assert_close(&losses(&settings(Loss::CosXentDirect), &z)[..1], &[direct]);
}

#[test]
fn keras_clip_bounds_the_loss_and_cuts_the_gradient() {
    let clipped = Settings {
        softmax: Softmax::KerasClip,
        ..settings(Loss::Xent)
    };
    // p of the label is e^-30: below 1e-7, so the loss is -ln 1e-7
    assert_close(&losses(&clipped, &[0.0, 30.0])[..1], &[-(1e-7f64.ln())]);
    let gradient = |settings: &Settings| {
        let z = Tensor::from_slice(&[0f32, 30.0])
            .view([1, 2])
            .set_requires_grad(true);
        let outputs = Outputs {
            embedding: None,
            logits: Some(z.shallow_clone()),
        };
        criterion(settings, 2)
            .per_sample(&outputs, &Tensor::from_slice(&[0i64]))
            .sum(Kind::Float)
            .backward();
        z.grad().abs().max().double_value(&[])
    };
    assert_eq!(gradient(&clipped), 0.0);
    assert!((gradient(&settings(Loss::Xent)) - 1.0).abs() < 1e-6);
}

#[test]
fn a_zero_embedding_has_finite_loss_and_gradient() {
    let z = Tensor::zeros([1, 3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let outputs = Outputs {
        embedding: Some(normalise(&z)),
        logits: None,
    };
    let loss =
        criterion(&settings(Loss::Cos), 3).per_sample(&outputs, &Tensor::from_slice(&[1i64]));
    assert_eq!(loss.double_value(&[0]), 1.0);
    loss.sum(Kind::Float).backward();
    assert!(z.grad().isfinite().all().int64_value(&[]) == 1);
}

/// Embeddings of three classes in a tree: the first two are siblings with similarity one half.
const TREE: [f32; 9] = [1.0, 0.0, 0.0, 0.5, 0.866_025_4, 0.0, 0.0, 0.0, 1.0];

fn semantic(loss: Loss) -> Criterion {
    let hierarchy = HierarchyFile {
        path: "tree.txt".to_owned(),
        child_parent: false,
    };
    let settings = Settings {
        embedding: Embedding::Hierarchy(hierarchy),
        ..settings(loss)
    };
    Criterion::new(&settings, Some(&TREE), 3, Device::Cpu)
}

fn hits(criterion: &Criterion, embedding: &[f32], label: i64) -> bool {
    let embedding = Tensor::from_slice(embedding).view([1, 3]);
    let outputs = Outputs {
        embedding: Some(embedding),
        logits: None,
    };
    criterion
        .hits(&criterion.scores(&outputs), &Tensor::from_slice(&[label]))
        .int64_value(&[0])
        == 1
}

#[test]
fn the_label_is_one_of_five_if_at_most_four_classes_fit_better() {
    let top5 = |criterion: &Criterion, scores: &[f32], label: i64| {
        let scores = Tensor::from_slice(scores).unsqueeze(0);
        let hits = criterion.top5_hits(&scores, &Tensor::from_slice(&[label]));
        hits.int64_value(&[0]) == 1
    };
    let xent = Criterion::new(&settings(Loss::Xent), None, 7, Device::Cpu);
    let scores = [7.0, 6.0, 5.0, 4.0, 3.0, 3.0, 2.0];
    let found: Vec<bool> = (0..7).map(|label| top5(&xent, &scores, label)).collect();
    assert_eq!(found, [true, true, true, true, true, true, false]);
    assert!(top5(&xent, &[1.0, 0.0, 2.0], 1), "three classes");
    assert!(!top5(&xent, &[f32::NAN; 7], 0));
    // siblings can tie but for rounding
    let cosine = semantic(Loss::Cos);
    let tied = [
        0.5 + 1e-7,
        0.5,
        0.5 + 1e-7,
        0.5 + 1e-7,
        0.5 + 1e-7,
        0.5 + 1e-7,
    ];
    assert!(top5(&cosine, &tied, 1) && !top5(&xent, &tied, 1));
}

#[test]
fn semantic_losses_decide_by_the_nearest_embedding() {
    let cosine = semantic(Loss::Cos);
    // class 0 has the largest coordinate, class 1 the nearest embedding
    let psi = [0.75, 0.661_437_8, 0.0];
    assert!(hits(&cosine, &psi, 1) && !hits(&cosine, &psi, 0));
    // half way between classes 0 and 1: both count, as in the authors' code
    let between = [3f32.sqrt() / 2.0, 0.5, 0.0];
    assert!(
        hits(&cosine, &between, 0) && hits(&cosine, &between, 1) && !hits(&cosine, &between, 2)
    );
    let squared = semantic(Loss::Mse);
    // the nearest embedding is that of class 1
    assert!(hits(&squared, &[0.4, 0.5, 0.0], 1) && !hits(&squared, &[0.4, 0.5, 0.0], 0));
    let outputs = Outputs {
        embedding: Some(Tensor::from_slice(&TREE).view([3, 3])),
        logits: None,
    };
    let losses = cosine.per_sample(&outputs, &Tensor::from_slice(&[1i64, 1, 1]));
    assert_close(
        &Vec::<f64>::try_from(losses.to_kind(Kind::Double)).unwrap(),
        &[0.5, 0.0, 1.0],
    );
}

/// Returns the loss of a batch through a whole head, in f64 on the host.
fn head_loss(
    head: &Head,
    criterion: &Criterion,
    storage: &Storage<u8>,
    features: &Tensor,
    labels: &Tensor,
) -> Tensor {
    let pass = Pass {
        parameters: &storage.parameters,
        buffers: &storage.buffers,
        mode: Mode::Train {
            batch_norm_momentum: 0.0,
        },
        synchronised: None,
        own_operations: OwnOperations::default(),
    };
    criterion
        .per_sample(&head.forward(features, &pass), labels)
        .to_kind(Kind::Double)
        .sum(Kind::Double)
}

#[test]
fn gradients_of_every_head_match_finite_differences() {
    let (batch, num_features, num_classes) = (5, 4, 3);
    let variants = [
        settings(Loss::Xent),
        Settings {
            label_smoothing: 0.1,
            ..settings(Loss::Xent)
        },
        Settings {
            softmax: Softmax::KerasClip,
            ..settings(Loss::Xent)
        },
        settings(Loss::Mse),
        settings(Loss::Cos),
        Settings {
            cls_head: ClsHead::ReluBnFc,
            ..settings(Loss::CosXent)
        },
        Settings {
            cls_head: ClsHead::PlainFc,
            ..settings(Loss::CosXent)
        },
        settings(Loss::CosXentDirect),
    ];
    for settings in variants {
        let options = Options {
            init: settings.init,
            batch_norm_eps: 1e-3,
        };
        let builder = Builder::new(options);
        let head = Head::new(&settings, &builder, "fc", num_features, num_classes);
        let inventory = builder.inventory();
        let layout = FlatLayout::new(&inventory, Format { bf16: false }, |_| 0u8);
        let storage = Storage::new(&inventory, layout, 3, Device::Cpu).unwrap();
        let criterion = criterion(&settings, num_classes);
        let counted = Tensor::arange(batch * num_features, (Kind::Float, Device::Cpu)) * 0.7;
        let features = counted.sin().view([batch, num_features]);
        let labels = Tensor::from_slice(&[0i64, 1, 2, 2, 1]);
        head_loss(&head, &criterion, &storage, &features, &labels).backward();
        storage.collect_gradients().unwrap();
        let step = 1e-2;
        for index in 0..storage.weights.numel() as i64 {
            let gradient = storage.gradients.double_value(&[index]);
            let shifted = |by: f64| {
                let _guard = tch::no_grad_guard();
                let _ = storage.weights.get(index).g_add_scalar_(by);
                let loss =
                    head_loss(&head, &criterion, &storage, &features, &labels).double_value(&[]);
                let _ = storage.weights.get(index).g_add_scalar_(-by);
                loss
            };
            let numeric = (shifted(step) - shifted(-step)) / (2.0 * step);
            let tolerance = 2e-3 * (1.0 + gradient.abs());
            // paddings between the views have no gradient and no effect
            assert!(
                (numeric - gradient).abs() < tolerance,
                "{:?} {:?}: element {index}: {gradient} by autograd, {numeric} by differences",
                settings.loss,
                settings.cls_head
            );
        }
    }
}
