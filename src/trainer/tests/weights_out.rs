//! A trained trial's weights are written to a file, and another trial starts from it.
//!
//! A second trial that cannot learn (its rates are zero, its moving statistics frozen) must
//! evaluate to the first one's final values; one that can learn shows what fine-tuning's first
//! phase hands to the second.

mod rig;

use std::path::{Path, PathBuf};

use sweep::TrialSpec;
use sweep::record::TrialResult;
use sweep::settings::{Init, Loss, MomentumForm, SamplesPerClass, Schedule, Settings};
use trainer::{Session, SlotOptions};

fn run(settings: Settings, folder: &Path, weights_out: Option<PathBuf>) -> TrialResult {
    let options = SlotOptions {
        weights_out,
        ..rig::options()
    };
    let request = rig::request(&TrialSpec::new(settings, 3), 1, folder);
    rig::finish(&mut Session::new(options), &request)
}

/// Above zero, as settings must be, and zero in the arithmetic of a step.
const ZERO_IN_F32: f64 = 1e-300;

#[test]
fn a_trial_starts_where_another_one_ended() {
    let folder = tempfile::tempdir().unwrap();
    let first = Settings {
        samples_per_class: SamplesPerClass::Count(8),
        loss: Loss::CosXent,
        schedule: Schedule::Cosine { epochs: 6 },
        ..sweep::recipe::settings("quick", "digits").expect("a recipe")
    };
    let path = folder.path().join("weights.safetensors");
    let trained = run(first.clone(), folder.path(), Some(path.clone()));
    let second = Settings {
        weights: Some(path.display().to_string()),
        finetune_epochs: 1,
        finetune_learning_rate: ZERO_IN_F32,
        learning_rate: ZERO_IN_F32,
        // moving statistics without Keras' first batch, which would replace those of the file
        init: Init::Torchvision,
        batch_norm_momentum: ZERO_IN_F32,
        schedule: Schedule::Constant { epochs: 1 },
        ..first.clone()
    };
    let repeated = run(second, folder.path(), None);
    assert!(
        trained.last_accuracy > 0.3,
        "the first trial learns: {}",
        trained.last_accuracy
    );
    assert_eq!(repeated.last_accuracy, trained.last_accuracy);
    assert_eq!(repeated.eval_loss, trained.eval_loss);
}

/// PyTorch's momentum is a sum of gradients at any rate, so even a first phase with a rate near
/// zero would leave one.
#[test]
fn the_second_phase_of_fine_tuning_starts_without_momentum() {
    let folder = tempfile::tempdir().unwrap();
    let first = Settings {
        samples_per_class: SamplesPerClass::Count(8),
        loss: Loss::CosXent,
        momentum_form: MomentumForm::Torch,
        // one batch an epoch, whose order affects only the last bits
        batch_size: 80,
        schedule: Schedule::Constant { epochs: 3 },
        ..sweep::recipe::settings("quick", "digits").expect("a recipe")
    };
    let path = folder.path().join("weights.safetensors");
    run(first.clone(), folder.path(), Some(path.clone()));
    let tuned = |finetune_epochs| {
        let weights = Some(path.display().to_string());
        let settings = Settings {
            weights,
            finetune_epochs,
            finetune_learning_rate: 1e-30,
            ..first.clone()
        };
        run(settings, folder.path(), None)
            .epochs
            .iter()
            .map(|epoch| epoch.train_loss)
            .collect::<Vec<_>>()
    };
    let (at_once, after_a_phase) = (tuned(0), tuned(2));
    assert_eq!((at_once.len(), after_a_phase.len()), (3, 5));
    for (expected, found) in at_once.iter().zip(&after_a_phase[2..]) {
        assert!(
            (found / expected - 1.0).abs() < 1e-3,
            "{after_a_phase:?}, not {at_once:?}"
        );
    }
}
