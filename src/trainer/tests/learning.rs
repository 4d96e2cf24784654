//! Training learns: every loss classifies most digits correctly after a short cycle on ten images
//! per class.
//!
//! Not a benchmark: the bound is far below what the losses reach, and far above chance (0.1).

mod rig;

use sweep::TrialSpec;
use sweep::settings::{EvaluateEvery, Loss, Precision, SamplesPerClass, Schedule, Settings};
use trainer::{Session, SlotOptions};

#[test]
fn every_loss_learns_digits() {
    let folder = tempfile::tempdir().unwrap();
    let mut session = Session::new(SlotOptions {
        data_threads: 1,
        ..rig::options()
    });
    let cases = [
        (Loss::Xent, Precision::F32),
        (Loss::Mse, Precision::F32),
        (Loss::Cos, Precision::F32),
        (Loss::Cos, Precision::Bf16),
        (Loss::CosXent, Precision::F32),
        (Loss::CosXentDirect, Precision::F32),
    ];
    for (loss, precision) in cases {
        let settings = Settings {
            samples_per_class: SamplesPerClass::Count(10),
            schedule: Schedule::Sgdr {
                base_cycle: 16,
                multiplier: 2,
                cycles: 1,
                learning_rate_min: 1e-6,
            },
            evaluate_every: EvaluateEvery::Count(16),
            loss,
            precision,
            ..sweep::recipe::settings("quick", "digits").expect("a recipe")
        };
        let request = rig::request(&TrialSpec::new(settings, 1), 1, folder.path());
        let result = rig::finish(&mut session, &request);
        assert!(
            result.last_accuracy > 0.4,
            "{loss:?} {precision:?}: {}",
            result.last_accuracy
        );
        assert!(result.train_loss < result.epochs[0].train_loss);
        assert_eq!(
            result
                .epochs
                .iter()
                .filter(|record| record.accuracy.is_some())
                .count(),
            1
        );
        assert!(
            result
                .provenance
                .precision
                .starts_with(if precision == Precision::Bf16 {
                    "bf16"
                } else {
                    "f32"
                })
        );
    }
}
