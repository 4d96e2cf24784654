//! The update rules against hand-computed steps, and the grouping of parameters.
//!
//! The network is six parameters of one element each, so that all expected weights fit on a line.
//! Next: optimiser.rs.

use sweep::Settings;
use sweep::settings::{AdamW, MomentumForm, Optimizer, WeightDecayOn};
use tch::nn::{OptimizerConfig, VarStore};
use tch::{Device, Kind, Tensor};

use crate::network::nn::{Builder, Fill, FlatLayout, Format, Options, Role, Storage};
use crate::step::optimiser::{Group, Optimiser};

fn settings() -> Settings {
    let mut settings = sweep::recipe::settings("quick", "digits").expect("a recipe");
    (settings.momentum, settings.nesterov, settings.clip_norm) = (0.9, false, None);
    (settings.weight_decay, settings.cls_head_decay) = (0.0, 0.0);
    settings
}

/// One element each: backbone kernel, batch-norm weight, last layer's kernel and bias, kernel and
/// batch-norm weight of the head on top.
const NAMES: [(&str, Role); 6] = [
    ("conv1.weight", Role::ConvKernel),
    ("bn1.weight", Role::NormWeight),
    ("fc.weight", Role::LinearKernel),
    ("fc.bias", Role::LinearBias),
    ("cls_head.fc.weight", Role::LinearKernel),
    ("cls_head.norm.weight", Role::NormWeight),
];

struct Fixture {
    storage: Storage<Group>,
    inventory: crate::network::nn::Inventory,
}

impl Fixture {
    fn new(settings: &Settings) -> Self {
        let options = Options {
            init: settings.init,
            batch_norm_eps: 1e-3,
        };
        let builder = Builder::new(options);
        for (name, role) in NAMES {
            builder.parameter(name, &[1, 1], role, Fill::Ones);
        }
        let inventory = builder.inventory();
        let format = Format { bf16: false };
        let layout = FlatLayout::new(&inventory, format, |note| Group::of(note, settings, "fc"));
        let mut storage = Storage::new(&inventory, layout, 0, Device::Cpu).unwrap();
        Optimiser::new(settings, Device::Cpu).prepare(&mut storage);
        Self { storage, inventory }
    }

    /// Makes one step with the same gradient everywhere and returns the new weights.
    fn step(
        &mut self,
        settings: &Settings,
        gradient: f64,
        learning_rate: f64,
        new_layers_only: bool,
    ) -> Vec<f64> {
        let _ = self.storage.gradients.zero_();
        for index in 0..NAMES.len() {
            let _ = self
                .storage
                .gradient(&self.inventory, index)
                .fill_(gradient);
        }
        let mut optimiser = Optimiser::new(settings, Device::Cpu);
        optimiser.set_learning_rate(learning_rate);
        optimiser.step(&mut self.storage, new_layers_only);
        (0..NAMES.len())
            .map(|index| {
                self.storage
                    .master(&self.inventory, index)
                    .double_value(&[0, 0])
            })
            .collect()
    }
}

fn assert_close(found: &[f64], expected: &[f64]) {
    let close = found
        .iter()
        .zip(expected)
        .all(|(found, expected)| (found - expected).abs() < 1e-6);
    assert!(
        found.len() == expected.len() && close,
        "{found:?} instead of {expected:?}"
    );
}

#[test]
fn keras_and_torch_momentum_differ_when_the_learning_rate_changes() {
    let keras = Settings {
        momentum_form: MomentumForm::Keras,
        ..settings()
    };
    let mut fixture = Fixture::new(&keras);
    // v = -0.1 * 2; then v = 0.9 v - 0.01 * 2
    assert_close(&fixture.step(&keras, 2.0, 0.1, false)[..1], &[0.8]);
    assert_close(
        &fixture.step(&keras, 2.0, 0.01, false)[..1],
        &[0.8 - 0.18 - 0.02],
    );
    let torch = Settings {
        momentum_form: MomentumForm::Torch,
        ..settings()
    };
    let mut fixture = Fixture::new(&torch);
    // v = 2; then v = 3.8
    assert_close(&fixture.step(&torch, 2.0, 0.1, false)[..1], &[0.8]);
    assert_close(&fixture.step(&torch, 2.0, 0.01, false)[..1], &[0.8 - 0.038]);
}

#[test]
fn nesterov_looks_ahead() {
    for form in [MomentumForm::Keras, MomentumForm::Torch] {
        let settings = Settings {
            nesterov: true,
            momentum_form: form,
            ..settings()
        };
        // first step: lr (g + m g)
        assert_close(
            &Fixture::new(&settings).step(&settings, 2.0, 0.1, false)[..1],
            &[1.0 - 0.1 * 2.0 * 1.9],
        );
    }
}

#[test]
fn decay_is_in_gradient_form_and_goes_where_it_should() {
    let settings = Settings {
        weight_decay: 0.1,
        cls_head_decay: 0.5,
        ..settings()
    };
    let kernels = Settings {
        weight_decay_on: WeightDecayOn::Kernels,
        ..settings.clone()
    };
    let all = Settings {
        weight_decay_on: WeightDecayOn::All,
        ..settings
    };
    assert_close(
        &Fixture::new(&kernels).step(&kernels, 0.0, 1.0, false),
        &[0.9, 1.0, 0.9, 1.0, 0.5, 1.0],
    );
    assert_close(
        &Fixture::new(&all).step(&all, 0.0, 1.0, false),
        &[0.9, 0.9, 0.9, 0.9, 0.5, 0.9],
    );
}

