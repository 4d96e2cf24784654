//! Which number format and memory layout the convolutions use: what `precision:` asks for, and what `auto` becomes.
//!
//! `auto` is a rule over model, image side and instruction sets, made from measurements, not a measurement at run time:
//! a trial repeated on the same kind of machine must give the same bits. The choice is recorded in the result and kept
//! in the checkpoints. Heads, losses, batch normalisation and the optimiser are f32 always. Next: nn/storage.rs.

use sweep::Settings;
use sweep::settings::{Model, Precision};
use tch::Device;

use crate::nn::Format;
use crate::process;

/// What the device multiplies natively.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hardware {
    /// No bf16 instructions.
    Plain,
    /// Vector instructions (`avx512_bf16`): on an AMD EPYC bf16 gained 1.5 to 1.9 times from 28 pixels on, nothing at 8.
    VectorBf16,
    /// Matrix tiles (`amx_bf16`): on an Intel Xeon bf16 lost at 32 pixels, where reordering costs more than the tiles
    /// save, and gained 1.5 times at 64.
    TileBf16,
    Gpu,
}

impl Hardware {
    fn of(device: Device) -> Self {
        if device.is_cuda() {
            return Self::Gpu;
        }
        let flags = process::cpu_flags();
        let has = |name: &str| flags.iter().any(|flag| flag == name);
        match (has("amx_bf16"), has("avx512_bf16")) {
            (true, _) => Self::TileBf16,
            (false, true) => Self::VectorBf16,
            (false, false) => Self::Plain,
        }
    }

    /// Image side from which bf16 is faster.
    fn smallest_bf16_side(self) -> usize {
        match self {
            Self::Plain => usize::MAX,
            Self::VectorBf16 => 28,
            Self::TileBf16 => 64,
            Self::Gpu => 0,
        }
    }
}

pub fn choose(settings: &Settings, side: usize, device: Device) -> Format {
    rule(settings.precision, settings.model, side, Hardware::of(device))
}

fn rule(precision: Precision, model: Model, side: usize, hardware: Hardware) -> Format {
    let bf16 = match precision {
        Precision::F32 => false,
        Precision::Bf16 => true,
        Precision::Auto => side >= hardware.smallest_bf16_side(),
    };
    // in f32 on the CPU, channels-last gained with few channels and with large images, and lost with neither
    let smallest_side = if is_narrow(model) { 16 } else { 128 };
    let channels_last = bf16 || hardware == Hardware::Gpu || side >= smallest_side;
    Format { bf16, channels_last }
}

/// The networks for small images: 16 to 128 channels.
fn is_narrow(model: Model) -> bool {
    match model {
        Model::Resnet8
        | Model::Resnet20
        | Model::Resnet32
        | Model::Resnet56
        | Model::Resnet110
        | Model::Resnet110Wfc => true,
        Model::Resnet18
        | Model::Resnet34
        | Model::Resnet50
        | Model::Resnet50Keras
        | Model::Resnet50Fconv
        | Model::EfficientnetB0 => false,
    }
}

/// As it stands in results and checkpoints.
pub fn name(format: Format) -> String {
    let number = if format.bf16 { "bf16" } else { "f32" };
    let layout = if format.channels_last { ", channels last" } else { "" };
    format!("{number}{layout}")
}

/// The inverse of `name`.
pub fn parse(text: &str) -> Option<Format> {
    let formats = [(false, false), (false, true), (true, false), (true, true)];
    let mut formats = formats.map(|(bf16, channels_last)| Format { bf16, channels_last }).into_iter();
    formats.find(|&format| name(format) == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for text in ["f32", "f32, channels last", "bf16", "bf16, channels last"] {
            assert_eq!(name(parse(text).unwrap()), text);
        }
        assert_eq!(parse("f16"), None);
    }

    #[test]
    fn auto_follows_the_hardware_and_an_order_is_an_order() {
        let auto = |model, side, hardware| name(rule(Precision::Auto, model, side, hardware));
        assert_eq!(auto(Model::Resnet8, 8, Hardware::VectorBf16), "f32");
        assert_eq!(auto(Model::Resnet20, 32, Hardware::VectorBf16), "bf16, channels last");
        assert_eq!(auto(Model::Resnet20, 32, Hardware::TileBf16), "f32, channels last");
        assert_eq!(auto(Model::Resnet18, 64, Hardware::TileBf16), "bf16, channels last");
        assert_eq!(auto(Model::Resnet18, 64, Hardware::Plain), "f32");
        assert_eq!(auto(Model::Resnet50, 224, Hardware::Plain), "f32, channels last");
        assert_eq!(auto(Model::Resnet8, 8, Hardware::Gpu), "bf16, channels last");
        assert_eq!(name(rule(Precision::F32, Model::Resnet50, 224, Hardware::TileBf16)), "f32, channels last");
        assert_eq!(name(rule(Precision::Bf16, Model::Resnet8, 8, Hardware::Plain)), "bf16, channels last");
    }
}
