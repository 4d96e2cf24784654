//! Which number format and memory layout the convolutions use: what `precision:` asks for, and what `auto` becomes.
//!
//! The choice is made once per trial, recorded in its result and kept in its checkpoints, so that a resume on another
//! machine goes on with the same arithmetic. Heads, losses, batch normalisation and the optimiser are f32 always.

use sweep::Settings;
use sweep::settings::Precision;
use tch::Device;

use crate::nn::Format;

pub fn choose(settings: &Settings, _side: usize, device: Device) -> Format {
    let bf16 = match settings.precision {
        Precision::F32 => false,
        Precision::Bf16 => true,
        Precision::Auto => device.is_cuda(),
    };
    Format { bf16, channels_last: bf16 }
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
}