#[test]
fn the_global_norm_is_clipped_after_decay() {
    let settings = Settings {
        weight_decay: 1.0,
        cls_head_decay: 1.0,
        weight_decay_on: WeightDecayOn::All,
        clip_norm: Some(6f64.sqrt()),
        ..settings()
    };
    // gradient 3 + 1 * 1 = 4 in each of six elements: norm 4 sqrt 6, scaled down to one each
    assert_close(
        &Fixture::new(&settings).step(&settings, 3.0, 0.1, false),
        &[0.9; 6],
    );
    // below the limit nothing changes; a zero gradient stays zero
    let loose = Settings {
        clip_norm: Some(100.0),
        weight_decay: 0.0,
        cls_head_decay: 0.0,
        ..settings
    };
    assert_close(
        &Fixture::new(&loose).step(&loose, 3.0, 0.1, false),
        &[0.7; 6],
    );
    assert_close(
        &Fixture::new(&loose).step(&loose, 0.0, 0.1, false),
        &[1.0; 6],
    );
}

#[test]
fn the_first_phase_of_fine_tuning_moves_new_fully_connected_layers_alone() {
    let settings = Settings {
        weight_decay: 0.1,
        ..settings()
    };
    let mut fixture = Fixture::new(&settings);
    let after = fixture.step(&settings, 1.0, 0.1, true);
    assert_close(&[after[0], after[1], after[5]], &[1.0; 3]);
    assert!(after[2..5].iter().all(|&weight| weight < 1.0));
    assert_eq!(
        fixture
            .storage
            .momentum
            .sum(Kind::Double)
            .double_value(&[])
            .signum(),
        -1.0
    );
}

const CONSTANTS: AdamW = AdamW {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
};

fn adamw(constants: AdamW) -> Settings {
    Settings {
        optimizer: Optimizer::Adamw(constants),
        weight_decay: 0.05,
        cls_head_decay: 0.05,
        weight_decay_on: WeightDecayOn::All,
        ..settings()
    }
}

/// The gradient and the learning rate of a step.
fn course(step: i32) -> (f64, f64) {
    let gradient = f64::from(step).cos() * 10_f64.powi(step % 4 - 3);
    (gradient, 0.1 / f64::from(1 + step))
}

/// PyTorch's own AdamW, on one weight, over gradients of four orders of magnitude and a falling
/// rate.
#[test]
fn adamw_is_that_of_pytorch() {
    let others = AdamW {
        beta1: 0.0,
        beta2: 0.95,
        epsilon: 1e-3,
    };
    for constants in [CONSTANTS, others] {
        let settings = adamw(constants.clone());
        let mut fixture = Fixture::new(&settings);
        let store = VarStore::new(Device::Cpu);
        let weight = store.root().ones("weight", &[1]);
        let config = tch::nn::AdamW {
            beta1: constants.beta1,
            beta2: constants.beta2,
            wd: settings.weight_decay,
            eps: constants.epsilon,
            amsgrad: false,
        };
        let mut reference = config.build(&store, 1.0).expect("an optimiser");
        for step in 0..40 {
            let (gradient, rate) = course(step);
            reference.set_lr(rate);
            reference.backward_step(&(&weight * gradient).sum(Kind::Float));
            let found = fixture.step(&settings, gradient, rate, false);
            assert_close(&found, &[weight.double_value(&[0]); 6]);
        }
        assert!((weight.double_value(&[0]) - 1.0).abs() > 0.03, "it moved");
    }
}

/// The constants that `optimizer: adamw` has are those of PyTorch's documentation.
#[test]
fn adamw_alone_has_pytorchs_defaults() {
    let field = sweep::field::find("optimizer").expect("a field");
    let value = field.check(&"adamw".into()).expect("a value");
    let settings = settings().with(&[("optimizer".to_owned(), value)].into());
    let expected = Optimizer::Adamw(CONSTANTS);
    assert_eq!(settings.expect("settings").optimizer, expected);
}

#[test]
fn adamw_continues_from_its_state_bit_for_bit() {
    let settings = adamw(CONSTANTS);
    let bits = |fixture: &Fixture| -> Vec<f32> {
        let state = [&fixture.storage.weights, &fixture.storage.momentum];
        Vec::try_from(Tensor::cat(&state, 0)).expect("numbers")
    };
    let run = |fixture: &mut Fixture, steps: std::ops::Range<i32>| {
        for step in steps {
            let (gradient, rate) = course(step);
            fixture.step(&settings, gradient, rate, false);
        }
    };
    let mut whole = Fixture::new(&settings);
    run(&mut whole, 0..9);
    let mut before = Fixture::new(&settings);
    run(&mut before, 0..4);
    let mut after = Fixture::new(&settings);
    after.storage.weights.copy_(&before.storage.weights);
    after.storage.momentum.copy_(&before.storage.momentum);
    run(&mut after, 4..9);
    assert_eq!(bits(&after), bits(&whole));
    assert_eq!(
        bits(&whole).last(),
        Some(&9.0),
        "the number of steps is part of it"
    );
}

/// Frozen weights of the first phase neither move nor decay.
#[test]
fn adamw_leaves_frozen_weights_alone() {
    let settings = adamw(CONSTANTS);
    let weights = Fixture::new(&settings).step(&settings, 2.0, 0.1, true);
    assert_eq!((weights[0], weights[1]), (1.0, 1.0));
    // decay by rate and 5 %, then a first step of the whole rate
    assert_close(&weights[2..3], &[1.0 - 0.1 * 0.05 - 0.1]);
}
