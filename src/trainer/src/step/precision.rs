//! Number format and memory layout of the convolutions: what `precision:` sets, and what `auto`
//! resolves to.
//!
//! `auto` is a table over model, image side and instruction sets, not a measurement at run time: a
//! trial rerun on the same kind of machine must give the same bits. `make bench ARGS=precision`
//! measures the values for a machine. The choice is recorded in the result and kept in the
//! checkpoints. Heads, losses, batch normalisation and the optimiser are always f32. Next:
//! nn/storage.rs.

use sweep::Settings;
use sweep::settings::{Model, Precision};
use tch::Device;

use crate::device::hardware::Hardware;
use crate::network::nn::Format;

/// Returns the smallest image side from which bf16 is faster than f32. Changing a number changes
/// trials' bits: raise `sweep::trial::TRAINING_VERSION` with it.
fn bf16_from(hardware: Hardware, narrow: bool) -> usize {
    match (hardware, narrow) {
        (Hardware::Plain, _) => usize::MAX,
        // measured on an AMD EPYC: at 8 pixels bf16 gains nothing over f32 in the same layout
        (Hardware::VectorBf16, _) => 28,
        // measured on an Intel Xeon: bf16 is faster at every side
        (Hardware::TileBf16, true) => 8,
        (Hardware::TileBf16, false) => 28,
        (Hardware::Gpu, _) => 0,
    }
}

pub fn choose(settings: &Settings, side: usize, device: Device) -> Format {
    rule(
        settings.precision,
        settings.model,
        side,
        Hardware::of(device),
    )
}

fn rule(precision: Precision, model: Model, side: usize, hardware: Hardware) -> Format {
    let bf16 = match precision {
        Precision::F32 => false,
        Precision::Bf16 => true,
        Precision::Auto => side >= bf16_from(hardware, is_narrow(model)),
    };
    Format { bf16 }
}

/// Returns true for the networks for small images, with 16 to 128 channels.
fn is_narrow(model: Model) -> bool {
    match model {
        Model::Resnet8
        | Model::Resnet20
        | Model::Resnet32
        | Model::Resnet56
        | Model::Resnet110
        | Model::Resnet110Wfc
        | Model::WideResnet16x2 => true,
        Model::Resnet18
        | Model::Resnet34
        | Model::Resnet50
        | Model::Resnet50Keras
        | Model::Resnet50Fconv
        | Model::EfficientnetB0
        | Model::WideResnet16x8 => false,
    }
}

/// Name of a format in results and checkpoints.
pub fn name(format: Format) -> &'static str {
    if format.bf16 {
        "bf16, channels last"
    } else {
        "f32, channels last"
    }
}

/// Parses a format's name; the inverse of `name`.
pub fn parse(text: &str) -> Option<Format> {
    [false, true]
        .map(|bf16| Format { bf16 })
        .into_iter()
        .find(|&format| name(format) == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for text in ["f32, channels last", "bf16, channels last"] {
            assert_eq!(name(parse(text).unwrap()), text);
        }
        assert_eq!(parse("f16"), None);
    }

    #[test]
    fn auto_follows_the_hardware_and_other_settings_do_not() {
        use Hardware::{Gpu, Plain, TileBf16, VectorBf16};
        use Model::{Resnet8, Resnet18, Resnet20, Resnet50};
        use Precision::{Auto, Bf16, F32};
        for (precision, model, side, hardware, expected) in [
            (Auto, Resnet8, 8, VectorBf16, "f32, channels last"),
            (Auto, Resnet8, 8, TileBf16, "bf16, channels last"),
            (Auto, Resnet20, 32, VectorBf16, "bf16, channels last"),
            (Auto, Resnet20, 32, TileBf16, "bf16, channels last"),
            (Auto, Resnet18, 64, TileBf16, "bf16, channels last"),
            (Auto, Resnet18, 64, Plain, "f32, channels last"),
            (Auto, Resnet50, 224, Plain, "f32, channels last"),
            (Auto, Resnet8, 8, Gpu, "bf16, channels last"),
            (F32, Resnet50, 224, TileBf16, "f32, channels last"),
            (Bf16, Resnet8, 8, Plain, "bf16, channels last"),
        ] {
            let found = rule(precision, model, side, hardware);
            assert_eq!(
                name(found),
                expected,
                "{precision:?} {model:?} {side} {hardware:?}"
            );
        }
    }
}
