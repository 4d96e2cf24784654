//! RandAugment (Cubuk et al., 2020) with timm's list of fifteen operations.

use crate::random::Stream;

/// An image that operations change in place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Picture {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
    pub(crate) pixels: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct RandAugment {
    pub(crate) settings: sweep::settings::RandAugment,
    /// Shown where geometric operations uncover what lies outside of the image.
    pub(crate) fill: Vec<u8>,
}

impl RandAugment {
    pub(crate) fn apply(&self, _picture: &mut Picture, _stream: Stream) {}
}
